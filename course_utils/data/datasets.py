"""Cats and Dogs as datasets, from the real archive or drawn.

Augmentation is a pure function of (seed, epoch, index). No generator has to be saved to continue a training exactly,
and the number of workers does not matter (notebook 03, section "The data order").
"""

import hashlib
import io
import json
import os
from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset
from tqdm.auto import tqdm

from course_utils.data.archive import CLASSES, ArchiveUnreachable, fetch_photos
from course_utils.data.drawing import DRAWING_VERSION, draw
from course_utils.data.pictures import is_whole, read_rgb
from course_utils.data.remote import write_whole
from course_utils.data.views import CropAndFlip, Samples, augmented, cropped, is_preset, normalised, pixels
from course_utils.runtime import data_dir

DRAWN_SEED = 0

# The splits of a class's images, one after the other, again and again: 60, 20 and 20 % of however many there are.
# More images come after those that are there (see find_images), so an image stays in its split.
SPLITS = ("train", "val", "train", "test", "train")

AUGMENT = CropAndFlip()


def find_images(per_class: int = 500, source: str | None = None) -> list[Path]:
    """Get `per_class` images of each class ready on disk; say in one line which images they are and why.

    source: "photos" (the real archive), "drawn" (drawn from a seed, no network), or "auto" (photos if they are on
    disk or the archive answers, else drawn). Default: the environment variable COURSE_DATA, else "auto".
    Returns the files, `…/Cat/…` first, then `…/Dog/…`; more images come after those that fewer images were.
    Raises ValueError for another source, and ArchiveError when photos were asked for and cannot be had, or when the
    images cannot be written.
    """
    asked = source or os.environ.get("COURSE_DATA") or "auto"
    if asked not in ("auto", "photos", "drawn"):
        raise ValueError(f"The data source is {asked!r}; it must be 'auto', 'photos' or 'drawn' (see COURSE_DATA).")
    if per_class < 1:
        raise ValueError(f"per_class is {per_class}; ask for at least 1 image of each class.")
    if asked == "drawn":
        print(f"Images: drawn cats and dogs, {per_class} of each, because the source is 'drawn'.")
        return _draw_images(per_class)
    try:
        files = _photos(per_class)
    except ArchiveUnreachable as error:
        if asked == "photos":
            raise
        print(f"Images: drawn cats and dogs, {per_class} of each, because the photos cannot be had. {error}")
        return _draw_images(per_class)
    print(f"Images: photos, {len(files)} of cats and dogs, because the source is {asked!r} and they are at hand.")
    return files


def _photos(per_class: int) -> list[Path]:
    """The first photos of each class in the archive's order, which the manifest keeps."""
    folder = data_dir() / "photos"
    fetch_photos(folder, per_class)
    names = json.loads((folder / "manifest.json").read_text())["files"]
    by_class = [[folder / name for name in names if Path(name).parent.name == which] for which in CLASSES]
    return [file for files in by_class for file in files[:per_class]]


def _draw_images(per_class: int) -> list[Path]:
    """Draw what is not whole on disk; two notebooks may do so at once."""
    folder = data_dir() / "drawn" / f"version-{DRAWING_VERSION}"
    files = [folder / name / f"{number}.png" for name in CLASSES for number in range(per_class)]
    missing = [file for file in files if not is_whole(file)]
    for file in tqdm(missing, desc="Drawing cats and dogs", delay=2, disable=not missing):
        index = 2 * int(file.stem) + CLASSES.index(file.parent.name)  # even: a cat, odd: a dog
        png = io.BytesIO()
        draw(DRAWN_SEED, index).save(png, format="PNG")
        write_whole(file, png.getvalue())
    return files


class CatsAndDogs(Dataset):
    """Images of one split: `dataset[i]` is (image, label).

    image: what `transform` makes of a PIL RGB image, here a float32 tensor (3, height, width); label: 0 cat, 1 dog.
    `dataset[(epoch, i)]` is the same image under the augmentation of that epoch: a pure function of
    (seed, epoch, i), in whichever process it is computed. `dataset[i]` is never augmented.
    """

    classes = CLASSES
    takes_epochs = True  # asks make_loader for keys (epoch, i)

    def __init__(self, files: list[Path], transform: Callable, augment: Callable | None = None, seed: int = 0):
        """files: paths whose folder is a class name. augment: PIL image to PIL image, random through torch's RNG.

        With `AUGMENT` and torchvision's own preprocessing, the crop and both resizes are one.
        """
        self.files = list(files)
        self.labels = [CLASSES.index(path.parent.name) for path in self.files]
        self.transform = transform
        self.augment = augment
        self.seed = seed
        self.pictures: list[Image.Image] | None = None  # see `decoded`

    def __len__(self) -> int:
        return len(self.files)

    def image(self, index: int) -> Image.Image:
        """The picture itself, 8-bit RGB, as every viewer shows the file (see `as_rgb`).

        Raises ValueError with the file's path when it cannot be read or gives no picture.
        """
        if self.pictures is not None:
            return self.pictures[index]
        try:
            with open(self.files[index], "rb") as file:
                return read_rgb(file)
        except Exception as error:  # on damaged files the decoders raise nearly everything
            raise ValueError(
                f"{self.files[index]} gives no picture ({str(error) or type(error).__name__}). Replace it; one of "
                "the course's own may be deleted, and load_datasets draws or fetches it anew."
            ) from error

    def __getitem__(self, key: int | tuple[int, int]):
        epoch, index = key if isinstance(key, tuple) else (None, key)
        if is_preset(self.transform):
            return normalised(self._pixels(epoch, index), self.transform), self.labels[index]
        return self.transform(self._augmented(epoch, index)), self.labels[index]

    def __getitems__(self, keys: list[int | tuple[int, int]]) -> Sequence:
        """`[dataset[key] for key in keys]`, all that a DataLoader wants for a batch; `collate` takes the fast way."""
        if not is_preset(self.transform) or type(self).__getitem__ is not CatsAndDogs.__getitem__:
            return [self[key] for key in keys]
        keys = [key if isinstance(key, tuple) else (None, key) for key in keys]
        images = [self._pixels(epoch, index) for epoch, index in keys]
        return Samples(images, [self.labels[index] for _, index in keys], self.transform)

    def _pixels(self, epoch: int | None, index: int) -> Tensor:
        """The image before it is normalised: uint8 (3, height, width). The course's own crop costs no second resize."""
        if epoch is not None and type(self.augment) is CropAndFlip:
            seed = seed_of(self.seed, epoch, index)
            return pixels(augmented(self.image(index), self.transform, self.augment, seed))
        return pixels(cropped(self._augmented(epoch, index), self.transform))

    def _augmented(self, epoch: int | None, index: int) -> Image.Image:
        image = self.image(index)
        if self.augment is None or epoch is None:
            return image
        with torch.random.fork_rng(devices=[]):  # leave the RNG that dropout uses as it was
            torch.default_generator.manual_seed(seed_of(self.seed, epoch, index))  # the CPU's; not the GPUs' too
            return self.augment(image)

    def take(self, count: int) -> "CatsAndDogs":
        """The first `count` images, half of them cats and half dogs. Raises ValueError when there are too few."""
        half = count // 2
        by_class = [[file for file, label in zip(self.files, self.labels) if label == which] for which in (0, 1)]
        if count < 2 or count % 2 or half > min(map(len, by_class)):
            raise ValueError(
                f"Cannot take {count} images, half of each class: this split has {len(by_class[0])} cats and "
                f"{len(by_class[1])} dogs. Ask for an even number it can give, or load more images per class."
            )
        files = [file for pair in zip(by_class[0][:half], by_class[1][:half]) for file in pair]
        return CatsAndDogs(files, self.transform, self.augment, self.seed)

    def with_transform(self, transform: Callable) -> "CatsAndDogs":
        """The same images under another transform: each pretrained model brings its own."""
        return CatsAndDogs(self.files, transform, self.augment, self.seed)

    def decoded(self) -> "CatsAndDogs":
        """The same images, decoded once and kept in memory as 8-bit RGB: 3 bytes a pixel, 100 kB for 180 x 180.

        Worth it when you look at them for several epochs. Augmentation and transform stay what they were.
        """
        copy = CatsAndDogs(self.files, self.transform, self.augment, self.seed)
        copy.pictures = [self.image(index) for index in range(len(self))]
        return copy

    def fingerprint(self) -> str:
        """SHA-256 (hex) over what the images are made of: files, labels, transform, augmentation, seed.

        A transform is known by its repr. One that shows an address, such as a lambda, is another one in each process.
        """
        digest = hashlib.sha256(repr((self.transform, self.augment, self.seed, self.labels)).encode())
        for file in self.files:
            digest.update(hashlib.sha256(file.read_bytes()).digest())
        return digest.hexdigest()


def load_datasets(
    transform: Callable,
    per_class: int = 500,
    source: str | None = None,
    augment: Callable | None = None,
    seed: int = 0,
) -> tuple[CatsAndDogs, CatsAndDogs, CatsAndDogs]:
    """Train, validation and test split (60, 20, 20 % of each class) of `per_class` cats and as many dogs.

    An image stays in its split when you load more images. Only the training split is augmented.
    transform: PIL RGB image to tensor. source: see `find_images`. seed: of the augmentation.
    Raises what `find_images` raises, and RuntimeError when a class has no images.
    """
    files = find_images(per_class, source)
    found = sorted({file.parent.name for file in files})
    if found != sorted(CLASSES):
        raise RuntimeError(f"The images are of the classes {found}; exactly {list(CLASSES)} are needed.")
    splits = {"train": [], "val": [], "test": []}
    for name in CLASSES:
        for split, file in zip(cycle(SPLITS), [file for file in files if file.parent.name == name]):
            splits[split].append(file)
    train = CatsAndDogs(splits["train"], transform, augment, seed)
    return train, CatsAndDogs(splits["val"], transform), CatsAndDogs(splits["test"], transform)


def seed_of(*numbers: int) -> int:
    """One 63-bit seed from several numbers. Adding them would give (1, 2) and (2, 1) the same images."""
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1
