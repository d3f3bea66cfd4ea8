"""What can be found in a file, and the words for it."""

import errno
from dataclasses import dataclass, field
from math import prod
from pathlib import Path

BITS = {"float64": 64, "float32": 32, "float16": 16, "bfloat16": 16, "int64": 64, "int32": 32, "int16": 16, "int8": 8}
BITS |= {"uint8": 8, "bool": 8, "complex64": 64, "complex128": 128, "uint16": 16, "uint32": 32, "uint64": 64}
BITS |= {"float8_e4m3fn": 8, "float8_e5m2": 8, "qint8": 8, "quint8": 8, "qint32": 32}
RESUME = {  # what an exact resume needs (notebook 03), and the words by which a checkpoint names it
    "the optimizer": ("param_groups",),
    "the scheduler": ("sched", "last_epoch"),
    "the counters (epoch, step)": ("epoch", "step", "iter"),
    "the best so far": ("best", "patience"),
    "the random generators": ("rng", "random", "generator"),
    "the order of the data": ("loader", "sampler", "seen", "seed"),
}


class Unreadable(Exception):
    """A file that cannot be looked at: the message names it and says why."""


@dataclass
class Findings:
    """What `look` found. tensors: {path in the file: (dtype, shape)}. runs: what it would run if loaded carelessly.

    faults: what is wrong with its bytes. whole: what was compared, where nothing is wrong. lacks: for an exact resume.
    """

    path: Path
    size: int  # bytes
    sha256: str = ""
    kind: str = "no kind of file that is known here"
    tensors: dict[str, tuple[str, tuple[int, ...]]] = field(default_factory=dict)
    runs: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)
    whole: str = ""
    lacks: list[str] = field(default_factory=lambda: list(RESUME))


def report(found: Findings, every: bool = False) -> str:
    """Some lines of text. every: name all tensors, not only the first ones."""
    lines = [f"{found.path}: {found.kind}, {found.size:,} bytes", f"SHA-256: {found.sha256}"]
    shown = list(found.tensors.items())[: None if every else 6]
    numbers = sum(prod(shape) for _, shape in found.tensors.values())
    kinds = ", ".join(sorted({dtype for dtype, _ in found.tensors.values()}))
    lines.append(f"holds: {len(found.tensors)} tensors, {numbers:,} numbers{f' ({kinds})' if kinds else ''}")
    lines += [f"    {name}: {dtype} {shape}" for name, (dtype, shape) in shown]
    if len(found.tensors) > len(shown):
        lines.append(f"    and {len(found.tensors) - len(shown)} more")
    more = f"; and {len(found.runs) - 6} more" if len(found.runs) > 6 else ""
    lines.append(f"would run, if loaded carelessly: {'; '.join(found.runs[:6]) or 'nothing'}{more}")
    lines.append(f"bytes: {'NOT WHOLE, ' + '; '.join(found.faults[:5]) if found.faults else found.whole}")
    if found.tensors:
        lines.append(f"for an exact resume it lacks: {', '.join(found.lacks) or 'nothing that is looked for'}")
    return "\n".join(lines)


def clean(text: str, most: int = 200) -> str:
    """A foreign text for one line of a terminal: nothing but printable characters, and not too many."""
    shown = "".join(one if one.isprintable() else "?" for one in text[: most + 1])
    return shown if len(shown) <= most else shown[: most - 1] + "…"


def whole_number(value) -> int:
    """The same number. Raises ValueError for what is no size of a tensor."""
    if type(value) is not int or not 0 <= value < 2**63:
        raise ValueError("a size that is no whole number")
    return value


def raise_if_of_the_disk(error: Exception) -> None:
    """What the disk cannot read says nothing of what is written there. EINVAL is a damaged file's: go to byte -5."""
    if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
        raise error
