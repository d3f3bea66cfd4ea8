"""Drawn cats and dogs: the same bytes everywhere, and different from one another."""

import hashlib
import subprocess
import sys

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from torchvision.transforms.functional import pil_to_tensor

from course_utils.data.drawing import DRAWING_VERSION, draw
from course_utils.models import EfficientNet_Lite0_Weights, efficientnet_lite0


def test_size_and_mode():
    for size in (16, 64, 160):
        image = draw(0, 0, size=size)
        assert image.size == (size, size)
        assert image.mode == "RGB"


def test_same_call_gives_same_bytes():
    for index in range(4):
        assert draw(3, index).tobytes() == draw(3, index).tobytes()


def test_drawing_does_not_touch_the_global_generator():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    draw(0, 0)
    assert np.array_equal(before, np.random.get_state()[1])


def test_another_process_gives_same_bytes():
    program = (
        "from course_utils.data.drawing import draw"
        "; import hashlib; print(hashlib.sha256(draw(5, 7).tobytes()).hexdigest())"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == hashlib.sha256(draw(5, 7).tobytes()).hexdigest()


def test_every_seed_and_index_has_its_own_picture():
    pictures = {draw(seed, index, size=64).tobytes() for seed in range(3) for index in range(20)}
    assert len(pictures) == 60


def test_both_classes_vary():
    for first in (0, 1):
        pictures = np.stack([np.asarray(draw(0, index, size=64), np.float32) for index in range(first, 40, 2)])
        assert pictures.mean(axis=(1, 2)).std(axis=0).min() > 10  # the overall colour changes
        assert pictures.std(axis=0).mean() > 30  # and so does what stands where


def test_features_tell_them_apart_and_coarse_pixels_do_not():
    """As with photos: whoever knows more than these images sees an animal, and who only has them sees patches."""
    pictures = [draw(0, index) for index in range(160)]
    labels = torch.arange(160) % 2
    model = efficientnet_lite0(weights="IMAGENET1K_V1").eval()
    transform = EfficientNet_Lite0_Weights.IMAGENET1K_V1.transforms()
    with torch.inference_mode():
        images = torch.stack([transform(picture) for picture in pictures]).split(32)
        features = torch.cat([model.avgpool(model.features(batch)).flatten(1) for batch in images])
    coarse = torch.stack([pil_to_tensor(picture.resize((16, 16))).flatten().float() for picture in pictures])
    right = {}
    for name, values in {"features": features, "pixels": coarse}.items():
        values = F.normalize(values - values.mean(dim=0))
        likeness = (values @ values.T).fill_diagonal_(-1)
        neighbours = labels[likeness.topk(5).indices].float().mean(dim=1)  # each image by its five nearest others
        right[name] = ((neighbours > 0.5) == labels.bool()).float().mean().item()
    assert right["features"] > 0.85 and right["pixels"] < 0.65, right


def test_the_same_animal_at_another_size():
    large = np.asarray(draw(0, 0, size=128), np.float32).reshape(16, 8, 16, 8, 3).mean(axis=(1, 3))
    small = np.asarray(draw(0, 0, size=64), np.float32).reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
    other = np.asarray(draw(0, 2, size=64), np.float32).reshape(16, 4, 16, 4, 3).mean(axis=(1, 3))
    assert np.abs(large - small).mean() < 0.3 * np.abs(large - other).mean()


@pytest.mark.parametrize("arguments", [(-1, 0), (0, -1), (0, 0, 15)])
def test_bad_input_is_refused(arguments):
    with pytest.raises(ValueError, match="draw needs"):
        draw(*arguments)


def test_the_pictures_are_those_of_this_version():
    means = np.asarray(draw(0, 0), np.float64).mean(axis=(0, 1))
    message = f"draw() has changed: raise DRAWING_VERSION (now {DRAWING_VERSION}) and put these means here"
    assert DRAWING_VERSION == 2, message
    assert means == pytest.approx([196.0, 188.2, 178.8], abs=1), message
