"""A canvas of pixels with shapes to paint on it. Shapes are signed distances: negative inside, 0 on the edge.

Arrays only meet operations that IEEE 754 rounds exactly (+, -, *, /, sqrt, comparisons), never sin, exp, sums or
matrix products, whose last bits depend on the CPU. So a picture has the same bytes on every machine.
"""

from typing import NamedTuple

import numpy as np


def rgb(colour):
    return np.asarray(colour, np.float32).reshape(3, 1, 1)


def noise(rng, cells, size):
    """Smooth noise in 0..1, (size, size): random values on a lattice of cells x cells, blended in between."""
    lattice = rng.random((cells + 2, cells + 2), np.float32)
    at = np.arange(size, dtype=np.float32) * (cells / size)
    low = at.astype(np.int32)
    step = at - low.astype(np.float32)
    step = step * step * (3 - 2 * step)
    rows = lattice[low] + step[:, None] * (lattice[low + 1] - lattice[low])
    return rows[:, low] + step * (rows[:, low + 1] - rows[:, low])


def turned(x, y, tan_half):
    cos, sin = (1 - tan_half**2) / (1 + tan_half**2), 2 * tan_half / (1 + tan_half**2)
    return cos * x + sin * y, cos * y - sin * x


class Shape(NamedTuple):
    window: tuple  # the rows and columns of the picture that it may touch; its arrays are that large
    distance: np.ndarray  # to its edge, negative inside
    u: np.ndarray  # position inside an ellipse: u*u + v*v is 1 on its edge
    v: np.ndarray


class Canvas:
    """Pixels (3, size, size) float32 in 0..1, seen in one frame of coordinates x and y, each (size, size)."""

    def __init__(self, pixels, centre=(0.0, 0.0), radius=1.0, tilt=0.0):
        size = pixels.shape[1]
        grid = (np.arange(size, dtype=np.float32) + 0.5) / size
        self.pixels, self.pixel, self.centre, self.tilt = pixels, 1 / (size * radius), centre, tilt
        self.x, self.y = turned((grid - centre[0]) / radius, (grid[:, None] - centre[1]) / radius, tilt)

    def _window(self, x, y, reach):
        """The slices of rows and columns within reach of the point (x, y), with room for soft, ragged edges."""
        reach = 1.4 * reach + 5 * self.pixel
        right, down = turned(x, y, -self.tilt)
        size = len(self.x)
        bounds = []
        for middle, start in ((down, self.centre[1]), (right, self.centre[0])):
            low, high = (int(start * size + (middle + end * reach) / self.pixel) for end in (-1, 1))
            bounds.append(slice(min(max(low, 0), size), min(max(high + 2, 0), size)))
        return tuple(bounds)

    def ellipse(self, cx, cy, a, b, lean=0.0):
        window = self._window(cx, cy, max(a, b))
        x, y = turned(self.x[window] - cx, self.y[window] - cy, lean)
        u, v = x / a, y / b
        return Shape(window, (np.sqrt(u * u + v * v) - 1) * min(a, b), u, v)

    def triangle(self, *corners, rounded=0.0):
        """A triangle whose corners (x, y) go round clockwise on the screen."""
        cx, cy = (sum(corner[axis] for corner in corners) / 3 for axis in (0, 1))
        reach = max(abs(x - cx) + abs(y - cy) for x, y in corners)
        window = self._window(cx, cy, reach + rounded)
        x, y = self.x[window], self.y[window]
        sides = []
        for (x0, y0), (x1, y1) in zip(corners, corners[1:] + corners[:1], strict=True):
            length = ((x1 - x0) ** 2 + (y1 - y0) ** 2) ** 0.5
            sides.append(((y1 - y0) * (x - x0) - (x1 - x0) * (y - y0)) / length)
        return Shape(window, np.maximum(np.maximum(sides[0], sides[1]), sides[2]) - rounded, x - cx, y - cy)

    def stroke(self, x0, y0, run, slope, bend, width):
        """A curved line y = y0 + slope*t + bend*t*t, where t = x - x0 goes from 0 to run."""
        end = y0 + slope * run + bend * run * run
        window = self._window(x0 + run / 2, (y0 + end) / 2, abs(run) / 2 + abs(end - y0) / 2 + width)
        t, y = self.x[window] - x0, self.y[window]
        across = np.abs(y - (y0 + slope * t + bend * t * t)) - width
        return Shape(window, np.maximum(across, np.abs(t - run / 2) - abs(run) / 2), t, y)

    def paint(self, shape, colour, soft=0.0, opacity=1.0):
        """Lay colour on the shape; its edge is a pixel wide, plus soft."""
        cover = np.clip(0.5 - shape.distance / (self.pixel + soft), 0, 1) * opacity
        under = self.pixels[:, *shape.window]
        under += cover * ((rgb(colour) if np.ndim(colour) == 1 else colour) - under)
