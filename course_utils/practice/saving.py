"""Practice to lesson 1, Saving models."""

import copy
import os
import pickle
import sys
import zipfile

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from course_utils.practice.engine import Exercise
from course_utils.practice.questions import Prediction, question
from course_utils.practice.toys import Net, answers, batch, moved, net, same_bits, seeded, tensors, train_step

# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "01.1",
    "Keep the best weights",
    section="Keeping the best epoch: the alias trap",
    task="""Your training has just reached its best epoch so far, and it goes on. Write `keep(model)`: it returns the
    weights as they are now, as a dictionary that `load_state_dict` accepts. Whatever happens to the model later, the
    dictionary must stay as it is.""",
    hint="""`model.state_dict()` gives you the tensors of the live model. Which function of Python's `copy` also copies
    what is inside?""",
    shows="""The training went on, and not one tensor of yours followed it.""",
    idle="""Return the weights themselves, as a dictionary from names to tensors.""",
)


@exercise.start
def keep(model):
    return ...


@exercise.answer
def keep(model):
    return copy.deepcopy(model.state_dict())


@exercise.answer
def keep(model):
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


@exercise.mistake(
    """Your weights followed the training: `state_dict()` gives the live tensors, and a copy of the dictionary alone
    (`dict(…)`, `.copy()`) still holds them. Copy each tensor: `copy.deepcopy(model.state_dict())`."""
)
def keep(model):
    return model.state_dict()


@exercise.mistake(
    """The parameters are there, the buffers are not: BatchNorm's running mean and variance belong to the weights, and
    `named_parameters()` does not list them. Start from `model.state_dict()`."""
)
def keep(model):
    return {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@exercise.mistake(
    """The parameters stayed, but BatchNorm's statistics followed the training. They change at every step, too: copy
    every tensor of the `state_dict`, not only the parameters."""
)
def keep(model):
    kept = model.state_dict()
    return kept | {name: parameter.detach().clone() for name, parameter in model.named_parameters()}


@exercise.mistake("""This is a whole model. The task asks for its weights: return the `state_dict()` of your copy.""")
def keep(model):
    return copy.deepcopy(model)


@exercise.mistake(
    """The tensors stayed, but they lost digits: 16 bits hold about three. Copy them in the type that they have."""
)
def keep(model):
    return {name: tensor.half() for name, tensor in model.state_dict().items()}


@exercise.mistake(
    """The tensors are copied, and their names are gone: a list cannot be loaded. Keep the dictionary, with a copy of
    each tensor under its name."""
)
def keep(model):
    return [tensor.clone() for tensor in model.state_dict().values()]


@exercise.mistake(
    """The copy is good, but the model is in eval mode now: the training goes on without dropout, and BatchNorm stops
    learning. `keep` should leave the model as it was."""
)
def keep(model):
    return copy.deepcopy(model.eval().state_dict())


@exercise.mistake("""You returned the method, not what it gives: the brackets are missing, `model.state_dict()`.""")
def keep(model):
    return copy.deepcopy(model.state_dict)


@exercise.mistake(
    """These are NumPy arrays: `load_state_dict` wants tensors, and `numpy()` shares the memory of the live model, so
    they follow the training. Copy the tensors themselves, by `clone()` or `copy.deepcopy`."""
)
def keep(model):
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


@exercise.probe("the tensors that follow one more training step")
def _(keep):
    model = net()
    then = tensors(model)
    kept = keep(model)
    if not isinstance(kept, dict):
        return kept if isinstance(kept, list) else type(kept).__name__
    train_step(model)
    if any(isinstance(one, np.ndarray) for one in kept.values()):
        return "NumPy arrays, which `load_state_dict` does not take"
    return sorted(name for name in then if name in kept and not torch.equal(kept[name].float(), then[name].float()))


@exercise.probe("a new model with your weights, compared with the model when you kept them")
def _(keep):
    model = net()
    expected = answers(model)
    kept = keep(model)
    train_step(model)
    fresh = Net()
    fresh.load_state_dict(kept)
    return "the same answers" if torch.equal(answers(fresh), expected) else "other answers"


@exercise.probe("the model after `keep(model)`")
def _(keep):
    model = net()
    then, modes = tensors(model), [one.training for one in model.modules()]
    keep(model)
    return {
        "tensors that changed": moved(model, then),
        "modes that changed": sum(one.training != mode for one, mode in zip(model.modules(), modes)),
        "parameters that learn": sum(one.requires_grad for one in model.parameters()),
    }


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "01.2",
    "How large will the file be?",
    section="Inside the file",
    task="""Before you save a model you want to know how much disk it needs. Write `bytes_of(model)`: the number of
    bytes of all the tensors that `torch.save(model.state_dict(), path)` writes, without the little that the zip around
    them takes. It must also be right for a model in 16 bits, and for one with frozen layers.""",
    hint="""The file holds what the `state_dict` holds. A tensor knows its own bytes: `tensor.nbytes`.""",
    shows="""You counted what the file holds: parameters and buffers, each in its own type, frozen or not.""",
    idle="""Add up the bytes of the tensors, and return the sum.""",
)


@exercise.start
def bytes_of(model):
    return ...


@exercise.answer
def bytes_of(model):
    return sum(tensor.nbytes for tensor in model.state_dict().values())


@exercise.answer
def bytes_of(model):
    return sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())


@exercise.mistake(
    """You counted the parameters only. The file holds the buffers as well, such as BatchNorm's running statistics:
    count the tensors of `model.state_dict()`."""
)
def bytes_of(model):
    return sum(parameter.nbytes for parameter in model.parameters())


@exercise.mistake(
    """You counted four bytes for every number. A 16-bit number has two, and BatchNorm's counter eight: ask each
    tensor, by `nbytes` or `element_size()`."""
)
def bytes_of(model):
    return sum(4 * tensor.numel() for tensor in model.state_dict().values())


@exercise.mistake("""This is how many numbers there are, not how many bytes they take. Multiply by `element_size()`.""")
def bytes_of(model):
    return sum(tensor.numel() for tensor in model.state_dict().values())


@exercise.mistake(
    """Frozen parameters are missing: `requires_grad` says what learns, not what is saved. The file holds every tensor
    of the `state_dict`."""
)
def bytes_of(model):
    kept = [one for one in model.parameters() if one.requires_grad]
    return sum(one.nbytes for one in [*kept, *model.buffers()])


@exercise.mistake(
    """You counted a buffer that is not saved: one with `persistent=False` stays out of the `state_dict`. Count what is
    in `model.state_dict()`."""
)
def bytes_of(model):
    return sum(one.nbytes for one in [*model.parameters(), *model.buffers()])


@exercise.mistake(
    """You counted tensors, not bytes: `len` gives how many names there are. Add up the `nbytes` of each tensor."""
)
def bytes_of(model):
    return len(model.state_dict())


@exercise.mistake(
    """Four bytes for each parameter is the rule of thumb. It forgets the buffers, and a number in 16 bits takes two
    bytes: add up the `nbytes` of every tensor in `model.state_dict()`."""
)
def bytes_of(model):
    return sum(4 * one.numel() for one in model.parameters())


@exercise.mistake(
    """You counted only what learns. `requires_grad` says nothing about saving: frozen parameters and the buffers are
    in the file, too. Go through `model.state_dict()`."""
)
def bytes_of(model):
    return sum(one.nbytes for one in model.parameters() if one.requires_grad)


@exercise.mistake(
    """You took the type of the first parameter for all tensors. BatchNorm's counter is a whole number of eight bytes:
    ask each tensor, by `nbytes` or `element_size()`."""
)
def bytes_of(model):
    return sum(one.numel() for one in model.state_dict().values()) * next(model.parameters()).element_size()


@exercise.mistake("""These are kilobytes. The task asks for bytes: do not divide by 1000.""")
def bytes_of(model):
    return sum(one.nbytes for one in model.state_dict().values()) / 1000


@exercise.mistake(
    """The buffers are right. But each parameter counts four bytes in your sum, and in a 16-bit model it has two: ask
    each tensor, by `nbytes`."""
)
def bytes_of(model):
    return 4 * sum(one.numel() for one in model.parameters()) + sum(one.nbytes for one in model.buffers())


@exercise.mistake(
    """`sys.getsizeof` asks for the size of a Python object, with what Python adds to it. The numbers of a tensor take
    `tensor.nbytes`."""
)
def bytes_of(model):
    return sum(sys.getsizeof(tensor) for tensor in model.state_dict().values())


@exercise.probe("the bytes of a small model")
def _(bytes_of):
    return bytes_of(net(steps=0))


@exercise.probe("the bytes of the same model in 16 bits")
def _(bytes_of):
    return bytes_of(net(steps=0).half())


@exercise.probe("the bytes of the same model with its backbone frozen")
def _(bytes_of):
    model = net(steps=0)
    model.features.requires_grad_(False)
    return bytes_of(model)


@exercise.probe("the bytes of a model with a buffer that is not saved")
def _(bytes_of):
    model = nn.Sequential(nn.Linear(2, 2))
    model.register_buffer("scratch", torch.zeros(100), persistent=False)
    return bytes_of(model)


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "01.3",
    "Save for a stranger",
    section="Saving the whole model",
    task="""Write `save(model, path)`: it saves the weights so that `torch.load(path, weights_only=True)` reads them,
    on a computer that does not have your class. Later `load_state_dict` puts them into a new model. The function
    returns nothing.""",
    hint="""One line: `torch.save(…, path)`. What goes in is not the model.""",
    shows="""The file holds names and tensors, no address of a class, and a new model answers as yours did.""",
    idle="""`save` must write the file at `path`: a return saves nothing.""",
)


@exercise.start
def save(model, path):
    pass


@exercise.answer
def save(model, path):
    torch.save(model.state_dict(), path)


@exercise.answer
def save(model, path):
    with open(path, "wb") as file:
        torch.save({name: tensor.cpu() for name, tensor in model.state_dict().items()}, file)


@exercise.mistake(
    """You saved the whole model. The file then holds the address of the class, the safe reader refuses it, and without
    your code nobody can open it: save `model.state_dict()`."""
)
def save(model, path):
    torch.save(model, path)


@exercise.mistake(
    """The buffers are missing, so a new model answers with the statistics of an untrained BatchNorm. Save
    `model.state_dict()`: it holds parameters and buffers."""
)
def save(model, path):
    torch.save({name: parameter.detach() for name, parameter in model.named_parameters()}, path)


@exercise.mistake(
    """The names are gone: a list of tensors cannot be loaded by `load_state_dict`. Save the dictionary itself."""
)
def save(model, path):
    torch.save(list(model.state_dict().values()), path)


@exercise.mistake(
    """The file is right, but your own model has only 16 bits now: `half()` changes the model itself. Make a copy
    first, or save the weights as they are."""
)
def save(model, path):
    torch.save(model.half().state_dict(), path)


@exercise.mistake(
    """There is no file at `path`. Write to exactly the path that was given: whoever loads it will look there."""
)
def save(model, path):
    torch.save(model.state_dict(), f"{path}.pt")


@exercise.mistake(
    """The weights are one level too deep: the file holds a dictionary with one entry. The task asks for the
    `state_dict` itself (a checkpoint with several entries comes in lesson 3)."""
)
def save(model, path):
    torch.save({"model": model.state_dict()}, path)


@exercise.mistake(
    """The file is right, but your own model is in eval mode now, and its training would go on without dropout. Saving
    needs no mode: leave `eval()` out."""
)
def save(model, path):
    torch.save(model.eval().state_dict(), path)


@exercise.mistake(
    """You saved the method, and with it the whole model: the brackets are missing. Write `model.state_dict()`."""
)
def save(model, path):
    torch.save(model.state_dict, path)


@exercise.mistake(
    """You saved NumPy arrays, and the safe reader refuses them. The tensors of the `state_dict` can go into the file
    as they are."""
)
def save(model, path):
    torch.save({name: tensor.numpy() for name, tensor in model.state_dict().items()}, path)


@exercise.mistake(
    """Beside the weights stands the class itself, so the safe reader refuses the file. A class is only an address:
    leave it out, and save the `state_dict` alone."""
)
def save(model, path):
    torch.save({"model": model.state_dict(), "class": type(model)}, path)


@exercise.mistake(
    """This is a plain pickle, not a file of `torch.save`, and `torch.load` does not read it. Write
    `torch.save(model.state_dict(), path)`."""
)
def save(model, path):
    with open(path, "wb") as file:
        pickle.dump(model.state_dict(), file)


@exercise.mistake("""A PyTorch model has no method `save`. Take its `state_dict()`, and give that to `torch.save`.""")
def save(model, path):
    model.save(path)


@exercise.mistake("""The two are exchanged: first what is saved, then where, `torch.save(…, path)`.""")
def save(model, path):
    torch.save(path, model.state_dict())


@exercise.mistake(
    """You wrote a file that is called "path". Without quotes, `path` is the argument, the name that was asked for."""
)
def save(model, path):
    torch.save(model.state_dict(), "path")


@exercise.mistake(
    """The weights are one level too deep, under `model_state_dict`. That is how a file for another person looks (task
    01.5); here `load_state_dict` gets what is in the file: save the `state_dict` itself."""
)
def save(model, path):
    torch.save({"model_state_dict": model.state_dict()}, path)


@exercise.probe('the files in an empty folder after `save(model, "weights")`')
def _(save):
    save(net(), "weights")
    return sorted(os.listdir())


@exercise.probe("the file at `path`, read by `torch.load(path, weights_only=True)`")
def _(save):
    save(net(), "weights")
    read = torch.load("weights", weights_only=True)
    return sorted(read) if isinstance(read, dict) else type(read).__name__


@exercise.probe("what the safe reader refuses in the file")
def _(save):
    save(net(), "weights")
    try:
        torch.load("weights", weights_only=True)
    except pickle.UnpicklingError:
        if not zipfile.is_zipfile("weights"):
            return "all of it"
        names = torch.serialization.get_unsafe_globals_in_checkpoint("weights")
        kinds = {"layers": "torch.nn.modules", "classes": "course_utils", "methods": "builtins.", "arrays": "numpy"}
        return [kind for kind, begin in kinds.items() if any(name.startswith(begin) for name in names)]
    return []


@exercise.probe("a new model with the weights from the file")
def _(save):
    model = net()
    save(model, "weights")
    fresh = Net()
    fresh.load_state_dict(torch.load("weights", weights_only=True))
    return "the same answers" if torch.equal(answers(fresh), answers(model.float())) else "other answers"


@exercise.probe("your own model after saving")
def _(save):
    model = net()
    then, training = tensors(model), model.training
    save(model, "weights")
    return {"tensors that changed": moved(model, then), "train mode": model.training == training}


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "01.4",
    "Ten rows of a large table",
    section="Inside the file",
    task="""You have a table with millions of rows and want to send the first `count` of them. Write
    `first_rows(table, count)`: the first `count` rows as a tensor of which `torch.save` writes only these rows, and
    not the whole table.""",
    hint="""`table[:count]` is a window on the memory of the whole table, and `torch.save` writes that memory. Which
    method gives the rows memory of their own?""",
    shows="""Your rows have memory of their own, so the file holds them and nothing else.""",
    idle="""Return the rows, as a tensor.""",
)


@exercise.start
def first_rows(table, count):
    return ...


@exercise.answer
def first_rows(table, count):
    return table[:count].clone()


@exercise.answer
def first_rows(table, count):
    return torch.cat([table[:count]])  # cat always makes a new tensor


@exercise.mistake(
    """The rows are right, and the file is as large as the whole table: a slice is a window on the same memory.
    `detach()` and `contiguous()` do not copy either (these rows already stand in one piece). Add `.clone()`."""
)
def first_rows(table, count):
    return table[:count]


@exercise.mistake(
    """You copied the memory of the whole table, and the file is as large as before: clone after you cut, not before
    (and `copy.deepcopy` of a window copies all that is behind it). Write `table[:count].clone()`."""
)
def first_rows(table, count):
    return table.clone()[:count]


@exercise.mistake("""These are columns. The first index counts rows: `table[:count]`.""")
def first_rows(table, count):
    return table[:, :count].clone()


@exercise.mistake(
    """These are the last rows: `table[-count:]` counts from the end. The first ones are `table[:count]`."""
)
def first_rows(table, count):
    return table[-count:].clone()


@exercise.mistake("""This is one row, the one with the number `count`. The first `count` rows are `table[:count]`.""")
def first_rows(table, count):
    return table[count].clone()


@exercise.mistake("""These are the right numbers, in a list. The task asks for a tensor.""")
def first_rows(table, count):
    return table[:count].tolist()


@exercise.mistake("""This is one row too many: the end of a slice is not part of it, so `table[:count]` has `count`.""")
def first_rows(table, count):
    return table[: count + 1].clone()


@exercise.mistake("""You always take ten rows. How many it should be stands in `count`.""")
def first_rows(table, count):
    return table[:10].clone()


@exercise.mistake(
    """Your rows follow the table: `numpy()` and `from_numpy` share the memory, they copy nothing. Use `clone()`."""
)
def first_rows(table, count):
    return torch.from_numpy(table[:count].numpy())


@exercise.mistake(
    """These are the right numbers, in a NumPy array, and it shares the memory of the table. The task asks for a tensor
    with memory of its own: `clone()`."""
)
def first_rows(table, count):
    return table[:count].numpy()


@exercise.mistake("""A tensor has no method `copy`; that is NumPy's name. In PyTorch it is called `clone()`.""")
def first_rows(table, count):
    return table[:count].copy()


@exercise.probe("the first two of the rows 0 1 2, 3 4 5, …")
def _(first_rows):
    rows = first_rows(torch.arange(3000.0).reshape(1000, 3), 2)
    return rows if isinstance(rows, torch.Tensor) else [f"no tensor but a {type(rows).__name__}", rows]


@exercise.probe("the bytes of the memory that `torch.save` would write for 5 rows of 3")
def _(first_rows):
    return first_rows(torch.ones(1000, 3), 5).untyped_storage().nbytes()


@exercise.probe("your rows, after the table was overwritten with zeros")
def _(first_rows):
    table = torch.ones(1000, 3)
    rows = first_rows(table, 1)
    table.zero_()
    return rows


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "01.5",
    "One file for another person",
    section="One file for another person",
    task="""Write `package(model, config, classes, accuracy)`: a dictionary with the keys `model_state_dict`, `config`,
    `classes`, `accuracy` and `torch` (the version). `torch.load(path, weights_only=True)` must accept what you return
    once it is saved. The accuracy comes from NumPy, and PyTorch's version is an object of a class of its own: both
    must become plain values.""",
    hint="""`float(…)` makes a plain number of the accuracy, `str(…)` a plain text of `torch.__version__`.""",
    shows="""Your file holds tensors and plain values only, so the safe reader opens it everywhere.""",
    idle="""Two of the five entries are there. Put in the weights, the classes, the accuracy and the version.""",
)


@exercise.start
def package(model, config, classes, accuracy):
    return {"model_state_dict": ..., "config": config}


@exercise.answer
def package(model, config, classes, accuracy):
    return {
        "model_state_dict": model.state_dict(),
        "config": config,
        "classes": classes,
        "accuracy": float(accuracy),
        "torch": str(torch.__version__),
    }


@exercise.mistake(
    """The accuracy is still a NumPy number. It prints like a float, but it is an object of another class, and the safe
    reader refuses the file: store `float(accuracy)`."""
)
def package(model, config, classes, accuracy):
    return {
        "model_state_dict": model.state_dict(),
        "config": config,
        "classes": classes,
        "accuracy": accuracy,
        "torch": str(torch.__version__),
    }


@exercise.mistake(
    """`torch.__version__` looks like text, and is an object of a class of PyTorch's own. Store
    `str(torch.__version__)`."""
)
def package(model, config, classes, accuracy):
    return {
        "model_state_dict": model.state_dict(),
        "config": config,
        "classes": classes,
        "accuracy": float(accuracy),
        "torch": torch.__version__,
    }


@exercise.mistake(
    """Two values are not plain: the accuracy is a NumPy number, and `torch.__version__` an object of a class of its
    own. Store `float(accuracy)` and `str(torch.__version__)`."""
)
def package(model, config, classes, accuracy):
    return {
        "model_state_dict": model.state_dict(),
        "config": config,
        "classes": classes,
        "accuracy": accuracy,
        "torch": torch.__version__,
    }


@exercise.mistake(
    """The whole model is in your dictionary, and with it the address of its class. Put `model.state_dict()` there."""
)
def package(model, config, classes, accuracy):
    return {
        "model_state_dict": model,
        "config": config,
        "classes": classes,
        "accuracy": float(accuracy),
        "torch": str(torch.__version__),
    }


@exercise.mistake(
    """The accuracy has become a whole number: `int` and `round` throw away what stands after the point. Use
    `float(accuracy)`."""
)
def package(model, config, classes, accuracy):
    return {
        "model_state_dict": model.state_dict(),
        "config": config,
        "classes": classes,
        "accuracy": int(accuracy),
        "torch": str(torch.__version__),
    }


@exercise.mistake(
    """The accuracy is text now. Whoever compares it with another one has to guess how it was written: store a number,
    `float(accuracy)`."""
)
def package(model, config, classes, accuracy):
    return {
        "model_state_dict": model.state_dict(),
        "config": config,
        "classes": classes,
        "accuracy": str(accuracy),
        "torch": str(torch.__version__),
    }


def packed(package, model):
    torch.save(package(model, {"classes": 2, "width": 8}, ["cat", "dog"], np.float64(0.875)), "shared.pt")
    return torch.load("shared.pt", weights_only=True)


@exercise.mistake(
    """The accuracy has lost digits. Round where you print it; in the file keep all of it, `float(accuracy)`."""
)
def package(model, config, classes, accuracy):
    return {
        "model_state_dict": model.state_dict(),
        "config": config,
        "classes": classes,
        "accuracy": round(float(accuracy), 2),
        "torch": str(torch.__version__),
    }


@exercise.mistake("""The accuracy is in percent now, and nobody can see that in the file. Store it as it came.""")
def package(model, config, classes, accuracy):
    return {
        "model_state_dict": model.state_dict(),
        "config": config,
        "classes": classes,
        "accuracy": 100 * float(accuracy),
        "torch": str(torch.__version__),
    }


@exercise.mistake(
    """The version is not the one that runs here. Take it from `torch.__version__`: what is typed by hand grows old."""
)
def package(model, config, classes, accuracy):
    return {
        "model_state_dict": model.state_dict(),
        "config": config,
        "classes": classes,
        "accuracy": float(accuracy),
        "torch": "2.0",
    }


@exercise.mistake(
    """A set has no order, so nobody knows which output of the model is which class. Keep the list as it is."""
)
def package(model, config, classes, accuracy):
    return {
        "model_state_dict": model.state_dict(),
        "config": config,
        "classes": set(classes),
        "accuracy": float(accuracy),
        "torch": str(torch.__version__),
    }


@exercise.mistake(
    """The settings are text now, and `Net(**config)` cannot use them. A dictionary of plain values is fine as it
    is."""
)
def package(model, config, classes, accuracy):
    return {
        "model_state_dict": model.state_dict(),
        "config": str(config),
        "classes": classes,
        "accuracy": float(accuracy),
        "torch": str(torch.__version__),
    }


@exercise.mistake(
    """The parameters are there, the buffers are not, so the weights do not load into a new model. Store
    `model.state_dict()`."""
)
def package(model, config, classes, accuracy):
    return {
        "model_state_dict": dict(model.named_parameters()),
        "config": config,
        "classes": classes,
        "accuracy": float(accuracy),
        "torch": str(torch.__version__),
    }


@exercise.mistake(
    """Under `torch` stands the package itself, and that cannot be saved. Store its version as text,
    `str(torch.__version__)`."""
)
def package(model, config, classes, accuracy):
    return {
        "model_state_dict": model.state_dict(),
        "config": config,
        "classes": classes,
        "accuracy": float(accuracy),
        "torch": torch,
    }


@exercise.mistake(
    """The classes and the settings are text now: `Net(**config)` cannot use them, and the first class is a bracket. A
    list and a dictionary of plain values are fine as they are."""
)
def package(model, config, classes, accuracy):
    return {
        "model_state_dict": model.state_dict(),
        "config": str(config),
        "classes": str(classes),
        "accuracy": float(accuracy),
        "torch": str(torch.__version__),
    }


@exercise.probe("the names in the dictionary")
def _(package):
    return sorted(package(net(), {"classes": 2}, ["cat", "dog"], np.float64(0.875)))


@exercise.probe("what the safe reader would refuse in your file")
def _(package):
    model = net()
    torch.save(package(model, {"classes": 2, "width": 8}, ["cat", "dog"], np.float64(0.875)), "shared.pt")
    return sorted(
        {name.split(".")[-1] for name in torch.serialization.get_unsafe_globals_in_checkpoint("shared.pt")}
        & {"Net", "TorchVersion", "scalar"}
    )


@exercise.probe("settings, classes and accuracy in the file, read by `torch.load(path, weights_only=True)`")
def _(package):
    read = packed(package, net())
    classes = "a set" if isinstance(read["classes"], set) else list(read["classes"])
    return {"config": read["config"], "classes": classes, "accuracy": read["accuracy"]}


@exercise.probe("the version in the file")
def _(package):
    version = packed(package, net())["torch"]
    here = str(torch.__version__)
    return "yours" if version in (here, here.partition("+")[0]) else "another one"


@exercise.probe("a new model, built from the file")
def _(package):
    model = net()
    read = packed(package, model)
    fresh = Net(**read["config"])
    fresh.load_state_dict(read["model_state_dict"])
    return "the same answers" if torch.equal(answers(fresh), answers(model)) else "other answers"


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "01.6",
    "Repair: a training that keeps the wrong epoch",
    section="Keeping the best epoch: the alias trap",
    task="""This training should return the weights of the epoch with the lowest validation loss. It runs without an
    error, and three lines of it are wrong or missing. (`evaluate(model)` puts the model into eval mode and returns the
    validation loss.) Repair it.""",
    hint="""Read it with three questions. In which mode is the model in the second epoch? When does `best_loss` change?
    Whose tensors are in `best` at the end?""",
    shows="""Your training keeps the best epoch, trains in train mode, and its best weights do not follow the rest.""",
    idle="""Look at the three questions of the hint: each stands for one line.""",
)


@exercise.start
def train(model, optimizer, batches, evaluate, epochs):
    model.train()
    best, best_loss = None, float("inf")
    for _ in range(epochs):
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        loss = evaluate(model)
        if loss < best_loss:
            best = model.state_dict()
    return best


@exercise.answer
def train(model, optimizer, batches, evaluate, epochs):
    best, best_loss = None, float("inf")
    for _ in range(epochs):
        model.train()
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        loss = evaluate(model)
        if loss < best_loss:
            best, best_loss = copy.deepcopy(model.state_dict()), loss
    return best


@exercise.answer
def train(model, optimizer, batches, evaluate, epochs):
    states, losses = [], []
    for _ in range(epochs):
        model.train()
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        losses.append(evaluate(model))
        states.append({name: one.clone() for name, one in model.state_dict().items()})
    return states[losses.index(min(losses))]


@exercise.answer
def train(model, optimizer, batches, evaluate, epochs):
    best, best_loss = None, float("inf")
    for _ in range(epochs):
        model.train()
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        loss = evaluate(model)
        if loss < best_loss:
            best, best_loss = copy.deepcopy(model), loss
    return best.state_dict()


def partly(alias, forgets, eval_mode):
    """The training with some of its three faults left in."""

    def train(model, optimizer, batches, evaluate, epochs):
        best, best_loss = None, float("inf")
        model.train()
        for _ in range(epochs):
            if not eval_mode:
                model.train()
            for x, y in batches:
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
            loss = evaluate(model)
            if loss < best_loss:
                best = model.state_dict() if alias else copy.deepcopy(model.state_dict())
                best_loss = best_loss if forgets else loss
        return best

    return train


ALIAS = "`best` still holds the live tensors, so it follows the training: copy them, by `copy.deepcopy`."
FORGETS = """The last epoch comes back, not the best: `best_loss` is not set to the new lowest loss, or the copy stands
outside the `if`. Set both inside it, and return `best`."""
EVAL_MODE = """`evaluate` leaves the model in eval mode, so from the second epoch on you train without dropout, and
BatchNorm learns nothing: call `model.train()` at the start of each epoch."""
exercise.mistake(ALIAS)(partly(True, False, False))
exercise.mistake(FORGETS)(partly(False, True, False))
exercise.mistake(EVAL_MODE)(partly(False, False, True))
exercise.mistake(f"Two faults are left. {ALIAS} And: {FORGETS}")(partly(True, True, False))
exercise.mistake(f"Two faults are left. {ALIAS} And: {EVAL_MODE}")(partly(True, False, True))
exercise.mistake(f"Two faults are left. {FORGETS} And: {EVAL_MODE}")(partly(False, True, True))


def kept_epoch(train, losses):
    """(the epoch whose weights come back, BatchNorm's counts, live tensors, size, how often they were read)"""
    asked = []

    class Watched(Net):  # a class, so that a copy of the model has its own state_dict
        def state_dict(self, *args, **kwargs):
            asked.append(1)
            return super().state_dict(*args, **kwargs)

    model, after, left = seeded(Watched), [], list(losses)

    def evaluate(given):
        after.append({name: one.clone() for name, one in Net.state_dict(model).items()})
        given.eval()
        return left.pop(0)

    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    best = train(model, optimizer, [batch(1), batch(2)], evaluate, len(losses))
    kept = len(asked)
    alias = [name for name, one in model.state_dict().items() if one.data_ptr() == best[name].data_ptr()]
    epochs = [
        number
        for number, state in enumerate(after, 1)
        if all(same_bits(best[name], one) for name, one in state.items())
    ]
    size = sum(one.double().norm().item() for one in best.values())
    return epochs, [int(state["features.0.1.num_batches_tracked"]) for state in after], len(alias), size, kept


@exercise.mistake(
    """The copy comes too late: until the `return`, `best` holds the live tensors, and you copy the last epoch. Copy in
    the loop, when the epoch is the best."""
)
def train(model, optimizer, batches, evaluate, epochs):
    best, best_loss = None, float("inf")
    for _ in range(epochs):
        model.train()
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        loss = evaluate(model)
        if loss < best_loss:
            best, best_loss = model.state_dict(), loss
    return copy.deepcopy(best)


@exercise.mistake(
    """The right weights come back as the live tensors of the model, so they change when the training goes on. Return
    the copy itself, `best`."""
)
def train(model, optimizer, batches, evaluate, epochs):
    best, best_loss = None, float("inf")
    for _ in range(epochs):
        model.train()
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        loss = evaluate(model)
        if loss < best_loss:
            best, best_loss = copy.deepcopy(model.state_dict()), loss
    model.load_state_dict(best)
    return model.state_dict()


@exercise.mistake(
    """Nothing was kept: no loss is higher than infinity. The best epoch has the *lowest* loss, so ask `<`."""
)
def train(model, optimizer, batches, evaluate, epochs):
    best, best_loss = None, float("inf")
    for _ in range(epochs):
        model.train()
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        loss = evaluate(model)
        if loss > best_loss:
            best, best_loss = copy.deepcopy(model.state_dict()), loss
    return best


@exercise.mistake("""You return a whole model. The task asks for its weights: keep a copy of `model.state_dict()`.""")
def train(model, optimizer, batches, evaluate, epochs):
    best, best_loss = None, float("inf")
    for _ in range(epochs):
        model.train()
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        loss = evaluate(model)
        if loss < best_loss:
            best, best_loss = copy.deepcopy(model), loss
    return best


@exercise.mistake(
    """`best_loss` is set after every epoch, also after a bad one, so each epoch is compared with the one before. Set
    it inside the `if`, together with `best`."""
)
def train(model, optimizer, batches, evaluate, epochs):
    best, best_loss = None, float("inf")
    for _ in range(epochs):
        model.train()
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        loss = evaluate(model)
        if loss < best_loss:
            best = copy.deepcopy(model.state_dict())
        best_loss = loss
    return best


@exercise.mistake(
    """It ends after the first epoch: the `return` stands inside the loop. Move it to the left, behind the loop."""
)
def train(model, optimizer, batches, evaluate, epochs):
    best, best_loss = None, float("inf")
    for _ in range(epochs):
        model.train()
        for x, y in batches:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        loss = evaluate(model)
        if loss < best_loss:
            best, best_loss = copy.deepcopy(model.state_dict()), loss
        return best


@exercise.probe("the steps that BatchNorm counted, after each of three epochs of two batches")
def _(train):
    return kept_epoch(train, [0.5, 0.4, 0.3])[1]


@exercise.probe("the epoch that comes back for the losses 0.5, 0.3, 0.4")
def _(train):
    return kept_epoch(train, [0.5, 0.3, 0.4])[0]


@exercise.probe("the epoch that comes back for the losses 0.3, 0.3, 0.4, 0.2, 0.6")
def _(train):
    return kept_epoch(train, [0.3, 0.3, 0.4, 0.2, 0.6])[0]


@exercise.probe("the epoch that comes back for the losses 0.3, 0.5, 0.4, 0.6")
def _(train):
    return kept_epoch(train, [0.3, 0.5, 0.4, 0.6])[0]


@exercise.probe("the tensors of the result that are still those of the model")
def _(train):
    return kept_epoch(train, [0.5, 0.3, 0.4])[2]


@exercise.probe("the size of the weights that come back")
def _(train):
    return kept_epoch(train, [0.5, 0.3, 0.4])[3]


@exercise.probe("how often the weights are read, for the losses 0.5, 0.3, 0.4")
def _(train):
    return kept_epoch(train, [0.5, 0.3, 0.4])[4]


# ---------------------------------------------------------------------------------------------------------------------
def aliases():
    model = net()
    best = model.state_dict()
    train_step(model)
    return sum(torch.equal(one, best[name]) for name, one in model.state_dict().items())


Prediction(
    "01.1",
    """A small model has 16 tensors. You write `best = model.state_dict()` and train one more step. How many of the 16
    tensors in `best` are now those of the trained model?""",
    aliases,
    [
        (16, 16, "All of them: `state_dict()` copies nothing, so `best` follows the training."),
        (
            1,
            15,
            """You expect a part to follow, perhaps only the parameters or only the buffers. `state_dict()` copies
            nothing: every tensor in it is the live one.""",
        ),
        (
            0,
            0,
            """You believe that `state_dict()` makes a copy. It gives the live tensors under their names, and all of
            them followed.""",
        ),
    ],
)


def kilobytes_of_a_window():
    table = torch.zeros(1_000_000)
    torch.save(table[:10], "rows.pt")
    return round(os.path.getsize("rows.pt") / 1000)


Prediction(
    "01.4",
    """A table has 1,000,000 numbers of 4 bytes. You save its first ten: `torch.save(table[:10], path)`. How many
    kilobytes has the file?""",
    kilobytes_of_a_window,
    [
        (
            0,
            100,
            """You believe that it writes what you see, ten numbers. It writes the memory behind them, and a slice
         is a window on the memory of the whole table.""",
        ),
        (100, 3900, "You expect compression. `torch.save` writes the raw bytes of the whole memory behind a tensor."),
        (3900, 4100, "The whole memory behind the slice is in the file, because a slice is only a window on it."),
        (4100, 10**9, "It writes the raw bytes, 4 for each number, and hardly anything more."),
    ],
)

question(
    "01",
    "What is in a `state_dict`?",
    ("The parameters.", True, "Parameters and buffers, by their names: that is all."),
    ("BatchNorm's running statistics.", True, "They are buffers."),
    ("The probability of a dropout.", False, "That is a setting, not a tensor: write it down beside the weights."),
    ("The code of the model.", False, "No code is in it: whoever loads it needs the class."),
)
question(
    "01",
    "Which of these keeps the weights as they are now?",
    ("`best = model.state_dict()`", False, "These are the live tensors, and they follow the training."),
    ("`best = dict(model.state_dict())`", False, "A new dictionary with the same live tensors in it."),
    ("`best = copy.deepcopy(model.state_dict())`", True, "It copies the tensors as well."),
    ("`torch.save(model.state_dict(), path)`", True, "A file does not follow the training."),
)
question(
    "01",
    "What is wrong with `torch.save(model, path)`?",
    ("The file holds no weights.", False, "It holds them. It also holds the address of the class."),
    ("It works only while the class stays where it is.", True, "The address of the class is in it, not its code."),
    ("Whoever loads it runs what the file says.", True, "A pickled object may call any function."),
)
