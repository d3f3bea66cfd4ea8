"""What is saved in the background is what is saved in the foreground: the same values, kinds and shared memory."""

from collections import Counter, OrderedDict
from functools import partial
from pathlib import Path

import torch
import torchvision
from torch import nn

from course_utils.checkpoints import CheckpointFolder
from faults.trials import EXACT, count, promise, same


class _Versioned(nn.Module):
    """Its state_dict says in `_metadata` which version it is."""

    _version = 2

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))


class _Extra(nn.Linear):
    def get_extra_state(self):
        return {"seen": 3, "names": {"a", "b"}}

    def set_extra_state(self, state):
        pass


def _everything() -> dict[str, object]:
    base, tied = torch.arange(60.0).reshape(6, 10), nn.Linear(4, 4)
    tied_model = nn.Sequential(tied, nn.ReLU(), tied)
    shared = [1, 2]
    model = nn.Linear(8, 8)
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.ones(2, 8)).sum().backward()
    optimizer.step()
    return {
        "views": [base, base.T, base[2:4], base[:, ::3], base[0, 0]],
        "tied weights": tied_model.state_dict(),
        "a version": _Versioned().state_dict(),
        "extra state": _Extra(2, 2).state_dict(),
        "mnasnet": torchvision.models.mnasnet0_5(num_classes=2).state_dict(),
        "optimizer": optimizer.state_dict(),
        "ordered": OrderedDict(b=torch.ones(2), a=OrderedDict(c=1)),
        "counter": Counter("aab"),
        "sets and bytes": [{1, 2}, b"x", bytearray(b"yz"), (1, (2.5, None)), True, 1j],
        "the same list twice": [shared, shared],
        "a parameter": nn.Parameter(torch.randn(3)),
        "one that wants a gradient": torch.ones(2, requires_grad=True),
        "kinds of numbers": [
            torch.ones(3, dtype=kind) for kind in (torch.bfloat16, torch.int8, torch.bool, torch.complex64)
        ],
        "empty": [torch.zeros(0), torch.zeros(0, 5), torch.tensor(3)],
        "channels last": torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last),
        "sparse": torch.eye(3).to_sparse(),
        "conjugated": torch.ones(2, dtype=torch.complex64).conj(),
    }


def copies(work: Path) -> Counter:
    return count(partial(_saved_twice, work / what.replace(" ", "_"), value) for what, value in _everything().items())


def _saved_twice(work: Path, value) -> str:
    found, sizes = [], []
    for background in (False, True):
        folder = CheckpointFolder(work / str(background), background=background)
        for step in (1, 2):  # the second copy goes into the memory of the first
            folder.save({"step": step, "metrics": {}, "value": value})
        folder.wait()
        found.append(folder.latest()["value"])
        sizes.append(folder.last_paths()[0].stat().st_size)
    promise(same(*found), f"{found[1]} instead of {found[0]}")
    promise(sizes[0] == sizes[1], f"{sizes[1]} bytes instead of {sizes[0]}: memory that was shared is not")
    attributes = [getattr(one, "_metadata", None) for one in found]
    promise(attributes[0] == attributes[1], f"_metadata {attributes[1]} instead of {attributes[0]}")
    return EXACT
