"""The cells of dvc.yaml, from DVC's own graph, and which of them are done.

A cell is a stage whose outputs are all in DVC's cache. Other stages either come before all cells, such as `code`, or after them, such
as the reports; they run in the project itself.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import dpath
import networkx
from dvc.dependency import ParamsDependency
from dvc.exceptions import DvcException
from dvc.repo import Repo
from dvc.stage.loader import StageLoader
from dvc.utils.serialize import dump_yaml, load_path, load_yaml

from fd.cluster.cells import Cell, Entry, Pipeline
from fd.errors import FdError, one_line
from fd.storage.files import replacing

LOCK = "dvc.lock"
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]*")  # of a cell: also that of a file and of a job


@contextmanager
def opened(root: Path) -> Iterator[Repo]:
    """The DVC repository of a folder; an error of DVC becomes one line."""
    try:
        with Repo(str(root), _wait_for_lock=True) as repo:
            yield repo
    except DvcException as error:
        raise FdError(
            f"{root}: {one_line(error)}" + (f": {one_line(error.__cause__)}" if error.__cause__ else "")
        ) from None


def read_pipeline(
    root: Path,
    globs: Sequence[str] = (),
    recorded: Sequence[Mapping[str, Entry]] = (),
    *,
    renew: bool = False,
    cached: bool = True,
) -> Pipeline:
    """The pipeline of a project.

    Args:
        root: folder of the project.
        globs: patterns of the names of cells; none: all cells.
        recorded: entries of finished cells, beside those of dvc.lock.
        renew: whether to run the stages that come before the cells, such as `code`.
        cached: whether outputs must be in the cache; if not, a remote has them.

    Raises:
        FdError: DVC cannot read the pipeline, a glob matches no cell, or a name cannot be that of a file.
    """
    with opened(root) as repo:
        graph = repo.index.graph
        order = {stage.addressing: stage for stage in networkx.dfs_postorder_nodes(graph) if stage.cmd}
        cells, before = _split(graph, order)
        wanted = _matching(cells, globs)
        chosen = {name: cell for name, cell in cells.items() if name in wanted}
        upstream = {stage.addressing for name in chosen for stage in networkx.descendants(graph, order[name])}
        if renew and (first := [name for name in before if name in upstream]):
            logging.getLogger("dvc").setLevel(logging.ERROR)  # no line for each stage that did not change
            repo.reproduce(first)
        made = {out.def_path: name for name in chosen for out in order[name].outs}
        deps = {dep.def_path for name in {*chosen, *upstream} for dep in order[name].deps}
        return Pipeline(
            cells=chosen,
            kinds=list(load_yaml(str(root / "dvc.yaml"))["stages"]),
            done=_done(chosen, order, made, [*recorded, _lock(root)], cached=cached),
            sources=sorted(deps - set(made)),
            cache=Path(repo.cache.local.path).parents[1],
        )


def _split(graph: Any, order: Mapping[str, Any]) -> tuple[dict[str, Cell], list[str]]:
    """All cells, and the stages that run before them."""
    cells: dict[str, Cell] = {}
    before: list[str] = []
    for name, stage in order.items():
        upstream = [above.addressing for above in graph.successors(stage)]
        if all(out.use_cache for out in stage.outs) and all(above in cells or above in before for above in upstream):
            if not NAME.fullmatch(name):
                raise FdError(f"dvc.yaml: stage {name!r}, allowed on a cluster: letters, digits and _.@-")
            needs = tuple(sorted(above for above in upstream if above in cells))
            cells[name] = Cell(name, name.split("@")[0], needs, str(stage.cmd))
        elif all(above in before for above in upstream):
            before.append(name)
    return cells, before


def _matching(cells: Mapping[str, Cell], globs: Sequence[str]) -> set[str]:
    """Names of the cells that match, and of all that these need."""
    found: set[str] = set()
    for glob in globs or ("*",):
        matching = [name for name in cells if fnmatchcase(name, glob)]
        if not matching:
            kinds = ", ".join(dict.fromkeys(cell.kind for cell in cells.values()))
            raise FdError(f"{glob!r}: no cell of dvc.yaml matches, allowed: names such as `refine@*` of {kinds}")
        while matching:
            name = matching.pop()
            if name not in found:
                found.add(name)
                matching += cells[name].needs
    return found


def _done(
    cells: Mapping[str, Cell],
    order: Mapping[str, Any],
    made: Mapping[str, str],
    recorded: Sequence[Mapping[str, Entry]],
    *,
    cached: bool,
) -> dict[str, Entry]:
    """Entries of the cells that need no run."""
    done: dict[str, Entry] = {}
    outputs: dict[str, str] = {}  # hash by path, of cells that are done
    sources: dict[str, Any] = {}
    parsed: dict[str, Any] = {}
    for name in cells:
        stage = order[name]
        for entry in (entries[name] for entries in recorded if name in entries):
            same = _is_of(stage, entry, made, outputs, sources, parsed)
            if same and (not cached or _is_cached(stage, entry)):
                done[name] = entry
                outputs |= {out["path"]: out["md5"] for out in entry["outs"]}
                break
    return done


def _is_of(
    stage: Any, entry: Entry, made: Mapping[str, str], outputs: Mapping[str, str], sources: dict[str, Any],
    parsed: dict[str, Any],
) -> bool:  # fmt: skip
    """Whether a run of the stage would have the command, settings and dependencies of an entry."""
    read = {dep["path"]: dep.get("md5") for dep in entry.get("deps", ())}
    if entry.get("cmd") != stage.cmd or set(read) != {
        dep.def_path for dep in stage.deps if not isinstance(dep, ParamsDependency)
    }:
        return False
    for dep in stage.deps:
        if isinstance(dep, ParamsDependency):
            same = entry.get("params", {}).get(dep.def_path) == settings_of(dep, parsed)
        elif dep.def_path in made:
            same = read[dep.def_path] == outputs.get(dep.def_path)
        else:
            if dep.def_path not in sources:
                sources[dep.def_path] = dep.get_hash().value if dep.exists else None
            same = read[dep.def_path] == sources[dep.def_path]
        if not same:
            return False
    return True


def settings_of(dep: ParamsDependency, parsed: dict[str, Any]) -> dict[str, Any]:
    """The settings that a stage reads, without those that are missing; `parsed` keeps each file, which DVC would read for each stage."""
    if dep.def_path not in parsed:
        parsed[dep.def_path] = load_path(dep.fs_path, dep.repo.fs)
    found = {}
    for name in dep.params:
        with suppress(KeyError):
            found[name] = dpath.get(parsed[dep.def_path], name, separator=".")
    return found


def _is_cached(stage: Any, entry: Entry) -> bool:
    StageLoader.fill_from_lock(stage, entry)
    return bool(stage.outs_cached())


def _lock(root: Path) -> dict[str, Entry]:
    path = root / LOCK
    return dict(load_yaml(str(path)).get("stages") or {}) if path.exists() else {}


def pull(repo: Repo, stages: Iterable[Any], remote: str) -> None:
    """Copy the outputs of stages from a remote to the cache, in one go: DVC's own pull reads dvc.lock once for each target."""
    found = {name for stage in stages for names in stage.get_used_objs(remote=remote).values() for name in names}
    repo.cloud.pull(found, remote=remote)


def merge(root: Path, done: Mapping[str, Entry], remote: str | None) -> None:
    """Write the entries of cells to dvc.lock in one go, and bring their outputs into the project.

    Args:
        root: folder of the project.
        done: entries of the cells.
        remote: the DVC remote that has outputs which the cache lacks.
    """
    if not done:
        return
    with opened(root) as repo, repo.lock, replacing(root / LOCK) as temporary:
        dump_yaml(str(temporary), {"schema": "2.0", "stages": _lock(root) | dict(done)})
    with opened(root) as repo, repo.lock:  # it reads the new file, once: with targets, DVC would read it for each
        stages = [stage for stage in repo.index.stages if stage.addressing in done]
        if remote:
            pull(repo, stages, remote)
        for stage in stages:
            stage.checkout(force=True)
