"""The stages' declared code is their import closure, and imports point down the layers only."""

from __future__ import annotations

import ast
import sys
from functools import cache
from pathlib import Path

import pytest
import yaml

STDLIB = sys.stdlib_module_names
ROOT = Path(__file__).parent.parent
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
# Lowest layer first; a module imports from its own layer or those before it.
LAYERS = [
    ["errors", "interrupt"],
    ["documents", "files", "memory", "processes"],
    [
        "params",
        "spec",
        "transitions",
        "scratch",
        "streams",
        "progress",
        "provenance",
        "compute",
        "graph",
        "augmentation",
        "linear",
        "encoder",
        "nets",
        "optim",
        "robotics",
    ],
    ["replay", "flow", "critic", "scores", "stats", "reference", "environments", "checkpoint"],
    ["fisher", "simulators", "sources", "loop", "suites"],
    ["refine", "rollout", "lockstep", "pretraining"],
    ["baselines"],
    ["agent"],
    ["bank", "policy"],
    ["refinement", "online", "evaluation", "report", "theory"],
    ["stages", "benchmarks"],
]
RANK = {name: rank for rank, names in enumerate(LAYERS) for name in names}


def imported(module: str) -> set[str]:
    """Modules of this project that a module imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(source(module).read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.split(".")[0] in {"fd", "stages", "benchmarks"} and source(name).exists()}


def source(module: str) -> Path:
    base = ROOT.joinpath(*module.split("."))
    return base / "__init__.py" if base.is_dir() else base.with_suffix(".py")


@cache
def closure(module: str) -> frozenset[str]:
    """A module, all that it imports, directly or not, and the packages that these stand in."""
    seen: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in seen:
            seen.add(name)
            parents = [name.rsplit(".", 1)[0]] if "." in name else []
            waiting += [*imported(name), *parents]
    return frozenset(seen)


@pytest.mark.parametrize("stage", STAGES)
def test_declared_code_is_the_import_closure(stage: str) -> None:
    program = STAGES[stage]["cmd"].split()[2]  # of `python -m stages.<program> ...`
    needed = {str(source(name).relative_to(ROOT)) for name in closure(program)}
    declared = {dep for dep in STAGES[stage]["deps"] if dep.endswith(".py")}
    assert declared == needed, f"too many: {sorted(declared - needed)}, missing: {sorted(needed - declared)}"


def modules() -> list[str]:
    files = [path for package in ("fd", "stages") for path in (ROOT / package).rglob("*.py")]
    return sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files if path.name != "__init__.py"
    )


def rank(module: str) -> int:
    parts = module.split(".")
    return RANK["stages"] if parts[0] == "stages" else RANK[parts[1]] if len(parts) > 1 else 0


@pytest.mark.parametrize("module", modules())
def test_imports_point_down(module: str) -> None:
    wrong = [name for name in imported(module) if rank(name) > rank(module)]
    assert not wrong, f"{module} imports from a higher layer: {wrong}"


def test_losses_know_nothing_of_settings() -> None:
    for module in ("flow", "fisher", "critic", "refine", "agent", "loop", "bank"):
        names = {name.rsplit(".", 1)[-1] for name in closure(f"fd.{module}")}
        assert not names & {"params", "report", "sources", "command"}, module


def test_training_needs_torch_and_numpy_only() -> None:
    allowed = {"torch", "numpy", "safetensors", "filelock", "rich", "fd", "__future__"}
    for module in closure("fd.training.loop"):
        for node in ast.walk(ast.parse(source(module).read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            roots = {name.split(".")[0] for name in names}
            assert not roots - allowed - STDLIB, f"{module}: {roots}"
