"""Freeze, unfreeze, parameter groups, frozen statistics. Source: notebook 06.

`cache_features` of features.py and `fast_copy` of fusing.py are handed on here.
"""

from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.instancenorm import _InstanceNorm

from course_utils.features import cache_features
from course_utils.fusing import fast_copy

__all__ = [
    "cache_features",
    "count_parameters",
    "fast_copy",
    "freeze",
    "freeze_until",
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


def freeze_until(unfreeze_at: dict[int, nn.Module]) -> dict[int, list[nn.Parameter]]:
    """Freeze modules for now; returns, for each epoch, the parameters to set free from then on.

    unfreeze_at: {epoch: module}. Set free are those that are free now: what was frozen by hand in such a module, say
    its BatchNorm, stays frozen. A module that is frozen as a whole is set free as a whole, for why else name it.
    Where modules share a parameter, its first epoch counts.
    """
    parameters = {epoch: list(module.parameters()) for epoch, module in sorted(unfreeze_at.items())}
    free = {epoch: [one for one in its if one.requires_grad] or its for epoch, its in parameters.items()}
    for module in unfreeze_at.values():
        freeze(module)
    return free


def train_mode(model: nn.Module) -> nn.Module:
    """`model.train()`, except that what is frozen keeps its state; returns the model.

    `requires_grad=False` does not stop running statistics, and each `model.train()` sets them going again: call this
    instead of it. Held in eval mode is each frozen layer that has buffers: BatchNorm, InstanceNorm and own norms that
    track, spectral norm. Frozen is what has parameters of which none learns (of a BatchNorm, its weight counts), and
    what has none but stands in something frozen, such as BatchNorm with affine=False. Observers of quantization do
    not heed eval mode; theirs is put back after each pass.
    Dropout layers in a frozen part stay on, as `model.train()` sets them: they have no state, and the head may want
    the noise. Stochastic depth goes off: it leaves out whole blocks, which is for weights that learn.
    Source: notebook 06, section "BatchNorm".
    """
    model.train()
    _hold_what_is_frozen(model, around=False)
    return model


def _hold_what_is_frozen(module: nn.Module, around: bool) -> None:
    """around: whether the part that `module` stands in is frozen; it counts for a module without parameters."""
    parameters = list(module.parameters())
    frozen = not any(one.requires_grad for one in parameters) if parameters else around
    if isinstance(module, _BatchNorm) and module.weight is not None:
        frozen = not module.weight.requires_grad
    has_state = next(module.buffers(recurse=False), None) is not None
    drops_blocks = type(module).__name__.endswith(("StochasticDepth", "DropPath"))  # torchvision's; timm's and others'
    if frozen and (has_state or drops_blocks):
        module.training = False  # not eval(): a Dropout in it stays on
    if hasattr(module, "calculate_qparams") or isinstance(module, _InstanceNorm):
        _keep_state(module, frozen)
    for child in module.children():
        _hold_what_is_frozen(child, frozen)


def _keep_state(module: nn.Module, frozen: bool) -> None:
    """For what eval mode does not hold still: observers, and InstanceNorm: PyTorch 2.10 rounds its statistics anew."""
    for handle in vars(module).pop("held_by", ()):
        handle.remove()
    if frozen:
        keeper = _StateKeeper()
        before = module.register_forward_pre_hook(keeper.note)
        module.held_by = [before, module.register_forward_hook(keeper.put_back, always_call=True)]


class _StateKeeper:
    """Hooks that make a pass leave no trace in the buffers of a module and of the modules in it."""

    def note(self, module: nn.Module, inputs) -> None:
        parts = [(part, name, one) for part in module.modules() for name, one in part.named_buffers(recurse=False)]
        self.buffers: list[tuple[nn.Module, str, Tensor]] = [(part, name, one.clone()) for part, name, one in parts]
        if hasattr(module, "observer_enabled"):  # a FakeQuantize would round by what it sees in this very pass
            module.observer_enabled.zero_()

    def put_back(self, module: nn.Module, inputs, output) -> None:
        for part, name, buffer in self.buffers:
            setattr(part, name, buffer)


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
