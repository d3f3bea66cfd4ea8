"""Every notebook runs to its end on photos that come over HTTP from an archive in the real layout.

Outputs are not compared: other images give other numbers. The archive is made of drawn images, stored as JPEG, with
the real one's troubles; COURSE_TEST_ARCHIVE=FILE.zip serves another one, for instance the real one.
"""

import io
import os
import zipfile
from pathlib import Path

import nbformat
import pytest
from archive_server import serve
from nbclient import NotebookClient

from course_utils.data import find_images

NOTEBOOKS = Path(__file__).resolve().parent.parent / "notebooks"
PER_CLASS = 500  # what the notebooks ask for


@pytest.fixture(scope="session")
def archive(tmp_path_factory):
    """A zip in the layout of kagglecatsanddogs_5340.zip."""
    if os.environ.get("COURSE_TEST_ARCHIVE"):
        return Path(os.environ["COURSE_TEST_ARCHIVE"])
    from PIL import Image

    path = tmp_path_factory.mktemp("archive") / "cats_and_dogs.zip"
    with zipfile.ZipFile(path, "w") as target:
        for file in find_images(PER_CLASS, source="drawn"):
            jpeg = io.BytesIO()
            with Image.open(file) as image:
                image.save(jpeg, format="JPEG")
            target.writestr(f"PetImages/{file.parent.name}/{file.stem}.jpg", jpeg.getvalue())
        for name in ("Cat", "Dog"):
            target.writestr(f"PetImages/{name}/666666.jpg", b"")
            target.writestr(f"PetImages/{name}/Thumbs.db", b"not an image")
    return path


@pytest.mark.parametrize("path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda path: path.stem)
def test_it_runs_to_its_end_on_photos(path, archive, monkeypatch, tmp_path):
    notebook = nbformat.read(path, as_version=4)
    with serve(archive) as server:
        monkeypatch.setenv("COURSE_DATA", "photos")
        monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path / "data"))
        monkeypatch.setenv("COURSE_ARCHIVE_URL", server.url)
        NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
    text = "".join(output.get("text", "") for cell in notebook.cells for output in cell.get("outputs", []))
    assert "Images: photos" in text
