"""The random number generators that a training consumes: noted, and put back. Source: notebook 03."""

import functools
import random
import types
import warnings
from collections import deque
from collections.abc import Iterable, Iterator
from itertools import islice
from pathlib import PurePath

import numpy as np
import torch

GENERATORS = (torch.Generator, np.random.Generator, np.random.RandomState, random.Random)
NO_GENERATOR_IN = (str, bytes, int, float, complex, type(None), type, types.ModuleType, torch.Tensor, np.ndarray)
NO_GENERATOR_IN += (PurePath, range)
MOST_OBJECTS = 100_000  # a dataset may hold millions, none of them a generator


@functools.cache
def _gpus() -> dict[str, int]:
    """How many of each kind: NVIDIA's and AMD's, Intel's, a Mac's.

    Asked once: PyTorch's look costs more than all generators of the CPU, and this is noted after each step.
    """
    return {kind: getattr(torch, kind).device_count() for kind in ("cuda", "xpu", "mps")}


def rng_state() -> dict:
    """The random number generators that a training consumes, as tensors and plain Python objects."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    state = {
        "python": random.getstate(),
        "numpy": [name, keys.tolist(), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": [],
    }
    for kind, count in _gpus().items():
        if count:  # one tensor a GPU; PyTorch knows no second one of a Mac
            get = getattr(torch, kind).get_rng_state
            state[kind] = [get() if kind == "mps" else get(number) for number in range(count)]
    return state


def restore_rng(state: dict) -> None:
    """Put the generators back to what `rng_state` returned.

    With other GPUs, theirs stay as they are, and a warning says so.
    """
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"].cpu())
    now = _gpus()
    then = {kind: len(state.get(kind, [])) for kind in now}
    if then != now:
        warnings.warn(
            f"The random numbers of {sum(then.values())} GPUs were saved, and here are {sum(now.values())}: a training "
            f"that used a GPU or will use one goes on correctly, but not exactly.",
            stacklevel=2,
        )
        return
    for kind in now:
        for number, one in enumerate(state.get(kind, [])):
            put = getattr(torch, kind).set_rng_state
            put(one.cpu()) if kind == "mps" else put(one.cpu(), number)


def generators_in(root) -> list:
    """Every random generator that hangs on an object, such as a DataLoader: its own, its sampler's, its dataset's.

    It follows attributes, lists, dicts, partials and closures, in an order that is the same in every process. Of a
    list or dict it looks at the first 1,000 items, which are taken to be like the others. A warning says when it gave
    up after 100,000 objects.
    """
    found, seen, waiting = [], set(), [root]
    while waiting:
        one = waiting.pop()
        if len(seen) == MOST_OBJECTS:
            warnings.warn(
                f"{type(root).__name__} holds more than {MOST_OBJECTS:,} objects, and not all were looked at: a random "
                f"generator among the others would not be put back at a resume.",
                stacklevel=2,
            )
            break
        if isinstance(one, NO_GENERATOR_IN) or id(one) in seen:
            continue
        seen.add(id(one))
        if isinstance(one, GENERATORS):
            found.append(one)
        else:
            waiting.extend(_inside(one))
    return found


def _inside(one) -> Iterator:
    if isinstance(one, dict):
        yield from islice(one.values(), 1000)
    elif isinstance(one, (list, tuple, deque)):
        yield from islice(one, 1000)
    elif isinstance(one, functools.partial):
        yield from (one.func, one.args, one.keywords)
    elif isinstance(one, types.MethodType):
        yield one.__self__
    elif isinstance(one, types.FunctionType):
        yield from (cell.cell_contents for cell in one.__closure__ or () if cell.cell_contents is not one)
        yield from one.__defaults__ or ()
    else:
        slots = [name for kind in reversed(type(one).__mro__) for name in _names(getattr(kind, "__slots__", ()))]
        yield from [getattr(one, name) for name in slots if name[:2] != "__" and hasattr(one, name)]
        yield from getattr(one, "__dict__", {}).values()


def _names(slots: str | Iterable[str]) -> Iterable[str]:
    return (slots,) if isinstance(slots, str) else slots


def state_of(generator) -> object:
    """As tensors and plain Python objects."""
    if isinstance(generator, torch.Generator):
        return generator.get_state()
    if isinstance(generator, np.random.Generator):
        return _plain(generator.bit_generator.state)
    if isinstance(generator, np.random.RandomState):
        return _plain(generator.get_state())
    return generator.getstate()


def put_state(generator, state) -> None:
    """Put one back to what `state_of` returned."""
    if isinstance(generator, torch.Generator):
        generator.set_state(state.cpu())
    elif isinstance(generator, np.random.Generator):
        generator.bit_generator.state = state
    elif isinstance(generator, np.random.RandomState):
        generator.set_state(state)
    else:
        version, internal, gauss = state
        generator.setstate((version, tuple(internal), gauss))


def _plain(state):
    if isinstance(state, dict):
        return {key: _plain(value) for key, value in state.items()}
    if isinstance(state, tuple):
        return tuple(_plain(value) for value in state)
    return state.tolist() if isinstance(state, (np.ndarray, np.generic)) else state
