"""All kinds of trials, and how often each is done: a few times by the tests, often for the table."""

import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from faults import (
    calls,
    copies,
    damage,
    disk,
    foreign_project,
    kills,
    mirrors,
    promises,
    reads,
    rivals,
    shards,
    signals,
)
from faults.trials import OUTCOMES, TRIED, WRONG, NotPossibleHere


class Kind(NamedTuple):
    name: str
    run: Callable[..., Counter]  # of an empty folder and one of these:
    short: tuple = ()
    long: tuple = ()


KINDS = [
    Kind("training killed at any instant", kills.kills, (16,), (500,)),
    Kind("foreign project killed and stopped", foreign_project.chains, (8,), (120,)),
    Kind("two trainings in one folder", rivals.rivals, (3,), (20,)),
    Kind("save killed at each of its calls", calls.kills_at_every_call, (16,), (1,)),
    Kind("disk error at each call of a save", calls.errors_at_every_call, (20,), (1,)),
    Kind("order of calls for a power cut", calls.order_of_calls),
    Kind("damaged files", damage.files, (20,), (1,)),
    Kind("bad files in folder and mirror", damage.folders, (300,), (20,)),
    Kind("errors of a read at a resume", reads.reads, (2,), (1,)),
    Kind("too little memory at a resume", reads.memory, (4,), (1,)),
    Kind("a folder that cannot be listed", reads.listings),
    Kind("full disk", disk.full_disks, (5,), (1,)),
    Kind("file size limit", disk.size_limits, (5,), (1,)),
    Kind("read-only folder", disk.read_only),
    Kind("errors that come late (quota)", disk.errors),
    Kind("folder deleted in a training", disk.deleted_in_a_training, (6,), (1,)),
    Kind("disk full in a training", disk.full_in_a_training, (6,), (1,)),
    Kind("mirror gone in a training", mirrors.mirrors, (1,), (20,)),
    Kind("mirror dies or refuses", mirrors.dead_mirrors, (1,), (4,)),
    Kind("mirror full in a training", mirrors.full_mirrors, (1,), (4,)),
    Kind("SIGTERM and Ctrl-C with workers", signals.signals, (signals.KINDS[1:3],), (signals.KINDS * 2,)),
    Kind("workers ended in a step", signals.in_a_step, (6,), (1,)),
    Kind("copies for a background save", copies.copies),
    Kind("shards: one or all killed at any instant", shards.kills, (3,), (100,)),
    Kind("shards: killed at each call of a save", shards.kills_at_every_call, (25,), (1,)),
    Kind("shards: each file damaged or planted", shards.damaged, (400,), (10,)),
    Kind("shards: full disk", shards.full_disks, (10,), (1,)),
    Kind("any sequence of saves and damage", promises.sequences, (40,), (500,)),
]


def main() -> int:
    """Run the long form and print a table; returns 1 if anything is wrong."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background ignores it
    start = time.perf_counter()
    total = Counter()
    width = max(len(kind.name) for kind in KINDS)
    print(f"{'':{width}}  " + "  ".join(OUTCOMES), flush=True)
    for kind in KINDS:
        with tempfile.TemporaryDirectory() as work:
            try:
                counts = kind.run(Path(work), *kind.long)
            except NotPossibleHere as reason:
                print(f"{kind.name:{width}}  not tried: {reason}", flush=True)
                continue
        print(_row(kind.name, counts, width), flush=True)
        total += counts
    print(_row("all", total, width))
    print(f"in {(time.perf_counter() - start) / 60:.0f} minutes")
    return int(total[WRONG] > 0 or not total[TRIED])


def _row(name: str, counts: Counter, width: int) -> str:
    return f"{name:{width}}  " + "  ".join(f"{counts[outcome]:{len(outcome)},}" for outcome in OUTCOMES)
