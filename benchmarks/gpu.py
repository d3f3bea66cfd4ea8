"""Images a second on a GPU at 224 pixels: two backbones alone, full training, and the features of 25,000 images.

In bfloat16 (or float16), channels last, in batches of 128. The features are those of 600 training images of
COURSE_DATA, taken again and again: the input is prepared anew each time. "Files" are opened, decoded, resized and cut;
"decoded images" are in memory already. The input alone goes into a backbone that costs next to nothing. The start-up of
the workers and the look at the backbone are part of the time, as they are of a reader's. `make bench` runs it at its
end.
"""

import os
import sys
from contextlib import redirect_stdout
from functools import partial

import torch
from speed import WEIGHTS, Thumbnail, fastest, pretrained, seconds
from torch import nn
from torch.nn import functional as F
from torch.utils.data import Subset
from torchvision.models import resnet50

from course_utils.data import load_datasets
from course_utils.freezing import cache_features, fast_copy
from course_utils.runtime import fast_dtype, get_device

IMAGES, BATCH = 25_000, 128


def backbones() -> dict[str, nn.Module]:
    """Of ResNet-50 the weights are random: they cost the same time."""
    model = pretrained()
    heavy = nn.Sequential(*list(resnet50().children())[:-1])
    return {"EfficientNet-Lite0": nn.Sequential(model.features, model.avgpool), "ResNet-50": heavy}


def row(what: str, images: int, time: float) -> None:
    print(f"| {what} | {images / time:,.0f} |", flush=True)


def on_the_gpu() -> None:
    """The models' own speed, when the images are there already."""
    batches = torch.randn(8, BATCH, 3, 224, 224, device="cuda").to(fast_dtype("cuda"))
    batches = [batch.contiguous(memory_format=torch.channels_last) for batch in batches]
    labels = torch.zeros(BATCH, dtype=torch.long, device="cuda")
    count = len(batches) * BATCH

    def forward(backbone: nn.Module) -> None:
        with torch.inference_mode(), torch.autocast("cuda", fast_dtype("cuda")):
            for batch in batches:
                backbone(batch)
        torch.cuda.synchronize()

    model = pretrained().to("cuda", memory_format=torch.channels_last).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)

    def full_training() -> None:
        for batch in batches:
            with torch.autocast("cuda", fast_dtype("cuda")):
                loss = F.cross_entropy(model(batch), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        torch.cuda.synchronize()

    row("EfficientNet-Lite0, full training, images on the GPU", count, *fastest(3, full_training))
    for name, backbone in backbones().items():
        backbone.to("cuda", memory_format=torch.channels_last).eval()
        fast, compiled = fast_copy(backbone).to("cuda"), torch.compile(backbone)
        compiling = seconds(partial(forward, compiled))
        ways = {"forward": backbone, "`fast_copy`": fast, f"`torch.compile`, {compiling:.0f} s before": compiled}
        for way, time in zip(ways, fastest(5, *[partial(forward, one) for one in ways.values()])):
            row(f"{name}, {way}, images on the GPU", count, time)


def features() -> None:
    with redirect_stdout(sys.stderr):  # which images they are is said there; the table goes to stdout
        files = load_datasets(WEIGHTS.transforms(), per_class=500)[0]
    decoded, cores = files.decoded(), os.cpu_count()
    light = {"the input alone": Thumbnail()}
    for what, dataset, backbone, workers in (
        *[("files", files, light, workers) for workers in (0, cores // 2, cores)],
        ("decoded images", decoded, light, cores),
        ("files", files, backbones(), cores),
    ):
        count = IMAGES if workers else IMAGES // 10
        some = Subset(dataset, [index % len(dataset) for index in range(count)])
        for name, one in backbone.items():
            action = partial(cache_features, one, some, "cuda", workers=workers)
            row(f"`cache_features`, {name}, {count:,} {what}, {workers} workers", count, seconds(action))


if __name__ == "__main__":
    if get_device().type == "cuda":
        print(f"\n{torch.cuda.get_device_name()}, {os.cpu_count()} CPU cores, torch {torch.__version__}\n")
        print("| what | images/s |\n|---|---:|")
        on_the_gpu()
        features()
    else:
        print("\nGPU: not measured, PyTorch sees none of NVIDIA's or AMD's here.")
