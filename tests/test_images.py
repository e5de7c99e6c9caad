"""Image observations: storage, frame stacks, crops, encoders, and agents that see them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from agents import TRAINED, agent_of, base_of, spec_of
from edits import program
from torch import Tensor

from fd.errors import FdError
from fd.method.agent import Agent, update
from fd.method.batch import Noise
from fd.method.flow import base_actions
from fd.networks.adam import Optimiser
from fd.networks.impala import WIDTH, ImpalaEncoder
from fd.policy import Policy
from fd.settings.training_settings import Network
from fd.simulation.environments import make_env
from fd.storage.transitions import Transitions, assemble, check_transitions, read_manifest
from fd.training.augmentation import PADDING, cropped, draw_crops
from fd.training.bank import BankPlan, build_bank
from fd.training.policy_training import noise_shapes, updates
from fd.training.replay import Replay
from stages import download, geometry, pretrain, refine

CPU = torch.device("cpu")
SEEDS = (3, 5)
SHAPE = (8, 9, 2)  # height, width and channels of an image
SEEN = (8, 9, 6)  # three stacked
IMAGES = {"obs_shape": SEEN, "encoder": (4, 5), "frame_stack": 3, "augmentation": 0.5}


def transitions(*lengths: int) -> Transitions:
    """Episodes of so many rows; the images of row i are all i."""
    rows = sum(lengths)
    images = np.broadcast_to(np.arange(rows, dtype=np.uint8)[:, None, None, None], (rows, *SHAPE)).copy()
    draw = np.random.default_rng(0)
    ends = np.zeros(rows, bool)
    ends[np.cumsum(lengths) - 1] = True
    actions = draw.uniform(-1, 1, (rows, 3))
    return assemble("x", images, actions, rewards=-draw.random(rows), masks=np.ones(rows), ends=ends)


def images(*shape: int) -> Tensor:
    return torch.randint(256, shape, generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def encoder(*seeds: int) -> ImpalaEncoder:
    return ImpalaEncoder(SEEN, (4, 5), [torch.Generator().manual_seed(seed) for seed in seeds])


def test_images_stay_bytes() -> None:
    arrays = transitions(3, 4)
    assert arrays.observations.dtype == np.uint8 and arrays.observations.shape == (7, *SHAPE)
    check_transitions(Path("here"), arrays)
    assert Replay.of(arrays, CPU).obs.dtype == torch.uint8


def test_a_frame_stack_does_not_reach_into_the_episode_before() -> None:
    replay = Replay.of(transitions(3, 4), CPU, frame_stack=3)
    rows = torch.tensor([[0, 1, 2, 3], [4, 5, 6, 3]])
    stacked = replay.states(rows)
    assert stacked.shape == (2, 4, *SEEN) and stacked.dtype == torch.uint8
    oldest_first = [
        [[0, 0, 0], [0, 0, 1], [0, 1, 2], [3, 3, 3]],
        [[3, 3, 4], [3, 4, 5], [4, 5, 6], [3, 3, 3]],
    ]
    assert stacked[:, :, 0, 0, ::2].tolist() == oldest_first  # the channels of an image stand together
    assert stacked[:, :, -1, -1, 1::2].tolist() == oldest_first


def test_next_observations_are_stacked_with_their_own_last_image() -> None:
    replay = Replay.of(transitions(3, 4), CPU, frame_stack=3)
    batch = replay.batch(torch.tensor([[0, 1, 5]]))
    assert batch.next_obs[0, :, 0, 0, ::2].tolist() == [[0, 0, 1], [0, 1, 2], [4, 5, 6]]


def test_a_crop_moves_an_image_and_repeats_its_edge() -> None:
    image = torch.arange(12, dtype=torch.uint8).view(1, 1, 3, 4, 1).repeat(1, 3, 1, 1, 1)
    offsets = torch.tensor([[[PADDING, PADDING], [PADDING + 1, PADDING - 2], [0, 2 * PADDING]]])
    same, moved, far = cropped(image, offsets)[0, ..., 0].tolist()
    assert same == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9, 10, 11]]
    assert moved == [[4, 4, 4, 5], [8, 8, 8, 9], [8, 8, 8, 9]]
    assert far == [[3, 3, 3, 3]] * 3


def test_a_batch_is_cropped_as_a_whole_or_not_at_all() -> None:
    offsets = draw_crops(torch.Generator().manual_seed(0), (400, 8), probability=0.5)
    assert offsets.shape == (400, 8, 2) and offsets.min() == 0 and offsets.max() == 2 * PADDING
    untouched = (offsets == PADDING).all(dim=(1, 2))
    assert 150 < untouched.sum() < 250
    assert not (offsets[~untouched] == offsets[~untouched][:, :1]).all(dim=(1, 2)).any()
    for probability, cropped_batches in ((0.0, 0), (1.0, 400)):
        offsets = draw_crops(torch.Generator().manual_seed(0), (400, 8), probability=probability)
        assert (offsets != PADDING).any(dim=(1, 2)).sum() == cropped_batches


def test_a_state_and_its_next_one_are_cropped_alike() -> None:
    replay = replace(Replay.of(transitions(3, 4), CPU, frame_stack=3), obs=images(7, *SHAPE))
    rows, crops = torch.tensor([[0, 4]]), torch.tensor([[[0, 5], [6, 1]]])
    batch, plain = replay.batch(rows, crops=crops), replay.batch(rows)
    assert torch.equal(batch.obs, cropped(plain.obs, crops)) and not torch.equal(batch.obs, plain.obs)
    assert torch.equal(batch.next_obs, cropped(plain.next_obs, crops))


def test_an_encoder_gives_a_seed_the_same_features_alone_or_among_others() -> None:
    seen = images(2, 4, *SEEN)
    both, alone = encoder(*SEEDS)(seen), encoder(SEEDS[1])(seen[1:])
    assert both.shape == (2, 4, WIDTH)
    assert torch.equal(both[1:], alone)
    assert not torch.allclose(both[0], both[1])


def test_no_gradient_reaches_the_weights_of_a_constant_encoder() -> None:
    net, seen = encoder(*SEEDS), images(2, 4, *SEEN)
    assert not net(seen, constant=True).requires_grad
    net(seen).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.abs().sum() > 0 for parameter in net.parameters())


@pytest.mark.parametrize("method", TRAINED)
def test_every_method_learns_from_images(method: str) -> None:
    agent = agent_of(method, *SEEDS, **IMAGES)
    spec, adam = agent.spec, Optimiser(agent.trained(), 1e-3)
    before = [p.detach().clone() for p in adam.parameters]
    one, draws = updates(
        agent, adam, Replay.of(transitions(9, 9), CPU, frame_stack=3), None,
        seeds=SEEDS, batch_size=4,
    )  # fmt: skip
    for step in range(2):
        metrics = one(spec.policy_every - 1, draws.at(step))
        assert all(value.isfinite().all() for value in metrics.values())
    moved = [not torch.equal(p, q) for p, q in zip(adam.parameters, before, strict=True)]
    assert all(moved)


def test_a_seed_learns_from_images_as_it_does_among_others() -> None:
    replay = Replay.of(transitions(9, 9), CPU, frame_stack=3)

    def trained(*seeds: int) -> Agent:
        agent = agent_of("fidec-official", *seeds, **IMAGES)
        one, draws = updates(agent, Optimiser(agent.trained(), 1e-3), replay, None, seeds=seeds, batch_size=4)
        for step in range(3):
            one(0, draws.at(step))
        return agent

    both, alone = trained(*SEEDS), trained(SEEDS[1])
    for (name, among), own in zip(both.state_dict().items(), alone.state_dict().values(), strict=True):
        assert torch.equal(among.chunk(2)[1], own), name


def test_a_bank_of_images_is_what_the_flow_gives(tmp_path: Path) -> None:
    agent, replay = agent_of("fidec", *SEEDS, **IMAGES), Replay.of(transitions(9, 9), CPU, frame_stack=3)
    plan = BankPlan(4, 1.0, tmp_path / "banks" / "x", "k")
    bank = build_bank(agent.spec, agent.flow, replay, plan, seeds=SEEDS, label="x")
    again = build_bank(spec_of("fql", **IMAGES), agent.flow, replay, plan, seeds=SEEDS, label="x")
    assert bank is not None and bank.scores is not None and again is not None and again.noise is not None
    assert torch.equal(bank.actions, again.actions)
    states = replay.states(torch.arange(18)).expand(2, -1, -1, -1, -1)
    for sample in range(4):
        expected = base_actions(agent.flow, states, again.noise[:, :, sample], steps=agent.spec.flow_steps)
        torch.testing.assert_close(bank.actions[:, :, sample], expected)


def test_fresh_base_actions_encode_as_one_at_a_time() -> None:
    agent, replay = agent_of("fidec", *SEEDS, **IMAGES), Replay.of(transitions(9, 9), CPU, frame_stack=3)
    batch = replay.batch(torch.tensor([[0, 5, 12]]).repeat(2, 1))
    shapes = noise_shapes(agent.spec, 3, banked=False)
    noise = Noise(**{name: torch.rand(2, *shape) * 0.9 for name, shape in shapes.items()})
    base = base_of(agent, batch, noise)
    assert base is not None and noise.next_base is not None
    expected = base_actions(agent.flow, batch.next_obs, noise.next_base, steps=agent.spec.flow_steps)
    torch.testing.assert_close(base.next_act, expected)
    assert not base.act.requires_grad and base.scores is not None and not base.scores.requires_grad
    assert update(agent, Optimiser(agent.trained(), 1e-3), batch, base, noise)["q"].isfinite().all()


@pytest.mark.parametrize("best_of", [1, 3])
def test_a_policy_acts_on_images(best_of: int) -> None:
    agent = agent_of("fidec", *SEEDS, **IMAGES)
    policy = Policy(agent.spec, SEEDS, 1, agent.flow, agent.policy, agent.critic)
    seen = images(4, *SEEN)
    noise = torch.randn(2, 4, 3 * best_of)
    actions = policy.act(seen, noise, best_of=best_of)
    assert actions.shape == (2, 4, 3) and policy.act(seen[0]).shape == (2, 3)
    torch.testing.assert_close(policy.act(seen[1], noise[:, 1:2], best_of=best_of), actions[:, 1])
    with pytest.raises(FdError, match=r"obs: torch.float32, allowed: torch.uint8, because this policy sees images"):
        policy.act(seen.float())
    with pytest.raises(
        FdError, match=r"obs: shape \[8, 9, 2\], allowed: \[8, 9, 6\], \[B, 8, 9, 6\] or \[2, B, 8, 9, 6\]"
    ):
        policy.act(seen[0, ..., :2])


def test_an_encoder_is_for_images_alone() -> None:
    network = Network(hidden=(8,), encoder=(4,), frame_stack=3, augmentation=0.5)
    assert network.observed([64, 64, 3], "tasks.x") == (64, 64, 9)
    with pytest.raises(FdError, match=r"tasks.x.network.encoder: \[4\], but the data hold vectors \(allowed: \[\]\)"):
        network.observed([28], "tasks.x")
    plain = Network(hidden=(8,), encoder=(), frame_stack=1, augmentation=0.0)
    assert plain.observed([28], "tasks.x") == (28,)
    with pytest.raises(
        FdError, match=r"tasks.x.network.encoder: \[\], but the data hold images \(allowed: \[16, 32, 32\]"
    ):
        plain.observed([64, 64, 3], "tasks.x")
    with pytest.raises(
        ValueError, match=r"frame_stack: 3 applies to images, but encoder: \[\] takes vectors \(allowed: 1\)"
    ):
        Network(hidden=(8,), encoder=(), frame_stack=3, augmentation=0.0)


def test_the_stages_train_on_images_and_the_simulator_shows_what_the_policy_sees(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Evaluation itself renders 200 images an episode, which takes half a minute here."""
    values = yaml.safe_load((Path(__file__).parent / "tiny.yaml").read_text())
    task = values["tasks"]["cube-single"]
    task["data"] |= {"dataset": "visual-cube-single-play-singletask-task1-v0", "steps": 6}
    values["tasks"] = {"cube": task | {"network": {"encoder": [4, 4], "frame_stack": 3, "augmentation": 0.5}}}
    monkeypatch.chdir(tmp_path)
    Path("params.yaml").write_text(yaml.safe_dump(values))
    for stage, arguments in ((download, ()), (pretrain, ()), (geometry, ()), (refine, ("--method", "fidec"))):
        assert program(monkeypatch, stage.app, "--task", "cube", *arguments) == 0
    policy = Policy.load(Path("runs/cube/fidec"))
    env = make_env(read_manifest(Path("data/cube")), frame_stack=policy.spec.frame_stack)
    obs, _ = env.reset(seed=0)
    for _ in range(3):
        assert obs.shape == policy.spec.obs_shape == (64, 64, 9) and obs.dtype == np.uint8
        obs, *_ = env.step(policy.act(obs)[0].numpy())
    env.close()
