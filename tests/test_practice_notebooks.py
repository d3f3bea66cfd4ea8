"""The practice notebooks are those of the exercises; with the solutions put in, every answer is right."""

import re
import sys
from pathlib import Path

import maintain
import nbformat
import practice_notebooks
import pytest
from nbclient import NotebookClient

from course_utils.practice import EXERCISES, LESSONS, PREDICTIONS, QUIZZES, progress
from course_utils.practice.__main__ import __doc__ as usage
from course_utils.practice.engine import source

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(params=list(LESSONS))
def stem(request):
    return request.param


@pytest.fixture
def notebook(stem):
    return nbformat.read(maintain.PRACTICE / f"{stem}.ipynb", as_version=4)


def printed(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def test_there_is_one_for_each_lesson():
    assert [path.stem for path in sorted(maintain.PRACTICE.glob("*.ipynb"))] == list(LESSONS)


def test_it_is_what_the_exercises_say(stem, notebook):
    """Also the solution's text: it is that of the first right implementation."""
    nbformat.validate(notebook)
    now = practice_notebooks.notebook(stem)
    assert [(cell.id, cell.source) for cell in notebook.cells] == [(cell.id, cell.source) for cell in now.cells], (
        "run: python notebooks/maintain.py practice"
    )
    for one in EXERCISES.values():
        if one.id[:2] == stem[:2]:
            [solution] = [cell for cell in notebook.cells if cell.id == f"task-{one.id.replace('.', '-')}-solution"]
            assert f"```python\n{source(one.right[0])}\n```" in solution.source


def test_as_it_is_every_answer_is_not_yet(notebook):
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    asked = [cell for cell in code if re.search(r"^(check|predict|quiz)\(", cell.source, re.M)]
    assert len(asked) >= 8
    assert all("Not yet." in printed(cell) for cell in asked)
    assert not any(output.get("name") == "stderr" for cell in code for output in cell.outputs)


def test_hint_and_solution_are_closed_and_each_in_a_cell_of_its_own(notebook):
    folded = [cell for cell in notebook.cells if "<details>" in cell.source]
    assert len(folded) == 2 * sum("check(" in cell.source for cell in notebook.cells if cell.cell_type == "code")
    assert all(cell.source.startswith("<details><summary>") and cell.source.endswith("</details>") for cell in folded)


def test_with_the_solutions_put_in_every_answer_is_right(stem, tmp_path):
    solved = practice_notebooks.notebook(stem, solved=True)
    NotebookClient(solved, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    for cell in solved.cells:
        if cell.cell_type == "code" and "check(" in cell.source:
            assert re.match(r"\d\d\.\d+ Right\. ", printed(cell)), printed(cell)
        if cell.cell_type == "code" and cell.source.startswith("quiz("):
            assert len(re.findall(r"^Question \d: Right\.", printed(cell), re.M)) == len(QUIZZES[stem[:2]])
    done = progress.read(tmp_path)
    assert {number for number in EXERCISES if number[:2] == stem[:2]} < set(done)
    assert {f"guess {number}" for number in PREDICTIONS if number[:2] == stem[:2]} | {f"quiz {stem[:2]}"} < set(done)


def test_what_is_done_is_listed(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("progress.json").write_text('["01.2", "guess 01.1", "quiz 02"]')
    lines = progress.listed(progress.read(), list(LESSONS), EXERCISES, PREDICTIONS).splitlines()
    assert lines[0] == "1. Saving models"
    assert "  ✓ 01.2 How large will the file be?" in lines and "  · 01.1 Keep the best weights" in lines
    assert "  · Quiz; 1 of 2 guesses made" in lines and "  ✓ Quiz; 0 of 2 guesses made" in lines
    assert lines[-1] == f"1 of {len(EXERCISES)} exercises are done."
    Path("progress.json").write_text("damaged")
    assert progress.read() == []
    assert "collect FOLDER" in usage


def test_a_teacher_sees_which_mistakes_were_made(tmp_path):
    def handed_in(name, *texts):
        cells = []
        for text in texts:
            output = nbformat.v4.new_output("stream", name="stdout", text=text)
            cells.append(nbformat.v4.new_code_cell("check(…)", outputs=[output]))
        (tmp_path / name).parent.mkdir(exist_ok=True)
        nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / name)

    one = EXERCISES["01.1"]
    alias, buffers = (reason for _, reason in one.wrong[:2])
    handed_in(
        "kim.ipynb", f"01.1 Wrong. {alias[:60]}\n{alias[60:]}\n" if alias[59] == " " else f"01.1 Wrong. {alias}\n"
    )
    handed_in("lee/practice.ipynb", f"01.1 Wrong. {alias} (KeyError in line 3)\n", "01.2 Right. It is.\n")
    handed_in("park.ipynb", f"01.1 Wrong. {buffers}\n", "01.1 Not right yet. Looked at …\n", "something else\n")
    (tmp_path / "broken.ipynb").write_text("no notebook")
    lines = progress.collected(tmp_path, EXERCISES).splitlines()
    assert lines[0] == "01.1 Keep the best weights"
    assert lines[1].startswith("    2 × Your weights followed the training: `state_dict()` gives the live tensors")
    assert any(line.startswith("    1 × The parameters are there, the buffers are not") for line in lines)
    assert "    1 × another mistake" in lines
    assert lines[-4:-2] == ["01.2 How large will the file be?", "    1 × right"]
    assert lines[-2:] == ["3 notebooks were read, with 5 answers.", "Not readable as a notebook: broken.ipynb."]
    assert "kim" not in "\n".join(lines)
    with pytest.raises(ValueError, match="no notebooks"):
        progress.collected(tmp_path / "nothing", EXERCISES)
    (tmp_path / "broken.ipynb").unlink()
    two = "my own print\n01.1 Right. It is.\nand more\n01.2 Not yet. Write it.\n"
    handed_in("한글.ipynb", two)
    text = (tmp_path / "한글.ipynb").read_text(encoding="utf-8")
    (tmp_path / "한글.ipynb").write_text(text, encoding="utf-8-sig")  # as some editors save it
    lines = progress.collected(tmp_path, EXERCISES).splitlines()
    assert "    1 × right" in lines[:5] and "    1 × not yet" in lines and lines[-1].startswith("4 notebooks")


def test_a_cell_that_somebody_has_added_is_not_lost(tmp_path):
    paths = practice_notebooks.written(tmp_path)
    notebook = nbformat.read(paths[0], as_version=4)
    notebook.cells.append(nbformat.v4.new_markdown_cell("My own task", id="my-own"))
    nbformat.write(notebook, paths[0])
    with pytest.raises(SystemExit, match="01_saving_models.ipynb has cells that no exercise makes: my-own"):
        practice_notebooks.written(tmp_path)
    assert nbformat.read(paths[0], as_version=4).cells[-1].source == "My own task"


@pytest.mark.skipif(sys.platform == "win32", reason="the console may not know ✓")
def test_the_command_runs(tmp_path):
    import subprocess

    run = subprocess.run([sys.executable, "-m", "course_utils.practice"], cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 0 and f"0 of {len(EXERCISES)} exercises are done." in run.stdout
