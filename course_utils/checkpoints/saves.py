"""What of a training is on the disk, and what is not yet. Source: notebook 04."""

import tempfile
import warnings
from collections.abc import Callable

from .durable import CheckpointError, explained
from .files import check_loadable, write
from .folder import CheckpointFolder
from .snapshots import Snapshot, without_tensors


class Saves:
    """Checkpoints of one training, into its folder.

    take: a function that gives the checkpoint of the training as it is now.
    """

    def __init__(self, folder: CheckpointFolder, take: Callable[[], dict]):
        self.folder, self._take = folder, take
        self.step: int | None = None  # the last one that is saved
        self.missing = False  # are there steps after it?
        self._snapshot = Snapshot()
        self._at_last_step: dict | None = None

    def try_one(self) -> None:
        """Whatever cannot be saved is told before anything is trained. Raises CheckpointError."""
        place = self.folder.folder
        with explained(f"{place} cannot hold checkpoints"), tempfile.TemporaryFile(dir=place) as file:
            checkpoint = without_tensors(self._take())
            write(checkpoint, file)
            file.seek(0)
            check_loadable(file, checkpoint, place)

    def save(self, new_metrics: bool = False) -> None:
        """Save the training as it is now."""
        self._save(self._take(), new_metrics)

    def keep_in_memory(self) -> None:
        """What runs between the last batch and the end of the epoch moves random numbers, and perhaps the parts.
        Stopped there, this copy is saved, and all of that runs again after the resume."""
        try:
            self._at_last_step = self._snapshot.copy(self._take())
        except (MemoryError, RuntimeError):  # PyTorch's way to say that memory is short
            self.save()

    def save_what_is_done(self) -> None:
        """The training as it was after its last step, if that is not saved."""
        if self.missing:
            self._save(self._at_last_step or self._take())

    def save_after(self, error: BaseException) -> None:
        """An error between two steps, of an evaluation, say, does not cost the work before it."""
        try:
            self.save_what_is_done()
            self.folder.wait()
        except CheckpointError as trouble:
            warnings.warn(f"After {type(error).__name__}, the last steps could not be saved. {trouble}", stacklevel=4)

    def _save(self, checkpoint: dict, new_metrics: bool = False) -> None:
        self.folder.save(checkpoint, new_metrics)
        self.step, self.missing, self._at_last_step = checkpoint["step"], False, None
