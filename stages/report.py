"""Stage `report`: evals/, runs/, geometry/, behaviour/, data/ -> reports/<suite>/: tables, figures, metrics and the main page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fd.reference import published as reference
from fd.report import ablation_page, main_page
from fd.results import estimates, films, flow_shape, origins, training_log
from fd.results.grid import grid_of
from fd.runtime.command_line import (
    BehaviourOption,
    DataOption,
    EvalsOption,
    GeometryOption,
    ParamsOption,
    RunsOption,
    main,
)
from fd.settings.report_settings import Filmed
from fd.settings.settings_file import read_settings
from fd.storage.files import write_folder
from fd.storage.outputs import check_file

app = typer.Typer(add_completion=False)


@app.command()
def command(
    params_file: ParamsOption = Path("params.yaml"),
    evals: EvalsOption = Path("evals"),
    runs: RunsOption = Path("runs"),
    data: DataOption = Path("data"),
    behaviour: BehaviourOption = Path("behaviour"),
    geometry: GeometryOption = Path("geometry"),
    filmed: Annotated[Path, typer.Option("--films", help="Folder of the films, one subfolder per task.")] = Path(
        "films"
    ),
    published: Annotated[Path, typer.Option("--reference", help="Folder of the published scores.")] = Path("reference"),
    out: Annotated[Path, typer.Option(help="Folder of the reports; each suite has its own subfolder.")] = Path(
        "reports"
    ),
) -> None:
    """Report on every task and method of the settings: tables, figures, metrics and the main page, report.md.

    If a task, method, seed, evaluation or episode is missing, this stops with an error and writes nothing.
    """
    values = read_settings(params_file)
    plan = grid_of(values, values.methods)
    check_file(out / plan.suite / "report.md")
    found = estimates.gather_estimates(plan, evals)
    provenance = origins.gather_provenance(plan, data=data, behaviour=behaviour, runs=runs, evals=evals)
    files = main_page.render_report(
        found,
        training={
            (task.name, method): training_log.read_training_log(runs / task.name / method / "train.csv", plan.seeds)
            for task in plan.tasks
            for method in plan.constrained
        },
        shapes=flow_shape.gather_shapes(plan, geometry, provenance),
        films=films.gather_films(values.part(Filmed, "film"), filmed, provenance),
        provenance=provenance,
        reference=reference.load_reference(published),
        ablations=[
            ablation_page.gather_ablation(axis, grid_of(values, axis.methods()), evals=evals, runs=runs)
            for axis in (ablation_page.axis_of(values, name) for name in plan.ablations)
        ],
        online=list(values.at("online", "pages")),
    )
    write_folder(out / plan.suite, files)


if __name__ == "__main__":
    main(app)
