"""The downloader, against a real HTTP server on loopback with the faults that servers have."""

import hashlib
import io
import json
import os
import socket
import zipfile
from pathlib import Path

import numpy as np
import pytest
from archive_server import serve
from PIL import Image
from werkzeug.utils import redirect
from werkzeug.wrappers import Response

from course_utils.data import archive, find_images, remote
from course_utils.data.archive import ArchiveError, ArchiveUnreachable, fetch_photos

NEEDS_DEV_FULL = pytest.mark.skipif(not Path("/dev/full").exists(), reason="/dev/full is Linux's always full disk")


def image_bytes(seed, mode="RGB", kind="JPEG"):
    pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(file, kind, quality=95)
    return file.getvalue()


CLEAN = {
    f"PetImages/{name}/{i}.jpg": image_bytes((seed, i)) for seed, name in enumerate(archive.CLASSES) for i in range(12)
}
TROUBLED = {
    "readme[1].txt": b"read me",
    "PetImages/Cat/0.jpg": image_bytes(0),
    "PetImages/Cat/666.jpg": b"",
    "PetImages/Cat/2.jpg": b"<html>not an image</html>",
    "PetImages/Cat/3.jpg": image_bytes(3)[:-900],
    "PetImages/Cat/4.jpg": image_bytes(4, "L"),
    "PetImages/Cat/5.jpg": image_bytes(5, "RGBA", "PNG"),
    "PetImages/Cat/6.jpg": image_bytes(6),
    "PetImages/Cat/Thumbs.db": b"thumbs",
    "PetImages/Dog/0.jpg": image_bytes(10),
    "PetImages/Dog/1.jpg": image_bytes(11, "CMYK"),
    "PetImages/Dog/notes.jpg": image_bytes(12),
}


def make_zip(path, members):
    with zipfile.ZipFile(path, "w") as file:
        for name, data in members.items():
            file.writestr(name, data)
    return path


def names(cat, dog):
    return [f"PetImages/Cat/{i}.jpg" for i in cat] + [f"PetImages/Dog/{i}.jpg" for i in dog]


def photos(folder):
    """Everything below PetImages, hidden and half-written files too."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.glob("PetImages/**/*")
        if path.is_file()
    }


def check(folder, expected, members=CLEAN):
    assert photos(folder) == {name: members[name] for name in expected}
    assert set(manifest(folder)["files"]) == set(expected)


def manifest(folder):
    return json.loads((folder / "manifest.json").read_text())


@pytest.fixture(autouse=True)
def small_scale(monkeypatch):
    monkeypatch.setattr(remote, "NEAR", 4000)  # a class of the test archive has some 30 kB
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("COURSE_ARCHIVE_URL", raising=False)


@pytest.fixture
def clean(tmp_path, monkeypatch):
    """A good archive, whose size and hash are the ones to be expected."""
    path = make_zip(tmp_path / "clean.zip", CLEAN)
    monkeypatch.setattr(archive, "ARCHIVE_SIZE", path.stat().st_size)
    monkeypatch.setattr(archive, "ARCHIVE_SHA256", hashlib.sha256(path.read_bytes()).hexdigest())
    return path


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "data"


# --- some photos ------------------------------------------------------------------------------------------------


def test_first_photos_of_each_class_in_four_requests(clean, folder, monkeypatch):
    with serve(clean) as server:
        monkeypatch.setenv("COURSE_ARCHIVE_URL", server.url)
        assert fetch_photos(folder, 3) == folder / "PetImages"
    check(folder, names(range(3), range(3)))
    assert list(manifest(folder)["files"]) == names(range(3), range(3))  # in the archive's order
    assert len(server.requests) == 4  # its size, its directory, cats, dogs
    assert manifest(folder)["bytes_fetched"] == server.sent < clean.stat().st_size / 2


def test_growing_fetches_what_is_missing_and_fewer_nothing(clean, folder):
    with serve(clean) as server:
        fetch_photos(folder, 3, url=server.url)
        before = server.sent
        fetch_photos(folder, 5, url=server.url)
        check(folder, names(range(5), range(5)))
        new = sum(len(CLEAN[name]) + 30 + len(name) for name in names([3, 4], [3, 4]))  # 30: a zip's local header
        assert server.sent - before == new + remote.NEAR + 1
    assert len(server.requests) == 8
    for per_class in (5, 2):  # the server is gone, and not asked
        fetch_photos(folder, per_class, url=server.url)
    check(folder, names(range(5), range(5)))


@pytest.mark.parametrize(
    "harm",
    [
        lambda path: path.unlink(),
        lambda path: path.write_bytes(path.read_bytes()[:-1]),
        lambda path: path.write_bytes(bytes(path.stat().st_size)),
    ],
)
def test_a_harmed_photo_is_fetched_again(clean, folder, harm):
    with serve(clean) as server:
        fetch_photos(folder, 4, url=server.url)
        harm(folder / "PetImages/Dog/1.jpg")
        fetch_photos(folder, 4, url=server.url)
    check(folder, names(range(4), range(4)))
    assert list(manifest(folder)["files"]) == names(range(4), range(4))
    assert len(server.requests) == 4 + 3  # one dog


@pytest.mark.parametrize("text", [None, "", "{", "half a manif"])
def test_without_its_manifest_a_photo_is_known_by_its_crc(clean, folder, text):
    with serve(clean) as server:
        fetch_photos(folder, 4, url=server.url)
        (folder / "manifest.json").unlink()
        if text is not None:
            (folder / "manifest.json").write_text(text)
        fetch_photos(folder, 4, url=server.url)
    check(folder, names(range(4), range(4)))
    assert len(server.requests) == 4 + 2  # size and directory


@pytest.mark.parametrize("near, piece", [(500, 10**6), (4000, 10**6), (10**6, 10**6), (4000, 1000)])
def test_unusable_members_are_listed_and_the_next_take_their_place(tmp_path, folder, monkeypatch, near, piece):
    monkeypatch.setattr(remote, "NEAR", near)
    monkeypatch.setattr(remote, "PIECE", piece)
    with serve(make_zip(tmp_path / "troubled.zip", TROUBLED)) as server:
        fetch_photos(folder, 3, url=server.url)
        check(folder, names([0, 4, 5], [0, 1]), TROUBLED)  # grey, transparent and CMYK are no error
        assert manifest(folder)["left_out"] == [
            {"file": "readme[1].txt", "reason": "not a photo"},
            {"file": "PetImages/Cat/666.jpg", "reason": "zero bytes"},
            {"file": "PetImages/Cat/Thumbs.db", "reason": "not a photo"},
            {"file": "PetImages/Dog/notes.jpg", "reason": "not a photo"},
            {"file": "PetImages/Cat/2.jpg", "reason": "unreadable (UnidentifiedImageError)"},
            {"file": "PetImages/Cat/3.jpg", "reason": "unreadable (OSError)"},
        ]
        assert manifest(folder)["exhausted"] == ["Dog"]
        fetch_photos(folder, 99, url=server.url)
        check(folder, names([0, 4, 5, 6], [0, 1]), TROUBLED)
    fetch_photos(folder, 99, url=server.url)  # there are no more, and that is known


def test_a_picture_whose_black_and_white_nobody_can_tell_is_left_out(tmp_path, folder):
    deep = io.BytesIO()
    Image.fromarray(np.linspace(0, 1, 1024, dtype=np.float32).reshape(32, 32)).save(deep, "TIFF")
    with serve(make_zip(tmp_path / "deep.zip", CLEAN | {"PetImages/Cat/1.jpg": deep.getvalue()})) as server:
        fetch_photos(folder, 2, url=server.url)
    check(folder, names([0, 2], [0, 1]))
    reason = "grey values of mode F, whose black and white nobody can tell"
    assert manifest(folder)["left_out"] == [{"file": "PetImages/Cat/1.jpg", "reason": reason}]


def test_a_connection_that_breaks_off_is_taken_up_again(clean, folder):
    with serve(clean, cut={2: 9000, 3: 100, 5: 9000}) as server:
        fetch_photos(folder, 8, url=server.url)
    check(folder, names(range(8), range(8)))
    assert len(server.requests) == 4 + 3


def test_what_arrived_before_the_end_is_kept(clean, folder):
    with serve(clean, cut={2: 9000, **dict.fromkeys(range(3, 99), 0)}) as server:
        with pytest.raises(ArchiveUnreachable, match="broke off 5 times at byte 8192. Run again"):
            fetch_photos(folder, 8, url=server.url)
    kept = list(photos(folder))
    assert kept == names(range(len(kept)), []) and kept
    check(folder, kept)
    with serve(clean) as server:
        fetch_photos(folder, 8, url=server.url)
    check(folder, names(range(8), range(8)))
    assert int(server.requests[2].split("=")[1].split("-")[0]) > 2000  # not from the first cat on


def mark(path, name, place, value):
    """Write a 16-bit number into the entry of a member in the archive's directory."""
    data = bytearray(path.read_bytes())
    entry = data.rindex(name.encode()) - 46
    assert data[entry : entry + 4] == b"PK\1\2"
    data[entry + place : entry + place + 2] = value.to_bytes(2, "little")
    path.write_bytes(data)


VERSION, FLAGS, METHOD, OFFSET = 6, 8, 10, 44  # places in such an entry; OFFSET: the upper half of the member's place


def misname(path):
    """A name that says it is UTF-8, and is not."""
    mark(path, "PetImages/Dog/7.jpg", FLAGS, 1 << 11)
    path.write_bytes(path.read_bytes().replace(b"PetImages/Dog/7.jpg", b"PetImages/Dog/\xff.jpg"))


def flip(path, name):
    data = bytearray(path.read_bytes())
    data[data.index(CLEAN[name]) + 300] ^= 1
    path.write_bytes(data)


@pytest.mark.parametrize(
    "harm, error, message",
    [
        (lambda path: flip(path, "PetImages/Cat/2.jpg"), ArchiveError, "Cat/2.jpg comes damaged .*Bad CRC-32"),
        (lambda path: path.write_bytes(path.read_bytes()[:-40]), ArchiveError, "no complete zip archive"),
        (lambda path: path.write_bytes(path.read_bytes()[2000:]), ArchiveError, "jpg comes damaged"),
        (lambda path: mark(path, "PetImages/Dog/7.jpg", VERSION, 99), ArchiveError, "no complete zip.*NotImplemented"),
        (misname, ArchiveError, "no complete zip archive .*UnicodeDecodeError"),
        *[
            (lambda path, change=change: mark(path, "PetImages/Cat/2.jpg", *change), ArchiveError, f"damaged .*{why}")
            for change, why in {
                (FLAGS, 1): "encrypted",
                (FLAGS, 1 << 5): "patched data",
                (FLAGS, 1 << 6): "strong encryption",
                (METHOD, 99): "NotImplementedError",
                (METHOD, 8): "error",
                (METHOD, 12): "Error",
                (METHOD, 14): "",
                (OFFSET, 0x7FFF): "",
            }.items()
        ],
        (lambda path: make_zip(path, CLEAN | {"PetImages/Bird/1.jpg": b"x"}), ArchiveError, "'Bird', 'Cat', 'Dog'"),
        (lambda path: make_zip(path, {"PetImages/Cat/0.jpg": b"x"}), ArchiveError, r"classes \['Cat'\].*not exactly"),
        (lambda path: make_zip(path, {"other/0.jpg": b"x"}), ArchiveError, r"classes \[\]"),
        (lambda path: path.unlink(), ArchiveUnreachable, "answers 404"),
        *[
            (lambda path, name=name: make_zip(path, CLEAN | {name: image_bytes(0)}), ArchiveError, "climbs out")
            for name in ("../0.jpg", "PetImages/Cat/../../0.jpg", "/tmp/0.jpg", "C:/0.jpg", "PetImages\\..\\..\\0.jpg")
        ],
    ],
)
def test_a_bad_archive_is_one_clear_error_and_the_good_stays(clean, folder, harm, error, message):
    with serve(clean) as server:
        fetch_photos(folder, 1, url=server.url)
        harm(clean)
        with pytest.raises(error, match=message) as caught:
            fetch_photos(folder, 4, url=server.url)
    assert type(caught.value) is error and server.url in str(caught.value) and len(str(caught.value)) < 400
    assert str(caught.value).endswith("or go on with COURSE_DATA=drawn.")
    kept = photos(folder)
    assert kept.items() >= {name: CLEAN[name] for name in names([0], [0])}.items() and kept.items() <= CLEAN.items()
    assert set(manifest(folder)["files"]) == set(kept)


def test_names_made_on_windows_or_by_a_camera(tmp_path, folder):
    photo = {name: image_bytes(seed) for seed, name in enumerate(("0.jpg", "1.JPG", "2.jpeg", "3.Jpg", "4.jpg.exe"))}
    members = {f"PetImages\\Cat\\{name}": data for name, data in photo.items()} | {"PetImages\\Dog\\": b""}
    members |= {f"PetImages/Dog/{name}": data for name, data in photo.items()} | {"PetImages\\.idea\\a.xml": b"x"}
    with serve(make_zip(tmp_path / "windows.zip", members)) as server:
        fetch_photos(folder, 4, url=server.url)
    kept = list(photo)[:4]
    assert photos(folder) == {f"PetImages/{name}/{file}": photo[file] for name in archive.CLASSES for file in kept}
    assert [entry["file"] for entry in manifest(folder)["left_out"]] == [
        "PetImages/Cat/4.jpg.exe",
        "PetImages/Dog/4.jpg.exe",
        "PetImages/.idea/a.xml",
    ]


def test_of_two_members_that_are_one_file_the_last_counts(tmp_path, folder):
    first, last = image_bytes(1), image_bytes(2)
    members = {"PetImages/Cat/0.jpg": first, "PetImages/Cat/0.JPG": last, "PetImages\\Dog\\0.jpg": first}
    with serve(make_zip(tmp_path / "twice.zip", members | {"PetImages/Dog/0.jpg": last})) as server:
        fetch_photos(folder, 2, url=server.url)
    assert photos(folder) == {"PetImages/Cat/0.JPG": last, "PetImages/Dog/0.jpg": last}


PAGE = Response("<html>This page is blocked by your school.</html>", mimetype="text/html")


def log_in(environ, start_response):
    return (PAGE if environ["PATH_INFO"] == "/log-in" else redirect("/log-in"))(environ, start_response)


def odd_redirect(environ, start_response):
    start_response("302 Found", [("Location", "/\xff\xfe"), ("Content-Length", "0")])
    return []


@pytest.mark.parametrize(
    "content, faults, reason",
    [
        (None, {"instead": PAGE}, "sends a web page"),
        (None, {"instead": log_in}, "/archive.zip leads to http://127.0.0.1:[0-9]+/log-in, which sends a web page"),
        (None, {"instead": odd_redirect}, "No answer from"),
        (None, {"instead": redirect("/archive.zip")}, "No answer from"),
        (None, {"instead": Response(b"P", 206)}, "other bytes than it sends"),
        (None, {"instead": Response("no", 403)}, "answers 403"),
        (None, {"instead": Response('{"error": "no"}', mimetype="application/json")}, "no Range support"),
        (None, {"ranges": False}, "no Range support"),
        (b"<html>This page is blocked by your school.</html>", {}, "something else than a zip archive"),
        (b"%PDF-1.7" + bytes(9999), {}, "something else than a zip archive"),
        (b"PK" * 9999, {}, "something else than a zip archive"),
        (b"PK", {}, "something else than a zip archive"),
        (b"", {}, "no Range support|ends before byte 0"),
    ],
)
def test_auto_draws_where_the_address_does_not_give_the_archive(
    clean, tmp_path, monkeypatch, capsys, content, faults, reason
):
    if content is not None:
        clean.write_bytes(content)
    monkeypatch.setenv("COURSE_DATA_DIR", str(tmp_path / "data"))
    with serve(clean, **faults) as server:
        monkeypatch.setenv("COURSE_ARCHIVE_URL", server.url)
        with pytest.raises(ArchiveUnreachable, match=reason) as caught:
            find_images(1, "photos")
        assert capsys.readouterr().out == "" and server.url in str(caught.value)
        files = find_images(1, "auto")
    assert [file.parent.name for file in files] == ["Cat", "Dog"]
    said = capsys.readouterr().out
    assert said.startswith("Images: drawn") and said.endswith(f" {caught.value}\n") and said.count("\n") == 1


@pytest.mark.parametrize(
    "url", ["archive.zip", "ftp://127.0.0.1/a.zip", "http://", "http://a..b/c.zip", "http://[::1/"]
)
def test_an_address_that_is_none(folder, url):
    with pytest.raises(ArchiveUnreachable, match="No answer from .*COURSE_DATA=drawn"):
        fetch_photos(folder, 2, url=url)


def test_the_whole_archive_is_not_taken_from_a_log_in_page(clean, folder):
    with serve(clean, instead=log_in) as server, pytest.raises(ArchiveUnreachable, match="sends a web page"):
        fetch_photos(folder, full=True, url=server.url)
    assert list(folder.iterdir()) == []


def test_a_server_without_range_support(clean, folder):
    with serve(clean, ranges=False) as server, pytest.raises(ArchiveUnreachable, match="no Range support.*full=True"):
        fetch_photos(folder, 2, url=server.url)
    assert photos(folder) == {}


def test_the_original_address_must_have_the_original_size(clean, folder, monkeypatch):
    with serve(clean) as server:
        monkeypatch.setattr(archive, "ARCHIVE_URL", server.url)
        fetch_photos(folder, 1)
        monkeypatch.setattr(archive, "ARCHIVE_SIZE", archive.ARCHIVE_SIZE + 1)
        with pytest.raises(ArchiveError, match=rf"has {clean.stat().st_size} bytes, not {archive.ARCHIVE_SIZE}"):
            fetch_photos(folder, 2)
    check(folder, names([0], [0]))


@pytest.mark.parametrize("full", [False, True])
def test_nobody_there(clean, folder, full):
    with serve(clean) as server:
        pass
    with pytest.raises(ArchiveUnreachable, match=r"No answer from .*\(.*refused\).*COURSE_DATA=drawn"):
        fetch_photos(folder, 2, full, server.url)
    assert list(folder.iterdir()) == []


def test_nobody_answers(folder, monkeypatch):
    monkeypatch.setattr(remote, "TIMEOUT", (0.2, 0.2))
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(ArchiveUnreachable, match="timed out"):
        fetch_photos(folder, 2, url=f"http://127.0.0.1:{silent.getsockname()[1]}/archive.zip")


def test_less_than_one_photo(folder):
    with pytest.raises(ValueError, match="per_class is 0"):
        fetch_photos(folder, 0)


@NEEDS_DEV_FULL
def test_a_full_disk_stops_and_keeps_what_is_good(clean, folder):
    with serve(clean) as server:
        fetch_photos(folder, 2, url=server.url)
        (folder / f"PetImages/Cat/.3.jpg.{os.getpid()}").symlink_to("/dev/full")
        with pytest.raises(ArchiveError, match="Could not write .*Cat/3.jpg: No space left.*COURSE_DATA_DIR"):
            fetch_photos(folder, 4, url=server.url)
    check(folder, names(range(3), range(2)))


# --- the whole archive ------------------------------------------------------------------------------------------


def test_the_whole_archive(clean, folder):
    with serve(clean) as server:
        fetch_photos(folder, full=True, url=server.url)
    check(folder, CLEAN)
    assert (folder / archive.ARCHIVE_NAME).read_bytes() == clean.read_bytes()
    assert len(server.requests) == 1 and manifest(folder)["bytes_fetched"] == server.sent == clean.stat().st_size
    (folder / "PetImages/Cat/5.jpg").unlink()
    fetch_photos(folder, full=True, url=server.url)  # the server is gone, the archive is not
    check(folder, CLEAN)


@pytest.mark.parametrize("ranges", [True, False])
def test_an_interrupted_download_goes_on(clean, folder, ranges):
    folder.mkdir()
    (folder / f"{archive.ARCHIVE_NAME}.part").write_bytes(clean.read_bytes()[:20000])
    with serve(clean, ranges=ranges) as server:
        fetch_photos(folder, full=True, url=server.url)
    check(folder, CLEAN)
    assert server.sent == clean.stat().st_size - (20000 if ranges else 0)


def test_a_download_that_breaks_off(clean, folder):
    with serve(clean, cut={0: 8192, 1: 8192, **dict.fromkeys(range(2, 5), 0), 5: 8192}) as server:
        with pytest.raises(ArchiveUnreachable, match=f"has 16384 of {clean.stat().st_size} bytes. Run again"):
            fetch_photos(folder, full=True, url=server.url)
        assert photos(folder) == {} and not (folder / archive.ARCHIVE_NAME).exists()
        fetch_photos(folder, full=True, url=server.url)
    check(folder, CLEAN)
    assert server.sent == clean.stat().st_size == manifest(folder)["bytes_fetched"]


def test_a_wrong_hash_says_both_and_puts_the_file_aside(clean, folder):
    flip(clean, "PetImages/Cat/2.jpg")
    wrong = hashlib.sha256(clean.read_bytes()).hexdigest()
    aside = folder / f"{archive.ARCHIVE_NAME}.wrong"
    with serve(clean) as server:
        with pytest.raises(ArchiveError, match=f"{wrong}, not {archive.ARCHIVE_SHA256}.*{aside}"):
            fetch_photos(folder, full=True, url=server.url)
        assert aside.read_bytes() == clean.read_bytes() and photos(folder) == {}
        assert not (folder / archive.ARCHIVE_NAME).exists()


def test_a_changed_size_is_told_before_the_download(clean, folder, monkeypatch):
    monkeypatch.setattr(archive, "ARCHIVE_SIZE", archive.ARCHIVE_SIZE + 1)
    for ranges in (True, False):
        with serve(clean, ranges=ranges) as server, pytest.raises(ArchiveError, match="bytes, not .*has changed"):
            fetch_photos(folder, full=True, url=server.url)
    assert list(folder.iterdir()) == []
    (folder / f"{archive.ARCHIVE_NAME}.part").write_bytes(bytes(clean.stat().st_size))
    with serve(clean) as server, pytest.raises(ArchiveError, match=f"ends before byte {clean.stat().st_size}"):
        fetch_photos(folder, full=True, url=server.url)


@NEEDS_DEV_FULL
def test_a_full_disk_in_the_download(clean, folder):
    folder.mkdir()
    (folder / f"{archive.ARCHIVE_NAME}.part").symlink_to("/dev/full")
    with serve(clean) as server, pytest.raises(ArchiveError, match="Could not write .*part: No space left"):
        fetch_photos(folder, full=True, url=server.url)
    assert photos(folder) == {}
