"""Asked to stop, by SIGTERM or Ctrl-C (a notebook's stop button): save first, then end. Source: notebook 04."""

import os
import signal
import threading

from .processes import Processes


class Stopped(KeyboardInterrupt):
    """A training that was asked to stop, between two steps. As a KeyboardInterrupt it passes `except Exception`.

    signal: the number of the signal that asked.
    """

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal


class StopRequests:
    """While its block runs, the first SIGTERM or SIGINT raises Stopped: at once, or at `may_come`.

    A second one ends at once, whatever runs: it finds the handlers that were there before. A signal that was ignored
    (by nohup, or in a shell's background) stays ignored. Only the main thread gets signals; in another thread the block
    changes nothing. Of several processes, all raise Stopped at the same `may_come`, whichever was asked.
    Source: https://docs.python.org/3/library/signal.html
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __init__(self, processes: Processes):
        self.processes = processes
        self.asked: int | None = None  # the number of the signal
        self._heard = False  # by this process
        self._must_wait = False
        self._before = {}

    def __enter__(self) -> "StopRequests":
        self._process = os.getpid()
        if threading.current_thread() is threading.main_thread():
            heard = [number for number in self.SIGNALS if signal.getsignal(number) is not signal.SIG_IGN]
            self._before = {number: signal.signal(number, self._note) for number in heard}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
        self._before = {}

    def _note(self, number: int, _) -> None:
        if os.getpid() != self._process or self._heard:  # a process forked from this one, or the second press
            self.__exit__()
            signal.raise_signal(number)
            return
        self._heard = True
        self.asked = self.asked or number
        if not self._must_wait:
            self.check()

    def check(self) -> None:
        """Raise Stopped if a signal has asked for it."""
        if self.asked:
            raise Stopped(f"Asked to stop by {self.name}.", self.asked)

    @property
    def name(self) -> str:
        return signal.Signals(self.asked).name

    def must_wait(self) -> None:
        """From here on a signal is only noted, until `may_come`."""
        self._must_wait = True

    def may_come(self) -> None:
        """Stopped may be raised again, and is, if a signal came in the meantime. Of several processes none may raise it
        alone, so it waits for the next `may_come` of all."""
        self._must_wait = self.processes.count > 1
        if self.agree():
            self.check()

    def agree(self) -> int | None:
        """The signal that has asked this process or another one, None if there was none yet."""
        agreed = self.processes.highest(self.asked or 0)
        if agreed:  # else leave `asked` alone: a signal may have come just now, and counts the next time
            self.asked = agreed
        return agreed or None
