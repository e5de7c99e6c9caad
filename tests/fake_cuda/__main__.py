"""Rehearses training on a GPU without one: `python tests/fake_cuda GUARD OUT`.

GUARD is guard.cpp, compiled. It must be there before torch first asks for a GPU, so this is a process of its own.
It writes to OUT, as JSON, what tests/test_fake_gpu.py checks.
"""

from __future__ import annotations

import ctypes
import importlib.util
import json
import sys
from pathlib import Path


def main(guard: Path, out: Path) -> None:
    """Load the guard, then torch, and write what the rehearsal found."""
    found = importlib.util.find_spec("torch")
    assert found is not None and found.origin is not None
    libraries = [Path(found.origin).parent / "lib" / f"lib{name}.so" for name in ("c10", "torch_cpu", "torch_cuda")]
    for library in (
        *filter(Path.exists, libraries),
        guard,
    ):  # a torch that is built for GPUs has a guard, too: the last one counts
        ctypes.CDLL(str(library), mode=ctypes.RTLD_GLOBAL)
    from rehearsal import results

    out.write_text(json.dumps(results(), indent=1))


main(*map(Path, sys.argv[1:]))
