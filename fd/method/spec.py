"""The definition of an agent, as one flat record in the header of every snapshot.

The fields that params.yaml sets are declared only here: `fd.settings` builds its sections from these classes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields
from typing import Annotated, Any, Literal, TypeVar

from fd.errors import FdError
from fd.method.bounds import NotNegative, Positive, Rate, Share, Widths, Within

T = TypeVar("T")

Behaviour = Literal["frozen", "joint"]  # frozen: the pretrained flow; joint: trained with the policy


def off(value: T) -> T:
    """Default of a field of `Spec` for agents without it.

    A factory does not become an attribute of the class, so the sections of params.yaml inherit the field without a default.
    """
    return field(default_factory=lambda: value)


@dataclass(frozen=True, kw_only=True)
class NetworkShape:
    """Shape of every network (flow, residual or one-step policy, critics), and the processing of image observations before it."""

    hidden: Widths
    encoder: Annotated[tuple[Annotated[int, Within(ge=1, le=512)], ...], Within(max_length=8)] = off(())
    # features of IMPALA's stacks; (): observations are vectors
    frame_stack: Annotated[int, Within(ge=1, le=16)] = off(1)  # images per observation
    augmentation: Annotated[float, Within(ge=0, le=1)] = off(0.0)  # probability of cropping a batch's images at random


@dataclass(frozen=True, kw_only=True)
class Hyperparameters:
    """Numbers of the section `refine` that every agent has, whether its method reads them or not."""

    learning_rate: Rate
    discount: Annotated[float, Within(ge=0, lt=1)]
    tau: Annotated[float, Within(gt=0, le=1)]  # Polyak rate of the target critic
    q_agg: Literal["mean", "min"]  # over the two critics, in the target
    normalize_q: bool  # divide the Q term by mean |Q|
    target_divergence: Positive  # budget of the constraint, in units of mean delta^2
    alpha: Positive  # weight of FQL's distillation term
    expectile: Annotated[float, Within(ge=0.5, lt=1)]  # of IQL's and IFQL's value
    iql_alpha: Positive  # IQL's inverse temperature (awr), or its weight of behavioural cloning (ddpgbc)
    rebrac_alpha: NotNegative  # ReBRAC's weight of the distance to the data's actions, in the policy's loss
    rebrac_alpha_critic: NotNegative  # the same in the critic's target
    flow_steps: Annotated[int, Within(ge=1, le=1000)]  # of the flow from noise to base action
    flow_solver: Literal["euler", "midpoint"]  # midpoint: two velocities per step


@dataclass(frozen=True, kw_only=True)
class Switches:
    """Switches of every policy."""

    grad_clip: NotNegative = off(0.0)  # global norm of one seed's gradient; 0: no clipping


@dataclass(frozen=True, kw_only=True)
class FlowSwitches(Switches):
    """Switches of policies that start from a behaviour flow."""

    behaviour: Behaviour = off("frozen")


@dataclass(frozen=True, kw_only=True)
class ResidualSwitches(FlowSwitches):
    """Switches of the policy `residual`.

    The metric `identity` ignores score, t_eps, fisher_samples, damping and normalise; `action`, `curvature` and `stein` ignore
    fisher_samples. They may be set all the same, so that one switch changes the metric.
    """

    metric: Literal["identity", "action", "state", "curvature", "stein"] = off("identity")  # of the penalty on delta
    score: Literal["exact", "velocity"] = off("exact")  # (t v - x) / (1 - t), or the official code's v / (1 - t)
    t_eps: tuple[Share, Share] = off((0.5, 0.5))  # window from which t is drawn for the score
    fisher_samples: Annotated[int, Within(ge=1, le=256)] = off(1)  # K, of the metric `state`
    damping: Annotated[float, Within(ge=0, le=1e3)] = off(0.0)  # added to the diagonal of F
    normalise: Literal["state", "batch", "none"] = off(
        "none"
    )  # F is divided by its trace / A, that of the state or the batch mean
    desmooth: bool = off(False)  # undo the smoothing of the path at t_eps
    dual: Literal["learned", "fixed"] = off("fixed")  # multiplier of the penalty
    dual_init: Annotated[float, Within(ge=1e-6, le=1e6)] = off(1.0)
    dual_rate: Annotated[float, Within(gt=0, le=1e4)] = off(1.0)
    # learning rate of its logarithm, in units of learning_rate; 1: the official code's


@dataclass(frozen=True, kw_only=True)
class DeterministicSwitches(Switches):
    """Switches of the policy `deterministic`."""

    target_noise: Annotated[float, Within(ge=0, le=10)] = off(0.0)  # standard deviation, on the target policy's actions
    noise_clip: Annotated[float, Within(ge=0, le=10)] = off(0.0)  # bound of that noise
    policy_every: Annotated[int, Within(ge=1, le=1000)] = off(1)  # critic updates per update of policy and targets


@dataclass(frozen=True, kw_only=True)
class Spec(NetworkShape, Hyperparameters, ResidualSwitches, DeterministicSwitches):
    """Shapes, switches and hyperparameters of an agent. The settings of a policy allow fewer values of the last three fields."""

    obs_shape: tuple[int, ...]  # of an observation as the networks see it, its images stacked
    act_dim: int
    policy: Literal["flow", "onestep", "residual", "gaussian", "deterministic"]
    critic: Literal["td", "expectile", "none"] = off("td")  # expectile: IQL's
    extraction: Literal["awr", "ddpgbc", "none"] = off("none")  # advantage-weighted regression, or Q plus cloning

    @property
    def acts_by_flow(self) -> bool:
        """Whether the policy integrates the flow when it acts."""
        return self.policy in ("flow", "residual")

    @property
    def acts_by_mean(self) -> bool:
        """Whether the policy has only one action per state, so that none is drawn."""
        return self.policy in ("gaussian", "deterministic")

    @property
    def based(self) -> bool:
        """Whether training needs base actions of the flow."""
        return self.policy in ("residual", "onestep")

    @property
    def state_scores(self) -> bool:
        """Whether training needs the K scores of a state."""
        return self.policy == "residual" and self.metric == "state"

    @property
    def action_scores(self) -> bool:
        """Whether training needs the score, or the curvature, at each base action."""
        return self.policy == "residual" and self.metric in ("action", "curvature", "stein")

    def check_acting(self, best_of: int, refinements: int) -> None:
        """Check that the policy can act with these arguments of `fd.policy.Policy.act`.

        Raises:
            FdError: it cannot.
        """
        if best_of < 1:
            raise FdError(f"best_of: {best_of}, allowed: 1 or more")
        if best_of > 1 and (self.critic == "none" or self.acts_by_mean):
            reason = "has no critic" if self.critic == "none" else "has only one action per state"
            raise FdError(f"best_of: {best_of}, but this policy {reason} (allowed: 1)")
        if refinements != 1 and (self.policy != "residual" or refinements < 1):
            raise FdError(f"refinements: {refinements} with policy {self.policy!r} (allowed: 1; with a residual, more)")

    def check_bank(self, bank: int) -> None:
        """Check that the agent can be trained with a bank of `bank` base actions per state; 0: without a bank.

        Raises:
            FdError: it cannot.
        """
        if self.behaviour == "joint" and bank:
            raise FdError(
                f"bank: {bank}, but behaviour 'joint' trains the flow, and a bank keeps its old actions (allowed: 0)"
            )
        if self.desmooth and self.state_scores and not bank:
            raise FdError(
                "bank: 0, but desmooth: true needs a bank, because it is done once per state (allowed: 1 or more)"
            )
        if self.state_scores and 0 < bank < self.fisher_samples:
            raise FdError(
                f"bank: {bank}, but fisher_samples: {self.fisher_samples} needs as many (allowed: 0, or {self.fisher_samples} or more)"
            )

    def check_exploring(self) -> None:
        """Check that the agent can be fine-tuned online, which needs varied actions.

        Raises:
            FdError: it cannot.
        """
        if self.acts_by_mean:
            raise FdError(
                "always takes its mean action and would explore nothing (allowed: policies flow, onestep, residual)"
            )
        if self.critic == "none":
            raise FdError("learns nothing from rewards (allowed: methods with a critic)")
        if self.desmooth and self.state_scores:
            raise FdError("needs a bank, which new states do not have (allowed: desmooth: false)")

    @classmethod
    def of(cls, *sections: Mapping[str, Any]) -> Spec:
        """Spec from sections that together hold every field without a default; other keys are ignored."""
        merged: dict[str, Any] = {}
        for section in sections:
            merged.update(section)
        values: dict[str, Any] = {
            f.name: merged[f.name] for f in fields(cls) if f.default_factory is MISSING or f.name in merged
        }
        values |= {name: tuple(values[name]) for name in ("obs_shape", "hidden", "encoder", "t_eps") if name in values}
        return cls(**values)

    @classmethod
    def from_record(cls, record: Any, place: str) -> Spec:
        """Spec from the record in a snapshot's header.

        Raises:
            FdError: it is not the record of a Spec; the message names `place`.
        """
        try:
            return cls.of(record)
        except (ValueError, KeyError, TypeError) as error:
            raise FdError(f"{place}: header does not describe an agent: {error}") from None
