"""Checkpoints: whole or absent, verified, safe, kept."""

import errno
import os
import random
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.utils.serialization.config
from torch import nn

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
from course_utils.checkpoints import durable as durable


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


def test_an_error_in_the_background_that_nobody_asks_for_is_said_when_the_program_ends(tmp_path):
    program = (
        "import sys; from course_utils.checkpoints import CheckpointFolder\n"
        "folder = CheckpointFolder(sys.argv[1], background=True)\n"
        "folder.save({'step': 1, 'metrics': {}, 'bad': print})"
    )
    run = subprocess.run([sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True)
    assert "nobody waited for it" in run.stderr and "step_00000001.pt was not saved" in run.stderr


def test_a_new_best_is_written_once_and_damage_to_it_falls_back_to_the_step_before(tmp_path):
    folder = CheckpointFolder(tmp_path)
    save_all(folder, [0.5, 0.4])
    last, best = folder.last_paths()[0], folder.best_paths()[0]
    assert last.samefile(best) and not folder.last_paths()[1].samefile(best)
    flip_a_byte(best)
    with pytest.warns(UserWarning, match="Falling back"):
        assert folder.latest()["step"] == 1
    apart = CheckpointFolder(tmp_path / "apart", keep_last=1)  # no step before it is kept
    save_all(apart, [0.5])
    assert not apart.last_paths()[0].samefile(apart.best_paths()[0])


def test_without_hard_links_a_new_best_is_written_twice(tmp_path, monkeypatch):
    def no_links(*_):
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", no_links)
    folder = CheckpointFolder(tmp_path)
    save_all(folder, [0.5])
    assert not folder.last_paths()[0].samefile(folder.best_paths()[0])
    assert names(sorted(tmp_path.iterdir())) == ["best_00000001_val_loss=0.5.pt", "step_00000001.pt"]


def test_a_second_training_that_counts_from_the_start_is_told(tmp_path):
    save_all(CheckpointFolder(tmp_path), [0.5, 0.4, 0.3])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    for step in (0, 1, 3):
        with pytest.raises(CheckpointError, match=f"Step {step} does not come after the newest checkpoint"):
            CheckpointFolder(tmp_path).save(checkpoint(step, 0.1), new_metrics=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    knows = CheckpointFolder(tmp_path)
    knows.latest()
    knows.save(checkpoint(3, 0.2), new_metrics=True)  # goes on from there
    with pytest.raises(ValueError, match=r"checkpoint\['step'\] is -1"):
        knows.save(checkpoint(-1))
    with pytest.raises(ValueError, match="no 'val_loss' in checkpoint"):
        knows.save({"step": 4, "metrics": {"val_acc": 1}}, new_metrics=True)


@pytest.mark.parametrize("metric", ["val/rmse", "recall@5", "a=b", "größe", "../x", "mAP 50"])
def test_any_name_of_a_metric_makes_a_file_name(tmp_path, metric):
    folder = CheckpointFolder(tmp_path, metric, "max")
    for step, value in ((1, 0.5), (2, 0.9), (3, 0.7)):
        folder.save({"step": step, "metrics": {metric: value}}, new_metrics=True)
    assert CheckpointFolder(tmp_path, metric, "max").best()["step"] == 2
    assert len(list(tmp_path.iterdir())) == 3


def test_a_metric_that_is_no_loss_needs_its_mode(tmp_path):
    with pytest.raises(ValueError, match="say 'min' when a lower val_accuracy is better, else 'max'"):
        CheckpointFolder(tmp_path, "val_accuracy")
    assert CheckpointFolder(tmp_path, "train/loss").mode == "min"


@pytest.mark.parametrize(
    "value",
    [lambda x: x, np.float64(1), Path("x"), 2**3000, torch.channels_last, range(3), object(), nn.Linear(1, 1)],
    ids=lambda value: type(value).__name__,
)
def test_what_no_safe_load_accepts_is_named_with_its_place(tmp_path, value):
    with pytest.raises(CheckpointError, match=rf"checkpoint\['deep'\]\[1\]\['v'\] \(a {type(value).__name__}\)"):
        save_checkpoint({"deep": [0, {"v": value}]}, tmp_path / "a.pt")
    assert not list(tmp_path.iterdir())


def test_options_of_pytorch_change_nothing(tmp_path):
    folder = CheckpointFolder(tmp_path, keep_last=3)
    folder.save(checkpoint(1))
    torch.serialization.set_crc32_options(False)
    torch.utils.serialization.config.load.mmap = True
    torch.set_default_device("meta")
    try:
        assert folder.latest()["weights"].device.type == "cpu"
        folder.save({"step": 2, "metrics": {}, "weights": torch.arange(4000.0, device="cpu")})
        assert not torch.serialization.get_crc32_options()
    finally:
        torch.set_default_device(None)
        torch.utils.serialization.config.load.mmap = False
        torch.serialization.set_crc32_options(True)
    assert torch.equal(folder.latest()["weights"], torch.arange(4000.0))
    flip_a_byte(folder.last_paths()[0])
    with pytest.raises(DamagedCheckpoint):
        load_checkpoint(folder.last_paths()[0])


def test_older_and_other_formats_are_told_apart_and_keep_their_name(tmp_path):
    legacy, protocol = tmp_path / "step_00000001.pt", tmp_path / "b.pt"
    torch.save({"a": torch.ones(2)}, legacy, _use_new_zipfile_serialization=False)
    torch.save({"a": torch.ones(2)}, protocol, pickle_protocol=4)
    for path, said in ((legacy, "format from before PyTorch 1.6.*save it again"), (protocol, "pickle_protocol other")):
        with pytest.raises(CheckpointError, match=said) as error:
            load_checkpoint(path)
        assert not isinstance(error.value, DamagedCheckpoint)
    with pytest.warns(UserWarning), pytest.raises(CheckpointError, match="move it away"):
        CheckpointFolder(tmp_path).latest()
    assert legacy.exists()


def test_the_name_of_an_earlier_damaged_file_is_not_overwritten(tmp_path):
    folder = CheckpointFolder(tmp_path)
    for _ in range(2):
        folder.save(checkpoint(1))
        folder.save(checkpoint(2))
        flip_a_byte(tmp_path / "step_00000002.pt")
        with pytest.warns(UserWarning, match="set aside as step_00000002.pt.damaged"):
            assert folder.latest()["step"] == 1
    assert {"step_00000002.pt.damaged", "step_00000002.pt.damaged-2"} <= {path.name for path in tmp_path.iterdir()}


def test_a_new_machine_gets_the_best_back_from_the_mirror(tmp_path):
    drive = tmp_path / "drive"
    save_all(CheckpointFolder(tmp_path / "old", mirror=drive), [0.5, 0.1, 0.4, 0.4])
    new = CheckpointFolder(tmp_path / "new", mirror=drive)
    assert new.latest()["step"] == 4
    new.save(checkpoint(5, 0.3), new_metrics=True)
    shutil.rmtree(drive)
    assert new.best()["step"] == 2
    assert names(new.best_paths()) == ["best_00000002_val_loss=0.1.pt"]


def test_a_mirror_that_does_not_answer_is_no_empty_one(tmp_path):
    folder = CheckpointFolder(tmp_path / "new machine", mirror=tmp_path / "not mounted" / "run")
    with pytest.raises(CheckpointError, match="does not answer.*is it mounted"):
        folder.latest()


def test_macos_waits_for_the_platter(tmp_path, monkeypatch):
    calls = []
    fake = SimpleNamespace(F_FULLFSYNC=51, fcntl=lambda descriptor, command: calls.append(command))
    monkeypatch.setattr(durable, "fcntl", fake)
    save_checkpoint(checkpoint(), tmp_path / "a.pt")
    assert calls == [51, 51], "the file and its folder"


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
