"""One epoch, evaluation, and fit with early stopping and checkpoints. Source: notebooks 01 (loop) and 03 (resume)."""

from collections.abc import Iterator

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from course_utils.checkpoints import CheckpointError, CheckpointFolder, restore_rng, rng_state
from course_utils.freezing import train_mode

FORMAT_VERSION = 1


def train_steps(
    model: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer, device: torch.device | str = "cpu"
) -> Iterator[tuple[float, int, int]]:
    """Train on one batch after the other; after each step give (sum of the loss, number correct, number of images).

    loader gives images float32 (batch, 3, height, width) and labels int64 (batch,); model gives logits
    (batch, classes). The loss is cross-entropy. Raises FloatingPointError at a loss that is not a finite number.
    """
    train_mode(model)
    for images, labels in loader:
        images, labels = images.to(device), labels.to(device)
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        if not loss.isfinite():
            raise FloatingPointError(f"The training loss is {loss.item()}. Try a lower learning rate.")
        optimizer.zero_grad()
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
        images, labels = images.to(device), labels.to(device)
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
    scheduler: stepped once an epoch. patience: stop after this many epochs without a better `folder.metric`, and put
    the best weights back. resume: go on from the folder's newest good checkpoint, exactly, even inside an epoch.
    save_every: also save after this many steps. about: plain values to store (config, classes, versions).
    verbose: print a line an epoch.
    Raises ValueError for arguments that do not go together, CheckpointError when the checkpoint does not fit the
    model. Source: notebook 03.
    """
    if folder is None and (patience is not None or resume or save_every is not None):
        raise ValueError("patience, resume and save_every need a folder for the checkpoints: pass folder=…")
    if folder is not None and not resume and folder.paths():
        raise ValueError(
            f"{folder.folder} holds checkpoints of another training. Pass resume=True to go on, or use another folder."
        )
    if resume and not hasattr(train_loader.sampler, "set_epoch"):
        raise ValueError(
            "resume needs to know the data order: make the training loader with make_loader(shuffle=True)."
        )

    model.to(device)
    state = {"step": 0, "epoch": 1, "step_in_epoch": 0, "loss_sum": 0.0, "correct": 0, "seen": 0}
    state |= {"history": [], "best": None, "epochs_without_better": 0}
    if resume and (checkpoint := folder.latest()) is not None:
        state = _restore(checkpoint, model, optimizer, scheduler)

    def checkpoint_now() -> dict:
        return {
            "format_version": FORMAT_VERSION,
            "model_state_dict": model.state_dict(),
            "optimizer_state_dict": optimizer.state_dict(),
            "scheduler_state_dict": scheduler.state_dict() if scheduler else None,
            "rng": rng_state(),
            "step": state["step"],
            "metrics": dict(state["history"][-1]) if state["history"] else {},
            "training": {**state, "history": list(state["history"])},
            "about": about or {},
        }

    stopped = patience is not None and state["epochs_without_better"] >= patience
    if state["history"] and (stopped or state["epoch"] > epochs):
        print(f"Nothing to do: the training in {folder.folder} is finished after {len(state['history'])} epochs.")
    while state["epoch"] <= epochs and not stopped:
        if hasattr(train_loader.sampler, "set_epoch"):
            train_loader.sampler.set_epoch(state["epoch"], start=state["seen"])
        for loss_sum, correct, count in train_steps(model, train_loader, optimizer, device):
            state["step"] += 1
            state["step_in_epoch"] += 1
            state["loss_sum"] += loss_sum
            state["correct"] += correct
            state["seen"] += count
            if save_every and state["step"] % save_every == 0:
                folder.save(checkpoint_now())

        val_loss, val_accuracy = evaluate(model, val_loader, device)
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
            scheduler.step()
        state |= {"epoch": state["epoch"] + 1, "step_in_epoch": 0, "loss_sum": 0.0, "correct": 0, "seen": 0}
        if folder:
            _save_epoch(folder, state, checkpoint_now)
        stopped = patience is not None and state["epochs_without_better"] >= patience

    if patience is not None and (best := folder.best()) is not None:
        model.load_state_dict(best["model_state_dict"])
    return state["history"]


def _save_epoch(folder: CheckpointFolder, state: dict, checkpoint_now) -> None:
    """The best first: killed between the two saves, the epoch is repeated and both are written again."""
    value = state["history"][-1][folder.metric]
    better = folder.is_better(value, than=state["best"])
    if better:
        state |= {"best": value, "epochs_without_better": 0}
        folder.save_best(checkpoint_now())
    else:
        state["epochs_without_better"] += 1
    folder.save(checkpoint_now())


def _restore(checkpoint: dict, model, optimizer, scheduler) -> dict:
    """Put everything back; the scheduler exists already, or its construction would overwrite the learning rate."""
    if checkpoint.get("format_version") != FORMAT_VERSION:
        raise CheckpointError(
            f"The checkpoint has format version {checkpoint.get('format_version')}, this code reads {FORMAT_VERSION}."
        )
    try:
        model.load_state_dict(checkpoint["model_state_dict"])
        optimizer.load_state_dict(checkpoint["optimizer_state_dict"])
    except (RuntimeError, ValueError) as error:
        raise CheckpointError(
            f"The checkpoint belongs to another model, optimizer or phase of unfreezing. {error}"
        ) from error
    if (scheduler is None) != (checkpoint["scheduler_state_dict"] is None):
        raise CheckpointError("Only one of the checkpoint and this training has a scheduler. Resume as you started.")
    if scheduler:
        scheduler.load_state_dict(checkpoint["scheduler_state_dict"])
    restore_rng(checkpoint["rng"])
    return checkpoint["training"]
