"""Tell what kind of file it is, by its first bytes and never by its name, and look into it."""

import hashlib
import io
import os
import tarfile
import zipfile
from pathlib import Path
from typing import BinaryIO

from course_utils.inspect.archives import OBJECTS, is_array_of_objects, look_into_zip
from course_utils.inspect.findings import Findings, Unreadable, clean
from course_utils.inspect.headers import look_into_safetensors
from course_utils.inspect.tensors import look_into_pickles

DEEPEST = 3  # a zip in a zip in a zip


def look(path: str | Path) -> Findings:
    """Look at a file without running anything of it. Raises Unreadable, with one sentence, when it cannot be read."""
    path = Path(path)
    try:
        if path.exists() and not path.is_file():
            raise Unreadable(f"{path} is a folder or a device. Give the path of a file.")
        with open(path, "rb") as file:
            found = Findings(path, os.fstat(file.fileno()).st_size)
            found.sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            _look_into(file, found)
    except FileNotFoundError:
        raise Unreadable(f"{path} does not exist. Look at the path.") from None
    except OSError as error:
        raise Unreadable(f"{path} cannot be read: {error.strerror or error}. Look at it and at its disk.") from None
    found.runs = list(dict.fromkeys(found.runs))
    return found


def _look_into(file: BinaryIO, found: Findings, depth: int = 1) -> None:
    file.seek(0)
    head = file.read(512)
    file.seek(0)
    if not found.size:
        found.kind = "an empty file"
        found.faults.append("there are no bytes: a save was interrupted")
    elif head[:4] in (b"PK\x03\x04", b"PK\x05\x06"):
        inside = look_into_zip(file, found)
        for name, content in inside.items():
            _look_inside(name, content, found, depth)
    elif not any(head):
        found.faults.append("it begins with zeros: a disk or a copy has lost its bytes")
    elif not (head[8:9] == b"{" and look_into_safetensors(file, found)):
        file.seek(0)
        look_into_pickles(file, found)
    if head[:2] != b"PK" and zipfile.is_zipfile(file):
        found.faults.append("a zip archive is appended to it, so two programs may see two different files")
    if any(head) and not head.startswith(b"\x80") and tarfile.is_tarfile(io.BytesIO(head)):
        found.runs.append("perhaps something: torch.load unpickles a tar archive, and this program does not read it")
    if is_array_of_objects(head):
        found.runs.append(f"perhaps something: {OBJECTS}")
    if head.startswith((b"\x1f\x8b", b"BZh", b"\xfd7zXZ", b"\x28\xb5\x2f\xfd")):
        found.runs.append("perhaps something: it is compressed, and this program does not unpack it")
    if found.kind.startswith("no kind") and not found.faults:
        found.faults.append("nobody can say: its first bytes are of no kind that is known here")


def _look_inside(name: str, content: bytes, found: Findings, depth: int) -> None:
    """A file in the file: what it would run counts, its tensors do not."""
    place = f"in {clean(name, 60)}"
    if depth == DEEPEST:
        found.runs.append(f"perhaps something {place}, which lies too deep to look into")
        return
    inner = Findings(Path(name), len(content))
    _look_into(io.BytesIO(content), inner, depth + 1)
    found.runs += [f"{one}, {place}" for one in inner.runs]
