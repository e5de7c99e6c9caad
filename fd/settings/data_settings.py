"""Settings of data in params.yaml: the data of a task, and section `download`."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import AfterValidator, Field, TypeAdapter, model_validator

from fd.method.bounds import Positive, Within
from fd.settings.fields import Form, Rows, Seed, Strict

_NAME = "[A-Za-z0-9][A-Za-z0-9_-]*"
DatasetName = Annotated[str, Form(f"^{_NAME}$", "letters, digits, - and _, like cube-single-play-singletask-task1-v0")]
DatasetId = Annotated[
    str, Form(f"^{_NAME}(/{_NAME})*-v[0-9]+$", "letters, digits, -, _ and /, with a version, like D4RL/pen/human-v2")
]
# Not AntMaze v5: its observation has 105 numbers, that of D4RL has 27. Facts of these simulators: fd.wrappers.
RobotEnvironment = Annotated[
    str,
    Form(
        r"^(AntMaze_[A-Za-z_]+-v4|PointMaze_[A-Za-z_]+-v3|AdroitHand(Door|Hammer|Pen|Relocate)-v1|Pusher-v5)$",
        "AntMaze_…-v4, PointMaze_…-v3 or AdroitHand…-v1, a task of D4RL, or Pusher-v5",
    ),
]
Folder = Annotated[
    str,
    Form(r"^[^\x00-\x1f]+$", "a folder: absolute, in the home folder (~/…) or relative to the project", longest=1024),
]
Line = Annotated[str, Form(r"^[^\x00-\x1f]+$", "one line of text", longest=300)]
Cell = tuple[Annotated[int, Within(ge=0)], Annotated[int, Within(ge=0)]]


def _ascending(bounds: tuple[float, float]) -> tuple[float, float]:
    """The bounds; ValueError unless they are finite and the first is the lower one."""
    if not -math.inf < bounds[0] < bounds[1] < math.inf:
        raise ValueError(f"{list(bounds)}, allowed: [low, high] with low < high")
    return bounds


ReturnRange = Annotated[tuple[float, float], AfterValidator(_ascending)]  # returns of score 0 and of score 100


class OgbenchData(Strict):
    """The published OGBench set of a single task, e.g. `cube-single-play-singletask-task1-v0`."""

    source: Literal["ogbench"]
    dataset: DatasetName


class Maze(Strict):
    """Cells (row, column) of a maze between which a policy is evaluated."""

    start: Cell
    goal: Cell


class RobotData(Strict):
    """Settings that all data sets of gymnasium-robotics' environments share."""

    dataset: DatasetId
    environment: RobotEnvironment  # in which the set was made and policies are evaluated
    observation: tuple[str, ...]  # keys of a dict observation to concatenate, [] when it is flat
    reward: Literal["sparse", "dense"]  # sparse: reward - 1, and a success ends the bootstrap
    cut_at_success: bool  # drop the steps after the first success of an episode
    maze: Maze | None  # null: the marks of the set's own maze, or no maze
    horizon: Rows  # steps of an evaluation episode, independent of the data's episodes
    score: Literal["success", "return"]
    return_range: ReturnRange | None  # null: the set's own
    differs: Line | None  # differences from the papers' set, for the reader of a report

    @model_validator(mode="after")
    def _meaning(self) -> RobotData:
        if self.cut_at_success and self.reward == "dense":
            raise ValueError("cut_at_success: true, but dense rewards mark no success (allowed: false)")
        if self.return_range is not None and self.score != "return":
            raise ValueError(f"return_range: {list(self.return_range)}, but score is {self.score!r} (allowed: null)")
        return self


class MinariData(RobotData):
    """A published Minari set."""

    source: Literal["minari"]


class D4rlData(RobotData):
    """An HDF5 file of D4RL, or of its form. Cells of its mazes are those of D4RL's own maps."""

    source: Literal["d4rl"]
    folder: Folder  # of the file; ~ is the home folder
    file: Annotated[
        str,
        Form(
            r"^[A-Za-z0-9][A-Za-z0-9._-]*\.hdf5$",
            "a file name, letters, digits, ., - and _, that ends in .hdf5",
            longest=255,
        ),
    ]

    @model_validator(mode="after")
    def _references(self) -> D4rlData:
        if self.score == "return" and self.return_range is None:
            raise ValueError("return_range: null, but a D4RL file has no reference returns (allowed: [low, high])")
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
    environment: Annotated[str, Form(r"^PointMaze_[A-Za-z_]+-v3$", "PointMaze_…-v3, a maze of gymnasium-robotics")]
    start: Cell  # (row, column) of the maze where evaluation starts
    goal: Cell  # (row, column) of the goal
    horizon: Rows  # steps of an episode, in the data and in evaluation
    episodes: Rows
    action_noise: Annotated[float, Within(ge=0, le=5)]  # standard deviation, in units of the action
    noise_across: Annotated[
        float, Within(ge=0, le=1)
    ]  # factor on the noise across the way, so that the speed varies more
    seed: Seed
    observation: tuple[str, ...]
    reward: Literal["sparse"]


class PushData(Strict):
    """A Minari set of Pusher-v5 collected with a noisy controller: precise where the arm's tip goes, free elsewhere."""

    source: Literal["generate"]
    collector: Literal["push"]
    dataset: DatasetId
    horizon: Rows  # steps of an episode, in the data and in evaluation; the environment's own is 100
    episodes: Rows
    # Standard deviations, in units of the action: of the noise that moves the arm's tip, of that which leaves it there.
    noise_tip: Annotated[float, Within(ge=0, le=5)]
    noise_null: Annotated[float, Within(ge=0, le=5)]
    seed: Seed
    return_range: ReturnRange


GenerateData = Annotated[OracleData | WaypointData | PushData, Field(discriminator="collector")]
Data = Annotated[OgbenchData | MinariData | D4rlData | GenerateData, Field(discriminator="source")]
DATA: TypeAdapter[Data] = TypeAdapter(Data)


class Download(Strict):
    """Where published OGBench files are fetched from, first host first, and where they are kept."""

    folder: Folder  # ~ is the home folder
    mirrors: tuple[Annotated[str, Form(r"^https?://\S+$", "an address that begins with http:// or https://")], ...]
    timeout: Positive  # seconds
