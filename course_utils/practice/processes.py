"""Practice to lesson 9, More than one process."""

import hashlib
import json
import math
import pickle
import tempfile
from pathlib import Path

import torch
from torch.utils.data import DataLoader, DistributedSampler

from course_utils.practice.engine import Exercise
from course_utils.practice.questions import Prediction, question

# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "09.1",
    "The prefix of DDP",
    section="A prefix, and a process that waits for ever",
    task="""`weights` is a state_dict that somebody saved from the DDP wrapper, or from the model itself. Write
    `without_prefix(weights)`: the same tensors, in the same order, under the names of the model itself. A name from the
    wrapper may hold `module.` twice, because a layer inside can be called so, too.""",
    hint="""`"module.0.weight".removeprefix("module.")` takes one prefix away, and only from the front.""",
    shows="""One leading `module.` is gone, where there was one, and nothing else has changed.""",
    idle="""A text never changes itself: `name.removeprefix(prefix)` gives a new one. Return a new dictionary.""",
)


@exercise.start
def without_prefix(weights):
    return weights


@exercise.answer
def without_prefix(weights):
    return {name.removeprefix("module."): tensor for name, tensor in weights.items()}


@exercise.mistake(
    """`replace` takes away every `module.` in a name, also that of a layer with this name. Take it from the front only:
    `removeprefix`."""
)
def without_prefix(weights):
    return {name.replace("module.", ""): tensor for name, tensor in weights.items()}


@exercise.mistake(
    """Seven letters are cut off from every name, also from one without the prefix. Look first, or use
    `removeprefix`."""
)
def without_prefix(weights):
    return {name[7:]: tensor for name, tensor in weights.items()}


@exercise.mistake(
    """`strip` and `lstrip` take a set of letters, not a word: they also eat the letters at the front of the layer's own
    name. Use `removeprefix`."""
)
def without_prefix(weights):
    return {name.lstrip("module."): tensor for name, tensor in weights.items()}


@exercise.mistake(
    """Names without the prefix are lost: a file that the model itself saved comes out empty. Keep them as they are."""
)
def without_prefix(weights):
    return {name[7:]: tensor for name, tensor in weights.items() if name.startswith("module.")}


@exercise.mistake("""These are the names alone. A state_dict has a tensor with each name.""")
def without_prefix(weights):
    return [name.removeprefix("module.") for name in weights]


@exercise.mistake("""The prefix is put in front once more. Take it away.""")
def without_prefix(weights):
    return {f"module.{name}": tensor for name, tensor in weights.items()}


def named(*names):
    return {name: torch.full((2,), float(number)) for number, name in enumerate(names)}


@exercise.probe("the names from a DDP wrapper")
def _(without_prefix):
    return list(without_prefix(named("module.0.weight", "module.0.bias", "module.model.weight")))


@exercise.probe("the names of a model without a wrapper")
def _(without_prefix):
    return list(without_prefix(named("0.weight", "dome.bias")))


@exercise.probe("a model with a layer that is called module")
def _(without_prefix):
    return list(without_prefix(named("module.module.weight", "module.head.module.bias")))


@exercise.probe("the tensors")
def _(without_prefix):
    return without_prefix(named("module.b", "module.a"))


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "09.2",
    "The share of a process",
    section="One model, two processes",
    task="""Write `share(length, epoch, number, count)`: a list of the indices that process `number` of `count` reads in
    an epoch, in order. All processes together read each of the `length` samples once (`count` divides `length`). Each
    epoch has another order, and a step of all processes together holds the samples that one process alone would have
    in that step.""",
    hint="""All processes shuffle alike: `torch.Generator().manual_seed(epoch)` and `torch.randperm`. Then deal the
    order like cards: `order[number::count]`.""",
    shows="""Every sample is read once in each epoch, in a new order, and the global batches are those of one
    process.""",
    idle="""Every process still reads everything, in the same order: return the share of this one.""",
)


@exercise.start
def share(length, epoch, number, count):
    return list(range(length))


@exercise.answer
def share(length, epoch, number, count):
    generator = torch.Generator().manual_seed(epoch)
    order = torch.randperm(length, generator=generator).tolist()
    return order[number::count]


@exercise.mistake(
    """The order is the same in each epoch. That is what happens without `set_epoch`: the epoch must be in the seed."""
)
def share(length, epoch, number, count):
    return torch.randperm(length, generator=torch.Generator().manual_seed(0)).tolist()[number::count]


@exercise.mistake(
    """Each process shuffles in its own way, so some samples are read twice and others by nobody. The seed must be the
    same in all of them."""
)
def share(length, epoch, number, count):
    return torch.randperm(length, generator=torch.Generator().manual_seed(100 * epoch + number)).tolist()[number::count]


@exercise.mistake(
    """Every process reads everything, as with `shuffle=True` in each of them: an epoch takes as long as alone. Give
    each its share, `order[number::count]`."""
)
def share(length, epoch, number, count):
    return torch.randperm(length, generator=torch.Generator().manual_seed(epoch)).tolist()


@exercise.mistake(
    """Each process takes one piece of the order after the other. Each sample is read once, but a step holds other
    samples than in one process: deal like cards, `order[number::count]`."""
)
def share(length, epoch, number, count):
    order = torch.randperm(length, generator=torch.Generator().manual_seed(epoch)).tolist()
    return order[number * length // count : (number + 1) * length // count]


@exercise.mistake("""Nothing is shuffled. Deal a random order, one for each epoch.""")
def share(length, epoch, number, count):
    return list(range(number, length, count))


@exercise.mistake(
    """The random order comes from PyTorch's global generator, which is another one in each process and at each call.
    Make a generator with the epoch as its seed."""
)
def share(length, epoch, number, count):
    return torch.randperm(length).tolist()[number::count]


@exercise.probe("how many samples two processes read, and how many different ones")
def _(share):
    read = [*share(24, 3, 0, 2), *share(24, 3, 1, 2)]
    return [len(read), len(set(read)), min(read), max(read)]


@exercise.probe("how many samples each of three processes reads")
def _(share):
    return [len(share(24, 1, number, 3)) for number in range(3)]


@exercise.probe("the orders of two epochs")
def _(share):
    return "the same" if share(24, 0, 0, 2) == share(24, 1, 0, 2) else "others"


@exercise.probe("the order that the next process would compute for the same share")
def _(share):
    return "the same" if share(24, 5, 1, 2) == share(24, 5, 1, 2) else "another"


@exercise.probe("the order of one process alone")
def _(share):
    return "shuffled" if share(24, 2, 0, 1) != sorted(share(24, 2, 0, 1)) else "not shuffled"


@exercise.probe("the samples of the first step of two processes, against one process with a batch twice as large")
def _(share):
    together = sorted(share(24, 4, 0, 2)[:4] + share(24, 4, 1, 2)[:4])
    return "the same" if together == sorted(share(24, 4, 0, 1)[:8]) else "others"


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "09.3",
    "Who computes, who writes",
    section="A prefix, and a process that waits for ever",
    task="""At the end of an epoch, every process calls `end_epoch(number, loss, mean_of_all, save)`. `loss` is its own,
    `mean_of_all(value)` is a collective that returns the mean over all processes, and `save(value)` writes a
    checkpoint with this value. Write `end_epoch`: one checkpoint is written, with the mean, and every process returns
    the mean.""",
    hint="""A collective waits until every process has called it. So it must not stand below an `if` that asks for the
    number.""",
    shows="""All computed the mean together, process 0 wrote it once, and nobody waits for ever.""",
    idle="""Every process still returns its own loss, and nothing is saved.""",
)


@exercise.start
def end_epoch(number, loss, mean_of_all, save):
    return loss


@exercise.answer
def end_epoch(number, loss, mean_of_all, save):
    mean = mean_of_all(loss)
    if number == 0:
        save(mean)
    return mean


@exercise.mistake(
    """Process 0 waits for ever: it alone calls the collective `mean_of_all`, and the others never come. Call it in
    every process, before the `if`."""
)
def end_epoch(number, loss, mean_of_all, save):
    if number == 0:
        loss = mean_of_all(loss)
        save(loss)
    return loss


@exercise.mistake("""Every process writes the same file, all at once. Only process 0 may.""")
def end_epoch(number, loss, mean_of_all, save):
    mean = mean_of_all(loss)
    save(mean)
    return mean


@exercise.mistake("""Process 0 writes its own loss, which knows its share of the images only. Write the mean.""")
def end_epoch(number, loss, mean_of_all, save):
    mean = mean_of_all(loss)
    if number == 0:
        save(loss)
    return mean


@exercise.mistake(
    """Each process returns its own loss. Then each decides by itself about the best epoch or an early stop, and they
    part. Return the mean."""
)
def end_epoch(number, loss, mean_of_all, save):
    mean = mean_of_all(loss)
    if number == 0:
        save(mean)
    return loss


@exercise.mistake("""All write but process 0: `if number` asks for a number that is not 0. Write `if number == 0`.""")
def end_epoch(number, loss, mean_of_all, save):
    mean = mean_of_all(loss)
    if number:
        save(mean)
    return mean


@exercise.mistake("""The others return nothing: `return` stands below the `if`. Every process needs the mean.""")
def end_epoch(number, loss, mean_of_all, save):
    mean = mean_of_all(loss)
    if number == 0:
        save(mean)
        return mean


@exercise.mistake("""Nothing is written. Process 0 has to call `save`.""")
def end_epoch(number, loss, mean_of_all, save):
    return mean_of_all(loss)


def epoch_of_three(end_epoch):
    """What three processes with the losses 1, 2 and 6 do: (calls of the collective, saves, what they return)."""
    calls, saves, returned = [], [], []
    for number, loss in enumerate([1.0, 2.0, 6.0]):

        def mean_of_all(value, number=number, loss=loss):
            calls.append(f"process {number} gives {value}")
            return 3.0

        returned.append(
            end_epoch(number, loss, mean_of_all, lambda value, number=number: saves.append([number, value]))
        )
    return calls, saves, returned


@exercise.probe("who calls the collective, of three processes with the losses 1, 2 and 6")
def _(end_epoch):
    return epoch_of_three(end_epoch)[0]


@exercise.probe("who saves, and what")
def _(end_epoch):
    return [f"process {number} saves {value}" for number, value in epoch_of_three(end_epoch)[1]]


@exercise.probe("what the three return")
def _(end_epoch):
    return epoch_of_three(end_epoch)[2]


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "09.4",
    "The global batch",
    section="One model, two processes",
    task="""Write `make_loader(dataset, global_batch, number, count)`: the `DataLoader` of process `number` of `count`,
    with a `DistributedSampler` that shuffles. In each step, all processes together see `global_batch` samples, however
    many they are.""",
    hint="""`batch_size` is that of one process. The sampler takes `num_replicas` and `rank`, and shuffles by
    itself.""",
    shows="""With one, two or four processes, a step holds the same number of samples, and each is read by one
    process.""",
    idle="""Every process still reads the whole dataset: the `DataLoader` needs a `sampler`.""",
)


@exercise.start
def make_loader(dataset, global_batch, number, count):
    return DataLoader(dataset, batch_size=global_batch)


@exercise.answer
def make_loader(dataset, global_batch, number, count):
    sampler = DistributedSampler(dataset, num_replicas=count, rank=number)
    return DataLoader(dataset, batch_size=global_batch // count, sampler=sampler)


@exercise.mistake(
    """Each process takes `global_batch` samples, so a step of all of them holds `count` times as many: another
    training. Divide by `count`."""
)
def make_loader(dataset, global_batch, number, count):
    sampler = DistributedSampler(dataset, num_replicas=count, rank=number)
    return DataLoader(dataset, batch_size=global_batch, sampler=sampler)


@exercise.mistake("""Every process reads the whole dataset: without a `DistributedSampler` none knows of the others.""")
def make_loader(dataset, global_batch, number, count):
    return DataLoader(dataset, batch_size=global_batch // count, shuffle=True)


@exercise.mistake("""Every process has the share of process 0. Give the sampler its `rank`.""")
def make_loader(dataset, global_batch, number, count):
    sampler = DistributedSampler(dataset, num_replicas=count, rank=0)
    return DataLoader(dataset, batch_size=global_batch // count, sampler=sampler)


@exercise.mistake("""Nothing is shuffled: leave out `shuffle=False`, a `DistributedSampler` shuffles by itself.""")
def make_loader(dataset, global_batch, number, count):
    sampler = DistributedSampler(dataset, num_replicas=count, rank=number, shuffle=False)
    return DataLoader(dataset, batch_size=global_batch // count, sampler=sampler)


@exercise.mistake(
    """A `DataLoader` takes either a sampler or `shuffle=True`. The `DistributedSampler` shuffles by itself."""
)
def make_loader(dataset, global_batch, number, count):
    sampler = DistributedSampler(dataset, num_replicas=count, rank=number)
    return DataLoader(dataset, batch_size=global_batch // count, sampler=sampler, shuffle=True)


@exercise.mistake("""The batch grows with the number of processes. It is shared among them: divide, `//`.""")
def make_loader(dataset, global_batch, number, count):
    sampler = DistributedSampler(dataset, num_replicas=count, rank=number)
    return DataLoader(dataset, batch_size=global_batch * count, sampler=sampler)


def batches_of(make_loader, count):
    return [[batch.tolist() for batch in make_loader(range(48), 8, number, count)] for number in range(count)]


@exercise.probe("the samples in a step of 1, 2 and 4 processes together")
def _(make_loader):
    return [sum(len(batches[0]) for batches in batches_of(make_loader, count)) for count in (1, 2, 4)]


@exercise.probe("the samples that two processes read in an epoch, and how many different ones")
def _(make_loader):
    read = [sample for batches in batches_of(make_loader, 2) for batch in batches for sample in batch]
    return [len(read), len(set(read))]


@exercise.probe("the order")
def _(make_loader):
    read = sum(batches_of(make_loader, 1)[0], [])
    return "shuffled" if read != sorted(read) else "not shuffled"


@exercise.probe("the order of another epoch, after `set_epoch`")
def _(make_loader):
    loader = make_loader(range(48), 8, 0, 2)
    before = list(loader.sampler)
    if not hasattr(loader.sampler, "set_epoch"):
        return "the sampler has no set_epoch"
    loader.sampler.set_epoch(1)
    return "the same" if before == list(loader.sampler) else "another"


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "09.5",
    "How often to save",
    section="The way up, on paper",
    task="""Write `save_every(size, speed, machines, between)`: how many seconds should pass between two saves, by
    Young's rule. The checkpoint has `size` bytes, the storage takes `speed` bytes a second, and one machine fails every
    `between` seconds.""",
    hint="""Young: the square root of 2 × (seconds to write) × (seconds between two failures *of the whole*). Ten
    machines fail ten times as often as one.""",
    shows="""More machines save more often, larger checkpoints less often, and both only by the square root.""",
    idle="""The seconds are still the same for every size: return what the formula gives.""",
)


@exercise.start
def save_every(size, speed, machines, between):
    return 3600


@exercise.answer
def save_every(size, speed, machines, between):
    write, fails = size / speed, between / machines
    return math.sqrt(2 * write * fails)


def by(formula):
    return lambda size, speed, machines, between: formula(size / speed, machines, between)


exercise.mistake(
    """That is the rule for one machine. A training on many stops when any of them fails: divide `between` by
    `machines`."""
)(by(lambda write, machines, between: math.sqrt(2 * write * between)))
exercise.mistake(
    """More machines would save less often here: `between` is multiplied by `machines`. Together they fail more
    often, so divide."""
)(by(lambda write, machines, between: math.sqrt(2 * write * between * machines)))
exercise.mistake("""The 2 of Young's rule is missing. It comes from half an interval that is lost by a failure.""")(
    by(lambda write, machines, between: math.sqrt(write * between / machines))
)
exercise.mistake("""The square root is missing: these are seconds times seconds.""")(
    by(lambda write, machines, between: 2 * write * between / machines)
)
exercise.mistake("""The 2 stands outside the square root, so the interval is 1.4 times too long.""")(
    by(lambda write, machines, between: 2 * math.sqrt(write * between / machines))
)
exercise.mistake(
    """A faster storage would make the interval longer here. The seconds to write are `size / speed`, not
    `size * speed`."""
)(lambda size, speed, machines, between: math.sqrt(2 * size * speed * between / machines))
exercise.mistake("""This is the time between two failures. Saved that seldom, half of all the work is lost.""")(
    by(lambda write, machines, between: between / machines)
)


@exercise.probe("seconds between two saves on one machine: 50 s to write, a failure each 10,000 s")
def _(save_every):
    return save_every(100, 2, 1, 10_000)


@exercise.probe("the same on 4 machines")
def _(save_every):
    return save_every(100, 2, 4, 10_000)


@exercise.probe("8 machines, 270 days between failures, 1 TB at 10 GB a second")
def _(save_every):
    return save_every(1e12, 1e10, 8, 270 * 86400)


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "09.6",
    "First the hash, then the pickle",
    section="What DCP leaves to you",
    task="""`folder` holds `manifest.json`, a dict {name of a file: its SHA-256 in hex}, and the files, one of which is
    `.metadata`, a pickle. Write `load(folder)`: it returns the unpickled content of `.metadata`, and raises
    `ValueError` when any file of the manifest is missing or is not as it was saved. No planted code may run.""",
    hint="""`hashlib.sha256(content).hexdigest()`. Check the files of the *manifest*, all of them, before
    `pickle.loads`. A file that is missing raises `FileNotFoundError` when you read it: make it a `ValueError`.""",
    shows="""Every file is compared first, the pickle is opened last, and nothing that was planted ran.""",
    idle="""A changed file is still unpickled. Where is it compared with the manifest?""",
)


@exercise.start
def load(folder):
    return pickle.loads((folder / ".metadata").read_bytes())


@exercise.answer
def load(folder):
    for name, expected in json.loads((folder / "manifest.json").read_text()).items():
        path = folder / name
        if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise ValueError(f"{name} is not as it was saved")
    return pickle.loads((folder / ".metadata").read_bytes())


def hash_of(path):
    return hashlib.sha256(path.read_bytes()).hexdigest()


def manifest_of(folder):
    return json.loads((folder / "manifest.json").read_text())


@exercise.mistake(
    """The planted code ran: the pickle is opened first and compared afterwards. Compare everything, then unpickle."""
)
def load(folder):
    content = pickle.loads((folder / ".metadata").read_bytes())
    for name, expected in manifest_of(folder).items():
        if not (folder / name).exists() or hash_of(folder / name) != expected:
            raise ValueError(name)
    return content


@exercise.mistake(
    """Only `.metadata` is compared. A shard that is damaged or missing would be found later, or never: compare every
    file of the manifest."""
)
def load(folder):
    if hash_of(folder / ".metadata") != manifest_of(folder)[".metadata"]:
        raise ValueError(".metadata")
    return pickle.loads((folder / ".metadata").read_bytes())


@exercise.mistake(
    """A missing file is not noticed: you go through the files that are there. Go through those of the manifest."""
)
def load(folder):
    for path in folder.iterdir():
        if path.name != "manifest.json" and hash_of(path) != manifest_of(folder).get(path.name):
            raise ValueError(path.name)
    return pickle.loads((folder / ".metadata").read_bytes())


@exercise.mistake(
    """A missing file raises `FileNotFoundError`, and the task says `ValueError`: look first, or catch it."""
)
def load(folder):
    for name, expected in manifest_of(folder).items():
        if hash_of(folder / name) != expected:
            raise ValueError(name)
    return pickle.loads((folder / ".metadata").read_bytes())


@exercise.mistake(
    """A damaged checkpoint gives `None`, and whoever called goes on with nothing, perhaps from zero. Raise
    `ValueError`."""
)
def load(folder):
    for name, expected in manifest_of(folder).items():
        if not (folder / name).exists() or hash_of(folder / name) != expected:
            return None
    return pickle.loads((folder / ".metadata").read_bytes())


@exercise.mistake(
    """Only whether the files are there is looked at, not what is in them. Compare the SHA-256 of each."""
)
def load(folder):
    if any(not (folder / name).exists() for name in manifest_of(folder)):
        raise ValueError("missing")
    return pickle.loads((folder / ".metadata").read_bytes())


RAN = []


class Planted:
    """Pickled, it is a call that notes that it ran."""

    def __reduce__(self):
        return RAN.append, ("ran",)


def try_to_load(load, change):
    """What `load` gives for a folder of three files in which `change(folder)` was done."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        files = {".metadata": pickle.dumps({"step": 42}), "__0_0.distcp": b"rows 0 to 31", "__1_0.distcp": b"32 to 63"}
        for name, content in files.items():
            (folder / name).write_bytes(content)
        sums = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        (folder / "manifest.json").write_text(json.dumps(sums))
        change(folder)
        try:
            return load(folder)
        except (ValueError, FileNotFoundError) as error:
            return type(error).__name__


@exercise.probe("a folder as it was saved")
def _(load):
    return try_to_load(load, lambda folder: None)


@exercise.probe("a planted pickle in .metadata: what `load` gives, and whether its code ran")
def _(load):
    RAN.clear()
    return [try_to_load(load, lambda folder: (folder / ".metadata").write_bytes(pickle.dumps(Planted()))), [*RAN]]


@exercise.probe("a shard with one changed letter")
def _(load):
    return try_to_load(load, lambda folder: (folder / "__1_0.distcp").write_bytes(b"32 to 64"))


@exercise.probe("a shard that is missing")
def _(load):
    return try_to_load(load, lambda folder: (folder / "__0_0.distcp").unlink())


@exercise.probe("a missing .metadata")
def _(load):
    return try_to_load(load, lambda folder: (folder / ".metadata").unlink())


# ---------------------------------------------------------------------------------------------------------------------
def in_the_same_place_without_set_epoch() -> float:
    sampler = DistributedSampler(range(200), num_replicas=2, rank=0)
    first, second = list(sampler), list(sampler)
    return sum(one == other for one, other in zip(first, second))


Prediction(
    "09.2",
    """A `DistributedSampler` deals 200 samples to two processes. Process 0 goes through its 100 for two epochs, and
    nobody calls `set_epoch`. How many of the 100 come at the same place in both epochs?""",
    in_the_same_place_without_set_epoch,
    [
        (
            100,
            100,
            "All of them: the order is made of seed and epoch, and the sampler believes in epoch 0.",
        ),
        (0, 5, "You expect a new order. It shuffles by the epoch that it was told, and nobody told it of a new one."),
        (6, 99, "You expect a mixture. The order is either the same or a new one: here it is the same."),
    ],
)


def interval_with_a_quicker_storage() -> float:
    write, fails = 60.0, 86400.0
    return round(100 * math.sqrt(2 * write / 4 * fails) / math.sqrt(2 * write * fails))


Prediction(
    "09.5",
    """You get a storage that writes your checkpoint four times as fast. By Young's rule, how many percent of the old
    interval should lie between two saves now?""",
    interval_with_a_quicker_storage,
    [
        (50, 50, "Half: the interval goes with the square root of the seconds to write."),
        (25, 25, "You divide by four. The rule has a square root: a quarter of the seconds, half of the interval."),
        (100, 100, "You leave it as it was. Saves are cheaper now, so more of them pay: half the interval."),
        (
            101,
            1000,
            "You save less often because it is quick. What is cheap is done more often.",
        ),
        (0, 99, "It is the square root of a quarter."),
    ],
)

question(
    "09",
    "Eight processes train with DDP, each with `batch_size=32`. You go on with four. What keeps the training the same?",
    ("`batch_size=64`.", True, "The global batch stays 256."),
    ("Nothing needs to change: DDP averages.", False, "The global batch would be 128: other steps, and more of them."),
    (
        "A learning rate that is twice as high.",
        False,
        "That answers a larger batch; here it would be smaller.",
    ),
)
question(
    "09",
    "Which of these may process 0 do alone?",
    ("Write the checkpoint.", True, "The copies are equal, so one is enough."),
    ("Call `all_reduce`.", False, "A collective waits for all: it would hang."),
    ("Print the mean loss that all have computed.", True, "Nobody else is needed for that."),
)
question(
    "09",
    "What does a manifest of hashes protect against?",
    ("A flipped bit on the disk.", True, "The hash of that file is another one."),
    ("A file of another checkpoint under this name.", True, "It is whole, and its hash is not the one noted."),
    ("Somebody who rewrites the whole folder.", False, "They write a manifest that fits: keep its hash elsewhere."),
)
