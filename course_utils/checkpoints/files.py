"""Save whole or not at all, load with every byte checked and no code run. Source: notebooks 02 and 03."""

import hashlib
import os
import zipfile
import zlib
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import torch

from .durable import CheckpointError, whole_or_absent


def save_checkpoint(checkpoint: dict, path: str | Path) -> Path:
    """Write `checkpoint` to `path` whole or not at all; when this returns, it is on the disk.

    Raises CheckpointError when the disk is full, when the folder is missing or read-only, and when a value is neither
    a tensor nor a plain Python object, because `load_checkpoint` would refuse the file. An older file of that name
    stays as it is then. Source: notebook 03, section "A save that dies half-way".
    """
    path = Path(path)
    with whole_or_absent(path) as file:
        torch.save(checkpoint, file)
        file.flush()
        if refused := torch.serialization.get_unsafe_globals_in_checkpoint(file.name):
            raise CheckpointError(
                f"{path} was not saved: it would hold {', '.join(sorted(refused))}, which no safe load accepts. "
                f"Store tensors and plain Python values: `.item()` of a NumPy number, `str()` of a path."
            )
    return path


def load_checkpoint(path: str | Path) -> dict:
    """Read a checkpoint onto the CPU, check every byte of it, and run no code from it.

    `torch.load` does not look at the CRC-32 that `torch.save` wrote for each record, so a flipped bit in a tensor
    loads silently. Here the bytes in memory are checked, those that you get. From the CPU, `load_state_dict` copies
    to where the model is.
    Raises CheckpointError for a missing, empty, truncated, damaged or foreign file, and for one that holds more than
    tensors and plain Python objects. Source: notebook 02, section "Damaged files".
    """
    path = Path(path)
    cure = "Use an older checkpoint, or copy the file again."
    try:
        file = open(path, "rb", buffering=0)
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist. Look at the path, or train first.") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}. {cure}") from error
    with file, ThreadPoolExecutor(1) as pool:
        if not os.fstat(file.fileno()).st_size:
            raise CheckpointError(f"{path} is empty: a save was interrupted. {cure}")
        try:
            expected = _checksums_of_tensors(file)
        except Exception as error:  # zipfile answers damage with many kinds: BadZipFile, EOFError, OSError, …
            raise CheckpointError(
                f"{path} is not a whole checkpoint ({error}): it was cut off, damaged, or is another kind of file. "
                f"{cure}"
            ) from error
        checksums = _Checksums(pool)
        try:
            file.seek(0)
            checkpoint = torch.load(file, map_location=checksums.add, weights_only=True)
        except Exception as error:  # pickle's errors have no common class
            raise CheckpointError(
                f"torch.load refuses {path} with weights_only=True: it holds more than tensors and plain values, or it "
                f"was not written by torch.save. Do not load it in another way unless you trust its maker."
            ) from error
        if checksums.result() != expected:
            raise CheckpointError(f"{path} is damaged: its tensors do not match their CRC-32. {cure}")
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{path} holds a {type(checkpoint).__name__}, and a checkpoint is a dict. {cure}")
    return checkpoint


def _checksums_of_tensors(file) -> Counter:
    """How often each CRC-32 is listed for a tensor's bytes. The other records are read here, which checks them."""
    with zipfile.ZipFile(file) as archive:
        tensors = {record for record in archive.namelist() if record.split("/")[1:2] == ["data"]}
        for record in set(archive.namelist()) - tensors:
            archive.read(record)
        return Counter(archive.getinfo(record).CRC for record in tensors)


class _Checksums:
    """Counts the CRC-32 of storages as they are read. A thread computes them while the next ones are read.

    It gets some megabytes at a time: to be woken for each storage would cost more than it does.
    """

    HANDED_OVER = 4 * 10**6  # bytes

    def __init__(self, pool: ThreadPoolExecutor):
        self.pool = pool
        self.waiting, self.size = [], 0
        self.counts: list[Future] = []

    def add(self, storage: torch.UntypedStorage, _) -> torch.UntypedStorage:
        self.waiting.append(storage)
        self.size += storage.nbytes()
        if self.size >= self.HANDED_OVER:
            self.counts.append(self.pool.submit(_count, self.waiting))
            self.waiting, self.size = [], 0
        return storage

    def result(self) -> Counter:
        return sum((count.result() for count in self.counts), _count(self.waiting))


def _count(storages: list[torch.UntypedStorage]) -> Counter:
    return Counter(zlib.crc32(torch.empty(0, dtype=torch.uint8).set_(storage).numpy()) for storage in storages)


def weights_sha256(state_dict: dict[str, torch.Tensor]) -> str:
    """SHA-256 (hex) over the bytes of all tensors, in the order of the sorted keys: equal only if every bit is."""
    digest = hashlib.sha256()
    for key in sorted(state_dict):
        tensor = state_dict[key].detach().cpu().contiguous()
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()
