"""One training in a folder at a time. Source: notebook 04."""

import os
import socket
import warnings
from pathlib import Path

from .durable import explained

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None
    import msvcrt

NAME = ".training.lock"
HELD: set[Path] = set()  # by this process: to its own files, the system's lock does not say no


class FolderLock:
    """Held by one process of a machine. The system frees it when that process ends, however it ends.

    Not inherited by DataLoader workers, so that none of them holds it on when its training was killed. Between machines
    it works where the file system passes locks on (NFS does, a mounted Drive does not).
    Source: https://man7.org/linux/man-pages/man3/lockf.3.html
    """

    def __init__(self, folder: Path):
        self.folder = folder.resolve()
        self._named = folder  # as its owner wrote it
        self._file = None

    def take(self) -> None:
        """Raises ValueError when another training has it, CheckpointError when the folder cannot be written to."""
        if self.folder in HELD:
            raise ValueError(self._in_use("this process"))
        with explained(f"{self.folder} cannot be used"):
            file = open(self.folder / NAME, "a+")
        try:
            if fcntl:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            else:
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except (BlockingIOError, PermissionError):
            file.seek(0)
            holder = file.read().strip() or "another process"
            file.close()
            raise ValueError(self._in_use(holder)) from None
        except OSError as error:
            warnings.warn(
                f"{self.folder} cannot be locked ({error.strerror}): see to it yourself that no second training uses "
                f"it.",
                stacklevel=3,
            )
        file.truncate(0)
        file.write(f"process {os.getpid()} on {socket.gethostname()}\n")
        file.flush()
        self._file = file
        HELD.add(self.folder)

    def _in_use(self, holder: str) -> str:
        return (
            f"{self._named} holds checkpoints of a training that is still running ({holder}). Wait for its end, or use "
            f"another folder."
        )

    def release(self) -> None:
        if self._file:
            self._file.close()
            self._file = None
            HELD.discard(self.folder)
