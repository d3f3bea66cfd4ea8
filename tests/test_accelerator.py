"""The GPU of a Mac, played by the CPU: what does not work there is not asked for.

No Mac is needed. What moves to "mps" stays on the CPU, and what a Mac cannot do raises what it raises there.
"""

from types import SimpleNamespace

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils.data import DataLoader

from course_utils import runtime
from course_utils.checkpoints import CheckpointFolder, restore_rng, rng, rng_state, weights_sha256
from course_utils.checkpoints.facts import facts_of_data
from course_utils.data import AUGMENT, load_datasets, make_loader
from course_utils.freezing import cache_features
from course_utils.models import SMALL_CNN_TRANSFORM, SmallCNN
from course_utils.training import evaluate, fit

NO_FLOAT64 = "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64"


def is_mac(argument) -> bool:
    return isinstance(argument, (str, torch.device)) and str(argument).startswith("mps")


class Mac(TorchFunctionMode):
    """PyTorch in which "mps" is the CPU, with a Mac's limits. `lying_there`: a tensor of a Mac, to start with."""

    moved, lying_there = 0, None

    def __torch_function__(self, function, types, arguments=(), options=None):
        options = dict(options or {})
        everything = [*arguments, *options.values()]
        if function in (torch.device, torch._C._nn._parse_to):  # only names it
            return function(*arguments, **options)
        if function is torch.Tensor.double and arguments[0] is self.lying_there:
            raise TypeError(NO_FLOAT64)
        if function is torch.Tensor.cpu and arguments[0] is self.lying_there:
            return torch.clone(arguments[0])
        if function is torch.Tensor.to and any(map(is_mac, everything)):
            self.moved += 1
            if torch.float64 in (arguments[0].dtype, *everything[1:]):
                raise TypeError(NO_FLOAT64)
            without_waiting = options.get("non_blocking") or any(one is True for one in arguments)
            assert not without_waiting or arguments[0].is_pinned(), "its memory may be freed before a Mac reads it"
        arguments = ["cpu" if is_mac(one) else one for one in arguments]
        options = {name: "cpu" if is_mac(one) else one for name, one in options.items()}
        return function(*arguments, **options)


@pytest.fixture
def mac(monkeypatch):
    """A Mac whose GPU has a random generator of one number."""
    generator = SimpleNamespace(state=torch.tensor([7], dtype=torch.uint8))
    monkeypatch.setattr(torch.accelerator, "current_accelerator", lambda check_available=False: torch.device("mps"))
    monkeypatch.setattr(torch.mps, "device_count", lambda: 1)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: generator.state.clone())
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state: setattr(generator, "state", state))
    rng._gpus.cache_clear()
    with Mac() as mode:
        mode.generator = generator
        yield mode
    rng._gpus.cache_clear()


@pytest.fixture(scope="module")
def datasets():
    train, val, _ = load_datasets(SMALL_CNN_TRANSFORM, per_class=60, source="drawn", augment=AUGMENT)
    return train.take(32), val.take(16)


def test_the_device_is_the_accelerator_that_works_else_the_cpu(monkeypatch):
    for accelerator, expected in ((torch.device("mps"), "mps"), (torch.device("xpu"), "xpu"), (None, "cpu")):
        monkeypatch.setattr(
            torch.accelerator, "current_accelerator", lambda check_available, one=accelerator: check_available and one
        )
        assert runtime.get_device().type == expected
    assert runtime.fast_dtype("mps") is None


def test_the_stand_in_refuses_what_a_mac_refuses(mac):
    with pytest.raises(TypeError, match="float64"):
        torch.zeros(3, dtype=torch.float64).to("mps")
    with pytest.raises(AssertionError, match="freed"):
        torch.zeros(3).to("mps", non_blocking=True)


def test_a_training_its_resume_and_an_evaluation_ask_a_mac_for_nothing_it_cannot_do(mac, datasets, tmp_path):
    def train(folder=None, epochs=2, **options):
        runtime.seed_everything(0)
        model = SmallCNN(dropout=0.2)
        optimizer = torch.optim.AdamW(model.parameters())
        loader = make_loader(datasets[0], batch_size=8, shuffle=True)
        device = runtime.get_device()
        return model, fit(model, optimizer, loader, make_loader(datasets[1]), epochs, device, folder=folder, **options)

    straight, history = train()
    train(CheckpointFolder(tmp_path), epochs=1, save_every=1)
    mac.generator.state += 1
    resumed, its_history = train(CheckpointFolder(tmp_path), resume=True)
    assert weights_sha256(resumed.state_dict()) == weights_sha256(straight.state_dict())
    assert its_history == history and mac.moved > 30
    assert evaluate(resumed, make_loader(datasets[1]), "mps")[1] == history[-1]["val_accuracy"]


def test_features_come_from_a_mac(mac, datasets):
    model = SmallCNN()
    features, _ = cache_features(torch.nn.Sequential(model.features, model.avgpool), datasets[1], "mps").tensors
    assert features.shape == (16, 128) and mac.moved


def test_pictures_that_lie_on_a_mac_are_looked_at_without_float64(mac):
    mac.lying_there = torch.ones(2, 3)
    with pytest.raises(TypeError, match="float64"):
        mac.lying_there.double()
    looks = facts_of_data(DataLoader([mac.lying_there]), order=False)["looks"]
    assert looks == facts_of_data(DataLoader([torch.ones(2, 3)]), order=False)["looks"]


def test_the_random_numbers_of_a_mac_are_in_a_checkpoint(mac):
    state = rng_state()
    mac.generator.state += 1
    restore_rng(state)
    assert mac.generator.state.item() == 7


def test_a_checkpoint_of_a_mac_goes_on_elsewhere_with_a_warning(mac, monkeypatch):
    state = rng_state()
    monkeypatch.setattr(torch.mps, "device_count", lambda: 0)
    rng._gpus.cache_clear()
    here = torch.cuda.device_count()  # what this machine has beside the Mac that it plays
    with pytest.warns(UserWarning, match=f"of {here + 1} GPUs were saved, and here are {here}"):
        restore_rng(state)


def test_the_random_numbers_of_two_gpus_of_intel_are_in_a_checkpoint(monkeypatch):
    seeds = {0: torch.tensor([3], dtype=torch.uint8), 1: torch.tensor([4], dtype=torch.uint8)}
    monkeypatch.setattr(torch.xpu, "device_count", lambda: 2)
    monkeypatch.setattr(torch.xpu, "get_rng_state", lambda number: seeds[number])
    monkeypatch.setattr(torch.xpu, "set_rng_state", lambda state, number: seeds.update({number: state}))
    rng._gpus.cache_clear()
    state = rng_state()
    seeds.clear()
    restore_rng(state)
    rng._gpus.cache_clear()
    assert {number: state.item() for number, state in seeds.items()} == {0: 3, 1: 4}
