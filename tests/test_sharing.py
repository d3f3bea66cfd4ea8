"""A release folder: verified from the folder alone, and refused in one sentence whatever happened to it."""

import hashlib
import json
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest
import safetensors.torch
import torch
from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError
from huggingface_hub.utils import disable_progress_bars
from torch import nn

from course_utils import sharing
from course_utils.data import CLASSES
from course_utils.hub_stub import HubStub
from course_utils.models import SMALL_CNN_TRANSFORM, SmallCNN
from course_utils.sharing import ReleaseError, main, read_release, save_release, verify

SPLIT = {"source": "drawn", "per_class": 10, "split": "val"}
ABOUT = {"data": "Drawn pictures, MIT.", "license": "mit", "limits": ["Drawings only."]}


def make(folder, model=None, **changes):
    torch.manual_seed(0)
    options = {"name": "small_cnn", "classes": CLASSES, "transform": SMALL_CNN_TRANSFORM, "split": dict(SPLIT), **ABOUT}
    return save_release(folder, model or SmallCNN(), **{**options, **changes})


@pytest.fixture(scope="module")
def released(tmp_path_factory):
    """A release, and its published hash; nobody changes it."""
    folder = tmp_path_factory.mktemp("released") / "cats-and-dogs"
    return folder, make(folder)


@pytest.fixture
def copy(released, tmp_path):
    return shutil.copytree(released[0], tmp_path / "copy")


def rewrite(folder, name, change):
    """Change a JSON file of a release, and make its sums right again."""
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))
    right_sums(folder)


def right_sums(folder):
    lines = [f"{hashlib.sha256((folder / name).read_bytes()).hexdigest()}  {name}\n" for name in sharing.FILES]
    (folder / "SHA256SUMS").write_text("".join(lines))


# What is in it, and that it holds ------------------------------------------------------------------------------------
def test_it_verifies_exactly_on_the_same_machine(released):
    folder, published = released
    assert sorted(path.name for path in folder.iterdir()) == sorted([*sharing.FILES, "SHA256SUMS"])
    said = verify(folder, published)
    stated = json.loads((folder / "passport.json").read_text())
    assert said.startswith(f"{stated['correct']} of 4 are right") and "no difference is allowed" in said


def test_the_card_says_data_licence_metric_with_error_limits_versions_and_preprocessing(released):
    card = (released[0] / "README.md").read_text()
    assert card.startswith("---\nlicense: mit\n")
    for words in (
        "Drawn pictures, MIT.",
        "± ",
        "one standard error",
        "Drawings only.",
        f"torch {version('torch')}",
        "crop_size",
    ):
        assert words in card


def test_the_command_in_a_process_of_its_own(released):
    command = [sys.executable, "-m", "course_utils.sharing", "verify", released[0], "--sha256", released[1]]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.count("\n") == 1 and run.stderr == ""


def test_sha256sum_reads_the_list(released):
    if not shutil.which("sha256sum"):
        pytest.skip("there is no sha256sum here")
    run = subprocess.run(["sha256sum", "-c", "SHA256SUMS"], cwd=released[0], capture_output=True, text=True)
    assert run.returncode == 0 and run.stdout.count("OK") == 4


def test_half_precision_weights_may_be_released(tmp_path):
    torch.manual_seed(0)
    make(tmp_path / "half", SmallCNN().half())
    assert "no difference is allowed" in verify(tmp_path / "half")
    assert (tmp_path / "half" / "model.safetensors").stat().st_size < 210_000


def test_another_model_of_the_package_and_the_hubs_own_file(tmp_path):
    from course_utils.models import build_model

    model, transform = build_model("resnet18", 2, pretrained=False)
    make(tmp_path / "resnet", model, name="resnet18", transform=transform)
    (tmp_path / "resnet" / ".gitattributes").write_text("*.safetensors filter=lfs")
    assert "no difference is allowed" in verify(tmp_path / "resnet")


# What happens on the way ---------------------------------------------------------------------------------------------
def flip(path, place):
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


HAPPENS = {
    **{f"{name} changed": (lambda f, n=name: flip(f / n, -1), f"{name} was changed") for name in sharing.FILES},
    **{f"{name} missing": (lambda f, n=name: (f / n).unlink(), f"{name} is missing") for name in sharing.FILES},
    "no sums": (lambda f: (f / "SHA256SUMS").unlink(), "has no SHA256SUMS"),
    "renamed": (lambda f: (f / "config.json").rename(f / "config.txt"), "config.json under another name"),
    "code added": (lambda f: (f / "modeling.py").write_text("boom"), "modeling.py does not belong to the release"),
    "a hidden file": (lambda f: (f / ".profile").write_text("boom"), ".profile does not belong to the release"),
    "a folder": (lambda f: (f / "code").mkdir(), "holds code, which is no file"),
    "sums of another file": (
        lambda f: (f / "SHA256SUMS").write_text((f / "SHA256SUMS").read_text().replace("config.json", "config.txt")),
        "does not list exactly",
    ),
    "a line too many": (
        lambda f: (f / "SHA256SUMS").write_text((f / "SHA256SUMS").read_text() + f"{'0' * 64}  more\n"),
        "does not list exactly",
    ),
    "sums are nonsense": (lambda f: (f / "SHA256SUMS").write_bytes(bytes(range(256))), "does not list exactly"),
    "the first byte": (lambda f: flip(f / "model.safetensors", 0), "model.safetensors was changed"),
}


@pytest.mark.parametrize("what", HAPPENS)
def test_what_happened_is_said_in_one_sentence(copy, what, capsys):
    happens, words = HAPPENS[what]
    happens(copy)
    assert main(["verify", str(copy)]) == 1
    said = capsys.readouterr()
    assert words in said.err and said.err.count("\n") == 1 and said.out == ""


def test_a_missing_folder_and_a_file_get_one_sentence(tmp_path):
    (tmp_path / "file").write_text("x")
    for name in ("none", "file"):
        with pytest.raises(ReleaseError, match="Give the folder of a release"):
            verify(tmp_path / name)


def test_every_byte_counts(copy):
    """Any byte of any file, and of the list: refused, or at least no longer the published release."""
    _, published = read_release(copy)
    for path in sorted(copy.iterdir()):
        whole = path.read_bytes()
        for place in [*range(0, len(whole), max(1, len(whole) // 50)), len(whole) - 1]:
            flip(path, place)
            try:
                assert read_release(copy)[1] != published
            except ReleaseError:
                pass
            path.write_bytes(whole)
    assert read_release(copy)[1] == published


# Who makes the sums right again --------------------------------------------------------------------------------------
def test_a_forged_folder_agrees_with_itself_and_not_with_the_published_hash(copy, released):
    other = SmallCNN()
    (copy / "model.safetensors").write_bytes(safetensors.torch.save(other.state_dict()))
    right_sums(copy)
    read_release(copy)
    with pytest.raises(ReleaseError, match="another release"):
        verify(copy, released[1])


def test_a_number_that_was_invented_is_refused(copy):
    rewrite(copy, "passport.json", lambda passport: passport.update(correct=passport["correct"] ^ 3))
    with pytest.raises(ReleaseError, match="more apart than the 0 allowed here"):
        verify(copy)


def test_on_another_class_of_machine_the_bound_counts_and_it_cannot_be_stretched(copy, monkeypatch):
    rewrite(copy, "passport.json", lambda passport: passport["machine"].update(instructions="another"))
    assert "Another class of machine (instructions " in verify(copy)
    rewrite(copy, "passport.json", lambda passport: passport.update(correct=passport["correct"] ^ 3, within=4))
    with pytest.raises(ReleaseError, match="more apart than the 0 allowed"):
        verify(copy)


def test_within_the_bound_another_machine_may_differ(tmp_path, monkeypatch):
    make(tmp_path / "large", split={"source": "drawn", "per_class": 250, "split": "val"})
    stated = json.loads((tmp_path / "large" / "passport.json").read_text())
    assert (stated["images"], stated["within"]) == (100, 1)
    monkeypatch.setattr(sharing, "_correct", lambda model, images: stated["correct"] + 1)
    with pytest.raises(ReleaseError, match="0 allowed"):
        verify(tmp_path / "large")
    monkeypatch.setattr(sharing, "_machine", lambda: {**stated["machine"], "threads": 64})
    assert "Another class of machine (threads 64): 1 more or less are allowed" in verify(tmp_path / "large")


FORGED = {
    "an unknown model": ("config.json", {"model": "os.system"}, "No known model"),
    "a number for a model": ("config.json", {"model": 3}, "No known model"),
    "other classes": ("config.json", {"classes": ["a", "b", "c"]}, "No known model"),
    "no classes": ("config.json", {"classes": None}, "No known model"),
    "pictures of a gigapixel": ("config.json", {"transform": {"crop_size": 10**6}}, "No known model"),
    "another preprocessing": ("config.json", {"transform": {"code": "exec()"}}, "No known model"),
    "a split of elsewhere": ("passport.json", {"split": {"source": "../../etc"}}, "source is '../../etc'"),
    "the training split": ("passport.json", {"split": {**SPLIT, "split": "train"}}, "split is 'train'"),
    "too many images": ("passport.json", {"split": {**SPLIT, "per_class": 10**9}}, "per_class is 1000000000"),
    "another drawing": ("passport.json", {"split": {**SPLIT, "drawing": 99}}, "drawing version 99"),
    "no number": ("passport.json", {"correct": None}, "does not state what it should"),
    "other images": ("passport.json", {"images": 5}, "has 4 images here"),
    "no machine": ("passport.json", {"machine": 1}, "does not state what it should"),
}


@pytest.mark.parametrize("what", FORGED)
def test_a_forged_file_with_right_sums_is_refused_in_one_sentence(copy, what):
    name, change, words = FORGED[what]
    rewrite(copy, name, lambda content: content.update(change))
    with pytest.raises(ReleaseError, match=words) as refused:
        verify(copy)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("content", [b"not json", b"[" * 100_000, b"[]", b"\xff"])
def test_a_config_that_is_no_config(copy, content):
    (copy / "config.json").write_bytes(content)
    right_sums(copy)
    with pytest.raises(ReleaseError, match="is no JSON|holds no names and values"):
        verify(copy)


def test_a_pickle_in_place_of_the_weights_does_not_run(copy, tmp_path):
    class Plant:
        def __reduce__(self):
            return open, (str(tmp_path / "marker"), "w")

    torch.save({"w": Plant()}, copy / "model.safetensors")
    right_sums(copy)
    with pytest.raises(ReleaseError, match="No known model"):
        verify(copy)
    assert not (tmp_path / "marker").exists()


# What the maker did wrong --------------------------------------------------------------------------------------------
def test_a_maker_is_told_and_nothing_is_written_or_overwritten(tmp_path, released):
    for changes in ({"name": "small_cn"}, {"classes": ("a",)}, {"split": {**SPLIT, "split": "train"}}):
        with pytest.raises(ValueError, match="Nothing was written"):
            make(tmp_path / "new", **changes)
    with pytest.raises(ValueError, match="Nothing was written"):
        make(tmp_path / "new", nn.Linear(1, 1))
    assert not (tmp_path / "new").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("keep me")
    with pytest.raises(FileExistsError, match="is not empty"):
        make(tmp_path / "mine")
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]


# The Hub, by the real library ----------------------------------------------------------------------------------------
@pytest.fixture
def api():
    disable_progress_bars()
    hub = HubStub()
    yield HfApi(endpoint=hub.start(), token="any")
    hub.stop()


def test_push_load_back_and_a_revision_pinned_by_its_hash(api, released, tmp_path):
    folder, published = released
    api.create_repo("student/pets")
    first = api.upload_folder(repo_id="student/pets", folder_path=folder)
    assert "no difference is allowed" in verify(api.snapshot_download("student/pets", cache_dir=tmp_path), published)
    second = api.upload_file(path_or_fileobj=b"{}", path_in_repo="config.json", repo_id="student/pets")
    assert len({first.oid, second.oid}) == 2 and api.model_info("student/pets").sha == second.oid
    with pytest.raises(ReleaseError, match="config.json was changed"):
        verify(api.snapshot_download("student/pets", cache_dir=tmp_path), published)
    pinned = api.snapshot_download("student/pets", revision=first.oid, cache_dir=tmp_path)
    assert Path(pinned).name == first.oid and read_release(pinned)[1] == published


def test_what_is_not_there_is_said_as_by_the_real_hub(api, released, tmp_path):
    with pytest.raises(RepositoryNotFoundError):
        api.snapshot_download("student/nothing", cache_dir=tmp_path)
    api.create_repo("student/pets")
    api.upload_folder(repo_id="student/pets", folder_path=released[0])
    with pytest.raises(RevisionNotFoundError):
        api.snapshot_download("student/pets", revision="f" * 40, cache_dir=tmp_path)
    assert api.file_exists("student/pets", "config.json") and not api.file_exists("student/pets", "modeling.py")


def test_the_mixin_of_the_library_works_with_it_too(api, tmp_path):
    from huggingface_hub import PyTorchModelHubMixin

    class Net(nn.Linear, PyTorchModelHubMixin):
        pass

    torch.manual_seed(0)
    net = Net(3, 2)
    net.save_pretrained(tmp_path / "net")
    api.create_repo("student/net")
    api.upload_folder(repo_id="student/net", folder_path=tmp_path / "net")
    there = api.snapshot_download("student/net", cache_dir=tmp_path / "cache")
    assert torch.equal(Net.from_pretrained(there, in_features=3, out_features=2).weight, net.weight)
