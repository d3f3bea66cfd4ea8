"""One epoch, evaluation, and fit with early stopping and checkpoints. Source: notebooks 01 (loop) and 03 (resume)."""

import warnings
from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from course_utils.checkpoints import CheckpointFolder, Stopped
from course_utils.checkpoints.stopping import StopRequests
from course_utils.freezing import freeze, train_mode, unfreeze
from course_utils.resuming import TrainingParts


def train_steps(
    model: nn.Module,
    loader: DataLoader,
    optimizer: torch.optim.Optimizer,
    device: torch.device | str = "cpu",
    scaler: torch.amp.GradScaler | None = None,
) -> Iterator[tuple[float, int, int]]:
    """Train on one batch after the other; after each step give (sum of the loss, number correct, number of images).

    loader gives images float32 (batch, 3, height, width) and labels int64 (batch,); model gives logits
    (batch, classes). The loss is cross-entropy. scaler: train in mixed precision.
    Raises FloatingPointError at a loss that is not a finite number.
    """
    train_mode(model)
    for images, labels in loader:
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        with torch.autocast(images.device.type, enabled=scaler is not None):
            logits = model(images)
            loss = F.cross_entropy(logits, labels)
        if not loss.isfinite():
            raise FloatingPointError(f"The training loss is {loss.item()}. Try a lower learning rate.")
        optimizer.zero_grad()
        if scaler:
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
        else:
            loss.backward()
            optimizer.step()
        yield loss.item() * len(labels), int((logits.argmax(1) == labels).sum()), len(labels)


def train_one_epoch(
    model: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer, device: torch.device | str = "cpu"
) -> tuple[float, float]:
    """All batches of `train_steps` once: (mean loss, accuracy 0..1), measured while the weights change."""
    loss_sums, corrects, counts = zip(*train_steps(model, loader, optimizer, device))
    return sum(loss_sums) / sum(counts), sum(corrects) / sum(counts)


@torch.no_grad()
def evaluate(model: nn.Module, loader: DataLoader, device: torch.device | str = "cpu") -> tuple[float, float]:
    """(mean cross-entropy, accuracy 0..1) of the model in eval mode; it stays in eval mode."""
    model.eval()
    loss_sum, correct, count = 0.0, 0, 0
    for images, labels in loader:
        images, labels = images.to(device, non_blocking=True), labels.to(device, non_blocking=True)
        logits = model(images)
        loss_sum += F.cross_entropy(logits, labels, reduction="sum").item()
        correct += int((logits.argmax(1) == labels).sum())
        count += len(labels)
    return loss_sum / count, correct / count


def fit(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    train_loader: DataLoader,
    val_loader: DataLoader,
    epochs: int,
    device: torch.device | str = "cpu",
    scheduler: torch.optim.lr_scheduler.LRScheduler | None = None,
    scaler: torch.amp.GradScaler | None = None,
    unfreeze_at: dict[int, nn.Module] | None = None,
    patience: int | None = None,
    folder: CheckpointFolder | None = None,
    resume: bool = False,
    save_every: int | None = None,
    about: dict | None = None,
    verbose: bool = False,
) -> list[dict]:
    """Train until `epochs` epochs are done, checkpointing into `folder`; returns the history, one dict an epoch.

    Each dict: epoch (int, from 1), step (int, at its end), train_loss, train_accuracy, val_loss, val_accuracy
    (accuracies 0..1).
    scheduler: stepped once an epoch. scaler: train in mixed precision. unfreeze_at: {epoch: module}, frozen until
    that epoch; the optimizer holds its parameters from the start, and passes them over while they have no gradient.
    patience: stop after this many epochs without a better `folder.metric`, and put the best weights back.
    resume: go on from the folder's newest good checkpoint, exactly, even inside an epoch.
    save_every: also save after this many steps. about: plain values to store, such as the config.
    verbose: print a line an epoch.
    With a folder, SIGTERM and Ctrl-C save after the step that is running and raise Stopped, a KeyboardInterrupt.
    Raises ValueError for arguments that do not go together, CheckpointError when a checkpoint cannot be saved or
    belongs to another training. Source: notebook 03.
    """
    if folder is None and (patience is not None or resume or save_every is not None):
        raise ValueError("patience, resume and save_every need a folder for the checkpoints: pass folder=…")
    if folder is not None and not resume and not folder.is_empty():
        raise ValueError(
            f"{folder.folder} holds checkpoints of another training. Go on from them (resume=True, on the command line "
            f"--resume), or use another folder."
        )
    if resume and not hasattr(train_loader.sampler, "set_epoch"):
        raise ValueError(
            "resume needs to know the data order: make the training loader with make_loader(shuffle=True)."
        )

    model.to(device)
    unfreeze_at = unfreeze_at or {}
    parts = TrainingParts(model, optimizer, scheduler, scaler, train_loader, val_loader, unfreeze_at, about or {})
    state = {"step": 0, "epoch": 1, "loss_sum": 0.0, "correct": 0, "seen": 0}
    state |= {"history": [], "best": None, "epochs_without_better": 0}
    if resume and (checkpoint := folder.latest()) is not None:
        state = parts.restore(checkpoint)

    def finished() -> bool:
        return state["epoch"] > epochs or (patience is not None and state["epochs_without_better"] >= patience)

    if state["history"] and finished():
        print(f"Nothing to do: the training in {folder.folder} is finished after {len(state['history'])} epochs.")
    with StopRequests() if folder else nullcontext() as stop:
        try:
            while not finished():
                for epoch, module in unfreeze_at.items():
                    unfreeze(module) if state["epoch"] >= epoch else freeze(module)
                _train_epoch(parts, train_loader, device, state, folder, save_every, stop)
                with stop.at_once() if stop else nullcontext():
                    val_loss, val_accuracy = evaluate(model, val_loader, device)
                _end_epoch(state, val_loss, val_accuracy, scheduler, verbose)
                if folder:
                    _compare_with_best(state, folder)
                    folder.save(parts.checkpoint(state), new_metrics=True)
        except Stopped as request:
            folder.save(parts.checkpoint(state))
            folder.wait()
            saved = f"Saved step {state['step']} in {folder.folder}: go on with resume=True."
            raise Stopped(f"{request} {saved}", request.signal) from None
    if folder:
        folder.wait()
    if patience is not None and (best := folder.best()) is not None:
        model.load_state_dict(best["model_state_dict"])
    return state["history"]


def _train_epoch(parts, loader, device, state, folder, save_every, stop) -> None:
    """The steps of an epoch that are not done yet; `state` counts them."""
    if hasattr(loader.sampler, "set_epoch"):
        loader.sampler.set_epoch(state["epoch"], start=state["seen"])
    for loss_sum, correct, count in train_steps(parts.model, loader, parts.optimizer, device, parts.scaler):
        state["step"] += 1
        state["loss_sum"] += loss_sum
        state["correct"] += correct
        state["seen"] += count
        if folder:
            stop.check()
            folder.check()
        if save_every and state["step"] % save_every == 0:
            folder.save(parts.checkpoint(state))


def _end_epoch(state, val_loss, val_accuracy, scheduler, verbose) -> None:
    """Write the epoch into the history and set the counters for the next one."""
    row = {
        "epoch": state["epoch"],
        "step": state["step"],
        "train_loss": state["loss_sum"] / state["seen"],
        "train_accuracy": state["correct"] / state["seen"],
        "val_loss": val_loss,
        "val_accuracy": val_accuracy,
    }
    state["history"].append(row)
    if verbose:
        print("  ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)
    if scheduler:
        with warnings.catch_warnings():  # resumed after the last step of an epoch, this process has made none yet
            warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
            scheduler.step()
    state |= {"epoch": state["epoch"] + 1, "loss_sum": 0.0, "correct": 0, "seen": 0}


def _compare_with_best(state, folder) -> None:
    value = state["history"][-1][folder.metric]
    if folder.is_better(value, than=state["best"]):
        state |= {"best": value, "epochs_without_better": 0}
    else:
        state["epochs_without_better"] += 1
