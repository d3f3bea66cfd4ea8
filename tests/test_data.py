"""Datasets and loaders: splits, order and augmentation as pure functions."""

import io
import json
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from torch.utils.data import ConcatDataset, DataLoader, Dataset, IterableDataset, Subset, TensorDataset, random_split
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2
from torchvision.transforms._presets import ImageClassification

from course_utils.data import AUGMENT, CLASSES, CatsAndDogs, EpochSampler, archive, datasets, load_datasets, make_loader
from course_utils.data.archive import ArchiveError, ArchiveUnreachable
from course_utils.data.views import collate

TO_TENSOR = v2.Compose([v2.Resize((32, 32)), v2.ToImage(), v2.ToDtype(torch.float32, scale=True)])


@pytest.fixture(scope="module")
def drawn():
    return load_datasets(TO_TENSOR, per_class=60, source="drawn", augment=AUGMENT)


def names(dataset):
    return {f"{path.parent.name}/{path.stem}" for path in dataset.files}


def test_every_image_is_in_exactly_one_split(drawn):
    train, val, test = map(names, drawn)
    assert len(train | val | test) == len(train) + len(val) + len(test) == 120


def test_an_image_keeps_its_split_when_images_are_added(drawn):
    fewer = load_datasets(TO_TENSOR, per_class=40, source="drawn")
    for small, large in zip(fewer, drawn):
        assert names(small) < names(large)


@pytest.mark.parametrize("cats, dogs", [(200, 200), (333, 200), (1000, 1042), (2000, 2000), (12_499, 12_499)])
@pytest.mark.parametrize("step", [1, 5, 12, 256])
def test_every_class_gets_its_share_of_any_archive(monkeypatch, cats, dogs, step):
    """Whatever its numbers are, and with every count of images on the way."""
    archive = [[Path(name, f"{step * n}.jpg") for n in range(count)] for name, count in zip(CLASSES, (cats, dogs))]
    before = [set(), set(), set()]
    for per_class in (200, 500, 777, 20_000):
        monkeypatch.setattr(datasets, "find_images", lambda count, _: [*archive[0][:count], *archive[1][:count]])
        splits = load_datasets(TO_TENSOR, per_class)
        for split, share, earlier in zip(splits, (0.6, 0.2, 0.2), before):
            for label, count in enumerate((cats, dogs)):
                assert abs(split.labels.count(label) - share * min(count, per_class)) <= 1
            assert earlier <= set(split.files), "an image went to another split"
            earlier |= set(split.files)
    assert sum(map(len, splits)) == len(set().union(*before)) == cats + dogs


def test_500_of_each_class_are_enough_for_the_lessons(drawn, monkeypatch):
    monkeypatch.setattr(datasets, "is_whole", lambda file: True)  # only the names are asked for
    train, val, test = load_datasets(TO_TENSOR, per_class=500, source="drawn")
    assert [len(train.take(600)), len(val.take(200)), len(test.take(200))] == [600, 200, 200]


def test_an_image_is_a_float_tensor_and_its_label_is_its_folder(drawn):
    image, label = drawn[0][0]
    assert image.shape == (3, 32, 32) and image.dtype == torch.float32
    assert drawn[0].classes[label] == drawn[0].files[0].parent.name


def test_augmentation_depends_on_seed_epoch_and_index_and_on_nothing_else(drawn):
    train = drawn[0]
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = train[(1, 3)][0]
    assert torch.equal(torch.get_rng_state(), before), "the RNG of the training moved"
    torch.manual_seed(2)
    assert torch.equal(train[(1, 3)][0], first)
    assert not torch.equal(train[(2, 3)][0], first)
    other_seed = CatsAndDogs(train.files, train.transform, AUGMENT, seed=1)
    assert not torch.equal(other_seed[(1, 3)][0], first)
    assert not torch.equal(train[3][0], first), "a plain index is never augmented"


def test_augmentation_leaves_every_generator_as_it_was(drawn, monkeypatch):
    """torch.manual_seed would seed the GPUs' generators as well, which dropout on a GPU uses."""
    monkeypatch.setattr(torch.cuda, "manual_seed_all", lambda seed: pytest.fail("the GPUs were seeded"))
    before = torch.get_rng_state()
    drawn[0][(1, 3)]
    assert torch.equal(torch.get_rng_state(), before)


SMALL = ImageClassification(crop_size=40, resize_size=50, interpolation=v2.InterpolationMode.BICUBIC)


@pytest.fixture(scope="module")
def preset(drawn):
    return drawn[0].with_transform(SMALL).take(20)


@pytest.mark.parametrize("size", [(180, 180), (61, 200), (320, 51)])
def test_torchvisions_preprocessing_gives_the_same_bits_as_alone(tmp_path, size):
    noise = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    dataset = CatsAndDogs([tmp_path / "Cat" / "0.png"], SMALL, AUGMENT)
    dataset.pictures = [Image.fromarray(noise)]
    assert torch.equal(dataset[0][0], SMALL(dataset.pictures[0]))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_batch_holds_the_same_bits_as_its_images_one_by_one(preset, workers):
    plain = torch.stack([image for image, _ in preset]), torch.tensor(preset.labels)
    keys = [(3, index) for index in range(len(preset))]
    augmented = torch.stack([preset[key][0] for key in keys]), plain[1]
    assert not torch.equal(plain[0], augmented[0])
    ours = make_loader(preset, 20, workers=workers)
    foreign = DataLoader(preset, 20, num_workers=workers)
    half = DataLoader(Subset(preset, range(20)), 20, sampler=keys, num_workers=workers, collate_fn=collate)
    half.dataset.indices = {key: key for key in keys}
    for loader, expected in ((ours, plain), (foreign, plain), (half, augmented)):
        [batch] = loader
        assert all(map(torch.equal, batch, expected)) and [part.dtype for part in batch] == [torch.float32, torch.int64]
    shuffled = make_loader(preset, 20, shuffle=True, workers=workers)
    shuffled.sampler.set_epoch(3)
    [(images, labels)] = shuffled
    order = [index for _, index in shuffled.sampler]
    assert torch.equal(images, augmented[0][order]) and labels.tolist() == [preset.labels[index] for index in order]


def test_a_subclass_with_its_own_items_is_asked_for_them(preset):
    class Negative(CatsAndDogs):
        def __getitem__(self, key):
            image, label = super().__getitem__(key)
            return -image, label

    images, _ = next(iter(make_loader(Negative(preset.files, SMALL), 20)))
    assert torch.equal(images, -torch.stack([image for image, _ in preset]))


def test_a_crop_with_torchvisions_preprocessing_costs_one_resize_and_shows_the_same(preset, monkeypatch):
    calls, resize = [], Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, *rest, **more: calls.append(1) or resize(self, *rest, **more)
    )
    for index in range(6):
        picture = preset.image(index)
        calls.clear()
        one = preset[(1, index)][0]
        assert len(calls) == 1
        wide = AUGMENT.part(picture, random.Random(datasets.seed_of(0, 1, index)), 160)
        assert (one - SMALL(wide)).abs().mean() < 0.1, "the same part, the same way round, off by what resizing blurs"
        assert (one.flip(2) - SMALL(wide)).abs().mean() > 0.2


def test_a_crop_is_a_part_of_the_size_and_shape_that_were_asked_for():
    """The picture's red is its x and its green its y, so that the crop's corners say where it was."""
    x, y = np.meshgrid(np.arange(240), np.arange(200))
    picture = Image.fromarray(np.stack([x, y, 0 * x], 2).astype(np.uint8))
    mirrored, areas, ratios = 0, [], []
    for seed in range(300):
        corners = np.asarray(AUGMENT.part(picture, random.Random(seed), 200)).astype(float)
        wide, high = (corners[-1, -1] - corners[0, 0])[:2]
        mirrored += wide < 0
        areas.append(abs(wide) * high / (240 * 200))
        ratios.append(abs(wide) / high)
    assert 0.58 < min(areas) < 0.63 and 0.95 < max(areas) <= 1
    assert 0.78 < min(ratios) < 0.85 and 1.2 < max(ratios) < 1.27
    assert 120 < mirrored < 180


def test_validation_and_test_images_are_never_augmented(drawn):
    assert drawn[1].augment is None and drawn[2].augment is None


def test_the_order_is_a_permutation_that_depends_on_the_epoch_and_can_start_anywhere():
    sampler = EpochSampler(10, seed=3)
    sampler.set_epoch(1)
    first = list(sampler)
    assert sorted(index for _, index in first) == list(range(10))
    assert {epoch for epoch, _ in first} == {1}
    assert list(sampler) == first
    sampler.set_epoch(1, start=4)
    assert list(sampler) == first[4:] and len(sampler) == 6
    sampler.set_epoch(2)
    assert [index for _, index in sampler] != [index for _, index in first]


@pytest.mark.parametrize("workers", [1, 2])
def test_batches_are_the_same_with_any_number_of_workers(drawn, workers):
    def batches(workers):
        loader = make_loader(drawn[0], batch_size=16, shuffle=True, workers=workers)
        loader.sampler.set_epoch(5)
        return [images for images, _ in loader]

    for alone, helped in zip(batches(0), batches(workers), strict=True):
        assert torch.equal(alone, helped)


class Numbers(Dataset):
    """Knows plain indices only, as datasets do that know nothing of this project."""

    def __init__(self, length=12):
        self.length = length

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        assert type(index) is int and 0 <= index < self.length
        return torch.tensor(index)


class Pairs(Numbers):
    """Says that it takes (epoch, index), and gives both."""

    takes_epochs = True

    def __getitem__(self, key):
        epoch, index = key
        return torch.tensor([epoch, super().__getitem__(index)])


class Either(Numbers):
    """Takes both kinds of key, and does not say so."""

    def __getitem__(self, key):
        return super().__getitem__(key[1] if isinstance(key, tuple) else key)


class Doubled(Subset):
    """A Subset whose own __getitem__ is part of the data."""

    def __getitem__(self, index):
        return 2 * super().__getitem__(index)

    def __getitems__(self, indices):
        return [self[index] for index in indices]


def order(dataset, epoch=3, workers=0):
    """All samples of an epoch in the order of a loader, as lists and numbers."""
    loader = make_loader(dataset, batch_size=2, shuffle=True, workers=workers)
    loader.sampler.set_epoch(epoch)
    return [sample for batch in loader for sample in (batch[0] if isinstance(batch, list) else batch).tolist()]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize(
    "dataset, samples",
    [
        (Numbers(), range(12)),
        (Either(), range(12)),
        (list(range(12)), range(12)),
        (TensorDataset(torch.arange(12), torch.arange(12)), range(12)),
        (Subset(Numbers(), range(4, 10)), range(4, 10)),
        (Subset(Subset(Numbers(), range(2, 12)), [7, 1, 0, 3]), [9, 3, 2, 5]),
        (ConcatDataset([Numbers(2), Numbers(4)]), [0, 1, 0, 1, 2, 3]),
        (Doubled(Numbers(), range(4)), [0, 2, 4, 6]),
        (Pairs(4), [[3, 0], [3, 1], [3, 2], [3, 3]]),
        (Subset(Pairs(), torch.arange(8, 10)), [[3, 8], [3, 9]]),
        (Subset(Subset(Pairs(), range(2, 12)), [7, 1]), [[3, 3], [3, 9]]),
        (ConcatDataset([Pairs(1), Subset(Pairs(), [5, 6]), Pairs(3)]), [[3, i] for i in (0, 5, 6, 0, 1, 2)]),
    ],
)
def test_any_dataset_with_a_length_is_given_in_an_order_of_the_epoch(dataset, samples, workers):
    seen = order(dataset, 3, workers)
    assert sorted(seen) == sorted(samples)
    assert order(dataset, 3, workers) == seen and (len(samples) < 6 or order(dataset, 4, workers) != seen)


def test_plain_indices_come_in_the_order_of_the_pairs():
    assert order(Numbers()) == [index for _, index in order(Pairs())]


def test_a_foreign_folder_of_images_is_trained_on(drawn):
    folder = ImageFolder(drawn[0].files[0].parent.parent, TO_TENSOR)
    images, labels = next(iter(make_loader(folder, shuffle=True)))
    assert images.shape == (32, 3, 32, 32) and labels.dtype == torch.int64


def test_a_part_of_the_images_is_augmented_as_the_whole(drawn):
    part, _ = random_split(drawn[0], [8, len(drawn[0]) - 8])
    loader = make_loader(part + Subset(drawn[0], [0, 1]), batch_size=10, shuffle=True)
    loader.sampler.set_epoch(2)
    expected = [drawn[0][(2, index)][0] for index in [*part.indices, 0, 1]]
    images = next(iter(loader))[0]
    assert all(any(torch.equal(image, other) for other in images) for image in expected)


def test_a_stream_has_no_order_to_choose():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(range(6))

        def __len__(self):
            return 6

    assert [batch.tolist() for batch in make_loader(Stream(), batch_size=3)] == [[0, 1, 2], [3, 4, 5]]
    for stream in (Stream(), (i for i in range(6))):
        with pytest.raises(
            ValueError, match="shuffle=True needs a dataset with a length and .*(Stream|generator) is a"
        ):
            make_loader(stream, shuffle=True)


def test_a_loader_leaves_the_rng_of_the_training_alone(drawn):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    for shuffle in (True, False):
        next(iter(make_loader(drawn[0], shuffle=shuffle)))
    assert torch.equal(torch.get_rng_state(), before)


def test_take_gives_as_many_cats_as_dogs_and_refuses_what_it_has_not(drawn):
    few = drawn[0].take(20)
    assert len(few) == 20 and sum(few.labels) == 10
    for count in (0, 3, 10_000):
        with pytest.raises(ValueError, match="half of each class"):
            drawn[0].take(count)


def saved(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def opened(tmp_path, data):
    path = tmp_path / "Cat" / "0.jpg"
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(data)
    dataset = CatsAndDogs([path], TO_TENSOR)
    assert dataset[0][0].shape == (3, 32, 32)
    return dataset.image(0)


STRIPES = np.tile(np.arange(0, 256, 5, dtype=np.uint8), (40, 1))  # 52 greys from black to white
GREY = Image.fromarray(STRIPES)
SHOWN = np.where(STRIPES == 100, 128, STRIPES)  # the hundred is hidden, and the background shows
OPAQUE = GREY.point(lambda value: 255 * (value != 100))
VEILED = Image.merge("LA", (GREY, OPAQUE))


@pytest.mark.parametrize(
    "data, expected",
    [
        (saved(GREY), STRIPES),
        (saved(GREY.convert("CMYK"), "TIFF"), STRIPES),
        (saved(Image.fromarray(STRIPES.astype(np.uint16) * 257)), STRIPES),
        (saved(Image.fromarray(STRIPES.astype(np.uint16) * 257), transparency=25700), SHOWN),
        (saved(VEILED), SHOWN),
        (saved(VEILED.convert("RGBA")), SHOWN),
        (saved(VEILED.convert("RGBA"), "WEBP", lossless=True), SHOWN),
        (saved(GREY, transparency=100), SHOWN),
        (saved(GREY.convert("RGB"), transparency=(100, 100, 100)), SHOWN),
        (saved(GREY.convert("P"), transparency=100), SHOWN),
        (saved(GREY.convert("P"), transparency=bytes(255 * (value != 100) for value in range(256))), SHOWN),
        (saved(GREY.convert("P"), "GIF", transparency=100), SHOWN),
    ],
)
def test_an_image_is_what_every_viewer_shows(tmp_path, data, expected):
    image = opened(tmp_path, data)
    assert image.mode == "RGB" and archive._unusable(data) is None
    assert np.array_equal(np.asarray(image), np.stack([expected] * 3, axis=2))


def test_half_transparent_is_half_background(tmp_path):
    colour = opened(tmp_path, saved(Image.new("RGBA", (40, 40), (200, 0, 0, 128)))).getpixel((0, 0))
    assert colour == pytest.approx((164, 64, 64), abs=1)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_an_image_stands_upright(tmp_path, orientation):
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    pixels = np.arange(0, 240, 40, dtype=np.uint8).reshape(2, 3)  # stored so; 6, for example, is shown turned right
    shown = [None, pixels, pixels[:, ::-1], pixels[::-1, ::-1], pixels[::-1], pixels.T]
    shown += [np.rot90(pixels, -1), pixels[::-1, ::-1].T, np.rot90(pixels)]
    for kind in ("PNG", "TIFF"):
        image = opened(tmp_path, saved(Image.fromarray(pixels), kind, exif=exif))
        assert np.array_equal(np.asarray(image)[..., 0], shown[orientation])


@pytest.mark.parametrize("exif", [b"Exif\0\0no TIFF header", b"Exif\0\0II*\0\xff\xff\0\0", b""])
def test_damaged_exif_turns_nothing_and_warns_of_nothing(tmp_path, recwarn, exif):
    assert opened(tmp_path, saved(Image.new("RGB", (48, 32)), "JPEG", exif=exif)).size == (48, 32)
    assert not recwarn.list


@pytest.mark.parametrize(
    "data, reason",
    [
        (saved(Image.fromarray(STRIPES.astype(np.int32)), "TIFF"), "mode I, whose black and white nobody can tell"),
        (saved(Image.fromarray(STRIPES.astype(np.float32)), "TIFF"), "mode F, whose black"),
        (saved(Image.fromarray(STRIPES.astype(np.uint16)), "TIFF"), "mode I;16, whose black"),
        (saved(GREY)[:-60], ""),
        (saved(GREY, "JPEG")[:-60], "truncated"),
        (b"", "cannot identify"),
        (b"<html>not an image</html>", "cannot identify"),
    ],
)
def test_a_file_that_gives_no_picture_is_named(tmp_path, data, reason):
    with pytest.raises(ValueError, match=rf"Cat/0.jpg gives no picture \(.*{reason}.*\). Replace it"):
        opened(tmp_path, data)
    assert archive._unusable(data)
    (tmp_path / "Cat" / "0.jpg").unlink()
    with pytest.raises(ValueError, match=r"Cat/0.jpg gives no picture \(.*No such file"):
        CatsAndDogs([tmp_path / "Cat" / "0.jpg"], TO_TENSOR).image(0)


def test_auto_draws_when_the_archive_does_not_answer_and_says_so(monkeypatch, capsys):
    def unreachable(*_, **__):
        raise ArchiveUnreachable("No answer from example.org.")

    monkeypatch.setattr(datasets, "fetch_photos", unreachable)
    load_datasets(TO_TENSOR, per_class=5, source="auto")
    said = capsys.readouterr().out
    assert "drawn" in said and "No answer from example.org." in said and said.count("\n") == 1
    with pytest.raises(ArchiveUnreachable):
        load_datasets(TO_TENSOR, per_class=5, source="photos")


def test_auto_does_not_hide_that_the_archive_is_damaged(monkeypatch):
    def damaged(*_, **__):
        raise ArchiveError("Cat/3.jpg does not match its CRC-32.")

    monkeypatch.setattr(datasets, "fetch_photos", damaged)
    with pytest.raises(ArchiveError, match="CRC-32"):
        load_datasets(TO_TENSOR, per_class=5, source="auto")


def test_the_source_comes_from_the_environment(monkeypatch, capsys):
    monkeypatch.setenv("COURSE_DATA", "drawn")
    datasets.find_images(per_class=5)
    assert "'drawn'" in capsys.readouterr().out
    monkeypatch.setenv("COURSE_DATA", "painted")
    with pytest.raises(ValueError, match="'painted'"):
        datasets.find_images(per_class=5)


def test_bad_numbers_are_refused():
    with pytest.raises(ValueError, match="per_class is 0"):
        datasets.find_images(per_class=0, source="drawn")


def test_strays_in_the_folder_do_not_become_images_or_classes(monkeypatch, tmp_path):
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path))
    files = datasets.find_images(per_class=3, source="drawn")
    for stray in (".ipynb_checkpoints", "Fish"):  # an ImageFolder would take them for classes
        (files[0].parent.parent / stray).mkdir()
    (files[0].parent / "Thumbs.db").write_bytes(b"no image")
    assert datasets.find_images(per_class=3, source="drawn") == files
    monkeypatch.setattr(datasets, "find_images", lambda *_: files[:3])
    with pytest.raises(RuntimeError, match=r"\['Cat'\]"):
        load_datasets(TO_TENSOR)


@pytest.mark.parametrize(
    "harm",
    [
        lambda data: b"",
        lambda data: data[:-12],
        lambda data: data[: len(data) // 2],
        lambda data: bytes(len(data)),
        lambda data: data[:2000] + bytes([data[2000] ^ 1]) + data[2001:],
        lambda data: saved(GREY, "JPEG")[:-60],
        lambda data: b"<html>not an image</html>",
    ],
)
def test_a_damaged_drawing_is_drawn_anew_and_the_others_are_left_alone(monkeypatch, tmp_path, harm):
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path))
    files = datasets.find_images(2, source="drawn")
    whole = [file.read_bytes() for file in files]
    files[2].write_bytes(harm(whole[2]))
    others = [file.stat().st_mtime_ns for file in files if file != files[2]]
    assert datasets.find_images(2, source="drawn") == files
    assert [file.read_bytes() for file in files] == whole
    assert [file.stat().st_mtime_ns for file in files if file != files[2]] == others
    assert sorted(tmp_path.rglob("*.*")) == sorted(files), "half-written files are left"


def test_fewer_photos_are_the_first_of_more_in_the_order_of_the_archive(monkeypatch, tmp_path):
    names = [f"PetImages/{name}/{number}.jpg" for name in CLASSES for number in (0, 10008, 10020, 3)]

    def fetch(folder, per_class):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "manifest.json").write_text(json.dumps({"files": dict.fromkeys(names)}))

    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path))
    monkeypatch.setattr(datasets, "fetch_photos", fetch)
    files = datasets.find_images(per_class=2, source="photos")
    assert [str(file.relative_to(tmp_path / "photos")) for file in files] == [names[0], names[1], names[4], names[5]]


def test_decoded_images_are_the_same_and_read_no_file_again(drawn, monkeypatch):
    train = drawn[0].take(4)
    kept = train.decoded()
    before = [train[0][0], train[(1, 3)][0]]
    monkeypatch.setattr(Image, "open", lambda _: pytest.fail("a file was opened"))
    assert all(torch.equal(a, b) for a, b in zip(before, [kept[0][0], kept[(1, 3)][0]]))


def test_a_fingerprint_changes_with_files_transform_augmentation_and_seed(drawn, tmp_path):
    train = drawn[0].take(4)
    file = tmp_path / "Cat" / "0.png"
    file.parent.mkdir()
    file.write_bytes(train.files[0].read_bytes())
    same = CatsAndDogs([file, *train.files[1:]], train.transform, AUGMENT)
    assert same.fingerprint() == train.fingerprint() == train.decoded().fingerprint()
    others = [
        train.take(2),
        train.with_transform(v2.Resize((32, 32))),
        CatsAndDogs(train.files, train.transform, None),
        CatsAndDogs(train.files, train.transform, AUGMENT, seed=1),
    ]
    file.write_bytes(train.files[1].read_bytes())
    assert len({dataset.fingerprint() for dataset in [train, same, *others]}) == 6


def test_a_folder_that_cannot_hold_drawn_images_is_named_with_a_way_out(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path / "file"))
    with pytest.raises(ArchiveError, match="Could not write .*file.*set COURSE_DATA_DIR to another folder"):
        datasets.find_images(1, source="drawn")
