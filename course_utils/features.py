"""Features of a frozen backbone: computed once, by a faster copy of it, and kept in a file. Source: notebook 07."""

import hashlib
import warnings
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, TensorDataset, default_collate

from course_utils.checkpoints import (
    CheckpointError,
    load_checkpoint,
    rng_state,
    save_checkpoint,
    weights_sha256,
)
from course_utils.checkpoints.rng import generators_in
from course_utils.data.views import Pixels, collate_pixels
from course_utils.fusing import eval_copy, fast_copy, generators_kept, noise_like
from course_utils.runtime import fast_dtype

RANDOM = (
    "{} draws its images at random, so they are others each time, and a file of their features would hold one draw for "
    "ever. Take a fixed transform and, for augmentation, `views` of a CatsAndDogs dataset with `augment`; or leave "
    "`file` out."
)
MARK = "features of a frozen backbone"  # among the first bytes of each file of ours: damaged, it is still known as ours


@torch.no_grad()  # not inference_mode: its tensors cannot be used to train the head
def cache_features(
    backbone: nn.Module,
    dataset: Dataset,
    device: torch.device | str = "cpu",
    views: int = 0,
    file: str | Path | None = None,
    workers: int = 0,
) -> TensorDataset:
    """One pass of a frozen backbone over a dataset: (features float32 (N, D), labels (N,), int64 of ints) on the CPU.

    A frozen backbone in eval mode gives the same features each epoch, so they are computed once, by `fast_copy`, and
    in 16 bits where the device is faster so (`fast_dtype`).
    views: 0 for the images as they are; V for the augmented images of the epochs 1 to V instead, N = V x images.
    file: keep the features there. They are used again while all that they are made of is what it was: the weights
    and buffers, what the backbone makes of a few images and of noise, what the dataset gives for a few images, its
    `fingerprint`, views, number format and PyTorch's version. Otherwise, and on a machine that rounds in another way,
    they are computed anew. A damaged file of features is refused with a warning, and written anew.
    workers: processes that prepare the images while the backbone computes; on a GPU, as many as there are CPU cores.
    The features are the same bits with any number of them, when no image is drawn at random.
    dataset: items (image, label) that DataLoader joins: float tensors of one shape, and numbers.
    Raises ValueError for a dataset without images, of other items, and for negative views; with a file, also for a
    dataset that has no `fingerprint`, draws its images at random (its features are others each time) or has a random
    generator, which it may draw from. Raises CheckpointError when
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
    example = _example(dataset, images[0])
    fast = fast_copy(backbone, noise_like(example)).to(device)  # before there are workers: it wants all cores
    # Its own generator: a loader without one draws a number from the generator that the training uses.
    loader = DataLoader(
        dataset,
        batch_size=32 if device.type == "cpu" else 128,  # a GPU that gets more at once waits less for the CPU
        sampler=images,
        num_workers=workers,
        collate_fn=collate_pixels,
        pin_memory=device.type == "cuda",
        generator=torch.Generator(),
    )
    dtype, labels = fast_dtype(device), []
    for batch in loader:
        batch, its_labels = batch.to(device) if isinstance(batch, Pixels) else batch
        batch = batch.to(device, non_blocking=batch.is_pinned())
        with torch.autocast(device.type, dtype, enabled=dtype is not None):
            found = torch.cat([fast(images).flatten(1).float().cpu() for images in _pieces(batch)])
        if not labels:  # room for all at once: joining them at the end would need the room twice
            features = torch.empty(len(images), found.shape[1])
        features[len(labels) :][: len(found)] = found
        labels += its_labels.tolist()
    labels = torch.tensor(labels)
    if file:
        save_checkpoint({"key": key, "features": features, "labels": labels}, file)
    return TensorDataset(features, labels)


def _example(dataset: Dataset, image: int | tuple) -> Tensor:
    """A batch of one; the random generators stay as they were."""
    with generators_kept(dataset):
        item = dataset[image]
    if not (isinstance(item, (tuple, list)) and len(item) == 2):
        raise ValueError(f"An item of {type(dataset).__name__} is a {type(item).__name__}; (image, label) is needed.")
    example = default_collate([item[0]])
    if not isinstance(example, Tensor):
        raise ValueError(f"An image of {type(dataset).__name__} is a {type(item[0]).__name__}; a tensor is needed.")
    return example


def _pieces(batch: Tensor) -> tuple[Tensor, ...]:
    """On a CPU, 8 images of 224 pixels at once, or as many smaller ones as have their values.

    What a layer computes then stays below the 32 MB from which malloc asks the system for new memory each time, and
    gives it back: that takes half as long again as the pass itself. Source: mallopt(3), M_MMAP_THRESHOLD.
    """
    return batch.chunk(1 + batch.numel() // 1_400_000) if batch.device.type == "cpu" else (batch,)


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
    inputs = torch.cat([pictures[:2], noise_like(pictures)]).to(device)
    with generators_kept(), torch.autocast(device.type, enabled=False):
        answers = eval_copy(backbone).to(device)(inputs)
    tensors = {"pictures": pictures, "labels": labels, "answers": answers}
    tensors |= dict(backbone.named_parameters()) | dict(backbone.named_buffers())  # also those no state_dict holds
    made_of = repr((backbone, [(name, tensor.shape, tensor.dtype) for name, tensor in tensors.items()]))
    parts = [weights_sha256(tensors), hashlib.sha256(made_of.encode()).hexdigest(), dataset.fingerprint()]
    return " ".join(map(str, [MARK, *parts, fast_dtype(device), f"{views} views", f"torch {torch.__version__}"]))


def _a_few(dataset: Dataset, images: list | range) -> tuple[Tensor, Tensor]:
    """Four items of the dataset as a batch. Raises ValueError when they are random: no key could stand for them."""
    if generators_in(dataset):
        raise ValueError(RANDOM.format(type(dataset).__name__))
    few = [images[len(images) * quarter // 4] for quarter in range(4)]
    with generators_kept() as before:
        batch, again = (default_collate([dataset[image] for image in few]) for _ in range(2))
        after = rng_state()
    drawn = any(before[name] != after[name] for name in ("python", "numpy"))
    if drawn or not torch.equal(before["torch"], after["torch"]) or not torch.equal(batch[0], again[0]):
        raise ValueError(RANDOM.format(type(dataset).__name__))
    return batch[0], torch.as_tensor(batch[1])
