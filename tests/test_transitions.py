"""The arrays and their manifest: what is written is read, and every damage is one clear line."""

import json
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from edits import refused
from two_episodes import manifest_of, two_episodes

from fd.errors import FdError
from fd.storage.files import read_record, write_record
from fd.storage.transitions import (
    ACTION_BOUND,
    ARRAYS,
    MANIFEST,
    assemble,
    load_transitions,
    read_manifest,
    read_npz,
    save_transitions,
)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    arrays = two_episodes()
    manifest = manifest_of(arrays)
    save_transitions(tmp_path, arrays, manifest)
    loaded = load_transitions(tmp_path)
    for name in ("observations", "actions", "rewards", "masks", "ends"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(arrays, name))
    assert read_manifest(tmp_path) == manifest
    assert sorted(path.name for path in tmp_path.iterdir()) == [MANIFEST, ARRAYS]


def test_same_arrays_are_the_same_bytes(tmp_path: Path) -> None:
    contents = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        save_transitions(tmp_path / name, two_episodes(), manifest_of(two_episodes()))
        contents.append([(tmp_path / name / file).read_bytes() for file in (ARRAYS, MANIFEST)])
    assert contents[0] == contents[1]


def test_manifest_counts_transitions_not_rows() -> None:
    manifest = manifest_of(two_episodes())
    assert (manifest.episodes, manifest.transitions, manifest.successes) == (2, 5, 1)
    assert manifest.reward_sum == -4
    assert (manifest.obs_shape, manifest.act_dim) == ([3], 2)


def test_end_rows_are_empty_and_actions_off_their_bounds() -> None:
    ends = np.array([False, True])
    arrays = assemble("x", np.zeros((2, 1)), np.array([[1.0], [3.0]]), rewards=np.ones(2), masks=np.zeros(2), ends=ends)
    assert arrays.actions.tolist() == [[np.float32(ACTION_BOUND)], [0.0]]
    assert arrays.rewards.tolist() == [1, 0]
    assert arrays.masks.tolist() == [0, 1]
    assert {arrays.observations.dtype, arrays.actions.dtype, arrays.masks.dtype} == {np.dtype(np.float32)}


@pytest.mark.parametrize(("extreme", "share"), [(1.01, "50 %"), (-40.0, "50 %"), (np.inf, "50 %")])
def test_actions_outside_their_bounds_are_refused_before_they_are_clipped(extreme: float, share: str) -> None:
    actions, ends = np.array([[0.5, extreme], [9.0, 9.0]]), np.array([False, True])
    with refused(
        f"{share} of the numbers in 'actions' lie outside -1 to 1, the most extreme is {extreme:.4g}", start="x: "
    ):
        assemble("x", np.zeros((2, 1)), actions, rewards=np.ones(2), masks=np.zeros(2), ends=ends)


@pytest.mark.parametrize("value", [np.float32(1.0000001), np.float16(-1.001), 1.0, -1])
def test_actions_beyond_their_bounds_by_rounding_are_clipped(value: float) -> None:
    actions, ends = np.array([[value], [value]]), np.array([False, True])
    arrays = assemble("x", np.zeros((2, 1)), actions, rewards=np.ones(2), masks=np.zeros(2), ends=ends)
    assert arrays.actions[0] == np.float32(np.copysign(ACTION_BOUND, float(value)))


def damaged(**changes: Any) -> Callable[[Path], None]:
    """Write arrays with changes below a manifest that still tells of the sound ones."""

    def write(folder: Path) -> None:
        arrays = two_episodes()
        save_transitions(folder, replace(arrays, **{key: change(getattr(arrays, key)) for key, change in changes.items()}),
             manifest_of(arrays))  # fmt: skip

    return write


def with_row(index: int, value: float) -> Callable[[Any], Any]:
    """Set a row of an array to a value."""

    def change(values: Any) -> Any:
        values = values.copy()
        values[index] = value
        return values

    return change


def cut(folder: Path) -> None:
    """A file that ends in the middle."""
    damaged()(folder)
    content = (folder / ARRAYS).read_bytes()
    (folder / ARRAYS).write_bytes(content[: len(content) // 2])


def flipped(folder: Path) -> None:
    """A file one of whose bytes differs."""
    damaged()(folder)
    content = bytearray((folder / ARRAYS).read_bytes())
    content[200] ^= 1
    (folder / ARRAYS).write_bytes(content)


def squeezed(folder: Path) -> None:
    """Compressed arrays, as published files have them, with bytes of their stream changed."""
    damaged()(folder)
    with np.load(folder / ARRAYS) as file:
        arrays = {name: np.repeat(file[name], 400, axis=0) for name in file.files}
    np.savez_compressed(folder / ARRAYS, **arrays)
    data = bytearray((folder / ARRAYS).read_bytes())
    data[80:90] = b"\xff" * 10
    (folder / ARRAYS).write_bytes(data)


def text(folder: Path) -> None:
    """A text file under the name of the arrays."""
    damaged()(folder)
    (folder / ARRAYS).write_text("<html>404</html>")


def single(folder: Path) -> None:
    """One array instead of several."""
    damaged()(folder)
    with (folder / ARRAYS).open("wb") as file:
        np.save(file, np.zeros(3))


def lacking(folder: Path) -> None:
    """Arrays without the masks."""
    damaged()(folder)
    with np.load(folder / ARRAYS) as file:
        kept = {name: file[name] for name in file.files if name != "masks"}
    np.savez(folder / ARRAYS, **kept)


def pickled(folder: Path) -> None:
    """Objects instead of numbers, which are never unpickled."""
    damaged()(folder)
    with np.load(folder / ARRAYS) as file:
        kept = {name: file[name] for name in file.files}
    np.savez(folder / ARRAYS, **kept | {"rewards": np.array([None] * 7)})


def bomb(folder: Path) -> None:
    """Half a gigabyte of zeros in half a megabyte."""
    none = np.zeros(0)
    np.savez_compressed(folder / ARRAYS, observations=np.zeros((500_000, 1000), np.uint8), rewards=none, masks=none)


def claimed(folder: Path) -> None:
    """An array whose header says that it is a thousand million numbers."""
    damaged()(folder)
    with zipfile.ZipFile(folder / ARRAYS) as file:
        members = {name: file.read(name) for name in file.namelist()}
    with zipfile.ZipFile(folder / ARRAYS, "w") as file:
        for name, content in members.items():
            file.writestr(
                name, content.replace(b"(7,), }        ", b"(1000000000,), }") if "masks" in name else content
            )


def missing(folder: Path) -> None:
    """No arrays at all."""
    damaged()(folder)
    (folder / ARRAYS).unlink()


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "is damaged or was changed"),
        (flipped, "is damaged or was changed"),
        (text, "is damaged or was changed"),
        (lacking, "is damaged or was changed"),
        (missing, "no such file; run the stage download"),
        (damaged(observations=with_row(2, np.nan)), "'observations' holds NaN or infinity, first in row 2"),
        (damaged(rewards=with_row(1, np.inf)), "'rewards' holds NaN or infinity, first in row 1"),
        (damaged(observations=lambda x: x[:, :2]), "obs_shape is [2], manifest.json says [3]"),
        (damaged(actions=lambda x: x[:, :1]), "act_dim is 1, manifest.json says 2"),
        (damaged(rewards=lambda x: x[:, None]), "'rewards' has 2 dimensions, allowed: 1"),
        (damaged(rewards=lambda x: x[:-1]), "'rewards' has 6 rows, 'observations' has 7"),
        (damaged(rewards=lambda x: x.astype(np.float64)), "'rewards' is float64, allowed: float32"),
        (damaged(ends=lambda x: x & False), "the last row of 'ends' is not True"),
        (damaged(ends=lambda x: x | True), "no transition"),
        (damaged(actions=with_row(0, 1.5)), "'actions' reach 1.5, allowed: -1 to 1"),
        (damaged(masks=with_row(0, 0.5)), "'masks' holds values other than 0 and 1"),
        (damaged(ends=with_row(1, True)), "transitions is 4, manifest.json says 5"),
    ],
)
def test_damaged_arrays_are_one_line(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    damage(tmp_path)
    with refused(str(tmp_path / ARRAYS), message):
        load_transitions(tmp_path)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (cut, "truncated or not an npz file"),
        (flipped, "truncated or not an npz file"),
        (squeezed, "truncated or not an npz file"),
        (text, "truncated or not an npz file"),
        (single, "not an npz file"),
        (lacking, "lacks the field 'masks', found: observations, actions, rewards, ends"),
        (pickled, "rewards.npy holds objects, which are never unpickled, allowed: numbers"),
        (bomb, "unpacks to 500000384 bytes, allowed: 100 times its size"),
        (claimed, "masks.npy: its shape (1000000000,) does not match its data"),
    ],
)
def test_a_damaged_published_file_is_one_line(damage: Callable[[Path], None], message: str, tmp_path: Path) -> None:
    damage(tmp_path)
    with refused(message, start=f"{tmp_path / ARRAYS}: "):
        read_npz(tmp_path / ARRAYS, ["observations", "rewards", "masks"])


def rewritten(change: Callable[[dict[str, Any]], dict[str, Any]]) -> Callable[[Path], None]:
    """Change the values of a manifest."""
    return lambda path: write_record(path, change(read_record(path)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.write_bytes(path.read_bytes()[:400]), "is damaged or was changed"),
        (lambda path: path.write_text(path.read_text().replace("  ", " ")), "is damaged or was changed"),
        (
            lambda path: path.write_text(json.dumps(read_record(path))),
            "is damaged or not a file that this project wrote",
        ),
        (rewritten(lambda values: values | {"horizons": 3}), "unknown field 'horizons'"),
        (rewritten(lambda values: values | {"horizon": "long"}), "field 'horizon' holds 'long', allowed:"),
        (rewritten(lambda values: {k: v for k, v in values.items() if k != "score"}), "lacks the field 'score'"),
    ],
)
def test_damaged_manifest_is_one_line(change: Callable[[Path], object], message: str, tmp_path: Path) -> None:
    damaged()(tmp_path)
    path = tmp_path / MANIFEST
    change(path)
    with refused(str(path), message):
        load_transitions(tmp_path)


def test_folder_without_data_names_the_stage(tmp_path: Path) -> None:
    with pytest.raises(FdError, match=r"manifest\.json: no such file; run the stage download"):
        load_transitions(tmp_path)
