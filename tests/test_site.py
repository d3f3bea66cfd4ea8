"""The site: built as `make site` does, its links followed, and each page opened in a real browser, from file://."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from urllib.parse import unquote, urlsplit

import maintain
import nbformat
import pytest
import torch
from axe_playwright_python.sync_playwright import Axe
from browser.chromium import find_chromium
from bs4 import BeautifulSoup
from filelock import FileLock
from playwright.sync_api import sync_playwright

from course_utils.checkpoints import CheckpointError, CheckpointFolder, load_checkpoint
from course_utils.freezing import trainable_parameters
from course_utils.practice import EXERCISES

ROOT = Path(__file__).resolve().parent.parent
LESSONS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NOTEBOOKS = [*LESSONS, *sorted((ROOT / "notebooks" / "practice").glob("*.ipynb"))]


@pytest.fixture(scope="session")
def site(tmp_path_factory, testrun_uid):
    """The folder of the site, built once for all processes of this run."""
    folder = tmp_path_factory.getbasetemp().parent / f"site-{testrun_uid}"
    with FileLock(f"{folder}.lock"):
        if not folder.exists():
            command = [sys.executable, "-m", "sphinx", "-q", "--fail-on-warning", "--keep-going", "-c", "docs", "."]
            built = subprocess.run([*command, folder], cwd=ROOT, capture_output=True, text=True)
            assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="session")
def pages(site):
    """{path: the parsed page} of all pages that are read."""
    paths = [path for path in sorted(site.rglob("*.html")) if "_static" not in path.parts]
    return {path: BeautifulSoup(path.read_text(encoding="utf-8"), "html.parser") for path in paths}


def of(pages, name):
    """The one page of that name, such as docs/errors."""
    return next(page for path, page in pages.items() if path.as_posix().endswith(f"/{name}.html"))


def text(element):
    return " ".join(element.get_text().split())


def bare(words):
    """The words alone, without what Markdown reads as marks."""
    return " ".join(re.sub(r"[`*\\]", "", words).split())


# --- what stands there ------------------------------------------------------------------------------------------------
def test_each_lesson_is_followed_by_its_practice_and_has_its_ways_out(pages):
    shown = [link["href"] for link in of(pages, "docs/index").select("nav.bd-links a") if "notebooks/" in link["href"]]
    practised = [path for path in LESSONS if (path.parent / "practice" / path.name).exists()]
    expected = [f"../notebooks/{folder}{path.stem}.html" for path in practised for folder in ("", "practice/")]
    assert shown == expected and len(practised) == len(LESSONS)
    for path in NOTEBOOKS:
        page = of(pages, path.relative_to(ROOT).with_suffix("").as_posix())
        links = {link["href"] for link in page.find_all("a", href=True)}
        name = path.relative_to(ROOT / "notebooks").with_suffix("").as_posix()
        assert set(re.findall(r"\((https://(?:colab|kaggle)[^)]+ipynb)\)", maintain.badges(name))) <= links
        assert any(link.endswith(f"_sources/{path.relative_to(ROOT).as_posix()}") for link in links), "download"
        assert page.select("a.left-prev, a.right-next") and page.select("#pst-search-dialog, .search-button__button")


def test_what_is_downloaded_is_the_notebook_itself(site):
    for path in NOTEBOOKS:
        assert (site / "_sources" / path.relative_to(ROOT)).read_bytes() == path.read_bytes()


def test_the_set_up_cell_hints_and_solutions_are_closed_and_figures_say_their_finding(pages):
    for path in NOTEBOOKS:
        page, cells = of(pages, path.relative_to(ROOT).with_suffix("").as_posix()), nbformat.read(path, 4).cells
        folded = [detail for detail in page.find_all("details") if "# @title" in detail.get_text()]
        assert len(folded) == 1 and not folded[0].has_attr("open"), path.name
        closed = [detail for detail in page.find_all("details") if text(detail.summary) in ("Hint", "Solution")]
        assert len(closed) == sum("<details>" in cell.source for cell in cells)
        assert not any(detail.has_attr("open") for detail in closed)
        outputs = [
            output for cell in cells for output in cell.get("outputs", []) if "image/png" in output.get("data", {})
        ]
        noted = [output.metadata.get("image/png", {}).get("alt") for output in outputs]
        assert noted == [image["alt"] for image in page.select(".cell_output img")], "run: make notebooks"
        assert all(noted)


def test_no_alternative_text_is_missing_or_a_path(pages):
    images = [image for page in pages.values() for image in page.find_all("img")]
    assert len(images) > 20
    for image in images:
        assert image.get("alt", "").strip() and not re.search(r"\.(png|svg|jpg)|_images|/", image["alt"]), image


def test_every_internal_link_and_anchor_exists(site, pages):
    followed = 0
    anchors = {path: {element["id"] for element in page.find_all(id=True)} for path, page in pages.items()}
    for path, page in pages.items():
        for link in page.find_all(["a", "link", "script", "img"]):
            address = urlsplit(link.get("href") or link.get("src") or "")
            if address.scheme or address.netloc or not (address.path or address.fragment):
                continue
            target = (path.parent / unquote(address.path)).resolve() if address.path else path
            assert target.is_file(), f"{path.relative_to(site)} links to {address.geturl()}"
            if address.fragment and target in pages:
                followed += 1
                assert unquote(address.fragment) in anchors[target], f"{path.name} links to {address.geturl()}"
    assert followed > 1000


def test_every_page_is_under_3_mb_with_all_that_it_loads(pages):
    for path, page in pages.items():
        loaded = {path}
        for link in page.select("img[src], script[src], link[rel=stylesheet]"):
            loaded.add((path.parent / urlsplit(link.get("src") or link["href"]).path).resolve())
        assert sum(file.stat().st_size for file in loaded) < 3_000_000, path


def test_the_glossary_and_the_lessons_link_to_each_other(pages):
    glossary = of(pages, "docs/glossary")
    for entry in glossary.select("section section"):
        word, place = text(entry.h2).rstrip("#"), entry.find("a", href=re.compile("^../notebooks/0"))
        name, section = place["href"].removeprefix("../").split("#")
        there = of(pages, name.removesuffix(".html")).find(id=section)
        assert there.find("a", href=f"../docs/glossary.html#{entry['id']}", string=word), (word, section)


def test_a_saved_error_that_nothing_explains_stops_the_build(monkeypatch):
    monkeypatch.syspath_prepend(ROOT / "docs")
    import errors

    explained = errors.of_lessons()
    for entry in errors.KNOWN["error"]:
        assert entry["means"] in explained and entry["cure"] in explained
    first = errors.KNOWN["error"][0]
    monkeypatch.setitem(errors.KNOWN, "error", errors.KNOWN["error"][1:])
    with pytest.raises(ValueError, match="errors.toml does not say"):
        errors.of_lessons()
    monkeypatch.setitem(errors.KNOWN, "error", [*errors.KNOWN["error"], first, {**first, "begins": "in no lesson"}])
    with pytest.raises(ValueError, match="No lesson shows"):
        errors.of_lessons()


def test_the_errors_page_shows_what_course_utils_really_says(pages, tmp_path):
    page = text(of(pages, "docs/errors"))
    with pytest.raises(CheckpointError) as nowhere:
        load_checkpoint(tmp_path / "nowhere.pt")
    with pytest.raises(ValueError) as frozen:
        trainable_parameters(torch.nn.Linear(1, 1).requires_grad_(False))
    with pytest.raises(ValueError) as mode:
        CheckpointFolder(tmp_path, metric="accuracy", mode="up")
    assert str(nowhere.value).replace(str(tmp_path / "nowhere.pt"), "…") in page
    assert str(frozen.value) in page
    assert str(mode.value).replace("'up'", "…").replace("accuracy", "…") in page


def test_the_mistakes_page_shows_each_named_mistake_with_what_tells_it_and_its_section(pages):
    page = of(pages, "docs/mistakes")
    count = sum(len(exercise.wrong) for exercise in EXERCISES.values())
    assert count >= len(page.select("article details")) > 0.9 * count > 360
    shown = text(page)
    assert shown.count("What tells it:") == count
    for number, exercise in EXERCISES.items():
        lesson = next(path for path in LESSONS if path.name.startswith(number[:2]))
        headings = re.findall(r"^##+ (.+)", "\n".join(cell.source for cell in nbformat.read(lesson, 4).cells), re.M)
        assert exercise.section in headings, f"{number}: section= is no heading of {lesson.name}"
        for _, reason in exercise.wrong:
            assert " ".join(bare(reason).split()[:4]) in bare(shown), reason


def test_the_readme_shows_the_figure_as_its_lesson_saved_it():
    picture, alt = maintain.readme_figure()
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert maintain.FIGURE.read_bytes() == picture, "run: make notebooks"
    assert readme.index(f"![{alt}](docs/{maintain.FIGURE.name})") < readme.index("make lab")


# --- in a browser -----------------------------------------------------------------------------------------------------
needs_chromium = pytest.mark.skipif(
    find_chromium() is None,
    reason="Chromium is missing: apt-get install chromium, or say where it is: CHROMIUM=/path/to/chrome",
)
# What axe-core finds and the theme does: (rule, where) → why it stays.
ALLOWED = {
    ("region", "sidebar-primary-item"): "the theme puts its logo, a link to the first page, outside of its landmarks",
}
QUESTIONS = {  # what a reader types, and the page that answers
    "Attempting to deserialize object on a CUDA device but torch.cuda.is_available() is False": "docs/errors",
    "Missing key(s) in state_dict": "docs/errors",
    "PytorchStreamReader failed reading zip archive": "docs/errors",
    "element 0 of tensors does not require grad and does not have a grad_fn": "docs/errors",
    "is damaged: its tensors do not match their CRC-32": "docs/errors",
    "alias trap": "notebooks/01_saving_models",
    "warm start": "notebooks/02_loading_models",
    "resume scheduler learning rate": "notebooks/03_checkpoints",
    "frozen BatchNorm running statistics": "notebooks/06_freezing_layers",
    "kill training disk full": "notebooks/04_interrupted_trainings",
    "what does a checkpoint survive": "docs/survives",
    "safetensors": "notebooks/08_sharing_models",
}


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=find_chromium())
        yield browser
        browser.close()


@needs_chromium
@pytest.mark.parametrize("width, scheme", [(390, "dark"), (1280, "light")])
def test_each_page_keeps_to_itself_fits_and_is_accessible(site, pages, browser, width, scheme):
    page = browser.new_page(viewport={"width": width, "height": 900}, color_scheme=scheme)
    asked = []
    page.on("request", lambda request: asked.append(request.url))
    found = []
    for path in sorted(pages.keys() - {site / "index.html"}):  # that one leads on at once
        page.goto(path.as_uri())
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
        for violation in Axe().run(page).response["violations"]:
            for node in violation["nodes"]:
                if not any(rule == violation["id"] and where in node["html"] for rule, where in ALLOWED):
                    found.append((path.name, violation["id"], node["html"][:200]))
    assert not found
    assert len(asked) > len(pages) and all(url.startswith((site.as_uri(), "data:")) for url in asked)


def search(page, site, question):
    """The addresses of the first five answers to what a reader types into the search."""
    page.goto((site / "docs" / "index.html").as_uri())
    page.keyboard.press("Control+k")
    page.keyboard.type(question)
    page.keyboard.press("Enter")
    page.wait_for_selector("#search-results .search-summary:has-text('found')")
    return page.locator("#search-results li > a").evaluate_all("links => links.slice(0, 5).map(link => link.href)")


@needs_chromium
@pytest.mark.parametrize("question", QUESTIONS)
def test_the_search_answers(site, browser, question):
    found = search(browser.new_page(), site, question)
    assert any(f"/{QUESTIONS[question]}.html" in address for address in found), found


@needs_chromium
def test_the_search_finds_each_error_by_its_first_words(site, browser):
    page = browser.new_page()
    for entry in tomllib.loads((ROOT / "docs" / "errors.toml").read_text(encoding="utf-8"))["error"]:
        found = search(page, site, entry["begins"])
        assert any("/docs/errors.html" in address for address in found), (entry["begins"], found)


@needs_chromium
def test_on_a_phone_the_list_of_contents_closes_when_a_section_was_chosen(site, browser):
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.goto((site / "docs" / "glossary.html").as_uri())
    page.locator("button.secondary-toggle:visible").click()
    page.locator("dialog[open] a").get_by_text("EMA").click()
    assert page.url.endswith("#ema") and not page.locator("dialog[open]").count()


@needs_chromium
def test_the_first_page_opens_the_site_and_its_light_can_be_switched(site, browser):
    page = browser.new_page(color_scheme="light")
    page.goto((site / "index.html").as_uri())
    page.wait_for_url("**/docs/index.html")
    drawn = page.locator("svg.svg-inline--fa path").evaluate_all("icons => icons.map(icon => icon.getAttribute('d'))")
    assert len(drawn) > 10 and all(drawn), "an icon that is shown was left out"
    for mode in ("Dark", "Light"):
        page.locator(".theme-switch-button:visible").click()
        page.locator(".dropdown-menu:visible").get_by_text(mode).click()
        assert page.evaluate("document.documentElement.dataset.theme") == mode.lower()
