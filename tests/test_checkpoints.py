"""Checkpoints: whole or absent, verified, safe, kept."""

import random
import shutil
import zipfile

import numpy as np
import pytest
import torch

from course_utils.checkpoints import (
    CheckpointError,
    CheckpointFolder,
    DamagedCheckpoint,
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
    path = save_checkpoint(checkpoint(), tmp_path / "a.pt")
    loaded = load_checkpoint(path)
    assert loaded["step"] == 1 and torch.equal(loaded["weights"], checkpoint()["weights"])
    assert torch.load(path)["step"] == 1, "it is an ordinary file"
    assert [file.name for file in path.parent.iterdir()] == ["a.pt"]


def test_a_failed_save_leaves_the_old_file_and_no_leftovers(tmp_path):
    path = save_checkpoint(checkpoint(), tmp_path / "a.pt")
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"checkpoint\['bad'\] \(a function\)"):
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
    with pytest.raises(CheckpointError, match="another kind of file") as error:
        load_checkpoint(text)
    assert not isinstance(error.value, DamagedCheckpoint)
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("hello.txt", "hello")
    with pytest.raises(CheckpointError, match="other.zip is another kind of file"):
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


def save_all(folder, val_losses):
    for step, val_loss in enumerate(val_losses, start=1):
        folder.save(checkpoint(step, val_loss), new_metrics=True)
    folder.wait()


def names(paths):
    return [path.name for path in paths]


@pytest.mark.parametrize("background", [False, True])
def test_the_folder_keeps_the_last_ones_and_the_best(tmp_path, background):
    folder = CheckpointFolder(tmp_path, keep_last=2, keep_best=2, background=background)
    save_all(folder, [0.5, 0.3, 0.4, 0.3, float("nan"), 0.6])
    assert names(folder.last_paths()) == ["step_00000006.pt", "step_00000005.pt"]
    assert names(folder.best_paths()) == ["best_00000002_val_loss=0.3.pt", "best_00000004_val_loss=0.3.pt"]
    assert len(list(tmp_path.iterdir())) == 4
    assert folder.latest()["step"] == 6
    assert folder.best()["step"] == 2


def test_the_best_is_known_to_a_new_process_and_higher_may_be_better(tmp_path):
    save_all(CheckpointFolder(tmp_path, mode="max"), [0.5, 0.7, 0.6])
    again = CheckpointFolder(tmp_path, mode="max")
    again.save(checkpoint(4, 0.65), new_metrics=True)
    assert again.best()["step"] == 2
    again.save(checkpoint(5, 1e-05), new_metrics=False)
    assert names(again.best_paths()) == ["best_00000002_val_loss=0.7.pt"]


def test_a_damaged_best_gives_its_place_to_the_next(tmp_path):
    folder = CheckpointFolder(tmp_path, keep_best=2)
    save_all(folder, [0.1, 0.2, 0.3])
    flip_a_byte(folder.best_paths()[0])
    with pytest.warns(UserWarning, match="best_00000001.*Falling back"):
        assert folder.best()["step"] == 2
    folder.save(checkpoint(4, 0.25), new_metrics=True)
    assert [int(name[5:13]) for name in names(folder.best_paths())] == [2, 4]


def test_other_files_in_the_folder_are_left_alone(tmp_path):
    for name in ("step_1 (copy).pt", "step_x.pt", "best_friend.pt", "notes.txt", "best_00000001_loss.pt"):
        (tmp_path / name).write_text("mine")
    folder = CheckpointFolder(tmp_path)
    save_all(folder, [0.5, 0.4, 0.3])
    assert folder.latest()["step"] == 3
    assert sum(path.read_bytes() == b"mine" for path in tmp_path.iterdir()) == 5


def test_an_empty_folder_has_nothing(tmp_path):
    folder = CheckpointFolder(tmp_path / "none")
    assert folder.latest() is None and folder.best() is None


def test_the_folder_falls_back_loudly_and_stops_when_nothing_is_good(tmp_path):
    folder = CheckpointFolder(tmp_path)
    for step in (1, 2):
        folder.save(checkpoint(step))
    newest, older = folder.last_paths()
    flip_a_byte(newest)
    with pytest.warns(UserWarning, match="step_00000002.pt is damaged.*Falling back"):
        assert folder.latest()["step"] == 1
    assert (tmp_path / "step_00000002.pt.damaged").exists()
    flip_a_byte(older)
    with pytest.warns(UserWarning), pytest.raises(CheckpointError, match="No checkpoint in .* can be used"):
        folder.latest()
    with pytest.raises(CheckpointError, match="Move them all away"):
        folder.latest()  # still: never from zero because all were set aside
    assert not folder.is_empty()


def test_leftovers_of_a_killed_save_are_cleaned_by_the_next_save_not_by_a_look(tmp_path):
    leftover = tmp_path / "step_00000001.pt.part"
    leftover.write_bytes(b"half")
    folder = CheckpointFolder(tmp_path)
    assert folder.latest() is None and leftover.exists(), "another process may be writing it"
    folder.save(checkpoint(2))
    assert names(tmp_path.iterdir()) == ["step_00000002.pt"]


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
    with pytest.raises(ValueError, match="keep_last is 0"):
        CheckpointFolder(tmp_path, keep_last=0)


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


def test_a_value_that_no_safe_load_accepts_is_refused_when_it_is_saved(tmp_path):
    path = save_checkpoint(checkpoint(1), tmp_path / "a.pt")
    with pytest.raises(CheckpointError, match=r"'accuracy'\] \(a float64\).*\.item\(\)"):
        save_checkpoint({"accuracy": np.float64(0.5)}, path)
    assert load_checkpoint(path)["step"] == 1 and names(tmp_path.iterdir()) == ["a.pt"]


def test_empty_shared_and_odd_tensors_are_loaded_as_they_were(tmp_path):
    big = torch.arange(12.0).reshape(3, 4)
    tensors = {
        "empty": torch.zeros(0),
        "number": torch.tensor(4),
        "half": torch.ones(3, dtype=torch.bfloat16),
        "bool": torch.tensor([True, False]),
        "window": big[:, 1:3],
        "turned": big.T,
        "same": big,
    }
    loaded = load_checkpoint(save_checkpoint(tensors, tmp_path / "a.pt"))
    assert loaded["same"].untyped_storage().data_ptr() == loaded["turned"].untyped_storage().data_ptr()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in tensors.items())


def test_a_background_save_holds_what_was_true_when_it_was_asked_for(tmp_path):
    folder = CheckpointFolder(tmp_path, keep_last=3, background=True)
    weights, history = torch.zeros(1000), [{"epoch": 1}]
    for step in (1, 2, 3):
        folder.save({"step": step, "metrics": {}, "weights": weights, "history": history})
        weights += 1  # the training goes on
        history.append({"epoch": step + 1})
    folder.wait()
    for step, path in enumerate(reversed(folder.last_paths()), start=1):
        loaded = load_checkpoint(path)
        assert loaded["step"] == step == len(loaded["history"]) and loaded["weights"].unique().tolist() == [step - 1]


def test_an_error_in_the_background_surfaces_at_the_next_step(tmp_path):
    folder = CheckpointFolder(tmp_path, background=True)
    folder.save(checkpoint(1))
    folder.wait()
    folder.save({**checkpoint(2), "bad": np.float64(1)})
    with pytest.raises(CheckpointError, match="step_00000002.pt was not saved"):
        while True:
            folder.check()
    folder.save(checkpoint(3))
    folder.wait()
    assert [load_checkpoint(path)["step"] for path in folder.last_paths()] == [3, 1]


def test_a_mirror_gets_the_same_files_and_resume_takes_the_newest_of_both(tmp_path):
    local, drive = tmp_path / "vm", tmp_path / "drive" / "run"
    drive.parent.mkdir()
    save_all(CheckpointFolder(local, mirror=drive), [0.5, 0.3, 0.4])
    assert sorted(names(local.iterdir())) == sorted(names(drive.iterdir()))
    shutil.rmtree(local)  # the machine is gone
    folder = CheckpointFolder(local, mirror=drive)
    assert folder.latest()["step"] == 3 and folder.best()["step"] == 2 and not folder.is_empty()
    folder.save(checkpoint(4, 0.6), new_metrics=True)
    flip_a_byte(local / "step_00000004.pt")
    with pytest.warns(UserWarning, match="damaged"):
        assert folder.latest()["step"] == 4, "the copy in the mirror is good"
    assert folder.best()["step"] == 2


def test_a_mirror_that_disappears_warns_is_not_made_and_catches_up(tmp_path):
    drive = tmp_path / "drive"
    drive.mkdir()
    folder = CheckpointFolder(tmp_path / "vm", mirror=drive / "run")
    folder.save(checkpoint(1))
    drive.rename(tmp_path / "unplugged")
    with pytest.warns(UserWarning, match="mirror .* has no copy of step_00000002.pt"):
        folder.save(checkpoint(2))
    assert not drive.exists(), "what is not mounted must not be made on the local disk"
    (tmp_path / "unplugged").rename(drive)
    folder.save(checkpoint(3))
    assert names(folder.last_paths(drive / "run")) == ["step_00000003.pt", "step_00000002.pt"]


def test_a_copy_that_came_out_wrong_is_tried_again_and_never_gets_the_name(tmp_path, monkeypatch):
    copy_whole, tries = shutil.copyfileobj, []

    def copy_half_the_first_time(source, target, length):
        tries.append(1)
        if len(tries) == 1:
            return target.write(source.read(1000))
        return copy_whole(source, target, length)

    monkeypatch.setattr(shutil, "copyfileobj", copy_half_the_first_time)
    folder = CheckpointFolder(tmp_path / "vm", mirror=tmp_path / "drive")
    folder.save(checkpoint(1))
    assert len(tries) == 2
    assert load_checkpoint(tmp_path / "drive" / "step_00000001.pt")["step"] == 1
    assert names((tmp_path / "drive").iterdir()) == ["step_00000001.pt"]
