"""Training: it learns, it stops, and a resume is exact."""

import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from torch import nn
from torchvision.transforms import v2

from course_utils.checkpoints import CheckpointError, CheckpointFolder, weights_sha256
from course_utils.data import AUGMENT, load_datasets, make_loader
from course_utils.models import SmallCNN
from course_utils.runtime import seed_everything
from course_utils.training import evaluate, fit, train_one_epoch

TO_TENSOR = v2.Compose([v2.Resize((32, 32)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


@pytest.fixture(scope="module")
def datasets():
    train, val, _ = load_datasets(TO_TENSOR, per_class=60, source="drawn", augment=AUGMENT)
    return train.take(48), val.take(16)


def train(datasets, folder=None, epochs=3, stop_after=None, workers=0, **options):
    """A training made anew, as a new process would; `stop_after` interrupts it in that step."""
    seed_everything(0)
    model = SmallCNN()
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    if stop_after:
        steps = iter(range(stop_after))

        def interrupt(*_):
            if next(steps, None) is None:
                raise KeyboardInterrupt

        optimizer.register_step_pre_hook(interrupt)
    loader = make_loader(datasets[0], batch_size=8, shuffle=True, workers=workers)
    val_loader = make_loader(datasets[1])
    history = fit(model, optimizer, loader, val_loader, epochs, scheduler=scheduler, folder=folder, **options)
    return weights_sha256(model.state_dict()), history


def test_an_epoch_lowers_the_loss_and_evaluate_agrees_with_a_count_by_hand(datasets):
    seed_everything(0)
    model = SmallCNN(dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    loader = make_loader(datasets[0], batch_size=8, shuffle=True)
    first, _ = train_one_epoch(model, loader, optimizer)
    for _ in range(3):
        last, _ = train_one_epoch(model, loader, optimizer)
    assert last < first
    loss, accuracy = evaluate(model, make_loader(datasets[1], batch_size=7))
    images, labels = next(iter(make_loader(datasets[1], batch_size=16)))
    with torch.no_grad():
        logits = model(images)
    assert loss == pytest.approx(nn.functional.cross_entropy(logits, labels).item(), rel=1e-4)
    assert accuracy == (logits.argmax(1) == labels).float().mean().item()


@pytest.mark.parametrize("stop_after", [3, 6, 7, 13])  # inside an epoch of 6 steps, and at its end
@pytest.mark.parametrize("workers", [0, 2])
def test_a_resume_is_exact_at_any_step_with_any_number_of_workers(datasets, tmp_path, stop_after, workers):
    straight = train(datasets)
    with pytest.raises(KeyboardInterrupt):
        train(datasets, CheckpointFolder(tmp_path), stop_after=stop_after, save_every=1)
    resumed = train(datasets, CheckpointFolder(tmp_path), resume=True, save_every=1, workers=workers)
    assert resumed == straight


def test_a_finished_training_resumed_does_nothing_and_says_so(datasets, tmp_path, capsys):
    first = train(datasets, CheckpointFolder(tmp_path), epochs=1)
    assert train(datasets, CheckpointFolder(tmp_path), epochs=1, resume=True) == first
    assert "Nothing to do" in capsys.readouterr().out


def test_early_stopping_waits_as_long_as_patience_and_restores_the_best(datasets, tmp_path):
    class Folder(CheckpointFolder):
        """The first epoch is the best, whatever its loss."""

        def is_better(self, value, than):
            return than is None

    folder = Folder(tmp_path)
    weights, history = train(datasets, folder, epochs=9, patience=2)
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert weights == weights_sha256(folder.best()["model_state_dict"])
    assert folder.best()["metrics"]["epoch"] == 1
    resumed = train(datasets, Folder(tmp_path), epochs=9, patience=2, resume=True)
    assert resumed == (weights, history)


def test_patience_goes_on_counting_across_a_stop(datasets, tmp_path):
    straight = train(datasets, CheckpointFolder(tmp_path / "a"), epochs=8, patience=1)
    with pytest.raises(KeyboardInterrupt):
        train(datasets, CheckpointFolder(tmp_path / "b"), epochs=8, patience=1, stop_after=8)
    assert train(datasets, CheckpointFolder(tmp_path / "b"), epochs=8, patience=1, resume=True) == straight


def test_another_model_is_refused_and_the_checkpoints_stay(datasets, tmp_path):
    train(datasets, CheckpointFolder(tmp_path), epochs=1)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    model = nn.Linear(2, 2)
    loader = make_loader(datasets[0], shuffle=True)
    with pytest.raises(CheckpointError, match="another model"):
        optimizer = torch.optim.Adam(model.parameters())
        fit(model, optimizer, loader, loader, 2, folder=CheckpointFolder(tmp_path), resume=True)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_scheduler_that_was_not_there_is_refused(datasets, tmp_path):
    train(datasets, CheckpointFolder(tmp_path), epochs=1)
    model = SmallCNN()
    loader = make_loader(datasets[0], batch_size=8, shuffle=True)
    with pytest.raises(CheckpointError, match="has a scheduler"):
        optimizer = torch.optim.Adam(model.parameters())
        fit(model, optimizer, loader, loader, 2, folder=CheckpointFolder(tmp_path), resume=True)


def test_arguments_that_do_not_go_together_are_refused(datasets, tmp_path):
    model = SmallCNN()
    optimizer = torch.optim.Adam(model.parameters())
    loader = make_loader(datasets[1])
    with pytest.raises(ValueError, match="need a folder"):
        fit(model, optimizer, loader, loader, 1, patience=1)
    with pytest.raises(ValueError, match="make_loader"):
        fit(model, optimizer, loader, loader, 1, folder=CheckpointFolder(tmp_path), resume=True)


def test_a_new_training_does_not_push_out_the_checkpoints_of_another(datasets, tmp_path):
    train(datasets, CheckpointFolder(tmp_path), epochs=2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="another training"):
        train(datasets, CheckpointFolder(tmp_path), epochs=1)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_loss_that_is_not_a_number_stops_the_training(datasets):
    model = SmallCNN()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e30)
    with pytest.raises(FloatingPointError, match="lower learning rate"):
        for _ in range(3):
            train_one_epoch(model, make_loader(datasets[0], batch_size=8, shuffle=True), optimizer)


COMMAND = [sys.executable, "-m", "course_utils.train", "--data", "drawn", "--per-class", "60"]


def command_line(out, *arguments):
    command = [*COMMAND, "--out", str(out), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True)


def result_of(out):
    return json.loads((out / "result.json").read_text())


def test_the_command_line_trains_and_a_second_run_overwrites_nothing(tmp_path):
    done = command_line(tmp_path, "--epochs", 2)
    assert done.returncode == 0, done.stderr
    result = result_of(tmp_path)
    assert result["epochs"] == 2 and result["steps"] == 4
    assert result["val_accuracy"] == max(row["val_accuracy"] for row in result["history"])
    refused = command_line(tmp_path, "--epochs", 2)
    assert refused.returncode == 1 and "--resume" in refused.stderr and "Traceback" not in refused.stderr
    again = command_line(tmp_path, "--epochs", 2, "--resume")
    assert "Nothing to do" in again.stdout
    assert result_of(tmp_path) == result


def test_a_killed_process_resumed_ends_with_the_same_weights(tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    options = ["--epochs", "8", "--save-every", "1"]
    assert command_line(straight, *options).returncode == 0
    process = subprocess.Popen([*COMMAND, "--out", str(killed), *options])
    while not (killed / "step_00000003.pt").exists():
        assert process.poll() is None, "the training ended before it could be killed"
        time.sleep(0.001)
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert not (killed / "result.json").exists()
    assert command_line(killed, *options, "--resume").returncode == 0
    assert result_of(killed) == result_of(straight)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--epochs", "0"], "whole number"),
        (["--epochs", "1", "--per-class", "5"], "do not fill one batch"),
        (["--epochs", "1", "--freeze"], "not pretrained"),
        (["--epochs", "1", "--model", "resnet_19"], "resnet"),
    ],
)
def test_a_wrong_command_line_gets_one_sentence(tmp_path, arguments, said):
    done = command_line(tmp_path, *arguments)
    assert done.returncode != 0 and said in done.stderr and "Traceback" not in done.stderr
