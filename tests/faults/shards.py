"""A checkpoint that two processes write, each its shards: killed, damaged, planted, on a full disk."""

import pickle
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from itertools import product
from pathlib import Path

import torch
from torch import distributed
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor, Shard

from course_utils.checkpoints import CheckpointError, DamagedCheckpoint
from course_utils.checkpoints.manifest import NAME as MANIFEST
from course_utils.checkpoints.sharded import ShardedFolder
from faults import calls, disk
from faults.damage import _Plant
from faults.together import Together, join
from faults.trainings import PROCESSES
from faults.trials import EXACT, FELL_BACK, REFUSED, Wrong, count, promise, same

SHAPE = (60, 50)


def expected(step: int) -> dict:
    """What a checkpoint of this step holds, as one process loads it."""
    weights = torch.rand(SHAPE, generator=torch.Generator().manual_seed(step))
    return {"weights": weights, "steps": torch.tensor(step), "about": {"name": f"step {step}"}}


def state(step: int) -> dict:
    """The same, of which each process has its rows of the weights."""
    whole = expected(step)
    if distributed.is_initialized():
        mesh = init_device_mesh("cpu", (distributed.get_world_size(),))
        rows = whole["weights"].chunk(mesh.size())[distributed.get_rank()].clone()
        whole["weights"] = DTensor.from_local(rows, mesh, [Shard(0)])
    return whole


def loss(step: int) -> dict:
    return {"val_loss": abs(step - 2) + 0.5}  # step 2 is the best


def loaded(folder: ShardedFolder, best: bool = False) -> dict | None:
    """What one process finds; None if there never was one. Raises Wrong when it is not what was saved."""
    found = state(0)
    facts = folder.load_best(found) if best else folder.load(found)
    if facts is None:
        return None
    promise(same(found, expected(facts["step"])), f"what is loaded is not what was saved as step {facts['step']}")
    promise(facts["metrics"] == loss(facts["step"]), f"{facts} has the metrics of another")
    return facts


def save_on(number: int, work: Path, background: bool, last: int = 10**6) -> str:
    """One step after the other, until a kill comes; `returned` notes each one that is said to be on the disk."""
    folder = ShardedFolder(work / "run")
    facts = folder.load(state(0))
    for step in range(facts["step"] + 1 if facts else 1, last + 1):
        (folder.async_save if background else folder.save)(state(step), step, loss(step))
        if number == 0:
            (work / "returned.new").write_text(f"{step - background}")
            (work / "returned.new").replace(work / "returned")
    folder.wait()
    return "done"


def whole_after_a_kill(work: Path, killed: str) -> int:
    """The newest step, 0 if there is none. Nothing is half there, and what had returned is."""
    returned = work / "returned"
    surely = int(returned.read_text()) if returned.exists() else 0
    newest = loaded(ShardedFolder(work / "run"))
    promise((newest or {"step": 0})["step"] >= surely, f"{killed}: step {surely} had returned, and {newest} is found")
    promise(not list(work.rglob("*.damaged*")), f"{killed}: something with the name of a checkpoint was not whole")
    return newest["step"] if newest else 0


def kills(work: Path, wanted: int) -> Counter:
    """SIGKILL of one process or of all, at any instant; two new ones go on."""
    return count(
        partial(_killed_sometime, work / f"{trial}", ("process 0", "process 1", "all")[trial % 3], trial % 2 == 0)
        for trial in range(wanted)
    )


def _killed_sometime(work: Path, who: str, background: bool) -> str:
    work.mkdir()
    together = Together(2, save_on, work, background, seconds=20)
    end = time.monotonic() + 30
    while not (work / "run" / "step_00000001").exists() and time.monotonic() < end:
        time.sleep(0.002)
    time.sleep(random.uniform(0, 0.3))
    together.kill(*{"process 0": [0], "process 1": [1], "all": [0, 1]}[who])
    together.wait(60)  # the other one must end as well
    newest = whole_after_a_kill(work, f"{who} killed")
    answers = Together(2, save_on, work, background, newest + 1).wait(60)
    promise(answers == ["done", "done"], f"{who} killed: then two new ones said {answers}")
    promise(loaded(ShardedFolder(work / "run"))["step"] == newest + 1, f"{who} killed: no save after it")
    shutil.rmtree(work)
    return EXACT


class ShardedSave:
    """The save that strace watches, in one of the two processes; the other is started beside it."""

    def __init__(self, work: Path, number: int):
        self.work, self.number = work, number

    def prepare(self) -> None:
        shutil.rmtree(self.work, ignore_errors=True)
        self.work.mkdir(parents=True)
        for step in (1, 2, 3):
            ShardedFolder(self.work / "run").save(state(step), step, loss(step))

    def start_the_other(self):
        process = PROCESSES.Process(target=_save_quietly, args=(self.work, 1 - self.number))
        process.start()
        return process

    def do(self) -> None:
        _save(self.work, self.number)
        if self.number == 0:
            (self.work / "returned").touch()

    def paths(self) -> list[Path]:
        run = self.work / "run"
        names = [MANIFEST, f"{MANIFEST}.part", ".metadata", ".metadata.tmp", "__0_0.distcp", "__1_0.distcp"]
        folders = [run / name for name in ("step_00000004.part", "step_00000004", "step_00000001", "step_00000001.old")]
        folders += [run / name for name in ("step_00000002", "step_00000002.old", "step_00000003")]
        return [self.work / "returned", run, *folders, *(folder / name for folder in folders for name in names)]


def _save(work: Path, number: int) -> None:
    join(work / "store", number, 2, seconds=20)
    ShardedFolder(work / "run").save(state(4), 4, loss(4))


def _save_quietly(work: Path, number: int) -> None:
    try:
        _save(work, number)
    except (CheckpointError, RuntimeError):  # the other one is gone
        pass


def kills_at_every_call(work: Path, every: int = 1) -> Counter:
    """One of the two processes is killed at each of its calls on the files of a save; or both, in turn."""
    counts = Counter()
    for number in (0, 1):
        save = ShardedSave(work / f"{number}", number)
        save.prepare()
        other = save.start_the_other()
        error, log = calls.watched(save)
        other.join(30)
        promise(error == "", f"the save said {error}")
        points = list(calls._numbered_calls(log))[::every]
        counts += count(
            partial(_killed_at, save, call, number_of_call, both=place % 2 == 1)
            for place, (call, number_of_call) in enumerate(points)
        )
    return counts


def _killed_at(save: ShardedSave, call: str, number: int, both: bool) -> str:
    save.prepare()
    other = save.start_the_other()
    error, _ = calls.watched(save, "-e", f"inject={call}:signal=KILL:when={number}")
    if both:
        other.kill()
    other.join(30)
    where = f"process {save.number}{' and the other' if both else ''} killed at {call} {number}"
    promise(other.exitcode is not None, f"{where}: the other one does not end")
    promise(not error, f"{where}: {error}")
    found = loaded(ShardedFolder(save.work / "run"))["step"]
    promise(found in (3, 4), f"{where}: step {found} instead of 3 or 4")
    promise(found == 4 or not (save.work / "returned").exists(), f"{where}: the save had returned, and is lost")
    promise(loaded(ShardedFolder(save.work / "run"), best=True)["step"] == 2, f"{where}: the best is gone")
    promise(not list(save.work.rglob("*.damaged*")), f"{where}: something was not whole")
    folder = ShardedFolder(save.work / "run")
    folder.save(state(5), 5, loss(5))
    left = [path.name for path in (save.work / "run").iterdir()]
    promise(sorted(left) == ["step_00000002", f"step_{found:08d}", "step_00000005"], f"{where}: left are {left}")
    return EXACT if found == 4 else FELL_BACK


def _two_checkpoints(number: int, run: Path) -> str:
    folder = ShardedFolder(run)
    for step in (2, 3):
        folder.save(state(step), step, loss(step))
    return "done"


def damaged(work: Path, every: int = 1) -> Counter:
    """Each file of the newest one damaged in turn, at each of its bytes, say; missing; or put there by somebody."""
    work.mkdir(exist_ok=True)
    promise(Together(2, _two_checkpoints, work / "run").wait() == ["done"] * 2, "no checkpoints to damage")
    newest, marker = work / "run" / "step_00000003", work / "marker"
    trials = [partial(_the_plant_works, marker)]
    for path in sorted(newest.iterdir()):
        kinds = list(_damage(path.read_bytes()))[::every]
        other = (work / "run" / "step_00000002" / path.name).read_bytes()
        kinds += [("missing", None), ("that of the step before", other), ("empty", b"")]
        kinds += [("a planted pickle", pickle.dumps(_Plant(marker)))]
        trials += [partial(_in_a_copy, work, path.name, what, content, marker) for what, content in kinds]
    trials += [partial(_without_a_manifest_or_alone, work, marker)]
    return count(trials)


def _damage(content: bytes) -> Iterator[tuple[str, bytes]]:
    for place in range(len(content)):
        yield f"a bit of byte {place} flipped", content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :]
    for length in range(0, len(content), 16):
        yield f"cut after {length} bytes", content[:length]
        yield f"zeros from byte {length}", content[:length] + bytes(len(content) - length)


def _the_plant_works(marker: Path) -> str:
    """Without protection it would do harm: else the trials prove nothing. DCP itself would run it."""
    pickle.loads(pickle.dumps(_Plant(marker)))
    promise(marker.exists(), "the plant is harmless")
    marker.unlink()
    return EXACT


def _in_a_copy(work: Path, name: str, what: str, content: bytes | None, marker: Path) -> str:
    run = Path(tempfile.mkdtemp(dir=work)) / "run"
    shutil.copytree(work / "run", run)
    path = run / "step_00000003" / name
    before = path.read_bytes()
    path.unlink() if content is None else path.write_bytes(content)
    found = loaded(ShardedFolder(run))
    promise(not marker.exists(), f"{name}, {what}: the planted code ran")
    if content == before:
        promise(found["step"] == 3, f"{name}, {what}: unchanged, and step {found['step']} is loaded")
        outcome = EXACT
    else:
        promise(found["step"] == 2, f"{name}, {what}: step {found['step']} is loaded")
        promise((run / "step_00000003.damaged").exists(), f"{name}, {what}: not set aside")
        outcome = FELL_BACK
    shutil.rmtree(run.parent)
    return outcome


def _without_a_manifest_or_alone(work: Path, marker: Path) -> str:
    """With nothing good beside it, a training must not start anew silently."""
    run = Path(tempfile.mkdtemp(dir=work)) / "run"
    shutil.copytree(work / "run", run)
    for path in run.iterdir():
        (path / ".metadata").write_bytes(pickle.dumps(_Plant(marker)))
    for _ in range(2):  # the second time they are set aside already
        try:
            loaded(ShardedFolder(run))
        except DamagedCheckpoint:
            raise
        except CheckpointError as error:
            promise(str(run) in str(error), f"it says {error}")
        else:
            raise Wrong("nothing is good, and nothing is said")
    promise(not marker.exists(), "the planted code ran")
    return REFUSED


def full_disks(work: Path, every: int = 1) -> Counter:
    """A disk that is full after each page of a checkpoint of two processes until it fits; then there is space."""
    return count(
        partial(_full, work / f"{pages}-{background}", pages * disk.PAGE, background)
        for pages, background in list(product(range(9), [False, True]))[::every]
    )


def _full(work: Path, free: int, background: bool) -> str:
    with disk._small_disk(work) as place:
        promise(Together(2, _two_checkpoints, place / "run").wait() == ["done"] * 2, "no first saves")
        ballast = disk._leave_free(place, free)
        answers = Together(2, _save_and_wait, place / "run", background).wait()
        if answers == ["done"] * 2:  # the whole checkpoint fits
            promise(loaded(ShardedFolder(place / "run"))["step"] == 4, f"{free} bytes free: the save is not found")
            return EXACT
        words = [answer.startswith("CheckpointError") and "the disk is full" in answer for answer in answers]
        promise(all(words), f"{free} bytes free: they said {answers}")
        left = sorted(path.name for path in (place / "run").iterdir())
        promise(left == ["step_00000002", "step_00000003"], f"{free} bytes free: left are {left}")
        promise(loaded(ShardedFolder(place / "run"))["step"] == 3, f"{free} bytes free: the earlier one is not found")
        ballast.unlink()
        promise(Together(2, _save_and_wait, place / "run", background).wait() == ["done"] * 2, "no save after it")
        return REFUSED


def _save_and_wait(number: int, run: Path, background: bool) -> str:
    folder = ShardedFolder(run)
    (folder.async_save if background else folder.save)(state(4), 4, loss(4))
    folder.wait()
    return "done"
