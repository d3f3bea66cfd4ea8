"""Exercises that answer back. An answer is run on small probes, and what it does is its fingerprint.

The fingerprint of a right implementation: right. That of a named wrong one: its reason. Neither: the first probe whose
outcome differs, with what was expected. Nothing of the answer's code is judged, only what it does is compared.
"""

import inspect
import textwrap
from collections.abc import Callable
from dataclasses import dataclass, field

from course_utils.practice import progress, sandbox
from course_utils.practice.outcomes import plain, same, show
from course_utils.practice.sandbox import HANGS, Raised, apart, untouched, watch

EXERCISES: dict[str, "Exercise"] = {}
WORDS = {"not yet": "Not yet.", "right": "Right.", "wrong": "Wrong.", "unknown": "Not right yet."}


@dataclass(frozen=True)
class Diagnosis:
    """kind: "not yet", "right", "wrong" (a named mistake) or "unknown". text: what the student reads."""

    kind: str
    text: str


@dataclass
class Exercise:
    """One task. A module of exercises adds to it by decorators: `start`, `answer`, `mistake` and `probe`."""

    id: str
    title: str
    task: str
    hint: str
    shows: str  # what a right answer shows
    section: str = ""  # of the lesson, that it is about
    idle: str = ""  # what was perhaps written, when it was changed and does what the stub does
    stub: Callable | None = None
    right: list[Callable] = field(default_factory=list)  # the first is the solution that is shown
    wrong: list[tuple[Callable, str]] = field(default_factory=list)
    probes: list[tuple[str, Callable]] = field(default_factory=list)

    def __post_init__(self):
        for name in ("task", "hint", "shows", "idle"):
            setattr(self, name, " ".join(getattr(self, name).split()))
        self._known: dict[tuple, object] = {}
        EXERCISES[self.id] = self

    def start(self, function: Callable) -> Callable:
        """What the student finds: it runs, and is not right."""
        self.stub = function
        return function

    def answer(self, function: Callable) -> Callable:
        """A right implementation."""
        self.right.append(function)
        return function

    def mistake(self, reason: str) -> Callable:
        """A wrong implementation, with what its student should read."""
        return lambda function: self.wrong.append((function, " ".join(reason.split()))) or function

    def probe(self, what: str) -> Callable:
        """A function from an answer to plain values. `what` names them: "the learning rate of the head"."""
        return lambda function: self.probes.append((what, function)) or function

    def fingerprint(self, answer: Callable, limit: float | None = None) -> list:
        """The outcome of each probe. After one that hangs, the rest is not tried."""
        outcomes = []
        for _, probe in self.probes:
            outcomes.append(HANGS if HANGS in outcomes else apart(lambda probe=probe: plain(probe(answer)), limit))
        return outcomes

    def known(self, function: Callable) -> list:
        """The fingerprint of an implementation of ours."""
        return [self._outcome(function, number) for number in range(len(self.probes))]

    def _outcome(self, function: Callable, number: int):
        """What one probe sees of an implementation of ours, computed once, and without a limit: ours end."""
        if (function, number) not in self._known:
            self._known[function, number] = apart(lambda: plain(self.probes[number][1](function)))
        return self._known[function, number]

    def _does_this(self, function: Callable, got: list) -> bool:
        """Whether an implementation of ours has this fingerprint; after a difference, the rest is not computed."""
        return all(same(one, self._outcome(function, number)) for number, one in enumerate(got))

    def diagnose(self, answer) -> Diagnosis:
        """What an answer does, and why that is right or wrong."""
        if answer is None or answer is ...:
            return Diagnosis("not yet", "There is no function yet.")
        if not callable(answer):
            name = self.stub.__name__
            return Diagnosis("unknown", f'Give the function itself, without calling it: check("{self.id}", {name}).')
        watched, returned = watch(answer)
        self.known(self.right[0])  # first, so that what PyTorch loads late is not on the answer's clock
        got = self.fingerprint(watched, sandbox.LIMIT)
        if any(self._does_this(function, got) for function in self.right):
            return Diagnosis("right", self.shows)
        if self._does_this(self.stub, got) or all(str(one).startswith("NotImplementedError") for one in got):
            if untouched(answer, self.stub):
                return Diagnosis("not yet", "It does what it did when you opened the notebook. Now it is your turn.")
            return Diagnosis("not yet", f"What you have written changes nothing yet that counts. {self.idle}".strip())
        for function, reason in self.wrong:
            if self._does_this(function, got):
                theirs = next((f" ({one})" for one in got if isinstance(one, Raised) and one.where), "")
                return Diagnosis("wrong", reason + theirs)
        differs = [not same(one, other) for one, other in zip(got, self.known(self.right[0]))].index(True)
        only_none = {*map(type, returned)} == {type(None)} and self._gives_something()
        if only_none and not getattr(got[differs], "where", ""):
            return Diagnosis("unknown", "Your function returns None: is a `return` missing?")
        kinds = {type(one).__name__ for one in returned}
        back = f"what came back, of the type `{kinds.pop()}`," if len(kinds) == 1 else "what came back"
        return Diagnosis("unknown", self._difference(differs, got[differs], back))

    def _gives_something(self) -> bool:
        """Whether the solution returns anything but None."""
        solution, returned = watch(self.right[0])
        self.fingerprint(solution)
        return {*map(type, returned)} != {type(None)}

    def _difference(self, number: int, got, back: str) -> str:
        what, expected = self.probes[number][0], self.known(self.right[0])[number]
        if got is HANGS:
            return f"It has not ended after {sandbox.LIMIT:g} seconds, so it was stopped. Which loop does not end?"
        if isinstance(got, Raised) and got.where:
            return f"Your {got.where.replace(', `', ' is `', 1)}, and it raises {got.error}{got.more}."
        if isinstance(got, Raised):
            error = f"{got.error}{got.more}"
            return f"Looked at: {what}. Expected {show(expected)}, but {back} could not be used ({error})."
        return f"Looked at: {what}. Expected {show(expected)}, got {show(got)}."


def source(function: Callable) -> str:
    """The text of a stub or solution, as a student would write it."""
    text = textwrap.dedent(inspect.getsource(function))
    return text[text.index("def ") :].strip() if text.startswith("@") else text.strip()


def check(number: str, answer) -> None:
    """Print what there is to say about your answer to an exercise, and note when it is right."""
    progress.there_is(number, EXERCISES)
    try:
        found = EXERCISES[number].diagnose(answer)
    except KeyboardInterrupt:  # without our own lines, in which a student finds nothing
        raise KeyboardInterrupt(f"{number} was stopped before its end, so nothing is known about it.") from None
    print(textwrap.fill(f"{number} {WORDS[found.kind]} {found.text}", 100, break_long_words=False))
    progress.note(number, found.kind)
