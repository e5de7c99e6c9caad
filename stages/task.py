"""Prints the entry under `tasks` of a published dataset, with the hyperparameters of the papers: `python -m stages.task`."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from fd.reference import Hyperparameter, hyperparameters
from stages.command import main

app = typer.Typer(add_completion=False)


@app.command()
def command(
    dataset: Annotated[str, typer.Option(help="Name of an OGBench single-task set, or id of a Minari set.")],
    published: Annotated[Path, typer.Option("--reference", help="Folder of published figures.")] = Path("reference"),
) -> None:
    """Print the entry of a task for params.yaml, each value with its source, and what single methods override."""
    found = hyperparameters(published, dataset)
    print(entry(dataset, found))


def entry(dataset: str, found: tuple[Hyperparameter, ...]) -> str:
    """The entry as YAML. DeFlow and FiDec name the same budget; where they differ the entry has FiDec's."""
    slug = re.sub(r"[^a-z0-9]+", "-", dataset.lower()).strip("-")
    if "singletask" in dataset:
        data = f"{{source: ogbench, dataset: {dataset}}}"
    else:
        score = "success" if "antmaze" in dataset else "return"
        reward, keys = ("sparse", "[achieved_goal, observation]") if score == "success" else ("dense", "[]")
        data = f"{{source: minari, dataset: {dataset}, observation: {keys}, reward: {reward}, score: {score}}}"
    shared = {item.key: item for item in found if item.method != "deflow"}
    own = [item for item in found if item.method == "deflow" and shared.get(item.key, item).value != item.value]
    own += [item for item in found if item.method == "deflow" and item.key not in shared]
    lines = [
        f"  {slug}:",
        f"    data: {data}",
        "    network: {hidden: [512, 512, 512, 512]}",
        "    pretrain: {}",
        "    refine:",
    ]
    lines += [f"      {item.key}: {_yaml(item.value)}  # {item.source}" for item in shared.values()]
    lines += ["    evaluate: {episodes: 50}"]
    if own:
        pairs = ", ".join(f"{item.key}: {_yaml(item.value)}" for item in own)
        lines += [f"# methods.deflow.refine: {{{pairs}}}  # {own[0].source}"]
    return "\n".join(lines)


def _yaml(value: float | bool | str) -> str:
    """A value as params.yaml writes it: with a dot where it has an exponent, as in 3.0e-5."""
    text = str(value).lower()
    return text.replace("e-", ".0e-") if isinstance(value, float) and "e-" in text and "." not in text else text


if __name__ == "__main__":
    main(app)
