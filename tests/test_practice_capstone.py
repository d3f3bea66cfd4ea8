"""The capstone: its reference solution passes, and each way to fail is told."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from course_utils.data import load_datasets
from course_utils.practice import capstone

REFERENCE = Path(__file__).parent / "capstone"
FAKE = """
import sys, time
from pathlib import Path
done = int(Path("done").read_text()) if Path("done").exists() and {keeps} else 0
for epoch in range(done + 1, {epochs} + 1):
    Path("done").write_text(str(epoch))
    print("epoch", epoch, flush=True)
    time.sleep(0.6 if epoch < 5 else 0)
{end}
"""


def test_the_reference_solution_passes(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(REFERENCE.parent.parent))
    shutil.copytree(REFERENCE, tmp_path / "project")
    assert capstone.main(tmp_path / "project") is None
    lines = capsys.readouterr().out.splitlines()
    assert len([line for line in lines if line.startswith("✓")]) == 4 and lines[-1].endswith("well done.")


@pytest.mark.parametrize(
    "keeps, epochs, end, said",
    [
        (False, 8, "", "started again with epoch 1: what it had learned is lost"),
        (True, 2, "", "It ended before it could be killed 3 times"),
        (True, 8, "", "wrote no handover.pt"),
        (True, 8, "raise ValueError('no')", "ended with an error after 3 kills: ValueError: no"),
    ],
)
def test_what_does_not_survive_its_kills_is_told(tmp_path, keeps, epochs, end, said):
    (tmp_path / "train.py").write_text(FAKE.format(keeps=keeps, epochs=epochs, end=end))
    with pytest.raises(capstone.Failed, match=said.replace("(", r"\(")):
        capstone.survive_three_kills(tmp_path, random.Random(0))


def test_an_empty_folder_is_told(tmp_path):
    assert "There is no train.py" in capstone.main(tmp_path)


@pytest.mark.parametrize(
    "content, said",
    [
        ({"model": torch.nn.Linear(1, 1)}, "cannot open handover.pt safely"),
        ({"weight": torch.ones(1), "accuracy": np.float64(0.9)}, "cannot open handover.pt safely"),
        ({"classes": ["cat", "dog"]}, "holds no weights"),
        ([torch.ones(1)], "holds no weights"),
    ],
)
def test_a_file_that_a_stranger_cannot_use_is_told(tmp_path, content, said):
    torch.save(content, tmp_path / "handover.pt")
    with pytest.raises(capstone.Failed, match=said):
        capstone.read(tmp_path / "handover.pt")


@pytest.mark.parametrize(
    "files, said",
    [
        ([], "does not say what it was trained on"),
        ([f"Cat/{number}.png" for number in range(101)], "101 images, and 100 are allowed"),
        (["Cat/7.png"], "Cat/7.png is no training image"),
    ],
)
def test_images_that_are_not_allowed_are_told(files, said):
    with pytest.raises(capstone.Failed, match=said):
        capstone.check_images({"train_files": files}, {"Cat/1.png"})


@pytest.fixture
def test_set():
    return load_datasets(lambda image: image, per_class=300)[2].take(20)


@pytest.mark.parametrize(
    "body, said",
    [
        ("return ['Cat'] * len(pictures)", "50% is a guess"),
        ("return ['lion'] * len(pictures)", "should return one of"),
        ("return ['Cat']", "should return one of"),
        ("raise OSError('no file')", "a stranger gets no answers: OSError: no file"),
    ],
)
def test_answers_that_miss_the_goal_are_told(tmp_path, test_set, body, said):
    (tmp_path / "predict.py").write_text(f"def predict(path, pictures):\n    {body}\n")
    with pytest.raises(capstone.Failed, match=said):
        capstone.check_accuracy(tmp_path, test_set)


def test_a_flipped_bit_that_nobody_notices_is_told(tmp_path):
    (tmp_path / "predict.py").write_text("def predict(path, pictures):\n    return ['Cat']\n")
    (tmp_path / "handover.pt").write_bytes(bytes(1000))
    (tmp_path / "pictures.json").write_text("[]")
    with pytest.raises(capstone.Failed, match="One bit in handover.pt was flipped"):
        capstone.check_damage(tmp_path)
