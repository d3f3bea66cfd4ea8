"""Which batch comes next, with which random numbers: noted after each step, found again. Source: notebook 03."""

import inspect
import signal
import warnings
from collections.abc import Callable, Iterable, Iterator
from copy import deepcopy
from functools import partial

from .durable import CheckpointError
from .rng import generators_in, put_state, restore_rng, rng_state, state_of


class DataOrder:
    """The random numbers of the process and of its loaders: at the last step, and where this epoch's loops began.

    An epoch may have several loops over batches, one after the other; they are numbered from 0.
    """

    def __init__(self):
        self.state = {"step": {"global": rng_state(), "loaders": {}}, "loops": {}}
        self._generators: dict[int, list] = {}  # of the loader of each loop that this process has started
        self._given: dict[int, Iterable] = {}  # to each loop, the last time

    def note(self) -> None:
        """The random numbers as they are now are those after the last step."""
        loaders = {number: [state_of(one) for one in found] for number, found in self._generators.items()}
        self.state["step"] = {"global": rng_state(), "loaders": self.state["step"]["loaders"] | loaders}

    def begin_epoch(self) -> None:
        self.state["loops"] = {}

    def put_back(self, state: dict) -> None:
        """The process's own generators are put back now, those of a loader when its loop starts."""
        self.state = deepcopy(state)
        restore_rng(state["step"]["global"])

    def refuse_what_goes_on(self, number: int, loader: Iterable) -> None:
        """Raises ValueError when a loop gets the same iterator of Python's own again. One of a class may begin anew, as
        the loaders of some libraries do."""
        own = isinstance(loader, Iterator) and type(loader).__module__ in ("builtins", "itertools")
        if own and loader is self._given.get(number):
            raise ValueError(
                f"training.batches was given the same {type(loader).__name__} again, which goes on where it was: no "
                f"resume can repeat that. Give it a loader, whose batches begin anew in each epoch."
            )
        self._given[number] = loader

    def start(self, number: int, loader: Iterable, epoch: int) -> Iterator:
        """The loader's batches from the first one on."""
        generators = generators_in(loader)
        if number not in self._generators:  # the first time, its generators are where an earlier process left them
            self._put_back_loader(generators, self.state["step"]["loaders"].get(number))
        self._generators[number] = generators
        self.state["loops"][number] = {"global": rng_state(), "loader": [state_of(one) for one in generators]}
        _set_epoch(loader, epoch)
        return _iterator(loader)

    def start_again(
        self, number: int, loader: Iterable, epoch: int, seen: int, without_reading: bool
    ) -> tuple[Iterator, int]:
        """The batches of the loop that was interrupted, and how many of the `seen` ones `skip` is still to read.

        without_reading: no item depends on random numbers that others draw, so a sampler may pass them over.
        """
        self._generators[number] = generators = generators_in(loader)
        begin = self.state["loops"][number]
        restore_rng(begin["global"])
        self._put_back_loader(generators, begin["loader"])
        passed_over = _set_epoch(loader, epoch, seen if without_reading else 0)
        return _iterator(loader), seen - passed_over

    def skip(self, number: int, iterator: Iterator, batches: int) -> None:
        """Read batches that were done. Then `put_back` brings the random numbers of the process."""
        for done in range(batches):
            if next(iterator, self) is self:
                raise CheckpointError(f"{batches} batches of this epoch are done, and the loader has only {done}.")
        self._put_back_loader(self._generators[number], self.state["step"]["loaders"][number])

    def _put_back_loader(self, generators: list, states: list | None) -> None:
        for generator, state in zip(generators, states or [], strict=bool(states)):
            put_state(generator, state)


def _set_epoch(loader: Iterable, epoch: int, seen: int = 0) -> int:
    """Tell the sampler, where it wants to know; returns how many of the `seen` batches it will pass over."""
    set_epoch = getattr(getattr(loader, "sampler", None), "set_epoch", None)
    if set_epoch is None:
        return 0
    if "start" not in inspect.signature(set_epoch).parameters or not loader.batch_size:
        set_epoch(epoch)
        return 0
    set_epoch(epoch, start=seen * loader.batch_size)
    return seen


def _iterator(loader: Iterable) -> Iterator:
    """`iter(loader)`, with new workers, which leave signals to the main process.

    Workers that live on from epoch to epoch would have random numbers that a new process cannot find again.
    """
    if not getattr(loader, "num_workers", 0):
        return iter(loader)
    if not getattr(loader, "in_order", True):
        warnings.warn(
            "in_order=False: the batches come in another order each time, so no resume is exact.", stacklevel=4
        )
    if loader.persistent_workers:
        loader._iterator = None
    chosen = loader.worker_init_fn
    loader.worker_init_fn = partial(_start_worker, chosen)
    try:
        return iter(loader)
    finally:
        loader.worker_init_fn = chosen


def end_workers(iterator: Iterator) -> None:
    """They do not hear `terminate`, which a program that ends sends to those of an iterator that something still holds,
    such as the traceback of an error: it would wait for them for ever."""
    if hasattr(iterator, "_shutdown_workers"):
        iterator._shutdown_workers()


def _start_worker(init: Callable | None, number: int) -> None:
    """A terminal sends Ctrl-C, and a cluster SIGTERM, to every process. The main one saves first, then ends all.

    A worker that ends before it would interrupt the main process within a step, where nothing can be saved exactly.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if init:
        init(number)
