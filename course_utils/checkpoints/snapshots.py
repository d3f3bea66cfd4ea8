"""A checkpoint copied in memory, so that a training can go on while the copy is written. Source: notebook 03."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch


def copied(checkpoint: dict, before: dict | None, pool: ThreadPoolExecutor) -> dict:
    """The checkpoint with its tensors copied to the CPU, into the memory of the copy before where they fit.

    This thread and one of `pool` each take the next tensor, so neither waits for a core that something else keeps busy.
    """
    tensors = []
    copy = _copy_of(checkpoint, before, tensors)
    waiting = iter(tensors)
    the_others = pool.submit(_fill, waiting)
    _fill(waiting)
    the_others.result()
    return copy


def _copy_of(value, old, tensors: list):
    """`value` with new dicts, lists and tuples. A tensor of `old` that fits is kept, and noted in `tensors` to fill."""
    if isinstance(value, torch.Tensor):
        if not (isinstance(old, torch.Tensor) and (old.shape, old.dtype) == (value.shape, value.dtype)):
            return value.detach().to("cpu", copy=True)
        tensors.append((old, value.detach()))
        return old
    if isinstance(value, dict):
        before = old if isinstance(old, dict) else {}
        return {key: _copy_of(item, before.get(key), tensors) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        before = old if isinstance(old, (list, tuple)) and len(old) == len(value) else [None] * len(value)
        return type(value)(_copy_of(item, one, tensors) for item, one in zip(value, before))
    return value


def _fill(tensors: Iterator[tuple[torch.Tensor, torch.Tensor]]) -> None:
    """Copy each (target, source). NumPy needs this thread only; torch's copy waits for all cores, tensor by tensor."""
    for target, source in tensors:
        try:
            np.copyto(target.numpy(), source.numpy())
        except (TypeError, RuntimeError):  # on another device, or of a type that NumPy does not know
            target.copy_(source)
