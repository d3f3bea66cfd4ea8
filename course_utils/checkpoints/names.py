"""The names of checkpoint files and of metrics: which are ours, and what they say. Source: notebook 04."""

import re
import warnings
from pathlib import Path
from urllib.parse import quote

STEP = r"step_(?:\d{8}|[1-9]\d{8,})\.pt"
VALUE = r"-?(?:\d+(?:\.\d+)?(?:e[-+]\d+)?|inf)\.pt"  # what repr() writes; not "0.25_1", which float() would take
OURS = re.compile(rf"(?:{STEP}|best_\d{{8,}}_[^=]+={VALUE})(?P<ending>|\.part|\.damaged(?:-\d+)?)")


def mode_of(metric: str, mode: str | None) -> str:
    """The mode, "min" or "max"; of a loss it need not be said. Raises ValueError when it must be."""
    words = re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", " ", metric).lower()  # valLoss, NLLLoss
    words = re.split(r"[^a-z]+", words)
    if mode is None and "loss" in words and not {"neg", "negative"} & set(words):
        return "min"
    if mode not in ("min", "max"):
        raise ValueError(f"mode is {mode!r}; say 'min' when a lower {metric} is better, else 'max'.")
    return mode


def step_name(step: int) -> str:
    return f"step_{step:08d}.pt"


def best_name(step: int, metric: str, value: float) -> str:
    """A metric's name may hold characters that a file name cannot: they are written as in a URL."""
    return f"best_{step:08d}_{quote(metric, safe='')}={value!r}.pt"


def best_pattern(metric: str) -> re.Pattern:
    return re.compile(rf"best_\d{{8,}}_{re.escape(quote(metric, safe=''))}={VALUE}")


def step_of(path: Path) -> int:
    return int(path.name.split("_")[1].removesuffix(".pt"))


def value_of(path: Path) -> float:
    return float(path.name.rpartition("=")[2].removesuffix(".pt"))


def is_ours(path: Path) -> bool:
    ours = OURS.fullmatch(path.name)
    return bool(ours) and ours["ending"] != ".part"


def is_whole_name(path: Path) -> bool:
    ours = OURS.fullmatch(path.name)
    return bool(ours) and not ours["ending"]


def remove_leftovers(files: list[Path]) -> None:
    """What a killed save has left."""
    for path in files:
        if (ours := OURS.fullmatch(path.name)) and ours["ending"] == ".part":
            path.unlink(missing_ok=True)


def set_aside(path: Path) -> Path:
    """Rename a damaged file so that nothing else takes it for a checkpoint. To undo it, rename it back."""
    aside = path.with_name(path.name + ".damaged")
    number = 2
    while aside.exists():  # an earlier damaged one of that name stays
        aside, number = path.with_name(f"{path.name}.damaged-{number}"), number + 1
    try:
        path.rename(aside)
    except OSError as error:
        warnings.warn(f"{path} is damaged and cannot be renamed: {error.strerror}.", stacklevel=4)
    return aside
