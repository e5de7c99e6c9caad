"""The console command `fidec`; each subcommand is a module of this package."""

from __future__ import annotations

import typer

from fd.cli import (
    check_settings,
    cluster_commands,
    detection_power,
    dvc_lock,
    export_policy,
    print_task,
    select_suite,
    trace_scores,
    watch_runs,
)
from fd.runtime import command_line, signals

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Check settings, watch runs, trace scores, export policies and maintain the pipeline. To run the pipeline itself, use `dvc repro` or `make repro`.",
)
app.command("check")(check_settings.command)
app.command("suite")(select_suite.command)
app.command("task")(print_task.command)
app.command("trace")(trace_scores.command)
app.command("watch")(watch_runs.command)
app.command("export")(export_policy.command)
app.command("power")(detection_power.command)
app.command("unlock")(dvc_lock.command)
app.add_typer(cluster_commands.app, name="cluster")


def main() -> None:
    """Run `fidec`; see `fd.runtime.command_line.main`."""
    signals.listen()
    command_line.main(app)
