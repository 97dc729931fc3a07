"""The package's own imports run downwards: no circles, and no room looks at one above it."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "sb3_multitask"
ROOMS = (
    *(
        "process",
        "storage",
        "tasks",
        "task_schedules",
        "many_tasks",
        "envs",
        "vec_env",
        "policies",
        "losses",
        "combiners",
    ),
    *("readers", "agents", "distillation", "fast", "algorithms", "checkpoint", "evaluation", "experiments", "cli"),
    *("zoo", "zoo_configs"),
)
"""From the bottom to the top; a room is a module or a package of the root."""


def name_of(path):
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in PACKAGE.rglob("*.py")}


def imports_of(path):
    """The package's modules that a file imports, those for type checkers and within functions included."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module in MODULES:
            full = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name if name in MODULES else node.module for name in full)


GRAPH = {name: set(imports_of(path)) - {name, "sb3_multitask"} for name, path in MODULES.items()}


def test_imports_have_no_circle():
    TopologicalSorter(GRAPH).prepare()  # raises CycleError, which names the circle


def test_imports_run_downwards():
    room = {name: name.split(".")[1] for name in MODULES if "." in name}
    upwards = [
        f"{name} imports {imported}"
        for name, found in GRAPH.items()
        if name in room
        for imported in found
        if ROOMS.index(room[imported]) > ROOMS.index(room[name])
    ]
    assert not upwards


def test_every_room_has_its_place():
    assert {name.split(".")[1] for name in MODULES if "." in name} <= set(ROOMS)
