"""params.yaml as strict, frozen models: the one place where hyperparameters are read and checked.

Every key must be known, of the right type and in range; a violation is one line that names its path in the file, the value and
what is allowed. Nothing here has a default: the file is the whole truth, so that what DVC tracks is what runs.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator
from pydantic_core import ErrorDetails

from fd.errors import FdError
from fd.storage.untrusted import read_text, read_yaml

Slug = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9-]*$", max_length=64)]
DatasetName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]
DatasetId = Annotated[
    str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*(/[A-Za-z0-9][A-Za-z0-9_-]*)*-v[0-9]+$")
]
# Not AntMaze v5: its observation has 105 numbers where D4RL has 27. Facts of these simulators: fd.robotics.
RobotEnvironment = Annotated[
    str,
    StringConstraints(
        pattern=r"^(AntMaze_[A-Za-z_]+-v4|PointMaze_[A-Za-z_]+-v3|AdroitHand(Door|Hammer|Pen|Relocate)-v1)$"
    ),
]
Folder = Annotated[  # no part of it is `..`
    str, StringConstraints(pattern=r"^/?(\.?[^/.\x00-\x1f][^/\x00-\x1f]*/?)+$", max_length=1024)
]
Line = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f]+$", max_length=300)]
Count = Annotated[int, Field(ge=1, le=10**9)]
Rows = Annotated[int, Field(ge=1, le=10**6)]  # of episodes, or steps of one: what a table or an episode can hold
Seed = Annotated[int, Field(ge=0, lt=2**31)]
Positive = Annotated[float, Field(gt=0, lt=float("inf"))]
Rate = Annotated[float, Field(gt=0, le=1e30)]  # ten times which, Adam's first step, is a number in float32
NotNegative = Annotated[float, Field(ge=0, lt=float("inf"))]
Share = Annotated[float, Field(gt=0, lt=1)]
Cell = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]

MOST_ROWS = 10**5  # of a training log, and steps of one of its rows

Behaviour = Literal["frozen", "joint"]  # frozen: the pretrained flow; joint: trained along by the same optimiser

S = TypeVar("S")
T = TypeVar("T")


class Strict(BaseModel):
    """A section of params.yaml: unknown keys and wrong types are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    @model_validator(mode="before")
    @classmethod
    def _known_keys(cls, raw: Any) -> Any:
        unknown = [key for key in raw if key not in cls.model_fields] if isinstance(raw, dict) else []
        if unknown:
            raise ValueError(f"unknown key {unknown[0]!r}, allowed: {', '.join(cls.model_fields)}")
        return raw


def _each_once(section: S, key: str, items: Collection[Any]) -> S:
    """The section, whose key holds different items; ValueError when one stands twice."""
    twice = [item for item, times in Counter(items).items() if times > 1]
    if twice:
        raise ValueError(f"{key}: {twice[0]!r} stands twice, allowed: each once")
    return section


def _bounded_log(steps: int, log_every: int) -> None:
    """ValueError when a training log has too many rows, or one of its rows stands for too many steps."""
    if steps // log_every > MOST_ROWS or log_every > MOST_ROWS:
        raise ValueError(f"log_every: {log_every}, allowed: up to {MOST_ROWS}, and as many rows in {steps} steps")


def _no_schedule(place: str, overrides: Collection[str]) -> None:
    """ValueError when a method's overrides of the section `refine` change its schedule."""
    schedule = [key for key in ("steps", "evaluate_every", "log_every") if key in overrides]
    if schedule:
        raise ValueError(
            f"{place}.{schedule[0]}: all methods of a task share one schedule, allowed: other keys of refine"
        )


class OgbenchData(Strict):
    """The published OGBench set of a single task, e.g. `cube-single-play-singletask-task1-v0`."""

    source: Literal["ogbench"]
    dataset: DatasetName


class Maze(Strict):
    """Cells (row, column) of a maze between which a policy is evaluated."""

    start: Cell
    goal: Cell


class RobotData(Strict):
    """What sets of gymnasium-robotics' environments have in common."""

    dataset: DatasetId
    environment: RobotEnvironment  # that the set was made with; evaluation takes place in it
    observation: tuple[str, ...]  # keys of a dict observation to concatenate, [] when it is flat
    reward: Literal["sparse", "dense"]  # sparse: reward - 1, and a success ends the bootstrap
    cut_at_success: bool  # leave out what follows the first success of an episode
    maze: Maze | None  # null: the marks of the set's own maze, or no maze
    horizon: Rows  # steps of an evaluation episode, whatever the data's are
    score: Literal["success", "return"]
    return_range: tuple[float, float] | None  # returns of score 0 and 100; null: the set's own
    differs: Line | None  # in what from the set of the papers, for the reader of a report

    @model_validator(mode="after")
    def _meaning(self) -> RobotData:
        if self.cut_at_success and self.reward == "dense":
            raise ValueError("cut_at_success: true, but dense rewards mark no success (allowed: false)")
        if self.return_range is not None and self.score != "return":
            raise ValueError(f"return_range: {list(self.return_range)}, but score is {self.score!r} (allowed: null)")
        if self.return_range is not None and not -math.inf < self.return_range[0] < self.return_range[1] < math.inf:
            raise ValueError(f"return_range: {list(self.return_range)}, allowed: [low, high] with low < high")
        return self


class MinariData(RobotData):
    """A published Minari set."""

    source: Literal["minari"]


class D4rlData(RobotData):
    """A published HDF5 file of D4RL. Cells of its mazes are those of D4RL's own maps."""

    source: Literal["d4rl"]
    folder: Folder  # that holds the file; ~ is the home
    file: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*\.hdf5$", max_length=255)]

    @model_validator(mode="after")
    def _references(self) -> D4rlData:
        if self.score == "return" and self.return_range is None:
            raise ValueError("return_range: null, but a file of D4RL names no references (allowed: [low, high])")
        return self


class OracleData(Strict):
    """An OGBench set regenerated with the oracles that the ogbench package ships."""

    source: Literal["generate"]
    collector: Literal["play", "navigate"]
    dataset: DatasetName
    steps: Rows  # of an episode; the published sets have 1000
    episodes: Rows
    validation_episodes: Rows
    seed: Seed


class WaypointData(Strict):
    """A Minari PointMaze set collected with a noisy waypoint controller, relabelled to one goal."""

    source: Literal["generate"]
    collector: Literal["waypoint"]
    dataset: DatasetId
    environment: Annotated[str, StringConstraints(pattern=r"^PointMaze_[A-Za-z_]+-v3$")]
    start: Cell  # (row, column) of the maze where evaluation starts
    goal: Cell  # (row, column) of the goal
    horizon: Rows  # steps of an episode, in the data and in evaluation
    episodes: Rows
    action_noise: Annotated[float, Field(ge=0, le=5)]  # standard deviation, in units of the action
    seed: Seed
    observation: tuple[str, ...]
    reward: Literal["sparse"]


GenerateData = Annotated[OracleData | WaypointData, Field(discriminator="collector")]
Data = Annotated[OgbenchData | MinariData | D4rlData | GenerateData, Field(discriminator="source")]


class Network(Strict):
    """Shape of every network (flow, residual or one-step policy, critics), and what image observations go through before."""

    hidden: Annotated[tuple[Annotated[int, Field(ge=1, le=8192)], ...], Field(min_length=1, max_length=8)]
    encoder: Annotated[
        tuple[Annotated[int, Field(ge=1, le=512)], ...], Field(max_length=8)
    ]  # features of IMPALA's stacks
    frame_stack: Annotated[int, Field(ge=1, le=16)]  # images that are an observation together
    augmentation: Annotated[float, Field(ge=0, le=1)]  # probability that a batch's images are cropped at random

    @model_validator(mode="after")
    def _images(self) -> Network:
        if not self.encoder and (self.frame_stack > 1 or self.augmentation > 0):
            key, value = (
                ("frame_stack", self.frame_stack) if self.frame_stack > 1 else ("augmentation", self.augmentation)
            )
            raise ValueError(
                f"{key}: {value} is of images, but encoder: [] takes vectors (allowed: {int(key == 'frame_stack')})"
            )
        return self

    def observed(self, obs_shape: Sequence[int], place: str) -> tuple[int, ...]:
        """Shape of an observation as the networks see it, its images stacked, from that of the data.

        Raises:
            FdError: images without an encoder, or vectors with one; `place` is named.
        """
        if (len(obs_shape) == 3) != bool(self.encoder):
            kind, allowed = ("images", "[16, 32, 32], say") if len(obs_shape) == 3 else ("vectors", "[]")
            raise FdError(
                f"{place}.network.encoder: {list(self.encoder)}, but the data hold {kind} (allowed: {allowed})"
            )
        return (*obs_shape[:-1], obs_shape[-1] * self.frame_stack)


class Pretrain(Strict):
    """Flow matching of the behaviour policy."""

    steps: Count
    batch_size: Count
    learning_rate: Rate
    log_every: Count

    @model_validator(mode="after")
    def _whole_chunks(self) -> Pretrain:
        if self.steps % self.log_every:
            raise ValueError(f"steps: {self.steps} is not a multiple of log_every: {self.log_every}")
        _bounded_log(self.steps, self.log_every)
        return self


class Evaluated(Strict):
    """Training whose policies are evaluated as it goes."""

    steps: Count
    batch_size: Count
    evaluate_every: Count
    log_every: Count

    @model_validator(mode="after")
    def _whole_chunks(self) -> Evaluated:
        if self.evaluate_every % self.log_every:
            raise ValueError(f"evaluate_every: {self.evaluate_every} is not a multiple of log_every: {self.log_every}")
        if self.steps % self.evaluate_every:
            raise ValueError(f"steps: {self.steps} is not a multiple of evaluate_every: {self.evaluate_every}")
        _bounded_log(self.steps, self.log_every)
        return self


class Refine(Evaluated):
    """Critic and policy refinement."""

    learning_rate: Rate
    discount: Annotated[float, Field(ge=0, lt=1)]
    tau: Annotated[float, Field(gt=0, le=1)]  # Polyak rate of the target critic
    q_agg: Literal["mean", "min"]  # over the two critics, in the target
    normalize_q: bool  # divide the Q term by mean |Q|
    target_divergence: Positive  # budget of the constraint, in units of mean delta^2
    alpha: Positive  # weight of FQL's distillation term
    expectile: Annotated[float, Field(ge=0.5, lt=1)]  # of IQL's and IFQL's value
    iql_alpha: Positive  # IQL's inverse temperature (awr) or weight of behavioural cloning (ddpgbc)
    rebrac_alpha: NotNegative  # ReBRAC's weight of the distance to the data's actions, in the policy's loss
    rebrac_alpha_critic: NotNegative  # the same in the critic's target
    flow_steps: Annotated[int, Field(ge=1, le=1000)]  # of the flow from noise to base action
    flow_solver: Literal["euler", "midpoint"]  # midpoint: two velocities a step
    bank: Annotated[int, Field(ge=0, le=1024)]  # base actions kept for a state; 0: drawn afresh at every step
    bank_memory: Positive  # GiB that the bank may take, on the training device; beyond, base actions are drawn afresh
    keep_state: bool  # keep the last networks and their optimiser in the run, for training that goes on online


class Evaluate(Strict):
    """Episodes in the simulator at every evaluated step."""

    episodes: Rows  # a seed and evaluated step
    environments: Annotated[int, Field(ge=1, le=4096)]  # simulators alive in a process, shared by the seeds
    timeout: Positive  # seconds without progress (a step, say) after which a simulator counts as hung
    final_evaluations: Count  # the score is the mean over the last ones


class Train(Strict):
    """Switches that every policy has."""

    grad_clip: NotNegative  # global norm of one seed's gradient; 0: no clipping


class FlowPolicy(Train):
    """The behaviour flow's own actions. `critic`: none, or IQL's, for the best of several actions."""

    policy: Literal["flow"]
    behaviour: Behaviour
    critic: Literal["none", "expectile"]


class OneStepPolicy(Train):
    """FQL: a one-step policy, distilled from the flow."""

    policy: Literal["onestep"]
    behaviour: Behaviour


class ResidualPolicy(Train):
    """The local transport map T(a) = a + delta(s, a) under a penalty on delta.

    The metric `identity` reads none of score, t_eps, fisher_samples, damping and normalise, and `action` and `stein` no fisher_samples;
    they may stand, so that one switch makes one metric of another.
    """

    policy: Literal["residual"]
    behaviour: Behaviour
    metric: Literal["identity", "action", "state", "stein"]  # of the penalty on delta
    score: Literal["exact", "velocity"]  # (t v - x) / (1 - t), or the official code's v / (1 - t)
    t_eps: tuple[Share, Share]  # window from which t is drawn for the score
    fisher_samples: Annotated[int, Field(ge=1, le=256)]  # K, of the metric `state`
    damping: Annotated[float, Field(ge=0, le=1e3)]
    normalise: Literal["state", "batch", "none"]  # F is divided by its trace / A, of the state or the batch
    desmooth: bool  # undo the smoothing of the path at t_eps
    dual: Literal["learned", "fixed"]
    dual_init: Annotated[float, Field(ge=1e-6, le=1e6)]

    @model_validator(mode="after")
    def _window(self) -> ResidualPolicy:
        if self.t_eps[0] > self.t_eps[1]:
            raise ValueError(f"t_eps: {list(self.t_eps)} is not a window [low, high] with low <= high")
        return self

    @model_validator(mode="after")
    def _stein(self) -> ResidualPolicy:
        if self.metric == "stein" and self.normalise == "state":
            raise ValueError(
                "normalise: 'state', but the metric 'stein' has no Fisher matrix of a state (allowed: none, batch)"
            )
        if self.metric == "stein" and self.score == "velocity":
            raise ValueError("score: 'velocity', but the metric 'stein' rests on a true score (allowed: exact)")
        return self

    @model_validator(mode="after")
    def _desmooth(self) -> ResidualPolicy:
        if self.desmooth and self.metric != "state":
            raise ValueError(
                f"desmooth: true, but the metric {self.metric!r} has no Fisher matrix of a state (allowed: false)"
            )
        if self.desmooth and self.fisher_samples < 2:
            raise ValueError(
                "desmooth: true, but one score spans no Fisher matrix to invert (allowed: fisher_samples: 2 or more)"
            )
        if self.desmooth and self.score == "velocity":
            raise ValueError("desmooth: true, but score 'velocity' gives no true scores to undo (allowed: false)")
        if self.desmooth and self.t_eps[0] < self.t_eps[1]:
            raise ValueError(f"desmooth: true, but t_eps: {list(self.t_eps)} is no single time (allowed: false)")
        return self


class GaussianPolicy(Train):
    """IQL: a Gaussian policy of unit variance, extracted from a critic that knows the data's actions only."""

    policy: Literal["gaussian"]
    critic: Literal["expectile"]
    extraction: Literal["awr", "ddpgbc"]  # advantage-weighted regression, or Q plus behavioural cloning


class DeterministicPolicy(Train):
    """ReBRAC: a deterministic policy, penalised by its distance to the data's actions."""

    policy: Literal["deterministic"]
    target_noise: Annotated[float, Field(ge=0, le=10)]  # standard deviation of the noise on the target policy's actions
    noise_clip: Annotated[float, Field(ge=0, le=10)]  # bound of that noise
    policy_every: Annotated[int, Field(ge=1, le=1000)]  # updates of the critic for one of the policy and the targets


class Act(Strict):
    """How a trained policy acts in evaluation."""

    best_of: Annotated[int, Field(ge=1, le=1024)]  # actions drawn for a state, of which the one of highest Q is taken
    refinements: Annotated[int, Field(ge=1, le=64)]  # times that the residual is applied


class Method(Strict):
    """A method: switches of training, what it overrides in the section `refine`, and how its policy acts."""

    train: Annotated[
        FlowPolicy | OneStepPolicy | ResidualPolicy | GaussianPolicy | DeterministicPolicy,
        Field(discriminator="policy"),
    ]
    refine: dict[str, Any]
    act: Act

    @model_validator(mode="after")
    def _meaning(self) -> Method:
        _no_schedule("refine", self.refine)
        policy = self.train.policy
        blind = isinstance(self.train, FlowPolicy) and self.train.critic == "none"
        if self.act.best_of > 1 and (blind or policy in ("gaussian", "deterministic")):
            reason = "has no critic" if blind else "draws no actions"
            raise ValueError(f"act.best_of: {self.act.best_of}, but this method {reason} (allowed: 1)")
        if self.act.refinements > 1 and policy != "residual":
            raise ValueError(
                f"act.refinements: {self.act.refinements} needs policy 'residual', not {policy!r} (allowed: 1)"
            )
        return self


M = TypeVar("M", bound=Strict)


class Task(Strict):
    """A task: its data, what it overrides in the sections of the same name, and what single methods override in `refine` on it."""

    data: Data
    network: dict[str, Any]
    pretrain: dict[str, Any]
    refine: dict[str, Any]
    evaluate: dict[str, Any]
    methods: dict[Slug, dict[str, Any]]

    @model_validator(mode="after")
    def _schedule(self) -> Task:
        for method, overrides in self.methods.items():
            _no_schedule(f"methods.{method}", overrides)
        return self


class Download(Strict):
    """Where published OGBench files are fetched from, first host first, and where they are kept."""

    folder: Folder  # ~ is the home
    mirrors: tuple[Annotated[str, StringConstraints(pattern=r"^https?://\S+$")], ...]
    timeout: Positive  # seconds


class Report(Strict):
    """Statistics of the report."""

    confidence: Share
    bootstrap: Annotated[int, Field(ge=100, le=10**6)]
    seed: Seed


class Regress(Strict):
    """When a drop against the baseline is a regression, and the simulation of what it takes to see one."""

    level: Share
    tolerance: Annotated[float, Field(ge=0, lt=100)]  # points of score
    simulations: Annotated[int, Field(ge=20, le=10**5)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=2, le=1000)], ...], Field(min_length=1)]
    episodes: Annotated[tuple[Annotated[int, Field(ge=1, le=10**5)], ...], Field(min_length=1)]  # of a seed's score


class Ablation(Strict):
    """Methods that differ in one respect. `values`: label of a value of what differs -> method."""

    about: Annotated[str, StringConstraints(min_length=1, max_length=200)]
    values: Annotated[dict[str, Slug], Field(min_length=2)]

    @model_validator(mode="after")
    def _distinct(self) -> Ablation:
        return _each_once(self, "values", self.values.values())


class Finetuning(Evaluated):
    """Training that goes on from the end of `refine`: in every step each seed acts once in its simulator, and is updated."""

    updates: Annotated[int, Field(ge=1, le=1000)]  # a step
    balanced: bool  # half of a batch is of what the seed has met online; else all transitions are drawn alike
    behaviour: Behaviour


class Online(Strict):
    """Tasks and methods whose training goes on online, and the pages that compare its start and its end: name -> tasks."""

    tasks: dict[Slug, Finetuning]
    methods: tuple[Slug, ...]
    pages: dict[Slug, Annotated[tuple[Slug, ...], Field(min_length=1)]]


class TheoryTraining(Strict):
    """How the theory stage trains a stack of networks; the rate falls to zero along half a cosine."""

    hidden: Annotated[tuple[Annotated[int, Field(ge=1, le=8192)], ...], Field(min_length=1, max_length=8)]
    steps: Count
    batch_size: Annotated[int, Field(ge=1, le=4096)]
    learning_rate: Rate


class Theory(Strict):
    """The demonstrations on distributions that are known in closed form."""

    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    flow: TheoryTraining
    refine: TheoryTraining  # critics, policies and displacements
    flow_steps: Annotated[int, Field(ge=1, le=1000)]
    times: Annotated[tuple[Share, ...], Field(min_length=1)]  # at which the optimality gap is trained
    fisher_samples: Annotated[int, Field(ge=8192, le=10**6)]  # K of the optimality gap, the pool of its batches as well
    budget: Positive  # of every refinement of the bandit
    alpha: Positive  # of FQL in the bandit

    @model_validator(mode="after")
    def _distinct(self) -> Theory:
        return _each_once(_each_once(self, "seeds", self.seeds), "times", self.times)


class Compute(Strict):
    """How the machine is used; results do not depend on it beyond rounding, so no stage depends on it."""

    device: Literal["auto", "cpu", "cuda"]
    execution: Literal["auto", "eager", "compiled", "graph", "compiled-graph"]  # of a training step
    tf32: bool  # on a GPU: matrix products with ten bits of mantissa
    deterministic: bool  # on a GPU: the same bytes from run to run; on the CPU they always are
    threads: Annotated[int, Field(ge=1, le=1024)]
    workers: Annotated[int, Field(ge=1, le=1024)]  # simulator processes


class Settings(Strict):
    """The sections of one task after its overrides."""

    network: Network
    pretrain: Pretrain
    refine: Refine
    evaluate: Evaluate


class Params(Strict):
    """The whole file."""

    suite: Slug
    seeds: Annotated[tuple[Seed, ...], Field(min_length=1)]
    tasks: Annotated[dict[Slug, Task], Field(min_length=1)]
    methods: Annotated[dict[Slug, Method], Field(min_length=1)]
    ablations: dict[Slug, Ablation]
    online: Online
    network: Network
    pretrain: Pretrain
    refine: Refine
    evaluate: Evaluate
    download: Download
    report: Report
    regress: Regress
    theory: Theory
    compute: Compute

    def task(self, name: str) -> Task:
        """The task of that name; FdError when there is none."""
        return _pick("tasks", self.tasks, name)

    def method(self, name: str) -> Method:
        """The method of that name; FdError when there is none."""
        return _pick("methods", self.methods, name)

    def ablation(self, name: str) -> Ablation:
        """The ablation of that name; FdError when there is none."""
        return _pick("ablations", self.ablations, name)

    def finetuning(self, task: str, method: str) -> Finetuning:
        """How the training of a task and method goes on online; FdError when it does not."""
        _pick("online.methods", dict.fromkeys(self.online.methods), method)
        return _pick("online.tasks", self.online.tasks, task)

    def settings(self, task: str, method: str | None = None) -> Settings:
        """The sections `network`, `pretrain`, `refine` and `evaluate` with the overrides of a task, of a method, then of both, applied."""
        overrides = self.task(task).model_dump(include=set(Settings.model_fields))
        merged = {name: getattr(self, name).model_dump() | overrides[name] for name in Settings.model_fields}
        if method is None:
            return _validate(Settings, _tuples(merged), f"tasks.{task}.")
        merged["refine"] |= self.method(method).refine | self.task(task).methods.get(method, {})
        return _validate(Settings, _tuples(merged), f"tasks.{task} with methods.{method}.")

    @model_validator(mode="after")
    def _consistent(self) -> Params:
        _each_once(self, "seeds", self.seeds)
        for name, ablation in self.ablations.items():
            for label, method in ablation.values.items():
                if method not in self.methods:
                    raise ValueError(
                        f"ablations.{name}.values.{label}: {method!r} does not exist, allowed: {', '.join(self.methods)}"
                    )
        for task in self.tasks:
            self.settings(task)
            for method in self.tasks[task].methods:
                if method not in self.methods:
                    raise ValueError(
                        f"tasks.{task}.methods: {method!r} does not exist, allowed: {', '.join(self.methods)}"
                    )
            for method in self.methods:
                self._check_cell(task, method)
        self._check_online()
        return self

    def _check_online(self) -> None:
        online, pages = self.online, self.online.pages.items()
        _each_once(online, "online.methods", online.methods)
        named: list[tuple[str, str, Collection[str]]] = [("tasks", task, self.tasks) for task in online.tasks]
        named += [("methods", method, self.methods) for method in online.methods]
        named += [(f"pages.{name}", task, online.tasks) for name, tasks in pages for task in tasks]
        for place, name, known in named:
            if name not in known:
                raise ValueError(f"online.{place}: {name!r} does not exist, allowed: {', '.join(known) or 'none yet'}")
        for method in online.methods:
            _check_explorer(method, self.methods[method])
        for task, method in itertools.product(online.tasks, online.methods):
            refine, every = self.settings(task, method).refine, online.tasks[task].evaluate_every
            if not refine.keep_state:
                raise ValueError(
                    f"online.tasks.{task}: goes on from a state that refine.keep_state: false drops (allowed: true)"
                )
            if refine.steps % every:
                raise ValueError(
                    f"online.tasks.{task}.evaluate_every: {every} does not divide refine.steps: {refine.steps}"
                )

    def _check_cell(self, task: str, method: str) -> None:
        settings, train = self.settings(task, method), self.methods[method].train
        refine, final = settings.refine, settings.evaluate.final_evaluations
        evaluations = refine.steps // refine.evaluate_every
        if evaluations < final:
            raise ValueError(
                f"tasks.{task}.refine: {evaluations} evaluations in {refine.steps} steps, but"
                f" evaluate.final_evaluations needs {final}"
            )
        if getattr(train, "behaviour", "frozen") == "joint" and refine.bank:
            raise ValueError(
                f"methods.{method}: behaviour 'joint' moves the flow, whose actions a bank would keep as they were"
                f" (refine.bank: {refine.bank}, allowed with joint: methods.{method}.refine.bank: 0)"
            )
        if not isinstance(train, ResidualPolicy) or train.metric != "state":
            return
        if train.desmooth and not refine.bank:
            raise ValueError(
                f"methods.{method}.train.desmooth: true needs a bank, for it is done once a state"
                f" (tasks.{task}: refine.bank: 0, allowed: 1 or more)"
            )
        if 0 < refine.bank < train.fisher_samples:
            raise ValueError(
                f"tasks.{task}: refine.bank: {refine.bank} base actions a state are fewer than"
                f" methods.{method}.train.fisher_samples: {train.fisher_samples} (allowed: as many or more, or 0)"
            )


def _check_explorer(name: str, method: Method) -> None:
    """ValueError when a method cannot go on online."""
    train = method.train
    if train.policy in ("gaussian", "deterministic"):
        raise ValueError(
            f"online.methods: {name!r} acts by a mean and would explore nothing (allowed: policies flow, onestep, residual)"
        )
    if isinstance(train, FlowPolicy) and train.critic == "none":
        raise ValueError(f"online.methods: {name!r} learns nothing of rewards (allowed: methods with a critic)")
    if isinstance(train, ResidualPolicy) and train.desmooth:
        raise ValueError(f"online.methods: {name!r} needs a bank, new states have none (allowed: desmooth: false)")


def load(path: Path) -> Params:
    """Params of a file.

    Raises:
        FdError: the file cannot be read, is not YAML, or breaks a rule of the models above.
    """
    return parse(read_text(path), path)


def parse(text: str, path: Path) -> Params:
    """Params of the text of a file, which messages call `path`.

    Raises:
        FdError: the text is not YAML, or breaks a rule of the models above.
    """
    raw = read_yaml(text, str(path))
    if not isinstance(raw, dict):
        raise FdError(f"{path}: holds {type(raw).__name__}, allowed: a mapping of sections")
    return _validate(Params, _tuples(raw), f"{path}: ")


def _pick(section: str, mapping: dict[str, T], name: str) -> T:
    if name not in mapping:
        raise FdError(f"{section}: {name!r} does not exist, allowed: {', '.join(mapping) or 'none yet'}")
    return mapping[name]


def _validate(model: type[M], raw: dict[str, Any], place: str) -> M:
    try:
        return model.model_validate(raw)
    except ValidationError as error:
        first, *others = error.errors(include_url=False)
        absent = [
            str(e["loc"][-1])
            for e in others
            if e["type"] == "missing" == first["type"] and e["loc"][:-1] == first["loc"][:-1]
        ]
        raise FdError(place + _told(first) + "".join(f", {key} too" for key in absent)) from None


def _told(error: ErrorDetails) -> str:
    """One line on a violation: its path in the file, the value, what is allowed."""
    # Of the unions, not keys of the file.
    tags = {"generate", "ogbench", "minari", "d4rl", "play", "navigate", "waypoint"}
    tags |= {"flow", "onestep", "residual", "gaussian", "deterministic"}
    of_unions = ("data", "generate", "train")
    pairs = itertools.pairwise(("", *error["loc"]))
    keys = [str(key) for before, key in pairs if key != "[key]" and not (before in of_unions and key in tags)]
    kind, context = error["type"], error.get("ctx", {})
    message = error["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if kind == "missing":
        message = "is missing"
    elif kind == "union_tag_not_found":
        message = f"the key {context['discriminator']} is missing"
    elif kind == "union_tag_invalid":
        keys.append(str(context["discriminator"]).strip("'"))
        message = f"{context['tag']!r}, allowed: {context['expected_tags']}"
    elif kind != "value_error":
        message = message.split(" after validation")[0].split("should have ")[-1].replace("String should", "text to")
        message = f"{_shown(error['input'])}, allowed: {_SHAPES.get(kind, message)}"
    return ": ".join(part for part in (".".join(keys), message[:400]) if part)


_SHAPES = {
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "float_type": "a number (with a dot and no quotes, as in 3.0e-4)",
    "int_type": "a whole number",
    "bool_type": "true or false",
    "string_type": "text",
}


def _shown(value: Any) -> str:
    """A value as the file has it, cut where it is long."""
    shown = repr(list(value) if isinstance(value, tuple) else value)
    return shown if len(shown) <= 80 else f"{shown[:77]}..."


def _tuples(value: Any) -> Any:
    """The value with every list as a tuple, which strict models ask for."""
    if isinstance(value, dict):
        return {key: _tuples(item) for key, item in value.items()}
    return tuple(_tuples(item) for item in value) if isinstance(value, list) else value
