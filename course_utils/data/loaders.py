"""Cats and Dogs in batches, in an order that is a pure function of (seed, epoch): notebook 03, "The data order"."""

import signal
from collections.abc import Iterator

import torch
from torch.utils.data import DataLoader, Sampler

from course_utils.data.datasets import CatsAndDogs, seed_of


class EpochSampler(Sampler):
    """Yields (epoch, index) pairs in an order that is a pure function of (seed, epoch), from any sample on."""

    def __init__(self, length: int, seed: int = 0):
        self.length = length
        self.seed = seed
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch, and how many of its samples to skip: those that were seen before an interruption."""
        self.epoch = epoch
        self.start = start

    def __iter__(self) -> Iterator[tuple[int, int]]:
        generator = torch.Generator().manual_seed(seed_of(self.seed, self.epoch))
        order = torch.randperm(self.length, generator=generator).tolist()
        return iter([(self.epoch, index) for index in order[self.start :]])

    def __len__(self) -> int:
        return self.length - self.start


def make_loader(
    dataset: CatsAndDogs, batch_size: int = 32, shuffle: bool = False, seed: int = 0, workers: int = 0
) -> DataLoader:
    """A DataLoader of (images float32 (batch, 3, height, width), labels int64 (batch,)).

    shuffle=True is for training: the order comes from an `EpochSampler`, and the last, smaller batch is dropped,
    because BatchNorm cannot normalise a batch of one. Raises ValueError when that leaves no batch at all.
    """
    if shuffle and len(dataset) < batch_size:
        raise ValueError(
            f"{len(dataset)} training images do not fill one batch of {batch_size}. Load more, or use a smaller batch."
        )
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=EpochSampler(len(dataset), seed) if shuffle else None,
        drop_last=shuffle,
        num_workers=workers,
        pin_memory=torch.cuda.is_available(),  # a GPU copies from such memory while the CPU goes on
        worker_init_fn=_leave_signals_to_the_main_process,
        generator=torch.Generator().manual_seed(seed),  # or each epoch draws a number from the RNG that dropout uses
    )


def _leave_signals_to_the_main_process(_) -> None:
    """A terminal sends Ctrl-C, and a cluster SIGTERM, to every process. The main one saves first, then ends all.

    A worker that ends before it would interrupt the main process within a step, where nothing can be saved exactly.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
