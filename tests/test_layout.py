"""Imports run one way through the packages."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import hwfit

ROOT = Path(hwfit.__file__).parent
LEVELS = {
    **dict.fromkeys(("errors", "files", "packs", "progress", "precision", "rotary", "subnet", "workload"), 0),
    **dict.fromkeys(("space", "space_check", "space_files"), 0),
    "kernels": 1,
    "models": 2,
    "deploy": 3,
    "lut_store": 3,
    "profiler": 4,
    "latency_models": 5,
    "search": 6,
    "evaluate": 7,
    "report": 8,
    **dict.fromkeys(
        (
            "demo",
            "stages",
            "bench",
            "run_results",
            "run_predictions",
            "target_device",
            "search_run",
            "search_command",
            "commands",
            "pick_command",
            "predict_commands",
            "table_commands",
            "transfer_command",
            "evaluate_command",
            "validate_command",
            "space_option",
            "plan_command",
            "__main__",
            "cli",
            "cli_tables",
            "export_command",
            "run_facts",
            "cli_export",
            "cli_judge",
            "cli_options",
            "cli_search",
        ),
        9,
    ),
}
FILES = sorted(ROOT.rglob("*.py"))


def room(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imported(path: Path) -> set[str]:
    """First part after `hwfit.` of everything the file imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("hwfit"):
            parts = node.module.split(".")
            found |= {parts[1]} if len(parts) > 1 else {alias.name for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name.split(".")[1] for alias in node.names if alias.name.startswith("hwfit.")}
    return found - {"__version__"}


@pytest.mark.parametrize("path", [f for f in FILES if f.name != "__init__.py" or f.parent != ROOT], ids=str)
def test_imports_only_lower_levels(path: Path):
    mine = room(path)
    for other in imported(path) - {mine}:
        assert LEVELS[other] < LEVELS[mine] or LEVELS[mine] in (0, 9), f"{path} imports hwfit.{other}"


@pytest.mark.parametrize(
    ("package", "allowed"),
    [
        ("latency_models", {"kernels", "lut_store"}),
        ("lut_store", {"kernels"}),
        ("search", {"kernels", "models", "deploy", "latency_models"}),
    ],
)
def test_some_packages_stand_on_less(package: str, allowed: set[str]):
    base = {name for name, level in LEVELS.items() if level == 0}
    seen = set().union(*(imported(f) for f in FILES if room(f) == package))
    assert seen - base - {package} <= allowed
