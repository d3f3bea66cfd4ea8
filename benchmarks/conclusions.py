"""Which way wins, on drawn images and on photos: measures what lessons 05 to 07 say. `make lessons-on-photos`

Each statement says that one way is right more often than another. Both are tried with the same seeds, and a seed has
training images, first weights and an order of its own. What decides are the 400 images of the validation and the test
split, the same for all. Behind ± stand two standard errors of the difference: the one of the images that decide and the
one of the seeds, added as squares. A difference that is not larger than that is taken for chance.

The photos are those of `load_datasets`: COURSE_ARCHIVE_URL names another archive than the original. Features are kept
in COURSE_DATA_DIR/conclusions, so that a second run takes the trainings only. The table goes into data/README.md.

Usage: python benchmarks/conclusions.py [--seeds 3] [--per-class 500] [--only WORD]
"""

import argparse
import copy
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.optim import Adam, AdamW
from torch.optim.lr_scheduler import CosineAnnealingLR
from torch.optim.swa_utils import update_bn
from torch.utils.data import DataLoader, Subset, TensorDataset
from torchvision.transforms import InterpolationMode

from course_utils.data import AUGMENT, CatsAndDogs, load_datasets
from course_utils.freezing import cache_features, freeze, parameter_groups, unfreeze
from course_utils.models import SMALL_CNN_TRANSFORM, EfficientNet_Lite0_Weights, SmallCNN, efficientnet_lite0
from course_utils.runtime import data_dir
from course_utils.training import train_one_epoch

README = Path(__file__).resolve().parent.parent / "data" / "README.md"
START, END = "<!-- made by `make lessons-on-photos` -->", "<!-- until here -->"
SOURCES = ("drawn", "photos")

WEIGHTS = EfficientNet_Lite0_Weights.IMAGENET1K_V1
USUAL = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}  # of many other models
PREPROCESSINGS = {
    "right": WEIGHTS.transforms(),
    "whole, bilinear": WEIGHTS.transforms(resize_size=224, interpolation=InterpolationMode.BILINEAR),
    "usual mean and std": WEIGHTS.transforms(**USUAL),
    "0..1": WEIGHTS.transforms(mean=(0, 0, 0), std=(1, 1, 1)),
    "0..255": WEIGHTS.transforms(mean=(0, 0, 0), std=(1 / 255,) * 3),
    "64 pixels": WEIGHTS.transforms(crop_size=64),
    "80 pixels": WEIGHTS.transforms(crop_size=80),
    "112 pixels": WEIGHTS.transforms(crop_size=112),
    "small CNN": SMALL_CNN_TRANSFORM,
}


def train(model: nn.Module, data, optimizer: torch.optim.Optimizer, epochs: int, batch: int = 20, cosine=True):
    """Train with or without a falling learning rate; returns the model."""
    scheduler = CosineAnnealingLR(optimizer, epochs) if cosine else None
    model.to(memory_format=torch.channels_last)
    for _ in range(epochs):
        train_one_epoch(model, DataLoader(data, batch, shuffle=True), optimizer)
        if scheduler:
            scheduler.step()
    return model


@torch.no_grad()
def right(model: nn.Module, data: TensorDataset) -> Tensor:
    """For each image 1.0 or 0.0: is the model's answer right?"""
    model.eval()
    answers = torch.cat([model(batch).argmax(1) for batch in data.tensors[0].split(50)])
    return (answers == data.tensors[1]).float()


def new_head() -> nn.Module:
    return nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, 2))


def batchnorms(model: nn.Module) -> list[nn.Module]:
    return [layer for layer in model.modules() if isinstance(layer, nn.BatchNorm2d)]


def hold_statistics(layer: nn.Module) -> None:
    layer.eval()
    layer.train = lambda mode=True: layer  # deaf to model.train()


class Ways:
    """What the lessons compare, on the images of one source. A way gives `right` for each image of `held`."""

    def __init__(self, train: CatsAndDogs, held: CatsAndDogs, folder: Path):
        self.data, self.folder, self.kept = {"train": train, "held": held}, folder, {}
        folder.mkdir(parents=True, exist_ok=True)
        self.model = efficientnet_lite0(weights=WEIGHTS).eval()
        self.backbone = nn.Sequential(self.model.features, self.model.avgpool, nn.Flatten())

    def once(self, name: str, make):
        if name not in self.kept:
            self.kept[name] = make()
        return self.kept[name]

    def answers(self, way: Callable, seed: int) -> Tensor:
        """`way(self, seed)`, computed once: several statements compare with the same way."""
        name = f"{way.func.__name__} {way.keywords}" if isinstance(way, partial) else way.__name__
        return self.once(f"{name} {seed}", lambda: way(self, seed))

    def images(self, part: str, name: str) -> TensorDataset:
        def make():
            images, labels = zip(*self.data[part].with_transform(PREPROCESSINGS[name]))
            return TensorDataset(torch.stack(images), torch.tensor(labels))

        return self.once(f"images {part} {name}", make)

    def features(self, part: str, name: str = "right", network: nn.Module | None = None, of="whole") -> TensorDataset:
        def make():
            dataset = self.data[part].with_transform(PREPROCESSINGS[name])
            return cache_features(network or self.backbone, dataset, file=self.folder / f"{part} {name} {of}.pt")

        return self.once(f"features {part} {name} {of}", make)

    def chosen(self, seed: int, count: int) -> Tensor:
        """Which training images: `count`, half of each class, a cat and a dog in turn."""
        labels, generator = torch.tensor(self.data["train"].labels), torch.Generator().manual_seed(seed)
        by_class = [(labels == which).nonzero().flatten() for which in (0, 1)]
        mixed = [ids[torch.randperm(len(ids), generator=generator)] for ids in by_class]
        half = min(count // 2, *map(len, mixed))
        return torch.stack([ids[:half] for ids in mixed], dim=1).flatten()

    # Lesson 05

    def guessing(self, seed: int) -> Tensor:
        return torch.full((len(self.data["held"]),), 0.5)

    def zero_shot(self, seed: int) -> Tensor:
        features, labels = self.features("held").tensors
        with torch.no_grad():
            chances = self.model.classifier[1](features).softmax(dim=1)
        dog = chances[:, 151:269].sum(dim=1) > chances[:, 281:286].sum(dim=1)
        return (dog == labels.bool()).float()

    def scratch(self, seed: int, count=400, epochs=30) -> Tensor:
        data = TensorDataset(*self.images("train", "small CNN")[self.chosen(seed, count)])
        torch.manual_seed(seed)
        model = SmallCNN()
        return right(train(model, data, AdamW(model.parameters(), lr=3e-3), epochs), self.images("held", "small CNN"))

    def trained_head(self, seed: int, count: int, name: str, lr: float = 3e-3) -> nn.Module:
        data = TensorDataset(*self.features("train", name)[self.chosen(seed, count)])
        torch.manual_seed(seed)
        head = new_head()
        repeated = Subset(data, [i % len(data) for i in range(400)])  # as many steps with few images as with many
        return train(head, repeated, AdamW(head.parameters(), lr=lr), epochs=8)

    def head(self, seed: int, count=400, trained="right", asked=None, lr=3e-3) -> Tensor:
        return right(self.trained_head(seed, count, trained, lr), self.features("held", asked or trained))

    def augmented(self, seed: int, views=10) -> Tensor:
        train_images = self.data["train"]
        files = [train_images.files[i] for i in self.chosen(seed, 20)]
        few = CatsAndDogs(files, train_images.transform, AUGMENT)
        data = cache_features(self.backbone, few, views=views, file=self.folder / f"views {seed}.pt")
        torch.manual_seed(seed)
        head = new_head()
        train(head, data, AdamW(head.parameters(), lr=3e-3), epochs=16)
        return right(head, self.features("held"))

    def weighted(self, seed: int, weights=False) -> Tensor:
        """The images of the rare class only: 40 cats among 160 dogs."""
        order = self.chosen(seed, 320)
        ids = torch.cat([order[::2][: len(order) // 8], order[1::2]])
        x, y = self.features("train")[ids]
        counts = y.bincount()
        torch.manual_seed(seed)
        head = nn.Linear(1280, 2)
        optimizer = AdamW(head.parameters(), lr=3e-3)
        for _ in range(200):
            loss = F.cross_entropy(head(x), y, len(y) / (2 * counts) if weights else None)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return right(head, self.features("held"))[self.features("held").tensors[1] == 0]

    def front(self, part: str) -> TensorDataset:
        """The output of the first six stages, which stand still while the others are tuned."""
        features, labels = self.features(part, network=self.model.features[:6], of="first stages").tensors
        return TensorDataset(features.view(-1, 112, 14, 14), labels)

    def tuned(self, seed: int, still=True, factor=1, epochs=5) -> Tensor:
        head, stages = self.trained_head(seed, 100, "right"), copy.deepcopy(self.model.features[6:])
        for layer in batchnorms(stages) if still else []:
            hold_statistics(layer)
        rates = [(stages[0], 1e-4 * factor), (stages[1:], 2e-4 * factor), (head, 1e-3 * factor)]
        data = TensorDataset(*self.front("train")[self.chosen(seed, 100)])
        tuned = nn.Sequential(stages, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head)
        torch.manual_seed(seed)
        train(tuned, data, AdamW(parameter_groups(rates)), epochs)
        return right(tuned, self.front("held"))

    # Lesson 06: 160 images of 80 pixels

    def small(self, seed: int) -> TensorDataset:
        return TensorDataset(*self.images("train", "80 pixels")[self.chosen(seed, 160)])

    def small_scratch(self, seed: int) -> Tensor:
        torch.manual_seed(seed)
        model = nn.Sequential(nn.AvgPool2d(2), SmallCNN())
        train(model, self.small(seed), Adam(model.parameters(), lr=1e-3), 12, 16, cosine=False)
        return right(model, self.images("held", "80 pixels"))

    def phase_0(self, seed: int, own_statistics=False) -> tuple[nn.Module, Adam]:
        """The whole model with a head that was trained for ten epochs, and its optimizer."""
        torch.manual_seed(seed)
        model, data = copy.deepcopy(self.model), self.small(seed)
        model.classifier = new_head()
        freeze(model.features)
        if own_statistics:
            update_bn(DataLoader(data, 16), model)
        with torch.no_grad():
            model.eval()
            features = [model.avgpool(model.features(batch)).flatten(1) for batch in data.tensors[0].split(32)]
        optimizer = Adam(model.classifier.parameters(), lr=1e-3)
        train(model.classifier, TensorDataset(torch.cat(features), data.tensors[1]), optimizer, 10, 16, cosine=False)
        return model, optimizer

    def head_only(self, seed: int, own_statistics=False) -> Tensor:
        return right(self.phase_0(seed, own_statistics)[0], self.images("held", "80 pixels"))

    def gradual(self, seed: int) -> Tensor:
        model, optimizer = self.phase_0(seed)
        unfreeze(model.features[7:])
        for layer in batchnorms(model):
            freeze(layer)
        last = [parameter for parameter in model.features.parameters() if parameter.requires_grad]
        optimizer.add_param_group({"params": last, "lr": 1e-4})
        train(model, self.small(seed), optimizer, 1, 16, cosine=False)
        return right(model, self.images("held", "80 pixels"))

    def full(self, seed: int, batchnorm="frozen", head_first=False) -> Tensor:
        prepare = {"frozen": freeze, "free": unfreeze, "recomputed": unfreeze, "statistics still": hold_statistics}
        torch.manual_seed(seed)
        if head_first:
            model, _ = self.phase_0(seed)
            unfreeze(model.features)
        else:
            model = copy.deepcopy(self.model)
            model.classifier = new_head()
        for layer in batchnorms(model):
            prepare[batchnorm](layer)
        groups = parameter_groups([(model.features, 1e-4), (model.classifier, 1e-3)])
        train(model, self.small(seed), Adam(groups), 2, 16, cosine=False)
        if batchnorm == "recomputed":
            update_bn(DataLoader(self.small(seed), 16), model)
        return right(model, self.images("held", "80 pixels"))

    # Lesson 07: 160 images of 112 pixels

    def head_on(self, seed: int, data: TensorDataset) -> Tensor:
        torch.manual_seed(seed)
        head = new_head()
        train(head, data, Adam(head.parameters(), lr=1e-3), 10, 16, cosine=False)
        return right(head, self.features("held", "112 pixels"))

    def head_07(self, seed: int, count=160) -> Tensor:
        return self.head_on(seed, TensorDataset(*self.features("train", "112 pixels")[self.chosen(seed, count)]))

    def nearest(self, seed: int, count=160) -> Tensor:
        features, labels = self.features("held", "112 pixels").tensors
        known, known_labels = self.features("train", "112 pixels")[self.chosen(seed, count)]
        votes = known_labels[(F.normalize(features) @ F.normalize(known).T).topk(5).indices]
        return (votes.float().mean(1).round() == labels).float()

    def train_mode_features(self, seed: int) -> Tensor:
        """A head on features made in train mode, batch after batch of one class, as the files lie in their folders."""
        x, y = self.images("train", "112 pixels")[self.chosen(seed, 160).sort().values]  # all cats, then all dogs
        with torch.no_grad():
            network = copy.deepcopy(self.backbone).train()
            features = torch.cat([network(batch) for batch in x.split(20)])
        return self.head_on(seed, TensorDataset(features, y))


HEAD, FEW, SCRATCH, TUNED = Ways.head, partial(Ways.head, count=20), Ways.scratch, Ways.tuned
HEAD_06, FULL, FREE = Ways.head_only, Ways.full, partial(Ways.full, batchnorm="free")
AFTER_HEAD, AFTER_HEAD_FREE = partial(FULL, head_first=True), partial(FULL, batchnorm="free", head_first=True)
HEAD_07, FEW_07 = Ways.head_07, partial(Ways.head_07, count=20)

# The lesson, the way that should be right more often, and what it should beat.
STATEMENTS = [
    ("05", "without training, by ImageNet's classes", Ways.zero_shot, "guessing", Ways.guessing),
    ("05", "from scratch, 400 images", SCRATCH, "guessing", Ways.guessing),
    ("05", "a head on features, 400 images", HEAD, "from scratch, 400 images", SCRATCH),
    ("05", "a head on features, 20 images", FEW, "from scratch, 400 images", SCRATCH),
    ("05", "a head, 400 images", HEAD, "a head, 20 images", FEW),
    ("05", "256, the middle 224, bicubic", HEAD, "224, bilinear", partial(HEAD, trained="whole, bilinear")),
    ("05", "the right pixels", HEAD, "ImageNet's usual mean and std", partial(HEAD, asked="usual mean and std")),
    ("05", "the right pixels", HEAD, "pixels 0..1", partial(HEAD, asked="0..1")),
    ("05", "the right pixels", HEAD, "pixels 0..255", partial(HEAD, asked="0..255")),
    ("05", "the right pixels", HEAD, "64 × 64, of a head for 224", partial(HEAD, asked="64 pixels")),
    ("05", "a head for 224 × 224", HEAD, "a head for 64 × 64", partial(HEAD, trained="64 pixels")),
    ("05", "a head at learning rate 0.003", HEAD, "at 0.00001", partial(HEAD, lr=1e-5)),
    ("05", "a head at learning rate 0.003", HEAD, "at 10", partial(HEAD, lr=10.0)),
    ("05", "20 images, 10 views of each", Ways.augmented, "20 images as they are", FEW),
    ("05", "40 rare among 160: class weights", partial(Ways.weighted, weights=True), "none", Ways.weighted),
    ("05", "fine-tuned, 100 images", TUNED, "head only, 100 images", partial(HEAD, count=100)),
    ("05", "fine-tuned, BatchNorm still", TUNED, "in train mode", partial(TUNED, still=False)),
    ("05", "fine-tuned", TUNED, "one epoch at 100 times the rates", partial(TUNED, factor=100, epochs=1)),
    ("06", "head only, 160 images, 80 × 80", HEAD_06, "from scratch", Ways.small_scratch),
    ("06", "gradual unfreezing", Ways.gradual, "head only", HEAD_06),
    ("06", "full training, BatchNorm frozen", FULL, "head only", HEAD_06),
    ("06", "full training, BatchNorm frozen", FULL, "BatchNorm free", FREE),
    ("06", "full after a trained head", AFTER_HEAD, "head only", HEAD_06),
    ("06", "full after a trained head, BatchNorm frozen", AFTER_HEAD, "BatchNorm free", AFTER_HEAD_FREE),
    ("06", "its statistics still", partial(FULL, batchnorm="statistics still"), "BatchNorm free", FREE),
    ("06", "BatchNorm free, statistics recomputed", partial(FULL, batchnorm="recomputed"), "not recomputed", FREE),
    ("06", "head only, ImageNet's statistics", HEAD_06, "our own", partial(HEAD_06, own_statistics=True)),
    ("07", "a head, 160 images, 112 × 112", HEAD_07, "5 nearest neighbours", Ways.nearest),
    ("07", "a head, 20 images", FEW_07, "5 nearest neighbours", partial(Ways.nearest, count=20)),
    ("07", "features made in eval mode", HEAD_07, "in train mode, by class", Ways.train_mode_features),
]


def measure(ways: Ways, statements: list, seeds: int) -> list[tuple[float, float, float, float]]:
    """For each statement, in per cent: how often the two ways are right, their difference, two standard errors."""
    found = []
    for lesson, winner, way, loser, other in statements:
        start = time.perf_counter()
        one, two = (torch.stack([ways.answers(each, seed) for seed in range(seeds)]) for each in (way, other))
        by_image, by_seed = (one - two).mean(dim=0), (one - two).mean(dim=1)
        variance = by_image.var() / len(by_image) + (by_seed.var() / seeds if seeds > 1 else 0)
        numbers = [one.mean(), two.mean(), by_seed.mean(), 2 * variance.sqrt()]
        found.append(tuple(100 * number.item() for number in numbers))
        line = f"{lesson} {winner} > {loser}: {found[-1][2]:+.1f} ± {found[-1][3]:.1f}"
        print(f"{line} ({time.perf_counter() - start:.0f} s)", file=sys.stderr, flush=True)
    return found


def holds_on(differences: list[tuple[float, float]]) -> str:
    """On which of the sources the difference is larger than its error; and where it is so the other way round."""
    holds = [source for source, (difference, error) in zip(SOURCES, differences) if difference > error]
    turned = [source for source, (difference, error) in zip(SOURCES, differences) if -difference > error]
    words = "both" if len(holds) == 2 else f"{holds[0]} only" if holds else "neither"
    return f"{words}; the other way round on {' and '.join(turned)}" if turned else words


def table(statements: list, results: dict[str, list[tuple]], about: str) -> str:
    """The statements as Markdown, with the numbers of each source."""
    lines = [
        about,
        "",
        "| lesson | this way … | … beats that way | drawn | photos | holds on |",
        "|---|---|---|---|---|---|",
    ]
    for (lesson, winner, _, loser, _), *each in zip(statements, *(results[source] for source in SOURCES), strict=True):
        cells = [f"{one:.1f} – {two:.1f} = {difference:+.1f} ± {error:.1f}" for one, two, difference, error in each]
        lines.append(f"| {lesson} | {winner} | {loser} | {cells[0]} | {cells[1]} | {holds_on([c[2:] for c in each])} |")
    return "\n".join(lines)


def write(text: str, file: Path) -> None:
    before, _, rest = file.read_text(encoding="utf-8").partition(START)
    file.write_text(f"{before}{START}\n{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--per-class", type=int, default=500)
    parser.add_argument("--only", default="", metavar="WORD", help="only the statements with this word; prints them")
    options = parser.parse_args()
    statements = [row for row in STATEMENTS if options.only in f"{row[0]} {row[1]}"]
    results = {}
    for source in SOURCES:
        with redirect_stdout(sys.stderr):
            train_images, val, test = load_datasets(WEIGHTS.transforms(), options.per_class, source)
        held = CatsAndDogs(val.files + test.files, val.transform)
        results[source] = measure(
            Ways(train_images, held, data_dir() / "conclusions" / source), statements, options.seeds
        )
    about = (
        f"Right answers among {len(held)} images in per cent: this way – that way = difference ± two standard errors. "
        f"{options.seeds} seeds, torch {torch.__version__.partition('+')[0]}."
    )
    text = table(statements, results, about)
    print(text)
    if not options.only:
        write(text, README)


if __name__ == "__main__":
    main()
