"""Practice to lesson 6, Freezing layers."""

import copy

import torch
from torch import nn
from torch.nn import functional as F

from course_utils.practice.engine import Exercise
from course_utils.practice.questions import Prediction, question
from course_utils.practice.toys import Net, batch, moved, net, same_bits, seeded, tensors, train_step

# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "06.1",
    "Freeze the backbone",
    section="`requires_grad=False`",
    task="""Write `freeze(model)`: the parameters of `model.features` learn nothing any more, those of
    `model.classifier` still do. It changes the model in place and returns nothing.""",
    hint="""`requires_grad` is a flag on each parameter. `module.requires_grad_(False)`, with the `_` at the end,
    sets it for all of them.""",
    shows="""The backbone gets no gradient, and the head is free.""",
    idle="""The flag is on each parameter. `layer.requires_grad = False` only writes a note on a layer,
    `parameter.detach()` gives a new tensor, and `torch.no_grad()` ends with its block. A misspelt name makes a new
    note, without an error; and `requires_grad_()` without `False` sets the flag to true.""",
)


@exercise.start
def freeze(model):
    pass


@exercise.answer
def freeze(model):
    model.features.requires_grad_(False)


@exercise.answer
def freeze(model):
    for parameter in model.features.parameters():
        parameter.requires_grad = False


@exercise.mistake(
    """Nothing is frozen. `model.features.requires_grad = False` only writes a note on the module: the flags are on the
    parameters. Call `requires_grad_(False)`, with the `_`."""
)
def freeze(model):
    model.features.requires_grad = False


@exercise.mistake("""The head is frozen, too, so nothing can be learned. Freeze `model.features` only.""")
def freeze(model):
    model.requires_grad_(False)


@exercise.mistake("""It is the wrong way round: the head is frozen and the backbone learns. Freeze `model.features`.""")
def freeze(model):
    model.classifier.requires_grad_(False)


@exercise.mistake(
    """The weights are frozen, the biases still learn. Set the flag on every parameter, not by its name."""
)
def freeze(model):
    for name, parameter in model.features.named_parameters():
        parameter.requires_grad = not name.endswith("weight")


@exercise.mistake("""Only the first block is frozen. The backbone is all of `model.features`.""")
def freeze(model):
    model.features[0].requires_grad_(False)


@exercise.mistake(
    """The linear layers are frozen, BatchNorm's weight and bias still learn. They are parameters of the backbone,
    too."""
)
def freeze(model):
    for layer in model.features.modules():
        if isinstance(layer, nn.Linear):
            layer.requires_grad_(False)


@exercise.mistake(
    """`eval()` is another switch: it stops dropout and BatchNorm's statistics, and every parameter still gets its
    gradient. Set `requires_grad`."""
)
def freeze(model):
    model.features.eval()


@exercise.mistake(
    """The flags are right, and you have set the mode as well, which this task leaves alone: the next `model.train()`
    would undo it (06.2)."""
)
def freeze(model):
    model.features.requires_grad_(False)
    model.features.eval()


@exercise.mistake(
    """`parameters()` is a list to go through, and has no flag. Write a loop, `for parameter in
    model.features.parameters():`, or call `model.features.requires_grad_(False)`."""
)
def freeze(model):
    model.features.parameters().requires_grad = False


@exercise.probe("the parameters that get a gradient")
def _(freeze):
    model = net(steps=0)
    freeze(model)
    F.cross_entropy(model(batch()[0]), batch()[1]).backward()
    return sorted(name for name, one in model.named_parameters() if one.grad is not None)


@exercise.probe("the tensors that `freeze` itself changed, and what it wrote on the backbone")
def _(freeze):
    model = net()
    then = tensors(model)
    freeze(model)
    return [*moved(model, then), *sorted(vars(model.features).keys() & {"requires_grad"})]


@exercise.probe("the mode of the backbone")
def _(freeze):
    model = net(steps=0).train()
    freeze(model)
    return "train" if model.features.training else "eval"


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "06.2",
    "Train mode, and frozen BatchNorm",
    section="BatchNorm",
    task="""`requires_grad=False` does not stop BatchNorm's running statistics. Write `train_mode(model)`, to be called
    instead of `model.train()` at the start of each epoch: everything in train mode, except BatchNorm layers
    (`nn.BatchNorm1d`) whose weight is frozen.""",
    hint="""The order matters: first `model.train()`, then `eval()` for the layers in `model.modules()` that are
    frozen.""",
    shows="""Frozen BatchNorm kept its statistics through a training, and everything free trained as usual.""",
    idle="""Frozen BatchNorm is still in train mode. Does `model.train()` come last? It undoes each `eval()` before it.
    The layers inside of blocks are in `model.modules()`, not in `model.children()`, and here they are
    `nn.BatchNorm1d`, not 2d.""",
)


@exercise.start
def train_mode(model):
    model.train()


@exercise.answer
def train_mode(model):
    model.train()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d) and not layer.weight.requires_grad:
            layer.eval()


@exercise.mistake(
    """BatchNorm layers that are free stand still as well: they should learn their statistics. Ask
    `layer.weight.requires_grad`."""
)
def train_mode(model):
    model.train()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.eval()


@exercise.mistake("""Everything is in eval mode, so the head trains without its dropout. Only frozen BatchNorm is.""")
def train_mode(model):
    model.eval()


@exercise.mistake(
    """The whole backbone is in eval mode, also the block that is free. Look at each BatchNorm layer: is its weight
    frozen?"""
)
def train_mode(model):
    model.train()
    model.features.eval()


@exercise.mistake(
    """It is the wrong way round: frozen BatchNorm moves, and free BatchNorm stands still. `eval()` is for those whose
    weight has `requires_grad=False`."""
)
def train_mode(model):
    model.train()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d) and layer.weight.requires_grad:
            layer.eval()


@exercise.mistake(
    """The frozen layers are in eval mode, the rest keeps the mode it had: after an evaluation the head would train
    without dropout. Call `model.train()` first."""
)
def train_mode(model):
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d) and not layer.weight.requires_grad:
            layer.eval()


@exercise.mistake(
    """The modes are right, and you have frozen BatchNorm layers that were free. `train_mode` sets modes only."""
)
def train_mode(model):
    model.train()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d) and not layer.weight.requires_grad:
            layer.eval()
        elif isinstance(layer, nn.BatchNorm1d):
            layer.requires_grad_(False)


@exercise.mistake("""A layer has no flag `requires_grad`, its parameters have. Ask `layer.weight.requires_grad`.""")
def train_mode(model):
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d) and not layer.requires_grad:
            layer.eval()


@exercise.mistake(
    """All that is frozen or has no parameters is in eval mode: the dropout of the head, too. Ask for BatchNorm:
    `isinstance(layer, nn.BatchNorm1d)`."""
)
def train_mode(model):
    model.train()
    for layer in model.modules():
        if not any(one.requires_grad for one in layer.parameters()):
            layer.eval()


@exercise.mistake(
    """Every frozen layer is in eval mode. For the linear layers this makes no difference, and the task says: except
    BatchNorm layers. Ask `isinstance(layer, nn.BatchNorm1d)`."""
)
def train_mode(model):
    model.train()
    model.features[0].train(model.features[0][0].weight.requires_grad)


@exercise.mistake("""`features[1]` is the free block here. Go through all layers, and ask each one for its flag.""")
def train_mode(model):
    model.train()
    model.features[1].eval()


def half_frozen():
    model = net(steps=0)
    model.features[0].requires_grad_(False)
    return model


def in_train_mode(model):
    return sorted(name for name, one in model.named_modules() if one.training and not list(one.children()))


@exercise.mistake(
    """A model with one frozen parameter is not frozen: `model.modules()` gives the model itself first, and its `eval()`
    reaches all layers. Ask for BatchNorm layers, and for their own weight."""
)
def train_mode(model):
    model.train()
    for layer in model.modules():
        if any(not one.requires_grad for one in layer.parameters()):
            layer.eval()


@exercise.mistake(
    """Every frozen layer with a weight is in eval mode, the linear ones as well. The task says: except BatchNorm
    layers. Ask `isinstance(layer, nn.BatchNorm1d)`, too."""
)
def train_mode(model):
    model.train()
    for layer in model.modules():
        if hasattr(layer, "weight") and not layer.weight.requires_grad:
            layer.eval()


@exercise.mistake(
    """Only free BatchNorm is in train mode, everything else in eval mode, also the dropout of the head. Begin with
    `model.train()`, and take the frozen BatchNorm layers out."""
)
def train_mode(model):
    model.eval()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d) and layer.weight.requires_grad:
            layer.train()


@exercise.mistake(
    """You have frozen every BatchNorm layer, also those that were free, and put them into eval mode. `train_mode` sets
    modes only, and only for the layers that are frozen already."""
)
def train_mode(model):
    model.train()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d):
            layer.requires_grad_(False)
            layer.eval()


@exercise.mistake(
    """The statistics stand still, but with `track_running_stats=False` the layer normalises each batch by itself, and
    not by what it has learned. Put it into eval mode."""
)
def train_mode(model):
    model.train()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d) and not layer.weight.requires_grad:
            layer.track_running_stats = False


@exercise.mistake(
    """With a momentum of 0 mean and variance stand still, but the counter moves, and the layer normalises each batch by
    itself, not by what it has learned. Put it into eval mode."""
)
def train_mode(model):
    model.train()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm1d) and not layer.weight.requires_grad:
            layer.momentum = 0


@exercise.probe("the layers in train mode, when the first block is frozen and all came in train mode")
def _(train_mode):
    model = half_frozen().train()
    train_mode(model)
    return in_train_mode(model)


@exercise.probe("the same when all came in eval mode")
def _(train_mode):
    model = half_frozen().eval()
    train_mode(model)
    return in_train_mode(model)


@exercise.probe("the layers in train mode when nothing is frozen")
def _(train_mode):
    model = net(steps=0).eval()
    train_mode(model)
    return in_train_mode(model)


@exercise.probe("parameters that learn")
def _(train_mode):
    model = half_frozen()
    train_mode(model)
    return sum(one.requires_grad for one in model.parameters())


@exercise.probe("the statistics that a forward pass moves, when the first block is frozen")
def _(train_mode):
    model = half_frozen()
    train_mode(model)
    before = tensors(model)
    model(batch()[0])
    return moved(model, before)


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "06.3",
    "What moved?",
    section="`requires_grad=False`",
    task="""Write `moved(model, before)`: the names of all tensors of the model that are not, bit for bit, what they
    were in `before`, a copy of its `state_dict`. With it you prove that what is frozen stood still.""",
    hint="""`torch.equal` compares every number exactly. Go through `model.state_dict()`.""",
    shows="""You find parameters and buffers, however little they moved.""",
    idle="""Return the names, in a list or a set.""",
)


@exercise.start
def moved(model, before):
    return ...


@exercise.answer
def moved(model, before):
    now = model.state_dict()
    return [name for name in now if not torch.equal(now[name], before[name])]


@exercise.mistake(
    """You looked at the parameters only. BatchNorm's statistics are buffers, and they are what moves when a backbone is
    frozen: compare the whole `state_dict`."""
)
def moved(model, before):
    return [name for name, one in model.named_parameters() if not torch.equal(one, before[name])]


@exercise.mistake(
    """A small step was not seen: `allclose` forgives small differences. Frozen means not one bit: `torch.equal`."""
)
def moved(model, before):
    return [name for name, one in model.state_dict().items() if not torch.allclose(one, before[name])]


@exercise.mistake("""These are the tensors that stood still. The others were asked for: `not torch.equal(…)`.""")
def moved(model, before):
    return [name for name, one in model.state_dict().items() if torch.equal(one, before[name])]


@exercise.mistake(
    """A tensor in which a single number moved was not found: you ask whether *all* numbers differ. One is enough:
    `not torch.equal(…)`."""
)
def moved(model, before):
    return [name for name, one in model.state_dict().items() if (one != before[name]).all()]


@exercise.mistake(
    """A tensor whose sum stayed the same was not found. Compare the numbers one by one, with `torch.equal`."""
)
def moved(model, before):
    return [name for name, one in model.state_dict().items() if one.sum() != before[name].sum()]


@exercise.mistake(
    """You asked which parameters are free, not which tensors moved. A flag proves nothing: compare the numbers."""
)
def moved(model, before):
    return [name for name, one in model.named_parameters() if one.requires_grad]


@exercise.mistake(
    """`!=` compares number by number and gives a tensor, and `if` wants one answer. `torch.equal` gives one."""
)
def moved(model, before):
    return [name for name, one in model.state_dict().items() if one != before[name]]


@exercise.mistake(
    """Everything moved, you say. `is` asks whether it is the same object, and a copy never is: compare the numbers with
    `torch.equal`."""
)
def moved(model, before):
    return [name for name, one in model.state_dict().items() if one is not before[name]]


def after(moved, change):
    model = net()
    model.features.requires_grad_(False)
    before = tensors(model)
    with torch.no_grad():
        change(model)
    names = moved(model, before)
    return f"no names but {names}" if isinstance(names, int) else sorted(names)  # True and False are int, too


@exercise.mistake("""This is how many moved. Which ones was asked for: collect their names.""")
def moved(model, before):
    return sum(not torch.equal(one, before[name]) for name, one in model.state_dict().items())


@exercise.mistake("""This says whether something moved. What moved was asked for: collect the names.""")
def moved(model, before):
    return any(not torch.equal(one, before[name]) for name, one in model.state_dict().items())


@exercise.mistake("""You looked at the buffers only. Parameters move, too: compare the whole `state_dict`.""")
def moved(model, before):
    return [name for name, one in model.named_buffers() if not torch.equal(one, before[name])]


@exercise.mistake(
    """BatchNorm's counter was left out, because it holds whole numbers. It moved as well: every tensor of the
    `state_dict` counts."""
)
def moved(model, before):
    now = model.state_dict()
    return [name for name in now if now[name].is_floating_point() and not torch.equal(now[name], before[name])]


@exercise.mistake(
    """You return after the first tensor: the `return` stands inside the loop. Move it to the left, behind the loop."""
)
def moved(model, before):
    names = []
    for name, one in model.state_dict().items():
        if not torch.equal(one, before[name]):
            names.append(name)
        return names


@exercise.mistake(
    """A number that changed by its last bit was not found: your limit forgives small differences. Frozen means not one
    bit: `torch.equal`."""
)
def moved(model, before):
    return [name for name, one in model.state_dict().items() if (one - before[name]).abs().max() > 1e-6]


@exercise.probe("the tensors that moved in a training step with a frozen backbone")
def _(moved):
    def step(model):
        with torch.enable_grad():
            train_step(model)

    return after(moved, step)


@exercise.probe("the tensors that moved when one number became larger by 0.000001")
def _(moved):
    return after(moved, lambda model: model.classifier[1].weight[0, 0].add_(1e-6))


@exercise.probe("the tensors that moved when one number became larger by 1")
def _(moved):
    return after(moved, lambda model: model.classifier[1].weight[0, 0].add_(1))


@exercise.probe("the tensors that moved when two numbers changed places")
def _(moved):
    return after(moved, lambda model: model.classifier[1].bias.copy_(model.classifier[1].bias.flip(0)))


@exercise.probe("the tensors that moved when nothing did")
def _(moved):
    return after(moved, lambda model: None)


@exercise.probe("the tensors that moved when one number changed by its last bit")
def _(moved):
    def one_bit(model):
        weight = model.classifier[1].weight
        weight[0, 0] = torch.nextafter(weight[0, 0], torch.tensor(9.0))

    return after(moved, one_bit)


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "06.4",
    "Unfreeze in the middle of a training",
    section="Gradual unfreezing, and its resume",
    task="""The head has been trained for a while with `optimizer`. Write `unfreeze(model, optimizer, rate)`: from
    now on the last block, `model.features[1]`, learns as well, with the learning rate `rate`, except for its
    BatchNorm, which stays frozen. The optimizer keeps what it knows about the head.""",
    hint="""Set the flags, then `optimizer.add_param_group({"params": …, "lr": rate})` with the parameters that are free
    now.""",
    shows="""The block learns with its own rate, BatchNorm stays frozen, and the head lost nothing.""",
    idle="""Set the flags of the block, and tell the optimizer about it.""",
)


@exercise.start
def unfreeze(model, optimizer, rate):
    pass


@exercise.answer
def unfreeze(model, optimizer, rate):
    model.features[1].requires_grad_(True)
    model.features[1][1].requires_grad_(False)
    free = [one for one in model.features[1].parameters() if one.requires_grad]
    optimizer.add_param_group({"params": free, "lr": rate})


def unfreezing(flags=True, group=True, batchnorm=False, lr=True, block=lambda model: model.features[1]):
    def unfreeze(model, optimizer, rate):
        if flags:
            block(model).requires_grad_(True)
            for layer in block(model).modules():
                if isinstance(layer, nn.BatchNorm1d):
                    layer.requires_grad_(batchnorm)
        free = [one for one in block(model).parameters() if one.requires_grad]
        if not flags:
            free = list(block(model)[0].parameters())
        if group:
            optimizer.add_param_group({"params": free, **({"lr": rate} if lr else {})})

    return unfreeze


exercise.mistake(
    """The optimizer has the block, but its flags are still off: without a gradient nothing moves. Call
    `requires_grad_(True)`."""
)(unfreezing(flags=False))
exercise.mistake(
    """The block gets gradients, and the optimizer does not know it: no group was added, or an empty one, made before
    the flags; or `optimizer = …` made another one, which ends with your function. Call
    `optimizer.add_param_group(…)`."""
)(unfreezing(group=False))
exercise.mistake(
    """BatchNorm learns, too. Freeze it again after you set the block free, and leave it out of the group."""
)(unfreezing(batchnorm=True))
exercise.mistake(
    """The block learns with the optimizer's default rate, which was meant for the head. Give the group its `lr`."""
)(unfreezing(lr=False))
exercise.mistake(
    """The whole backbone was set free. Start with the last block, `model.features[1]`: the first ones are good as they
    are."""
)(unfreezing(block=lambda model: model.features))


@exercise.mistake(
    """Adam has forgotten the head: you made its state anew. `add_param_group` adds to the optimizer that is running."""
)
def unfreeze(model, optimizer, rate):
    unfreezing()(model, optimizer, rate)
    optimizer.state.clear()


@exercise.mistake(
    """The flags are on, for BatchNorm as well, and the optimizer does not know the block: nothing moves. Freeze
    BatchNorm again, and call `optimizer.add_param_group(…)` with what is free."""
)
def unfreeze(model, optimizer, rate):
    model.features[1].requires_grad_(True)


@exercise.mistake(
    """The optimizer has the whole block, and its flags are still off: without a gradient nothing moves. Call
    `requires_grad_(True)`, and leave BatchNorm out of both."""
)
def unfreeze(model, optimizer, rate):
    optimizer.add_param_group({"params": model.features[1].parameters(), "lr": rate})


@exercise.mistake(
    """The flags are right, but BatchNorm's parameters are in the group. Give the optimizer only what is free:
    `[one for one in model.features[1].parameters() if one.requires_grad]`."""
)
def unfreeze(model, optimizer, rate):
    model.features[1].requires_grad_(True)
    model.features[1][1].requires_grad_(False)
    optimizer.add_param_group({"params": model.features[1].parameters(), "lr": rate})


@exercise.mistake("""The head has the rate of the block now. Leave its group as it is: each group has its own `lr`.""")
def unfreeze(model, optimizer, rate):
    unfreezing()(model, optimizer, rate)
    optimizer.param_groups[0]["lr"] = rate


@exercise.mistake(
    """The new group holds the head as well, which is in the optimizer already. Take the parameters of
    `model.features[1]`, not of the model."""
)
def unfreeze(model, optimizer, rate):
    model.features[1][0].requires_grad_(True)
    optimizer.add_param_group({"params": [one for one in model.parameters() if one.requires_grad], "lr": rate})


def phase_one(unfreeze):
    model = net(steps=0)
    model.features.requires_grad_(False)
    optimizer = torch.optim.Adam(model.classifier.parameters(), lr=0.01)
    train_step(model, optimizer, seed=1)
    before = tensors(model)
    unfreeze(model, optimizer, 0.001)
    steps = [
        int(optimizer.state[one]["step"]) if one in optimizer.state else 0 for one in model.classifier.parameters()
    ]
    rates = {id(one): group["lr"] for group in optimizer.param_groups for one in group["params"]}
    train_step(model, optimizer, seed=2)
    parameters = dict(model.named_parameters())
    return model, before, steps, {name: rates[id(one)] for name, one in parameters.items() if id(one) in rates}


@exercise.mistake("""You set the first block free. Counted from 0, the last of the two is `model.features[1]`.""")
def unfreeze(model, optimizer, rate):
    unfreezing(block=lambda model: model.features[0])(model, optimizer, rate)


@exercise.mistake(
    """BatchNorm has two parameters, a weight and a bias, and its bias still learns. Freeze the whole layer,
    `layer.requires_grad_(False)`."""
)
def unfreeze(model, optimizer, rate):
    model.features[1].requires_grad_(True)
    model.features[1][1].weight.requires_grad = False
    free = [one for one in model.features[1].parameters() if one.requires_grad]
    optimizer.add_param_group({"params": free, "lr": rate})


@exercise.probe("the parameters that move in the next step")
def _(unfreeze):
    model, before, *_ = phase_one(unfreeze)
    return [name for name, one in model.named_parameters() if not same_bits(one.detach(), before[name])]


@exercise.probe("the parameters that get a gradient")
def _(unfreeze):
    return [name for name, one in phase_one(unfreeze)[0].named_parameters() if one.grad is not None]


@exercise.probe("the learning rates in the optimizer")
def _(unfreeze):
    return phase_one(unfreeze)[3]


@exercise.probe("the steps that Adam knows of the head's two tensors")
def _(unfreeze):
    return phase_one(unfreeze)[2]


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "06.5",
    "Resume in the right phase",
    section="Gradual unfreezing, and its resume",
    task="""A training unfroze its last block in phase 1 and was stopped. `start_phase(phase)` builds model and
    optimizer with the flags and groups of a phase. Write `resume(checkpoint, start_phase)`: model and optimizer as
    they were, from a checkpoint with the keys `phase`, `model` and `optimizer`.""",
    hint="""The flags are in no `state_dict`, and the optimizer's state fits only an optimizer with the same groups. So
    what comes first?""",
    shows="""Flags, groups, weights and Adam's averages are all those of the phase in which it was stopped.""",
    idle="""Start in the phase of the checkpoint, and load what is in it.""",
)


@exercise.start
def resume(checkpoint, start_phase):
    model, optimizer = start_phase(0)
    return model, optimizer


@exercise.answer
def resume(checkpoint, start_phase):
    model, optimizer = start_phase(checkpoint["phase"])
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    return model, optimizer


@exercise.mistake(
    """The optimizer in the checkpoint has two groups, yours has one: this is phase 0. Start in the phase of the
    checkpoint."""
)
def resume(checkpoint, start_phase):
    model, optimizer = start_phase(0)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    return model, optimizer


@exercise.mistake(
    """The last block is frozen again, and no error came: the flags are in no `state_dict`. Build the phase of the
    checkpoint, then load."""
)
def resume(checkpoint, start_phase):
    model, _ = start_phase(0)
    _, optimizer = start_phase(checkpoint["phase"])
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    return model, optimizer


@exercise.mistake("""The optimizer is a new one: Adam's averages are lost. Load `checkpoint["optimizer"]`.""")
def resume(checkpoint, start_phase):
    model, optimizer = start_phase(checkpoint["phase"])
    model.load_state_dict(checkpoint["model"])
    return model, optimizer


@exercise.mistake("""The model has the weights of a new one: `checkpoint["model"]` was not loaded, or into another model
that you built before.""")
def resume(checkpoint, start_phase):
    model, optimizer = start_phase(checkpoint["phase"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    return model, optimizer


@exercise.mistake(
    """Every training ends in phase 1 here, also one that was stopped in phase 0. Take the phase from the checkpoint."""
)
def resume(checkpoint, start_phase):
    model, optimizer = start_phase(1)
    model.load_state_dict(checkpoint["model"])
    if len(checkpoint["optimizer"]["param_groups"]) == 2:
        optimizer.load_state_dict(checkpoint["optimizer"])
    return model, optimizer


@exercise.mistake(
    """Model and optimizer do not belong together: you built the phase twice, and the optimizer moves the weights of the
    other model."""
)
def resume(checkpoint, start_phase):
    model, _ = start_phase(checkpoint["phase"])
    _, optimizer = start_phase(checkpoint["phase"])
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    return model, optimizer


@exercise.mistake(
    """A training that was stopped in phase 0 cannot go on: you start in phase 1 whatever the checkpoint says, and its
    optimizer has one group. Take `checkpoint["phase"]` as it is."""
)
def resume(checkpoint, start_phase):
    model, optimizer = start_phase(1)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    return model, optimizer


@exercise.mistake(
    """The phase is right, and nothing was loaded into it. Load `checkpoint["model"]` and `checkpoint["optimizer"]`."""
)
def resume(checkpoint, start_phase):
    return start_phase(checkpoint["phase"])


@exercise.mistake(
    """`load_state_dict` changes the model in place, and what it returns is no model. Do not write `model =` before
    it."""
)
def resume(checkpoint, start_phase):
    model, optimizer = start_phase(checkpoint["phase"])
    return model.load_state_dict(checkpoint["model"]), optimizer


@exercise.mistake("""Model and optimizer come back in the wrong order: the model first.""")
def resume(checkpoint, start_phase):
    return start_phase(checkpoint["phase"])[::-1]


def start_phase(phase, seed=1):
    model = seeded(Net, seed)
    model.features.requires_grad_(False)
    optimizer = torch.optim.Adam(model.classifier.parameters(), lr=0.01)
    if phase:
        unfreezing()(model, optimizer, 0.001)
    return model, optimizer


def stopped_in(phase, resume):
    model, optimizer = start_phase(phase)
    train_step(model, optimizer)
    states = {"model": copy.deepcopy(model.state_dict()), "optimizer": copy.deepcopy(optimizer.state_dict())}
    resumed, its = resume({"phase": phase, **states}, lambda phase: start_phase(phase, seed=2))
    free = [name for name, one in resumed.named_parameters() if one.requires_grad]
    loaded = {"free": len(free), "weights": not moved_from(resumed, states["model"]), "averages": len(its.state)}
    train_step(model, optimizer, seed=9)
    torch.manual_seed(0)
    return loaded | {"groups": len(its.param_groups)}, resumed, its


def moved_from(model, before):
    return [name for name, one in model.state_dict().items() if not same_bits(one, before[name])]


@exercise.mistake(
    """You started in phase 0 and loaded the weights alone, so the last block is frozen again, and Adam's averages are
    lost. The phase of the checkpoint comes first, then both loads."""
)
def resume(checkpoint, start_phase):
    model, optimizer = start_phase(0)
    model.load_state_dict(checkpoint["model"])
    return model, optimizer


@exercise.mistake("""The model comes back alone. Return both, model and optimizer.""")
def resume(checkpoint, start_phase):
    model, optimizer = start_phase(checkpoint["phase"])
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    return model


@exercise.mistake(
    """These are the dictionaries from the checkpoint, not a model and an optimizer. Load them into what `start_phase`
    gives."""
)
def resume(checkpoint, start_phase):
    return checkpoint["model"], checkpoint["optimizer"]


@exercise.mistake(
    """Everything is free now, also the first block and BatchNorm. The flags come from `start_phase`: set none
    yourself."""
)
def resume(checkpoint, start_phase):
    model, optimizer = start_phase(checkpoint["phase"])
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    return model.requires_grad_(True), optimizer


@exercise.probe("free parameters, same weights, Adam's averages and groups, after a stop in phase 1")
def _(resume):
    return stopped_in(1, resume)[0]


@exercise.probe("the same after a stop in phase 0")
def _(resume):
    return stopped_in(0, resume)[0]


@exercise.probe("the parameters of the optimizer that are the model's")
def _(resume):
    _, model, optimizer = stopped_in(1, resume)
    own = {id(one) for one in model.parameters()}
    return sum(id(one) in own for group in optimizer.param_groups for one in group["params"])


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "06.6",
    "Repair: a frozen backbone that moves",
    section="BatchNorm",
    task="""This function should train a new head on a frozen backbone and leave the backbone as it is, to the last bit.
    It runs without an error, and three things are wrong: the backbone is not frozen, BatchNorm moves, and the optimizer
    was given what it should not change. Repair it.""",
    hint="""On what are the flags: on a module, or on its parameters? What does `model.train()` do to BatchNorm? And
    which parameters belong to the optimizer?""",
    shows="""The new head learned, and nothing else moved.""",
    idle="""Each of the three faults is in a line that looks as if it did something, or right after it.""",
)


@exercise.start
def train_head(model, classes, batches):
    model.features.requires_grad = False
    model.classifier = nn.Linear(8, classes)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.train()
    for x, y in batches:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return optimizer


@exercise.answer
def train_head(model, classes, batches):
    model.features.requires_grad_(False)
    model.classifier = nn.Linear(8, classes)
    optimizer = torch.optim.SGD(model.classifier.parameters(), lr=0.1)
    model.train()
    model.features.eval()
    for x, y in batches:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return optimizer


def heads(learns, drifts, given):
    """The function with some of its three faults left in."""

    def train_head(model, classes, batches):
        model.features.requires_grad_(learns)
        model.classifier = nn.Linear(8, classes)
        optimizer = torch.optim.SGD((model if given else model.classifier).parameters(), lr=0.1)
        model.train()
        model.features.train(drifts)
        for x, y in batches:
            loss = F.cross_entropy(model(x), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return optimizer

    return train_head


LEARNS = """The backbone is not frozen: its parameters get gradients. `requires_grad = False` on a module is only a
note; call `model.features.requires_grad_(False)`, with the `_`."""
DRIFTS = """BatchNorm's statistics moved, for `model.train()` set the backbone to train mode: call
`model.features.eval()` after it."""
GIVEN = """The optimizer has the parameters of the backbone, too. With weight decay or an old gradient it moves them,
even when they are frozen: give it `model.classifier.parameters()`."""
exercise.mistake(LEARNS)(heads(True, False, False))
exercise.mistake(DRIFTS)(heads(False, True, False))
exercise.mistake(GIVEN)(heads(False, False, True))
exercise.mistake(f"Two faults are left. {LEARNS} And: {DRIFTS}")(heads(True, True, False))
exercise.mistake(f"Two faults are left. {LEARNS} And: {GIVEN}")(heads(True, False, True))
exercise.mistake(f"Two faults are left. {DRIFTS} And: {GIVEN}")(heads(False, True, True))


@exercise.mistake(
    """Everything is frozen, the new head as well, so there is nothing to learn, and `backward()` says so. A new
    layer is born free: freeze first, then make it."""
)
def train_head(model, classes, batches):
    model.classifier = nn.Linear(8, classes)
    model.requires_grad_(False)
    for x, y in batches:
        F.cross_entropy(model(x), y).backward()
    return torch.optim.SGD(model.classifier.parameters(), lr=0.1)


def head_trained(train_head, count=3):
    """(the model, a copy from before, the optimizer, the parameters of the backbone that got a gradient)."""
    model, reached = net().eval(), set()
    before = tensors(model)
    for name, parameter in model.features.named_parameters():
        parameter.register_hook(lambda gradient, name=name: reached.add(name))
    optimizer = train_head(model, 3, [batch(seed) for seed in range(count)])
    return model, before, optimizer, reached


@exercise.mistake(
    """The optimizer was made before the new head, so it holds the old one's parameters, and the new head never learns.
    First the head, then the optimizer."""
)
def train_head(model, classes, batches):
    optimizer = torch.optim.SGD(model.classifier.parameters(), lr=0.1)
    model.features.requires_grad_(False)
    model.classifier = nn.Linear(8, classes)
    model.train()
    model.features.eval()
    for x, y in batches:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return optimizer


@exercise.mistake("""You return the model. The task leaves the `return` as it was, the optimizer: the model is changed
in place.""")
def train_head(model, classes, batches):
    heads(False, False, False)(model, classes, batches)
    return model


@exercise.mistake(
    """The optimizer has the backbone, not the head: the frozen part should move, and the new head never does. Give it
    `model.classifier.parameters()`."""
)
def train_head(model, classes, batches):
    model.features.requires_grad_(False)
    model.classifier = nn.Linear(8, classes)
    optimizer = torch.optim.SGD(model.features.parameters(), lr=0.1)
    model.train()
    model.features.eval()
    for x, y in batches:
        loss = F.cross_entropy(model(x), y)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return optimizer


@exercise.probe("the shape of the new head")
def _(train_head):
    head = [one for one in head_trained(train_head)[0].classifier.modules() if isinstance(one, nn.Linear)][-1]
    return list(head.weight.shape)


@exercise.probe("the parameters of the backbone that moved")
def _(train_head):
    model, before, *_ = head_trained(train_head)
    names = dict(model.features.named_parameters("features"))
    return [name for name, one in names.items() if not same_bits(one.detach(), before[name])]


@exercise.probe("the statistics of the backbone that moved")
def _(train_head):
    model, before, *_ = head_trained(train_head)
    return [name for name, one in model.features.named_buffers("features") if not same_bits(one, before[name])]


@exercise.probe("the parameters of the backbone that got a gradient")
def _(train_head):
    return sorted(head_trained(train_head)[3])


@exercise.probe("the parameters in the optimizer")
def _(train_head):
    return sum(len(group["params"]) for group in head_trained(train_head)[2].param_groups)


@exercise.probe("how far the new head is from three plain steps of `SGD` on the features")
def _(train_head):
    model = head_trained(train_head)[0]
    torch.manual_seed(0)
    expected = head_trained(train_head, count=0)[0]  # its head is as it was made
    optimizer = torch.optim.SGD(expected.classifier.parameters(), lr=0.1)
    for seed in range(3):
        x, y = batch(seed)
        optimizer.zero_grad()
        F.cross_entropy(expected.classifier(expected.features.eval()(x)), y).backward()
        optimizer.step()
    pairs = zip(model.classifier.parameters(), expected.classifier.parameters())
    return max((one - other).abs().max().item() for one, other in pairs)


# ---------------------------------------------------------------------------------------------------------------------
def moved_in_a_step():
    model = net()
    model.features.requires_grad_(False)
    before = tensors(model)
    train_step(model)
    return sum(not same_bits(one, before[name]) for name, one in model.state_dict().items())


Prediction(
    "06.1",
    """A model has 16 tensors: 8 parameters and 6 BatchNorm buffers in the backbone, 2 parameters in the head. You
    freeze the backbone with `requires_grad_(False)` and train one step in train mode. How many of the 16 tensors
    move?""",
    moved_in_a_step,
    [
        (
            2,
            2,
            """You believe that only the head moves. `requires_grad=False` does not stop BatchNorm: its 6 buffers move
         in each forward pass in train mode.""",
        ),
        (8, 8, "The two of the head, and the six buffers of BatchNorm, which no flag stops."),
        (0, 0, "The head is free, and it learns; and BatchNorm's 6 buffers move as well."),
        (16, 16, "The 8 frozen parameters stand still. What moves is the head, and BatchNorm's 6 buffers."),
        (0, 16, "What moves: 2 parameters of the head, and the 6 buffers of the two BatchNorm layers."),
    ],
)

Prediction(
    "06.5",
    """A model has 10 parameters, 8 of them are frozen. How many entries of its `state_dict` say what is frozen?""",
    lambda: sum("requires_grad" in name for name in net().state_dict()),
    [
        (0, 0, "None: flags are not saved. So the phase of a training belongs in the checkpoint."),
        (8, 8, "You believe that each frozen tensor remembers it. The file holds numbers, no flags."),
        (10, 10, "You believe that each parameter brings its flag along. The file holds numbers, no flags."),
        (0, 100, "A `state_dict` holds tensors by name. `requires_grad` is a flag on a parameter, and is not in it."),
    ],
)

question(
    "06",
    "What does `requires_grad_(False)` on the backbone stop?",
    ("The gradients of its parameters.", True, "That is all that it stops."),
    ("BatchNorm's running statistics.", False, "They move in train mode, whatever the flags: `eval()` stops them."),
    ("Dropout.", False, "Only `eval()` does."),
    ("Gradients that pass through to layers before it.", False, "They pass through a frozen layer."),
)
question(
    "06",
    "Frozen BatchNorm was put into `eval()` once, before the training. What happens?",
    ("It stays in eval mode.", False, "`model.train()` at the start of the next epoch sets every layer to train mode."),
    ("The next `model.train()` sets it to train mode again.", True, "So `eval()` comes after every `model.train()`."),
    ("PyTorch warns.", False, "Nobody says a word."),
)
question(
    "06",
    "Why give the optimizer only what is free?",
    ("Else PyTorch raises an error.", False, "It skips a parameter whose gradient is None."),
    ("An old or zero gradient and weight decay would move the frozen ones.", True, "A zero gradient is a gradient."),
    (
        "It makes the checkpoint smaller.",
        False,
        "Adam keeps averages only of what it has moved, so parameters that are frozen from the start add none.",
    ),
)
