"""What files a checkpoint of many files has, and what is in them: written last, checked first. Source: notebook 09.

A file is noted as {"size": bytes, "sha256": hex}.
"""

import hashlib
import json
import os
from pathlib import Path

from .durable import CheckpointError, explained, flush_to_disk, whole_or_absent
from .files import CURE, DamagedCheckpoint

NAME = "manifest.json"


def notes(folder: Path, prefix: str) -> dict[str, dict]:
    """{name: note} of the files that begin so, each of them flushed to the disk. Raises CheckpointError."""
    with explained(f"{folder} was not saved, and the checkpoints so far are untouched"):
        return {path.name: _note(path, flush=True) for path in folder.iterdir() if path.name.startswith(prefix)}


def damage(path: Path, note: dict) -> str | None:
    """What is wrong with a file, None if it is as noted. Raises CheckpointError when it cannot be read now."""
    try:
        if path.stat().st_size != note["size"]:
            return f"{path.name} has {path.stat().st_size} bytes instead of {note['size']}"
        if _note(path) != note and _note(path) != note:  # what went wrong once, and not a second time, is no damage
            return f"{path.name} has another SHA-256"
    except FileNotFoundError:
        return f"{path.name} is missing"
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}. Look at its disk, then try again.") from error


def write_manifest(folder: Path, manifest: dict) -> None:
    """Two lines: the manifest as JSON, and the SHA-256 of that line. The folder is flushed. Raises CheckpointError."""
    body = json.dumps(manifest, sort_keys=True)
    with whole_or_absent(folder / NAME) as file:
        file.write(f"{body}\n{hashlib.sha256(body.encode()).hexdigest()}\n".encode())


def read_manifest(folder: Path) -> dict:
    """Raises DamagedCheckpoint when it is missing or not as it was written, CheckpointError when it cannot be read."""
    path = folder / NAME
    try:
        body, _, end = path.read_bytes().partition(b"\n")
    except (FileNotFoundError, NotADirectoryError):
        raise DamagedCheckpoint(f"{folder} has no {NAME}, so nothing says that it is whole. {CURE}") from None
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}. Look at its disk, then try again.") from error
    if end != f"{hashlib.sha256(body).hexdigest()}\n".encode():
        raise DamagedCheckpoint(f"{path} is damaged. {CURE}")
    return json.loads(body)


def _note(path: Path, flush: bool = False) -> dict:
    with open(path, "rb") as file:
        if flush:
            flush_to_disk(file.fileno())
        return {"size": os.fstat(file.fileno()).st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
