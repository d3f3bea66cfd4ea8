"""The photos: Cats and Dogs out of Microsoft's archive, a few of them by HTTP Range, or all.

A zip file ends with its directory: the name, size, CRC-32 and place of each member. A server that answers Range
requests can be asked for the directory, then for the members we want; in this archive the images of a class stand
together, so 500 of each class are two ranges and a few per cent of the bytes. `zipfile` does the reading and checks
every CRC; `RangeFile` lets it believe that the archive lies on this disk.

Archive: https://www.microsoft.com/en-us/download/details.aspx?id=54765 (CDLA-Permissive-2.0).
"""

import io
import json
import os
import re
import sys
import zipfile
import zlib
from pathlib import Path

from tqdm.auto import tqdm

from course_utils.data.pictures import UnknownRange, read_rgb
from course_utils.data.remote import (
    HINT,
    ArchiveError,
    ArchiveUnreachable,
    RangeFile,
    download,
    open_session,
    write_whole,
    writing,
)

__all__ = ["ARCHIVE_URL", "CLASSES", "ArchiveError", "ArchiveUnreachable", "fetch_photos"]

ARCHIVE_NAME = "kagglecatsanddogs_5340.zip"
ARCHIVE_URL = f"https://download.microsoft.com/download/3/E/1/3E1C3F21-ECDB-4869-8368-6DEBA77B919F/{ARCHIVE_NAME}"
ARCHIVE_SIZE = 824_887_076  # bytes
ARCHIVE_SHA256 = "b7974bd00a84a99921f36ee4403f089853777b5ae8d151c76a86e64900334af9"
CLASSES = ("Cat", "Dog")

IMAGE = re.compile(r"PetImages/(Cat|Dog)/[0-9]+\.(?i:jpe?g)")
CLIMBS_OUT = re.compile(r"^/|^[A-Za-z]:|(^|/)\.\.(/|$)")


def fetch_photos(folder: Path, per_class: int = 500, full: bool = False, url: str | None = None) -> Path:
    """Put the first `per_class` usable photos of each class into `folder`/PetImages/Cat and /Dog; return PetImages.

    "First" is the archive's order; a class that has fewer gives all. `full=True` downloads the whole archive into
    `folder`, checks its size and SHA-256, and unpacks every photo. `url` defaults to COURSE_ARCHIVE_URL in the
    environment, then to `ARCHIVE_URL`. Photos that are there already are not fetched again, and if none is missing
    the network is not touched.

    `folder`/manifest.json lists each class's photos in the archive's order with size and CRC-32 ("files"), what was
    left out and why ("left_out"), the classes that have no more to give ("exhausted"), and counts the bytes of all
    fetches ("bytes_fetched"). Raises ArchiveUnreachable when this address does not give the archive, or not in parts,
    and ArchiveError for everything else (a changed size, a wrong hash, damaged or foreign members, a full disk). What
    is complete by then stays, and is not fetched again; nothing incomplete bears a photo's name.
    """
    if per_class < 1:
        raise ValueError(f"per_class is {per_class}: ask for at least one photo of each class.")
    folder, url = Path(folder), url or os.environ.get("COURSE_ARCHIVE_URL") or ARCHIVE_URL
    wanted = sys.maxsize if full else per_class
    manifest = _read_manifest(folder)
    if _all_there(folder, manifest, wanted):
        return folder / "PetImages"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    with open_session() as session:
        try:
            if full:
                download(session, url, folder / ARCHIVE_NAME, ARCHIVE_SIZE, ARCHIVE_SHA256)
                _unpack(folder / ARCHIVE_NAME, url, folder, wanted, manifest)
            else:
                remote = RangeFile(session, url, ARCHIVE_SIZE if url == ARCHIVE_URL else None)
                _unpack(io.BufferedReader(remote), url, folder, wanted, manifest, remote.plan)
        finally:  # after an error too: what is complete is not fetched again
            manifest["bytes_fetched"] += session.fetched
            if manifest["url"] or session.fetched:
                write_whole(folder / "manifest.json", json.dumps(manifest, indent=1).encode())
    return folder / "PetImages"


def _unpack(file, url, folder, wanted, manifest, plan=None):
    """Write the first `wanted` usable photos of each class that are not there yet, and list them in the manifest."""
    try:
        archive = zipfile.ZipFile(file)
    except ArchiveError:
        raise
    except Exception as error:  # on what is no archive, or a damaged one, zipfile raises nearly everything
        if not plan or _starts_as_zip(file):
            raise ArchiveError(f"{url} sends no complete zip archive ({_said(error)}). {HINT}") from error
        raise ArchiveUnreachable(f"{url} sends something else than a zip archive. {HINT}") from error
    images, strays = _members(archive, url)
    if manifest["url"] != url:
        manifest |= {"url": url, "files": {}, "left_out": strays}
    manifest["exhausted"] = []
    files, left_out = manifest["files"], {entry["file"] for entry in manifest["left_out"]}
    photos = {
        name: [
            member
            for member in images
            if member.filename.startswith(f"PetImages/{name}/") and member.filename not in left_out
        ]
        for name in CLASSES
    }
    if plan:
        starts = sorted({member.header_offset for member in archive.infolist()} | {archive.start_dir})
        end_of = dict(zip(starts, starts[1:]))
        plan(
            (member.header_offset, end_of.get(member.header_offset, member.header_offset))
            for name in CLASSES
            for member in photos[name][:wanted]
            if not _intact(folder, member.filename, _entry(member))
        )
    for name in CLASSES:
        taken = 0
        for member in tqdm(photos[name], desc=f"Unpacking {name}", delay=2, leave=False, disable=bool(plan)):
            if taken == wanted:
                break
            path, there = folder / member.filename, _intact(folder, member.filename, _entry(member))
            if not there or member.filename not in files:
                data = path.read_bytes() if there else _read(archive, member, url)
                if reason := _unusable(data):
                    manifest["left_out"].append({"file": member.filename, "reason": reason})
                    continue
                write_whole(path, data)
                files[member.filename] = _entry(member)
            taken += 1
        if taken < wanted:
            manifest["exhausted"].append(name)


def _members(archive, url) -> tuple[list[zipfile.ZipInfo], list[dict[str, str]]]:
    """The images of the archive, in its order, and what is left out. No name gets past here that could do harm."""
    images, strays, classes = {}, [], set()
    for member in archive.infolist():
        name = member.filename = member.filename.replace("\\", "/")  # made on Windows, by a program that leaves them
        if CLIMBS_OUT.search(member.orig_filename.replace("\\", "/")):
            raise ArchiveError(
                f"{url} has a member {member.orig_filename!r}, which climbs out of the folder, and "
                f"nothing of it was written: this is not the course's archive. {HINT}"
            )
        if found := re.match(r"PetImages/([^/.][^/]*)/", name):
            classes.add(found[1])
        if IMAGE.fullmatch(name) and member.file_size:
            images[name.lower()] = member  # to some disks 0.jpg and 0.JPG are one file: the last counts
        elif not name.endswith("/"):
            strays.append({"file": name, "reason": "not a photo" if member.file_size else "zero bytes"})
    if classes != set(CLASSES):
        raise ArchiveError(f"{url} has the classes {sorted(classes)} in PetImages, not exactly {list(CLASSES)}. {HINT}")
    return list(images.values()), strays


def _read(archive, member, url) -> bytes:
    try:
        return archive.read(member)  # checks the CRC
    except ArchiveError:
        raise
    except Exception as error:  # see _unpack; also what Python cannot unpack, such as encrypted members
        raise ArchiveError(
            f"{member.filename} comes damaged from {url} ({_said(error)}) and was not kept. Run again. {HINT}"
        ) from error


def _said(error) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")


def _starts_as_zip(file) -> bool:
    file.seek(0)
    return file.read(4) == b"PK\x03\x04"


def _unusable(data) -> str | None:
    """Why the file gives no picture, or None if it gives one."""
    try:
        read_rgb(io.BytesIO(data))
    except UnknownRange as error:
        return str(error)
    except Exception as error:  # on damaged files the decoders raise nearly everything
        return f"unreadable ({type(error).__name__})"


def _entry(member) -> dict[str, int]:
    return {"size": member.file_size, "crc32": member.CRC}


def _intact(folder, name, entry) -> bool:
    try:
        data = (folder / name).read_bytes()
    except OSError:
        return False
    return entry == {"size": len(data), "crc32": zlib.crc32(data)}


def _all_there(folder, manifest, wanted) -> bool:
    for name in CLASSES:
        files = [file for file in manifest["files"] if file.startswith(f"PetImages/{name}/")][:wanted]
        if len(files) < wanted and name not in manifest["exhausted"]:
            return False
        bar = tqdm(files, desc=f"Checking {name}", delay=2, leave=False)
        if not all(_intact(folder, file, manifest["files"][file]) for file in bar):
            return False
    return True


def _read_manifest(folder) -> dict:
    empty = {"url": None, "files": {}, "left_out": [], "exhausted": [], "bytes_fetched": 0}
    try:
        return empty | json.loads((folder / "manifest.json").read_text())
    except (OSError, ValueError, TypeError):
        return empty  # photos on the disk are then known by the CRCs in the archive's directory
