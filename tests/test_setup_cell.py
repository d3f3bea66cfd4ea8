"""The set-up cell of the notebooks: installs in Colab and Kaggle, leaves torch alone, says what to do if it cannot."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import maintain
import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCE = maintain.SET_UP_CELL.read_text(encoding="utf-8")
CLONE = "× git clone --filter=blob:none --quiet https://github.com/your_name/save-load-freeze /tmp/x did not run"
UNABLE = f"{CLONE}\nfatal: unable to access 'https://github.com/your_name/save-load-freeze/': "
RETRY = (
    "WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, status=None)) after connection broken by"
)
CONFLICT = (
    "ERROR: Cannot install course-utils==0.1.0 and torch==2.9.0 because these package versions have conflicting "
    "dependencies.\nERROR: ResolutionImpossible: for help visit https://pip.pypa.io/…"
)
OLD_PYTHON = "ERROR: Package 'course-utils' requires a different Python: 3.10.12 not in '>=3.11'"


@pytest.fixture
def run_cell(monkeypatch):
    """Run the cell with a pip that answers `returncode` and says `stderr`; returns the pip commands."""

    def run(returncode=0, stderr=""):
        commands = []

        def pip(command, **_):
            commands.append(command)
            return SimpleNamespace(returncode=returncode, stderr=stderr)

        monkeypatch.setattr(subprocess, "run", pip)
        exec(SOURCE, {})
        return commands

    return run


@pytest.fixture
def colab(monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace())


@pytest.fixture
def kaggle(monkeypatch):
    monkeypatch.setenv("KAGGLE_KERNEL_RUN_TYPE", "Interactive")


def test_elsewhere_it_installs_nothing_and_says_nothing(run_cell, capsys):
    assert run_cell() == []
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize("place", ["colab", "kaggle"])
def test_in_colab_and_kaggle_it_installs_the_package_and_pins_torch_to_what_is_there(place, request, run_cell, capsys):
    request.getfixturevalue(place)
    [command] = run_cell()
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert {f"torch=={version('torch')}", f"torchvision=={version('torchvision')}"} < set(command)
    assert any(argument.startswith("git+https://github.com/") for argument in command)
    assert not {"-e", "--editable", "-U", "--upgrade"} & set(command)
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    "stderr, answer",  # what pip 23.2 and git 2.39 said when each was provoked
    [
        (CONFLICT, r"PyTorch [\d.+a-z]+ is too old: choose the latest runtime version \(Runtime → "),
        (OLD_PYTHON, r"is too old: choose the latest runtime version"),
        ("ERROR: Cannot find command 'git' - do you have 'git' installed and in your PATH?", "Git is missing"),
        (f"{UNABLE}Could not resolve host: github.com", "There is no network"),
        (f"{UNABLE}Failed to connect to github.com port 443 after 2 ms: Couldn't connect to server", "no network"),
        (f"{RETRY} 'NewConnectionError('<…>: [Errno -3] Temporary failure in name resolution')'", "no network"),
        (f"{UNABLE}Failed to connect to 127.0.0.1 port 9 after 0 ms: Couldn't connect to server", "The proxy refuses"),
        (f"{UNABLE}CONNECT tunnel failed, response 407", "The proxy refuses"),
        (f"{UNABLE}Could not resolve proxy: no.such.proxy", "The proxy refuses"),
        (f"{RETRY} 'ProxyError('Cannot connect to proxy.', NewConnectionError('…'))'", "The proxy refuses"),
        (f"{CLONE}\nfatal: write error: No space left on device", "The disk is full"),
        (f"{CLONE}\nerror: unable to write file tests/test_data.py\nfatal: unable to checkout", "The disk is full"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "The disk is full"),
        (f"{CLONE}\nfatal: could not read Username for 'https://github.com': No such device", r"Nothing is at git\+"),
        (f"{CLONE}\nfatal: repository 'https://github.com/your_name/…/' not found", r"Nothing is at git\+"),
    ],
)
def test_in_colab_each_failure_has_its_answer(run_cell, colab, stderr, answer):
    with pytest.raises(RuntimeError, match=answer) as failure:
        run_cell(1, stderr)
    assert "\n" not in str(failure.value) and str(failure.value).endswith(" this again.")


@pytest.mark.parametrize(
    "stderr, answer",
    [
        (
            f"{UNABLE}Could not resolve host: github.com",
            "There is no network: switch it on (Settings → Turn on internet)",
        ),
        (CONFLICT, "choose the latest environment (Settings → Environment)"),
    ],
)
def test_in_kaggle_the_answer_names_its_settings(run_cell, kaggle, stderr, answer):
    with pytest.raises(RuntimeError) as failure:
        run_cell(1, stderr)
    assert str(failure.value).endswith(f"{answer}, then run this again.")


def test_in_colab_another_failure_shows_what_pip_said(run_cell, colab):
    with pytest.raises(RuntimeError, match="^ERROR: a wheel is broken$"):
        run_cell(1, "ERROR: a wheel is broken")


@pytest.mark.parametrize("at_hand, missing", [("", "course_utils"), (str(ROOT), "torch")])
def test_elsewhere_a_kernel_without_the_packages_is_given_the_line_that_installs_them(at_hand, missing):
    bare = [sys.executable, "-S", "-c", SOURCE]  # -S: a Python without installed packages
    run = subprocess.run(bare, env={**os.environ, "PYTHONPATH": at_hand}, cwd="/", capture_output=True, text=True)
    assert run.returncode == 1
    last = run.stderr.strip().splitlines()[-1]
    assert last.startswith(f"RuntimeError: No module named '{missing}': run `%pip install git+https://github.com/")
    assert "`make lab`" in last
