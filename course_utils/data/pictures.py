"""A picture as every viewer shows it, whatever the file: 8-bit RGB, upright, with nothing hidden shining through."""

import warnings
from pathlib import Path
from typing import BinaryIO

import numpy as np
from PIL import Image, ImageOps

BACKGROUND = 128  # 0..255, behind what is transparent: on middle grey a white animal is seen, and a black one too


class UnknownRange(ValueError):
    """The picture's numbers do not say which of them is black and which is white."""


def as_rgb(picture: Image.Image) -> Image.Image:
    """An RGB copy, 0..255: turned as its EXIF data says, over grey where it is transparent, 16 bits scaled to 8.

    `convert("RGB")` alone leaves a phone's photo on its side, shows the colours that transparency hides, and cuts
    16-bit greys off at 255. Raises UnknownRange for 32-bit and float greys, and for a TIFF's 16-bit greys (which may
    mean 12 bits, or 0 for white); and whatever Pillow raises for a damaged file.

    Source: https://pillow.readthedocs.io/en/stable/handbook/concepts.html#modes
    """
    picture.load()  # damage shows here, and not where errors are passed over
    deep = picture.mode in ("I", "F") or picture.mode.startswith("I;16")
    if deep and (picture.mode in ("I", "F") or picture.format == "TIFF"):
        raise UnknownRange(f"grey values of mode {picture.mode}, whose black and white nobody can tell")
    try:
        picture = ImageOps.exif_transpose(picture)
    except Exception:  # an EXIF block that is damaged turns nothing, in viewers neither
        pass
    if deep:
        picture = _in_8_bits(picture)
    if picture.has_transparency_data:
        picture = picture.convert("RGBA")
        picture = Image.alpha_composite(Image.new("RGBA", picture.size, (BACKGROUND,) * 3), picture)
    return picture.convert("RGB")


def read_rgb(file: BinaryIO) -> Image.Image:
    """`as_rgb` of an open file. (Of a path Pillow maps some TIFFs into memory, and misreads those that are turned.)"""
    with warnings.catch_warnings(action="ignore"), Image.open(file) as picture:  # odd EXIF blocks
        return as_rgb(picture)


def is_whole(file: Path) -> bool:
    """Whether a PNG file is there and all its checksums are right, without decoding it: 50 ms for 1,000 drawn ones."""
    try:
        with Image.open(file, formats=["PNG"]) as picture:
            picture.verify()
    except Exception:  # on damaged files the decoders raise nearly everything
        return False
    return True


def _in_8_bits(picture):
    grey = np.array(picture)
    if "transparency" in picture.info:  # one of the 65,536 greys
        grey[grey == picture.info["transparency"]] = 257 * BACKGROUND
    return Image.fromarray((grey / 257).round().astype(np.uint8))
