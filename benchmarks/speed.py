"""How fast the course's ways are, as ratios within one run. `make bench` prints one Markdown table and exits with 0.

The images are those of COURSE_DATA (photos if they are at hand, else drawn), at 128 x 128 pixels; the backbone is
EfficientNet-Lite0. Two ways that are compared take turns, and the fastest run of each counts: what else the machine
does makes a run slower, never faster. Nothing is asserted: speed depends on the machine.

"The tutorial's manner" is the loop of https://docs.pytorch.org/tutorials/beginner/transfer_learning_tutorial.html: a
DataLoader with 4 workers that opens, crops and flips each file anew in each epoch, float32, training and validation in
turn. Its batches of 4 are 32 here, which is kinder to it.

The rows of saves are those of checkpoints.py for 100 MB, which says how they are measured. timm's loader is compared
where timm is installed (`pip install timm`).

Usage: python benchmarks/speed.py [ROW …], where a row is the name of a function below (default: all of them).
"""

import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import redirect_stdout
from pathlib import Path
from statistics import mean, median

import checkpoints
import torch
from PIL import Image
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchvision import transforms
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification

from course_utils.checkpoints import CheckpointFolder
from course_utils.data import AUGMENT, CatsAndDogs, load_datasets, make_loader
from course_utils.data.views import CropAndFlip
from course_utils.freezing import cache_features, fast_copy
from course_utils.models import EfficientNet_Lite0_Weights, SmallCNN, efficientnet_lite0, replace_head
from course_utils.runtime import fast_dtype, seed_everything
from course_utils.training import evaluate, fit, train_one_epoch

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = EfficientNet_Lite0_Weights.IMAGENET1K_V1
TRANSFORM = WEIGHTS.transforms(crop_size=128, resize_size=128)
TUTORIAL = v2.Compose([v2.RandomResizedCrop(128), v2.RandomHorizontalFlip(), TRANSFORM])
TUTORIALS_CROP = CropAndFlip(128, scale=(0.08, 1), ratio=(3 / 4, 4 / 3))  # RandomResizedCrop's own numbers
TRAIN, VAL, TEST, EPOCHS = 160, 40, 360, 25


def all_images():
    with redirect_stdout(sys.stderr):  # which images they are is said there; the table goes to stdout
        return load_datasets(TRANSFORM, per_class=1000, augment=AUGMENT)


def images():
    """TRAIN, VAL and TEST images; the last are for the accuracy only, outside of every measurement."""
    train, val, test = all_images()
    return train.take(TRAIN), val.take(VAL), test.take(TEST)


def pretrained() -> nn.Module:
    seed_everything(0)
    return replace_head(efficientnet_lite0(weights=WEIGHTS), 2)


def seconds(action) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def fastest(rounds: int, *actions) -> list[float]:
    """The fastest run of each action, in seconds. They take turns."""
    times = [[seconds(action) for action in actions] for _ in range(rounds)]
    return [min(column) for column in zip(*times)]


def row(what: str, against: str, ratio: float, bar: str, met: bool | None, note: str) -> None:
    """met=None: a line that has no bar."""
    verdict = {True: "yes", False: "**no**", None: ""}[met]
    print(f"| {what} | {against} | {ratio:.2f} | {bar} | {verdict} | {note} |", flush=True)


# --- the head of a frozen backbone -----------------------------------------------------------------------------------


def train_as_the_tutorial(model, train, val, epochs=EPOCHS, frozen=True) -> nn.Module:
    loaders = [
        DataLoader(dataset, batch_size=32, shuffle=True, num_workers=4)
        for dataset in (train.with_transform(TUTORIAL), val)
    ]
    for parameter in model.features.parameters():
        parameter.requires_grad = not frozen
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-3 if frozen else 1e-4)
    for _ in range(epochs):
        for phase, loader in enumerate(loaders):
            model.train(phase == 0)
            for batch, labels in loader:
                optimizer.zero_grad()
                with torch.set_grad_enabled(phase == 0):
                    loss = F.cross_entropy(model(batch), labels)
                if phase == 0:
                    loss.backward()
                    optimizer.step()
                loss.item()
    return model


def train_the_head(model, train, val, views=0) -> nn.Module:
    """Features once, then as many epochs and updates on them, and the validation of each epoch.

    views=EPOCHS: each epoch has its own augmented images, as in the tutorial's manner.
    """
    backbone = nn.Sequential(model.features, model.avgpool)
    train_features = cache_features(backbone, train, views=views, workers=2 if views else 0).tensors
    epochs = [TensorDataset(*part) for part in zip(*(tensor.split(len(train)) for tensor in train_features))]
    val_loader = DataLoader(cache_features(backbone, val), batch_size=32)
    optimizer = torch.optim.AdamW(model.classifier.parameters(), lr=1e-3)
    for epoch in range(EPOCHS):
        loader = DataLoader(epochs[epoch % len(epochs)], batch_size=32, shuffle=True)
        train_one_epoch(model.classifier, loader, optimizer)
        evaluate(model.classifier, val_loader)
    return model


def head() -> None:
    train, val, test = images()
    models = [pretrained(), pretrained()]
    tutorial = seconds(lambda: train_as_the_tutorial(models[0], train, val))
    decoded = torch.stack([image for dataset in (train, val) for image, _ in dataset])
    dtype = fast_dtype("cpu")
    reference = nn.Sequential(efficientnet_lite0(weights=WEIGHTS).features, nn.AdaptiveAvgPool2d(1)).eval()
    reference.to(dtype=dtype, memory_format=torch.channels_last)
    batches = decoded.to(dtype=dtype, memory_format=torch.channels_last).split(32)

    def one_pass():
        with torch.inference_mode():
            for batch in batches:
                reference(batch)

    augmented = CatsAndDogs(train.files, TRANSFORM, TUTORIALS_CROP)
    ours, forward = fastest(3, lambda: train_the_head(models[1], train, val), one_pass)
    models[1] = train_the_head(pretrained(), train, val)
    views = seconds(lambda: models.append(train_the_head(pretrained(), augmented, val, EPOCHS)))
    accuracies = [evaluate(model, make_loader(test))[1] for model in models]
    for seconds_of_ours, accuracy, what, bar in (
        (ours, accuracies[1], "without augmentation (the tutorial's manner augments)", 60),
        (views, accuracies[2], f"the tutorial's augmentation too: views={EPOCHS}", None),
    ):
        ratio = tutorial / seconds_of_ours
        note = (
            f"{tutorial:.1f} s, {seconds_of_ours:.2f} s; accuracy on {TEST} others {accuracies[0]:.1%}, {accuracy:.1%}"
        )
        what = f"{EPOCHS} epochs of a frozen backbone's head, {TRAIN} + {VAL} files to a validated head; {what}"
        met = accuracy >= accuracies[0] - 0.01 and ratio >= bar if bar else None
        row(what, "the tutorial's manner", ratio, f"≥ {bar} × less time" if bar else "", met, note)
    name = "bfloat16" if dtype else "float32 (no fast bfloat16 here)"
    row("the first of these", f"one {name}, channels_last pass, decoded", ours / forward, "≤ 2", ours <= 2 * forward,
        f"{ours:.2f} s, {forward:.2f} s")  # fmt: skip


# --- full fine-tuning ------------------------------------------------------------------------------------------------


def finetuning() -> None:
    train, val, _ = images()
    models = [pretrained() for _ in range(3)]
    models[1].to(memory_format=torch.channels_last)
    models[2].to(memory_format=torch.channels_last)

    def tutorial():
        train_as_the_tutorial(models[0], train, val, epochs=1, frozen=False)

    def ours(model, autocast=False):
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
        with torch.autocast("cpu", torch.bfloat16, enabled=autocast):
            train_one_epoch(model, make_loader(train.decoded(), shuffle=True), optimizer)
            evaluate(model, make_loader(val.decoded()))

    plain, fast, in_16_bits = fastest(3, tutorial, lambda: ours(models[1]), lambda: ours(models[2], True))
    note = f"{plain:.2f} s, {fast:.2f} s; the same under bfloat16 autocast {in_16_bits:.2f} s"
    what = f"one epoch of full fine-tuning, {TRAIN // 32} updates of 32 images, and its validation"
    row(what, "the tutorial's manner", plain / fast, "≥ 1.3 × less time", plain / fast >= 1.3, note)


# --- input -----------------------------------------------------------------------------------------------------------


def decode(file: Path) -> None:
    with Image.open(file) as picture:
        picture.convert("RGB")


def head_on(loader: Iterable, passes: int, backbone: nn.Module, held: TensorDataset) -> float:
    """Mean accuracy of five heads, trained on what the loader gives in so many passes, on held-out features."""
    with torch.no_grad():
        batches = [(backbone(images).flatten(1), labels) for _ in range(passes) for images, labels in loader]
    seen = TensorDataset(*map(torch.cat, zip(*batches)))
    accuracies = []
    for seed in range(5):
        seed_everything(seed)
        model = nn.Linear(1280, 2)
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for _ in range(10):
            train_one_epoch(model, make_loader(seen, shuffle=True, seed=seed), optimizer)
        accuracies.append(evaluate(model, make_loader(held))[1])
    return mean(accuracies)


def pipeline() -> None:
    """The same files and the same augmentation through three loaders, which start their workers anew each time."""
    train, val, test = all_images()
    files = train.take(31 * 32).files
    preset = ImageClassification(crop_size=128, resize_size=128)
    ours = make_loader(CatsAndDogs(files, preset, TUTORIALS_CROP), shuffle=True, workers=2)
    normalise = transforms.Normalize(preset.mean, preset.std)
    steps = [transforms.RandomResizedCrop(128), transforms.RandomHorizontalFlip(), transforms.ToTensor(), normalise]

    def folder(transform=None) -> ImageFolder:
        found = ImageFolder(files[0].parent.parent, transform)
        found.samples = [(str(file), label) for file, label in zip(files, ours.dataset.labels)]
        return found

    loaders = {"torchvision": DataLoader(folder(transforms.Compose(steps)), 32, shuffle=True, num_workers=2)}
    try:
        from timm.data import create_loader
    except ModuleNotFoundError:
        print("timm's loader was not measured: `pip install timm`, and run again.", file=sys.stderr)
    else:  # without its colours changed: like with like
        loaders["timm"] = create_loader(
            folder(), (3, 128, 128), 32, is_training=True, use_prefetcher=False, color_jitter=0, num_workers=2,
            persistent_workers=False,
        )  # fmt: skip
    actions = [lambda loader=loader: [None for _ in loader] for loader in (ours, *loaders.values())]
    with multiprocessing.Pool(2) as pool:
        *times, alone = fastest(7, *actions, lambda: pool.map(decode, files, chunksize=32))
    each = [1000 * one / len(files) for one in (*times, alone)]
    backbone = nn.Sequential(pretrained().features, nn.AdaptiveAvgPool2d(1))
    held = cache_features(backbone, CatsAndDogs(val.files + test.files, preset))
    backbone = fast_copy(backbone)
    accuracies = [head_on(loader, 3, backbone, held) for loader in (ours, loaders["torchvision"])]
    others = ", ".join(f"{name} {one:.2f}" for name, one in zip(loaders, each[1:]))
    note = (
        f"{each[0]:.2f} ms an image; {others}; a head on it {accuracies[0]:.1%}, on torchvision's {accuracies[1]:.1%}"
    )
    ratio = times[0] / min(times[1:])
    met = ratio <= 0.95 and accuracies[0] >= accuracies[1] - 0.005
    what = "decode, crop, flip, resize, normalise, collate; 2 workers"
    row(what, f"the faster of {' and '.join(loaders)}", ratio, "≤ 0.95", met, note)
    row("the same", "PIL decoding alone, 2 processes", times[0] / alone, "", None, f"{each[-1]:.2f} ms")


class Thumbnail(nn.Module):
    """A backbone that costs next to nothing, as one does on a GPU."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, :, ::32, ::32]


def features() -> None:
    """The preparation of the input alone, of so many images that the start of the workers is a small part of it; then
    with EfficientNet-Lite0, which wants the same two cores."""
    train = all_images()[0].with_transform(WEIGHTS.transforms())
    many = Subset(train, [*range(len(train))] * 8)
    light, heavy = Thumbnail(), nn.Sequential(pretrained().features, nn.AdaptiveAvgPool2d(1))
    actions = [
        lambda backbone=backbone, data=data, workers=workers: cache_features(backbone, data, workers=workers)
        for backbone, data in ((light, many), (heavy, train))
        for workers in (0, 2)
    ]
    times = fastest(3, *actions)
    ratio = times[0] / times[1]
    each = [f"{1000 * one / count:.2f}" for one, count in zip(times, 2 * [len(many)] + 2 * [len(train)])]
    note = f"{each[0]}, {each[1]} ms an image; with EfficientNet-Lite0 on the same cores {each[2]}, {each[3]}"
    row("`cache_features` at 224 px, input alone, 2 workers", "without workers", ratio, "≥ 1.6 × less time",
        ratio >= 1.6, note)  # fmt: skip


# --- the loop --------------------------------------------------------------------------------------------------------


def loop() -> None:
    seed_everything(0)
    dataset = TensorDataset(torch.randn(1280, 3, 64, 64), torch.randint(2, (1280,)))
    few = TensorDataset(*dataset[:64])

    def model_and_optimizer():
        model = SmallCNN()
        return model, torch.optim.AdamW(model.parameters())

    def bare():
        model, optimizer = model_and_optimizer()
        model.train()
        for batch, labels in DataLoader(dataset, batch_size=32, shuffle=True):
            loss = F.cross_entropy(model(batch), labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            for batch, labels in DataLoader(few, batch_size=32):
                F.cross_entropy(model(batch), labels)

    def ours():
        with tempfile.TemporaryDirectory(dir=ROOT) as place:
            loaders = DataLoader(dataset, batch_size=32, shuffle=True), DataLoader(few, batch_size=32)
            fit(*model_and_optimizer(), *loaders, epochs=1, folder=CheckpointFolder(Path(place)))

    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # two wait for each other as soon as anything else runs, for longer than what is measured
    fit_seconds, bare_seconds = fastest(9, ours, bare)
    torch.set_num_threads(threads)
    note = f"an epoch of 40 steps with one checkpoint at its end, one thread: {fit_seconds:.3f} s, {bare_seconds:.3f} s"
    ratio = fit_seconds / bare_seconds
    row("`fit` with metrics, history and checkpoints", "a bare loop", ratio, "≤ 1.02", ratio <= 1.02, note)


# --- the notebooks ---------------------------------------------------------------------------------------------------


def notebooks() -> None:
    """`make test-notebooks`, strict nbval, of the lessons and of all notebooks, against as many start-ups."""
    from nbclient import NotebookClient
    from nbformat.v4 import new_code_cell, new_notebook

    os.environ |= {"COURSE_DATA": "drawn", "OMP_NUM_THREADS": "1"}
    os.environ.pop("COURSE_DATA_DIR", None)  # `make bench` has drawn the images in the checkout's own folder
    lessons, practice = (len([*(ROOT / "notebooks").glob(names)]) for names in ("*.ipynb", "practice/*.ipynb"))

    def start_up():
        NotebookClient(new_notebook(cells=[new_code_cell("import torch, torchvision")])).execute()

    def nbval(*settings):  # -o: without its look whether the images are drawn
        command = ["make", "-o", "drawn", "test-notebooks", f"BIN={Path(sys.executable).parent}", *settings]
        subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)

    one = mean(seconds(start_up) for _ in range(lessons))
    for what, count, settings in (
        (f"the {lessons} lessons", lessons, ["PRACTICE="]),
        ("all notebooks", lessons + practice, []),
    ):
        time = seconds(lambda settings=settings: nbval(*settings))
        note = f"{time:.0f} s, {count} x {one:.2f} s"
        row(f"strict nbval of {what}, two at a time", "start-ups and `import torch, torchvision`", time / one / count,
            "≤ 3", time <= 3 * one * count, note)  # fmt: skip


# --- saves -----------------------------------------------------------------------------------------------------------


def saves() -> None:
    """In a process of their own, whose memory is managed in another way (see checkpoints.py)."""
    new_process = multiprocessing.get_context("spawn").Pool(1, initializer=checkpoints.always_take_new_memory)
    with tempfile.TemporaryDirectory(dir=ROOT) as place, new_process as pool:
        times = pool.apply(checkpoints.measure, (100, Path(place)))
    for heading, (measured, against, bar) in checkpoints.RATIOS.items():
        if measured in ("epoch that is the best", "background save"):
            low, middle = (of(times[measured]) / of(times[against]) for of in (checkpoints.lower_quartile, median))
            note = f"100 MB: {checkpoints.lower_quartile(times[measured]):.0f} ms; by the medians {middle:.2f}"
            row(heading.split(" / ")[0], against, low, f"≤ {bar}", max(low, middle) <= bar, note)


def growth() -> None:
    """How time and memory grow with the number of images: see growth.py."""
    subprocess.run([sys.executable, ROOT / "benchmarks" / "growth.py"], check=True)


def gpu() -> None:
    """On a GPU, images a second: see gpu.py."""
    subprocess.run([sys.executable, ROOT / "benchmarks" / "gpu.py"], check=True)


ROWS = {
    function.__name__: function
    for function in (head, finetuning, pipeline, features, loop, notebooks, saves, growth, gpu)
}

if __name__ == "__main__":
    print("| what | against | ratio | bar | met | measured |\n|---|---|---:|---|---|---|", flush=True)
    for name in sys.argv[1:] or ROWS:
        ROWS[name]()
