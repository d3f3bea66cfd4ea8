"""All processes of one training, as `torchrun` starts them: one writes, the others wait. Source: notebook 09."""

import pickle
from collections.abc import Callable

import torch
from torch import distributed, nn

from .rng import rng_state


class Processes:
    """The processes of a training, or the only one; process 0 is the one that writes.

    Every process makes one at the same place, and calls the same methods in the same order: each is a collective. They
    have a group of their own, on the CPU, so that they get into the way of no other. Without
    `torch.distributed.init_process_group`, and with one process, nothing is sent anywhere.
    Source: https://docs.pytorch.org/docs/stable/distributed.html
    """

    def __init__(self):
        several = distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1
        self.count = distributed.get_world_size() if several else 1
        self.number = distributed.get_rank() if several else 0
        self._group = distributed.new_group(backend="gloo") if several else None

    @property
    def is_first(self) -> bool:
        return self.number == 0

    def say(self, text: str) -> None:
        """Print it once, not in every process."""
        if self.is_first:
            print(text)

    def by_first(self, work: Callable):
        """What `work` returns in process 0, in every process. What it raises there is raised in every one."""
        if self.count == 1:
            return work()
        answer, error = None, None
        if self.is_first:
            try:
                answer = work()
            except Exception as caught:
                error = caught
        told = [answer, _sendable(error)]
        distributed.broadcast_object_list(told, src=0, group=self._group)
        if self.is_first and error:
            raise error
        if told[1]:
            raise told[1]
        return told[0]

    def by_all(self, work: Callable) -> list:
        """What `work` returns in each process, by number, in every process. An error of one is raised in every one."""
        if self.count == 1:
            return [work()]
        answer, error = None, None
        try:
            answer = work()
        except Exception as caught:
            error = caught
        told = [None] * self.count
        distributed.all_gather_object(told, (answer, _sendable(error)), group=self._group)
        for _, one in told:
            if one:
                raise one
        return [one for one, _ in told]

    def gathered(self, value) -> list | None:
        """The value of every process, by number, in process 0; None in the others."""
        if self.count == 1:
            return [value]
        values = [None] * self.count if self.is_first else None
        distributed.gather_object(value, values, dst=0, group=self._group)
        return values

    def highest(self, number: int) -> int:
        """The highest number that a process gives, in every one."""
        if self.count == 1:
            return number
        numbers = torch.tensor([number], device="cpu")
        distributed.all_reduce(numbers, distributed.ReduceOp.MAX, group=self._group)
        return int(numbers)

    def own_share(self, checkpoint: dict) -> dict:
        """A checkpoint of process 0, with the random numbers and the means of this process in their place.

        Other processes than those that saved it: a new one keeps the random numbers that it has, so that no two draw
        the same; the means of those that are gone are counted by process 0.
        """
        shares = [{"rng": checkpoint["rng"], "sums": checkpoint["training"]["sums"]}]
        shares += checkpoint.get("other_processes", [])
        if self.number < len(shares):
            rng, sums = shares[self.number].values()
        else:
            rng, sums = _with_own_numbers(shares[0]["rng"]), {}
        for share in shares[self.count :] if self.is_first else []:
            for name, (total, weights) in share["sums"].items():
                so_far = sums.get(name, (0.0, 0))
                sums = sums | {name: (so_far[0] + total, so_far[1] + weights)}
        return checkpoint | {"rng": rng, "training": checkpoint["training"] | {"sums": sums}}

    def differing(self, checkpoint: dict) -> list[str]:
        """What to say when the checkpoint is one of another number of processes."""
        then = 1 + len(checkpoint.get("other_processes", []))
        if then == self.count:
            return []
        return [f"saved by {then} processes and here are {self.count}, so it goes on correctly, but not bit by bit"]


def without_wrapper(part):
    """The model inside a DistributedDataParallel or a `torch.compile`: its keys have no `module.` or `_orig_mod.`, so
    any number of processes loads them, compiled or not."""
    while isinstance(part, nn.Module):
        if isinstance(part, nn.parallel.DistributedDataParallel):
            part = part.module
        elif "_orig_mod" in part._modules:
            part = part._orig_mod
        else:
            break
    return part


def _sendable(error: Exception | None) -> Exception | None:
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:  # an error may hold whatever it likes
        return RuntimeError(f"In process 0: {type(error).__name__}: {error}")
    return error


def _with_own_numbers(state: dict) -> dict:
    own = {"global": rng_state()}
    loops = {number: loop | own for number, loop in state["loops"].items()}
    return {"step": state["step"] | own, "loops": loops}
