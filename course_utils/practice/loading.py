"""Practice to lesson 2, Loading models."""

import re
import zipfile
from pathlib import Path
from unittest.mock import patch

import numpy as np
import torch
from torch import nn

from course_utils.practice.engine import Exercise
from course_utils.practice.questions import Prediction, question
from course_utils.practice.toys import Net, answers, batch, moved, net, tensors

# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "02.1",
    "Load a model and use it",
    section="Load into a new instance",
    task="""A colleague left the weights of a `Net` in a file. Write `load(path)`: it builds a `Net()`, gives it the
    weights, and returns the model ready to predict, on any computer. A file with other names in it must raise an error,
    and a file that wants to run a program must not get to run it.""",
    hint="""Four steps: build, `torch.load` (to the CPU), `load_state_dict`, and the mode for predicting.""",
    shows="""Your model predicts what the saved one predicted, twice the same, and bad files stop you.""",
    idle="""The model still has random weights: do you load the file, and are they put into the model that you
    return?""",
)


@exercise.start
def load(path):
    model = Net()
    return model


@exercise.answer
def load(path):
    model = Net()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()


@exercise.mistake(
    """The weights are right, and the model is in train mode: dropout draws anew for each answer, and BatchNorm takes
    the statistics of the batch. Call `model.eval()` before you return it."""
)
def load(path):
    model = Net()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model


@exercise.mistake(
    """A planted program ran while you were loading: `weights_only=False` does whatever the file says. Leave it at
    `weights_only=True`."""
)
def load(path):
    model = Net()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=False))
    return model.eval()


@exercise.mistake(
    """A file with other names was accepted, and its layers kept their random weights: that is what `strict=False` does,
    and an `except` around the load. Leave it out."""
)
def load(path):
    model = Net()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=False)
    return model.eval()


@exercise.mistake(
    """The file was read, but the model still has random weights: `torch.load` gives a dictionary, and only
    `load_state_dict` copies it into the model."""
)
def load(path):
    model = Net()
    torch.load(path, map_location="cpu", weights_only=True)
    return model.eval()


@exercise.mistake(
    """A file from a computer with a GPU cannot be loaded here: each tensor wants back to its device. Say where it goes,
    `map_location="cpu"`."""
)
def load(path):
    model = Net()
    model.load_state_dict(torch.load(path, weights_only=True))
    return model.eval()


@exercise.mistake("""This is the dictionary from the file. The task asks for the model with these weights in it.""")
def load(path):
    return torch.load(path, map_location="cpu", weights_only=True)


@exercise.mistake(
    """You returned what `load_state_dict` returns, a report about the names. Load first, then return the model."""
)
def load(path):
    model = Net().eval()
    return model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))


class Prank:
    def __reduce__(self):
        return exec, ("open('surprise.txt', 'w').write('I ran.')",)


def attempt(work, kinds=Exception):
    """ "accepted", or "an error" when work() raises one."""
    try:
        work()
    except kinds:
        return "an error"
    return "accepted"


@exercise.mistake(
    """Two lines are not there yet. Without `map_location="cpu"`, a file from a computer with a GPU cannot be loaded
    here. And the model is in train mode: call `model.eval()` before you return it."""
)
def load(path):
    model = Net()
    model.load_state_dict(torch.load(path))
    return model


@exercise.mistake(
    """This is the dictionary from the file, each tensor where it was saved. Load it to the CPU, put it into a `Net()`
    by `load_state_dict`, and return that model."""
)
def load(path):
    return torch.load(path)


@exercise.mistake(
    """`load_state_dict` returns a report about the names, not the model, and you gave it the name `model`. Write
    `model.load_state_dict(…)` without `model =` before it."""
)
def load(path):
    model = Net()
    model = model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    return model.eval()


@exercise.mistake(
    """`load_state_dict` reads no files: it wants the dictionary that `torch.load(path, map_location="cpu")` gives."""
)
def load(path):
    model = Net()
    model.load_state_dict(path)
    return model.eval()


@exercise.mistake(
    """In the file is a dictionary of tensors, not a model, so it has no `eval`. Build a `Net()`, and put the dictionary
    into it by `load_state_dict`."""
)
def load(path):
    return torch.load(path, map_location="cpu", weights_only=True).eval()


@exercise.mistake(
    """Two faults. `strict=False` accepted a file with other names: leave it out. And the model is in train mode: call
    `model.eval()` before you return it."""
)
def load(path):
    model = Net()
    model.load_state_dict(torch.load(path, map_location="cpu", weights_only=True), strict=False)
    return model


@exercise.mistake(
    """Two faults. In the file is a dictionary of tensors, not a model: build a `Net()`, and put the dictionary into it
    by `load_state_dict`. And `weights_only=False` let a planted program run."""
)
def load(path):
    return torch.load(path, map_location="cpu", weights_only=False).eval()


@exercise.probe("what comes back")
def _(load):
    torch.save(net().state_dict(), "weights.pt")
    return type(load("weights.pt")).__name__


@exercise.probe("the answers in the mode in which the model comes back")
def _(load):
    model = net()
    torch.save(model.state_dict(), "weights.pt")
    loaded, x = load("weights.pt"), batch(7)[0]
    as_saved = torch.equal(answers(loaded), answers(model))  # first: in train mode each answer moves BatchNorm
    with torch.no_grad():
        first, second = loaded(x), loaded(x)
    return {"the same twice": torch.equal(first, second), "those of the saved model": as_saved}


@exercise.probe("a file in which every name begins with `module.`")
def _(load):
    torch.save({f"module.{name}": one for name, one in net().state_dict().items()}, "prefixed.pt")
    return attempt(lambda: load("prefixed.pt"))


@exercise.probe("a file that was saved on a GPU which is not here")
def _(load):
    with patch("torch.serialization.location_tag", lambda storage: "cuda:99"):
        torch.save(net().state_dict(), "from_a_gpu.pt")
    return attempt(lambda: load("from_a_gpu.pt"))


@exercise.probe("a file with a program in it")
def _(load):
    torch.save({"weights": Prank()}, "prank.pt")
    attempt(lambda: load("prank.pt"))
    return "it ran" if Path("surprise.txt").exists() else "it did not run"


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "02.2",
    "Take a prefix off",
    section="Missing and unexpected keys",
    task="""Weights from several GPUs have `module.` in front of every name. Write `without(state_dict, prefix)`: a new
    dictionary in which names that begin with the prefix have lost it, once. The middle of a name stays as it is, so do
    names without the prefix, and so does the dictionary that was given.""",
    hint="""Text has the method `removeprefix`. It changes the beginning only, and only if it is there.""",
    shows="""You changed the beginnings of names, nothing else, and the original is still there.""",
    idle="""A text never changes itself: `name.removeprefix(prefix)` gives a new one. Put it into a new dictionary.""",
)


@exercise.start
def without(state_dict, prefix):
    return state_dict


@exercise.answer
def without(state_dict, prefix):
    return {name.removeprefix(prefix): tensor for name, tensor in state_dict.items()}


@exercise.mistake(
    """`replace` also changes the middle of a name: `module.submodule.weight` lost more than its beginning. Use
    `removeprefix`."""
)
def without(state_dict, prefix):
    return {name.replace(prefix, ""): tensor for name, tensor in state_dict.items()}


@exercise.mistake(
    """`lstrip` takes off single letters, as many as it finds, not a word: `module.model.weight` lost the start of
    `model`, too. Use `removeprefix`."""
)
def without(state_dict, prefix):
    return {name.lstrip(prefix): tensor for name, tensor in state_dict.items()}


@exercise.mistake(
    """A name that has no prefix was cut as well. Take it off only where it is: `removeprefix`, or ask `startswith`
    first."""
)
def without(state_dict, prefix):
    return {name[len(prefix) :]: tensor for name, tensor in state_dict.items()}


@exercise.mistake(
    """You cut at the first point, whatever stands before it, so a name without the prefix lost its first part, too. Use
    `removeprefix(prefix)`."""
)
def without(state_dict, prefix):
    return {name.split(".", 1)[-1]: tensor for name, tensor in state_dict.items()}


@exercise.mistake("""The names without the prefix are missing. They should stay as they are: only the others change.""")
def without(state_dict, prefix):
    return {name[len(prefix) :]: tensor for name, tensor in state_dict.items() if name.startswith(prefix)}


@exercise.mistake(
    """The names are right, but the dictionary that was given has changed, too: whoever still needs the old names has
    lost them. Build a new dictionary."""
)
def without(state_dict, prefix):
    for name in list(state_dict):
        state_dict[name.removeprefix(prefix)] = state_dict.pop(name)
    return state_dict


@exercise.mistake(
    """Nothing came back: `consume_prefix_in_state_dict_if_present` changes the given dictionary in place. Give it a
    copy, `dict(state_dict)`, and return the copy."""
)
def without(state_dict, prefix):
    return nn.modules.utils.consume_prefix_in_state_dict_if_present(state_dict, prefix)


NAMES = ["module.layer.weight", "module.submodule.weight", "module.model.bias", "module.module.bias"]
NAMES += ["head.module.weight", "modules.bias"]


@exercise.mistake(
    """You changed the first place where the prefix is found, and that may be the middle of a name, as in
    `head.module.weight`. Use `removeprefix`, which looks at the beginning only."""
)
def without(state_dict, prefix):
    return {name.replace(prefix, "", 1): tensor for name, tensor in state_dict.items()}


@exercise.mistake(
    """You kept what stands behind the last prefix, so `module.module.bias` lost two, and middles of names were cut.
    Take one off, at the beginning: `removeprefix`."""
)
def without(state_dict, prefix):
    return {name.split(prefix)[-1]: tensor for name, tensor in state_dict.items()}


@exercise.mistake(
    """You took the prefix off until none was left. `module.module.bias` should lose it once: what comes behind belongs
    to the name."""
)
def without(state_dict, prefix):
    renamed = {}
    for name, tensor in state_dict.items():
        while name.startswith(prefix):
            name = name.removeprefix(prefix)
        renamed[name] = tensor
    return renamed


@exercise.mistake(
    """In a regular expression the point stands for any letter, so `modules.bias` lost its beginning, too. Use
    `re.escape(prefix)`, or simply `removeprefix`."""
)
def without(state_dict, prefix):
    return {re.sub(f"^{prefix}", "", name): tensor for name, tensor in state_dict.items()}


@exercise.mistake(
    """The old names are still there, beside the new ones. Begin with an empty dictionary, and put each tensor in under
    one name."""
)
def without(state_dict, prefix):
    return {**state_dict, **{name.removeprefix(prefix): tensor for name, tensor in state_dict.items()}}


@exercise.mistake(
    """You take off `module.`, whatever prefix is asked for. Other wrappers have others, such as `_orig_mod.`: use the
    argument `prefix`."""
)
def without(state_dict, prefix):
    return {name.removeprefix("module."): tensor for name, tensor in state_dict.items()}


@exercise.mistake("""These are the names alone. The tensors belong to them: return a dictionary.""")
def without(state_dict, prefix):
    return [name.removeprefix(prefix) for name in state_dict]


@exercise.mistake(
    """`re.sub` changes every place where it finds the prefix, also in the middle, and its point stands for any letter.
    Use `removeprefix`, which looks at the beginning only."""
)
def without(state_dict, prefix):
    return {re.sub(prefix, "", name): tensor for name, tensor in state_dict.items()}


@exercise.probe(f"the names for {', '.join(NAMES)}")
def _(without):
    renamed = without(dict.fromkeys(NAMES, torch.ones(1)), "module.")
    return None if renamed is None else sorted(renamed)


@exercise.probe("the names for `_orig_mod.layer.weight` and the prefix `_orig_mod.`")
def _(without):
    return sorted(without({"_orig_mod.layer.weight": torch.ones(1)}, "_orig_mod."))


@exercise.probe("the dictionary that was given, afterwards")
def _(without):
    given = dict.fromkeys(NAMES, torch.ones(1))
    without(given, "module.")
    return sorted(given)


@exercise.probe("the tensors")
def _(without):
    renamed = without({"module.a": torch.ones(2), "module.b": torch.zeros(1)}, "module.")
    return {name: renamed[name] for name in sorted(renamed)}


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "02.3",
    "A warm start, and nothing silent",
    section="The model changed: a warm start",
    task="""Your model has three classes, the file was made for two. Write `warm_start(model, state_dict)`: it loads
    everything but the last layer (`classifier.1.weight`, `classifier.1.bias`), leaves that one new, and returns the
    model. When any other name is missing in the file or left over, it raises an error.""",
    hint="""Leave the two names out of a new dictionary, load with `strict=False`, and compare the lists that
    `load_state_dict` returns with what you expect.""",
    shows="""The backbone came over, the head stayed new, and a file with other names stops you.""",
    idle="""The backbone is still the one that came in: is the load called, and on `model`?""",
)


@exercise.start
def warm_start(model, state_dict):
    return model


@exercise.answer
def warm_start(model, state_dict):
    new = {"classifier.1.weight", "classifier.1.bias"}
    kept = {name: tensor for name, tensor in state_dict.items() if name not in new}
    result = model.load_state_dict(kept, strict=False)
    if set(result.missing_keys) != new or result.unexpected_keys:
        raise ValueError(f"other names: {result}")
    return model


@exercise.mistake(
    """You loaded the head as well. Its shapes do not fit, and no `strict` forgives a shape: leave the two names out of
    the dictionary before you load it."""
)
def warm_start(model, state_dict):
    result = model.load_state_dict(state_dict, strict=False)
    assert not result.missing_keys and not result.unexpected_keys
    return model


@exercise.mistake(
    """It works on the right file. But a file with other names is accepted silently, and the backbone keeps its random
    weights: look at `missing_keys` and `unexpected_keys`, and raise an error when they are not as expected."""
)
def warm_start(model, state_dict):
    new = {"classifier.1.weight", "classifier.1.bias"}
    model.load_state_dict({name: one for name, one in state_dict.items() if name not in new}, strict=False)
    return model


@exercise.mistake(
    """You check what is missing, not what is left over: a file with one tensor too many was accepted. Look at
    `unexpected_keys` as well."""
)
def warm_start(model, state_dict):
    new = {"classifier.1.weight", "classifier.1.bias"}
    kept = {name: one for name, one in state_dict.items() if name not in new}
    assert set(model.load_state_dict(kept, strict=False).missing_keys) == new
    return model


@exercise.mistake(
    """You check what is left over, not what is missing: a file without one layer of the backbone was accepted, and that
    layer is random. Compare `missing_keys` with the two names of the head."""
)
def warm_start(model, state_dict):
    new = {"classifier.1.weight", "classifier.1.bias"}
    kept = {name: one for name, one in state_dict.items() if name not in new}
    assert not model.load_state_dict(kept, strict=False).unexpected_keys
    return model


@exercise.mistake(
    """You left out whatever has another shape, so a backbone of another width was dropped without a word. Name the two
    tensors that may be new, and demand all others."""
)
def warm_start(model, state_dict):
    own = model.state_dict()
    fitting = {name: one for name, one in state_dict.items() if name not in own or one.shape == own[name].shape}
    result = model.load_state_dict(fitting, strict=False)
    assert not result.unexpected_keys
    assert all(name in state_dict or name.startswith("classifier") for name in result.missing_keys)
    return model


@exercise.mistake(
    """The model is right, but you took the head out of the dictionary that was given (`pop`, `del`): whoever uses it
    next has no head. Build a new dictionary."""
)
def warm_start(model, state_dict):
    new = {"classifier.1.weight", "classifier.1.bias"}
    for name in new:
        state_dict.pop(name, None)
    result = model.load_state_dict(state_dict, strict=False)
    assert set(result.missing_keys) == new and not result.unexpected_keys
    return model


@exercise.mistake(
    """`strict=False` forgives names, never shapes: the head stops you, and a file with other names
    is accepted without a word. Leave the head's two names out, and look at the lists that come back."""
)
def warm_start(model, state_dict):
    model.load_state_dict(state_dict, strict=False)
    return model


@exercise.mistake(
    """The head is left out, and the strict load misses it. Load with `strict=False`, and see to it that the two names,
    and no others, are missing."""
)
def warm_start(model, state_dict):
    new = {"classifier.1.weight", "classifier.1.bias"}
    model.load_state_dict({name: one for name, one in state_dict.items() if name not in new})
    return model


@exercise.mistake(
    """You took whatever fits by name and shape, and the rest without a word: a file with other names loads nothing, and
    nobody hears of it. Name the two tensors that may be new, and demand all others."""
)
def warm_start(model, state_dict):
    own = model.state_dict()
    fitting = {name: one for name, one in state_dict.items() if name in own and one.shape == own[name].shape}
    model.load_state_dict(own | fitting)
    return model


@exercise.mistake(
    """Two faults. A file with other names is accepted silently: look at the lists that `load_state_dict` returns. And
    you took the head out of the dictionary that was given (`pop`, `del`): build a new one."""
)
def warm_start(model, state_dict):
    for name in ("classifier.1.weight", "classifier.1.bias"):
        state_dict.pop(name, None)
    model.load_state_dict(state_dict, strict=False)
    return model


@exercise.mistake(
    """The load is right, and you gave the old classes their old rows. That is a good idea, in the lesson; here the task
    asks for a head that is all new."""
)
def warm_start(model, state_dict):
    new = {"classifier.1.weight", "classifier.1.bias"}
    kept = {name: one for name, one in state_dict.items() if name not in new}
    result = model.load_state_dict(kept, strict=False)
    assert set(result.missing_keys) == new and not result.unexpected_keys
    with torch.no_grad():
        for name in new:
            model.get_parameter(name)[:2] = state_dict[name]
    return model


@exercise.mistake(
    """You returned the report of `load_state_dict`. Read it, raise an error when it is not as expected, and return the
    model."""
)
def warm_start(model, state_dict):
    new = {"classifier.1.weight", "classifier.1.bias"}
    return model.load_state_dict({name: one for name, one in state_dict.items() if name not in new}, strict=False)


@exercise.mistake(
    """You left out every name that begins with `classifier`. The file may have more layers there, and they vanished
    without a word. Leave out exactly two names: `classifier.1.weight` and `classifier.1.bias`."""
)
def warm_start(model, state_dict):
    new = {"classifier.1.weight", "classifier.1.bias"}
    kept = {name: one for name, one in state_dict.items() if not name.startswith("classifier")}
    result = model.load_state_dict(kept, strict=False)
    assert set(result.missing_keys) == new and not result.unexpected_keys
    return model


@exercise.mistake("""The load is right, and you returned its report. The task asks for the model.""")
def warm_start(model, state_dict):
    new = {"classifier.1.weight", "classifier.1.bias"}
    kept = {name: one for name, one in state_dict.items() if name not in new}
    result = model.load_state_dict(kept, strict=False)
    assert set(result.missing_keys) == new and not result.unexpected_keys
    return result


@exercise.mistake(
    """You compare lists, and their order is the model's: first the weight, then the bias. Compare sets,
    `set(result.missing_keys) == {…}`."""
)
def warm_start(model, state_dict):
    new = ["classifier.1.bias", "classifier.1.weight"]
    kept = {name: one for name, one in state_dict.items() if name not in new}
    result = model.load_state_dict(kept, strict=False)
    assert result.missing_keys == new and not result.unexpected_keys
    return model


@exercise.mistake(
    """You left out every name in which `1.weight` or `1.bias` stands, and BatchNorm of the backbone has such names,
    too. Leave out exactly two: `classifier.1.weight` and `classifier.1.bias`."""
)
def warm_start(model, state_dict):
    kept = {name: one for name, one in state_dict.items() if "1.weight" not in name and "1.bias" not in name}
    assert not model.load_state_dict(kept, strict=False).unexpected_keys
    return model


@exercise.probe("the tensors that are those of the file")
def _(warm_start):
    file, model = tensors(net()), Net(classes=3)
    loaded = warm_start(model, dict(file))
    return sorted(name for name, one in loaded.state_dict().items() if torch.equal(one, file[name]))


@exercise.probe("the head of the model")
def _(warm_start):
    model = Net(classes=3)
    then = tensors(model)
    loaded = warm_start(model, tensors(net()))
    kept = sum(torch.equal(then[name], one) for name, one in loaded.state_dict().items() if "classifier" in name)
    return {"outputs": loaded(batch()[0]).shape[1], "tensors that stayed new": kept}


@exercise.probe("a file whose head has three classes, too")
def _(warm_start):
    file, model = tensors(net(classes=3)), Net(classes=3)
    then = tensors(model)
    loaded = warm_start(model, file)
    kept = [torch.equal(then[name], one) for name, one in loaded.state_dict().items() if "classifier" in name]
    return "the head is new" if all(kept) else "the head is that of the file"


def outcome(warm_start, change):
    file = tensors(net())
    change(file)
    return attempt(lambda: warm_start(Net(classes=3), file))


@exercise.probe("a file in which every name begins with `module.`")
def _(warm_start):
    file = {f"module.{name}": one for name, one in net().state_dict().items()}
    return attempt(lambda: warm_start(Net(classes=3), file))


@exercise.probe("a file without one layer of the backbone")
def _(warm_start):
    return outcome(warm_start, lambda file: file.pop("features.1.0.weight"))


@exercise.probe("a file with one tensor too many")
def _(warm_start):
    return outcome(warm_start, lambda file: file.update(extra=torch.ones(1)))


@exercise.probe("a file whose backbone has another width")
def _(warm_start):
    return attempt(lambda: warm_start(Net(classes=3), tensors(net(width=6))))


@exercise.probe("the dictionary that was given, afterwards")
def _(warm_start):
    file = tensors(net())
    warm_start(Net(classes=3), file)
    return len(file)


@exercise.probe("a file with one layer too many in its head, `classifier.2`")
def _(warm_start):
    return outcome(warm_start, lambda file: file.update({"classifier.2.weight": torch.ones(2, 2)}))


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "02.4",
    "Plain values for the safe reader",
    section="A pickle is a program",
    task="""`torch.load` refuses checkpoints with NumPy numbers or paths in them. Write `plain(metrics)`: a new
    dictionary in which every NumPy number has become the Python number of its kind, every path has become text, and
    everything else is as before.""",
    hint="""A NumPy number, also a `float64`, is an `np.generic`, and its method `item()` gives Python's. Careful:
    `isinstance(np.float64(1), float)` is true.""",
    shows="""Whole numbers stay whole, fractions stay fractions, and the safe reader opens the file.""",
    idle="""Build a new dictionary, and return it.""",
)


@exercise.start
def plain(metrics):
    return metrics


def plainly(number, path=str, rest=lambda value: value):
    """The values of a dictionary, NumPy's numbers changed by `number`, and so on."""

    def plain(metrics):
        def one(value):
            if isinstance(value, np.generic):
                return number(value)
            return path(value) if isinstance(value, Path) else rest(value)

        return {name: one(value) for name, value in metrics.items()}

    return plain


@exercise.answer
def plain(metrics):
    def one(value):
        if isinstance(value, np.generic):
            return value.item()
        return str(value) if isinstance(value, Path) else value

    return {name: one(value) for name, value in metrics.items()}


exercise.mistake(
    """Whole numbers and truth values have become fractions: `float` makes 12.0 of 12 and 1.0 of True. Use
    `value.item()`, which keeps the kind."""
)(plainly(float))
exercise.mistake("""The accuracy was cut to a whole number. `int` throws fractions away: use `value.item()`.""")(
    plainly(int)
)
exercise.mistake(
    """The NumPy numbers are text now, and nobody can compare or plot them. Use `value.item()`; only paths become
    text."""
)(plainly(str))
exercise.mistake("""Everything is text now. Only paths become text; a NumPy number becomes a number by `item()`.""")(
    plainly(str, rest=str)
)
exercise.mistake(
    """A `float64` is still NumPy's. It passes `isinstance(value, float)`, because its class is a child of `float`: ask
    for `np.generic` instead."""
)(plainly(lambda value: value if isinstance(value, float) else value.item()))
exercise.mistake(
    """The numbers are plain, the path is not: the safe reader refuses `pathlib.PosixPath`. Make it `str(path)`."""
)(plainly(lambda value: value.item(), path=lambda value: value))
exercise.mistake("""The path is gone. It should stay, as text: `str(path)`.""")(
    lambda metrics: {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in metrics.items()
        if not isinstance(value, Path)
    }
)

exercise.mistake(
    """The values are right, but you changed the dictionary that was given: whoever goes on with it has lost the path
    and the numbers. Build a new dictionary, or start with `dict(metrics)`."""
)(lambda metrics: metrics.update(plainly(lambda value: value.item())(metrics)) or metrics)
exercise.mistake(
    """NumPy's truth value is still there: `np.bool_` is no `np.number`. All of NumPy's single values are
    `np.generic`."""
)(plainly(lambda value: value.item() if isinstance(value, np.number) else value))
exercise.mistake(
    """Only fractions are plain now: NumPy has whole numbers (`int64`) and truth values (`bool_`), too. Ask for
    `np.generic`, which all of them are."""
)(plainly(lambda value: value.item() if isinstance(value, np.floating) else value))
exercise.mistake(
    """The accuracy is plain, the others are not: `loss` is a `float32`, `images` an `int64`, `is_best` a `bool_`. Ask
    for `np.generic`, which all of them are."""
)(plainly(lambda value: value.item() if isinstance(value, np.float64) else value))
exercise.mistake(
    """The path is text, the NumPy numbers are not plain yet. Ask for `np.generic`, and take `value.item()`."""
)(plainly(lambda value: value))
exercise.mistake(
    """Two things are left. `float` makes fractions of whole numbers and truth values: use `value.item()`. And the path
    should become text: `str(path)`."""
)(plainly(float, path=lambda value: value))
exercise.mistake(
    """The values that were plain already are gone: your new dictionary holds only what had to change. Everything else
    stays as before."""
)(
    lambda metrics: {
        name: value.item() if isinstance(value, np.generic) else str(value)
        for name, value in metrics.items()
        if isinstance(value, np.generic | Path)
    }
)


def measured():
    """New for each look: an answer may change what it is given."""
    return {
        "epoch": 12,
        "accuracy": np.float64(0.875),
        "loss": np.float32(0.5),
        "images": np.int64(400),
        "is_best": np.bool_(True),
        "folder": Path("data", "drawn"),
        "note": "first run",
        "rates": [0.1, 0.2],
        "scale": torch.tensor([2.0]),
    }


def typed(metrics):
    return {name: f"{value!r} ({type(value).__name__})" for name, value in metrics.items()}


exercise.mistake("""This is the last part of the path only, and nobody finds the folder again: `str(path)` keeps all of
it.""")(plainly(lambda value: value.item(), path=lambda value: value.name))
exercise.mistake(
    """Whatever has a method `item` was changed, and tensors have one, too: the tensor has become a number. Ask for
    `np.generic`."""
)(
    lambda metrics: {
        name: value.item() if hasattr(value, "item") else str(value) if isinstance(value, Path) else value
        for name, value in metrics.items()
    }
)
exercise.mistake(
    """The NumPy numbers are plain. But you made text of all the rest: only paths become text, the other values stay as
    they are."""
)(plainly(lambda value: value.item(), rest=str))
exercise.mistake(
    """Two faults. A `float64` passes `isinstance(value, float)`, and is still NumPy's: ask for `np.generic` first. And
    you made text of all the rest: only paths become text."""
)(
    plainly(
        lambda value: value if isinstance(value, float) else value.item(),
        rest=lambda v: v if isinstance(v, int | float) else str(v),
    )
)
exercise.mistake(
    """Only NumPy numbers have a method `item`. Ask `isinstance(value, np.generic)` before you call it."""
)(lambda metrics: {name: value.item() for name, value in metrics.items()})


@exercise.probe("the values, and their types")
def _(plain):
    return typed(plain(measured()))


@exercise.probe("the safe reader")
def _(plain):
    torch.save(plain(measured()), "metrics.pt")
    return attempt(lambda: torch.load("metrics.pt", weights_only=True))


@exercise.probe("the dictionary that was given, afterwards")
def _(plain):
    given = measured()
    plain(given)
    return typed(given)


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "02.5",
    "Find a flipped bit",
    section="Damaged files",
    task="""`torch.load` does not compare the checksums that `torch.save` wrote. Write `load_whole(path)`: it returns
    what is in the file when every byte is right, and raises an error when the file is cut off or one bit in it has
    flipped.""",
    hint="""`zipfile.ZipFile(path).testzip()` returns the name of the first bad record, or `None`.""",
    shows="""Whole files load, and a single flipped bit anywhere in the weights stops you.""",
    idle="""Return what `torch.load` gives when the file is whole.""",
)


@exercise.start
def load_whole(path):
    return ...


@exercise.answer
def load_whole(path):
    with zipfile.ZipFile(path) as file:
        bad = file.testzip()
    if bad is not None:
        raise ValueError(f"{path} is damaged: {bad}")
    return torch.load(path, weights_only=True)


@exercise.mistake(
    """A file with a flipped bit raised no error. `torch.load` does not compare checksums; `testzip()` does, but it
    raises nothing: it *returns* the name of the first bad record, and you have to `raise` when that is not `None`."""
)
def load_whole(path):
    return torch.load(path, weights_only=True)


@exercise.mistake(
    """It is the wrong way round: `testzip()` returns `None` for a good file. Raise the error when it is *not* `None`
    (with `assert`: `assert … is None`)."""
)
def load_whole(path):
    if zipfile.ZipFile(path).testzip() is None:
        raise ValueError("damaged")
    return torch.load(path, weights_only=True)


@exercise.mistake(
    """For a damaged file you return nothing, so the program goes on without weights. Raise an error, as `torch.load`
    does."""
)
def load_whole(path):
    try:
        return None if zipfile.ZipFile(path).testzip() else torch.load(path, weights_only=True)
    except Exception:
        return None


@exercise.mistake(
    """You read the first record only. The bit that flipped stands in another one: `testzip()` reads them all."""
)
def load_whole(path):
    with zipfile.ZipFile(path) as file:
        file.read(file.infolist()[0])
        file.read(next(one for one in file.namelist() if one.endswith("data/0")))
    return torch.load(path, weights_only=True)


@exercise.mistake("""You found the damage, and returned the name of the record. The task asks for the content of a
whole file, and for an error otherwise.""")
def load_whole(path):
    return zipfile.ZipFile(path).testzip()


def saved(flip=None, cut=False):
    """A file of two tensors; a bit of one of them flipped, or the second half cut off."""
    state = {"first": torch.arange(100.0), "second": torch.arange(100.0, 200.0)}
    torch.save(state, "state.pt")
    content = bytearray(Path("state.pt").read_bytes())
    if flip:
        content[content.index(state[flip].numpy().tobytes()) + 43] ^= 1
    Path("state.pt").write_bytes(content[: len(content) // 2] if cut else content)


@exercise.mistake(
    """For a file with a flipped bit nothing came back, and no error: the program goes on without weights. `raise` one
    when `testzip()` is not `None`."""
)
def load_whole(path):
    if zipfile.ZipFile(path).testzip() is None:
        return torch.load(path, weights_only=True)


@exercise.mistake("""You returned an error as if it were the content. An error is raised: `raise ValueError(…)`.""")
def load_whole(path):
    if zipfile.ZipFile(path).testzip() is not None:
        return ValueError("damaged")
    return torch.load(path, weights_only=True)


@exercise.probe("a whole file")
def _(load_whole):
    saved()
    read = load_whole("state.pt")
    return {name: one.sum() for name, one in read.items()} if isinstance(read, dict) else read


@exercise.probe("a file that is cut off")
def _(load_whole):
    saved(cut=True)
    return attempt(lambda: load_whole("state.pt"))


@exercise.probe("a file with a flipped bit in its first tensor")
def _(load_whole):
    saved(flip="first")
    read = []
    said = attempt(lambda: read.append(load_whole("state.pt")))
    return said if said != "accepted" else f"accepted, a {type(read[0]).__name__} came back"


@exercise.probe("a file with a flipped bit in its last tensor")
def _(load_whole):
    saved(flip="second")
    return attempt(lambda: load_whole("state.pt"))


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "02.6",
    "Repair: an evaluation that changes the model",
    section="`eval()` forgotten",
    task="""This function measures the accuracy in the middle of a training. The number is wrong, another one each time,
    and afterwards the model is not what it was. Repair it: the accuracy in eval mode, no gradients, and at the end the
    model in the mode in which it came.""",
    hint="""Note `model.training` first. At the end, `model.train(…)` takes it back.""",
    shows="""You measured in eval mode, nothing in the model moved, and its mode is as before.""",
    idle="""Which mode is the model in while it predicts, and afterwards?""",
)


@exercise.start
def accuracy(model, images, labels):
    right = model(images).argmax(dim=1) == labels
    return right.float().mean()


@exercise.answer
def accuracy(model, images, labels):
    mode = model.training
    model.eval()
    with torch.no_grad():
        right = model(images).argmax(dim=1) == labels
    model.train(mode)
    return right.float().mean().item()


@exercise.mistake(
    """The accuracy is right, and the model stays in eval mode: the training goes on without dropout, and BatchNorm
    stops learning. Put the mode back."""
)
def accuracy(model, images, labels):
    model.eval()
    with torch.no_grad():
        return (model(images).argmax(dim=1) == labels).float().mean().item()


@exercise.mistake(
    """Afterwards the model is always in train mode, even if it came in eval mode. Note `model.training` at the start,
    and give it back: `model.train(mode)`."""
)
def accuracy(model, images, labels):
    model.eval()
    with torch.no_grad():
        right = model(images).argmax(dim=1) == labels
    model.train()
    return right.float().mean().item()


@exercise.mistake(
    """`no_grad()` stops the gradients, not BatchNorm: in train mode its statistics moved while you measured, and
    dropout made the number random. Call `model.eval()`."""
)
def accuracy(model, images, labels):
    with torch.no_grad():
        return (model(images).argmax(dim=1) == labels).float().mean().item()


@exercise.mistake(
    """Mode and number are right. But the forward pass still keeps everything for a backward pass that never comes: do
    it in `with torch.no_grad():`."""
)
def accuracy(model, images, labels):
    mode = model.training
    right = model.eval()(images).argmax(dim=1) == labels
    model.train(mode)
    return right.float().mean().item()


@exercise.mistake("""This is how many are right. The accuracy is their share: divide by the number of labels.""")
def accuracy(model, images, labels):
    mode = model.training
    model.eval()
    with torch.no_grad():
        right = model(images).argmax(dim=1) == labels
    model.train(mode)
    return right.sum().item()


def evaluated(accuracy, mode):
    model = net(steps=12)
    model.train(mode)
    then, recorded = tensors(model), []
    model.features[0][0].register_forward_hook(lambda *_: recorded.append(torch.is_grad_enabled()))
    x, y = batch(3, 50)
    y[:10] = 1 - y[:10]  # not all can be right
    return model, then, recorded, accuracy(model, x, y), ((answers_to(model, x) == y).float().mean().item())


def answers_to(model, x):
    with torch.no_grad():
        return model.eval()(x).argmax(dim=1)


@exercise.mistake(
    """The number is right. Two lines are not there yet: the forward pass still records gradients, so put it in `with
    torch.no_grad():`. And the model stays in eval mode: give it back the mode in which it came."""
)
def accuracy(model, images, labels):
    return (model.eval()(images).argmax(dim=1) == labels).float().mean().item()


@exercise.mistake(
    """The number is right. But the forward pass still records gradients: put it in `with torch.no_grad():`. And
    `model.train()` at the end is wrong for a model that came in eval mode: note `model.training` at the start."""
)
def accuracy(model, images, labels):
    right = model.eval()(images).argmax(dim=1) == labels
    model.train()
    return right.float().mean().item()


@exercise.mistake("""This is in percent. The accuracy here is a share, from 0 to 1: do not multiply by 100.""")
def accuracy(model, images, labels):
    mode = model.training
    with torch.no_grad():
        right = model.eval()(images).argmax(dim=1) == labels
    model.train(mode)
    return 100 * right.float().mean().item()


@exercise.mistake(
    """`torch.set_grad_enabled(False)` stays off after your function, and the training that goes on computes no
    gradients. Use `with torch.no_grad():`, which ends by itself."""
)
def accuracy(model, images, labels):
    mode = model.training
    torch.set_grad_enabled(False)
    right = model.eval()(images).argmax(dim=1) == labels
    model.train(mode)
    return right.float().mean().item()


@exercise.mistake(
    """The brackets are missing: `no_grad` is a class, and `with` wants an object of it, `with torch.no_grad():`."""
)
def accuracy(model, images, labels):
    mode = model.training
    model.eval()
    with torch.no_grad:
        right = model(images).argmax(dim=1) == labels
    model.train(mode)
    return right.float().mean().item()


@exercise.mistake(
    """`requires_grad` is off for all parameters now, so the training that goes on learns nothing. A measurement changes
    no flags: use `with torch.no_grad():`."""
)
def accuracy(model, images, labels):
    mode = model.training
    right = model.requires_grad_(False).eval()(images).argmax(dim=1) == labels
    model.train(mode)
    return right.float().mean().item()


@exercise.probe("how far the accuracy of 50 images is from that in eval mode")
def _(accuracy):
    *_, got, expected = evaluated(accuracy, mode=True)
    return abs(float(got) - expected)


@exercise.probe("the tensors of the model that changed")
def _(accuracy):
    model, then, *_ = evaluated(accuracy, mode=True)
    return len(moved(model, then))


@exercise.probe("gradients while measuring")
def _(accuracy):
    return any(evaluated(accuracy, mode=True)[2])


def mode_after(accuracy, mode):
    model = net().train(mode)
    accuracy(model, *batch())
    return "train mode" if model.training else "eval mode"


@exercise.probe("the mode of a model that came in train mode")
def _(accuracy):
    return mode_after(accuracy, True)


@exercise.probe("the mode of a model that came in eval mode")
def _(accuracy):
    return mode_after(accuracy, False)


@exercise.probe("what still learns after the measurement")
def _(accuracy):
    model = net()
    accuracy(model, *batch())
    learns = sum(one.requires_grad for one in model.parameters())
    return {"gradients are computed": torch.is_grad_enabled(), "parameters that learn": learns}


# ---------------------------------------------------------------------------------------------------------------------
def errors_of_flipped_bits():
    """How many of four files with one flipped bit `torch.load` refuses."""
    refused = 0
    for place in range(4):
        weights = torch.arange(100.0)
        torch.save({"weights": weights}, "state.pt")
        content = bytearray(Path("state.pt").read_bytes())
        content[content.index(weights.numpy().tobytes()) + 100 * place + 3] ^= 64
        Path("state.pt").write_bytes(content)
        refused += attempt(lambda: torch.load("state.pt", weights_only=True)) == "an error"
    return refused


Prediction(
    "02.5",
    """Four files with weights, and in each a single bit of a weight has flipped. How many of the four does `torch.load`
    refuse?""",
    errors_of_flipped_bits,
    [
        (0, 0, "None. The checksums are in the file, and `torch.load` does not look at them."),
        (
            1,
            3,
            """You expect some bits to matter more. `torch.load` does not compare the checksums at all, so it takes
         every one of them.""",
        ),
        (
            4,
            4,
            """You believe that `torch.load` checks what it reads. The checksums are in the file, but only `testzip`
         compares them.""",
        ),
    ],
)


def moved_by_predicting():
    model = net().train()
    then = tensors(model)
    with torch.no_grad():
        model(batch(9)[0])
    return len(moved(model, then))


Prediction(
    "02.6",
    """A model has 10 parameters and 6 buffers of BatchNorm. It is in train mode, and you only predict, in
    `with torch.no_grad():`. How many of these 16 tensors change?""",
    moved_by_predicting,
    [
        (
            0,
            0,
            """You believe that `no_grad` protects the model. It stops gradients only: in train mode BatchNorm updates
         its statistics in every forward pass.""",
        ),
        (1, 5, "You are close: each of the two BatchNorm layers has three buffers, and all of them move."),
        (6, 6, "All buffers of BatchNorm, and no parameter: mean, variance and counter, in both layers."),
        (7, 16, "You expect the parameters to move. They move in `optimizer.step()`, and there was none."),
    ],
)

question(
    "02",
    "`load_state_dict` says: all keys matched. What do you know?",
    ("Every name of the model had a tensor of its shape.", True, "Names and shapes, nothing else."),
    ("The weights are the right ones.", False, "Values are not compared: look at a few predictions."),
    ("The model is ready to predict.", False, "It is still in train mode: call `eval()`."),
)
question(
    "02",
    "What does `strict=False` forgive?",
    ("Missing names.", True, "It forgives names, missing and unexpected ones, and returns the lists of them."),
    ("Unexpected names.", True, "They are listed in `unexpected_keys`."),
    ("Another shape.", False, "A wrong shape raises an error all the same."),
)
question(
    "02",
    "A stranger sends you a file of weights. What is safe?",
    ("`torch.load(path)` with PyTorch 2.10 or newer", True, "`weights_only=True` is the default, without known holes."),
    ("`torch.load(path, weights_only=False)`", False, "It runs whatever the file says."),
    (
        "To compare the CRC first, and then load with `weights_only=False`",
        False,
        "A CRC finds accidents. An attacker writes a new one.",
    ),
)
