"""Every sentence that course_utils raises or warns with, read from its code; what is put in at run time is a "…"."""

import ast
import importlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from course_utils.checkpoints.durable import REASONS

PACKAGE = Path(__file__).resolve().parent.parent / "course_utils"


@dataclass(frozen=True)
class Message:
    """room: "checkpoints.files". kind: "ValueError", or "warning"."""

    room: str
    kind: str
    text: str


def messages() -> list[Message]:
    """All of them, without the practice, in the order of the code; each text once in a room."""
    found = []
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.parent.name != "practice" and path.stem != "__init__":
            found += _of_module(path)
    return [*dict.fromkeys(found)]


def _of_module(path: Path) -> Iterator[Message]:
    room = ".".join(path.relative_to(PACKAGE).with_suffix("").parts)
    tree = ast.parse(path.read_text(encoding="utf-8"))
    reader = _Reader(tree, vars(importlib.import_module(f"course_utils.{room}")))
    for node in sorted(ast.walk(tree), key=lambda node: getattr(node, "lineno", 0)):
        said = node.exc if isinstance(node, ast.Raise) else node
        if not isinstance(said, ast.Call) or not said.args:
            continue
        name = ast.unparse(said.func)
        if isinstance(node, ast.Raise) or name == "warnings.warn":
            text = reader.text(said.args[0])
            words = [word for word in text.split() if word.strip("….:;")]
            if len(words) >= 4 and text.endswith((".", "…", "?")):  # else a part of a sentence of others
                kind = {"warnings.warn": "warning", "kind": "ArchiveError"}.get(name, name)
                yield Message(room, kind.removeprefix("argparse."), text)
        elif name == "explained" and (text := reader.text(said.args[0])) != "…":  # with one of the reasons
            yield Message(room, "CheckpointError", f"{text}: ….")
    if room == "checkpoints.durable":
        for reason in REASONS.values():
            yield Message(room, "CheckpointError", f"…: {reason}.")


class _Reader:
    """Puts together the texts of a module: its strings, what its names hold, what its functions return."""

    def __init__(self, tree: ast.Module, values: dict):
        self.values, self.assigned, self.returned = values, {}, {}
        for node in ast.walk(tree):
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
                self.assigned[node.targets[0].id] = node.value
            if isinstance(node, ast.FunctionDef):
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Return) and isinstance(inner.value, ast.JoinedStr | ast.Constant):
                        self.returned[node.name] = inner.value

    def text(self, node: ast.AST) -> str:
        match node:
            case ast.Constant(value=str()):
                return node.value
            case ast.JoinedStr():
                return "".join(map(self.text, node.values)).replace("……", "…")
            case ast.FormattedValue():
                return self.text(node.value)
            case ast.Name(id=name) if isinstance(self.values.get(name), str):
                return self.values[name]
            case ast.Name(id=name) if isinstance(self.assigned.get(name), ast.JoinedStr):
                return self.text(self.assigned[name])
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) if name in self.returned:
                return self.text(self.returned[name])
        return "…"
