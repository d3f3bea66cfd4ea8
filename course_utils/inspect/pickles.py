"""What a pickle says, read without running it: its opcodes are followed on a stack of descriptions.

Nothing is imported, called or built here, whatever the pickle asks for. Source: notebook 08, section "What is in this
file?"; the opcodes: https://docs.python.org/3/library/pickletools.html
"""

import io
import pickletools
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache
from typing import BinaryIO

import torch

from course_utils.inspect.findings import clean

MOST_OPCODES = 5_000_000  # a checkpoint with 100,000 tensors has some four million
CONSTANTS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
MARK = object()


@dataclass(eq=False, repr=False)
class Thing:
    """What would stand on the stack. kind: "dict", "list" (tuples and sets too), "global", "call" or "storage"."""

    kind: str
    name: str = ""  # of a global, and of what a call calls
    items: list = field(default_factory=list)  # of a list; arguments of a call; the parts of a storage's name
    pairs: list = field(default_factory=list)  # (key, value) of a dict, also of one that a call makes
    state: object = None  # what BUILD would put into it


@dataclass
class Followed:
    """root: a Thing or a plain value. globals: what it would import. calls: what it would call, as Things.

    stopped: "" or why it could not be followed to its end, with the place.
    """

    root: object = None
    globals: list[str] = field(default_factory=list)
    calls: list[Thing] = field(default_factory=list)
    stopped: str = ""


class Bounded:
    """A file that is never asked for more bytes than it has: a planted length would ask for all memory."""

    def __init__(self, file: BinaryIO, size: int):
        self.file, self.size = file, size
        self.tell = file.tell

    def read(self, count: int) -> bytes:
        return self.file.read(max(0, min(count, self.size - self.file.tell())))

    def readline(self) -> bytes:
        return self.file.readline(2**20)


def follow(file: BinaryIO, size: int) -> Followed:
    """Follow one pickle, from where the file stands to its STOP. size: of the whole file, in bytes. Raises OSError."""
    followed, stack, memo, place = Followed(), [], {}, 0
    try:
        for count, (opcode, value, at) in enumerate(pickletools.genops(Bounded(file, size))):
            place = at
            if count == MOST_OPCODES:
                raise ValueError(f"more than {MOST_OPCODES:,} opcodes")
            _step(opcode.name, value, stack, memo, followed)
        followed.root = stack.pop()
    except OSError:
        raise
    except Exception as error:  # damage and malice have no common class
        followed.stopped = f"it cannot be followed after byte {place:,} ({_in_a_line(error)})"
    return followed


def _in_a_line(error: Exception) -> str:
    return clean(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__, 80)


def _step(name: str, value, stack: list, memo: dict, followed: Followed) -> None:
    match name:
        case "PROTO" | "FRAME" | "STOP" | "READONLY_BUFFER":
            return
        case "MARK":
            stack.append(MARK)
        case "POP":
            stack.pop()
        case "POP_MARK":
            _since_mark(stack)
        case "DUP":
            stack.append(stack[-1])
        case "PUT" | "BINPUT" | "LONG_BINPUT":
            memo[value] = stack[-1]
        case "MEMOIZE":
            memo[len(memo)] = stack[-1]
        case "GET" | "BINGET" | "LONG_BINGET":
            stack.append(memo[value])
        case "NONE" | "NEWTRUE" | "NEWFALSE":
            stack.append(CONSTANTS[name])
        case "EMPTY_DICT" | "DICT":
            flat = _since_mark(stack) if name == "DICT" else []
            stack.append(Thing("dict", pairs=_pairs(flat)))
        case "EMPTY_LIST" | "EMPTY_TUPLE" | "EMPTY_SET":
            stack.append(Thing("list"))
        case "LIST" | "TUPLE" | "FROZENSET":
            stack.append(Thing("list", items=_since_mark(stack)))
        case "TUPLE1" | "TUPLE2" | "TUPLE3":
            stack.append(Thing("list", items=_popped(stack, int(name[-1]))))
        case "APPEND":
            (item,) = _popped(stack, 1)
            stack[-1].items.append(item)
        case "APPENDS" | "ADDITEMS":
            items = _since_mark(stack)
            stack[-1].items.extend(items)
        case "SETITEM":
            flat = _popped(stack, 2)
            stack[-1].pairs.extend(_pairs(flat))
        case "SETITEMS":
            flat = _since_mark(stack)
            stack[-1].pairs.extend(_pairs(flat))
        case "BUILD":
            (state,) = _popped(stack, 1)
            stack[-1].state = state
        case "GLOBAL":
            stack.append(_global(value.replace(" ", ".", 1), followed))
        case "STACK_GLOBAL":
            module, attribute = _popped(stack, 2)
            known = isinstance(module, str) and isinstance(attribute, str)
            stack.append(_global(f"{module}.{attribute}" if known else "a name that it makes up itself", followed))
        case "EXT1" | "EXT2" | "EXT4":
            stack.append(_global(f"extension {value}", followed))
        case "INST":
            arguments = _since_mark(stack)
            stack.append(_call(_global(value.replace(" ", ".", 1), followed), arguments, followed))
        case "OBJ":
            function, *arguments = _since_mark(stack)
            stack.append(_call(function, arguments, followed))
        case "REDUCE" | "NEWOBJ":
            function, arguments = _popped(stack, 2)
            stack.append(_call(function, arguments.items, followed))
        case "NEWOBJ_EX":
            function, arguments, keywords = _popped(stack, 3)
            stack.append(_call(function, [*arguments.items, keywords], followed))
        case "PERSID" | "BINPERSID":
            (tag,) = [value] if name == "PERSID" else _popped(stack, 1)
            stack.append(Thing("storage", items=getattr(tag, "items", [tag])))
        case "NEXT_BUFFER":
            stack.append(Thing("call", "a buffer from outside"))
        case _:  # numbers, strings, bytes
            stack.append("a very long number" if isinstance(value, int) and abs(value) > 2**100 else value)


def _popped(stack: list, count: int) -> list:
    if len(stack) < count or MARK in stack[-count:]:
        raise ValueError("too little on the stack")
    taken = stack[-count:]
    del stack[-count:]
    return taken


def _since_mark(stack: list) -> list:
    place = len(stack) - 1 - stack[::-1].index(MARK)
    taken = stack[place + 1 :]
    del stack[place:]
    return taken


def _pairs(flat: list) -> list:
    return list(zip(flat[::2], flat[1::2], strict=True))


def _global(name: str, followed: Followed) -> Thing:
    followed.globals.append(name)
    return Thing("global", name)


def _call(function, arguments: list, followed: Followed) -> Thing:
    name = function.name if isinstance(function, Thing) and function.kind == "global" else "what another call returned"
    made = Thing("call", name, list(arguments))
    followed.calls.append(made)
    return made


def walk(root) -> Iterator[tuple[str, Thing]]:
    """Each Thing below `root` once, with its path, such as "optimizer.state.0.exp_avg". Not recursive: a file may nest
    as deep as it likes."""
    waiting, seen = [("", root)], set()
    while waiting:
        path, thing = waiting.pop()
        if not isinstance(thing, Thing) or id(thing) in seen:
            continue
        seen.add(id(thing))
        yield path, thing
        below = [*enumerate(thing.items), *thing.pairs, *([("", thing.state)] if thing.state is not None else [])]
        for key, value in reversed(below):
            if isinstance(value, Thing):
                waiting.append((f"{path}.{_key(key)}".strip(".")[-300:], value))


def _key(key) -> str:
    return clean(str(key), 200) if isinstance(key, str | int | float | bool | None) else "…"


def refused(names: list[str]) -> list[str]:
    """Those of these globals that `torch.load` refuses with weights_only=True, in their order, each once."""
    return [name for name in dict.fromkeys(names) if _is_refused(name)]


@cache
def _is_refused(name: str) -> bool:
    """PyTorch is asked by its public function, with a pickle of our own that does nothing but name it."""
    if not (name.isprintable() and name.isascii() and " " not in name and "." in name):
        return True
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        module, _, attribute = name.rpartition(".")
        archive.writestr("name/data.pkl", f"\x80\x02c{module}\n{attribute}\n.".encode("latin-1"))
        archive.writestr("name/version", b"3\n")
    file.seek(0)
    return bool(torch.serialization.get_unsafe_globals_in_checkpoint(file))
