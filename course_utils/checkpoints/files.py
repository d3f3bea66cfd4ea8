"""Save whole or not at all, load with every byte checked and no code run. Source: notebooks 02 and 04."""

import hashlib
import io
import os
import pickle
import re
import zipfile
import zlib
from collections import Counter
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import BinaryIO

import torch

from .durable import CheckpointError, whole_or_absent

CURE = "Use an older checkpoint, or copy the file again."
BEFORE_1_6 = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)  # how torch.save began a file before PyTorch 1.6


class DamagedCheckpoint(CheckpointError):
    """A file whose bytes are not those of a whole checkpoint, seen at two reads of it without an error of the disk."""


def save_checkpoint(checkpoint: dict, path: str | Path, second_name: Path | None = None) -> Path:
    """Write `checkpoint` to `path` whole or not at all; when this returns, it is on the disk.

    second_name: another name for the same file, in the same folder, where the file system has hard links.

    Raises CheckpointError when the disk is full, when the folder is missing or read-only, and when a value is neither
    a tensor nor a plain Python object, because `load_checkpoint` would refuse the file. An older file of that name
    stays as it is then. Source: notebook 04, section "A save that dies half-way".
    """
    path = Path(path)
    with whole_or_absent(path, second_name) as file:
        write(checkpoint, file)
        file.flush()
        with open(file.name, "rb") as written:
            check_loadable(written, checkpoint, path)
    return path


def write(checkpoint: dict, file: BinaryIO) -> None:
    """`torch.save` with a CRC-32 for each record, whatever `torch.serialization.set_crc32_options` says."""
    crc32 = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(True)
    try:
        torch.save(checkpoint, file)
    except (pickle.PicklingError, AttributeError, TypeError, RecursionError, ValueError) as error:
        raise CheckpointError(_refusal(checkpoint, str(error))) from error
    finally:
        torch.serialization.set_crc32_options(crc32)


def check_loadable(file: BinaryIO, checkpoint: dict, path: Path) -> None:
    """Raise CheckpointError if a safe load would refuse this file, which holds `checkpoint`. No tensor is read."""
    try:
        refused = torch.serialization.get_unsafe_globals_in_checkpoint(file)
    except pickle.UnpicklingError as error:  # a number that is too long, say
        refused = [str(error)]
    if refused:
        raise CheckpointError(f"{path} was not saved: {_refusal(checkpoint, ', '.join(sorted(refused)))}")


def _refusal(checkpoint: dict, reason: str) -> str:
    places = list(_refused(checkpoint, "checkpoint"))
    where = ", ".join(places[:5]) or f"it holds {reason}"
    return (
        f"{where} cannot be saved so that a safe load accepts it. Store tensors and plain Python values: `.item()` of "
        f"a NumPy number, `str()` of a path, and no functions."
    )


def _refused(value, name: str, depth: int = 0):
    """The places of the values that cannot be saved and loaded safely, and what stands there."""
    if depth > 100:
        yield f"{name[:60]}… (nested more than 100 deep)"
    elif type(value) in (dict, list, tuple):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from _refused(item, f"{name}[{key!r}]", depth + 1)
    elif not isinstance(value, torch.Tensor):
        file = io.BytesIO()
        try:
            torch.save(value, file)
            file.seek(0)
            torch.load(file, weights_only=True, mmap=False)
        except Exception:  # pickle's errors have no common class
            yield f"{name} (a {type(value).__name__})"


def load_checkpoint(path: str | Path) -> dict:
    """Read a checkpoint onto the CPU, check every byte of it, and run no code from it.

    `torch.load` does not look at the CRC-32 that `torch.save` wrote for each record, so a flipped bit in a tensor
    loads silently. Here the bytes in memory are checked, those that you get. From the CPU, `load_state_dict` copies
    to where the model is.
    Raises DamagedCheckpoint, a CheckpointError, for a file that two reads found empty, truncated or damaged; and
    CheckpointError for one that is missing, cannot be read, does not fit into memory, is another kind of file, or
    holds more than tensors and plain Python objects. Source: notebook 02, section "Damaged files".
    """
    path = Path(path)
    try:
        with open(path, "rb", buffering=0) as file:
            try:
                return _read(file, path)
            except (DamagedCheckpoint, OSError):
                _forget(file)
                return _read(file, path)  # what went wrong once, and not a second time, is no damage
    except FileNotFoundError:
        raise CheckpointError(f"{path} does not exist. Look at the path, or train first.") from None
    except IsADirectoryError:
        raise CheckpointError(f"{path} is a folder. Give the path of a file.") from None
    except MemoryError as error:
        raise CheckpointError(f"{path} does not fit into memory. Free some, or use a larger machine.") from error
    except OSError as error:
        raise CheckpointError(
            f"{path} cannot be read: {error.strerror or error}. The file itself may be whole: look at its disk and its "
            f"permissions, then try again."
        ) from error


def _read(file: BinaryIO, path: Path) -> dict:
    if not os.fstat(file.fileno()).st_size:
        raise DamagedCheckpoint(f"{path} is empty: a save was interrupted. {CURE}")
    file.seek(0)
    _tell_other_kinds(file.read(64), file, path)
    with ThreadPoolExecutor(1) as pool:
        try:
            expected = _checksums_of_tensors(file)
        except (MemoryError, CheckpointError):
            raise
        except Exception as error:  # zipfile answers damage with many kinds: BadZipFile, EOFError, OSError, …
            _read_every_byte(file)  # … and here the disk's own error comes alone
            raise DamagedCheckpoint(
                f"{path} is not a whole checkpoint ({error}): it was cut off or damaged. {CURE}"
            ) from error
        checksums = _Checksums(pool)
        try:
            file.seek(0)
            checkpoint = torch.load(file, map_location=checksums.add, weights_only=True, mmap=False)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # pickle's errors have no common class
            raise _what_torch_load_means(error, path) from error
        if checksums.result() != expected:
            raise DamagedCheckpoint(f"{path} is damaged: its tensors do not match their CRC-32. {CURE}")
    if not isinstance(checkpoint, dict):
        raise CheckpointError(f"{path} holds a {type(checkpoint).__name__}, and a checkpoint is a dict.")
    return checkpoint


def _tell_other_kinds(head: bytes, file: BinaryIO, path: Path) -> None:
    """Raise CheckpointError for a file that today's torch.save never wrote: it is not damaged, it is not ours."""
    if head.startswith(BEFORE_1_6[:12]):
        raise CheckpointError(
            f"{path} is in the format from before PyTorch 1.6, which has no checksums: load it with "
            f"`torch.load(path, weights_only=True)`, and save it again."
        )
    if head[:4] != b"PK\x03\x04"[: len(head)] and any(head) and not zipfile.is_zipfile(file):
        raise CheckpointError(f"{path} is another kind of file, not one that torch.save wrote.")


def _what_torch_load_means(error: Exception, path: Path) -> Exception:
    said = str(error)
    if "Unsupported operand 149" in said:
        return CheckpointError(
            f"{path} was saved with a pickle_protocol other than 2, which no safe load accepts: save it again without."
        )
    if isinstance(error, pickle.UnpicklingError):  # the bytes are as they were written: their CRC-32 matched
        names = re.findall(r"GLOBAL (\S+)", said)
        holds = f"it holds {names[0]}" if names else "it holds more than tensors and plain values"
        return CheckpointError(
            f"torch.load refuses {path} with weights_only=True: {holds}. Do not load it in another way unless you "
            f"trust its maker."
        )
    if "PytorchStreamReader" in said:
        return DamagedCheckpoint(f"{path} is not a whole checkpoint ({said.splitlines()[0]}). {CURE}")
    if "alloc" in said or "memory" in said or "new thread" in said:
        return MemoryError(said)
    return CheckpointError(f"{path} cannot be loaded: {said.splitlines()[0] if said else repr(error)}.")


def _read_every_byte(file: BinaryIO) -> None:
    """Raises the disk's OSError where there is one: what cannot be read says nothing of what is written."""
    file.seek(0)
    while file.read(2**20):
        pass


def _forget(file: BinaryIO) -> None:
    """Let the system forget what it has in memory of the file, so that the next read is one of the disk (Linux)."""
    if hasattr(os, "posix_fadvise"):
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def _checksums_of_tensors(file: BinaryIO) -> Counter:
    """How often each CRC-32 is listed for a tensor's bytes. The other records are read here, which checks them."""
    with zipfile.ZipFile(file) as archive:
        tensors = {record for record in archive.namelist() if record.split("/")[1:2] == ["data"]}
        for record in set(archive.namelist()) - tensors:
            archive.read(record)
        if not any(record.endswith("/data.pkl") for record in archive.namelist()):
            raise CheckpointError(f"{file.name} is another kind of file, not one that torch.save wrote.")
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
    """The default device may be another one than the CPU, where the storages are."""
    views = (torch.empty(0, dtype=torch.uint8, device="cpu").set_(storage) for storage in storages)
    return Counter(zlib.crc32(view.numpy()) for view in views)


def weights_sha256(state_dict: dict) -> str:
    """SHA-256 (hex) over the bytes of all tensors, in the order of the sorted keys: equal only if every bit is.

    What is no tensor (a module's `get_extra_state`) counts by its repr.
    """
    digest = hashlib.sha256()
    for key in sorted(state_dict):
        value = state_dict[key]
        if isinstance(value, torch.Tensor):
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        else:
            digest.update(repr(value).encode())
    return digest.hexdigest()
