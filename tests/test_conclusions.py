"""The table of conclusions: what it says is what was measured, and every way in it runs."""

import re

import pytest
import torch

from benchmarks import conclusions
from benchmarks.conclusions import STATEMENTS, Ways, holds_on, measure, table, write
from course_utils.data import CatsAndDogs, load_datasets


@pytest.fixture(scope="module")
def ways(tmp_path_factory):
    train, val, test = load_datasets(conclusions.WEIGHTS.transforms(), 10, "drawn")
    return Ways(train, CatsAndDogs(val.files + test.files, val.transform), tmp_path_factory.mktemp("features"))


def test_every_statement_is_measured_in_a_tiny_form(ways):
    found = measure(ways, STATEMENTS, seeds=1)
    assert len(found) == len(STATEMENTS)
    for one, two, difference, error in found:
        assert 0 <= one <= 100 and 0 <= two <= 100 and error >= 0
        assert difference == pytest.approx(one - two, abs=1e-3)
    assert len(list(ways.folder.iterdir())) > 8, "features are kept"


def test_a_seed_has_its_own_images_half_of_each_class(ways):
    labels = torch.tensor(ways.data["train"].labels)
    for count in (2, 8, 400):
        chosen = [ways.chosen(seed, count) for seed in (0, 0, 1)]
        assert torch.equal(chosen[0], chosen[1]) and not torch.equal(chosen[0], chosen[2])
        assert labels[chosen[0]].tolist() == [0, 1] * (min(count, len(labels)) // 2)
        assert len(chosen[0].unique()) == len(chosen[0])


def test_the_error_bar_is_that_of_images_and_seeds(ways):
    """40 of 100 images right by one way only, with each of two seeds; and then, of all images, with one seed only."""

    def forty(ways, seed):
        return (torch.arange(100) < 40).float()

    def none(ways, seed):
        return torch.zeros(100)

    def second(ways, seed):
        return torch.full((100,), float(seed))

    statements = [("05", "one", forty, "two", none), ("05", "one", second, "two", none)]
    (_, _, difference, of_images), (_, _, half, of_seeds) = measure(ways, statements, seeds=2)
    assert (difference, half) == pytest.approx((40, 50))
    assert of_images == pytest.approx(100 * 2 * (0.4 * 0.6 / 99) ** 0.5, rel=1e-3)
    assert of_seeds == pytest.approx(100 * 2 * (0.5 / 2) ** 0.5)


@pytest.mark.parametrize(
    ("drawn", "photos", "words"),
    [
        ((9, 4), (5, 4), "both"),
        ((9, 4), (3, 4), "drawn only"),
        ((3, 4), (5, 4), "photos only"),
        ((-3, 4), (3, 4), "neither"),
        ((9, 4), (-5, 4), "drawn only; the other way round on photos"),
        ((-9, 4), (-5, 4), "neither; the other way round on drawn and photos"),
    ],
)
def test_a_statement_holds_where_the_difference_is_larger_than_its_error(drawn, photos, words):
    assert holds_on([drawn, photos]) == words


def test_the_table_has_the_statements_and_replaces_the_old_one(tmp_path):
    numbers = [(97.5, 64.0, 33.5, 3.0)] * len(STATEMENTS)
    text = table(STATEMENTS, {"drawn": numbers, "photos": numbers}, "About it.")
    rows = text.splitlines()[4:]
    assert [row.split(" | ")[1:3] for row in rows] == [[winner, loser] for _, winner, _, loser, _ in STATEMENTS]
    assert "| 97.5 – 64.0 = +33.5 ± 3.0 | 97.5 – 64.0 = +33.5 ± 3.0 | both |" in rows[0]
    file = tmp_path / "README.md"
    file.write_text(f"Before.\n{conclusions.START}\nold\n{conclusions.END}\nAfter.\n")
    for _ in range(2):
        write(text, file)
    assert file.read_text() == f"Before.\n{conclusions.START}\n{text}\n{conclusions.END}\nAfter.\n"


def test_the_readme_has_the_statements_of_the_script():
    made = conclusions.README.read_text(encoding="utf-8").split(conclusions.START)[1].split(conclusions.END)[0]
    rows = [row.split(" | ") for row in made.splitlines() if re.match(r"\| 0\d \|", row)]
    assert [(row[0].strip("| "), row[1], row[2]) for row in rows] == [(s[0], s[1], s[3]) for s in STATEMENTS], (
        "run make lessons-on-photos"
    )
