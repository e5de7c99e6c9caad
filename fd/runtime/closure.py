"""The code that a program runs: its own file and every file of this project that it imports, directly or through others.

DVC depends on a list of these files, `code/<program>.txt`, so that an edit reruns the stages that import the edited file and no
others. Unfinished work is kept under a hash of the same list. Imports are read from the syntax of the files: an import inside a
function counts, a module that is loaded by its name at run time does not.
"""

from __future__ import annotations

import ast
import hashlib
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]  # the folder of the project
PACKAGES = ("fd", "stages")


@cache
def closure(module: str) -> frozenset[str]:
    """The module, all modules of this project that it imports, directly or not, and the packages that hold them."""
    found: set[str] = set()
    waiting = [module]
    while waiting:
        name = waiting.pop()
        if name not in found:
            found.add(name)
            waiting += [*imported(name), *([name.rpartition(".")[0]] if "." in name else [])]
    return frozenset(found)


@cache
def imported(module: str) -> frozenset[str]:
    """Modules of this project that a module names in its import statements."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(source(module).read_bytes())):
        if isinstance(node, ast.ImportFrom) and node.module:
            names |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
    return frozenset(name for name in names if name.split(".")[0] in PACKAGES and source(name).exists())


def source(module: str) -> Path:
    """File of a module or package of this project; it need not exist."""
    path = ROOT.joinpath(*module.split("."))
    return path / "__init__.py" if path.is_dir() else path.with_suffix(".py")


@cache
def listing(module: str) -> str:
    """SHA-256 and path of every file of a module's closure, in the format of `sha256sum`, sorted by path.

    A file with line ends of Windows has the SHA-256 of the same file with those of Linux: it is the same code.
    """
    files = sorted(source(name).relative_to(ROOT).as_posix() for name in closure(module))
    contents = {file: (ROOT / file).read_bytes().replace(b"\r\n", b"\n") for file in files}
    return "".join(f"{hashlib.sha256(content).hexdigest()}  {file}\n" for file, content in contents.items())


def changed(module: str, recorded: str) -> list[str]:
    """Paths whose lines differ between a recorded list and the module's current list, in order."""
    return sorted({line.split("  ", 1)[-1] for line in {*recorded.splitlines()} ^ {*listing(module).splitlines()}})
