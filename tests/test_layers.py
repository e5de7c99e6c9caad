"""The plan of the house: which package imports which, names that do not collide, and lists of code that are what a program imports."""

from __future__ import annotations

import ast
import re
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import yaml
from jinja2.meta import find_referenced_templates

from fd.report import rendering
from fd.runtime.closure import ROOT, changed, closure, imported, listing, source
from stages import code

# What each package may import of the others, beside `errors`; a module of `fd` itself counts as a package.
ALLOWED = {
    "errors": "",
    "wrappers": "",
    "runtime": "",
    "networks": "",
    "storage": "runtime",
    "method": "networks",
    "settings": "storage method",
    "policy": "storage networks method",
    "export": "networks method policy",
    "simulation": "runtime storage settings policy wrappers",
    "training": "runtime storage networks method policy simulation",
    "datasets": "runtime storage settings simulation wrappers",
    "reference": "storage",
    "results": "storage settings",
    "report": "storage method settings policy reference results",
    "theory": "networks method settings report",
    "cluster": "runtime storage method settings",
    "cli": "runtime storage settings policy export reference results report cluster",
}
OUTSIDE = {"stages", "benchmarks"}  # may import everything, and nothing imports them


def modules() -> list[str]:
    files = [path for package in ("fd", "stages") for path in (ROOT / package).rglob("*.py")]
    return sorted(
        ".".join(path.relative_to(ROOT).with_suffix("").parts) for path in files if path.name != "__init__.py"
    )


def package(module: str) -> str:
    top, *rest = module.split(".")
    return rest[0] if top == "fd" and rest else top


@pytest.mark.parametrize("module", [name for name in modules() if package(name) not in OUTSIDE])
def test_a_module_imports_what_its_package_may(module: str) -> None:
    own = package(module)
    allowed = {own, "fd", "errors", *ALLOWED[own].split()}
    wrong = [name for name in imported(module) if package(name) not in allowed]
    assert not wrong, f"{module} imports {wrong}; {own} may import {sorted(allowed)}"


def test_the_packages_have_no_cycle() -> None:
    below: set[str] = set()
    for name, allowed in ALLOWED.items():
        assert set(allowed.split()) <= below, f"{name} imports what stands after it in the table"
        below.add(name)
    assert below == {package(name) for name in modules()} - OUTSIDE


def test_a_package_begins_with_what_lives_there() -> None:
    for name in sorted({package(name) for name in modules()} - OUTSIDE):
        if source(f"fd.{name}").name == "__init__.py":
            (only,) = ast.parse(source(f"fd.{name}").read_text()).body
            assert isinstance(only, ast.Expr) and ast.literal_eval(only.value), name


def test_no_two_modules_have_one_name() -> None:
    times = Counter(name.rsplit(".", 1)[-1] for name in modules())
    assert [name for name, count in times.items() if count > 1] == []


def test_losses_know_nothing_of_settings() -> None:
    for module in (
        "method.flow",
        "method.fisher",
        "method.objective",
        "method.agent",
        "training.loop",
        "training.bank",
    ):
        known = {package(name) for name in closure(f"fd.{module}")}
        assert not known & {"settings", "report", "datasets", "stages"}, module


def test_training_needs_torch_and_numpy_only() -> None:
    allowed = {"torch", "numpy", "safetensors", "filelock", "rich", "fd", "__future__"}
    for module in closure("fd.training.policy_training"):
        for node in ast.walk(ast.parse(source(module).read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            names += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            roots = {name.split(".")[0] for name in names}
            assert not roots - allowed - sys.stdlib_module_names, f"{module}: {roots}"


TEMPLATES = "fd/report/templates"
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PROGRAMS = sorted({stage["cmd"].split()[2] for stage in STAGES.values()} - {"stages.code"})


@pytest.mark.parametrize("stage", [name for name in STAGES if name != "code"])
def test_a_stage_depends_on_the_list_of_its_program(stage: str) -> None:
    program = STAGES[stage]["cmd"].split()[2].removeprefix("stages.")
    listed = [path for path in STAGES[stage]["deps"] if path.startswith(("code/", "fd", "stages"))]
    assert [path for path in listed if not path.startswith(TEMPLATES)] == [f"code/{program}.txt"]
    assert STAGES["code"]["outs"] == [{"code": {"cache": False, "persist": True}}]


def test_a_stage_depends_on_the_templates_of_its_pages() -> None:
    """Those that its modules name, and what these include or extend; the whole folder if they are many."""
    for name, stage in STAGES.items():
        modules = {m for m in closure(stage["cmd"].split()[2]) if m.startswith(("fd.report.", "fd.theory."))}
        waiting = [
            word for module in modules for word in re.findall(r'"(\w+\.\w+\.jinja)"', source(module).read_text())
        ]
        needed = set[str]()
        while waiting:
            template = waiting.pop()
            needed.add(f"{TEMPLATES}/{template}")
            tree = rendering.TEMPLATES.parse((rendering.FOLDER / template).read_text())
            waiting += [str(other) for other in find_referenced_templates(tree)]
        listed = {path for path in stage["deps"] if path.startswith(TEMPLATES)}
        assert listed == needed or (listed == {TEMPLATES} and len(needed) > 1), name


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_loads_no_other_code_than_its_list_names(program: str) -> None:
    """Python itself is asked, which also sees what the syntax of an import statement does not show."""
    asked = f"import sys, {program}; print(*(n for n in sys.modules if n.split('.')[0] in ('fd', 'stages')))"
    loaded = subprocess.run([sys.executable, "-c", asked], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert set(loaded.split()) <= closure(program)


def test_the_lists_in_git_are_of_this_code(tmp_path: Path) -> None:
    """What `git diff code/` shows is what a commit makes stale."""
    code.command(tmp_path)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {
        path.name: path.read_text() for path in (ROOT / "code").iterdir()
    }
    assert (tmp_path / "refine.txt").read_text() == listing("stages.refine")
    assert changed("stages.refine", listing("stages.refine").replace("\n", "\r\n")) == []


KEYS = (
    "from fd.storage.scratch import key; print(key('stages.pretrain'), key('stages.refine'), key('fd.training.bank'))"
)


@pytest.mark.parametrize(
    ("file", "kept"),
    [
        ("fd/report/figures.py", [True, True, True]),
        ("fd/settings/report_settings.py", [True, True, True]),
        ("fd/method/objective.py", [True, False, True]),
        ("fd/method/flow.py", [False, False, False]),
    ],
)
def test_unfinished_work_outlives_an_edit_of_code_that_did_not_make_it(
    file: str, kept: list[bool], tmp_path: Path
) -> None:
    """Checkpoints of pretrain and refine, and the bank of base actions."""
    for name in ("fd", "stages"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))

    def keys() -> list[str]:
        return subprocess.run(
            [sys.executable, "-c", KEYS], cwd=tmp_path, capture_output=True, text=True, check=True
        ).stdout.split()  # fmt: skip

    before = keys()
    for path in tmp_path.rglob("*.py"):  # as in a clone on Windows
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert keys() == before
    (tmp_path / file).write_text((ROOT / file).read_text() + "# edited\n")
    assert [old == new for old, new in zip(before, keys(), strict=True)] == kept
