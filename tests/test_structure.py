"""The house: who may import whom, and that a wing stands alone where it promises to."""

import ast
import inspect
import sys
from pathlib import Path

from foreign import natural, project

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "course_utils"

# Each imports only those before it. README shows the same order.
ORDER = ["runtime", "checkpoints", "data", "fusing", "features", "freezing", "heads", "models", "training", "plots"]
ORDER += ["train", "inspect", "cards", "sharing", "hub_stub", "practice"]


def imported(path: Path) -> set[str]:
    """Full names of what a module imports; a relative import begins with a dot."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            names |= {base, *(f"{base}.{alias.name}".replace("..", ".") for alias in node.names)}
    return names


def rooms() -> list[str]:
    return [path.stem for path in PACKAGE.iterdir() if path.stem not in ("__init__", "__pycache__")]


def test_every_room_is_in_the_order_and_imports_only_those_before_it():
    assert sorted(rooms()) == sorted(ORDER)
    for room in ORDER:
        place = PACKAGE / room
        for path in place.glob("*.py") if place.is_dir() else [PACKAGE / f"{room}.py"]:
            used = {name.split(".")[1] for name in imported(path) if name.startswith("course_utils.")}
            later = used - set(ORDER[: ORDER.index(room) + 1])
            assert not later, f"{path.name} imports {later}, which come after {room}"


def test_inside_a_wing_the_order_is_one_way_too():
    for wing, prefix in (("checkpoints", "."), ("data", "course_utils.data."), ("inspect", "course_utils.inspect.")):
        modules = {path.stem: imported(path) for path in (PACKAGE / wing).glob("*.py") if path.stem != "__init__"}
        needs = {
            name: {other for other in modules if prefix + other in used and other != name}
            for name, used in modules.items()
        }
        while needs:
            free = [name for name, others in needs.items() if not others & needs.keys()]
            assert free, f"these import each other in a circle: {sorted(needs)}"
            needs = {name: others for name, others in needs.items() if name not in free}


def test_the_checkpoints_need_only_torch_and_numpy():
    for path in (PACKAGE / "checkpoints").glob("*.py"):
        outside = {name.split(".")[0] for name in imported(path) if not name.startswith(".")}
        assert outside - set(sys.stdlib_module_names) <= {"torch", "numpy"}, path.name


def test_the_map_in_the_readme_shows_every_module():
    shown = (ROOT / "README.md").read_text(encoding="utf-8").split("## The map")[1].split("```")[1]
    positions = []
    for room in ORDER:
        place = PACKAGE / room
        names = [f"{path.name} " for path in place.glob("*.py") if path.stem != "__init__"] if place.is_dir() else []
        for name in [f"{room}/" if place.is_dir() else f"{room}.py", *names]:
            assert f" {name}" in shown, f"{name} is missing in the map"
        positions.append(shown.index(f"\n    {room}/" if place.is_dir() else f"\n    {room}.py"))
    assert positions == sorted(positions)


def test_the_foreign_project_adds_at_most_ten_lines_to_its_natural_loop():
    lines = [
        [line.strip() for line in inspect.getsource(module.train).splitlines() if line.strip()]
        for module in (natural, project)
    ]
    added = [line for line in lines[1] if line not in lines[0]]
    assert 3 < len(added) <= 9, f"{added}, and the import of Training"
    assert len(lines[1]) < len(lines[0]), "it takes more away"
