"""Facts of models, optimizers, schedulers and data, {name: plain value}, to tell one training from another.

Source: notebook 04.
"""

import copy
import hashlib
import math
import random
from collections.abc import Iterator

import numpy as np
import torch
from torch import nn

from .rng import generators_in, put_state, restore_rng, rng_state, state_of

PLAIN = (bool, int, float, str, type(None))
HARMLESS = {"params", "lr", "initial_lr", "foreach", "fused", "capturable"}
SHARE = {"rank", "num_replicas", "num_samples", "total_size"}  # of a sampler: of this process
MOVING = {"last_epoch", "best", "num_bad_epochs", "cooldown_counter", "T_cur", "T_i", "scale"}  # of schedulers, scalers


def facts_of(part) -> dict:
    """A model's tensors, frozen parameters and settings; an optimizer's groups; of anything else what its state_dict
    says in plain values."""
    if isinstance(part, nn.Module):
        return dict(_of_module(part))
    if isinstance(part, torch.optim.Optimizer):
        return dict(_of_optimizer(part))
    inner = [type(one).__name__ for one in getattr(part, "_schedulers", [])]
    return {"class": " of ".join([type(part).__name__, *filter(None, [", ".join(inner)])]), **_flat(part.state_dict())}


def facts_of_data(loader, order: bool = True) -> dict:
    """How many items in what batches, what a few of them look like; with `order`, also how they follow one another."""
    dataset, sampler = getattr(loader, "dataset", None), getattr(loader, "sampler", None)
    facts = {"dataset": type(loader if dataset is None else dataset).__name__, **_settings(dataset)}
    facts["classes"] = ", ".join(map(str, getattr(dataset, "classes", [])))
    facts["files"] = digest([_end_of(file) for file in getattr(dataset, "files", [])])
    if order:
        batch_size, processes = getattr(loader, "batch_size", None), getattr(sampler, "num_replicas", 1)
        facts |= {"batch size": batch_size and batch_size * processes, "drop_last": getattr(loader, "drop_last", None)}
        settings = {f"sampler's {key}": value for key, value in _settings(sampler).items() if key not in SHARE}
        facts |= {"sampler": type(sampler).__name__, **settings}
        facts["generators"] = len(generators_in(loader))
    if hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__") and len(dataset):
        facts["items"] = len(dataset)
        looks, draws = _look_at(dataset)
        facts["looks"] = looks
        if order and draws:  # each worker draws its own random numbers
            facts["workers"] = loader.num_workers
    return facts


def digest(value) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:8]


def _of_module(module: nn.Module) -> Iterator[tuple[str, object]]:
    tensors = [(name, tuple(value.shape)) for name, value in _tensors_of(module)]
    parameters = sum(parameter.numel() for parameter in module.parameters())
    yield (
        "tensors",
        f"{type(module).__name__} of {parameters:,} parameters in {len(tensors)} tensors ({digest(tensors)})",
    )
    yield "frozen", ", ".join(name for name, value in module.named_parameters() if not value.requires_grad)
    for name, layer in module.named_modules():
        settings = ", ".join(f"{key}={value}" for key, value in _settings(layer).items())
        yield f"layer {name}".strip(), f"{type(layer).__name__}({settings})"


def _tensors_of(module: nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    for name, value in module.state_dict().items():
        if isinstance(value, torch.Tensor):  # a module's `get_extra_state` may be anything
            yield name, value


def _of_optimizer(optimizer: torch.optim.Optimizer) -> Iterator[tuple[str, object]]:
    yield "class", type(optimizer).__name__
    yield "groups", len(optimizer.param_groups)
    for number, group in enumerate(optimizer.param_groups):
        shapes = [tuple(parameter.shape) for parameter in group["params"]]
        yield f"group {number} tensors", f"{len(shapes)} ({digest(shapes)})"
        yield f"group {number} lr", float(group.get("initial_lr", group["lr"]))  # where its scheduler began
        for key, value in group.items():
            if key not in HARMLESS and _is_plain(value):
                yield f"group {number} {key}", value


def _flat(state, name: str = "") -> dict:
    """{path: plain value} of nested dicts and lists."""
    flat = {}
    if isinstance(state, torch.Tensor):
        flat[name] = f"tensor {tuple(state.shape)}"
    elif isinstance(state, PLAIN):
        flat[name] = state
    elif isinstance(state, (dict, list, tuple)) and len(state) <= 1000:
        for key, value in state.items() if isinstance(state, dict) else enumerate(state):
            if not (str(key).startswith("_") and str(key) != "_schedulers") and key not in MOVING:
                flat |= _flat(value, f"{name}.{key}".strip("."))
    return flat


def _settings(thing) -> dict:
    """Its attributes that are plain values, such as a dropout rate or a seed. A sampler's epoch and start move."""
    hidden = {"training", "epoch", "start"}
    attributes = getattr(thing, "__dict__", {})
    return {key: value for key, value in attributes.items() if key[0] != "_" and key not in hidden and _is_plain(value)}


def _is_plain(value) -> bool:
    return isinstance(value, PLAIN) or isinstance(value, tuple) and all(isinstance(item, PLAIN) for item in value)


def _end_of(file) -> str:
    return "/".join(str(file).replace("\\", "/").split("/")[-2:])  # the folder is another one on another machine


def _look_at(dataset) -> tuple[list | None, bool]:
    """(numbers that tell a few items from others, do they draw random numbers?); None where one cannot say.

    The random generators are as before afterwards.
    """
    before, own = rng_state(), [(generator, state_of(generator)) for generator in generators_in(dataset)]
    dataset = _shallow_copy(dataset)
    numbers, draws = [], False
    try:
        for index in sorted({0, len(dataset) // 2, len(dataset) - 1}):
            first, drew = _seeded_item(dataset, index)
            again, _ = _seeded_item(dataset, index)
            if not near(first, again):  # its random numbers come from elsewhere
                return None, True
            numbers, draws = numbers + first, draws or drew
        return numbers, draws
    except Exception:  # a dataset may want other keys, or be sorry in any other way: then it is not looked at
        return None, True
    finally:
        restore_rng(before)
        for generator, state in own:
            put_state(generator, state)


def _shallow_copy(dataset):
    """What a dataset opens when it is first read, a database, say, must not be inherited by its workers."""
    copied = copy.copy(dataset)
    if hasattr(copied, "dataset"):  # of a Subset
        copied.dataset = _shallow_copy(copied.dataset)
    if hasattr(copied, "datasets"):  # of a ConcatDataset
        copied.datasets = [_shallow_copy(one) for one in copied.datasets]
    return copied


def _seeded_item(dataset, index: int) -> tuple[list, bool]:
    random.seed(0)
    np.random.seed(0)
    torch.default_generator.manual_seed(0)
    before = _fingerprint()
    numbers = list(_numbers(dataset[index]))
    return numbers, _fingerprint() != before


def _fingerprint() -> str:
    state = rng_state()
    return digest([state["python"], state["numpy"], state["torch"].tolist()])


def _numbers(item) -> Iterator[float | str]:
    """Few of an item's numbers, which another CPU computes nearly the same."""
    if isinstance(item, (bool, int, float, str)):
        yield item
    elif isinstance(item, dict):
        for value in item.values():
            yield from _numbers(value)
    elif isinstance(item, (list, tuple)):
        for value in item[:10]:
            yield from _numbers(value)
    elif isinstance(item, torch.Tensor) or hasattr(item, "__array_interface__"):  # NumPy arrays, PIL images
        values = item if isinstance(item, torch.Tensor) else torch.as_tensor(np.asarray(item))
        values = values.cpu().double().flatten()  # a Mac's GPU has no float64
        yield from [len(values), *values[:4].tolist()]
        yield from [values.mean().item(), values.std(correction=0).item()]


def near(one, other) -> bool:
    """Another CPU or library decodes and resizes pictures a little differently."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(near, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-3, abs_tol=1e-4) or (one != one and other != other)
    return one == other
