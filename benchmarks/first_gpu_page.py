"""Writes what `benchmarks/first_gpu_run.sh` found as one JSON file and one page beside the other results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from benchmarks.step import ROOT, figure, json_text, page, slug
from fd.errors import FdError
from fd.report.markdown import markdown_table
from fd.runtime.command_line import main
from fd.storage.files import write_text

TARGETS = (
    "Targets on a GPU, `fidec` with a bank, networks of 4 x 512: a step of eight seeds takes at most 0.8 ms and at most 2.5 times"
    " that of one seed; 10,000 updates of a seed per second; at most 110 launches."
)
app = typer.Typer(add_completion=False)


@app.command()
def command(
    folder: Annotated[Path, typer.Option(help="Folder in which the parts of the run left their output.")],
    out: Annotated[Path | None, typer.Option(help="Output path without .json and .md.", show_default=False)] = None,
) -> None:
    """Write benchmarks/results/<GPU or processor>.first.json and .md."""
    step = folder / "step.json"
    if not step.is_file():
        raise FdError(f"{step}: no such file; the benchmark of the step failed, see its output above")
    measured = json.loads(step.read_text(encoding="utf-8"))
    lines = (folder / "parts").read_text(encoding="utf-8").splitlines()
    parts = [{"part": name, "exit code": int(code), "seconds": int(time)} for name, code, time in map(str.split, lines)]
    here, there = folder / "project" / "reports" / "ci" / "metrics.json", ROOT / "baseline" / "ci.json"
    found: dict[str, Any] = {
        "parts": parts,
        "tests": (folder / "tests.log").read_text(encoding="utf-8").strip().split("\n")[-1],
        "scores": json.loads(here.read_text(encoding="utf-8")) if here.is_file() else {},
        "scores_cpu": cpu_scores(json.loads(there.read_text(encoding="utf-8"))),
        "step": measured,
    }
    machine = measured["machine"]
    place = out or ROOT / "benchmarks" / "results" / f"{slug(machine['gpu'] or machine['processor'])}.first"
    write_text(place.with_name(f"{place.name}.json"), json_text(found))
    write_text(place.with_name(f"{place.name}.md"), first_page(found))


def cpu_scores(baseline: dict[str, Any]) -> dict[str, dict[str, float]]:
    """Return the score in percent of every task and method of a baseline."""
    return {
        task: {
            method: 100 * sum(seed["successes"] for seed in found["seeds"].values()) / sum(seed["episodes"] for seed in found["seeds"].values())
            for method, found in of["methods"].items()
        }
        for task, of in baseline["tasks"].items()
    }  # fmt: skip


def first_page(found: dict[str, Any]) -> str:
    """Return the page: what ran, the targets, the scores beside the CPU's, and the page of the step."""
    ran = markdown_table(
        ["part", "exit code", "seconds"], [[str(value) for value in part.values()] for part in found["parts"]]
    )
    rows = []
    for task, methods in found["scores_cpu"].items():
        for method, cpu in methods.items():
            if score := found["scores"].get(task, {}).get(method):
                own = f"{figure(score['mean'])} [{figure(score['low'])}, {figure(score['high'])}]"
                rows.append([task, method, own, figure(cpu)])
    scores = (
        markdown_table(["task", "method", "here, 95 % interval", "CPU (baseline/ci.json)"], rows)
        if rows
        else "None: the suite did not finish."
    )
    return "\n\n".join([
        "# The first minutes on a GPU",
        "`benchmarks/first_gpu_run.sh`. A part with an exit code other than 0 failed.",
        ran, f"Tests: {found['tests']}.", "## Scores of the suite `ci`", scores, "## Targets", TARGETS,
        page(found["step"]).replace("# The training step", "## The training step").replace("\n## ", "\n### "),
    ])  # fmt: skip


if __name__ == "__main__":
    main(app)
