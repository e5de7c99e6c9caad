"""Stage `theory`: settings -> reports/theory/: the method's claims, checked on distributions with known scores and divergences."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fd.runtime import device
from fd.runtime.command_line import ParamsOption, main
from fd.settings.machine_settings import Compute
from fd.settings.settings_file import read_settings
from fd.settings.theory_settings import Theory
from fd.storage.files import write_folder
from fd.storage.outputs import check_file
from fd.theory import theory_page
from fd.theory.demonstrations import run_demonstrations

app = typer.Typer(add_completion=False)


@app.command()
def command(
    params_file: ParamsOption = Path("params.yaml"),
    out: Annotated[Path, typer.Option(help="Folder of the pages, tables and figures.")] = Path("reports/theory"),
) -> None:
    """Run the five demonstrations: scores, second-order forms of the KL, the optimality gap, a multimodal bandit, value against KL.

    This trains small networks on the CPU for a minute or two, and writes either all files or none.
    """
    values = read_settings(params_file)
    check_file(out / "theory.md")
    device.select_device("cpu", values.part(Compute, "compute").threads)
    found = run_demonstrations(values.part(Theory, "theory"))
    for curve in found.curves:
        typer.echo(f"score error of the learned flow, {curve.target}: least at t = {curve.best:g}")
    write_folder(out, theory_page.render_theory(found))


if __name__ == "__main__":
    main(app)
