"""The report's main page, and the text of every file of a report."""

from __future__ import annotations

from collections.abc import Mapping

from fd.reference.published import Comparison, Reference, Setting, compare_published
from fd.report import figures, published_page, tables
from fd.report.behaviour_figure import behaviour
from fd.report.behaviour_section import behaviour_section
from fd.report.markdown import markdown_table
from fd.report.style import style, svg
from fd.report.text import clock, protocol
from fd.results.estimates import Results
from fd.results.flow_shape import FlowShape
from fd.results.grid import Grid, GridTask
from fd.results.origins import Provenance, RecordedMachine, mixed
from fd.results.training_log import TrainingLog

INTRODUCTION = (
    "Written by the stage `report` from the evaluations of every task and method in `params.yaml`."
    " [README.md](../README.md) says what each file claims."
)
PENALTIES = (
    "Means over seeds and the last tenth of training. A penalty is in its method's own metric, so the penalties of two"
    " methods can be different quantities. Mean δ² (averaged over the dimensions of an action) is the same quantity for"
    " all methods. A method without a budget has a fixed multiplier."
)
CONSTRAINT = (
    "Multiplier and penalty over training. Line: mean over seeds; band: their range; dashed: the budget, in the"
    " colour of its method if the methods of a panel have different budgets."
)
GENERATED = (
    "A data set that is generated here is not the published set of the same name: it is newly drawn from the same"
    " simulator, and may be smaller."
)
PUBLISHED = (
    "[published.md](published.md) lists all tasks of the benchmark, our scores beside every published score;"
    " [published.csv](published.csv) has the same numbers."
)
TIMING = {"pre": "state before the step", "post": "state after the step"}


def render_report(
    results: Results,
    *,
    training: Mapping[tuple[str, str], TrainingLog],
    shapes: Mapping[str, FlowShape],
    provenance: Provenance,
    reference: Reference,
) -> dict[str, str]:
    """Text of every file of the report, by name; equal inputs give equal bytes."""
    settings = {task.name: _setting(task, provenance) for task in results.plan.tasks}
    comparisons = {
        name: compare_published(reference, setting, results.plan.methods) for name, setting in settings.items()
    }
    rows = published_page.published_rows(results, reference, settings)
    files = {
        "scores.md": f"{tables.scores_markdown(results)}\n\n{tables.caption(results)}\n",
        "scores.csv": tables.scores_csv(results),
        "scores.tex": tables.scores_latex(results),
        "curves.csv": tables.curves_csv(results),
        "published.md": published_page.published_page(results, rows),
        "published.csv": published_page.published_csv(results, rows),
        "metrics.json": tables.metrics_json(results),
        "report.md": _report(results, training=training, shapes=shapes, provenance=provenance, comparisons=comparisons),
    }
    with style():
        files["scores.svg"] = svg(figures.scores(results))
        files["learning_curves.svg"] = svg(figures.learning_curves(results))
        files["constraint.svg"] = svg(figures.constraint(results.plan, training))
        files["behaviour.svg"] = svg(behaviour(shapes))
    return files


def _setting(task: GridTask, provenance: Provenance) -> Setting:
    timing = provenance.manifests[task.name].success_timing
    return Setting(task.dataset, task.source, task.differs, task.final_steps, task.episodes, timing)


def _report(
    results: Results,
    *,
    training: Mapping[tuple[str, str], TrainingLog],
    shapes: Mapping[str, FlowShape],
    provenance: Provenance,
    comparisons: Mapping[str, Comparison],
) -> str:
    plan = results.plan
    names = (", ".join(items) for items in ([task.name for task in plan.tasks], plan.methods, map(str, plan.seeds)))
    parts = [
        *mixed(provenance.versions()),
        f"# Results of the suite `{plan.suite}`",
        INTRODUCTION,
        "Tasks: {}. Methods: {}. Seeds: {}.".format(*names),
        protocol(plan),
        *_ablations(plan),
        "## Scores",
        tables.scores_markdown(results),
        tables.caption(results),
        "![Final scores](scores.svg)",
        "Final scores. Symbol and bar: mean and interval as in the table, cut at 0 and 100; dots: the seeds.",
        "![Learning curves](learning_curves.svg)",
        f"Learning curves. Line: mean over seeds; band: its {plan.percent()} % t-interval, cut at 0 and 100."
        + (" Grey: the range of the means of all methods." if plan.many else ""),
        *behaviour_section(results, shapes),
        *_constraint(results, training),
        "## Published scores",
        tables.published_markdown(results, comparisons),
        PUBLISHED,
        "## Data",
        _data(plan, provenance),
        "## Time, machine, versions",
        _time(plan, provenance),
        _machines(provenance),
        _versions(provenance),
    ]
    return "\n\n".join(parts) + "\n"


def _ablations(plan: Grid) -> list[str]:
    links = [f"[{name}](ablations/{name}.md)" for name in plan.ablations]
    return [f"Ablations: {', '.join(links)}."] if links else []


def _constraint(results: Results, training: Mapping[tuple[str, str], TrainingLog]) -> list[str]:
    if not results.plan.constrained:
        return []
    return [
        "## The constraint",
        tables.constraint_markdown(results, training),
        PENALTIES,
        "![The constraint over training](constraint.svg)",
        CONSTRAINT,
    ]


def _data(plan: Grid, provenance: Provenance) -> str:
    head = ["task", "dataset", "origin", "episodes", "transitions", "with success", "horizon", "score", "reward of"]
    rows = []
    for task in plan.tasks:
        data = provenance.manifests[task.name]
        origin = f"generated here ({data.collector})" if data.source == "generate" else f"published ({data.source})"
        counts = [f"{count:,}" for count in (data.episodes, data.transitions, data.successes, data.horizon)]
        rows.append([task.name, f"`{data.dataset}`", origin, *counts, data.score, TIMING[data.success_timing]])
    return f"{markdown_table(head, rows, 'lllrrrrl')}\n\n{GENERATED}"


def _time(plan: Grid, provenance: Provenance) -> str:
    head = ["" if plan.many else "task", "pretrain", *(f"{method}: refine + evaluate" for method in plan.methods)]
    rows = []
    for task in plan.tasks:
        cells = [task.name, clock(provenance.pretrain[task.name].seconds)]
        for method in plan.methods:
            pair = provenance.refine[task.name, method], provenance.evaluate[task.name, method]
            cells.append(" + ".join(clock(record.seconds) for record in pair))
        rows.append(cells)
    sums = {stage: sum(record.seconds for record in records) for stage, records in provenance.records().items()}
    total = ", ".join(f"{stage} {clock(seconds)}" for stage, seconds in sums.items())
    rates = [record.steps_per_second for record in provenance.evaluate.values() if record.steps_per_second is not None]
    text = (
        f"Wall-clock time of all seeds together, minutes:seconds. By stage: {total}. In all:"
        f" {clock(sum(sums.values()))}, without generating or downloading the data: that time is not recorded, so that"
        " equal data have equal bytes."
    )
    if rates:
        text += f" Simulator steps per second of evaluation: {min(rates):,.0f} to {max(rates):,.0f}."
    return f"{tables.score_table(head, rows, turned=plan.many)}\n\n{text}"


def _machines(provenance: Provenance) -> str:
    used: dict[RecordedMachine, list[str]] = {}
    for stage, records in provenance.records().items():
        for machine in dict.fromkeys(record.machine for record in records):
            used.setdefault(machine, []).append(stage)
    words = {m: f"{m.cpu}, {m.cores} cores, {m.memory_gib:.0f} GiB, {m.gpu or 'no GPU'}" for m in used}
    if len(used) == 1:
        return f"Machine: {next(iter(words.values()))}."
    return "Machines:\n\n" + "\n".join(f"- {', '.join(stages)}: {words[machine]}" for machine, stages in used.items())


def _versions(provenance: Provenance) -> str:
    named = ", ".join(f"{package} {' and '.join(found)}" for package, found in provenance.versions().items())
    return (
        f"Versions: {named}. Scores hold only for this version of mujoco: another version gives different trajectories"
        " from the same seeds."
    )
