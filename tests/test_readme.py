"""What the README promises: its table is the committed report's, its Python runs, its files exist."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from stages import refine

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_table_is_the_committed_reports() -> None:
    table = [
        line
        for line in (ROOT / "reports" / "quick" / "scores.md").read_text(encoding="utf-8").splitlines()
        if line[:1] == "|"
    ]
    assert "\n".join(table) in README


def test_linked_files_exist() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", README)
    missing = [link for link in links if not link.startswith("http") and not (ROOT / link).exists()]
    assert links and not missing


def test_python_of_the_readme_runs(tiny_project: Path) -> None:
    result = CliRunner().invoke(refine.app, ["--task", "umaze", "--method", "fidec"], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    code, *_ = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    space = {"observation": np.zeros(4)}
    exec(code.replace("runs/cube-single/fidec", "runs/umaze/fidec"), space)  # noqa: S102 - the README's own lines
    action = space["action"]
    assert action.shape == (2, 2) and action.abs().max() <= 1


@pytest.mark.parametrize("name", re.findall(r"^([a-z./]+(?:\.yaml|/)) ", README, flags=re.MULTILINE))
def test_tree_names_what_is_there(name: str) -> None:
    made = {"data/", "behaviour/", "geometry/", "runs/", "evals/", ".scratch/"}
    assert name in made or (ROOT / name).exists()
