"""The parts of a training: looked at, put into a checkpoint, and put back. Source: notebook 04."""

import warnings
from copy import deepcopy

import torch
from torch import nn

from .durable import CheckpointError
from .processes import without_wrapper
from .snapshots import tensors_in


def checked(parts: dict) -> dict:
    """The parts that are there. Raises ValueError for one that has no state."""
    for name, part in parts.items():
        if part is not None and not (hasattr(part, "state_dict") and hasattr(part, "load_state_dict")):
            raise ValueError(f"The part {name!r} is a {type(part).__name__}, which has no state_dict to save.")
    return {name: without_wrapper(part) for name, part in parts.items() if part is not None}


def warn_of_what_is_outside(parts: dict) -> None:
    """An optimizer that changes tensors which no part would save: they would be new ones after a resume."""
    optimizers = {name: part for name, part in parts.items() if isinstance(part, torch.optim.Optimizer)}
    others = [part.state_dict() for name, part in parts.items() if name not in optimizers]
    saved = {tensor.data_ptr() for tensor in tensors_in(others) if tensor.layout == torch.strided}
    for name, optimizer in optimizers.items():
        parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
        outside = sum(parameter.numel() and parameter.data_ptr() not in saved for parameter in parameters)
        if outside:
            warnings.warn(
                f"The optimizer {name!r} changes {outside} tensors that are in no part, so they are not saved: add "
                f"their model to the parts, or make the optimizer of the model that is there.",
                stacklevel=4,
            )


def states(parts: dict) -> dict:
    """What goes into a checkpoint: each part's state_dict, and which parameters of each model are frozen."""
    frozen = {
        name: [key for key, parameter in part.named_parameters() if not parameter.requires_grad]
        for name, part in parts.items()
        if isinstance(part, nn.Module)
    }
    return {**{f"{name}_state_dict": part.state_dict() for name, part in parts.items()}, "frozen": frozen}


def names_in(checkpoint: dict) -> set[str]:
    """The names of the parts that a checkpoint holds."""
    keys = [key for key, value in checkpoint.items() if key.endswith("_state_dict") and value is not None]
    return {key.removesuffix("_state_dict") for key in keys}


def fresh_states(parts: dict, names: set[str]) -> dict:
    """What this program itself set, of the optimizers and schedulers that may differ: `load` needs it."""
    return {name: deepcopy(parts[name].state_dict()) for name in names & parts.keys() if hasattr(parts[name], "step")}


def load(parts: dict, checkpoint: dict, accept: set[str] = frozenset(), fresh: dict | None = None, but=None) -> None:
    """Put the parts back, except `but`. Of those in `accept`, the settings of this program count, not the old ones.

    Raises CheckpointError when a part does not take its state.
    """
    schedulers = {name for name in fresh or {} if "last_epoch" in fresh[name]}
    for name, part in parts.items():
        if part is but or name in schedulers or checkpoint.get(f"{name}_state_dict") is None:
            continue
        try:
            part.load_state_dict(checkpoint[f"{name}_state_dict"])
        except (RuntimeError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise CheckpointError(
                f"The part {name!r} does not take its state in the checkpoint: make it as it was when that was saved, "
                f"with the layers and parameter groups that were added while it trained. {error}"
            ) from error
        _warn_of_rounding(name, part, checkpoint[f"{name}_state_dict"])
        if name in (fresh or {}):
            for group, settings in zip(part.param_groups, fresh[name]["param_groups"]):
                group |= {key: value for key, value in settings.items() if key != "params"}
        elif name in checkpoint["frozen"] and name not in accept:
            for key, parameter in part.named_parameters():
                parameter.requires_grad_(key not in checkpoint["frozen"][name])
    for name in schedulers:
        _run_again(parts[name], fresh[name], checkpoint[f"{name}_state_dict"]["last_epoch"])


def _warn_of_rounding(name: str, part, state: dict) -> None:
    """A model, or an optimizer's state, is turned into the number format that is here."""
    then, now = ([tensor.dtype for tensor in tensors_in(one)] for one in (state, part.state_dict()))
    if others := sorted({f"{one} to {other}" for one, other in zip(then, now) if one != other}):
        warnings.warn(
            f"The part {name!r} has turned numbers of its state into another format ({', '.join(others)}), so it goes "
            f"on correctly, but not bit by bit.",
            stacklevel=6,
        )


def _run_again(scheduler, state: dict, steps: int) -> None:
    """A new schedule, where it would be now if it had been the one from the start."""
    scheduler.load_state_dict(deepcopy(state))
    for group, lr in zip(scheduler.optimizer.param_groups, state["_last_lr"]):
        group["lr"] = lr
    with warnings.catch_warnings():  # no optimizer has made a step in between
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        for _ in range(steps):
            scheduler.step()
