"""How long a durable save, a verified load and a background save take, against the plain ways. `make benchmark`.

A checkpoint is 20 equal tensors of random float32 numbers: no page of it is all zeros, which would be cheaper to
store. Every variant runs once per round, in one process, after `os.sync`, in turn forwards and backwards. Each ratio is
that of the lower quartiles; the one of the medians stands behind it. What else the machine and its host do makes many
runs slower, and the cache of a disk makes a few of them faster by luck: a quarter of the runs is faster than the lower
quartile, so neither decides. What a variant made (file, tensors) is gone before the next one starts, and every tensor
gets new memory from the system, as in a process that has just started to resume: it would be luck otherwise which load
finds the memory of the one before, faster to fill.
Memory that lies free for some seconds goes back to the host of a virtual machine, and its next use costs up to five
times as much. So before each run, more memory than it needs is used and freed.

- durable save: `save_checkpoint` against `open`, `write` of as many random bytes, `flush`, `os.fsync`, both to a new
  file. `torch.save` without fsync is shown for orientation: its bytes are still in memory when it returns.
- epoch that is the best so far: `CheckpointFolder.save(…, new_metrics=True)` of a next step with a better metric: the
  file gets two names, and the best one before it goes; against the same write and fsync.
- verified load: `load_checkpoint` against `torch.load(weights_only=True)`, of a file that is in the page cache, and of
  one whose pages were dropped, so that it is read from the disk.
- background save: how long `CheckpointFolder(background=True).save` holds the training up, against the durable save in
  the foreground. Not the first save, which also gets the memory for the copy; `wait` is outside of the timing.

It prints one Markdown table and always exits with 0: speed depends on the disk, so nothing is asserted.
Usage: python benchmarks/checkpoints.py [FOLDER], where the files of about 4 GB go (default: the current folder).
"""

import ctypes
import os
import sys
import tempfile
import time
from pathlib import Path
from statistics import median, quantiles

import numpy as np
import torch

from course_utils.checkpoints import CheckpointFolder, load_checkpoint, save_checkpoint

ROUNDS = {10: 31, 100: 21, 400: 11, 1000: 9}  # megabytes: how often each variant runs
TENSORS = 20
RATIOS = {  # heading: (measured, against, target)
    "durable save / write+fsync": ("durable save", "write+fsync", 1.3),
    "epoch that is the best / write+fsync": ("epoch that is the best", "write+fsync", 1.3),
    "verified / plain load, cached": ("load_checkpoint, cached", "torch.load, cached", 2),
    "verified / plain load, from disk": ("load_checkpoint, from disk", "torch.load, from disk", 1.3),
    "background / durable save": ("background save", "durable save", 0.15),
}


def always_take_new_memory() -> None:
    """Have `malloc` give back what is freed, from 64 kB on (Linux; elsewhere nothing happens).

    Source: https://man7.org/linux/man-pages/man3/mallopt.3.html
    """
    if sys.platform == "linux":
        m_mmap_threshold = -3
        ctypes.CDLL(None).mallopt(m_mmap_threshold, 2**16)


def seconds(action, megabytes: int) -> float:
    """How long `action` takes, which needs less than three times `megabytes`. What it returns is freed at once."""
    os.sync()
    np.ones(3 * megabytes * 10**6, dtype=np.uint8)  # used and freed
    start = time.perf_counter()
    result = action()
    stop = time.perf_counter()
    del result
    return stop - start


def write_and_fsync(content: memoryview, path: Path) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def drop_from_memory(path: Path) -> None:
    """The next read of a file that is on the disk comes from there (Linux; elsewhere nothing happens)."""
    if hasattr(os, "posix_fadvise"):
        with open(path, "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def measure(megabytes: int, place: Path) -> dict[str, list[float]]:
    """Milliseconds of each run of each variant."""
    numbers = torch.randn(megabytes * 10**6 // 4 // TENSORS * TENSORS)
    content = memoryview(numbers.numpy()).cast("B")
    tensors = {f"tensor {i}": part.clone() for i, part in enumerate(numbers.chunk(TENSORS))}
    checkpoint = {"step": 1, "metrics": {}, "tensors": tensors}
    file, new = place / "loaded.pt", place / "new.pt"
    save_checkpoint(checkpoint, file)
    folder = CheckpointFolder(place / "background", keep_last=1, background=True)
    folder.save(checkpoint)
    folder.wait()
    epochs, numbers = CheckpointFolder(place / "epochs"), iter(range(1, 1000))

    def save_a_better_epoch() -> None:
        number = next(numbers)
        epochs.save({**checkpoint, "step": number, "metrics": {"val_loss": 1 / number}}, new_metrics=True)

    save_a_better_epoch()
    variants = {
        "write+fsync": lambda: write_and_fsync(content, new),
        "durable save": lambda: save_checkpoint(checkpoint, new),
        "epoch that is the best": save_a_better_epoch,
        "torch.save, no fsync": lambda: torch.save(checkpoint, new),
        "background save": lambda: folder.save(checkpoint),
        "torch.load, cached": lambda: torch.load(file, weights_only=True),
        "load_checkpoint, cached": lambda: load_checkpoint(file),
        "torch.load, from disk": lambda: torch.load(file, weights_only=True),
        "load_checkpoint, from disk": lambda: load_checkpoint(file),
    }
    times = {name: [] for name in variants}
    for number in range(ROUNDS[megabytes]):
        for name in reversed(variants) if number % 2 else variants:
            if name.endswith("cached"):
                file.read_bytes()
            if name.endswith("from disk"):
                drop_from_memory(file)
            times[name].append(1000 * seconds(variants[name], megabytes))
            folder.wait()
            new.unlink(missing_ok=True)
    return times


def lower_quartile(values: list[float]) -> float:
    return quantiles(values, n=4)[0]


def row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def main() -> None:
    always_take_new_memory()
    place = sys.argv[1] if len(sys.argv) > 1 else "."
    headings = [f"{heading} (target ≤ {target}), lower quartile / median" for heading, (_, _, target) in RATIOS.items()]
    for megabytes in ROUNDS:
        with tempfile.TemporaryDirectory(dir=place, prefix="benchmark-") as made:
            times = measure(megabytes, Path(made))
        if megabytes == min(ROUNDS):
            print(row(["size", *headings, *(f"{name}, ms" for name in times)]))
            print(row(["---:"] * (1 + len(headings) + len(times))))
        ratios = [
            " / ".join(f"{of(times[measured]) / of(times[against]):.2f}" for of in (lower_quartile, median))
            for measured, against, _ in RATIOS.values()
        ]
        milliseconds = [f"{lower_quartile(values):.1f}" for values in times.values()]
        print(row([f"{megabytes} MB", *ratios, *milliseconds]), flush=True)


if __name__ == "__main__":
    main()
