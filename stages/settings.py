"""Stage `settings`: params.yaml -> settings/<program>.json: the sections that the pages of a program depend on.

It checks the whole file first. A page depends on one small file. If it depended on the sections themselves, DVC would copy them
into dvc.lock for each page: 25,000 bytes per page in a suite of 37 methods.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

from fd.runtime.command_line import ParamsOption, main
from fd.settings.settings_file import read_settings
from fd.storage.files import write_folder

CELLS = ("suite", "seeds", "tasks", "methods", "refine", "evaluate")
SECTIONS = {
    "ablate": (*CELLS, "report"),
    "report": (*CELLS, "report", "ablations", "online", "film"),
    "report_online": (*CELLS, "report", "online"),
    "regress": (*CELLS, "regress", "network", "pretrain"),
}

app = typer.Typer(add_completion=False)


@app.command()
def command(
    params_file: ParamsOption = Path("params.yaml"),
    out: Annotated[Path, typer.Option(help="Folder of the files.")] = Path("settings"),
) -> None:
    """Check the settings file, and write the sections that report pages depend on to settings/<program>.json."""
    values = read_settings(params_file).values
    write_folder(
        out,
        {
            f"{program}.json": json.dumps({section: values[section] for section in sections}, indent=1) + "\n"
            for program, sections in SECTIONS.items()
        },
    )


if __name__ == "__main__":
    main(app)
