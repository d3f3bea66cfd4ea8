"""What a person sees when `make lab` cannot make the environment: a last line that says what to do."""

import ast
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import make_environment

ROOT = Path(__file__).resolve().parent.parent
SCRIPT = ROOT / "make_environment.py"
RETRY = (
    "WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, status=None)) after connection broken by"
)
NOTHING_FOUND = """
ERROR: Could not find a version that satisfies the requirement setuptools>=77 (from versions: none)
ERROR: No matching distribution found for setuptools>=77"""
DEBIAN = """The virtual environment was not created successfully because ensurepip is not
available.  On Debian/Ubuntu systems, you need to install the python3-venv
package using the following command.

    apt install python3.11-venv
"""


@pytest.mark.parametrize(
    "said, answer",  # what venv, pip 23.2 and uv 0.13 said when each was provoked
    [
        (DEBIAN, "sudo apt install python3"),
        ("/usr/bin/python3: No module named venv", "sudo apt install python3"),
        ("ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device", "The disk is full"),
        (
            f"{RETRY} 'NewConnectionError('<…>: Failed to establish a new connection: [Errno 111] Connection "
            f"refused')': /simple/setuptools/{NOTHING_FOUND}",
            "The package index does not answer",
        ),
        (
            f"{RETRY} 'ProxyError('Cannot connect to proxy.', NewConnectionError('<…>: Failed to establish a new "
            f"connection: [Errno 111] Connection refused'))': /simple/setuptools/{NOTHING_FOUND}",
            "The proxy lets nothing through",
        ),
        (
            f"{RETRY} 'ProxyError('Cannot connect to proxy.', OSError('Tunnel connection failed: 407 Proxy "
            f"Authentication Required'))': /simple/setuptools/{NOTHING_FOUND}",
            "The proxy lets nothing through",
        ),
        (NOTHING_FOUND, "There is no such package for Python"),
        ("Error: [Errno 30] Read-only file system: '/x/venv'", "cannot be written to"),
        ("error: failed to write to file\n  cause: No space left on device (os error 28)", "The disk is full"),
        ("error: failed to create directory\n  cause: Permission denied (os error 13)", "cannot be written to"),
        ("ERROR: something that nobody has met yet", "look above for the first line with ERROR"),
    ],
)
def test_what_venv_pip_and_uv_say_has_an_answer_in_one_line(said, answer, tmp_path):
    sentence = make_environment.answer(said, str(tmp_path))
    assert answer in sentence and sentence.endswith("then run this again.") and "\n" not in sentence


def test_a_full_disk_is_seen_even_where_venv_hides_it(monkeypatch, tmp_path):
    said = "Error: Command '['venv/bin/python3', '-m', 'ensurepip']' returned non-zero exit status 1."
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=0))
    assert "The disk is full" in make_environment.answer(said, str(tmp_path))


def test_a_failing_command_is_shown_and_then_answered(tmp_path, capfd):
    fails = [sys.executable, "-c", "import sys; print('OSError: [Errno 28] No space left on device'); sys.exit(2)"]
    with pytest.raises(SystemExit, match="The disk is full"):
        make_environment.run(str(tmp_path), *fails)
    assert "Errno 28" in capfd.readouterr().err


@pytest.mark.skipif(os.name == "nt", reason="Windows has no SIGKILL")
def test_an_install_that_is_killed_from_outside_is_named_so(tmp_path):
    with pytest.raises(SystemExit, match="by signal 9, perhaps for want of memory"):
        make_environment.run(str(tmp_path), "sh", "-c", "kill -9 $$")


def test_an_old_python_reads_far_enough_to_say_that_it_is_too_old(monkeypatch, tmp_path):
    ast.parse(SCRIPT.read_text(encoding="utf-8"), feature_version=(3, 6))
    monkeypatch.setattr(sys, "version_info", (3, 10, 13))
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), str(tmp_path)])
    with pytest.raises(SystemExit, match=r"Python 3.11 or newer is needed, and this is 3.10: install one"):
        runpy.run_path(str(SCRIPT), run_name="__main__")


UV_OFFLINE = "error: Request failed after 3 retries in 11.3s\n  cause: Connection refused (os error 111)"
UV_CERTIFICATE = "error: Failed to fetch: https://pypi.org/simple/\n  cause: invalid peer certificate: UnknownIssuer"
UV_DISK = "error: failed to write to file\n  cause: No space left on device (os error 28)"
NO_UV = "ERROR: No matching distribution found for uv"


@pytest.mark.parametrize(
    "by_pip, by_uv, then",
    [
        ([None], [None], None),
        ([NO_UV, None], [], None),
        ([f"{RETRY} 'NewConnectionError'\n{NO_UV}"], [], "The package index does not answer"),
        ([None, None], [UV_CERTIFICATE], None),
        ([None, "SSLError"], [UV_CERTIFICATE], "The certificate of the package index is not trusted"),
        ([None, f"{RETRY} 'NewConnectionError'"], [UV_OFFLINE], "The package index does not answer"),
        ([None, f"{RETRY} 'ProxyError'"], [UV_OFFLINE], "The proxy lets nothing through"),
        ([None], [UV_DISK], "The disk is full"),
    ],
)
def test_where_uv_cannot_be_had_or_fails_pip_does_it_and_says_what_is_wrong(monkeypatch, tmp_path, by_pip, by_uv, then):
    def fails(*command, environment=None):
        return (by_uv if "--python" in command else by_pip).pop(0)

    monkeypatch.setattr(make_environment, "fails", fails)
    if then:
        with pytest.raises(SystemExit, match=then):
            make_environment.install(str(tmp_path), sys.executable, "numpy")
    else:
        make_environment.install(str(tmp_path), sys.executable, "numpy")
    assert by_pip == by_uv == [], "something was not tried"


def test_uv_asks_whom_pip_would_ask(monkeypatch, tmp_path):
    (tmp_path / "pip.conf").write_text(
        "[global]\nindex-url = https://one/simple\nextra-index-url =\n    https://two\n    https://three\n"
        "find-links = /a /b\n[install]\nconstraint = /caps.txt\n"
    )
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", str(tmp_path / "pip.conf"))
    monkeypatch.setenv("PIP_FIND_LINKS", "/c /d")
    monkeypatch.setenv("PIP_CERT", "/school.pem")
    found = make_environment.settings_for_uv(sys.executable)
    assert found["UV_INDEX"] == "https://two https://three" and found["UV_FIND_LINKS"] == "/c,/d"
    assert found["UV_DEFAULT_INDEX"] == "https://one/simple" and found["SSL_CERT_FILE"] == "/school.pem"
    assert found["UV_CONSTRAINT"] == "/caps.txt"


@pytest.fixture
def make(monkeypatch, tmp_path):
    """Make an environment in `tmp_path`/venv with stand-ins for venv and pip; returns the commands."""
    folder = tmp_path / "venv"

    def make(die_at=None, works=True):
        commands = []

        def fails(*command, environment=None):
            commands.append(command)
            if "venv" in command:
                folder.mkdir(exist_ok=True)
                if "--clear" in command:
                    shutil.rmtree(folder)
                    folder.mkdir()
                (folder / "pyvenv.cfg").touch()
            if die_at and die_at in command:
                raise InterruptedError("killed")

        with monkeypatch.context() as patched:
            patched.setattr(make_environment, "fails", fails)
            patched.setattr(make_environment, "settings_for_uv", lambda _: {})
            patched.setattr(make_environment, "works", lambda _: works)
            make_environment.main(str(folder), floors=False)
        return commands

    make.folder = folder
    return make


def cleared(commands):
    return any("--clear" in command for command in commands)


@pytest.mark.parametrize("die_at", ["venv", "pip", "--python"])
def test_an_interrupted_environment_is_not_believed_in_but_made_anew(make, die_at):
    with pytest.raises(InterruptedError):
        make(die_at)
    assert not (make.folder / "ready").exists()
    (make.folder / "half_a_package").touch()
    assert cleared(make())
    assert (make.folder / "ready").exists() and not (make.folder / "half_a_package").exists()


def test_an_environment_that_is_ready_is_updated_in_place(make):
    assert not cleared(make())
    assert not cleared(make())
    assert sorted(path.name for path in make.folder.iterdir()) == ["pyvenv.cfg", "ready"]


def test_an_interrupted_update_is_made_anew_too(make):
    make()
    with pytest.raises(InterruptedError):
        make("pip")
    assert cleared(make())


def test_an_environment_that_moved_is_made_anew(make):
    make()
    assert cleared(make(works=False))
    assert not make_environment.works(str(make.folder / "bin" / "python")), "there is none"
    assert make_environment.works(sys.executable)


def test_an_environment_that_somebody_else_made_is_never_cleared(make):
    make.folder.mkdir()
    for name in ("pyvenv.cfg", "a_package_of_theirs"):
        (make.folder / name).touch()
    with pytest.raises(InterruptedError):
        make("pip")
    make()
    assert (make.folder / "a_package_of_theirs").exists()


def test_a_folder_of_other_files_is_left_alone(make):
    make.folder.mkdir()
    (make.folder / "thesis.txt").touch()
    with pytest.raises(SystemExit, match="holds other files and no environment: choose another folder"):
        make()
    assert [path.name for path in make.folder.iterdir()] == ["thesis.txt"]


def test_the_floors_are_the_oldest_versions_that_requirements_txt_allows(monkeypatch, tmp_path):
    monkeypatch.setattr(make_environment, "fails", lambda *_, **__: None)
    monkeypatch.setattr(make_environment, "settings_for_uv", lambda _: {})
    monkeypatch.chdir(ROOT)
    make_environment.main(str(tmp_path / "venv"), floors=True)
    floors = (tmp_path / "venv" / "floors.txt").read_text(encoding="utf-8")
    assert "torch==2.10 " in floors and ">=" not in floors


def words_of_make(*arguments, **environment):
    """The lines of a failing make that are not its own."""
    command = ["make", "-C", str(ROOT), *arguments]
    run = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True)
    assert run.returncode
    return [line for line in run.stderr.splitlines() if not line.startswith("make")]


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_lab_without_python_says_so(tmp_path):
    [line] = words_of_make("lab", f"VENV={tmp_path}/venv", "PYTHON=no-such-python")
    assert line.startswith("There is no no-such-python: install Python 3.11 or newer")


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_lab_offline_says_so_whatever_pip_says_before(tmp_path):
    offline = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull, "PIP_RETRIES": "1"}
    lines = words_of_make("lab", f"VENV={tmp_path}/venv", f"PYTHON={sys.executable}", **offline, PIP_FIND_LINKS="")
    assert lines[-1].startswith("The package index does not answer: connect to the network")
