"""The tensors in what torch.save wrote, by the description that its pickle gives of them."""

from dataclasses import replace
from typing import BinaryIO

from course_utils.checkpoints.formats import FORMAT_VERSION
from course_utils.inspect.findings import BITS, RESUME, Findings, clean, whole_number
from course_utils.inspect.pickles import Followed, Thing, follow, refused, walk

DTYPES = {"Double": "float64", "Float": "float32", "Half": "float16", "BFloat16": "bfloat16", "Long": "int64"}
DTYPES |= {"Int": "int32", "Short": "int16", "Char": "int8", "Byte": "uint8", "Bool": "bool"}
DTYPES |= {"ComplexFloat": "complex64", "ComplexDouble": "complex128"}
DTYPES |= {"QInt8": "qint8", "QUInt8": "quint8", "QInt32": "qint32"}
MAGIC = 0x1950A86A20F9469CFC6C  # of torch.save before PyTorch 1.6
MOST_PICKLES = 100  # that are followed in a row
WRONG_KINDS = (LookupError, AttributeError, TypeError, ValueError)  # what a planted description gives


def look_into_pickles(file: BinaryIO, found: Findings) -> None:
    """One pickle, or several in a row, as torch.save wrote them before PyTorch 1.6: a magic number, a version, facts of
    the system, the object, the names of the storages; then the bytes of each storage.

    What begins otherwise and names nothing before it ends is no pickle: text, a picture, …
    """
    first = file.read(1)
    file.seek(0)
    pickles, ends = [], []
    while not pickles or (not pickles[-1].stopped and file.tell() < found.size and len(pickles) < MOST_PICKLES):
        pickles.append(follow(file, found.size))
        ends.append(file.tell())
    if pickles[0].stopped and first != b"\x80" and not pickles[0].globals:
        return
    if pickles[0].root == MAGIC and len(pickles) >= 5:
        _take_before_1_6(file, ends[4], pickles, found)
        return
    found.kind = "a pickle, not written by torch.save"
    found.whole = "it reaches its end; a pickle has no checksums, so compare its SHA-256"
    take(pickles[0], found)
    for followed in pickles[1:]:  # whoever unpickles the first may go on
        found.runs += _would_run(replace(followed, stopped=""))
    if pickles[0].stopped:
        found.faults.append(pickles[0].stopped)
    elif ends[0] < found.size:
        found.faults.append(f"{found.size - ends[0]:,} bytes follow after its end")


def _take_before_1_6(file: BinaryIO, end: int, pickles: list[Followed], found: Findings) -> None:
    found.kind = "written by torch.save before PyTorch 1.6: load it with weights_only=True, and save it again"
    found.whole = "its parts have their lengths; it has no checksums, so compare its SHA-256"
    checkpoint, keys = pickles[3:5]
    for followed in (*pickles[:3], keys):
        found.runs += _would_run(followed)
    sizes = {}
    try:
        for _, thing in walk(checkpoint.root):
            if _is_storage(thing):
                sizes[str(thing.items[2])] = whole_number(thing.items[4]) * BITS[_dtype_of(thing)] // 8
        for key in keys.root.items:
            end += 8 + sizes[str(key)]  # the number of elements, then they themselves
    except WRONG_KINDS:
        found.faults.append("its tensors are cut off or damaged")
    if keys.stopped or end > found.size:
        found.faults.append("its tensors are cut off")
    take(checkpoint, found, sizes)


def take(followed: Followed, found: Findings, sizes: dict[str, int] | None = None) -> None:
    """Add the tensors and what it would run. sizes: {name of a storage: its bytes in the file}, where that is known."""
    found.runs += _would_run(followed)
    for path, thing in walk(followed.root):
        storage = thing.items[0] if thing.items else None
        if not (thing.kind == "call" and thing.name.startswith("torch._utils._rebuild_") and _is_storage(storage)):
            continue
        name = path or "(alone)"
        try:
            dtype, shape = _dtype_of(storage, thing), tuple(map(whole_number, thing.items[2].items))
            strides, offset = list(map(whole_number, thing.items[3].items)), whole_number(thing.items[1])
            last = offset + sum((size - 1) * stride for size, stride in zip(shape, strides, strict=True))
        except WRONG_KINDS:
            found.faults.append(f"the tensor {name} is not described as PyTorch does it")
            continue
        found.tensors[name] = (dtype, shape)
        needed = 0 if 0 in shape else (last + 1) * BITS[dtype] // 8
        if sizes is not None and needed > sizes.get(str(storage.items[2]), 0):
            found.faults.append(f"the tensor {name} is larger than the bytes that are there for it")
    keys = dict(pair for pair in _pairs_of(followed.root) if isinstance(pair[0], str))
    found.lacks = _lacks(followed.root, list(keys))
    if isinstance(version := keys.get("format_version"), int) and "training" in keys:
        newer = ", newer than this program" if version > FORMAT_VERSION else ""
        found.kind = f"a checkpoint of `Training` (format {version}{newer}), {found.kind}"


def _would_run(followed: Followed) -> list[str]:
    """Each name that a safe load refuses: with what it would be called, or that it would only be imported."""
    calls = {}
    for call in followed.calls:
        texts = [repr(clean(one, 40)) if isinstance(one, str) else "…" for one in call.items[:3]]
        calls.setdefault(call.name, f"{clean(call.name, 80)}({', '.join(texts)})")
    runs = [calls.get(name, f"the import of {clean(name, 80)}") for name in refused(followed.globals)]
    if "what another call returned" in calls:
        runs.append("a function that another call returns")
    return runs + ([f"perhaps more: {followed.stopped}"] if followed.stopped else [])


def _is_storage(thing) -> bool:
    return isinstance(thing, Thing) and thing.kind == "storage" and len(thing.items) >= 5


def _dtype_of(storage: Thing, rebuild: Thing | None = None) -> str:
    """By the class of the storage, such as torch.FloatStorage; the newest types are named by the call that rebuilds."""
    name = storage.items[1].name.rpartition(".")[2].removesuffix("Storage")
    if name == "Untyped" and rebuild:
        named = [one.name.rpartition(".")[2] for one in rebuild.items[4:] if getattr(one, "kind", "") == "global"]
        return next((one for one in named if one in BITS), "uint8")
    return DTYPES[name]


def _pairs_of(root) -> list[tuple]:
    return root.pairs if isinstance(root, Thing) else []


def _lacks(root, top: list[str]) -> list[str]:
    """What of RESUME no key names, the counters and the generators at the top, the others also below.

    A key whose value is None counts: there was nothing to save.
    """
    every = [key.lower() for _, thing in walk(root) for key, _ in thing.pairs if isinstance(key, str)]
    at_the_top = [key.lower() for key in top]
    return [
        part
        for part, words in RESUME.items()
        if not any(word in key for word in words for key in (at_the_top if "(" in part or "rng" in words else every))
    ]
