"""Stage `regress`: data/, behaviour/, runs/, evals/ and baseline/<suite>.json -> a verdict on the scores, and the exit code."""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated

import typer

from fd.errors import FdError
from fd.report import baseline, regression
from fd.report.rendering import render_markdown
from fd.results import estimates, origins
from fd.results.grid import grid_of
from fd.runtime.command_line import BehaviourOption, DataOption, EvalsOption, ParamsOption, RunsOption, main
from fd.settings.report_settings import Regress
from fd.settings.settings_file import read_settings
from fd.storage.files import write_text
from fd.storage.outputs import check_file

app = typer.Typer(add_completion=False)


@app.command()
def command(
    params_file: ParamsOption = Path("params.yaml"),
    evals: EvalsOption = Path("evals"),
    runs: RunsOption = Path("runs"),
    data: DataOption = Path("data"),
    behaviour: BehaviourOption = Path("behaviour"),
    folder: Annotated[Path, typer.Option("--baseline", help="Folder of the baselines, one file per suite.")] = Path(
        "baseline"
    ),
    update: Annotated[bool, typer.Option("--update", help="Save the current scores as the baseline.")] = False,
    gate: Annotated[
        bool,
        typer.Option(
            help="--gate: exit with 1 for a regression, with 2 if the scores cannot be compared; --no-gate: exit with 0."
        ),
    ] = True,
    out: Annotated[Path | None, typer.Option(help="File of the verdict; default: standard output.")] = None,
) -> None:
    """Compare the scores of all tasks and methods of the settings with the suite's baseline; prints a Markdown table.

    Exit code 0: no regression; 1: a significant drop of more than the tolerance; 2: the scores cannot be compared.
    """
    values = read_settings(params_file)
    plan, path = grid_of(values, values.methods), folder / f"{values.suite}.json"
    if written := path if update else out:
        check_file(written)
    try:
        found = estimates.gather_estimates(plan, evals)
        origin = origins.gather_provenance(plan, data=data, behaviour=behaviour, runs=runs, evals=evals)
        now = baseline.measured_baseline(values, found, origin, evals)
        if update:
            baseline.save_baseline(path, now)
            typer.echo(f"{path}: saved the current scores")
            return
        verdict = regression.compare_with_baseline(baseline.load_baseline(path), now, values.part(Regress, "regress"))
        text, failed = regression.verdict_page(verdict), verdict.regressions > 0
    except FdError as error:
        if gate or update:
            raise
        text, failed = render_markdown(regression.TEMPLATE, {"error": error}), False
    if out is None:
        typer.echo(text, nl=False)
    else:
        write_text(out, text)
    if failed and gate:
        raise typer.Exit(1)


if __name__ == "__main__":
    try:
        main(app)
    except Exception:  # noqa: BLE001  this is no regression, which Python's own exit code 1 would mean
        traceback.print_exc()
        sys.exit(2)
