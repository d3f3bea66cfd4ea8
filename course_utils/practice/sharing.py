"""Practice to lesson 8, Sharing models."""

import hashlib
import json
from pathlib import Path

import safetensors.torch
import torch
from safetensors.torch import save_file
from torch import nn

from course_utils.practice.engine import Exercise
from course_utils.practice.questions import Prediction, question
from course_utils.practice.toys import net, same_bits, seeded

# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "08.1",
    "Weights for others",
    section="Two kinds of file",
    task="""Write `save_weights(model, path)`: the model's weights go into a safetensors file, each under its name,
    every bit as it is. Some tensors of the model may be views that are not contiguous.""",
    hint="""`save_file` takes a dictionary of contiguous tensors: `tensor.contiguous()` copies where it must. A
    `state_dict` has all names.""",
    shows="""The file has every tensor, buffers too, with every bit, and no room for a program.""",
    idle="""Is there a file at `path`?""",
)


@exercise.start
def save_weights(model, path):
    pass


@exercise.answer
def save_weights(model, path):
    tensors = {name: tensor.contiguous() for name, tensor in model.state_dict().items()}
    save_file(tensors, path)


@exercise.mistake(
    """The ending says safetensors, the bytes are a pickle: `torch.save` does not look at the name. Use `save_file`."""
)
def save_weights(model, path):
    torch.save(model.state_dict(), path)


@exercise.mistake(
    """`save_file` refuses a tensor that is not contiguous, such as a transposed one. Call `.contiguous()` on each."""
)
def save_weights(model, path):
    save_file(model.state_dict(), path)


@exercise.mistake("""BatchNorm's statistics are missing: they are buffers, no parameters. Take the `state_dict`.""")
def save_weights(model, path):
    save_file({name: one.detach().contiguous() for name, one in model.named_parameters()}, path)


@exercise.mistake("""The weights were rounded to 16 bits. The task wants every bit as it is: leave out `.half()`.""")
def save_weights(model, path):
    save_file({name: tensor.half().contiguous() for name, tensor in model.state_dict().items()}, path)


@exercise.mistake("""The names begin with `model.`, and no model knows them. Store each tensor under its own name.""")
def save_weights(model, path):
    save_file({f"model.{name}": tensor.contiguous() for name, tensor in model.state_dict().items()}, path)


@exercise.mistake("""The numbers are those of the parameters alone, under numbers instead of names. Keep the names.""")
def save_weights(model, path):
    save_file({str(place): one.detach().contiguous() for place, one in enumerate(model.parameters())}, path)


def with_a_view():
    """A net whose last weight is a transposed tensor."""
    model = net()
    weight = model.classifier[1].weight
    model.classifier[1].weight = nn.Parameter(weight.detach().t().contiguous().t())
    return model


def as_saved(save_weights, model):
    """The tensors of the file, or the words "a pickle" or "no file"."""
    path = Path("model.safetensors")
    save_weights(model, path)
    if not path.exists():
        return "no file"
    content = path.read_bytes()
    return "a pickle" if content[8:9] != b"{" else safetensors.torch.load(content)


@exercise.probe("the names in the file")
def _(save_weights):
    tensors = as_saved(save_weights, net())
    return tensors if isinstance(tensors, str) else sorted(tensors)


@exercise.probe("tensors of the file that are the model's, bit by bit")
def _(save_weights):
    model = net(seed=2)
    tensors = as_saved(save_weights, model)
    if isinstance(tensors, str):
        return tensors
    return sum(same_bits(tensors.get(name), one) for name, one in model.state_dict().items())


@exercise.probe("a model with a transposed weight")
def _(save_weights):
    model = with_a_view()
    tensors = as_saved(save_weights, model)
    if isinstance(tensors, str):
        return tensors
    return [name for name, one in model.state_dict().items() if same_bits(tensors.get(name), one)]


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "08.2",
    "Read a header by hand",
    section="Two kinds of file",
    task="""Write `shapes_in(path)`: {name: shape as a list} of the tensors in a safetensors file, without the library.
    The first 8 bytes are the length of the header, the lowest byte first; then comes the header, JSON. An entry
    `__metadata__` may stand in it, and is no tensor.""",
    hint="""`int.from_bytes(content[:8], "little")`, then `json.loads` of as many bytes after the eighth.""",
    shows="""You have read a model's file with nothing but JSON: nothing in it could have run.""",
    idle="""Return the dictionary: each name, with the `shape` that its entry has.""",
)


@exercise.start
def shapes_in(path):
    return {}


@exercise.answer
def shapes_in(path):
    content = Path(path).read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    return {name: entry["shape"] for name, entry in header.items() if name != "__metadata__"}


def read_otherwise(
    order="little", end=lambda length: 8 + length, keep=lambda name: name != "__metadata__", key="shape"
):
    def shapes_in(path):
        content = Path(path).read_bytes()
        length = int.from_bytes(content[:8], order)
        header = json.loads(content[8 : end(length)])
        return {name: entry.get(key) for name, entry in header.items() if keep(name)}

    return shapes_in


exercise.mistake("""The length was read with the highest byte first, so it is gigantic. Say "little": lowest first.""")(
    read_otherwise(order="big")
)
exercise.mistake(
    """The header is cut: it begins at byte 8, so it ends at byte 8 + length. You have stopped 8 bytes before."""
)(read_otherwise(end=lambda length: length))
exercise.mistake("""`__metadata__` is in your answer. It holds notes as text, and is no tensor: leave it out.""")(
    read_otherwise(keep=lambda name: True)
)
exercise.mistake("""These are the types of the tensors. Their sizes stand under `shape`.""")(
    read_otherwise(key="dtype")
)
exercise.mistake("""These are the places of the tensors in the file. Their sizes stand under `shape`.""")(
    read_otherwise(key="data_offsets")
)


@exercise.mistake(
    """You have counted the metadata's letters into the model: only entries with a `shape` are tensors, and you have
    given the others an empty one."""
)
def shapes_in(path):
    content = Path(path).read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return {name: entry.get("shape", []) for name, entry in header.items()}


@exercise.probe("the shapes of three tensors")
def _(shapes_in):
    save_file({"a": torch.ones(2, 3), "b": torch.ones(4, dtype=torch.int64), "c": torch.tensor(1.0)}, "three.st")
    return shapes_in("three.st")


@exercise.probe("the shapes in a file with notes")
def _(shapes_in):
    save_file({"w": torch.ones(5)}, "notes.st", metadata={"about": "one tensor"})
    return shapes_in("notes.st")


@exercise.probe("the shapes of 200 tensors")
def _(shapes_in):
    save_file({f"layer.{number}": torch.ones(number) for number in range(1, 201)}, "many.st")
    shapes = shapes_in("many.st")
    return [len(shapes), shapes.get("layer.200")]


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "08.3",
    "What has happened to the folder?",
    section="Why hashes",
    task="""`sums` is {name of a file: its SHA-256 as text}. Write `wrong_files(folder, sums)`: the sorted names of all
    files that were changed, are missing, or were added.""",
    hint="""A changed file has another `hashlib.sha256(path.read_bytes()).hexdigest()`. For missing and added ones,
    look at both sets of names.""",
    shows="""Changed, missing, added: nothing gets past you, and nothing that is right is accused.""",
    idle="""Return the names, in a list.""",
)


@exercise.start
def wrong_files(folder, sums):
    return []


@exercise.answer
def wrong_files(folder, sums):
    there = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(folder).iterdir()}
    return sorted(name for name in there.keys() | sums.keys() if there.get(name) != sums.get(name))


def comparing(
    names=lambda there, sums: there | sums, digest=lambda path: hashlib.sha256(path.read_bytes()).hexdigest()
):
    def wrong_files(folder, sums):
        there = {path.name: digest(path) for path in Path(folder).iterdir()}
        return sorted(name for name in names(there.keys(), sums.keys()) if there.get(name) != sums.get(name))

    return wrong_files


exercise.mistake(
    """A file that was added gets past you: you look only at those that are listed. A program could be in it."""
)(comparing(names=lambda there, sums: set(sums)))
exercise.mistake("""A missing file gets past you: you look only at those that are there. Look at the list as well.""")(
    comparing(names=lambda there, sums: set(there))
)
exercise.mistake("""Only the names are compared, so a changed file gets past you. Compare the hashes as well.""")(
    lambda folder, sums: sorted({path.name for path in Path(folder).iterdir()} ^ sums.keys())
)
exercise.mistake("""Only files that are on both sides are compared: missing and added ones get past you.""")(
    comparing(names=lambda there, sums: there & sums)
)
exercise.mistake(
    """You accuse every file: this is the hash of the file's name. Hash its bytes, `path.read_bytes()`."""
)(comparing(digest=lambda path: hashlib.sha256(path.name.encode()).hexdigest()))
exercise.mistake(
    """Only the first bytes are hashed, so a longer file never fits its hash. Hash all of `path.read_bytes()`."""
)(comparing(digest=lambda path: hashlib.sha256(path.read_bytes()[:64]).hexdigest()))


@exercise.mistake("""You have found them all. Their names are not in order: `sorted(…)` puts them into one.""")
def wrong_files(folder, sums):
    there = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in Path(folder).iterdir()}
    return [name for name in sums if sums[name] != there.get(name)] + [name for name in there if name not in sums]


def a_release():
    folder = Path("release")
    folder.mkdir(exist_ok=True)
    for name, content in {"card": b"about it", "config": b"{}", "weights": bytes(range(200))}.items():
        (folder / name).write_bytes(content)
    return folder, {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


@exercise.probe("a folder where all is right")
def _(wrong_files):
    return wrong_files(*a_release())


@exercise.probe("one weight changed, in the last byte")
def _(wrong_files):
    folder, sums = a_release()
    (folder / "weights").write_bytes(bytes(range(199)) + b"\x00")
    return wrong_files(folder, sums)


@exercise.probe("the card is missing")
def _(wrong_files):
    folder, sums = a_release()
    (folder / "card").unlink()
    return wrong_files(folder, sums)


@exercise.probe("a program was added")
def _(wrong_files):
    folder, sums = a_release()
    (folder / "modeling").write_text("print('run me')")
    found = wrong_files(folder, sums)
    (folder / "modeling").unlink()
    return found


@exercise.probe("the config has another name")
def _(wrong_files):
    folder, sums = a_release()
    (folder / "config").rename(folder / "a config")
    return wrong_files(folder, sums)


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "08.4",
    "A quarter of the bytes",
    section="Smaller files",
    task="""Write `to_int8(weight)`: `(numbers, scale)` of a matrix (outputs, inputs). `numbers` is int8, rounded to the
    nearest; `scale` has the shape (outputs, 1), one for each row: its largest magnitude becomes 127. `numbers * scale`
    is nearly the weight. A row of zeros stays zeros, with a scale above zero.""",
    hint="""`weight.abs().amax(dim=1, keepdim=True)` is the largest magnitude of each row. Dividing zero by zero gives
    `nan`: `clamp(min=1e-12)` helps.""",
    shows="""A byte for each weight, and no weight is off by more than half a step of its row.""",
    idle="""The scale is still 1 for each row, and the numbers are the weights themselves.""",
)


@exercise.start
def to_int8(weight):
    return weight, torch.ones(len(weight), 1)


@exercise.answer
def to_int8(weight):
    scale = weight.abs().amax(dim=1, keepdim=True).clamp(min=1e-12) / 127
    return (weight / scale).round().to(torch.int8), scale


def quantizing(
    largest=lambda weight: weight.abs().amax(dim=1, keepdim=True), steps=127, nearest=torch.round, least=1e-12
):
    def to_int8(weight):
        scale = largest(weight).clamp(min=least) / steps
        numbers = nearest(weight / scale)
        return numbers.to(torch.int8), scale

    return to_int8


exercise.mistake(
    """One scale for the whole matrix: a row of small weights gets only a few of the 255 numbers. Take the largest of
    each row, `amax(dim=1, keepdim=True)`."""
)(quantizing(largest=lambda weight: weight.abs().max().expand(len(weight), 1)))
exercise.mistake(
    """The largest weight of each row changed its sign: int8 ends at 127, and 128 becomes -128. Divide by 127."""
)(quantizing(steps=128))
exercise.mistake(
    """`.to(torch.int8)` cuts the digits off, so each weight moves towards zero by up to a whole step. Round first."""
)(quantizing(nearest=lambda numbers: numbers))
exercise.mistake(
    """A row of zeros has the scale 0, and 0 / 0 is `nan`, which is no number in int8. Keep the scale above zero, for
    instance with `clamp(min=1e-12)`."""
)(quantizing(least=0))
exercise.mistake("""The largest number is not the largest *magnitude*: a row with a large negative weight overflows. Use
    `abs()` first.""")(quantizing(largest=lambda weight: weight.amax(dim=1, keepdim=True)))
exercise.mistake("""The scales are those of the columns. A row is an output: take `dim=1`, not `dim=0`.""")(
    quantizing(largest=lambda weight: weight.abs().amax(dim=0, keepdim=True).t()[: len(weight)])
)


def a_matrix(seed=0):
    """Eight rows of very different size."""
    return seeded(lambda: torch.randn(8, 8) * torch.logspace(-3, 0, 8)[:, None], seed)


@exercise.probe("type and shapes for a matrix of 8 rows")
def _(to_int8):
    numbers, scale = to_int8(a_matrix())
    return [str(numbers.dtype), list(numbers.shape), list(scale.shape)]


@exercise.probe("the numbers for rows of 1.27, 0.5, -0.01 and of 0.4, -2.54, 0.016")
def _(to_int8):
    return to_int8(torch.tensor([[1.27, 0.5, -0.01], [0.4, -2.54, 0.016]]))[0]


@exercise.probe("the largest error, in steps of its row")
def _(to_int8):
    weight = a_matrix(1)
    numbers, scale = to_int8(weight)
    steps = weight.abs().amax(dim=1, keepdim=True) / 127
    return bool((((numbers.float() * scale) - weight).abs() / steps).max() <= 0.51)


@exercise.probe("a row of zeros")
def _(to_int8):
    numbers, scale = to_int8(torch.tensor([[0.0, 0.0], [1.0, -1.0]]))
    return [(numbers.float() * scale)[0], bool(scale[0] > 0)]


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "08.5",
    "Only what was published",
    section="The Hub",
    task="""`download()` returns the bytes of a safetensors file, and `published` is their SHA-256 as text. Write
    `load_pinned(download, published)`: the tensors, if the bytes are those; else a ValueError, and nothing is read as
    tensors.""",
    hint="""Keep the bytes in a variable: `content = download()`. What you hash and what you load must be the same
    bytes. `safetensors.torch.load(content)` reads them.""",
    shows="""What was hashed is what was loaded, and a changed file got no further than its hash.""",
    idle="""Whatever comes down is still loaded. Where are the bytes compared with `published`?""",
)


@exercise.start
def load_pinned(download, published):
    return safetensors.torch.load(download())


@exercise.answer
def load_pinned(download, published):
    content = download()
    if hashlib.sha256(content).hexdigest() != published:
        raise ValueError("These are not the bytes that were published.")
    return safetensors.torch.load(content)


@exercise.mistake(
    """You download twice: the bytes that you hash are not those that you load. Between the two calls the file may
    change. Keep them in a variable."""
)
def load_pinned(download, published):
    if hashlib.sha256(download()).hexdigest() != published:
        raise ValueError("changed")
    return safetensors.torch.load(download())


@exercise.mistake(
    """You load first and compare afterwards. By then the reader has already worked on a stranger's bytes, and with a
    pickle it would be too late. Hash first."""
)
def load_pinned(download, published):
    content = download()
    tensors = safetensors.torch.load(content)
    if hashlib.sha256(content).hexdigest() != published:
        raise ValueError("changed")
    return tensors


@exercise.mistake("""A changed file gives None, and the program goes on without weights. Raise a ValueError.""")
def load_pinned(download, published):
    content = download()
    if hashlib.sha256(content).hexdigest() == published:
        return safetensors.torch.load(content)


@exercise.mistake("""The comparison is the wrong way round: you refuse the published bytes and load all others.""")
def load_pinned(download, published):
    content = download()
    if hashlib.sha256(content).hexdigest() == published:
        raise ValueError("changed")
    return safetensors.torch.load(content)


@exercise.mistake(
    """Only the first 8 characters are compared. Another file with the same 8 is found in a minute: compare all 64."""
)
def load_pinned(download, published):
    content = download()
    if hashlib.sha256(content).hexdigest()[:8] != published[:8]:
        raise ValueError("changed")
    return safetensors.torch.load(content)


@exercise.mistake("""This is the MD5 of the bytes. The published hash is a SHA-256, so nothing ever fits.""")
def load_pinned(download, published):
    content = download()
    if hashlib.md5(content).hexdigest() != published:
        raise ValueError("changed")
    return safetensors.torch.load(content)


def offered(load_pinned, *contents, published=None):
    """What comes back for these downloads, one after the other; the published hash is that of the first."""
    waiting = list(contents)

    def download():
        return waiting.pop(0) if len(waiting) > 1 else waiting[0]

    try:
        tensors = load_pinned(download, published or hashlib.sha256(contents[0]).hexdigest())
    except ValueError:
        return "a ValueError"
    return {name: one.tolist() for name, one in tensors.items()} if isinstance(tensors, dict) else tensors


GOOD = safetensors.torch.save({"w": torch.tensor([1.0, 2.0])})
EVIL = safetensors.torch.save({"w": torch.tensor([1.0, 9.0])})
NONSENSE = b"no tensors at all"


@exercise.probe("the published file")
def _(load_pinned):
    return offered(load_pinned, GOOD)


@exercise.probe("a file with another weight")
def _(load_pinned):
    return offered(load_pinned, EVIL, published=hashlib.sha256(GOOD).hexdigest())


@exercise.probe("a file that is no safetensors file")
def _(load_pinned):
    return offered(load_pinned, NONSENSE, published=hashlib.sha256(GOOD).hexdigest())


@exercise.probe("a server that gives another file the second time")
def _(load_pinned):
    return offered(load_pinned, GOOD, EVIL)


@exercise.probe("a file whose hash begins like the published one")
def _(load_pinned):
    like = hashlib.sha256(EVIL).hexdigest()
    return offered(load_pinned, EVIL, published=like[:12] + like[12:][::-1])


# ---------------------------------------------------------------------------------------------------------------------
def characters_that_differ():
    """Of the 64 of a hash, when the lowest bit of the last of a million bytes is flipped."""
    content = bytes(10**6)
    one, other = (hashlib.sha256(some).hexdigest() for some in (content, content[:-1] + b"\x01"))
    return sum(a != b for a, b in zip(one, other))


Prediction(
    "08.3",
    """A file has a million bytes. You flip one bit, in its last byte. How many of the 64 characters of its SHA-256
    change?""",
    characters_that_differ,
    [
        (55, 64, "Nearly all: each character changes with a chance of 15 in 16. No part of the hash stays."),
        (1, 1, "You think of a sum, where a small change stays small. A hash mixes each bit into all of it."),
        (0, 0, "You think of a checksum of the first bytes. Every bit of the file counts, also the last."),
        (2, 54, "More: every character depends on every bit, and only 1 in 16 is the same by chance."),
    ],
)

Prediction(
    "08.4",
    """A layer has 1000 x 1000 weights in float32. You store them in int8 with a float32 scale for each row. How many
    times smaller is that, to one decimal?""",
    lambda: round(4 * 1000 * 1000 / (1000 * 1000 + 4 * 1000), 1),
    [
        (3.9, 4.0, "One byte instead of four; 1,000 scales are 0.4 % more."),
        (2, 2, "That is half precision: two bytes. int8 takes one."),
        (8, 8, "int8 means 8 bits, which are one byte; float32 has four."),
        (0, 100, "A float32 has 4 bytes, an int8 has 1, and the scales weigh next to nothing."),
    ],
)

question(
    "08",
    "Why can a safetensors file not run a program?",
    ("It is signed.", False, "Nobody signs it: a stranger may have written it."),
    ("Its header only names types, shapes and places.", True, "There is no entry that means: call this."),
    ("torch.load checks it for viruses.", False, "Nobody looks for viruses; there is nothing to run."),
)
question(
    "08",
    "Against whom does `SHA256SUMS` in the folder itself help?",
    ("Against accidents on the way.", True, "A cut or changed file has another hash than the listed one."),
    (
        "Against somebody who can write into the folder.",
        False,
        "They write new sums as well. The hash must also stand where they cannot write.",
    ),
    ("Against a bad model.", False, "A hash says that it is the same model, not that it is a good one."),
)
question(
    "08",
    "Which of these names always gives you the same bytes from a Hub?",
    ("`main`", False, "It moves with each push."),
    ("A tag such as `v1`", False, "A tag can be moved to another commit."),
    ("The 40 characters of a commit", True, "They are a hash over all files: other files, another name."),
)
question(
    "08",
    "Which of these may run code when you load it in the usual way?",
    ("a `.pt2` with `torch.export.load`", True, "It falls back to the unsafe reader for the example inputs."),
    ("a `.safetensors` with `load_file`", False, "It holds tensors and names, nothing else."),
    ("a `.pt` with `weights_only=False`", True, "A pickle is a program, and this runs it."),
)
