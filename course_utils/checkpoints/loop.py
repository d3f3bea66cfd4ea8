"""A training loop of your own that can be killed anywhere, and goes on exactly. Source: notebook 04."""

import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

from . import parts as parts_of
from .circumstances import Circumstances, differences
from .durable import CheckpointError
from .facts import facts_of_data
from .folder import CheckpointFolder
from .formats import FORMAT_VERSION, in_today_s_format, versions
from .lock import FolderLock
from .order import DataOrder, end_workers
from .processes import Processes
from .progress import Progress
from .saves import Saves, folder_of
from .stopping import Stopped, StopRequests


class Training:
    """Counts, saves and resumes a loop that stays yours:

        with Training("runs/waves", {"model": model, "optimizer": optimizer}, "val/rmse", "min") as training:
            for epoch in training.epochs(20, patience=3):
                for x, y in training.batches(train_loader):
                    ...  # your step
                    training.log({"train/mse": loss.item()}, weight=len(x))
                training.end_epoch({"val/rmse": rmse(model, val_loader)})
        training.load_best()

    Killed or stopped anywhere and started again, it ends with the same weights and history as without, bit by bit.
    Of several processes (torchrun), each takes the same `with`: process 0 writes, the others wait for it, all resume
    from what it reads, and when one is asked to stop, all stop after the same step.

    folder: a path; or a `CheckpointFolder`, with its metric and mode, for a mirror or saves in the background; None
    counts without files. parts: {name: anything with `state_dict` and `load_state_dict`}: models, optimizers,
    schedulers, a scaler, an average of the weights, a stateful loader; None is passed over. Whatever else changes
    while you train belongs here too. A model inside of DistributedDataParallel or `torch.compile` is saved without the
    wrapper. metric: the value of `end_epoch` that tells the best; one that is no loss needs
    its mode, "min" or "max". config: plain values to store, such as `vars(args)`. save_every: also save after this many
    steps. resume: False refuses a folder that holds checkpoints. accept: names of parts, or "training data", that may
    differ from the checkpoint's: an optimizer has its new settings then, a scheduler goes on as if it had been the one
    from the start.

    On entering it takes the folder (a second training is told), makes a small trial save, resumes if there is
    something, compares what must be the same, and says in one line what it does. SIGTERM or Ctrl-C saves what is done
    at the end of the step that runs, and raises Stopped; a second one ends at once. An epoch is written when its body
    ends, so that what stands after `end_epoch` is in it too.
    Raises CheckpointError when the folder cannot be used, when what is in it belongs to another training (with what
    differs), and when a save fails; ValueError for arguments that do not go together.
    """

    def __init__(
        self,
        folder: str | Path | CheckpointFolder | None,
        parts: dict,
        metric: str | None = None,
        mode: str | None = None,
        config: dict | None = None,
        save_every: int | None = None,
        resume: bool = True,
        accept: Iterable[str] = (),
    ):
        if save_every is not None and save_every < 1:
            raise ValueError(f"save_every is {save_every}; give a number of steps from 1 on.")
        self.folder = folder = folder_of(folder, metric, mode)
        self.parts = parts_of.checked(parts)
        self.config, self.save_every, self.resume = dict(config or {}), save_every, resume
        self._circumstances = Circumstances(self.parts, accept)
        self._processes = Processes()
        self._progress = Progress()
        self._order = DataOrder()
        self._signals = StopRequests(self._processes)
        self._loop = 0  # which call of `batches` in this epoch comes next
        self._in_epochs = False
        self._in_step = False
        self._was_left = False  # in the middle of a step
        self._ended = False  # was `end_epoch` called in this epoch?
        self._saves = Saves(folder, self._checkpoint, self._processes)
        self._resumed: dict | None = None  # the checkpoint, until the place in the loop is found again

    @property
    def history(self) -> list[dict]:
        """One dict an epoch: epoch (from 1), step (at its end), the means of what was logged, the metrics."""
        return self._progress.history

    @property
    def step(self) -> int:
        """How many steps are done."""
        return self._progress.step

    @property
    def epoch(self) -> int:
        """The epoch that runs or comes next; the first is 1."""
        return self._progress.epoch

    @property
    def batch(self) -> int:
        """The number of the batch in hand, from 1, in its loop; `enumerate` would begin anew at a resume."""
        return self._progress.seen + 1

    @property
    def best(self) -> float | None:
        """The best value of the metric so far."""
        return self._progress.best

    def __enter__(self) -> "Training":
        if not self.folder:
            return self
        by_first = self._processes.by_first
        if not self.resume and not by_first(self.folder.is_empty):
            mirror = f", or its mirror {self.folder.mirror}," if self.folder.mirror else ""
            raise ValueError(
                f"{self.folder.folder}{mirror} holds checkpoints of another training. Go on from them (resume=True, on "
                f"the command line --resume), or use another folder."
            )
        if self._processes.is_first:
            parts_of.warn_of_what_is_outside(self.parts)
        self._circumstances.compare("metric", {"name": self.folder.metric, "mode": self.folder.mode})
        self._fresh = parts_of.fresh_states(self.parts, self._circumstances.accept)
        by_first(self.folder.make)
        self._lock = FolderLock(self.folder.folder)
        by_first(self._lock.take)
        self._signals.__enter__()
        self._signals.must_wait()  # PyTorch reads a file by calling Python from C++, where an exception would abort
        try:
            by_first(self.folder.prepare)
            self._saves.try_one()
            self._go_on_from(by_first(self.folder.latest) if self.resume else None)
            self._signals.may_come()
        except BaseException:
            self._signals.__exit__()
            self._lock.release()
            raise
        return self

    def __exit__(self, kind, error, traceback) -> None:
        if not self.folder:
            return
        in_order = error is None or isinstance(error, Stopped)
        pressed_twice = self._signals.asked and not in_order
        asked = None
        self._signals.must_wait()
        try:
            if error is None:
                self._leave_step()
                if not self.step:
                    warnings.warn(
                        "No batch went through training.batches, so nothing was counted or saved.", stacklevel=2
                    )
                self._end_body() if self._ended else self._saves.save_what_is_done()
                self._processes.by_first(self.folder.wait)
            elif not (self._in_step or pressed_twice or isinstance(error, CheckpointError)):
                self._saves.save_after(error)
            if in_order:
                asked = self._signals.agree()
        finally:
            self._signals.__exit__()
            self._lock.release()
        if asked:
            saved = "Nothing was done yet" if self._saves.step is None else f"Saved step {self._saves.step}"
            raise Stopped(
                f"Asked to stop by {self._signals.name}. {saved} in {self.folder.folder}: start again, with "
                f"resume=True (on the command line --resume), to go on.",
                asked,
            ) from None

    def epochs(self, count: int, patience: int | None = None) -> Iterator[int]:
        """The epochs that are still to do, up to `count`; fewer after `patience` epochs without a better metric.

        Raises ValueError for numbers below 1, RuntimeError when the body of an epoch did not call `end_epoch`.
        """
        if count < 1 or (patience is not None and patience < 1):
            raise ValueError(f"epochs({count}, patience={patience}): both must be at least 1.")
        if self.history and self._progress.is_finished(count, patience):
            print(f"Nothing to do: the training is finished after {len(self.history)} epochs.")
        while not self._progress.is_finished(count, patience):
            if self._resumed and not self._progress.has_begun_epoch:
                self._put_back()  # once more: what ran since the resume may have moved something
            self._loop, self._ended, self._in_epochs = 0, False, True
            yield self.epoch
            if not self._ended:
                raise RuntimeError(f"Epoch {self.epoch} ended without training.end_epoch(…): call it in every epoch.")
            self._signals.must_wait()
            self._end_body()
            self._signals.may_come()

    def batches(self, loader: Iterable, accumulate: int = 1) -> Iterator:
        """The batches of this epoch that are still to do, of any DataLoader, in the order of the first run.

        accumulate: how many batches make one optimizer step; saves come only between two of them.
        A resume inside an epoch reads the batches that were done once more, without giving them out, because they may
        draw random numbers. A sampler with `set_epoch(epoch, start)`, and a stateful loader among the parts, pass them
        over instead. After a `break` out of the loop, a stop waits for the end of the epoch.
        What begins anew at a resume is wrong then: count with `batch` and `step`, not with `enumerate`, and take means
        by `log`, not by a list of your own. Raises ValueError for an iterator, such as `itertools.cycle(loader)`, that
        was given before: it would go on where it was, which no resume can repeat.
        """
        if self._in_step and not self._was_left:
            raise RuntimeError("One loop over batches at a time: give training.batches one loader that gives both.")
        self._leave_step()
        number, self._loop = self._loop, self._loop + 1
        if number < self._progress.loops:  # done before the interruption
            if not self._in_epochs:
                self._processes.say(
                    f"Nothing to do: these batches were done at step {self.step}. Loop over training.epochs."
                )
            if self._resumed and number == self._progress.loops - 1 and not self._progress.seen:
                self._put_back()
            return
        self._signals.must_wait()  # a process whose workers have not all started could not end them
        iterator, inside, unread = self._start(number, loader)
        try:
            self._signals.may_come()
            if inside:
                self._order.skip(number, iterator, unread)
                self._put_back(but=loader)  # what ran in this epoch before its batches has run twice
            for batch in iterator:
                self._signals.must_wait()
                self._in_step, self._was_left = True, False
                yield batch
                self._progress.seen += 1
                self._order.note()
                if self._progress.seen % accumulate == 0:
                    self._end_step()
        except GeneratorExit:  # by a `break`, or by an error in the step
            self._was_left = True
            raise
        finally:
            end_workers(iterator)
        self._order.note()  # a sampler may draw once more at its end
        if not self._progress.seen:
            raise ValueError(f"The {type(loader).__name__} gave no batch in epoch {self.epoch}: is its dataset empty?")
        if self._in_step:
            warnings.warn(
                f"{self._progress.seen} batches are no multiple of accumulate={accumulate}: the last ones need a step "
                f"of their own (if training.batch == len(loader)), because gradients are not saved.",
                stacklevel=2,
            )
            self._end_step()
        self._progress.end_loop(number)
        if self.folder and self._saves.missing:
            self._saves.keep_in_memory()

    def log(self, values: dict, weight: float = 1) -> None:
        """Add to the means of this epoch: a loss, say, with the number of its samples as weight."""
        self._progress.log(values, weight)

    def end_epoch(self, metrics: dict) -> dict:
        """Write the epoch into the history, and compare it with the best; returns its row of the history.

        Of several processes, the means are over what all have logged, and the metrics are those of process 0.
        Raises ValueError when the metric is missing or a value is no number, RuntimeError when no batch went through
        `batches`; what was trained is not lost then.
        """
        self._leave_step()
        if self._ended or not self._progress.has_begun_epoch:
            why = "was called before" if self._ended else "has seen no batch of training.batches(loader)"
            raise RuntimeError(f"end_epoch in epoch {self.epoch} {why}.")
        sums = self._processes.gathered(self._progress.sums)
        row = self._processes.by_first(lambda: self._progress.row(metrics, sums))
        if self.folder:
            self._progress.compare_with_best(row, self.folder.metric, self.folder.is_better)
        self.history.append(row)
        self._ended = True
        return row

    def load_best(self) -> dict:
        """Put every part back to what it was after the best epoch; returns that epoch's row of the history.

        Raises CheckpointError when no epoch has ended, or no best checkpoint can be read; ValueError without a folder.
        """
        if not self.folder:
            raise ValueError("This training has no folder, so it keeps no best checkpoint: give it one.")
        checkpoint = self._processes.by_first(self.folder.best)
        if checkpoint is None:
            raise CheckpointError(f"{self.folder.folder} has no best checkpoint: no epoch with a {self.folder.metric}.")
        parts_of.load(self.parts, in_today_s_format(checkpoint))
        row, metric = checkpoint["metrics"], self.folder.metric
        if self.best is not None and self.folder.is_better(self.best, than=row[metric]):
            warnings.warn(
                f"The best {metric} was {self.best:.4g}, but its checkpoint is gone: this is the best that is left, of "
                f"epoch {row['epoch']}, {row[metric]:.4g}.",
                stacklevel=2,
            )
        return row

    def compare(self, name: str, facts: dict) -> None:
        """Facts, {name: plain value}, that must be the same at a resume. Raises CheckpointError with what differs."""
        self._processes.by_first(lambda: self._circumstances.compare(name, facts))
        self._circumstances.facts.setdefault(name, facts)

    def _checkpoint(self) -> dict:
        """All of the training as it was after its last step, as tensors and plain values; in process 0."""
        shares = self._processes.gathered({"rng": self._order.state, "sums": self._progress.sums})
        if not self._processes.is_first:
            return {"step": self.step}
        return {
            "format_version": FORMAT_VERSION,
            **parts_of.states(self.parts),
            **({"other_processes": shares[1:]} if shares[1:] else {}),
            "rng": self._order.state,
            "step": self.step,
            "metrics": dict(self.history[-1]) if self.history else {},
            "training": self._progress.state,
            "circumstances": self._circumstances.state(),
            "config": self.config,
            "versions": versions(),
        }

    def _go_on_from(self, checkpoint: dict | None) -> None:
        place = self.folder.folder
        if checkpoint is None:
            return self._processes.say(f"Training in {place}: a new one.")
        checkpoint = in_today_s_format(checkpoint)
        then, names = checkpoint["circumstances"], parts_of.names_in(checkpoint)
        accepted = self._processes.by_first(lambda: self._circumstances.compare_with(then, names))
        self._resumed = self._processes.own_share(checkpoint)
        self._put_back(keep=True)
        self._saves.step = self.step
        said = [f"resumed from {self.folder.loaded_from}, epoch {self.epoch}, step {self.step}"]
        said += [f"best {self.folder.metric} so far {self.best:.4g}"] if self.best is not None else []
        said += self._processes.differing(checkpoint) + accepted
        said += [f"config differs ({line})" for line in differences(checkpoint["config"], self.config)]
        self._processes.say(f"Training in {place}: {'; '.join(said)}.")

    def _put_back(self, keep: bool = False, but: object = None) -> None:
        """Everything as it was after the last step. keep: until the place in the loop is found again."""
        checkpoint = self._resumed
        parts_of.load(self.parts, checkpoint, self._circumstances.accept, self._fresh, but)
        self._progress = Progress.of(checkpoint["training"])
        self._order.put_back(checkpoint["rng"])
        if not keep:
            self._resumed = None

    def _start(self, number: int, loader: Iterable) -> tuple[Iterator, bool, int]:
        """The loader's batches; whether this goes on inside the loop; how many batches are still to pass over then."""
        name = "training data" if number == 0 else f"training data {number + 1}"
        facts = self._circumstances.facts
        if self.folder:
            self._order.refuse_what_goes_on(number, loader)
            if name not in facts:
                self.compare(name, facts_of_data(loader))
        if not (self._resumed and self._progress.seen):
            return self._order.start(number, loader, self.epoch), False, 0
        stateful = any(part is loader for part in self.parts.values())
        seen = 0 if stateful else self._progress.seen
        draws = facts[name].get("workers", 0) > 0  # in workers, that cannot be put back
        iterator, unread = self._order.start_again(number, loader, self.epoch, seen, without_reading=not draws)
        return iterator, True, unread

    def _end_step(self) -> None:
        self._progress.step += 1
        self._saves.missing, self._in_step = True, False
        if self.folder:
            if self.save_every and self.step % self.save_every == 0:
                self._saves.save()
            if self.folder.background:
                self._processes.by_first(self.folder.check)
        self._signals.may_come()

    def _leave_step(self) -> None:
        """A `break` has left the loop over batches in the middle of a step: it counts, and so does the loop."""
        if self._in_step:
            self._progress.step += 1
            self._progress.end_loop(self._loop - 1)
            self._order.note()
            self._saves.missing, self._in_step = True, False

    def _end_body(self) -> None:
        self._progress.begin_next_epoch()
        self._order.note()
        self._order.begin_epoch()
        self._ended = False
        if self.folder:
            self._saves.save(new_metrics=True)
