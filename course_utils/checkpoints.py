"""Save atomically, verify, load safely, keep the best and the latest, fall back. Source: notebook 03."""

import hashlib
import io
import os
import random
import shutil
import warnings
import zipfile
from pathlib import Path

import numpy as np
import torch


class CheckpointError(Exception):
    """A checkpoint that cannot be used: the message names the file, what is wrong, and what to do."""


def save_checkpoint(checkpoint: dict, path: str | Path) -> Path:
    """Write `checkpoint` to `path` whole or not at all; when this returns, it is on the disk.

    Written aside in the same folder, flushed to the disk, renamed: `os.replace` is atomic within one file system, so
    an interruption leaves the old file or the new one, never a part. Values must be tensors and plain Python
    objects, or `load_checkpoint` refuses the file.
    Source: https://docs.python.org/3/library/os.html#os.replace, https://man7.org/linux/man-pages/man2/fsync.2.html
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(path.name + ".part")
    try:
        with open(aside, "wb") as file:
            torch.save(checkpoint, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    _fsync_folder(path.parent)
    return path


def _fsync_folder(folder: Path) -> None:
    """Make a rename durable: the name of a file is data of its folder. Windows has no such call and needs none."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def load_checkpoint(path: str | Path, map_location: str | torch.device = "cpu") -> dict:
    """Read a checkpoint after every byte of it was checked, without running code from it.

    `torch.load` does not look at the CRC-32 that `torch.save` wrote for each record, so a flipped bit in a tensor
    loads silently. The file is read once; the check and the load both work on those bytes.
    Raises CheckpointError for a missing, empty, truncated, damaged or foreign file, and for one that holds more than
    tensors and plain Python objects. Source: notebook 02, section "Damaged files".
    """
    path = Path(path)
    try:
        content = io.BytesIO(path.read_bytes())
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist. Look at the path, or train first.") from None
    _check_bytes(content, path)
    try:
        return torch.load(content, map_location=map_location, weights_only=True)
    except Exception as error:  # pickle's errors have no common class
        raise CheckpointError(
            f"{path} is whole, but torch.load refuses it with weights_only=True: it holds more than tensors and plain "
            f"Python objects, or it was not written by torch.save. Do not load it unless you trust who made it."
        ) from error


def verify(path: str | Path) -> None:
    """Check every byte of a file that `torch.save` wrote. Raises CheckpointError, FileNotFoundError."""
    _check_bytes(io.BytesIO(Path(path).read_bytes()), Path(path))


def _check_bytes(content: io.BytesIO, path: Path) -> None:
    cure = "Use an older checkpoint, or copy the file again."
    if not content.getbuffer().nbytes:
        raise CheckpointError(f"{path} is empty: a save was interrupted. {cure}")
    try:
        with zipfile.ZipFile(content) as archive:
            damaged = archive.testzip()
    except Exception as error:  # zipfile answers damage with many kinds: BadZipFile, EOFError, NotImplementedError, …
        raise CheckpointError(
            f"{path} is not a whole checkpoint ({error}): it was cut off, damaged, or is another kind of file. {cure}"
        ) from error
    if damaged:
        raise CheckpointError(f"{path} is damaged: the bytes of {damaged} do not match their CRC-32. {cure}")
    content.seek(0)


def copy_verified(path: str | Path, folder: str | Path) -> Path:
    """Copy a checkpoint into `folder` (a mounted Drive, say), check the copy, then give it its name.

    Raises CheckpointError when the copy is not whole; an older file of that name stays as it is until then.
    """
    path, folder = Path(path), Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / (path.name + ".part")
    try:
        shutil.copyfile(path, aside)
        verify(aside)
        os.replace(aside, folder / path.name)
    except BaseException:
        aside.unlink(missing_ok=True)
        raise
    return folder / path.name


def rng_state() -> dict:
    """The random number generators that a training consumes, as tensors and plain Python objects."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [name, keys.tolist(), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),  # one tensor a GPU; an empty list without one
    }


def restore_rng(state: dict) -> None:
    """Put the generators back to what `rng_state` returned. GPUs that are not there any more are passed over."""
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"].cpu())
    if len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])


def weights_sha256(state_dict: dict[str, torch.Tensor]) -> str:
    """SHA-256 (hex) over the bytes of all tensors, in the order of the sorted keys: equal only if every bit is."""
    digest = hashlib.sha256()
    for key in sorted(state_dict):
        tensor = state_dict[key].detach().cpu().contiguous()
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class CheckpointFolder:
    """A folder that keeps the last checkpoints, `step_00000042.pt`, and the best one, `best.pt`.

    metric: a number in each checkpoint's `metrics`; mode: "min" or "max" is better; keep: how many of the last stay.
    A checkpoint is a dict with at least `step` (int) and `metrics` (dict of str to number).
    """

    def __init__(self, folder: str | Path, metric: str = "val_loss", mode: str = "min", keep: int = 2):
        if mode not in ("min", "max"):
            raise ValueError(f"mode is {mode!r}; say 'min' when a lower {metric} is better, else 'max'.")
        if keep < 1:
            raise ValueError(f"keep is {keep}; at least 1 checkpoint must stay.")
        self.folder = Path(folder)
        self.metric = metric
        self.mode = mode
        self.keep = keep
        for leftover in self.folder.glob("*.pt.part"):  # from a save that was killed
            leftover.unlink()

    def paths(self) -> list[Path]:
        """The step checkpoints, newest first."""
        return sorted(self.folder.glob("step_*.pt"), reverse=True)

    def is_better(self, value: float, than: float | None) -> bool:
        """Is this value of the metric better than that one (None: there is none yet)? NaN never is."""
        if value != value:
            return False
        return than is None or (value < than if self.mode == "min" else value > than)

    def save(self, checkpoint: dict) -> Path:
        """Save as the latest; the oldest beyond `keep` go only after the new one is on the disk."""
        path = save_checkpoint(checkpoint, self.folder / f"step_{checkpoint['step']:08d}.pt")
        for old in self.paths()[self.keep :]:
            old.unlink()
        return path

    def save_best(self, checkpoint: dict) -> Path:
        """Save as the best so far, whatever `is_better` says: the one who trains decides, and asks it."""
        return save_checkpoint(checkpoint, self.folder / "best.pt")

    def latest(self) -> dict | None:
        """The newest good checkpoint, None if there never was one.

        A damaged one is passed over with a warning; raises CheckpointError when all are damaged, because going on
        from nothing would throw a training away silently.
        """
        paths = self.paths()
        for path in paths:
            try:
                return load_checkpoint(path)
            except CheckpointError as error:
                warnings.warn(f"{error} Falling back to the one before it.", stacklevel=2)
        if paths:
            raise CheckpointError(
                f"None of the {len(paths)} checkpoints in {self.folder} can be used. Move them away to start anew."
            )
        return None

    def best(self) -> dict | None:
        """The best checkpoint, None if there is none yet. Raises CheckpointError when it is damaged."""
        path = self.folder / "best.pt"
        return load_checkpoint(path) if path.exists() else None
