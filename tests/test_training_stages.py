"""The stages pretrain and refine as programs: what they write, that a killed run goes on to the same bytes, and what they refuse."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from edits import contents, edit, one_line, program, refused
from safetensors.torch import load_file, save_file
from typer import Typer

from fd.runtime.progress import Progress
from fd.storage.files import digest, read_record, write_record
from fd.storage.tensors import FLOW, read_tensors, write_tensors
from fd.training.checkpoint import COLUMNS
from fd.training.execution import execution
from stages import pretrain, refine

ROOT = Path(__file__).parent.parent
TASK = "umaze"
LEARNED = {"critic_loss", "q_mean", "q_min", "q_max", "grad_norm"}
VALUE = {"value_loss", "v_mean", "v_min", "v_max"}
ONESTEP = LEARNED | {"policy_loss", "q", "q_loss", "penalty"}
RESIDUAL = ONESTEP | {"dual", "dual_loss", "delta2"}
# Method: the networks in its snapshots, whether it acts by the pretrained flow, the metrics in its log.
WRITTEN: dict[str, tuple[set[str], bool, set[str]]] = {
    "bc": (set(), True, set()),
    "ifql": ({"critic"}, True, LEARNED | VALUE),
    "fql": ({"policy", "critic"}, False, ONESTEP),
    "iql": ({"policy", "critic"}, False, LEARNED | VALUE | {"policy_loss", "advantage", "log_likelihood", "mse"}),
    "rebrac": ({"policy", "critic"}, False, LEARNED | {"policy_loss", "q", "q_loss", "mse"}),
    "deflow": ({"policy", "critic"}, True, RESIDUAL),
    "fidec": ({"policy", "critic"}, True, RESIDUAL | {"trace"}),
    "fidec-stein": ({"policy", "critic"}, True, RESIDUAL | {"trace"}),
    "fidec-official": ({"policy", "critic", "flow"}, False, RESIDUAL | {"trace", "flow_loss"}),
}


def call(app: Typer, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    return program(monkeypatch, app, "--task", TASK, *arguments)


def run_refine(monkeypatch: pytest.MonkeyPatch, method: str = "fidec", *arguments: str) -> int:
    return call(refine.app, monkeypatch, "--method", method, *arguments)


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_pretrain_writes_flow_log_and_record(tiny_project: Path) -> None:
    folder = tiny_project / "behaviour" / TASK
    assert {path.name for path in folder.iterdir()} == {FLOW, "flow_000000020.safetensors", "train.csv"}
    log = rows(folder / "train.csv")
    assert [(row["step"], row["seed"]) for row in log] == [("20", "0"), ("20", "1"), ("40", "0"), ("40", "1")]
    assert all(float(row["flow_loss"]) > 0 and float(row["grad_norm"]) > 0 and row["dual"] == "" for row in log)
    record = json.loads(folder.with_suffix(".json").read_text())
    manifest = json.loads((tiny_project / "data" / TASK / "manifest.json").read_text())
    assert record["seeds"] == [0, 1] and record["data_sha256"] == manifest["sha256"]
    assert {"python", "torch", "numpy"} <= set(record["versions"]) and record["machine"]["cores"] > 0
    assert not list((tiny_project / ".scratch").glob("pretrain-*"))


def test_these_are_the_methods() -> None:
    assert WRITTEN.keys() == yaml.safe_load((ROOT / "tests" / "tiny.yaml").read_text())["methods"].keys()


@pytest.mark.parametrize("method", WRITTEN)
def test_refine_writes_a_snapshot_at_every_evaluation_and_the_log(
    method: str, tiny_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nets, by_flow, metrics = WRITTEN[method]
    assert run_refine(monkeypatch, method) == 0
    folder = tiny_project / "runs" / TASK / method
    snapshots = {f"step_{step:09d}.safetensors" for step in (20, 40)}
    assert {path.name for path in folder.iterdir()} == snapshots | ({FLOW} if by_flow else set()) | (
        {"train.csv"} if metrics else set()
    )
    weights = [load_file(folder / name) for name in sorted(snapshots)]
    assert weights[0].keys() == weights[1].keys()
    assert {name.split(".")[0] for name in weights[0]} == nets
    for net in nets:
        own = [name for name in weights[0] if name.startswith(f"{net}.")]
        assert any(not torch.equal(weights[0][name], weights[1][name]) for name in own)
    if by_flow:
        assert (folder / FLOW).read_bytes() == Path("behaviour", TASK, FLOW).read_bytes()
    if metrics:
        log = rows(folder / "train.csv")
        assert tuple(log[0]) == COLUMNS
        assert [(int(row["step"]), int(row["seed"])) for row in log] == [
            (s, i) for s in (10, 20, 30, 40) for i in (0, 1)
        ]
        for row in log:
            assert {name for name, value in row.items() if value != ""} == metrics | {"step", "seed"}
            assert np.isfinite([float(value) for value in row.values() if value]).all()
    assert json.loads(folder.with_suffix(".json").read_text())["method"] == method
    assert not list((tiny_project / ".scratch").glob("refine-*"))


@pytest.mark.parametrize(
    "switches",
    [
        {"metric": "action"},
        {"metric": "action", "score": "velocity", "normalise": "none", "t_eps": [0.6, 0.9]},
        {"desmooth": True},
        {"dual": "fixed"},
    ],
    ids=lambda switches: " ".join(switches),
)
def test_other_switches_train(switches: dict[str, Any], tiny_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    values = yaml.safe_load(Path("params.yaml").read_text())["methods"]["fidec"]["train"]
    edit("methods", "fidec", "train", to=values | switches)
    assert run_refine(monkeypatch) == 0
    log = rows(Path("runs", TASK, "fidec", "train.csv"))
    expected = WRITTEN["fidec"][2] - ({"dual_loss"} if "dual" in switches else set())
    assert {name for name, value in log[-1].items() if value} == expected | {"step", "seed"}
    assert all(float(row["penalty"]) > 0 and float(row["trace"]) > 0 for row in log)


def test_what_a_method_overrides_is_its_own(tiny_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit("methods", "fql", "refine", to={"tau": 0.5})
    for out, method in (("one", "fql"), ("one", "deflow")):
        assert run_refine(monkeypatch, method, "--out", out) == 0
    edit("methods", "fql", "refine", to={})
    for out, method in (("two", "fql"), ("two", "deflow")):
        assert run_refine(monkeypatch, method, "--out", out) == 0
    assert contents(Path("one", TASK, "deflow")) == contents(Path("two", TASK, "deflow"))
    assert contents(Path("one", TASK, "fql")) != contents(Path("two", TASK, "fql"))


@pytest.mark.parametrize("bank", [0, 4])
def test_the_same_bytes_twice(bank: int, tiny_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert call(pretrain.app, monkeypatch, "--out", "again") == 0
    assert contents(Path("again", TASK)) == contents(Path("behaviour", TASK))
    edit("refine", "bank", to=bank)
    for method in ("fql", "deflow", "fidec", "fidec-stein", *(("fidec-official",) if bank else ("iql", "rebrac"))):
        for out in ("one", "two"):
            assert run_refine(monkeypatch, method, "--out", out) == 0
        assert contents(Path("one", TASK, method)) == contents(Path("two", TASK, method))
        shutil.rmtree(".scratch")  # the second run of each found the kept base actions, the next will not


def interrupted_at(done: int) -> Callable[..., None]:
    """`Progress.advance`, but the user stops the run once that many training steps are done (which tell their losses)."""
    advance = Progress.advance

    def interrupted(self: Progress, amount: int, *, text: str = "") -> None:
        advance(self, amount, text=text)
        if text and self._done == done:
            raise KeyboardInterrupt

    return interrupted


@pytest.mark.parametrize("method", ["fql", "ifql", "iql", "rebrac", "fidec", "fidec-stein", "fidec-official"])
@pytest.mark.parametrize("at", [10, 30])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    method: str, at: int, tiny_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run_refine(monkeypatch, method, "--out", "whole") == 0
    advance, stepped = Progress.advance, list[int]()
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "advance", interrupted_at(at))
        assert run_refine(monkeypatch, method) != 0
    assert not Path("runs").exists() and list(Path(".scratch").glob("refine-*"))

    def counted(self: Progress, amount: int, *, text: str = "") -> None:
        stepped.append(amount if text else 0)
        advance(self, amount, text=text)

    monkeypatch.setattr(Progress, "advance", counted)
    assert run_refine(monkeypatch, method) == 0
    assert sum(stepped) == (40 if at < 20 else 20)  # from the last evaluation on, not from the start
    assert contents(Path("runs", TASK, method)) == contents(Path("whole", TASK, method))


def test_an_interrupted_pretraining_goes_on_to_the_same_bytes(
    tiny_project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "advance", interrupted_at(40))
        assert call(pretrain.app, monkeypatch, "--out", "again") != 0
    assert not Path("again").exists() and list(Path(".scratch").glob("pretrain-*"))
    assert call(pretrain.app, monkeypatch, "--out", "again") == 0
    assert contents(Path("again", TASK)) == contents(Path("behaviour", TASK))


def test_a_killed_process_goes_on_to_the_same_bytes(tiny_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    edit("refine", "steps", to=600)
    edit("refine", "evaluate_every", to=100)
    process = subprocess.Popen(
        [sys.executable, "-m", "stages.refine", "--task", TASK, "--method", "deflow", "--out", "runs"],
        env={"PYTHONPATH": str(ROOT), "PATH": ""}, stderr=subprocess.PIPE,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not list(Path(".scratch").glob("refine-*/out/step_000000300*")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL and not Path("runs").exists()
    assert run_refine(monkeypatch, "deflow") == 0
    assert run_refine(monkeypatch, "deflow", "--out", "whole") == 0
    assert contents(Path("runs", TASK, "deflow")) == contents(Path("whole", TASK, "deflow"))


def test_a_run_killed_just_after_publishing_starts_again(tiny_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The state is still there, the folder that grew beside it is gone, and DVC has removed the published one."""
    assert run_refine(monkeypatch, "deflow", "--out", "whole") == 0
    with monkeypatch.context() as patch:
        patch.setattr("fd.storage.scratch.shutil.rmtree", lambda path: None)
        assert run_refine(monkeypatch, "deflow") == 0
    shutil.rmtree("runs")
    assert list(Path(".scratch").glob("refine-*/state.safetensors"))
    assert run_refine(monkeypatch, "deflow") == 0
    assert contents(Path("runs", TASK, "deflow")) == contents(Path("whole", TASK, "deflow"))


def test_unfinished_work_of_another_flow_is_not_continued(tiny_project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(Progress, "advance", interrupted_at(30))
        assert run_refine(monkeypatch) != 0
    edit("pretrain", "learning_rate", to=0.01)
    assert call(pretrain.app, monkeypatch) == 0
    assert run_refine(monkeypatch) == 0
    shutil.rmtree(".scratch")
    assert run_refine(monkeypatch, "fidec", "--out", "whole") == 0
    assert contents(Path("runs", TASK, "fidec")) == contents(Path("whole", TASK, "fidec"))


def fails(capsys: pytest.CaptureFixture[str], code: int, *parts: str) -> None:
    """One `error:` line that says all this, exit code 2, and no output."""
    line = one_line(capsys)
    assert code == 2 and all(part in line for part in parts), line
    assert not Path("runs").exists()


@pytest.mark.parametrize("method", ["fql", "ifql", "iql", "rebrac", "fidec", "fidec-stein", "fidec-official"])
def test_divergence_names_the_seed_and_the_step(
    method: str, tiny_project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit("refine", "learning_rate", to=1e25)
    fails(capsys, run_refine(monkeypatch, method), f"refine {TASK} {method}: ", " of seed 0 is ", " in step 2,")


def test_diverging_flow_names_the_seed_and_the_step(
    tiny_project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit("pretrain", "learning_rate", to=1e25)
    code = call(pretrain.app, monkeypatch, "--out", "other")
    fails(capsys, code, f"pretrain {TASK}: flow_loss of seed 0 is ", " in step 2, allowed: finite numbers")
    assert not Path("other").exists()


def other_data() -> None:
    """The flow belongs to data that have been made anew since."""
    manifest = Path("data", TASK, "manifest.json")
    values = read_record(manifest)
    values["sha256"]["rewards"] = "0" * 64
    write_record(manifest, values)


def other_seeds() -> None:
    edit("seeds", to=[0, 2])


def wider() -> None:
    edit("network", "hidden", to=[16, 24])


def deeper() -> None:
    edit("network", "hidden", to=[16, 16, 16])


def truncated() -> None:
    path = Path("behaviour", TASK, FLOW)
    path.write_bytes(path.read_bytes()[:-100])


def foreign() -> None:
    """Weights of some other program."""
    save_file({"flow.weights.0": torch.zeros(1)}, Path("behaviour", TASK, FLOW))


def nan_in_flow() -> None:
    path = Path("behaviour", TASK, FLOW)
    tensors, record = read_tensors(path)
    tensors["flow.biases.2"][1] = torch.nan
    write_tensors(path, tensors, record)


def no_weights() -> None:
    Path("behaviour", TASK, FLOW).write_text("<html>404</html>")


def no_flow() -> None:
    shutil.rmtree("behaviour")


def no_data() -> None:
    shutil.rmtree("data")


def cut_data() -> None:
    path = Path("data", TASK, "transitions.npz")
    path.write_bytes(path.read_bytes()[:1000])


def nan_in_data() -> None:
    path = Path("data", TASK, "transitions.npz")
    with np.load(path) as file:
        arrays = {name: file[name].copy() for name in file.files}
    arrays["rewards"][7] = np.nan
    np.savez(path, **arrays)
    manifest = path.with_name("manifest.json")
    write_record(manifest, read_record(manifest) | {"arrays": digest(path)})


def bad_settings() -> None:
    edit("refine", "tau", to="0.005")


FLOW_PATH, DATA_PATH = f"behaviour/{TASK}/{FLOW}", f"data/{TASK}"
BROKEN: list[tuple[Callable[[], None], tuple[str, ...]]] = [
    (other_data, (FLOW_PATH, "was trained on different data or seeds", DATA_PATH)),
    (other_seeds, (FLOW_PATH, "seeds [0, 1], allowed", "[0, 2]")),
    (wider, (FLOW_PATH, "flow.weights.1 is [2, 16, 16], allowed: [2, 16, 24]")),
    (deeper, (FLOW_PATH, "flow.weights.2 is [2, 16, 2], allowed: [2, 16, 16]")),
    (truncated, (FLOW_PATH, "is damaged or was changed")),
    (foreign, (FLOW_PATH, "is damaged or not a file that this project wrote")),
    (nan_in_flow, ("scores of the behaviour flow of seed 1 are NaN or infinite, allowed: finite",)),
    (no_weights, (FLOW_PATH, "is damaged or not a file that this project wrote")),
    (no_flow, (FLOW_PATH, "no such file")),
    (no_data, (f"{DATA_PATH}/manifest.json: no such file; run the stage download",)),
    (cut_data, (f"{DATA_PATH}/transitions.npz", "is damaged or was changed")),
    (nan_in_data, (f"{DATA_PATH}/transitions.npz", "'rewards' holds NaN or infinity, first in row 7")),
    (bad_settings, ("params.yaml: refine.tau: '0.005', allowed: a number",)),
]


@pytest.mark.parametrize(("damage", "parts"), BROKEN, ids=[damage.__name__ for damage, _ in BROKEN])
def test_wrong_input_of_refine_is_one_line(
    damage: Callable[[], None], parts: tuple[str, ...], tiny_project: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    damage()
    fails(capsys, run_refine(monkeypatch), *parts)
    assert not list(Path(".scratch").glob("refine-*/out/step_*"))


def test_without_memory_for_a_bank_base_actions_are_fresh(
    tiny_project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_refine(monkeypatch, "fidec", "--out", "banked") == 0
    edit("refine", "bank_memory", to=1e-6)
    assert run_refine(monkeypatch, "fidec", "--out", "fallen") == 0
    assert "base actions are drawn afresh at every step" in capsys.readouterr().err
    edit("refine", "bank", to=0)
    assert run_refine(monkeypatch, "fidec", "--out", "fresh") == 0
    assert contents(Path("fallen", TASK, "fidec")) == contents(Path("fresh", TASK, "fidec"))
    assert contents(Path("fallen", TASK, "fidec")) != contents(Path("banked", TASK, "fidec"))
    banks = [json.loads(Path(out, TASK, "fidec.json").read_text())["bank"] for out in ("banked", "fallen", "fresh")]
    assert banks == [4, 0, 0]


@pytest.mark.parametrize("choice", ["graph", "compiled-graph"])
def test_a_graph_on_the_cpu_is_one_line(
    choice: str, tiny_project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit("compute", "execution", to=choice)
    fails(capsys, run_refine(monkeypatch), f"compute.execution: '{choice}' needs a GPU", "allowed on the CPU: auto")


def test_compiling_without_a_compiler_is_one_line(
    tiny_project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit("compute", "execution", to="compiled")
    monkeypatch.setenv("CXX", "no-such-compiler")
    fails(
        capsys,
        run_refine(monkeypatch),
        "compute.execution: 'compiled' needs a compiler, no-such-compiler, and none is installed",
    )


def test_compiling_without_the_headers_of_python_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On the CPU and on a GPU; CPATH may name the folder of headers that are elsewhere."""
    for name in ("CC", "CXX"):
        monkeypatch.setenv(name, sys.executable)  # some program that exists
    monkeypatch.delenv("CPATH", raising=False)
    monkeypatch.setattr(sysconfig, "get_path", lambda name: "/nowhere")
    for choice, device, others in (
        ("compiled", "cpu", "auto, eager"),
        ("compiled-graph", "cuda", "auto, eager, graph"),
    ):
        needed = f"compute.execution: '{choice}' needs Python's headers, and /nowhere/Python.h does not exist;"
        with refused(f"(allowed: {others})", start=needed):
            execution(choice, torch.device(device))
    (tmp_path / "Python.h").touch()
    monkeypatch.setenv("CPATH", f"/nowhere{os.pathsep}{tmp_path}")
    assert execution("compiled", torch.device("cpu")) == "compiled"


@pytest.mark.skipif(torch.cuda.is_available(), reason="this machine has a GPU")
@pytest.mark.parametrize("app", [pretrain.app, refine.app], ids=["pretrain", "refine"])
def test_a_gpu_that_is_not_there_is_one_line(
    app: Typer, tiny_project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit("compute", "device", to="cuda")
    arguments = ["--method", "fidec"] if app is refine.app else []
    fails(capsys, call(app, monkeypatch, "--out", "runs", *arguments), "compute.device: 'cuda'", "sees no GPU")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("refine", "--task", "maze", "--method", "fidec"), "tasks: 'maze' does not exist, allowed: umaze"),
        (("refine", "--task", "umaze", "--method", "sac"), "methods: 'sac' does not exist, allowed: bc, ifql, "),
        (("pretrain", "--task", "maze"), "tasks: 'maze' does not exist, allowed: umaze"),
        (("pretrain", "--task", "umaze", "--data", "no"), "no/umaze/manifest.json: no such file; run the stage"),
    ],
)
def test_programs_end_with_code_2_and_one_line(arguments: tuple[str, ...], message: str, tiny_project: Path) -> None:
    stage, *options = arguments
    found = subprocess.run(
        [sys.executable, "-m", f"stages.{stage}", *options, "--out", "out"],
        check=False, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert found.returncode == 2 and found.stdout == ""
    assert found.stderr.startswith(f"error: {message}") and found.stderr.count("\n") == 1
    assert not Path("out").exists()


def test_help_reads_well() -> None:
    found = subprocess.run(
        [sys.executable, "-m", "stages.refine", "--help"],
        check=False, cwd=ROOT, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert found.returncode == 0
    assert "Refine the policy of every seed with one method" in " ".join(found.stdout.split())
    assert all(
        option in found.stdout for option in ("--task", "--method", "--params", "--data", "--behaviour", "--out")
    )


def test_a_full_disk_is_one_line(tiny_project: Path) -> None:
    """Files cannot grow beyond 4 KiB here, which is what a full disk is to the library that writes weights."""
    program = (
        "import resource; resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096));"
        "from fd.runtime.command_line import main; from stages.pretrain import app; main(app)"
    )
    found = subprocess.run(
        [sys.executable, "-c", program, "--task", TASK, "--out", "out"],
        check=False, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert found.returncode == 2 and "Traceback" not in found.stderr
    assert "cannot be written: " in found.stderr.splitlines()[-1]
    assert not Path("out").exists()
