"""Asked to stop, by SIGTERM or Ctrl-C (a notebook's stop button): save first, then end. Source: notebook 03."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager


class Stopped(KeyboardInterrupt):
    """A training that was asked to stop, between two steps. As a KeyboardInterrupt it passes `except Exception`.

    signal: the number of the signal that asked.
    """

    def __init__(self, message: str, signal: int):
        super().__init__(message)
        self.signal = signal


class StopRequests:
    """While its block runs, SIGTERM and SIGINT are noted, and `check` raises Stopped at a moment that is safe.

    Only the main thread gets signals; in another thread the block changes nothing.
    Source: https://docs.python.org/3/library/signal.html
    """

    SIGNALS = (signal.SIGTERM, signal.SIGINT)

    def __enter__(self) -> "StopRequests":
        self.asked: int | None = None
        self._safe = False
        self._before = {}
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._note) for number in self.SIGNALS}
        return self

    def __exit__(self, *_) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _note(self, number: int, _) -> None:
        self.asked = number
        if self._safe:
            self.check()

    def check(self) -> None:
        """Raise Stopped if a signal has asked for it."""
        if self.asked:
            raise Stopped(f"Asked to stop by {signal.Signals(self.asked).name}.", self.asked)

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """In this block nothing changes that is saved, so a signal need not wait for its end."""
        self.check()
        self._safe = True
        try:
            yield
        finally:
            self._safe = False
