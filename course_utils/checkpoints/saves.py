"""What of a training is on the disk, and what is not yet. Source: notebook 04."""

import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from .durable import CheckpointError, explained
from .files import check_loadable, write
from .folder import CheckpointFolder
from .processes import Processes
from .snapshots import Snapshot, without_tensors
from .stopping import Stopped


def folder_of(folder: str | Path | CheckpointFolder | None, metric: str | None, mode: str | None):
    """The folder as a `CheckpointFolder`. Raises ValueError when metric or mode are not those that it has."""
    if isinstance(folder, (str, Path)):
        return CheckpointFolder(folder, metric or "val_loss", mode)
    if folder and (metric or folder.metric, mode or folder.mode) != (folder.metric, folder.mode):
        raise ValueError(f"The folder has metric {folder.metric!r} and mode {folder.mode!r}: say them once, there.")
    return folder


class Saves:
    """Checkpoints of one training, into its folder.

    take: a function that gives the checkpoint of the training as it is now; of several processes, all call it, and what
    it gives in process 0 is written.
    """

    def __init__(self, folder: CheckpointFolder, take: Callable[[], dict], processes: Processes):
        self.folder, self._take, self.processes = folder, take, processes
        self.step: int | None = None  # the last one that is saved
        self.missing = False  # are there steps after it?
        self._snapshot = Snapshot()
        self._at_last_step: dict | None = None

    def try_one(self) -> None:
        """Whatever cannot be saved is told before anything is trained. Raises CheckpointError."""
        checkpoint = without_tensors(self._take())
        self.processes.by_first(lambda: self._try(checkpoint, self.folder.folder))

    def _try(self, checkpoint: dict, place: Path) -> None:
        with explained(f"{place} cannot hold checkpoints"), tempfile.TemporaryFile(dir=place) as file:
            write(checkpoint, file)
            file.seek(0)
            check_loadable(file, checkpoint, place)

    def save(self, new_metrics: bool = False) -> None:
        """Save the training as it is now."""
        self._save(self._take(), new_metrics)

    def keep_in_memory(self) -> None:
        """What runs between the last batch and the end of the epoch moves random numbers, and perhaps the parts.
        Stopped there, this copy is saved, and all of that runs again after the resume."""
        checkpoint = self._take()
        try:
            self._at_last_step = self._snapshot.copy(checkpoint)
        except (MemoryError, RuntimeError):  # PyTorch's way to say that memory is short
            self._at_last_step = None
        if self.processes.highest(self._at_last_step is None):
            self._save(checkpoint)

    def save_what_is_done(self) -> None:
        """The training as it was after its last step, if that is not saved."""
        if self.missing:
            self._save(self._at_last_step or self._take())

    def save_after(self, error: BaseException) -> None:
        """An error between two steps, of an evaluation, say, does not cost the work before it.

        Of several processes, only this one may have met it: then process 0 saves what it has in memory, and asks none.
        """
        try:
            if self.processes.count == 1 or isinstance(error, Stopped):
                self.save_what_is_done()
            elif self.processes.is_first and self.missing and self._at_last_step:
                self.folder.save(self._at_last_step)
            self.folder.wait()
        except CheckpointError as trouble:
            warnings.warn(f"After {type(error).__name__}, the last steps could not be saved. {trouble}", stacklevel=4)

    def _save(self, checkpoint: dict, new_metrics: bool = False) -> None:
        self.processes.by_first(lambda: self.folder.save(checkpoint, new_metrics))
        self.step, self.missing, self._at_last_step = checkpoint["step"], False, None
