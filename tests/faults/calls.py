"""Every file-system call of a save, one by one: killed there, or answered with an error of the disk.

strace watches the calls on the files of a checkpoint folder, and disturbs the one that it is told to.
Source: https://man7.org/linux/man-pages/man1/strace.1.html, section "Tampering".
"""

import ctypes
import errno
import os
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path

from course_utils.checkpoints import CheckpointFolder
from faults.trainings import PROCESSES
from faults.trials import (
    EXACT,
    FELL_BACK,
    REFUSED,
    NotPossibleHere,
    a_checkpoint,
    all_are_whole,
    contents,
    count,
    promise,
    same,
)

SIZE = 20_000  # numbers in a checkpoint: enough for several calls of `write`

LOOKS = {"lseek", "read", "pread64", "newfstatat", "fstat", "stat", "lstat", "statx", "ioctl", "fcntl", "getdents64"}

# What a disk answers, at which calls, and the words that the message must hold then.
DISK_ERRORS = {
    "ENOSPC": (["openat", "write", "fsync", "rename"], "disk is full"),
    "EDQUOT": (["openat", "write", "fsync", "rename"], "quota"),
    "EROFS": (["openat", "rename", "unlink"], "read-only"),
    "EIO": (["openat", "write", "fsync", "rename", "unlink", "close"], os.strerror(errno.EIO)),
}


@dataclass(frozen=True)
class Save:
    """A save over one that is there: of the next step, or of the same step again."""

    work: Path
    step: int
    background: bool
    mirrored: bool

    before = a_checkpoint(1, version=1, val_loss=0.5, size=SIZE)

    @property
    def checkpoint(self) -> dict:
        return a_checkpoint(self.step, version=2, val_loss=0.5 if self.step == 1 else 0.4, size=SIZE)

    @property
    def run(self) -> Path:
        return self.work / "run"

    @property
    def mirror(self) -> Path | None:
        return self.work / "drive" / "run" if self.mirrored else None

    def folder(self, background: bool = False) -> CheckpointFolder:
        return CheckpointFolder(self.run, keep_last=1, background=background, mirror=self.mirror)

    def prepare(self) -> dict[str, bytes]:
        shutil.rmtree(self.work, ignore_errors=True)
        (self.work / "drive").mkdir(parents=True)
        self.folder().save(self.before, new_metrics=True)
        return contents(self.run)

    def do(self) -> None:
        folder = self.folder(self.background)
        if self.step == 1:
            folder.latest()  # only who goes on from a step may write it again
        folder.save(self.checkpoint, new_metrics=True)
        folder.wait()
        (self.work / "returned").touch()

    def paths(self) -> list[Path]:
        """All that it may touch: strace wants to know each one."""
        names = ["step_00000001.pt", f"step_{self.step:08d}.pt", "best_00000001_val_loss=0.5.pt"]
        names.append("best_00000002_val_loss=0.4.pt")
        places = [place for place in (self.run, self.mirror) if place]
        files = [place / f"{name}{ending}" for place in places for name in names for ending in ("", ".part")]
        return [self.work, self.work / "drive", self.work / "returned", *places, *files]


def watched(save: Save, *options: str, limit: int = 60) -> tuple[str | None, list[str]]:
    """Do the save in a process under strace: (the type and text of its error, None if it was killed; the calls)."""
    if not shutil.which("strace"):
        raise NotPossibleHere("strace is not installed")
    here, there = PROCESSES.Pipe()
    process = PROCESSES.Process(target=_do_when_told, args=(save, there))
    process.start()
    there.close()
    here.recv()
    log = save.work.with_suffix(".log")
    command = ["strace", "-f", "-y", "-s", "0", "-p", str(process.pid), "-o", str(log), *options]
    command += [argument for path in save.paths() for argument in ("-P", str(path))]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as tracer:
        said = tracer.stderr.readline()
        if "attached" not in said:
            process.kill()
            raise NotPossibleHere(f"strace may not watch: {said.strip()}")
        here.send("go")
        try:
            error = here.recv() if here.poll(limit) else f"still running after {limit} s"
        except EOFError:
            error = None
        process.kill()  # it has nothing left to do
        process.join()
    return error, _whole_lines(log.read_text().splitlines())


def _whole_lines(log: list[str]) -> list[str]:
    """A call that another thread's came between is logged in two halves: one line, where it returned."""
    begun, lines = {}, []
    for line in log:
        thread = line.split(maxsplit=1)[0]
        if line.endswith(" <unfinished ...>"):
            begun[thread] = line.removesuffix(" <unfinished ...>")
        elif thread in begun:
            rest = re.sub(r"^\d+ +(<\.\.\. \w+ resumed>)?", "", line)
            lines.append(begun.pop(thread) + re.sub(r"\) += ", ") = ", rest))
        else:
            lines.append(line)
    return lines + list(begun.values())


def _do_when_told(save: Save, pipe) -> None:
    allow_everyone = (0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)  # PR_SET_PTRACER, PR_SET_PTRACER_ANY
    ctypes.CDLL(None).prctl(*allow_everyone)
    pipe.send("ready")
    pipe.recv()
    try:
        save.do()
        pipe.send("")
    except Exception as error:
        pipe.send(f"{type(error).__name__}: {error}")


def _numbered_calls(log: list[str]) -> dict[tuple[str, int], str]:
    """{(name, number): line}: strace counts each call by itself, and for each thread by itself.

    Calls that only look are left out: a kill there leaves the same files as a kill at the next one that changes them.
    """
    times, lines = Counter(), {}
    for line in log:
        thread, name = re.match(r"(\d+) +(\W*\w+)", line).groups()
        times[thread, name] += 1
        if f"{name}(" in line and name not in LOOKS:
            lines.setdefault((name, times[thread, name]), line)
    return lines


def _kinds_of_saves(work: Path) -> list[Save]:
    return [
        Save(work / f"{step}-{background}-{mirrored}", step, background, mirrored)
        for step, background, mirrored in product([2, 1], [False, True], [False, True])
    ]


def kills_at_every_call(work: Path, every: int = 1) -> Counter:
    """Kill every save at each of its calls, or at every third, say."""
    counts = Counter()
    for save in _kinds_of_saves(work):
        save.prepare()
        _, log = watched(save)
        points = list(_numbered_calls(log))[::every]
        counts += count(partial(_killed_at, save, call, number) for call, number in points)
    return counts


def _killed_at(save: Save, call: str, number: int) -> str:
    save.prepare()
    error, _ = watched(save, "-e", f"inject={call}:signal=KILL:when={number}")
    promise(not error, f"{error} instead of a kill at {call} {number}")
    all_are_whole(save.run, save.work / "drive" / "run")
    # As a new process finds it: the earlier one or the new one, and surely the new one once `wait` had returned.
    latest, best = save.folder().latest(), save.folder().best()
    for found in (latest, best):
        promise(
            same(found, save.before) or same(found, save.checkpoint),
            f"killed at {call} {number}: neither the earlier nor the new one is there",
        )
    is_new = same(latest, save.checkpoint)
    promise(is_new or not (save.work / "returned").exists(), f"lost by a kill at {call} {number}")
    promise(same(best, save.checkpoint) or not is_new, f"killed at {call} {number}: the best one will never be written")
    save.folder().save(a_checkpoint(3), new_metrics=True)
    promise(not list(save.work.rglob("*.part")), "a leftover of the killed save stays for ever")
    return EXACT if is_new else FELL_BACK


def errors_at_every_call(work: Path, every: int = 1) -> Counter:
    """Each call of a save fails once, in each way in which a disk says no."""
    counts = Counter()
    for save in _kinds_of_saves(work):
        if save.mirrored:
            continue  # trouble with a mirror warns: see mirrors.py
        save.prepare()
        _, log = watched(save)
        points = [
            (call, number, error)
            for (call, number), line in _numbered_calls(log).items()
            for error, (calls, _) in DISK_ERRORS.items()
            if call in calls and (call != "openat" or "O_CREAT" in line or error == "EIO") and "returned" not in line
        ]
        counts += count(partial(_failed_at, save, *point) for point in points[::every])
    return counts


def _failed_at(save: Save, call: str, number: int, name: str) -> str:
    before = save.prepare()
    error, log = watched(save, "-e", f"inject={call}:error={name}:when={number}")
    where = f"{name} at {call} {number}"
    injected = [line for line in log if "INJECTED" in line]
    promise(bool(injected), f"{where}: nothing was injected")
    promise(error is not None, f"{where}: the process died. {log[-1]}")
    all_are_whole(save.run)
    promise(not list(save.run.glob("*.part")), f"{where}: a .part is left")
    if not error:  # the file was written in another way
        promise(same(save.folder().latest(), save.checkpoint), f"{where}: no error, and not saved")
        return EXACT
    words = DISK_ERRORS[name][1]
    promise(error.startswith("CheckpointError") and words in error, f"{where}: it said {error!r}. {injected}")
    latest = save.folder().latest()
    promise(same(latest, save.before) or same(latest, save.checkpoint), f"{where}: neither one is there")
    # "Untouched": what the failed save has not replaced by a whole new one is there, byte by byte.
    if save.step == 2 and not (save.run / "step_00000002.pt").exists():
        promise(before.items() <= contents(save.run).items(), f"{where}: an earlier checkpoint changed")
    return REFUSED


def order_of_calls(work: Path) -> Counter:
    """What a power cut needs: a name only for what is on the disk, and no return before the name is there as well."""
    saves = _kinds_of_saves(work)
    return count(partial(trial, save) for trial in (_in_order, _new_folder) for save in saves)


def _in_order(save: Save) -> str:
    save.prepare()
    error, log = watched(save)
    promise(error == "", f"the save said {error}")
    returned = _first(log, rf"openat\(.*{re.escape(str(save.work))}/returned")
    written = 0
    for place in filter(None, (save.run, save.mirror)):
        for name in sorted(contents(place)):
            if f"_{save.step:08d}" not in name:
                continue
            path = re.escape(str(place / name))
            renamed = _last(log, rf'rename\w*\(.*"{path}\.part".*"{path}"')
            content_safe = _last(log[:renamed], rf"fsync\(\d+<{path}\.part>\) = 0")
            name_safe = renamed + _first(log[renamed:], rf"fsync\(\d+<{re.escape(str(place))}>\) = 0")
            last_write = _last(log[:renamed], rf"write\(\d+<{path}\.part>")
            promise(last_write < content_safe < renamed < name_safe < returned, f"{name}: wrong order\n{log}")
            for line in log[:name_safe]:
                gone = re.search(rf'unlink\w*\(.*"{re.escape(str(place))}/(\w+_)\d+[^"]*\.pt"', line)
                promise(not gone or not name.startswith(gone[1]), f"{line}: gone before {name} was safe")
            written += 1
    promise(written == (4 if save.mirrored else 2), f"{written} files written: a last and a best one are due")
    return EXACT


def _new_folder(save: Save) -> str:
    """The name of a folder is data of its parent."""
    shutil.rmtree(save.work, ignore_errors=True)
    (save.work / "drive").mkdir(parents=True)
    error, log = watched(save)
    promise(error == "", f"the save said {error}")
    returned = _first(log, rf"openat\(.*{re.escape(str(save.work))}/returned")
    for folder in filter(None, (save.run, save.mirror)):
        made = _first(log, rf'mkdir\w*\(.*"{re.escape(str(folder))}", \d+\) = 0')
        safe = made + _first(log[made:], rf"fsync\(\d+<{re.escape(str(folder.parent))}>\) = 0")
        promise(made < safe < returned, f"{folder} is made, but its name is never flushed to the disk")
    return EXACT


def _first(log: list[str], pattern: str) -> int:
    found = [number for number, line in enumerate(log) if re.search(pattern, line)]
    return found[0] if found else len(log)


def _last(log: list[str], pattern: str) -> int:
    found = [number for number, line in enumerate(log) if re.search(pattern, line)]
    return found[-1] if found else len(log)
