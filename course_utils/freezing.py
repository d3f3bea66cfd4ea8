"""Freeze, unfreeze, parameter groups, frozen statistics. Source: notebook 05.

Cached features, `cache_features` and `fast_copy`, stand in features.py, and are handed on here.
"""

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from course_utils.features import cache_features, fast_copy

__all__ = [
    "cache_features",
    "count_parameters",
    "fast_copy",
    "freeze",
    "parameter_groups",
    "train_mode",
    "trainable_parameters",
    "unfreeze",
]


def freeze(module: nn.Module) -> nn.Module:
    """Stop the gradients of every parameter in `module`; returns it. BatchNorm statistics still move: `train_mode`."""
    return module.requires_grad_(False)


def unfreeze(module: nn.Module) -> nn.Module:
    """Let every parameter in `module` learn again; returns it."""
    return module.requires_grad_(True)


def train_mode(model: nn.Module) -> nn.Module:
    """`model.train()`, except that a BatchNorm layer whose weight is frozen keeps its running statistics.

    `requires_grad=False` does not stop them, and each `model.train()` sets them going again: call this instead of it.
    Dropout inside a frozen part stays on, as `model.train()` sets it, and so does BatchNorm without a weight
    (affine=False), which no flag can freeze. Source: notebook 05, section "BatchNorm".
    """
    model.train()
    for module in model.modules():
        if isinstance(module, _BatchNorm) and module.weight is not None and not module.weight.requires_grad:
            module.eval()
    return model


def trainable_parameters(model: nn.Module) -> list[nn.Parameter]:
    """What the optimizer should get. Raises ValueError when everything is frozen: nothing would be learned."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not parameters:
        raise ValueError("Every parameter of the model is frozen, so nothing can be learned. Unfreeze its head.")
    return parameters


def count_parameters(module: nn.Module) -> tuple[int, int]:
    """(trainable, all) numbers of parameters. Buffers, such as BatchNorm's statistics, are not parameters."""
    sizes = [(parameter.numel(), parameter.requires_grad) for parameter in module.parameters()]
    return sum(size for size, trainable in sizes if trainable), sum(size for size, _ in sizes)


def parameter_groups(parts: list[tuple[nn.Module, float]]) -> list[dict]:
    """Optimizer groups from (module, learning rate) pairs: only trainable parameters, modules without any left out.

    Raises ValueError when a parameter stands in two of the modules: it would be updated twice.
    Source: https://docs.pytorch.org/docs/stable/optim.html#per-parameter-options
    """
    groups, seen = [], set()
    for module, learning_rate in parts:
        parameters = [parameter for parameter in module.parameters() if parameter.requires_grad]
        if not seen.isdisjoint(parameters):
            raise ValueError("A parameter stands in two groups; give modules that do not contain each other.")
        seen.update(parameters)
        if parameters:
            groups.append({"params": parameters, "lr": learning_rate})
    return groups
