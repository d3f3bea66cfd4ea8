"""Practice to lesson 3, Checkpoints."""

import copy
import pickle
import random

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F
from torch.optim.lr_scheduler import LinearLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from course_utils.checkpoints import rng_state
from course_utils.practice.engine import Exercise
from course_utils.practice.questions import Prediction, question
from course_utils.practice.toys import Net, answers, batch, moved, net, same_bits, seeded, tensors, train_step

# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "03.1",
    "What a resume needs",
    section="The checkpoint dictionary",
    task="""Write `checkpoint(model, optimizer, scheduler, epoch)`: a dictionary with the keys `epoch`, `model`,
    `optimizer`, `scheduler` and `rng`, from which a training goes on as if it had never stopped. Under `rng` stands the
    state of PyTorch's random number generator. The safe reader must accept it once it is saved.""",
    hint="""The three objects each have a `state_dict()`. The generator's state is `torch.get_rng_state()`.""",
    shows="""A training that was stopped, saved and resumed from your dictionary ended with the same bits.""",
    idle="""Put in the state of the optimizer, of the scheduler and of the generator, under the names that the task
    gives.""",
)


@exercise.start
def checkpoint(model, optimizer, scheduler, epoch):
    return {"epoch": epoch, "model": model.state_dict()}


@exercise.answer
def checkpoint(model, optimizer, scheduler, epoch):
    return {
        "epoch": epoch,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "rng": torch.get_rng_state(),
    }


def changed(changes):
    """The solution with entries replaced by what `changes(model, optimizer, scheduler)` gives; None takes one out."""

    def checkpoint(model, optimizer, scheduler, epoch):
        states = {name: one.state_dict() for name, one in [("model", model), ("optimizer", optimizer)]}
        states |= {"epoch": epoch, "scheduler": scheduler.state_dict(), "rng": torch.get_rng_state()}
        states |= changes(model, optimizer, scheduler)
        return {name: one for name, one in states.items() if one is not None}

    return checkpoint


exercise.mistake(
    """The optimizer's state is missing. Adam starts with empty averages then, and the next steps are other steps."""
)(changed(lambda *_: {"optimizer": None}))
exercise.mistake(
    """The scheduler's state is missing. A new one counts from 0, and the learning rate is soon a wrong one."""
)(changed(lambda *_: {"scheduler": None}))
exercise.mistake(
    """The random number generator is missing, so dropout draws other numbers after a resume. Store
    `torch.get_rng_state()` under `rng`."""
)(changed(lambda *_: {"rng": None}))
exercise.mistake(
    """Under `rng` stands a seed, which says where the generator started, not where it is now. After a resume it would
    repeat its first numbers: store `torch.get_rng_state()`."""
)(changed(lambda *_: {"rng": torch.initial_seed()}))
exercise.mistake(
    """`param_groups` holds the settings, such as the learning rate, but not Adam's two averages for each weight. Store
    `optimizer.state_dict()`."""
)(changed(lambda model, optimizer, scheduler: {"optimizer": {"param_groups": optimizer.state_dict()["param_groups"]}}))
exercise.mistake(
    """The optimizer itself is in your dictionary, and the safe reader refuses it. Store `optimizer.state_dict()`."""
)(changed(lambda model, optimizer, scheduler: {"optimizer": optimizer}))
exercise.mistake(
    """The scheduler itself is in your dictionary, and the safe reader refuses it. Store `scheduler.state_dict()`."""
)(changed(lambda model, optimizer, scheduler: {"scheduler": scheduler}))
exercise.mistake(
    """Two whole objects are in your dictionary, and the safe reader refuses them. The optimizer and the scheduler have
    a `state_dict()` as the model has: store these."""
)(changed(lambda model, optimizer, scheduler: {"optimizer": optimizer, "scheduler": scheduler}))
exercise.mistake(
    """What stands under `rng` is refused by the safe reader: an object, not a plain value. `torch.get_rng_state()`
    (with its brackets) gives a tensor, and that is accepted."""
)(changed(lambda *_: {"rng": torch.get_rng_state}))
exercise.mistake(
    """This is the state of Python's generator. PyTorch has its own, and dropout draws from that one: store
    `torch.get_rng_state()`."""
)(changed(lambda *_: {"rng": random.getstate()}))
exercise.mistake(
    """This is the state of a new generator, not of the one that the training uses. `torch.get_rng_state()` gives the
    state that the global generator has now."""
)(changed(lambda *_: {"rng": torch.Generator().get_state()}))
exercise.mistake(
    """A list of numbers can be stored, and `torch.set_rng_state` does not take it back. Leave the state as the tensor
    that it is."""
)(changed(lambda *_: {"rng": torch.get_rng_state().tolist()}))
exercise.mistake(
    """The learning rate of this moment is not the scheduler's state: it does not say how far the schedule has come.
    Store `scheduler.state_dict()`."""
)(changed(lambda model, optimizer, scheduler: {"scheduler": scheduler.get_last_lr()}))


@exercise.mistake("""Two parts are missing: the scheduler's state, and that of the random number generator.""")
def checkpoint(model, optimizer, scheduler, epoch):
    return {"epoch": epoch, "model": model.state_dict(), "optimizer": optimizer.state_dict()}


@exercise.mistake(
    """Under `epoch` stands the next epoch. Store the number that you were given, the last one that is done: whoever
    resumes adds the one."""
)
def checkpoint(model, optimizer, scheduler, epoch):
    return changed(lambda *_: {"epoch": epoch + 1})(model, optimizer, scheduler, epoch)


exercise.mistake(
    """There are whole objects in your dictionary, and the safe reader refuses them. Store the `state_dict()` of the
    model, of the optimizer and of the scheduler."""
)(changed(lambda model, optimizer, scheduler: {"model": model, "optimizer": optimizer, "scheduler": scheduler}))


def parts(seed=1):
    model = seeded(Net, seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    return model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.1)


def go_on(model, optimizer, scheduler, epochs):
    for epoch in epochs:
        train_step(model, optimizer, seed=epoch)
        scheduler.step()
    return tensors(model)


def saved_after_three(checkpoint):
    """The dictionary after three epochs, through a file, and the weights of the training that goes on to five."""
    torch.manual_seed(3)
    straight = parts()
    go_on(*straight, range(3))
    torch.save(checkpoint(*straight, 3), "checkpoint.pt")
    end = go_on(*straight, range(3, 5))
    return torch.load("checkpoint.pt", weights_only=True), end


@exercise.mistake(
    """`rng_state()` collects the generators of Python, NumPy and PyTorch, and that is good for your own project. The
    task asks for PyTorch's alone under `rng`, because `torch.set_rng_state` will get it: `torch.get_rng_state()`."""
)
def checkpoint(model, optimizer, scheduler, epoch):
    return {
        "epoch": epoch,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "scheduler": scheduler.state_dict(),
        "rng": rng_state(),
    }


@exercise.mistake(
    """`param_groups` are only the settings of the optimizer: its momentum stands elsewhere. Store
    `optimizer.state_dict()`, which holds both."""
)
def checkpoint(model, optimizer, scheduler, epoch):
    return {
        "epoch": epoch,
        "model": model.state_dict(),
        "optimizer": optimizer.param_groups,
        "scheduler": scheduler.state_dict(),
        "rng": torch.get_rng_state(),
    }


@exercise.probe("the names in the dictionary")
def _(checkpoint):
    return sorted(checkpoint(*parts(), 3))


@exercise.probe("the entries that the safe reader refuses")
def _(checkpoint):
    refused = []
    for name, part in checkpoint(*parts(), 3).items():
        torch.save(part, "part.pt")
        try:
            torch.load("part.pt", weights_only=True)
        except pickle.UnpicklingError:
            refused.append(name)
    return sorted(refused)


@exercise.probe("what each part holds once it is loaded")
def _(checkpoint):
    state, _ = saved_after_three(checkpoint)
    optimizer, scheduler = state.get("optimizer", {}), state.get("scheduler", {})
    kinds = {
        "optimizer": sorted(optimizer) if isinstance(optimizer, dict) else type(optimizer).__name__,
        "scheduler": scheduler.get("last_epoch") if isinstance(scheduler, dict) else type(scheduler).__name__,
    }
    return kinds | {"rng": type(state.get("rng")).__name__, "epoch": state["epoch"]}


@exercise.probe("the weights of a resumed training, compared with one that never stopped")
def _(checkpoint):
    state, end = saved_after_three(checkpoint)
    model, optimizer, scheduler = parts(seed=2)
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    scheduler.load_state_dict(state["scheduler"])
    torch.set_rng_state(state["rng"])
    resumed = go_on(model, optimizer, scheduler, range(state["epoch"], 5))
    return f"{sum(not same_bits(one, end[name]) for name, one in resumed.items())} of {len(end)} tensors differ"


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "03.2",
    "Everything in the right order",
    section="The scheduler",
    task="""Write `resume(checkpoint, model, optimizer)`: it builds the scheduler
    `LinearLR(optimizer, start_factor=0.1, total_iters=8)`, loads model, optimizer and scheduler from the checkpoint
    (keys `model`, `optimizer`, `scheduler`), puts the generator back (`rng`), and returns the scheduler and the number
    of the next epoch. The checkpoint holds the number of the last epoch that is done, `epoch`.""",
    hint="""This scheduler sets the learning rate at the moment it is built. Build first, load after. The generator
    comes last: `torch.set_rng_state(…)`.""",
    shows="""The learning rate is the saved one, now and at the next step, and the epochs go on with the right
    number.""",
    idle="""Load what is in the checkpoint: model, optimizer, scheduler, and the generator.""",
)


@exercise.start
def resume(checkpoint, model, optimizer):
    scheduler = LinearLR(optimizer, start_factor=0.1, total_iters=8)
    return scheduler, 1


@exercise.answer
def resume(checkpoint, model, optimizer):
    scheduler = LinearLR(optimizer, start_factor=0.1, total_iters=8)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    scheduler.load_state_dict(checkpoint["scheduler"])
    torch.set_rng_state(checkpoint["rng"])
    return scheduler, checkpoint["epoch"] + 1


def resuming(order, first=1):
    """A resume that does what `order` names, in that order."""

    def resume(checkpoint, model, optimizer):
        made = {"model": model, "optimizer": optimizer}
        for step in order.split():
            if step == "build":
                made["scheduler"] = LinearLR(optimizer, start_factor=0.1, total_iters=8)
            elif step == "rng":
                torch.set_rng_state(checkpoint["rng"])
            else:
                made[step].load_state_dict(checkpoint[step])
        return made["scheduler"], checkpoint["epoch"] + first

    return resume


exercise.mistake(
    """The learning rate is wrong: the scheduler was built after the optimizer was loaded, and while it is built it sets
    the rate of a first epoch. Build all three first, load after."""
)(resuming("model optimizer build scheduler rng"))
exercise.mistake(
    """The scheduler counts from 0 again, because its state was not loaded: now the rate is right, at the next step
    it is not. Load `checkpoint["scheduler"]`."""
)(resuming("build model optimizer rng"))
exercise.mistake(
    """The optimizer is a new one: its momentum is lost, and the learning rate is that of a first epoch. Load
    `checkpoint["optimizer"]`."""
)(resuming("build model scheduler rng"))
exercise.mistake("""The model still has its own weights. Load `checkpoint["model"]` into it.""")(
    resuming("build optimizer scheduler rng")
)
exercise.mistake(
    """The random numbers go on elsewhere: the generator was not put back. Call `torch.set_rng_state(…)` at the end."""
)(resuming("build model optimizer scheduler"))
exercise.mistake(
    """The last epoch would be trained twice: `epoch` in the checkpoint is done, so the next one is `epoch + 1`."""
)(resuming("build model optimizer scheduler rng", first=0))


def half_way():
    """A checkpoint after epoch 3, by SGD with momentum and a `LinearLR`."""
    model = seeded(Net)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler = LinearLR(optimizer, start_factor=0.1, total_iters=8)
    go_on(model, optimizer, scheduler, range(3))
    state = {"epoch": 3, "model": model, "optimizer": optimizer, "scheduler": scheduler}
    state = {name: one if name == "epoch" else copy.deepcopy(one.state_dict()) for name, one in state.items()}
    torch.manual_seed(5)
    return state | {"rng": torch.get_rng_state()}


def resumed(resume):
    state = half_way()
    torch.manual_seed(0)
    model = seeded(Net, 2)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    scheduler, epoch = resume(state, model, optimizer)
    return state, model, optimizer, scheduler, epoch


LATE = """The scheduler was built after the optimizer was loaded, and set the rate of a first epoch: build first."""
TWICE = "And `epoch` in the checkpoint is done, so the next one is `epoch + 1`."
ELSEWHERE = "And the generator was not put back: `torch.set_rng_state(…)`."
exercise.mistake(f"Two faults. {LATE} {TWICE}")(resuming("model optimizer build scheduler rng", first=0))
exercise.mistake(f"Two faults. {LATE} {ELSEWHERE}")(resuming("model optimizer build scheduler"))
exercise.mistake(f"Three faults. {LATE} {TWICE} {ELSEWHERE}")(resuming("model optimizer build scheduler", first=0))
exercise.mistake(f"Two faults. {LATE} And its state was not loaded.")(resuming("model optimizer build rng"))
exercise.mistake(f"Three faults. {LATE} Its state was not loaded. {ELSEWHERE}")(resuming("model optimizer build"))
exercise.mistake(
    """Two faults. The last epoch would be trained twice: the next one is `epoch + 1`. And the generator was not put
    back: `torch.set_rng_state(…)`."""
)(resuming("build model optimizer scheduler", first=0))
exercise.mistake(
    """Two things are not loaded yet: the scheduler, so the rate is wrong from the next step on, and the generator,
    `torch.set_rng_state(…)`."""
)(resuming("build model optimizer"))


@exercise.mistake(
    """Everything is loaded, and you return 1: the training would begin again with its first epoch. The next one is
    `checkpoint["epoch"] + 1`."""
)
def resume(checkpoint, model, optimizer):
    return resuming("build model optimizer scheduler rng")(checkpoint, model, optimizer)[0], 1


@exercise.mistake("""The two are exchanged: return the scheduler first, then the number of the next epoch.""")
def resume(checkpoint, model, optimizer):
    return resuming("build model optimizer scheduler rng")(checkpoint, model, optimizer)[::-1]


@exercise.mistake(
    """`checkpoint["scheduler"]` is a dictionary, not a scheduler. Build one, and load the dictionary into it:
    `scheduler.load_state_dict(…)`."""
)
def resume(checkpoint, model, optimizer):
    resuming("build model optimizer scheduler rng")(checkpoint, model, optimizer)
    return checkpoint["scheduler"], checkpoint["epoch"] + 1


@exercise.mistake("""The scheduler comes back alone. Return two things, the scheduler and the number of the next
epoch.""")
def resume(checkpoint, model, optimizer):
    scheduler = LinearLR(optimizer, start_factor=0.1, total_iters=8)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    scheduler.load_state_dict(checkpoint["scheduler"])
    torch.set_rng_state(checkpoint["rng"])
    return scheduler


@exercise.mistake(
    """The scheduler has made one step too many. The checkpoint was written after the step of its epoch: load, and do
    not call `scheduler.step()` here."""
)
def resume(checkpoint, model, optimizer):
    scheduler = LinearLR(optimizer, start_factor=0.1, total_iters=8)
    model.load_state_dict(checkpoint["model"])
    optimizer.load_state_dict(checkpoint["optimizer"])
    scheduler.load_state_dict(checkpoint["scheduler"])
    torch.set_rng_state(checkpoint["rng"])
    scheduler.step()
    return scheduler, checkpoint["epoch"] + 1


@exercise.probe("the learning rate after the resume, and after two more steps of the scheduler")
def _(resume):
    _, model, optimizer, scheduler, _ = resumed(resume)
    rates = [optimizer.param_groups[0]["lr"]]
    for _ in range(2):
        optimizer.step()
        scheduler.step()
        rates.append(optimizer.param_groups[0]["lr"])
    return rates


@exercise.probe("the number of the next epoch")
def _(resume):
    return resumed(resume)[4]


@exercise.probe("the tensors of the model that are those of the checkpoint, of 16")
def _(resume):
    state, model, *_ = resumed(resume)
    return sum(same_bits(one, state["model"][name]) for name, one in model.state_dict().items())


@exercise.probe("the parameters that have a momentum")
def _(resume):
    return len(resumed(resume)[2].state)


@exercise.probe("the next random numbers")
def _(resume):
    resumed(resume)
    return torch.randint(100, (4,))


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "03.3",
    "An order that a resume finds again",
    section="The data order",
    task="""Write `remaining(count, batch_size, seed, epoch, done)`: the indices of the images that are still to come in
    this epoch, in their order, when `done` batches are done. The order is random, another one in each epoch and for
    each seed (0, 1, 2, …), the same whenever it is asked for, and the global random generator stays as it is.""",
    hint="""`torch.randperm(count, generator=…)` with a `torch.Generator` of your own, whose seed you compute from
    `seed` and `epoch`. Then leave out what is done.""",
    shows="""Every epoch has its own order, and a resume in the middle finds exactly the images that are left.""",
    idle="""Draw an order with a generator of your own, and return the part that is left.""",
)


@exercise.start
def remaining(count, batch_size, seed, epoch, done):
    return list(range(count))


@exercise.answer
def remaining(count, batch_size, seed, epoch, done):
    generator = torch.Generator().manual_seed(1000 * seed + epoch)
    order = torch.randperm(count, generator=generator)
    return order[done * batch_size :].tolist()


def ordered(seed_of, skip=lambda done, batch_size: done * batch_size):
    def remaining(count, batch_size, seed, epoch, done):
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed_of(seed, epoch)))
        return order[skip(done, batch_size) :].tolist()

    return remaining


exercise.mistake(
    """Every epoch has the same order: the epoch takes no part in the seed. Compute the seed from both, such as
    `1000 * seed + epoch`."""
)(ordered(lambda seed, epoch: seed))
exercise.mistake(
    """Two trainings with other seeds see the same order: `seed` takes no part. Compute the generator's seed from both,
    such as `1000 * seed + epoch`."""
)(ordered(lambda seed, epoch: epoch))
exercise.mistake(
    """All images are still in it: `done` batches are behind you. Leave out the first `done * batch_size` indices."""
)(ordered(lambda seed, epoch: 1000 * seed + epoch, skip=lambda done, batch_size: 0))
exercise.mistake(
    """`done` counts batches, and you left out that many images. Leave out the first `done * batch_size` indices."""
)(ordered(lambda seed, epoch: 1000 * seed + epoch, skip=lambda done, batch_size: done))


@exercise.mistake(
    """The order is right, but you have seeded the *global* generator, so dropout and augmentation repeat their numbers
    in each epoch. Use a `torch.Generator` of your own."""
)
def remaining(count, batch_size, seed, epoch, done):
    torch.manual_seed(1000 * seed + epoch)
    return torch.randperm(count)[done * batch_size :].tolist()


@exercise.mistake(
    """Asked twice, the same epoch has two orders: nothing is seeded, so a resume sees some images twice and others not
    at all. Seed a `torch.Generator` from `seed` and `epoch`."""
)
def remaining(count, batch_size, seed, epoch, done):
    return torch.randperm(count)[done * batch_size :].tolist()


@exercise.mistake(
    """You shuffled only what is left, as if the first images of the list were done. Draw the order of the whole epoch
    again, then leave out its beginning."""
)
def remaining(count, batch_size, seed, epoch, done):
    generator = torch.Generator().manual_seed(1000 * seed + epoch)
    return (torch.randperm(count - done * batch_size, generator=generator) + done * batch_size).tolist()


@exercise.mistake("""Nothing is shuffled: the images come as they lie on the disk. Draw a `torch.randperm`.""")
def remaining(count, batch_size, seed, epoch, done):
    return list(range(done * batch_size, count))


def numbers(order):
    order = list(order)
    return ["lists"] if isinstance(order[0], list | tuple) else [int(index) for index in order]


@exercise.mistake(
    """Two faults. Every epoch has the same order, because the epoch takes no part in the seed. And you have seeded the
    *global* generator: use a `torch.Generator` of your own."""
)
def remaining(count, batch_size, seed, epoch, done):
    torch.manual_seed(seed)
    return torch.randperm(count)[done * batch_size :].tolist()


@exercise.mistake("""These are the images that are done. Leave them out, and return the others, `order[n:]`.""")
def remaining(count, batch_size, seed, epoch, done):
    return ordered(lambda seed, epoch: 1000 * seed + epoch)(count, batch_size, seed, epoch, 0)[: done * batch_size]


@exercise.mistake("""This is the next batch alone. The task asks for all images that are still to come.""")
def remaining(count, batch_size, seed, epoch, done):
    return ordered(lambda seed, epoch: 1000 * seed + epoch)(count, batch_size, seed, epoch, done)[:batch_size]


exercise.mistake(
    """With the seed 0, every epoch has the same order: 0 times the epoch is 0. Add the epoch to a multiple of the seed,
    such as `1000 * seed + epoch`."""
)(ordered(lambda seed, epoch: seed * epoch))
exercise.mistake(
    """Seed 1 in epoch 2 and seed 2 in epoch 1 have one order, because their sums are equal: two trainings with
    neighbouring seeds see the same orders, one epoch apart. Keep the two apart, such as `1000 * seed + epoch`."""
)(ordered(lambda seed, epoch: seed + epoch))


@exercise.mistake(
    """Every epoch has the same order: a new `torch.Generator()` always starts with the same seed. Give it one of your
    own, `.manual_seed(1000 * seed + epoch)`."""
)
def remaining(count, batch_size, seed, epoch, done):
    return torch.randperm(count, generator=torch.Generator())[done * batch_size :].tolist()


@exercise.mistake("""These are batches, lists in a list. The task asks for the indices one after the other, in one
list.""")
def remaining(count, batch_size, seed, epoch, done):
    order = torch.randperm(count, generator=torch.Generator().manual_seed(1000 * seed + epoch))
    return [part.tolist() for part in order.split(batch_size)[done:]]


@exercise.probe("the order of a whole epoch")
def _(remaining):
    order = numbers(remaining(40, 4, 1, 3, 0))
    return {"each image once": sorted(order) == list(range(40)), "shuffled": order != sorted(order)}


@exercise.probe("the same epoch, asked for twice")
def _(remaining):
    return "one order" if numbers(remaining(40, 4, 1, 3, 0)) == numbers(remaining(40, 4, 1, 3, 0)) else "two orders"


@exercise.probe("the orders of five epochs")
def _(remaining):
    return f"{len({tuple(numbers(remaining(40, 4, 1, epoch, 0))) for epoch in range(5)})} different ones"


@exercise.probe("the orders of five seeds")
def _(remaining):
    return f"{len({tuple(numbers(remaining(40, 4, seed, 3, 0))) for seed in range(5)})} different ones"


@exercise.probe("how many images are left of 40, after three batches of 4")
def _(remaining):
    return len(remaining(40, 4, 1, 3, 3))


@exercise.probe("what is left after three batches")
def _(remaining):
    rest = numbers(remaining(40, 4, 1, 3, 3))
    return (
        "the end of the epoch's order" if rest == numbers(remaining(40, 4, 1, 3, 0))[-len(rest) :] else "other images"
    )


@exercise.probe("the global random generator")
def _(remaining):
    def states():
        return [torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist()]

    before = states()
    remaining(40, 4, 1, 3, 0)
    return "as it was" if states() == before else "changed"


@exercise.probe("the orders of three epochs with the seed 0")
def _(remaining):
    return f"{len({tuple(numbers(remaining(40, 4, 0, epoch, 0))) for epoch in range(1, 4)})} different ones"


@exercise.probe("the orders of the epochs 1 to 4, each with the seeds 1 to 4")
def _(remaining):
    orders = {tuple(numbers(remaining(40, 4, seed, epoch, 0))) for seed in range(1, 5) for epoch in range(1, 5)}
    return f"{len(orders)} different ones"


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "03.4",
    "Early stopping that survives a resume",
    section="The counters of early stopping",
    task="""A counter in a variable is lost when the training stops; the list of the losses is in the checkpoint. Write
    `should_stop(losses, patience)`: true when the validation loss was not lower than the best one in the last
    `patience` epochs. An equal loss is no improvement.""",
    hint="""`losses.index(min(losses))` is the place of the best epoch. How many epochs came after it?""",
    shows="""The patience counts from the best epoch on, and needs nothing but the losses.""",
    idle="""Return true or false.""",
)


@exercise.start
def should_stop(losses, patience):
    return ...


@exercise.answer
def should_stop(losses, patience):
    waited = len(losses) - 1 - losses.index(min(losses))
    return waited >= patience


@exercise.mistake(
    """It stops one epoch too late: with patience 3, the third epoch without improvement is the last. Compare with `>=`,
    and count the epochs *after* the best."""
)
def should_stop(losses, patience):
    return len(losses) - 1 - losses.index(min(losses)) > patience


@exercise.mistake(
    """It stops one epoch too early: the best epoch itself does not count as waiting. Count the epochs after it,
    `len(losses) - 1 - place`."""
)
def should_stop(losses, patience):
    return len(losses) - losses.index(min(losses)) >= patience


@exercise.mistake(
    """You compare each epoch with the one before. A loss that goes up and down around a bad value would never stop the
    training: compare with the best so far."""
)
def should_stop(losses, patience):
    last = losses[-patience - 1 :]
    return len(last) > patience and all(one >= before for before, one in zip(last, last[1:]))


@exercise.mistake(
    """You count all epochs without improvement, since the beginning. After a new best the waiting starts again: count
    the epochs after the best one."""
)
def should_stop(losses, patience):
    waited = sum(loss >= min(losses[:place]) for place, loss in enumerate(losses) if place)
    return waited >= patience


@exercise.mistake(
    """An equal loss counts as an improvement in your code, so a training that stands still goes on. Take the *first*
    epoch with the lowest loss."""
)
def should_stop(losses, patience):
    return losses[::-1].index(min(losses)) >= patience


@exercise.mistake("""You look for the highest value. That fits an accuracy; a loss is best when it is lowest: `min`.""")
def should_stop(losses, patience):
    return len(losses) - 1 - losses.index(max(losses)) >= patience


def stops(should_stop, losses, patience=3):
    """The epoch after which it stops."""
    return next((n for n in range(1, len(losses) + 1) if should_stop(losses[:n], patience)), "never")


@exercise.mistake(
    """It is the other way round: you say true as long as the training should go on. Stop when `patience` epochs, or
    more, have passed since the best."""
)
def should_stop(losses, patience):
    return len(losses) - 1 - losses.index(min(losses)) < patience


@exercise.mistake("""You count epochs, whatever their losses are. Count those after the best one.""")
def should_stop(losses, patience):
    return len(losses) >= patience


@exercise.mistake(
    """It stops at the first epoch that is worse than the best, without any patience. Count how many epochs came after
    the best one."""
)
def should_stop(losses, patience):
    return losses[-1] > min(losses)


@exercise.mistake(
    """At the beginning there are fewer losses than `patience` asks for, and one of your two slices is empty. Ask for
    the length first, or count the epochs after the best one."""
)
def should_stop(losses, patience):
    return min(losses[-patience:]) >= min(losses[:-patience])


@exercise.mistake(
    """It is true in the one epoch in which the patience runs out, and false after it. A training that is resumed with a
    smaller patience may be past that epoch, and would never stop: compare with `>=`."""
)
def should_stop(losses, patience):
    return len(losses) - 1 - losses.index(min(losses)) == patience


@exercise.mistake(
    """You say true because it should have stopped once, long ago. A later epoch was better after all: only the epochs
    after the best one count, so end the count first, then compare."""
)
def should_stop(losses, patience):
    return any(place - losses.index(min(losses[: place + 1])) >= patience for place in range(len(losses)))


@exercise.mistake(
    """This is how many epochs it has waited, and any number but 0 counts as true. Compare it with `patience`."""
)
def should_stop(losses, patience):
    return len(losses) - 1 - losses.index(min(losses))


@exercise.mistake(
    """Your answer always counts as true, so it stops after the first epoch: a text that is not empty is true, also
    "no". Return the comparison itself, True or False."""
)
def should_stop(losses, patience):
    return "stop" if len(losses) - 1 - losses.index(min(losses)) >= patience else "go on"


@exercise.probe("the answer after the first epoch")
def _(should_stop):
    answer = should_stop([0.5], 3)
    return "not written yet" if answer is ... else bool(answer)


@exercise.probe("the last epoch for the losses 0.7, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6 and patience 3")
def _(should_stop):
    return stops(should_stop, [0.7, 0.5, 0.6, 0.6, 0.6, 0.6, 0.6])


@exercise.probe("the last epoch for the losses 0.5, 0.7, 0.6, 0.7, 0.6, 0.7, 0.6 and patience 3")
def _(should_stop):
    return stops(should_stop, [0.5, 0.7, 0.6, 0.7, 0.6, 0.7, 0.6])


@exercise.probe("the last epoch for the losses 0.9, 1.0, 1.0, 0.8, 0.85, 0.7, 0.75, 0.6, 0.5 and patience 3")
def _(should_stop):
    return stops(should_stop, [0.9, 1.0, 1.0, 0.8, 0.85, 0.7, 0.75, 0.6, 0.5])


@exercise.probe("the last epoch for the losses 0.5, 0.5, 0.5, 0.5, 0.5 and patience 2")
def _(should_stop):
    return stops(should_stop, [0.5, 0.5, 0.5, 0.5, 0.5], 2)


@exercise.probe("the answer for the losses 0.5, 0.6, 0.6, 0.6, 0.6, 0.6 and patience 3")
def _(should_stop):
    return bool(should_stop([0.5, 0.6, 0.6, 0.6, 0.6, 0.6], 3))


@exercise.probe("the answer for the losses 0.5, 0.6, 0.6, 0.6, 0.4 and patience 3")
def _(should_stop):
    return bool(should_stop([0.5, 0.6, 0.6, 0.6, 0.4], 3))


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "03.5",
    "Four small batches, one step",
    section="Steps instead of epochs",
    task="""32 images do not fit into memory, four batches of 8 do. Write `step(model, optimizer, batches)`: one step of
    the optimizer that moves the weights exactly as one batch of all these images would. `batches` is a list of pairs
    (x, y) of equal size, the loss is `F.cross_entropy`. Old gradients may still be there.""",
    hint="""`backward()` adds to the gradients. The mean over all images is the mean of the four means: divide each loss
    by the number of batches.""",
    shows="""Your four batches moved the weights as one large batch does.""",
    idle="""The weights have not moved, and the gradients only add up: where is the step?""",
)


@exercise.start
def step(model, optimizer, batches):
    for x, y in batches:
        F.cross_entropy(model(x), y).backward()


@exercise.answer
def step(model, optimizer, batches):
    optimizer.zero_grad()
    for x, y in batches:
        loss = F.cross_entropy(model(x), y) / len(batches)
        loss.backward()
    optimizer.step()


def stepping(divide, zero="before", each=False):
    def step(model, optimizer, batches):
        if zero == "before":
            optimizer.zero_grad()
        for x, y in batches:
            if zero == "each":
                optimizer.zero_grad()
            (F.cross_entropy(model(x), y) / divide(batches)).backward()
            if each:
                optimizer.step()
        if not each:
            optimizer.step()

    return step


exercise.mistake(
    """The step is four times too long: the gradients of the batches add up. Divide each loss by `len(batches)`."""
)(stepping(lambda batches: 1))
exercise.mistake(
    """Only the last batch moved the weights: `zero_grad()` in the loop throws away what the others gave, and
    `backward()` after the loop sees the last loss only. One `zero_grad()` before the loop, a `backward()` for each
    batch."""
)(stepping(len, zero="each"))
exercise.mistake(
    """The optimizer made a step after each batch, with weights that were no longer the same. Call `optimizer.step()`
    once, after the loop."""
)(stepping(len, each=True))
exercise.mistake(
    """These are four steps of four batches, each on its own. The task asks for one: `zero_grad()` before the loop,
    `step()` after it, each loss divided by `len(batches)`."""
)(stepping(lambda batches: 1, zero="each", each=True))
exercise.mistake(
    """You divided by the number of images in a batch, which is in the mean already. Divide by the number of batches."""
)(stepping(lambda batches: len(batches[0][0])))
exercise.mistake("""The old gradients are still in it: nobody called `zero_grad()` before the first batch.""")(
    stepping(len, zero="never")
)


def large_step(step, count):
    """(the biases after `step` on `count` batches of 8, those after one large batch)."""
    x, y = batch(5, 8 * count)
    results = []
    for way in (step, None):
        model = seeded(lambda: nn.Linear(4, 2))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        model.weight.grad, model.bias.grad = torch.ones(2, 4), torch.ones(2)
        if way:
            way(model, optimizer, list(zip(x.split(8), y.split(8))))
        else:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        results.append(model.bias.detach())
    return results


exercise.mistake(
    """Two faults. The old gradients are still in it: call `zero_grad()` before the first batch. And the gradients of
    the batches add up: divide each loss by `len(batches)`."""
)(stepping(lambda batches: 1, zero="never"))
exercise.mistake(
    """Only the last batch moved the weights, by its whole gradient. Call `zero_grad()` once, before the loop,
    `backward()` in the loop, and divide each loss by `len(batches)`."""
)(stepping(lambda batches: 1, zero="each"))
exercise.mistake(
    """These are four short steps of four batches. The task asks for one: `zero_grad()` before the loop, `step()` after
    it."""
)(stepping(len, zero="each", each=True))
exercise.mistake(
    """It fits four batches only. How many there are is `len(batches)`: divide by that, not by a typed number."""
)(stepping(lambda batches: 4))


@exercise.mistake(
    """The gradients are right, and no weight has moved: `optimizer.step()` is missing. Call it once, after the loop."""
)
def step(model, optimizer, batches):
    optimizer.zero_grad()
    for x, y in batches:
        (F.cross_entropy(model(x), y) / len(batches)).backward()


@exercise.mistake(
    """You added up the losses of the images, not their means. Divide by the number of all images, or take means and
    divide by the number of batches."""
)
def step(model, optimizer, batches):
    optimizer.zero_grad()
    for x, y in batches:
        F.cross_entropy(model(x), y, reduction="sum").backward()
    optimizer.step()


@exercise.mistake(
    """You divided twice, so the step is too short: the losses, and then the gradients as well. Once is enough."""
)
def step(model, optimizer, batches):
    optimizer.zero_grad()
    for x, y in batches:
        (F.cross_entropy(model(x), y) / len(batches) ** 2).backward()
    optimizer.step()


@exercise.mistake(
    """`zero_grad()` between the last `backward()` and `step()` throws all gradients away, and no weight moves. Call it
    at the start."""
)
def step(model, optimizer, batches):
    for x, y in batches:
        (F.cross_entropy(model(x), y) / len(batches)).backward()
    optimizer.zero_grad()
    optimizer.step()


@exercise.probe("the two biases after a step of four batches of 8")
def _(step):
    return large_step(step, 4)[0]


@exercise.probe("the gradients, if no step was made")
def _(step):
    model = seeded(lambda: nn.Linear(4, 2))
    optimizer, then = torch.optim.SGD(model.parameters(), lr=0.5), tensors(model)
    x, y = batch(5, 16)
    step(model, optimizer, list(zip(x.split(8), y.split(8))))
    return "a step was made" if moved(model, then) else model.bias.grad


@exercise.probe("how far they are from those of one batch of 24, after three batches of 8")
def _(step):
    ours, large = large_step(step, 3)
    return (ours - large).abs().max()


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "03.6",
    "Ship what you measured",
    section="Which weights were measured, and which are shipped?",
    task="""The best epoch was chosen by the loss of the average (EMA), an `AveragedModel` around your model. Write
    `shipped(model, average)`: the weights to give away, as a dictionary that a plain `Net()` loads without a complaint.
    They must be the weights that were measured.""",
    hint="""An `AveragedModel` holds its averaged copy of your model in `average.module`.""",
    shows="""A plain model loads your file and answers as the average that was measured.""",
    idle="""Return the weights, as a dictionary.""",
)


@exercise.start
def shipped(model, average):
    return ...


@exercise.answer
def shipped(model, average):
    return average.module.state_dict()


@exercise.answer
def shipped(model, average):
    names = [name for name in average.state_dict() if name.startswith("module.")]
    return {name.removeprefix("module."): average.state_dict()[name] for name in names}


@exercise.mistake(
    """These are the weights of the model, and the loss was that of the average: you would ship what nobody measured.
    Take them from `average`."""
)
def shipped(model, average):
    return model.state_dict()


@exercise.mistake(
    """The names begin with `module.`, and a counter is among them: this is the wrapper's `state_dict`. Take that of
    `average.module`."""
)
def shipped(model, average):
    return average.state_dict()


@exercise.mistake(
    """The prefix is off, but the wrapper's counter `n_averaged` is still in it, and no plain model knows that name.
    Take `average.module.state_dict()`."""
)
def shipped(model, average):
    return {name.removeprefix("module."): one for name, one in average.state_dict().items()}


@exercise.mistake(
    """The averaged parameters are there, the averaged buffers are not. Take the whole `average.module.state_dict()`."""
)
def shipped(model, average):
    return {name: one.detach() for name, one in average.module.named_parameters()}


@exercise.mistake("""This is a model. The task asks for its weights: `average.module.state_dict()`.""")
def shipped(model, average):
    return average.module


@exercise.mistake(
    """You mixed two models: one part comes from the average, the other from the model. What was measured had all of it,
    parameters and BatchNorm statistics, from the average."""
)
def shipped(model, average):
    own = {name: one.detach() for name, one in average.module.named_parameters()}
    return {**model.state_dict(), **own}


def averaged():
    model = net(steps=0)
    average = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.8), use_buffers=True)
    for number in range(4):
        train_step(model, seed=number)
        average.update_parameters(model)
    return model, average


@exercise.mistake(
    """This is the wrapper itself, a model around a model. The task asks for weights: `average.module.state_dict()`."""
)
def shipped(model, average):
    return average


@exercise.mistake("""You returned the method, not what it gives: the brackets are missing, `state_dict()`.""")
def shipped(model, average):
    return average.module.state_dict


@exercise.mistake(
    """The weights are the right ones, but you loaded them into `model`, and its own are lost. Whoever goes on with the
    training needs both: take `average.module.state_dict()`, and leave the model alone."""
)
def shipped(model, average):
    model.load_state_dict(average.module.state_dict())
    return model.state_dict()


@exercise.mistake(
    """This is a checkpoint to go on from, with two models in it. To give away, the weights that were measured are
    enough: `average.module.state_dict()`."""
)
def shipped(model, average):
    return {"model": model.state_dict(), "average": average.state_dict()}


@exercise.mistake(
    """The plain model has no `module`: the wrapper is `average`, and the averaged copy is in `average.module`."""
)
def shipped(model, average):
    return model.module.state_dict()


@exercise.probe("the names that a plain `Net()` misses in it, and those that it does not know")
def _(shipped):
    given = shipped(*averaged())
    if isinstance(given, nn.Module) or callable(given):
        return (
            "a wrapper"
            if isinstance(given, AveragedModel)
            else "a model"
            if isinstance(given, nn.Module)
            else "a method"
        )
    own = Net().state_dict().keys()
    return {"missing": sorted(own - given.keys()), "unknown": sorted(given.keys() - own)}


@exercise.probe("a plain model with these weights")
def _(shipped):
    model, average = averaged()
    plain = Net()
    plain.load_state_dict(shipped(model, average), strict=False)
    got = answers(plain)
    if torch.equal(got, answers(average.module)):
        return "answers as the average"
    return "answers as the model" if torch.equal(got, answers(model)) else "answers as neither of them"


@exercise.probe("the tensors of `model` and of `average` that changed")
def _(shipped):
    model, average = averaged()
    then, averages = tensors(model), tensors(average)
    shipped(model, average)
    return len(moved(model, then)) + len(moved(average, averages))


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "03.7",
    "Repair: a resume that forgets",
    section="An exact resume by hand",
    task="""This training can go on from a checkpoint of its own: it loads model and optimizer, and no error comes. But
    three things that it knew before the stop are forgotten. Repair what stands between `if checkpoint:` and the
    loop, so that stopping after any epoch changes nothing.""",
    hint="""What is in the dictionary that it returns, and which of that does it read again?""",
    shows="""Stopped after any epoch, your training repeats no epoch, loses no loss, and keeps the true best.""",
    idle="""What the checkpoint holds is in the `return` at the end: which of it is not read again?""",
)


@exercise.start
def train(model, optimizer, train_epoch, evaluate, epochs, checkpoint=None):
    first, history, best = 1, [], None
    if checkpoint:
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
    for epoch in range(first, epochs + 1):
        train_epoch(model, optimizer, epoch)
        history.append(evaluate(model))
        if history[-1] == min(history):
            best = copy.deepcopy(model.state_dict())
    return {
        "epoch": epochs,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": history,
        "best": best,
    }


@exercise.answer
def train(model, optimizer, train_epoch, evaluate, epochs, checkpoint=None):
    first, history, best = 1, [], None
    if checkpoint:
        model.load_state_dict(checkpoint["model"])
        optimizer.load_state_dict(checkpoint["optimizer"])
        first, history, best = checkpoint["epoch"] + 1, list(checkpoint["history"]), checkpoint["best"]
    for epoch in range(first, epochs + 1):
        train_epoch(model, optimizer, epoch)
        history.append(evaluate(model))
        if history[-1] == min(history):
            best = copy.deepcopy(model.state_dict())
    return {
        "epoch": epochs,
        "model": model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": history,
        "best": best,
    }


def forgetting(start, losses, kept):
    """The training with some of its three faults left in."""

    def train(model, optimizer, train_epoch, evaluate, epochs, checkpoint=None):
        first, history, best = 1, [], None
        if checkpoint:
            model.load_state_dict(checkpoint["model"])
            optimizer.load_state_dict(checkpoint["optimizer"])
            first = 1 if start else checkpoint["epoch"] + 1
            history = [] if losses else list(checkpoint["history"])
            best = None if kept else checkpoint["best"]
        for epoch in range(first, epochs + 1):
            train_epoch(model, optimizer, epoch)
            history.append(evaluate(model))
            if history[-1] == min(history):
                best = copy.deepcopy(model.state_dict())
        states = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
        return {"epoch": epochs, **states, "history": history, "best": best}

    return train


START = 'It trains from epoch 1 again: start at `checkpoint["epoch"] + 1`.'
LOSSES = """The losses from before the stop are lost, so the first epoch after it counts as the best: go on with
`checkpoint["history"]`."""
KEPT = """The best weights from before the stop are lost, and when no later epoch is better, there are none: go on with
`checkpoint["best"]`."""
exercise.mistake(START)(forgetting(True, False, False))
exercise.mistake(LOSSES)(forgetting(False, True, False))
exercise.mistake(KEPT)(forgetting(False, False, True))
exercise.mistake(f"Two things are still forgotten. {START} And: {LOSSES}")(forgetting(True, True, False))
exercise.mistake(f"Two things are still forgotten. {START} And: {KEPT}")(forgetting(True, False, True))
exercise.mistake(f"Two things are still forgotten. {LOSSES} And: {KEPT}")(forgetting(False, True, True))
exercise.mistake(
    """It goes on with the last epoch that is done, and trains it twice: start at `checkpoint["epoch"] + 1`."""
)(
    lambda *args, **kwargs: (
        forgetting(False, False, False)(*args[:5], args[5] and {**args[5], "epoch": args[5]["epoch"] - 1}, **kwargs)
        if len(args) > 5
        else forgetting(False, False, False)(*args, **kwargs)
    )
)


def stopped_and_resumed(train, losses, stop, epochs):
    """(the epochs that were trained, what comes back, the epoch of the best weights)."""
    models, trained, states = [seeded(Net), seeded(Net, 2)], [], []

    def train_epoch(given, optimizer, epoch):
        trained.append(epoch)
        train_step(given, optimizer, seed=epoch)
        states.append(tensors(given))

    def evaluate(given):
        return losses[len(trained) - 1] if given in models else given.loss

    def one_life(model, *rest):
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        return train(model, optimizer, train_epoch, evaluate, *rest)

    end = one_life(models[1], epochs, copy.deepcopy(one_life(models[0], stop)))
    best = end["best"] if isinstance(end["best"], dict) else {}
    if end["best"] is not None and not best:
        return trained, end, type(end["best"]).__name__
    of_epoch = [n for n, state in zip(trained, states) if best and all(same_bits(best[k], v) for k, v in state.items())]
    return trained, end, of_epoch


LIST = [0.5, 0.2, 0.4, 0.3, 0.6, 0.7, 0.8]


@exercise.mistake(
    """You take the weights at the stop for the best ones, and they are those of the last epoch. Go on with
    `checkpoint["best"]`."""
)
def train(model, optimizer, train_epoch, evaluate, epochs, checkpoint=None):
    if checkpoint:
        checkpoint = {**checkpoint, "best": copy.deepcopy(checkpoint["model"])}
    return forgetting(False, False, False)(model, optimizer, train_epoch, evaluate, epochs, checkpoint)


@exercise.mistake(
    """You put the best weights into the model, and the training goes on from there, not from where it stopped. Keep
    them aside: `best = checkpoint["best"]`."""
)
def train(model, optimizer, train_epoch, evaluate, epochs, checkpoint=None):
    if checkpoint:
        checkpoint = {**checkpoint, "model": checkpoint["best"]}
    return forgetting(False, False, False)(model, optimizer, train_epoch, evaluate, epochs, checkpoint)


@exercise.mistake(
    """Two things are left. The last epoch that is done is trained twice: start at `checkpoint["epoch"] + 1`. And losses
    and best weights from before the stop are lost: they are in the checkpoint, too."""
)
def train(model, optimizer, train_epoch, evaluate, epochs, checkpoint=None):
    if checkpoint:
        checkpoint = {**checkpoint, "epoch": checkpoint["epoch"] - 1}
    return forgetting(False, True, True)(model, optimizer, train_epoch, evaluate, epochs, checkpoint)


def again(losses, kept):
    """The last epoch is trained twice, and some of the rest is forgotten."""

    def train(model, optimizer, train_epoch, evaluate, epochs, checkpoint=None):
        checkpoint = checkpoint and {**checkpoint, "epoch": checkpoint["epoch"] - 1}
        return forgetting(False, losses, kept)(model, optimizer, train_epoch, evaluate, epochs, checkpoint)

    return train


TWICE = 'The last epoch that is done is trained twice: start at `checkpoint["epoch"] + 1`.'
exercise.mistake(f"Two things are left. {TWICE} And: {LOSSES}")(again(True, False))
exercise.mistake(f"Two things are left. {TWICE} And: {KEPT}")(again(False, True))


@exercise.mistake(
    """`epochs` is the number of the last epoch, not how many are left: after the stop it counts from 1 again. Leave it,
    and start at `checkpoint["epoch"] + 1`."""
)
def train(model, optimizer, train_epoch, evaluate, epochs, checkpoint=None):
    left = epochs - checkpoint["epoch"] if checkpoint else epochs
    if checkpoint:
        checkpoint = {**checkpoint, "epoch": 0}
    return forgetting(False, False, False)(model, optimizer, train_epoch, evaluate, left, checkpoint)


@exercise.mistake(
    """`history.append` puts the old list into the list, as one element, and a list cannot be compared with a loss. Take
    the list itself, `history = checkpoint["history"]`, or `extend`."""
)
def train(model, optimizer, train_epoch, evaluate, epochs, checkpoint=None):
    if checkpoint:
        checkpoint = {**checkpoint, "history": [checkpoint["history"]]}
    return forgetting(False, False, False)(model, optimizer, train_epoch, evaluate, epochs, checkpoint)


@exercise.mistake(
    """`best` holds weights, and you gave it a loss. The best weights from before the stop are in
    `checkpoint["best"]`."""
)
def train(model, optimizer, train_epoch, evaluate, epochs, checkpoint=None):
    if checkpoint:
        checkpoint = {**checkpoint, "best": min(checkpoint["history"])}
    return forgetting(False, False, False)(model, optimizer, train_epoch, evaluate, epochs, checkpoint)


@exercise.probe("the epochs that are trained, with a stop after epoch 2 of 4")
def _(train):
    return stopped_and_resumed(train, LIST, 2, 4)[0]


@exercise.probe("the losses in the history, with a stop after epoch 2 of 4")
def _(train):
    return stopped_and_resumed(train, LIST, 2, 4)[1]["history"]


@exercise.probe("the epoch of the best weights, for the losses 0.5, 0.2, 0.4, 0.3 and a stop after epoch 2")
def _(train):
    return stopped_and_resumed(train, LIST, 2, 4)[2]


@exercise.probe("the epoch of the best weights, for the same losses and a stop after epoch 1")
def _(train):
    return stopped_and_resumed(train, LIST, 1, 4)[2]


@exercise.probe("the epoch of the best weights, for the same losses and a stop after epoch 3")
def _(train):
    return stopped_and_resumed(train, LIST, 3, 4)[2]


@exercise.probe("the epoch of the best weights when it is resumed with nothing left to train")
def _(train):
    return stopped_and_resumed(train, LIST, 2, 0)[2]


@exercise.probe("the epoch in the result, and the size of its weights")
def _(train):
    end = stopped_and_resumed(train, LIST, 3, 4)[1]
    return [
        end["epoch"],
        sum(one.double().norm().item() for one in end["model"].values()),
        len(end["optimizer"]["state"]),
    ]


# ---------------------------------------------------------------------------------------------------------------------
def rate_built_late():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    scheduler = LinearLR(optimizer, start_factor=0.1, total_iters=8)
    for _ in range(8):
        optimizer.step()
        scheduler.step()
    late = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    late.load_state_dict(optimizer.state_dict())
    LinearLR(late, start_factor=0.1, total_iters=8)
    return round(late.param_groups[0]["lr"], 6)


Prediction(
    "03.2",
    """`LinearLR(optimizer, start_factor=0.1, total_iters=8)` has raised the learning rate from 0.01 to 0.1, and you
    save. At the resume you load the optimizer first and build this scheduler after it. What is the learning rate
    now?""",
    rate_built_late,
    [
        (
            0.1,
            0.1,
            """You believe that building a scheduler changes nothing. This one sets the rate when it is built, to
         that of a first epoch.""",
        ),
        (0.01, 0.01, "The scheduler set the rate of a first epoch over the one that you had restored."),
        (0, 1, "While it is built, the scheduler sets its first rate: the start factor times 0.1."),
    ],
)


def times_too_long():
    x, y = batch(5, 32)
    norms = []
    for parts in ([32], [8] * 4):
        model = seeded(lambda: nn.Linear(4, 2))
        for one, label in zip(x.split(parts), y.split(parts)):
            F.cross_entropy(model(one), label).backward()
        norms.append(model.weight.grad.norm().item())
    return round(norms[1] / norms[0], 3)


Prediction(
    "03.5",
    """Four batches of 8 make one step, and you forget to divide the losses. How many times as long is the gradient as
    that of one batch of 32?""",
    times_too_long,
    [
        (4, 4, "Each `backward()` adds the gradient of a mean over 8, and four means are four times one."),
        (
            1,
            1,
            """You believe that the mean takes care of it. It does within each batch, and `backward()` then adds up
         the four.""",
        ),
        (8, 8, "The 8 images of a batch are in its mean already. What adds up are the four batches."),
        (0, 10**6, "Four gradients are added, and each of them is about as long as that of the one large batch."),
    ],
)

question(
    "03",
    "Which of these does an exact resume need?",
    ("The optimizer's state.", True, "All of these are needed: each forgotten one makes another training."),
    ("The state of the random number generators.", True, "Dropout draws from them."),
    ("The gradients.", False, "Save between two steps of the optimizer: then there are none that count."),
    ("The losses of the epochs so far.", True, "Early stopping and the best epoch depend on them."),
)
question(
    "03",
    "In which order does a resume work?",
    (
        "Load the optimizer, build the scheduler, load the scheduler",
        False,
        "Some schedulers set the learning rate when they are built, over the restored one.",
    ),
    ("Build the optimizer and the scheduler, then load both", True, "What is loaded last stays."),
    ("It does not matter", False, "Building a scheduler may change the learning rate."),
)
question(
    "03",
    "The order of the images is a function of seed and epoch. What does a resume in the middle of an epoch do?",
    ("It draws the order again and leaves out what is done.", True, "The same seed and epoch give the same order."),
    (
        "It restores the state that the generator has now.",
        False,
        "The order was drawn at the start of the epoch, and the generator has moved on since.",
    ),
    ("It starts the epoch again.", False, "Then some images are trained on twice."),
)
