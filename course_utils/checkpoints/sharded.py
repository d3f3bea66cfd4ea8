"""Checkpoints too large for one process: each writes its shards, and a manifest has the last word. Source: notebook 09.

`torch.distributed.checkpoint` (DCP) writes and reads the shards. Around it stands what it leaves to its user: a folder
that appears whole or not at all, a check of every byte before anything is unpickled, the last and the best, a mirror.
"""

import operator
import os
import re
import shutil
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from torch import distributed
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException

from .durable import CheckpointError, copy_compared, explained, fsync_folder
from .files import CURE, DamagedCheckpoint
from .manifest import damage, notes, read_manifest, write_manifest
from .names import mode_of, set_aside
from .processes import Processes

STEP = re.compile(r"step_(\d{8}|[1-9]\d{8,})")
HALF = re.compile(STEP.pattern + r"\.(part|old)")  # of a killed save; of a killed removal


class ShardedFolder:
    """A folder `step_00000042` for each checkpoint: the last `keep_last` of them, and the best `keep_best` by `metric`.

    Every process makes one, and calls the same methods in the same order. In each: DCP's files, which all processes
    write, and `manifest.json`, which process 0 writes last, with the size and the SHA-256 of each of them. Written as
    `step_00000042.part`, flushed, then renamed: what has its name is whole. The folder is one that all processes see,
    and one training's: nothing locks it.
    A manifest finds damage, and files put in the place of others. Whoever may rewrite the whole folder can write a
    manifest as well: load only what comes from people whom you trust, because DCP unpickles.
    mirror: as of `CheckpointFolder`. Without `torch.distributed.init_process_group` it is one process's.
    """

    def __init__(
        self,
        folder: str | Path,
        metric: str = "val_loss",
        mode: str | None = None,
        keep_last: int = 2,
        keep_best: int = 1,
        mirror: str | Path | None = None,
    ):
        if min(keep_last, keep_best) < 1:
            raise ValueError(f"keep_last is {keep_last}, keep_best is {keep_best}; at least 1 of each must stay.")
        self.folder, self.mirror = Path(folder).expanduser(), mirror and Path(mirror).expanduser()
        self.metric, self.mode = metric, mode_of(metric, mode)
        self.keep_last, self.keep_best = keep_last, keep_best
        self._processes = Processes()
        several = self._processes.count > 1
        group = distributed.new_group(backend="gloo") if several else None  # DCP's thread has one of its own
        self._dcp = {"process_group": group, "no_dist": not several}
        self._pending: tuple | None = None

    def save(self, state: dict, step: int, metrics: dict | None = None) -> None:
        """Save what DCP takes: {name: tensor, plain value, dict of these, or object with `state_dict`}.

        step: int from 0, after those that are there. metrics: {name: number}; the metric among them tells the best.
        Returns when it is on the disk. Raises CheckpointError, in every process, when it could not be written.
        """
        self.wait()
        part = self._begin(step, metrics)
        with self._what_dcp_raises(part):
            dcp.save(state, storage_writer=_Writer(part), **self._dcp)
        self._finish(part, step, metrics or {})

    def async_save(self, state: dict, step: int, metrics: dict | None = None) -> None:
        """Copy the state in memory and return; a thread writes. It is a checkpoint once `wait` or a later save has
        returned, and their error is that of this save."""
        self.wait()
        part = self._begin(step, metrics)
        with self._what_dcp_raises(part):
            future = dcp.async_save(state, storage_writer=_Writer(part), **self._dcp)
        self._pending = future, part, step, metrics or {}

    def wait(self) -> None:
        """Finish the save in the background, if there is one. Raises CheckpointError when it could not be written."""
        if self._pending:
            (future, part, *rest), self._pending = self._pending, None
            with self._what_dcp_raises(part):
                future.result()
            self._finish(part, *rest)

    def load(self, state: dict) -> dict | None:
        """Put the newest good checkpoint of folder and mirror into `state`, of any number of processes; returns
        {"step": int, "metrics": dict}, and None if there never was one.

        Every byte is compared with the manifest before DCP reads. A damaged checkpoint is passed over with a warning
        and set aside as `step_….damaged`. Raises CheckpointError, in every process, when all are damaged, when the
        newest cannot be read now, and when it does not fit the state.
        """
        self.wait()
        return self._load(state, lambda: self._steps(self.folder) + self._steps(self.mirror), _step_of)

    def load_best(self, state: dict) -> dict | None:
        """As `load`, of the best by the metric."""
        self.wait()
        return self._load(state, lambda: self._best(self.folder) + self._best(self.mirror), self._rank)

    def _load(self, state: dict, paths: Callable[[], list[Path]], rank: Callable[[Path], float]) -> dict | None:
        paths = self._processes.by_first(lambda: sorted(paths(), key=rank, reverse=True))
        for path in paths:
            try:
                manifest = self._checked(path)
            except DamagedCheckpoint as error:
                self._processes.by_first(lambda path=path, error=error: _warn_and_set_aside(path, error))
                continue
            try:
                with _quiet():
                    dcp.load(state, checkpoint_id=path, **self._dcp)
            except CheckpointException as error:
                first = next(iter(error.failures.values()))[0]
                raise CheckpointError(f"{path} is whole and does not fit what it is loaded into: {first}") from error
            return {"step": manifest["step"], "metrics": manifest["metrics"]}
        if paths or self._processes.by_first(lambda: any(self.folder.glob("step_*.damaged*"))):
            raise CheckpointError(f"No checkpoint in {self.folder} can be used. Move them all away to start anew.")
        return None

    def _checked(self, path: Path) -> dict:
        """The manifest, when every file is as it says; each process reads some. Raises CheckpointError."""
        manifest = self._processes.by_first(lambda: read_manifest(path))
        mine = sorted(manifest["files"])[self._processes.number :: self._processes.count]
        found = self._processes.by_all(lambda: [damage(path / name, manifest["files"][name]) for name in mine])
        if trouble := [text for texts in found for text in texts if text]:
            raise DamagedCheckpoint(f"{path} is not as it was saved: {', '.join(sorted(trouble))}. {CURE}")
        return manifest

    def _begin(self, step: int, metrics: dict | None) -> Path:
        if operator.index(step) < 0 or (metrics and self.metric not in metrics):
            raise ValueError(f"Give a step from 0 on, and {self.metric!r} in the metrics, if any: {step}, {metrics}.")
        part = self.folder / f"step_{step:08d}.part"
        self._processes.by_first(lambda: self._make_room(part, step))
        return part

    def _make_room(self, part: Path, step: int) -> None:
        with explained(f"{part} was not saved, and the checkpoints so far are untouched"):
            missing = [folder for folder in (self.folder, *self.folder.parents) if not folder.exists()]
            self.folder.mkdir(parents=True, exist_ok=True)
            for folder in missing:
                fsync_folder(folder.parent)
            _remove_halves(self.folder)
            newest = max(map(_step_of, self._steps(self.folder)), default=-1)
            if step <= newest:
                raise CheckpointError(
                    f"Step {step} does not come after the newest checkpoint in {self.folder}, which is of step "
                    f"{newest}: of another training? Go on from it (`load`), or use another folder."
                )
            part.mkdir()

    def _finish(self, part: Path, step: int, metrics: dict) -> None:
        """All files are written: each process notes its own, process 0 the rest, and gives the name."""
        with self._what_dcp_raises(part):
            of_all = self._processes.by_all(lambda: notes(part, f"__{self._processes.number}_"))
            self._processes.by_first(lambda: self._give_name(part, step, metrics, of_all))

    def _give_name(self, part: Path, step: int, metrics: dict, of_all: list[dict]) -> None:
        files = notes(part, ".metadata") | {name: note for one in of_all for name, note in one.items()}
        if others := {path.name for path in part.iterdir()} ^ files.keys():
            raise CheckpointError(f"{part} was not saved: files of nobody, or unseen by process 0: {sorted(others)}.")
        write_manifest(part, {"step": step, "metrics": metrics, "processes": len(of_all), "files": files})
        path = part.with_suffix("")
        with explained(f"{path} was not saved, and the checkpoints so far are untouched"):
            os.replace(part, path)
            fsync_folder(self.folder)
        with explained(f"{path} is saved, but the oldest is not removed"):
            self._prune(self.folder)
        if self.mirror:
            self._update_mirror()

    def _update_mirror(self) -> None:
        try:
            self.mirror.mkdir(exist_ok=True)
            _remove_halves(self.mirror)
            for path in self._steps(self.folder):
                if not (self.mirror / path.name).exists():
                    _copy(path, self.mirror / path.name)
            self._prune(self.mirror)
        except (OSError, CheckpointError) as error:
            warnings.warn(f"The mirror {self.mirror} has no copy of the newest: {error}", stacklevel=2)

    def _prune(self, place: Path) -> None:
        kept = [*self._steps(place)[: self.keep_last], *self._best(place)[: self.keep_best]]
        for path in self._steps(place):
            if path not in kept:
                old = path.rename(path.with_name(f"{path.name}.old"))  # no part of it may have a checkpoint's name
                shutil.rmtree(old)

    def _steps(self, place: Path | None) -> list[Path]:
        """The checkpoints of a place, newest first. Raises CheckpointError."""
        try:
            found = [Path(entry.path) for entry in os.scandir(place) if STEP.fullmatch(entry.name)] if place else []
        except FileNotFoundError:
            return []
        except OSError as error:
            raise CheckpointError(f"{place} cannot be listed ({error.strerror}). Look at its disk.") from error
        return sorted(found, key=_step_of, reverse=True)

    def _best(self, place: Path | None) -> list[Path]:
        """Those with the metric, best first; of equal ones the earlier."""
        ranked = [path for path in reversed(self._steps(place)) if self._rank(path) > float("-inf")]
        return sorted(ranked, key=self._rank, reverse=True)

    def _rank(self, path: Path) -> float:
        """Higher is better; minus infinity for one without the metric, or whose manifest is damaged."""
        with suppress(CheckpointError):
            value = float(read_manifest(path)["metrics"].get(self.metric, "nan"))
            return float("-inf") if value != value else -value if self.mode == "min" else value
        return float("-inf")

    @contextmanager
    def _what_dcp_raises(self, part: Path) -> Iterator[None]:
        """A failed save leaves nothing; its error is a CheckpointError, as far as it can be one."""
        failure = None
        try:
            with _quiet():
                yield
        except CheckpointException as error:  # no Exception, and it holds those of all processes
            failures = [one for one, _ in error.failures.values()]
            failure = next((one for one in failures if isinstance(one, CheckpointError)), failures[0])
            raise failure from error
        except BaseException as error:
            failure = error
            raise
        finally:
            if failure and self._processes.is_first:
                shutil.rmtree(part, ignore_errors=True)


class _Writer(dcp.FileSystemWriter):
    """DCP's, whose errors say what is wrong with the disk: sent to other processes, they would lose their cause."""

    def __init__(self, part: Path):
        super().__init__(part, sync_files=True, overwrite=False)
        self._what = f"{part} was not saved, and the checkpoints so far are untouched"

    def write_data(self, plan, planner):
        with explained(self._what):
            return super().write_data(plan, planner)

    def finish(self, metadata, results) -> None:
        with explained(self._what):
            super().finish(metadata, results)


@contextmanager
def _quiet() -> Iterator[None]:
    """One process is what is meant, where there is one."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield


def _step_of(path: Path) -> int:
    return int(STEP.match(path.name)[1])


def _remove_halves(place: Path) -> None:
    for path in list(place.iterdir()):
        if HALF.fullmatch(path.name):
            shutil.rmtree(path)


def _copy(path: Path, target: Path) -> None:
    """Compared byte for byte before it gets its name."""
    part = target.with_name(f"{target.name}.part")
    part.mkdir()
    for file in path.iterdir():
        copy_compared(file, part / file.name)
    part.rename(target)
    fsync_folder(target.parent)


def _warn_and_set_aside(path: Path, error: DamagedCheckpoint) -> None:
    aside = set_aside(path)
    warnings.warn(f"{error} It is set aside as {aside.name}. Falling back to the next good one.", stacklevel=5)
