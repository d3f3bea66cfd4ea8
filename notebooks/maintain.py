"""What a maintainer does to the notebooks: run them and save their outputs, point their links at a fork, count.

python notebooks/maintain.py run [NOTEBOOK.ipynb …]     all of them by default; use `make notebooks`
python notebooks/maintain.py badges OWNER/NAME          use `make badges REPO=owner/name`
python notebooks/maintain.py openings                   write the badges and the set-up cell into every notebook
python notebooks/maintain.py practice                   write the practice notebooks from their exercises, run
python notebooks/maintain.py figure                     copy the figure of the README out of its notebook
python notebooks/maintain.py times [NOTEBOOK.ipynb …]   how long they take to read, and how much of what they print is
                                                        a bare True or False
"""

import base64
import math
import re
import sys
import time
from pathlib import Path

NOTEBOOKS = Path(__file__).resolve().parent
ROOT = NOTEBOOKS.parent
PRACTICE = NOTEBOOKS / "practice"
FIGURE = ROOT / "docs" / "resumed.png"
SET_UP_CELL = NOTEBOOKS / "set_up_cell.py"  # the same one is in every notebook
# Where the repository's address stands: a badge, the set-up cell, pyproject.toml, and that of its site in the README.
SITE = re.compile(r"https://[\w-]+\.github\.io/[\w.-]+/")
LINK = re.compile(
    r"(colab\.research\.google\.com/github/|kaggle\.com/kernels/welcome\?src=https://github\.com/"
    r'|git\+https://github\.com/|Repository = "https://github\.com/)'
    r"([\w.-]+/[\w.-]+)"
)

METADATA = {
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def files_with_links() -> list[Path]:
    """Every file that names the repository's address."""
    notebooks = [*sorted(NOTEBOOKS.glob("*.ipynb")), *sorted(PRACTICE.glob("*.ipynb"))]
    return [ROOT / "pyproject.toml", ROOT / "README.md", SET_UP_CELL, *notebooks]


def badges(name: str) -> str:
    """The links that open NAME.ipynb in Colab and in Kaggle, as Markdown."""
    repository = re.search(r'Repository = "https://github\.com/([^"]+)"', (ROOT / "pyproject.toml").read_text("utf-8"))[
        1
    ]
    file = f"{repository}/blob/main/notebooks/{name}.ipynb"
    colab = (
        f"https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/{file}"
    )
    kaggle = f"https://kaggle.com/static/images/open-in-kaggle.svg)](https://kaggle.com/kernels/welcome?src=https://github.com/{file}"
    return f"[![Open in Colab]({colab}) [![Open in Kaggle]({kaggle})"


def site_of(repository: str) -> str:
    """Where GitHub Pages serves the site of OWNER/NAME."""
    owner, name = repository.split("/")
    return f"https://{owner.lower()}.github.io/{name}/"


def write_openings() -> None:
    """Write what opens every notebook alike: the badges below its title, and the set-up cell, its first code cell."""
    import nbformat

    for path in sorted(NOTEBOOKS.glob("*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        title, *rest = notebook.cells[0].source.split("\n\n")
        rest = [part for part in rest if not part.startswith("[![Open in")]
        notebook.cells[0].source = "\n\n".join([title, badges(path.stem), *rest])
        set_up = next(cell for cell in notebook.cells if cell.cell_type == "code")
        if not set_up.source.startswith("# @title "):
            sys.exit(
                f"The first code cell of {path.name} is no set-up cell: insert an empty one with the line # @title ."
            )
        set_up.source = SET_UP_CELL.read_text(encoding="utf-8").strip()
        nbformat.write(notebook, path)


def point_links_at(repository: str) -> None:
    """Write OWNER/NAME into every link. Raises SystemExit when it is not of that form."""
    repository = repository.removesuffix(".git")
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        sys.exit(f"The repository is {repository!r}; write it as owner/name: make badges REPO=owner/name")
    for path in files_with_links():
        text = path.read_text(encoding="utf-8")
        text = SITE.sub(site_of(repository), LINK.sub(rf"\g<1>{repository}", text))
        path.write_text(text, encoding="utf-8")
    print(f"All links point at github.com/{repository} now.")


def minutes_to_read(cells: list) -> int:
    """100 words of text or 12 lines of code a minute, and 2 minutes for each *Try it*. The set-up cell is hidden."""
    text = "\n".join(cell.source for cell in cells if cell.cell_type == "markdown")
    shown = [cell.source for cell in cells if cell.cell_type == "code" and not cell.source.startswith("# @title")]
    lines = sum(bool(line.strip()) for line in "\n".join(shown).splitlines())
    return math.ceil(len(text.split()) / 100 + lines / 12 + 2 * text.count("**Try it**"))


def minutes_said(cells: list) -> int | None:
    """The minutes to read in the line *Time*; None when there is no such line."""
    said = re.search(r"\*\*Time\*\*\D*(\d+) minutes", "\n".join(cell.source for cell in cells))
    return int(said[1]) if said else None


def printed_lines(cells: list) -> list[str]:
    """All lines that the cells print, and the lines of their results, without figures and progress bars."""
    outputs = [output for cell in cells for output in cell.get("outputs", [])]
    text = [output.text for output in outputs if output.get("name") == "stdout"]
    text += [
        output.data["text/plain"]
        for output in outputs
        if output.output_type == "execute_result" and output.data.keys() <= {"text/plain", "text/html"}
    ]
    return [line for line in "\n".join(text).splitlines() if line.strip()]


def is_verdict(line: str) -> bool:
    """Does the line end with True or False, as in "the same bits: True", or hold nothing else, as in (True, False)?"""
    return bool(re.search(r"(^|[\s=])(True|False)[.!]?$", line.strip())) or not re.sub(r"True|False|\W", "", line)


def readme_figure() -> tuple[bytes, str]:
    """The figure that README and site open with, as lesson 3 saved it: a PNG, and what it says."""
    import nbformat

    cells = nbformat.read(NOTEBOOKS / "03_checkpoints.ipynb", as_version=4).cells
    outputs = [output for cell in cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})]
    return base64.b64decode(outputs[-1].data["image/png"]), outputs[-1].metadata["image/png"]["alt"]


def print_times(paths: list[Path]) -> None:
    """A line for each notebook, and one for all of them."""
    import nbformat

    print(f"{'notebook':30} minutes (said)  printed lines  True or False  share")
    all_printed = []
    for path in paths:
        cells = nbformat.read(path, as_version=4).cells
        printed = printed_lines(cells)
        all_printed += printed
        print(f"{path.stem:30} {minutes_to_read(cells):7} {f'({minutes_said(cells)})':6}", end="")
        print(_share_of_verdicts(printed))
    print(f"{'all (at most 0.125)':44}", _share_of_verdicts(all_printed), sep="")


def _share_of_verdicts(printed: list[str]) -> str:
    verdicts = sum(map(is_verdict, printed))
    return f"{len(printed):15} {verdicts:14} {verdicts / max(1, len(printed)):6.3f}"


def run(path: Path) -> None:
    """Run a notebook in its own folder and save it with its outputs, without what differs from machine to machine."""
    import nbformat
    from nbclient import NotebookClient

    notebook, start = nbformat.read(path, as_version=4), time.perf_counter()
    options = {"timeout": 300, "record_timing": False, "coalesce_streams": True}
    options["resources"] = {"metadata": {"path": path.parent}}
    options["extra_arguments"] = [f"--IPKernelApp.exec_files={NOTEBOOKS / 'alt_texts.py'}"]
    NotebookClient(notebook, **options).execute()
    seconds = time.perf_counter() - start
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":  # a traceback shows this machine's folders; its last line says it all
                output.traceback = [f"{output.ename}: {output.evalue}"]
    notebook.metadata = METADATA
    nbformat.write(notebook, path)
    print(f"{path.name} ran in {seconds:.0f} s")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["run", *paths]:
            for path in map(Path, paths) if paths else sorted(NOTEBOOKS.glob("*.ipynb")):
                run(path.resolve())
        case ["badges", repository]:
            point_links_at(repository)
        case ["openings"]:
            write_openings()
        case ["practice"]:
            from practice_notebooks import written

            for path in written(PRACTICE):
                run(path)
        case ["figure"]:
            FIGURE.write_bytes(readme_figure()[0])
        case ["times", *paths]:
            print_times([*map(Path, paths)] or sorted(NOTEBOOKS.glob("*.ipynb")))
        case _:
            sys.exit(__doc__)
