"""Suites: settings files, either complete or composed of benchmark tasks and their published hyperparameters.

A composed suite is a line of benchmark/suites.csv. It has the tasks that name it in reference/tasks.csv, with their values
of reference/settings.csv, above the sections and methods that all composed suites share, benchmark/settings.yaml.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fd.errors import FdError
from fd.reference.hyperparameters import Hyperparameter, hyperparameters, of_dataset
from fd.reference.tasks import BenchmarkTask, benchmark, read_table
from fd.storage.untrusted import read_text, read_yaml

COLUMNS = ("suite", "seeds", "settings", "online", "about")
SECTIONS = ("data", "network", "pretrain", "refine", "evaluate")


def suite_texts(folder: Path, published: Path) -> dict[str, str]:
    """Settings of every suite as YAML, by name; not validated.

    Args:
        folder: folder of the suites: each <name>.yaml is a complete one, benchmark/suites.csv lists the composed ones.
        published: folder with tasks.csv and the tables of hyperparameters.

    Raises:
        FdError: a file cannot be read, or a composed suite has no task.
    """
    whole = {path.stem: read_text(path) for path in folder.glob("*.yaml")}
    return dict(sorted((whole | _composed(folder / "benchmark", published)).items()))


def task_entry(
    task: BenchmarkTask, found: Sequence[Hyperparameter], settings: Mapping[str, Any], *, file: str = ""
) -> str:
    """The task's entry under `tasks` of a settings file, each value with its source.

    Args:
        task: the task.
        found: its published hyperparameters.
        settings: content of the settings file. Values published for all tasks that it already has are left out, and so are
            methods that it lacks.
        file: name of the file with its data; "" if the source finds the data by the name of the data set.
    """
    shape = " x ".join(map(str, task.observation))
    facts = f"observations {shape}, actions {task.actions}, horizon {task.horizon}, {task.score}"
    lines = [f"  {task.name}:  # {facts} ({task.facts})"]
    for section in SECTIONS:
        items = _news(found, "all", section, settings.get(section, {}))
        lines += _mapping("    ", section, items, _data(task, file) if section == "data" else {})
    given = {name: settings["refine"] | method["refine"] for name, method in settings["methods"].items()}
    own = {name: items for name in given if (items := _news(found, name, "refine", given[name]))}
    lines += _unequal(given, own)
    lines += ["    methods:"] if own else ["    methods: {}"]
    for name, items in own.items():
        lines += _mapping("      ", name, items, {})
    return "\n".join(lines)


def _unequal(given: Mapping[str, Mapping[str, Any]], own: Mapping[str, Sequence[Hyperparameter]]) -> list[str]:
    """A comment if the methods of a task do not all normalise Q, because their Q terms and multipliers then have different scales."""
    merged = {
        name: dict(values) | {item.key: item.value for item in own.get(name, ())} for name, values in given.items()
    }
    normalised = [name for name, values in merged.items() if values.get("normalize_q") is True]
    if not normalised or len(normalised) == len(merged):
        return []
    return [
        f"    # normalize_q differs: true for {', '.join(normalised)}, false for the other methods; to compare metrics, make it equal"
    ]


def _composed(folder: Path, published: Path) -> dict[str, str]:
    path = folder / "settings.yaml"
    if not path.exists():
        return {}
    shared = read_text(path)
    settings, benchmarked = read_yaml(shared, str(path)), benchmark(published)
    _check_shared(settings, path)
    suites = {}
    for place, row in read_table(folder / "suites.csv", COLUMNS):
        tasks = [task for task in benchmarked if row["suite"] in task.suites]
        if not tasks:
            raise FdError(f"{place}: suite {row['suite']!r}, allowed: one that {published / 'tasks.csv'} names")
        known = hyperparameters(published, row["settings"].split())
        found = {task: of_dataset(known, task.dataset) for task in tasks}
        head = [
            f"# {row['about']}",
            f"suite: {row['suite']}",
            f"seeds: [{row['seeds'].replace(' ', ', ')}]",
            "",
            "tasks:",
        ]
        entries = "\n\n".join(task_entry(task, found[task], settings) for task in tasks)
        suites[row["suite"]] = "\n".join([*head, entries, "", *_online(found, row["online"].split()), "", shared])
    return suites


def _check_shared(settings: Any, path: Path) -> None:
    """FdError unless the shared sections and methods are mappings."""
    sections = settings if isinstance(settings, dict) else {}
    methods = sections.get("methods")
    own = list(methods.values()) if isinstance(methods, dict) else [None]
    refines = [method.get("refine") if isinstance(method, dict) else None for method in own]
    if not all(isinstance(section, dict) for section in [sections.get("refine"), *refines]):
        raise FdError(
            f"{path}: `refine`, `methods` or the `refine` of a method is missing or is not a mapping, allowed: mappings"
        )


def _online(found: Mapping[BenchmarkTask, Sequence[Hyperparameter]], methods: Sequence[str]) -> list[str]:
    """Lines of the section `online`: the published values of every task, if any method is fine-tuned online."""
    if not methods:
        return ["online: {tasks: {}, methods: [], pages: {}}"]
    lines = ["online:", "  tasks:"]
    for task, items in found.items():
        lines += _mapping("    ", task.name, _news(items, "all", "online", {}), {})
    return [
        *lines,
        f"  methods: [{', '.join(methods)}]",
        f"  pages: {{all: [{', '.join(task.name for task in found)}]}}",
    ]


def _news(found: Sequence[Hyperparameter], method: str, section: str, given: Mapping[str, Any]) -> list[Hyperparameter]:
    """Published values for a method and section, without values for all tasks that are already given."""
    items = [item for item in found if (item.method, item.section) == (method, section)]
    return [item for item in items if item.datasets != "*" or item.key not in given or given[item.key] != item.value]


def _data(task: BenchmarkTask, file: str) -> dict[str, str]:
    """Values of the section `data` from the task itself; OGBench's environments know their horizon and score."""
    known = {"source": task.source, "dataset": task.dataset} | ({"file": file} if file else {})
    return known if task.source == "ogbench" else known | {"horizon": str(task.horizon), "score": task.score}


def _mapping(indent: str, name: str, items: Sequence[Hyperparameter], facts: Mapping[str, str]) -> list[str]:
    """Lines of a mapping: facts, then items with their sources."""
    lines = [f"{indent}  {key}: {value}" for key, value in facts.items()]
    lines += [f"{indent}  {item.key}: {item.text}  # {item.source}" for item in items]
    return [f"{indent}{name}:", *lines] if lines else [f"{indent}{name}: {{}}"]
