"""Films of a run: its last evaluation is replayed, which gives the paths of all episodes in a maze, and two of them are rendered.

A replayed episode has the random numbers of the evaluated one and shares its batch with the same others, so on the same
machine it is the same episode. A film repeats the actions of a replayed episode in a simulator of its own, which renders.
"""

from __future__ import annotations

import io
import os
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import copy
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from fd.errors import FdError
from fd.policy import Policy
from fd.runtime.progress import Progress
from fd.settings.simulation_settings import Evaluate
from fd.simulation.environments import ALLOWED, make_env
from fd.simulation.episodes import Episode, Key, streams
from fd.simulation.evaluation import Subject, load_actor
from fd.simulation.rollout import Rollout
from fd.simulation.workers import Workers, beat, enter
from fd.storage.files import digest, digests, write_record
from fd.storage.transitions import Manifest

SIZE = 240  # pixels on each side of a picture
FRAMES, EACH = 50, 70  # most frames of an animation, and milliseconds of each
STRIP = 6  # frames of a strip
ABOVE = 1.35  # distance of a camera from a maze, in widths of the maze; it sees 0.83 of its distance
LARGEST = 300_000  # bytes of a file of pictures
QUALITIES = (
    75,
    50,
    25,
    0,
)  # of WebP; the first with which a file is not too large, which even noise is not with the last
SPACING = 0.5  # cells of a maze between two points of a path that is kept
RENDERERS = ("egl", "osmesa")  # tried in this order, if MUJOCO_GL names none
RECORD = "film.json"
Job = tuple[int, NDArray[np.float32]]  # an episode: seed of its reset, actions [T, A]
Pictures = tuple[bytes, bytes, int]  # strip, animation, steps from one frame to the next


class Recorder(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Writes each finished episode to `<folder>/<seed of its reset>.npz`: its actions [T, A] and, in a maze, its path [T + 1, 2] and goal."""

    def __init__(self, env: gymnasium.Env[Any, Any], folder: Path) -> None:
        """Wrap an environment."""
        super().__init__(env)
        self._folder, self._maze = folder, maze_of(env) is not None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Start an episode."""
        first = self.env.reset(seed=seed, options=options)
        self._seed, self._actions, self._path = seed, list[Any](), list[Any]()
        self._follow()
        return first

    def step(self, action: NDArray[np.float32]) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take one step; write the episode if it ends."""
        outcome = self.env.step(action)
        self._actions.append(action.copy())
        self._follow()
        if outcome[2] or outcome[3]:
            goal = _goal(self.env) if self._maze else []
            np.savez(self._folder / f"{self._seed}.npz", actions=self._actions, path=self._path, goal=goal)
        return outcome

    def _follow(self) -> None:
        if self._maze:
            self._path.append(_inner(self.env).data.qpos[:2].copy())


def film(
    subject: Subject, evaluated: str, built: Path, settings: Evaluate, *, workers: int, device: torch.device
) -> str | None:
    """Replay the last evaluation of a run and film two of its episodes; see `chosen`.

    Args:
        subject: the run.
        evaluated: its table of episodes, to compare.
        built: an empty folder, in which the pictures and their record are written.
        settings: section `evaluate` of the settings, as they were in the evaluation.
        workers: simulator processes.
        device: device of the policies.

    Returns:
        Why there are no pictures, if this machine cannot render.

    Raises:
        FdError: an environment or a policy fails.
    """
    manifest, episodes = subject.manifest, built.with_name("episodes")
    episodes.mkdir()
    policy = Policy.load(subject.run)
    rows = _replay(subject, settings, policy, episodes, workers=workers, device=device)
    known = {line.rsplit(",", 1)[0] for line in evaluated.splitlines()}  # without the score
    differ = [row for row in rows if ",".join(map(repr, _outcome(row))) not in known]
    env = make_env(manifest, frame_stack=policy.spec.frame_stack)
    maze = maze_of(env)
    env.close()
    kinds = chosen(rows, manifest)
    jobs = {kind: (_seed(row), _recorded(episodes, row)["actions"]) for kind, row in kinds.items()}
    name, stack = f"film {subject.task} {subject.method}", policy.spec.frame_stack
    told, renderer, reason = rendered(name, manifest, stack, jobs, settings.timeout)
    for kind, (strip, animation, _) in told.items():
        (built / f"{kind}-strip.webp").write_bytes(strip)
        (built / f"{kind}.webp").write_bytes(animation)
    shots = [
        {"kind": kind, "seed": row.seed, "episode": row.episode, "return_": row.return_, "length": row.length}
        | {"every": told[kind][2] if kind in told else None}
        for kind, row in kinds.items()
    ]
    record: dict[str, Any] = {"task": subject.task, "method": subject.method, "data_sha256": manifest.sha256}
    record |= {"weights": {path.name: digest(path) for path in sorted(subject.run.glob("*.safetensors"))}}
    record |= {"step": policy.step, "episodes": len(rows), "differ": len(differ), "shots": shots, "maze": maze}
    record |= {"paths": [_path(episodes, row, maze) for row in rows] if maze else []}
    record |= {"renderer": renderer, "unrendered": reason, "files": digests(built)}
    write_record(built / RECORD, record)
    shutil.rmtree(episodes)
    return reason


def chosen(episodes: Sequence[Episode], manifest: Manifest) -> dict[str, Episode]:
    """The episodes to film, by kind.

    The first success and the first failure in the order of seeds and episodes; where the return is the score, the
    episodes with the highest and with the lowest return.
    """
    if manifest.score == "return":
        ordered = sorted(episodes, key=lambda row: row.return_)
        return {"highest": ordered[-1], "lowest": ordered[0]}
    found = {row.success: row for row in reversed(episodes)}
    return {kind: found[success] for kind, success in (("success", True), ("failure", False)) if success in found}


def maze_of(env: gymnasium.Env[Any, Any]) -> dict[str, Any] | None:
    """The map of a maze: rows of `walls`, 1 is a wall; x and y of its first cell's centre and of that of the cell diagonally next.

    None if the environment is not a maze.
    """
    inner = _inner(env)
    if hasattr(inner, "maze_map"):  # of OGBench
        walls, centre = inner.maze_map, inner.ij_to_xy
    elif hasattr(inner, "maze"):  # of gymnasium-robotics
        walls, centre = inner.maze.maze_map, inner.maze.cell_rowcol_to_xy
    else:
        return None
    first, following = ([float(value) for value in centre(np.array(cell))] for cell in ((0, 0), (1, 1)))
    return {"walls": [[int(cell == 1) for cell in row] for row in walls], "first": first, "next": following}


def rendered(
    name: str, manifest: Manifest, frame_stack: int, jobs: Mapping[str, Job], timeout: float
) -> tuple[dict[str, Pictures], str | None, str | None]:
    """Pictures of episodes; the renderer; or why there is none.

    A renderer is loaded once in a process and may end it: each is tried in a process of its own.
    """
    reason = None
    for renderer in [value] if (value := os.environ.get("MUJOCO_GL", "").strip()) else RENDERERS:
        try:
            pool = Workers(name, filmer, [(manifest, frame_stack, renderer)], timeout=timeout)
        except FdError as error:
            reason = f"{reason}; {error}" if reason else str(error)
            continue
        with pool:
            return dict(zip(jobs, pool.do([(job, 1) for job in jobs.values()]), strict=True)), renderer, None
    return {}, None, f"{reason} (allowed in MUJOCO_GL: {ALLOWED})"


def filmer(manifest: Manifest, frame_stack: int, renderer: str) -> Callable[[Job], Iterator[Pictures]]:
    """In a process of its own: load mujoco with a renderer; return what films an episode."""
    enter(f"the renderer {renderer}")
    os.environ["MUJOCO_GL"] = renderer
    os.environ.pop("PYOPENGL_PLATFORM", None)  # mujoco sets it, and refuses another value
    import mujoco

    mujoco.Renderer(mujoco.MjModel.from_xml_string("<mujoco/>"), 1, 1).close()

    def serve(job: Job) -> Iterator[Pictures]:
        seed, actions = job
        enter("an episode being filmed")
        env = make_env(manifest, frame_stack=frame_stack)
        env.reset(seed=seed)
        inner, every = _inner(env), -(-len(actions) // (FRAMES - 1))
        size = inner.model.vis.global_
        size.offwidth, size.offheight = max(SIZE, size.offwidth), max(SIZE, size.offheight)
        scene, camera, frames = mujoco.Renderer(inner.model, SIZE, SIZE), _camera(env, mujoco), list[Image.Image]()
        for step, action in enumerate([None, *actions]):
            beat()
            ended = action is not None and any(env.step(action)[2:4])
            if step % every == 0 or step == len(actions):
                shown = copy(inner.data)  # controllers read positions of the step before, which must stay
                mujoco.mj_kinematics(inner.model, shown)  # wrappers move the mark of a goal after a reset
                scene.update_scene(shown, camera)
                frames.append(Image.fromarray(scene.render()))
        scene.close()
        env.close()
        if not ended:
            raise FdError(f"the episode of seed {seed} did not end with its last action, as it did before")
        yield webp([strip(frames)]), webp(frames), every

    return serve


def strip(frames: Sequence[Image.Image]) -> Image.Image:
    """Some frames at equal distances, the first and the last among them, beside each other."""
    some = [frames[round(place)] for place in np.linspace(0, len(frames) - 1, STRIP)]
    whole = Image.new("RGB", (sum(frame.width for frame in some), frames[0].height))
    for place, frame in enumerate(some):
        whole.paste(frame, (place * frame.width, 0))
    return whole


def webp(frames: Sequence[Image.Image]) -> bytes:
    """A picture, or an animation of several, of at most LARGEST bytes."""
    for quality in QUALITIES:
        file = io.BytesIO()
        several: dict[str, Any] = {"save_all": True, "append_images": frames[1:], "duration": EACH, "loop": 0}
        frames[0].save(file, "WEBP", quality=quality, **several if len(frames) > 1 else {})
        if len(file.getvalue()) <= LARGEST:
            break
    return file.getvalue()


def _replay(
    subject: Subject, settings: Evaluate, policy: Policy, folder: Path, *, workers: int, device: torch.device
) -> list[Episode]:
    """The episodes of the last evaluation again, in the same batches; a file each in the folder."""
    manifest, seeds = subject.manifest, policy.seeds
    pool = Rollout(
        partial(_recording, manifest, policy.spec.frame_stack, folder), partial(load_actor, subject, device),
        name=subject.task, seeds=seeds, obs_shape=policy.spec.obs_shape, act_dim=manifest.act_dim,
        noise_dim=subject.acting.best_of * manifest.act_dim, environments=settings.environments,
        workers=min(workers, -(-settings.episodes // -(-settings.environments // len(seeds)))), timeout=settings.timeout,
    )  # fmt: skip
    label, count = f"film {subject.task} {subject.method}", settings.episodes * len(seeds)
    with pool, Progress(count, label, unit="episodes") as progress:
        found = pool.run([policy.step], episodes=settings.episodes, on_episode=lambda _: progress.advance(1))
        return [row for _, rows in found for row in rows]


def _recording(manifest: Manifest, frame_stack: int, folder: Path) -> Recorder:
    return Recorder(make_env(manifest, frame_stack=frame_stack), folder)


def _recorded(folder: Path, row: Episode) -> dict[str, NDArray[Any]]:
    with np.load(folder / f"{_seed(row)}.npz", allow_pickle=False) as file:
        return dict(file)


def _path(folder: Path, row: Episode, maze: dict[str, Any]) -> dict[str, Any]:
    """An episode in a maze, for a figure: a point wherever it is SPACING away from the last one, and the end."""
    told, spacing = _recorded(folder, row), SPACING * abs(maze["next"][0] - maze["first"][0])
    points = [told["path"][0]]
    for point in told["path"]:
        if np.linalg.norm(point - points[-1]) >= spacing:
            points.append(point)
    points.append(told["path"][-1])
    return {"success": row.success, "goal": told["goal"].round(3).tolist(), "points": np.round(points, 3).tolist()}


def _seed(row: Episode) -> int:
    """Seed of the simulator in an episode."""
    return streams(Key(row.seed, row.step, row.episode))[0]


def _outcome(row: Episode) -> tuple[float, ...]:
    return row.seed, row.step, row.episode, row.return_, int(row.success), row.length


def _inner(env: gymnasium.Env[Any, Any]) -> Any:
    return env.unwrapped


def _goal(env: gymnasium.Env[Any, Any]) -> Any:
    inner = _inner(env)
    return inner.cur_goal_xy if hasattr(inner, "cur_goal_xy") else inner.goal


def _camera(env: gymnasium.Env[Any, Any], mujoco: Any) -> Any:
    """OGBench's own in front of a table, one above a maze, else that of gymnasium unless the default is nearer."""
    inner = _inner(env)
    if "front" in [inner.model.camera(place).name for place in range(inner.model.ncam)]:
        return "front"
    camera = mujoco.MjvCamera()
    mujoco.mjv_defaultFreeCamera(inner.model, camera)
    if maze := maze_of(env):
        first, shape = np.array(maze["first"]), np.array([len(maze["walls"][0]), len(maze["walls"])])
        cell = np.array(maze["next"]) - first
        camera.lookat[:2], camera.distance = first + (shape - 1) / 2 * cell, ABOVE * (shape * abs(cell)).max()
        camera.azimuth, camera.elevation = 90, -90
    else:
        camera.lookat[:] = np.median(inner.data.geom_xpos, axis=0)
        own = inner.mujoco_renderer.default_cam_config or {}
        for name, value in own.items():
            setattr(camera, name, min(value, camera.distance) if name == "distance" else value)
    return camera
