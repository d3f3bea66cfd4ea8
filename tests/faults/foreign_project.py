"""The project of tests/foreign, killed and stopped at random moments until it ends, ends as it would have without."""

import argparse
import contextlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import sys
import time
from collections import Counter
from itertools import count as numbers
from pathlib import Path

import torch
from foreign import natural, project

from course_utils.checkpoints import Stopped
from faults.trainings import PROCESSES
from faults.trials import EXACT, Wrong, all_are_whole, count, promise

MOST_INTERRUPTIONS = 6  # of one chain: then it may end


def chains(work: Path, times: int) -> Counter:
    """So many chains of interruptions, half of them with two workers."""
    references = {workers: _uninterrupted(work, workers) for workers in (0, 2)}
    return count(
        lambda number=number, workers=workers: _chain(work / f"{workers}-{number}", workers, *references[workers])
        for number, workers in zip(range(times), (0, 2) * times)
    )


def _arguments(place: Path, workers: int) -> argparse.Namespace:
    return natural.arguments(["--out", str(place / "run"), "--workers", str(workers)])


def _uninterrupted(work: Path, workers: int) -> tuple[dict, float]:
    """The result of the loop without any checkpoints, and how long it takes with them."""
    torch.set_num_threads(1)
    straight = natural.train(_arguments(work, workers))
    started = time.perf_counter()
    _run(work / f"straight-{workers}", workers, limit=60)
    return straight, time.perf_counter() - started


def _chain(place: Path, workers: int, straight: dict, seconds: float) -> str:
    interrupted = []
    for number in numbers():
        with_end = len(interrupted) == MOST_INTERRUPTIONS
        how = random.choice([signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
        when = None if with_end else random.uniform(0, 1.2 * seconds)
        code = _run(place, workers, limit=60, signal_number=how, after=when)
        all_are_whole(place / "run")
        if code == 0:
            break
        promise(number < 2 * MOST_INTERRUPTIONS, "it never ends")
        promise(code in (-how, 128 + how), f"after {how.name} it ended with {code}")
        interrupted.append(f"{how.name} after {when:.2f} s")
    result = json.loads((place / "result.json").read_text())
    history = [{key: row[key] for key in ("train/mse", "val/rmse")} for row in result["history"]]
    if (history, result["weights"]) != (straight["history"], straight["weights"]):
        raise Wrong(f"{workers} workers, {interrupted}: another result")
    shutil.rmtree(place)
    return EXACT


def _run(place: Path, workers: int, limit: float, signal_number=None, after: float | None = None) -> int:
    place.mkdir(parents=True, exist_ok=True)
    here, there = PROCESSES.Pipe()
    process = PROCESSES.Process(target=_train, args=(place, workers, there))
    process.start()
    there.close()
    here.recv()
    if after is not None:
        process.join(after)
        if process.exitcode is None:
            os.kill(process.pid, signal_number)
    process.join(limit)
    if process.exitcode is None:
        process.kill()
        raise Wrong(f"still running {limit} s after {signal_number}")
    return process.exitcode


def _train(place: Path, workers: int, pipe) -> None:
    torch.set_num_threads(1)
    multiprocessing.set_start_method("fork", force=True)  # as workers start on Linux, in milliseconds
    # A signal before the training has begun, or after it, ends the process as it would end any.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    pipe.send("ready")
    with contextlib.redirect_stdout(open(os.devnull, "w")), contextlib.redirect_stderr(open(os.devnull, "w")):
        try:
            result = project.train(_arguments(place, workers))
        except Stopped as stopped:
            sys.exit(128 + stopped.signal)
    (place / "result.json.part").write_text(json.dumps(result))
    os.replace(place / "result.json.part", place / "result.json")
