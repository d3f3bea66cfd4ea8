"""The practice notebooks, written from the exercises of course_utils/practice: `maintain.py practice` calls this."""

import ast
import inspect
import sys
from pathlib import Path
from types import ModuleType

import maintain
import nbformat
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from course_utils.practice import EXERCISES, LESSONS, PREDICTIONS, QUIZZES
from course_utils.practice.engine import Exercise, source
from course_utils.practice.sandbox import apart

HIDDEN = {"cellView": "form", "jupyter": {"source_hidden": True}}  # in Colab, in JupyterLab
HOW = """**How it works.** Each task has a cell with a function to write. Run it, and `check` tries your function on
small models and tells you what it does: right, or which mistake it looks like and what to do. Nothing of your code is
read, so solve it your own way. Guess first where a question asks for a guess. Hints and solutions open with a click.

**You need** lesson [{title}](../{stem}.ipynb). **Time**: about {minutes} minutes.

**Words** (the mouse on one shows what it means): {words}."""
END = """What you have done: `%run -m course_utils.practice` in a new cell lists it, and so does
`python -m course_utils.practice` in a terminal, in this folder."""
CAPSTONE = """## The capstone

An empty folder, 100 images, three kills: `python -m course_utils.practice capstone` says what to do, and
`python -m course_utils.practice capstone FOLDER` judges what you have written."""
NO_QUOTES = str.maketrans('"', "'", "`")
GLOSSARY = maintain.ROOT / "docs" / "glossary.md"


def written(folder: Path) -> list[Path]:
    """Write every practice notebook into a folder; returns the files. Raises SystemExit rather than lose a cell."""
    notebooks = {folder / f"{stem}.ipynb": notebook(stem) for stem in LESSONS}
    for path, new in notebooks.items():
        there = nbformat.read(path, as_version=4).cells if path.exists() else []
        if own := {cell.id for cell in there} - {cell.id for cell in new.cells}:
            sys.exit(
                f"{path.name} has cells that no exercise makes: {', '.join(sorted(own))}. Write them as an exercise in "
                f"{inspect.getsourcefile(LESSONS[path.stem])}, or delete them, then run this again."
            )
    for path, new in notebooks.items():
        nbformat.write(new, path)
    return list(notebooks)


def notebook(stem: str, solved: bool = False) -> nbformat.NotebookNode:
    """A practice notebook, not yet run. solved: with the solutions, measured guesses and true letters put in."""
    lesson, module = stem[:2], LESSONS[stem]
    exercises = [one for number, one in sorted(EXERCISES.items()) if number.startswith(lesson)]
    cells = opening(stem, exercises) + [imports(module, exercises)]
    for one in exercises:
        if one.id in PREDICTIONS:
            cells += prediction_cells(one.id, solved)
        cells += exercise_cells(one, solved)
    cells += quiz_cells(lesson, solved)
    return new_notebook(cells=cells, metadata=maintain.METADATA)


def opening(stem: str, exercises: list[Exercise]) -> list:
    title = f"{int(stem[:2])}. {stem[3:].replace('_', ' ').capitalize()}"
    why = (
        "You have read about the accidents of this lesson. Here you cause them, find them and mend them yourself, and "
        "each answer says why it is right or wrong."
    )
    how = HOW.format(title=title, stem=stem, minutes=6 * len(exercises), words=", ".join(words(stem)))
    return [
        text("opening-title", f"# Practice {title}\n\n{maintain.badges(f'practice/{stem}')}\n\n{why}"),
        text("opening-how", how),
        code("opening-set-up", maintain.SET_UP_CELL.read_text(encoding="utf-8").strip(), HIDDEN),
    ]


def words(stem: str) -> list[str]:
    """Links to the words of the glossary that this lesson brings or that are practised here.

    Each with its sentence as a title, which the mouse shows: JupyterLab and Colab cannot follow the link.
    """
    entries = [entry.split("\n\n") for entry in GLOSSARY.read_text(encoding="utf-8").split("\n## ")[1:]]
    found = [
        (word.strip(), " ".join(meaning.split())) for word, meaning, places in entries if f"/{stem}.ipynb)" in places
    ]
    return [
        f'[{word}](../../docs/glossary.md#{word.lower().replace(" ", "-")} "{meaning.translate(NO_QUOTES)}")'
        for word, meaning in found
    ]


def imports(module: ModuleType, exercises: list[Exercise]) -> nbformat.NotebookNode:
    """The imports of the module that its stubs and solutions need."""
    texts = "\n".join(source(function) for one in exercises for function in (one.stub, one.right[0]))
    used = {node.id for node in ast.walk(ast.parse(texts)) if isinstance(node, ast.Name)}
    lines = []
    for node in ast.parse(inspect.getsource(module)).body:
        if isinstance(node, ast.Import | ast.ImportFrom):
            node.names = [alias for alias in node.names if (alias.asname or alias.name).split(".")[0] in used]
            lines += [ast.unparse(node)] if node.names else []
    return code("opening-imports", "\n".join([*lines, "", "from course_utils.practice import check, predict, quiz"]))


def prediction_cells(number: str, solved: bool) -> list:
    one = PREDICTIONS[number]
    guess = f"{apart(one.measure):g}" if solved else "..."  # apart: it may write files
    return [
        text(f"guess-{number}-text", f"## Guess first ({number})\n\n{one.question}"),
        code(f"guess-{number}-code", f'predict("{number}", {guess})'),
    ]


def exercise_cells(one: Exercise, solved: bool) -> list:
    answer = source(one.right[0] if solved else one.stub)
    name = one.stub.__name__
    return [
        text(f"task-{one.id}-text", f"## {one.id} {one.title}\n\n{one.task}"),
        code(f"task-{one.id}-code", f'{answer}\n\n\ncheck("{one.id}", {name})'),
        text(f"task-{one.id}-hint", f"<details><summary>Hint</summary>\n\n{one.hint}\n\n</details>"),
        text(
            f"task-{one.id}-solution",
            f"<details><summary>Solution</summary>\n\n```python\n{source(one.right[0])}\n```\n\n</details>",
        ),
    ]


def quiz_cells(lesson: str, solved: bool) -> list:
    lines, letters = ["## Quiz", 'Put the letters of all that is true into the quotes, such as `"ac"`.'], []
    for number, one in enumerate(QUIZZES[lesson], 1):
        options = "\n".join(f"- **{letter}** {option[0]}" for letter, option in one.options.items())
        lines.append(f"**Question {number}.** {one.text}\n\n{options}")
        letters.append("".join(letter for letter, option in one.options.items() if option[1]) if solved else "")
    return [
        text(f"quiz-{lesson}-text", "\n\n".join(lines)),
        code(f"quiz-{lesson}-code", "quiz({})".format(", ".join(f'"{one}"' for one in [lesson, *letters]))),
        text(f"quiz-{lesson}-end", f"{END}\n\n{CAPSTONE}" if lesson == "07" else END),
    ]


def text(name: str, words: str) -> nbformat.NotebookNode:
    return new_markdown_cell(words, id=name.replace(".", "-"))


def code(name: str, lines: str, metadata: dict | None = None) -> nbformat.NotebookNode:
    return new_code_cell(lines, id=name.replace(".", "-"), metadata=metadata or {})
