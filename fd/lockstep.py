"""Simulators that take their steps together, one for each training seed, spread over worker processes.

A simulator does what it is ordered to and depends on nothing else, so that no number depends on how they are spread. Torch is not
imported here.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from types import TracebackType
from typing import Any, Self

import gymnasium
import numpy as np
from numpy.typing import NDArray

from fd.errors import FdError
from fd.simulators import Floats, MakeEnv


@dataclass(frozen=True)
class Order:
    """What a simulator is to do: start the episode of a seed, or go on with its own (None), and take these actions, [T, A]."""

    seed: int | None
    actions: Floats


@dataclass(frozen=True)
class Outcome:
    """What a simulator showed at the end of an order; `reward` and the flags are those of the last step, if there was one."""

    obs: NDArray[Any]
    reward: float = 0.0
    success: bool = False
    terminated: bool = False
    truncated: bool = False


class Lockstep:
    """One simulator for each seed in worker processes, which end when this context is left or this process dies."""

    def __init__(
        self, make_env: MakeEnv, *, name: str, seeds: Sequence[int], shapes: tuple[tuple[int, ...], ...], workers: int,
        timeout: float,
    ) -> None:  # fmt: skip
        """Start the workers and build the simulators.

        Args:
            make_env: see `fd.rollout.Rollout`.
            name: what errors call the environment.
            seeds: training seeds; a simulator goes by the index of its seed.
            shapes: of an observation and of an action.
            workers: processes, as many as there are seeds at most.
            timeout: seconds that an order, or building the simulators of a worker, may take.

        Raises:
            FdError: an environment cannot be built or is of other shapes, or its process dies or hangs.
        """
        self._name, self._seeds, self._timeout = name, seeds, timeout
        self._workers: list[tuple[SpawnProcess, Connection[Any, Any]]] = []
        self._worker_of: dict[int, int] = {}
        self._asked: list[int] = []
        context = multiprocessing.get_context("spawn")  # a fork would copy torch's locks in whatever state they are
        try:
            for number, indices in enumerate(np.array_split(np.arange(len(seeds)), min(workers, len(seeds)))):
                here, there = context.Pipe()
                own = {int(index): seeds[int(index)] for index in indices}
                process = context.Process(target=_serve, args=(there, make_env, name, own, shapes), daemon=True)
                process.start()
                there.close()  # the worker's end is its alone, so that its death is the end of the stream
                self._workers.append((process, here))
                self._worker_of |= dict.fromkeys(own, number)
            self._asked = list(range(len(self._workers)))
            self.receive()
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Self:
        """Return the simulators, which are ready since their construction."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """End the workers."""
        self.close()

    def close(self) -> None:
        """End the workers at once, for nothing of theirs is worth saving. Closing twice does no harm."""
        for process, _ in self._workers:
            process.kill()
        for process, connection in self._workers:
            process.join()
            process.close()
            connection.close()
        self._workers = []

    def send(self, orders: Mapping[int, Order]) -> None:
        """Hand out orders, by the index of a seed; their outcomes are to be received before the next ones."""
        shares: dict[int, dict[int, Order]] = {}
        for index, order in orders.items():
            shares.setdefault(self._worker_of[index], {})[index] = order
        for number, share in shares.items():
            try:
                self._workers[number][1].send(share)
            except OSError:
                raise self._death(number) from None
        self._asked = list(shares)

    def receive(self) -> dict[int, Outcome]:
        """Return the outcomes of the orders sent last, by the index of a seed in its order.

        Raises:
            FdError: a simulator raises or hangs, or its process dies.
        """
        outcomes: dict[int, Outcome] = {}
        for number in self._asked:
            connection = self._workers[number][1]
            if not connection.poll(self._timeout):
                raise FdError(f"{self._name}: {self._told(number)} hangs, no answer in {self._timeout:g} s")
            try:
                answer = connection.recv()
            except (EOFError, OSError):
                raise self._death(number) from None
            if isinstance(answer, FdError):
                raise answer
            outcomes |= answer
        return dict(sorted(outcomes.items()))

    def _told(self, number: int) -> str:
        own = [str(self._seeds[index]) for index, worker in self._worker_of.items() if worker == number]
        return f"the simulator process of seeds {', '.join(own)}"

    def _death(self, number: int) -> FdError:
        process = self._workers[number][0]
        process.join(self._timeout)
        hint = ", perhaps for lack of memory" if process.exitcode == -signal.SIGKILL else ""
        return FdError(f"{self._name}: {self._told(number)} died with exit code {process.exitcode}{hint}")


def _serve(
    connection: Connection[Any, Any], make_env: MakeEnv, name: str, seeds: Mapping[int, int],
    shapes: tuple[tuple[int, ...], ...],
) -> None:  # fmt: skip
    """Build a simulator for each seed, by its index, then carry out orders until the parent is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole process group; the parent ends the workers
    at = "a simulator being built"
    try:
        envs = {index: _build(make_env, shapes) for index in seeds}
        connection.send({})
        while True:
            outcomes = {}
            orders: Mapping[int, Order] = connection.recv()
            for index, order in orders.items():
                at = f"the simulator of seed {seeds[index]}"
                outcomes[index] = _carry_out(envs[index], order)
            connection.send(outcomes)
    except (EOFError, BrokenPipeError):
        return  # the parent is gone
    except FdError as error:
        fault = FdError(f"{name}: {error}")
    except Exception as error:  # noqa: BLE001 any simulator, any fault: the parent names it and ends the stage
        fault = FdError(f"{name}: {at}: {type(error).__name__}: {' '.join(str(error).split())}")
    with contextlib.suppress(OSError):  # the parent may be gone
        connection.send(fault)


def _build(make_env: MakeEnv, shapes: tuple[tuple[int, ...], ...]) -> gymnasium.Env[Any, Any]:
    """Make an environment and check that it has the shapes of the data."""
    env = make_env()
    found = (env.observation_space.shape, env.action_space.shape)
    if found != shapes:
        raise FdError(
            f"observations and actions have shapes {found[0]} and {found[1]}, the data have {shapes[0]} and {shapes[1]}"
        )
    return env


def _carry_out(env: gymnasium.Env[Any, Any], order: Order) -> Outcome:
    """Start an episode, if asked, and take the actions one after the other."""
    if order.seed is not None:
        outcome = Outcome(env.reset(seed=order.seed)[0])
    for action in order.actions:
        obs, reward, terminated, truncated, info = env.step(action)
        outcome = Outcome(obs, float(reward), bool(info["success"]), terminated, truncated)
    return outcome
