"""Freezing: what stands still and what does not."""

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from course_utils.freezing import (
    cache_features,
    count_parameters,
    freeze,
    parameter_groups,
    train_mode,
    trainable_parameters,
    unfreeze,
)


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
    loader = DataLoader(TensorDataset(IMAGES, torch.arange(6)), batch_size=4)
    cached = cache_features(model[0], loader)
    features, labels = cached.tensors
    assert features.shape == (6, 144) and features.dtype == torch.float32 and labels.tolist() == list(range(6))
    model.eval()
    assert torch.allclose(features, model[0](IMAGES).flatten(1), atol=1e-6)
    model[2](features).sum().backward()
    assert model[2].weight.grad is not None
