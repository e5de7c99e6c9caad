"""Runs episodes of many seeds' policies in worker processes; each worker runs whole batches of episodes alone.

The environments are built once and serve every snapshot. A job is a range of episodes at one snapshot; the next free
worker takes it. All batches have one shape, and their content depends on the job alone: no number in the result depends
on the number of workers.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence

from fd.simulation.episodes import Episode, EpisodeBatch, EpisodeJob, MakeAct, MakeEnv, Simulators
from fd.simulation.workers import Workers


class Rollout(Workers):
    """A pool of worker processes, each with m = ceil(environments / S) simulators for each of S seeds."""

    def __init__(
        self,
        make_env: MakeEnv,
        make_act: MakeAct,
        *,
        name: str,
        seeds: Sequence[int],
        obs_shape: tuple[int, ...],
        noise_dim: int,
        act_dim: int,
        environments: int,
        workers: int,
        timeout: float,
    ) -> None:
        """Start the workers and build every environment.

        Args:
            make_env: picklable. Its environments give flat observations and `info["success"]` at every step, end their
                episodes themselves, and are reproducible by `reset(seed=)`.
            make_act: picklable. Given the step of a snapshot, it returns the policies of all seeds (see
                `fd.simulation.episodes.Act`); every worker calls it when the snapshot changes. `run`
                passes on its FdErrors.
            name: name of the environment in errors.
            seeds: training seeds, one policy each.
            obs_shape: of an observation; images are three-dimensional, uint8.
            noise_dim: number of standard normal numbers that the policy gets per environment and step.
            act_dim: width of an action.
            environments: number per worker, rounded up to a multiple of the number of seeds.
            workers: number of processes, one core each; more than jobs, ceil(episodes / m) per snapshot, are of no use.
            timeout: seconds within which a worker must make some progress: build an environment, reset it, take a step,
                load a policy or act.

        Raises:
            FdError: an environment cannot be built or has other shapes, its process dies or hangs, or memory is too small.
        """
        each = -(-environments // len(seeds))
        self._batch = EpisodeBatch(name, tuple(seeds), each, obs_shape=obs_shape, noise_dim=noise_dim, act_dim=act_dim)
        shares = [(make_env, make_act, self._batch)] * workers
        super().__init__(name, Simulators, shares, timeout=timeout, simulators=each * len(seeds))

    def run(
        self, steps: Sequence[int], *, episodes: int, on_episode: Callable[[Episode], object] | None = None
    ) -> Iterator[tuple[int, list[Episode]]]:
        """Run episodes 0, 1, … of every seed at every snapshot.

        Args:
            steps: of the snapshots, distinct; the random streams depend on them.
            episodes: number for each seed and snapshot.
            on_episode: called with each episode when it ends.

        Yields:
            The step of a snapshot and its S * episodes rows, sorted by seed and episode, as soon as all have ended.

        Raises:
            FdError: an environment or a policy raises or hangs, its process dies, or an action is not finite. This
                closes the pool, and so does closing the iterator before its end.
        """
        starts = range(0, episodes, self._batch.each)
        numbers = [range(start, min(start + self._batch.each, episodes)) for start in starts]
        jobs = [(EpisodeJob(step, some), len(self._batch.seeds) * len(some)) for step in steps for some in numbers]
        rows: defaultdict[int, list[Episode]] = defaultdict(list)
        for row in self.do(jobs):
            rows[row.step].append(row)
            if on_episode is not None:
                on_episode(row)
            if len(rows[row.step]) == len(self._batch.seeds) * episodes:
                yield row.step, sorted(rows[row.step], key=lambda row: (row.seed, row.episode))
