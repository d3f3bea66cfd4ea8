"""What a probe saw, as plain values: compared, and shown in a sentence."""

import math
import textwrap
from collections.abc import Mapping

import numpy as np
import torch

from course_utils.practice.sandbox import Raised


def plain(value):
    """The same as values that can be compared and printed: no tensors, arrays, sets or tuples."""
    if isinstance(value, torch.Tensor | np.ndarray | np.generic):
        return plain(value.tolist())
    if isinstance(value, Mapping):
        return {plain(key): plain(one) for key, one in value.items()}
    if isinstance(value, set | frozenset):
        return sorted(map(plain, value))
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return value if isinstance(value, str | int | float | bool | Raised | None) else f"a {type(value).__name__}"


def same(one, other) -> bool:
    """Equal, where numbers may differ by rounding: another order of a sum is no mistake."""
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, float) and isinstance(other, float | int):
        return math.isclose(one, other, rel_tol=1e-4, abs_tol=1e-6) or (math.isnan(one) and math.isnan(other))
    return one == other


def show(value) -> str:
    """A value in a sentence."""
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, list):
        return textwrap.shorten(", ".join(map(show, value)), 200, placeholder=" …") if value else "none"
    return ", ".join(f"{key}: {show(one)}" for key, one in value.items()) if isinstance(value, dict) else str(value)
