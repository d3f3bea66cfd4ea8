"""Checkpoints of many files, of any number of processes: kept, found again, and nothing read that is not as saved."""

import contextlib
import shutil
from unittest.mock import patch

import pytest
import torch
from torch import distributed, nn

pytest.importorskip("fcntl", reason="Windows has no gloo by a file")

from faults.shards import loaded, loss, state  # noqa: E402
from faults.together import Together  # noqa: E402
from faults.trials import flip_a_bit, same  # noqa: E402
from torch.distributed.checkpoint.format_utils import dcp_to_torch_save  # noqa: E402
from torch.distributed.checkpoint.state_dict import get_state_dict, set_state_dict  # noqa: E402
from torch.distributed.device_mesh import init_device_mesh  # noqa: E402
from torch.distributed.fsdp import fully_shard  # noqa: E402

from course_utils.checkpoints import CheckpointError, sharded  # noqa: E402
from course_utils.checkpoints.sharded import ShardedFolder  # noqa: E402

NAMES = [".metadata", "__0_0.distcp", "__1_0.distcp", "manifest.json"]


def names(place):
    return sorted(path.name for path in place.iterdir())


def save(number, run, *steps, background=False):
    folder = ShardedFolder(run)
    for step in steps:
        (folder.async_save if background else folder.save)(state(step), step, loss(step))
    folder.wait()


def load(number, run):
    """[facts, is it what was saved in this process's share?]"""
    found = state(0)
    facts = ShardedFolder(run).load(found)
    rows = found["weights"].to_local()
    return [facts, same(rows, state(facts["step"])["weights"].to_local()), found["about"]]


def test_what_two_processes_saved_one_and_three_load_and_the_other_way_round(tmp_path):
    Together(2, save, tmp_path / "two", 1).wait()
    assert names(tmp_path / "two" / "step_00000001") == NAMES
    assert loaded(ShardedFolder(tmp_path / "two")) == {"step": 1, "metrics": loss(1)}
    save(0, tmp_path / "one", 1)
    answer = [{"step": 1, "metrics": loss(1)}, True, {"name": "step 1"}]
    assert Together(3, load, tmp_path / "two").wait() == [answer] * 3
    assert Together(2, load, tmp_path / "one").wait() == [answer] * 2


def test_the_last_two_and_the_best_are_kept(tmp_path):
    save(0, tmp_path, *range(1, 7))
    assert names(tmp_path) == ["step_00000002", "step_00000005", "step_00000006"]
    folder = ShardedFolder(tmp_path)
    assert loaded(folder)["step"] == 6 and loaded(folder, best=True)["step"] == 2


def test_higher_may_be_better_of_equal_ones_the_earlier_is_kept_and_none_needs_a_metric(tmp_path):
    folder = ShardedFolder(tmp_path, metric="accuracy", mode="max", keep_last=1)
    for step, accuracy in enumerate([0.5, 0.9, 0.9, 0.7], 1):
        folder.save(state(step), step, {"accuracy": accuracy})
    folder.save(state(5), 5)
    assert names(tmp_path) == ["step_00000002", "step_00000005"]
    assert folder.load_best(state(0))["metrics"] == {"accuracy": 0.9}


def in_the_background(number, run):
    """The state changes after the call; and the next save finishes the one before it."""
    folder, saved = ShardedFolder(run), state(1)
    folder.async_save(saved, 1, loss(1))
    there_at_once = (run / "step_00000001").exists()
    saved["weights"].to_local().zero_()
    folder.async_save(state(2), 2, loss(2))
    there = (run / "step_00000001").exists(), (run / "step_00000002").exists()
    folder.wait()
    return there_at_once, *there


def test_a_save_in_the_background_is_of_the_moment_of_its_call_and_is_there_after_wait(tmp_path):
    assert Together(2, in_the_background, tmp_path / "run").wait() == [(False, True, False)] * 2
    shutil.rmtree(tmp_path / "run" / "step_00000002")
    assert loaded(ShardedFolder(tmp_path / "run"))["step"] == 1


def accidents(number, run):
    said, folder = [], ShardedFolder(run)

    def expect(what):
        try:
            what()
            said.append("nothing")
        except (CheckpointError, ValueError) as error:
            said.append(f"{type(error).__name__}: {error}")

    folder.save(state(3), 3)
    expect(lambda: folder.save(state(3), 3))
    expect(lambda: folder.save(state(4), 4, {"accuracy": 1}))
    with patch("os.fsync", side_effect=OSError(28, "No space left on device")) if number else contextlib.nullcontext():
        expect(lambda: folder.save(state(4), 4))
        folder.async_save(state(4), 4)
        expect(folder.wait)
    distributed.barrier()  # process 0 clears away
    left = names(run)
    expect(lambda: folder.load({**state(0), "more": torch.ones(2)}))
    expect(lambda: folder.load({**state(0), "steps": torch.ones(2)}))
    folder.save(state(4), 4)
    return said, left, names(run)


def test_an_error_of_one_process_is_raised_in_all_and_leaves_what_was(tmp_path):
    first, second = Together(2, accidents, tmp_path / "run").wait()
    assert first == second
    said, left, after = first
    assert "Step 3 does not come after" in said[0] and "'val_loss' in the metrics" in said[1]
    assert all(text.startswith("CheckpointError") and "the disk is full" in text for text in said[2:4]), said
    assert left == ["step_00000003"] and after == ["step_00000003", "step_00000004"]
    assert all("is whole and does not fit" in text for text in said[4:6])


def test_nothing_is_unpickled_before_every_byte_was_compared(tmp_path):
    save(0, tmp_path, 1)
    flip_a_bit(tmp_path / "step_00000001" / "__0_0.distcp")
    with patch.object(sharded.dcp, "load") as unpickles, pytest.warns(UserWarning, match="another SHA-256"):
        with pytest.raises(CheckpointError, match="No checkpoint in .* can be used"):
            ShardedFolder(tmp_path).load(state(0))
    assert not unpickles.called


def a_read_error(number, run):
    refuse = patch("hashlib.file_digest", side_effect=OSError(5, "Input/output error"))
    with refuse if number else contextlib.nullcontext():
        try:
            ShardedFolder(run).load(state(0))
        except CheckpointError as error:
            return str(error)


def test_a_read_error_of_one_process_is_no_damage_and_stops_all(tmp_path):
    Together(2, save, tmp_path / "run", 1, 2).wait()
    first, second = Together(2, a_read_error, tmp_path / "run").wait()
    assert first == second and "cannot be read: Input/output error" in first
    assert names(tmp_path / "run") == ["step_00000001", "step_00000002"], "nothing is set aside"


def test_two_processes_fall_back_together(tmp_path):
    Together(2, save, tmp_path / "run", 1, 2).wait()
    (tmp_path / "run" / "step_00000002" / "__1_0.distcp").unlink()
    answers = Together(2, load, tmp_path / "run").wait()
    assert answers == [[{"step": 1, "metrics": loss(1)}, True, {"name": "step 1"}]] * 2
    assert names(tmp_path / "run") == ["step_00000001", "step_00000002.damaged"]


def test_a_mirror_has_the_same_and_stands_in_for_what_is_damaged_or_gone(tmp_path):
    run, mirror = tmp_path / "run", tmp_path / "drive"
    folder = ShardedFolder(run, mirror=mirror)
    for step in range(1, 7):
        folder.save(state(step), step, loss(step))
    assert names(mirror) == names(run) == ["step_00000002", "step_00000005", "step_00000006"]
    flip_a_bit(run / "step_00000006" / ".metadata")
    with pytest.warns(UserWarning, match="set aside"):
        assert loaded(ShardedFolder(run, mirror=mirror))["step"] == 6
    shutil.rmtree(run)
    assert loaded(ShardedFolder(run, mirror=mirror), best=True)["step"] == 2


def test_trouble_with_a_mirror_warns_and_the_save_counts(tmp_path):
    folder = ShardedFolder(tmp_path / "run", mirror=tmp_path / "not mounted" / "run")
    with pytest.warns(UserWarning, match="The mirror .* has no copy"):
        folder.save(state(1), 1)
    assert names(tmp_path / "run") == ["step_00000001"]


def test_settings_that_make_no_sense_are_told():
    with pytest.raises(ValueError, match="mode is None"):
        ShardedFolder("run", metric="accuracy")
    with pytest.raises(ValueError, match="keep_last is 0"):
        ShardedFolder("run", keep_last=0)


class Everything:
    """A model and its optimizer, for DCP."""

    def __init__(self, model, optimizer):
        self.model, self.optimizer = model, optimizer

    def state_dict(self):
        model, optimizer = get_state_dict(self.model, self.optimizer)
        return {"model": model, "optimizer": optimizer}

    def load_state_dict(self, state):
        set_state_dict(self.model, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"])


def build(shards):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 16), nn.Tanh(), nn.Linear(16, 1))
    if shards:
        mesh = init_device_mesh("cpu", (distributed.get_world_size(),))  # without it, on a GPU where there is one
        fully_shard(model, mesh=mesh)
    return model, torch.optim.Adam(model.parameters(), lr=0.05)


def steps(model, optimizer, first, last):
    for step in range(first, last + 1):
        x = torch.rand(8, 4, generator=torch.Generator().manual_seed(step))
        value = (model(x) - x.sum(1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
    return value.item()


def train_and_go_on(number, run):
    """[loss of step 6 without a stop, and after a load of step 3 into a new model]"""
    model, optimizer = build(shards=True)
    steps(model, optimizer, 1, 3)
    ShardedFolder(run).save({"training": Everything(model, optimizer)}, 3)
    straight = steps(model, optimizer, 4, 6)
    model, optimizer = build(shards=True)
    ShardedFolder(run).load({"training": Everything(model, optimizer)})
    return straight, steps(model, optimizer, 4, 6)


def test_fully_sharded_model_and_optimizer_go_on_on_two_processes_and_on_one_and_become_one_file(tmp_path):
    run = tmp_path / "run"
    (straight, resumed), _ = Together(2, train_and_go_on, run).wait()
    assert straight == resumed
    model, optimizer = build(shards=False)
    ShardedFolder(run).load({"training": Everything(model, optimizer)})
    assert steps(model, optimizer, 4, 6) == pytest.approx(straight, rel=1e-4)
    dcp_to_torch_save(run / "step_00000003", tmp_path / "plain.pt")
    weights = torch.load(tmp_path / "plain.pt", weights_only=True)["training"]["model"]
    assert {name: list(one.shape) for name, one in weights.items()} == {
        "0.weight": [16, 4], "0.bias": [16], "2.weight": [1, 16], "2.bias": [1],
    }  # fmt: skip
