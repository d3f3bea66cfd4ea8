"""Trouble that says nothing of the files: an error of a read, too little memory, a folder that does not answer.

No file is renamed, nothing starts anew, and once the trouble is over all goes on exactly.
"""

import contextlib
import errno
import io
import os
import resource
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn

from course_utils.checkpoints import CheckpointError, CheckpointFolder, Training, files
from faults.trainings import PROCESSES
from faults.trials import EXACT, REFUSED, a_checkpoint, contents, count, promise, same

FIRST, SECOND = a_checkpoint(1, val_loss=0.5, size=20_000), a_checkpoint(2, val_loss=0.4, size=20_000)


def reads(work: Path, every: int = 1) -> Counter:
    """Each read of the newest file fails: once, or from then on."""
    work = _two_saved(work / "run")
    calls = _reads_of(work)
    return count(
        partial(_failing_read, work, number, error, for_good)
        for number, error, for_good in product(
            range(1, calls + 1, every), (errno.EIO, errno.ESTALE, errno.EACCES), (False, True)
        )
    )


def _two_saved(place: Path) -> Path:
    folder = CheckpointFolder(place)
    folder.save(FIRST, new_metrics=True)
    folder.save(SECOND)
    return place


class _Failing(io.FileIO):
    """The newest file; its reads are counted, and fail from `first` to `last`."""

    def __init__(self, path, first: int, last: float, error: int):
        super().__init__(path, "rb")
        self.first, self.last, self.error, self.reads = first, last, error, 0

    def _count(self):
        self.reads += 1
        if self.first <= self.reads <= self.last:
            raise OSError(self.error, os.strerror(self.error))

    def read(self, *size):
        self._count()
        return super().read(*size)

    def readinto(self, buffer):
        self._count()
        return super().readinto(buffer)


def _reads_of(place: Path) -> int:
    opened = []
    with _reading(lambda path: opened.append(_Failing(path, 0, 0, 0)) or opened[-1]):
        CheckpointFolder(place).latest()
    return opened[0].reads


@contextlib.contextmanager
def _reading(how) -> Iterator[None]:
    def instead(path, *options, **more):
        return how(path) if "step_00000002" in str(path) else open(path, *options, **more)

    with patch.object(files, "open", instead, create=True):
        yield


def _failing_read(place: Path, number: int, error: int, for_good: bool) -> str:
    before = contents(place)
    where = f"{os.strerror(error)} at read {number}{' and on' if for_good else ''}"
    with _reading(lambda path: _Failing(path, number, float("inf") if for_good else number, error)):
        try:
            found = CheckpointFolder(place).latest()
        except CheckpointError as refused:
            promise(for_good and os.strerror(error) in str(refused), f"{where}: {refused}")
            found = None
    promise(contents(place) == before, f"{where}: files changed")
    promise(found is None or same(found, SECOND), f"{where}: an older one, or another one")
    promise(same(CheckpointFolder(place).latest(), SECOND), f"{where}: not found again")
    return EXACT if found else REFUSED


def memory(work: Path, every: int = 1) -> Counter:
    """A resume with so many MB more than the process has already: enough, or a refusal; and then with enough."""
    work.mkdir(exist_ok=True)
    straight = _wide(work / "straight", epochs=3)
    _wide(work / "run", epochs=2)
    short = [partial(_short, work / "run", megabytes) for megabytes in range(4, 120, 4 * every)]
    return count([*short, partial(_goes_on, work / "run", straight)])


def _wide(place: Path, epochs: int, megabytes: int | None = None) -> list:
    """A training with a checkpoint of 24 MB: the memory of its saves counts too, so it is read, not trained, under a
    limit."""
    torch.manual_seed(0)
    model = nn.Linear(1000, 2000)
    optimizer = torch.optim.Adam(model.parameters())
    if megabytes is not None:
        used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGESIZE")
        resource.setrlimit(resource.RLIMIT_AS, (used + megabytes * 2**20, resource.RLIM_INFINITY))
    with (
        contextlib.redirect_stdout(open(os.devnull, "w")),
        Training(place, {"model": model, "optimizer": optimizer}) as training,
    ):
        for _ in training.epochs(epochs):
            for number in training.batches([1, 2]):
                optimizer.zero_grad()
                model(torch.full((2, 1000), 0.1 * number)).square().mean().backward()
                optimizer.step()
            training.end_epoch({"val_loss": 1.0})
    return [value.sum().item() for value in model.state_dict().values()]


def _goes_on(place: Path, straight: list) -> str:
    promise(_wide(place, epochs=3) == straight, "with enough memory it goes on otherwise")
    return EXACT


def _short(place: Path, megabytes: int) -> str:
    before = contents(place)
    here, there = PROCESSES.Pipe()
    process = PROCESSES.Process(target=_resume_with, args=(place, megabytes, there))
    process.start()
    there.close()
    try:
        said = here.recv() if here.poll(60) else "nothing"
    except EOFError:  # with next to none, C++ cannot even say so
        said = f"out of memory, exit code {process.exitcode}"
    process.join()
    promise(contents(place) == before, f"{megabytes} MB: files changed, it said {said!r}")
    promise(CheckpointFolder(place).latest()["step"] == 4, f"{megabytes} MB: not found again, it said {said!r}")
    promise(not said or "memory" in said.lower(), f"{megabytes} MB: it said {said!r}")
    return REFUSED if said else EXACT


def _resume_with(place: Path, megabytes: int, pipe) -> None:
    try:
        _wide(place, epochs=2, megabytes=megabytes)  # it is finished: it is read, and nothing is left to do
        pipe.send("")
    except (CheckpointError, MemoryError, RuntimeError) as error:
        pipe.send(f"{type(error).__name__}: {error}")


def listings(work: Path) -> Counter:
    """The folder cannot be listed, or its mirror: nothing is known then of what it holds."""
    return count(
        partial(_failing_listing, work / f"{place}-{number}", place, number)
        for place, number in product(("run", "mirror", "only mirror"), (errno.EIO, errno.EACCES, errno.ENOTCONN))
    )


def _failing_listing(work: Path, place: str, number: int) -> str:
    (work / "drive").mkdir(parents=True)
    mirror = work / "drive" / "run"
    folder = CheckpointFolder(work / "run", mirror=mirror)
    folder.save(FIRST, new_metrics=True)
    fails = work / "run" if place == "run" else mirror
    local = work / ("new machine" if place == "only mirror" else "run")
    scan = os.scandir

    def scandir(path):
        if Path(path) == fails:
            raise OSError(number, os.strerror(number))
        return scan(path)

    with patch("os.scandir", scandir):
        try:
            found = CheckpointFolder(local, mirror=mirror).latest()
        except CheckpointError as error:
            promise(os.strerror(number) in str(error), f"it said {error}")
            found = None
    if place == "mirror":
        promise(same(found, FIRST), "a good folder is not used because its mirror does not answer")
        return EXACT
    promise(found is None, "what cannot be listed was found all the same")
    promise(same(CheckpointFolder(local, mirror=mirror).latest(), FIRST), "not found again")
    return REFUSED
