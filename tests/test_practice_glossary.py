"""The glossary: a sentence for each word, and links that lead to what is there, both ways."""

import re
from pathlib import Path

import nbformat
import pytest

from course_utils.practice import EXERCISES

ROOT = Path(__file__).resolve().parent.parent
GLOSSARY = ROOT / "docs" / "glossary.md"
ENTRIES = {entry.splitlines()[0]: entry for entry in GLOSSARY.read_text(encoding="utf-8").split("\n## ")[1:]}


def texts(path):
    return "\n".join(cell.source for cell in nbformat.read(path, as_version=4).cells if cell.cell_type == "markdown")


def anchor(word):
    return word.lower().replace(" ", "-")


def test_the_words_are_in_order_and_the_most_important_are_there():
    assert list(ENTRIES) == sorted(ENTRIES, key=str.lower)
    wanted = {"state_dict", "buffer", "backbone", "head", "checkpoint", "fine-tuning", "freezing", "epoch", "step"}
    assert wanted <= ENTRIES.keys()


@pytest.mark.parametrize("word", ENTRIES)
def test_a_word_has_a_sentence_a_section_and_an_exercise_that_are_there(word):
    _, sentence, places = [part for part in ENTRIES[word].split("\n\n")]
    assert sentence.strip().endswith(".") and len(sentence.split()) < 35
    lesson = re.search(r"Lesson \[[^]]+\]\(([^)]+)\), section “([^”]+)”", places)
    assert f"## {lesson[2]}" in texts(GLOSSARY.parent / lesson[1])
    practised = re.findall(r"\[(\d\d\.\d)\]\(([^)]+)\)", places)
    assert practised
    for number, address in practised:
        assert number in EXERCISES and f"## {number} " in texts(GLOSSARY.parent / address)


@pytest.mark.parametrize("path", sorted((ROOT / "notebooks" / "practice").glob("*.ipynb")), ids=lambda path: path.stem)
def test_a_practice_notebook_links_to_its_words(path):
    linked = re.findall(r"\(../../docs/glossary.md#(\S+) \"([^\"]+)\"\)", texts(path))
    assert [word for word, _ in linked] == [
        anchor(word) for word, entry in ENTRIES.items() if f"/{path.name})" in entry
    ]
    assert all(meaning.endswith(".") and "`" not in meaning for _, meaning in linked)
