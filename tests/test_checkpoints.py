"""Checkpoints: whole or absent, verified, safe, kept."""

import random
import zipfile

import numpy as np
import pytest
import torch

from course_utils import checkpoints
from course_utils.checkpoints import (
    CheckpointError,
    CheckpointFolder,
    copy_verified,
    load_checkpoint,
    restore_rng,
    rng_state,
    save_checkpoint,
    weights_sha256,
)


def checkpoint(step=1, val_loss=0.5):
    return {"step": step, "metrics": {"val_loss": val_loss}, "weights": torch.arange(4000.0) + step}


def flip_a_byte(path):
    """Flip one byte in the middle of a tensor: torch.load does not notice."""
    content = bytearray(path.read_bytes())
    with zipfile.ZipFile(path) as archive:
        record = max(archive.infolist(), key=lambda record: record.file_size)
    content[record.header_offset + record.file_size // 2] ^= 1
    path.write_bytes(content)


def test_what_is_saved_is_loaded(tmp_path):
    path = save_checkpoint(checkpoint(), tmp_path / "new" / "folder" / "a.pt")
    loaded = load_checkpoint(path)
    assert loaded["step"] == 1 and torch.equal(loaded["weights"], checkpoint()["weights"])
    assert torch.load(path)["step"] == 1, "it is an ordinary file"
    assert [file.name for file in path.parent.iterdir()] == ["a.pt"]


def test_a_failed_save_leaves_the_old_file_and_no_leftovers(tmp_path):
    path = save_checkpoint(checkpoint(), tmp_path / "a.pt")
    before = path.read_bytes()
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint({"weights": torch.zeros(9), "bad": lambda: None}, path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_flipped_byte_loads_silently_with_torch_and_is_refused_here(tmp_path):
    path = save_checkpoint(checkpoint(), tmp_path / "a.pt")
    flip_a_byte(path)
    assert not torch.equal(torch.load(path)["weights"], checkpoint()["weights"])
    with pytest.raises(CheckpointError, match="CRC-32"):
        load_checkpoint(path)


@pytest.mark.parametrize("kept", [0, 1, 100, 0.5, 0.999])
def test_a_cut_file_is_refused(tmp_path, kept):
    path = save_checkpoint(checkpoint(), tmp_path / "a.pt")
    content = path.read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if isinstance(kept, float) else kept])
    with pytest.raises(CheckpointError, match=r"a\.pt is (empty|not a whole checkpoint)"):
        load_checkpoint(path)


def test_a_foreign_or_missing_file_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="does not exist"):
        load_checkpoint(tmp_path / "missing.pt")
    text = tmp_path / "text.pt"
    text.write_text("hello, I am not a checkpoint")
    with pytest.raises(CheckpointError, match="not a whole checkpoint"):
        load_checkpoint(text)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(CheckpointError, match="not written by torch.save"):
        load_checkpoint(tmp_path / "other.zip")


class Planted:
    """A pickle that would run code when it is loaded."""

    def __reduce__(self):
        return (print, ("planted code ran",))


def test_a_planted_pickle_is_refused_and_does_not_run(tmp_path, capsys):
    torch.save({"step": 1, "planted": Planted()}, tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match="weights_only=True"):
        load_checkpoint(tmp_path / "a.pt")
    assert "planted code ran" not in capsys.readouterr().out


def test_the_folder_keeps_the_last_ones_and_the_best(tmp_path):
    folder = CheckpointFolder(tmp_path, keep=2)
    for step, val_loss in enumerate([0.5, 0.3, 0.4], start=1):
        if folder.is_better(val_loss, than={1: None, 2: 0.5, 3: 0.3}[step]):
            folder.save_best(checkpoint(step, val_loss))
        folder.save(checkpoint(step, val_loss))
    assert [path.name for path in folder.paths()] == ["step_00000003.pt", "step_00000002.pt"]
    assert folder.latest()["step"] == 3
    assert folder.best()["step"] == 2


def test_an_empty_folder_has_nothing(tmp_path):
    folder = CheckpointFolder(tmp_path / "none")
    assert folder.latest() is None and folder.best() is None


def test_the_folder_falls_back_loudly_and_stops_when_nothing_is_good(tmp_path):
    folder = CheckpointFolder(tmp_path)
    paths = [folder.save(checkpoint(step)) for step in (1, 2)]
    flip_a_byte(paths[1])
    with pytest.warns(UserWarning, match="step_00000002.pt is damaged.*Falling back"):
        assert folder.latest()["step"] == 1
    flip_a_byte(paths[0])
    with pytest.warns(UserWarning), pytest.raises(CheckpointError, match="None of the 2 checkpoints"):
        folder.latest()


def test_leftovers_of_a_killed_save_are_cleaned(tmp_path):
    (tmp_path / "step_00000001.pt.part").write_bytes(b"half")
    CheckpointFolder(tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("mode", "value", "than", "better"),
    [("min", 1, None, True), ("min", 1, 2, True), ("min", 2, 2, False), ("max", 3, 2, True), ("max", 1, 2, False)],
)
def test_better_means_lower_or_higher(tmp_path, mode, value, than, better):
    folder = CheckpointFolder(tmp_path, mode=mode)
    assert folder.is_better(value, than) is better
    assert not folder.is_better(float("nan"), None)


def test_bad_arguments_of_the_folder_are_refused(tmp_path):
    with pytest.raises(ValueError, match="mode is 'low'"):
        CheckpointFolder(tmp_path, mode="low")
    with pytest.raises(ValueError, match="keep is 0"):
        CheckpointFolder(tmp_path, keep=0)


def test_the_random_generators_go_on_where_they_were(tmp_path):
    def numbers():
        return random.random(), np.random.randn(), np.random.rand(), torch.rand(3).tolist()

    np.random.randn()  # leaves a second Gaussian number in the generator
    path = save_checkpoint({"rng": rng_state()}, tmp_path / "rng.pt")
    first = numbers()
    restore_rng(load_checkpoint(path)["rng"])
    assert numbers() == first


def test_the_hash_of_the_weights_sees_one_bit_and_not_the_order():
    weights = {"a": torch.zeros(3), "b": torch.ones(2, dtype=torch.bfloat16), "n": torch.tensor(4)}
    assert weights_sha256(weights) == weights_sha256(dict(reversed(weights.items())))
    changed = {**weights, "a": torch.tensor([0.0, -0.0, 0.0])}
    assert weights_sha256(weights) != weights_sha256(changed)


def test_a_copy_is_checked_before_it_gets_its_name(tmp_path, monkeypatch):
    path = save_checkpoint(checkpoint(1), tmp_path / "a.pt")
    copy = copy_verified(path, tmp_path / "drive")
    assert load_checkpoint(copy)["step"] == 1
    save_checkpoint(checkpoint(2), path)

    def copy_half(source, target):
        target.write_bytes(source.read_bytes()[:1000])

    monkeypatch.setattr(checkpoints.shutil, "copyfile", copy_half)
    with pytest.raises(CheckpointError):
        copy_verified(path, tmp_path / "drive")
    assert load_checkpoint(copy)["step"] == 1, "the older copy stays"
    assert list((tmp_path / "drive").iterdir()) == [copy]
