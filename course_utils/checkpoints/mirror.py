"""A copy of the checkpoints in a place that outlives this machine, such as a mounted Drive. Source: notebook 04."""

import time
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

from .durable import CheckpointError, copy_compared, fsync_folder, listed


class Mirror:
    """Its folder's parent must exist: what is not mounted is not made. Trouble with it warns, and never stops."""

    def __init__(self, folder: Path):
        self.folder = folder

    def files(self) -> list[Path]:
        """Its files; [] if it is still to be made. Raises OSError when its place is not there or does not answer."""
        files = listed(self.folder)
        if not files:
            self.folder.parent.stat()
        return files

    def update(self, kept: Iterable[Path], just_saved: list[str], prune: Callable[[], None], attempts: int = 3) -> None:
        """Copy what was just saved, and what it lacks of the others, comparing every byte; then `prune` it."""
        for attempt in range(1, attempts + 1):
            try:
                there = {path.name for path in self.files()}
                if not there and not self.folder.is_dir():
                    self.folder.mkdir()
                    fsync_folder(self.folder.parent)
                for path in kept:
                    if path.name in just_saved or path.name not in there:
                        copy_compared(path, self.folder / path.name)
                return prune()
            except (OSError, CheckpointError) as error:
                if attempt == attempts or not self._is_there():
                    return self.warn(f"has no copy of {just_saved[-1]}", error)
                time.sleep(0.1 * attempt)

    def copy_back(self, paths: Iterable[Path], folder: Path) -> None:
        """What a new machine lacks of the best."""
        try:
            for path in paths:
                if not (folder / path.name).exists():
                    copy_compared(path, folder / path.name)
        except (OSError, CheckpointError) as error:
            self.warn("did not give back its best checkpoint", error)

    def warn(self, what: str, error: Exception) -> None:
        warnings.warn(f"The mirror {self.folder} {what}: {error}", stacklevel=2)

    def _is_there(self) -> bool:
        try:
            self.files()
        except OSError:
            return False
        return True
