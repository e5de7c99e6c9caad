"""Thousands of mutated files for every reader of an artifact: none ends in a traceback, and none that was changed is used."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TASK
from example_suite import EPISODES, SEEDS, STEPS, suite_params, write_suite
from hypothesis import given, settings
from hypothesis import strategies as st

from fd.errors import FdError
from fd.results import episode_scores, flow_shape, origins, training_log
from fd.storage import files
from fd.storage.files import SEAL, digests, read_record, write_record
from fd.storage.tensors import read_tensors
from fd.storage.transitions import Transitions, load_transitions, read_manifest, read_npz

CELL = episode_scores.EvaluatedCell("cube", "fql", SEEDS, STEPS, EPISODES)
EDITS = st.lists(
    st.tuples(st.integers(0, 8), *[st.integers(0, 2**32)] * 3, st.binary(max_size=9)), min_size=1, max_size=3
)


def mutated(content: bytes, edits: list[tuple[int, int, int, int, bytes]], others: list[bytes]) -> bytes:
    """Content after edits: kind, two places in it, a place in one of the other contents, new bytes."""
    for kind, *numbers, new in edits:
        first, last = sorted(number % (len(content) + 1) for number in numbers[:2])
        near = min(last, first + 1 + numbers[1] % 16)
        other = others[numbers[2] % len(others)]
        chunk = other[(start := numbers[2] % (len(other) + 1)) : start + last - first]
        content = [
            content[:first] + bytes(byte ^ 1 << numbers[2] % 8 for byte in content[first : first + 1]) + content[first + 1 :],
            content[:first],
            content[first:],
            content[:first] + content[near:],
            content[:first] + new + content[first:],
            content[:first] + new + content[first + len(new) :],
            content[:first] + content[first:near] * (2 + numbers[2] % 40) + content[near:],
            content[:first] + chunk + content[last:],
            content[last:] + content[:first],
        ][kind]  # fmt: skip
    return content


@dataclass(frozen=True)
class Reader:
    """Reads a file of a folder; `put_right` makes what vouches for the file fit its new content.

    `share` is how many times the examples of the Hypothesis profile are read.
    """

    file: str
    read: Callable[[Path], Any]
    share: int
    put_right: Callable[[Path], None] | None = None


def seal(path: Path) -> None:
    """Put a right seal into a file that has room for one."""
    try:
        files.seal(path)
    except FdError:
        path.write_bytes(SEAL.encode() + path.read_bytes())
        files.seal(path)


def tell(record: str) -> Callable[[Path], None]:
    """Have a record name the file as it is."""

    def put_right(path: Path) -> None:
        place = path.parent / record
        write_record(place, read_record(place) | {"files": digests(path)})

    return put_right


def same_arrays(path: Path) -> dict[str, bytes]:
    return {name: values.tobytes() for name, values in read_npz(path, [f.name for f in fields(Transitions)]).items()}


def read_log(path: Path) -> Any:
    return training_log.read_training_log(path, (0, 1), ("flow_loss",)).rows


READERS: dict[str, Reader] = {
    "data": Reader("transitions.npz", lambda path: load_transitions(path.parent), 12),
    "manifest": Reader("manifest.json", lambda path: read_manifest(path.parent), 12),
    "weights": Reader("flow.safetensors", read_tensors, 16),
    "record": Reader("umaze.json", lambda path: origins.read_stage_record(path, {}), 12),
    "geometry": Reader("geometry.json", lambda path: flow_shape.read_shape(path, {}), 8),
    "log": Reader("umaze/train.csv", read_log, 12),
    "evaluations": Reader("evals/cube/fql.csv", lambda path: episode_scores.read_episodes(path.parent.parent, CELL), 12),
    "record of evaluations": Reader("evals/cube/fql.json", lambda path: episode_scores.read_episodes(path.parent.parent, CELL), 8),
    "published": Reader("published.npz", same_arrays, 16),
    "sealed manifest": Reader("manifest.json", lambda path: read_manifest(path.parent), 6, seal),
    "sealed weights": Reader("flow.safetensors", read_tensors, 6, seal),
    "sealed record": Reader("umaze.json", lambda path: origins.read_stage_record(path, {}), 6, seal),
    "sealed geometry": Reader("geometry.json", lambda path: flow_shape.read_shape(path, {}), 6, seal),
    "told log": Reader("umaze/train.csv", read_log, 6, tell("../umaze.json")),
    "told evaluations": Reader(
        "evals/cube/fql.csv", lambda path: episode_scores.read_episodes(path.parent.parent, CELL), 6, tell("fql.json")
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def artifacts(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of the stages, as small as they get; copy them, leave them as they are."""
    folder = tmp_path_factory.mktemp("fuzz") / "artifacts"
    shutil.copytree(made / "data" / TASK, folder)
    shutil.copy(made / "behaviour" / TASK / "flow.safetensors", folder)
    shutil.copytree(made / "behaviour" / TASK, folder / "umaze")
    shutil.copy(made / "behaviour" / f"{TASK}.json", folder / "umaze.json")
    shutil.copy(made / "geometry" / f"{TASK}.json", folder / "geometry.json")
    params = suite_params({"cube": "cube-single-play-singletask-task1-v0"}, ["fql"])
    write_suite(folder / "suite", params, score=lambda *_: 50.0, constraint=lambda *_: (1.0, 0.1, 0.1))
    shutil.move(folder / "suite" / "evals", folder)
    with np.load(folder / "transitions.npz") as file:
        np.savez_compressed(folder / "published.npz", **{name: file[name] for name in file.files})
    return folder


@pytest.mark.parametrize("name", READERS)
def test_a_mutated_file_is_refused(name: str, artifacts: Path, tmp_path: Path) -> None:
    """A changed file that is right by what vouches for it may be read, in which case it only must not end in a traceback."""
    reader, folder, count = READERS[name], Path(shutil.copytree(artifacts, tmp_path / "folder")), 0
    path = folder / reader.file
    original = path.read_bytes()
    others = [file.read_bytes() for file in sorted(folder.rglob("*.*")) if file.is_file()]
    read, examples = reader.read(path), reader.share * settings().max_examples

    @settings(max_examples=examples)
    @given(edits=EDITS)
    def refused(edits: list[tuple[int, int, int, int, bytes]]) -> None:
        nonlocal count
        count += 1
        content = mutated(original, edits, others)
        path.write_bytes(content)
        if reader.put_right:
            reader.put_right(path)
        try:
            found = reader.read(path)
        except FdError as error:
            assert str(path.with_suffix("")) in str(error) and str(error).isprintable()
        else:
            assert reader.put_right or content == original or (name == "published" and found == read)

    refused()
    assert count >= examples


@pytest.mark.parametrize(("profile", "files"), [("ci", 1000), ("nightly", 10_000)])
def test_at_least_so_many_files_are_read(profile: str, files: int) -> None:
    assert sum(reader.share for reader in READERS.values()) * settings.get_profile(profile).max_examples >= files
