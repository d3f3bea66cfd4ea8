"""Practice to lesson 4, Interrupted trainings."""

import functools
import os
import re
import shutil
import stat
import tempfile
import zipfile
from pathlib import Path
from unittest.mock import patch

import torch
from torch import nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, TensorDataset

from course_utils.checkpoints import CheckpointFolder, Training, weights_sha256
from course_utils.practice.engine import EXERCISES, Exercise
from course_utils.practice.questions import Prediction, question
from course_utils.practice.toys import batch, seeded

# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "04.1",
    "Repair: a save that may die half-way",
    section="A save that dies half-way",
    task="""This function writes over the only good checkpoint. Repair it: at every moment the file `path` is the old
    checkpoint or the new one, whole, even if the process is killed or the power goes. When it returns, `path` is the
    only file it leaves.""",
    hint="""Write to another name in the same folder, `flush()`, `os.fsync(file.fileno())`, and only then
    `os.replace`.""",
    shows="""A save that died half-way left the old checkpoint whole, and the new one got its name only when all of it
    was on the disk.""",
    idle="""As long as you write into `path` itself, it is half a file for a while, with `os.fsync` as well: write to
    another name.""",
)


@exercise.start
def save(checkpoint, path):
    torch.save(checkpoint, path)


@exercise.answer
def save(checkpoint, path):
    aside = f"{path}.part"
    with open(aside, "wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)


def write(checkpoint, aside, sync=True):
    with open(aside, "wb") as file:
        torch.save(checkpoint, file)
        file.flush()
        if sync:
            os.fsync(file.fileno())


@exercise.mistake(
    """The old checkpoint survives a kill, but not a power cut: the new name may reach the disk before the bytes do.
    Call `file.flush()` and `os.fsync(file.fileno())` before `os.replace`."""
)
def save(checkpoint, path):
    write(checkpoint, f"{path}.part", sync=False)
    os.replace(f"{path}.part", path)


@exercise.mistake(
    """You wait for the disk after the new name is given. In between, a power cut leaves the name and not the bytes:
    `os.fsync` comes first, `os.replace` after."""
)
def save(checkpoint, path):
    write(checkpoint, f"{path}.part", sync=False)
    os.replace(f"{path}.part", path)
    with open(path, "rb+") as file:
        os.fsync(file.fileno())


@exercise.mistake(
    """You wrote aside, and then copied over the old file: while the copy runs, `path` is half a file. `os.replace`
    changes the name in one instant instead."""
)
def save(checkpoint, path):
    write(checkpoint, f"{path}.part")
    shutil.copyfile(f"{path}.part", path)
    os.remove(f"{path}.part")


@exercise.mistake(
    """You removed the old checkpoint before the new one was written. When the save dies, there is none at all:
    `os.replace` takes the old one's place, so nothing needs to be removed."""
)
def save(checkpoint, path):
    Path(path).unlink(missing_ok=True)
    write(checkpoint, f"{path}.part")
    os.replace(f"{path}.part", path)


@exercise.mistake(
    """You removed the old checkpoint just before the new one got its name. A kill between the two lines leaves none:
    `os.replace` does both in one instant."""
)
def save(checkpoint, path):
    write(checkpoint, f"{path}.part")
    Path(path).unlink(missing_ok=True)
    os.replace(f"{path}.part", path)


@exercise.mistake(
    """You wrote aside in another folder. If that is on another disk, `os.replace` cannot move it in one instant: write
    beside the target, in the same folder."""
)
def save(checkpoint, path):
    aside = os.path.join(tempfile.gettempdir(), f"{os.getpid()}_checkpoint.part")
    write(checkpoint, aside)
    os.replace(aside, path)


@exercise.mistake("""The new checkpoint is written, and never gets its name. Add `os.replace(aside, path)`.""")
def save(checkpoint, path):
    write(checkpoint, f"{path}.part")


class Dies:
    """Ends a save in the middle."""

    def __reduce__(self):
        raise RuntimeError("killed")


def epoch_in(path):
    try:
        return f"the checkpoint of epoch {torch.load(path, weights_only=True)['epoch']}"
    except Exception:
        return "damaged" if Path(path).exists() else "gone"


@exercise.mistake(
    """You keep a copy of the old checkpoint and still write over `path`: while the save runs, `path` is half a file,
    and the copy stays behind. Write the *new* one to another name, then `os.replace`."""
)
def save(checkpoint, path):
    if Path(path).exists():
        shutil.copyfile(path, f"{path}.bak")
    torch.save(checkpoint, path)


@exercise.mistake(
    """You wrote aside, and then copied over the old file: while the copy runs, `path` is half a file, and the part
    stays behind. `os.replace` changes the name in one instant, and leaves nothing."""
)
def save(checkpoint, path):
    write(checkpoint, f"{path}.part")
    shutil.copyfile(f"{path}.part", path)


@exercise.mistake(
    """You wait for the disk after the file is closed, and a closed file has no number any more. `os.fsync` belongs into
    the `with`, after `flush()`."""
)
def save(checkpoint, path):
    with open(f"{path}.part", "wb") as file:
        torch.save(checkpoint, file)
    os.fsync(file.fileno())
    os.replace(f"{path}.part", path)


@exercise.probe("the file after two saves, and all files in the folder")
def _(save):
    for epoch in (1, 2):
        save({"epoch": epoch}, "last.pt")
    return [epoch_in("last.pt"), *sorted(os.listdir())]


@exercise.probe("the file after a save of epoch 2 that died half-way")
def _(save):
    save({"epoch": 1}, "last.pt")
    try:
        save({"epoch": 2, "then": Dies()}, "last.pt")
    except Exception:
        pass
    return epoch_in("last.pt")


@exercise.probe("what happens in a save, in this order")
def _(save):
    save({"epoch": 1}, "last.pt")
    events, flushed = [], [0]
    real = {name: getattr(os, name) for name in ("fsync", "replace", "rename")}

    def fsync(file):
        real["fsync"](file)
        facts = os.fstat(file if isinstance(file, int) else file.fileno())
        if stat.S_ISREG(facts.st_mode):  # to flush the folder as well is extra care
            flushed[0] = max(flushed[0], facts.st_size)

    def rename(name):
        def call(source, target, **kwargs):
            facts = {
                "all bytes on the disk": flushed[0] == os.path.getsize(source),
                "from another folder": Path(source).resolve().parent != Path().resolve(),
                "no file for a moment": not Path("last.pt").exists(),
                "the new name": True,
            }
            events.extend(what for what, happens in facts.items() if happens)
            real[name](source, target, **kwargs)

        return call

    with patch("os.fsync", fsync), patch("os.replace", rename("replace")), patch("os.rename", rename("rename")):
        save({"epoch": 2}, "last.pt")
    return [*events, *(["bytes on the disk, too late"] if flushed[0] and events[:1] == ["the new name"] else [])]


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "04.2",
    "Fall back to the newest good file",
    section="A flipped bit",
    task="""After a crash the newest checkpoint may be damaged. Write `newest_good(folder)`: among the files
    `step_NUMBER.pt` it finds the one with the highest number that is whole, and returns what is in it. When none is
    whole, it raises an error: a silent start from zero would be worse. It leaves all files where they are.""",
    hint="""Sort by the number, not by the name: `step_9` comes after `step_10` in the alphabet.
    `zipfile.ZipFile(path).testzip()` finds flipped bits, and raises for what is no zip.""",
    shows="""You fell back over cut and flipped files to the newest whole one, and stopped when there was none.""",
    idle="""Look through the files, and return what is in the one that you chose.""",
)


@exercise.start
def newest_good(folder):
    return ...


@exercise.answer
def newest_good(folder):
    paths = sorted(Path(folder).glob("step_*.pt"), key=lambda path: int(path.stem.split("_")[1]))
    for path in reversed(paths):
        try:
            with zipfile.ZipFile(path) as file:
                if file.testzip() is None:
                    return torch.load(path, weights_only=True)
        except (OSError, EOFError, zipfile.BadZipFile):
            continue
    raise FileNotFoundError(f"no whole checkpoint in {folder}")


def searching(key, check=True, none="raise", newest_only=False, remove=False, reverse=True):
    def newest_good(folder):
        paths = sorted(Path(folder).glob("step_*.pt"), key=key, reverse=reverse)
        for path in paths[:1] if newest_only else paths:
            try:
                with zipfile.ZipFile(path) as file:
                    damaged = file.testzip() if check else None
            except zipfile.BadZipFile:
                damaged = True
            if not damaged:
                return torch.load(path, weights_only=True)
            if remove:
                path.unlink()
        if none == "raise":
            raise FileNotFoundError("none")
        return none

    return newest_good


def number(path):
    return int(path.stem.split("_")[1])


exercise.mistake(
    """You sorted by name, and in the alphabet `step_9` comes after `step_10`. Sort by the number:
    `key=lambda path: int(path.stem.split("_")[1])`."""
)(searching(lambda path: path.name))
exercise.mistake(
    """A file with a flipped bit was taken: `torch.load` does not compare the checksums. Ask
    `zipfile.ZipFile(path).testzip()` first."""
)(searching(number, check=False))
exercise.mistake(
    """You gave up at the first damaged file: either you looked at the newest only, or the error of a file that is cut
    off (it is no zip any more) ended your loop. Catch that error, and go on to the file before."""
)(searching(number, newest_only=True))
exercise.mistake(
    """When no file was whole, you returned nothing, and the training would start from zero without a word. Raise an
    error."""
)(searching(number, none=None))
exercise.mistake(
    """You deleted the damaged files. Perhaps only the cable was bad, or somebody can still rescue them: leave them
    where they are."""
)(searching(number, remove=True))
exercise.mistake("""You began with the oldest file. The newest whole one has the highest number.""")(
    searching(number, reverse=False)
)
exercise.mistake(
    """You went by the time of the files. Copying a folder changes the times, so the number in the name is what
    counts."""
)(searching(lambda path: path.stat().st_mtime))


TIMES = {10: 2_000_000_004, 8: 2_000_000_003, 11: 2_000_000_002, 9: 2_000_000_001}


def folder_of(damage):
    """step_8.pt to step_11.pt, damaged as said, in the order of times of a folder that was copied; and a note."""
    Path("run").mkdir()
    Path("run/notes.txt").write_text("the run of Tuesday")
    for step in (8, 9, 10, 11):
        path = Path(f"run/step_{step}.pt")
        torch.save({"step": step, "weights": torch.arange(100.0)}, path)
        content = bytearray(path.read_bytes())
        kind = damage.get(step)
        if kind == "flipped":
            content[content.index(torch.arange(100.0).numpy().tobytes()) + 43] ^= 1
        path.write_bytes({"cut": content[: len(content) // 2], "empty": b""}.get(kind, content))
        os.utime(path, (TIMES[step], TIMES[step]))


def step_found(newest_good, damage):
    folder_of(damage)
    try:
        found = newest_good("run")
    except Exception as error:
        return "an error" if not isinstance(error, TypeError | NameError | AttributeError) else type(error).__name__
    return found.get("step", "nothing") if isinstance(found, dict) else found


exercise.mistake(
    """Two faults. You sorted by name, where `step_9` comes after `step_10`: sort by the number. And a file with a
    flipped bit is taken: ask `zipfile.ZipFile(path).testzip()` first."""
)(searching(lambda path: path.name, check=False))
exercise.mistake(
    """Two faults. You went by the time of the files, which a copy changes: sort by the number in the name. And a file
    with a flipped bit is taken: ask `zipfile.ZipFile(path).testzip()` first."""
)(searching(lambda path: path.stat().st_mtime, check=False))


@exercise.mistake("""You return the path of the file. What is in it was asked for: `torch.load(path)`.""")
def newest_good(folder):
    for path in sorted(Path(folder).glob("step_*.pt"), key=number, reverse=True):
        try:
            if zipfile.ZipFile(path).testzip() is None:
                return path
        except zipfile.BadZipFile:
            continue
    raise FileNotFoundError("none")


exercise.mistake(
    """When no file was whole, an empty dictionary came back, and the training would start from zero without a word.
    Raise an error."""
)(searching(number, none={}))


@exercise.mistake(
    """`testzip()` returns `None` for a *good* file, so you passed over the good ones. Take the file when it is
    `None`."""
)
def newest_good(folder):
    for path in sorted(Path(folder).glob("step_*.pt"), key=number, reverse=True):
        try:
            if zipfile.ZipFile(path).testzip():
                return torch.load(path, weights_only=True)
        except zipfile.BadZipFile:
            continue
    raise RuntimeError("none")


@exercise.mistake(
    """You took every `.pt` file, also `best_12.pt`: the best is there for using, and going on from it would lose
    epochs. Take the names `step_NUMBER.pt` only."""
)
def newest_good(folder):
    for path in sorted(Path(folder).glob("*.pt"), key=number, reverse=True):
        try:
            if zipfile.ZipFile(path).testzip() is None:
                return torch.load(path, weights_only=True)
        except zipfile.BadZipFile:
            continue
    raise FileNotFoundError("none")


@exercise.probe("the step that is found when all four of 8, 9, 10, 11 are whole")
def _(newest_good):
    folder_of({})
    found = newest_good("run")  # an error is not caught here: the student should see the line
    return found["step"] if isinstance(found, dict) else found


@exercise.probe("the step that is found when 11 is cut off and 10 has a flipped bit")
def _(newest_good):
    return step_found(newest_good, {11: "cut", 10: "flipped"})


@exercise.probe("the step that is found when 11 is empty")
def _(newest_good):
    return step_found(newest_good, {11: "empty"})


@exercise.probe("what happens when all are damaged")
def _(newest_good):
    return step_found(newest_good, {8: "cut", 9: "flipped", 10: "cut", 11: "cut"})


@exercise.probe("the files afterwards")
def _(newest_good):
    step_found(newest_good, {11: "cut"})
    return sorted(os.listdir("run"))


@exercise.probe("the step that is found when `best_12.pt`, of step 3, lies there as well")
def _(newest_good):
    folder_of({})
    torch.save({"step": 3}, "run/best_12.pt")
    return newest_good("run")["step"]


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "04.3",
    "Put `Training` around your loop",
    section="The loop, finished",
    task="""This loop loses everything when it is stopped. Put `Training` around it (from `course_utils.checkpoints`),
    with model and optimizer as parts, so that a second call goes on from what is in `folder`. `evaluate(model)` is the
    `val_loss` of an epoch. It still returns the model of the last epoch, not the best one.""",
    hint="""`with Training(folder, {…}, metric="val_loss") as training:`, then `training.epochs(…)`,
    `training.batches(…)`, and at the end of each epoch `training.end_epoch({"val_loss": …})`.""",
    shows="""Stopped after two epochs and called again, your loop ended with the same bits as without a stop.""",
    idle="""A second call still begins from zero. Do the epochs and the batches come from `training`?""",
)


@exercise.start
def train(folder, model, optimizer, loader, evaluate, epochs):
    for epoch in range(1, epochs + 1):
        model.train()
        for x, y in loader:
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        val_loss = evaluate(model)
    return model


@exercise.answer
def train(folder, model, optimizer, loader, evaluate, epochs):
    parts = {"model": model, "optimizer": optimizer}
    with Training(folder, parts, metric="val_loss") as training:
        for epoch in training.epochs(epochs):
            model.train()
            for x, y in training.batches(loader):
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
            training.end_epoch({"val_loss": evaluate(model)})
    return model


def around(parts="model optimizer", batches=True, epochs_of=True, end=True, best=False, metric="val_loss"):
    def train(folder, model, optimizer, loader, evaluate, epochs):
        named = {name: one for name, one in {"model": model, "optimizer": optimizer}.items() if name in parts}
        with Training(folder, named, metric=metric) as training:
            for _ in training.epochs(epochs) if epochs_of else range(1, epochs + 1):
                model.train()
                for x, y in training.batches(loader) if batches else loader:
                    optimizer.zero_grad()
                    F.cross_entropy(model(x), y).backward()
                    optimizer.step()
                if end:
                    training.end_epoch({metric: evaluate(model)})
        if best:
            training.load_best()
        return model

    return train


exercise.mistake(
    """The optimizer is not among the parts, so its momentum is lost at each stop, and the weights are others. Give
    `{"model": model, "optimizer": optimizer}`."""
)(around(parts="model"))
exercise.mistake(
    """The model is not among the parts: what it has learned is not in the checkpoint. Give both, model and
    optimizer."""
)(around(parts="optimizer"))
exercise.mistake(
    """The batches come from the loader directly, so `Training` counts no steps and cannot find its place. Write
    `for x, y in training.batches(loader):`."""
)(around(batches=False))
exercise.mistake(
    """The epochs come from `range`, which starts at 1 again after a stop. Write
    `for epoch in training.epochs(epochs):`."""
)(around(epochs_of=False))
exercise.mistake(
    """No epoch is ever ended, so no `val_loss` is known, and none is the best. Call
    `training.end_epoch({"val_loss": evaluate(model)})` after the batches, in every epoch."""
)(around(end=False))
exercise.mistake(
    """The model that comes back is the best one, not the last one. `load_best()` is useful, but this task asks for the
    same model as before."""
)(around(best=True))


@exercise.mistake("""A `patience` ended the training early. The task asks for all `epochs`: leave it out here.""")
def train(folder, model, optimizer, loader, evaluate, epochs):
    with Training(folder, {"model": model, "optimizer": optimizer}, metric="val_loss") as training:
        for _ in training.epochs(epochs, patience=1):
            model.train()
            for x, y in training.batches(loader):
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
            training.end_epoch({"val_loss": evaluate(model)})
    return model


@exercise.mistake(
    """It ends after one epoch in each call: the `return` stands inside the loop. Move it to the left, behind the
    `with`."""
)
def train(folder, model, optimizer, loader, evaluate, epochs):
    with Training(folder, {"model": model, "optimizer": optimizer}, metric="val_loss") as training:
        for _ in training.epochs(epochs):
            model.train()
            for x, y in training.batches(loader):
                optimizer.zero_grad()
                F.cross_entropy(model(x), y).backward()
                optimizer.step()
            training.end_epoch({"val_loss": evaluate(model)})
            return model


def beside(**changes):
    """`Training` with other settings than the task asks for."""

    def train(folder, model, optimizer, loader, evaluate, epochs):
        settings = {"metric": "val_loss", **changes}
        with Training(folder, {"model": model, "optimizer": optimizer}, **settings) as training:
            for _ in training.epochs(epochs):
                model.train()
                for x, y in training.batches(loader):
                    optimizer.zero_grad()
                    F.cross_entropy(model(x), y).backward()
                    optimizer.step()
                training.end_epoch({"val_loss": evaluate(model)})
        return model

    return train


exercise.mistake(
    """The folder keeps the epoch with the *highest* loss as the best: `mode="max"` fits an accuracy. Leave it out for a
    loss."""
)(beside(mode="max"))
exercise.mistake(
    """With `resume=False` a second call refuses to touch the folder of the first. Leave it out: `Training` goes on by
    itself."""
)(beside(resume=False))


@exercise.mistake(
    """`Training` is not opened with `with`, so it neither reads what is in the folder nor saves at a stop. Write `with
    Training(…) as training:`, and indent the loop."""
)
def train(folder, model, optimizer, loader, evaluate, epochs):
    training = Training(folder, {"model": model, "optimizer": optimizer}, metric="val_loss")
    for _ in training.epochs(epochs):
        model.train()
        for x, y in training.batches(loader):
            optimizer.zero_grad()
            F.cross_entropy(model(x), y).backward()
            optimizer.step()
        training.end_epoch({"val_loss": evaluate(model)})
    return model


@exercise.mistake("""You returned the `Training` itself. The task asks for the model, as before.""")
def train(folder, model, optimizer, loader, evaluate, epochs):
    around()(folder, model, optimizer, loader, evaluate, epochs)
    return Training(folder, {"model": model, "optimizer": optimizer}, metric="val_loss")


def life(train, folder, epochs, seed=1):
    """One call in a new process, so to say; returns the model and the losses that were measured."""
    model = seeded(lambda: nn.Sequential(nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 2)), seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    loader, losses = DataLoader(TensorDataset(*batch(3, 12)), batch_size=4, shuffle=True), []
    torch.manual_seed(0)

    def evaluate(given):
        given.eval()
        losses.append(len(losses) + 1.0)  # ever worse: the best is the first
        return losses[-1]

    return train(folder, model, optimizer, loader, evaluate, epochs), losses


@exercise.mistake(
    """The parts are a list. `Training` wants a dictionary, because each part needs a name in the checkpoint:
    `{"model": model, "optimizer": optimizer}`."""
)
def train(folder, model, optimizer, loader, evaluate, epochs):
    with Training(folder, [model, optimizer], metric="val_loss"):
        return model


def ending(where):
    """`end_epoch` called in another way."""

    def train(folder, model, optimizer, loader, evaluate, epochs):
        with Training(folder, {"model": model, "optimizer": optimizer}, metric="val_loss") as training:
            for _ in training.epochs(epochs):
                for x, y in training.batches(loader):
                    optimizer.zero_grad()
                    F.cross_entropy(model(x), y).backward()
                    optimizer.step()
                    if where == "in the batches":
                        training.end_epoch({"val_loss": evaluate(model)})
                training.end_epoch(evaluate(model))
        return model

    return train


@exercise.mistake("""`training.epochs` wants the number of epochs, not a `range`: `training.epochs(epochs)`.""")
def train(folder, model, optimizer, loader, evaluate, epochs):
    with Training(folder, {"model": model, "optimizer": optimizer}, metric="val_loss") as training:
        for _ in training.epochs(range(1, epochs + 1)):
            return model


exercise.mistake(
    """`end_epoch` got a bare number. It wants to know what the number is: `{"val_loss": evaluate(model)}`."""
)(ending("with a number"))
exercise.mistake(
    """`end_epoch` stands among the batches, so the epoch ends after the first one. Move it out of the inner loop, to
    the left."""
)(ending("in the batches"))


@exercise.probe("what the checkpoint holds after one epoch")
def _(train):
    life(train, "run", 1)
    saved = CheckpointFolder("run").latest() or {}
    states = [one.keys() for one in saved.values() if isinstance(one, dict)]
    return {
        "weights": any("0.weight" in names for names in states),
        "optimizer": any("param_groups" in names for names in states),
        "steps": saved.get("step"),
    }


@exercise.probe("how many epochs a second call trains, after a stop at 1 of 2")
def _(train):
    life(train, "run", 1)
    return len(life(train, "run", 2)[1])


@functools.cache  # once, for all answers that are compared with it
def straight(epochs):
    return weights_sha256(life(around(), f"straight {epochs}", epochs)[0].state_dict())


@exercise.probe("the weights after a stop at 1 of 3 epochs, compared with a training without a stop")
def _(train):
    life(train, "run", 1)
    resumed = weights_sha256(life(train, "run", 3)[0].state_dict())
    return next((f"those of epoch {epochs}" for epochs in (3, 1) if resumed == straight(epochs)), "others")


@exercise.probe("how many epochs one call trains, of 3")
def _(train):
    return len(life(train, "run", 3)[1])


@exercise.probe("the best epoch in the folder, for the losses 1, 2, 3")
def _(train):
    life(train, "run", 3)
    return (CheckpointFolder("run").best() or {"metrics": {}})["metrics"].get("epoch")


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "04.4",
    "Stop politely",
    section="The stop button",
    task="""Somebody presses the stop button in the middle of a step. Write `run(steps, save, asked)`: it does the steps
    (functions) one after the other. When `asked()` is true after a step, it calls `save(n)`, where n is the number of
    steps that are done, and ends; otherwise it saves once, at the end. It returns n.""",
    hint="""Ask after each step, not before it: what runs is finished first. One `save` is enough in each case.""",
    shows="""The step that ran was finished, its work was saved once, and nothing ran after it.""",
    idle="""`save` must be called: once when somebody has asked, or once at the end.""",
)


@exercise.start
def run(steps, save, asked):
    for step in steps:
        step()
    return len(steps)


@exercise.answer
def run(steps, save, asked):
    done = 0
    for step in steps:
        step()
        done += 1
        if asked():
            break
    save(done)
    return done


def running(save_on_stop=True, save_at_end=True, count=0, each=False, ask=True, twice=False):
    def run(steps, save, asked):
        done = 0
        for step in steps:
            step()
            done += 1
            if each:
                save(done + count)
            if ask and asked():
                if save_on_stop:
                    save(done + count)
                if not twice:
                    return done + count
                break
        if save_at_end and not each:
            save(done + count)
        return done + count

    return run


exercise.mistake("""It stops, and what was done since the last save is lost: call `save` before it ends.""")(
    running(save_on_stop=False)
)
exercise.mistake("""A stop is saved, but a training that ends by itself is not. Save once more after the last step.""")(
    running(save_at_end=False)
)
exercise.mistake(
    """The number is one too small: the step that just ran is done. Count it before you save, or a resume does it
    twice."""
)(running(count=-1))
exercise.mistake(
    """It saves after every step. For a model of some size that takes longer than the step: save when somebody asks, and
    at the end."""
)(running(each=True))
exercise.mistake("""Nobody is heard: the steps go on to the end although `asked()` is true. Ask after each step.""")(
    running(ask=False)
)
exercise.mistake("""A stop is saved twice, once in the loop and once after it. One save is enough.""")(
    running(twice=True)
)


@exercise.mistake(
    """You ask before a step, so the last step is never asked about, and a stop before the first step is not what the
    task says. Do the step, then ask."""
)
def run(steps, save, asked):
    done = 0
    for step in steps:
        if asked():
            break
        step()
        done += 1
    save(done)
    return done


def events(run, press):
    """What happens in five steps when the button is pressed in step `press`."""
    seen, pressed = [], []

    def step(number):
        seen.append(f"step {number}")
        if number == press:
            pressed.append(True)

    def asked():
        seen.append("asked")
        return bool(pressed)

    result = run([lambda n=n: step(n) for n in range(1, 6)], lambda n: seen.append(f"save({n})"), asked)
    return seen, result


exercise.mistake(
    """Every step is saved, also when nobody asks. For a model of some size that takes longer than the step: save once,
    when somebody asks or at the end."""
)(running(each=True, save_on_stop=False))


@exercise.mistake(
    """At a stop the number is one too small: `enumerate` counts from 0, and the step that just ran is done. Write
    `enumerate(steps, 1)`, or `n + 1`."""
)
def run(steps, save, asked):
    for n, step in enumerate(steps):
        step()
        if asked():
            save(n)
            return n
    save(len(steps))
    return len(steps)


@exercise.mistake("""After a stop you return the number of all steps. Return how many are done.""")
def run(steps, save, asked):
    running()(steps, save, asked)
    return len(steps)


@exercise.mistake("""It saves when somebody asks, and goes on all the same. End after the save: `return` or `break`.""")
def run(steps, save, asked):
    done = 0
    for step in steps:
        step()
        done += 1
        if asked():
            save(done)
    save(done)
    return done


@exercise.mistake(
    """`asked` is a function, and a function always counts as true, so it ends after the first step. Call it:
    `asked()`."""
)
def run(steps, save, asked):
    done = 0
    for step in steps:
        step()
        done += 1
        if asked:
            break
    save(done)
    return done


@exercise.mistake("""No step was done: the steps are functions, and the brackets are missing. Call each one,
`step()`.""")
def run(steps, save, asked):
    done = 0
    for _ in steps:
        done += 1
        if asked():
            break
    save(done)
    return done


@exercise.mistake(
    """You count and ask before the step is done, so the number is one too large, and the stop comes a step late. Do the
    step first, then count it, then ask."""
)
def run(steps, save, asked):
    done = 0
    for step in steps:
        done += 1
        if asked():
            save(done)
            return done
        step()
    save(done)
    return done


@exercise.mistake(
    """It is saved, and then an error is raised. Whoever calls your function asked for n: return it instead."""
)
def run(steps, save, asked):
    done = 0
    for step in steps:
        step()
        done += 1
        if asked():
            save(done)
            raise KeyboardInterrupt
    save(done)
    return done


@exercise.mistake("""You return what `save` returns, and that is nothing. Save first, then return the number itself.""")
def run(steps, save, asked):
    running()(steps, save, asked)


@exercise.probe("what happens in five steps, when somebody asks in the third")
def _(run):
    return [one for one in events(run, 3)[0] if one != "asked"]


@exercise.probe("what happens in five steps, when nobody asks")
def _(run):
    return [one for one in events(run, None)[0] if one != "asked"]


@exercise.probe("the numbers that come back")
def _(run):
    return [events(run, 3)[1], events(run, None)[1], events(run, 1)[1]]


@exercise.probe("whether it has asked before the first step")
def _(run):
    return events(run, None)[0][0] == "asked"


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "04.5",
    "A copy that you can trust",
    section="Colab and Kaggle",
    task="""The machine may vanish, so each checkpoint is copied to a mounted drive, which sometimes fails. Write
    `mirror(path, folder, copy)`: it calls `copy(source, target)` and returns True when the folder then holds a file of
    the same name, equal byte for byte. When the copy fails or differs, it returns False, an older copy is still there,
    and the training goes on.""",
    hint="""Copy to another name first (`target + ".part"`), compare the bytes, then `os.replace`. An `OSError` of the
    drive must not end the training.""",
    shows="""A good copy got its name, and neither an error of the drive nor a wrong byte cost you the older one.""",
    idle="""It is still called good whatever the drive did. Compare the copy with the file.""",
)


@exercise.start
def mirror(path, folder, copy):
    copy(path, os.path.join(folder, os.path.basename(path)))
    return True


@exercise.answer
def mirror(path, folder, copy):
    target = Path(folder) / Path(path).name
    part = Path(f"{target}.part")
    try:
        copy(path, part)
        if part.read_bytes() != Path(path).read_bytes():
            return False
        os.replace(part, target)
    except OSError:
        return False
    return True


def mirroring(aside=True, compare="bytes", errors=True):
    def mirror(path, folder, copy):
        target = Path(folder) / Path(path).name
        part = Path(f"{target}.part") if aside else target
        try:
            copy(path, part)
            equal = {
                "bytes": lambda: part.read_bytes() == Path(path).read_bytes(),
                "size": lambda: part.stat().st_size == Path(path).stat().st_size,
                "exists": part.exists,
            }[compare]()
            if not equal:
                return False
            os.replace(part, target)
        except OSError:
            if errors:
                return False
            raise
        return True

    return mirror


exercise.mistake(
    """You copied straight to the final name. When the drive fails half-way, the older good copy is already overwritten:
    copy to another name, compare, then `os.replace`."""
)(mirroring(aside=False))
exercise.mistake(
    """A copy with a wrong byte was called good: it has the right size and time. Compare the bytes (`filecmp.cmp` does
    that only with `shallow=False`)."""
)(mirroring(compare="size"))
exercise.mistake("""A copy with too few bytes was called good, since nothing was compared. Read it back and
    compare.""")(mirroring(compare="exists"))
exercise.mistake(
    """An error of the drive ends the training. Catch the `OSError` and return False: the next save copies again."""
)(mirroring(errors=False))


@exercise.mistake(
    """The copy is compared and good, but it never gets its name: `os.replace` the part by the name of the
    checkpoint."""
)
def mirror(path, folder, copy):
    part = Path(folder) / f"{Path(path).name}.part"
    try:
        copy(path, part)
    except OSError:
        return False
    return part.read_bytes() == Path(path).read_bytes()


def mirrored(mirror, drive):
    """(what comes back, the file in the mirror, where an older copy was) for a drive that copies as said."""
    Path("drive").mkdir()
    Path("drive/last.pt").write_bytes(b"old copy")
    Path("run").mkdir()
    Path("run/last.pt").write_bytes(b"the new checkpoint")

    def copy(source, target):
        content = Path(source).read_bytes()
        if drive == "fails":
            Path(target).write_bytes(content[:5])
            raise OSError("the drive is not connected")
        wrong = {"cuts": content[:5], "flips a bit": b"X" + content[1:]}
        Path(target).write_bytes(wrong.get(drive, content))
        shutil.copystat(source, target)  # same size, same time: whoever compares those alone is fooled

    try:
        result = mirror("run/last.pt", "drive", copy)
    except OSError:
        result = "an error"
    there = Path("drive/last.pt").read_bytes().decode() if Path("drive/last.pt").exists() else "no copy at all"
    return [result, "a part of the new checkpoint" if there == "the n" else there]


@exercise.mistake(
    """You compare after the copy has got its name: when it differs, the older good one is gone already. Compare first,
    then `os.replace`."""
)
def mirror(path, folder, copy):
    target = Path(folder) / Path(path).name
    try:
        copy(path, f"{target}.part")
        os.replace(f"{target}.part", target)
    except OSError:
        return False
    return target.read_bytes() == Path(path).read_bytes()


@exercise.mistake(
    """You compare, and return True in any case. Return False when the copy failed or differs: somebody relies on the
    answer."""
)
def mirror(path, folder, copy):
    mirroring()(path, folder, copy)
    return True


@exercise.mistake(
    """Two faults. The error of the drive is caught, and the older copy is half overwritten by then: copy to another
    name, then `os.replace`. And nothing is compared, so a copy with a wrong byte is called good."""
)
def mirror(path, folder, copy):
    try:
        copy(path, Path(folder) / Path(path).name)
    except OSError:
        return False
    return True


@exercise.mistake(
    """When the copy is bad you delete it, and with it the older good one, which had the same name. Copy to another name
    first; only a good copy takes the older one's place."""
)
def mirror(path, folder, copy):
    target = Path(folder) / Path(path).name
    try:
        copy(path, target)
        if target.read_bytes() == Path(path).read_bytes():
            return True
    except OSError:
        pass
    target.unlink()
    return False


@exercise.mistake(
    """You copied by yourself, with Python's own function. The drive is behind `copy(source, target)`, the argument:
    call that one."""
)
def mirror(path, folder, copy):
    return mirroring()(path, folder, shutil.copyfile)


@exercise.mistake(
    """It is the other way round: a copy that differs gets the name. Replace when the bytes are equal, `==`."""
)
def mirror(path, folder, copy):
    target = Path(folder) / Path(path).name
    part = Path(f"{target}.part")
    try:
        copy(path, part)
        differs = part.read_bytes() != Path(path).read_bytes()
        if differs:
            os.replace(part, target)
    except OSError:
        return False
    return differs


@exercise.mistake(
    """When the drive fails you return True, so everybody believes that there is a copy. Return False in the
    `except`."""
)
def mirror(path, folder, copy):
    try:
        return mirroring(errors=False)(path, folder, copy)
    except OSError:
        return True


@exercise.mistake(
    """`path` has a folder in it, and you hung all of it onto the other folder. Take the name alone,
    `os.path.basename(path)`."""
)
def mirror(path, folder, copy):
    part = os.path.join(folder, f"{path}.part")
    try:
        copy(path, part)
        if Path(part).read_bytes() != Path(path).read_bytes():
            return False
        os.replace(part, os.path.join(folder, path))
    except OSError:
        return False
    return True


@exercise.mistake(
    """The copy is right, and nothing comes back: your last line computes the answer and forgets it. Put `return` before
    it."""
)
def mirror(path, folder, copy):
    if not mirroring()(path, folder, copy):
        return False


@exercise.probe("what comes back, and the file in the mirror, when the drive works")
def _(mirror):
    return mirrored(mirror, "works")


@exercise.probe("the same when the drive fails half-way")
def _(mirror):
    return mirrored(mirror, "fails")


@exercise.probe("the same when the drive cuts the file off without a word")
def _(mirror):
    return mirrored(mirror, "cuts")


@exercise.probe("the same when the drive writes a wrong byte")
def _(mirror):
    return mirrored(mirror, "flips a bit")


# ---------------------------------------------------------------------------------------------------------------------
exercise = Exercise(
    "04.6",
    "Which files may go",
    section="The loop, finished",
    task="""A folder fills up with checkpoints. Write `to_delete(names, best, keep)`: from the names in the folder it
    returns those that may go. It keeps the newest `keep` files `step_NUMBER.pt`, the file `best` wherever it stands,
    and every file that has another kind of name.""",
    hint="""First pick the names of the kind `step_NUMBER.pt`, then sort them by their number.""",
    shows="""The newest files, the best one and everybody else's files stay.""",
    idle="""Return the names that may go, in a list.""",
)


@exercise.start
def to_delete(names, best, keep):
    return []


@exercise.answer
def to_delete(names, best, keep):
    ours = [name for name in names if re.fullmatch(r"step_\d+\.pt", name)]
    ours.sort(key=lambda name: int(name[5:-3]))
    return [name for name in ours[: len(ours) - keep] if name != best]


def deleting(key=lambda name: int(name[5:-3]), pattern=r"step_\d+\.pt", spare_best=True, cut=lambda n, keep: n - keep):
    def to_delete(names, best, keep):
        ours = sorted((name for name in names if re.fullmatch(pattern, name)), key=key)
        return [name for name in ours[: max(0, cut(len(ours), keep))] if name != best or not spare_best]

    return to_delete


def part_first(name):
    """The number of a step; what is not yet written counts as the oldest."""
    return -1 if name.endswith(".part") else int(name[5:-3])


exercise.mistake(
    """You sorted as text, where `step_9.pt` comes after `step_10.pt`, so a newer file would go. Sort by the number."""
)(deleting(key=str))
exercise.mistake("""The best checkpoint would be deleted, because it is old. It is the one you will use: keep it.""")(
    deleting(spare_best=False)
)
exercise.mistake(
    """Files of others would be deleted: `notes.txt` is not yours. Touch only names of the kind `step_NUMBER.pt`."""
)(deleting(pattern=".*", key=lambda name: int("0" + re.sub(r"\D", "", name))))
exercise.mistake(
    """A file that is just being written (`step_12.pt.part`) would be deleted: the whole name must fit, so use
    `re.fullmatch` or `endswith`."""
)(deleting(pattern=r"step_\d+\.pt.*", key=part_first))
exercise.mistake("""One file too few is kept. With `keep=2` the newest two stay, and the best
    besides them.""")(deleting(cut=lambda n, keep: n - keep + 1))
exercise.mistake("""These are the files to keep, the newest ones. Return those that may go, the older ones.""")(
    lambda names, best, keep: sorted(
        [name for name in names if re.fullmatch(r"step_\d+\.pt", name)], key=lambda name: int(name[5:-3])
    )[-keep:]
)

FILES = ["step_9.pt", "step_10.pt", "notes.txt", "step_11.pt", "step_8.pt", "step_12.pt.part", "best.txt"]


exercise.mistake(
    """You took the best out first, and then kept `keep` more. It counts among the newest when it is one of them: keep
    the newest first, then spare the best."""
)(lambda names, best, keep: deleting()([name for name in names if name != best], best, keep))
exercise.mistake("""The newest would be deleted, and the oldest kept. Turn it round: the newest `keep` stay.""")(
    lambda names, best, keep: deleting(key=lambda name: -int(name[5:-3]))(names, best, keep)
)
exercise.mistake("""You did not sort: the folder gives its names in any order. Sort by the number first.""")(
    deleting(key=lambda name: 0)
)


@exercise.mistake(
    """All that is not kept would be deleted, also `notes.txt` and what is just being written. Pick your own names
    first: `step_NUMBER.pt`."""
)
def to_delete(names, best, keep):
    ours = deleting()(names, best, keep)
    steps = [name for name in names if re.fullmatch(r"step_\d+\.pt", name)]
    return [name for name in names if name in ours or (name not in steps and name != best)]


@exercise.mistake("""One file too many is kept: the newest `keep` stay, and the best besides them.""")
def to_delete(names, best, keep):
    return deleting(cut=lambda n, keep: n - keep - 1)(names, best, keep)


@exercise.mistake("""These are the newest, turned round: they are the ones to keep. Return the rest.""")
def to_delete(names, best, keep):
    return [
        name for name in deleting(cut=lambda n, keep: n, spare_best=False)(names, best, keep)[-keep:] if name != best
    ]


@exercise.mistake("""These are the files to keep. Return the others, of the kind `step_NUMBER.pt`, that may go.""")
def to_delete(names, best, keep):
    return [*deleting(cut=lambda n, keep: n, spare_best=False)(names, best, keep)[-keep:], best]


@exercise.mistake(
    """You sorted all names and cut off the last: notes and unfinished files would go, and `step_10` before `step_9`.
    Pick the names `step_NUMBER.pt` first, then sort by the number."""
)
def to_delete(names, best, keep):
    return [name for name in sorted(names)[:-keep] if name != best]


@exercise.mistake(
    """`step_final.pt` is no `step_NUMBER.pt`, and its number cannot be read. Let digits stand between `step_` and
    `.pt`, for example by `re.fullmatch(r"step_\\d+\\.pt", name)`."""
)
def to_delete(names, best, keep):
    ours = [name for name in names if name.startswith("step_") and name.endswith(".pt")]
    ours.sort(key=lambda name: int(name[5:-3]))
    return [name for name in ours[: len(ours) - keep] if name != best]


@exercise.mistake(
    """With `keep=0` nothing may go in your answer: `[:-0]` is `[:0]`, and that is empty. Count from the front, `[:
    len(names) - keep]`."""
)
def to_delete(names, best, keep):
    ours = deleting(cut=lambda n, keep: n, spare_best=False)(names, best, keep)
    return [name for name in ours[:-keep] if name != best]


@exercise.probe(f"what may go of {', '.join(FILES)}, with the best step_11.pt and keep=2")
def _(to_delete):
    return sorted(to_delete(list(FILES), "step_11.pt", 2))


@exercise.probe("the same with the best step_8.pt")
def _(to_delete):
    return sorted(to_delete(list(FILES), "step_8.pt", 2))


@exercise.probe("the same with keep=1, with keep=9, and with keep=0")
def _(to_delete):
    return [sorted(to_delete(list(FILES), "step_8.pt", keep)) for keep in (1, 9, 0)]


@exercise.probe("the same, with a file step_final.pt as well")
def _(to_delete):
    return sorted(to_delete([*FILES, "step_final.pt"], "step_8.pt", 2))


# ---------------------------------------------------------------------------------------------------------------------
def bytes_left():
    Path("last.pt").write_bytes(bytes(1_000_000))
    with open("last.pt", "wb"):
        return os.path.getsize("last.pt")


Prediction(
    "04.1",
    """`last.pt` holds a checkpoint of 1,000,000 bytes. A new save has called `open("last.pt", "wb")`, and not one
    byte is written yet. How many bytes of the old checkpoint are still in the file?""",
    bytes_left,
    [
        (0, 0, "Opening a file for writing empties it at once. From here on a kill leaves nothing."),
        (1, 999_999, "Nothing is kept: opening for writing empties the file at once."),
        (
            1_000_000,
            1_000_000,
            """You believe that the old bytes stay until new ones come. Opening for writing empties
         the file at once, so write to another name.""",
        ),
    ],
)


def files_kept():
    names = [f"step_{number}.pt" for number in range(1, 101)]
    return len(names) - len(EXERCISES["04.6"].right[0](names, "step_40.pt", 2))


Prediction(
    "04.6",
    """100 epochs were saved, the 40th was the best. The folder keeps the newest two and the best. How many checkpoints
    are there in the end?""",
    files_kept,
    [
        (3, 3, "The newest two, to go on from, and the best, to use."),
        (2, 2, "The best is neither of the newest two here, and it is the one that you will use: it stays as well."),
        (1, 1, "One is not enough: when the newest is damaged, the training goes on from the one before."),
        (0, 100, "All but three may go: the newest two, and the best."),
    ],
)

question(
    "04",
    "Why write a checkpoint aside first, and rename it then?",
    ("It is faster.", False, "It costs a little more: it waits for the disk."),
    ("The name never leads to half a file.", True, "A rename within one folder happens in one instant."),
    ("The old file stays whole if the save dies.", True, "It is touched only by the rename."),
)
question(
    "04",
    "What does `os.fsync` do?",
    ("It compares the file with the memory.", False, "It compares nothing. `testzip` does, with the checksums."),
    ("It waits until the bytes are on the disk.", True, "Against power cuts: a kill alone would not lose them."),
    ("It renames the file.", False, "That is `os.replace`."),
)
question(
    "04",
    "What can a training do about SIGKILL?",
    ("Catch it and save.", False, "Nobody can catch SIGKILL. SIGTERM and Ctrl-C can be caught."),
    ("Nothing at that moment: what was saved before counts.", True, "So save often enough, and never half a file."),
    ("Run its `finally`.", False, "No line of the program runs any more."),
)
