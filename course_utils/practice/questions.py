"""Questions: a guess before you run, measured at once; and a quiz at the end of each lesson."""

import textwrap
from collections.abc import Callable
from dataclasses import dataclass

from course_utils.practice import progress
from course_utils.practice.sandbox import apart

PREDICTIONS: dict[str, "Prediction"] = {}
QUIZZES: dict[str, list["Question"]] = {}


@dataclass
class Prediction:
    """A number to guess. beliefs: (lowest guess, highest guess, what whoever guesses that believes, and what is so)."""

    id: str  # of the exercise that it comes before
    question: str
    measure: Callable[[], float]
    beliefs: list[tuple[float, float, str]]

    def __post_init__(self):
        self.question = " ".join(self.question.split())
        PREDICTIONS[self.id] = self

    def diagnose(self, guess) -> tuple[str, str]:
        """("not yet" or "right" or "wrong", what the student reads)."""
        if guess is None or guess is ...:
            return "not yet", "Not yet. Write your guess in place of the dots, before you look further."
        if isinstance(guess, str | bool) or not isinstance(guess, int | float):
            return "not yet", "Not yet. A guess is a number."
        measured = apart(self.measure)
        texts = [(low <= measured <= high, text) for low, high, text in self.beliefs if low <= guess <= high]
        right, text = texts[0] if texts else (False, "That is out of what is possible here.")
        said = f"You guess {guess:g}. Measured: {measured:g}. {' '.join(text.split())}"
        return ("right" if right else "wrong"), said


@dataclass
class Question:
    """options: {letter: (is it true, why)}."""

    text: str
    options: dict[str, tuple[str, bool, str]]  # letter: what it says, whether it is true, why


def question(lesson: str, text: str, *options: tuple[str, bool, str]) -> None:
    """Add a question to the quiz of a lesson; the options get the letters a, b, c, …"""
    lettered = {"abcdef"[place]: option for place, option in enumerate(options)}
    QUIZZES.setdefault(lesson, []).append(Question(" ".join(text.split()), lettered))


def predict(number: str, guess) -> None:
    """Print what was measured, and which belief your guess fits."""
    progress.there_is(number, PREDICTIONS)
    kind, text = PREDICTIONS[number].diagnose(guess)
    print(textwrap.fill(f"{number} {text}", 100, break_long_words=False))
    progress.note(f"guess {number}", "right" if kind == "wrong" else kind)  # a guess is done, right or wrong


def judge(one: Question, choice: str) -> tuple[str, str]:
    """("not yet", "right" or "wrong", what the student reads) for the letters that were chosen."""
    chosen = {letter for letter in str(choice).lower() if letter.isalpha()}
    if not chosen:
        return "not yet", "Not yet."
    unknown = chosen - one.options.keys()
    if unknown:
        return "wrong", f"There is no answer {', '.join(sorted(unknown))}."
    true = {letter for letter, (_, is_true, _) in one.options.items() if is_true}
    if chosen == true:
        reasons = [f"{letter}: {one.options[letter][2]}" for letter in sorted(true)]
        return "right", f"Right. {' '.join(reasons)}"
    wrong = [f"{letter}: {one.options[letter][2]}" for letter in sorted(chosen - true)]
    missing = " What you chose is true, and there is more." if not wrong else ""
    return "wrong", f"Wrong.{missing} {' '.join(wrong)}".strip()


def quiz(lesson: str, *choices: str) -> None:
    """Print, for each question, whether your letters are right, and if not, why."""
    progress.there_is(lesson, QUIZZES)
    kinds = []
    for place, one in enumerate(QUIZZES[lesson], 1):
        kind, text = judge(one, choices[place - 1] if place <= len(choices) else "")
        kinds.append(kind)
        print(textwrap.fill(f"Question {place}: {text}", 100, break_long_words=False))
    progress.note(f"quiz {lesson}", "right" if set(kinds) == {"right"} else "wrong")
