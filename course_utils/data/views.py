"""From a picture to a batch, without the waste: one resize a picture, one normalisation a batch.

A worker process sends what it made through shared memory, whose pages are costly: 8-bit pixels are a quarter of them.
"""

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import default_collate, get_worker_info
from torchvision.transforms import functional as F
from torchvision.transforms._presets import ImageClassification


@dataclass(frozen=True)
class CropAndFlip:
    """A random part of the picture as a square, half of the times mirrored: the animal stays what it is.

    scale: of the picture's area; ratio: width to height. Called with a PIL image, it draws through torch's RNG and
    gives a PIL image of `size` x `size` pixels. So does torchvision's RandomResizedCrop, which draws again where a part
    would be wider or higher than the picture; here it is cut off.
    """

    size: int = 160
    scale: tuple[float, float] = (0.6, 1.0)
    ratio: tuple[float, float] = (0.8, 1.25)

    def __call__(self, picture: Image.Image) -> Image.Image:
        return self.part(picture, random.Random(torch.randint(2**63 - 1, ()).item()), self.size)

    def part(
        self, picture: Image.Image, rng: random.Random, size: int, middle: float = 1.0, resample: int = Image.BILINEAR
    ) -> Image.Image:
        """The same, drawn from rng, in one resize. middle: how much of the part's sides to keep, as a centre crop."""
        width, height = picture.size
        area = width * height * rng.uniform(*self.scale)
        ratio = math.exp(rng.uniform(math.log(self.ratio[0]), math.log(self.ratio[1])))
        wide, high = min(math.sqrt(area * ratio), width), min(math.sqrt(area / ratio), height)
        x, y = rng.uniform(0, width - wide), rng.uniform(0, height - high)
        x, y, wide, high = x + (1 - middle) / 2 * wide, y + (1 - middle) / 2 * high, middle * wide, middle * high
        part = picture.resize((size, size), resample, (x, y, min(x + wide, width), min(y + high, height)))
        return part.transpose(Image.FLIP_LEFT_RIGHT) if rng.random() < 0.5 else part


def is_preset(transform: Callable) -> bool:
    """Is this torchvision's preprocessing: resize, centre crop, to a tensor, normalise? And does the crop fit?"""
    return type(transform) is ImageClassification and transform.crop_size[0] <= transform.resize_size[0]


def cropped(picture: Image.Image, preset: ImageClassification) -> Image.Image:
    """The first half of torchvision's preset: what comes before the tensor."""
    resized = F.resize(picture, preset.resize_size, preset.interpolation, antialias=preset.antialias)
    return F.center_crop(resized, preset.crop_size)


def augmented(picture: Image.Image, preset: ImageClassification, augment: CropAndFlip, seed: int) -> Image.Image:
    """`cropped(augment(picture), preset)`, drawn from seed, with one resize instead of two."""
    size, resized = preset.crop_size[0], preset.resize_size[0]
    resample = F.pil_modes_mapping[preset.interpolation]
    return augment.part(picture, random.Random(seed), size, size / resized, resample)


def pixels(picture: Image.Image) -> Tensor:
    """uint8 (3, height, width) of an RGB picture."""
    return torch.from_numpy(np.asarray(picture).transpose(2, 0, 1).copy())


def normalised(images: Tensor, preset: ImageClassification) -> Tensor:
    """The second half of torchvision's preset: uint8 (3, height, width), or a batch, to float32 of the same shape.

    On a CPU image by image, all steps of one while it is in the processor's cache: a third of the time for a batch. By
    NumPy, in one thread: PyTorch's would wait for each other while the worker processes have the cores.
    """
    mean, std = (np.array(numbers, np.float32).reshape(3, 1, 1) for numbers in (preset.mean, preset.std))
    if images.device.type != "cpu":
        mean, std = (torch.from_numpy(numbers).to(images.device) for numbers in (mean, std))
        return images.to(torch.float32).div_(255).sub_(mean).div_(std)
    results = torch.empty(images.shape)
    for result, image in zip(results.numpy(), images.numpy()) if images.dim() == 4 else [(results.numpy(), images)]:
        np.divide(image, np.float32(255), out=result)
        result -= mean
        result /= std
    return results


class Samples(Sequence):
    """What a DataLoader asks for at once: (image float32, label) each, made of uint8 `images` when one looks at it."""

    def __init__(self, images: list[Tensor], labels: list[int], preset: ImageClassification):
        self.images, self.labels, self.preset = images, labels, preset

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return normalised(self.images[index], self.preset), self.labels[index]


def collate(samples: Sequence) -> object:
    """PyTorch's `default_collate`; of `Samples` the same, normalised all at once."""
    batch = collate_pixels(samples)
    if not isinstance(batch, Pixels):
        return batch
    return _OnTheWay(batch) if get_worker_info() else batch.to("cpu")


def collate_pixels(samples: Sequence) -> object:
    """PyTorch's `default_collate`, but `Pixels` of `Samples`: for one who normalises where the model computes."""
    if not isinstance(samples, Samples):
        return default_collate(samples)
    return Pixels(default_collate(samples.images), torch.tensor(samples.labels), samples.preset)


@dataclass
class Pixels:
    """A batch that is not normalised yet: images uint8 (batch, 3, height, width), labels int64 (batch,)."""

    images: Tensor
    labels: Tensor
    preset: ImageClassification

    def pin_memory(self) -> "Pixels":
        """A DataLoader with `pin_memory=True` calls it."""
        return Pixels(self.images.pin_memory(), self.labels, self.preset)

    def to(self, device: torch.device | str) -> list[Tensor]:
        """[images float32 on the device, labels]: a quarter of the bytes on the way to it."""
        images = self.images.to(device, non_blocking=self.images.is_pinned())
        return [normalised(images, self.preset), self.labels]


@dataclass
class _OnTheWay:
    """A batch on its way out of a worker: 8-bit pixels there, and float32 as soon as the main process unpickles it."""

    batch: Pixels

    def __reduce__(self):
        return self.batch.to, ("cpu",)
