"""The site: `make site`. Sphinx reads the repository itself, so every link between its files works in both places."""

import re
import sys
import tomllib
from pathlib import Path

import nbformat
from docutils import nodes

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT), str(ROOT / "docs"), str(ROOT / "notebooks")]
import errors  # noqa: E402
import maintain  # noqa: E402
import pages  # noqa: E402

REPOSITORY = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]["Repository"]
GENERATED = {  # what stands for <!-- generated: … --> in the pages of docs/
    "contents": pages.contents,
    "cards": pages.cards,
    "mistakes": pages.mistakes,
    "reference": pages.reference,
    "errors of lessons": errors.of_lessons,
    "errors of course_utils": errors.of_course_utils,
}

project = "Save, load, checkpoint, transfer and freeze PyTorch models"
author = ""  # the theme would show it below each page
html_title = "Save, load, freeze"
root_doc = "docs/index"
include_patterns = ["docs/*.md", "benchmarks/README.md", "notebooks/*.ipynb", "notebooks/practice/*.ipynb"]
exclude_patterns = ["**/.*", "build", "data", "**/saved", "**/__pycache__"]
extensions = ["myst_nb", "sphinx_design", "sphinx.ext.autodoc"]
nb_execution_mode = "off"  # the saved outputs are those that the tests compare
nb_ipywidgets_js = {}  # these would come from another server
nb_merge_streams = True
nb_code_prompt_show, nb_code_prompt_hide = "Show the set-up cell", "Hide the set-up cell"
suppress_warnings = ["misc.highlighting_failure"]  # a message alone is no traceback, in whose colours it is shown
myst_enable_extensions = ["colon_fence"]
myst_heading_anchors = 3

smartquotes = False  # a message is found as it was pasted
default_role = "code"  # the docstrings write names as `name`
autodoc_default_options = {"members": True, "member-order": "bysource"}
autodoc_inherit_docstrings = False  # torch's docstrings are not ours
add_module_names = False
autodoc_typehints = "signature"

html_theme = "sphinx_book_theme"
html_static_path, html_favicon = ["_static"], "_static/icon.svg"
html_css_files, html_js_files = ["course.css"], ["course.js"]
html_baseurl = maintain.site_of(REPOSITORY.removeprefix("https://github.com/"))
html_copy_source = True
html_sourcelink_suffix = ""  # so that what is downloaded is a notebook, not NAME.ipynb.txt
html_use_index = html_domain_indices = False  # the search finds it
html_show_copyright = False
html_theme_options = {
    "repository_url": REPOSITORY,
    "use_download_button": True,
    "use_repository_button": True,
    "show_navbar_depth": 1,
    "show_toc_level": 2,
    "navbar_persistent": [],  # the search stands in the side bar
}


def generate(app, docname, source):
    """What the pages say that is kept elsewhere."""
    path = Path(app.env.doc2path(docname))
    if path.suffix == ".ipynb":
        notebook = nbformat.reads(source[0], as_version=4)
        for cell in notebook.cells:
            prepare(cell, path)
        source[0] = nbformat.writes(notebook)
    elif docname == "docs/glossary":
        source[0] = pages.glossary_with_anchors(source[0])
    elif docname == "benchmarks/README":
        source[0] = source[0].replace("(../README.md#what-a-checkpoint-of-ours-survives)", "(../docs/survives.md)")
    else:
        source[0] = re.sub(r"<!-- generated: ([\w ]+) -->", lambda found: GENERATED[found[1]](), source[0])


def prepare(cell, path):
    """A cell as the site shows it: badges of our own, words that lead to the glossary, the set-up cell folded."""
    if cell.source.startswith("# @title "):
        cell.metadata["tags"] = ["hide-input"]
    if cell.cell_type == "markdown":
        cell.source = re.sub(r"https://[^)]+/(colab|open-in-kaggle)[-\w]*\.svg", r"/docs/badges/\1.svg", cell.source)
        cell.source = pages.with_words(cell.source, path)


def alt_texts(app, doctree):
    """Give each figure of a notebook what `make notebooks` noted about it: its title, which says the finding."""
    path = Path(app.env.doc2path(app.env.docname))
    if path.suffix != ".ipynb":
        return
    outputs = [output for cell in nbformat.read(path, as_version=4).cells for output in cell.get("outputs", [])]
    noted = [
        output.metadata.get("image/png", {}).get("alt") for output in outputs if "image/png" in output.get("data", {})
    ]
    figures = [image for image in doctree.findall(nodes.image) if "jupyter_execute" in image["uri"]]
    for image, alt in zip(figures, noted, strict=True):
        if not alt:
            raise ValueError(f"A figure of {path.name} has no alternative text. Run `make notebooks`.")
        image["alt"] = alt


def docstring(app, what, name, obj, options, lines):
    """Our docstrings are plain text: what is indented is code; an argument, Raises and Source begin a paragraph."""
    text, code = [], False
    for line in lines:
        if line.startswith("    ") and not code:
            text += ["", "::", ""]
        elif line and code and not line.startswith("    ") or re.match(r"[a-z_]+: |Raises |Source: ", line):
            text.append("")
        code = line.startswith("    ") or code and not line
        if not code:
            line = re.sub(r"^([a-z_]+): ", r"`\1`: ", line).replace("*", r"\*")
            line = re.sub(r"((?:python -m|torchrun) .+)", r"``\1``", line)  # a command, to the end of its line
        text.append(line)
    lines[:] = re.sub(r'notebook (\d\d),\s+section\s+"([^"]+)"', to_section, "\n".join(text)).split("\n")


def to_section(found):
    """A link from the reference to the section of a lesson, in reStructuredText."""
    path = pages.lesson_file(found[1])
    heading = " ".join(found[2].split())
    return f'`{pages.title(path)}, "{heading}" <../notebooks/{path.stem}.html#{nodes.make_id(heading)}>`__'


def finish(app, error):
    """Lead to the first page, which is in docs/ as its source is, and leave out the pictures of icons nobody sees."""
    if error:
        return
    site, address = Path(app.outdir), f"{app.config.root_doc}.html"
    refresh = f'<meta charset="utf-8"><meta http-equiv="refresh" content="0; url={address}">'
    page = f'<html lang="en"><title>{project}</title>{refresh}<a href="{address}">{project}</a></html>'
    (site / "index.html").write_text(f"<!doctype html>{page}", encoding="utf-8")
    icons = site / "_static" / "scripts" / "fontawesome.js"  # 1.5 MB of icons, of which the theme shows some fifteen
    texts = [file.read_text(encoding="utf-8") for file in [*site.rglob("*.html"), *site.rglob("*theme.js")]]
    shown = set(re.findall(r"fa-([a-z-]+)", "".join(texts)))
    one = re.compile(r'"?([a-z0-9-]+)"?:(\[\d+,\d+,\[[^]]*\],"\w+",)("[^"]*"|\[[^]]*\])')
    kept = one.sub(lambda icon: icon[0] if icon[1] in shown else f'"{icon[1]}":{icon[2]}""', icons.read_text("utf-8"))
    icons.write_text(kept, encoding="utf-8")


def setup(app):
    app.connect("source-read", generate)
    app.connect("doctree-read", alt_texts)
    app.connect("autodoc-process-docstring", docstring)
    app.connect("build-finished", finish)
