"""Stage `ablate`: evals/, runs/ -> reports/<suite>/ablations/<axis>.md, .csv, .svg: one ablation of params.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fd import params
from fd.report import ablation
from fd.report.folder import save
from fd.report.plan import plan_of
from stages.command import EvalsOption, ParamsOption, RunsOption, main

app = typer.Typer(add_completion=False)


@app.command()
def command(
    axis: Annotated[str, typer.Option(help="Name of an ablation in the file of settings.")],
    params_file: ParamsOption = Path("params.yaml"),
    evals: EvalsOption = Path("evals"),
    runs: RunsOption = Path("runs"),
    out: Annotated[Path, typer.Option(help="Folder of the reports, with a folder a suite.")] = Path("reports"),
) -> None:
    """Compare the methods of an ablation on every task of the settings: a page, its numbers and its figure.

    A method, task, seed, evaluation or episode that is missing is an error, and nothing is written.
    """
    values = params.load(params_file)
    chosen = ablation.axis_of(values, axis)
    plan = plan_of(values, chosen.methods())
    found = ablation.gather(chosen, plan, evals=evals, runs=runs)
    save(out / plan.suite / "ablations", ablation.render(found))


if __name__ == "__main__":
    main(app)
