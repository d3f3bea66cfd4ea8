"""Run a student's function apart from the notebook: for a limited time, in a folder of its own, leaving no trace.

A thread, because it can be left behind on every system and from every thread. An alarm signal works in the main thread
of Linux and macOS only, and a process of its own cannot be given a function that was typed into a notebook. The thread
also has a grad mode, an autocast and a default device of its own.
"""

import ctypes
import functools
import inspect
import io
import linecache
import os
import random
import sysconfig
import tempfile
import textwrap
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch

from course_utils.checkpoints import restore_rng, rng_state

OURS = str(Path(__file__).resolve().parent)  # the answers to compare with
LIMIT = 10.0  # seconds for one probe of a student's answer
NOT_THEIRS = (str(Path(__file__).resolve().parent.parent), *map(sysconfig.get_path, ("stdlib", "purelib", "platlib")))


@dataclass(frozen=True)
class Raised:
    """An error in place of a result. `where` is the student's line, "" when the error is not in code of theirs."""

    error: str = field(compare=False)
    kind: str = ""  # what is compared: the error, or that it was raised on purpose, in words of the student's own
    where: str = field(default="", compare=False)  # the same mistake stands in other lines of other students
    more: str = field(default="", compare=False)  # what PyTorch says below "Error(s) in loading state_dict for Net:"

    def __str__(self) -> str:
        return f"{self.error}{f' in {self.where}' if self.where else ''}"


HANGS = Raised("no end", "no end")


class _TooLong(SystemExit):
    """Ends a thread: it passes `except Exception`, and a thread that ends by a SystemExit says nothing."""


def apart(work: Callable, limit: float | None = None):
    """What work() returns, a `Raised` for what it raises, HANGS when it takes longer than `limit` seconds."""
    results = []

    def run():
        try:
            results.append(work())
        except _TooLong:
            pass
        except BaseException as error:
            kind = "on purpose" if _on_purpose(error) else _what(error)
            results.append(Raised(_what(error), kind, _where(error), _more(error)))

    with undisturbed():
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        try:
            thread.join(limit)
        finally:  # also when the notebook's stop button was pressed
            hangs = thread.is_alive()
            for _ in range(20 if hangs else 0):  # one that catches everything is told again
                ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread.ident), ctypes.py_object(_TooLong))
                thread.join(0.05)
    return HANGS if hangs else results[0]


@contextmanager
def undisturbed() -> Iterator[Path]:
    """In an empty folder, with known seeds, nothing printed; then all of that is as before."""
    generators, dtype, here = rng_state(), torch.get_default_dtype(), os.getcwd()
    said = io.StringIO()
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            os.chdir(folder)
            torch.set_default_dtype(torch.float32)
            for seed in (random.seed, np.random.seed, torch.manual_seed):
                seed(0)
            with redirect_stdout(said), redirect_stderr(said), patch("builtins.input", _nobody):
                yield Path(folder)
        finally:
            os.chdir(here)
            torch.set_default_dtype(dtype)
            restore_rng(generators)


def _nobody(prompt="") -> str:
    """In place of `input`: a notebook that waits for words while its cell has ended runs no other cell."""
    raise EOFError("nobody is there to answer input(): use the arguments of the function")


def _what(error: BaseException) -> str:
    """The error as the last line of a traceback, without this machine's folders; the first line of a long message."""
    message = str(error).replace(os.getcwd() + os.sep, "").strip().partition("\n")[0].removesuffix(".")
    return f"{type(error).__name__}{f': {message}' if message else ''}"


def _on_purpose(error: BaseException) -> bool:
    """Whether an answer, or one of ours, said `raise` or `assert`: each one writes another message."""
    *_, (frame, number) = traceback.walk_tb(error.__traceback__)
    path = str(Path(frame.f_code.co_filename).resolve())
    theirs = path.startswith(OURS) or not path.startswith(NOT_THEIRS)
    return theirs and linecache.getline(frame.f_code.co_filename, number).strip().startswith(("raise", "assert"))


def _more(error: BaseException) -> str:
    """The second line of a message whose first one only announces it."""
    first, _, rest = str(error).strip().partition("\n")
    return f" {textwrap.shorten(rest.strip().partition(chr(10))[0], 150)}".rstrip(". ") if first.endswith(":") else ""


def _where(error: BaseException) -> str:
    """The last line in code that is neither Python's, an installed package's, nor the course's own."""
    for frame, number in reversed([*traceback.walk_tb(error.__traceback__)]):
        code = frame.f_code
        if code.co_filename.startswith("<frozen") or str(Path(code.co_filename).resolve()).startswith(NOT_THEIRS):
            continue
        line = linecache.getline(code.co_filename, number).strip()
        return f"line {number}{f', `{line}`' if line else ''}"
    return ""


def watch(function: Callable) -> tuple[Callable, list]:
    """The same function, and the list of what it will have returned."""
    returned = []

    @functools.wraps(function, updated=())
    def watched(*args, **kwargs):
        returned.append(function(*args, **kwargs))
        return returned[-1]

    return watched, returned


def untouched(answer: Callable, stub: Callable) -> bool:
    """Whether it names what the stub names, and so most likely is the stub: then nothing was written yet.

    Not the bytecode: it differs between a module that imports torch and a cell that finds it.
    """
    one, other = (getattr(function, "__code__", None) for function in (answer, stub))
    if one is None or other is None:
        return answer is stub
    constants, others = ([each for each in code.co_consts if not inspect.iscode(each)] for code in (one, other))
    return (one.co_names, one.co_varnames, constants) == (other.co_names, other.co_varnames, others)
