"""How trials are counted, and what they have in common."""

import math
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterable
from pathlib import Path

import torch

from course_utils.checkpoints import CheckpointError, CheckpointFolder, load_checkpoint
from course_utils.checkpoints.lock import NAME as LOCK

# What may come of a trial, in words for people. Everything else is wrong.
TRIED, EXACT, REFUSED, FELL_BACK, WRONG = OUTCOMES = (
    "tried",
    "exactly the same",  # the result, or the content, bit by bit
    "refused clearly",  # CheckpointError, with the file's name or the cause
    "fell back",  # to an earlier whole checkpoint
    "wrong",
)


class Wrong(Exception):
    """A promise of the checkpoints was broken."""


class NotPossibleHere(Exception):
    """This machine lacks what a kind of trial needs: the message says what."""


def count(trials: Iterable[Callable[[], str]]) -> Counter:
    """Run every trial and count the outcomes; whatever it raises is wrong, and is printed."""
    counts = Counter()
    for trial in trials:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # each fall back warns
                outcome = trial()
        except NotPossibleHere:
            raise
        except Exception as error:
            print(f"WRONG: {error if isinstance(error, Wrong) else traceback.format_exc(limit=-4)}")
            outcome = WRONG
        counts.update([TRIED, outcome])
    return counts


def promise(kept: bool, otherwise: str) -> None:
    if not kept:
        raise Wrong(otherwise)


def a_checkpoint(step: int, version: int = 0, val_loss: float = 0.5, size: int = 100) -> dict:
    """One whose every part tells which it is."""
    generator = torch.Generator().manual_seed(1000 * step + version)
    weights = {"layer.weight": torch.rand(size, generator=generator), "layer.count": torch.tensor(step)}
    history = [{"epoch": epoch, "val_loss": val_loss} for epoch in range(step)]
    return {
        "step": step,
        "version": version,
        "metrics": {"val_loss": val_loss},
        "model_state_dict": weights,
        "training": {"history": history, "best": None, "name": "très petit"},
        "rng": {"torch": generator.get_state()[:64], "python": (3, (1, 2, 3), None)},
    }


def same(one, other) -> bool:
    """Are both the same to the last bit, kinds included?"""
    if type(one) is not type(other):
        return False
    if isinstance(one, torch.Tensor) and one.layout != torch.strided:
        return one.layout == other.layout and same(one.to_dense(), other.to_dense())
    if isinstance(one, torch.Tensor):
        alike = one.dtype == other.dtype and one.shape == other.shape and one.stride() == other.stride()
        return alike and one.requires_grad == other.requires_grad and torch.equal(one, other)
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, (list, tuple)):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float):
        return one == other and math.copysign(1, one) == math.copysign(1, other)
    return one == other


def contents(place: Path) -> dict[str, bytes]:
    """Of all files but the lock, which a mirror has not."""
    return {path.name: path.read_bytes() for path in place.iterdir() if path.is_file() and path.name != LOCK}


def all_are_whole(*places: Path) -> None:
    """After a kill no file with a checkpoint's name may be less than whole: no fall back is needed."""
    for place in filter(Path.exists, places):
        for path in place.glob("*.pt"):
            load_checkpoint(path)
        promise(not list(place.glob("*.damaged")), f"{place} holds a damaged checkpoint")


def error_of(folder: CheckpointFolder, checkpoint: dict, ask: int = 0) -> str:
    """Save, and return what the CheckpointError says, "" if there is none. Anything else is raised.

    ask: in which of the three ways a background save is asked what came of it.
    """
    try:
        folder.save(checkpoint)
        if ask % 3 == 0:
            folder.wait()
        elif ask % 3 == 1:
            while folder._writing:
                folder.check()
        else:
            folder.save({**checkpoint, "step": checkpoint["step"] + 1})
            folder.wait()
    except CheckpointError as error:
        return str(error)
    return ""


def flip_a_bit(path: Path) -> None:
    """In the middle of the file."""
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
