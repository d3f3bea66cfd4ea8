"""How nbval compares what the cells print: exactly, or the numbers within the tolerance that a cell states.

A cell with the metadata `"tolerance": 0.05` may print each number up to 5 % beside the saved one, as another processor
computes it. All that stands around the numbers, and how many there are, is compared exactly all the same. A saved 0
allows only 0: print a bound instead of what is nearly nothing.
"""

import math
import re
from collections import defaultdict

from nbval.plugin import IPyNbCell

# A word with digits in it, such as layer1, is text. The spaces before a number belong to it: columns are aligned so.
NUMBER = re.compile(r" *(?<![\w.])[-+−]?(?:\d{1,3}(?:,\d{3})+(?!\d)|\d+)(?:\.\d*)?(?:[eE][-+]?\d+)?")

exactly = IPyNbCell.compare_outputs


def value(number: str) -> float:
    """What a match of NUMBER says: -1,234.5 or 1e-3."""
    return float(number.replace(",", "").replace("−", "-"))


def settle(saved: str, got: str, tolerance: float) -> tuple[str, list[str]]:
    """(`got` with the saved numbers in place of those within the tolerance, what is to be said about the others)."""
    before, now = NUMBER.findall(saved), NUMBER.findall(got)
    if len(before) != len(now):
        return got, [f"saved {len(before)} numbers, got {len(now)}"]
    if NUMBER.split(saved) != NUMBER.split(got):
        return got, ["other words around the numbers"]
    close = [math.isclose(value(old), value(new), rel_tol=tolerance) for old, new in zip(before, now)]
    settled = iter([old if near else new for old, new, near in zip(before, now, close)])
    far = [
        f"number {place}: saved {old.strip()}, got {new.strip()}, tolerance {tolerance:g}"
        for place, (old, new, near) in enumerate(zip(before, now, close), 1)
        if not near
    ]
    return NUMBER.sub(lambda match: next(settled), got), far


def texts(outputs: list) -> dict[str, list]:
    """Where the texts of outputs stand, under the names by which nbval compares them: stdout, text/plain, …"""
    places = defaultdict(list)
    for output in outputs:
        if output.output_type == "stream":
            places[output.name].append((output, "text"))
        for holder in (output, output.get("data", {})):
            for name in holder.keys() & {"evalue", "text/plain", "text/html"}:
                places[name].append((holder, name))
    return places


def compare_outputs(cell: IPyNbCell, got: list, saved: list, skip_compare=None) -> bool:
    """nbval's comparison, after the numbers within the cell's tolerance were settled."""
    tolerance = cell.cell.metadata.get("tolerance")
    if tolerance is None:
        return exactly(cell, got, saved, skip_compare)
    got, saved, said = cell.sanitize_outputs(got), cell.sanitize_outputs(saved), []
    saved_texts = texts(saved)
    for name, places in texts(got).items():
        for (holder, key), (saved_holder, _) in zip(places, saved_texts[name]):
            holder[key], differing = settle(saved_holder[key], holder[key], tolerance)
            said += [f"{name}, {difference}" for difference in differing]
    same = exactly(cell, got, saved, skip_compare)
    cell.comparison_traceback += said
    return same


IPyNbCell.compare_outputs = compare_outputs
