"""What was done: a small file beside the notebooks, and, for teachers, which mistakes were made."""

import json
import re
from collections import Counter
from pathlib import Path

FILE = "progress.json"


def there_is(number: str, known: dict) -> None:
    """ValueError when there is no exercise, guess or quiz of that number."""
    if number not in known:
        example = f'"{min(known)}"'
        raise ValueError(f"There is no {number!r}: write the number that stands above, in quotes, such as {example}.")


def note(number: str, kind: str) -> None:
    """Note that an exercise, a guess or a quiz is done. What is not done leaves no file behind."""
    done = read()
    if kind == "right" and number not in done:
        Path(FILE).write_text(json.dumps(sorted([*done, number])) + "\n", encoding="utf-8")


def read(folder: Path = Path()) -> list[str]:
    """The numbers of what is done; none when there is no readable file."""
    try:
        return [str(number) for number in json.loads((folder / FILE).read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def listed(done: list[str], lessons: list[str], exercises: dict, guesses: dict) -> str:
    """What is done and what is left, a line for each exercise, and guesses and quiz of each lesson in one."""
    lines = []
    for lesson in lessons:
        lines.append(f"{int(lesson[:2])}. {lesson[3:].replace('_', ' ').capitalize()}")
        numbers = [number for number in sorted(exercises) if number[:2] == lesson[:2]]
        lines += [f"  {'✓' if one in done else '·'} {one} {exercises[one].title}" for one in numbers]
        guessed = [f"guess {number}" in done for number in sorted(guesses) if number[:2] == lesson[:2]]
        quiz = f"quiz {lesson[:2]}" in done
        lines.append(f"  {'✓' if quiz else '·'} Quiz; {sum(guessed)} of {len(guessed)} guesses made")
    count = sum(number in done for number in exercises)
    return "\n".join([*lines, f"{count} of {len(exercises)} exercises are done."])


def collected(folder: Path, exercises: dict) -> str:
    """What the outputs of the notebooks in a folder say: for each exercise how many are right, and which mistakes; then
    how many notebooks were read, and which could not be. Raises ValueError for a folder without notebooks."""
    found: dict[str, Counter] = {}
    paths = [path for path in sorted(Path(folder).rglob("*.ipynb")) if ".ipynb_checkpoints" not in path.parts]
    if not paths:
        raise ValueError(f"There are no notebooks (.ipynb) in {folder}: give the folder in which they lie.")
    unreadable = []
    for path in paths:
        answers = answers_in(path)
        if answers is None:
            unreadable.append(str(path.relative_to(folder)))
        for number, said in answers or []:
            if number in exercises:
                found.setdefault(number, Counter())[_named(exercises[number], said)] += 1
    lines = []
    for number in sorted(found):
        lines.append(f"{number} {exercises[number].title}")
        lines += [f"  {count:3} × {what}" for what, count in found[number].most_common()]
    lines.append(
        f"{len(paths) - len(unreadable)} notebooks were read, with {sum(map(Counter.total, found.values()))} answers."
    )
    return "\n".join(lines + [f"Not readable as a notebook: {', '.join(unreadable)}."] * bool(unreadable))


def answers_in(path: Path) -> list[tuple[str, str]] | None:
    """(exercise, what `check` said) for each answer in a notebook; None of a file that is none."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8-sig"))["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        texts = ["".join(output.get("text", "")) for output in outputs]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    begin = r"^\d\d\.\d+ (?:Right|Wrong|Not yet|Not right yet)\. "  # of a line: a cell may print more, and check twice
    said = [one for text in texts for one in re.findall(rf"{begin}(?:(?!{begin})[\s\S])*", text, re.MULTILINE)]
    return [tuple(" ".join(one.split()).split(" ", 1)) for one in said]


def _named(exercise, said: str) -> str:
    """The name under which an answer is counted."""
    if said.startswith("Right."):
        return "right"
    if said.startswith("Not yet."):
        return "not yet"
    reasons = [reason for _, reason in exercise.wrong if said.startswith(f"Wrong. {reason}")]
    return max(reasons, key=len).split(". ")[0].rstrip(".") if reasons else "another mistake"
