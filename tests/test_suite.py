"""Suites: each is a valid file of settings, the committed settings are one, and selecting one never loses edits."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from fd import params
from fd.errors import FdError
from stages import suite

ROOT = Path(__file__).parent.parent
SUITES = sorted((ROOT / "suites").glob("*.yaml"))


@pytest.mark.parametrize("path", SUITES, ids=lambda path: path.stem)
def test_suite_is_valid_and_bears_its_name(path: Path) -> None:
    assert params.load(path).suite == path.stem


def test_committed_settings_are_the_quick_suite() -> None:
    assert (ROOT / "params.yaml").read_bytes() == (ROOT / "suites" / "quick.yaml").read_bytes()


def test_all_suites_have_one_theory() -> None:
    assert len({params.load(path).theory for path in SUITES}) == 1  # reports/theory/ belongs to all of them


def test_all_methods_of_the_project_are_in_the_ablation_suite() -> None:
    presets = {"bc", "fql", "ifql", "iql", "iql-ddpgbc", "rebrac", "deflow", "fidec", "fidec-official", "fidec-action"}
    presets |= {"fidec-stein", "fidec-desmooth"}
    assert presets <= set(params.load(ROOT / "suites" / "ablation.yaml").methods)


def select(name: str, target: Path, *options: str) -> None:
    arguments = [name, "--params", str(target), "--suites", str(ROOT / "suites"), *options]
    CliRunner().invoke(suite.app, arguments, catch_exceptions=False)


def test_selecting(tmp_path: Path) -> None:
    target = tmp_path / "params.yaml"
    select("quick", target)
    select("ablation", target)
    assert target.read_bytes() == (ROOT / "suites" / "ablation.yaml").read_bytes()
    edited = target.read_text(encoding="utf-8").replace("seeds: [0", "seeds: [7, 0")
    target.write_text(edited, encoding="utf-8")
    with pytest.raises(
        FdError, match="holds edits, it is none of ablation, ablation-cube, quick; keep it elsewhere, or add --force"
    ):
        select("quick", target)
    assert target.read_text(encoding="utf-8") == edited
    select("quick", target, "--force")
    assert params.load(target).suite == "quick"


def test_unknown_suite_is_told(tmp_path: Path) -> None:
    with pytest.raises(FdError, match="'paper' does not exist, allowed: ablation, ablation-cube, quick"):
        select("paper", tmp_path / "params.yaml")
    assert not list(tmp_path.iterdir())
