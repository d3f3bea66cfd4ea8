"""One epoch, evaluation, and fit with early stopping and checkpoints. Source: notebooks 01 (loop) and 04 (`fit`)."""

import inspect
import warnings
from collections.abc import Iterable, Iterator

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader

from course_utils.checkpoints import CheckpointFolder, Training, facts_of_data
from course_utils.freezing import freeze_until, train_mode


def train_steps(
    model: nn.Module,
    loader: Iterable,
    optimizer: torch.optim.Optimizer,
    device: torch.device | str = "cpu",
    scaler: torch.amp.GradScaler | None = None,
    autocast_dtype: torch.dtype | None = None,
) -> Iterator[tuple[float, int, int]]:
    """Train on one batch after the other; after each step give (sum of the loss, number correct, number of images).

    loader gives images float32 (batch, 3, height, width) and labels int64 (batch,); model gives logits
    (batch, classes). The loss is cross-entropy. scaler: train in mixed precision. autocast_dtype: in which 16-bit type,
    with or without a scaler; default with one: that of the device (float16 on a GPU).
    Raises FloatingPointError at a loss that is not a finite number.
    """
    train_mode(model)
    for images, labels in loader:
        images, labels = _to(device, images), _to(device, labels)
        with torch.autocast(images.device.type, autocast_dtype, enabled=bool(scaler or autocast_dtype)):
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


def _to(device: torch.device | str, batch: torch.Tensor) -> torch.Tensor:
    """Not to wait is safe from pinned memory alone: elsewhere, PyTorch may read memory that was freed meanwhile.

    Source: https://github.com/pytorch/pytorch/issues/189690, on a Mac.
    """
    return batch.to(device, non_blocking=batch.is_pinned())


def train_one_epoch(
    model: nn.Module, loader: DataLoader, optimizer: torch.optim.Optimizer, device: torch.device | str = "cpu"
) -> tuple[float, float]:
    """All batches of `train_steps` once: (mean loss, accuracy 0..1), measured while the weights change."""
    loss_sums, corrects, counts = zip(*train_steps(model, loader, optimizer, device))
    return sum(loss_sums) / sum(counts), sum(corrects) / sum(counts)


@torch.no_grad()
def evaluate(
    model: nn.Module,
    loader: DataLoader,
    device: torch.device | str = "cpu",
    autocast_dtype: torch.dtype | None = None,
) -> tuple[float, float]:
    """(mean cross-entropy, accuracy 0..1) of the model in eval mode; it stays in eval mode.

    autocast_dtype: compute in this 16-bit type. Raises ValueError for a loader without images.
    """
    model.eval()
    loss_sum, correct, count = 0.0, 0, 0
    for images, labels in loader:
        images, labels = _to(device, images), _to(device, labels)
        with torch.autocast(images.device.type, autocast_dtype, enabled=autocast_dtype is not None):
            logits = model(images)
            loss_sum += F.cross_entropy(logits, labels, reduction="sum").item()
        correct += int((logits.argmax(1) == labels).sum())
        count += len(labels)
    if not count:
        raise ValueError("There are no images to evaluate the model on: the loader is empty.")
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
    step_scheduler: str = "epoch",
    parts: dict | None = None,
    autocast_dtype: torch.dtype | None = None,
    accept: Iterable[str] = (),
) -> list[dict]:
    """Train until `epochs` epochs are done, checkpointing into `folder`; returns the history, one dict an epoch.

    Each dict: epoch (int, from 1), step (int, at its end), train_loss, train_accuracy, val_loss, val_accuracy
    (accuracies 0..1).
    scheduler: stepped once an epoch, or once a step with step_scheduler="step"; ReduceLROnPlateau is given the
    folder's metric (without a folder, val_loss). scaler: train in mixed precision. autocast_dtype: in which 16-bit
    type; bfloat16 needs no scaler. unfreeze_at: {epoch: module}, frozen until that epoch; the optimizer holds its
    parameters from the start, and passes them over while they have no gradient.
    patience: stop after this many epochs without a better `folder.metric`, and put the best weights back.
    resume: go on from the folder's newest good checkpoint, exactly, even inside an epoch. accept: names of what may
    differ from it, such as "optimizer", "scheduler" or "training data" (see `Training`).
    save_every: also save after this many steps. about: plain values to store, such as the config. parts: more of what
    is saved, such as {"ema": averaged_model}; what has an `update_parameters` (torch.optim.swa_utils.AveragedModel) is
    given the model after each step. verbose: print a line an epoch.
    With a folder, SIGTERM and Ctrl-C save what is done and raise Stopped, a KeyboardInterrupt.
    Raises ValueError for arguments that do not go together, CheckpointError when a checkpoint cannot be saved or
    belongs to another training. Source: notebook 04, section "The loop, finished".
    """
    unfreeze_at, parts = unfreeze_at or {}, parts or {}
    _check_arguments(folder, patience, resume, save_every)
    _check_what_learns(model, optimizer, unfreeze_at, epochs)
    _check_scheduler(scheduler, step_scheduler, epochs, train_loader)
    if hasattr(val_loader, "__len__") and not len(val_loader):
        raise ValueError("There are no validation images: the validation loader is empty.")
    model.to(device)
    frozen_until = freeze_until(unfreeze_at)
    saved = {"model": model, "optimizer": optimizer, "scheduler": scheduler, "scaler": scaler, **parts}
    try:
        with Training(folder, saved, config=about, save_every=save_every, resume=resume, accept=accept) as training:
            training.compare("validation data", facts_of_data(val_loader, order=False))
            unfreezing = ", ".join(f"{_size(module)} from epoch {epoch}" for epoch, module in unfreeze_at.items())
            training.compare("unfreezing", {"modules": unfreezing})
            for epoch in training.epochs(epochs, patience):
                _set_free(frozen_until, epoch)
                batches = training.batches(train_loader)
                for loss_sum, correct, count in train_steps(model, batches, optimizer, device, scaler, autocast_dtype):
                    training.log({"train_loss": loss_sum / count, "train_accuracy": correct / count}, weight=count)
                    for part in parts.values():
                        if hasattr(part, "update_parameters"):
                            part.update_parameters(model)
                    if scheduler and step_scheduler == "step":
                        scheduler.step()
                val_loss, val_accuracy = evaluate(model, val_loader, device, autocast_dtype)
                row = training.end_epoch({"val_loss": val_loss, "val_accuracy": val_accuracy})
                if scheduler and step_scheduler == "epoch":
                    _step(scheduler, row[folder.metric if folder else "val_loss"])
                if verbose:
                    print("  ".join(f"{key} {value:.4g}" for key, value in row.items()), flush=True)
    except BaseException:
        _set_free(frozen_until, epochs)  # as the model was, for who starts again with it
        raise
    if patience is not None and training.best is not None:
        training.load_best()
    elif patience is not None:
        warnings.warn(f"No epoch had a {folder.metric} that is a number, so the last weights stay.", stacklevel=2)
    return training.history


def _set_free(frozen_until: dict[int, list[nn.Parameter]], epoch: int) -> None:
    for first, parameters in frozen_until.items():
        for parameter in parameters if epoch >= first else []:
            parameter.requires_grad_(True)


def _check_arguments(folder, patience, resume, save_every) -> None:
    if folder is None and (patience is not None or resume or save_every is not None):
        raise ValueError("patience, resume and save_every need a folder for the checkpoints: pass folder=…")
    known = ("epoch", "step", "train_loss", "train_accuracy", "val_loss", "val_accuracy")
    if folder is not None and folder.metric not in known:
        raise ValueError(
            f"The folder's metric is {folder.metric!r}; fit measures {', '.join(known)}: name one of them."
        )


def _check_what_learns(model, optimizer, unfreeze_at, epochs) -> None:
    """What should learn and is not in the optimizer never would, and nothing would be said."""
    if inspect.signature(type(optimizer).step).parameters["closure"].default is inspect.Parameter.empty:
        raise ValueError(f"{type(optimizer).__name__} wants a closure: write the loop yourself, with `Training`.")
    held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    of_model = {id(parameter): name for name, parameter in model.named_parameters()}
    if foreign := held - of_model.keys():
        raise ValueError(
            f"{len(foreign)} of the {len(held)} tensors in the optimizer are not the model's: it was made for another "
            f"model, or before the head was replaced. Make it anew."
        )
    for epoch, module in unfreeze_at.items():
        parameters = {id(parameter) for parameter in module.parameters()}
        if epoch > epochs:
            raise ValueError(f"unfreeze_at has epoch {epoch}, after the last one, {epochs}: that part never learns.")
        if outside := parameters - of_model.keys():
            raise ValueError(f"unfreeze_at: {len(outside)} tensors for epoch {epoch} are those of another model.")
        if missing := parameters - held:
            raise ValueError(
                f"unfreeze_at: {len(missing)} tensors for epoch {epoch} are not in the optimizer, so they would never "
                f"learn: give it all parameters that learn at any time."
            )
    learning = {id(parameter) for parameter in model.parameters() if parameter.requires_grad}
    learning |= {id(parameter) for module in unfreeze_at.values() for parameter in module.parameters()}
    if not learning & held:
        raise ValueError("Nothing would learn: every tensor in the optimizer is frozen. Unfreeze the head.")
    if missing := sorted(of_model[one] for one in learning - held):
        warnings.warn(
            f"{len(missing)} tensors are free to learn and not in the optimizer, so they stay as they are: "
            f"{', '.join(missing[:3])} … Freeze them, or give them to the optimizer.",
            stacklevel=3,
        )


def _check_scheduler(scheduler, step_scheduler, epochs, train_loader) -> None:
    """A schedule of so many steps that is stepped once an epoch would end near its beginning."""
    if step_scheduler not in ("epoch", "step"):
        raise ValueError(f"step_scheduler is {step_scheduler!r}; say 'epoch' or 'step'.")
    if scheduler is None or not hasattr(train_loader, "__len__"):
        return
    times = {"epoch": epochs, "step": epochs * len(train_loader)}
    name, length = (
        type(scheduler).__name__,
        getattr(scheduler, "total_steps", None) or getattr(scheduler, "T_max", None),
    )
    other = "step" if step_scheduler == "epoch" else "epoch"
    wrong_length = length is not None and length == times[other] != times[step_scheduler]
    if wrong_length or (hasattr(scheduler, "total_steps") and length != times[step_scheduler]):
        raise ValueError(
            f"{name} is made for {length} steps, and step_scheduler={step_scheduler!r} makes {times[step_scheduler]}: "
            f"there are {times['epoch']} epochs, {times['step']} steps."
        )
    if isinstance(scheduler, torch.optim.lr_scheduler.CyclicLR) and step_scheduler == "epoch":
        raise ValueError("CyclicLR counts batches: pass step_scheduler='step'.")


def _step(scheduler, value: float) -> None:
    with warnings.catch_warnings():  # resumed after the last step of an epoch, this process has made none yet
        warnings.filterwarnings("ignore", message="Detected call of `lr_scheduler.step")
        if isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau):
            scheduler.step(value)
        else:
            scheduler.step()


def _size(module: nn.Module) -> str:
    tensors = list(module.parameters())
    return (
        f"{type(module).__name__} of {sum(tensor.numel() for tensor in tensors):,} parameters in {len(tensors)} tensors"
    )
