"""Processes that train together, as `torchrun` starts them, but from the server that has everything imported."""

import datetime
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed

from course_utils.checkpoints import Stopped
from faults.trainings import PROCESSES
from faults.trials import Wrong


class Together:
    """`count` processes, each of which calls `function(number, *arguments)` in a process group of gloo.

    answers: what each returned, or the text of its error; filled by `wait`.
    """

    def __init__(self, count: int, function: Callable, *arguments, seconds: float = 60):
        self._meeting = tempfile.TemporaryDirectory()
        meeting = Path(self._meeting.name) / "store"
        self.pipes, self.processes, self.answers = [], [], []
        for number in range(count):
            here, there = PROCESSES.Pipe(duplex=False)
            process = PROCESSES.Process(
                target=_join, args=(there, meeting, number, count, seconds, function, arguments)
            )
            process.start()
            there.close()
            self.pipes.append(here)
            self.processes.append(process)

    def wait(self, seconds: float = 120) -> list:
        """The answers; None of a process that was killed. Raises Wrong when one does not end."""
        end = time.monotonic() + seconds
        for process, pipe in zip(self.processes, self.pipes):
            try:
                answer = pipe.recv() if pipe.poll(max(0, end - time.monotonic())) else "still running"
            except EOFError:
                answer = None
            self.answers.append(answer)
            process.join(0 if answer == "still running" else 10)
        self.kill()
        self._meeting.cleanup()
        if "still running" in self.answers:
            raise Wrong(f"still running after {seconds} s: {self.answers}")
        return self.answers

    def kill(self, *numbers: int) -> None:
        """All of them, or those with these numbers."""
        for number in numbers or range(len(self.processes)):
            self.processes[number].kill()
            self.processes[number].join()


def _join(pipe, meeting: Path, number: int, count: int, seconds: float, function: Callable, arguments: tuple) -> None:
    torch.set_num_threads(1)
    sys.stdout = sys.stderr = open(os.devnull, "w")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        join(meeting, number, count, seconds)
        answer = function(number, *arguments)
    except Stopped as stopped:
        answer = f"Stopped: {stopped}"
    except Exception as error:
        answer = f"{type(error).__name__}: {error}\n{traceback.format_exc(limit=-4)}"
    pipe.send(answer)
    pipe.close()
    os._exit(0)  # not to wait for others that are gone


def join(meeting: Path, number: int, count: int, seconds: float = 60) -> None:
    """Meet the others by a file, which needs no port."""
    distributed.init_process_group(
        "gloo",
        init_method=f"file://{meeting}",
        rank=number,
        world_size=count,
        timeout=datetime.timedelta(seconds=seconds),
    )
