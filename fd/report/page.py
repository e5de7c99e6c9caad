"""The report's main page, and the files that make up a report."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from fd.reference import Comparison, Reference, Setting, compare
from fd.report import figures, tables
from fd.report.provenance import Machine, Provenance
from fd.report.results import Plan, Results
from fd.report.training import Training

INTRODUCTION = (
    "Made by the stage `report` from the evaluations of every task and method in `params.yaml`. What each file claims is"
    " in [README.md](README.md)."
)
PENALTIES = (
    "Mean over seeds and the last tenth of training. The penalty is the quadratic form of the method's own metric, so the"
    " penalties of two methods are different quantities; mean δ² (over the dimensions of an action) is the same one."
)
GENERATED = (
    "A set that is generated here under the name of a published one is not that set: it is smaller, and newly"
    " drawn from the same simulator."
)
TIMING = {"pre": "state before the step", "post": "state after the step"}


def render(
    results: Results,
    *,
    training: Mapping[tuple[str, str], Training],
    provenance: Provenance,
    reference: Reference,
) -> dict[str, str]:
    """Text of every file of the report, by name; equal inputs give equal bytes."""
    comparisons = {
        task.name: compare(reference, _setting(results.plan, task.name, provenance), results.plan.methods)
        for task in results.plan.tasks
    }
    files = {
        "scores.md": f"{tables.scores_markdown(results)}\n{tables.caption(results)}\n",
        "scores.csv": tables.scores_csv(results),
        "scores.tex": tables.scores_latex(results),
        "curves.csv": tables.curves_csv(results),
        "metrics.json": tables.metrics_json(results),
        "report.md": _report(results, training=training, provenance=provenance, comparisons=comparisons),
    }
    with figures.style():
        files["scores.svg"] = figures.svg(figures.scores(results))
        files["learning_curves.svg"] = figures.svg(figures.learning_curves(results))
        files["constraint.svg"] = figures.svg(figures.constraint(results.plan, training))
    return files


def save(folder: Path, files: Mapping[str, str]) -> None:
    """Write the files into the folder; none takes its name before all are written."""
    folder.mkdir(parents=True, exist_ok=True)
    temporary = {name: folder / f".{name}.tmp" for name in files}
    try:
        for name, text in files.items():
            temporary[name].write_text(text, encoding="utf-8", newline="\n")
        for name, path in temporary.items():
            os.replace(path, folder / name)
    finally:
        for path in temporary.values():
            path.unlink(missing_ok=True)


def _setting(plan: Plan, name: str, provenance: Provenance) -> Setting:
    task = next(task for task in plan.tasks if task.name == name)
    timing = provenance.manifests[name].success_timing
    return Setting(task.dataset, task.source, task.steps[-plan.final_evaluations :], task.episodes, timing)


def _report(
    results: Results,
    *,
    training: Mapping[tuple[str, str], Training],
    provenance: Provenance,
    comparisons: Mapping[str, Comparison],
) -> str:
    plan = results.plan
    names = (", ".join(items) for items in ([task.name for task in plan.tasks], plan.methods, map(str, plan.seeds)))
    parts = [
        f"# Results of the suite `{plan.suite}`",
        INTRODUCTION,
        "Tasks: {}. Methods: {}. Seeds: {}.".format(*names),
        _protocol(plan),
        "## Scores",
        tables.scores_markdown(results).rstrip(),
        tables.caption(results),
        "![Final scores](scores.svg)",
        "Final scores. Symbol and bar: mean and interval as in the table, cut at 0 and 100; dots: the seeds.",
        "![Learning curves](learning_curves.svg)",
        f"Learning curves. Line: mean over seeds; band: its {plan.percent()} % t-interval, cut at 0 and 100.",
        *_constraint(results, training),
        "## Published figures",
        tables.published_markdown(results, comparisons).rstrip(),
        "## Data",
        _data(plan, provenance),
        "## Time, machine, versions",
        _time(plan, provenance),
        _machines(provenance),
        _versions(provenance),
    ]
    return "\n\n".join(parts) + "\n"


def _protocol(plan: Plan) -> str:
    """One sentence for all tasks where they agree, else one a task."""
    lines = {}
    for task in plan.tasks:
        final = ", ".join(f"{step:,}" for step in task.steps[-plan.final_evaluations :])
        lines[task.name] = f"{task.episodes} episodes a seed after each of {final} training steps"
    if len(set(lines.values())) == 1:
        return f"Evaluation: {lines[plan.tasks[0].name]}; no checkpoint is picked."
    each = "\n".join(f"- {name}: {line}" for name, line in lines.items())
    return f"Evaluation; no checkpoint is picked:\n\n{each}"


def _constraint(results: Results, training: Mapping[tuple[str, str], Training]) -> list[str]:
    if not results.plan.constrained:
        return []
    return [
        "## The constraint",
        tables.constraint_markdown(results, training).rstrip(),
        PENALTIES,
        "![The constraint over training](constraint.svg)",
        "Multiplier and penalty over training. Line: mean over seeds; band: their range; dashed: the budget.",
    ]


def _data(plan: Plan, provenance: Provenance) -> str:
    lines = [
        "| task | dataset | origin | episodes | transitions | with success | horizon | score | reward of |",
        "|---|---|---|---:|---:|---:|---:|---|---|",
    ]
    for task in plan.tasks:
        data = provenance.manifests[task.name]
        origin = f"generated here ({data.collector})" if data.source == "generate" else f"published ({data.source})"
        counts = [f"{count:,}" for count in (data.episodes, data.transitions, data.successes, data.horizon)]
        cells = [task.name, f"`{data.dataset}`", origin, *counts, data.score, TIMING[data.success_timing]]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", GENERATED])


def _time(plan: Plan, provenance: Provenance) -> str:
    lines = [
        f"| task | pretrain | {' | '.join(f'{method}: refine + evaluate' for method in plan.methods)} |",
        "|---|---:|" + "---:|" * len(plan.methods),
    ]
    for task in plan.tasks:
        cells = [_clock(provenance.pretrain[task.name].seconds)]
        for method in plan.methods:
            pair = provenance.refine[task.name, method], provenance.evaluate[task.name, method]
            cells.append(" + ".join(_clock(record.seconds) for record in pair))
        lines.append(f"| {task.name} | {' | '.join(cells)} |")
    sums = {stage: sum(record.seconds for record in records) for stage, records in provenance.records().items()}
    total = ", ".join(f"{stage} {_clock(seconds)}" for stage, seconds in sums.items())
    rates = [record.steps_per_second for record in provenance.evaluate.values() if record.steps_per_second is not None]
    text = (
        f"Wall-clock time of all seeds together, minutes:seconds. In all: {total}; together"
        f" {_clock(sum(sums.values()))}, without making or fetching the data, whose time is not kept, so that equal"
        " data are equal bytes."
    )
    if rates:
        text += f" Simulator steps in a second of evaluation: {min(rates):,.0f} to {max(rates):,.0f}."
    return "\n".join([*lines, "", text])


def _machines(provenance: Provenance) -> str:
    used: dict[Machine, list[str]] = {}
    for stage, records in provenance.records().items():
        for machine in dict.fromkeys(record.machine for record in records):
            used.setdefault(machine, []).append(stage)
    words = {m: f"{m.cpu}, {m.cores} cores, {m.memory_gib:.0f} GiB, {m.gpu or 'no GPU'}" for m in used}
    if len(used) == 1:
        return f"Machine: {next(iter(words.values()))}."
    return "Machines:\n\n" + "\n".join(f"- {', '.join(stages)}: {words[machine]}" for machine, stages in used.items())


def _versions(provenance: Provenance) -> str:
    of_stages = [record.versions for records in provenance.records().values() for record in records]
    found: dict[str, dict[str, None]] = {}
    for versions in [*(data.versions for data in provenance.manifests.values()), *of_stages]:
        for package, version in versions.items():
            found.setdefault(package, {})[version] = None
    named = ", ".join(f"{package} {' and '.join(versions)}" for package, versions in sorted(found.items()))
    return (
        f"Versions: {named}. Scores belong to a version of mujoco: another one makes other trajectories from the"
        " same seeds."
    )


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
