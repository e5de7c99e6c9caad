"""Section `refine` of params.yaml, the switches of a method's training, and the agent that both define."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, model_validator

from fd.method.bounds import Positive, Within
from fd.method.spec import DeterministicSwitches, FlowSwitches, Hyperparameters, ResidualSwitches, Spec, Switches
from fd.settings.fields import Strict
from fd.settings.settings_file import SettingsFile
from fd.settings.training_settings import Evaluated, Network


class Refine(Evaluated, Hyperparameters):
    """Critic and policy refinement."""

    bank: Annotated[int, Within(ge=0, le=1024)]  # base actions kept per state; 0: drawn afresh at every step
    bank_memory: Positive  # GiB that the bank may take on the training device; if larger, base actions are drawn afresh
    keep_state: bool  # keep the last networks and their optimiser in the run, for online fine-tuning


class FlowPolicy(Strict, FlowSwitches):
    """The behaviour flow's own actions. `critic`: none, or IQL's, for the best of several actions."""

    policy: Literal["flow"]
    critic: Literal["none", "expectile"]


class OneStepPolicy(Strict, FlowSwitches):
    """FQL: a one-step policy, distilled from the flow."""

    policy: Literal["onestep"]


class ResidualPolicy(Strict, ResidualSwitches):
    """The local transport map T(a) = a + delta(s, a) under a penalty on delta."""

    policy: Literal["residual"]

    @model_validator(mode="after")
    def _window(self) -> ResidualPolicy:
        if self.t_eps[0] > self.t_eps[1]:
            raise ValueError(f"t_eps: {list(self.t_eps)} is not a window [low, high] with low <= high")
        return self

    @model_validator(mode="after")
    def _true_score(self) -> ResidualPolicy:
        if self.metric == "stein" and self.normalise == "state":
            raise ValueError(
                "normalise: 'state', but the metric 'stein' has no Fisher matrix of a state (allowed: none, batch)"
            )
        if self.metric in ("curvature", "stein") and self.score == "velocity":
            raise ValueError(f"score: 'velocity', but the metric {self.metric!r} needs a true score (allowed: exact)")
        return self

    @model_validator(mode="after")
    def _desmooth(self) -> ResidualPolicy:
        if not self.desmooth or self.metric == "curvature":
            return self
        if self.metric != "state":
            raise ValueError(
                f"desmooth: true, but the metric {self.metric!r} has no Fisher matrix of a state (allowed: false)"
            )
        if self.fisher_samples < 2:
            raise ValueError(
                "desmooth: true, but the Fisher matrix of one score has no inverse (allowed: fisher_samples: 2 or more)"
            )
        if self.score == "velocity":
            raise ValueError("desmooth: true, but score 'velocity' gives no true scores (allowed: false)")
        if self.t_eps[0] < self.t_eps[1]:
            raise ValueError(f"desmooth: true, but t_eps: {list(self.t_eps)} is not a single time (allowed: false)")
        return self


class GaussianPolicy(Strict, Switches):
    """IQL: a Gaussian policy of unit variance, extracted from a critic that is trained only on the data's actions."""

    policy: Literal["gaussian"]
    critic: Literal["expectile"]
    extraction: Literal["awr", "ddpgbc"]


class DeterministicPolicy(Strict, DeterministicSwitches):
    """ReBRAC: a deterministic policy, penalised by its distance to the data's actions."""

    policy: Literal["deterministic"]


Train = Annotated[
    FlowPolicy | OneStepPolicy | ResidualPolicy | GaussianPolicy | DeterministicPolicy, Field(discriminator="policy")
]
TRAIN: TypeAdapter[Train] = TypeAdapter(Train)


def spec_of(settings: SettingsFile, task: str, method: str, *, obs_shape: Sequence[int], act_dim: int) -> Spec:
    """The agent that a method trains on a task; FdError when there is no such task or method.

    Args:
        settings: the file.
        task, method: names.
        obs_shape: of an observation as the networks see it.
        act_dim: of an action.
    """
    sections = (
        settings.section(Network, "network", task),
        settings.section(Refine, "refine", task, method),
        settings.part(TRAIN, "methods", method, "train"),
    )
    return Spec.of(*(section.model_dump() for section in sections), {"obs_shape": obs_shape, "act_dim": act_dim})
