"""The small training that is disturbed: everything that a resume must put back, in a few milliseconds a step."""

import contextlib
import json
import multiprocessing
import os
from pathlib import Path

import torch
from torch import nn
from torchvision.transforms import v2

from course_utils.checkpoints import CheckpointFolder, weights_sha256
from course_utils.data import load_datasets, make_loader
from course_utils.freezing import parameter_groups
from course_utils.runtime import seed_everything
from course_utils.training import fit

# A server with everything imported, from which a new process is forked: it starts in milliseconds, without threads.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(
    ["torch", "torchvision", "course_utils.training", "course_utils.models", "torch.distributed.checkpoint"]
    + ["torch.distributed.tensor", "torch.distributed.fsdp"]
)

TO_TENSOR = v2.Compose([v2.Resize((8, 8)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])
AUGMENT = v2.Compose([v2.RandomResizedCrop(12, scale=(0.6, 1.0)), v2.RandomHorizontalFlip()])
STEPS = 15  # at least: 5 epochs of 3, which is when the patience can end first


def train(folder: CheckpointFolder, resume: bool = False, workers: int = 0, before_step: dict | None = None) -> list:
    """[SHA-256 of the weights, history]. before_step: {step of this process: function called before it}."""
    torch.set_num_threads(1)
    with contextlib.redirect_stdout(open(os.devnull, "w")):
        train_set, val_set, _ = load_datasets(TO_TENSOR, per_class=60, source="drawn", augment=AUGMENT)
        seed_everything(0)
        body = nn.Sequential(nn.Linear(192, 8), nn.BatchNorm1d(8), nn.ReLU())
        head = nn.Sequential(nn.Dropout(0.5), nn.Linear(8, 2))
        optimizer = torch.optim.Adam(parameter_groups([(head, 0.03), (body, 0.01)]))
        steps = iter(range(1, 1000))

        def disturb(*_):
            (before_step or {}).get(next(steps), lambda: None)()

        optimizer.register_step_pre_hook(disturb)
        model = nn.Sequential(nn.Flatten(), body, head)
        history = fit(
            model,
            optimizer,
            make_loader(train_set.take(24), batch_size=8, shuffle=True, workers=workers),
            make_loader(val_set.take(8), workers=workers),
            epochs=8,
            scheduler=torch.optim.lr_scheduler.StepLR(optimizer, 2, gamma=0.5),
            scaler=torch.amp.GradScaler("cpu", init_scale=1024, growth_interval=5),
            unfreeze_at={2: body},
            patience=4,
            folder=folder,
            resume=resume,
            save_every=1,
        )
    return [weights_sha256(model.state_dict()), history]


def train_into(work: Path, **options) -> None:
    """In a process of its own: train in `work`, or go on there, and write down the result."""
    folder = CheckpointFolder(work / "run", **options)
    (work / "result.json").write_text(json.dumps(train(folder, resume=True)))


def result_of(work: Path) -> list:
    return json.loads((work / "result.json").read_text())
