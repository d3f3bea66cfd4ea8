"""Cats and dogs drawn from a seed, for readers and tests without the photos.

`draw` is a pure function, and its bytes are the same on every machine (see canvas.py, whose rules the array
operations here keep too). A picture is painted from back to front.

They are about as hard as photos: an animal may stand anywhere, near or far and askew, and the things around it have
its colours, its triangles and rings. A few hundred of them do not teach a network to tell ears and eyes from those.
"""

import numpy as np
from PIL import Image

from course_utils.data.animal import COATS, DARK, IRISES, PINK, WHITE, Pelt, random_animal
from course_utils.data.canvas import Canvas, noise, rgb, turned

DRAWING_VERSION = 2  # raise it whenever draw() changes: drawn files on disk are kept under this number


def _muted(rng):
    """A colour for things: any hue, rarely a loud one."""
    colour, strength = rng.uniform(0.1, 0.9, 3), rng.uniform(0.2, 0.8)
    return (colour[1] + strength * (colour - colour[1])).tolist()


def _background(rng, canvas):
    size = len(canvas.x)
    wall, floor, tint = (_muted(rng) for _ in range(3))
    canvas.pixels[:] = rgb(wall) + (noise(rng, 3, size) - 0.5) * (rgb(tint) - 0.5)
    level, slope = rng.uniform(0.45, 1.1), rng.uniform(-0.2, 0.2)
    canvas.paint(canvas.triangle((-2, level - slope), (3, level + slope), (0.5, 9)), floor)
    canvas.pixels *= 1 + rng.uniform(0, 0.5) * (noise(rng, int(rng.integers(8, 40)), size) - 0.5)
    for _ in range(rng.integers(6, 20)):
        _clutter(rng, canvas)


def _clutter(rng, canvas):
    """One thing that lies about, a ball, a leaf or a wheel: its colours and shapes are an animal's too."""
    cx, cy, long = rng.uniform(0, 1), rng.uniform(0, 1), rng.uniform(0.02, 0.12)
    wide, lean = long * rng.uniform(0.3, 1), rng.uniform(-1, 1)
    if rng.random() < 0.5:
        dx, dy = turned(0.0, long, lean)
        shape = canvas.triangle((cx - dx, cy - dy), (cx + wide, cy + dy), (cx + dx - wide, cy + dy))
    else:
        shape = canvas.ellipse(cx, cy, long, wide, lean)
    coat, iris = COATS[rng.integers(len(COATS))], IRISES[rng.integers(len(IRISES))]
    colour = (_muted(rng), coat[rng.integers(3)], (DARK, PINK, iris)[rng.integers(3)])[rng.integers(3)]
    canvas.paint(shape, colour, soft=rng.uniform(0, 0.03))
    if rng.random() < 0.2:  # like an eye or a nose, from afar
        canvas.paint(canvas.ellipse(cx, cy, 0.6 * wide, 0.6 * wide), (DARK, WHITE, iris)[rng.integers(3)])


def _body(canvas, animal, pelt):
    lean = animal.lean
    pelt.paint(canvas, canvas.ellipse(lean * 1.1, 2.5, 1.25, 1.5))
    pelt.paint(canvas, canvas.ellipse(lean * 0.45, 1.7, 0.85, 1.15, -0.15 * lean))
    pelt.paint(canvas, canvas.ellipse(lean * 0.35, 1.6, 0.45, 0.8), pale=True, soft=0.4)
    for side in (-1, 1):
        pelt.paint(canvas, canvas.ellipse(lean * 0.45 + side * 0.42, 2.8, 0.26, 1.0))
        pelt.paint(canvas, canvas.ellipse(lean * 0.45 + side * 0.44, 3.7, 0.34, 0.24), pale=True)
    canvas.paint(canvas.ellipse(lean * 0.3, 0.95, 0.8, 0.5), DARK, soft=0.6, opacity=0.5)


def _cat_ear(canvas, animal, pelt, side):
    middle, tip = animal.turn * 0.12 + side * 0.55, (side * (0.17 + animal.ear_spread), -0.8 * animal.ear)
    for shrink in (1.0, 0.6):
        corners = [(side * 0.4, 0.4), tip, (side * -0.39, -0.12)]
        corners = [(middle + x * shrink, -0.6 + y * shrink) for x, y in corners][::-side]
        shape = canvas.triangle(*corners, rounded=0.05)
        shape = shape._replace(distance=shape.distance + 0.5 * animal.fluff * pelt.strands[shape.window])
        if shrink == 1:
            canvas.paint(shape, pelt.coat[:, *shape.window] * 0.85, soft=0.03)
        else:
            canvas.paint(shape, PINK, soft=0.15, opacity=animal.pink)


def _dog_ear(canvas, animal, pelt, side):
    x, long = side * (0.84 + animal.ear_spread) + animal.turn * 0.1, animal.ear
    if animal.folded:
        pelt.paint(canvas, canvas.ellipse(x - side * 0.14, -0.66, 0.34, 0.3, side * 0.25), shade=0.75)
        pelt.paint(canvas, canvas.ellipse(x, -0.36, 0.24, 0.4 * long, -side * 0.3), shade=0.85)
    else:
        canvas.paint(canvas.ellipse(x, 0.22, 0.3, 0.75 * long), DARK, soft=0.3, opacity=0.4)
        pelt.paint(canvas, canvas.ellipse(x, 0.1, 0.29, 0.78 * long, -side * 0.1), shade=0.8)


def _eye(canvas, animal, x, y, side):
    width, pupil = (0.19, 1.0) if animal.dog else (0.21, animal.pupil)
    height = width * animal.squint * (1 if animal.dog else 0.82)
    lean = side * (0.04 if animal.dog else -0.14)
    rim = canvas.ellipse(x, y, width * 1.22, height * 1.25, lean)
    canvas.paint(rim, DARK, soft=0.02)
    opening = canvas.ellipse(x, y, width, height, lean)
    canvas.paint(opening, rgb(animal.iris) * (0.75 + 0.35 * opening.v), soft=0.01)
    pupil_width = 0.6 * width if animal.dog else width * pupil * 0.7
    pupil_height = pupil_width if animal.dog else height * 0.92
    canvas.paint(canvas.ellipse(x + 0.03 * animal.turn, y, pupil_width, pupil_height), DARK, soft=0.01)
    canvas.paint(canvas.ellipse(x + 0.06 * animal.light[0], y - 0.07, 0.04, 0.04), WHITE, opacity=0.9)


def _cat_muzzle(canvas, animal, pelt):
    x, size = animal.turn * 0.2, animal.muzzle
    pelt.paint(canvas, canvas.ellipse(x, 0.66, 0.24, 0.17), pale=True, soft=0.06)
    for side in (-1, 1):
        pelt.paint(canvas, canvas.ellipse(x + side * 0.19, 0.45, 0.27 * size, 0.21), pale=True, soft=0.1, fluff=0.5)
    for side in (-1, 1):
        canvas.paint(canvas.stroke(x, 0.5, side * 0.24, side * 0.5, -1.6, 0.014), DARK, opacity=0.7)
        for fan in (-0.2, 0.0, 0.2):
            whisker = canvas.stroke(x + side * 0.2, 0.42 + 0.35 * fan, side * 1.1, side * fan, 0.1, 0.009)
            canvas.paint(whisker, WHITE, opacity=animal.whiskers)
    canvas.paint(canvas.triangle((x - 0.11, 0.25), (x + 0.11, 0.25), (x, 0.37), rounded=0.03), animal.nose, soft=0.02)
    canvas.paint(canvas.ellipse(x, 0.45, 0.016, 0.06), DARK, opacity=0.7)


def _dog_muzzle(canvas, animal, pelt):
    x, size = animal.turn * 0.3, animal.muzzle
    if animal.tongue:
        canvas.paint(canvas.ellipse(x, 0.98, 0.24, 0.22), DARK)
        tongue = canvas.ellipse(x + 0.03, 1.08, 0.17, 0.28)
        canvas.paint(tongue, rgb(PINK) * (0.75 + 0.3 * np.abs(tongue.u)))
    canvas.paint(canvas.ellipse(x, 0.56, 0.5 * size, 0.48 * size), DARK, soft=0.25, opacity=0.3)
    pelt.paint(canvas, canvas.ellipse(x * 0.7, 0.25, 0.32, 0.6), pale=True, soft=0.25, fluff=0.5)
    pelt.paint(canvas, canvas.ellipse(x, 0.52, 0.46 * size, 0.42 * size), pale=True, soft=0.08, fluff=0.5)
    for side in (-1, 1):
        canvas.paint(canvas.stroke(x, 0.76, side * 0.36, side * 0.5, -1.3, 0.02), DARK, opacity=0.8)
    canvas.paint(canvas.ellipse(x, 0.62, 0.018, 0.15), DARK, opacity=0.7)
    nose = canvas.ellipse(x, 0.36, 0.21 * size, 0.16 * size)
    canvas.paint(nose, rgb(animal.nose) * (0.9 - 0.4 * nose.v), soft=0.02)
    canvas.paint(canvas.ellipse(x + 0.05 * animal.light[0], 0.29, 0.08, 0.03), WHITE, soft=0.05, opacity=0.5)


def _head(canvas, animal, pelt):
    turn = animal.turn
    if animal.dog:
        ear, muzzle, eyes, eye_y = _dog_ear, _dog_muzzle, 0.38, -0.14
        shapes = [canvas.ellipse(0, -0.1, 0.84, 0.84), canvas.ellipse(turn * 0.1, 0.3, 0.7, 0.66)]
    else:
        ear, muzzle, eyes, eye_y = _cat_ear, _cat_muzzle, 0.43, -0.02
        shapes = [canvas.ellipse(0, 0.0, 0.98, 0.84), canvas.ellipse(turn * 0.06, 0.3, 0.84, 0.56)]
        for side in (-1, 1):
            ear(canvas, animal, pelt, side)
    for shape in shapes:
        pelt.paint(canvas, shape)
    muzzle(canvas, animal, pelt)
    for side in (-1, 1):
        _eye(canvas, animal, side * eyes * (1 - 0.12 * side * turn) + turn * 0.16, eye_y, side)
        if animal.dog:
            ear(canvas, animal, pelt, side)


def _foreground(rng, scene):
    """Blades of grass in front of the animal, some of the time."""
    ground = Canvas(scene.pixels, centre=(0.0, 1.0), tilt=-1.0)  # a quarter turn: x goes up, y to the right
    for _ in range(rng.integers(3, 16) if rng.random() < 0.6 else 0):
        height, green = rng.uniform(0.15, 0.6), rng.uniform(0.15, 0.75)
        blade = ground.stroke(0.0, rng.uniform(0, 1), height, 0.0, rng.uniform(-0.8, 0.8), 0.011)
        taper = blade._replace(distance=blade.distance + 0.011 * blade.u / height)
        ground.paint(taper, (0.7 * green, green, 0.4 * green))


def _photograph(rng, canvas):
    """Light, faded colours, a colour cast, shadows and the grain of the camera."""
    pixels, size = canvas.pixels, len(canvas.x)
    grey = 0.3 * pixels[0] + 0.6 * pixels[1] + 0.1 * pixels[2]
    pixels += rng.uniform(0, 0.8) * (grey - pixels)
    pixels *= rgb(rng.uniform(0.9, 1.1, 3) * rng.uniform(0.55, 1.3))
    pixels *= 1 + rng.uniform(-0.5, 0.5) * (canvas.x - 0.5) + rng.uniform(-0.5, 0.5) * (canvas.y - 0.5)
    pixels *= 1 + rng.uniform(0, 0.6) * (noise(rng, 3, size) - 0.5)
    pixels += rng.uniform(0, 0.12)
    pixels += rng.uniform(0.02, 0.16) * (rng.random(pixels.shape, np.float32) - 0.5)


def draw(seed: int, index: int, size: int = 160) -> Image.Image:
    """Draw a cat (even index) or a dog (odd index) as an RGB image of size x size pixels, 0..255.

    Raises ValueError when seed or index is negative or size is under 16.
    """
    if seed < 0 or index < 0:
        raise ValueError(f"draw needs seed and index of 0 or more, got seed={seed} and index={index}")
    if size < 16:
        raise ValueError(f"draw needs a size of at least 16 pixels, got size={size}")
    rng = np.random.default_rng([seed, index])
    animal = random_animal(rng, dog=index % 2 == 1)
    scene = Canvas(np.empty((3, size, size), np.float32))
    _background(rng, scene)
    upright = Canvas(scene.pixels, animal.centre, animal.radius, animal.stand + 0.2 * animal.tilt)
    tilted = Canvas(scene.pixels, animal.centre, animal.radius, animal.stand + animal.tilt)
    pelt = Pelt(rng, tilted, animal)
    _body(upright, animal, pelt)
    _head(tilted, animal, pelt)
    _foreground(rng, scene)
    _photograph(rng, scene)
    picture = (scene.pixels.clip(0, 1) * 255 + 0.5).astype(np.uint8)
    return Image.fromarray(np.ascontiguousarray(picture.transpose(1, 2, 0)))
