"""A file on an HTTP server, read in pieces by Range requests (`RangeFile`) or downloaded whole (`download`).

Connections that break off are taken up again where they ended. Offline, this gives up after two attempts to connect.
Range requests: RFC 9110, section 14.
"""

import hashlib
import io
import os
import re
from contextlib import contextmanager
from pathlib import Path

import requests
import urllib3
from requests.adapters import HTTPAdapter
from tqdm.auto import tqdm

NEAR = 256 * 1024  # bytes that are cheaper to read over than to leave out with a request more
PIECE = 64 * 1024 * 1024  # bytes held in memory at most
TRIES = 5  # requests for the same bytes, when connections break off
TIMEOUT = (5, 30)  # seconds to connect, seconds of silence
HINT = "Try another COURSE_ARCHIVE_URL, or go on with COURSE_DATA=drawn."


class ArchiveError(Exception):
    """The archive, its server or this disk did not give the photos; the message says what to do."""


class ArchiveUnreachable(ArchiveError):
    """This address does not give the archive: no network, refused, timed out, an HTTP error, broken off, a log-in
    page, something else than an archive, no Range support."""


def open_session() -> requests.Session:
    """A session that asks a busy server again, and counts the bytes it receives in `.fetched`."""
    retry = urllib3.Retry(
        total=2,
        connect=1,
        read=1,
        backoff_factor=0.5,
        status_forcelist=(429, 500, 502, 503, 504),
        respect_retry_after_header=False,
        raise_on_status=False,
    )
    session = requests.Session()
    for scheme in ("http://", "https://"):
        session.mount(scheme, HTTPAdapter(max_retries=retry))
    session.headers["Accept-Encoding"] = "identity"  # a range counts the bytes of the file itself
    session.fetched = 0
    return session


def _get(session, url, start, stop) -> tuple[requests.Response, int | None]:
    """Ask for the bytes start to stop - 1. Returns the unread answer (206, or 200 from a server without Range
    support, which sends the whole file) and the size of the whole file, where the server tells it."""
    try:
        answer = session.get(url, headers={"Range": f"bytes={start}-{stop - 1}"}, stream=True, timeout=TIMEOUT)
    except (requests.RequestException, ValueError) as error:  # ValueError: a redirect to an address with odd letters
        cause = getattr(error.args[0], "reason", error) if error.args else error
        reason = str(cause).split(": ")[-1]  # the words before name Python objects
        raise ArchiveUnreachable(f"No answer from {url} ({reason}). Check the network. {HINT}") from error
    told = re.fullmatch(r"bytes (\d+-\d+|\*)/(\d+)", answer.headers.get("Content-Range", ""))
    if answer.status_code == 416:
        kind = ArchiveError if start else ArchiveUnreachable
        raise kind(f"{url} ends before byte {start}: it is not the archive, or has changed. {HINT}")
    if answer.status_code not in (200, 206):
        raise ArchiveUnreachable(f"{url} answers {answer.status_code} {answer.reason}. {HINT}")
    if "html" in answer.headers.get("Content-Type", ""):
        where = f"{url} leads to {answer.url}, which" if answer.history else url
        raise ArchiveUnreachable(f"{where} sends a web page, such as a log-in or a filter's, and no archive. {HINT}")
    if answer.status_code == 206 and not (told and told[1].startswith(f"{start}-")):
        raise ArchiveUnreachable(f"{url} was asked for other bytes than it sends. {HINT}")
    size = told[2] if told else answer.headers.get("Content-Length")
    return answer, int(size) if size and size.isdecimal() else None


def _receive(session, answer, keep, expected):
    """Give what arrives to keep(); a connection that breaks off just ends it: the caller sees what is missing."""
    with tqdm(desc="Photos", total=expected, unit="B", unit_scale=True, delay=2, leave=False) as bar, answer:
        try:
            for block in answer.iter_content(8192):
                keep(block)
                bar.update(len(block))
                session.fetched += len(block)
        except requests.RequestException:
            pass  # also a silence longer than TIMEOUT


def _check_size(url, size, expected):
    if size != expected:
        raise ArchiveError(f"The archive at {url} has {size} bytes, not {expected}: it has changed. {HINT}")


class RangeFile(io.RawIOBase):
    """A file on an HTTP server, for `zipfile` to read: one piece of it is in memory, another is fetched on demand."""

    def __init__(self, session: requests.Session, url: str, size: int | None = None):
        """`size`: the bytes the file must have, or None for any. Raises ArchiveUnreachable without Range support."""
        self.session, self.url, self.size = session, url, size
        self.position, self.start, self.piece, self.runs = 0, 0, b"", [(0, 1)]
        self._load()  # any byte tells the size; not every server knows "the last n bytes"
        self.position, self.runs = max(0, self.size - NEAR), [(0, self.size)]
        self._load()  # the directory, or its end; a longer one is then fetched whole

    def plan(self, spans):
        """Say which (start, end) will be read: a request reaches over near neighbours, and no further."""
        self.runs = []
        for start, end in sorted(spans):
            if self.runs and start - self.runs[-1][1] <= NEAR:
                start = self.runs.pop()[0]
            self.runs.append((start, end))

    def _load(self):
        planned = (end for start, end in self.runs if start <= self.position < end)
        stop = min(next(planned, self.position + NEAR), self.position + PIECE, self.size or 1)
        answer, size = _get(self.session, self.url, self.position, stop)
        if answer.status_code == 200:
            answer.close()
            raise ArchiveUnreachable(
                f"The server of {self.url} has no Range support: it cannot send just some photos. "
                "Call fetch_photos(..., full=True) for the whole archive."
            )
        _check_size(self.url, size, self.size or size)
        self.size, self.start, self.piece = size, self.position, bytearray()
        _receive(self.session, answer, self.piece.extend, stop - self.start)

    def readinto(self, buffer):
        if self.position >= self.size:
            return 0
        for _ in range(TRIES):
            if not self.start <= self.position < self.start + len(self.piece):
                self._load()
            at = self.position - self.start
            if data := self.piece[at : at + len(buffer)]:
                buffer[: len(data)] = data
                self.position += len(data)
                return len(data)
        raise ArchiveUnreachable(
            f"The connection to {self.url} broke off {TRIES} times at byte {self.position}. "
            f"Run again: it goes on with what is missing. {HINT}"
        )

    def seek(self, offset, whence=io.SEEK_SET):
        self.position = offset + (0, self.position, self.size)[whence]
        if self.position < 0:
            raise ValueError("a place before the start")
        return self.position

    def readable(self):
        return True

    seekable = readable


def download(session: requests.Session, url: str, target: Path, size: int, sha256: str) -> None:
    """Download a whole file of known size and SHA-256, going on with what an earlier try left in `target`.part.

    A `target` that is there is only checked. A file with another hash is put aside as `target`.wrong, and raises.
    """
    part = target if target.exists() else target.with_name(f"{target.name}.part")
    for _ in range(TRIES):
        have = part.stat().st_size if part.exists() else 0
        if have >= size:
            break
        answer, told = _get(session, url, have, size)
        _check_size(url, told or size, size)
        mode = "ab" if answer.status_code == 206 else "wb"  # a server without Range support starts over
        with writing(part), open(part, mode) as file:
            _receive(session, answer, file.write, size - file.tell())
    if (have := part.stat().st_size) < size:
        raise ArchiveUnreachable(
            f"The connection to {url} broke off {TRIES} times; {part} has {have} of {size} bytes. "
            f"Run again: it goes on from there. {HINT}"
        )
    with open(part, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != sha256:
        aside = target.with_name(f"{target.name}.wrong")
        os.replace(part, aside)
        raise ArchiveError(
            f"The archive from {url} has the SHA-256 {found}, not {sha256}. It is put aside as {aside}; "
            f"the next run downloads anew. {HINT}"
        )
    os.replace(part, target)


@contextmanager
def writing(path: Path):
    """Turn the disk's errors into one clear ArchiveError."""
    try:
        yield
    except OSError as error:
        raise ArchiveError(
            f"Could not write {path}: {error.strerror}. Free some space, or set COURSE_DATA_DIR to "
            "another folder, and run again: what is complete is kept."
        ) from error


def write_whole(path: Path, data: bytes) -> None:
    """Write aside, then replace: `path` is there whole or not at all, whoever else writes it. Raises ArchiveError."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    with writing(path):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            aside.write_bytes(data)
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
