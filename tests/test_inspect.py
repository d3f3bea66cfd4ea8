"""python -m course_utils.inspect: what a file holds, and nothing of it ever runs."""

import gzip
import io
import json
import os
import pickle
import random
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from torch import nn

from course_utils.checkpoints import CheckpointError, Training, load_checkpoint, save_checkpoint
from course_utils.inspect import Unreadable, look, report
from course_utils.inspect.__main__ import main
from course_utils.inspect.findings import RESUME
from course_utils.inspect.pickles import follow

damage = pytest.importorskip("faults.damage", reason="Windows cannot import the faults")
FILES = Path(__file__).parent / "files"


@pytest.fixture
def write(tmp_path):
    """A function that writes bytes to a file and looks at it."""

    def written(content, name="file"):
        (tmp_path / name).write_bytes(content)
        return look(tmp_path / name)

    return written


def saved(value, **options):
    file = io.BytesIO()
    torch.save(value, file, **options)
    return file.getvalue()


def a_model():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))


# What it holds -------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("modern", [True, False])
@pytest.mark.parametrize("protocol", [2, 4])
def test_the_tensors_of_torch_save(write, modern, protocol):
    tensors = {"a": torch.ones(2, 3), "row": torch.eye(4)[:, 1], "none": torch.ones(0, 5), "one": torch.tensor(1)}
    tensors |= {str(dtype): torch.ones(2).to(dtype) for dtype in (torch.bfloat16, torch.float16, torch.bool)}
    found = write(saved({"model": tensors}, _use_new_zipfile_serialization=modern, pickle_protocol=protocol))
    assert found.tensors == {
        f"model.{name}": (str(tensor.dtype).removeprefix("torch."), tuple(tensor.shape))
        for name, tensor in tensors.items()
    }
    assert found.runs == found.faults == [] and ("before PyTorch 1.6" in found.kind) != modern


def test_new_types_parameters_and_sparse_tensors(write):
    content = {"u": torch.ones(3, dtype=torch.uint16), "f": torch.ones(3).to(torch.float8_e4m3fn)}
    content |= {"p": nn.Parameter(torch.ones(2)), "s": torch.eye(3).to_sparse()}
    found = write(saved(content))
    assert found.tensors["u"] == ("uint16", (3,)) and found.tensors["f"] == ("float8_e4m3fn", (3,))
    assert ("float32", (2,)) in found.tensors.values() and ("float32", (3,)) in found.tensors.values()
    assert found.runs == found.faults == []


def test_safetensors(tmp_path):
    state_dict = {**a_model().state_dict(), "none": torch.ones(0, 2), "half": torch.ones(3, dtype=torch.bfloat16)}
    save_file(state_dict, tmp_path / "model", metadata={"about": "a test"})
    found = look(tmp_path / "model")
    assert found.kind.startswith("safetensors") and found.runs == found.faults == []
    assert found.tensors == {
        name: (str(one.dtype).removeprefix("torch."), tuple(one.shape)) for name, one in state_dict.items()
    }


def test_a_program_of_torch_export_and_what_is_planted_in_it(tmp_path):
    model = a_model().eval()
    torch.export.save(torch.export.export(model, (torch.ones(2, 3),)), tmp_path / "program.pt2")
    found = look(tmp_path / "program.pt2")
    assert ".pt2" in found.kind and found.runs == found.faults == []
    assert found.tensors["0.weight"] == ("float32", (4, 3)) and len(found.tensors) == len(model.state_dict())
    with zipfile.ZipFile(tmp_path / "program.pt2") as old, zipfile.ZipFile(tmp_path / "planted.pt2", "w") as new:
        for name in old.namelist():
            planted = saved(damage._Plant(tmp_path / "marker"))
            new.writestr(name, planted if name.endswith("sample_inputs/model.pt") else old.read(name))
    [run] = look(tmp_path / "planted.pt2").runs
    assert run.startswith(f"{open.__module__}.open(") and run.endswith("data/sample_inputs/model.pt")
    assert not (tmp_path / "marker").exists()


def test_torchscript_is_called_a_program(tmp_path):
    with zipfile.ZipFile(tmp_path / "program.pt", "w") as archive:
        for name in ("program/constants.pkl", "program/data.pkl"):
            archive.writestr(name, pickle.dumps(None, 2))
    assert "TorchScript" in look(tmp_path / "program.pt").kind


# What an exact resume needs ------------------------------------------------------------------------------------------
def test_a_checkpoint_of_training_lacks_nothing(tmp_path):
    model = a_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with Training(tmp_path, {"model": model, "optimizer": optimizer}, metric="loss") as training:
        for _ in training.epochs(1):
            for (x,) in training.batches([(torch.ones(2, 3),)]):
                model(x).sum().backward()
                optimizer.step()
            training.end_epoch({"loss": 1.0})
    found = look(next(tmp_path.glob("step_*.pt")))
    assert found.kind.startswith("a checkpoint of `Training` (format 3)") and found.runs == found.faults == []
    assert found.lacks == ["the scheduler"], "there was none"


@pytest.mark.parametrize("name", ["format_1.pt", "format_2.pt"])
def test_our_older_checkpoints_lack_nothing(name):
    assert look(FILES / name).lacks == look(FILES / name).faults == []


def test_what_a_foreign_checkpoint_lacks_is_named(write):
    model = a_model()
    optimizer = torch.optim.Adam(model.parameters())
    weights = write(saved(model.state_dict()))
    assert weights.lacks == list(RESUME)
    usual = {"epoch": 1, "model_state_dict": model.state_dict(), "optimizer_state_dict": optimizer.state_dict()}
    found = write(saved({**usual, "loss": 0.5}))
    assert found.lacks == ["the scheduler", "the best so far", "the random generators", "the order of the data"]
    more = {"lr_scheduler": None, "best_loss": 0.1, "torch_rng": torch.get_rng_state(), "sampler": {"seed": 1}}
    assert write(saved({**usual, **more})).lacks == []


# Whether it is whole -------------------------------------------------------------------------------------------------
def test_each_damage_that_a_load_refuses_is_seen(tmp_path, write):
    """The bytes of a checkpoint flipped, cut, lost and doubled, every 31st of all these files."""
    whole = save_checkpoint(damage.SECOND, tmp_path / "whole.pt").read_bytes()
    refusals = 0
    for what, content in list(damage._damaged(whole))[::31]:
        found = write(content)
        try:
            load_checkpoint(tmp_path / "file")
        except CheckpointError:
            refusals += 1
            assert found.faults or found.runs, what
    assert refusals > 300


def test_each_damage_of_a_safetensors_header_is_seen_or_harmless(tmp_path, write):
    """What the library refuses is seen here; what is whole for both has the same tensors."""
    from safetensors import SafetensorError
    from safetensors.torch import load

    save_file(a_model().state_dict(), tmp_path / "model")
    whole, seen = (tmp_path / "model").read_bytes(), 0
    for what, content in damage._damaged(whole):
        found = write(content)
        try:
            tensors = load(content)
        except (SafetensorError, ValueError, KeyError):
            seen += 1
            assert found.faults, what
        else:
            assert found.faults or {name: shape for name, (_, shape) in found.tensors.items()} == {
                name: tuple(tensor.shape) for name, tensor in tensors.items()
            }, what
    assert seen > 1000


@pytest.mark.parametrize(
    "content, words",
    [
        (b"", "interrupted"),
        (bytes(4000), "zeros"),
        (b"hello, I am not a checkpoint", "no kind"),
        (b"PK\x03\x04", "cut off or damaged"),
        (struct.pack("<Q", 50) + b'{"a":', "cut off or damaged"),
        (struct.pack("<Q", 2) + b"{}" + b"more", "4 are there"),
        (pickle.dumps([1]) + b"more", "follow after its end"),
        (pickle.dumps(list(range(100)))[:-20], "cannot be followed"),
    ],
)
def test_files_that_are_not_whole(write, content, words):
    assert words in " ".join(write(content).faults)


def header(**entries):
    text = json.dumps(entries).encode()
    return struct.pack("<Q", len(text)) + text


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [-1], "data_offsets": [0, -4]},
        {"dtype": "F99", "shape": [1], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [10**5000], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [1.0], "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2**40, 2**40], "data_offsets": [0, 2**82]},
        {"dtype": "F32", "shape": [1], "data_offsets": [4, 8]},
        {"dtype": "F32"},
        "no entry",
    ],
)
def test_a_header_that_lies_is_seen(write, entry, monkeypatch):
    sys.set_int_max_str_digits(0)
    content = header(a=entry) + bytes(4)
    sys.set_int_max_str_digits(4300)
    assert write(content).faults


def test_two_tensors_in_one_place_or_of_one_name(write):
    one = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
    assert "overlap" in write(header(a=one, b=one) + bytes(4)).faults[0]
    text = b'{"a":%s,"a":%s}' % ((json.dumps(one).encode(),) * 2)
    assert "one name" in write(struct.pack("<Q", len(text)) + text + bytes(4)).faults[0]


def test_a_tensor_that_is_larger_than_its_bytes(tmp_path):
    """As a planted file describes it: PyTorch before 2.10 could be made to read beyond the end."""
    (tmp_path / "small.pt").write_bytes(saved({"w": torch.ones(2)}))
    with zipfile.ZipFile(tmp_path / "small.pt") as old, zipfile.ZipFile(tmp_path / "large.pt", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, content.replace(b"K\x02\x85", b"K\x09\x85") if name.endswith("data.pkl") else content)
    assert "larger than the bytes" in look(tmp_path / "large.pt").faults[0]


def test_files_that_two_programs_read_differently(tmp_path, write):
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("a", "1")
    assert "appended" in " ".join(write(pickle.dumps([1]) + archive.getvalue()).faults)
    with zipfile.ZipFile(tmp_path / "twice", "w") as file, pytest.warns(UserWarning, match="Duplicate"):
        file.writestr("a", "1")
        file.writestr("a", "2")
    assert "two records of one name" in look(tmp_path / "twice").faults[0]


def test_a_bomb_is_not_unpacked(tmp_path):
    with zipfile.ZipFile(tmp_path / "bomb.pt", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("bomb/data.pkl", bytes(300 * 2**20))
    found = look(tmp_path / "bomb.pt")
    assert "20 times" in found.faults[0] and "cannot be read as a whole" in found.runs[0]


# What it would run ---------------------------------------------------------------------------------------------------
def test_every_plant_is_named_and_none_runs(tmp_path, write):
    marker = tmp_path / "marker"
    planted = damage._planted(marker)
    damage._the_plants_work(planted, marker)
    for what, content in planted.items():
        found = write(content)
        assert any(run.startswith(f"{open.__module__}.open(") for run in found.runs), what
    assert not marker.exists()


class Recorder(pickle._Unpickler):
    """Notes what pickle asks for and gives it nothing. The one in C takes memory for any number in a file."""

    def find_class(self, module, name):
        asked.append(f"{module}.{name}")
        return Anything

    def persistent_load(self, name):
        return Anything()


class Anything:
    def __init__(self, *args, **kwargs):
        pass

    def __call__(self, *args, **kwargs):
        return Anything()

    def __setstate__(self, state):
        pass

    def __setitem__(self, key, value):
        pass

    def append(self, item):
        pass

    def extend(self, items):
        pass


asked = []


@pytest.mark.parametrize("protocol", range(6))
def test_whatever_pickle_would_import_is_found_in_damaged_plants_too(tmp_path, protocol):
    """Bytes changed, lost and doubled at random; what pickle asks for before it fails must have been seen."""
    chance = random.Random(protocol)
    whole = pickle.dumps({"a": [1, (2.0, b"x")], "planted": damage._Plant(tmp_path / "marker")}, protocol)
    dangerous = 0
    for _ in range(4000):
        damaged = bytearray(whole)
        for _ in range(chance.randint(1, 3)):
            place, length = chance.randrange(len(damaged)), chance.randint(1, 8)
            match chance.randrange(3):
                case 0:
                    damaged[place] = chance.randrange(256)
                case 1:
                    del damaged[place : place + length]
                case 2:
                    damaged[place:place] = damaged[chance.randrange(len(damaged)) :][:length]
            content = bytes(damaged)
        asked.clear()
        try:
            Recorder(io.BytesIO(content), fix_imports=False).load()
        except Exception:
            pass
        followed = follow(io.BytesIO(content), len(content))
        assert followed.stopped or set(asked) <= set(followed.globals), (content, asked)
        dangerous += bool(asked)
    assert dangerous > 500 and not (tmp_path / "marker").exists()


def test_names_that_are_made_up_while_loading(write):
    hidden = b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94h\x00h\x01\x93\x8c\x04true\x85R."
    assert write(hidden).runs == ["os.system('true')"]
    made_up = b"\x80\x04K\x01K\x02\x93."
    assert "makes up itself" in write(made_up).runs[0]
    imported = b"\x80\x02cantigravity\nfly\n."
    assert write(imported).runs == ["the import of antigravity.fly"]
    assert write(b"\x80\x02\x82\x01.").runs == ["the import of extension 1"]
    assert write(b"c__builtin__\nexec\n(S'1'\ntR.").runs == ["__builtin__.exec('1')"], "as Python 2 called it"
    assert write(b"(S'true'\nios\nsystem\n.").runs == ["os.system('true')"]


def test_a_plant_behind_the_first_pickle_in_an_archive_and_in_a_tar(tmp_path, write):
    plant = pickle.dumps(damage._Plant(tmp_path / "marker"))
    assert write(pickle.dumps([1]) + plant).runs
    content = plant
    for depth in range(4):
        archive = io.BytesIO()
        with zipfile.ZipFile(archive, "w") as file:
            file.writestr("some/file.bin", content)
        content = archive.getvalue()
        assert write(content).runs, depth
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as file:
        file.addfile(tarfile.TarInfo("pickle"), io.BytesIO())
    assert "tar archive" in write(tar.getvalue()).runs[0]
    assert not (tmp_path / "marker").exists()


def test_what_a_file_says_cannot_command_the_terminal(write):
    found = write(b"\x80\x02c\x1b[2Jevil\nname\x07\n." + pickle.dumps({"\x1b[31m": 1}))
    assert "\x1b" not in report(found) and found.runs


@pytest.mark.parametrize(
    "content",
    [
        b"\x80\x02N" + b"\x85" * 100_000 + b".",
        b"\x80\x02" + b"]" * 1000 + b"a" * 999 + b".",
        b"\x80\x02]q\x00h\x00a.",
        b"\x80\x02\x8b\x00\x10\x00\x00" + b"\xff" * 4096 + b".",
        b"\x80\x04\x8e" + b"\xff" * 7 + b"\x7f.",
        b"\x80\x02(((((.",
        b"\x80\x02.",
        b"\x80\x02h\x05.",
        b"\x80\x02}(K\x01u.",
        b"\x80\x02K\x01K\x02R.",
        b"\x80\x02K\x01K\x02b.",
        b"\x80\x02(lp0\n" + b"I" + b"9" * 5000 + b"\n.",
        b"[" * 100_000,
        struct.pack("<Q", 100_000) + b"{" * 100_000,
        struct.pack("<Q", 100_006) + b'{"a":' + b"[" * 100_000 + b"}",
        b"\x80\x02" + b"c" * 50_000_00,
    ],
)
def test_malice_and_nonsense_end_in_words(write, content):
    assert report(write(content), every=True)


# As a command --------------------------------------------------------------------------------------------------------
def test_the_command(tmp_path):
    save_file(a_model().state_dict(), tmp_path / "model.safetensors")
    run = subprocess.run(
        [sys.executable, "-m", "course_utils.inspect", tmp_path / "model.safetensors"], capture_output=True, text=True
    )
    assert run.returncode == 0 and run.stderr == ""
    assert "holds: 7 tensors, 33 numbers (float32, int64)" in run.stdout and "and 1 more" in run.stdout
    assert "would run, if loaded carelessly: nothing" in run.stdout
    assert "for an exact resume it lacks: the optimizer, the scheduler" in run.stdout


def test_it_names_every_tensor_when_asked_and_returns_one_for_what_is_not_fine(tmp_path, capsys):
    save_file(a_model().state_dict(), tmp_path / "model")
    assert main([str(tmp_path / "model"), "--all"]) == 0 and "more" not in capsys.readouterr().out
    (tmp_path / "model").write_bytes((tmp_path / "model").read_bytes()[:-1])
    assert main([str(tmp_path / "model")]) == 1 and "NOT WHOLE" in capsys.readouterr().out
    (tmp_path / "plant").write_bytes(pickle.dumps(damage._Plant(tmp_path / "marker")))
    assert main([str(tmp_path / "plant")]) == 1


def test_what_cannot_be_read_gets_one_sentence(tmp_path, capsys):
    assert main([str(tmp_path / "none.pt")]) == 2
    assert capsys.readouterr().err == f"{tmp_path}/none.pt does not exist. Look at the path.\n"
    with pytest.raises(Unreadable, match="is a folder or a device"):
        look(tmp_path)
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(Unreadable, match="is a folder or a device"):
        look(tmp_path / "pipe")


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    (tmp_path / "secret").write_bytes(b"x")
    (tmp_path / "secret").chmod(0)
    with pytest.raises(Unreadable, match="Permission denied"):
        look(tmp_path / "secret")


def test_an_error_of_the_disk_is_not_called_damage(tmp_path, monkeypatch):
    for name, content in {"zip": saved({"a": torch.ones(9)}), "p": pickle.dumps([1])}.items():
        (tmp_path / name).write_bytes(content)

        def fail(*args):
            raise OSError(5, "Input/output error")

        monkeypatch.setattr(
            "course_utils.inspect.looking.look_into_zip"
            if name == "zip"
            else "course_utils.inspect.looking.look_into_pickles",
            fail,
        )
        with pytest.raises(Unreadable, match="Input/output error"):
            look(tmp_path / name)


def test_no_module_imports_or_runs_what_it_reads():
    """The tools that would: pickle's own, torch.load, eval and the like."""
    for path in Path(sys.modules["course_utils.inspect"].__file__).parent.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        for word in ("import pickle\n", "torch.load(", "eval(", "exec(", "__import__", "importlib", "getattr(torch"):
            assert word not in text, path.name


def test_what_stands_before_the_archive_is_not_passed_over(tmp_path):
    (tmp_path / "two").write_bytes(saved({"a": torch.ones(9)}) + saved({"b": torch.ones(3)}))
    found = look(tmp_path / "two")
    assert "before the archive, which were not looked at" in found.runs[0] and main([str(tmp_path / "two")]) == 1
    dcp.save({"m": nn.Linear(2, 2).state_dict()}, checkpoint_id=tmp_path / "dcp")
    assert main([str(tmp_path / "dcp" / "__0_0.distcp")]) == 1


@pytest.mark.parametrize("dtype", [torch.qint8, torch.quint8, torch.qint32])
def test_a_quantized_tensor_is_whole(tmp_path, dtype):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch: they will go one day
        torch.save({"w": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, dtype)}, tmp_path / "q.pt")
    found = look(tmp_path / "q.pt")
    assert found.tensors == {"w": (str(dtype).removeprefix("torch."), (3,))} and not found.faults and not found.runs


def test_arrays_of_objects_and_compressed_files_may_run_something(tmp_path):
    np.savez(tmp_path / "plain.npz", w=np.ones(3))
    assert not look(tmp_path / "plain.npz").runs
    np.savez(tmp_path / "objects.npz", w=np.array([{1: 2}], dtype=object))
    assert "NumPy unpickles an array of objects" in look(tmp_path / "objects.npz").runs[0]
    np.save(tmp_path / "objects.npy", np.array([{1: 2}], dtype=object))
    assert "NumPy unpickles" in look(tmp_path / "objects.npy").runs[0]
    (tmp_path / "weights.pkl.gz").write_bytes(gzip.compress(pickle.dumps([1])))
    assert "it is compressed" in look(tmp_path / "weights.pkl.gz").runs[0]
