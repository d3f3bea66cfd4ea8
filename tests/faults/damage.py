"""Damaged, foreign and planted files under the names of checkpoints: refused clearly, or the content is untouched."""

import io
import os
import pickle
import tempfile
import zipfile
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path

import torch

from course_utils.checkpoints import CheckpointError, CheckpointFolder, load_checkpoint, save_checkpoint
from faults.trials import EXACT, FELL_BACK, REFUSED, Wrong, a_checkpoint, contents, count, promise, same

FIRST, SECOND = a_checkpoint(1, val_loss=0.5), a_checkpoint(2, val_loss=0.4)


def files(work: Path, every: int = 1) -> Counter:
    """One file: each byte flipped, cut after each byte, each part of the disk lost; every third of them, say."""
    path = save_checkpoint(SECOND, work / "whole.pt")
    return count(partial(_load, work / "damaged.pt", *one) for one in list(_damaged(path.read_bytes()))[::every])


def _damaged(content: bytes) -> Iterator[tuple[str, bytes]]:
    for place in range(len(content)):
        yield f"byte {place} flipped", content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]
    for place in range(len(content)):
        yield f"one bit of byte {place} flipped", content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    for length in range(len(content)):
        yield f"cut after {length} bytes", content[:length]
    for start in range(0, len(content), 64):
        end = min(start + 512, len(content))  # what a disk loses at once
        yield f"zeros from byte {start}", content[:start] + bytes(end - start) + content[end:]
        yield f"without its bytes from {start}", content[:start] + content[end:]
        yield f"twice its bytes from {start}", content[:end] + content[start:]


def _load(path: Path, what: str, content: bytes) -> str:
    path.write_bytes(content)
    try:
        loaded = load_checkpoint(path)
    except CheckpointError as error:
        promise(str(path) in str(error), f"{what}: the message does not name the file: {error}")
        return REFUSED
    promise(same(loaded, SECOND), f"{what}: it loads as something else")
    return EXACT


def folders(work: Path, every: int = 1) -> Counter:
    """A damaged, foreign or planted file in each place from which a folder reads."""
    whole = save_checkpoint(SECOND, work / "whole.pt").read_bytes()
    bad = {**dict(list(_damaged(whole))[::every]), **_foreign()}
    marker = work / "marker"
    planted = _planted(marker)
    trials = [
        partial(_in_a_folder, work, name, mirrored, what, content, marker)
        for number, (what, content) in enumerate([*bad.items(), *planted.items()])
        for name, mirrored in product(("step_00000003.pt", "best_00000003_val_loss=0.3.pt"), (False, True))
        if what in planted or not (mirrored and number % 3)
    ]
    alone = [partial(_alone, work, what, content, marker) for what, content in {**_foreign(), **planted}.items()]
    return count([partial(_the_plants_work, planted, marker), *trials, *alone])


def _foreign() -> dict[str, bytes]:
    """Files of other kinds, whole in their way."""
    archive, nothing, tensor, numbers = (io.BytesIO() for _ in range(4))
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("hello.txt", "hello")
    zipfile.ZipFile(nothing, "w").close()
    for file, value in ((tensor, torch.ones(1000)), (numbers, [1, 2, 3])):
        torch.save(value, file)
    return {
        "empty": b"",
        "text": b"hello, I am not a checkpoint",
        "zeros": bytes(4000),
        "noise": os.urandom(4000),
        "HTML": b"<!DOCTYPE html><title>Too many people have downloaded this file</title>",
        "zip": archive.getvalue(),
        "empty zip": nothing.getvalue(),
        "a tensor by torch.save": tensor.getvalue(),
        "a list by torch.save": numbers.getvalue(),
    }


_FOREIGN = _foreign().keys() - {"empty", "zeros"}  # these two are what a disk makes of a checkpoint


class _Plant:
    """Pickled, it is a call that makes the file `marker` when it is loaded."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return open, (str(self.marker), "w")


def _planted(marker: Path) -> dict[str, bytes]:
    """A call to open() in each kind of pickle that torch.load reads."""
    checkpoint = {**a_checkpoint(3), "planted": _Plant(marker)}
    plants = {f"planted, protocol {protocol}": pickle.dumps(checkpoint, protocol) for protocol in range(6)}
    for modern, protocol in product([False, True], [2, 4]):
        file = io.BytesIO()
        torch.save(checkpoint, file, pickle_protocol=protocol, _use_new_zipfile_serialization=modern)
        plants[f"planted by torch.save, {modern=}, {protocol=}"] = file.getvalue()
    return plants


def _the_plants_work(planted: dict[str, bytes], marker: Path) -> str:
    """Without protection they would do harm: else their trials prove nothing."""
    for what, content in planted.items():
        if "torch.save" in what:
            torch.load(io.BytesIO(content), weights_only=False)
        else:
            pickle.loads(content)
        promise(marker.exists(), f"{what}: harmless")
        marker.unlink()
    return EXACT


def _in_a_folder(work: Path, name: str, mirrored: bool, what: str, content: bytes, marker: Path) -> str:
    """The bad file is the newest and the best, beside two good ones."""
    place = Path(tempfile.mkdtemp(dir=work))
    mirror = place / "drive" / "run" if mirrored else None
    bad = (mirror or place / "run") / name
    for folder in (place / "run", place / "drive" / "run"):
        folder.mkdir(parents=True)
    save_checkpoint(FIRST, place / "run" / "step_00000001.pt")
    save_checkpoint(SECOND, place / "run" / "step_00000002.pt")
    save_checkpoint(FIRST, place / "run" / "best_00000001_val_loss=0.5.pt")
    before = contents(place / "run")
    bad.write_bytes(content)
    folder = CheckpointFolder(place / "run", mirror=mirror)
    try:
        latest, best = folder.latest(), folder.best()
    except CheckpointError as error:  # whole, and no checkpoint: somebody must look, and it keeps its name
        promise(what in _FOREIGN or what.startswith("planted"), f"{what} as {bad}: {error}")
        promise(bad.read_bytes() == content and str(bad) in str(error), f"{what} as {bad}: {error}")
        latest = None
    promise(not marker.exists(), f"{what} as {bad}: the planted code ran")
    promise(before.items() <= contents(place / "run").items(), f"{what} as {bad}: a good file changed")
    if latest is None:
        return REFUSED
    if bad.exists():  # taken for whole: then it must be the whole content
        promise(same(load_checkpoint(bad), SECOND), f"{what} as {bad}: it loads as something else")
        return EXACT
    promise(bad.with_name(f"{name}.damaged").read_bytes() == content, f"{what} as {bad}: not set aside")
    promise(same(latest, SECOND) and same(best, FIRST), f"{what} as {bad}: not the next good one")
    return FELL_BACK


def _alone(work: Path, what: str, content: bytes, marker: Path) -> str:
    """With nothing good beside it, a training must not start anew silently."""
    place = Path(tempfile.mkdtemp(dir=work))
    (place / "step_00000001.pt").write_bytes(content)
    for folder in (CheckpointFolder(place), CheckpointFolder(place)):  # the second time it is set aside already
        try:
            folder.latest()
        except CheckpointError as error:
            promise(str(place) in str(error), f"{what}: the message does not name {place}: {error}")
        else:
            raise Wrong(f"{what} alone: no error")
    promise(not marker.exists(), f"{what} alone: the planted code ran")
    return REFUSED
