"""One animal as chance decides it, and the coat it wears.

drawing.py paints it. Lengths are in head radii, as `Animal` says.
"""

from dataclasses import dataclass

import numpy as np

from course_utils.data.canvas import noise, rgb

COATS = [  # main colour, second colour (patches, stripes), pale colour (muzzle, chest), all in 0..1
    ((0.80, 0.49, 0.22), (0.60, 0.31, 0.11), (0.96, 0.86, 0.72)),  # ginger
    ((0.50, 0.48, 0.47), (0.26, 0.25, 0.25), (0.86, 0.85, 0.83)),  # grey
    ((0.17, 0.15, 0.15), (0.40, 0.26, 0.15), (0.88, 0.86, 0.84)),  # black
    ((0.89, 0.86, 0.81), (0.50, 0.36, 0.25), (0.97, 0.95, 0.92)),  # white
    ((0.48, 0.34, 0.22), (0.24, 0.17, 0.12), (0.83, 0.73, 0.60)),  # brown
    ((0.83, 0.70, 0.50), (0.55, 0.40, 0.26), (0.95, 0.90, 0.80)),  # cream
]
IRISES = [(0.62, 0.67, 0.22), (0.78, 0.58, 0.16), (0.38, 0.62, 0.42), (0.45, 0.64, 0.78), (0.50, 0.30, 0.12)]
PINK, DARK, WHITE = (0.87, 0.55, 0.54), (0.07, 0.055, 0.05), (1.0, 1.0, 1.0)


@dataclass
class Animal:
    """What chance decides about one animal. Lengths count in head radii, unless they say picture."""

    dog: bool
    coat: np.ndarray  # (3, 3): main, second and pale colour
    pattern: str  # plain, stripes, patches or blaze
    pale_face: float  # how far muzzle and chest take the pale colour, 0..1
    fluff: float  # how ragged the outline and how strong the strands
    iris: tuple
    radius: float  # of the head, in picture widths
    centre: tuple  # of the head, in picture widths
    tilt: float  # of the head; tan of half the angle, so 0.22 is 25 degrees
    stand: float  # of the whole animal, as tilt
    turn: float  # -1 looks left, 1 looks right
    lean: float  # where the body is, left or right of the head
    ear: float  # how long
    ear_spread: float
    folded: bool  # a dog's ear that folds forward instead of hanging
    muzzle: float  # how big
    pupil: float  # how wide, 0..1
    squint: float  # height of the eye opening
    tongue: bool
    pink: float  # inside of a cat's ear
    nose: tuple
    whiskers: float  # how white
    light: tuple  # direction that light comes from


def random_animal(rng: np.random.Generator, dog: bool) -> Animal:
    """An animal whose every trait is drawn from rng."""
    between = rng.uniform
    coat = np.array(COATS[rng.integers(len(COATS))]) * between(0.85, 1.1) + between(-0.05, 0.05, 3)
    return Animal(
        dog=dog,
        coat=coat.clip(0.03, 1).astype(np.float32),
        pattern=("plain", "stripes", "patches", "blaze")[rng.integers(4)],
        pale_face=between(0, 1),
        fluff=between(0.05, 0.2),
        iris=IRISES[rng.integers(len(IRISES))],
        radius=between(0.1, 0.28),
        centre=(between(0.14, 0.86), between(0.2, 0.78)),
        tilt=between(-0.38, 0.38),
        stand=between(-0.22, 0.22),
        turn=between(-1, 1),
        lean=between(-0.9, 0.9),
        ear=between(0.85, 1.2),
        ear_spread=between(-0.12, 0.12),
        folded=rng.random() < 0.35,
        muzzle=between(0.9, 1.15),
        pupil=between(0.2, 0.7),
        squint=between(0.7, 1.05),
        tongue=rng.random() < 0.4,
        pink=between(0.0, 0.6),
        nose=(PINK, (0.62, 0.36, 0.34), (0.25, 0.18, 0.17), DARK, DARK)[rng.integers(5)],
        whiskers=between(0.5, 1.0),
        light=(between(-0.7, 0.7), between(-0.8, -0.1)),
    )


class Pelt:
    """The animal's coat spread over a canvas: its colours with pattern and strands, and how light falls on it."""

    def __init__(self, rng, canvas, animal):
        x, y = canvas.x, canvas.y
        self.animal, self.strands = animal, _strands(rng, x, y)
        main, second, pale = (rgb(colour) for colour in animal.coat)
        blotches = noise(rng, 9, len(x))
        if animal.pattern == "stripes":
            wave = np.abs((np.sqrt(x * x + y * y) * 2.2 + np.abs(x) * 1.2 + blotches * 1.5) % 1 - 0.5)
            amount = np.clip((wave - 0.27) * 8, 0, 0.8)
        elif animal.pattern == "patches":
            amount = np.clip((blotches - 0.52) * 14, 0, 1)
        elif animal.pattern == "blaze":
            amount = np.clip((np.abs(x) - 0.16 - 0.15 * y + blotches * 0.2) * 9, 0, 1)
            main, second = pale, main
        else:
            amount = 0.3 * blotches
        texture = 1 + (0.5 + 3 * animal.fluff) * self.strands
        self.coat = (main + amount * (second - main)) * texture
        self.pale = (main + animal.pale_face * (pale - main)) * texture

    def paint(self, canvas, shape, pale=False, shade=1.0, soft=0.03, fluff=1.0):
        """Paint an ellipse as a furry ball: lit from one side, darker at the edge, ragged outline."""
        window, distance, u, v = shape
        height = np.sqrt(np.maximum(0, 1 - u * u - v * v))
        light = 0.68 + 0.34 * height + 0.26 * (u * self.animal.light[0] + v * self.animal.light[1])
        ragged = distance + (fluff * self.animal.fluff) * self.strands[window]
        colour = (self.pale if pale else self.coat)[:, *window]
        canvas.paint(shape._replace(distance=ragged), colour * (light * shade), soft)


def _strands(rng, x, y):
    """Hairs that lie away from the face, about -0.5..0.5: noise averaged along the direction of the fur."""
    lattice = rng.random(128 * 128, np.float32)
    far = np.sqrt(x * x + (y + 0.2) * (y + 0.2)) + 0.05
    along_x, along_y = x / far, (y + 0.2) / far
    total = 0
    for step in range(5):
        column = ((x - along_x * (0.05 * step)) * 22 + 1024).astype(np.intp) & 127
        row = ((y - along_y * (0.05 * step)) * 22 + 1024).astype(np.intp) & 127
        total = total + lattice[row * 128 + column]
    return (total - 2.5) * 0.37
