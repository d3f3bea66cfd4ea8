"""A folder that keeps the latest and the best checkpoints, falls back, and has a mirror. Source: notebook 04."""

import operator
import re
import sys
import warnings
import weakref
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from .durable import CheckpointError, are_one_file, explained, fsync_folder, listed, remove
from .files import DamagedCheckpoint, load_checkpoint, save_checkpoint
from .mirror import Mirror
from .names import (
    OURS,
    STEP,
    best_name,
    best_pattern,
    is_ours,
    is_whole_name,
    mode_of,
    remove_leftovers,
    set_aside,
    step_name,
    step_of,
    value_of,
)
from .snapshots import Snapshot


class CheckpointFolder:
    """A folder that keeps the last checkpoints, the best ones, and a copy of both in another place.

    Files: `step_00000042.pt`, the last `keep_last` of them, and `best_00000042_val_loss=0.25.pt`, the best `keep_best`
    by `metric`, where mode "min" or "max" is better. A metric that is no loss needs its mode; characters that a file
    name cannot have are written as in a URL (`val%2Frmse`). Each file is whole, and none goes before a newer one is on
    the disk. Files with other names are never touched.
    A checkpoint is a dict with at least `step` (int, from 0) and `metrics` (dict of str to number).

    A new best is written once: where the file system has hard links, `step_…` is a second name of `best_…`. Damage to
    one is damage to both, so with keep_last=1, where no step before it is kept, it is written twice.
    mirror: a folder in a place that outlives this machine, such as a mounted Drive. Its parent must exist: what is not
    mounted is not made. Trouble with it warns and never stops a training; the next save copies what is missing.
    background: `save` returns once the tensors are copied in memory, and a thread does the writing. A checkpoint is
    safe once `wait` has returned. An error surfaces at the next `save`, `check` or `wait`, or when the program ends.
    """

    def __init__(
        self,
        folder: str | Path,
        metric: str = "val_loss",
        mode: str | None = None,
        keep_last: int = 2,
        keep_best: int = 1,
        mirror: str | Path | None = None,
        background: bool = False,
    ):
        if min(keep_last, keep_best) < 1:
            raise ValueError(f"keep_last is {keep_last}, keep_best is {keep_best}; at least 1 of each must stay.")
        self.folder = Path(folder).expanduser()
        self.metric, self.mode = metric, mode_of(metric, mode)
        self.keep_last, self.keep_best, self.background = keep_last, keep_best, background
        self.mirror = Path(mirror).expanduser() if mirror else None
        self._mirror = Mirror(self.mirror) if mirror else None
        self._best_pattern = best_pattern(metric)
        self._prepared = False
        self.loaded_from: str | None = None  # the name of the file that `latest` or `best` gave last
        self._newest: int | None = None  # the step that a save of this training must not come before
        self._thread = ThreadPoolExecutor(1) if background else None
        self._writing: list[Future] = []  # at most one
        self._snapshot = Snapshot()
        weakref.finalize(self, _last_word, self._writing)

    def is_better(self, value: float, than: float | None) -> bool:
        """Is this value of the metric better than that one (None: there is none yet)? NaN never is."""
        if value != value:
            return False
        return than is None or (value < than if self.mode == "min" else value > than)

    def last_paths(self, place: Path | None = None) -> list[Path]:
        """The last checkpoints, newest first, in the folder or in `place`. Raises CheckpointError."""
        return self._last(self._files(place or self.folder))

    def best_paths(self, place: Path | None = None) -> list[Path]:
        """The best checkpoints, best first; of equal ones the earlier. Raises CheckpointError."""
        return self._best(self._files(place or self.folder))

    def save(self, checkpoint: dict, new_metrics: bool = False) -> None:
        """Save as the last; with `new_metrics` (after an epoch, say) also among the best, if it belongs there.

        Raises ValueError for a checkpoint without a step or without the metric; CheckpointError when it cannot be
        written, when its step does not come after those in the folder (they belong to another training then), or when
        the background save before it could not be written.
        """
        self.wait()
        step = _checked_step(checkpoint)
        value = _checked_value(checkpoint, self.metric) if new_metrics else None
        if not self._prepared:  # a folder that vanishes later is an error to report, not one to make anew
            self.make()
            self.prepare()
        self._refuse_what_is_behind(step)
        best = best_name(step, self.metric, value) if new_metrics else None
        if best and not self._is_among_the_best(value, best):
            best = None
        names = [name for name in (best, step_name(step)) if name]
        if self._thread:
            copy = self._snapshot.copy(checkpoint, self._thread)
            self._writing.append(self._thread.submit(self._write, copy, names))
        else:
            self._write(checkpoint, names)

    def check(self) -> None:
        """Raise the error of a background save that has failed; cheap, for every step."""
        if self._writing and self._writing[0].done():
            self.wait()

    def wait(self) -> None:
        """Return when everything that was saved is on the disk. Raises CheckpointError when it could not be."""
        if self._writing:
            self._writing.pop().result()

    def is_empty(self) -> bool:
        """Is there no checkpoint, good or damaged, in folder and mirror? Raises CheckpointError."""
        return not any(is_ours(path) for path in [*self._files(self.folder), *self._mirrored()])

    def latest(self) -> dict | None:
        """The newest good checkpoint of folder and mirror, None if there never was one.

        One that is proven damaged is passed over with a warning and renamed to `….damaged`, so that it takes no good
        one's place. Raises CheckpointError when all are damaged, and when the newest is whole but cannot be used or
        read now: going on from nothing, or from something older, would throw work away silently.
        """
        here, mirrored = self._files(self.folder), self._mirrored(needed=True)
        paths = [path for files in (here, mirrored) for path in [*self._last(files), *self._best(files)]]
        checkpoint = self._first_good(sorted(paths, key=step_of, reverse=True), step_of)
        if checkpoint is None and not self.is_empty():
            raise CheckpointError(f"No checkpoint in {self.folder} can be used. Move them all away to start anew.")
        if checkpoint is not None:
            self._newest = checkpoint.get("step")
        return checkpoint

    def best(self) -> dict | None:
        """The best good checkpoint of folder and mirror, None if there is none; falls back as `latest` does."""
        paths = [path for files in (self._files(self.folder), self._mirrored()) for path in self._best(files)]
        return self._first_good(sorted(paths, key=value_of, reverse=self.mode == "max"), value_of)

    def make(self) -> None:
        """Make the folder if it is missing, and its name durable. Raises CheckpointError."""
        with explained(f"{self.folder} cannot hold checkpoints"):
            missing = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
            for folder in missing:
                fsync_folder(folder.parent)

    def prepare(self) -> None:
        """Clear away what a killed save left, and fetch the best from the mirror. Raises CheckpointError.

        No other process may save here meanwhile: `Training` locks the folder before.
        """
        files = self._files(self.folder)
        with explained(f"{self.folder} cannot hold checkpoints"):
            remove_leftovers(files)
            in_the_way = [path for path in self.folder.iterdir() if OURS.fullmatch(path.name) and path.is_dir()]
        if in_the_way:
            raise CheckpointError(f"{in_the_way[0]} is a folder with the name of a checkpoint. Move it away.")
        if self._mirror:
            best = [*self._best(files), *self._best(self._mirrored())]
            best = sorted(best, key=value_of, reverse=self.mode == "max")[: self.keep_best]
            self._mirror.copy_back(best, self.folder)
        self._prepared = True

    def _refuse_what_is_behind(self, step: int) -> None:
        newest = self._newest
        if newest is None:  # the first save, and nobody asked for `latest`
            newest = max(
                map(step_of, filter(is_whole_name, [*self._files(self.folder), *self._mirrored()])), default=-1
            )
            newest += 1
        if step < newest:
            raise CheckpointError(
                f"Step {step} does not come after the newest checkpoint in {self.folder}, which is of step {newest} or "
                f"later: of another training? Go on from it (`latest`), or use another folder."
            )
        self._newest = step

    def _files(self, place: Path) -> list[Path]:
        try:
            return listed(place)
        except OSError as error:
            raise CheckpointError(
                f"{place} cannot be listed ({error.strerror or error}), so nothing is known of what it holds. Look at "
                f"its disk and its permissions, then try again."
            ) from error

    def _mirrored(self, needed: bool = False) -> list[Path]:
        """The files of the mirror. needed: if it does not answer and nothing is here, that is an error."""
        try:
            return self._mirror.files() if self._mirror else []
        except OSError as error:
            if needed and not any(is_ours(path) for path in self._files(self.folder)):
                raise CheckpointError(
                    f"The mirror {self.mirror} does not answer ({error.strerror or error}), and {self.folder} "
                    f"has no checkpoint: is it mounted? To start anew without it, leave it out."
                ) from error
            self._mirror.warn("is not looked at", error)
            return []

    def _last(self, files: Iterable[Path]) -> list[Path]:
        return sorted((path for path in files if re.fullmatch(STEP, path.name)), key=step_of, reverse=True)

    def _best(self, files: Iterable[Path]) -> list[Path]:
        paths = [path for path in files if self._best_pattern.fullmatch(path.name)]
        return sorted(sorted(paths, key=step_of), key=value_of, reverse=self.mode == "max")

    def _first_good(self, paths: list[Path], rank: Callable[[Path], float]) -> dict | None:
        """Load the first that is good. Another copy of the same rank may stand in for one that cannot be used now."""
        trouble = rank_of_trouble = None
        for path in paths:
            if trouble and rank(path) != rank_of_trouble:
                break
            try:
                checkpoint = load_checkpoint(path)
                self.loaded_from = path.name if path.parent == self.folder else str(path)
                return checkpoint
            except DamagedCheckpoint as error:
                aside = set_aside(path)
                warnings.warn(
                    f"{error} It is set aside as {aside.name}. Falling back to the next good one.", stacklevel=3
                )
            except CheckpointError as error:
                warnings.warn(str(error), stacklevel=3)
                trouble, rank_of_trouble = error, rank(path)
        if trouble:
            raise CheckpointError(f"{trouble} To go on from the one before it, move it away.") from trouble
        return None

    def _is_among_the_best(self, value: float, name: str) -> bool:
        others = [value_of(path) for path in self.best_paths() if path.name != name]
        return value == value and sum(not self.is_better(value, other) for other in others) < self.keep_best

    def _write(self, checkpoint: dict, names: list[str]) -> None:
        """The best first: killed between the two, the step is repeated and both are written again."""
        first, last = self.folder / names[0], self.folder / names[-1]
        save_checkpoint(checkpoint, first, second_name=last if first != last and self.keep_last > 1 else None)
        with explained(f"{last} was not saved, and the checkpoints so far are untouched"):
            both_there = are_one_file(first, last)
        if not both_there:
            save_checkpoint(checkpoint, last)
        with explained(f"{names[-1]} is saved in {self.folder}, but the oldest is not removed"):
            self._prune(self.folder, names)
        if self._mirror:
            kept = [*self.best_paths(), *self.last_paths()]
            self._mirror.update(kept, names, lambda: self._prune(self.mirror, names))

    def _prune(self, place: Path, just_saved: list[str]) -> None:
        files = listed(place)
        for path in [*self._last(files)[self.keep_last :], *self._best(files)[self.keep_best :]]:
            if path.name not in just_saved:
                remove(path)
        remove_leftovers(files)


def _checked_step(checkpoint: dict) -> int:
    try:
        step = operator.index(checkpoint["step"])
    except (KeyError, TypeError):
        step = -1
    if step < 0:
        raise ValueError(
            f"checkpoint['step'] is {checkpoint.get('step')!r}; it must be a whole number from 0 on: how many steps "
            f"are done."
        )
    return step


def _checked_value(checkpoint: dict, metric: str) -> float:
    metrics = checkpoint.get("metrics", {})
    if metric not in metrics:
        raise ValueError(
            f"There is no {metric!r} in checkpoint['metrics'], which has {', '.join(map(repr, metrics)) or 'nothing'}. "
            f"Store it there, or name another metric."
        )
    return float(metrics[metric])


def _last_word(writing: list[Future]) -> None:
    """Nobody waited for a background save: its error is said when the program ends."""
    if writing and (error := writing[0].exception()):
        print(f"A background save failed, and nobody waited for it. {error}", file=sys.stderr)
