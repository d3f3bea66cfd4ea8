"""For all tests."""

import signal

import pytest


@pytest.fixture(autouse=True, scope="session")
def ctrl_c_is_heard():
    """A shell lets what it starts in the background ignore Ctrl-C, and what was ignored stays ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
