"""Zip archives: what torch.save and torch.export write, and others."""

import io
import json
import zipfile
from contextlib import suppress
from pickle import UnpicklingError
from typing import BinaryIO

import torch

from course_utils.inspect.findings import Findings, clean, raise_if_of_the_disk, whole_number
from course_utils.inspect.pickles import follow
from course_utils.inspect.tensors import take

OBJECTS = "NumPy unpickles an array of objects with allow_pickle=True"
MOST_INSIDE = 2**26  # bytes of a record that is read as a whole
DTYPES = ["", "uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "", "complex64"]
DTYPES += ["complex128", "bool", "bfloat16"]  # in the order of torch.export's schema


def look_into_zip(file: BinaryIO, found: Findings) -> dict[str, bytes]:
    """Returns the records that are files with pickles in them, perhaps, for another look."""
    found.kind = "a zip archive"
    try:
        archive = zipfile.ZipFile(file)
        records = archive.infolist()
        found.kind = _kind_of([record.filename.partition("/")[2] for record in records])
    except Exception as error:  # zipfile answers damage with many kinds
        raise_if_of_the_disk(error)
        found.faults.append(f"it is cut off or damaged ({clean(str(error), 80)})")
        return {}
    _check(archive, records, found)
    if before := min((record.header_offset for record in records), default=0):
        found.runs.append(
            f"perhaps something in the {before:,} bytes before the archive, which were not looked at (a file of "
            f"torch.distributed.checkpoint holds one archive after another; this was the last)"
        )
    sizes = {record.filename.partition("/data/")[2]: record.file_size for record in records}
    inside = {}
    for record in records:
        place = record.filename.partition("/")[2]
        if not _may_hold_pickles(archive, record, place):
            continue
        content = _content(archive, record, found)
        if place == "data/weights/model_weights_config.json":
            _take_weights_of_pt2(content, found)
        elif place == "data.pkl":
            take(follow(io.BytesIO(content), len(content)), found, sizes)
        else:
            inside[record.filename] = content
    arrays = [record.filename for record in records if _holds_objects(archive, record)]
    found.runs += [f"perhaps something: {OBJECTS}, in {clean(name, 60)}" for name in arrays]
    if found.kind.endswith("written by torch.save") and not found.faults:
        _ask_pytorch(file, found)
    return inside


def _kind_of(places: list[str]) -> str:
    if "constants.pkl" in places:
        return "a TorchScript program, which torch.jit.load runs"
    if "archive_format" in places or "models/model.json" in places:
        return "a program in a .pt2 archive, written by torch.export"
    return "written by torch.save" if "data.pkl" in places else "a zip archive of other files"


def _check(archive: zipfile.ZipFile, records: list[zipfile.ZipInfo], found: Findings) -> None:
    """The CRC-32 of each record, in pieces: no record is unpacked that claims to be much larger than the file."""
    if len({record.filename for record in records}) < len(records):
        found.faults.append("it has two records of one name, so two programs may see two different files")
    if sum(record.file_size for record in records) > 20 * found.size + 10**6:
        found.faults.append("its records claim to be more than 20 times as large as the file, so not all are unpacked")
        return
    for record in records:
        if record.external_attr & 0x10 and record.file_size:
            found.faults.append(f"the record {clean(record.filename, 60)} is marked as a folder")
        try:
            with archive.open(record) as opened:
                while opened.read(2**20):
                    pass
        except Exception as error:
            raise_if_of_the_disk(error)
            found.faults.append(f"the record {clean(record.filename, 60)} is damaged ({clean(str(error), 80)})")
    found.whole = f"{len(records)} records match their CRC-32, which finds accidents and no attacks"


def _ask_pytorch(file: BinaryIO, found: Findings) -> None:
    """PyTorch's reader is stricter with the directory of the archive. It only takes the pickle apart, as we do."""
    file.seek(0)
    try:
        named = torch.serialization.get_unsafe_globals_in_checkpoint(file)
        found.runs += [name for name in named if not found.runs]  # by other names than Python 2 had for them
    except UnpicklingError:  # an opcode that no torch.save writes: `follow` looks at those too
        pass
    except Exception as error:  # its reader's are RuntimeErrors, of some others it says nothing
        raise_if_of_the_disk(error)
        found.faults.append(f"PyTorch cannot open it ({clean(str(error).split('. ')[0], 100)})")


def _holds_objects(archive: zipfile.ZipFile, record: zipfile.ZipInfo) -> bool:
    with suppress(Exception), archive.open(record) as opened:  # `_check` has said that it is damaged
        return is_array_of_objects(opened.read(512))
    return False


def is_array_of_objects(head: bytes) -> bool:
    """By the header of NumPy's format. Source: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html"""
    return head.startswith(b"\x93NUMPY") and b"O" in head.partition(b"'descr':")[2].partition(b"'fortran_order'")[0]


def _may_hold_pickles(archive: zipfile.ZipFile, record: zipfile.ZipInfo, place: str) -> bool:
    """By the name or the first bytes. The raw tensors of torch.save, data/0 and so on, are never unpickled."""
    if place.startswith("data/") and place[5:].isdecimal():
        return False
    if place == "data/weights/model_weights_config.json" or record.filename.endswith((".pkl", ".pickle", ".pt")):
        return True
    try:
        with archive.open(record) as opened:
            head = opened.read(4)
    except Exception as error:
        raise_if_of_the_disk(error)
        return False
    return head[:1] == b"\x80" or head == b"PK\x03\x04"


def _content(archive: zipfile.ZipFile, record: zipfile.ZipInfo, found: Findings) -> bytes:
    """What a reader that does not compare checksums would get, up to a limit."""
    pieces, length = [], 0
    try:
        with archive.open(record) as opened:
            while length < MOST_INSIDE and (piece := opened.read(2**20)):
                pieces.append(piece)
                length += len(piece)
    except Exception as error:  # `_check` has said that it is damaged
        raise_if_of_the_disk(error)
    if length < record.file_size:
        found.runs.append(f"perhaps something in {clean(record.filename, 60)}, which cannot be read as a whole")
    return b"".join(pieces)


def _take_weights_of_pt2(content: bytes, found: Findings) -> None:
    try:
        for name, one in json.loads(content)["config"].items():
            meta = one["tensor_meta"]
            shape = tuple(whole_number(size["as_int"]) for size in meta["sizes"])
            found.tensors[clean(name)] = (DTYPES[meta["dtype"]], shape)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
        found.faults.append("its list of weights is not what torch.export writes")
