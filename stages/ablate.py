"""Stage `ablate`: evals/, runs/ -> reports/<suite>/ablations/<axis>.md, .csv, .svg: one ablation of params.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fd.report import ablation_page
from fd.results.grid import grid_of
from fd.runtime.command_line import EvalsOption, ParamsOption, RunsOption, main
from fd.settings.settings_file import read_settings
from fd.storage.files import write_folder
from fd.storage.outputs import check_file

app = typer.Typer(add_completion=False)


@app.command()
def command(
    axis: Annotated[str, typer.Option(help="Name of an ablation in the settings file.")],
    params_file: ParamsOption = Path("params.yaml"),
    evals: EvalsOption = Path("evals"),
    runs: RunsOption = Path("runs"),
    out: Annotated[Path, typer.Option(help="Folder of the reports; each suite has its own subfolder.")] = Path(
        "reports"
    ),
) -> None:
    """Compare the methods of an ablation on every task of the settings; writes a page, a CSV table and a figure.

    If a method, task, seed, evaluation or episode is missing, this stops with an error and writes nothing.
    """
    values = read_settings(params_file)
    chosen = ablation_page.axis_of(values, axis)
    plan = grid_of(values, chosen.methods())
    check_file(out / plan.suite / "ablations" / f"{axis}.md")
    found = ablation_page.gather_ablation(chosen, plan, evals=evals, runs=runs)
    write_folder(out / plan.suite / "ablations", ablation_page.render_ablation(found))


if __name__ == "__main__":
    main(app)
