"""Stage `report`: evals/, runs/, behaviour/, data/ -> reports/: tables, figures, metrics and the main page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fd import params, reference
from fd.report import page, provenance, results, training
from stages.command import ParamsOption, main

app = typer.Typer(add_completion=False)


def plan_of(values: params.Params) -> results.Plan:
    """The grid and statistics of the report that params.yaml asks for."""
    tasks = []
    for name, task in values.tasks.items():
        settings = values.settings(name)
        every, last = settings.refine.evaluate_every, settings.refine.steps
        tasks.append(
            results.Task(
                name=name,
                dataset=task.data.dataset,
                source=task.data.source,
                budget=settings.refine.target_divergence,
                steps=tuple(range(every, last + 1, every)),
                episodes=settings.evaluate.episodes,
            )
        )
    return results.Plan(
        suite=values.suite,
        tasks=tuple(tasks),
        methods=tuple(values.methods),
        constrained=tuple(name for name, method in values.methods.items() if method.policy == "residual"),
        seeds=values.seeds,
        final_evaluations=values.report.final_evaluations,
        confidence=values.report.confidence,
        bootstrap=values.report.bootstrap,
        bootstrap_seed=values.report.seed,
    )


@app.command()
def command(
    params_file: ParamsOption = Path("params.yaml"),
    evals: Annotated[Path, typer.Option(help="Folder of the evaluations.")] = Path("evals"),
    runs: Annotated[Path, typer.Option(help="Folder of the runs.")] = Path("runs"),
    data: Annotated[Path, typer.Option(help="Folder of the data folders.")] = Path("data"),
    behaviour: Annotated[Path, typer.Option(help="Folder of the behaviour folders.")] = Path("behaviour"),
    published: Annotated[Path, typer.Option("--reference", help="Folder of published figures.")] = Path("reference"),
    out: Annotated[Path, typer.Option(help="Folder of the report.")] = Path("reports"),
) -> None:
    """Report on every task and method of the settings: tables, figures, metrics and the main page, report.md.

    A task, method, seed, evaluation or episode that is missing is an error, and nothing is written.
    """
    plan = plan_of(params.load(params_file))
    found = results.gather(plan, evals)
    files = page.render(
        found,
        training={
            (task.name, method): training.read(runs / task.name / method / "train.csv", plan.seeds)
            for task in plan.tasks
            for method in plan.constrained
        },
        provenance=provenance.gather(plan, data=data, behaviour=behaviour, runs=runs, evals=evals),
        reference=reference.load(published),
    )
    page.save(out, files)


if __name__ == "__main__":
    main(app)
