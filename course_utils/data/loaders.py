"""Samples in batches, in an order that is a pure function of (seed, epoch): notebook 03, "The data order"."""

import bisect
from collections.abc import Iterator

import torch
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Sampler, Subset

from course_utils.data.datasets import seed_of
from course_utils.data.views import collate


class EpochSampler(Sampler):
    """Yields (epoch, index) pairs in an order that is a pure function of (seed, epoch), from any sample on.

    pairs=False: the same order as plain integers, for a dataset that knows no other keys. Of `num_replicas` processes,
    the one with the number `rank` gets every num_replicas-th sample; all get as many, so the last ones may go to none.
    """

    def __init__(self, length: int, seed: int = 0, pairs: bool = True, num_replicas: int = 1, rank: int = 0):
        self.length = length
        self.seed = seed
        self.pairs = pairs
        self.num_replicas = num_replicas
        self.rank = rank
        self.epoch = 0
        self.start = 0

    def set_epoch(self, epoch: int, start: int = 0) -> None:
        """Choose the epoch, and how many samples of this process to skip: those seen before an interruption."""
        self.epoch = epoch
        self.start = start

    def __iter__(self) -> Iterator[tuple[int, int] | int]:
        generator = torch.Generator().manual_seed(seed_of(self.seed, self.epoch))
        order = torch.randperm(self.length, generator=generator).tolist()
        order = order[self.rank :: self.num_replicas][self.start : self.length // self.num_replicas]
        return iter([(self.epoch, index) for index in order] if self.pairs else order)

    def __len__(self) -> int:
        return self.length // self.num_replicas - self.start


def make_loader(
    dataset: Dataset,
    batch_size: int = 32,
    shuffle: bool = False,
    seed: int = 0,
    workers: int = 0,
    num_replicas: int = 1,
    rank: int = 0,
) -> DataLoader:
    """A DataLoader of any dataset; of CatsAndDogs: (images float32 (batch, 3, height, width), labels int64 (batch,)).

    shuffle=True is for training: the order comes from an `EpochSampler`, and the last, smaller batch is dropped,
    because BatchNorm cannot normalise a batch of one. A dataset whose attribute `takes_epochs` is true is asked for
    (epoch, index) instead of a plain index, and so is one of these inside a Subset or a ConcatDataset.
    num_replicas, rank: with shuffle=True, the share of one of several processes; `batch_size` is that of each.
    Raises ValueError when no batch is full, and for a stream (IterableDataset), which has no order to choose.
    """
    if shuffle and (isinstance(dataset, IterableDataset) or not hasattr(dataset, "__len__")):
        raise ValueError(
            f"shuffle=True needs a dataset with a length and dataset[i], and {type(dataset).__name__} is a stream: "
            "let it shuffle itself, and leave shuffle=False."
        )
    if shuffle and len(dataset) // num_replicas < batch_size:
        raise ValueError(
            f"{len(dataset) // num_replicas} training samples do not fill one batch of {batch_size}. Load more, or use "
            f"a smaller batch."
        )
    pairs = _takes_epochs(dataset)
    if shuffle and pairs and type(dataset) in (Subset, ConcatDataset):
        dataset = _Epochs(dataset)
    return DataLoader(
        dataset,
        batch_size=batch_size,
        sampler=EpochSampler(len(dataset), seed, pairs, num_replicas, rank) if shuffle else None,
        drop_last=shuffle,
        num_workers=workers,
        collate_fn=collate,
        pin_memory=torch.cuda.is_available(),  # a GPU copies from such memory while the CPU goes on
        generator=torch.Generator().manual_seed(seed),  # or each epoch draws a number from the RNG that dropout uses
    )


class _Epochs(Dataset):
    """A Subset or a ConcatDataset that takes (epoch, index), because a dataset in it does.

    With plain indices, CatsAndDogs inside random_split would silently not be augmented.
    """

    def __init__(self, dataset: Subset | ConcatDataset):
        self.dataset = dataset

    def __len__(self) -> int:
        return len(self.dataset)

    def __getitem__(self, key: tuple[int, int]):
        epoch, index = key
        holder = self.dataset
        while type(holder) in (Subset, ConcatDataset):
            if type(holder) is Subset:
                holder, index = holder.dataset, int(holder.indices[index])
            else:
                part = bisect.bisect_right(holder.cumulative_sizes, index)
                holder, index = holder.datasets[part], index - (0, *holder.cumulative_sizes)[part]
        return holder[(epoch, index) if _takes_epochs(holder) else index]


def _takes_epochs(dataset: Dataset) -> bool:
    if type(dataset) is Subset:  # and no subclass of it: its own __getitem__ is part of the data
        return _takes_epochs(dataset.dataset)
    if type(dataset) is ConcatDataset:
        return any(map(_takes_epochs, dataset.datasets))
    return getattr(dataset, "takes_epochs", False)
