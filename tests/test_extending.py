"""docs/extending.md, followed to the letter: its patches make a method that is trained, evaluated and reported."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from conftest import TASK
from test_pipeline import copied

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "extending.md").read_text()
METHOD = "fidec-diagonal"


def patch(folder: Path, block: str) -> Path:
    """Apply a block of the page to a file: each part behind @@ is found once, by its lines without + and with -."""
    name = re.findall(r"^\+\+\+ b/(\S+)$", block, re.MULTILINE)[0]
    text = (folder / name).read_text()
    for part in block.split("\n@@\n")[1:]:
        lines = part.rstrip("\n").splitlines()
        old, new = ("\n".join(line[1:] for line in lines if line[0] in marks) for marks in (" -", " +"))
        assert text.count(old) == 1, f"{name}: {old!r}"
        text = text.replace(old, new)
    (folder / name).write_text(text)
    return folder / name


@pytest.fixture(scope="module")
def extended(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the project with the patches of the page, the tiny suite and its data and flow."""
    folder = copied(tmp_path_factory.mktemp("extended") / "project")
    shutil.copytree(made, folder, dirs_exist_ok=True)
    patched = {patch(folder, block) for block in re.findall(r"```diff\n(.*?)```", PAGE, re.DOTALL)}
    assert len(patched) == 2  # and params.yaml: three files
    (entry,) = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
    entry = entry.replace("*residual", "*fidec")  # the mark of the tiny suite
    text = (ROOT / "tests" / "tiny.yaml").read_text().replace("ablations:\n", f"{entry}ablations:\n", 1)
    values = yaml.safe_load(text)
    values["tasks"] = {TASK: values["tasks"][TASK]}
    values["methods"] = {METHOD: values["methods"][METHOD]}
    values["ablations"] = {}
    (folder / "params.yaml").write_text(yaml.safe_dump(values, sort_keys=False))
    shutil.rmtree(folder / "code")  # it lists the code without the patches
    return folder


def run(folder: Path, stage: str, *options: str) -> None:
    subprocess.run([sys.executable, "-m", f"stages.{stage}", *options], cwd=folder, check=True, capture_output=True)


def test_the_method_of_the_page_has_a_row_in_the_report(extended: Path) -> None:
    for stage in ("refine", "evaluate"):
        run(extended, stage, "--task", TASK, "--method", METHOD)
    run(extended, "report")
    assert METHOD in (extended / "reports" / "tiny" / "scores.md").read_text()


def test_the_formula_of_the_page(extended: Path) -> None:
    code = """
import torch
from fd.method.fisher import Metric, penalty
delta, scores = torch.randn(2, 5, 3), torch.randn(2, 5, 4, 3)
expected = (scores.square().mean(dim=2) * delta.square()).sum(dim=-1) / 3
torch.testing.assert_close(penalty(delta, scores, Metric("diagonal", 0.0, "none")), expected)
"""
    subprocess.run([sys.executable, "-c", code], cwd=extended, check=True)
