"""A trained policy from Python: load a run, act on an observation."""

from __future__ import annotations

import json
import shutil
import zipfile
from dataclasses import replace
from itertools import product
from pathlib import Path

import gymnasium
import numpy as np
import pytest
import torch
from agents import agent_of
from conftest import TASK
from edits import contents, outcome
from example_suite import ROOT
from safetensors.torch import save_file
from torch import Tensor
from typer.testing import CliRunner

from fd.cli.program import app
from fd.errors import FdError
from fd.export import Acting, of_one_seed, onnx_bytes
from fd.method.acting import act, displace
from fd.networks.mlp import StackedMLP
from fd.policy import Policy, snapshot_name
from fd.simulation.environments import make_env
from fd.storage.files import digest
from fd.storage.tensors import FLOW, read_tensors, write_tensors
from fd.storage.transitions import read_manifest
from stages import refine

METHODS = ("bc", "ifql", "fql", "iql", "rebrac", "fidec", "fidec-official")


@pytest.fixture(scope="module")
def trained(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The project with a run of each kind of method; leave it as it is."""
    folder = tmp_path_factory.mktemp("trained")
    shutil.copytree(made, folder, dirs_exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        for method in METHODS:
            result = CliRunner().invoke(refine.app, ["--task", TASK, "--method", method], catch_exceptions=False)
            assert result.exit_code == 0, result.output
    return folder


@pytest.fixture
def project(trained: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(trained)
    return trained


def test_the_promise_of_the_readme(project: Path) -> None:
    """Load a run, act on an observation as the simulator gives it."""
    env: gymnasium.Env[np.ndarray, np.ndarray] = make_env(read_manifest(Path("data/umaze")))
    obs, _ = env.reset(seed=0)

    policy = Policy.load(Path("runs/umaze/fidec"))
    action = policy.act(obs)[policy.seeds.index(1)]

    assert action.shape == (2,) and action.abs().max() <= 1
    env.step(action.numpy())
    env.close()


@pytest.mark.parametrize("method", METHODS)
def test_shapes_of_observations(method: str, project: Path) -> None:
    policy = Policy.load(Path("runs", TASK, method))
    assert (policy.seeds, policy.step) == ((0, 1), 40)
    obs = torch.randn(5, 4)
    noise = torch.randn(2, 5, 2)
    batch = policy.act(obs, noise)
    assert batch.shape == (2, 5, 2) and batch.abs().max() <= 1 and not batch.requires_grad
    torch.testing.assert_close(policy.act(obs.expand(2, 5, 4), noise), batch)
    torch.testing.assert_close(policy.act(obs[3], noise[:, 3:4]), batch[:, 3])
    torch.testing.assert_close(policy.act(obs.double().numpy(), noise), batch)


def test_each_seed_acts_on_its_own_observations(project: Path) -> None:
    policy = Policy.load(Path("runs", TASK, "fidec"))
    obs, noise = torch.randn(2, 5, 4), torch.randn(2, 5, 2)
    whole = policy.act(obs, noise)
    torch.testing.assert_close(whole[1], policy.act(obs[1], noise)[1])


def test_a_policy_is_what_was_trained(project: Path) -> None:
    """The loaded networks are the files' tensors, and noise is what makes actions random."""
    folder = Path("runs", TASK, "fidec")
    policy, noise = Policy.load(folder), torch.randn(2, 3, 2)
    tensors = read_tensors(folder / snapshot_name(40))[0] | read_tensors(folder / FLOW)[0]
    for prefix, net in (("flow.", policy.flow), ("policy.", policy.net), ("critic.", policy.critic)):
        for name, value in net.state_dict().items():
            assert torch.equal(value, tensors[prefix + name])
    obs = torch.randn(3, 4)
    assert torch.equal(policy.act(obs, noise), act(policy.spec, policy.flow, policy.net, obs.expand(2, 3, 4), noise))
    assert not torch.equal(policy.act(obs), policy.act(obs))


class Peaks(StackedMLP):
    """Q is minus the distance to a point of the seed's own, and, for the second critic of the ensemble, to its opposite."""

    def __init__(self, points: Tensor) -> None:
        super().__init__((2, 2), (1, 1), norm=False, generators=[torch.Generator()])
        self.points = torch.stack([points, -points], dim=1).unsqueeze(2)  # [S, E, 1, A]

    def forward(self, *inputs: Tensor, constant: bool = False) -> Tensor:
        return -(inputs[1].unsqueeze(1) - self.points).norm(dim=-1, keepdim=True)


@pytest.mark.parametrize("method", ["ifql", "fql", "fidec"])
def test_the_best_action_is_taken_by_the_smaller_of_the_critics(method: str, project: Path) -> None:
    """Of each seed's and state's own draws."""
    points = torch.tensor([[0.2, -0.9], [0.4, 0.9]])
    policy = replace(Policy.load(Path("runs", TASK, method)), critic=Peaks(points))
    obs, noise = torch.randn(2, 30, 4), torch.randn(2, 30, 5 * 2)
    found = policy.act(obs, noise, best_of=5)
    drawn = torch.stack([policy.act(obs, noise[..., 2 * i : 2 * i + 2]) for i in range(5)], dim=2)  # [2, 30, 5, 2]
    q = torch.stack([-(drawn - sign * points.view(2, 1, 1, 2)).norm(dim=-1) for sign in (1, -1)])
    chosen = q.amin(dim=0).argmax(dim=-1)
    assert not torch.equal(chosen, q.mean(dim=0).argmax(dim=-1))
    assert set(chosen.flatten().tolist()) == set(range(5))
    for seed, row in product(range(2), range(30)):
        torch.testing.assert_close(found[seed, row], drawn[seed, row, chosen[seed, row]])
    torch.testing.assert_close(policy.act(obs[0, 3], noise[:, 3:4], best_of=5)[0], found[0, 3])


@pytest.mark.parametrize("method", METHODS)
def test_the_best_of_one_is_the_action_itself(method: str, project: Path) -> None:
    policy, obs, noise = Policy.load(Path("runs", TASK, method)), torch.randn(5, 4), torch.randn(2, 5, 2)
    assert torch.equal(policy.act(obs, noise, best_of=1, refinements=1), policy.act(obs, noise))


def test_the_best_of_none_is_nothing(project: Path) -> None:
    with pytest.raises(FdError, match=r"^best_of: 0, allowed: 1 or more$"):
        Policy.load(f"runs/{TASK}/fidec").act(torch.zeros(4), best_of=0)


def test_the_best_of_several_needs_a_critic(project: Path) -> None:
    with pytest.raises(FdError, match=r"^best_of: 2, but this policy has no critic \(allowed: 1\)$"):
        Policy.load(Path("runs", TASK, "bc")).act(torch.zeros(4), best_of=2)


def test_drawn_noise_is_as_wide_as_the_actions_that_are_drawn(project: Path) -> None:
    policy = Policy.load(Path("runs", TASK, "ifql"))
    assert policy.act(torch.zeros(5, 4), best_of=3).shape == (2, 5, 2)
    with pytest.raises(FdError, match=r"^noise: shape \[2, 5, 2\], allowed: \[2, 5, 6\]$"):
        policy.act(torch.zeros(5, 4), torch.zeros(2, 5, 2), best_of=3)


@pytest.mark.parametrize("method", ["fidec", "fidec-official"])
def test_refinements_apply_the_residual_again(method: str, project: Path) -> None:
    policy, obs, noise = Policy.load(Path("runs", TASK, method)), torch.randn(2, 5, 4), torch.randn(2, 5, 2)
    action = policy.act(obs, noise)
    for times in (2, 3):
        action = displace(policy.net, obs, action)[0].detach()
        found = policy.act(obs, noise, refinements=times)
        torch.testing.assert_close(found, action)
        assert not torch.equal(found, policy.act(obs, noise))


def test_an_earlier_step(project: Path) -> None:
    folder = Path("runs", TASK, "fidec")
    assert Policy.steps(folder) == [20, 40]
    early, late = Policy.load(folder, 20), Policy.load(folder)
    assert early.step == 20
    noise = torch.randn(2, 3, 2)
    assert not torch.equal(early.act(torch.ones(3, 4), noise), late.act(torch.ones(3, 4), noise))


@pytest.mark.parametrize("shape", [(), (3,), (5, 3), (4, 1), (3, 5, 4), (2, 5, 3), (1, 2, 5, 4), (0,)])
def test_an_observation_of_another_shape_is_told(shape: tuple[int, ...], project: Path) -> None:
    policy = Policy.load(Path("runs", TASK, "fidec"))
    with pytest.raises(FdError) as error:
        policy.act(torch.zeros(shape))
    assert str(error.value) == f"obs: shape {list(shape)}, allowed: [4], [B, 4] or [2, B, 4]"


@pytest.mark.parametrize("shape", [(2,), (5, 2), (2, 4, 2), (1, 5, 2)])
def test_noise_of_another_shape_is_told(shape: tuple[int, ...], project: Path) -> None:
    with pytest.raises(FdError, match=r"^noise: shape .*, allowed: \[2, 5, 2\]$"):
        Policy.load(Path("runs", TASK, "fidec")).act(torch.zeros(5, 4), torch.zeros(shape))


def test_a_folder_without_a_run_is_told(tmp_path: Path) -> None:
    with pytest.raises(FdError, match=r"holds no snapshot"):
        Policy.load(tmp_path / "nowhere")


def test_a_damaged_run_is_told(project: Path, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    shutil.copytree(Path("runs", TASK, "fidec"), folder)
    with pytest.raises(FdError, match=r"step_000000030\.safetensors: no such file"):
        Policy.load(folder, 30)
    snapshot = folder / snapshot_name(40)
    tensors, record = read_tensors(snapshot)
    content = snapshot.read_bytes()
    write_tensors(snapshot, tensors, record | {"spec": record["spec"] | {"hidden": [16, 8]}})
    with pytest.raises(FdError, match=r"policy\.weights\.1 is \[2, 16, 16\], allowed: \[2, 16, 8\]"):
        Policy.load(folder)
    less = {name: tensor for name, tensor in tensors.items() if not name.startswith("critic.biases.2")}
    write_tensors(snapshot, less, record)
    with pytest.raises(FdError, match=r"000000040\.safetensors: critic\.biases\.2 is missing, allowed: \[4, 1, 1\]"):
        Policy.load(folder)
    write_tensors(snapshot, tensors, {"seeds": [0, 1]})
    with pytest.raises(FdError, match=r"header does not describe an agent"):
        Policy.load(folder)
    save_file(tensors, snapshot)
    with pytest.raises(FdError, match=r"is damaged or not a file that this project wrote"):
        Policy.load(folder)
    snapshot.write_bytes(content[:-50])
    with pytest.raises(FdError, match=r"is damaged or was changed"):
        Policy.load(folder)
    snapshot.write_bytes((folder / snapshot_name(20)).read_bytes())
    with pytest.raises(FdError, match=r"000000040\.safetensors: is the snapshot of step 20, allowed: 40"):
        Policy.load(folder)
    snapshot.write_bytes(content)
    flow, record = read_tensors(folder / FLOW)
    write_tensors(folder / FLOW, {name: tensor + 1 for name, tensor in flow.items()}, record)
    with pytest.raises(
        FdError, match=r"flow\.safetensors: is not the flow of .*000000040\.safetensors; refine it again"
    ):
        Policy.load(folder)
    (folder / FLOW).unlink()
    with pytest.raises(FdError, match=r"flow\.safetensors: no such file"):
        Policy.load(folder)


def exported(project: Path, method: str, out: Path, *how: str) -> None:
    code, told = outcome(app, ["export", f"runs/{TASK}/{method}", "--seed", "1", "--out", str(out), *how])
    assert code == 0 and told.startswith(f"{out}: obs [B, 4], noise [B, "), told


ACTING = [(method, {}) for method in ("bc", "fql", "iql", "rebrac", "fidec-official")]
ACTING += [("ifql", {"best_of": 4}), ("fidec", {"best_of": 3, "refinements": 2})]


@pytest.mark.parametrize(("method", "how"), ACTING)
def test_an_exported_policy_acts_as_ours(method: str, how: dict[str, int], project: Path, tmp_path: Path) -> None:
    """One state or many, in onnxruntime and as a program of torch.export."""
    runtime = pytest.importorskip("onnxruntime", reason="needs the optional extra `export`")
    options = [text for name, value in how.items() for text in (f"--{name.replace('_', '-')}", str(value))]
    for name in ("policy.onnx", "policy.pt2"):
        exported(project, method, tmp_path / name, *options)
    session = runtime.InferenceSession(tmp_path / "policy.onnx")
    program = torch.export.load(tmp_path / "policy.pt2").module()
    policy = Policy.load(Path("runs", TASK, method))
    for states in (1, 2, 33):
        obs, noise = torch.randn(states, 4), torch.randn(states, 2 * how.get("best_of", 1))
        ours = policy.act(obs, noise.expand(2, -1, -1), **how)[1]
        (theirs,) = session.run(["action"], {"obs": obs.numpy(), "noise": noise.numpy()})
        torch.testing.assert_close(torch.from_numpy(theirs), ours, atol=1e-5, rtol=0)
        torch.testing.assert_close(program(obs, noise), ours, atol=1e-5, rtol=0)
    record = json.loads(session.get_modelmeta().custom_metadata_map["fd"])
    assert (record["task"], record["method"], record["seed"], record["step"]) == (TASK, method, 1, 40)
    assert record["snapshot_sha256"] == digest(Path("runs", TASK, method, snapshot_name(40)))


def test_a_file_of_torch_export_needs_no_optional_package_and_tells_nothing_of_the_machine(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("fd.export.find_spec", lambda name: None)
    exported(project, "fidec", tmp_path / "policy.pt2", "--step", "20")
    extra = {"fd": ""}
    torch.export.load(tmp_path / "policy.pt2", extra_files=extra)
    assert json.loads(extra["fd"])["step"] == 20
    with zipfile.ZipFile(tmp_path / "policy.pt2") as archive:
        assert not [name for name in archive.namelist() if str(ROOT).encode() in archive.read(name)]
    code, told = outcome(app, ["export", f"runs/{TASK}/bc", "--seed", "1", "--out", str(tmp_path / "policy.onnx")])
    assert (code, told.split(":")[0]) == (2, "onnx") and "pip install '.[export]'" in told
    assert [path.name for path in tmp_path.iterdir()] == ["policy.pt2"]


def test_a_policy_that_sees_images_is_exported(tmp_path: Path) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="needs the optional extra `export`")
    agent = agent_of("fidec", 3, 5, obs_shape=(8, 9, 6), encoder=(4, 5), frame_stack=3)
    policy = Policy(agent.spec, (3, 5), 1, agent.flow, agent.policy, agent.critic)
    content = onnx_bytes(Acting(of_one_seed(policy, 5), best_of=2, refinements=1), {})
    assert str(ROOT).encode() not in content
    for states in (1, 4):
        obs, noise = torch.randint(256, (states, 8, 9, 6), dtype=torch.uint8), torch.randn(states, 6)
        (theirs,) = runtime.InferenceSession(content).run(None, {"obs": obs.numpy(), "noise": noise.numpy()})
        ours = policy.act(obs, noise.expand(2, -1, -1), best_of=2)[1]
        torch.testing.assert_close(torch.from_numpy(theirs), ours, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs/none", "--out", "x.onnx"], "runs/none: holds no snapshot (step_*.safetensors)"),
        (["data/umaze", "--out", "x.pt2"], "data/umaze: holds no snapshot (step_*.safetensors)"),
        (["--out", "x.txt"], "--out: x.txt, allowed: a name that ends in .onnx or .pt2"),
        (["--out", "here.pt2"], "--out: here.pt2: exists already, allowed: a new file"),
        (["--out", "link.pt2"], "--out: link.pt2: exists already, allowed: a new file"),
        (["--out", "none/x.pt2"], "--out: none: no such folder, allowed: an existing one"),
        (["--out", "x.pt2", "--seed", "7"], f"--seed: 7, allowed: those of runs/{TASK}/bc: 0, 1"),
        (["--out", "x.pt2", "--step", "30"], "step_000000030.safetensors: no such file; run the stage that makes it"),
        (["--out", "x.pt2", "--best-of", "2"], "best_of: 2, but this policy has no critic (allowed: 1)"),
        (["--out", "x.pt2", "--refinements", "2"], "refinements: 2 with policy 'flow' (allowed: 1; with a residual, more)"),
    ],
)  # fmt: skip
def test_what_cannot_be_exported_is_told(
    arguments: list[str], message: str, project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("runs", "data"):
        (tmp_path / folder).symlink_to(project / folder)
    monkeypatch.chdir(tmp_path)
    Path("here.pt2").touch()
    Path("link.pt2").symlink_to("nowhere")
    run = [] if arguments[0].startswith(("runs", "data")) else [f"runs/{TASK}/bc"]
    before = contents(tmp_path)
    code, told = outcome(app, ["export", *run, "--seed", "0", *arguments])
    assert (code, told.endswith(message), contents(tmp_path)) == (2, True, before), told
