"""Stage `theory`: settings -> reports/theory/: what the method claims, on distributions whose scores and divergences are known."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fd import compute, params
from fd.report.folder import save
from fd.theory import page
from fd.theory.demonstrations import Settings, run
from fd.theory.training import Schedule
from stages.command import ParamsOption, main

app = typer.Typer(add_completion=False)


def settings_of(values: params.Params) -> Settings:
    """The section `theory` of params.yaml."""
    section = values.theory.model_dump()
    return Settings(**section | {name: Schedule(**section[name]) for name in ("flow", "refine")})


@app.command()
def command(
    params_file: ParamsOption = Path("params.yaml"),
    out: Annotated[Path, typer.Option(help="Folder of the pages, tables and figures.")] = Path("reports/theory"),
) -> None:
    """The four demonstrations: scores, second-order forms of the KL, the optimality gap, a multimodal bandit.

    It trains small networks on the CPU, for a minute or two, and writes all files or none.
    """
    values = params.load(params_file)
    compute.select("cpu", values.compute.threads)
    found = run(settings_of(values))
    for curve in found.curves:
        typer.echo(f"score error of the learned flow, {curve.target}: least at t = {curve.best:g}")
    save(out, page.render(found))


if __name__ == "__main__":
    main(app)
