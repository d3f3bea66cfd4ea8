"""A release folder: a model that a stranger can rebuild from this folder alone, and check.

python -m course_utils.sharing verify FOLDER [--sha256 HASH]

In it are `model.safetensors`, the weights; `config.json`, which known model they fit, and the preprocessing;
`passport.json`, the accuracy on a named split, with the machine and the versions that gave it; `README.md`, the model
card; `SHA256SUMS`. No code of a folder is ever run. Source: notebook 08, sections "A release folder", "The passport".
"""

import argparse
import contextlib
import hashlib
import io
import json
import platform
import re
import sys
from importlib.metadata import version
from pathlib import Path

import safetensors.torch
import torch
from torch import nn
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from course_utils.cards import model_card
from course_utils.checkpoints import whole_or_absent
from course_utils.data import ArchiveError, CatsAndDogs, load_datasets, make_loader
from course_utils.data.drawing import DRAWING_VERSION
from course_utils.models import build_model
from course_utils.training import evaluate

FILES = ("README.md", "config.json", "model.safetensors", "passport.json")
SUMS = "SHA256SUMS"
OF_THE_HUB = {".gitattributes"}  # the Hub adds it to every repository
PACKAGES = ("torch", "torchvision", "numpy", "pillow", "safetensors")


class ReleaseError(Exception):
    """A folder that is not the release that it should be: the message says what is wrong, and what to do."""


def save_release(
    folder: str | Path,
    model: nn.Module,
    name: str,
    classes: tuple[str, ...],
    transform: ImageClassification,
    split: dict,
    data: str,
    license: str,
    limits: list[str],
) -> str:
    """Evaluate the model on a named split, write the release folder, and return the SHA-256 of its SHA256SUMS.

    name: of the model, as `build_model` knows it. split: {"source": "drawn" or "photos", "per_class": images loaded of
    each class, "split": "val" or "test"}. data: what the model was trained on, and its licence. license: of the
    weights, in the words of the Hub, such as "mit". limits: what the model is not good for, a sentence each.
    Publish the returned hash in another place. Raises ValueError for a model that `name` does not build and for an
    unknown split, FileExistsError for a folder that holds anything, CheckpointError when it cannot be written.
    """
    folder, config = Path(folder), {"model": name, "classes": list(classes), "transform": _as_plain(transform)}
    weights = {key: tensor.detach().cpu().contiguous() for key, tensor in model.state_dict().items()}
    try:
        rebuilt, transform = _rebuild(config, safetensors.torch.save(weights))
        images, passport = _images(split, transform), {"split": split}
    except ReleaseError as error:
        raise ValueError(f"Nothing was written: {error}") from error
    if folder.exists() and any(folder.iterdir()):
        raise FileExistsError(f"{folder} is not empty. Choose another folder, so that nothing is lost.")
    passport |= {"images": len(images), "correct": _correct(rebuilt, images), "pixels": _pixels(images)}
    passport |= {"within": max(1, len(images) // 100), "machine": _machine(), "versions": _versions()}
    contents = {
        "model.safetensors": safetensors.torch.save(weights),
        "config.json": json.dumps(config, indent=1).encode(),
        "passport.json": json.dumps(passport, indent=1).encode(),
        "README.md": model_card(folder.name, config, passport, data, license, limits).encode(),
    }
    sums = "".join(f"{hashlib.sha256(contents[name]).hexdigest()}  {name}\n" for name in FILES).encode()
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in {**contents, SUMS: sums}.items():
        with whole_or_absent(folder / file) as opened:
            opened.write(content)
    return hashlib.sha256(sums).hexdigest()


def verify(folder: str | Path, sha256: str | None = None) -> str:
    """Rebuild the model from the folder alone, evaluate it on the named split, and say in a sentence what came out.

    sha256: of the release, as its maker has published it elsewhere. Without it the folder is only known to agree with
    itself. On a machine of the stated class, with the same versions and pixels, the number must be the stated one; on
    another one it may differ by the stated bound. Raises ReleaseError for whatever is not so.
    """
    contents, found = read_release(folder)
    if sha256 and sha256.lower() != found:
        raise ReleaseError(f"{folder} is another release: its SHA-256 is {found}, and {sha256} was published.")
    config, passport = (_json(folder, name, contents[name]) for name in ("config.json", "passport.json"))
    try:
        stated, within = int(passport["correct"]), min(int(passport["within"]), int(passport["images"]) // 50)
        here = {"machine": _machine(), "versions": _versions()}
        there = {key: dict(passport[key]) for key in here}
        split = dict(passport["split"])
    except (LookupError, TypeError, ValueError) as error:
        raise ReleaseError(f"{folder}/passport.json does not state what it should: {error!r}.") from error
    model, transform = _rebuild(config, contents["model.safetensors"])
    images = _images(split, transform)
    if len(images) != passport.get("images"):
        raise ReleaseError(f"The split has {len(images)} images here, and the passport says {passport.get('images')}.")
    correct, other = _correct(model, images), []
    for group in here:
        other += [f"{key} {here[group][key]}" for key in here[group] if here[group][key] != there[group].get(key)]
    if _pixels(images) != passport.get("pixels"):
        other.append("other pixels")
    allowed = within if other else 0
    said = f"{correct} of {len(images)} are right ({correct / len(images):.1%}), and {stated} were stated"
    if abs(correct - stated) > allowed:
        raise ReleaseError(f"{said}: more apart than the {allowed} allowed here. Do not use this model.")
    if other:
        return f"{said}. Another class of machine ({', '.join(other)}): {within} more or less are allowed."
    return f"{said}. The same class of machine: no difference is allowed."


def read_release(folder: str | Path) -> tuple[dict[str, bytes], str]:
    """({name: bytes} of the files, each with the SHA-256 that is listed for it, and the SHA-256 of the list).

    Raises ReleaseError for a missing, added, renamed or changed file, and for a list that is none.
    """
    folder = Path(folder)
    try:
        there = {path.name: path for path in folder.iterdir() if path.name not in OF_THE_HUB}
        if folders := [name for name, path in there.items() if not path.is_file()]:
            raise ReleaseError(f"{folder} holds {min(folders)}, which is no file: take it away.")
        if SUMS not in there:
            raise ReleaseError(f"{folder} has no {SUMS}: it is no release, or a part of one.")
        contents = {name: path.read_bytes() for name, path in there.items()}
    except OSError as error:
        raise ReleaseError(f"{folder} cannot be read: {error.strerror}. Give the folder of a release.") from error
    sums = contents.pop(SUMS)
    listed = dict(reversed(line) for line in re.findall(r"^([0-9a-f]{64})  (\S+)$", sums.decode("latin-1"), re.M))
    if sorted(listed) != sorted(FILES) or sums.count(b"\n") != len(FILES):
        raise ReleaseError(f"{folder}/{SUMS} does not list exactly {', '.join(FILES)}: get the release again.")
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    added, missing = sorted(hashes.keys() - listed.keys()), sorted(listed.keys() - hashes.keys())
    for name in added:
        if renamed := [old for old in missing if listed[old] == hashes[name]]:
            raise ReleaseError(f"{folder}/{name} is {renamed[0]} under another name: rename it back.")
        raise ReleaseError(f"{folder}/{name} does not belong to the release: somebody has added it. Take it away.")
    for name in missing:
        raise ReleaseError(f"{folder}/{name} is missing: get the release again.")
    for name in FILES:
        if hashes[name] != listed[name]:
            raise ReleaseError(f"{folder}/{name} was changed: its SHA-256 is not the listed one. Get it again.")
    return contents, hashlib.sha256(sums).hexdigest()


def _json(folder, name: str, content: bytes) -> dict:
    try:
        read = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ReleaseError(f"{folder}/{name} is no JSON ({error}).") from error
    if not isinstance(read, dict):
        raise ReleaseError(f"{folder}/{name} holds no names and values.")
    return read


def _as_plain(transform: ImageClassification) -> dict:
    plain = {"crop_size": transform.crop_size[0], "resize_size": transform.resize_size[0]}
    plain |= {"mean": list(transform.mean), "std": list(transform.std)}
    return plain | {"interpolation": transform.interpolation.value, "antialias": transform.antialias}


def _rebuild(config: dict, weights: bytes) -> tuple[nn.Module, ImageClassification]:
    """The model and its preprocessing, by this package's own code. Raises ReleaseError for what it does not know."""
    try:
        model, _ = build_model(config["model"], len(config["classes"]), pretrained=False)
        options = dict(config["transform"])
        if not 16 <= options["crop_size"] <= options["resize_size"] <= 1024:
            raise ValueError("its pictures are too small or too large")
        interpolation = InterpolationMode(options.pop("interpolation"))
        transform = ImageClassification(**options, interpolation=interpolation)
        model.load_state_dict(safetensors.torch.load(weights), strict=True)
    except Exception as error:  # a stranger's values may be anything, and so is what they raise
        said = " ".join(str(error).split())[:200]
        raise ReleaseError(f"No known model comes out of config.json and model.safetensors ({said}).") from error
    return model.eval(), transform


def _images(split: dict, transform: ImageClassification) -> CatsAndDogs:
    """The named split. Raises ReleaseError for one that cannot be had here."""
    known = {"source": ("drawn", "photos"), "split": ("val", "test")}
    if wrong := [key for key, values in known.items() if split.get(key) not in values]:
        raise ReleaseError(f"The split's {wrong[0]} is {split.get(wrong[0])!r}; known are {known[wrong[0]]}.")
    if split["source"] == "drawn" and split.setdefault("drawing", DRAWING_VERSION) != DRAWING_VERSION:
        raise ReleaseError(
            f"The split is of drawing version {split['drawing']}, and this program draws version {DRAWING_VERSION}."
        )
    per_class = split.get("per_class")
    if type(per_class) is not int or not 5 <= per_class <= 12_499:
        raise ReleaseError(f"The split's per_class is {per_class!r}; a number from 5 to 12499 is needed.")
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            _, val, test = load_datasets(transform, per_class, split["source"])
    except (ArchiveError, RuntimeError, ValueError) as error:
        raise ReleaseError(f"The images of the split cannot be had. {error}") from error
    return {"val": val, "test": test}[split["split"]]


def _correct(model: nn.Module, images: CatsAndDogs) -> int:
    """On the CPU: there it can be the same in every bit."""
    return round(evaluate(model, make_loader(images, batch_size=10))[1] * len(images))


def _pixels(images: CatsAndDogs) -> str:
    digest = hashlib.sha256()
    for index, label in enumerate(images.labels):
        picture = images.image(index)
        digest.update(repr((picture.size, label)).encode() + picture.tobytes())
    return digest.hexdigest()


def _machine() -> dict:
    """What decides about the last digits on a CPU."""
    return {
        "processor": platform.machine(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": torch.get_num_threads(),
    }


def _versions() -> dict:
    return {name: version(name) for name in PACKAGES}


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m course_utils.sharing", description=__doc__.splitlines()[0])
    parser.add_argument("command", choices=["verify"])
    parser.add_argument("folder")
    parser.add_argument("--sha256", help="of the release, as its maker has published it")
    options = parser.parse_args(arguments)
    try:
        print(verify(options.folder, options.sha256))
    except ReleaseError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
