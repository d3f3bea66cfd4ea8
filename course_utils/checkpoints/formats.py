"""Checkpoints of `Training`, of today and of before."""

import platform

import numpy as np
import torch

from .durable import CheckpointError

FORMAT_VERSION = 3  # 1: no scaler, no circumstances; 2: of `fit` only, its data order a sampler's


def versions() -> dict[str, str]:
    """Of what writes a checkpoint now."""
    return {"python": platform.python_version(), "torch": str(torch.__version__), "numpy": np.__version__}


def in_today_s_format(checkpoint: dict) -> dict:
    """The same checkpoint in the newest format. Raises CheckpointError for a newer one and for a foreign dict.

    The circumstances of an older one were written down in another way, so they are not compared.
    """
    version = checkpoint.get("format_version")
    if not isinstance(version, int):
        raise CheckpointError("This file is no checkpoint of a Training: it has no format_version. Load it by hand.")
    if version > FORMAT_VERSION:
        raise CheckpointError(
            f"The checkpoint has format {version}, and this program reads up to {FORMAT_VERSION}: update it."
        )
    return checkpoint if version == FORMAT_VERSION else _from_format_2(checkpoint)


def _from_format_2(checkpoint: dict) -> dict:
    old = checkpoint["training"]
    sums = {"train_loss": (old["loss_sum"], old["seen"]), "train_accuracy": (float(old["correct"]), old["seen"])}
    return {
        "scaler_state_dict": None,
        **checkpoint,
        "training": {
            "epoch": old["epoch"],
            "step": old["step"],
            "loops": 0,
            "seen": old["step"] - (old["history"][-1]["step"] if old["history"] else 0),
            "sums": sums if old["seen"] else {},
            "history": old["history"],
            "best": old["best"],
            "epochs_without_better": old["epochs_without_better"],
        },
        "rng": {
            "step": {"global": checkpoint["rng"], "loaders": {0: None}},
            "loops": {0: {"global": checkpoint["rng"], "loader": None}},
        },
        "frozen": {},
        "circumstances": {"facts": {}, "moved": {}},
        "config": checkpoint["about"],
    }
