"""The same bytes on the CPU for one thread or two, with a seed more, and in any order of the cells; on a GPU by a switch."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch
from conftest import TASK, settings
from edits import write_params
from safetensors.torch import load_file
from torch import Tensor
from typer.testing import CliRunner

from fd.runtime.device import select_device
from stages import evaluate, pretrain, refine

METHODS = ("fidec", "fidec-stein", "fql", "iql", "rebrac", "fidec-official")
WIDE = ("fidec", "rebrac")  # with networks whose products are split among threads


def project(folder: Path, made: Path, *, hidden: Sequence[int], seeds: Sequence[int], threads: int) -> Path:
    """A folder with the data of the tiny project and settings of two steps of large batches."""
    folder.mkdir()
    values = settings()
    values["seeds"], values["compute"]["threads"] = list(seeds), threads
    values["network"]["hidden"] = list(hidden)
    values["pretrain"] |= {"steps": 2, "batch_size": 256, "log_every": 2}
    values["refine"] |= {"steps": 2, "batch_size": 256, "evaluate_every": 1, "log_every": 1}
    write_params(folder, values)
    (folder / "data").symlink_to(made / "data")
    return folder


def trained(folder: Path, methods: Sequence[str]) -> Path:
    """The same after the stages have trained the behaviour and the methods, in this order."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        CliRunner().invoke(pretrain.app, ["--task", TASK], catch_exceptions=False)
        for method in methods:
            CliRunner().invoke(refine.app, ["--task", TASK, "--method", method], catch_exceptions=False)
    return folder


def weights(folder: Path, number: int, seeds: int) -> dict[str, Tensor]:
    """Every trained tensor of a seed, by file and name: its part of the stacks of that many seeds."""
    found = {}
    for path in sorted([*folder.glob("behaviour/*/*.safetensors"), *folder.glob("runs/*/*/*.safetensors")]):
        for name, tensor in load_file(path).items():
            if tensor.dim():
                found[f"{path.relative_to(folder)} {name}"] = tensor.chunk(seeds)[number]
    assert found
    return found


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    """Names of the tensors that differ."""
    assert one.keys() == other.keys()
    return [name for name in one if not torch.equal(one[name], other[name])]


def assert_same_files(one: Path, other: Path) -> None:
    """Every flow, snapshot and log has the same bytes in both projects."""
    paths = sorted([*one.glob("behaviour/*/*"), *one.glob("runs/*/*/*")])
    assert paths
    for path in paths:
        assert path.read_bytes() == (other / path.relative_to(one)).read_bytes(), path.name


def episodes(folder: Path) -> list[str]:
    """Rows of the evaluation of the first method."""
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        CliRunner().invoke(evaluate.app, ["--task", TASK, "--method", METHODS[0]], catch_exceptions=False)
    return (folder / "evals" / TASK / f"{METHODS[0]}.csv").read_text().splitlines()


@pytest.fixture(scope="module")
def small(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained with small networks, two seeds and one thread."""
    folder = tmp_path_factory.mktemp("small") / "project"
    return trained(project(folder, made, hidden=[16, 16], seeds=[0, 1], threads=1), METHODS)


@pytest.mark.parametrize("wide", [False, True])
def test_one_thread_and_two_give_the_same_bytes(wide: bool, small: Path, made: Path, tmp_path: Path) -> None:
    methods, hidden = (WIDE, [512, 512]) if wide else (METHODS, [16, 16])
    one = small
    if wide:
        one = trained(project(tmp_path / "one", made, hidden=hidden, seeds=[0, 1], threads=1), methods)
    two = trained(project(tmp_path / "two", made, hidden=hidden, seeds=[0, 1], threads=2), methods)
    assert_same_files(one, two)


def test_a_seed_more_changes_no_bit_of_the_others(small: Path, made: Path, tmp_path: Path) -> None:
    more = trained(project(tmp_path / "more", made, hidden=[16, 16], seeds=[2, 0, 1], threads=1), METHODS)
    for number in (0, 1):
        assert same(weights(small, number, 2), weights(more, number + 1, 3)) == []
    rows = [row for row in episodes(more) if not row.startswith("2,")]
    assert rows == episodes(small)


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("wide", [False, True])
def test_a_seed_alone_gives_the_bits_that_it_gives_among_others(
    wide: bool, threads: int, small: Path, made: Path, tmp_path: Path
) -> None:
    methods, hidden = (WIDE, [512, 512]) if wide else (METHODS, [16, 16])
    among = small
    if wide:
        among = trained(project(tmp_path / "among", made, hidden=hidden, seeds=[0, 1], threads=1), methods)
    alone = trained(project(tmp_path / "alone", made, hidden=hidden, seeds=[1], threads=threads), methods)
    assert same(weights(among, 1, 2), weights(alone, 0, 1)) == []
    if not wide:
        assert [row for row in episodes(small) if row.startswith("1,")] == episodes(alone)[1:]


def test_the_order_of_cells_does_not_matter(small: Path, made: Path, tmp_path: Path) -> None:
    """The bank is made by whichever method comes first."""
    other = trained(project(tmp_path / "other", made, hidden=[16, 16], seeds=[0, 1], threads=1), METHODS[::-1])
    assert_same_files(small, other)


TWICE = """
import sys, torch
sys.path.insert(0, sys.argv[1])
from test_graph import prepared
from fd.runtime.device import select_device as select
device = select("cuda", 1, deterministic=True)
found = []
for _ in range(2):
    agent, update, draws = prepared(sys.argv[2], device, (3, 5))
    for step in range(8):
        update(step % agent.spec.policy_every, draws.at(step))
    found.append([tensor.clone() for tensor in agent.state_dict().values()])
assert all(map(torch.equal, *found))
"""


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("method", ["fidec", "fql", "iql", "rebrac"])
def test_a_gpu_that_is_to_be_deterministic_gives_the_same_bytes_twice(method: str) -> None:
    """In a process of its own: cuBLAS reads its setting once."""
    subprocess.run([sys.executable, "-c", TWICE, str(Path(__file__).parent), method], check=True)


def test_the_switch_of_gpus_changes_nothing_on_the_cpu() -> None:
    before = os.environ.get("CUBLAS_WORKSPACE_CONFIG")
    assert select_device("cpu", 1, deterministic=True, images=True).type == "cpu"
    assert not torch.are_deterministic_algorithms_enabled()
    assert os.environ.get("CUBLAS_WORKSPACE_CONFIG") == before
