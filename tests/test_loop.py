"""The loop, its random numbers and the bank: what a step draws depends on its number alone."""

from __future__ import annotations

import csv
import os
from pathlib import Path

import pytest
import torch
from agents import replay_of

from fd.errors import FdError
from fd.method.fisher import state_scores
from fd.method.flow import base_actions
from fd.networks.adam import Optimiser
from fd.networks.mlp import StackedMLP
from fd.storage.locks import locked
from fd.storage.tensors import read_tensors
from fd.training.bank import Bank, draw_actions, draw_noise, draw_scores, drop_oldest, kept_actions
from fd.training.checkpoint import Checkpoint
from fd.training.loop import BLOCK, Draws, Run, Schedule, Window, train
from fd.training.random_streams import PURPOSES, generator

CPU = torch.device("cpu")


def draws(*seeds: int) -> Draws:
    return Draws(seeds, "refine", CPU, lambda g: [torch.randn(BLOCK, 3, generator=g), torch.rand(BLOCK, generator=g)])


def test_numbers_of_a_step_do_not_depend_on_the_steps_before() -> None:
    whole = draws(0, 1)
    in_order = [whole.at(index) for index in range(2 * BLOCK + 5)]
    for index in (0, BLOCK - 1, BLOCK, 2 * BLOCK + 4):
        for among, alone in zip(in_order[index], draws(0, 1).at(index), strict=True):
            assert torch.equal(among, alone)
    assert len({numbers[1][0].item() for numbers in in_order}) == len(in_order)


def test_a_seed_draws_the_same_among_others() -> None:
    for among, alone in zip(draws(4, 7).at(70), draws(7).at(70), strict=True):
        assert torch.equal(among[1:], alone)


def test_streams_differ_by_seed_purpose_and_block() -> None:
    first = [torch.rand(1, generator=generator(s, p, b)).item() for s in range(4) for p in PURPOSES for b in range(4)]
    assert len(set(first)) == 4 * len(PURPOSES) * 4


def fit(folder: Path, steps: int, *, called: list[int] | None = None, **faults: int) -> StackedMLP:
    """A loop over the given steps whose metric is the step's number.

    `called` collects the indices of the steps. At those in `faults`, seed 5 has the metric NaN (`nan_at`), infinity (`inf_at`) or a NaN in its weights (`broken_at`).
    """
    module = StackedMLP((2,), (1, 1), norm=False, generators=[torch.Generator().manual_seed(s) for s in (3, 5)])
    adam = Optimiser({"net": module}, 0.1)

    def one(index: int, numbers: list[torch.Tensor]) -> dict[str, torch.Tensor]:
        if called is not None:
            called.append(index)
        adam.descend(module(torch.ones(2, 1, 1)).flatten(), clip=0)
        if index == faults.get("broken_at"):
            module.biases[0].data[1] = torch.nan
        value = {faults.get("nan_at"): float("nan"), faults.get("inf_at"): float("inf")}.get(index, float(index))
        return {"grad_norm": torch.zeros(2), "q": torch.tensor([float(index), value])}

    checkpoint = Checkpoint(folder / "work", folder / "out", lambda step: None)
    run = Run((3, 5), Schedule(steps, 1, 5, range(10, steps + 1, 10)), checkpoint, "refine cube fidec")
    train(one, draws(3, 5), module, adam, run, period=steps)
    return module


def test_a_row_is_the_mean_since_the_last_one(tmp_path: Path) -> None:
    fit(tmp_path, 20)
    with (tmp_path / "out" / "train.csv").open(newline="") as file:
        rows = [(row["step"], row["seed"], float(row["q"])) for row in csv.DictReader(file)]
    assert rows == [(str(at), seed, at - 3.0) for at in (5, 10, 15, 20) for seed in ("3", "5")]


def test_the_log_can_be_read_up_to_the_last_row_and_a_resumed_run_repeats_none(tmp_path: Path) -> None:
    def steps() -> list[str]:
        return [line.split(",")[0] for line in (tmp_path / "work" / "progress.csv").read_text().splitlines()]

    with pytest.raises(FdError):
        fit(tmp_path, 20, nan_at=17)
    assert steps() == ["step", "5", "5", "10", "10", "15", "15"]
    fit(tmp_path, 20)
    assert (tmp_path / "work" / "progress.csv").read_bytes() == (tmp_path / "out" / "train.csv").read_bytes()


@pytest.mark.parametrize(("fault", "shown"), [("nan_at", "nan"), ("inf_at", "inf")])
@pytest.mark.parametrize("index", [10, 12, 14])
def test_a_metric_that_is_no_number_ends_the_run_at_its_step(
    fault: str, shown: str, index: int, tmp_path: Path
) -> None:
    called = list[int]()
    with pytest.raises(FdError) as error:
        fit(tmp_path, 20, called=called, **{fault: index})
    assert called == list(range(index + 1))
    assert str(error.value) == (
        f"refine cube fidec: q of seed 5 is {shown} in step {index + 1}, allowed: finite numbers (snapshots up to the last"
        " checkpoint are kept)"
    )
    assert read_tensors(tmp_path / "work" / "state.safetensors")[1]["step"] == 10


def test_a_weight_that_is_no_number_is_never_saved(tmp_path: Path) -> None:
    """Though no metric has shown it yet. The run then goes on from the state before, to what it would have been."""
    with pytest.raises(
        FdError, match=r"^refine cube fidec: biases.0 of seed 5 is NaN or infinite after step 20, allowed: "
    ):
        fit(tmp_path, 20, broken_at=19)
    assert read_tensors(tmp_path / "work" / "state.safetensors")[1]["step"] == 10
    again, whole = fit(tmp_path, 20), fit(tmp_path / "whole", 20)
    for ours, expected in zip(again.parameters(), whole.parameters(), strict=True):
        assert torch.equal(ours, expected)


class OnADevice(torch.Tensor):
    """Numbers that are not on the CPU, as far as `Window` can tell."""

    device = torch.device("meta")  # type: ignore[assignment]


def test_metrics_on_a_device_are_looked_at_with_the_next_row() -> None:
    """A look at every step would stall the queue; the step is named all the same."""
    window = Window((3, 5), "refine cube fidec", 3)
    for step in (1, 2, 3):
        window.add(step, {"q": torch.tensor([1.0, float("nan") if step == 2 else 0.0]).as_subclass(OnADevice)})
    with pytest.raises(FdError, match=r"^refine cube fidec: q of seed 5 is nan in step 2, "):
        window.means()


def test_a_metric_counts_in_the_steps_that_have_it() -> None:
    window = Window((3, 5), "refine cube rebrac", 3)
    for step in (1, 2, 3):
        window.add(step, {"q": torch.tensor([1.0, 2.0]) * step} | ({"mse": torch.ones(2)} if step != 2 else {}))
    assert window.means() == {"q": [2.0, 4.0], "mse": [1.0, 1.0]}
    assert window.means() == {}


def test_a_damaged_state_is_told_with_its_place(tmp_path: Path) -> None:
    fit(tmp_path, 10)
    path = tmp_path / "work" / "state.safetensors"
    path.write_bytes(path.read_bytes()[:-4])
    with pytest.raises(FdError, match=r"state\.safetensors: is damaged or was changed"):
        fit(tmp_path, 20)


FLOW = StackedMLP((2,), (3 + 2 + 1, 8, 2), norm=False, generators=[torch.Generator().manual_seed(s) for s in range(2)])


def test_the_bank_holds_what_the_flow_gives() -> None:
    obs = torch.randn(2000, 3)  # more than one chunk
    noise = draw_noise((0, 1), (2000, 4, 2), CPU)
    actions = draw_actions(FLOW, replay_of(2000, 50, obs=obs), noise, steps=3, solver="euler", label="bank")
    for sample in (0, 3):
        torch.testing.assert_close(
            actions[:, :, sample], base_actions(FLOW, obs.expand(2, -1, -1), noise[:, :, sample], steps=3)
        )
    assert torch.equal(draw_noise((1,), (2000, 4, 2), CPU)[0], noise[1])


def test_a_batch_takes_rows_and_samples_of_its_own_seed() -> None:
    actions, noise = torch.randn(2, 6, 4, 2), torch.randn(2, 6, 4, 2)
    scores = torch.randn(2, 6, 3, 2)
    rows, samples, after = (torch.tensor(values) for values in ([[0, 3], [4, 1]], [[1, 0], [3, 2]], [[2, 2], [0, 1]]))
    found = Bank(actions, noise, scores).gather(rows, samples, after)
    own = Bank(actions, noise, torch.randn(2, 6, 4, 1, 2))  # a score of every action
    of_action = own.gather(rows, samples, after).scores
    assert found.scores is not None and own.scores is not None and of_action is not None
    assert of_action.shape == (2, 2, 1, 2)
    for seed in range(2):
        for i in range(2):
            row, sample, following = (int(values[seed, i]) for values in (rows, samples, after))
            assert torch.equal(found.act[seed, i], actions[seed, row, sample])
            assert torch.equal(found.noise[seed, i], noise[seed, row, sample])
            assert torch.equal(found.next_act[seed, i], actions[seed, row + 1, following])
            assert torch.equal(found.next_noise[seed, i], noise[seed, row + 1, following])
            assert torch.equal(found.scores[seed, i], scores[seed, row])
            assert torch.equal(of_action[seed, i], own.scores[seed, row, sample])


def test_scores_of_the_bank_are_within_the_window_and_of_their_state() -> None:
    obs, actions = torch.randn(5, 3), torch.randn(2, 5, 4, 2).clamp(-1, 1)
    found = draw_scores(
        FLOW, replay_of(5, 5, obs=obs), actions, (0, 1), t_eps=(0.8, 0.8), formula="exact", on_path=True
    )
    x0 = torch.stack([torch.randn(5, 4, 2, generator=generator(seed, "scores", 0)) for seed in (0, 1)])
    t = torch.full((2, 5, 4, 1), 0.8)
    torch.testing.assert_close(found, state_scores(FLOW, obs.expand(2, -1, -1), actions, x0=x0, t=t, formula="exact"))
    found = draw_scores(
        FLOW, replay_of(5, 5, obs=obs), actions, (0, 1), t_eps=(0.8, 0.8), formula="exact", on_path=False
    )
    torch.testing.assert_close(found, state_scores(FLOW, obs.expand(2, -1, -1), actions, x0=None, t=t, formula="exact"))


def test_kept_actions_are_used_for_their_key_only(tmp_path: Path) -> None:
    obs, noise, path = torch.randn(5, 3), torch.randn(2, 5, 4, 2), tmp_path / "banks" / "cube.safetensors"

    def kept(noise: torch.Tensor, key: str) -> torch.Tensor:
        def draw() -> torch.Tensor:
            return draw_actions(FLOW, replay_of(5, 5, obs=obs), noise, steps=3, solver="euler", label="bank")

        return kept_actions(draw, path, key, noise.device)

    first = kept(noise, "a")
    assert torch.equal(kept(torch.zeros_like(noise), "a"), first)
    assert not torch.equal(kept(torch.zeros_like(noise), "b"), first)
    assert torch.equal(kept(noise, "a"), first)


def test_base_actions_used_longest_ago_are_dropped_and_those_in_use_stay(tmp_path: Path) -> None:
    for age, name in enumerate(("new", "used", "old", "older", "oldest")):
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(bytes(100))
        os.utime(path, (1e9 - age, 1e9 - age))
    (tmp_path / "other").write_bytes(bytes(1000))

    def left() -> set[str]:
        return {path.stem for path in tmp_path.glob("*.safetensors")}

    with locked(tmp_path / "oldest.safetensors.lock"):  # another process reads it
        drop_oldest(tmp_path / "new.safetensors", 100, most=500)
        assert left() == {"new", "used", "old", "older", "oldest"}
        drop_oldest(tmp_path / "new.safetensors", 150, most=400)
        assert left() == {"new", "used", "oldest"}
    drop_oldest(tmp_path / "new.safetensors", 10**6, most=400)
    assert left() == {"new"} and (tmp_path / "other").exists()


def test_base_actions_that_are_read_count_as_used(tmp_path: Path) -> None:
    path = tmp_path / "cube.safetensors"
    for _ in range(2):
        kept_actions(lambda: torch.zeros(1), path, "a", torch.device("cpu"))
        assert path.stat().st_mtime > 1e9 + 1
        os.utime(path, (1e9, 1e9))
