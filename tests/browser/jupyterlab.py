"""JupyterLab as `make lab` starts it, in a real Chromium, handled as a reader does: menus, buttons, scrolling."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from browser.chromium import find_chromium

ROOT = Path(__file__).resolve().parents[2]
IDLE = '.jp-Notebook-ExecutionIndicator[data-status="idle"]'
RUNNING_PROMPT = '.jp-InputPrompt:has-text("[*]")'
SCROLLER = ".jp-NotebookPanel .jp-WindowedPanel-outer"


def copy_checkout(target: Path) -> Path:
    """What `make lab` needs of this checkout: running a notebook there changes no file of ours."""
    for folder in ("notebooks", "course_utils"):
        leave_out = shutil.ignore_patterns("saved", "__pycache__", ".ipynb_checkpoints")
        shutil.copytree(ROOT / folder, target / folder, ignore=leave_out)
    for file in ("Makefile", "make_environment.py", "requirements.txt", "pyproject.toml"):
        shutil.copy(ROOT / file, target / file)
    return target


@contextmanager
def make_lab(checkout: Path, data: Path, log: Path) -> Iterator[Callable[[str], str]]:
    """Run `make lab` in `checkout` on drawn images in `data`; give the address of each notebook, and end it afterwards.

    A settings folder of its own keeps the reader's settings out, and JupyterLab from opening a browser by itself.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address, token = f"http://127.0.0.1:{port}", secrets.token_hex(16)
    settings = checkout / "jupyter_settings"
    (settings / "labconfig").mkdir(parents=True)
    server = {"open_browser": False, "port": port, "port_retries": 0}
    (settings / "jupyter_server_config.json").write_text(
        json.dumps({"ServerApp": server, "ExtensionApp": {"open_browser": False}, "IdentityProvider": {"token": token}})
    )
    no_news = {"@jupyterlab/apputils-extension:notification": {"fetchNews": "false", "checkForUpdates": False}}
    (settings / "labconfig" / "default_setting_overrides.json").write_text(json.dumps(no_news))
    environment = os.environ | {
        "JUPYTER_CONFIG_DIR": str(settings),
        "PYTHONPATH": str(checkout),  # an installed course_utils is another checkout's
        "COURSE_DATA": "drawn",
        "COURSE_DATA_DIR": str(data.resolve()),
    }
    # This environment as it is: the copied requirements.txt is new to make, which would install everything again.
    command = ["make", "lab", f"VENV={sys.prefix}", f"--old-file={sys.prefix}/ready"]
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=checkout, env=environment, stdout=output, stderr=subprocess.STDOUT, start_new_session=True
        )
    try:
        _wait_for_answer(f"{address}/api", process, log)
        yield lambda name: f"{address}/lab/tree/{name}?reset&token={token}"  # reset: an empty workspace
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)  # JupyterLab ends its kernels then
        try:
            process.wait(timeout=30)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise


def _wait_for_answer(address: str, process: subprocess.Popen, log: Path, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        with suppress(OSError), urllib.request.urlopen(address):
            return
        time.sleep(0.2)
    raise RuntimeError(f"`make lab` did not start JupyterLab within {seconds:.0f} s. It said:\n{log.read_text()}")


@contextmanager
def open_page(folder: Path) -> Iterator[Page]:
    """An empty page of a Chromium with a new profile. When the block fails, failed.png in `folder` shows it."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium())
        page = browser.new_page(viewport={"width": 1280, "height": 1000})
        try:
            yield page
        except Exception:
            page.screenshot(path=folder / "failed.png")
            raise
        finally:
            browser.close()


def open_notebook(page: Page, address: str) -> None:
    """Open a notebook and wait for its kernel."""
    page.goto(address)
    page.wait_for_selector(IDLE, timeout=90_000)
    page.wait_for_timeout(1500)  # idle is shown a moment before the menus know the kernel


def choose(page: Page, menu: str, item: str) -> None:
    """Click on an item of the menu bar."""
    page.locator(".lm-MenuBar-itemLabel", has_text=menu).click()
    page.locator(".lm-Menu-itemLabel").get_by_text(item, exact=True).click()


def press(page: Page, title: str) -> None:
    """Click on a button of the notebook's toolbar."""
    page.locator(f'.jp-NotebookPanel-toolbar [title="{title}"]').click()


def wait_until_done(page: Page, seconds: float, meanwhile: Callable[[Page], None] = lambda page: None) -> None:
    """Return when no cell has been running for 1.5 s; until then call `meanwhile` every 0.2 s."""
    end, idle_since = time.monotonic() + seconds, None
    while idle_since is None or time.monotonic() - idle_since < 1.5:
        if time.monotonic() > end:
            raise TimeoutError(f"The notebook has not finished within {seconds:.0f} s.")
        meanwhile(page)
        page.wait_for_timeout(200)
        done = page.locator(IDLE).count() and not page.locator(RUNNING_PROMPT).count()
        idle_since = (idle_since or time.monotonic()) if done else None


def save(page: Page) -> None:
    """Save the notebook and wait until the server has it."""
    with page.expect_response(lambda answer: answer.request.method == "PUT" and "/api/contents/" in answer.url) as put:
        choose(page, "File", "Save Notebook")
    assert put.value.ok, f"JupyterLab could not save the notebook: {put.value.status_text}"


def scroll_to_top(page: Page) -> None:
    page.locator(SCROLLER).evaluate("scroller => { scroller.scrollTop = 0; }")


def screenfuls(page: Page) -> Iterator[int]:
    """Scroll the notebook through, a screenful at a time: JupyterLab renders only what is near. Gives 1, 2, 3, …"""
    scroll_to_top(page)
    number, moved = 1, True
    while moved:
        page.wait_for_timeout(400)
        yield number
        number += 1
        moved = page.locator(SCROLLER).evaluate(
            """scroller => {
                const before = scroller.scrollTop;
                scroller.scrollBy(0, 0.9 * scroller.clientHeight);
                return scroller.scrollTop > before + 1;
            }"""
        )


def figures(page: Page) -> dict[int, list[int]]:
    """Of each cell that is rendered now and shows figures: its number from 0, and the width of each in pixels.

    A width of 0 is a picture that the browser could not show.
    """
    found = page.evaluate(
        """() => [...document.querySelectorAll(".jp-NotebookPanel .jp-Cell")].map(cell => [
            Number(cell.dataset.windowedListIndex),
            [...cell.querySelectorAll(".jp-OutputArea-output img")].map(image => image.naturalWidth),
        ])"""
    )
    return {number: widths for number, widths in found if widths}


def progress(page: Page) -> list[tuple[str, str]]:
    """Of each progress bar that is rendered now: its text, such as "Drawing: 34%", and its width, such as "34%"."""
    found = page.evaluate(
        """() => [...document.querySelectorAll(".jp-OutputArea-output .progress-bar")].map(bar => [
            bar.closest(".widget-hbox").textContent.trim(),
            bar.style.width,
        ])"""
    )
    return [(text, width) for text, width in found]
