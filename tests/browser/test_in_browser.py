"""What a reader sees: `make lab`, a browser, Run All, the stop button. `make test-browser`; `make test` leaves it out.

Screenshots of every screenful land in build/browser: look at them.
"""

import shutil

import nbformat
import pytest
from nbformat import v4
from test_notebooks import PATHS, ROOT, code, tags

from browser.chromium import find_chromium
from browser.jupyterlab import (
    choose,
    copy_checkout,
    figures,
    make_lab,
    open_notebook,
    open_page,
    press,
    progress,
    save,
    screenfuls,
    scroll_to_top,
    wait_until_done,
)
from course_utils.checkpoints import CheckpointFolder
from course_utils.runtime import data_dir

pytestmark = pytest.mark.skipif(
    find_chromium() is None,
    reason="Chromium is missing: apt-get install chromium, or say where it is: CHROMIUM=/path/to/chrome",
)


@pytest.fixture
def output(request):
    """An empty folder for the screenshots of this test."""
    folder = ROOT / "build" / "browser" / request.node.callspec.id
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def checkout(tmp_path):
    return copy_checkout(tmp_path / "checkout")


def errors(cell):
    return [output for output in cell.outputs if output.output_type == "error"]


def has_figure(cell):
    return any("image/png" in output.get("data", {}) for output in cell.get("outputs", []))


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.stem)
def test_run_all_shows_every_figure_and_only_the_expected_errors(path, checkout, output, tmp_path):
    first = path == PATHS[0]
    data = tmp_path / "data" if first else data_dir()  # the first one has to draw the images, under a progress bar
    bars, shown = [], {}
    with make_lab(checkout, data, output / "jupyterlab.log") as address_of, open_page(output) as page:
        open_notebook(page, address_of(path.name))
        choose(page, "Edit", "Clear Outputs of All Cells")
        choose(page, "Run", "Run All Cells")
        scroll_to_top(page)
        wait_until_done(page, 300, meanwhile=lambda page: bars.extend(progress(page)))
        save(page)
        for number in screenfuls(page):
            page.screenshot(path=output / f"{number:02}.png")
            bars += progress(page)
            shown |= figures(page)
    before = nbformat.read(path, as_version=4).cells
    after = nbformat.read(checkout / "notebooks" / path.name, as_version=4).cells
    assert [cell.execution_count for cell in code(after)] == list(range(1, len(code(after)) + 1))
    for cell in code(after):
        assert bool(errors(cell)) == ("raises-exception" in tags(cell)), cell
        assert not any(output.get("name") == "stderr" for output in cell.outputs), cell
    drawn = [number for number, cell in enumerate(before) if has_figure(cell)]
    assert [number for number, cell in enumerate(after) if has_figure(cell)] == drawn
    assert sorted(shown) == drawn and all(min(widths) > 0 for widths in shown.values()), shown
    if first:
        assert len({width for _, width in bars} - {"100%"}) >= 2, f"The progress bar does not move: {bars}"
        text, width = bars[-1]
        assert "100%" in text and width == "100%", f"The progress bar does not finish: {text}, {width} wide"


SET_UP = """\
import torch

from course_utils.checkpoints import CheckpointFolder, weights_sha256
from course_utils.data import load_datasets, make_loader
from course_utils.models import SMALL_CNN_TRANSFORM, SmallCNN
from course_utils.runtime import seed_everything
from course_utils.training import fit

train_set, val_set, _ = load_datasets(SMALL_CNN_TRANSFORM, per_class=100)


def train(epochs, **checkpoints):
    seed_everything(0)
    model = SmallCNN(dropout=0.2)
    optimizer = torch.optim.Adam(model.parameters())
    steps = []
    optimizer.register_step_post_hook(lambda *_: steps.append(1))
    loader = make_loader(train_set, batch_size=8, shuffle=True, workers=WORKERS)
    fit(model, optimizer, loader, make_loader(val_set), epochs, verbose=True, **checkpoints)
    return len(steps), weights_sha256(model.state_dict())"""

TRAIN = 'train(100_000, folder=CheckpointFolder("checkpoints"))'

RESUME = """\
epochs = CheckpointFolder("checkpoints").latest()["training"]["epoch"] + 1
resumed_steps, resumed = train(epochs, folder=CheckpointFolder("checkpoints"), resume=True)
all_steps, straight = train(epochs)
print("steps that the interrupted training had made:", all_steps - resumed_steps)
print("the same weights as without the interruption:", resumed == straight)"""


@pytest.mark.parametrize("workers", [0, 2], ids=lambda workers: f"stopped_with_{workers}_workers")
def test_the_stop_button_saves_a_checkpoint_from_which_the_training_goes_on(workers, checkout, output):
    path = checkout / "notebooks" / "interrupted.ipynb"
    cells = [v4.new_code_cell(source) for source in (SET_UP.replace("WORKERS", str(workers)), TRAIN, RESUME)]
    nbformat.write(v4.new_notebook(cells=cells, metadata=nbformat.read(PATHS[0], as_version=4).metadata), path)
    with make_lab(checkout, data_dir(), output / "jupyterlab.log") as address_of, open_page(output) as page:
        open_notebook(page, address_of(path.name))
        choose(page, "Run", "Run All Cells")
        page.wait_for_selector(".jp-OutputArea-output:has-text('epoch 2')", timeout=120_000)
        press(page, "Interrupt the kernel")
        wait_until_done(page, 30)
        save(page)
        page.screenshot(path=output / "stopped.png")
        _, stopped, not_run = nbformat.read(path, as_version=4).cells
        checkpoint = CheckpointFolder(path.parent / "checkpoints").latest()
        page.locator(".jp-Cell").nth(2).locator(".jp-InputPrompt").click()
        choose(page, "Run", "Run Selected Cell")
        wait_until_done(page, 120)
        save(page)
        page.screenshot(path=output / "resumed.png")
    [error] = errors(stopped)
    step = checkpoint["step"]
    assert error.ename == "Stopped"
    how = "start again, with resume=True (on the command line --resume), to go on."
    assert error.evalue == f"Asked to stop by SIGINT. Saved step {step} in checkpoints: {how}"
    assert not any(output.get("name") == "stderr" for output in stopped.outputs), stopped
    assert not_run.execution_count is None, "Run All ends where the training was interrupted"
    resumed = nbformat.read(path, as_version=4).cells[2]
    assert not errors(resumed), resumed
    said = "".join(output.get("text", "") for output in resumed.outputs)
    assert f"steps that the interrupted training had made: {step}\n" in said
    assert "the same weights as without the interruption: True\n" in said
