"""A machine as Colab or Kaggle lends it, emulated: Colab's IPython, a folder with one notebook, nothing of ours.

In Colab that folder is /content, and `google.colab` is there; in Kaggle it is /kaggle/working, and there is a variable.

A `Machine` has a Python environment of its own, and a root folder of its own (own_root.sh). Torch and the other
packages are those of the running tests, without `course_utils`: only the notebook's set-up cell brings that in, with
the real pip, from the address on GitHub, where git finds a snapshot of the working tree.
"""

import os
import re
import shutil
import subprocess
import sys
import venv
from pathlib import Path

from jupyter_client import AsyncKernelManager
from nbclient import NotebookClient

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
COLAB_HAS = ["ipython==7.34.0", "ipykernel==6.17.1", "ipywidgets==7.7.1"]
OURS = re.compile("course_utils|__editable__")  # how the package, installed for the tests, shows among the others
OWN_ROOT = ["unshare", "--map-root-user", "--mount", "sh", str(HERE / "own_root.sh")]


class NotPossibleHere(Exception):
    """This computer cannot emulate a machine; the message says why."""


def can_be_emulated() -> bool:
    """May we mount a folder for one process alone? On Linux, and where neither container nor AppArmor forbids it."""
    mount = [*OWN_ROOT[:3], "mount", "-t", "tmpfs", "trial", "/tmp"]
    return bool(shutil.which("unshare")) and not subprocess.run(mount, capture_output=True).returncode


def make_environment(folder: Path) -> Path:
    """A new environment: Colab's IPython in front of all packages of the running one, except ours.

    Raises NotPossibleHere when pip reaches no package index.
    """
    packages = folder / "packages"
    packages.mkdir()
    for place in map(Path, sys.path):
        if place.name in ("site-packages", "dist-packages"):
            for entry in place.iterdir():
                if not OURS.search(entry.name) and not os.path.lexists(packages / entry.name):
                    (packages / entry.name).symlink_to(entry)
    environment = folder / "environment"
    venv.create(environment, symlinks=True)  # pip is among the packages
    (site_packages(environment) / "packages.pth").write_text(str(packages))
    pip = [environment / "bin" / "python", "-m", "pip", "install", "--quiet", "--retries", "1", *COLAB_HAS]
    done = subprocess.run(pip, env=clean_environ(), capture_output=True, text=True)
    if "connection broken" in done.stderr:
        raise NotPossibleHere("pip reaches no package index, and the set-up cell needs one")
    if done.returncode:
        raise RuntimeError(done.stderr)
    shutil.copytree(HERE / "stand_in", site_packages(environment), dirs_exist_ok=True)
    return environment


def site_packages(environment: Path) -> Path:
    [found] = environment.glob("lib/python3*/site-packages")
    return found


def clean_environ() -> dict[str, str]:
    """The environment variables without those that would show the tests, or the maintainer's settings, to a machine."""
    ours = ("COURSE_", "GIT_", "IPYTHON", "JUPYTER", "MPL", "PYTEST", "PYTHON", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def snapshot(folder: Path) -> Path:
    """A git repository with one commit: the working tree as it is now, without the files that git ignores."""
    repository = folder / "repository.git"
    git = ["git", "--git-dir", str(repository), "-c", "user.name=tests", "-c", "user.email=tests@localhost"]
    subprocess.run(["git", "init", "--quiet", "--bare", str(repository)], env=clean_environ(), check=True)
    for command in (["add", "--all"], ["commit", "--quiet", "--message", "the working tree"]):
        subprocess.run([*git, "--work-tree", str(ROOT), *command], cwd=ROOT, env=clean_environ(), check=True)
    return repository


class Machine:
    """An empty machine. `content` is what a notebook sees as /content, in Kaggle as /kaggle/working.

    repository: what git finds at `address`, the one of the set-up cell.
    drive: the folder that plays the reader's Drive; None: the reader says no when Colab asks for it.
    photos: the address of their archive; without it, its images are drawn.
    kaggle: it is one of Kaggle. internet: False: it has no network.
    """

    def __init__(
        self,
        folder: Path,
        environment: Path,
        address: str,
        repository: Path,
        drive: Path | None = None,
        photos: str | None = None,
        kaggle: bool = False,
        internet: bool = True,
    ):
        self.environment = folder / "environment"
        self.content = folder / "content"
        self.sockets = str(folder / "ipc")
        startup = folder / "ipython/profile_default/startup"
        for empty in (self.content, folder / "root", startup):
            empty.mkdir(parents=True)
        shutil.copytree(environment, self.environment, symlinks=True, copy_function=os.link)  # pip changes no old file
        images = {"COURSE_ARCHIVE_URL": photos} if photos else {"COURSE_DATA": "drawn"}
        self.environ = {**clean_environ(), **images, "IPYTHONDIR": str(folder / "ipython")}
        if kaggle:
            shutil.rmtree(site_packages(self.environment) / "google" / "colab")
            self.environ |= {
                "KAGGLE_KERNEL_RUN_TYPE": "Interactive",
                "COLAB_RELEASE_TAG": "its image is made from Colab's",
            }
        else:
            (startup / "colab.py").write_text("import google.colab\n")
        if drive:
            self.environ["COLAB_DRIVE"] = str(drive)
        if internet:
            self.environ |= {
                "GIT_CONFIG_COUNT": "1",
                "GIT_CONFIG_KEY_0": f"url.{repository.as_uri()}.insteadOf",
                "GIT_CONFIG_VALUE_0": address,
            }
        alone = OWN_ROOT if internet else [OWN_ROOT[0], "--net", *OWN_ROOT[1:]]
        place = "/kaggle/working" if kaggle else "/content"
        python = str(self.environment / "bin" / "python")
        self.command = [*alone, str(folder / "root"), str(self.content), place, python]

    def pretend_torch(self, version: str) -> None:
        """Let pip and the notebook find this version of torch installed. What is imported stays as it is."""
        info = site_packages(self.environment) / f"torch-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n")

    def run(self, notebook) -> None:
        """Run all cells in a new kernel. Raises CellExecutionError, and DeadKernelError when the kernel dies."""
        kernel = AsyncKernelManager(transport="ipc", ip=self.sockets)  # files, which a machine without network has too
        kernel.kernel_spec.argv = [*self.command, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
        NotebookClient(notebook, km=kernel, timeout=300).execute(env=self.environ, cleanup_kc=True)
