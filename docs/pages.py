"""What the site says that is kept elsewhere: the map of the series, links of the glossary, the practice's mistakes."""

import html
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import nbformat
from myst_parser.slugs import github_slugify

from course_utils.practice import EXERCISES, LESSONS
from course_utils.practice.engine import Exercise, source
from course_utils.practice.outcomes import plain, same
from course_utils.practice.sandbox import apart

ROOT = Path(__file__).resolve().parent.parent
LESSON_FILES = sorted((ROOT / "notebooks").glob("*.ipynb"))
PRACTICE = ROOT / "notebooks" / "practice"
PLACES = r"Lesson \[([^]]+)\]\(\.\./([^)]+)\), section “([^”]+)”"  # in the glossary


def link(path: Path, heading: str, text: str) -> str:
    """A Markdown link from a page in docs/ to a section of a notebook."""
    return f"[{text}](../{path.relative_to(ROOT).as_posix()}#{github_slugify(heading.replace('`', ''))})"


def section(lesson: str, heading: str) -> str:
    """A link to a section of a lesson, such as 4. Interrupted trainings, “The stop button”."""
    path = lesson_file(lesson)
    return link(path, heading, f"{title(path)}, “{heading}”")


def lesson_file(lesson: str) -> Path:
    """The lesson of a number such as "04". Raises ValueError when there is none."""
    for path in LESSON_FILES:
        if path.name.startswith(lesson):
            return path
    raise ValueError(f"There is no lesson {lesson}, and docs/errors.toml, the glossary or a docstring names it.")


@cache
def title(path: Path) -> str:
    return nbformat.read(path, as_version=4).cells[0].source.split("\n")[0].removeprefix("# ")


# --- the series -------------------------------------------------------------------------------------------------------
def contents() -> str:
    """The order of the pages: each lesson is followed by its practice."""
    lines = []
    for path in LESSON_FILES:
        lines.append(f"/notebooks/{path.stem}")
        if (PRACTICE / path.name).exists():
            lines.append(f"/notebooks/practice/{path.stem}")
    return "```{toctree}\n:hidden:\n:caption: The series\n\n" + "\n".join(lines) + "\n```"


def cards() -> str:
    """The map of the series: a card for each lesson, with the accident that it prevents, from the README's table."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    cards = []
    for path in LESSON_FILES:
        row = next(
            line for line in readme.splitlines() if line.startswith("| [") and f"(notebooks/{path.name})" in line
        )
        _, _, read, run, accident = (cell.strip() for cell in row.strip("|").split("|"))
        practice = f"[Practice](../notebooks/practice/{path.name})" if (PRACTICE / path.name).exists() else ""
        cards.append(
            f":::{{grid-item-card}} [{title(path)}](../notebooks/{path.name})\nAgainst {accident}.\n\n"
            f"{read} to read. {practice}\n:::"
        )
    return "::::{grid} 1 2 3 3\n:gutter: 2\n\n" + "\n\n".join(cards) + "\n::::"


def reference() -> str:
    """The API pages: each room of course_utils, with what its wing hands on."""
    rooms = [path for path in sorted((ROOT / "course_utils").iterdir()) if not path.name.startswith("_")]
    blocks = []
    for room in rooms:
        options = "\n   :imported-members:" if room.is_dir() else ""
        blocks.append(f"## {room.stem}\n\n```{{eval-rst}}\n.. automodule:: course_utils.{room.stem}{options}\n```")
    return "\n\n".join(blocks)


# --- the glossary, both ways ------------------------------------------------------------------------------------------
def glossary_with_anchors(text: str) -> str:
    """The glossary with links to the very section of a lesson, and to the very exercise."""

    def to_section(found: re.Match) -> str:
        return "Lesson " + link(ROOT / found[2], found[3], f"{found[1]}, section “{found[3]}”")

    def to_exercise(found: re.Match) -> str:
        return link(ROOT / found[2], f"{found[1]} {EXERCISES[found[1]].title}", found[1])

    text = re.sub(PLACES, to_section, text)
    return re.sub(r"\[(\d\d\.\d)\]\(\.\./([^)]+)\)", to_exercise, text)


def with_words(text: str, path: Path) -> str:
    """A cell of a lesson with a line below its heading: the words of the glossary that this section explains."""
    entries = (ROOT / "docs" / "glossary.md").read_text(encoding="utf-8").split("\n## ")[1:]
    for heading in re.findall(r"^##+ (.+)$", text, re.M):
        places = [(entry.split("\n")[0], re.search(PLACES, entry)) for entry in entries]
        words = [word for word, place in places if (place[2], place[3]) == (f"notebooks/{path.name}", heading)]
        links = ", ".join(f"[{word}](../docs/glossary.md#{github_slugify(word)})" for word in words)
        if words:
            text = re.sub(rf"^(##+ {re.escape(heading)})$", rf"\1\n\n*In the glossary*: {links}", text, flags=re.M)
    return text


# --- mistakes ---------------------------------------------------------------------------------------------------------
def mistakes() -> str:
    """Every named wrong answer of the practice, with its reason, the first probe that tells it, and the section."""
    lines = []
    for stem in LESSONS:
        lines.append(f"## {title(PRACTICE / f'{stem}.ipynb').removeprefix('Practice ')}")
        for number, exercise in sorted(EXERCISES.items()):
            if number.startswith(stem[:2]):
                lines += _mistakes_of(exercise, stem)
    return "\n\n".join(lines)


def _mistakes_of(exercise: Exercise, stem: str) -> list[str]:
    name = f"{exercise.id} {exercise.title}"
    task = link(PRACTICE / f"{stem}.ipynb", name, "the task")
    lines = [f"### {name}", f"Here is {task}; it is about {section(stem[:2], exercise.section)}."]
    expected = exercise.known(exercise.right[0])
    for wrong, reason in exercise.wrong:
        probes = zip(exercise.probes, expected)  # tried only as far as the one that tells it
        told_by = next(what for (what, probe), right in probes if not same(_outcome(probe, wrong), right))
        lines += [reason, f"*What tells it*: {told_by}."]
        if wrong.__name__ == exercise.stub.__name__:  # written out, and not made by a short function for several
            answer = html.escape(source(wrong), quote=False)
            lines.append(f"<details><summary>The wrong answer</summary>\n\n<pre>{answer}</pre>\n\n</details>")
    return lines


def _outcome(probe: Callable, answer: Callable):
    return apart(lambda: plain(probe(answer)))
