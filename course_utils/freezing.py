"""Freeze, unfreeze, parameter groups, frozen BatchNorm, cached features. Source: notebook 05."""

import hashlib
import warnings
from copy import deepcopy
from itertools import pairwise
from pathlib import Path

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.utils.data import DataLoader, Dataset, TensorDataset

from course_utils.checkpoints import CheckpointError, load_checkpoint, save_checkpoint, weights_sha256
from course_utils.runtime import fast_dtype


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
    file: keep the features there. They are used again while weights, files, preprocessing, views and number format
    are what they were, and computed anew otherwise. A damaged file is refused with a warning, and written anew.
    Raises ValueError for a dataset without images, for negative views, and for a file with a dataset that has no
    `fingerprint`. Source: notebook 05, section "One forward pass is enough".
    """
    if not len(dataset) or views < 0:
        raise ValueError(f"{len(dataset)} images and views={views} give no features: take images, and views >= 0.")
    device = torch.device(device)
    key = _key(backbone, dataset, device, views) if file else None
    if file and Path(file).exists() and (kept := _kept_features(Path(file), key)):
        return kept
    images = [(view, index) for view in range(1, views + 1) for index in range(len(dataset))] or range(len(dataset))
    loader = DataLoader(dataset, batch_size=32, sampler=images, pin_memory=device.type == "cuda")
    fast, dtype = fast_copy(backbone).to(device), fast_dtype(device)
    labels = []
    with torch.autocast(device.type, dtype, enabled=dtype is not None):
        for batch, its_labels in loader:
            found = fast(batch.to(device, non_blocking=True)).flatten(1).float().cpu()
            if not labels:  # room for all at once: joining them at the end would need the room twice
                features = torch.empty(len(images), found.shape[1])
            features[len(labels) :][: len(found)] = found
            labels += its_labels.tolist()
    labels = torch.tensor(labels)
    if file:
        save_checkpoint({"key": key, "features": features, "labels": labels}, file)
    return TensorDataset(features, labels)


def fast_copy(backbone: nn.Module) -> nn.Module:
    """A copy that only computes: in eval mode, channels last, each BatchNorm fused into the convolution before it.

    In eval mode BatchNorm multiplies and adds fixed numbers, which can as well be multiplied into the weights. This
    finds a convolution and a BatchNorm that stand side by side in an `nn.Sequential`; others stay as they are.
    Source: https://docs.pytorch.org/tutorials/intermediate/fx_conv_bn_fuser.html
    """
    copy = deepcopy(backbone).eval().to(memory_format=torch.channels_last)
    for sequence in [module for module in copy.modules() if isinstance(module, nn.Sequential)]:
        for place, (layer, following) in enumerate(pairwise(list(sequence))):
            if isinstance(layer, nn.Conv2d) and isinstance(following, nn.BatchNorm2d):
                sequence[place], sequence[place + 1] = fuse_conv_bn_eval(layer, following), nn.Identity()
    return copy


def _key(backbone: nn.Module, dataset: Dataset, device: torch.device, views: int) -> str:
    """All that the features depend on, in one line."""
    if not hasattr(dataset, "fingerprint"):
        raise ValueError(
            f"A file of features needs to know its images, and {type(dataset).__name__} has no fingerprint(). Give a "
            f"CatsAndDogs dataset, or leave `file` out."
        )
    architecture = hashlib.sha256(repr(backbone).encode()).hexdigest()
    parts = [weights_sha256(backbone.state_dict()), architecture, dataset.fingerprint()]
    return " ".join(map(str, [*parts, fast_dtype(device), f"{views} views", f"torch {torch.__version__}"]))


def _kept_features(file: Path, key: str) -> TensorDataset | None:
    try:
        kept = load_checkpoint(file)
    except CheckpointError as error:
        warnings.warn(f"{error} The features are computed anew.", stacklevel=4)
        return None
    return TensorDataset(kept["features"], kept["labels"]) if kept.get("key") == key else None
