"""`Training`: a loop of one's own, interrupted anywhere, ends as it would have without."""

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import warnings
from collections import deque
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    Subset,
    WeightedRandomSampler,
)
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from course_utils.checkpoints import CheckpointError, CheckpointFolder, Stopped, Training, load_checkpoint, rng
from course_utils.checkpoints.rng import generators_in
from course_utils.data import EpochSampler


class PowerCut(Exception):
    """Ends a training in the middle of a step, where nothing is saved any more."""


class Noisy(Dataset):
    """12 items; each is read with noise from the generator that is named."""

    def __init__(self, noise: str = "torch"):
        self.noise, self.own = noise, np.random.default_rng(3)

    def __len__(self):
        return 12

    def __getitem__(self, index):
        drawn = {
            "torch": lambda: torch.randn(()).item(),
            "numpy": lambda: np.random.randn(),
            "python": lambda: random.gauss(0, 1),
            "own": lambda: self.own.normal(),
            "none": lambda: 0.0,
        }[self.noise]()
        index = index[1] if isinstance(index, tuple) else index
        return torch.tensor([index / 10, drawn, 1.0, -index / 7])


class Stream(IterableDataset):
    def __iter__(self):
        info = torch.utils.data.get_worker_info()
        first, every = (info.id, info.num_workers) if info else (0, 1)
        for index in range(first, 12, every):
            yield torch.tensor([index / 10, torch.randn(()).item(), 1.0, 0.5])


class StatefulLoader:
    """Knows where it is, as torchdata's does."""

    def __init__(self):
        self.order, self.position = [], 0

    def __iter__(self):
        if self.position in (0, 6):
            self.order, self.position = torch.randperm(12).tolist(), 0
        while self.position < 6:
            self.position += 1
            yield torch.stack([Noisy()[index] for index in self.order[2 * self.position - 2 : 2 * self.position]])

    def state_dict(self):
        return {"order": list(self.order), "position": self.position}

    def load_state_dict(self, state):
        self.order, self.position = list(state["order"]), state["position"]


def image_folder(place: Path) -> ImageFolder:
    for number in range(12):
        folder = place / f"class_{number % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (4, 4), (20 * number, 3, 9)).save(folder / f"{number}.png")
    flip = v2.Compose([v2.RandomHorizontalFlip(), v2.ColorJitter(0.5), v2.ToImage(), v2.ToDtype(torch.float32, True)])
    dataset = ImageFolder(place, flip)
    dataset.target_transform = float
    return dataset


def first_numbers(batch):
    return batch if isinstance(batch, torch.Tensor) else batch[0].flatten(1)[:, :4]


LOADERS = {
    "shuffled": lambda place, workers: DataLoader(Noisy(), 2, shuffle=True, num_workers=workers),
    "not shuffled": lambda place, workers: DataLoader(Noisy("numpy"), 2, num_workers=workers),
    "its own generator": lambda place, workers: DataLoader(
        Noisy("python"), 2, shuffle=True, num_workers=workers, generator=torch.Generator().manual_seed(5)
    ),
    "a generator in the dataset": lambda place, workers: DataLoader(Noisy("own"), 2, True, num_workers=workers),
    "a sampler with a generator": lambda place, workers: DataLoader(
        Noisy(), 2, sampler=RandomSampler(range(12), generator=torch.Generator()), num_workers=workers
    ),
    "weighted, with replacement": lambda place, workers: DataLoader(
        Noisy(), 2, sampler=WeightedRandomSampler(range(1, 13), 12), num_workers=workers
    ),
    "a batch sampler": lambda place, workers: DataLoader(
        Noisy(), batch_sampler=BatchSampler(RandomSampler(range(12)), 2, False), num_workers=workers
    ),
    "subset": lambda place, workers: DataLoader(Subset(Noisy("own"), range(12)), 2, True, num_workers=workers),
    "image folder": lambda place, workers: DataLoader(image_folder(place), 2, True, num_workers=workers),
    "distributed sampler": lambda place, workers: DataLoader(
        Noisy(), 2, sampler=DistributedSampler(range(12), 1, 0), num_workers=workers
    ),
    "our sampler": lambda place, workers: DataLoader(Noisy(), 2, sampler=EpochSampler(12), num_workers=workers),
    "iterable": lambda place, workers: DataLoader(Stream(), 2, num_workers=workers),
    "persistent workers": lambda place, workers: DataLoader(
        Noisy(), 2, True, num_workers=workers, persistent_workers=workers > 0
    ),
    "stateful": lambda place, workers: StatefulLoader(),
}


class Average:
    """An exponential moving average whose state is its own."""

    def __init__(self, model):
        self.values = [parameter.detach().clone() for parameter in model.parameters()]

    def update(self, model):
        for mean, value in zip(self.values, model.parameters()):
            mean.lerp_(value.detach(), 0.1)

    def state_dict(self):
        return {"values": self.values}

    def load_state_dict(self, state):
        self.values = state["values"]


def run(folder, loader, before_step=None, in_evaluation=None, epochs=4, save_every=1, at_the_end=None, **options):
    """A loop with everything that draws random numbers, anew as a new process would; what came of it.

    before_step: {step of this run: function}. in_evaluation: {evaluation of this run: function}.
    """
    torch.manual_seed(0)
    np.random.seed(0)
    random.seed(0)
    model = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.4), nn.Linear(8, 1))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.7)
    average = Average(model)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "average": average}
    parts |= {"loader": loader} if isinstance(loader, StatefulLoader) else {}
    steps, evaluations = iter(range(1, 1000)), iter(range(1, 1000))
    with Training(folder, parts, metric="score", mode="max", save_every=save_every, **options) as training:
        for _ in training.epochs(epochs):
            model.train()
            for batch in training.batches(loader):
                (before_step or {}).get(next(steps), lambda: None)()
                loss = model(first_numbers(batch)).square().mean()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                average.update(model)
                training.log({"loss": loss.item()}, weight=len(batch))
            scheduler.step()
            model.eval()
            random_order = DataLoader(Noisy(), 4, shuffle=True)
            (in_evaluation or {}).get(next(evaluations), lambda: None)()
            score = sum(model(batch).sum().item() for batch in random_order)
            training.end_epoch({"score": score})
            (at_the_end or (lambda: None))()
    weights = [*model.state_dict().values(), *average.values]
    return [value.tolist() for value in weights], training.history, optimizer.param_groups[0]["lr"]


def cut_the_power():
    raise PowerCut


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("name", LOADERS)
def test_a_resume_is_exact_with_any_loader(name, workers, tmp_path):
    if workers and name == "stateful":
        pytest.skip("it has none")

    def loader():
        return LOADERS[name](tmp_path / "images", workers)

    straight = run(None, loader())
    assert run(tmp_path / "straight", loader()) == straight, "with checkpoints it is another training"
    for step in (2, 6, 7, 13) if not workers else (4, 13):
        place = tmp_path / f"at {step}"
        with pytest.raises(PowerCut):
            run(place, loader(), {step: cut_the_power})
        assert run(place, loader()) == straight, f"killed in step {step}"
    place = tmp_path / "evaluation"
    with pytest.raises(PowerCut):  # an error between two steps loses nothing: step 12 is saved, without save_every
        run(place, loader(), in_evaluation={2: cut_the_power}, save_every=None)
    assert load_checkpoint(place / "step_00000012.pt")["step"] == 12
    assert run(place, loader()) == straight, "in the evaluation"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("where", ["step", "evaluation", "loading", "after end_epoch"])
@pytest.mark.parametrize("background", [False, True])
def test_a_stop_anywhere_loses_nothing(number, where, background, tmp_path):
    def ask():
        signal.raise_signal(number)

    class Asking(Noisy):
        reads = 0

        def __getitem__(self, index):
            Asking.reads += 1
            if where == "loading" and Asking.reads == 40:
                ask()
            return super().__getitem__(index)

    straight = run(None, DataLoader(Noisy(), 2, shuffle=True))
    folder = CheckpointFolder(tmp_path, "score", "max", background=background)
    bodies = iter(range(1, 1000))
    handler = signal.getsignal(number)
    at = {
        "step": {"before_step": {9: ask}},
        "evaluation": {"in_evaluation": {2: ask}},
        "after end_epoch": {"at_the_end": lambda: ask() if next(bodies) == 2 else None},
    }
    with pytest.raises(Stopped, match="Saved step"):
        run(folder, DataLoader(Asking(), 2, shuffle=True), save_every=None, **at.get(where, {}))
    assert signal.getsignal(number) is handler
    assert folder.latest()["step"] == {"step": 9, "loading": folder.latest()["step"]}.get(where, 12)
    Asking.reads = 1000
    assert run(CheckpointFolder(tmp_path, "score", "max"), DataLoader(Asking(), 2, shuffle=True)) == straight


def test_what_stands_around_the_loops_is_run_again_and_counts_once(tmp_path):
    """A schedule stepped at the top of an epoch or after `end_epoch`, weights that are swapped for an evaluation."""

    def go(folder, at=None):
        torch.manual_seed(0)
        model = nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        top = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.9)
        steps = iter(range(1, 1000))
        with Training(folder, {"model": model, "optimizer": optimizer, "top": top}, save_every=2) as training:
            for epoch in training.epochs(4):
                with warnings.catch_warnings(action="ignore"):
                    top.step()
                model.bias.data += torch.randn(1)
                for batch in training.batches(DataLoader(Noisy(), 2, shuffle=True)):
                    if next(steps) == at:
                        raise PowerCut
                    loss = model(batch).square().mean()
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                training.end_epoch({"val_loss": loss.item()})
                model.weight.data *= 0.9
                if epoch == 2:
                    model.bias.requires_grad_(False)
        return [value.tolist() for value in model.state_dict().values()], optimizer.param_groups[0]["lr"]

    straight = go(tmp_path / "straight")
    for at in (3, 5, 7, 8, 12, 13, 19, 20, 24):
        with pytest.raises(PowerCut):
            go(tmp_path / str(at), at)
        assert go(tmp_path / str(at)) == straight, f"killed in step {at}"


def test_accumulated_gradients_two_loops_and_several_models(tmp_path):
    def go(folder, at=None):
        torch.manual_seed(0)
        models = nn.ModuleList([nn.Linear(4, 1), nn.Linear(4, 1)])
        optimizers = [torch.optim.Adam(model.parameters(), lr=0.01) for model in models]
        parts = {"one": models[0], "two": models[1], "optimizer one": optimizers[0], "optimizer two": optimizers[1]}
        batches = iter(range(1, 1000))
        with Training(folder, parts, save_every=1) as training:
            for _ in training.epochs(3):
                for model, optimizer, size in zip(models, optimizers, (1, 2)):
                    loader = DataLoader(Noisy(), size, shuffle=True)
                    for number, batch in enumerate(training.batches(loader, accumulate=3), start=1):
                        if next(batches) == at:
                            raise PowerCut
                        loss = model(batch).square().mean() + 0.1 * torch.rand(())
                        loss.backward()
                        if number % 3 == 0:
                            optimizer.step()
                            optimizer.zero_grad()
                training.end_epoch({"val_loss": loss.item()})
        assert training.step == 3 * (12 / 3 + 6 / 3)
        return [value.tolist() for value in models.state_dict().values()], training.history

    straight = go(tmp_path / "straight")
    for at in (2, 5, 12, 13, 14, 17, 18, 19, 31, 40):
        with pytest.raises(PowerCut):
            go(tmp_path / str(at), at)
        assert go(tmp_path / str(at)) == straight, f"killed at batch {at}"


@pytest.mark.parametrize("kind", ["plateau", "one cycle", "sequential", "lbfgs", "bfloat16", "scaler"])
def test_a_resume_is_exact_with(kind, tmp_path):
    def go(folder, at=None):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.2), nn.Linear(8, 1))
        if kind == "bfloat16":
            model.to(torch.bfloat16)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
        if kind == "lbfgs":
            optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=3)
        schedules = torch.optim.lr_scheduler
        scheduler = {
            "plateau": lambda: schedules.ReduceLROnPlateau(optimizer, patience=0),
            "one cycle": lambda: schedules.OneCycleLR(optimizer, 0.1, total_steps=24),
            "sequential": lambda: schedules.SequentialLR(
                optimizer,
                [schedules.LinearLR(optimizer, 0.1, 1.0, 5), schedules.CosineAnnealingLR(optimizer, 19)],
                [5],
            ),
        }.get(kind, lambda: None)()
        scaler = torch.amp.GradScaler("cpu", init_scale=64.0, growth_interval=3) if kind == "scaler" else None
        parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler}
        steps = iter(range(1, 1000))

        def loss_of(batch):
            optimizer.zero_grad()
            loss = model(batch.to(model[0].weight.dtype)).square().mean()
            (scaler.scale(loss) if scaler else loss).backward()
            return loss

        with Training(folder, parts, save_every=1) as training:
            for _ in training.epochs(4):
                model.train()
                for batch in training.batches(DataLoader(Noisy(), 2, shuffle=True)):
                    if next(steps) == at:
                        raise PowerCut
                    if kind == "lbfgs":
                        loss = optimizer.step(lambda batch=batch: loss_of(batch))
                    else:
                        loss = loss_of(batch)
                        scaler.step(optimizer) if scaler else optimizer.step()
                    if scaler:
                        scaler.update()
                    if scheduler and kind != "plateau":
                        scheduler.step()
                training.end_epoch({"val_loss": loss.item()})
                if kind == "plateau":
                    scheduler.step(loss.item())
        return (
            [value.tolist() for value in model.state_dict().values()],
            training.history,
            optimizer.param_groups[0]["lr"],
        )

    straight = go(tmp_path / "straight")
    for at in (2, 7, 14):
        with pytest.raises(PowerCut):
            go(tmp_path / str(at), at)
        assert go(tmp_path / str(at)) == straight, f"killed in step {at}"


def test_early_stopping_goes_on_counting_and_the_best_comes_back(tmp_path):
    def go(folder, scores, patience, at=None):
        torch.manual_seed(0)
        model = nn.Linear(4, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        with Training(folder, {"model": model, "optimizer": optimizer}, "val/rmse @ 1=x", "min") as training:
            for epoch in training.epochs(len(scores), patience):
                for batch in training.batches(DataLoader(Noisy(), 4)):
                    model(batch).mean().backward()
                    optimizer.step()
                if epoch == at:
                    raise PowerCut
                training.end_epoch({"val/rmse @ 1=x": scores[epoch - 1]})
        last = [value.tolist() for value in model.parameters()]
        row = training.load_best()
        return len(training.history), row["epoch"], last != [value.tolist() for value in model.parameters()]

    scores = [3.0, 2.0, float("nan"), 2.5, 2.1, 1.0]
    assert go(tmp_path / "a", scores, 3) == (5, 2, True)
    with pytest.raises(PowerCut):
        go(tmp_path / "b", scores, 3, at=4)
    assert go(tmp_path / "b", scores, 3) == (5, 2, True)


def test_a_best_that_is_gone_is_said(tmp_path):
    training = few_epochs(tmp_path, parts_of(), losses=[0.1, 0.3])
    training.folder.best_paths()[0].unlink()
    training = few_epochs(tmp_path, parts_of(), epochs=3, losses=[0.2])
    with pytest.warns(UserWarning, match=r"The best val_loss was 0.1, but its checkpoint is gone.*epoch 3, 0.2"):
        assert training.load_best()["epoch"] == 3


def test_one_line_says_what_it_does(tmp_path, capsys):
    run(tmp_path, DataLoader(Noisy(), 2, shuffle=True), epochs=1)
    assert "a new one" in capsys.readouterr().out
    run(tmp_path, DataLoader(Noisy(), 2, shuffle=True), epochs=2, config={"noise": 2})
    said = capsys.readouterr().out
    assert "resumed from step_00000006.pt, epoch 2, step 6; best score so far" in said and said.count("\n") == 1
    run(tmp_path, DataLoader(Noisy(), 2, shuffle=True), epochs=2, config={"noise": 3})
    assert "config differs (noise: 2 in the checkpoint, 3 here)" in capsys.readouterr().out


class Scaled(nn.Dropout):
    """With a setting of its own, a plain attribute."""

    def __init__(self, p, scale):
        super().__init__(p)
        self.scale = scale


def parts_of(lr=0.1, dropout=0.5, scale=1.0, frozen=False, wide=4, momentum=0.0, gamma=0.5, step_size=1, kind="StepLR"):
    model = nn.Sequential(nn.Linear(4, wide), Scaled(dropout, scale), nn.Linear(wide, 1))
    model[0].requires_grad_(not frozen)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr, momentum=momentum)
    schedules = torch.optim.lr_scheduler
    scheduler = {
        "StepLR": lambda: schedules.StepLR(optimizer, step_size, gamma),
        "ExponentialLR": lambda: schedules.ExponentialLR(optimizer, gamma),
        "chain": lambda: schedules.ChainedScheduler([schedules.StepLR(optimizer, step_size, gamma)]),
    }[kind]()
    return {"model": model, "optimizer": optimizer, "scheduler": scheduler}


def few_epochs(folder, parts, epochs=1, data=None, batch_size=4, losses=(), **options):
    losses, epochs = list(losses), max(epochs, len(losses))
    model, optimizer, scheduler = (parts[name] for name in ("model", "optimizer", "scheduler"))
    with Training(folder, parts, **options) as training:
        for _ in training.epochs(epochs):
            for batch in training.batches(DataLoader(data or Noisy("none"), batch_size, shuffle=True)):
                optimizer.zero_grad()
                model(batch).square().mean().backward()
                optimizer.step()
            scheduler.step()
            training.end_epoch({"val_loss": losses.pop(0) if losses else 1.0})
    return training


class Others(Noisy):
    def __getitem__(self, index):
        return super().__getitem__(index) + 1


OTHER_CIRCUMSTANCES = {
    "learning rate": ({"lr": 0.2}, {}, r"optimizer: group 0 lr: 0.1 in the checkpoint, 0.2 here"),
    "momentum": ({"momentum": 0.9}, {}, "optimizer: group 0 momentum: 0.0 in the checkpoint, 0.9 here"),
    "dropout": ({"dropout": 0.9}, {}, r"model: layer 1: Scaled\(p=0.5.* in the checkpoint, Scaled\(p=0.9"),
    "a setting of an own layer": ({"scale": 2.0}, {}, r"model: layer 1: Scaled\(.*scale=1.0\) .*scale=2.0\)"),
    "freezing": ({"frozen": True}, {}, "model: frozen: none in the checkpoint, 0.weight, 0.bias here"),
    "width": ({"wide": 8}, {}, "model: tensors: Sequential of 25 parameters in 4 tensors .* of 49 parameters"),
    "scheduler": ({"gamma": 0.1}, {}, "scheduler: gamma: 0.5 in the checkpoint, 0.1 here"),
    "kind of scheduler": ({"kind": "ExponentialLR"}, {}, "scheduler: class: StepLR in the checkpoint, ExponentialLR"),
    "batch size": ({}, {"batch_size": 3}, "training data: batch size: 4 in the checkpoint, 3 here"),
    "other items": ({}, {"data": Others("none")}, "training data: dataset: Noisy in the checkpoint, Others here"),
    "fewer items": (
        {},
        {"data": Subset(Noisy("none"), range(8))},
        "training data: items: 12 in the checkpoint, 8 here",
    ),
    "metric": ({}, {"metric": "val_loss", "mode": "max"}, "metric: mode: min in the checkpoint, max here"),
}


@pytest.mark.parametrize("what", OTHER_CIRCUMSTANCES)
def test_other_circumstances_are_told_and_nothing_changes(what, tmp_path):
    changed, options, said = OTHER_CIRCUMSTANCES[what]
    few_epochs(tmp_path, parts_of())
    before = {path.name: path.read_bytes() for path in tmp_path.glob("*.pt")}
    with pytest.raises(CheckpointError, match=f"(?s)another training.*{said}.*accept="):
        few_epochs(tmp_path, parts_of(**changed), epochs=2, **options)
    assert {path.name: path.read_bytes() for path in tmp_path.glob("*.pt")} == before


def test_pictures_that_look_different_are_told(tmp_path):
    class Same(Dataset):
        shift = 0.0

        def __len__(self):
            return 12

        def __getitem__(self, index):
            return torch.tensor([index / 10, 1.0, 2.0, 3.0 + Same.shift])

    few_epochs(tmp_path, parts_of(), data=Same())
    few_epochs(tmp_path, parts_of(), data=Same(), epochs=2)
    Same.shift = 0.5
    with pytest.raises(CheckpointError, match="training data: the items that were looked at are others"):
        few_epochs(tmp_path, parts_of(), data=Same(), epochs=3)


def test_what_is_harmless_is_not_refused(tmp_path):
    parts = parts_of(momentum=0.9, kind="chain")
    few_epochs(tmp_path, parts)
    few_epochs(tmp_path, parts, epochs=3)  # the same objects again, as in a notebook: its rate has moved
    fresh = parts_of(momentum=0.9, kind="chain")
    fresh["optimizer"].param_groups[0] |= {"foreach": False, "of a newer PyTorch": 1}
    assert len(few_epochs(tmp_path, fresh, epochs=4).history) == 4


def test_what_is_accepted_counts_from_then_on(tmp_path, capsys):
    few_epochs(tmp_path, parts_of(), epochs=2)
    parts = parts_of(lr=1.0, gamma=0.1)
    few_epochs(tmp_path, parts, epochs=3, accept=["optimizer", "scheduler"])
    assert parts["optimizer"].param_groups[0]["lr"] == pytest.approx(1.0 * 0.1**3), (
        "as if it had been so from the start"
    )
    assert "optimizer differs, accepted (group 0 lr: 0.1 in the checkpoint, 1.0 here)" in capsys.readouterr().out
    few_epochs(tmp_path, parts_of(lr=1.0, gamma=0.1), epochs=4)  # no longer a difference
    parts = parts_of(lr=1.0, gamma=0.1, frozen=True)
    few_epochs(tmp_path, parts, epochs=5, accept="model")
    assert not parts["model"][0].weight.requires_grad


def test_frozen_flags_come_back(tmp_path):
    """Unfrozen in epoch 2 by `if epoch == 2`, which a resume in epoch 3 does not meet again."""

    def go(epochs):
        parts = parts_of(frozen=True)
        with Training(tmp_path, parts) as training:
            for epoch in training.epochs(epochs):
                if epoch == 2:
                    parts["model"].requires_grad_(True)
                for batch in training.batches(DataLoader(Noisy("none"), 4)):
                    parts["optimizer"].zero_grad()
                    parts["model"](batch).mean().backward()
                    parts["optimizer"].step()
                training.end_epoch({"val_loss": 1.0})
        return parts["model"][0].weight

    before = go(2).clone()
    after = go(3)
    assert after.requires_grad and not torch.equal(before, after)


@pytest.mark.parametrize(
    ("make", "error", "said"),
    [
        (lambda at: Training(at, {"model": object()}), ValueError, "'model' is a object, which has no state_dict"),
        (lambda at: Training(at, {}, metric="f1"), ValueError, "say 'min' when a lower f1 is better, else 'max'"),
        (lambda at: Training(CheckpointFolder(at), {}, metric="f1"), ValueError, "say them once"),
        (lambda at: Training(at, {}, save_every=0), ValueError, "from 1 on"),
    ],
)
def test_arguments_that_cannot_be_meant_get_a_sentence(make, error, said, tmp_path):
    with pytest.raises(error, match=said):
        make(tmp_path)


def entered(folder, **options):
    with Training(folder, {"model": nn.Linear(1, 1)}, **options):
        pass


def test_what_can_be_known_is_told_on_entering(tmp_path):
    (tmp_path / "file").write_text("mine")
    with pytest.raises(CheckpointError, match="there is a file of that name"):
        entered(tmp_path / "file")
    with pytest.raises(CheckpointError, match=r"checkpoint\['config'\]\['data'\] \(a PosixPath\).*`str\(\)` of a path"):
        entered(tmp_path / "a", config={"data": Path("x")})
    assert not list((tmp_path / "a").glob("*.pt*"))
    with pytest.warns(UserWarning, match="'optimizer' changes 2 tensors that are in no part"):
        parts = {"model": nn.Linear(1, 1), "optimizer": torch.optim.SGD(nn.Linear(1, 1).parameters())}
        Training(tmp_path / "b", parts).__enter__().__exit__(None, None, None)


def test_mistakes_inside_the_loop_get_a_sentence_and_lose_nothing(tmp_path):
    def go(end, metric="val_loss", data=None):
        with Training(tmp_path, parts_of(), metric=metric, mode="min") as training:
            for _ in training.epochs(1):
                for _ in training.batches(data or DataLoader(Noisy("none"), 4)):
                    pass
                end(training)

    with pytest.raises(ValueError, match="not 'val_loss', the metric that tells the best"):
        go(lambda training: training.end_epoch({"val_acc": 1}))
    assert load_checkpoint(tmp_path / "step_00000003.pt")["step"] == 3, "the epoch is saved"
    with pytest.raises(ValueError, match="'many' for 'val_loss', which is no number"):
        go(lambda training: training.end_epoch({"val_loss": "many"}))
    with pytest.raises(RuntimeError, match="Epoch 1 ended without training.end_epoch"):
        go(lambda training: None)
    with pytest.raises(RuntimeError, match="was called before"):
        go(lambda training: [training.end_epoch({"val_loss": 1}), training.end_epoch({"val_loss": 1})])
    go(lambda training: training.end_epoch({"val_loss": torch.tensor(1.0)}))


def test_an_empty_loader_is_told(tmp_path):
    with pytest.raises(ValueError, match="gave no batch"), Training(tmp_path, parts_of()) as training:
        for _ in training.epochs(1):
            list(training.batches([]))


def test_a_loop_that_is_left_early_counts_its_last_step(tmp_path):
    def go(folder, at=None):
        torch.manual_seed(0)
        parts = parts_of()
        steps = iter(range(1, 1000))
        with Training(folder, parts, save_every=1) as training:
            for _ in training.epochs(3):
                for batch in training.batches(DataLoader(Noisy(), 2, shuffle=True)):
                    if next(steps) == at:
                        raise PowerCut
                    parts["optimizer"].zero_grad()
                    parts["model"](batch).square().mean().backward()
                    parts["optimizer"].step()
                    if training.step % 4 == 3:
                        break
                training.end_epoch({"val_loss": batch.mean()})
        return training.step, [value.tolist() for value in parts["model"].parameters()]

    straight = go(tmp_path / "straight")
    assert straight[0] == 12
    for at in (2, 5, 6):
        with pytest.raises(PowerCut):
            go(tmp_path / str(at), at)
        assert go(tmp_path / str(at)) == straight


def test_a_second_training_in_the_folder_is_told(tmp_path):
    program = """
import sys, torch
from course_utils.checkpoints import Training
with Training(sys.argv[1], {"model": torch.nn.Linear(1, 1)}):
    print("entered", flush=True)
    sys.stdin.read()
"""
    other = subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert "a new one" in other.stdout.readline() and "entered" in other.stdout.readline()
    with pytest.raises(ValueError, match=rf"still running \(process {other.pid} on .*Wait for its end"):
        entered(tmp_path)
    other.kill()  # without a chance to clear away
    other.wait()
    with Training(tmp_path, {"model": nn.Linear(1, 1)}):
        with pytest.raises(ValueError, match="still running .this process"):
            entered(tmp_path)
    entered(tmp_path)


HANGS = """
import sys, time, torch
from torch.utils.data import DataLoader
from course_utils.checkpoints import Training
with Training(sys.argv[1], {"model": torch.nn.Linear(1, 1)}) as training:
    for _ in training.epochs(9):
        for _ in training.batches(DataLoader(range(9))):
            if training.step == 3:
                print("hangs", flush=True)
                time.sleep(1000)
"""


@pytest.mark.parametrize(
    "presses", [[signal.SIGINT, signal.SIGINT], [signal.SIGTERM] * 2, [signal.SIGINT, signal.SIGTERM]]
)
def test_a_second_press_ends_a_step_that_hangs(presses, tmp_path):
    process = subprocess.Popen(
        [sys.executable, "-c", HANGS, str(tmp_path)], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    process.stdout.readline()
    process.stdout.readline()
    process.send_signal(presses[0])
    with pytest.raises(subprocess.TimeoutExpired):
        process.wait(0.5)
    process.send_signal(presses[1])
    assert process.wait(10) != 0


def test_an_ignored_signal_stays_ignored(tmp_path):
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Training(tmp_path, {"model": nn.Linear(1, 1)}):
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_leftovers_of_a_killed_save_go_and_files_of_others_stay(tmp_path):
    mine = ["resnet50.pt.part", "step_100.pt", "step_1.pt.part", "best.pt", "step_00000001.pt.bak", "notes.txt"]
    mine += ["best_00000001_val_loss=0.25_1.pt", "best_00000001_val_loss=0.25 (1).pt", "step_00000002 copy.pt"]
    for name in mine:
        (tmp_path / name).write_text("mine")
    for name in ("step_00000012.pt.part", "best_00000003_val_loss=0.5.pt.part"):
        (tmp_path / name).write_text("half")
    few_epochs(tmp_path, parts_of(), epochs=4)
    ours = {"best_00000003_val_loss=1.0.pt", "step_00000009.pt", "step_00000012.pt", ".training.lock"}
    assert {path.name for path in tmp_path.iterdir()} == {*mine, *ours}
    assert all((tmp_path / name).read_text() == "mine" for name in mine)
    (tmp_path / "step_00000020.pt").mkdir()
    with pytest.raises(CheckpointError, match="step_00000020.pt is a folder with the name of a checkpoint"):
        few_epochs(tmp_path, parts_of(), epochs=5)


def test_the_folder_alone_works_in_another_project(tmp_path):
    """Copied under another name into an empty project: it imports nothing of course_utils, and resumes."""
    source = Path(__file__).parent.parent / "course_utils" / "checkpoints"
    shutil.copytree(source, tmp_path / "safe_keeping", ignore=shutil.ignore_patterns("__pycache__"))
    program = """
import sys, torch
from safe_keeping import Training
model = torch.nn.Linear(1, 1)
with Training("run", {"model": model}) as training:
    for epoch in training.epochs(int(sys.argv[1])):
        for _ in training.batches([1, 2]):
            model.bias.data += 1
        training.end_epoch({"val_loss": 1.0})
print(training.step, model.bias.item() > 5, [name for name in sys.modules if name.startswith("course_utils")])
"""
    (tmp_path / "main.py").write_text(program)
    said = [
        subprocess.run(
            [sys.executable, "main.py", epochs], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout
        for epochs in ("1", "4")
    ]
    assert "a new one" in said[0] and "2 False []" in said[0]
    assert "resumed from step_00000002.pt, epoch 2, step 2" in said[1] and "8 True []" in said[1]


# --- what a loop of one's own may do wrong in silence ----------------------------------------------------------------


def numbered_batches(folder, stop_after=99):
    """[(epoch, number of the batch)] of two epochs of 4 batches, stopped after so many steps."""
    model, seen = nn.Linear(1, 1), []
    with Training(folder, {"model": model}, save_every=1) as training:
        for epoch in training.epochs(2):
            for _ in training.batches(DataLoader(torch.zeros(8, 1), 2)):
                seen.append((epoch, training.batch))
                if len(seen) > stop_after:
                    raise PowerCut
            training.end_epoch({"val_loss": 0.0})
    return seen


def test_the_number_of_a_batch_is_the_same_after_a_resume(tmp_path):
    straight = numbered_batches(tmp_path / "straight")
    assert straight == [(epoch, number) for epoch in (1, 2) for number in (1, 2, 3, 4)]
    with pytest.raises(PowerCut):
        numbered_batches(tmp_path / "killed", stop_after=6)
    assert numbered_batches(tmp_path / "killed") == straight[6:]


def test_an_iterator_that_goes_on_where_it_was_is_told_in_the_second_epoch(tmp_path):
    loader = DataLoader(torch.zeros(8, 1), 2)
    endless = itertools.cycle(loader)
    with Training(tmp_path / "a", {"model": nn.Linear(1, 1)}) as training:
        with pytest.raises(ValueError, match="the same cycle again"):
            for _ in training.epochs(2):
                for _, _ in zip(range(3), training.batches(endless)):
                    pass
                training.end_epoch({"val_loss": 0.0})
    with Training(tmp_path / "b", {"model": nn.Linear(1, 1)}) as training:  # a new one each time is as good as a loader
        for _ in training.epochs(2):
            for _ in training.batches(itertools.islice(loader, 3)):
                pass
            training.end_epoch({"val_loss": 0.0})
    assert training.step == 6


class BeginsAnew:
    """As the loaders of some other libraries: its own iterator, which begins anew at `iter`."""

    def __iter__(self):
        self.left = 4
        return self

    def __next__(self):
        self.left -= 1
        if self.left < 0:
            raise StopIteration
        return torch.zeros(2, 1)


def test_a_loader_that_is_its_own_iterator_is_a_loader(tmp_path):
    loader = BeginsAnew()
    with Training(tmp_path, {"model": nn.Linear(1, 1)}) as training:
        for _ in training.epochs(2):
            for _ in training.batches(loader):
                pass
            training.end_epoch({"val_loss": 0.0})
    assert training.step == 8


def test_without_epochs_a_second_start_says_that_the_batches_are_done(tmp_path, capsys):
    for _ in range(2):
        with Training(tmp_path, {"model": nn.Linear(1, 1)}) as training:
            for _ in training.batches(DataLoader(torch.zeros(8, 1), 2)):
                if training.step == 2:
                    break
    assert "Nothing to do: these batches were done at step 3." in capsys.readouterr().out


def test_a_training_that_saw_no_batch_says_so(tmp_path):
    with pytest.warns(UserWarning, match="No batch went through training.batches"):
        with Training(tmp_path, {"model": nn.Linear(1, 1)}):
            pass


@pytest.mark.parametrize("by", ["log", "end_epoch"])
def test_the_names_of_the_history_are_not_overwritten(tmp_path, by):
    with pytest.raises(ValueError, match="'step' is counted here already"):
        with Training(tmp_path, {"model": nn.Linear(1, 1)}) as training:
            for _ in training.epochs(1):
                for _ in training.batches(DataLoader(torch.zeros(8, 1), 2)):
                    training.log({"step" if by == "log" else "train_loss": 1.0})
                training.end_epoch({"val_loss": 0.0} | ({"step": 9} if by == "end_epoch" else {}))


class Cooling(nn.Linear):
    temperature = 1.0

    def forward(self, x):
        self.temperature = self.temperature * 0.9
        return super().forward(x)


def test_an_attribute_that_moves_and_is_in_no_state_dict_is_told(tmp_path):
    model = nn.Sequential(Cooling(1, 1))
    with pytest.warns(UserWarning, match="Attributes of layer 0 of the part 'model' have changed") as told:
        with Training(tmp_path, {"model": model}, save_every=1) as training:
            for _ in training.epochs(1):
                for x in training.batches(DataLoader(torch.zeros(8, 1), 2)):
                    model(x)
                training.end_epoch({"val_loss": 0.0})
    assert len([one for one in told if "Attributes" in str(one.message)]) == 1


def test_a_state_that_is_rounded_when_it_is_put_back_is_told(tmp_path):
    def train(epochs, dtype):
        model = nn.Linear(1, 1).to(dtype)
        with Training(tmp_path, {"model": model}) as training:
            for _ in training.epochs(epochs):
                for _ in training.batches(DataLoader(torch.zeros(8, 1), 2)):
                    pass
                training.end_epoch({"val_loss": 0.0})

    train(1, torch.float32)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        train(2, torch.float32)
    with pytest.warns(UserWarning, match="'model' has turned numbers .*torch.float32 to torch.bfloat16"):
        train(3, torch.bfloat16)


def test_a_compiled_model_is_saved_without_its_wrapper(tmp_path):
    def train(epochs, compiled):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(1, 1))
        part = torch.compile(model, backend="eager") if compiled else model
        with Training(tmp_path, {"model": part}) as training:
            for _ in training.epochs(epochs):
                for _ in training.batches(DataLoader(torch.zeros(8, 1), 2)):
                    pass
                training.end_epoch({"val_loss": 0.0})
        return training

    train(1, compiled=True)
    assert list(CheckpointFolder(tmp_path).latest()["model_state_dict"]) == ["0.weight", "0.bias"]
    assert train(2, compiled=False).step == 8


@pytest.mark.parametrize("metric", ["val_loss", "val/loss", "loss", "val_loss_ema", "valLoss", "NLLLoss"])
def test_a_loss_needs_no_mode(tmp_path, metric):
    assert CheckpointFolder(tmp_path, metric=metric).mode == "min"


@pytest.mark.parametrize("metric", ["lossless", "negative_loss", "neg_loss", "gloss", "accuracy"])
def test_what_is_no_loss_needs_a_mode(tmp_path, metric):
    with pytest.raises(ValueError, match="say 'min'"):
        CheckpointFolder(tmp_path, metric=metric)


def test_without_a_folder_there_is_no_best():
    with pytest.raises(ValueError, match="no folder"):
        Training(None, {"model": nn.Linear(1, 1)}).load_best()


class Slots:
    __slots__ = ("generator",)

    def __init__(self, generator):
        self.generator = generator


def test_generators_are_found_behind_many_items_and_in_slots():
    class Holder:
        pass

    own = torch.Generator()
    for made in (
        {"generator": own, "records": {number: [number] for number in range(20_000)}},
        {"generator": own, "records": [{"a": [number], "b": [number]} for number in range(3_000)]},
        {"slots": Slots(own)},
        {"queue": deque([own])},
    ):
        holder = Holder()
        vars(holder).update(made)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert generators_in(holder) == [own], made.keys()


def test_a_search_that_gives_up_says_so(monkeypatch):
    monkeypatch.setattr(rng, "MOST_OBJECTS", 50)
    with pytest.warns(UserWarning, match="holds more than 50 objects"):
        generators_in([[number] for number in range(100)])
