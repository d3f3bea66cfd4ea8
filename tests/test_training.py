"""Training: it learns, it stops, and a resume is exact."""

import copy
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    Subset,
    TensorDataset,
)
from torchvision.transforms import v2

import course_utils.training
from course_utils.checkpoints import CheckpointError, CheckpointFolder, load_checkpoint, save_checkpoint, weights_sha256
from course_utils.checkpoints.stopping import Stopped
from course_utils.data import AUGMENT, load_datasets, make_loader
from course_utils.freezing import parameter_groups
from course_utils.models import SmallCNN
from course_utils.runtime import seed_everything
from course_utils.train import parse_arguments
from course_utils.training import evaluate, fit, train_one_epoch

TO_TENSOR = v2.Compose([v2.Resize((32, 32)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


@pytest.fixture(scope="module")
def datasets():
    train, val, _ = load_datasets(TO_TENSOR, per_class=60, source="drawn", augment=AUGMENT)
    return train.take(48), val.take(16)


class PowerCut(Exception):
    """Ends a training in the middle of a step, without a last save."""


def train(datasets, folder=None, epochs=3, before_step=None, workers=0, seed=0, lr=3e-3, **options):
    """A training made anew, as a new process would: with dropout, BatchNorm, scheduler, scaler and unfreezing.

    before_step: {step: function called before it}, to interrupt it there.
    """
    seed_everything(seed)
    model = SmallCNN()
    optimizer = torch.optim.Adam(parameter_groups([(model.classifier, lr), (model.features, lr / 3)]))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024, growth_interval=5)
    steps = iter(range(1, 1000))
    optimizer.register_step_pre_hook(lambda *_: (before_step or {}).get(next(steps), lambda: None)())
    loader = make_loader(datasets[0], batch_size=8, shuffle=True, seed=seed, workers=workers)
    options = {"scheduler": scheduler, "scaler": scaler, "unfreeze_at": {2: model.features[2:]}} | options
    history = fit(model, optimizer, loader, make_loader(datasets[1]), epochs, folder=folder, **options)
    return weights_sha256(model.state_dict()), history


def cut_the_power():
    raise PowerCut


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


@pytest.mark.parametrize("interrupted", [3, 6, 7, 13])  # inside an epoch of 6 steps, and at its end
@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("background", [False, True])
def test_a_resume_is_exact_at_any_step_with_any_number_of_workers(datasets, tmp_path, interrupted, workers, background):
    straight = train(datasets)
    folder = CheckpointFolder(tmp_path, background=background)
    with pytest.raises(PowerCut):
        train(datasets, folder, before_step={interrupted: cut_the_power}, save_every=1)
    folder.wait()
    resumed = train(datasets, CheckpointFolder(tmp_path), resume=True, save_every=1, workers=workers)
    assert resumed == straight


def test_a_part_learns_from_the_epoch_on_that_unfreeze_at_says(datasets):
    def learned(**options):
        seed_everything(0)
        model = SmallCNN()
        before = model.features[3][0].weight.clone()
        optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
        loader = make_loader(datasets[0], batch_size=8, shuffle=True)
        unfreeze_at = {options.pop("at"): model.features[3]} if "at" in options else {}
        fit(model, optimizer, loader, make_loader(datasets[1]), 2, unfreeze_at=unfreeze_at, **options)
        return weights_sha256(model.state_dict()), not torch.equal(before, model.features[3][0].weight)

    always, late = learned(at=1), learned(at=2)
    assert always == learned() and always != late and late[1]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("workers", [0, 2])
def test_asked_to_stop_it_saves_within_one_step_and_goes_on_exactly(datasets, tmp_path, number, workers):
    straight = train(datasets)
    folder = CheckpointFolder(tmp_path)
    before = signal.getsignal(number)
    with pytest.raises(Stopped, match="Saved step 8"):
        train(datasets, folder, before_step={8: lambda: signal.raise_signal(number)}, workers=workers)
    assert signal.getsignal(number) is before
    assert folder.latest()["step"] == 8
    assert train(datasets, folder, resume=True) == straight


class AsksToStop(nn.Module):
    """A small model that gets SIGTERM while the given batch is evaluated."""

    def __init__(self, while_evaluating=None):
        super().__init__()
        self.layer, self.evaluated, self.while_evaluating = nn.Linear(3, 2), 0, while_evaluating

    def forward(self, images):
        self.evaluated += not self.training
        if self.evaluated == self.while_evaluating:
            signal.raise_signal(signal.SIGTERM)
        return self.layer(images.mean(dim=(2, 3)))


def test_asked_to_stop_while_it_evaluates_it_does_not_wait_for_the_end(datasets, tmp_path):
    def go(name, while_evaluating=None, resume=False):
        seed_everything(0)
        model = AsksToStop(while_evaluating)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        loader, val_loader = make_loader(datasets[0], 8, shuffle=True), make_loader(datasets[1], 8)  # 2 batches
        return fit(model, optimizer, loader, val_loader, 3, folder=CheckpointFolder(tmp_path / name), resume=resume)

    with pytest.raises(Stopped, match="SIGTERM.*Saved step 12"):
        go("stopped", while_evaluating=3)  # the first batch of the second evaluation
    assert go("stopped", resume=True) == go("straight")


def test_a_finished_training_resumed_does_nothing_and_says_so(datasets, tmp_path, capsys):
    first = train(datasets, CheckpointFolder(tmp_path), epochs=2)
    assert train(datasets, CheckpointFolder(tmp_path), epochs=2, resume=True) == first
    assert "Nothing to do" in capsys.readouterr().out


def test_early_stopping_waits_as_long_as_patience_and_restores_the_best(datasets, tmp_path):
    folder = CheckpointFolder(tmp_path, metric="epoch", mode="min")  # the first epoch is the best
    weights, history = train(datasets, folder, epochs=9, patience=2)
    assert [row["epoch"] for row in history] == [1, 2, 3]
    assert weights == weights_sha256(folder.best()["model_state_dict"])
    assert folder.best()["metrics"]["epoch"] == 1
    resumed = train(datasets, CheckpointFolder(tmp_path, metric="epoch", mode="min"), epochs=9, patience=2, resume=True)
    assert resumed == (weights, history)


def test_patience_goes_on_counting_across_a_stop(datasets, tmp_path):
    straight = train(datasets, CheckpointFolder(tmp_path / "a"), epochs=8, patience=1)
    with pytest.raises(PowerCut):
        train(datasets, CheckpointFolder(tmp_path / "b"), epochs=8, patience=1, before_step={8: cut_the_power})
    assert train(datasets, CheckpointFolder(tmp_path / "b"), epochs=8, patience=1, resume=True) == straight


def test_a_training_in_other_circumstances_is_told_what_differs_and_the_checkpoints_stay(datasets, tmp_path):
    train(datasets, CheckpointFolder(tmp_path), epochs=2)
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.pt")}
    fewer = (datasets[0].take(40), datasets[1])
    for changed, said in [
        (dict(seed=1), "training data: sampler's seed: 0 in the checkpoint, 1 here"),
        (dict(lr=1e-3), "optimizer: group 0 lr: 0.003 in the checkpoint, 0.001 here"),
        (dict(scheduler=None), "scheduler: this part is only in the checkpoint"),
        (dict(unfreeze_at={}), "unfreezing: modules: Sequential of .* from epoch 2 in the checkpoint, none here"),
    ]:
        with pytest.raises(CheckpointError, match=said):
            train(datasets, CheckpointFolder(tmp_path), resume=True, **changed)
    with pytest.raises(CheckpointError, match="training data: items: 48 in the checkpoint, 40 here"):
        train(fewer, CheckpointFolder(tmp_path), resume=True)
    model, loader = nn.Linear(2, 2), make_loader(datasets[0], shuffle=True)
    with pytest.raises(CheckpointError) as report:
        optimizer = torch.optim.SGD(model.parameters())
        fit(model, optimizer, loader, loader, 2, folder=CheckpointFolder(tmp_path), resume=True)
    for name in (
        "SmallCNN of 97,938 parameters",
        "optimizer: class: Adam",
        "group 0 tensors: 2",
        "scaler: this part is only",
    ):
        assert name in str(report.value)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.pt")} == before


def test_other_classes_are_named(datasets, tmp_path):
    folder = CheckpointFolder(tmp_path)
    train(datasets, folder, epochs=2)
    path = folder.last_paths()[0]
    checkpoint = load_checkpoint(path)
    checkpoint["circumstances"]["facts"]["training data"]["classes"] = "Dog, Cat"
    save_checkpoint(checkpoint, path)
    with pytest.raises(CheckpointError, match="classes: Dog, Cat in the checkpoint, Cat, Dog here"):
        train(datasets, folder, resume=True)


def test_the_file_says_what_it_is(datasets, tmp_path):
    folder = CheckpointFolder(tmp_path)
    train(datasets, folder, epochs=2, about={"lr": 3e-3})
    checkpoint = torch.load(folder.last_paths()[0])  # an ordinary file
    assert checkpoint["format_version"] == 3
    assert checkpoint["config"] == {"lr": 3e-3}
    assert checkpoint["circumstances"]["facts"]["training data"]["classes"] == "Cat, Dog"
    assert checkpoint["versions"]["torch"] == torch.__version__
    assert checkpoint["metrics"]["epoch"] == 2 and "val_accuracy" in checkpoint["metrics"]


def of_an_old_format(folder, before_a_step):
    """The training that tests/files/format_1.pt was made by, after 2 of its 4 epochs; format_2.pt: inside epoch 3."""
    eight_pixels = v2.Compose([v2.Resize((8, 8)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
    train_set, val_set, _ = load_datasets(eight_pixels, per_class=60, source="drawn")
    seed_everything(0)
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    optimizer.register_step_pre_hook(lambda *_: before_a_step(model, optimizer))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    loader, val_loader = make_loader(train_set.take(48), batch_size=8, shuffle=True), make_loader(val_set.take(16))
    resume = not folder.is_empty()
    return fit(model, optimizer, loader, val_loader, 4, scheduler=scheduler, folder=folder, resume=resume)


@pytest.mark.parametrize(("version", "step"), [(1, 12), (2, 15)])
def test_a_file_of_an_older_format_still_resumes(tmp_path, version, step):
    """Its images were other drawings, so what it goes on from is compared, not what it comes to."""
    path = Path(__file__).parent / "files" / f"format_{version}.pt"
    shutil.copy(path, tmp_path / f"step_{step:08d}.pt")
    old, steps = load_checkpoint(path), []

    def before_a_step(model, optimizer):
        weights = {name: value.detach().clone() for name, value in model.named_parameters()}
        steps.append((weights, copy.deepcopy(optimizer.state_dict())))

    history = of_an_old_format(CheckpointFolder(tmp_path), before_a_step)
    assert len(steps) == 24 - step, "4 epochs of 6 steps"
    weights, optimizer_state = steps[0]
    assert all(torch.equal(value, old["model_state_dict"][name]) for name, value in weights.items())
    assert optimizer_state["param_groups"][0]["lr"] == 0.1 * 0.5**2
    momenta, saved = (state["state"] for state in (optimizer_state, old["optimizer_state_dict"]))
    assert all(torch.equal(momenta[i]["momentum_buffer"], saved[i]["momentum_buffer"]) for i in saved)
    done = old["training"]["history"]
    assert len(done) == 2 and history[:2] == done and [row["epoch"] for row in history] == [1, 2, 3, 4]
    assert CheckpointFolder(tmp_path).latest()["format_version"] == 3


@pytest.mark.parametrize(("version", "said"), [(4, "update it"), (None, "no checkpoint of a Training")])
def test_a_newer_format_and_a_foreign_dict_are_refused(datasets, tmp_path, version, said):
    folder = CheckpointFolder(tmp_path)
    folder.save({"step": 1, "metrics": {}, "format_version": version})
    with pytest.raises(CheckpointError, match=said):
        train(datasets, folder, resume=True)


def test_arguments_that_do_not_go_together_are_refused(datasets, tmp_path):
    model = SmallCNN()
    optimizer = torch.optim.Adam(model.parameters())
    loader = make_loader(datasets[1])
    with pytest.raises(ValueError, match="need a folder"):
        fit(model, optimizer, loader, loader, 1, patience=1)
    with pytest.raises(ValueError, match="metric is 'val_f1'; fit measures epoch, step, train_loss"):
        fit(model, optimizer, loader, loader, 1, folder=CheckpointFolder(tmp_path, "val_f1", "max"))


def test_a_new_training_does_not_push_out_the_checkpoints_of_another(datasets, tmp_path):
    train(datasets, CheckpointFolder(tmp_path), epochs=2)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(ValueError, match="checkpoints of another training"):
        train(datasets, CheckpointFolder(tmp_path), epochs=2)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_loss_that_is_not_a_number_stops_the_training(datasets):
    model = SmallCNN()
    optimizer = torch.optim.SGD(model.parameters(), lr=1e30)
    with pytest.raises(FloatingPointError, match="lower learning rate"):
        for _ in range(3):
            train_one_epoch(model, make_loader(datasets[0], batch_size=8, shuffle=True), optimizer)


def small_model():
    seed_everything(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(192, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 2)
    )


class Pictures(Dataset):
    """An own dataset, that knows nothing of epochs and draws its noise from the global generator."""

    classes = [("tench", "Tinca tinca"), 1]  # as torchvision's ImageNet has them, or worse
    files = ["a/0.jpg"]

    def __init__(self, count=24):
        self.x = torch.randn(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))

    def __len__(self):
        return len(self.x)

    def __getitem__(self, index):
        return self.x[index] + torch.randn(1), index % 2


class Stream(IterableDataset):
    def __iter__(self):
        return (Pictures()[index] for index in range(24))


OWN_LOADERS = {
    "shuffled": lambda: DataLoader(Pictures(), 4, shuffle=True),
    "subset": lambda: make_loader(Subset(Pictures(), range(16)), 4, shuffle=True),
    "tensors": lambda: make_loader(TensorDataset(Pictures().x, torch.arange(24) % 2), 4, shuffle=True),
    "concatenated": lambda: DataLoader(ConcatDataset([Pictures(), Pictures()]), 4, shuffle=True, num_workers=2),
    "stream": lambda: DataLoader(Stream(), 4),
    "distributed": lambda: DataLoader(Pictures(), 4, sampler=DistributedSampler(Pictures(), 1, 0)),
}


def fit_own(folder=None, loader=None, at=None, model=None, epochs=3, optimizer=None, scheduler=None, **options):
    model = model or small_model()
    optimizer = (optimizer or (lambda parameters: torch.optim.Adam(parameters, lr=0.01)))(model.parameters())
    scheduler = scheduler(optimizer) if scheduler else None
    steps = iter(range(1, 1000))

    def hook(*_):
        if next(steps) == at:
            raise PowerCut

    optimizer.register_step_pre_hook(hook)
    validation = options.pop("val", DataLoader(Pictures(8), 4))
    loader = loader() if loader else DataLoader(Pictures(), 4, shuffle=True)
    if "ema" in options:
        options["parts"] = {"ema": options.pop("ema")(model)}
    history = fit(model, optimizer, loader, validation, epochs, scheduler=scheduler, folder=folder, **options)
    return weights_sha256(model.state_dict()), history, [group["lr"] for group in optimizer.param_groups]


@pytest.mark.parametrize("name", OWN_LOADERS)
def test_own_datasets_and_loaders_train_and_resume_exactly(name, tmp_path):
    straight = fit_own(loader=OWN_LOADERS[name])
    with pytest.raises(PowerCut):
        fit_own(CheckpointFolder(tmp_path), OWN_LOADERS[name], at=6, save_every=1)
    assert fit_own(CheckpointFolder(tmp_path), OWN_LOADERS[name], resume=True) == straight


KINDS_OF_TRAINING = {
    "one cycle": {
        "scheduler": lambda optimizer: torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, total_steps=18),
        "step_scheduler": "step",
    },
    "plateau": {
        "scheduler": lambda optimizer: torch.optim.lr_scheduler.ReduceLROnPlateau(optimizer, "max", patience=0)
    },
    "bfloat16": {"autocast_dtype": torch.bfloat16},
    "ema": {"ema": lambda model: torch.optim.swa_utils.AveragedModel(model, use_buffers=True)},
}


@pytest.mark.parametrize("kind", KINDS_OF_TRAINING)
def test_a_resume_is_exact_with(kind, tmp_path):
    options = KINDS_OF_TRAINING[kind]
    straight = fit_own(**options)
    for at in (5, 9, 13):
        with pytest.raises(PowerCut):
            fit_own(CheckpointFolder(tmp_path / str(at)), at=at, save_every=1, **options)
        assert fit_own(CheckpointFolder(tmp_path / str(at)), resume=True, **options) == straight
    if kind != "bfloat16":
        assert (fit_own()[0] == straight[0]) == (kind == "ema"), "it made no difference"
    else:
        assert fit_own()[1] != straight[1]


def test_the_evaluation_computes_in_the_type_that_is_asked_for():
    seen = []
    model = small_model()
    model.register_forward_hook(lambda module, inputs, logits: seen.append(logits.dtype))
    evaluate(model, DataLoader(Pictures(8), 4), autocast_dtype=torch.bfloat16)
    evaluate(model, DataLoader(Pictures(8), 4))
    assert seen == [torch.bfloat16] * 2 + [torch.float32] * 2


def other_parameters(_):
    return torch.optim.Adam(small_model().parameters())


SCHEDULES = torch.optim.lr_scheduler
REFUSED = {
    "the optimizer of another model": ({"optimizer": other_parameters}, "6 of the 6 tensors in the optimizer are not"),
    "an optimizer with a closure": ({"optimizer": torch.optim.LBFGS}, "LBFGS wants a closure"),
    "unfreezing after the end": ({"unfreeze": 9}, "unfreeze_at has epoch 9, after the last one, 3"),
    "unfreezing a stranger": ({"unfreeze": 2, "stranger": True}, "6 tensors for epoch 2 are those of another model"),
    "unfreezing outside": ({"unfreeze": 2, "head_only": True}, "2 tensors for epoch 2 are not in the optimizer"),
    "everything frozen": ({"frozen": True}, "Nothing would learn"),
    "one cycle by epochs": ({"scheduler": lambda o: SCHEDULES.OneCycleLR(o, 0.1, total_steps=18)}, "made for 18 steps"),
    "cosine of steps": ({"scheduler": lambda o: SCHEDULES.CosineAnnealingLR(o, 18)}, "made for 18 steps"),
    "cosine of epochs": (
        {"scheduler": lambda o: SCHEDULES.CosineAnnealingLR(o, 3), "step_scheduler": "step"},
        "made for 3 steps, and step_scheduler='step' makes 18",
    ),
    "cyclic by epochs": ({"scheduler": lambda o: SCHEDULES.CyclicLR(o, 0.1, 0.2)}, "CyclicLR counts batches"),
    "a wrong word": ({"step_scheduler": "batch"}, "say 'epoch' or 'step'"),
    "no validation images": ({"val": DataLoader(Subset(Pictures(), []), 4)}, "no validation images"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_would_train_nothing_or_wrongly_is_refused_before_the_first_step(what):
    options, said = REFUSED[what]
    options, model = dict(options), small_model()
    if "unfreeze" in options:
        part = small_model() if options.pop("stranger", False) else model[1]
        options["unfreeze_at"] = {options.pop("unfreeze"): part}
    if options.pop("head_only", False):
        options["optimizer"] = lambda _: torch.optim.Adam(model[5].parameters())
    if options.pop("frozen", False):
        model.requires_grad_(False)
    with pytest.raises(ValueError, match=said):
        fit_own(model=model, at=1, **options)


def test_without_any_good_epoch_the_last_weights_stay_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(course_utils.training, "evaluate", lambda *_: (float("nan"), 0.5))
    with pytest.warns(UserWarning, match="No epoch had a val_loss that is a number"):
        _, history, _ = fit_own(CheckpointFolder(tmp_path), epochs=2, patience=5)
    assert len(history) == 2


def test_the_number_of_validation_images_in_a_batch_makes_no_difference(tmp_path):
    fit_own(CheckpointFolder(tmp_path), epochs=1)
    history = fit_own(CheckpointFolder(tmp_path), epochs=2, resume=True, val=DataLoader(Pictures(8), 8))[1]
    assert len(history) == 2
    with pytest.raises(CheckpointError, match="validation data: items: 8 in the checkpoint, 6 here"):
        fit_own(CheckpointFolder(tmp_path), epochs=3, resume=True, val=DataLoader(Pictures(6), 8))


def test_what_is_free_but_not_in_the_optimizer_is_said():
    model = small_model()
    with pytest.warns(UserWarning, match="4 tensors are free to learn and not in the optimizer.*1.bias, 1.weight"):
        fit_own(model=model, optimizer=lambda _: torch.optim.Adam(model[5].parameters()), epochs=1)


def test_batchnorm_that_was_frozen_by_hand_stays_frozen_when_its_part_is_freed():
    model = small_model()
    model[2].requires_grad_(False)
    fit_own(model=model, unfreeze_at={2: model[:4]})
    assert model[1].weight.requires_grad and not model[2].weight.requires_grad


COMMAND = [sys.executable, "-m", "course_utils.train", "--data", "drawn", "--per-class", "60"]


ON_THE_CPU = os.environ | {"CUDA_VISIBLE_DEVICES": ""}  # two runs on a GPU differ: see tests/test_gpu.py


def command_line(out, *arguments):
    command = [*COMMAND, "--out", str(out), *map(str, arguments)]
    return subprocess.run(command, env=ON_THE_CPU, capture_output=True, text=True)


def result_of(out):
    return json.loads((out / "result.json").read_text())


def test_the_command_line_trains_and_a_second_run_overwrites_nothing(tmp_path):
    done = command_line(tmp_path, "--epochs", 2)
    assert done.returncode == 0, done.stderr
    result = result_of(tmp_path)
    assert result["epochs"] == 2 and result["steps"] == 4
    assert result["val_accuracy"] == max(row["val_accuracy"] for row in result["history"])
    assert result["weights_are_of_epoch"] == 2
    assert result["history"][result["val_accuracy_is_of_epoch"] - 1]["val_accuracy"] == result["val_accuracy"]
    refused = command_line(tmp_path, "--epochs", 2)
    assert refused.returncode == 1 and "--resume" in refused.stderr and "Traceback" not in refused.stderr
    again = command_line(tmp_path, "--epochs", 2, "--resume")
    assert "Nothing to do" in again.stdout
    assert result_of(tmp_path) == result


def test_the_command_line_says_whether_it_goes_on_and_takes_more_epochs(tmp_path):
    new = command_line(tmp_path, "--epochs", 1, "--resume")
    assert "a new one" in new.stdout, "as with a mistyped folder"
    more = command_line(tmp_path, "--epochs", 3, "--resume")
    assert more.returncode == 0, more.stderr
    assert "resumed from step_00000002.pt, epoch 2, step 2" in more.stdout
    assert "scheduler differs, accepted (T_max: 1 in the checkpoint, 3 here)" in more.stdout
    assert result_of(tmp_path)["epochs"] == 3


def test_a_tilde_is_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert parse_arguments(["--out=~/run", "--epochs", "1"]).out == tmp_path / "run"
    assert CheckpointFolder("~/run").folder == tmp_path / "run"


def test_a_killed_process_resumed_ends_with_the_same_weights(tmp_path):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    options = ["--epochs", "8", "--save-every", "1"]
    assert command_line(straight, *options).returncode == 0
    process = subprocess.Popen([*COMMAND, "--out", str(killed), *options], env=ON_THE_CPU)
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
