"""Where am I: folders and seeds."""

import random
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from course_utils import runtime
from course_utils.checkpoints import restore_rng, rng_state


def test_data_dir_is_the_environment_variable_or_data_of_the_checkout(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path / "elsewhere"))
    assert runtime.data_dir() == tmp_path / "elsewhere"
    monkeypatch.delenv("COURSE_DATA_DIR")
    assert runtime.data_dir() == Path(__file__).resolve().parent.parent / "data"


def test_data_dir_of_an_installed_package_is_in_the_working_folder(monkeypatch, tmp_path):
    monkeypatch.delenv("COURSE_DATA_DIR", raising=False)
    monkeypatch.setattr(runtime, "__file__", str(tmp_path / "site-packages" / "course_utils" / "runtime.py"))
    monkeypatch.chdir(tmp_path)
    assert runtime.data_dir() == tmp_path / "data"


def test_the_same_seed_gives_the_same_numbers_in_all_three_generators():
    def numbers():
        runtime.seed_everything(7)
        return random.random(), np.random.rand(), torch.rand(1).item()

    assert numbers() == numbers()


@pytest.mark.parametrize("factor, expected", [(0.5, torch.bfloat16), (0.9, None), (10, None)])
def test_bfloat16_is_chosen_where_it_is_measured_to_be_faster(monkeypatch, factor, expected):
    speed = {torch.float32: 1.0, torch.bfloat16: factor}
    monkeypatch.setattr(runtime, "_seconds_of_a_convolution", speed.get)
    runtime.fast_dtype.cache_clear()
    assert runtime.fast_dtype("cpu") is expected
    runtime.fast_dtype.cache_clear()


def test_on_a_disk_of_your_own_there_is_no_other_folder_to_keep_things_in():
    assert not runtime.in_colab() and not runtime.in_kaggle()
    assert runtime.drive_dir() is None and runtime.kept_dir() is None


def test_kaggle_keeps_its_working_folder_and_the_images_land_elsewhere(monkeypatch, tmp_path):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")
    monkeypatch.delenv("COURSE_DATA_DIR", raising=False)
    monkeypatch.setattr(runtime, "KAGGLE", tmp_path)
    monkeypatch.setattr(runtime, "__file__", str(tmp_path / "site-packages" / "course_utils" / "runtime.py"))
    assert runtime.in_kaggle() and not runtime.in_colab()
    assert runtime.kept_dir() == tmp_path / "working" / "course_checkpoints" and runtime.kept_dir().is_dir()
    assert runtime.data_dir() == tmp_path / "temp" / "data"


def test_a_refused_drive_is_said_and_gives_none(monkeypatch, capsys):
    def refuse(mount_point):
        raise ValueError("mount failed")

    drive = SimpleNamespace(mount=refuse)
    monkeypatch.setitem(sys.modules, "google", SimpleNamespace())
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace(drive=drive))
    assert runtime.in_colab()
    assert runtime.drive_dir() is None and runtime.kept_dir() is None
    assert "mount failed" in capsys.readouterr().out


def test_another_number_of_gpus_is_said_and_the_other_generators_go_on():
    state = rng_state()
    expected = random.random(), np.random.rand(), torch.rand(1).item()
    state["cuda"] = [*state["cuda"], torch.zeros(16, dtype=torch.uint8)]
    with pytest.warns(UserWarning, match="not exact"):
        restore_rng(state)
    assert (random.random(), np.random.rand(), torch.rand(1).item()) == expected
