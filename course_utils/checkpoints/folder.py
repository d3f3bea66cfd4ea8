"""A folder that keeps the latest and the best checkpoints, falls back, and has a mirror. Source: notebook 03."""

import re
import time
import warnings
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

from .durable import CheckpointError, copy_compared, explained, fsync_folder
from .files import load_checkpoint, save_checkpoint
from .snapshots import copied


class CheckpointFolder:
    """A folder that keeps the last checkpoints, the best ones, and a copy of both in another place.

    Files: `step_00000042.pt`, the last `keep_last` of them, and `best_00000042_val_loss=0.25.pt`, the best `keep_best`
    by `metric`, where mode "min" or "max" is better. Each is whole, and none goes before a newer one is on the disk.
    A checkpoint is a dict with at least `step` (int) and `metrics` (dict of str to number).

    mirror: a folder in a place that outlives this machine, such as a mounted Drive. Its parent must exist: what is not
    mounted is not made. Trouble with it warns and never stops a training; the next save copies what is missing.
    background: `save` returns once the tensors are copied in memory, and a thread does the writing. A checkpoint is
    safe once `wait` has returned. An error surfaces at the next `save`, `check` or `wait`.
    """

    def __init__(
        self,
        folder: str | Path,
        metric: str = "val_loss",
        mode: str = "min",
        keep_last: int = 2,
        keep_best: int = 1,
        mirror: str | Path | None = None,
        background: bool = False,
    ):
        if mode not in ("min", "max"):
            raise ValueError(f"mode is {mode!r}; say 'min' when a lower {metric} is better, else 'max'.")
        if min(keep_last, keep_best) < 1:
            raise ValueError(f"keep_last is {keep_last}, keep_best is {keep_best}; at least 1 of each must stay.")
        self.folder = Path(folder)
        self.metric, self.mode = metric, mode
        self.keep_last, self.keep_best = keep_last, keep_best
        self.mirror = Path(mirror) if mirror else None
        self._prepared = False
        self._thread = ThreadPoolExecutor(1) if background else None
        self._writing: Future | None = None
        self._copy: dict | None = None  # used again for each background save: fresh memory costs time

    def is_better(self, value: float, than: float | None) -> bool:
        """Is this value of the metric better than that one (None: there is none yet)? NaN never is."""
        if value != value:
            return False
        return than is None or (value < than if self.mode == "min" else value > than)

    def last_paths(self, place: Path | None = None) -> list[Path]:
        """The last checkpoints, newest first, in the folder or in `place`."""
        paths = (place or self.folder).glob("step_*.pt")
        return sorted((path for path in paths if re.fullmatch(r"step_\d+\.pt", path.name)), key=_step, reverse=True)

    def best_paths(self, place: Path | None = None) -> list[Path]:
        """The best checkpoints, best first; of equal ones the earlier."""
        name = re.compile(rf"best_\d+_{re.escape(self.metric)}=[-+.\w]+\.pt")
        paths = [path for path in (place or self.folder).glob("best_*.pt") if name.fullmatch(path.name)]
        return sorted(sorted(paths, key=_step), key=_value, reverse=self.mode == "max")

    def save(self, checkpoint: dict, new_metrics: bool = False) -> None:
        """Save as the last; with `new_metrics` (after an epoch, say) also among the best, if it belongs there.

        Raises CheckpointError when it cannot be written, or when the background save before it could not.
        """
        self.wait()
        self._prepare()
        names = [f"step_{checkpoint['step']:08d}.pt"]
        if new_metrics:
            value = checkpoint["metrics"][self.metric]
            name = f"best_{checkpoint['step']:08d}_{self.metric}={float(value)!r}.pt"
            if self._is_among_the_best(value, name):
                names.insert(0, name)  # first: killed between the two, the step is repeated and both are written again
        if self._thread:
            self._copy = copied(checkpoint, self._copy, self._thread)
            self._writing = self._thread.submit(self._write, self._copy, names)
        else:
            self._write(checkpoint, names)

    def check(self) -> None:
        """Raise the error of a background save that has failed; cheap, for every step."""
        if self._writing and self._writing.done():
            self.wait()

    def wait(self) -> None:
        """Return when everything that was saved is on the disk. Raises CheckpointError when it could not be."""
        writing, self._writing = self._writing, None
        if writing:
            writing.result()

    def is_empty(self) -> bool:
        """Is there no checkpoint, good or damaged, in folder and mirror?"""
        return not any(list(place.glob(name)) for place in self._places() for name in ("*.pt", "*.damaged"))

    def latest(self) -> dict | None:
        """The newest good checkpoint of folder and mirror, None if there never was one.

        A damaged one is passed over with a warning and renamed to `….damaged`, so that it takes no good one's place.
        Raises CheckpointError when all are damaged: going on from nothing would throw a training away silently.
        """
        paths = [path for place in self._places() for path in [*self.last_paths(place), *self.best_paths(place)]]
        checkpoint = self._first_good(sorted(paths, key=_step, reverse=True))
        if checkpoint is None and not self.is_empty():
            raise CheckpointError(f"No checkpoint in {self.folder} can be used. Move them all away to start anew.")
        return checkpoint

    def best(self) -> dict | None:
        """The best good checkpoint of folder and mirror, None if there is none; falls back as `latest` does."""
        paths = [path for place in self._places() for path in self.best_paths(place)]
        return self._first_good(sorted(paths, key=_value, reverse=self.mode == "max"))

    def _first_good(self, paths: list[Path]) -> dict | None:
        for path in paths:
            try:
                return load_checkpoint(path)
            except CheckpointError as error:
                warnings.warn(f"{error} Falling back to the next good one.", stacklevel=3)
                with suppress(OSError):
                    path.rename(path.with_name(path.name + ".damaged"))
        return None

    def _places(self) -> list[Path]:
        return [self.folder, self.mirror] if self.mirror else [self.folder]

    def _is_among_the_best(self, value: float, name: str) -> bool:
        with explained(f"{name} is not saved"):
            others = [_value(path) for path in self.best_paths() if path.name != name]
        return value == value and sum(not self.is_better(value, other) for other in others) < self.keep_best

    def _prepare(self) -> None:
        """Before the first save only: a folder that vanishes later is an error to report, not one to make anew."""
        if self._prepared:
            return
        with explained(f"{self.folder} cannot hold checkpoints"):
            missing = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
            for folder in missing:
                fsync_folder(folder.parent)
            self._prune(self.folder)
        self._prepared = True

    def _write(self, checkpoint: dict, names: list[str]) -> None:
        for name in names:
            save_checkpoint(checkpoint, self.folder / name)
        with explained(f"{names[-1]} is saved in {self.folder}, but the oldest is not removed"):
            self._prune(self.folder, names)
        if self.mirror:
            self._update_mirror(names)

    def _prune(self, place: Path, just_saved: Sequence[str] = ()) -> None:
        killed_saves = place.glob("*.pt.part")
        surplus = [*self.last_paths(place)[self.keep_last :], *self.best_paths(place)[self.keep_best :]]
        for path in [*killed_saves, *surplus]:
            if path.name not in just_saved:
                path.unlink(missing_ok=True)

    def _update_mirror(self, names: list[str], attempts: int = 3) -> None:
        for attempt in range(1, attempts + 1):
            try:
                if not self.mirror.exists():
                    self.mirror.mkdir()
                    fsync_folder(self.mirror.parent)
                for path in [*self.best_paths(), *self.last_paths()]:
                    if path.name in names or not (self.mirror / path.name).exists():
                        copy_compared(path, self.mirror / path.name)
                return self._prune(self.mirror, names)
            except (OSError, CheckpointError) as error:
                if attempt == attempts or not self.mirror.parent.exists():
                    return warnings.warn(f"The mirror {self.mirror} has no copy of {names[-1]}: {error}", stacklevel=2)
                time.sleep(0.1 * attempt)


def _step(path: Path) -> int:
    return int(path.name.split("_")[1].removesuffix(".pt"))


def _value(path: Path) -> float:
    return float(re.search(r"=(.+)\.pt$", path.name)[1])
