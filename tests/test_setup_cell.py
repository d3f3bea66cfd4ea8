"""The set-up cell of the notebooks: installs in Colab, leaves torch alone, says what to do when it cannot."""

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import SimpleNamespace

import nbformat
import pytest

NOTEBOOK = Path(__file__).resolve().parent.parent / "notebooks" / "01_saving_models.ipynb"


@pytest.fixture
def run_cell(monkeypatch):
    """Run the cell with a pip that answers `returncode`; returns the pip commands."""
    source = nbformat.read(NOTEBOOK, as_version=4).cells[2].source

    def run(returncode=0):
        commands = []

        def pip(command, **_):
            commands.append(command)
            return SimpleNamespace(returncode=returncode)

        monkeypatch.setattr(subprocess, "run", pip)
        exec(source, {})
        return commands

    return run


def test_outside_colab_it_does_nothing(run_cell):
    assert run_cell() == []


def test_in_colab_it_installs_the_package_and_pins_torch_to_what_is_there(run_cell, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace())
    [command] = run_cell()
    assert command[:4] == [sys.executable, "-m", "pip", "install"]
    assert {f"torch=={version('torch')}", f"torchvision=={version('torchvision')}"} < set(command)
    assert any(argument.startswith("git+https://github.com/") for argument in command)
    assert not {"-e", "--editable", "-U", "--upgrade"} & set(command)


def test_when_the_install_fails_it_says_what_to_look_at(run_cell, monkeypatch):
    monkeypatch.setitem(sys.modules, "google.colab", SimpleNamespace())
    with pytest.raises(RuntimeError, match="Is the network on, and is the address right"):
        run_cell(returncode=1)
