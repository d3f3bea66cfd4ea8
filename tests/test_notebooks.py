"""Every notebook has its parts, was run, and is compared. What its cells print is compared by `make test-notebooks`."""

import re
import tomllib
from pathlib import Path

import maintain
import nbformat
import pytest

ROOT = Path(__file__).resolve().parent.parent
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
SERIES = [
    "01_saving_models",
    "02_loading_models",
    "03_checkpoints",
    "04_interrupted_trainings",
    "05_transfer_learning",
    "06_freezing_layers",
    "07_frozen_backbones",
    "08_sharing_models",
    "09_more_than_one_process",
]
MACHINE_PATH = re.compile(r"/(?:home|root|Users|tmp|work|usr|opt|content|var)/[\w.-]+|[A-Z]:\\\w+|site-packages")
HIDDEN_TAGS = {"nbval-ignore-output", "nbval-skip"}


@pytest.fixture(params=PATHS, ids=lambda path: path.stem)
def path(request):
    return request.param


@pytest.fixture
def cells(path):
    return nbformat.read(path, as_version=4).cells


def code(cells):
    return [cell for cell in cells if cell.cell_type == "code"]


def tags(cell):
    return set(cell.metadata.get("tags", []))


def prints(cell):
    """Does the cell have an output that nbval can compare: text, or an error?"""
    return any(
        output.output_type in ("stream", "error") or "text/plain" in output.get("data", {}) for output in cell.outputs
    )


def words(output):
    """All that an output says, pictures aside."""
    texts = [text for mime, text in output.get("data", {}).items() if mime.startswith("text/")]
    return "\n".join([output.get("text", ""), output.get("evalue", ""), *output.get("traceback", []), *texts])


def test_the_series_is_complete_and_numbered_without_a_gap():
    assert [path.stem for path in PATHS] == SERIES
    assert [int(stem[:2]) for stem in SERIES] == list(range(1, len(SERIES) + 1))


def test_a_notebook_is_valid_and_its_cells_have_names(path):
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    names = [cell.id for cell in notebook.cells]
    assert len(set(names)) == len(names)


def test_every_cell_was_run_once_from_top_to_bottom(cells):
    """nbval never compares a cell without a number and without outputs."""
    assert [cell.execution_count for cell in code(cells)] == list(range(1, len(code(cells)) + 1))


def test_no_cell_is_empty(cells):
    assert all(cell.source.strip() for cell in cells)


def test_every_saved_error_is_expected_and_every_expected_error_came(cells):
    for cell in code(cells):
        failed = any(output.output_type == "error" for output in cell.outputs)
        assert failed == ("raises-exception" in tags(cell)), cell.source


def test_no_output_shows_a_path_of_a_machine_or_a_warning(cells):
    for cell in code(cells):
        text = "\n".join(words(output) for output in cell.outputs)
        assert not MACHINE_PATH.search(text), cell.source
        assert not any(output.get("name") == "stderr" for output in cell.outputs), cell.source


def test_nearly_every_cell_that_prints_is_compared(cells):
    printing = [cell for cell in code(cells) if prints(cell)]
    compared = [cell for cell in printing if not HIDDEN_TAGS & tags(cell) and "NBVAL_" not in cell.source]
    assert printing and len(compared) / len(printing) >= 0.85


def test_it_opens_with_title_badges_and_purpose(path, cells):
    first = cells[0].source
    assert re.match(rf"# {int(path.stem[:2])}\. \w+", first)
    assert first.split("\n\n")[1] == maintain.badges(path.stem), "run: python notebooks/maintain.py openings"
    assert len(first.split("\n\n")[-1].split()) >= 20, "a paragraph that says why this matters"


def test_it_says_what_you_learn_what_you_need_and_how_long_it_takes(cells):
    second = cells[1].source
    learn = second.split("**You will learn**")[1].split("**You need**")[0]
    assert 3 <= len(re.findall(r"^[-*] ", learn, re.MULTILINE)) <= 5
    assert "**Time**" in second


def test_all_notebooks_have_the_same_set_up_cell_and_it_prints_nothing(cells):
    set_up, reference = code(cells)[0], maintain.SET_UP_CELL.read_text(encoding="utf-8")
    assert cells[2] is set_up and not set_up.outputs
    assert set_up.source == reference.strip(), "run: python notebooks/maintain.py openings"
    hidden = {"cellView": "form", "jupyter": {"source_hidden": True}}  # in Colab, in JupyterLab
    assert set_up.metadata == hidden and set_up.source.startswith("# @title "), "not a reader's first page"


def test_each_section_has_something_to_try(cells):
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    sections = re.findall(r"^## .+", text, re.MULTILINE)
    assert len(sections) >= 4
    assert text.count("**Try it**") >= len(sections) // 2


def test_it_ends_with_what_to_remember_and_where_next(path, cells):
    last = cells[-1].source
    assert last.startswith("## What to remember")
    assert 1 <= len(re.findall(r"^[-*] ", last, re.MULTILINE)) <= 5
    following = SERIES.index(path.stem) + 1
    if following < len(SERIES):
        assert f"({SERIES[following]}.ipynb)" in last


def test_cells_are_short(cells):
    lines = sorted(sum(bool(line.strip()) for line in cell.source.splitlines()) for cell in code(cells)[1:])
    assert lines[len(lines) // 2] <= 6 and lines[-1] <= 25
    wide = [line for cell in code(cells)[1:] for line in cell.source.splitlines() if len(line) > 100]
    assert not wide, "a reader would have to scroll"


@pytest.mark.parametrize("file", maintain.files_with_links(), ids=lambda file: file.name)
def test_every_link_points_at_the_one_address(file):
    address = re.search(r'^Repository = "https://github\.com/([^"]+)"', (ROOT / "pyproject.toml").read_text(), re.M)
    found = [repository for _, repository in maintain.LINK.findall(file.read_text(encoding="utf-8"))]
    assert found and set(found) == {address[1]}, "run: make badges REPO=owner/name"


def test_badges_change_every_link_and_refuse_what_is_no_repository(tmp_path, monkeypatch):
    copies = []
    for file in maintain.files_with_links():
        copies.append(tmp_path / file.name)
        copies[-1].write_text(file.read_text(encoding="utf-8"), encoding="utf-8")
    monkeypatch.setattr(maintain, "files_with_links", lambda: copies)
    maintain.point_links_at("a-teacher/her.fork")
    assert "kaggle.com/kernels/welcome?src=https://github.com/a-teacher/her.fork/" in copies[-1].read_text()
    for copy in copies:
        assert {repository for _, repository in maintain.LINK.findall(copy.read_text())} == {"a-teacher/her.fork"}
    with pytest.raises(SystemExit, match="owner/name"):
        maintain.point_links_at("https://github.com/a-teacher/her.fork")


def test_the_package_asks_for_what_requirements_txt_gives_a_reason_for():
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    wanted = [line for line in lines if line and not line.startswith("#")]
    assert all(re.search(r" # \w", line) for line in wanted), "each line says why"
    listed = [line.split("#")[0].strip() for line in wanted]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["dependencies"] == listed[: len(project["dependencies"])]
    assert not any(line.startswith("torch==") for line in listed)
