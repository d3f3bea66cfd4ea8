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
    """What the outputs of the notebooks in a folder say: for each exercise how many are right, and which mistakes."""
    found: dict[str, Counter] = {}
    for path in sorted(Path(folder).rglob("*.ipynb")):
        if ".ipynb_checkpoints" in path.parts:
            continue
        for number, said in answers_in(path):
            if number in exercises:
                found.setdefault(number, Counter())[_named(exercises[number], said)] += 1
    lines = []
    for number in sorted(found):
        lines.append(f"{number} {exercises[number].title}")
        lines += [f"  {count:3} × {what}" for what, count in found[number].most_common()]
    return "\n".join(lines) or f"No answers are in the notebooks of {folder}."


def answers_in(path: Path) -> list[tuple[str, str]]:
    """(exercise, what `check` said) for each answer in a notebook; a file that is no notebook has none."""
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        outputs = [output for cell in cells for output in cell.get("outputs", [])]
        texts = ["".join(output.get("text", "")) for output in outputs]
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return []
    said = [
        re.match(r"(\d\d\.\d+) ((?:Right|Wrong|Not yet|Not right yet)\. .*)", " ".join(one.split())) for one in texts
    ]
    return [(match[1], match[2]) for match in said if match]


def _named(exercise, said: str) -> str:
    """The name under which an answer is counted."""
    if said.startswith("Right."):
        return "right"
    if said.startswith("Not yet."):
        return "not yet"
    reasons = [reason for _, reason in exercise.wrong if said.startswith(f"Wrong. {reason}")]
    return max(reasons, key=len).split(". ")[0].rstrip(".") if reasons else "another mistake"
