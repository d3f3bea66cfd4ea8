"""SIGTERM and Ctrl-C to a training with workers: it saves and ends within a step, and goes on exactly."""

import json
import multiprocessing
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from itertools import product
from pathlib import Path

from course_utils.checkpoints import CheckpointFolder
from course_utils.checkpoints.stopping import Stopped
from faults.trainings import PROCESSES, STEPS, train
from faults.trials import EXACT, all_are_whole, count, promise

COMMAND = [sys.executable, "-m", "course_utils.train", "--data", "drawn", "--per-class", "250", "--epochs", "2"]


# Which signal, and whether it goes to the workers too, as a terminal or a system that shuts down sends it.
KINDS = list(product([signal.SIGTERM, signal.SIGINT], [False, True]))


def signals(work: Path, kinds: list[tuple[signal.Signals, bool]]) -> Counter:
    straight = work / "straight"
    subprocess.run([*COMMAND, "--out", str(straight)], check=True, capture_output=True)
    return count(
        partial(_stopped, work / str(trial), number, everyone, _result_of(straight))
        for trial, (number, everyone) in enumerate(kinds)
    )


def _result_of(out: Path) -> dict:
    return json.loads((out / "result.json").read_text())


def _stopped(out: Path, number: signal.Signals, everyone: bool, straight: dict) -> str:
    """It saves each step, so its files tell how far it is."""
    command = [*COMMAND, "--out", str(out), "--workers", "2", "--save-every", "1"]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, start_new_session=True, **quiet)
    an_epoch = straight["steps"] // straight["epochs"]
    asked_after = random.choice([0, an_epoch]) + random.randint(1, an_epoch - 4)  # its end would save anyhow
    while (saved := _newest(out)) < asked_after:
        promise(process.poll() is None, "the training ended before it could be stopped")
        time.sleep(0.001)
    (os.killpg if everyone else os.kill)(process.pid, number)
    _, said = process.communicate(timeout=60)
    where = f"{number.name} to {'all' if everyone else 'one'} after step {saved}"
    promise(process.returncode == 128 + number, f"{where}: exit code {process.returncode}, {said[-500:]}")
    last = CheckpointFolder(out).latest()["step"]
    # The signal comes while a step runs or while it is saved, which one sees only when it is done.
    promise(saved <= last <= saved + 2, f"{where}: it went on to step {last}")
    promise(re.search(f"Saved step {last} in", said) is not None, f"{where}: it said {said[-500:]}")
    all_are_whole(out)
    subprocess.run([*command, "--resume"], check=True, capture_output=True)
    promise(_result_of(out) == straight, f"{where}: the resumed training has another result")
    return EXACT


def _newest(out: Path) -> int:
    return max((int(path.stem.removeprefix("step_")) for path in out.glob("step_*.pt")), default=0)


def in_a_step(work: Path, every: int = 1) -> Counter:
    """The signal reaches the workers too, and the news that they ended comes in the middle of a step."""
    straight = train(CheckpointFolder(work / "straight"))
    return count(
        partial(_stopped_in_a_step, work / f"{step}-{number.name}", step, number, straight)
        for step, number in product(range(1, STEPS + 1, every), [signal.SIGTERM, signal.SIGINT])
    )


def _stopped_in_a_step(work: Path, step: int, number: signal.Signals, straight: list) -> str:
    process = PROCESSES.Process(target=_train_and_be_asked, args=(work, step, number))
    process.start()
    process.join()
    where = f"{number.name} to all in step {step}"
    promise(process.exitcode == 128 + number, f"{where}: exit code {process.exitcode}")
    all_are_whole(work)
    resumed = train(CheckpointFolder(work), resume=True)
    promise(resumed == straight, f"{where}: {resumed} is not {straight}")
    return EXACT


def _train_and_be_asked(work: Path, step: int, number: signal.Signals) -> None:
    multiprocessing.set_start_method("fork", force=True)  # workers are children, whose end PyTorch hears of at once

    def ask():
        processes = [os.getpid(), *(worker.pid for worker in multiprocessing.active_children())]
        # By another process, as it happens: a worker knows its parent's signals and obeys quietly.
        subprocess.run(["sh", "-c", f"kill -s {number.name[3:]} {' '.join(map(str, processes))}"], check=True)
        time.sleep(0.3)  # a long step: the workers end in it

    try:
        train(CheckpointFolder(work), workers=2, before_step={step: ask})
    except Stopped as stopped:
        sys.exit(128 + stopped.signal)
