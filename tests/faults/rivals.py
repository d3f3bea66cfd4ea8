"""Two trainings in one folder: a second tab, an array of jobs, a job that was queued again while the first runs."""

import os
import random
import time
from collections import Counter
from functools import partial
from itertools import product
from pathlib import Path

from course_utils.checkpoints import CheckpointFolder
from faults.trainings import PROCESSES, result_of, train, train_into
from faults.trials import EXACT, all_are_whole, count, promise


def rivals(work: Path, times: int) -> Counter:
    """The second one comes at a random moment; the first one ends, or is killed and the second one tries again."""
    straight = train(CheckpointFolder(work / "straight"))
    return count(
        partial(_two, work / f"{number}-{killed}", killed, straight)
        for number, killed in product(range(times), (False, True))
    )


def _two(work: Path, killed: bool, straight: list) -> str:
    work.mkdir()
    first = PROCESSES.Process(target=train_into, args=(work,))
    first.start()
    while not (work / "run" / ".training.lock").exists():
        promise(first.exitcode is None, "the first one ended at once")
        time.sleep(0.002)
    time.sleep(random.uniform(0, 0.1))
    here, there = PROCESSES.Pipe()
    second = PROCESSES.Process(target=_second, args=(work, there))
    second.start()
    there.close()
    said = here.recv()
    still_ran = first.exitcode is None
    if killed:
        first.kill()
    first.join()
    promise(killed or first.exitcode == 0, "the second one has disturbed the first")
    second.join()
    if still_ran:
        promise("holds checkpoints of a training that is still running" in said, f"the second one was told {said!r}")
    all_are_whole(work / "run")
    again = PROCESSES.Process(target=train_into, args=(work,))
    again.start()
    again.join()
    promise(again.exitcode == 0 and result_of(work) == straight, "the two have disturbed each other")
    return EXACT


def _second(work: Path, pipe) -> None:
    try:
        with open(os.devnull, "w"):
            train(CheckpointFolder(work / "run"), resume=True)
        pipe.send("")
    except ValueError as error:
        pipe.send(str(error))
