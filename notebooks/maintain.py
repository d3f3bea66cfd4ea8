"""What a maintainer does to the notebooks: run them and save their outputs, point their links at a fork.

python notebooks/maintain.py run [NOTEBOOK.ipynb …]     all of them by default; use `make notebooks`
python notebooks/maintain.py badges OWNER/NAME          use `make badges REPO=owner/name`
"""

import re
import sys
import time
from pathlib import Path

NOTEBOOKS = Path(__file__).resolve().parent
ROOT = NOTEBOOKS.parent
# Where the repository's address stands: a badge, the set-up cell, pyproject.toml.
LINK = re.compile(
    r'(colab\.research\.google\.com/github/|git\+https://github\.com/|Repository = "https://github\.com/)'
    r"([\w.-]+/[\w.-]+)"
)


def files_with_links() -> list[Path]:
    """Every file that names the repository's address."""
    return [ROOT / "pyproject.toml", ROOT / "README.md", *sorted(NOTEBOOKS.glob("*.ipynb"))]


def point_links_at(repository: str) -> None:
    """Write OWNER/NAME into every link. Raises SystemExit when it is not of that form."""
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", repository):
        sys.exit(f"The repository is {repository!r}; write it as owner/name: make badges REPO=owner/name")
    for path in files_with_links():
        text = path.read_text(encoding="utf-8")
        path.write_text(LINK.sub(rf"\g<1>{repository}", text), encoding="utf-8")
    print(f"All links point at github.com/{repository} now.")


def run(path: Path) -> None:
    """Run a notebook in its own folder and save it with its outputs, without what differs from machine to machine."""
    import nbformat
    from nbclient import NotebookClient

    notebook, start = nbformat.read(path, as_version=4), time.perf_counter()
    folder = {"metadata": {"path": path.parent}}
    NotebookClient(notebook, timeout=300, record_timing=False, coalesce_streams=True, resources=folder).execute()
    seconds = time.perf_counter() - start
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            if output.output_type == "error":  # a traceback shows this machine's folders; its last line says it all
                output.traceback = [f"{output.ename}: {output.evalue}"]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }
    nbformat.write(notebook, path)
    print(f"{path.name} ran in {seconds:.0f} s")


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["run", *paths]:
            for path in map(Path, paths) if paths else sorted(NOTEBOOKS.glob("*.ipynb")):
                run(path.resolve())
        case ["badges", repository]:
            point_links_at(repository)
        case _:
            sys.exit(__doc__)
