"""A checkpoint copied in memory, so that a training can go on while the copy is written. Source: notebook 04."""

import ctypes
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from copy import deepcopy

import torch


class Snapshot:
    """Copies of one checkpoint after the other, each in the memory of the one before where it fits."""

    def __init__(self):
        self._storages: list[torch.UntypedStorage] = []  # fresh memory costs time

    def copy(self, checkpoint: dict, pool: ThreadPoolExecutor | None = None) -> dict:
        """The checkpoint with every storage copied to the CPU, once, and everything else copied as it is.

        So it saves the same file: tensors that share memory share it in the copy, and dicts keep their class and
        attributes (`_metadata` of a state_dict). This thread and one of `pool` each take the next storage, so neither
        waits for a core that something else keeps busy.
        """
        copies, sources, tensors = {}, [], {}
        for tensor in tensors_in(checkpoint):
            if id(tensor) in tensors:
                continue
            if not _is_plain(tensor):
                tensors[id(tensor)] = tensor.detach().to("cpu", copy=True)
                continue
            storage = tensor.untyped_storage()
            if storage._cdata not in copies:
                copies[storage._cdata] = self._room(len(sources), storage.nbytes())
                sources.append((copies[storage._cdata], storage))
            tensors[id(tensor)] = _view(copies[storage._cdata], tensor)
        self._storages = [copy for copy, _ in sources]
        waiting = iter(sources)
        others = pool.submit(_fill, waiting) if pool else None
        _fill(waiting)
        if others:
            others.result()
        return deepcopy(checkpoint, tensors)

    def _room(self, number: int, size: int) -> torch.UntypedStorage:
        if number < len(self._storages) and self._storages[number].nbytes() == size:
            return self._storages[number]
        return torch.UntypedStorage(size, device="cpu")


def without_tensors(checkpoint: dict) -> dict:
    """The same checkpoint with empty tensors: what a trial save needs."""
    return deepcopy(checkpoint, {id(tensor): torch.empty(0, device="cpu") for tensor in tensors_in(checkpoint)})


def tensors_in(value) -> Iterator[torch.Tensor]:
    """All tensors in nested dicts, lists, tuples and sets."""
    if isinstance(value, torch.Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from tensors_in(item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            yield from tensors_in(item)


def _is_plain(tensor: torch.Tensor) -> bool:
    special = tensor.is_quantized or tensor.is_conj() or tensor.is_neg() or tensor.device.type == "meta"
    return type(tensor) in (torch.Tensor, torch.nn.Parameter) and tensor.layout == torch.strided and not special


def _view(storage: torch.UntypedStorage, tensor: torch.Tensor) -> torch.Tensor:
    """The same window into a copy of the tensor's storage."""
    empty = torch.empty(0, dtype=tensor.dtype, device="cpu")
    window = empty.set_(storage, tensor.storage_offset(), tensor.shape, tensor.stride())
    if isinstance(tensor, torch.nn.Parameter):
        return torch.nn.Parameter(window, tensor.requires_grad)
    return window.requires_grad_(tensor.requires_grad)


def _fill(storages: Iterator[tuple[torch.UntypedStorage, torch.UntypedStorage]]) -> None:
    """Copy each (target, source). `memmove` needs this thread only; torch's copy waits for all cores, one by one."""
    for target, source in storages:
        if source.device.type == "cpu":
            ctypes.memmove(target.data_ptr(), source.data_ptr(), source.nbytes())
        else:
            target.copy_(source)
