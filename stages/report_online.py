"""Stage `report-online`: runs/, evals/, online/, evals-online/ -> reports/<suite>/online/<page>.html, .md, .csv, .svg: a page of params.yaml."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fd.report import online_page
from fd.runtime.command_line import EvalsOption, ParamsOption, RunsOption, main
from fd.settings.settings_file import read_settings
from fd.storage.files import write_folder
from fd.storage.outputs import check_file

app = typer.Typer(add_completion=False)


@app.command()
def command(
    page: Annotated[str, typer.Option(help="Name of a page under `online.pages` in the settings file.")],
    params_file: ParamsOption = Path("params.yaml"),
    runs: RunsOption = Path("runs"),
    evals: EvalsOption = Path("evals"),
    went_on: Annotated[Path, typer.Option("--online", help="Folder of the fine-tuned runs.")] = Path("online"),
    after: Annotated[Path, typer.Option(help="Folder of the evaluations of the fine-tuned runs.")] = Path(
        "evals-online"
    ),
    published: Annotated[Path, typer.Option("--reference", help="Folder of the published scores.")] = Path("reference"),
    out: Annotated[Path, typer.Option(help="Folder of the reports; each suite has its own subfolder.")] = Path(
        "reports"
    ),
) -> None:
    """Compare the scores at the start and at the end of online training; writes a page, a CSV table and a figure.

    If a task, method, seed, evaluation or episode is missing, this stops with an error and writes nothing.
    """
    values = read_settings(params_file)
    check_file(out / values.suite / "online" / f"{page}.md")
    found = online_page.gather_online(
        values,
        page,
        start=online_page.EvaluatedRuns(runs, evals),
        end=online_page.EvaluatedRuns(went_on, after),
        reference=published,
    )
    write_folder(out / values.suite / "online", online_page.render_online(found))


if __name__ == "__main__":
    main(app)
