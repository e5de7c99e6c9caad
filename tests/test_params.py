"""params.yaml: read as DVC reads it, and every mistake in it is one line that names the place, the value and what is allowed."""

from __future__ import annotations

import copy
import datetime
import time
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import yaml
from dvc.utils.hydra import apply_overrides
from dvc.utils.serialize import load_yaml
from edits import changed

from fd.errors import FdError
from fd.settings.data_settings import DATA, Download
from fd.settings.refine_settings import TRAIN, Refine, spec_of
from fd.settings.settings_file import read_settings
from fd.settings.simulation_settings import Evaluate
from fd.settings.training_settings import Network, Pretrain
from fd.storage.untrusted import read_text, read_yaml

ROOT = Path(__file__).parent.parent
FILES = (ROOT / "params.yaml", ROOT / "tests" / "tiny.yaml", *sorted((ROOT / "suites").glob("*.yaml")))
TINY = yaml.safe_load(FILES[1].read_text())


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_committed_files_are_valid_for_every_task(path: Path) -> None:
    settings = read_settings(path)
    for task in settings.tasks:
        refine = settings.section(Refine, "refine", task)
        assert refine.steps % refine.evaluate_every == 0
        for name, model in (("network", Network), ("pretrain", Pretrain), ("refine", Refine), ("evaluate", Evaluate)):
            whole = settings.at(name) | settings.at("tasks", task, name)
            assert settings.section(model, name, task).model_dump(mode="json") == whole
        for method in settings.methods:
            whole = settings.at("refine") | settings.at("tasks", task, "refine")
            whole |= settings.at("methods", method, "refine") | settings.at("tasks", task, "methods").get(method, {})
            assert settings.section(Refine, "refine", task, method).model_dump() == whole


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_committed_methods_are_agents(path: Path) -> None:
    """Every switch of a method is one of the agent's, under the same name."""
    settings = read_settings(path)
    for task, method in product(settings.tasks, settings.methods):
        train = settings.part(TRAIN, "methods", method, "train").model_dump()
        spec = spec_of(settings, task, method, obs_shape=(1,), act_dim=1)
        assert train == {switch: getattr(spec, switch) for switch in train}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_dvc_reads_the_same_values(path: Path) -> None:
    ours, theirs = read_settings(path).values, load_yaml(str(path))
    assert ours == theirs
    assert repr(ours) == repr(theirs)  # 1, 1.0 and True are equal


def edited(*place: str | int, to: Any = None, drop: bool = False) -> str:
    """tests/tiny.yaml with one place changed or dropped."""
    return yaml.safe_dump(changed(TINY, *place, to=to, drop=drop), sort_keys=False)


MAZE, CUBE, FIDEC = ("tasks", "umaze"), ("tasks", "cube-single"), ("methods", "fidec", "train")
FLOW = TINY["methods"]["bc"]
BAD_VALUES: list[tuple[str, str]] = [
    (edited("seed", to=3), "unknown key 'seed', allowed: suite, seeds, tasks,"),
    (edited("refine", "leraning_rate", to=1.0), "refine: unknown key 'leraning_rate', allowed: learning_rate,"),
    (edited("refine", "learning_rate", to=1e31), "refine.learning_rate: 1e+31, allowed: less than or equal to 1000"),
    (edited("refine", "learning_rate", to="fast"), "refine.learning_rate: 'fast', allowed: a number"),
    (edited("refine", "steps", to=40.5), "refine.steps: 40.5, allowed: a whole number"),
    (edited("refine", "steps", to=True), "refine.steps: True, allowed: a whole number"),
    (edited("refine", "normalize_q", to="no"), "refine.normalize_q: 'no', allowed: true or false"),
    (edited("refine", "discount", to=1.0), "refine.discount: 1.0, allowed: less than 1"),
    (edited("refine", "tau", to=float("nan")), "refine.tau: nan, allowed: "),
    (edited("refine", "alpha", to=float("inf")), "refine.alpha: inf, allowed: less than inf"),
    (edited("refine", "q_agg", to="max"), "refine.q_agg: 'max', allowed: 'mean' or 'min'"),
    (edited("refine", drop=True), "refine: is missing"),
    (edited("refine", "tau", drop=True), "refine.tau: is missing"),
    (edited("evaluate", to={"timeout": 1.0}), "evaluate.episodes: is missing, environments too, final_evaluations too"),
    (edited("refine", to=None), "refine: None, allowed: a mapping"),
    (edited("refine", "evaluate_every", to=30), "refine: steps: 40 is not a multiple of evaluate_every: 30"),
    (edited("refine", "log_every", to=15), "refine: steps: 40 is not a multiple of log_every: 15"),
    (edited("pretrain", "log_every", to=15), "pretrain: steps: 40 is not a multiple of log_every: 15"),
    (edited("refine", "evaluate_every", to=40), "tasks.umaze.refine: 1 evaluations in 40 steps, but"),
    (edited("seeds", to=[0, 1, 0]), "seeds: duplicate 0, allowed: each once"),
    (edited("seeds", to=[]), "seeds: [], allowed: at least 1 item"),
    (edited("seeds", to=3), "seeds: 3, allowed: a list"),
    (edited("seeds", 1, to=-1), "seeds.1: -1, allowed: greater than or equal to 0"),
    (edited("theory", "budgets", to=[0.003]), "theory.budgets: [0.003], allowed: at least 2 items"),
    (edited("theory", "budgets", to=[0.003, 0.001, 0.003]), "theory.budgets: duplicate 0.003, allowed: each once"),
    (edited("theory", "t_eps", to=1.0), "theory.t_eps: 1.0, allowed: less than 1"),
    (edited("network", "hidden", to=[16, 0]), "network.hidden.1: 0, allowed: greater than or equal to 1"),
    (edited("compute", "device", to="gpu"), "compute.device: 'gpu', allowed: 'auto', 'cpu' or 'cuda'"),
    (edited(*FIDEC, "metric", to="fisher"), "methods.fidec.train.metric: 'fisher', allowed: 'identity', 'action', "),
    (edited(*FIDEC, "t_eps", to=[0.9, 0.8]), "methods.fidec.train: t_eps: [0.9, 0.8] is not a window"),
    (edited(*FIDEC, "t_eps", to=0.8), "methods.fidec.train.t_eps: 0.8, allowed: a list"),
    (edited(*FIDEC, "t_eps", to=[0.8, 1.0]), "methods.fidec.train.t_eps.1: 1.0, allowed: less than 1"),
    (edited(*FIDEC, "dual", drop=True), "methods.fidec.train.dual: is missing"),
    (
        edited(*FIDEC, "dual_init", to=0.0),
        "methods.fidec.train.dual_init: 0.0, allowed: greater than or equal to 0.000001",
    ),
    (edited(*FIDEC, "dual_rate", to=0.0), "methods.fidec.train.dual_rate: 0.0, allowed: greater than 0"),
    (edited(*FIDEC, "policy", to="sac"), "methods.fidec.train.policy: 'sac', allowed: 'flow', 'onestep', 'residual', "),
    (edited(*FIDEC, "policy", drop=True), "methods.fidec.train: the key 'policy' is missing"),
    (
        edited(*FIDEC, "policy", to="onestep"),
        "methods.fidec.train: unknown key 'metric', allowed: grad_clip, behaviour,",
    ),
    (
        edited("methods", "iql", "train", "extraction", to="bc"),
        "methods.iql.train.extraction: 'bc', allowed: 'awr' or ",
    ),
    (
        edited("methods", "rebrac", "train", "policy_every", to=0),
        "methods.rebrac.train.policy_every: 0, allowed: greater",
    ),
    (edited("methods", "fidec", "act", drop=True), "methods.fidec.act: is missing"),
    (edited("methods", "ifql", "act", "best_of", to=0), "methods.ifql.act.best_of: 0, allowed: greater than or equal"),
    (edited("methods", "fidec", "train", to="residual"), "methods.fidec.train: 'residual', allowed: a mapping"),
    (edited("methods", "../fidec", to=FLOW), "methods.../fidec: '../fidec', allowed: lower-case letters, digits and -"),
    (
        edited("methods", "fidec", "refine", to={"tau": "x"}),
        "tasks.umaze with methods.fidec.refine.tau: 'x', allowed: a number",
    ),
    (
        edited("methods", "fidec", "refine", to={"tua": 0.1}),
        "tasks.umaze with methods.fidec.refine: unknown key 'tua', allowed: learning_rate,",
    ),
    (
        edited("ablations", "metric", "values", to={"state": "fidec"}),
        "ablations.metric.values: {'state': 'fidec'}, allowed",
    ),
    (edited("ablations", drop=True), "ablations: is missing"),
    (
        edited("tasks", "Maze", to=TINY["tasks"]["umaze"]),
        "tasks.Maze: 'Maze', allowed: lower-case letters, digits and -, ",
    ),
    (edited("tasks", "a" * 65, to=TINY["tasks"]["umaze"]), "-, like antmaze-large, at most 64 characters"),
    (edited("tasks", to={}), "tasks: {}, allowed: at least 1 item"),
    (edited(*MAZE, "refine", "dicount", to=0.9), "tasks.umaze.refine: unknown key 'dicount', allowed: learning_rate,"),
    (edited(*MAZE, "refine", "discount", to=2.0), "tasks.umaze.refine.discount: 2.0, allowed: less than 1"),
    (edited(*MAZE, "refine", "steps", to=50), "tasks.umaze.refine: steps: 50 is not a multiple of"),
    (edited(*MAZE, "evaluate", drop=True), "tasks.umaze.evaluate: is missing"),
    (edited(*CUBE, "data", "source", to="web"), "tasks.cube-single.data.source: 'web', allowed: 'ogbench', 'minari', "),
    (edited(*CUBE, "data", "collector", to="human"), "tasks.cube-single.data.collector: 'human', allowed: 'play', "),
    (edited(*CUBE, "data", "source", drop=True), "tasks.cube-single.data: the key 'source' is missing"),
    (edited(*CUBE, "data", "episodes", to=0), "tasks.cube-single.data.episodes: 0, allowed: greater than or"),
    (
        edited(*CUBE, "data", "dataset", to="../../x"),
        "tasks.cube-single.data.dataset: '../../x', allowed: letters, digits, - and _, like cube-",
    ),
    (edited(*CUBE, "data", "horizon", to=9), "tasks.cube-single.data: unknown key 'horizon', allowed: source,"),
    (edited(*CUBE, "data", to="cube"), "tasks.cube-single.data: 'cube', allowed: a mapping"),
    (
        edited(*MAZE, "data", "dataset", to="a/../b-v0"),
        "tasks.umaze.data.dataset: 'a/../b-v0', allowed: letters, digits, -, _ and /, with",
    ),
    (edited(*MAZE, "data", "start", to=[1]), "tasks.umaze.data.start.1: is missing"),
    (edited(*MAZE, "data", "environment", to="Maze-v3"), "environment: 'Maze-v3', allowed: PointMaze_…-v3, a maze of"),
    (edited("suite", to="A suite"), "suite: 'A suite', allowed: lower-case letters, digits and -, like antmaze-large"),
    (edited("download", "folder", to="a\x01b"), "download.folder: 'a\\x01b', allowed: a folder: absolute, in the home"),
    (
        edited("download", "folder", to=""),
        "download.folder: '', allowed: a folder: absolute, in the home folder (~/…) or",
    ),
    (edited("download", "mirrors", 0, to="ftp://x"), "download.mirrors.0: 'ftp://x', allowed: an address that begins"),
]


@pytest.mark.parametrize(("text", "message"), BAD_VALUES, ids=[message[:40] for _, message in BAD_VALUES])
def test_a_bad_value_is_one_line(text: str, message: str, tmp_path: Path) -> None:
    refused(text.encode(), message, tmp_path)


def with_method(train: dict[str, Any], *, base: str = "fidec", refine: Any = None, act: Any = None) -> str:
    """tests/tiny.yaml with a method `new`: another one but for these lines."""
    method = copy.deepcopy(TINY["methods"][base])
    method["train"] |= train
    method["refine"], method["act"] = refine or {}, method["act"] | (act or {})
    return edited("methods", "new", to=method)


STEIN, DESMOOTH = {"metric": "stein", "normalise": "batch"}, {"desmooth": True}
MEANINGLESS: dict[str, tuple[str, str]] = {
    "a flow that moves under a bank": (
        with_method({"behaviour": "joint"}),
        "tasks.umaze with methods.new.refine.bank: 4, but behaviour 'joint' trains the flow, and a bank keeps its old actions (allowed: 0)",
    ),
    "a one-step policy's flow that moves under a bank": (
        with_method({"behaviour": "joint"}, base="fql"),
        "tasks.umaze with methods.new.refine.bank: 4, but behaviour 'joint' trains the flow",
    ),
    "stein by a trace that it does not have": (
        with_method(STEIN | {"normalise": "state"}),
        "methods.new.train: normalise: 'state', but the metric 'stein' has no Fisher matrix of a state (allowed: none, batch)",
    ),
    "stein without a score": (
        with_method(STEIN | {"score": "velocity"}),
        "methods.new.train: score: 'velocity', but the metric 'stein' needs a true score (allowed: exact)",
    ),
    "a curvature of what is no score": (
        with_method({"metric": "curvature", "score": "velocity"}),
        "methods.new.train: score: 'velocity', but the metric 'curvature' needs a true score (allowed: exact)",
    ),
    "desmoothing no matrix": (
        with_method(DESMOOTH | {"metric": "identity"}),
        "methods.new.train: desmooth: true, but the metric 'identity' has no Fisher matrix of a state (allowed: false)",
    ),
    "desmoothing an action's score": (
        with_method(DESMOOTH | {"metric": "action"}),
        "methods.new.train: desmooth: true, but the metric 'action' has no Fisher matrix of a state (allowed: false)",
    ),
    "desmoothing what is no score": (
        with_method(DESMOOTH | {"score": "velocity"}),
        "methods.new.train: desmooth: true, but score 'velocity' gives no true scores (allowed: false)",
    ),
    "desmoothing at many times": (
        with_method(DESMOOTH | {"t_eps": [0.7, 0.8]}),
        "methods.new.train: desmooth: true, but t_eps: [0.7, 0.8] is not a single time (allowed: false)",
    ),
    "desmoothing without a bank": (
        with_method(DESMOOTH, refine={"bank": 0}),
        "tasks.umaze with methods.new.refine.bank: 0, but desmooth: true needs a bank, because it is done once per state",
    ),
    "more scores than actions": (
        with_method({"fisher_samples": 5}),
        "tasks.umaze with methods.new.refine.bank: 4, but fisher_samples: 5 needs as many (allowed: 0, or 5 or more)",
    ),
    "the best by no critic": (
        with_method({}, base="bc", act={"best_of": 2}),
        "methods.new.act.best_of: 2, but this policy has no critic (allowed: 1)",
    ),
    "the best of one Gaussian's mean": (
        with_method({}, base="iql", act={"best_of": 4}),
        "methods.new.act.best_of: 4, but this policy has only one action per state (allowed: 1)",
    ),
    "the best of one action": (
        with_method({}, base="rebrac", act={"best_of": 4}),
        "methods.new.act.best_of: 4, but this policy has only one action per state (allowed: 1)",
    ),
    "refinements of a flow": (
        with_method({}, base="bc", act={"refinements": 2}),
        "methods.new.act.refinements: 2 with policy 'flow' (allowed: 1; with a residual, more)",
    ),
    "refinements of a one-step policy": (
        with_method({}, base="fql", act={"refinements": 2}),
        "methods.new.act.refinements: 2 with policy 'onestep' (allowed: 1; with a residual, more)",
    ),
    "a schedule of its own": (
        with_method({}, refine={"steps": 80}),
        "methods.new: refine.steps: all methods of a task share one schedule, allowed: other keys of refine",
    ),
    "evaluations of its own": (
        with_method({}, refine={"evaluate_every": 10}),
        "methods.new: refine.evaluate_every: all methods of a task share one schedule, allowed: other keys of refine",
    ),
    "a comparison with a method that is not there": (
        edited("ablations", "metric", "values", "state", to="sac"),
        "ablations.metric.values.state: 'sac' does not exist, allowed: bc, ifql, fql, iql, rebrac, fidec, deflow, ",
    ),
    "a bank too small for a method": (
        edited("refine", "bank", to=3),
        "tasks.umaze with methods.fidec.refine.bank: 3, but fisher_samples: 4 needs as many (allowed: 0, or 4 or more)",
    ),
}


@pytest.mark.parametrize("name", MEANINGLESS)
def test_a_combination_without_meaning_is_refused_with_its_reason(name: str, tmp_path: Path) -> None:
    text, message = MEANINGLESS[name]
    refused(text.encode(), f"params.yaml: {message}", tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        with_method({"behaviour": "joint"}, refine={"bank": 0}),
        with_method({"behaviour": "joint"}, base="fql", refine={"bank": 0}),
        with_method(STEIN),
        with_method(STEIN | {"normalise": "none", "t_eps": [0.7, 0.9]}),
        with_method({"metric": "action", "score": "velocity"}),
        with_method(DESMOOTH),
        with_method({"fisher_samples": 5}, refine={"bank": 5}),
        with_method({"fisher_samples": 5}, refine={"bank": 0}),
        with_method({"fisher_samples": 5, "metric": "identity"}),
        with_method({"critic": "expectile"}, base="bc", act={"best_of": 16}),
        with_method({}, base="fql", act={"best_of": 2}),
        with_method({}, act={"best_of": 2, "refinements": 3}),
    ],
)
def test_their_neighbours_with_a_meaning_are_read(text: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    assert "new" in read_settings(path).methods


BOMB = "\n".join(["a0: &a0 [x, x, x]", *(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]" for i in range(1, 30))])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"- 1\n- 2\n", "holds list, allowed: a mapping of sections"),
        (b"", "holds NoneType, allowed: a mapping of sections"),
        (b"seeds: [0, 1\nb: }", "not YAML: "),
        (b"\xff\xfe\x00a", "cannot be read: "),
        (b"a: \x00", "not YAML: "),
        (b"a: !!python/object/apply:os.getcwd []", "os.getcwd' in line 1 cannot be read"),
        (b"{a: 1}: 2", "not YAML: "),
        (b"a: " + b"[" * 5000, "nested too deeply"),
        (FILES[1].read_bytes() + b"seeds: [5]\n", 'found duplicate key "seeds"'),
        (FILES[1].read_bytes().replace(b"  cube-single:", b"  umaze:"), 'found duplicate key "umaze"'),
        (BOMB.encode(), "values (aliases expanded), allowed: up to 10000"),
        (b"a: &a [*a]", "nested too deeply"),
        (b"a: &a {b: *a}", "nested too deeply"),
    ],
)
def test_what_is_no_settings_file_is_one_line(content: bytes, message: str, tmp_path: Path) -> None:
    start = time.process_time()
    refused(content, message, tmp_path)
    assert time.process_time() - start < 5


def refused(content: bytes, message: str, folder: Path) -> None:
    path = folder / "params.yaml"
    path.write_bytes(content)
    with pytest.raises(FdError) as error:
        read_settings(path)
    told = str(error.value)
    assert told.startswith(f"{path}: ") and message in told
    assert "\n" not in told and len(told) < len(str(path)) + 400
    assert "pattern" not in told and "^" not in told  # words, no regular expressions


@pytest.mark.parametrize("folder", ["x", "./x", "x/", "../x", "a//b", "..x", "/x", "~/x", "~", ".", "ein Ordner/ä"])
def test_any_folder_is_allowed_for_downloads(folder: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(edited("download", "folder", to=folder))
    assert read_settings(path).part(Download, "download").folder == folder


@pytest.mark.parametrize("mark", [b"", b"\xef\xbb\xbf"])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_byte_order_mark_and_line_ends_change_no_value(mark: bytes, end: bytes, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(mark + FILES[0].read_bytes().replace(b"\n", end))
    assert read_settings(path) == read_settings(FILES[0])
    assert repr(load_yaml(str(path))) == repr(read_settings(path).values)


class WrittenOut(yaml.SafeDumper):
    """YAML without aliases."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def test_aliases_and_merges_are_read_as_what_they_stand_for(tmp_path: Path) -> None:
    plain, path = tmp_path / "plain.yaml", tmp_path / "params.yaml"
    plain.write_text(yaml.dump(TINY, Dumper=WrittenOut, sort_keys=False))
    text = FILES[1].read_text()
    assert text.count("<<: *fidec") >= 3 and text.count("*act") >= 3 and not {"<<", "*", "&"} & set(plain.read_text())
    path.write_text(
        text.replace("    network: {}\n", "    network: &none {}\n", 1).replace("evaluate: {}", "evaluate: *none")
    )
    assert read_settings(plain) == read_settings(FILES[1]) == read_settings(path)
    assert load_yaml(str(path)) == load_yaml(str(plain)) == TINY


@pytest.mark.parametrize("name", ["no.yaml", "."])
def test_a_file_that_cannot_be_read_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(FdError, match=r"cannot be read: "):
        read_settings(tmp_path / name)


def test_what_does_not_exist_is_told_with_what_does() -> None:
    settings = read_settings(FILES[1])
    with pytest.raises(FdError, match=r"^tasks: 'cube' does not exist, allowed: umaze, cube-single$"):
        settings.part(DATA, "tasks", "cube", "data")
    with pytest.raises(FdError, match=r"^methods: 'sac' does not exist, allowed: bc, ifql, fql, iql, rebrac, "):
        settings.section(Refine, "refine", "umaze", "sac")


NUMBERS = "1e-05 1e-3 1.0e-5 3.0e-4 1E5 1e+3 4.0e- 1e 010 08 0o10 0O7 0x1f 0b11 1_000 1_0.5 1. .5 +1 -0 12:30 1:20:30.5"
WORDS = "yes no on off y True TRUE false ~ null Null .inf -.inf .INF .nan inf nan '1e-3' '' _1 0xZ"
SPELLINGS = (*NUMBERS.split(), *WORDS.split(), "", "a b", "[1, [2]]", "{a: 1}", "1 # c", "'# c'", "|\n  a", "&a 1")
DATES = ("2024-01-01", "2024-01-01 10:00:00", "2024-01-01T10:00:00Z", "2001-12-14t21:59:43.10-05:00")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_value_is_what_dvc_reads(spelling: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"x: {spelling}\n")
    assert repr(read_yaml(path.read_text(), "x")) == repr(load_yaml(str(path)))


@pytest.mark.parametrize("spelling", DATES)
def test_a_date_which_no_setting_takes_is_told(spelling: str, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(f"x: {spelling}\n")
    assert isinstance(load_yaml(str(path))["x"], datetime.date)
    with pytest.raises(FdError, match=r"^x: x: holds a date(time)?, allowed: text, in quotes if necessary, numbers, "):
        read_yaml(path.read_text(), "x")


GIVEN = (*SPELLINGS, *DATES, "1e22", "1e16", "100000.0", "123456789012345678901", "'12:30'", "'null'", "' x '", "'é'")


@pytest.mark.parametrize("given", [text for text in GIVEN if text not in ("~", "1 # c", "|\n  a", "&a 1")])
def test_what_dvc_writes_is_read(given: str, tmp_path: Path) -> None:
    """`dvc exp run -S x=1.0e-5` writes 1e-05."""
    path = tmp_path / "params.yaml"
    path.write_text("x: 0\n")
    apply_overrides(str(path), [f"x={given}"])
    assert repr(read_yaml(read_text(path), "x")) == repr(load_yaml(str(path)))


def test_an_experiment_with_a_small_number(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(FILES[0].read_text())
    apply_overrides(str(path), ["pretrain.learning_rate=1.0e-5", "+methods.fidec.refine.tau=1e-3", "seeds=[7]"])
    assert "learning_rate: 1e-05" in path.read_text()
    settings = read_settings(path)
    assert settings.section(Pretrain, "pretrain", "cube-single").learning_rate == 1.0e-5
    assert settings.section(Refine, "refine", "cube-single", "fidec").tau == 1.0e-3 and settings.seeds == (7,)
