"""`Training` in several processes: one writes, all resume from the same step, all stop after the same step, exactly."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
from faults.together import Together
from faults.trials import flip_a_bit
from torch import distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, Dataset, DistributedSampler

from course_utils import train as command_line
from course_utils.checkpoints import CheckpointError, CheckpointFolder, Stopped, Training, durable, lock, weights_sha256
from course_utils.data import EpochSampler, make_loader

pytestmark = pytest.mark.skipif(os.name == "nt", reason="Windows has neither these signals nor gloo by a file")

EPOCHS, STEPS = 3, 4  # of each epoch


class PowerCut(Exception):
    """Ends a training in the middle of a step, where nothing is saved any more."""


class Noisy(Dataset):
    """24 items, each read with noise from the global generator, and whose numbers were read is noted."""

    def __init__(self):
        self.read = []

    def __len__(self):
        return 24

    def __getitem__(self, index):
        self.read.append(index)
        return torch.tensor([index / 10, torch.randn(()).item(), 1.0, -index / 7]), torch.tensor([index % 2])


def train(folder, before_step=None, epochs=EPOCHS, batch_size=6, save_every=1, noise=True, **options):
    """[SHA-256 of the weights, history, what was read, the next random number] of this process."""
    number, count = (distributed.get_rank(), distributed.get_world_size()) if distributed.is_initialized() else (0, 1)
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5 if noise else 0), nn.Linear(8, 2))
    torch.manual_seed(number)
    ddp = DistributedDataParallel(model) if count > 1 else model
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    data = Noisy()
    loader = DataLoader(data, batch_size // count, sampler=DistributedSampler(data, count, number))
    read = []
    with Training(folder, {"model": ddp, "optimizer": optimizer}, "val_loss", save_every=save_every, **options) as one:
        for _ in one.epochs(epochs):
            model.train()
            for x, y in one.batches(loader):
                read += [round(10 * value) for value in x[:, 0].tolist()]
                (before_step or {}).get(one.step + 1, lambda: None)()
                x = x if noise else x * torch.tensor([1.0, 0.0, 1.0, 1.0])
                loss = nn.functional.cross_entropy(ddp(x), y[:, 0])
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                one.log({"train_loss": loss.item()}, weight=len(x))
            with torch.no_grad():
                value = nn.functional.cross_entropy(model(torch.ones(2, 4)), torch.tensor([0, 1])).item()
            one.end_epoch({"val_loss": value + number})  # that of process 0 counts
    return [weights_sha256(model.state_dict()), one.history, read, torch.randn(()).item()]


def cut_the_power():
    raise PowerCut


def interrupted_at_each_step(number, place):
    """All in one process each: the uninterrupted result, and those after an interruption before each step."""
    straight, found = train(place / "straight"), []
    for step in range(1, EPOCHS * STEPS + 1):
        with contextlib.suppress(PowerCut):
            train(place / str(step), {step: cut_the_power})
        found.append(train(place / str(step)))
    return straight, found


def test_two_processes_resume_exactly_at_any_step_each_with_its_own_numbers_and_batches(tmp_path):
    answers = Together(2, interrupted_at_each_step, tmp_path).wait()
    for straight, found in answers:
        for step, got in enumerate(found, 1):
            assert (got[:2], got[3]) == (straight[:2], straight[3]), f"interrupted in step {step}"
            assert got[2] == straight[2][3 * (step - 1) :], "the batches from there on, of this process"
    (first, _), (second, _) = answers
    assert first[:2] == second[:2], "the same weights and history in both"
    assert first[3] != second[3] and not set(first[2][:12]) & set(second[2][:12]), "and other data and numbers"
    assert sorted(first[2][:12] + second[2][:12]) == list(range(24))


def test_the_means_are_those_of_all_processes_and_the_metrics_those_of_the_first(tmp_path):
    first, second = Together(2, means, tmp_path).wait()
    assert first == second == [{"epoch": 1, "step": 2, "x": 1.75, "val_loss": 0.0}]


def means(number, place):
    """Process 0 logs 1, and process 1 logs 2 with three times the weight."""
    model = nn.Linear(1, 1)
    with Training(place / "run", {"model": model}) as training:
        for _ in training.epochs(1):
            for _ in training.batches(DataLoader([1.0] * 4, 2)):
                training.log({"x": 1 + number}, weight=1 + 2 * number)
            training.end_epoch({"val_loss": number})
    return training.history


def stopped_then_resumed(number, place):
    """SIGTERM or Ctrl-C reaches one process only, or both, before some step."""
    straight, found = train(place / "straight"), []
    stops = [(2, signal.SIGTERM, [0]), (6, signal.SIGTERM, [1]), (7, signal.SIGINT, [1]), (9, signal.SIGTERM, [0, 1])]
    for step, sent, to in stops:
        run = place / f"{step}"
        ask = {step: partial(signal.raise_signal, sent)} if number in to else {}
        try:
            train(run, ask, save_every=None)
            found.append("not stopped")
        except Stopped as stopped:
            found.append((step, str(stopped), stopped.signal == sent, train(run)[:2] == straight[:2]))
    return found


def test_when_one_is_asked_all_stop_after_the_same_step_and_go_on_exactly(tmp_path):
    first, second = Together(2, stopped_then_resumed, tmp_path).wait()
    assert first == second and len(first) == 4
    for step, said, same_signal, same_result in first:
        assert f"Saved step {step} in" in said and same_signal and same_result


def killed(number, place):
    train(place, {7: lambda: os.kill(os.getpid(), signal.SIGKILL)} if number == 1 else {})


def test_when_one_is_killed_the_others_end_and_all_go_on_from_the_last_step(tmp_path):
    first, second = Together(2, killed, tmp_path / "run").wait()
    assert second is None and "RuntimeError" in first, "and it does not wait for ever"
    assert CheckpointFolder(tmp_path / "run").latest()["step"] == 6
    resumed, straight = (Together(2, _train, tmp_path / name).wait() for name in ("run", "straight"))
    assert [one[:2] for one in resumed] == [one[:2] for one in straight]


def _train(number, *arguments):
    return train(*arguments)


def trained_where_only_the_first_may_write(number, place, background):
    """In process 1, every way to a file of the folder is closed."""
    mirror = place / "mirror" if background else None
    folder = CheckpointFolder(place / "run", background=background, mirror=mirror)
    closed = [(lock.FolderLock, "take"), (CheckpointFolder, "save"), (CheckpointFolder, "latest")]
    closed += [(durable.os, "replace"), (durable.os, "scandir")]
    with contextlib.ExitStack() as stack:
        for owner, name in closed if number else []:
            stack.enter_context(patch.object(owner, name, side_effect=AssertionError(f"{name} in process 1")))
        train(folder, epochs=1)
        return train(folder, epochs=2)[:2]


@pytest.mark.parametrize("background", [False, True])
def test_process_0_alone_touches_the_folder(tmp_path, background):
    first, second = Together(2, trained_where_only_the_first_may_write, tmp_path, background).wait()
    assert first == second and len(first[1]) == 2


def damaged_in_between(number, place):
    straight = train(place / "straight")
    with contextlib.suppress(PowerCut):
        train(place / "run", {8: cut_the_power})
    if number == 0:
        flip_a_bit(place / "run" / "step_00000007.pt")
    distributed.barrier()
    return straight[:2] == train(place / "run")[:2], sorted(path.name for path in (place / "run").glob("*.damaged"))


def test_all_fall_back_to_the_same_one_when_the_newest_is_damaged(tmp_path):
    answers = Together(2, damaged_in_between, tmp_path).wait()
    assert answers == [(True, ["step_00000007.pt.damaged"])] * 2


def accidents(number, place):
    """What process 0 alone can know is told in both, with the same words."""
    said = []
    train(place / "run", epochs=1)

    def expect(what, **options):
        try:
            what(**options)
            said.append("nothing")
        except (CheckpointError, ValueError) as error:
            said.append(f"{type(error).__name__}: {error}")

    expect(lambda: train(place / "run", resume=False))
    expect(lambda: train(place / "run", batch_size=12))
    (place / "file").touch()
    expect(lambda: train(place / "file"))
    with patch("os.fsync", side_effect=OSError(28, "No space left on device")):
        expect(lambda: train(place / "full"))
    with Training(place / "held", {"model": nn.Linear(1, 1)}):
        expect(lambda: train(place / "held"))
    return [text.replace(str(place), "") for text in said]


def test_errors_of_process_0_are_raised_in_all(tmp_path):
    first, second = Together(2, accidents, tmp_path).wait()
    assert first == second
    words = ["holds checkpoints of another", "batch size: 6 in the checkpoint, 12 here", "a file", "disk is full"]
    assert [word in text for word, text in zip([*words, "still running"], first)] == [True] * 5, first


def up_to(number, place, step=None):
    with contextlib.suppress(PowerCut):
        return train(place, {step: cut_the_power}, noise=False)[1]


@pytest.mark.parametrize("counts", [(2, 1, 3), (3, 2, 1), (1, 3, 2)])
def test_another_number_of_processes_goes_on_with_the_same_batches_and_says_so(tmp_path, counts, capsys):
    """Cut off in the middle of the first epoch and of the second; the means of all processes are kept."""
    for step, count in zip([3, 7, None], counts):
        history = [up_to(0, tmp_path, step)] if count == 1 else Together(count, up_to, tmp_path, step).wait()
    assert history[0] == [
        {"epoch": row["epoch"], "step": row["step"]} | {name: pytest.approx(row[name], rel=1e-4) for name in row}
        for row in up_to(0, tmp_path / "alone")
    ]
    if 1 in counts[1:]:
        assert "so it goes on correctly, but not bit by bit" in capsys.readouterr().out


def test_a_file_of_two_processes_holds_the_keys_of_the_model_without_a_wrapper(tmp_path):
    Together(2, up_to, tmp_path / "run", 3).wait()
    checkpoint = CheckpointFolder(tmp_path / "run").latest()
    assert list(checkpoint["model_state_dict"]) == ["0.weight", "0.bias", "3.weight", "3.bias"]
    assert len(checkpoint["other_processes"]) == 1


def test_our_sampler_gives_each_process_its_share_of_the_same_batches():
    alone = [batch.tolist() for batch in make_loader(range(26), 6, True)]
    for count in (2, 3):
        shares = [make_loader(range(26), 6 // count, True, num_replicas=count, rank=number) for number in range(count)]
        together = [sorted(sum((part.tolist() for part in batch), [])) for batch in zip(*shares)]
        assert together == [sorted(batch) for batch in alone]
        assert {len(share.sampler) for share in shares} == {26 // count}
    sampler = EpochSampler(26, pairs=False, num_replicas=2, rank=1)
    everything = list(sampler)
    sampler.set_epoch(0, start=5)
    assert list(sampler) == everything[5:] and len(sampler) == 8


COMMAND = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
COMMAND += ["course_utils.train", "--data", "drawn", "--per-class", "60", "--epochs", "2", "--resume"]


def test_the_command_line_trains_in_two_processes_and_a_stop_of_one_is_a_stop_of_all(tmp_path):
    stopped = tmp_path / "stopped"
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}  # two runs on a GPU differ
    process = subprocess.Popen(
        [*COMMAND, "--out", stopped, "--save-every", "1"], env=environment, stderr=subprocess.PIPE, text=True
    )
    while process.poll() is None and not list(stopped.glob("step_*.pt")):
        time.sleep(0.01)
    os.kill(_child_with("RANK=1", process.pid), signal.SIGTERM)
    _, said = process.communicate(timeout=100)
    saved = re.search(r"Saved step (\d+) in", said)
    assert process.returncode and saved, said[-2000:]
    assert CheckpointFolder(stopped).latest()["step"] == int(saved[1])
    resumed = subprocess.run([*COMMAND, "--out", stopped], env=environment, check=True, capture_output=True, text=True)
    assert resumed.stdout.count("Training in") == 1, "process 0 speaks for all"
    straight, _ = Together(2, uninterrupted, tmp_path / "straight").wait()
    assert json.loads((stopped / "result.json").read_text()) == straight


def uninterrupted(number, out):
    os.environ |= {"LOCAL_RANK": str(number), "LOCAL_WORLD_SIZE": "2"}
    return command_line.main(command_line.parse_arguments([*COMMAND[COMMAND.index("--data") :], "--out", str(out)]))


def _child_with(variable: str, parent: int) -> int:
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if f"\nPPid:\t{parent}\n" in (place / "status").read_text():
                if variable in (place / "environ").read_text().split("\0"):
                    return int(place.name)
    pytest.skip("no /proc here")
