"""On a GPU: the same training, resumed exactly; checkpoints that move between GPU and CPU; every notebook unchanged.

Seen in November 2026 on an NVIDIA H200 with torch 2.11 and Python 3.12: all of it passed, the seven lessons included.
"""

import copy
import os
from pathlib import Path

import pytest
import torch

from course_utils.checkpoints import CheckpointFolder, load_checkpoint, restore_rng, rng_state, weights_sha256
from course_utils.data import AUGMENT, load_datasets, make_loader
from course_utils.freezing import cache_features, parameter_groups
from course_utils.models import SMALL_CNN_TRANSFORM, SmallCNN, replace_head
from course_utils.runtime import get_device, seed_everything
from course_utils.training import evaluate, fit

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="PyTorch sees no GPU here")
NOTEBOOKS = sorted((Path(__file__).resolve().parent.parent / "notebooks").glob("*.ipynb"))

if torch.cuda.is_available():  # cuBLAS reads it when the GPU is first used, so before any test
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")


@pytest.fixture(scope="module")
def datasets():
    train, val, _ = load_datasets(SMALL_CNN_TRANSFORM, per_class=60, source="drawn", augment=AUGMENT)
    return train.take(48), val.take(16)


@pytest.fixture
def deterministic():
    """Only algorithms that give the same bits each time. Source: PyTorch's notes on reproducibility."""
    benchmark, torch.backends.cudnn.benchmark = torch.backends.cudnn.benchmark, False
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = benchmark


class PowerCut(Exception):
    """Ends a training in the middle of a step, without a last save."""


def train(datasets, device, folder=None, interrupted=None, mixed=False, **options):
    """Three epochs of 6 steps with dropout, BatchNorm, augmentation, a scheduler and unfreezing, as a new process
    would train them; returns the model and its history."""
    seed_everything(0)
    model = SmallCNN()
    optimizer = torch.optim.Adam(parameter_groups([(model.classifier, 3e-3), (model.features, 1e-3)]))
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    scaler = torch.amp.GradScaler(device, init_scale=1024, growth_interval=5) if mixed else None
    steps = iter(range(1, 1000))

    def cut_the_power(*_):
        if next(steps) == interrupted:
            raise PowerCut

    optimizer.register_step_pre_hook(cut_the_power)
    loader = make_loader(datasets[0], batch_size=8, shuffle=True)
    options = {"scheduler": scheduler, "scaler": scaler, "unfreeze_at": {2: model.features[2:]}} | options
    return model, fit(model, optimizer, loader, make_loader(datasets[1]), 3, device, folder=folder, **options)


def devices(value):
    """The device types of all tensors in nested dicts and lists."""
    if isinstance(value, torch.Tensor):
        return {value.device.type}
    parts = value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ()
    return set().union(*map(devices, parts))


def test_the_gpu_is_what_get_device_gives():
    assert get_device().type == "cuda"


@pytest.mark.parametrize("interrupted", [3, 6, 7, 13])  # inside an epoch of 6 steps, and at its end
@pytest.mark.parametrize("mixed", [False, True])
@pytest.mark.parametrize("background", [False, True])
def test_a_resume_is_exact_on_the_gpu_too(datasets, tmp_path, deterministic, interrupted, mixed, background):
    model, history = train(datasets, "cuda", mixed=mixed)
    folder = CheckpointFolder(tmp_path, background=background)
    with pytest.raises(PowerCut):
        train(datasets, "cuda", folder, interrupted, mixed, save_every=1)
    folder.wait()
    torch.rand(7, device="cuda")  # another process would not stand at the same random number
    resumed, its_history = train(datasets, "cuda", CheckpointFolder(tmp_path), mixed=mixed, resume=True, save_every=1)
    assert weights_sha256(resumed.state_dict()) == weights_sha256(model.state_dict())
    assert its_history == history


def test_the_random_numbers_of_the_gpu_are_in_a_checkpoint():
    """Dropout on a GPU draws from the GPU's own generator."""
    seed_everything(0)
    state = copy.deepcopy(rng_state())
    assert len(state["cuda"]) == torch.cuda.device_count()
    drawn = torch.rand(5, device="cuda")
    restore_rng(state)
    assert torch.equal(torch.rand(5, device="cuda"), drawn)


@pytest.mark.parametrize("first, second", [("cuda", "cpu"), ("cpu", "cuda")])
def test_a_checkpoint_goes_on_on_the_other_device(datasets, tmp_path, deterministic, first, second):
    straight, history = train(datasets, first)
    with pytest.raises(PowerCut):
        train(datasets, first, CheckpointFolder(tmp_path), 9, save_every=1)
    resumed, its_history = train(datasets, second, CheckpointFolder(tmp_path), resume=True)
    assert devices(resumed.state_dict()) == {second}
    assert its_history[0] == history[0], "the epoch before the interruption is in the checkpoint"
    assert len(its_history) == 3 and its_history[-1]["step"] == 18
    back, _ = train(datasets, first, CheckpointFolder(tmp_path), resume=True)  # finished: only loads
    assert devices(back.state_dict()) == {first}
    assert weights_sha256(back.state_dict()) == weights_sha256(resumed.state_dict())


def test_a_checkpoint_from_the_gpu_is_read_onto_the_cpu_whole(datasets, tmp_path):
    model, _ = train(datasets, "cuda", CheckpointFolder(tmp_path))
    path = CheckpointFolder(tmp_path).last_paths()[0]
    assert "cuda" in devices(torch.load(path, weights_only=True)), "the file was saved from the GPU"
    checkpoint = load_checkpoint(path)
    assert devices(checkpoint) == {"cpu"}
    assert weights_sha256(checkpoint["model_state_dict"]) == weights_sha256(model.state_dict())


def test_the_gpu_computes_what_the_cpu_computes(datasets):
    seed_everything(0)
    model = SmallCNN()
    loss, accuracy = evaluate(model, make_loader(datasets[1]))
    assert evaluate(model.to("cuda"), make_loader(datasets[1]), "cuda") == pytest.approx((loss, accuracy), abs=1e-2)


def test_new_heads_and_cached_features_are_where_they_are_wanted(datasets):
    model = replace_head(SmallCNN().to("cuda"), 5)
    assert devices(model.state_dict()) == {"cuda"}
    backbone = torch.nn.Sequential(model.features, model.avgpool)
    features, labels = cache_features(backbone, datasets[1], "cuda").tensors
    assert features.shape == (16, 128) and devices([features, labels]) == {"cpu"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_on_the_gpu_unchanged(path, monkeypatch, tmp_path):
    """Outputs are not compared: a GPU adds in another order. The asserts in the notebooks must hold."""
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(path, as_version=4)
    if any("get_device()" in cell.source for cell in notebook.cells):
        check = "import torch\nassert torch.cuda.max_memory_allocated(), 'the notebook did not use the GPU'"
        notebook.cells.append(nbformat.v4.new_code_cell(check))
    monkeypatch.setenv("COURSE_DATA", "drawn")
    NotebookClient(notebook, timeout=300, resources={"metadata": {"path": tmp_path}}).execute()
