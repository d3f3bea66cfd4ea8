"""A disk that is full, read-only, gone, or over its quota: said clearly, and the earlier checkpoints are untouched."""

import errno
import os
import resource
import shutil
import signal
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from itertools import product
from pathlib import Path
from unittest.mock import patch

from course_utils.checkpoints import CheckpointError, CheckpointFolder
from faults.trainings import PROCESSES, STEPS, train
from faults.trials import EXACT, REFUSED, NotPossibleHere, Wrong, a_checkpoint, contents, count, error_of, promise, same

EARLIER, NEXT = a_checkpoint(1, size=10_000), a_checkpoint(2, size=10_000)  # of 40 kB
PAGE = 4096  # bytes: what a file takes at once


@contextmanager
def _small_disk(place: Path) -> Iterator[Path]:
    """A disk in memory, as only root may mount it."""
    if not shutil.which("mount"):
        raise NotPossibleHere("there is no command `mount`")
    place.mkdir(parents=True)
    command = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(place)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise NotPossibleHere(f"no disk can be mounted: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def _leave_free(disk: Path, size: int) -> Path:
    """Fill the disk but for some bytes."""
    ballast = disk / "ballast"
    with open(ballast, "wb", buffering=0) as file:
        usage = os.statvfs(disk)
        file.write(bytes(usage.f_bavail * usage.f_frsize - size))
    return ballast


def _refused(folder: CheckpointFolder, words: str, ask: int) -> str:
    """The next save fails with these words; what was there is there, and nothing else."""
    before = contents(folder.folder)
    said = error_of(folder, NEXT, ask)
    promise(words in said and "step_0000000" in said, f"it said {said!r} instead of {words!r}")
    after = contents(folder.folder) if folder.folder.exists() else {}
    promise(not folder.folder.exists() or after == before, f"before {list(before)}, after {list(after)}")
    promise(same(CheckpointFolder(folder.folder).latest(), EARLIER), "the earlier one is not found")
    return REFUSED


def _saved_again(folder: CheckpointFolder) -> None:
    said = error_of(folder, a_checkpoint(3))
    promise(not said and same(folder.latest(), a_checkpoint(3)), f"the next save does not work: {said}")


def full_disks(work: Path, every: int = 1) -> Counter:
    """A disk that is full after each page of a checkpoint; it is saved again once there is space."""
    pages = range(0, 10, every)
    return count(
        partial(_full, work / f"{free}-{background}-{ask}", free * PAGE, background, ask)
        for free, (background, ask) in product(pages, [(False, 0), (True, 0), (True, 1), (True, 2)])
    )


def _full(work: Path, free: int, background: bool, ask: int) -> str:
    with _small_disk(work) as disk:
        folder = CheckpointFolder(disk / "run", background=background)
        promise(not error_of(folder, EARLIER), "no first save")
        ballast = _leave_free(disk, free)
        outcome = _refused(folder, "disk is full", ask)
        ballast.unlink()
        _saved_again(folder)
        return outcome


def read_only(work: Path) -> Counter:
    return count(
        partial(_read_only, work / f"read-only-{background}-{ask}", background, ask)
        for background, ask in [(False, 0), (True, 0), (True, 1), (True, 2)]
    )


def _read_only(work: Path, background: bool, ask: int) -> str:
    if os.geteuid():  # permissions hold back everyone but root
        folder = CheckpointFolder(work / "run", background=background)
        promise(not error_of(folder, EARLIER), "no first save")
        folder.folder.chmod(0o555)
        try:
            return _refused(folder, "read-only", ask)
        finally:
            folder.folder.chmod(0o755)
    with _small_disk(work) as disk:
        folder = CheckpointFolder(disk / "run", background=background)
        promise(not error_of(folder, EARLIER), "no first save")
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        return _refused(folder, "read-only", ask)


def errors(work: Path) -> Counter:
    """Errors that the system reports where they come late: when the bytes go to the disk, or the name is given."""
    words = {
        errno.ENOSPC: "disk is full",
        errno.EDQUOT: "quota",
        errno.EROFS: "read-only",
        errno.ENOENT: "missing",
        errno.EIO: os.strerror(errno.EIO),
    }
    return count(
        partial(_late_error, work / f"{number}-{call}-{background}-{ask}", number, said, call, background, ask)
        for (number, said), call in product(words.items(), ("fsync", "replace"))
        for background, ask in [(False, 0), (True, 0), (True, 1), (True, 2)]
    )


def _late_error(work: Path, number: int, words: str, call: str, background: bool, ask: int) -> str:
    folder = CheckpointFolder(work, background=background)
    promise(not error_of(folder, EARLIER), "no first save")
    with patch(f"os.{call}", side_effect=OSError(number, os.strerror(number))):
        outcome = _refused(folder, words, ask)
    _saved_again(folder)
    return outcome


def size_limits(work: Path, every: int = 1) -> Counter:
    """A process that may write no larger files, as `ulimit -f` sets it: like a full disk, for everyone."""
    return count(
        partial(_limited, work / f"limit-{pages}-{background}", pages * PAGE, background)
        for pages, background in product(range(0, 10, every), [False, True])
    )


def _limited(work: Path, size: int, background: bool) -> str:
    folder = CheckpointFolder(work)
    folder.save(EARLIER)
    before = contents(work)
    here, there = PROCESSES.Pipe()
    process = PROCESSES.Process(target=_save_with_a_limit, args=(work, size, background, there))
    process.start()
    there.close()
    said = here.recv()
    process.join()
    promise("larger than this process may write" in said, f"limit of {size} bytes: it said {said!r}")
    promise(contents(work) == before, f"limit of {size} bytes: files changed")
    return REFUSED


def _save_with_a_limit(work: Path, size: int, background: bool, pipe) -> None:
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # an error for the call, not the end of the process
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
    pipe.send(error_of(CheckpointFolder(work, background=background), NEXT))


def deleted_in_a_training(work: Path, every: int = 1) -> Counter:
    """The folder is deleted before a step of a training."""
    return _in_a_training(_deleted, work, every)


def full_in_a_training(work: Path, every: int = 1) -> Counter:
    """The disk is full before a step of a training, which goes on exactly once there is space."""
    return _in_a_training(_full_and_resumed, work, every)


def _in_a_training(trial, work: Path, every: int) -> Counter:
    straight = train(CheckpointFolder(work / "straight"))
    return count(
        partial(trial, work / f"{step}-{background}", step, background, straight)
        for step, background in product(range(2, STEPS + 1, every), [False, True])
    )


def _deleted(work: Path, step: int, background: bool, straight: list) -> str:
    def delete():
        if folder._writing:  # else the save may make a file while the others are deleted
            folder.wait()
        shutil.rmtree(work)

    folder = CheckpointFolder(work, background=background)
    _expect_an_error(folder, "missing", {step: delete})
    promise(not work.exists(), "the folder was made anew")
    return REFUSED


def _full_and_resumed(work: Path, step: int, background: bool, straight: list) -> str:
    with _small_disk(work) as disk:
        ballast = []
        folder = CheckpointFolder(disk / "run", background=background)
        _expect_an_error(folder, "disk is full", {step: lambda: ballast.append(_leave_free(disk, 0))})
        promise(not list(folder.folder.glob("*.part")), "a .part is left")
        ballast[0].unlink()
        resumed = train(CheckpointFolder(disk / "run"), resume=True)
        promise(resumed == straight, f"resumed after a full disk at step {step}: {resumed} is not {straight}")
        return EXACT


def _expect_an_error(folder: CheckpointFolder, words: str, before_step: dict) -> None:
    try:
        train(folder, before_step=before_step)
    except CheckpointError as error:
        promise(words in str(error), f"it said {error} instead of {words!r}")
    else:
        raise Wrong(f"the training ended without a word on {words!r}")
