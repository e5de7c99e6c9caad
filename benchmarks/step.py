"""Measures the cost of a training step: `python -m benchmarks.step` writes a JSON file and a Markdown page of tables.

A variant is a method in a regime, S seeds, a net and an execution. Regimes: `bank`, behaviour flow frozen and base actions
from a bank; `fresh`, frozen and base actions drawn at every step; `joint`, behaviour flow trained too; `-`, no base
actions. The variants of a net take turns, round by round, because the speed of a shared machine changes from one second to
the next; a variant whose step takes over a second has a turn only in the first and in the last round. The output has medians
and quartiles over the rounds; ratios are taken within each round.

A step is one of `fd.training.loop.run` with the update of `fd.training.policy_training.updates`: random numbers (drawn in
blocks; a step counts its part), update, metrics. Batches have 256 random transitions with the shapes of OGBench's
cube-single. The numbers in the bank are random, too, because the time does not depend on them. To save memory, variants of a
net share networks of equal shapes and train them in turn: the results of this training are meaningless, its cost is not.

The machine's rate is measured with products of square float32 matrices, 1024 wide on the CPU, 8192 wide on a GPU, where TF32
is allowed as in training; it is measured before and after each turn. The net's rate is measured with products of its own
size, [S, 256, width] by [S, width, width], once per round. The share of a rate is the FLOP of all products of a step, over
the step's time, over the rate.

Peak memory is the memory that a variant holds from step to step (weights, gradients, Adam's moments, bank, a block's random
numbers, but not the data set) plus the most that torch allocates within a step (with a graph: while it is recorded). Memory
that libraries allocate outside torch is not counted. On the CPU the second part of an eager step is measured with one seed
and with the fewest above one; with more seeds it is a multiple, like the FLOP.

The breakdown of a step: kernels of matrix products; other kernels; and the time outside kernels, which is all other time by
the clock: Python, autograd, dispatch, allocation. On the CPU a kernel is an operation of torch other than a view or an
allocation, or one of compiled code; its time is its own time in torch's profiler, without the operations that it calls. On a
GPU it is whatever runs there. The clock measures steps without the profiler.
"""

from __future__ import annotations

import stages  # noqa: F401 - it sets variables that torch reads when it is loaded

# isort: split
import contextlib
import gc
import io
import itertools
import json
import math
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
import typer
import yaml
from torch import nn
from torch._C._autograd import DeviceType
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from fd.errors import FdError
from fd.method.acting import flow_net
from fd.method.agent import Agent
from fd.method.spec import Spec
from fd.networks.adam import Optimiser
from fd.report.markdown import markdown_table
from fd.runtime import limits
from fd.runtime.command_line import main
from fd.runtime.device import select_device
from fd.runtime.progress import Progress
from fd.storage import transitions
from fd.storage.files import write_text
from fd.storage.outputs import check_file
from fd.storage.transitions import Manifest, Transitions
from fd.training.bank import Bank, BankPlan, build_bank
from fd.training.execution import WARM_UP, Update, executed, execution
from fd.training.loop import BLOCK, Window
from fd.training.policy_training import updates
from fd.training.random_streams import generator
from fd.training.replay import Replay

ROOT = Path(__file__).parent.parent
METHODS = "fql,deflow,fidec,fidec-official,fidec-action,fidec-stein,ifql,iql,iql-ddpgbc,rebrac"
REGIMES = ("bank", "fresh", "joint", "-")
EXECUTIONS = ("eager", "compiled", "graph", "compiled-graph")
OBS_DIM, ACT_DIM = 28, 5
SHAPE = {"obs_shape": (OBS_DIM,), "act_dim": ACT_DIM}
PAPERS = {"learning_rate": 3e-4, "tau": 0.005, "discount": 0.99, "flow_steps": 10, "flow_solver": "euler"}
BATCH = 256  # transitions of a seed
SAMPLES = 16  # base actions of a state in the bank
RATE_WIDTH = {"cpu": 1024, "cuda": 8192}
RATE_SECONDS = 0.02  # least duration of the measurement of a rate
BANK_SEEDS = (1, 8)  # numbers of seeds with which banks are built
BANK_STATES = {"cpu": 256, "cuda": 20_000}
BREAKDOWN = {"4x512": 1, "2x256": 4}  # seeds in the breakdown of a step of fidec; with other nets, the fewest
SLOW_MS = 1000
BREAKDOWNS = 10  # the output has their medians
LOADER = "import json, sys; from benchmarks.step import load; print(json.dumps(load(sys.argv[1])))"
PARTS = ("products", "others", "outside")  # of a step's time
PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")
GPU_PRODUCTS = re.compile("gemm|cutlass|nvjet|xmma")
COMPILED_KERNEL = re.compile(r"graph_\d+_cpp_")
app = typer.Typer(add_completion=False)


@app.command()
def command(
    methods: Annotated[str, typer.Option(help="Methods of suites/ablation.yaml, separated by commas.")] = METHODS,
    regimes: Annotated[str, typer.Option(help="Regimes; each method has one or three of them.")] = ",".join(REGIMES),
    seeds: Annotated[str, typer.Option(help="Numbers of seeds S.")] = "1,2,4,8,16",
    nets: Annotated[str, typer.Option(help="Nets, depth x width.")] = "4x512,2x256",
    executions: Annotated[
        str, typer.Option(help="Values of compute.execution; auto: eager, on a GPU also graph and compiled-graph.")
    ] = "auto",
    compiled: Annotated[str, typer.Option(help="Methods to measure with compiled executions.")] = METHODS,
    rounds: Annotated[int, typer.Option(min=2, help="Turns per variant.")] = 4,
    seconds: Annotated[float, typer.Option(help="Least duration of a turn.")] = 0.05,
    threads: Annotated[int, typer.Option(help="Threads of torch on the CPU.")] = 2,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    states: Annotated[int, typer.Option(help="States of the training data, a multiple of 200.")] = 20_000,
    loaded: Annotated[int, typer.Option("--transitions", help="Rows of the loaded set, in whole 1,000.")] = 1_000_000,
    out: Annotated[Path | None, typer.Option(help="Output path without .json and .md.", show_default=False)] = None,
) -> None:
    """Measure the training step of methods; by default writes benchmarks/results/<processor or GPU>.json and .md."""
    os.environ["KINETO_LOG_LEVEL"] = "6"  # or the profiler prints on stderr whenever it starts
    on = select_device(device, threads, tf32=True)
    if executions == "auto":
        executions = "eager" if on.type == "cpu" else "eager,graph,compiled-graph"
    names = among("methods", methods, suite()["methods"])
    compiled_names = among("compiled", compiled, suite()["methods"])
    hows = [execution(how, on) for how in among("executions", executions, EXECUTIONS)]
    kinds, sizes = among("regimes", regimes, REGIMES), sorted(int(number) for number in seeds.split(","))
    stock = Stock(states, max(sizes), on)
    result: dict[str, Any] = {
        "machine": machine(on),
        "versions": {"python": platform.python_version(), "torch": torch.__version__, "numpy": np.__version__},
        "device": on.type,
        "threads": threads,
        "gomp_spincount": os.environ["GOMP_SPINCOUNT"],
        "options": {
            "methods": methods, "regimes": regimes, "seeds": seeds, "nets": nets, "executions": executions,
            "compiled": compiled, "rounds": rounds, "seconds": seconds, "states": states, "transitions": loaded,
        },
        "rates": [], "steps": [], "banks": [], "breakdown": [],
    }  # fmt: skip
    place = out or ROOT / "benchmarks" / "results" / slug(result["machine"]["gpu"] or result["machine"]["processor"])
    check_file(place.with_name(f"{place.name}.json"))
    if any(how.startswith("compiled") for how in hows):
        prepare_compiler()
    for net in nets.split(","):
        cases = [
            Case(method, regime, size, net, how)
            for size in sizes
            for method in names
            for regime in regimes_of(method)
            if regime in kinds
            for how in hows
            if method in compiled_names or not how.startswith("compiled")
        ]
        for name, records in measure(net, cases, stock, rounds=rounds, seconds=seconds).items():
            result[name] += records
        stock.clear()
    result["loading"] = loading(loaded, rounds)
    result = rounded(result)
    write_text(place.with_name(f"{place.name}.json"), json_text(result))
    write_text(place.with_name(f"{place.name}.md"), page(result))


def among(option: str, text: str, allowed: Iterable[str]) -> list[str]:
    """Return the names in the comma-separated text of an option.

    Raises:
        FdError: one of them is not allowed.
    """
    names, known = text.split(","), list(allowed)
    for name in names:
        if name not in known:
            raise FdError(f"--{option}: {name!r} (allowed: {', '.join(known)})")
    return names


@dataclass(frozen=True)
class Case:
    """A variant's method, regime, number of seeds, net (depth x width) and execution."""

    method: str
    regime: str
    seeds: int
    net: str
    execution: str


@cache
def suite() -> dict[str, Any]:
    """Return the suite that has every method."""
    found: dict[str, Any] = yaml.safe_load((ROOT / "suites" / "ablation.yaml").read_text(encoding="utf-8"))
    return found


def spec_of(method: str, regime: str, net: str) -> Spec:
    """Return the spec of a method with a net and the papers' hyperparameters."""
    depth, width = net.split("x")
    hidden = {"hidden": (int(width),) * int(depth)}
    behaviour = {"behaviour": "joint"} if regime == "joint" else {}
    return Spec.of(suite()["refine"], suite()["methods"][method]["train"], behaviour, PAPERS, SHAPE, hidden)


def regimes_of(method: str) -> tuple[str, ...]:
    """Return the regimes that a method has."""
    spec = spec_of(method, "-", "1x1")
    if not spec.based:
        return ("-",)
    return ("joint",) if spec.behaviour == "joint" else ("bank", "fresh", "joint")


class Stock:
    """Shared by variants: transitions, the random numbers of their banks, networks and agents."""

    def __init__(self, states: int, seeds: int, device: torch.device) -> None:
        """Draw the numbers, for as many seeds as any variant has."""
        self.device = device
        self.replay = Replay.of(synthetic(states // 200, 200), device)
        self._normal = torch.randn(seeds, states, SAMPLES, ACT_DIM, device=device)
        self._actions = self._normal.clamp(-1, 1)
        self._nets: dict[Any, nn.Module] = {}
        self._moments: dict[torch.Tensor, Any] = {}
        self._agents: dict[Any, tuple[Agent, Optimiser]] = {}

    def agent(self, case: Case, spec: Spec) -> tuple[Agent, Optimiser]:
        """Return an agent and its optimiser, with moments as after a step.

        Networks of the same shapes are shared, with their moments. Variants that differ only in the source of base actions
        or in being recorded share an agent.
        """
        compiled = case if case.execution.startswith("compiled") else None
        key = spec, case.seeds, compiled
        if key not in self._agents:
            agent = Agent(spec, [generator(seed, "weights", 0) for seed in range(case.seeds)]).to(self.device)
            for name in ("flow", "policy", "critic", "target"):
                net = getattr(agent, name)
                shapes = [(weight.shape, weight.requires_grad) for weight in net.parameters()]
                setattr(agent, name, self._nets.setdefault((name, *shapes), net))
            adam = agent.optimiser()
            for own in adam.joined.values():
                own.matrix.grad = torch.zeros_like(own.matrix)
            adam.step()
            for weight in adam.state:
                adam.state[weight] = self._moments.setdefault(weight, adam.state[weight])
            self._agents[key] = agent, adam
        return self._agents[key]

    def bank(self, spec: Spec, seeds: int) -> Bank:
        """Return a bank of the layout that training with a spec needs."""
        actions, normal = self._actions[:seeds], self._normal[:seeds]
        scores = None
        if spec.state_scores:
            scores = normal[:, :, : spec.fisher_samples]
        elif spec.action_scores:
            scores = normal.unsqueeze(3)
        return Bank(actions, normal if spec.policy == "onestep" else None, scores)

    def clear(self) -> None:
        """Drop networks, agents and what was compiled for them."""
        self._nets.clear()
        self._moments.clear()
        self._agents.clear()
        torch.compiler.reset()
        gc.collect()


class Variant:
    """A training run that is stepped at will.

    Attributes:
        case: its method, regime, seeds, net and execution.
        device: device on which it runs.
        period: phases of its updates that take turns.
        agent: the agent that it trains.
        flop: FLOP of the matrix products of a step.
        held: bytes held from step to step, without gradients.
        height: most bytes that a step allocates, with gradients.
        ms: milliseconds of a step, by round.
        shares, net_shares: shares of the machine's and of the net's rate, in each turn.
    """

    def __init__(self, case: Case, stock: Stock, fewer: Variant | None) -> None:
        """Build it, and step it until it is compiled or recorded.

        Args:
            case: its method, regime, seeds, net and execution.
            stock: shared transitions, networks and agents.
            fewer: the same variant with fewer seeds, but more than one.
        """
        spec = spec_of(case.method, case.regime, case.net)
        self.case, self.device, self.period = case, stock.device, spec.policy_every
        self.agent, adam = stock.agent(case, spec)
        bank = stock.bank(spec, case.seeds) if case.regime == "bank" else None
        seeds = range(case.seeds)
        one, self._draws = updates(
            self.agent, adam, stock.replay, bank, seeds=seeds, batch_size=BATCH, execution=case.execution
        )
        self._update: Update = one
        self._joined = list(adam.joined.values())
        self._window = Window(seeds, case.method, BLOCK)
        self._block = self._done = 0
        self.ms, self.shares, self.net_shares = dict[int, float](), list[float](), list[float]()
        held = [*self.agent.parameters(), *(value for state in adam.state.values() for value in state.values())]
        held += [] if bank is None else [bank.actions, bank.noise, bank.scores]
        self.held = sum(tensor.nbytes for tensor in held if tensor is not None)
        self.held += BLOCK * sum(number.nbytes for number in self._draws.at(0))
        if fewer and case.execution == "eager" and self.device.type == "cpu":
            self.flop: int = fewer.flop * case.seeds // fewer.case.seeds
            self.height: int = fewer.height * case.seeds // fewer.case.seeds
            return
        with FlopCounterMode(display=False) as counter:
            self.height = self._height(self.period)
        self.flop = counter.get_total_flops() // self.period
        if case.execution != "eager":
            self._update = executed(one, self.agent, case.execution, case.method)
            self.steps(self.period)
            recorded = case.execution.endswith("graph")
            self.height = self._height((WARM_UP if recorded else 1) * self.period)  # the last of each phase

    def _height(self, count: int) -> int:
        """Return the bytes that so many steps allocate at most, with the gradients that they start from."""
        matrices = [own.matrix for own in self._joined]
        for matrix in matrices:
            matrix.grad = None

        def run() -> None:
            for matrix in matrices:
                matrix.grad = torch.zeros_like(matrix)
            self.steps(count)

        return allocated(run, self.device)

    def steps(self, count: int) -> None:
        """Do so many steps, a multiple of the period, with random numbers that have been drawn."""
        for _ in range(count):
            numbers = self._draws.at(self._block * BLOCK + self._done % BLOCK)
            self._window.add(self._done, self._update(self._done % self.period, numbers))
            self._done += 1
            if self._done % BLOCK == 0:
                self._window.means()

    def turn(self, seconds: float) -> float:
        """Return the ms of a step over steps that take at least some seconds, with its part of drawing a block."""
        self._block += 1
        clock = now(self.device)
        self._draws.at(self._block * BLOCK)
        drawing = (now(self.device) - clock) / BLOCK
        return 1000 * (drawing + timed(self.steps, seconds, self.device, unit=self.period))


class Rates:
    """Measurements besides those of the variants of a net.

    Attributes:
        machine: FLOP/s of the machine, one number per measurement.
        net: FLOP/s of the net's own products, by seeds, one number per round.
        banks: states/s of building the bank of fidec, by seeds, one number per round.
    """

    def __init__(self, net: str, sizes: Sequence[int], stock: Stock) -> None:
        """Build the flows of the banks."""
        self._net, self._stock = net, stock
        self._spec = spec_of("fidec", "bank", net)
        self.machine = list[float]()
        self.net: dict[int, list[float]] = {size: [] for size in sizes}
        self.banks: dict[int, list[float]] = {size: [] for size in BANK_SEEDS if size in sizes}
        self._flows = {
            size: flow_net(self._spec, [generator(seed, "weights", 0) for seed in range(size)]).to(stock.device)
            for size in self.banks
        }

    def next_round(self) -> None:
        """Measure the rates of the net."""
        for size, found in self.net.items():
            width = self._spec.hidden[0]
            found.append(product_rate((size, BATCH, width), self._stock.device))
        for size, found in self.banks.items():
            found.append(self._bank_rate(size))

    def next_turn(self) -> float:
        """Measure the rate of the machine, in FLOP/s."""
        width = RATE_WIDTH[self._stock.device.type]
        self.machine.append(product_rate((1, width, width), self._stock.device))
        return self.machine[-1]

    def _bank_rate(self, seeds: int) -> float:
        device = self._stock.device
        states = BANK_STATES[device.type]
        replay = Replay.of(synthetic(states // 200, 200), device)
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stderr(io.StringIO()):
            clock = now(device)
            plan = BankPlan(SAMPLES, math.inf, Path(folder) / "bank.safetensors", key="")
            build_bank(self._spec, self._flows[seeds], replay, plan, seeds=range(seeds), label="bank")
            return len(replay.obs) / (now(device) - clock)


def measure(
    net: str, cases: Sequence[Case], stock: Stock, *, rounds: int, seconds: float
) -> dict[str, list[dict[str, Any]]]:
    """Return the records of a net: `rates`, `steps`, `banks` and `breakdown`."""
    variants, several = list[Variant](), dict[tuple[str, ...], Variant]()
    with Progress(len(cases), f"{net}: warm-up", unit="variants") as progress:
        for case in cases:
            key = case.method, case.regime, case.execution
            variants.append(Variant(case, stock, several.get(key)))
            if case.seeds > 1:
                several.setdefault(key, variants[-1])
            progress.advance(1)
    rates = Rates(net, sorted({case.seeds for case in cases}), stock)
    with Progress(rounds * len(cases), f"{net}: steps", unit="turns") as progress:
        for number in range(rounds):
            rates.next_round()
            before = rates.next_turn()
            for variant in variants if number % 2 == 0 else reversed(variants):
                progress.advance(1)
                if number < rounds - 1 and variant.ms.get(0, 0) > SLOW_MS:
                    continue
                flop, ms = variant.flop, variant.turn(seconds)
                after = rates.next_turn()
                variant.ms[number] = ms
                variant.shares.append(flop / (1e-3 * ms) / statistics.mean((before, after)))
                variant.net_shares.append(flop / (1e-3 * ms) / rates.net[variant.case.seeds][-1])
                before = after
    broken = Case("fidec", "bank", BREAKDOWN.get(net, cases[0].seeds), net, "")
    net_gflops = {str(size): statistics.median(found) / 1e9 for size, found in rates.net.items()}
    return {
        "rates": [{"net": net, "gflops": statistics.median(rates.machine) / 1e9, "net_gflops": net_gflops}],
        "steps": [record(variant, rounds) for variant in variants],
        "banks": [
            {"net": net, "seeds": size, "states_per_second": statistics.median(found), "quartiles": quartiles(found)}
            for size, found in rates.banks.items()
        ],
        "breakdown": [
            breakdown(variant, seconds) for variant in variants if replace(variant.case, execution="") == broken
        ],
    }


def record(variant: Variant, rounds: int) -> dict[str, Any]:
    """Return the record of a variant; `seed_updates` per second, `gflop` per step, `peak_mib` of memory."""
    ms = statistics.median(variant.ms.values())
    return asdict(variant.case) | {
        "ms": ms,
        "ms_quartiles": quartiles(variant.ms.values()),
        "ms_rounds": [variant.ms.get(number) for number in range(rounds)],
        "seed_updates": 1000 * variant.case.seeds / ms,
        "gflop": variant.flop / 1e9,
        "share": statistics.median(variant.shares),
        "share_quartiles": quartiles(variant.shares),
        "net_share": statistics.median(variant.net_shares),
        "peak_mib": (variant.held + variant.height) / 2**20,
    }


def breakdown(variant: Variant, seconds: float) -> dict[str, Any]:
    """Return the shares of a step's time in `products`, in `others` and `outside` kernels."""
    products, others = list[float](), list[float]()
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if variant.device.type == "cuda" else [])]

    def step() -> float:
        return timed(variant.steps, seconds, variant.device, unit=variant.period)

    before = step()
    for _ in range(BREAKDOWNS):
        count = math.ceil(seconds / before / variant.period) * variant.period
        with profile(activities=activities) as profiler:
            variant.steps(count)
            now(variant.device)
        kernels = gpu_kernels(profiler) if variant.device.type == "cuda" else cpu_kernels(profiler)
        after = step()
        clock = count * statistics.mean((before, after))
        products.append(sum(time for time, product in kernels if product) / clock)
        others.append(sum(time for time, product in kernels if not product) / clock)
        before = after
    shares = {"products": statistics.median(products), "others": statistics.median(others)}
    return asdict(variant.case) | shares | {"outside": 1 - sum(shares.values())}


def cpu_kernels(profiler: profile) -> list[tuple[float, bool]]:
    """Return the seconds of every kind of kernel on the CPU, and whether it is a matrix product."""
    return [
        (1e-6 * event.self_cpu_time_total, event.key in PRODUCTS)
        for event in profiler.key_averages()
        if COMPILED_KERNEL.match(event.key) or computes(event.key)
    ]


def gpu_kernels(profiler: profile) -> list[tuple[float, bool]]:
    """Return the seconds of every kernel on the GPU, and whether it is a matrix product."""
    events: Any = profiler.events
    return [
        (1e-6 * event.time_range.elapsed_us(), GPU_PRODUCTS.search(event.name) is not None)
        for event in events() or ()
        if event.device_type == DeviceType.CUDA and not event.is_user_annotation
    ]


@cache
def computes(event: str) -> bool:
    """Return whether an event of the profiler is an operation of torch other than a view or an allocation."""
    space, _, name = event.partition("::")
    operation = getattr(torch.ops.aten, name, None) if space == "aten" else None
    if operation is None or name.startswith(("empty", "new_empty")):
        return False
    return not any(getattr(operation, overload).is_view for overload in operation.overloads())


def product_rate(shape: tuple[int, int, int], device: torch.device) -> float:
    """Return the FLOP/s of float32 products of [S, B, width] by [S, width, width]."""
    seeds, _, width = shape
    left, right = torch.randn(shape, device=device), torch.randn(seeds, width, width, device=device)
    out = torch.empty_like(left)

    def run(count: int) -> None:
        for _ in range(count):
            torch.bmm(left, right, out=out)

    return 2 * math.prod(shape) * width / timed(run, RATE_SECONDS, device)


def timed(run: Callable[[int], None], least: float, device: torch.device, *, unit: int = 1) -> float:
    """Return the seconds of one repetition over repetitions that take `least` seconds together.

    The first ones, which fill caches and wake threads, count only if they alone take that long.

    Args:
        run: called with a number of repetitions.
        least: seconds.
        device: device on which they run.
        unit: the number of repetitions is a multiple of this.
    """

    def clocked(count: int) -> float:
        clock = now(device)
        run(count)
        return now(device) - clock

    seconds, done = clocked(unit), unit
    if seconds < least:
        seconds, done, count = 0.0, 0, unit
        while seconds < least:
            seconds += clocked(count)
            done += count
            count = done
    return seconds / done


def now(device: torch.device) -> float:
    """Return the time in seconds, after the device has finished its work."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def allocated(run: Callable[[], None], device: torch.device) -> int:
    """Return the most bytes that torch allocates within a run, above those at its start."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        start = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - start
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    recorded: Any = profiler.profiler
    changes = [event for event in recorded.kineto_results.events() if event.name() == "[memory]"]
    changes.sort(key=lambda event: event.start_ns())
    return max(itertools.accumulate((int(event.nbytes()) for event in changes), initial=0))


def prepare_compiler() -> None:
    """Let torch compile all variants, and show its kernels to the profiler."""
    import torch._dynamo
    import torch._inductor.config

    torch._dynamo.config.recompile_limit = torch._dynamo.config.accumulated_recompile_limit = 10_000
    torch._dynamo.config.fail_on_recompile_limit_hit = True
    torch._inductor.config.cpp.enable_kernel_profile = True


def synthetic(episodes: int, rows: int) -> Transitions:
    """Return random transitions in episodes of `rows` rows; the last row of an episode is a state without an action."""
    draw, count = np.random.default_rng(0), episodes * rows
    return transitions.assemble(
        "random transitions",
        draw.standard_normal((count, OBS_DIM), np.float32),
        draw.uniform(-1, 1, (count, ACT_DIM)),
        rewards=-draw.random(count, np.float32),
        masks=np.ones(count),
        ends=np.arange(count) % rows == rows - 1,
    )


def loading(count: int, processes: int) -> dict[str, Any]:
    """Return the cost of loading `count` transitions from a file in the system's cache, in new processes.

    `seconds` is the median; `memory` is the most, in multiples of the arrays' size.
    """
    arrays = synthetic(count // 1000, 1001)
    manifest = Manifest(
        source="generate", dataset="synthetic", collector="random", environment={}, horizon=1000, score="return",
        return_range=None, success_timing="pre", versions={"numpy": np.__version__}, seed=0, validation_episodes=0, files={},
        **transitions.with_measures(arrays),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        transitions.save_transitions(Path(folder), arrays, manifest)
        done = [
            subprocess.run([sys.executable, "-c", LOADER, folder], cwd=ROOT, check=True, capture_output=True, text=True)
            for _ in range(processes)
        ]
    found = [json.loads(process.stdout) for process in done]
    size = sum(getattr(arrays, field.name).nbytes for field in fields(arrays))
    return {
        "transitions": manifest.transitions,
        "mib": size / 2**20,
        "seconds": statistics.median(one["seconds"] for one in found),
        "memory": max(one["bytes"] for one in found) / size,
    }


def load(folder: str) -> dict[str, float]:
    """Return the `seconds` that loading takes in this process, and the `bytes` by which its peak memory grows."""
    before, clock = status("VmRSS"), time.perf_counter()
    replay = Replay.of(transitions.load_transitions(Path(folder)), torch.device("cpu"))
    seconds = time.perf_counter() - clock
    assert len(replay.starts)
    return {"seconds": seconds, "bytes": status("VmHWM") - before}


def status(field: str) -> int:
    """Return a field of /proc/self/status in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{field}:"))


def machine(device: torch.device) -> dict[str, Any]:
    """Return the models of processor and GPU, cores that this process may use, and GiB of memory.

    On rented machines, processors of several generations can have the same name, so torch's name of their vector instructions follows it.
    """
    models = [
        line.split(":")[1].strip() for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    gpu = torch.cuda.get_device_properties(device) if device.type == "cuda" else None
    return {
        "processor": f"{models[0] if models else platform.machine()} ({torch.backends.cpu.get_cpu_capability()})",
        "cores": limits.cores(),
        "memory_gib": limits.memory_limit(alone=False)[0] / 2**30,
        "gpu": gpu.name if gpu else None,
        "gpu_memory_gib": gpu.total_memory / 2**30 if gpu else None,
    }


def slug(name: str) -> str:
    """Return a name as lower-case letters and digits, joined by hyphens."""
    return "-".join(re.findall("[a-z0-9]+", name.lower()))


def quartiles(values: Iterable[float]) -> list[float]:
    """Return the first and the third quartile."""
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return [first, third]


def rounded(value: Any) -> Any:
    """Return a JSON value with four significant digits."""
    if isinstance(value, dict):
        return {name: rounded(one) for name, one in value.items()}
    if isinstance(value, list):
        return [rounded(one) for one in value]
    return float(f"{value:.4g}") if isinstance(value, float) else value


def json_text(result: dict[str, Any]) -> str:
    """Return a result as JSON, one record per line."""
    lines = {
        name: "[\n" + ",\n".join(map(json.dumps, value)) + "\n]" if isinstance(value, list) else json.dumps(value)
        for name, value in result.items()
    }
    return "{\n" + ",\n".join(f"{json.dumps(name)}: {value}" for name, value in lines.items()) + "\n}\n"


def page(result: dict[str, Any]) -> str:
    """Return the Markdown page of a result."""
    made, found = result["machine"], result["loading"]
    named = f"{made['processor']}, {made['cores']} cores, {made['memory_gib']:.0f} GiB"
    if made["gpu"]:
        named = f"{made['gpu']}, {made['gpu_memory_gib']:.0f} GiB; {named}"
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    how = (
        f"{result['threads']} threads, GOMP_SPINCOUNT {result['gomp_spincount']}; {result['options']['rounds']} rounds"
    )
    parts = [
        "# The training step",
        f"{named}. {versions}. {how}. What is measured: `benchmarks/step.py`.",
    ]
    for rate in result["rates"]:
        steps = [step for step in result["steps"] if step["net"] == rate["net"]]
        parts += [f"## {rate['net']}", *net_tables(rate, steps)]
    parts += ["## Comparisons", "Medians of the ratios within a round (quartiles).", comparisons(result["steps"])]
    parts += ["## Breakdown of a step", "fidec with a bank; shares of the time.", breakdown_table(result)]
    parts += ["## Building a bank", f"{SAMPLES} base actions a state, and the scores of fidec.", banks_table(result)]
    loaded = f"{found['transitions']:,} transitions, {figure(found['mib'])} MiB: {figure(found['seconds'])} s"
    height = f"at its height the memory is {figure(found['memory'])} times that of the arrays"
    parts += ["## Loading a dataset", f"{loaded}; {height}."]
    return "\n\n".join(parts) + "\n"


def net_tables(rate: dict[str, Any], steps: Sequence[dict[str, Any]]) -> list[str]:
    """Return the tables of a net, rows by method, regime and execution, columns by seeds."""
    sizes = list(dict.fromkeys(step["seeds"] for step in steps))
    rows: dict[tuple[str, str, str], dict[int, dict[str, Any]]] = {}
    for step in steps:
        rows.setdefault((step["method"], step["regime"], step["execution"]), {})[step["seeds"]] = step

    def by_seeds(cell: Callable[[dict[str, Any]], str]) -> str:
        head = ["method", "regime", "execution", *(f"S = {size}" for size in sizes)]
        return markdown_table(head, [[*row, *(cell(found[size]) for size in sizes)] for row, found in rows.items()])

    own = ", ".join(f"{figure(value)} with S = {size}" for size, value in rate["net_gflops"].items())
    return [
        f"Products of the machine: {figure(rate['gflops'])} GFLOP/s; of the net's own size: {own}.",
        "A step in ms, median (quartiles):",
        by_seeds(lambda step: spread(step["ms"], step["ms_quartiles"])),
        "Updates of a seed per second; shares of the machine's rate and of the net's:",
        by_seeds(
            lambda step: f"{figure(step['seed_updates'])}; {percent(step['share'])}, {percent(step['net_share'])}"
        ),
        "Peak memory in MiB:",
        by_seeds(lambda step: figure(step["peak_mib"])),
    ]


def comparisons(steps: Sequence[dict[str, Any]]) -> str:
    """Return the table of the ratios of methods and of numbers of seeds, by net and execution."""
    found = {tuple(step[f.name] for f in fields(Case)): step for step in steps}
    columns = list(dict.fromkeys((step["net"], step["execution"]) for step in steps))

    def step(name: str, seeds: int, column: tuple[str, str]) -> dict[str, Any] | None:
        return found.get((*name.split(), seeds, *column))

    def ratio(over: str, under: str, seeds: tuple[int, int]) -> list[str]:
        cells = []
        for column in columns:
            first, second = step(over, seeds[0], column), step(under, seeds[1], column)
            cells.append("")
            if first and second:
                rounds = zip(first["ms_rounds"], second["ms_rounds"], strict=True)
                values = [a / b for a, b in rounds if a and b]
                cells[-1] = spread(statistics.median(values), quartiles(values))
        return cells

    def single(name: str, cell: Callable[[dict[str, Any]], str]) -> list[str]:
        return [cell(one) if (one := step(name, 1, column)) else "" for column in columns]

    rows = [
        ["fidec bank / fidec-official joint, S = 1", *ratio("fidec bank", "fidec-official joint", (1, 1))],
        ["fidec bank / deflow joint, S = 1", *ratio("fidec bank", "deflow joint", (1, 1))],
        ["fidec bank, S = 8 / S = 1", *ratio("fidec bank", "fidec bank", (8, 1))],
        [
            "fidec-official joint, S = 1, ms",
            *single("fidec-official joint", lambda one: spread(one["ms"], one["ms_quartiles"])),
        ],
        [
            "fidec bank, S = 1, share of the machine's rate in %",
            *single("fidec bank", lambda one: spread(100 * one["share"], [100 * x for x in one["share_quartiles"]])),
        ],
    ]
    return markdown_table(["", *(" ".join(column) for column in columns)], rows)


def breakdown_table(result: dict[str, Any]) -> str:
    """Return the table of the breakdowns."""
    rows = [
        [one["net"], str(one["seeds"]), one["execution"], *(percent(one[part]) for part in PARTS)]
        for one in result["breakdown"]
    ]
    return markdown_table(["net", "S", "execution", "matrix products", "other kernels", "outside kernels"], rows)


def banks_table(result: dict[str, Any]) -> str:
    """Return the table of the rates at which banks are built."""
    rows = [
        [one["net"], str(one["seeds"]), spread(one["states_per_second"], one["quartiles"])] for one in result["banks"]
    ]
    return markdown_table(["net", "S", "states/s, median (quartiles)"], rows)


def spread(median: float, between: Sequence[float]) -> str:
    """Return a median and its quartiles."""
    return f"{figure(median)} ({figure(between[0])} to {figure(between[1])})"


def figure(value: float) -> str:
    """Return a number with three significant digits."""
    return f"{float(f'{value:.3g}'):,.10g}"


def percent(share: float) -> str:
    """Return a share in %, with two significant digits."""
    return f"{float(f'{100 * share:.2g}'):g} %"


if __name__ == "__main__":
    main(app)
