"""The notebooks in Colab and Kaggle, on emulated machines: with Drive, without it, after a machine was lost, offline.

Outputs are not compared, because another IPython prints them. The set-up cell installs for real, which needs a network.

With Drive, each notebook has photos, as a reader in Colab has: they come over HTTP from an archive in the real layout,
made of drawn images, stored as JPEG, with the real one's troubles. COURSE_TEST_ARCHIVE=FILE.zip serves another one, for
instance the real one.
"""

import io
import os
import re
import shutil
import tomllib
import zipfile
from pathlib import Path

import maintain
import nbformat
import pytest
from archive_server import serve
from nbclient.exceptions import CellExecutionError, DeadKernelError
from PIL import Image

from colab.machine import ROOT, Machine, NotPossibleHere, can_be_emulated, make_environment, site_packages, snapshot
from course_utils.data import find_images

PER_CLASS = 500  # what the notebooks ask for
PATHS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ASKING_FOR_DRIVE = [path for path in PATHS if re.search(r"(drive|kept)_dir\(\)", path.read_text(encoding="utf-8"))]
FOUND = """
import IPython, ipykernel, sys
from importlib import metadata, util
installed = {distribution.name.replace("-", "_") for distribution in metadata.distributions()}
print(IPython.__version__, ipykernel.__version__, "google.colab" in sys.modules)
print("course_utils" in installed, util.find_spec("course_utils"))
"""
LEFT = """
import course_utils, os
print(course_utils.__file__, os.getcwd(), os.path.exists("/content/drive/MyDrive"))
"""

pytestmark = pytest.mark.skipif(not can_be_emulated(), reason="a machine of its own needs Linux and `unshare --mount`")


@pytest.fixture(scope="session")
def new_machine(tmp_path_factory):
    """Make a machine; see `Machine` for its options."""
    folder = tmp_path_factory.mktemp("colab")
    try:
        environment, repository = make_environment(folder), snapshot(folder)
    except NotPossibleHere as reason:
        pytest.skip(str(reason))
    address = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["urls"]["Repository"]

    def make(folder, drive=None, **options):
        return Machine(folder, environment, address, repository, drive, **options)

    return make


@pytest.fixture
def drive(tmp_path):
    """The reader's Drive, which outlives the machines."""
    (tmp_path / "drive" / "MyDrive").mkdir(parents=True)
    return tmp_path / "drive"


def drawn_archive(folder):
    path = folder / "cats_and_dogs.zip"
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


@pytest.fixture(scope="session")
def photos(tmp_path_factory):
    """The address of a zip in the layout of kagglecatsanddogs_5340.zip."""
    path = Path(os.environ.get("COURSE_TEST_ARCHIVE") or drawn_archive(tmp_path_factory.mktemp("archive")))
    with serve(path) as server:
        yield server.url


def read(path):
    """The notebook, and the names of the errors that its saved outputs show, by cell."""
    notebook = nbformat.read(path, as_version=4)
    return notebook, {cell.id: errors(cell) for cell in notebook.cells if cell.cell_type == "code"}


def errors(cell):
    return [output.ename for output in cell.outputs if output.output_type == "error"]


def code(source):
    return nbformat.v4.new_code_cell(source)


def said(cell):
    return "".join(output.get("text", "") for output in cell.outputs)


def run_all(machine, path, place="/content"):
    """Run the notebook as a reader does, in the order of its cells, and look at the machine before and after."""
    in_colab = str(place == "/content")
    notebook, expected = read(path)
    own = site_packages(machine.environment)
    nbformat.write(notebook, machine.content / path.name)
    found, *cells, left = notebook.cells = [code(FOUND), *notebook.cells, code(LEFT)]
    before = {entry.name for entry in own.iterdir()}
    machine.run(notebook)

    assert said(found).split() == ["7.34.0", "6.17.1", in_colab, "False", "None"]
    new = {entry.name for entry in own.iterdir()} - before
    assert new == {"course_utils", "course_utils-0.1.0.dist-info"}, "torch and all the rest stay as they are"
    assert said(left).split() == [str(own / "course_utils" / "__init__.py"), place, "False"]
    assert {cell.id: errors(cell) for cell in cells if cell.cell_type == "code"} == expected
    return "".join(said(cell) for cell in cells if cell.cell_type == "code")


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_it_runs_to_its_end_with_drive_and_photos(path, new_machine, drive, photos, tmp_path):
    text = run_all(new_machine(tmp_path, drive, photos=photos), path)
    assert "Images: photos" in text
    kept = list(drive.glob("MyDrive/course_checkpoints/*/step_*.pt"))
    assert ("Mounted at /content/drive" in text) == bool(kept) == (path in ASKING_FOR_DRIVE)


@pytest.mark.parametrize("path", ASKING_FOR_DRIVE, ids=lambda path: path.stem)
def test_it_runs_to_its_end_when_the_reader_refuses_drive(path, new_machine, tmp_path):
    text = run_all(new_machine(tmp_path), path)
    assert text.count("files stay on this machine and are lost with it.") == 1
    assert "credential propagation was unsuccessful" in text


@pytest.mark.parametrize("path", [PATHS[0], *ASKING_FOR_DRIVE], ids=lambda path: path.stem)
def test_it_runs_to_its_end_in_kaggle(path, new_machine, tmp_path):
    machine = new_machine(tmp_path, kaggle=True)
    run_all(machine, path, "/kaggle/working")
    in_the_way = {entry.name for entry in machine.content.iterdir()} - {path.name, "saved", "course_checkpoints"}
    assert not in_the_way, "Kaggle keeps what is here, and the images are not for keeping"


def set_up(machine):
    """Run the set-up cell alone; returns what its error says, and the new names among the packages."""
    before = {entry.name for entry in site_packages(machine.environment).iterdir()}
    with pytest.raises(CellExecutionError) as failure:
        machine.run(nbformat.v4.new_notebook(cells=[code(maintain.SET_UP_CELL.read_text(encoding="utf-8"))]))
    new = {entry.name for entry in site_packages(machine.environment).iterdir()} - before
    return failure.value.evalue, new


def test_kaggle_without_internet_is_answered_in_one_sentence(new_machine, tmp_path):
    machine = new_machine(tmp_path, kaggle=True, internet=False)
    answer = "There is no network: switch it on (Settings → Turn on internet), then run this again."
    assert set_up(machine) == (answer, set())


@pytest.mark.parametrize("kaggle, latest", [(False, "runtime version (Runtime"), (True, "environment (Settings")])
def test_an_old_torch_is_answered_in_one_sentence_and_stays(kaggle, latest, new_machine, tmp_path):
    machine = new_machine(tmp_path, kaggle=kaggle)
    machine.pretend_torch("2.9.0")
    said, new = set_up(machine)
    assert said.startswith(f"PyTorch 2.9.0 is too old: choose the latest {latest}") and not new


def watched(epoch_of_death=None):
    """A cell that counts the epochs that this machine trains, and takes the machine away in the middle of one."""
    return f"""
import os, signal
import project

evaluate_quietly, epochs_here = project.evaluate, 0

def evaluate_watched(*arguments):
    global epochs_here
    epochs_here += 1
    if epochs_here == {epoch_of_death}:
        os.kill(os.getpid(), signal.SIGKILL)
    return evaluate_quietly(*arguments)

project.evaluate = evaluate_watched
"""


WEIGHTS = """
print("epochs here:", epochs_here)
for name in ("my_training", "straight"):
    print("weights:", weights_sha256(CheckpointFolder(saved / name).latest()["model_state_dict"]))
print("the same history:", history == train(saved / "straight")[1])
"""


def test_a_training_goes_on_after_its_machine_was_lost(new_machine, drive, tmp_path):
    """Notebook 04 is lost in the third epoch of its last training; on a new machine it runs to its end."""

    def run(name, epoch_of_death=None):
        notebook, _ = read(ROOT / "notebooks" / "04_interrupted_trainings.ipynb")
        last = next(index for index, cell in enumerate(notebook.cells) if 'saved / "my_training"' in cell.source)
        notebook.cells.insert(last, code(watched(epoch_of_death)))
        notebook.cells.append(code(WEIGHTS))
        new_machine(tmp_path / name, drive).run(notebook)
        return said(notebook.cells[-1]).splitlines()

    with pytest.raises(DeadKernelError):
        run("lost", epoch_of_death=3)
    shutil.rmtree(tmp_path / "lost")
    lines = run("new")
    assert "epochs here: 2" in lines, "the third and the fourth"
    assert "the same history: True" in lines
    resumed, straight = [line for line in lines if line.startswith("weights:")]
    assert resumed == straight
