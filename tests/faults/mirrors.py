"""A mirror that vanishes in the middle of a training, and returns: no trouble for it, and a copy once it is back."""

import builtins
import contextlib
import errno
import os
import random
import shutil
from collections import Counter
from functools import partial
from itertools import product
from pathlib import Path
from unittest.mock import patch

from course_utils.checkpoints import CheckpointFolder
from faults.disk import _leave_free, _small_disk
from faults.trainings import STEPS, train
from faults.trials import EXACT, all_are_whole, contents, count, promise


class _Interrupted(Exception):
    pass


def _interrupt() -> None:
    raise _Interrupted


def mirrors(work: Path, times: int) -> Counter:
    """Both kinds of saves, this many times each, at random steps; and a mirror on a disk that is full for a while."""
    straight = train(CheckpointFolder(work / "straight"))
    kinds = [_away_for_a_while, _away_and_resumed, _machine_lost]
    return count(
        partial(kind, work / f"{kind.__name__}-{background}-{number}", background, straight)
        for number, background, kind in product(range(times), [False, True], kinds)
    )


def full_mirrors(work: Path, times: int) -> Counter:
    straight = train(CheckpointFolder(work / "straight"))
    return count(
        partial(_full_for_a_while, work / f"full-{background}-{number}", background, straight)
        for number, background in product(range(times), [False, True])
    )


def dead_mirrors(work: Path, times: int) -> Counter:
    """From a random step on each look at the mirror fails; as after a FUSE daemon's death, or without permission."""
    straight = train(CheckpointFolder(work / "straight"))
    return count(
        partial(_dead, work / f"dead-{number}-{background}-{error}", background, error, straight)
        for number, background, error in product(range(times), (False, True), (errno.ENOTCONN, errno.EACCES, errno.EIO))
    )


def _dead(work: Path, background: bool, error: int, straight: list) -> str:
    calls = {name: getattr(os, name) for name in ("scandir", "stat", "mkdir", "unlink")}
    calls |= {"open": builtins.open}

    def failing(name):
        def call(path, *more, **options):
            if isinstance(path, (str, Path)) and str(path).startswith(str(work / "drive")):
                raise OSError(error, os.strerror(error), str(path))
            return calls[name](path, *more, **options)

        return call

    def die():
        for name in calls:
            stack.enter_context(patch(f"{'builtins' if name == 'open' else 'os'}.{name}", failing(name)))

    with contextlib.ExitStack() as stack:
        result = train(_folder(work, background), before_step={random.randrange(1, STEPS): die})
        promise(result == straight, f"mirror dead with {os.strerror(error)}: {result} is not {straight}")
        again = CheckpointFolder(work / "vm", mirror=work / "drive" / "run")
        promise(again.latest()["step"] >= STEPS, "a good folder is not used because its mirror is dead")
    return EXACT


def _folder(work: Path, background: bool) -> CheckpointFolder:
    (work / "drive").mkdir(parents=True, exist_ok=True)
    return CheckpointFolder(work / "vm", mirror=work / "drive" / "run", background=background)


def _unplug(work: Path) -> None:
    (work / "drive").rename(work / "unplugged")


def _plug_in(work: Path) -> None:
    promise(not (work / "drive").exists(), "a folder was made where the drive was: it is on this machine's disk")
    (work / "unplugged").rename(work / "drive")


def _two_steps() -> list[int]:
    return sorted(random.sample(range(1, STEPS), 2))


def _away_for_a_while(work: Path, background: bool, straight: list) -> str:
    away, back = _two_steps()
    result = train(_folder(work, background), before_step={away: partial(_unplug, work), back: partial(_plug_in, work)})
    promise(result == straight, f"mirror away from step {away} to {back}: {result} is not {straight}")
    promise(contents(work / "vm") == contents(work / "drive" / "run"), f"away from {away} to {back}: not caught up")
    return EXACT


def _away_and_resumed(work: Path, background: bool, straight: list) -> str:
    """The mirror is behind when the training is interrupted: the newest of both is in the folder."""
    away, end = _two_steps()
    _interrupted(work, background, {away: partial(_unplug, work), end: _interrupt})
    _plug_in(work)
    return _resumed(work, background, straight, at_least=end - 1)


def _machine_lost(work: Path, background: bool, straight: list) -> str:
    """The folder is gone, or an older copy of it came back: the newest of both is in the mirror."""
    old, end = _two_steps()
    _interrupted(work, background, {old: lambda: shutil.copytree(work / "vm", work / "copy"), end: _interrupt})
    shutil.rmtree(work / "vm")
    if random.random() < 0.5:
        (work / "copy").rename(work / "vm")
    return _resumed(work, background, straight, at_least=end - 1)


def _full_for_a_while(work: Path, background: bool, straight: list) -> str:
    full, free = _two_steps()
    with _small_disk(work / "drive") as drive:
        before_step = {full: lambda: _leave_free(drive, 0), free: lambda: (drive / "ballast").unlink()}
        result = train(_folder(work, background), before_step=before_step)
        promise(result == straight, f"mirror full from step {full} to {free}: {result} is not {straight}")
        promise(contents(work / "vm") == contents(drive / "run"), f"full from {full} to {free}: not caught up")
        all_are_whole(drive / "run")
    return EXACT


def _interrupted(work: Path, background: bool, before_step: dict) -> None:
    folder = _folder(work, background)
    try:
        train(folder, before_step=before_step)
    except _Interrupted:
        folder.wait()


def _resumed(work: Path, background: bool, straight: list, at_least: int) -> str:
    folder = _folder(work, background)
    latest = folder.latest()
    found = latest["step"] if latest else 0
    promise(found >= at_least, f"the newest of both is of step {found}, not {at_least}")
    result = train(folder, resume=True)
    promise(result == straight, f"resumed from step {found}: {result} is not {straight}")
    # The best may differ: a machine that was lost knows only those since then, the mirror keeps the best of all.
    last, copies = ([path.name for path in folder.last_paths(place)] for place in (None, folder.mirror))
    promise(last == copies, f"the mirror has not caught up: {last}, {copies}")
    return EXACT
