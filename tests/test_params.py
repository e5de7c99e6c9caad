"""params.yaml: read as DVC reads it, and every mistake in it is one line that names the place, the value and what is allowed."""

from __future__ import annotations

import copy
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.serialize import load_yaml

from fd.errors import FdError
from fd.params import Params, load

ROOT = Path(__file__).parent.parent
FILES = (ROOT / "params.yaml", ROOT / "tests" / "tiny.yaml")
TINY = yaml.safe_load(FILES[1].read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_committed_files_are_valid_for_every_task(path: Path) -> None:
    params = load(path)
    for task in params.tasks:
        settings = params.settings(task)
        assert settings.refine.steps % settings.refine.evaluate_every == 0
        for section in ("network", "pretrain", "refine", "evaluate"):
            whole = getattr(params, section).model_dump() | getattr(params.tasks[task], section)
            assert getattr(settings, section).model_dump() == whole


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_dvc_reads_the_same_values(path: Path) -> None:
    """DVC follows YAML 1.2, this project's reader YAML 1.1: a number as `3e-4` would be text in one of them."""
    ours, theirs = yaml.safe_load(path.read_text()), load_yaml(str(path))
    assert ours == theirs
    assert repr(ours) == repr(theirs)  # 1, 1.0 and True are equal


def edited(*place: str | int, to: Any = None, drop: bool = False) -> str:
    """tests/tiny.yaml with one place changed or dropped."""
    values = node = copy.deepcopy(TINY)
    for key in place[:-1]:
        node = node[key]
    if drop:
        del node[place[-1]]
    else:
        node[place[-1]] = to
    return yaml.safe_dump(values, sort_keys=False)


MAZE, CUBE = ("tasks", "umaze"), ("tasks", "cube-single")
BAD_VALUES: list[tuple[str, str]] = [
    (edited("seed", to=3), "unknown key 'seed', allowed: suite, seeds, tasks,"),
    (edited("refine", "leraning_rate", to=1.0), "refine: unknown key 'leraning_rate', allowed: steps,"),
    (edited("refine", "learning_rate", to="3e-4"), "refine.learning_rate: '3e-4', allowed: a number (with a dot"),
    (edited("refine", "steps", to=40.5), "refine.steps: 40.5, allowed: a whole number"),
    (edited("refine", "steps", to=True), "refine.steps: True, allowed: a whole number"),
    (edited("refine", "normalize_q", to="no"), "refine.normalize_q: 'no', allowed: true or false"),
    (edited("refine", "discount", to=1.0), "refine.discount: 1.0, allowed: less than 1"),
    (edited("refine", "tau", to=float("nan")), "refine.tau: nan, allowed: "),
    (edited("refine", "alpha", to=float("inf")), "refine.alpha: inf, allowed: less than inf"),
    (edited("refine", "q_agg", to="max"), "refine.q_agg: 'max', allowed: 'mean' or 'min'"),
    (edited("refine", drop=True), "refine: is missing"),
    (edited("refine", "tau", drop=True), "refine.tau: is missing"),
    (edited("refine", to=None), "refine: None, allowed: a mapping"),
    (edited("refine", "evaluate_every", to=30), "refine: steps: 40 is not a multiple of evaluate_every: 30"),
    (edited("refine", "log_every", to=15), "refine: evaluate_every: 20 is not a multiple of log_every: 15"),
    (edited("pretrain", "log_every", to=15), "pretrain: steps: 40 is not a multiple of log_every: 15"),
    (edited("refine", "evaluate_every", to=40), "tasks.umaze.refine: 1 evaluations in 40 steps, but"),
    (edited("refine", "bank", to=3), "tasks.umaze.refine.bank: 3 base actions a state are fewer than methods.fidec."),
    (edited("seeds", to=[0, 1, 0]), "seeds: [0, 1, 0] names a seed twice"),
    (edited("seeds", to=[]), "seeds: [], allowed: at least 1 item"),
    (edited("seeds", to=3), "seeds: 3, allowed: a list"),
    (edited("seeds", 1, to=-1), "seeds.1: -1, allowed: greater than or equal to 0"),
    (edited("network", "hidden", to=[16, 0]), "network.hidden.1: 0, allowed: greater than or equal to 1"),
    (edited("compute", "device", to="gpu"), "compute.device: 'gpu', allowed: 'auto', 'cpu' or 'cuda'"),
    (edited("methods", "fidec", "metric", to="fisher"), "methods.fidec.metric: 'fisher', allowed: 'identity' or "),
    (edited("methods", "fidec", "t_eps", to=[0.9, 0.8]), "methods.fidec: t_eps: [0.9, 0.8] is not a window"),
    (edited("methods", "fidec", "t_eps", to=0.8), "methods.fidec.t_eps: 0.8, allowed: a list"),
    (edited("methods", "fidec", "dual", drop=True), "methods.fidec.dual: is missing"),
    (
        edited("methods", "../fidec", to=TINY["methods"]["fidec"]),
        "methods.../fidec: '../fidec', allowed: text to match",
    ),
    (edited("methods", "play", to=TINY["methods"]["bc"] | {"dual": "x"}), "methods.play.dual: 'x', allowed: 'learned'"),
    (edited("tasks", "Maze", to=TINY["tasks"]["umaze"]), "tasks.Maze: 'Maze', allowed: text to match"),
    (edited("tasks", "a" * 65, to=TINY["tasks"]["umaze"]), "allowed: at most 64 characters"),
    (edited("tasks", to={}), "tasks: {}, allowed: at least 1 item"),
    (edited(*MAZE, "refine", "dicount", to=0.9), "tasks.umaze.refine: unknown key 'dicount', allowed: steps,"),
    (edited(*MAZE, "refine", "discount", to=2.0), "tasks.umaze.refine.discount: 2.0, allowed: less than 1"),
    (edited(*MAZE, "refine", "steps", to=50), "tasks.umaze.refine: steps: 50 is not a multiple of"),
    (edited(*MAZE, "evaluate", drop=True), "tasks.umaze.evaluate: is missing"),
    (edited(*CUBE, "data", "source", to="web"), "tasks.cube-single.data.source: 'web', allowed: 'ogbench', 'minari', "),
    (edited(*CUBE, "data", "collector", to="human"), "tasks.cube-single.data.collector: 'human', allowed: 'play', "),
    (edited(*CUBE, "data", "source", drop=True), "tasks.cube-single.data: the key 'source' is missing"),
    (edited(*CUBE, "data", "episodes", to=0), "tasks.cube-single.data.episodes: 0, allowed: greater than or"),
    (
        edited(*CUBE, "data", "dataset", to="../../x"),
        "tasks.cube-single.data.dataset: '../../x', allowed: text to match",
    ),
    (edited(*CUBE, "data", "horizon", to=9), "tasks.cube-single.data: unknown key 'horizon', allowed: source,"),
    (edited(*CUBE, "data", to="cube"), "tasks.cube-single.data: 'cube', allowed: a mapping"),
    (edited(*MAZE, "data", "dataset", to="a/../b-v0"), "tasks.umaze.data.dataset: 'a/../b-v0', allowed: text to match"),
    (edited(*MAZE, "data", "start", to=[1]), "tasks.umaze.data.start.1: is missing"),
]


@pytest.mark.parametrize(("text", "message"), BAD_VALUES, ids=[message[:40] for _, message in BAD_VALUES])
def test_a_bad_value_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    refused(text.encode(), message, tmp_path)


BOMB = "\n".join(["a0: &a0 [x, x, x]", *(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]" for i in range(1, 30))])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- 1\n- 2\n", "holds list, allowed: a mapping of sections"),
        (b"", "holds NoneType, allowed: a mapping of sections"),
        (b"seeds: [0, 1\nb: }", "not YAML: "),
        (b"\xff\xfe\x00a", "cannot be read: "),
        (b"a: \x00", "not YAML: "),
        (b"a: !!python/object/apply:os.getcwd []", "not YAML: "),
        (b"{a: 1}: 2", "not YAML: "),
        (b"a: " + b"[" * 5000, "nested too deeply"),
        (FILES[1].read_bytes() + b"seeds: [5]\n", "the key 'seeds' stands twice"),
        (FILES[1].read_bytes().replace(b"  cube-single:", b"  umaze:"), "the key 'umaze' stands twice"),
        (BOMB.encode(), "values, aliases written out, allowed: up to 100000"),
        (b"a: &a [*a]", "nested too deeply"),
        (b"a: &a {b: *a}", "nested too deeply"),
    ],
)
def test_what_is_no_settings_file_is_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    start = time.monotonic()
    refused(content, message, tmp_path)
    assert time.monotonic() - start < 5


def refused(content: bytes, message: str, folder: Path) -> None:
    path = folder / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(FdError) as error:
        load(path)
    told = str(error.value)
    assert told.startswith(f"{path}: ") and message in told
    assert "\n" not in told and len(told) < len(str(path)) + 400


def test_aliases_and_merges_are_read_as_what_they_stand_for(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    text = FILES[1].read_text().replace("  fql: {policy: onestep,", "  fql: {<<: *bc, policy: onestep,", 1)
    text = text.replace("  bc: {", "  bc: &bc {", 1).replace("    network: {}\n", "    network: &none {}\n", 1)
    path.write_text(text.replace("    evaluate: {}\n", "    evaluate: *none\n"))
    assert load(path) == load(FILES[1])
    assert load_yaml(str(path))["methods"]["fql"] == load_yaml(str(FILES[1]))["methods"]["fql"]


@pytest.mark.parametrize("name", ["no.yaml", "."])
def test_a_file_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(FdError, match=r"cannot be read: "):
        load(tmp_path / name)


def test_what_does_not_exist_is_told_with_what_does() -> None:
    params: Params = load(FILES[1])
    with pytest.raises(FdError, match=r"^tasks: 'cube' does not exist, allowed: umaze, cube-single$"):
        params.task("cube")
    with pytest.raises(FdError, match=r"^methods: 'iql' does not exist, allowed: bc, fql, deflow, "):
        params.method("iql")
