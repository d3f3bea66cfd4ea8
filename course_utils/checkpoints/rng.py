"""The random number generators that a training consumes: noted, and put back. Source: notebook 03."""

import random
import warnings

import numpy as np
import torch


def rng_state() -> dict:
    """The random number generators that a training consumes, as tensors and plain Python objects."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "python": random.getstate(),
        "numpy": [name, keys.tolist(), int(position), int(has_gauss), float(cached)],
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all(),  # one tensor a GPU; an empty list without one
    }


def restore_rng(state: dict) -> None:
    """Put the generators back to what `rng_state` returned.

    With another number of GPUs, theirs stay as they are, and a warning says so.
    """
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(state["numpy"]))
    torch.set_rng_state(state["torch"].cpu())
    then, now = len(state["cuda"]), torch.cuda.device_count()
    if then == now:
        torch.cuda.set_rng_state_all([one.cpu() for one in state["cuda"]])
    else:
        warnings.warn(
            f"The random numbers of {then} GPUs were saved, and here are {now}: a training that used a GPU or will use "
            f"one goes on correctly, but not exactly.",
            stacklevel=2,
        )
