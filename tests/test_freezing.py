"""Freezing: what stands still and what does not."""

import pytest
import torch
from torch import nn
from torch.utils.data import TensorDataset

from course_utils import freezing
from course_utils.freezing import (
    cache_features,
    count_parameters,
    fast_copy,
    freeze,
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


def test_kept_features_are_used_again_only_while_nothing_has_changed(model, tmp_path, monkeypatch):
    file, pictures = tmp_path / "features.pt", Pictures()

    def computed(**changes):
        arguments = {"backbone": model[0], "dataset": pictures, "views": 0} | changes
        before = arguments["dataset"].asked
        features = cache_features(**arguments, file=file).tensors[0]
        anew = arguments["dataset"].asked > before
        assert anew or torch.equal(features, cache_features(**arguments).tensors[0])
        return anew

    assert computed() and not computed()
    assert computed(dataset=Pictures("other files")) and computed() and not computed()
    assert computed(views=1) and not computed(views=1)
    assert computed() and not computed()
    with torch.no_grad():
        model[0][0].bias += 1
    assert computed() and not computed()
    changed = nn.Sequential(*list(model[0])[:2], nn.ReLU6(), model[0][3])  # the same weights in another architecture
    assert computed(backbone=changed)
    before = freezing.fast_dtype("cpu")
    for dtype in (torch.bfloat16, torch.float16) if before is None else (None, before):
        monkeypatch.setattr(freezing, "fast_dtype", lambda device, dtype=dtype: dtype)
        assert computed() and not computed()


def test_a_damaged_file_of_features_is_refused_and_written_anew(model, tmp_path):
    file = tmp_path / "features.pt"
    good = cache_features(model[0], Pictures(), file=file).tensors[0]
    content = bytearray(file.read_bytes())
    content[content.index(good.numpy().tobytes()[:16])] ^= 1
    file.write_bytes(content)
    with pytest.warns(UserWarning, match="features.pt is damaged.*computed anew"):
        assert torch.equal(cache_features(model[0], Pictures(), file=file).tensors[0], good)
    pictures = Pictures()
    assert torch.equal(cache_features(model[0], pictures, file=file).tensors[0], good) and not pictures.asked


def test_a_file_needs_a_dataset_that_knows_its_images(model, tmp_path):
    with pytest.raises(ValueError, match="TensorDataset has no fingerprint"):
        cache_features(model[0], TensorDataset(IMAGES, torch.arange(6)), file=tmp_path / "features.pt")


@pytest.mark.parametrize("images, views", [(0, 0), (6, -1)])
def test_no_images_and_negative_views_are_refused(model, images, views):
    with pytest.raises(ValueError, match=f"{images} images and views={views} give no features"):
        cache_features(model[0], TensorDataset(IMAGES[:images], torch.arange(images)), views=views)
