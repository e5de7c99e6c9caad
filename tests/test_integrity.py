"""A changed bit, a truncation or a foreign file of the same kind in any artifact is named by the next reader, which does not use it."""

from __future__ import annotations

import json
import os
import resource
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import torch
import typer
from conftest import TASK, settings
from edits import outcome, write_params
from test_pipeline import ROOT, Pipeline, copied

from fd.errors import FdError
from fd.networks.adam import Optimiser
from fd.networks.mlp import StackedMLP
from fd.storage import files
from fd.storage.files import SEAL, read_record, replacing, write_record, write_text
from fd.storage.tensors import read_tensors, write_tensors
from fd.training.checkpoint import STATE, Checkpoint
from stages import download, evaluate, finetune, geometry, pretrain, refine, report

METHOD = "fidec"
CELL = ["--task", TASK, "--method", METHOD]
ONLINE = {
    "steps": 20, "updates": 1, "batch_size": 16, "balanced": True, "behaviour": "frozen", "evaluate_every": 20, "log_every": 10,
}  # fmt: skip


def make(folder: Path, seed: int) -> Path:
    """A project of one task and method with the data of a seed, which is in the length of its episodes, too; all but the report done."""
    folder.mkdir()
    values = settings(METHOD)
    values["tasks"][TASK]["data"] |= {"seed": seed, "horizon": 40 - seed}
    values["refine"]["keep_state"] = True
    values |= {"online": {"tasks": {TASK: ONLINE}, "methods": [METHOD], "pages": {"all": [TASK]}}}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MINARI_DATASETS_PATH", raising=False)
        write_params(Path(), values)
        for stage in (download, pretrain, geometry):
            assert outcome(stage.app, CELL[:2])[0] == 0
        for stage in (refine, evaluate):
            assert outcome(stage.app, CELL)[0] == 0
    return folder


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two projects that differ in their data alone; copy them, leave them as they are."""
    folder = tmp_path_factory.mktemp("integrity")
    return make(folder / "own", 0), make(folder / "foreign", 1)


@pytest.fixture
def project(pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the first, which is the current folder."""
    folder = Path(shutil.copytree(pair[0], tmp_path / "project"))
    monkeypatch.chdir(folder)
    return folder


# Every artifact, and the stage that reads it next.
ARTIFACTS: dict[str, tuple[typer.Typer, Sequence[str]]] = {
    f"data/{TASK}/transitions.npz": (pretrain.app, [*CELL[:2], "--out=other"]),
    f"data/{TASK}/manifest.json": (pretrain.app, [*CELL[:2], "--out=other"]),
    f"behaviour/{TASK}/flow.safetensors": (refine.app, [*CELL, "--out=other"]),
    f"behaviour/{TASK}/flow_000000020.safetensors": (geometry.app, [*CELL[:2], "--out=other"]),
    f"geometry/{TASK}.json": (report.app, [f"--reference={ROOT / 'reference'}", "--out=other"]),
    f"runs/{TASK}/{METHOD}/step_000000040.safetensors": (evaluate.app, [*CELL, "--out=other"]),
    f"runs/{TASK}/{METHOD}/flow.safetensors": (evaluate.app, [*CELL, "--out=other"]),
    f"runs/{TASK}/{METHOD}/{STATE}": (finetune.app, [*CELL, "--out=other"]),
    f"behaviour/{TASK}.json": (report.app, [f"--reference={ROOT / 'reference'}", "--out=other"]),
    f"runs/{TASK}/{METHOD}.json": (report.app, [f"--reference={ROOT / 'reference'}", "--out=other"]),
    f"runs/{TASK}/{METHOD}/train.csv": (report.app, [f"--reference={ROOT / 'reference'}", "--out=other"]),
    f"evals/{TASK}/{METHOD}.json": (report.app, [f"--reference={ROOT / 'reference'}", "--out=other"]),
    f"evals/{TASK}/{METHOD}.csv": (report.app, [f"--reference={ROOT / 'reference'}", "--out=other"]),
}


def flip(path: Path, place: float) -> None:
    """Change a bit of a file at a place, a share of its length."""
    content = bytearray(path.read_bytes())
    content[int(place * (len(content) - 1))] ^= 1
    path.write_bytes(content)


DAMAGES: dict[str, Callable[[Path], object]] = {
    **{f"a bit at {place}": lambda path, place=place: flip(path, place) for place in (0.0, 0.02, 0.5, 1.0)},
    "without its end": lambda path: os.truncate(path, path.stat().st_size - 1),
    "its first half": lambda path: os.truncate(path, path.stat().st_size // 2),
    "empty": lambda path: os.truncate(path, 0),
    "more at its end": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
    "another kind of file": lambda path: path.write_text("<html>404</html>\n"),
}


@pytest.mark.parametrize("artifact", ARTIFACTS)
def test_damage_is_named_by_the_next_stage(project: Path, artifact: str) -> None:
    path, (stage, arguments) = Path(artifact), ARTIFACTS[artifact]
    content = path.read_bytes()
    for name, damage in DAMAGES.items():
        damage(path)
        code, message = outcome(stage, arguments)
        assert code == 2 and message.startswith(f"{path}: ") and "\n" not in message, name
        assert not Path("other").exists()
        path.write_bytes(content)


@pytest.mark.parametrize("artifact", ARTIFACTS)
def test_a_foreign_file_of_the_same_kind_is_named(project: Path, pair: tuple[Path, Path], artifact: str) -> None:
    assert Path(artifact).read_bytes() != (pair[1] / artifact).read_bytes()
    shutil.copy(pair[1] / artifact, artifact)
    code, message = outcome(*ARTIFACTS[artifact])
    assert code == 2 and str(Path(artifact).parent) in message and "\n" not in message
    assert not Path("other").exists()


@pytest.mark.parametrize("damaged", [False, True])
def test_a_bank_that_is_foreign_or_damaged_is_drawn_again(
    damaged: bool, project: Path, pair: tuple[Path, Path]
) -> None:
    """It is a cache; damage is said."""
    path = Path(f".scratch/banks/{TASK}.safetensors")
    if damaged:
        flip(path, 0.5)
    else:
        shutil.copy(pair[1] / path, path)
    code, told = outcome(refine.app, [*CELL, "--out=other"])
    assert code == 0 and (f"{path}: is damaged or was changed" in told) == damaged
    for name in (STATE, "train.csv", "step_000000040.safetensors"):
        assert Path("other", TASK, METHOD, name).read_bytes() == Path("runs", TASK, METHOD, name).read_bytes()


def test_a_damaged_checkpoint_is_named(tmp_path: Path) -> None:
    module = StackedMLP((2,), (3, 1), norm=False, generators=[torch.Generator(), torch.Generator()])
    adam = Optimiser({"net": module}, 1e-3)
    Checkpoint(tmp_path / "work", tmp_path / "out", lambda step: None).save(5, module, adam, [])
    path = tmp_path / "work" / STATE
    content = path.read_bytes()
    for damage in DAMAGES.values():
        damage(path)
        with pytest.raises(FdError) as error:
            Checkpoint(tmp_path / "work", tmp_path / "out", lambda step: None).restore(module, adam)
        assert str(error.value).startswith(f"{path}: ") and "remove it and run the stage" in str(error.value)
        path.write_bytes(content)
    assert Checkpoint(tmp_path / "work", tmp_path / "out", lambda step: None).restore(module, adam) == 5


def test_a_changed_bit_in_the_cache_of_dvc_is_named(tmp_path: Path) -> None:
    """DVC does not read what it has linked or copied before; the stage that reads the file does."""
    folder = copied(tmp_path / "clone")
    pipeline = Pipeline(folder, settings())
    pipeline.write(pipeline.values)
    for command in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "start"]):
        pipeline.run("git", *command)
    pipeline.dvc("repro", "-q", f"download@{TASK}")
    data = folder / "data" / TASK / "transitions.npz"
    (cached,) = (path for path in (folder / ".dvc/cache/files/md5").rglob("*") if same(path, data))
    cached.chmod(0o644)
    flip(cached, 0.5)
    cached.chmod(0o444)
    shutil.rmtree(folder / "data")
    pipeline.dvc("checkout", "-q", f"download@{TASK}")
    assert data.read_bytes() == cached.read_bytes()
    found = subprocess.run(
        [sys.executable, "-m", "stages.pretrain", "--task", TASK], cwd=folder, capture_output=True, text=True, check=False
    )  # fmt: skip
    assert found.returncode == 2 and not (folder / "behaviour").exists()
    assert found.stderr.startswith(f"error: data/{TASK}/transitions.npz: is damaged or was changed, its SHA-256 is")
    assert found.stderr.count("\n") == 1
    sound = read_record(data.with_name("manifest.json"))["arrays"]
    for path in (folder / ".dvc/cache").rglob("*"):
        path.chmod(
            path.stat().st_mode | 0o200
        )  # what may be written is not trusted by DVC, it looks whether it is as it was
    shutil.rmtree(folder / "data")
    pipeline.dvc("repro", "-q", f"download@{TASK}")
    assert files.digest(data) == files.digest(cached) == sound


def same(path: Path, other: Path) -> bool:
    return path.is_file() and path.read_bytes() == other.read_bytes()


# --- hostile files ---


def weights(header: bytes, length: int | None = None) -> bytes:
    """A safetensors file of a header that says to be this long."""
    return struct.pack("<Q", len(header) if length is None else length) + header + b"\0" * 64


def sealed(header: bytes) -> bytes:
    """The same with a right seal in its metadata."""
    metadata = json.dumps({"seal": SEAL, "values": {}})
    return weights(b'{"__metadata__": {"fd": %s}, ' % json.dumps(metadata).encode() + header)


HUGE = b'"a": {"dtype": "F32", "shape": [1000000000, 1000000000], "data_offsets": [0, 4000000000000000000]}}'
HOSTILE: dict[str, bytes] = {
    "a header of 1e18 bytes": weights(b"{}", 10**18),
    "a header of 2^64 - 1 bytes": weights(b"{}", 2**64 - 1),
    "not UTF-8": weights(b'{"a": "\xff\xfe"}'),
    "deeply nested": weights(b"[" * 100_000),
    "huge shapes": weights(b"{" + HUGE),
    "sealed, huge shapes": sealed(HUGE),
    "sealed, deeply nested": sealed(b'"a": ' + b"[" * 100_000),
    "sealed, not UTF-8": sealed(b'"a": "\xff\xfe"}'),
    "sealed, cut off": sealed(b'"a": {"dtype": "F32", "shape": [64], "data_offsets": [0, 256]}}'),
    "sealed, no header": sealed(b"") + SEAL.encode(),
    "a record nested deeply": b'{"seal": "%s", "a": ' % SEAL.encode() + b"[" * 100_000,
    "a record with a huge number": b'{"seal": "%s", "a": %s}' % (SEAL.encode(), b"1" * 100_000),
    "a record that is a list": b'["%s"]' % SEAL.encode(),
    "a record that is not UTF-8": b'{"seal": "%s", "a": "\xff"}' % SEAL.encode(),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused_at_once(name: str, tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(HOSTILE[name])
    if SEAL.encode() in HOSTILE[name]:
        files.seal(path)
    before, start = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    for reader in (read_tensors, read_record):
        with pytest.raises(FdError) as error:
            reader(path)
        assert str(error.value).startswith(f"{path}: ") and str(error.value).isprintable()
    assert time.process_time() - start < 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 2**20  # KiB


# --- writing ---


def test_the_same_values_are_the_same_bytes(tmp_path: Path) -> None:
    tensors = {"b": torch.arange(6.0).view(2, 3).T, "a": torch.tensor(1)}
    for name in ("one", "two"):
        write_tensors(tmp_path / name, tensors, {"step": 3, "name": "é"})
        tensors = dict(reversed(tensors.items()))
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    found, record = read_tensors(tmp_path / "one")
    assert record == {"step": 3, "name": "é"} and all(torch.equal(found[name], tensors[name]) for name in tensors)


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    values = {"text": "é\n\ud800", "number": 0.1, "big": 10**30, "none": None, "list": [1, {"a": True}]}
    write_record(tmp_path / "record.json", values)
    assert read_record(tmp_path / "record.json") == values
    with pytest.raises(FdError, match=r"record\.json: cannot be written: Out of range float"):
        write_record(tmp_path / "record.json", {"a": float("nan")})
    assert read_record(tmp_path / "record.json") == values


@pytest.mark.parametrize("fault", [OSError, KeyboardInterrupt])
def test_what_cannot_be_written_leaves_what_was_there(fault: type[BaseException], tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_text(path, "old")
    with pytest.raises(fault), replacing(path) as temporary:
        temporary.write_text("ne")
        raise fault
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path: Path) -> None:
    """A limit on the size of files stands for the disk."""
    script = """
import resource, signal, sys, torch
from pathlib import Path
from fd.storage.tensors import write_tensors
from fd.storage.files import write_record, write_text
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
tensors = {"a": torch.zeros(10_000)}
for write in (lambda path: write_tensors(path, tensors, {}), lambda path: write_text(path, "x" * 40_000),
              lambda path: write_record(path, {"a": "x" * 40_000})):
    try:
        write(Path(sys.argv[1], "file"))
    except (OSError, ValueError) as error:
        print(type(error).__name__)
"""
    found = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["FdError", "OSError", "OSError"]
    assert list(tmp_path.iterdir()) == []
