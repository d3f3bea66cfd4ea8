"""SIGKILL at any instant of a training, which then goes on in a new process, again and again, until it ends."""

import random
import shutil
import signal
import time
from collections import Counter
from itertools import product
from pathlib import Path

from faults.trainings import PROCESSES, result_of, train_into
from faults.trials import EXACT, TRIED, WRONG, all_are_whole

MOST_KILLS = 10  # of one training: then it may end


def kills(work: Path, wanted: int) -> Counter:
    """At least this many kills, spread over saves in the foreground and background, with and without a mirror."""
    straight, seconds = _uninterrupted(work / "straight")
    counts = Counter()
    for background, mirrored in product([False, True], repeat=2):
        place = work / f"background={background},mirrored={mirrored}"
        counted = Counter()
        while counted[TRIED] < wanted / 4:
            counted += _kill_until_it_ends(place, straight, seconds, background, mirrored)
            shutil.rmtree(place)
        counts += counted
    return counts


def _uninterrupted(work: Path) -> tuple[list, float]:
    work.mkdir()
    for _ in range(2):  # the first one also starts the server of processes
        shutil.rmtree(work / "run", ignore_errors=True)
        started = time.perf_counter()
        process = PROCESSES.Process(target=train_into, args=(work,))
        process.start()
        process.join()
    return result_of(work), time.perf_counter() - started


def _kill_until_it_ends(work: Path, straight: list, seconds: float, background: bool, mirrored: bool) -> Counter:
    mirror = work / "drive" / "run" if mirrored else None
    (work / "drive").mkdir(parents=True)
    killed, trouble = 0, []
    while True:
        process = PROCESSES.Process(
            target=train_into, args=(work,), kwargs={"background": background, "mirror": mirror}
        )
        process.start()
        process.join(timeout=random.uniform(0, seconds) if killed < MOST_KILLS else None)
        process.kill()
        process.join()
        if process.exitcode != -signal.SIGKILL:
            break
        killed += 1
        try:
            all_are_whole(work / "run", work / "drive" / "run")
        except Exception as error:
            trouble.append(str(error))
    if process.exitcode != 0:
        trouble.append(f"the resumed training ended with exit code {process.exitcode}")
    elif result_of(work) != straight:
        trouble.append(f"{result_of(work)} after {killed} kills is not {straight}")
    for text in trouble:
        print(f"WRONG: {text}")
    return Counter({TRIED: killed, WRONG if trouble else EXACT: killed})
