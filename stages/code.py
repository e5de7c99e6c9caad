"""Stage `code`: fd/, stages/ -> code/<program>.txt: path and SHA-256 of every file that a stage's program imports.

Every other stage depends on its own list, so an edit reruns only the stages that import the edited file. The lists are in Git:
`git diff code/` between two commits names the stages that are stale.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fd.runtime import closure
from fd.runtime.command_line import main
from fd.storage.files import write_folder

app = typer.Typer(add_completion=False)


@app.command()
def command(out: Annotated[Path, typer.Option(help="Folder of the lists.")] = Path("code")) -> None:
    """List the source files that each stage imports, with their SHA-256; writes code/<program>.txt."""
    programs = {path.stem for path in (closure.ROOT / "stages").glob("*.py")} - {"__init__", "cell", "code"}
    write_folder(out, {f"{program}.txt": closure.listing(f"stages.{program}") for program in sorted(programs)})


if __name__ == "__main__":
    main(app)
