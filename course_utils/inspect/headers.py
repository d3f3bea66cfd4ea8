"""safetensors files: eight bytes with the length of a header, the header as JSON, then the tensors without a gap.

Source: https://huggingface.co/docs/safetensors/index#format
"""

import json
import struct
from math import prod
from typing import BinaryIO

from course_utils.inspect.findings import BITS, Findings, clean, whole_number

DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16", "I64": "int64", "I32": "int32"}
DTYPES |= {"I16": "int16", "I8": "int8", "U8": "uint8", "BOOL": "bool", "C64": "complex64", "U16": "uint16"}
DTYPES |= {"U32": "uint32", "U64": "uint64", "F8_E4M3": "float8_e4m3fn", "F8_E5M2": "float8_e5m2"}
MOST_HEADER = 100_000_000  # bytes, as the library has it


def look_into_safetensors(file: BinaryIO, found: Findings) -> bool:
    """Returns whether it is one, perhaps a damaged one."""
    (length,) = struct.unpack("<Q", file.read(8))
    if length > MOST_HEADER:
        return False
    found.kind = "safetensors: tensors and their names, nothing else"
    found.whole = "its header accounts for every byte; it has no checksums, so compare its SHA-256"
    rest = found.size - 8 - length
    try:
        header = json.loads(file.read(length), object_pairs_hook=_without_twins)
        header.pop("__metadata__", None)
        places = {clean(name): _place(one, name) for name, one in header.items()}
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        found.faults.append(f"its header is cut off or damaged ({clean(str(error), 80)})")
        return True
    reached = 0
    for begin, end in sorted(place for place, _, _ in places.values()):
        if begin != reached and begin != end:
            found.faults.append("its tensors overlap or leave gaps")
        reached = max(reached, end)
    if reached != rest:
        found.faults.append(f"its header speaks of {reached:,} bytes of tensors, and {max(0, rest):,} are there")
    found.tensors = {name: (dtype, shape) for name, (_, dtype, shape) in places.items()}
    return True


def _place(one: dict, name: str) -> tuple[tuple[int, int], str, tuple[int, ...]]:
    """((first byte, byte after the last), dtype, shape) of an entry. Raises what a damaged one gives."""
    begin, end = map(whole_number, one["data_offsets"])
    shape, dtype = tuple(map(whole_number, one["shape"])), DTYPES[one["dtype"]]
    if end - begin != prod(shape) * BITS[dtype] // 8:
        raise ValueError(f"{clean(name, 60)} has other bytes than its shape needs")
    return (begin, end), dtype, shape


def _without_twins(pairs: list[tuple]) -> dict:
    if len(dict(pairs)) < len(pairs):
        raise ValueError("two entries of one name")
    return dict(pairs)
