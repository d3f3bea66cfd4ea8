"""What a training counts: epochs, steps, means, the best so far. Source: notebook 04."""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, field


@dataclass
class Progress:
    """Plain values only, so that they go into a checkpoint as they are."""

    epoch: int = 1
    step: int = 0
    loops: int = 0  # over batches, that this epoch has finished
    seen: int = 0  # batches of the loop that runs
    sums: dict = field(default_factory=dict)  # {name: (sum, weight)} of what was logged in this epoch
    history: list[dict] = field(default_factory=list)
    best: float | None = None
    epochs_without_better: int = 0

    @classmethod
    def of(cls, state: dict) -> "Progress":
        """As an earlier process left it."""
        return cls(**deepcopy(state))

    @property
    def state(self) -> dict:
        return dict(vars(self))

    @property
    def has_begun_epoch(self) -> bool:
        return bool(self.loops or self.seen)

    def end_loop(self, number: int) -> None:
        self.loops, self.seen = number + 1, 0

    def begin_next_epoch(self) -> None:
        self.epoch, self.loops, self.seen, self.sums = self.epoch + 1, 0, 0, {}

    def log(self, values: dict, weight: float) -> None:
        for name, value in values.items():
            total, weights = self.sums.get(name, (0.0, 0))
            self.sums[name] = (total + float(value) * weight, weights + weight)

    def row(self, metrics: dict, sums: list[dict]) -> dict:
        """The epoch's row of the history, with the means over the `sums` of all processes.

        Raises ValueError for a value that is no number.
        """
        row = {"epoch": self.epoch, "step": self.step}
        for name in row.keys() & {*metrics, *(name for one in sums for name in one)}:
            raise ValueError(f"{name!r} is counted here already: give `log` and `end_epoch` another name for yours.")
        for name in dict.fromkeys(name for one in sums for name in one):
            totals, weights = zip(*(one[name] for one in sums if name in one))
            if sum(weights):
                row[name] = sum(totals) / sum(weights)
        for name, value in metrics.items():
            try:
                row[name] = value if isinstance(value, int) else float(value)
            except (TypeError, ValueError):
                raise ValueError(f"end_epoch was given {value!r} for {name!r}, which is no number.") from None
        return row

    def compare_with_best(self, row: dict, metric: str, is_better: Callable) -> None:
        """Raises ValueError when the row has no such metric."""
        if metric not in row:
            raise ValueError(
                f"end_epoch was given {', '.join(map(repr, row))}, and not {metric!r}, the metric that tells the best: "
                f"give it, or name another one as metric."
            )
        if is_better(row[metric], than=self.best):
            self.best, self.epochs_without_better = row[metric], 0
        else:
            self.epochs_without_better += 1

    def is_finished(self, epochs: int, patience: int | None) -> bool:
        return self.epoch > epochs or (patience is not None and self.epochs_without_better >= patience)
