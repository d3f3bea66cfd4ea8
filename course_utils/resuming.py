"""What a checkpoint of a training holds, and how all of it is put back. Source: notebook 03."""

import hashlib
import platform

import torch
import torchvision
from torch import nn
from torch.utils.data import DataLoader

from course_utils.checkpoints import CheckpointError, restore_rng, rng_state

FORMAT_VERSION = 2  # 1 had no scaler, no circumstances and no versions


class TrainingParts:
    """The objects of a training whose state goes into its checkpoints.

    scheduler and scaler may be None. unfreeze: {epoch: module that learns from this epoch on}.
    Make it before anything is trained or loaded: it notes the circumstances as the script sets them.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        scheduler: torch.optim.lr_scheduler.LRScheduler | None,
        scaler: torch.amp.GradScaler | None,
        train_loader: DataLoader,
        val_loader: DataLoader,
        unfreeze: dict[int, nn.Module],
        about: dict,
    ):
        self.model, self.optimizer, self.scaler, self.about = model, optimizer, scaler, about
        self.stateful = {"optimizer": optimizer, "scheduler": scheduler, "scaler": scaler}
        self.classes = list(getattr(train_loader.dataset, "classes", []))
        self.circumstances = {
            "model": _model(model),
            "optimizer": type(optimizer).__name__,
            "parameter groups": " + ".join(f"{len(group['params'])} tensors" for group in optimizer.param_groups),
            "optimizer settings": _settings(optimizer.param_groups),
            "scheduler": _scheduler(scheduler),
            "scaler": type(scaler).__name__,
            "unfreezing": ", ".join(f"{_model(module)} from epoch {epoch}" for epoch, module in unfreeze.items()),
            "classes": ", ".join(self.classes),
            "training images": _images(train_loader),
            "validation images": _images(val_loader),
            "seed of the data order": str(getattr(train_loader.sampler, "seed", None)),
            "seed of the augmentation": str(getattr(train_loader.dataset, "seed", None)),
        }

    def checkpoint(self, training: dict) -> dict:
        """Everything that a resume needs, and what a person wants to know, as tensors and plain values."""
        return {
            "format_version": FORMAT_VERSION,
            "model_state_dict": self.model.state_dict(),
            **{f"{name}_state_dict": part.state_dict() if part else None for name, part in self.stateful.items()},
            "rng": rng_state(),
            "step": training["step"],
            "metrics": dict(training["history"][-1]) if training["history"] else {},
            "training": {**training, "history": list(training["history"])},
            "classes": self.classes,
            "circumstances": self.circumstances,
            "versions": {
                "python": platform.python_version(),
                "torch": str(torch.__version__),
                "torchvision": str(torchvision.__version__),
            },
            "about": self.about,
        }

    def restore(self, checkpoint: dict) -> dict:
        """Put everything back; returns what `training` was when the checkpoint was made.

        The scheduler exists already, or making it would overwrite the learning rate.
        Raises CheckpointError, with a list of what differs, for the checkpoint of another training or a newer format.
        """
        checkpoint = _in_today_s_format(checkpoint)
        self._compare(checkpoint["circumstances"])
        try:
            self.model.load_state_dict(checkpoint["model_state_dict"])
            for name, part in self.stateful.items():
                if part:
                    part.load_state_dict(checkpoint[f"{name}_state_dict"])
        except (RuntimeError, ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"The checkpoint belongs to another model or optimizer. {error}") from error
        restore_rng(checkpoint["rng"])
        return checkpoint["training"]

    def _compare(self, before: dict) -> None:
        """before: the circumstances in a checkpoint; an older format may know fewer of them."""
        differences = [
            f"  {name}: {before[name] or 'none'} in the checkpoint, {now or 'none'} here"
            for name, now in self.circumstances.items()
            if name in before and before[name] != now
        ]
        if differences:
            raise CheckpointError(
                "\n".join(
                    [
                        "The checkpoint belongs to another training. What differs:",
                        *differences,
                        "Resume as you started, or train anew in another folder: its weights still load by hand.",
                    ]
                )
            )


def _in_today_s_format(checkpoint: dict) -> dict:
    version = checkpoint.get("format_version")
    if not isinstance(version, int):
        raise CheckpointError("This file is no checkpoint of `fit`: it has no format_version. Load it by hand.")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"The checkpoint has format {version}, and this course_utils reads up to {FORMAT_VERSION}: update it."
        )
    if version == 1:
        checkpoint = {**checkpoint, "scaler_state_dict": None, "circumstances": {}}
    return checkpoint


def _model(module: nn.Module) -> str:
    """Names and shapes of all tensors in a few words."""
    shapes = [(name, tuple(tensor.shape)) for name, tensor in module.state_dict().items()]
    parameters = sum(parameter.numel() for parameter in module.parameters())
    return f"{type(module).__name__} of {parameters:,} parameters in {len(shapes)} tensors ({_digest(shapes)})"


def _settings(groups: list[dict]) -> str:
    """The learning rate that a scheduler started from, and what else a group says."""
    texts = []
    for group in groups:
        settings = {key: value for key, value in group.items() if key not in ("params", "initial_lr")}
        settings["lr"] = float(group.get("initial_lr", group["lr"]))
        chosen = {key: value for key, value in sorted(settings.items()) if value is not None and value is not False}
        texts.append(", ".join(f"{key}={value}" for key, value in chosen.items()))
    return "; ".join(texts)


def _scheduler(scheduler) -> str:
    """What its maker chose. What changes while it runs is left out."""
    if scheduler is None:
        return ""
    moving = {"last_epoch", "best", "num_bad_epochs", "cooldown_counter", "base_lrs"}
    plain = {
        key: value
        for key, value in scheduler.state_dict().items()
        if key not in moving and not key.startswith("_") and isinstance(value, (int, float, str, list, tuple, dict))
    }
    return f"{type(scheduler).__name__}({', '.join(f'{key}={value}' for key, value in sorted(plain.items()))})"


def _images(loader: DataLoader) -> str:
    """How many, which ones if the dataset knows its files, and in batches of what size."""
    files = [f"{file.parent.name}/{file.name}" for file in getattr(loader.dataset, "files", [])]
    return f"{len(loader.dataset)} in batches of {loader.batch_size} ({_digest(files)})"


def _digest(value) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:8]
