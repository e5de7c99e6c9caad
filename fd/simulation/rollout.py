"""Episodes of many seeds' policies in simulators, in worker processes that each run whole batches of them alone.

The environments are built once and serve every snapshot. Jobs, ranges of episodes at one snapshot, go to whichever worker is
free. All batches have one shape, and their content depends on the job alone: no number in the result depends on the
number of workers.
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
                `fd.simulation.episodes.Act`); every worker calls it when it comes to another snapshot. An FdError that it raises
                is that of `run`.
            name: what errors call the environment.
            seeds: training seeds, one policy each.
            obs_shape: of an observation; images are three-dimensional, in bytes.
            noise_dim: standard normal numbers that the policy gets for an environment and step.
            act_dim: width of an action.
            environments: alive in a worker, rounded up to a multiple of the number of seeds.
            workers: processes, one core each; more than there will be jobs, ceil(episodes / m) a snapshot, are of no use.
            timeout: seconds within which a worker must make some progress: build an environment, reset it, take a step,
                load a policy or act.

        Raises:
            FdError: an environment cannot be built or is of other shapes, or its process dies or hangs.
        """
        each = -(-environments // len(seeds))
        self._batch = EpisodeBatch(name, tuple(seeds), each, obs_shape=obs_shape, noise_dim=noise_dim, act_dim=act_dim)
        super().__init__(name, Simulators, [(make_env, make_act, self._batch)] * workers, timeout=timeout)

    def run(
        self, steps: Sequence[int], *, episodes: int, on_episode: Callable[[Episode], object] | None = None
    ) -> Iterator[tuple[int, list[Episode]]]:
        """Run episodes 0, 1, … of every seed at every snapshot.

        Args:
            steps: of the snapshots, distinct; part of the random streams.
            episodes: of each seed and snapshot.
            on_episode: called with each episode when it ends.

        Yields:
            The step of a snapshot and its S * episodes rows, sorted by seed and episode, as soon as all have ended.

        Raises:
            FdError: an environment or a policy raises or hangs, its process dies, or an action is not finite. The pool
                is closed then, as it is when the iterator is closed before its end.
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
