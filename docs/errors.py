"""The page of the errors: those that the lessons cause, and all that course_utils says."""

import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

import nbformat
from messages import Message, messages
from pages import LESSON_FILES, ROOT, section

# What the errors of PyTorch mean, and where the lessons explain what each room of course_utils says.
KNOWN = tomllib.loads((ROOT / "docs" / "errors.toml").read_text(encoding="utf-8"))


@dataclass(frozen=True)
class Said:
    """What a cell of a lesson put out: an error that stopped it, or printed text, and in which section."""

    lesson: str
    section: str
    text: str
    stopped: bool

    @property
    def where(self) -> str:
        return section(self.lesson, self.section)


def of_lessons() -> str:
    """The errors of PyTorch and Python that the lessons cause: each with its meaning, its cure and its sections.

    Raises ValueError for a saved error without an entry in errors.toml, and for an entry that no lesson shows.
    """
    said = [one for path in LESSON_FILES for one in _said_in(path)]
    ours = [_pattern(message) for message in messages()]
    for one in said:
        known = any(entry["begins"] in one.text for entry in KNOWN["error"])
        if one.stopped and not known and not any(pattern.search(one.text) for pattern in ours):
            raise ValueError(f"docs/errors.toml does not say what this error in {one.where} means: {one.text[:80]}")
    return "\n\n".join(_block(entry, [one for one in said if entry["begins"] in one.text]) for entry in KNOWN["error"])


def _block(entry: dict, places: list[Said]) -> str:
    begins = entry["begins"]
    if not places:
        raise ValueError(f"No lesson shows the error of docs/errors.toml that begins: {begins}")
    stops = [one.text for one in places if one.stopped]
    printed = [line for line in "\n".join(one.text for one in places).splitlines() if begins in line]
    # Of what is printed, the longest line; what stands before the name of the error is not part of it.
    message = stops[0] if stops else re.sub(r"^.*?(?=\b\w+Error: )", "", max(printed, key=len).strip(), count=1)
    line = next(line for line in message.splitlines() if begins in line).strip()
    heading = re.split(r"(?<=\w)\. ", line)[0]  # what is pasted into a search lies within it
    heading = heading if len(heading) <= 110 else heading[:110].rsplit(" ", 1)[0] + " …"
    where = "; ".join(dict.fromkeys(one.where for one in places))
    title = heading.replace("_", r"\_")
    said = f"### {title}\n\n```text\n{message.strip()}\n```"
    return f"{said}\n\n**It means**: {entry['means']}\n\n**The cure**: {entry['cure']}\n\n**Where**: {where}"


def of_course_utils() -> str:
    """All that course_utils raises or warns with, by its rooms, each with the section that is about it."""
    said = [one for path in LESSON_FILES for one in _said_in(path)]
    lines = []
    for room, group in groupby(messages(), key=lambda message: message.room):
        lines.append(f"### course_utils.{room}")
        about = section(*KNOWN["sections"][room])
        for message in group:
            met = [one.where for one in said if _pattern(message).search(one.text)]
            lines.append(
                f"- `` {message.text} ``\n  ({message.kind}; {met[0] if met else about})".replace("\n…\n", " … ")
            )
    return "\n\n".join(lines)


def _pattern(message: Message) -> re.Pattern:
    return re.compile(".+".join(map(re.escape, message.text.strip("…").split("…"))), re.DOTALL)


def _said_in(path: Path) -> Iterator[Said]:
    heading = ""
    for cell in nbformat.read(path, as_version=4).cells:
        if cell.cell_type == "markdown":
            heading = [heading, *re.findall(r"^##+ (.+)", cell.source, re.M)][-1]
        for output in cell.get("outputs", []):
            if output.output_type == "error":
                plain = re.sub(r"\x1b\[\d+m", "", f"{output.ename}: {output.evalue}")
                yield Said(path.name[:2], heading, plain, stopped=True)
            elif output.output_type == "stream":
                yield Said(path.name[:2], heading, output.text, stopped=False)
