"""Small edits of a function's source: what a tired student might write. Each changes one place."""

import ast
import copy
import difflib
from collections.abc import Iterator
from functools import partial

OPPOSITE = {
    ast.Lt: ast.GtE, ast.GtE: ast.Lt, ast.Gt: ast.LtE, ast.LtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is, ast.And: ast.Or, ast.Or: ast.And,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.Add, ast.Div: ast.Mult, ast.FloorDiv: ast.Mult, ast.Mod: ast.Add,
    ast.BitOr: ast.BitAnd, ast.BitAnd: ast.BitOr,
}  # fmt: skip


def mutations(source: str) -> list[str]:
    """Every edited source, as `ast.unparse` writes it, without doubles and without the original."""
    tree = ast.parse(source)
    found = dict.fromkeys(ast.unparse(one) for one in _edited(tree))
    found.pop(ast.unparse(tree), None)
    return list(found)


def _edited(tree: ast.Module) -> Iterator[ast.Module]:
    words = [node for node in ast.walk(tree) if isinstance(node, ast.Raise | ast.JoinedStr)]
    unimportant = {id(part) for node in words for part in ast.walk(node)}  # the words of an error
    for number, node in enumerate(ast.walk(tree)):
        for edit in _edits(node) if id(node) not in unimportant else ():
            changed = copy.deepcopy(tree)
            edit([*ast.walk(changed)][number])
            yield ast.fix_missing_locations(changed)


def _edits(node: ast.AST) -> Iterator:
    """Functions that change a node of this kind in place."""
    for field, value in ast.iter_fields(node):
        many = isinstance(value, list)
        for place, child in enumerate(value if many else [value]):
            yield from (partial(_put, field, place if many else None, new) for new in _instead(child))
        if field in ("body", "orelse") and many and len(value) > 1:
            for place in range(len(value) - 1):
                yield lambda node, field=field, place=place: _swap(place, getattr(node, field))
        if field in ("args", "keywords", "elts", "ifs") and many and not isinstance(node, ast.arguments):
            for place in range(len(value)):
                yield lambda node, field=field, place=place: getattr(node, field).pop(place)
    if isinstance(node, ast.Call) and len(node.args) > 1:
        yield lambda node: _swap(0, node.args)


def _instead(node) -> Iterator[ast.AST]:
    """What may stand in the place of a node."""
    match node:
        case ast.Call():
            yield node.func.value if isinstance(node.func, ast.Attribute) else ast.Constant(None)
            yield from node.args[:1]
        case ast.Attribute(ctx=ast.Load()):
            yield node.value
        case ast.Constant(value=bool()):
            yield ast.Constant(not node.value)
        case ast.Constant(value=int() | float()):
            yield from (ast.Constant(node.value + 1), ast.Constant(0))
        case ast.Constant(value=str()):
            yield ast.Constant(node.value + "x")
        case ast.Compare(ops=[operator]):
            yield ast.Compare(node.left, [OPPOSITE[type(operator)]()], node.comparators)
        case ast.BoolOp():
            yield ast.BoolOp(OPPOSITE[type(node.op)](), node.values)
            yield from node.values
        case ast.BinOp():
            yield from (node.left, node.right)
            if type(node.op) in OPPOSITE:
                yield ast.BinOp(node.left, OPPOSITE[type(node.op)](), node.right)
        case ast.UnaryOp():
            yield node.operand
        case ast.IfExp():
            yield from (node.body, node.orelse)
        case ast.Subscript(ctx=ast.Load()):
            yield node.value
        case ast.Return(value=ast.expr()):
            yield from (ast.Return(None), ast.Return(ast.List([node.value])), ast.Return(ast.Constant(0)))
        case ast.Name(ctx=ast.Load()):
            yield ast.Constant(None)
        case ast.If() | ast.While() | ast.For() | ast.With():
            yield ast.Pass()
            if isinstance(node, ast.If):
                yield ast.If(ast.UnaryOp(ast.Not(), node.test), node.body, node.orelse)
                yield ast.If(ast.Constant(True), node.body, [])
        case ast.Expr(value=ast.Constant()):
            return
        case ast.Expr() | ast.Assign() | ast.AugAssign() | ast.Raise() | ast.Break() | ast.Continue() | ast.Delete():
            yield ast.Pass()


def _put(field, place, new, node) -> None:
    if place is None:
        setattr(node, field, new)
    else:
        getattr(node, field)[place] = new


def _swap(place: int, items: list) -> None:
    items[place], items[place + 1] = items[place + 1], items[place]


def edit(source: str, mutation: str) -> str:
    """What a mutation changes, in one line: "model.train() → pass"; what moved down stands on both sides."""
    before = ast.unparse(ast.parse(source)).splitlines()
    lines = [line for line in difflib.ndiff(before, mutation.splitlines()) if line[0] in "+-"]
    sides = [" ".join(line[2:].strip() for line in lines if line[0] == sign) for sign in "-+"]
    return f"{sides[0]} → {sides[1]}"
