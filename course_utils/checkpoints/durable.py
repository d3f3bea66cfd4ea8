"""Files written whole and for good, or not at all. Source: notebook 04, section "A save that dies half-way"."""

import _thread
import errno
import filecmp
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

REASONS = {
    errno.ENOSPC: "the disk is full. Free some space",
    errno.EDQUOT: "your disk quota is used up. Free some space, or ask for more",
    errno.EFBIG: "the file would be larger than this process may write (see `ulimit -f`). Raise the limit",
    errno.EROFS: "the folder is read-only. Choose another folder",
    errno.EACCES: "the folder is read-only for you. Choose another folder, or change its permissions",
    errno.EPERM: "the folder is read-only for you. Choose another folder, or change its permissions",
    errno.ENOENT: "the folder is missing. Make it, or look whether its disk is still there",
    errno.ENOTDIR: "a part of this path is a file, not a folder. Choose another folder",
    errno.EEXIST: "there is a file of that name. Choose another folder",
    errno.EISDIR: "there is a folder of that name. Move it away",
}


class CheckpointError(Exception):
    """A checkpoint that cannot be used or saved: the message names the file, what is wrong, and what to do."""


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn an error of the disk in this block into a CheckpointError: `what` went wrong, why, and what to do."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        cause = error.__context__ if isinstance(error, RuntimeError) else error  # torch.save hides the system's error
        if not isinstance(cause, OSError):
            raise
        reason = REASONS.get(cause.errno, f"{cause.strerror or cause}. Look at the disk")
        raise CheckpointError(f"{what}: {reason}.") from error


class _EarlyWriter:
    """Hands bytes to the disk while torch.save still computes the checksums of the next ones, not all at the end."""

    CHUNK = 2 * 2**20  # bytes: larger ones leave much of a small checkpoint to the end

    def __init__(self, file):
        self.file = file
        self.name = file.name
        self.flush = file.flush
        self.handed_over = 0

    def write(self, data) -> int:
        written = self.file.write(data)
        position = self.file.tell()
        if position - self.handed_over >= self.CHUNK and hasattr(os, "posix_fadvise"):
            # "Not needed soon": Linux starts to write such pages at once.
            os.posix_fadvise(self.file.fileno(), self.handed_over, position - self.handed_over, os.POSIX_FADV_DONTNEED)
            self.handed_over = position
        return written


@contextmanager
def whole_or_absent(path: Path, second_name: Path | None = None) -> Iterator[_EarlyWriter]:
    """A binary file to write to, which gets the name `path` only when all of it is on the disk.

    It is written aside in the same folder, flushed to the disk and renamed: `os.replace` is atomic within one file
    system, so an interruption leaves the old file or the new one, never a part. Last, the folder is flushed too: the
    name of a file is data of its folder. `second_name`, of the same folder, is given next, and stays as it is where the
    file system has no hard links. Raises CheckpointError.
    Source: https://docs.python.org/3/library/os.html#os.replace, https://man7.org/linux/man-pages/man2/fsync.2.html
    """
    aside = path.with_name(path.name + ".part")
    with explained(f"{path} was not saved, and the checkpoints so far are untouched"):
        try:
            with open(aside, "wb") as file:
                yield _EarlyWriter(file)
                file.flush()
                flush_to_disk(file.fileno())
            os.replace(aside, path)
            if second_name:
                _link(path, second_name)
            fsync_folder(path.parent)
        except BaseException:
            with suppress(OSError):
                aside.unlink(missing_ok=True)
            raise


def copy_compared(source: Path, target: Path) -> None:
    """Copy a file and compare the copy, byte for byte, before it gets its name. Raises OSError, CheckpointError."""
    with open(source, "rb") as original, whole_or_absent(target) as copy:
        shutil.copyfileobj(original, copy, length=2**20)
        copy.flush()
        if not filecmp.cmp(source, copy.name, shallow=False):
            raise CheckpointError(f"{target} does not hold the bytes of {source}. Look at the disk.")


def _link(path: Path, name: Path) -> None:
    """Give a file a second name, which may be in use, if the file system has hard links."""
    aside = name.with_name(name.name + ".part")
    try:
        aside.unlink(missing_ok=True)
        os.link(path, aside)
    except OSError:
        return
    try:
        os.replace(aside, name)
    finally:  # two names of one file: the rename did nothing
        with suppress(OSError):
            aside.unlink(missing_ok=True)


def are_one_file(path: Path, other: Path) -> bool:
    """Are these two names of one file? Raises OSError."""
    return other.exists() and os.path.samefile(path, other)


def remove(path: Path) -> None:
    """Remove a file, if it is there. Raises OSError.

    To give back the blocks of a large file takes a quarter of the time of its save. The system does that when nobody
    has it open any more, so its name goes here and a thread closes it.
    """
    try:
        descriptor = None if os.name == "nt" else os.open(path, os.O_RDONLY)  # Windows removes no open file
    except OSError:
        descriptor = None
    try:
        path.unlink(missing_ok=True)
    finally:
        if descriptor is not None:
            try:
                _thread.start_new_thread(_close, (descriptor,))  # threading.Thread takes four times as long
            except RuntimeError:  # no thread can be had now
                _close(descriptor)


def _close(descriptor: int) -> None:
    with suppress(OSError):  # of a file that is removed, nothing more can be lost
        os.close(descriptor)


def listed(folder: Path) -> list[Path]:
    """The files of a folder, [] if it is missing. Raises OSError when it cannot be listed.

    `Path.glob` would answer any trouble with an empty list (Python 3.12 and 3.13), as if nothing had been saved.
    """
    try:
        with os.scandir(folder) as entries:
            return [Path(entry.path) for entry in entries if entry.is_file()]
    except FileNotFoundError:
        return []


def flush_to_disk(descriptor: int) -> None:
    """`os.fsync`; on macOS, where that only hands the bytes to the drive, the call that waits for its platter.

    Source: https://developer.apple.com/library/archive/documentation/System/Conceptual/ManPages_iPhoneOS/man2/fsync.2.html
    """
    if fcntl and hasattr(fcntl, "F_FULLFSYNC"):
        with suppress(OSError):  # a mounted drive may not know it
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
            return
    os.fsync(descriptor)


def fsync_folder(folder: Path) -> None:
    """Make the names in a folder durable: what was made, renamed or deleted in it."""
    if os.name == "nt":  # Windows has no such call and needs none
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        flush_to_disk(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):  # a mounted Drive may not know this call
            raise
    finally:
        os.close(descriptor)
