"""A faster copy of a frozen backbone: each BatchNorm is fused into the convolution before it. Source: notebook 07."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from course_utils.checkpoints import restore_rng, rng_state
from course_utils.checkpoints.rng import generators_in, put_state, state_of


@torch.no_grad()
def fast_copy(backbone: nn.Module, example: Tensor | None = None) -> nn.Module:
    """A copy that only computes: in eval mode, channels last, each BatchNorm fused into the convolution before it.

    In eval mode BatchNorm multiplies and adds fixed numbers, which can as well be multiplied into the weights. One
    pass shows which BatchNorm takes what which convolution gives, wherever in the model they stand. It is a pair when
    both are PyTorch's own, are used once, and have no hooks.
    example: a batch such as the backbone takes, for that pass; by default noise of some usual sizes is tried.
    Guaranteed: on `example` the copy with its fused pairs gave what the backbone gives in eval mode, off by less than
    0.01 % (of the norm, on the CPU). Where it did not, or no pass was possible, nothing is fused.
    Source: https://docs.pytorch.org/tutorials/intermediate/fx_conv_bn_fuser.html
    """
    for batch in [example] if example is not None else _usual_inputs(backbone):
        if pairs := _pairs(backbone, batch):
            return _fuse(eval_copy(backbone), pairs)
    return eval_copy(backbone)


CONVOLUTIONS = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def _pairs(backbone: nn.Module, batch: Tensor) -> list[tuple[str, str]]:
    """Names of the convolutions and of the BatchNorms to fuse into them; none when the fused model differs."""
    trial = eval_copy(backbone).cpu()  # thrown away: what a pass changes in it does no harm
    names = {module: name for name, module in trial.named_modules()}
    given, times, found = {}, Counter(), []  # a convolution by its output; passes of a layer; pairs of layers

    def watch(layer, inputs, output):
        times[layer] += 1
        if type(layer) in CONVOLUTIONS:
            given[id(output)] = layer, output  # the output is kept, or another could get its id
        elif inputs and id(inputs[0]) in given and layer.running_mean is not None:
            found.append((given[id(inputs[0])][0], layer))

    # By exact type: a subclass may compute otherwise. A hook may use what stands between the two, or make the weight.
    plain = [layer for layer in names if type(layer) in (*CONVOLUTIONS, *BATCHNORMS)]
    plain = [layer for layer in plain if not layer._forward_hooks and not layer._forward_pre_hooks]
    if not {type(layer) for layer in plain} & set(BATCHNORMS):
        return []
    for layer in plain:
        layer.register_forward_hook(watch)
    # A model may fail in any way on an input it was not made for, or without its BatchNorm: then nothing is fused.
    with suppress(Exception), generators_kept(), torch.autocast("cpu", enabled=False):
        right = _tensors(trial(batch.cpu()))
        takers = Counter(one for one, _ in found)
        once = [pair for pair in found if takers[pair[0]] == times[pair[0]] == times[pair[1]] == 1]
        pairs = [(names[one], names[norm]) for one, norm in once]
        # All are too many where a block also adds what its first BatchNorm takes: then only those with one parent.
        for some in (pairs, [pair for pair in pairs if len({name.rpartition(".")[0] for name in pair}) == 1]):
            fused = _tensors(_fuse(eval_copy(backbone).cpu(), some)(batch.cpu()))
            if all((one - other).norm() < 1e-4 * other.norm() for one, other in zip(fused, right, strict=True)):
                return some
    return []


def _fuse(model: nn.Module, pairs: list[tuple[str, str]]) -> nn.Module:
    """Multiply each BatchNorm into its convolution, and put an Identity in its place, under all of its names."""
    fused = set()
    for convolution, norm in [tuple(map(model.get_submodule, pair)) for pair in pairs]:
        numbers = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        convolution.weight, convolution.bias = fuse_conv_bn_weights(convolution.weight, convolution.bias, *numbers)
        fused.add(norm)
    for name in [name for name, module in model.named_modules(remove_duplicate=False) if module in fused]:
        model.set_submodule(name, nn.Identity())
    return model


def eval_copy(module: nn.Module) -> nn.Module:
    """A copy in eval mode, channels last. A computed tensor, as weight norm keeps it, is copied as its value."""
    attributes = [value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    copy = deepcopy(module, {id(value): value.detach().clone() for value in attributes if not value.is_leaf}).eval()
    for parameter in copy.parameters():
        if parameter.dim() == 4:  # only these have channels, height and width
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return copy


def noise_like(like: Tensor) -> Tensor:
    """Two inputs of that size and number format: always the same random numbers, for integers between 0 and 255."""
    noise = torch.randn(2, *like.shape[1:], generator=torch.Generator().manual_seed(0), device="cpu")
    return (noise if like.is_floating_point() else (64 * noise + 128).clamp(0, 255)).to(like.dtype)


def _usual_inputs(backbone: nn.Module) -> Iterator[Tensor]:
    """Noise of some sizes that models are made for, with as many channels as the first convolution takes."""
    first = next((layer for layer in backbone.modules() if type(layer) in CONVOLUTIONS), None)
    for size in (64, 224, 32, 16, 8) if first else ():
        shape = [size] * CONVOLUTIONS[type(first)]
        if torch.Size(shape).numel() <= 64**3:
            yield noise_like(torch.empty(1, first.in_channels, *shape, dtype=first.weight.dtype, device="meta"))


def _tensors(output) -> list[Tensor]:
    """All tensors in what a model returns: a tensor, or dicts, lists and tuples of them."""
    if isinstance(output, Tensor):
        return [output]
    return [tensor for part in (output.values() if hasattr(output, "values") else output) for tensor in _tensors(part)]


@contextmanager
def generators_kept(holder: object = None) -> Iterator[dict]:
    """Put the random generators back afterwards, so that a look at something does not change the training: the global
    ones, and those that hang on a holder, such as a dataset."""
    state, own = rng_state(), [(generator, state_of(generator)) for generator in generators_in(holder)]
    try:
        yield state
    finally:
        restore_rng(state)
        for generator, its_state in own:
            put_state(generator, its_state)
