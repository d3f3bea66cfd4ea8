"""Where am I: device, seeds, Colab, Kaggle or neither, folders."""

import os
import random
import sys
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch

KAGGLE = Path("/kaggle")


def in_colab() -> bool:
    """True in a Colab kernel. (A subprocess of that kernel does not know it.)"""
    return "google.colab" in sys.modules


def in_kaggle() -> bool:
    """True in a notebook on Kaggle. (Its subprocesses know it too.)"""
    return "KAGGLE_KERNEL_RUN_TYPE" in os.environ


def get_device() -> torch.device:
    """The GPU if PyTorch sees one that works, else the CPU: "cuda" for NVIDIA and AMD, "mps" on a Mac, "xpu" for Intel.

    Source: https://docs.pytorch.org/docs/stable/accelerator.html
    """
    return torch.accelerator.current_accelerator(check_available=True) or torch.device("cpu")


def join_processes() -> tuple[int, int]:
    """Under `torchrun`, join the other processes; returns (the number of this one, how many there are), alone (0, 1).

    nccl where each process of this machine has a GPU of its own, which `get_device` gives then, else gloo.
    Source: https://docs.pytorch.org/docs/stable/elastic/run.html
    """
    if "LOCAL_RANK" not in os.environ:
        return 0, 1
    gpus, number = torch.cuda.device_count(), int(os.environ["LOCAL_RANK"])
    if gpus:
        torch.cuda.set_device(number % gpus)
    if not torch.distributed.is_initialized():
        torch.distributed.init_process_group("nccl" if gpus >= int(os.environ["LOCAL_WORLD_SIZE"]) else "gloo")
    return torch.distributed.get_rank(), torch.distributed.get_world_size()


@cache
def fast_dtype(device: torch.device | str) -> torch.dtype | None:
    """The 16-bit type in which this device computes faster than in float32, for `torch.autocast`; None: there is none.

    A CPU is asked by a measurement of some milliseconds: many know bfloat16 only by detours that are slower.
    Source: https://docs.pytorch.org/docs/stable/amp.html
    """
    device = torch.device(device)
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16
    if device.type != "cpu":
        return None
    seconds = {torch.float32: [], torch.bfloat16: []}
    for _ in range(20):  # in turn, and the fastest counts: another program on a core makes a run slower, never faster
        for dtype, times in seconds.items():
            times.append(_seconds_of_a_convolution(dtype))
    return torch.bfloat16 if 1.3 * min(seconds[torch.bfloat16]) < min(seconds[torch.float32]) else None


def _seconds_of_a_convolution(dtype: torch.dtype) -> float:
    images = torch.ones(8, 64, 28, 28, dtype=dtype).to(memory_format=torch.channels_last)
    weight = torch.ones(128, 64, 1, 1, dtype=dtype).to(memory_format=torch.channels_last)
    start = time.perf_counter()
    torch.nn.functional.conv2d(images, weight)
    return time.perf_counter() - start


def seed_everything(seed: int) -> None:
    """Seed the random number generators of Python, NumPy and PyTorch (CPU and GPU).

    Source: https://docs.pytorch.org/docs/stable/notes/randomness.html
    """
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def data_dir() -> Path:
    """The folder where images land: COURSE_DATA_DIR, else `data/` of the checkout, else `data/` of the working folder.

    The last one serves an installed package with no checkout around it: in Colab that is a folder on the VM. Kaggle
    keeps the working folder with the notebook, where a thousand images are in the way; they land beside it.
    """
    if os.environ.get("COURSE_DATA_DIR"):
        return Path(os.environ["COURSE_DATA_DIR"]).expanduser()
    checkout = Path(__file__).resolve().parent.parent
    if (checkout / "pyproject.toml").is_file():
        return checkout / "data"
    return KAGGLE / "temp" / "data" if in_kaggle() else Path("data").resolve()


def kept_dir() -> Path | None:
    """A folder for what must outlive a lent machine: on Google Drive in Colab, in Kaggle the folder of its outputs.

    Kaggle keeps that folder when the notebook is saved by "Save Version", or has "Persistence" among its settings.
    None elsewhere, where the disk is your own, and when Drive is refused.
    """
    if in_kaggle():
        folder = KAGGLE / "working" / "course_checkpoints"
        folder.mkdir(parents=True, exist_ok=True)
        return folder
    return drive_dir()


def drive_dir() -> Path | None:
    """A folder on Google Drive for what must outlive the Colab VM; None outside Colab or when Drive is refused.

    Source: notebook 04, section "Colab and Kaggle".
    """
    if not in_colab():
        return None
    from google.colab import drive

    try:
        drive.mount("/content/drive")
    except Exception as error:  # Colab raises several kinds, and every one of them means: no Drive
        print(f"Google Drive is not mounted ({error}): files stay on this machine and are lost with it.")
        return None
    folder = Path("/content/drive/MyDrive/course_checkpoints")
    folder.mkdir(parents=True, exist_ok=True)
    return folder
