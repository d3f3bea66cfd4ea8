"""Any sequence of saves, damage, restarts and looks: a checkpoint folder keeps what it promises.

Hypothesis makes up the sequences, and shrinks one that breaks a promise to a short one.
Source: https://hypothesis.readthedocs.io/en/latest/stateful.html
"""

import shutil
import tempfile
import traceback
import warnings
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from course_utils.checkpoints import CheckpointError, CheckpointFolder
from faults.trials import EXACT, TRIED, WRONG, a_checkpoint, contents, same

OTHERS = {"notes.txt": b"mine", "best_friend.png": b"mine", "step_1.onnx": b"mine"}


class Promises(RuleBasedStateMachine):
    """`files` is what must be on the disk: {name: (checkpoint, is it whole)}."""

    tried = 0  # sequences

    def __init__(self):
        super().__init__()
        Promises.tried += 1
        self.place = Path(tempfile.mkdtemp(prefix="promises-"))
        for name, content in OTHERS.items():
            (self.place / name).write_bytes(content)
        self.files, self.saves, self.newest, self.parts = {}, 0, 0, False
        self.known = None  # the step that this process saved or found last

    def teardown(self):
        self.folder.wait()
        shutil.rmtree(self.place)

    @initialize(keep_last=st.integers(1, 3), keep_best=st.integers(1, 3), background=st.booleans())
    def new_folder(self, **options):
        self.options = options
        self.folder = CheckpointFolder(self.place, **options)

    @rule(ahead=st.sampled_from([1, 1, 1, 5, 0, -1]), val_loss=st.integers(0, 4), new_metrics=st.booleans())
    def save(self, ahead, val_loss, new_metrics):
        """Of the next step, of the same one again, or of one before it: refused, unless it was gone back to.

        The last and the best are kept by their names, a damaged one too until it is read.
        """
        step = max(1, self.newest + ahead)
        checkpoint = a_checkpoint(step, self.saves + 1, float(val_loss))
        first_allowed = self.known if self.known is not None else max(map(_step, self.files), default=-1) + 1
        if step < first_allowed:
            self.folder.wait()
            before = {name: one for name, one in contents(self.place).items() if not name.endswith(".part")}
            with pytest.raises(CheckpointError, match="does not come after"):
                self.folder.save(checkpoint, new_metrics)
            assert before.items() <= contents(self.place).items()
            self.parts = any(name.endswith(".part") for name in contents(self.place))
            return
        self.newest = self.known = step
        self.saves += 1
        self.folder.save(checkpoint, new_metrics)
        last, best = self._kept("step_"), self._kept("best_")
        last[f"step_{self.newest:08d}.pt"] = checkpoint, True
        self.parts = False  # a save cleans up
        name = f"best_{self.newest:08d}_val_loss={float(val_loss)}.pt"
        better = [other for other in best if other != name and _value(other) <= val_loss]
        if new_metrics and len(better) < self.options["keep_best"]:
            best[name] = checkpoint, True
        just_saved = {f"step_{self.newest:08d}.pt": (checkpoint, True)}  # stays, even before newer ones
        self.files = _first(last, lambda name: -_step(name), self.options["keep_last"]) | just_saved
        self.files |= _first(best, lambda name: (_value(name), _step(name)), self.options["keep_best"])

    @precondition(lambda self: self.files)
    @rule(data=st.data(), how=st.sampled_from(["flipped", "cut", "empty", "zeros"]))
    def damage(self, data, how):
        self.folder.wait()
        name = data.draw(st.sampled_from(sorted(self.files)))
        content = (self.place / name).read_bytes()
        record = content.find(self.files[name][0]["model_state_dict"]["layer.weight"].numpy().tobytes())
        if record > 0:  # else it is damaged already
            flipped = content[:record] + bytes([content[record] ^ 1]) + content[record + 1 :]
            damaged = {"flipped": flipped, "cut": content[:-100], "empty": b"", "zeros": bytes(len(content))}
            (self.place / name).write_bytes(damaged[how])
            for other in self.files:  # a new best and the last are two names of one file
                if (self.place / other).samefile(self.place / name):
                    self.files[other] = self.files[other][0], False

    @rule(step=st.integers(1, 9))
    def leave_a_part(self, step):
        """What a killed save leaves."""
        self.folder.wait()
        (self.place / f"step_{step:08d}.pt.part").write_bytes(b"half")
        self.parts = True

    @rule()
    def restart(self):
        self.folder.wait()
        self.folder = CheckpointFolder(self.place, **self.options)
        self.known = None

    @rule()
    def wait(self):
        self.folder.wait()
        there = contents(self.place)
        assert {name for name in there if name.endswith(".pt")} == set(self.files)
        assert self.parts == any(name.endswith(".part") for name in there)

    @rule()
    def latest(self):
        """The newest whole one; or an error, once anything was saved."""
        whole = {name: checkpoint for name, (checkpoint, is_whole) in self.files.items() if is_whole}
        newest = max(map(_step, whole), default=None)
        try:
            found = self._look(self.folder.latest)
        except CheckpointError:
            assert self.saves and not whole
        else:
            expected = [checkpoint for name, checkpoint in whole.items() if _step(name) == newest]
            assert any(same(found, one) for one in expected) if self.saves else found is None
            if found is not None:
                self.known = self.newest = newest
        self._set_aside(lambda name: newest is None or _step(name) > newest)

    @rule()
    def best(self):
        """The best whole one; of equal ones the earlier."""
        whole = _first({name: kept for name, kept in self._kept("best_").items() if kept[1]}, _order_of_best, 1)
        found = self._look(self.folder.best)
        assert same(found, next(iter(whole.values()))[0]) if whole else found is None
        first = min(map(_order_of_best, whole), default=None)
        self._set_aside(lambda name: name in self._kept("best_") and (first is None or _order_of_best(name) < first))

    @invariant()
    def other_files_are_untouched(self):
        assert all((self.place / name).read_bytes() == content for name, content in OTHERS.items())

    def _look(self, function):
        self.folder.wait()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return function()

    def _kept(self, kind: str) -> dict:
        return {name: kept for name, kept in self.files.items() if name.startswith(kind)}

    def _set_aside(self, read) -> None:
        """What was read and found damaged has another name now; nothing whole has."""
        there = contents(self.place)
        for name, (_, is_whole) in list(self.files.items()):
            if name not in there:
                assert not is_whole and f"{name}.damaged" in there
                del self.files[name]
            else:
                assert is_whole or not read(name)


def _first(kept: dict, order, number: int) -> dict:
    return {name: kept[name] for name in sorted(kept, key=order)[:number]}


def _step(name: str) -> int:
    return int(name.split("_")[1].removesuffix(".pt"))


def _value(name: str) -> float:
    return float(name.split("=")[1].removesuffix(".pt"))


def _order_of_best(name: str) -> tuple[float, int]:
    return _value(name), _step(name)


def sequences(_: Path, examples: int) -> Counter:
    """Try this many sequences of up to 40 operations."""
    Promises.tried = 0
    options = settings(max_examples=examples, stateful_step_count=40, deadline=None, database=None)
    try:
        run_state_machine_as_test(Promises, settings=options)
    except Exception:
        print(f"WRONG: {traceback.format_exc()}")
        return Counter({TRIED: Promises.tried, WRONG: 1})
    return Counter({TRIED: Promises.tried, EXACT: Promises.tried})
