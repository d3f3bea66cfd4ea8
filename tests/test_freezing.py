"""Freezing: what stands still and what does not."""

import copy
import random
import warnings

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch import nn
from torch.ao.quantization import FakeQuantize, FusedMovingAvgObsFakeQuantize, MinMaxObserver
from torch.nn.utils import parametrizations
from torch.nn.utils import spectral_norm as old_spectral_norm
from torch.nn.utils import weight_norm as old_weight_norm
from torch.utils.data import TensorDataset
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification

from course_utils import features
from course_utils.checkpoints import CheckpointError, load_checkpoint, save_checkpoint
from course_utils.data import AUGMENT, CatsAndDogs
from course_utils.freezing import (
    cache_features,
    count_parameters,
    fast_copy,
    freeze,
    freeze_until,
    parameter_groups,
    train_mode,
    trainable_parameters,
    unfreeze,
)
from course_utils.models import efficientnet_lite0


@pytest.fixture
def model():
    torch.manual_seed(0)
    features = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Dropout(0.5))
    return nn.Sequential(features, nn.Flatten(), nn.Linear(4 * 36, 2))


IMAGES = torch.randn(6, 3, 8, 8, generator=torch.Generator().manual_seed(0)) + 3


def one_step(model):
    optimizer = torch.optim.SGD(trainable_parameters(model), lr=0.1)
    model(IMAGES).square().mean().backward()
    optimizer.step()


def test_frozen_weights_and_statistics_stand_still_and_the_head_moves(model):
    freeze(model[0])
    before = {key: value.clone() for key, value in model.state_dict().items()}
    train_mode(model)
    one_step(model)
    moved = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert moved == {"2.weight", "2.bias"}


def test_plain_train_moves_the_statistics_of_a_frozen_batchnorm(model):
    freeze(model[0])
    before = model[0][1].running_mean.clone()
    model.train()
    model(IMAGES)
    assert not torch.equal(model[0][1].running_mean, before)


def test_train_mode_leaves_dropout_on_and_an_unfrozen_batchnorm_learning(model):
    freeze(model[0])
    train_mode(model)
    assert not model[0][1].training and model[0][3].training
    unfreeze(model[0])
    train_mode(model)
    assert model[0][1].training


class OwnNorm(nn.Module):
    """Subtracts a running mean that it tracks in train mode, as own layers do."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(4, 1, 1))
        self.register_buffer("mean", torch.zeros(4, 1, 1))

    def forward(self, x):
        if self.training:
            self.mean = 0.9 * self.mean + 0.1 * x.detach().mean((0, 2, 3))[:, None, None]
        return (x - self.mean) * self.scale


MOVING = {
    "BatchNorm2d, affine=False": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)),
    "InstanceNorm2d": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True)),
    "own norm": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), OwnNorm()),
    "spectral norm, old": lambda: old_spectral_norm(nn.Conv2d(3, 4, 3)),
    "spectral norm": lambda: parametrizations.spectral_norm(nn.Conv2d(3, 4, 3)),
    "observer": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), MinMaxObserver()),
    "FakeQuantize": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), FakeQuantize()),
    "fused FakeQuantize": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), FusedMovingAvgObsFakeQuantize()),
    "StochasticDepth": lambda: nn.Sequential(nn.Conv2d(3, 4, 3), torchvision.ops.StochasticDepth(0.5, "row")),
}


@pytest.mark.filterwarnings("ignore")  # quantization and the old spectral norm are deprecated
@pytest.mark.parametrize("make", MOVING.values(), ids=MOVING)
def test_whatever_has_a_state_stands_still_when_frozen_and_moves_again_when_free(make):
    torch.manual_seed(0)
    body = make()
    body(IMAGES)
    model = nn.Sequential(body, nn.Flatten(), nn.Linear(4 * 36, 2))
    freeze(body)
    before = copy.deepcopy(body.state_dict())
    for _ in range(3):
        train_mode(model)
        first, second = body(IMAGES + 1), body(5 * IMAGES)
        assert torch.equal(body(IMAGES + 1), first) and not torch.equal(first, second)
    for key, value in body.state_dict().items():
        assert torch.equal(value, before[key]), key
    unfreeze(body)
    train_mode(model)
    answers = [body(factor * IMAGES) for factor in (9, 5)]
    moved = [key for key, value in body.state_dict().items() if not torch.equal(value, before[key])]
    assert moved or not torch.equal(answers[1], second)


def test_an_observer_is_held_through_an_error_and_a_copy_of_the_model():
    body = nn.Sequential(nn.Conv2d(3, 4, 3), FakeQuantize())
    body(IMAGES)
    model = train_mode(nn.Sequential(freeze(body), nn.Flatten(), nn.Linear(4 * 36, 2)))
    for one in (model, copy.deepcopy(model)):
        before = copy.deepcopy(one.state_dict())
        with pytest.raises(TypeError):
            one[0][1]("no tensor")
        one(9 * IMAGES)
        assert all(torch.equal(value, before[key]) for key, value in one.state_dict().items())


def test_a_frozen_convnext_gives_the_same_features_twice_while_its_head_learns():
    model = torchvision.models.convnext_tiny(num_classes=2)
    freeze(model.features)
    train_mode(model)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(model.features(images), model.features(images))


def test_a_buffer_of_a_layer_around_others_does_not_turn_their_dropout_off():
    block = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5))
    block.register_buffer("position", torch.arange(4))
    train_mode(nn.Sequential(freeze(block), nn.Linear(4, 2)))
    assert not block.training and block[1].training


def test_of_a_batchnorm_the_weight_decides_and_one_without_outside_of_frozen_parts_learns():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), nn.BatchNorm2d(4, affine=False))
    model[1].weight.requires_grad = False
    train_mode(model)
    assert not model[1].training and model[2].training


def test_what_was_frozen_by_hand_stays_frozen_when_its_module_is_set_free(model):
    freeze(model[0][1])
    free = freeze_until({3: model, 2: model[0]})
    assert count_parameters(model) == (0, 410)
    assert list(free) == [2, 3]
    assert {id(one) for one in free[2]} == {id(one) for one in model[0][0].parameters()}
    assert {id(one) for one in free[3]} == {id(one) for layer in (model[0][0], model[2]) for one in layer.parameters()}


def test_a_module_that_is_frozen_as_a_whole_is_set_free_as_a_whole(model):
    freeze(model[0])
    assert len(freeze_until({2: model[0]})[2]) == 4


def test_counts_are_trainable_and_all(model):
    assert count_parameters(model) == (410, 410)  # 112 + 8 + 290
    freeze(model[0])
    assert count_parameters(model) == (290, 410)


def test_an_all_frozen_model_is_refused(model):
    with pytest.raises(ValueError, match="nothing can be learned"):
        trainable_parameters(freeze(model))


def test_groups_have_their_learning_rates_and_only_trainable_parameters(model):
    freeze(model[0][0])
    groups = parameter_groups([(model[0], 1e-4), (model[2], 1e-2)])
    assert [group["lr"] for group in groups] == [1e-4, 1e-2]
    assert [sum(p.numel() for p in group["params"]) for group in groups] == [8, 290]
    freeze(model[0])
    assert len(parameter_groups([(model[0], 1e-4), (model[2], 1e-2)])) == 1
    with pytest.raises(ValueError, match="two groups"):
        parameter_groups([(model, 1e-4), (model[2], 1e-2)])


def test_cached_features_are_those_of_the_backbone_and_can_train_a_head(model):
    model[0].train()
    cached = cache_features(model[0], TensorDataset(IMAGES, torch.arange(6)))
    features, labels = cached.tensors
    assert features.shape == (6, 144) and features.dtype == torch.float32 and labels.tolist() == list(range(6))
    assert model[0].training, "the backbone itself stays as it was"
    model.eval()
    assert torch.allclose(features, model[0](IMAGES).flatten(1), rtol=0.02, atol=0.02)  # bfloat16 has 3 digits
    model[2](features).sum().backward()
    assert model[2].weight.grad is not None


def test_the_fast_copy_has_no_batchnorm_and_computes_the_same(model):
    with torch.no_grad():
        model.train()(IMAGES)  # statistics that are not 0 and 1
        copy = fast_copy(model[0])
        assert not any(isinstance(module, nn.BatchNorm2d) for module in copy.modules())
        assert torch.allclose(copy(IMAGES), model[0].eval()(IMAGES), atol=1e-5)
    lite = efficientnet_lite0().eval()
    with torch.no_grad():
        assert torch.allclose(fast_copy(lite)(IMAGES), lite(IMAGES), atol=1e-4)


def settled(model):
    """The model in eval mode, with statistics that are not 0 and 1, as after a training."""
    torch.manual_seed(0)
    with torch.no_grad():
        for part in model.modules():
            if isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)) and part.running_mean is not None:
                part.running_mean.normal_()
                part.running_var.uniform_(0.5, 2)
                if part.affine:
                    part.weight.uniform_(0.5, 2)
                    part.bias.normal_()
    return model.eval()


def batchnorms(model):
    return sum(isinstance(part, (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d)) for part in model.modules())


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v3_small", "densenet121", "maxvit_t"])
def test_pairs_are_found_where_they_are_attributes_of_blocks(name):
    size = 224 if name == "maxvit_t" else 64
    images = torch.randn(2, 3, size, size)
    model = settled(torchvision.models.get_model(name))
    fast = fast_copy(model)
    with torch.no_grad():
        right = model(images)
        assert (fast(images) - right).norm() < 1e-4 * right.norm()
    left = {"densenet121": 62, "maxvit_t": 11}.get(name, 0)  # these stand before a convolution
    assert batchnorms(fast) == left < batchnorms(model)


class Own(nn.Sequential):
    """The same neighbours, used in another way than one after the other."""

    def __init__(self, forward, layers=None):
        super().__init__(*(layers or [nn.Conv2d(3, 3, 3, padding=1), nn.BatchNorm2d(3)]))
        self.way = forward

    def forward(self, x):
        return self.way(self, x)


def shared():
    convolution = nn.Conv2d(3, 3, 3, padding=1)
    layers = [nn.Sequential(convolution, nn.BatchNorm2d(3)), nn.Sequential(convolution, nn.BatchNorm2d(3))]
    return nn.Sequential(*layers)


def hooked():
    model = nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3))
    model[0].register_forward_hook(lambda layer, inputs, output: output.relu())
    return model


def fixed_size():
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 7 * 7, 2))


ODD = {
    "skips the BatchNorm": lambda: Own(lambda self, x: self[0](x)),
    "activation between": lambda: Own(lambda self, x: self[1](self[0](x).relu())),
    "changed in place between": lambda: Own(lambda self, x: self[1](self[0](x).relu_())),
    "other order": lambda: Own(lambda self, x: self[0](self[1](x))),
    "output used twice": lambda: Own(lambda self, x: (lambda y: y + self[1](y))(self[0](x))),
    "reads the weight of the BatchNorm": lambda: Own(lambda self, x: self[1](self[0](x)) * self[1].weight.sum()),
    "two BatchNorms of one output": lambda: Own(
        lambda self, x: (lambda y: self[1](y) + self[2](y))(self[0](x)),
        [nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)],
    ),
    "convolution shared by two": shared,
    "hook on the convolution": hooked,
    "no running statistics": lambda: nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3, track_running_stats=False)),
    "weight norm": lambda: nn.Sequential(parametrizations.weight_norm(nn.Conv2d(3, 3, 3)), nn.BatchNorm2d(3)),
    "weight norm, old": lambda: nn.Sequential(old_weight_norm(nn.Conv2d(3, 3, 3)), nn.BatchNorm2d(3)),
    "spectral norm, old": lambda: nn.Sequential(old_spectral_norm(nn.Conv2d(3, 3, 3)), nn.BatchNorm2d(3)),
    "dead": lambda: nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.Threshold(1e9, 0.0)),
    "size that nobody guesses": fixed_size,
    "draws random numbers": lambda: Own(lambda self, x: self[1](self[0](x)) + torch.rand(1)),
}


@pytest.mark.filterwarnings("ignore")  # the old weight norm is deprecated
@pytest.mark.parametrize("make", ODD.values(), ids=ODD)
def test_what_cannot_be_fused_is_computed_as_it_is(make):
    images = torch.randn(4, 3, 9, 9)
    model = make()
    model(images)
    settled(model)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    fast = fast_copy(model)
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(1)
    right = model(images)
    torch.manual_seed(1)
    assert (fast(images) - right).norm() <= 1e-5 * right.norm()
    assert batchnorms(fast) == batchnorms(model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def two_names():
    """Blocks that know their layers by two names."""
    model = Own(lambda self, x: self.norm(self.conv(x)))
    model.conv, model.norm = model[0], model[1]
    return model


FUSED = {
    "1d": (lambda: nn.Sequential(nn.Conv1d(3, 4, 3), nn.BatchNorm1d(4)), (2, 3, 20)),
    "3d": (lambda: nn.Sequential(nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4)), (2, 3, 5, 6, 7)),
    "two names": (two_names, (2, 3, 9, 9)),
    "affine=False": (lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4, affine=False)), (2, 3, 9, 9)),
    "a dict": (lambda: Own(lambda self, x: {"out": [self[1](self[0](x))]}), (2, 3, 9, 9)),
    "example of another size": (fixed_size, (2, 3, 9, 9)),
}


@pytest.mark.parametrize("make, shape", FUSED.values(), ids=FUSED)
def test_other_dimensions_names_and_outputs_are_fused_too(make, shape):
    images = torch.randn(shape)
    model = settled(make())
    fast = fast_copy(model, images)
    assert batchnorms(model) == 1 and batchnorms(fast) == 0
    with torch.no_grad():
        torch.testing.assert_close(fast(images), model(images), rtol=1e-4, atol=1e-4)


class Pictures(torch.utils.data.Dataset):
    """Six images that say how often one of them was asked for; the view is added to the pixels."""

    def __init__(self, files="files"):
        self.files, self.asked = files, 0

    def __len__(self):
        return 6

    def __getitem__(self, key):
        self.asked += 1
        view, index = key if isinstance(key, tuple) else (0, key)
        return IMAGES[index] + view, index

    def fingerprint(self):
        return self.files


def test_views_are_the_augmented_images_of_the_first_epochs(model):
    features, labels = cache_features(nn.Flatten(), Pictures(), views=2).tensors
    assert torch.equal(features, torch.cat([IMAGES + 1, IMAGES + 2]).flatten(1))
    assert labels.tolist() == [*range(6), *range(6)]


def test_workers_prepare_the_images_and_the_features_are_the_same_bits(photos):
    backbone = settled(nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(2)))
    preset = ImageClassification(crop_size=24, resize_size=28)
    for dataset in (CatsAndDogs(photos, preset, AUGMENT), CatsAndDogs(photos, v2.Compose(TENSOR), AUGMENT), Pictures()):
        for views in (0, 2):
            alone, helped = (cache_features(backbone, dataset, views=views, workers=workers) for workers in (0, 2))
            assert all(map(torch.equal, alone.tensors, helped.tensors))
            assert len(alone) == max(views, 1) * len(dataset)


class Kept:
    """`cache_features` with a file, which also says whether the backbone had to run over the whole dataset."""

    def __init__(self, file, monkeypatch):
        self.file, self.copies = file, []
        monkeypatch.setattr(features, "fast_copy", lambda *given: self.copies.append(1) or fast_copy(*given))

    def computed(self, backbone, dataset, **options):
        before = len(self.copies)
        found = cache_features(backbone, dataset, file=self.file, **options).tensors[0]
        anew = len(self.copies) > before
        assert torch.equal(found, cache_features(backbone, dataset, **options).tensors[0]), "stale features"
        return anew


@pytest.fixture
def kept(tmp_path, monkeypatch):
    return Kept(tmp_path / "features.pt", monkeypatch)


def test_kept_features_are_used_again_only_while_nothing_has_changed(model, kept, monkeypatch):
    def computed(**changes):
        return kept.computed(**({"backbone": model[0], "dataset": Pictures(), "views": 0} | changes))

    assert computed() and not computed()
    assert computed(dataset=Pictures("other files")) and computed() and not computed()
    assert computed(views=1) and not computed(views=1)
    assert computed() and not computed()
    with torch.no_grad():
        model[0][0].bias += 1
    assert computed() and not computed()
    changed = nn.Sequential(*list(model[0])[:2], nn.ReLU6(), model[0][3])  # the same weights in another architecture
    assert computed(backbone=changed)
    before = features.fast_dtype("cpu")
    for dtype in (torch.bfloat16, torch.float16) if before is None else (None, before):
        monkeypatch.setattr(features, "fast_dtype", lambda device, dtype=dtype: dtype)
        assert computed() and not computed()


@pytest.fixture
def photos(tmp_path):
    """Eight files of cats and dogs, of 20 x 20 pixels."""
    files = [tmp_path / name / f"{number}.png" for name in ("Cat", "Dog") for number in range(4)]
    for seed, file in enumerate(files):
        file.parent.mkdir(exist_ok=True)
        Image.fromarray(np.random.default_rng(seed).integers(0, 255, (20, 20, 3), dtype=np.uint8)).save(file)
    return files


TENSOR = [v2.ToImage(), v2.ToDtype(torch.float32, scale=True)]


class Shift(nn.Module):
    def __init__(self, by):
        super().__init__()
        self.by = by  # in no repr

    def forward(self, x):
        return x + self.by


class OwnTransform(v2.Transform):
    def __init__(self, by):
        super().__init__()
        self._by = np.array([by])

    def transform(self, x, params):
        return x + float(self._by[0])


def shifting_function(by):
    def shift(picture):
        return v2.Compose(TENSOR)(picture) + by

    return shift


TRANSFORMS = {
    "lambda": lambda by: v2.Compose([*TENSOR, v2.Lambda(lambda x: x + by)]),
    "module": lambda by: v2.Compose([*TENSOR, Shift(by)]),
    "own transform": lambda by: v2.Compose([*TENSOR, OwnTransform(by)]),
    "function": shifting_function,
}


@pytest.mark.parametrize("make", TRANSFORMS.values(), ids=TRANSFORMS)
def test_a_transform_is_known_by_its_pictures_not_by_its_repr(model, kept, photos, make, monkeypatch):
    monkeypatch.setattr(CatsAndDogs, "fingerprint", lambda self: "the same files")  # the worst of all reprs
    one, other = CatsAndDogs(photos, make(0.0)), CatsAndDogs(photos, make(1.0))
    assert kept.computed(model[0], one) and kept.computed(model[0], other) and not kept.computed(model[0], other)


def test_an_augmentation_or_a_transform_changed_in_place_is_noticed(model, kept, photos):
    transform = v2.Compose([*TENSOR, Shift(0.0)])
    data = CatsAndDogs(photos, transform, augment=v2.Compose([AUGMENT, v2.Resize(20), Turn()]))
    assert kept.computed(model[0], data, views=2) and not kept.computed(model[0], data, views=2)
    transform.transforms[2].by = 0.5
    assert kept.computed(model[0], data, views=2)
    data.augment.transforms[2].turned = True
    assert kept.computed(model[0], data, views=2) and not kept.computed(model[0], data, views=2)


class Turn:
    turned = False

    def __repr__(self):
        return "always the same"

    def __call__(self, picture):
        return picture.rotate(180) if self.turned else picture


class Attending(nn.Module):
    """A backbone whose repr hides its heads, its factor and a buffer that no state_dict holds."""

    def __init__(self, heads=1):
        super().__init__()
        self.attention = nn.MultiheadAttention(64, heads, batch_first=True)
        self.factor = 1.0
        self.register_buffer("offset", torch.zeros(64), persistent=False)

    def forward(self, images):
        x = images.flatten(2) + self.offset
        return self.factor * self.attention(x, x, x)[0]


def test_a_backbone_is_known_by_its_answers_not_by_its_repr(kept):
    one, other = Attending(1), Attending(4)
    other.load_state_dict(one.state_dict())
    assert repr(one) == repr(other)
    assert kept.computed(one, Pictures()) and kept.computed(other, Pictures()) and not kept.computed(other, Pictures())
    other.offset += 1
    assert kept.computed(other, Pictures()) and not kept.computed(other, Pictures())
    other.factor = 2.0
    assert kept.computed(other, Pictures())
    other.forward = lambda images: images.flatten(1).square()
    assert kept.computed(other, Pictures()) and not kept.computed(other, Pictures())


def test_neither_computing_nor_reading_changes_the_generators_or_a_mode_of_the_caller(model, tmp_path):
    model[0].train()
    model[0][1].eval()

    def state():
        numbers = torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()
        return numbers, [part.training for part in model.modules()], torch.is_grad_enabled(), str(model.state_dict())

    before = state()
    for _ in range(2):
        cache_features(model[0], Pictures(), file=tmp_path / "features.pt")
        assert state() == before


DRAWS = {
    "torch": lambda x: x + torch.rand(1),
    "rarely": lambda x: x + float(torch.rand(1) < 1e-9),
    "numpy": lambda x: x + float(np.random.rand()),
    "python": lambda x: x + random.random(),
    "a generator of its own": lambda x, own=np.random.default_rng(): x + float(own.random()),  # noqa: B008
}


@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_random_images_are_not_kept_in_a_file(model, photos, tmp_path, draw):
    data = CatsAndDogs(photos, v2.Compose([*TENSOR, v2.Lambda(draw)]))
    with pytest.raises(ValueError, match="CatsAndDogs draws its images at random.* or leave `file` out"):
        cache_features(model[0], data, file=tmp_path / "features.pt")
    assert not (tmp_path / "features.pt").exists()
    cache_features(model[0], data)


def test_integer_images_have_features_too(tmp_path):
    class Bytes(Pictures):
        def __getitem__(self, key):
            return (40 * IMAGES[key]).clamp(0, 255).to(torch.uint8), key

    backbone = nn.Sequential(v2.ToDtype(torch.float32, scale=True), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))
    assert cache_features(backbone, Bytes(), file=tmp_path / "features.pt").tensors[0].shape == (6, 144)


def test_a_damaged_file_of_features_is_refused_and_written_anew(model, kept):
    good = cache_features(model[0], Pictures(), file=kept.file).tensors[0]
    whole = kept.file.read_bytes()
    flipped = bytearray(whole)
    flipped[whole.index(good.numpy().tobytes()[:16])] ^= 1
    for content in (bytes(flipped), whole[:1000], whole[:-1], b""):
        kept.file.write_bytes(content)
        with pytest.warns(UserWarning, match=r"features\.pt is .*computed anew"):
            assert kept.computed(model[0], Pictures())
        assert not kept.computed(model[0], Pictures())


def test_a_file_that_is_not_of_features_is_never_written_to(model, tmp_path):
    checkpoint, text, cut, folder = (tmp_path / name for name in ("best.pt", "notes.txt", "cut.pt", "folder.pt"))
    save_checkpoint({"features": torch.ones(2), "labels": torch.ones(2), "model": torch.ones(2)}, checkpoint)
    text.write_text("Do not lose me.")
    cut.write_bytes(checkpoint.read_bytes()[:-9])
    folder.mkdir()
    for file in (checkpoint, text, cut, folder):
        before = file.is_file() and file.read_bytes()
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(CheckpointError, match=f"{file.name} is not readable as features.*move it away"):
                cache_features(model[0], Pictures(), file=file)
        assert (file.is_file() and file.read_bytes()) == before
    assert "model" in load_checkpoint(checkpoint)


def test_a_missing_folder_is_told_before_the_pass(model, tmp_path):
    pictures = Pictures()
    with pytest.raises(CheckpointError, match="nowhere.features.pt cannot be written: its folder is missing"):
        cache_features(model[0], pictures, file=tmp_path / "nowhere" / "features.pt")
    assert not pictures.asked


def test_a_file_needs_a_dataset_that_knows_its_images(model, tmp_path):
    with pytest.raises(ValueError, match="TensorDataset has no fingerprint"):
        cache_features(model[0], TensorDataset(IMAGES, torch.arange(6)), file=tmp_path / "features.pt")


@pytest.mark.parametrize("images, views", [(0, 0), (6, -1)])
def test_no_images_and_negative_views_are_refused(model, images, views):
    with pytest.raises(ValueError, match=f"{images} images and views={views} give no features"):
        cache_features(model[0], TensorDataset(IMAGES[:images], torch.arange(images)), views=views)


class DrawsItsOwn(torch.utils.data.Dataset):
    """Images with noise from a generator that hangs on the dataset."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(3)

    def __len__(self):
        return 6

    def __getitem__(self, index):
        return IMAGES[index] + torch.randn(IMAGES[0].shape, generator=self.generator), index

    def fingerprint(self):
        return "draws its own"


def test_the_look_at_a_dataset_leaves_its_own_generator_as_it_was(model, tmp_path):
    plain = torch.stack([image for image, _ in [DrawsItsOwn()[0]]])
    first = cache_features(nn.Identity(), DrawsItsOwn()).tensors[0][0]
    assert torch.allclose(first, plain.flatten(), rtol=0.02, atol=0.02)
    with pytest.raises(ValueError, match="draws its images at random"):
        cache_features(model[0], DrawsItsOwn(), file=tmp_path / "features.pt")


@pytest.mark.parametrize(
    "item, said",
    [
        ({"image": IMAGES[0], "label": 0}, "is a dict; .image, label. is needed"),
        ((IMAGES[0], 0, "its name"), "is a tuple; .image, label. is needed"),
        (("a text", 0), "An image of list is a str; a tensor is needed"),
    ],
)
def test_an_item_of_another_form_is_told(model, item, said):
    with pytest.raises(ValueError, match=said):
        cache_features(model[0], [item] * 4)
