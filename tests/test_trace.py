"""The way from a number of a report back to what it was made from, in a real run of the stages."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import TASK, settings
from edits import change_params, outcome, write_params
from example_suite import ROOT, edit_record

from fd.cli.program import app
from fd.storage.files import digest
from stages import ablate, evaluate, refine, report

METHODS = ("bc", "fidec")


@pytest.fixture(scope="module")
def reported(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project of one task and two methods with its report; copy it, leave it as it is."""
    folder = tmp_path_factory.mktemp("trace") / "project"
    shutil.copytree(made, folder)
    write_params(folder, settings(*METHODS))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for stage in (refine, evaluate):
            for method in METHODS:
                assert outcome(stage.app, ["--task", TASK, "--method", method])[0] == 0
        assert outcome(report.app, ["--reference", str(ROOT / "reference")]) == (0, "")
    return folder


@pytest.fixture
def project(reported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the current folder."""
    folder = Path(shutil.copytree(reported, tmp_path / "project"))
    monkeypatch.chdir(folder)
    return folder


METRICS = "reports/tiny/metrics.json"


def test_every_number_of_a_report_has_its_origin(project: Path) -> None:
    code, text = outcome(app, ["trace", METRICS])
    found, metrics = json.loads(text), json.loads(Path(METRICS).read_text())
    assert code == 0 and found["suite"] == "tiny" and "torch" in found["versions"]
    for cell in found["cells"]:
        of_cell = metrics[cell["task"]][cell["method"]]
        assert {seed: entry["score"] for seed, entry in cell["seeds"].items()} == of_cell["seeds"]
        files = [cell["episodes"], cell["data"]["behaviour"], *cell["snapshots"].values()]
        assert all(digest(project / entry["file"]) == entry["sha256"] for entry in files)
        manifest = json.loads((project / "data" / TASK / "manifest.json").read_text())
        assert cell["data"]["sha256"] == manifest["sha256"]
        assert set(cell["versions"]) == {"download", "pretrain", "refine", "evaluate"}
    assert [(cell["task"], cell["method"]) for cell in found["cells"]] == [(TASK, method) for method in METHODS]
    assert list(found["cells"][1]["snapshots"]) == ["20", "40", "flow"]
    assert found["cells"][1]["settings"]["train"]["metric"] == "state"


def test_one_seed_at_one_step(project: Path) -> None:
    code, text = outcome(app, ["trace", "--task", TASK, "--method", "fidec", "--seed", "1", "--step", "20"])
    (cell,) = json.loads(text)["cells"]
    rows = [line.split(",") for line in (project / "evals" / TASK / "fidec.csv").read_text().splitlines()[1:]]
    scores = [float(row[-1]) for row in rows if row[:2] == ["1", "20"]]
    assert code == 0 and cell["seeds"] == {
        "1": {"score": sum(scores) / len(scores), "steps": {"20": cell["seeds"]["1"]["score"]}}
    }
    assert list(cell["snapshots"]) == ["20", "flow"] and cell["episodes_of_an_evaluation"] == len(scores)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "none"], f"tasks: 'none' is not part of the report, allowed: {TASK}"),
        (["--method", "fql"], "methods: 'fql' is not part of the report, allowed: bc, fidec"),
        (["--seed", "5"], "seeds: 5 is not part of the report, allowed: 0, 1"),
        (["--step", "30"], f"{TASK}: step: 30 is not part of the report, allowed: 20, 40"),
        (["none.json"], "none.json: No such file or directory; run the stage report"),
        ([f"data/{TASK}/transitions.npz"], "transitions.npz: not a JSON file"),
    ],
)
def test_what_is_not_part_of_the_report_is_named(project: Path, arguments: list[str], message: str) -> None:
    code, text = outcome(app, ["trace", *arguments])
    assert code == 2 and message in text and "\n" not in text


def _flip(path: str) -> Callable[[], object]:
    """Change the last byte of a file of weights, which stays one."""

    def flip() -> None:
        data = bytearray(Path(path).read_bytes())
        data[-1] ^= 1
        Path(path).write_bytes(bytes(data))

    return flip


def _metrics(change: Callable[[dict], object]) -> Callable[[], object]:
    def rewrite() -> None:
        values = json.loads(Path(METRICS).read_text())
        change(values)
        Path(METRICS).write_text(json.dumps(values))

    return rewrite


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (_metrics(lambda values: values[TASK]["bc"].update(mean=77.0)), f"{METRICS}: {TASK}.bc.mean is 77.0, the evaluations give"),
        (_metrics(lambda values: values[TASK]["bc"]["seeds"].pop("1")), f"{METRICS}: {TASK}.bc.seeds.1 is missing"),
        (_metrics(lambda values: values["aggregate"].update(more=1)), f"{METRICS}: aggregate.more is 1, the evaluations give nothing"),
        (_flip(f"runs/{TASK}/fidec/step_000000040.safetensors"), "step_000000040.safetensors: SHA-256 is"),
        (_flip(f"runs/{TASK}/bc/flow.safetensors"), "bc/flow.safetensors: SHA-256 is"),
        (lambda: Path(f"runs/{TASK}/bc/step_000000020.safetensors").unlink(), "step_000000020.safetensors: No such file"),
        (lambda: edit_record(Path(f"evals/{TASK}/bc.json"), "weights"), f"evals/{TASK}/bc.json: field 'weights' is missing"),
        (lambda: edit_record(Path(f"evals/{TASK}/bc.json"), data_sha256={}), f"evals/{TASK}/bc.json: data_sha256 belongs to different data"),
        (
            lambda: change_params(Path(), lambda params: params["refine"].update(discount=0.5)),
            "was trained with discount 0.99, the settings say 0.5",
        ),
    ],
)  # fmt: skip
def test_what_has_changed_since_is_named(project: Path, broken: Callable[[], object], message: str) -> None:
    broken()
    code, text = outcome(app, ["trace", METRICS])
    assert code == 2 and message in text and "\n" not in text


def test_a_report_of_mixed_versions_says_so_first(project: Path) -> None:
    path = project / "runs" / TASK / "bc.json"
    versions = json.loads(path.read_text())["versions"]
    edit_record(path, versions=versions | {"torch": "0.1"})
    assert outcome(report.app, ["--reference", str(ROOT / "reference")]) == (0, "")
    first = (project / "reports" / "tiny" / "report.md").read_text().splitlines()[0]
    assert first.startswith("**Mixed versions: torch ") and " and 0.1" in first


def test_a_report_of_mixed_data_is_refused(project: Path) -> None:
    edit_record(project / "evals" / TASK / "bc.json", data_sha256={"actions": "00"})
    code, text = outcome(report.app, ["--reference", str(ROOT / "reference")])
    assert code == 2 and text == f"evals/{TASK}/bc.json: data_sha256 belongs to different data; run this stage again"


def test_an_ablation_of_mixed_data_or_versions_says_so(project: Path) -> None:
    change_params(
        Path(), lambda params: params.update(ablations={"one": {"about": "all", "values": {"a": "bc", "b": "fidec"}}})
    )
    assert outcome(ablate.app, ["--axis", "one"]) == (0, "")
    page, run = Path("reports/tiny/ablations/one.md"), project / "runs" / TASK / "fidec.json"
    assert page.read_text().startswith("# Ablation")
    versions = json.loads(run.read_text())["versions"]
    edit_record(run, versions=versions | {"numpy": "0.1"})
    assert outcome(ablate.app, ["--axis", "one"]) == (0, "")
    assert page.read_text().startswith("**Mixed versions: numpy ")
    edit_record(run, data_sha256={"actions": "00"})
    code, text = outcome(ablate.app, ["--axis", "one"])
    assert code == 2 and text == f"runs/{TASK}/fidec.json: data_sha256 belongs to different data; run this stage again"
