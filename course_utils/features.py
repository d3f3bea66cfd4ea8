"""Features of a frozen backbone: computed once, by a faster copy of it, and kept in a file. Source: notebook 07."""

import hashlib
import warnings
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from copy import deepcopy
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

from course_utils.checkpoints import (
    CheckpointError,
    load_checkpoint,
    restore_rng,
    rng_state,
    save_checkpoint,
    weights_sha256,
)
from course_utils.data.views import collate
from course_utils.runtime import fast_dtype

MARK = "features of a frozen backbone"  # among the first bytes of each file of ours: damaged, it is still known as ours


@torch.no_grad()  # not inference_mode: its tensors cannot be used to train the head
def cache_features(
    backbone: nn.Module,
    dataset: Dataset,
    device: torch.device | str = "cpu",
    views: int = 0,
    file: str | Path | None = None,
) -> TensorDataset:
    """One pass of a frozen backbone over a dataset: (features float32 (N, D), labels int64 (N,)) on the CPU.

    A frozen backbone in eval mode gives the same features each epoch, so they are computed once, by `fast_copy`, and
    in 16 bits where the device is faster so (`fast_dtype`).
    views: 0 for the images as they are; V for the augmented images of the epochs 1 to V instead, N = V x images.
    file: keep the features there. They are used again while all that they are made of is what it was: the weights
    and buffers, what the backbone makes of a few images and of noise, what the dataset gives for a few images, its
    `fingerprint`, views, number format and PyTorch's version. Otherwise, and on a machine that rounds in another way,
    they are computed anew. A damaged file of features is refused with a warning, and written anew.
    Raises ValueError for a dataset without images and for negative views; with a file, also for a dataset that has no
    `fingerprint` or draws its images at random (its features are others each time). Raises CheckpointError when
    `file` holds something else than features, which stays there, and when it cannot be written.
    Source: notebook 07, section "One forward pass is enough".
    """
    if not len(dataset) or views < 0:
        raise ValueError(f"{len(dataset)} images and views={views} give no features: take images, and views >= 0.")
    device = torch.device(device)
    images = [(view, index) for view in range(1, views + 1) for index in range(len(dataset))] or range(len(dataset))
    if file:
        kept = _kept_features(Path(file))
        key = _key(backbone, dataset, images, device, views)
        if kept and kept["key"] == key:
            return TensorDataset(kept["features"], kept["labels"])
    # Its own generator: a loader without one draws a number from the generator that the training uses.
    loader = DataLoader(
        dataset, 32, sampler=images, pin_memory=device.type == "cuda", generator=torch.Generator(), collate_fn=collate
    )
    dtype, labels = fast_dtype(device), []
    for batch, its_labels in loader:
        if not labels:
            fast = fast_copy(backbone, _noise(batch)).to(device)
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            found = fast(batch.to(device, non_blocking=batch.is_pinned())).flatten(1).float().cpu()
        if not labels:  # room for all at once: joining them at the end would need the room twice
            features = torch.empty(len(images), found.shape[1])
        features[len(labels) :][: len(found)] = found
        labels += its_labels.tolist()
    labels = torch.tensor(labels)
    if file:
        save_checkpoint({"key": key, "features": features, "labels": labels}, file)
    return TensorDataset(features, labels)


def _kept_features(file: Path) -> dict | None:
    """What was kept there; None when there is no file, or a damaged one of ours. Another's file is never written to."""
    if not file.parent.is_dir():  # told now, not after the pass
        raise CheckpointError(f"{file} cannot be written: its folder is missing. Make it, or choose another file.")
    if not file.exists():
        return None
    foreign = f"{file} is not readable as features, so it stays as it is: move it away, or choose another name."
    try:
        kept = load_checkpoint(file)
    except CheckpointError as error:
        if not _begins_as_ours(file):
            raise CheckpointError(foreign) from error
        warnings.warn(f"{error} The features are computed anew.", stacklevel=4)
        return None
    if kept.keys() != {"key", "features", "labels"}:
        raise CheckpointError(foreign)
    return kept


def _begins_as_ours(file: Path) -> bool:
    """`torch.save` writes the plain values of a dict first, so the key is in the first bytes. An empty file is free."""
    with suppress(OSError), open(file, "rb") as opened:
        start = opened.read(1000)
        return not start or MARK.encode() in start
    return False


def _key(backbone: nn.Module, dataset: Dataset, images: list | range, device: torch.device, views: int) -> str:
    """All that the features depend on, in one line.

    A `repr` hides numbers, functions and own code. What comes out hides nothing, so it stands in the key as well.
    """
    if not hasattr(dataset, "fingerprint"):
        raise ValueError(
            f"A file of features needs to know its images, and {type(dataset).__name__} has no fingerprint(). Give a "
            f"CatsAndDogs dataset, or leave `file` out."
        )
    pictures, labels = _a_few(dataset, images)
    inputs = torch.cat([pictures[:2], _noise(pictures)]).to(device)
    with _generators_kept(), torch.autocast(device.type, enabled=False):
        answers = _eval_copy(backbone).to(device)(inputs)
    tensors = {"pictures": pictures, "labels": labels, "answers": answers}
    tensors |= dict(backbone.named_parameters()) | dict(backbone.named_buffers())  # also those no state_dict holds
    made_of = repr((backbone, [(name, tensor.shape, tensor.dtype) for name, tensor in tensors.items()]))
    parts = [weights_sha256(tensors), hashlib.sha256(made_of.encode()).hexdigest(), dataset.fingerprint()]
    return " ".join(map(str, [MARK, *parts, fast_dtype(device), f"{views} views", f"torch {torch.__version__}"]))


def _a_few(dataset: Dataset, images: list | range) -> tuple[Tensor, Tensor]:
    """Four items of the dataset as a batch. Raises ValueError when they are random: no key could stand for them."""
    few = [images[len(images) * quarter // 4] for quarter in range(4)]
    with _generators_kept() as before:
        batch, again = (default_collate([dataset[image] for image in few]) for _ in range(2))
        after = rng_state()
    drawn = any(before[name] != after[name] for name in ("python", "numpy"))
    if drawn or not torch.equal(before["torch"], after["torch"]) or not torch.equal(batch[0], again[0]):
        raise ValueError(
            f"{type(dataset).__name__} draws its images at random, so they are others each time, and a file of their "
            f"features would hold one draw for ever. Take a fixed transform and, for augmentation, `views` of a "
            f"CatsAndDogs dataset with `augment`; or leave `file` out."
        )
    return batch[0], torch.as_tensor(batch[1])


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
            return _fuse(_eval_copy(backbone), pairs)
    return _eval_copy(backbone)


CONVOLUTIONS = {nn.Conv1d: 1, nn.Conv2d: 2, nn.Conv3d: 3}
BATCHNORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)


def _pairs(backbone: nn.Module, batch: Tensor) -> list[tuple[str, str]]:
    """Names of the convolutions and of the BatchNorms to fuse into them; none when the fused model differs."""
    trial = _eval_copy(backbone).cpu()  # thrown away: what a pass changes in it does no harm
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
    with suppress(Exception), _generators_kept(), torch.autocast("cpu", enabled=False):
        right = _tensors(trial(batch.cpu()))
        takers = Counter(one for one, _ in found)
        once = [pair for pair in found if takers[pair[0]] == times[pair[0]] == times[pair[1]] == 1]
        pairs = [(names[one], names[norm]) for one, norm in once]
        # All are too many where a block also adds what its first BatchNorm takes: then only those with one parent.
        for some in (pairs, [pair for pair in pairs if len({name.rpartition(".")[0] for name in pair}) == 1]):
            fused = _tensors(_fuse(_eval_copy(backbone).cpu(), some)(batch.cpu()))
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


def _eval_copy(module: nn.Module) -> nn.Module:
    """A copy in eval mode, channels last. A computed tensor, as weight norm keeps it, is copied as its value."""
    attributes = [value for part in module.modules() for value in vars(part).values() if isinstance(value, Tensor)]
    copy = deepcopy(module, {id(value): value.detach().clone() for value in attributes if not value.is_leaf}).eval()
    for parameter in copy.parameters():
        if parameter.dim() == 4:  # only these have channels, height and width
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last)
    return copy


def _noise(like: Tensor) -> Tensor:
    """Two inputs of that size and number format: always the same random numbers, for integers between 0 and 255."""
    noise = torch.randn(2, *like.shape[1:], generator=torch.Generator().manual_seed(0), device="cpu")
    return (noise if like.is_floating_point() else (64 * noise + 128).clamp(0, 255)).to(like.dtype)


def _usual_inputs(backbone: nn.Module) -> Iterator[Tensor]:
    """Noise of some sizes that models are made for, with as many channels as the first convolution takes."""
    first = next((layer for layer in backbone.modules() if type(layer) in CONVOLUTIONS), None)
    for size in (64, 224, 32, 16, 8) if first else ():
        shape = [size] * CONVOLUTIONS[type(first)]
        if torch.Size(shape).numel() <= 64**3:
            yield _noise(torch.empty(1, first.in_channels, *shape, dtype=first.weight.dtype, device="meta"))


def _tensors(output) -> list[Tensor]:
    """All tensors in what a model returns: a tensor, or dicts, lists and tuples of them."""
    if isinstance(output, Tensor):
        return [output]
    return [tensor for part in (output.values() if hasattr(output, "values") else output) for tensor in _tensors(part)]


@contextmanager
def _generators_kept() -> Iterator[dict]:
    """Put the random generators back afterwards, so that a look at something does not change the training."""
    state = rng_state()
    try:
        yield state
    finally:
        restore_rng(state)
