"""What the cells print is compared exactly, or within the tolerance that a cell states; and what the series prints."""

import copy
import os
import re
import shutil
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import maintain
import nbformat
import pytest
from nbformat import v4

NOTEBOOKS = Path(maintain.__file__).parent
PATHS = sorted(NOTEBOOKS.glob("*.ipynb"))
CELLS = {path.stem: nbformat.read(path, as_version=4).cells for path in PATHS}
NUMBER = re.compile(r"(?<![\w.])(?!0\.0+\b)\d+\.\d+")  # one that a factor makes another one


def compare(path):
    """Run a copy of a notebook by the real `pytest --nbval`: for each code cell None, or what the comparison says."""
    shutil.copy(NOTEBOOKS / "conftest.py", path.parent)
    report = path.with_suffix(".xml")
    options = ["-p", "no:cacheprovider", "-p", "no:xdist", "--nbval-cell-timeout", "300", "--color=no"]
    command = [sys.executable, "-m", "pytest", "--nbval", path.name, *options, f"--junitxml={report}"]
    if (path.parent / "sanitize.cfg").exists():
        command += ["--nbval-sanitize-with", "sanitize.cfg"]
    pythonpath = os.pathsep.join([str(NOTEBOOKS.parent), os.environ.get("PYTHONPATH", "")])
    environ = {**os.environ, "COURSE_DATA": "drawn", "OMP_NUM_THREADS": "1", "PYTHONPATH": pythonpath}
    environ = {name: value for name, value in environ.items() if not name.startswith("PYTEST_")}
    run = subprocess.run(command, cwd=path.parent, env=environ, capture_output=True, text=True)
    assert report.exists(), run.stdout + run.stderr
    cases = ElementTree.parse(report).iter("testcase")
    return [next((answer.text for answer in case if answer.tag == "failure"), None) for case in cases]


def stream(text, name="stdout"):
    return [v4.new_output("stream", name=name, text=text)]


def result(**data):
    return [v4.new_output("execute_result", {name.replace("_", "/"): text for name, text in data.items()})]


PRINTS = "print('accuracy 0.91 on 1,000 images, lr 1e-3')"
SAYS = "accuracy 0.91 on 1,000 images, lr 1e-3\n"
TABLE = """class Table:
    def __repr__(self): return 'a table'
    def _repr_html_(self): return '<td>0.91</td>'
Table()"""
# What a cell is, what is saved of it, its tolerance, and what the failing comparison says; None: it passes.
CASES = {
    "the same": (PRINTS, stream(SAYS), 0.05, None),
    "a number within": (PRINTS, stream(SAYS.replace("0.91", "0.90").replace("1,000", "1,040")), 0.05, None),
    "a wrong number": (
        PRINTS,
        stream(SAYS.replace("0.91", "0.84")),
        0.05,
        "stdout, number 1: saved 0.84, got 0.91, tolerance 0.05",
    ),
    "a wrong thousand": (PRINTS, stream(SAYS.replace("1,000", "1,100")), 0.05, "number 2: saved 1,100, got 1,000"),
    "a wrong exponent": (PRINTS, stream(SAYS.replace("1e-3", "1e-4")), 0.05, "number 3: saved 1e-4, got 1e-3"),
    "another sign": (PRINTS, stream(SAYS.replace("0.91", "-0.91")), 0.05, "number 1: saved -0.91, got 0.91"),
    "no tolerance": (PRINTS, stream(SAYS.replace("0.91", "0.90")), None, "0.90"),
    "a smaller tolerance": (PRINTS, stream(SAYS.replace("0.91", "0.90")), 0.01, "tolerance 0.01"),
    "another word": (PRINTS, stream(SAYS.replace("accuracy", "loss")), 0.05, "other words around the numbers"),
    "another unit": (PRINTS, stream(SAYS.replace("images", "images,")), 0.05, "other words around the numbers"),
    "one number more": (PRINTS, stream(SAYS.replace("images", "2 images")), 0.05, "saved 4 numbers, got 3"),
    "no number": (PRINTS, stream(SAYS.replace("0.91", "nan")), 0.05, "saved 2 numbers, got 3"),
    "one line more": (PRINTS, stream(SAYS + "done\n"), 0.05, "other words around the numbers"),
    "missing output": ("x = 1", stream(SAYS), 0.05, "Missing output fields"),
    "unexpected output": (PRINTS, [], 0.05, "Unexpected output fields"),
    "another stream": (PRINTS, stream(SAYS, "stderr"), 0.05, "Missing output fields"),
    "two prints, joined": (
        "import sys\nprint('a 1.0', flush=True); sys.stdout.flush(); print('b 2.0')",
        stream("a 1.01\n") + stream("b 2.01\n"),
        0.05,
        None,
    ),
    "aligned to the right": ("print(f'[{9.9:5.1f}]')", stream("[ 10.1]\n"), 0.05, None),
    "a word with digits": ("print('layer1 0.5')", stream("layer2 0.5\n"), 0.9, "other words around the numbers"),
    "zero allows zero": ("print(1e-9)", stream("0.0\n"), 0.05, "saved 0.0, got 1e-09"),
    "a result within": ("[0.91, 2]", result(text_plain="[0.92, 2]"), 0.05, None),
    "a wrong result": ("[0.91, 2]", result(text_plain="[0.91, 3]"), 0.05, "text/plain, number 2: saved 3, got 2"),
    "a table within": (TABLE, result(text_html="<td>0.92</td>", text_plain="a table"), 0.05, None),
    "a wrong table": (
        TABLE,
        result(text_html="<td>0.5</td>", text_plain="a table"),
        0.05,
        "text/html, number 1: saved 0.5, got 0.91",
    ),
    "sanitized": ("print('took 3.2 s, loss 0.5')", stream("took 99 s, loss 0.51\n"), 0.05, None),
    "sanitized, and wrong": ("print('took 3.2 s, loss 0.5')", stream("took 99 s, loss 0.6\n"), 0.05, "saved 0.6"),
}


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A notebook with a cell for each case, compared once."""
    path = tmp_path_factory.mktemp("numbers") / "numbers.ipynb"
    notebook = v4.new_notebook()
    for number, (source, outputs, tolerance, _) in enumerate(CASES.values(), 1):
        metadata = {} if tolerance is None else {"tolerance": tolerance}
        notebook.cells.append(v4.new_code_cell(source, outputs=outputs, execution_count=number, metadata=metadata))
    nbformat.write(notebook, path)
    (path.parent / "sanitize.cfg").write_text(r"regex: took [\d.]+ s" + "\nreplace: took SECONDS\n")
    return compare(path)


@pytest.mark.parametrize("name", CASES)
def test_numbers_are_compared_within_the_tolerance_and_all_else_exactly(name, compared):
    said, expected = compared[list(CASES).index(name)], CASES[name][-1]
    assert (said is None) if expected is None else (expected in (said or "")), said


def plantable(with_tolerance):
    """(notebook, number of a cell that prints a number), with a tolerance or without: the first in any notebook."""
    found = [
        (index, stem)
        for stem, cells in CELLS.items()
        for index, cell in enumerate(cells)
        if ("tolerance" in cell.metadata) == with_tolerance
        and any(output.get("name") == "stdout" and NUMBER.search(output.text) for output in cell.get("outputs", []))
    ]
    assert found, "no cell of the series prints a number so"
    return min(found)[::-1]


@pytest.mark.parametrize("with_tolerance", [True, False])
def test_a_wrong_number_in_a_real_notebook_is_found(with_tolerance, tmp_path):
    stem, index = plantable(with_tolerance)
    cells = copy.deepcopy(CELLS[stem][: index + 1])
    notebook = v4.new_notebook(cells=cells, metadata=maintain.METADATA)

    def compare_as(name):
        (tmp_path / name).mkdir()
        nbformat.write(notebook, tmp_path / name / "copy.ipynb")
        return compare(tmp_path / name / "copy.ipynb")

    right = compare_as("right")
    assert right == [None] * len(right)
    factor = (1 + cells[-1].metadata.get("tolerance", 0.01)) ** 2
    output = next(one for one in cells[-1].outputs if one.get("name") == "stdout" and NUMBER.search(one.text))
    output.text = NUMBER.sub(lambda match: repr(float(match[0]) * factor), output.text, count=1)
    *others, last = compare_as("wrong")
    assert others == right[1:] and "Cell outputs differ" in last


@pytest.mark.parametrize("line", ["True", "the same bits: False", "the same bits = True", "(True, False)", "x=True"])
def test_a_line_that_says_only_yes_or_no_is_a_verdict(line):
    assert maintain.is_verdict(line)


@pytest.mark.parametrize("line", ["true to 0.97", "BatchNorm2d(16, affine=True)", "True positives: 12", "loss 0.3"])
def test_a_line_that_says_more_is_none(line):
    assert not maintain.is_verdict(line)


def test_at_most_one_printed_line_in_eight_is_a_bare_verdict():
    printed = maintain.printed_lines([cell for cells in CELLS.values() for cell in cells])
    verdicts = [line for line in printed if maintain.is_verdict(line)]
    assert len(verdicts) <= len(printed) / 8, f"{len(verdicts)} of {len(printed)}: print what was measured"


def test_at_most_two_cells_of_the_series_are_not_compared():
    hidden = [
        f"{stem}: {cell.source}"
        for stem, cells in CELLS.items()
        for cell in cells
        if {"nbval-ignore-output", "nbval-skip"} & set(cell.metadata.get("tags", [])) or "# NBVAL_" in cell.source
    ]
    assert len(hidden) <= 2, hidden


def test_a_tolerance_is_a_small_number_and_for_numbers():
    for cells in CELLS.values():
        for cell in cells:
            if "tolerance" in cell.metadata:
                tolerance = cell.metadata.tolerance
                assert type(tolerance) is float and 0 < tolerance < 0.5, cell.source
                shown = "".join(str(output.get("text") or output.get("data")) for output in cell.outputs)
                assert re.search(r"\d", shown), f"no number is compared here: {cell.source}"


@pytest.mark.parametrize("stem", CELLS)
def test_the_time_to_read_is_the_counted_one_and_at_most_45_minutes(stem):
    counted, said = maintain.minutes_to_read(CELLS[stem]), maintain.minutes_said(CELLS[stem])
    assert said is not None and counted <= said <= 5 * -(-counted // 5), f"counted {counted}, said {said}"
    assert said <= 45


def test_the_readme_says_the_same_times_to_read():
    readme = (NOTEBOOKS.parent / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"\(notebooks/(\w+)\.ipynb\) \|.*?\| (\d+) min \|", readme)
    assert {stem: int(minutes) for stem, minutes in rows} == {
        stem: maintain.minutes_said(cells) for stem, cells in CELLS.items()
    }
