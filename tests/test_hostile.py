"""Files from outside that were made to harm: each is refused in one line, in little time and memory, and none of it is run."""

from __future__ import annotations

import json
import resource
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from time import process_time
from typing import Any

import gymnasium
import h5py
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from robots import walk
from test_d4rl import DOOR
from test_minari import HAMMER, spec_of, write

from fd.datasets import d4rl, fetch, minari, ogbench
from fd.errors import FdError
from fd.reference import published as reference
from fd.reference import suites
from fd.reference.hyperparameters import hyperparameters
from fd.report import baseline
from fd.settings.settings_file import read_settings
from fd.simulation.environments import make, make_env, register
from fd.storage.transitions import Manifest

ROOT = Path(__file__).parent.parent
TINY = (ROOT / "tests" / "tiny.yaml").read_text()
SECONDS, MEMORY = 1.0, 2**30
ROWS = 40


@contextmanager
def bounded() -> Iterator[None]:
    """What runs inside takes a second of a processor and a gibibyte more than there is."""
    size = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    before, start = resource.getrlimit(resource.RLIMIT_AS), process_time()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert process_time() - start < SECONDS


def refused(read: Callable[[], object], *words: str) -> None:
    """The reader ends with one line of what a terminal can show, which has these words."""
    with bounded(), pytest.raises(FdError) as error:
        read()
    told = str(error.value)
    assert told.isprintable() and len(told) < 2000
    for word in words:
        assert word in told


def many(count: int) -> str:
    return ", ".join(map(str, range(count)))


def with_task(name: str) -> str:
    return TINY.replace("  umaze:", f"  {name}:")


BOMB = "\n".join(["a0: &a0 [x, x, x]", *(f"a{i}: &a{i} [{f'*a{i - 1}, ' * 9}]" for i in range(1, 30))])
MERGES = "\n".join(["a0: &a0 {k: 1, l: 2}", *(f"a{i}: &a{i} {{<<: [{f'*a{i - 1}, ' * 9}]}}" for i in range(1, 30))])
YAML: dict[str, tuple[str | bytes, str]] = {
    "aliases of aliases": (BOMB, "values (aliases expanded)"),
    "merges of merges": (MERGES, "holds too many keys and values"),
    "many merges": (f"a: &a {{{', '.join(f'k{i}: 1' for i in range(20))}}}\n" + "\n".join(f"b{i}: {{<<: *a}}" for i in range(1_200)), "holds too many keys and values"),
    "a merge of itself": ("a: &a {b: &b {<<: *a}}\nc: {<<: *b}", "nested too deeply"),
    "deep lists": ("a: " + "[" * 100_000, "nested too deeply"),
    "deep mappings": ("{a: " * 50_000, "nested too deeply"),
    "deep blocks": ("- " * 100_000, "nested too deeply"),
    "deep keys": ("? " * 100_000, "nested too deeply"),
    "many values": ("[" + "1," * 120_000 + "]", "holds too many keys and values"),
    "many keys": ("{" + ", ".join(f"k{i}: 1" for i in range(20_000)) + "}", "holds too many keys and values"),
    "many seeds": (TINY.replace("seeds: [0, 1]", f"seeds: [{many(20_000)}]"), "holds too many keys and values"),
    "a million seeds": (TINY.replace("seeds: [0, 1]", f"seeds: [{many(1_000_000)}]"), "more than 262144 bytes"),
    "a long number": (TINY.replace("[0, 1]", "[" + "9" * 200_000 + "]", 1), "200000 characters, allowed: up to 1000"),
    "a long hex": (TINY.replace("[0, 1]", "[0x" + "f" * 9000 + "]", 1), "9002 characters"),
    "a number in base 60": ("a: " + ":".join(["59"] * 80_000), "characters, allowed: up to 1000"),
    "no number": ("a: 0b_", "invalid literal for int() with base 2"),
    "no whole number": ("a: !!int foo", "the tag 'tag:yaml.org,2002:"),
    "an empty number": ("a: !!float ''", "the tag 'tag:yaml.org,2002:float'"),
    "no truth value": ("a: !!bool foo", "the tag 'tag:yaml.org,2002:"),
    "a date": ("a: 2024-99-99", "month must be in 1..12"),
    "bytes": ("a: !!binary '!!!!'", "binary"),
    "a set": ("a: !!set {x, y}", "set"),
    "an object": ("a: !!python/object/apply:os.system [ls]", "python/object/apply:os.system"),
    "a key that is a number": (TINY.replace("network: {}", "network: {1: 2}", 1), "the key 1 must be a string"),
    "a key that is a truth value": (TINY.replace("  bc:", "  true:"), "the key True must be a string"),
    "a key that is a list": (TINY + "\n[a]: 2\n", "must be a string"),
    "a key twice": (TINY.replace("pretrain: {steps: 40,", "pretrain: {steps: 40, steps: 50,"), 'found duplicate key "steps" in line'),
    "a key twice, in quotes": (TINY + "\n'seeds': [5]\n", 'found duplicate key "seeds" in line'),
    "a name that clears the screen": (with_task('"\\e[2J\\n\\u202e"'), "\\x1b[2J\\n\\u202e"),
    "a raw escape": (b"a: \x1b[2J", "not YAML: "),
    "half a character": (with_task('"\\ud800"'), "\\ud800"),
    "UTF-16": (TINY.encode("utf-16"), "byte 0 is not UTF-8"),
    "UTF-16 without a mark": (TINY.encode("utf-16-le"), "not YAML: "),
    "two documents": (f"{TINY}\n---\n{TINY}", "a single document"),
    "infinity": (TINY.replace("alpha: 10.0", "alpha: 1.0e+400"), "refine.alpha: inf"),
}  # fmt: skip


@pytest.mark.parametrize("name", YAML)
def test_hostile_settings(name: str, tmp_path: Path) -> None:
    content, words = YAML[name]
    path = tmp_path / "params.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    refused(lambda: read_settings(path), str(path), words)


def test_settings_that_are_no_file_or_without_end(tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    with path.open("wb") as file:
        file.truncate(2**30)
    refused(lambda: read_settings(path), "has more than 262144 bytes")
    refused(lambda: read_settings(Path("/dev/zero")), "/dev/zero: cannot be read: ")
    refused(lambda: read_settings(tmp_path), f"{tmp_path}: cannot be read: ")
    path.unlink()
    path.symlink_to(path.name)
    refused(lambda: read_settings(path), "cannot be read: ")


Fields = dict[str, Any]


def door(folder: Path, **fields: Any) -> Path:
    """A file as D4RL has it, with these fields; one that is a function is called with file and name."""
    known: Fields = {
        "observations": np.zeros((ROWS, 39), np.float32), "actions": np.zeros((ROWS, 28), np.float32),
        "rewards": np.zeros(ROWS, np.float32), "terminals": np.zeros(ROWS, bool), "timeouts": np.arange(ROWS) == ROWS - 1,
    }  # fmt: skip
    path = folder / DOOR.file
    with h5py.File(path, "w") as file:
        for name, values in (known | fields).items():
            if callable(values):
                values(file, name)
            else:
                file[name] = values
    return path


def virtual(file: h5py.File, name: str) -> None:
    layout = h5py.VirtualLayout((ROWS, 39), "f4")
    layout[:] = h5py.VirtualSource("other.hdf5", "observations", (ROWS, 39))
    file.create_virtual_dataset(name, layout)


HDF5: dict[str, tuple[Fields, str]] = {
    "a shape of 1e12": (
        {"observations": lambda f, k: f.create_dataset(k, (10**12, 39), "f4", chunks=(1000, 39))},
        "'observations' declares more data than the file can hold",
    ),
    "zeros that shrink": (
        {"observations": lambda f, k: f.create_dataset(k, (10**7, 39), "f4", chunks=(10**5, 39), compression=9)},
        "'observations' declares more data than the file can hold",
    ),
    "a link to a file": ({"observations": lambda f, k: f.__setitem__(k, h5py.ExternalLink("/etc/x.hdf5", "a"))}, "is a link, allowed"),
    "a link upwards": ({"observations": lambda f, k: f.__setitem__(k, h5py.SoftLink("/../../x"))}, "is a link, allowed"),
    "a link to itself": ({"observations": lambda f, k: f.__setitem__(k, h5py.SoftLink("/observations"))}, "is a link, allowed"),
    "bytes of another file": (
        {"observations": lambda f, k: f.create_dataset(k, (ROWS, 39), "u1", external=[("/etc/passwd", 0, ROWS * 39)])},
        "is stored in another file",
    ),
    "a view of another file": ({"observations": virtual}, "is stored in another file"),
    "text": ({"observations": lambda f, k: f.create_dataset(k, data=[["a"] * 39] * ROWS, dtype=h5py.string_dtype())}, "is object"),
    "lists": ({"observations": lambda f, k: f.create_dataset(k, (ROWS, 39), h5py.vlen_dtype(np.float32))}, "is object"),
    "complex numbers": ({"observations": np.zeros((ROWS, 39), complex)}, "'observations' is complex128, allowed: numbers"),
    "records": ({"rewards": np.zeros(ROWS, [("a", "f4")])}, "allowed: numbers"),
    "flags that are text": ({"terminals": np.full(ROWS, b"x")}, "allowed: numbers"),
    "flags that are NaN": ({"terminals": np.full(ROWS, np.nan)}, "'terminals' holds NaN or infinity"),
    "too large for a float32": ({"observations": np.full((ROWS, 39), 1e300)}, "NaN or infinity, first in row 0"),
    "nothing": ({"rewards": h5py.Empty("f4")}, "'rewards' holds nothing, allowed: numbers"),
    "one number": ({"observations": np.float32(1)}, "'observations' has shape (), allowed: 2 dimensions"),
    "no columns": ({"observations": np.zeros((ROWS, 0), np.float32)}, "has shape (40, 0)"),
    "a name that clears the screen": ({"rewards": lambda f, k: None, "\x1b[2J\n": np.zeros(1)}, "lacks the field 'rewards', found: \\x1b[2J\\n"),
}  # fmt: skip


@pytest.mark.parametrize("name", HDF5)
def test_hostile_files_of_d4rl(name: str, tmp_path: Path) -> None:
    fields, words = HDF5[name]
    path = door(tmp_path, **fields)
    refused(lambda: d4rl.convert_d4rl(path, DOOR), str(path), words)


def test_a_file_of_d4rl_that_is_fine_is_read(tmp_path: Path) -> None:
    def packed(file: h5py.File, name: str) -> None:
        file["elsewhere"] = file  # a circle of hard links, all within the file
        file.create_dataset(name, data=np.ones(ROWS), chunks=(10,), compression=9, shuffle=True, fletcher32=True)

    assert d4rl.convert_d4rl(door(tmp_path, rewards=packed), DOOR).rewards.sum() == ROWS - 1


@pytest.fixture(scope="module")
def hammer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Minari's folder with a set of two short episodes."""
    folder = tmp_path_factory.mktemp("minari")
    register()
    spec = spec_of(HAMMER.environment, 20)
    env = make(spec)
    walks = [walk(env, seed, 6) for seed in (0, 1)]
    env.close()
    with minari.root_at(folder):
        write(HAMMER.dataset, spec, walks)
    return folder


@pytest.fixture
def minari_set(hammer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the files of a copy of that set."""
    shutil.copytree(hammer, tmp_path / "minari")
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path / "minari"))
    return tmp_path / "minari" / HAMMER.dataset / "data"


def change(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "metadata.json"
    values = json.loads(path.read_text())
    edit(values)
    path.write_text(json.dumps(values))


def converted() -> None:
    minari.convert_minari(minari.find_minari(HAMMER), HAMMER)


def respec(**changes: Any) -> Callable[[dict[str, Any]], object]:
    return lambda values: values.update(env_spec=json.dumps(json.loads(values["env_spec"]) | changes))


def test_a_set_names_code_that_is_not_run(minari_set: Path, tmp_path: Path) -> None:
    """Minari makes the environment of a set that does not tell its spaces, whatever that is."""
    proof = tmp_path / "proof"
    change(minari_set, respec(entry_point="pathlib:Path.touch", kwargs={"self": str(proof)}))
    change(minari_set, lambda values: values.pop("observation_space"))
    refused(converted, "metadata.json: lacks a space, and env_spec is not from gymnasium-robotics")
    change(minari_set, respec(entry_point="os:system", kwargs={"command": f"touch {proof}"}))
    refused(converted, "metadata.json: lacks a space, and env_spec is not from gymnasium-robotics")
    assert not proof.exists()


METADATA: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "1e12 episodes": (lambda values: values.update(total_episodes=10**12), "allowed: up to the 2 that main_data.hdf5 has"),
    "-1 episodes": (lambda values: values.update(total_episodes=-1), "total_episodes is -1"),
    "another format": (lambda values: values.update(data_format="arrow"), "data_format is not 'hdf5'"),
    "another set": (lambda values: values.update(dataset_id="../x-v0"), "holds '../x-v0', allowed: "),
    "a model of its own": (respec(kwargs={"xml_file": "/etc/passwd"}), "has the option 'xml_file', allowed: maze_map, "),
    "a vast maze": (respec(kwargs={"maze_map": [[0] * 99] * 99}), "maze_map must be a map of up to 64 x 64 cells"),
    "requirements": (lambda values: values.update(requirements=["!"]), "its requirements cannot be read"),
    "deep spaces": (lambda values: values.update(observation_space='{"type":"Tuple","subspaces":[' * 5000), "cannot be read"),
}  # fmt: skip


@pytest.mark.parametrize("name", METADATA)
def test_hostile_metadata_of_minari(name: str, minari_set: Path) -> None:
    edit, words = METADATA[name]
    change(minari_set, edit)
    refused(converted, words)


@pytest.mark.parametrize("content", [b"", b"[]", b"[" * 100_000, b'{"x": ' + b"9" * 100_000 + b"}", b"\xff\xfe"])
def test_metadata_of_minari_that_is_none(content: bytes, minari_set: Path) -> None:
    (minari_set / "metadata.json").write_bytes(content)
    refused(converted, "metadata.json: ")


EPISODES: dict[str, tuple[str, Any, str]] = {
    "a link": (
        "observations",
        h5py.ExternalLink("/etc/x.hdf5", "a"),
        "'episode_0/observations' is a link, allowed",
    ),
    "text": ("actions", np.full((6, 26), b"x"), "'actions' is |S1, allowed: numbers"),
    "fewer rewards": ("rewards", np.zeros(3), "'rewards' has shape (3,) in an episode of 6 steps"),
    "another width": ("observations", np.zeros((7, 7)), "other episodes have rows of shape (7,)"),
    "NaN": ("rewards", np.full(6, np.nan), "'rewards' holds NaN or infinity"),
    "one number": ("rewards", 1.0, "cannot be read"),
    "no steps": ("actions", np.zeros((0, 26)), "in an episode of 0 steps"),
}


@pytest.mark.parametrize("name", EPISODES)
def test_hostile_episodes_of_minari(name: str, minari_set: Path) -> None:
    field, values, words = EPISODES[name]
    with h5py.File(minari_set / "main_data.hdf5", "a") as file:
        del file["episode_0"][field]
        file["episode_0"][field] = values
    refused(converted, words)


def test_a_manifest_names_code_that_is_not_run(tmp_path: Path) -> None:
    known = json.loads(gymnasium.spec("Reacher-v5").to_json())
    wrapper = {"name": "x", "entry_point": "os:system", "kwargs": {}}
    for spec, words in (
        (known | {"entry_point": "os:system", "kwargs": {"command": f"touch {tmp_path / 'proof'}"}}, "'os:system'"),
        (known | {"additional_wrappers": [wrapper]}, "'os:system' is not known"),
        (known | {"additional_wrappers": [wrapper | {"entry_point": "fd.wrappers:cast"}]}, "'fd.wrappers:cast' is not"),
        (
            known | {"additional_wrappers": [wrapper | {"entry_point": "fd.simulation.environments:FlatEnv"}]},
            "FlatEnv' is not",
        ),
        (known | {"id": "Nowhere-v0"}, "'Nowhere-v0' is not known"),
        (known | {"additional_wrappers": 3}, "cannot be read"),
        ({}, "cannot be read"),
    ):
        manifest = object.__new__(Manifest)
        object.__setattr__(manifest, "environment", {"suite": "minari", "spec": spec, "observation": []})
        object.__setattr__(manifest, "horizon", 5)
        refused(lambda manifest=manifest: make_env(manifest), "environment.spec: ", words)
    assert not (tmp_path / "proof").exists()


@pytest.fixture(scope="module")
def maze() -> Iterator[gymnasium.Env[Any, Any]]:
    """An environment of OGBench whose files have no field but the common ones."""
    env = make("pointmaze-medium-singletask-task1-v0")
    yield env
    env.close()


def rows_of(env: gymnasium.Env[Any, Any]) -> dict[str, Any]:
    env.reset()
    inner: Any = env.unwrapped
    shapes = {"observations": env.observation_space.shape, "actions": env.action_space.shape}
    shapes |= {"qpos": inner.data.qpos.shape, "qvel": inner.data.qvel.shape, "terminals": ()}
    return {name: np.zeros((6, *shape), np.float32) for name, shape in shapes.items()}


class Harmful:
    """Unpickling it would make a folder."""

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.mkdir, (Path("unpickled"),)


@pytest.mark.parametrize(
    ("field", "values", "words"),
    [
        (
            "observations",
            np.array([Harmful()] * 6, object),
            "observations.npy holds objects, which are never unpickled",
        ),
        ("observations", np.full((6, 2), "x"), "allowed: numbers"),
        ("actions", np.zeros((6, 2), complex), "'actions' is complex128, allowed: numbers"),
        ("qpos", np.full((6, 2), 1e300), "'qpos' holds NaN or infinity"),
        ("qvel", np.zeros((5, 2)), "'qvel' has 5 rows, 'observations' has 6"),
        ("terminals", np.zeros((6, 1)), "'terminals' has rows of shape (1,), allowed: ()"),
        ("observations", np.zeros((6, 2), np.uint8), "'observations' is uint8, allowed: floats"),
    ],
)
def test_hostile_files_of_ogbench(
    field: str, values: Any, words: str, maze: gymnasium.Env[Any, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    np.savez("set.npz", **(rows_of(maze) | {field: values}))
    name = ogbench.parse_name("pointmaze-medium-navigate-singletask-task1-v0")
    refused(lambda: ogbench.convert_ogbench(Path("set.npz"), name), "set.npz: ", words)
    assert not Path("unpickled").exists()


@pytest.mark.parametrize("name", ["../x-play-singletask-v0", "cube-single-play-singletask-v0/../..", "a\n-b-singletask-v0", "/etc-x-singletask-v0"])  # fmt: skip
def test_names_of_sets_stay_in_their_folder(name: str) -> None:
    refused(lambda: ogbench.parse_name(name), "is not an OGBench single-task set")


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"3", b"{}", b'{"sha256": 3}', b'{"sha256": "\\u001b[2J"}', b"[" * 100_000, b"\xff"]
)
def test_hostile_records_of_downloads(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    path.write_bytes(b"PK")
    (tmp_path / "set.npz.json").write_bytes(content)
    refused(lambda: fetch.verified(path), "set.npz.json: ")


@pytest.fixture
def published(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "reference", tmp_path / "reference"))


@pytest.mark.parametrize(
    ("name", "old", "new", "words"),
    [
        ("protocols.csv", ",50,", ",nan,", "'nan', allowed: finite numbers"),
        ("protocols.csv", ",50,", ",1e999,", "'1e999', allowed: finite numbers"),
        ("protocols.csv", ",50,", ",1.5,", "'1.5', allowed: whole numbers from 1"),
        ("tasks.csv", ",1000,", ",-1,", "'-1', allowed: whole numbers from 1"),
        ("tasks.csv", "task,", "\x1b[2J,", "columns '\\x1b[2J,"),
        ("tasks.csv", ",", "\0,", "columns 'task\\x00"),
        ("tasks.csv", "\n", '\n"' + "x" * 200_000, "cannot be read: field larger"),
        ("scores.csv", "task", "x" * 2**22, "has more than 4194304 bytes"),
    ],
)
def test_hostile_tables(name: str, old: str, new: str, words: str, published: Path) -> None:
    path = published / name
    path.write_text(path.read_text().replace(old, new, 1))
    refused(lambda: reference.load_reference(published), name, words)


def test_hostile_values_of_settings_tables(published: Path) -> None:
    path = published / "settings.csv"
    for value in ("[" * 5000, "!!python/name:os.system", "2024-99-99", "9" * 5000, "&a [*a]"):
        path.write_text(f"datasets,method,key,value,source\n*,all,refine.tau,{value},paper\n")
        refused(lambda: hyperparameters(published), "settings.csv:2: ")


def test_hostile_suites(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(ROOT / "suites", tmp_path / "suites"))
    for content in ("[]", "refine: {}", "refine: {}\nmethods: 3", "refine: {}\nmethods: {a: {}}", BOMB):
        (folder / "benchmark" / "settings.yaml").write_text(content)
        refused(lambda: suites.suite_texts(folder, ROOT / "reference"), "settings.yaml: ")
    (folder / "own.yaml").write_bytes(b"\xff\xfe")
    refused(lambda: suites.suite_texts(folder, ROOT / "reference"), "own.yaml: ")


# What a fuzzer puts into a file: of YAML, JSON, CSV, HDF5 and zip.
TOKENS = [b"", b"\n", b"  ", b"\t", b":", b": ", b"- ", b"[", b"]", b"{", b"}", b",", b'"', b"'", b"#", b"&a ", b"*a", b"<<: *a", b"!!int ", b"!!set ",
          b"? ", b"|\n", b"~", b"null", b"true", b"on", b"-1", b"0", b"1e999", b".nan", b"NaN", b"1:2:3", b"0x_", b"2024-01-01", b"9" * 50, b"\0",
          b"\xff" * 8, b"\0" * 8, b"\x1b[2J", "\u202e".encode(), b"\xed\xa0\x80", b"../", b"PK\x03\x04", b"TREE", b"SNOD", b"\x89HDF"]  # fmt: skip
EDITS = st.lists(st.tuples(st.floats(0, 1), st.integers(0, 20), st.sampled_from(TOKENS)), min_size=1, max_size=4)


def mutated(content: bytes, edits: list[tuple[float, int, bytes]]) -> bytes:
    """The content with some of its bytes replaced by tokens; a cut as long as 20 takes all that follows."""
    for place, cut, token in edits:
        at = int(place * len(content))
        content = content[:at] + token + (b"" if cut == 20 else content[at + cut :])
    return content


def fuzz(share: float) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Read so many times the examples of the Hypothesis profile."""
    options = settings(max_examples=round(share * settings().max_examples))
    return lambda test: options(given(edits=EDITS)(test))


def survives(read: Callable[[], object]) -> None:
    """The reader gives a value or one line."""
    try:
        read()
    except FdError as error:
        assert str(error).isprintable() and len(str(error)) < 2000


def small(text: str) -> bytes:
    """Settings of one task and two methods, quick to read."""
    task, method = text.index("  cube-single:"), text.index("  ifql:")
    head = text[:task] + text[text.index("methods:\n") : method]
    fidec = text[text.index("  fidec:") : text.index("  fidec-stein:")]
    return (head + fidec + "ablations: {}\n" + text[text.index("online:") :]).encode()


@fuzz(8)
def test_fuzzed_settings(edits: Any, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_bytes(mutated(small(TINY), edits))
    survives(lambda: read_settings(path))


@fuzz(5)
def test_fuzzed_tables(edits: Any, tmp_path: Path) -> None:
    for name in ("scores.csv", "protocols.csv", "tasks.csv", "settings.csv"):
        lines = (ROOT / "reference" / name).read_bytes().splitlines(keepends=True)
        (tmp_path / name).write_bytes(mutated(b"".join(lines[:6]), edits))
    survives(lambda: reference.load_reference(tmp_path))
    survives(lambda: hyperparameters(tmp_path))


@fuzz(8)
def test_fuzzed_baselines(edits: Any, tmp_path: Path) -> None:
    path = tmp_path / "ci.json"
    path.write_bytes(mutated((ROOT / "baseline" / "ci.json").read_bytes(), edits))
    survives(lambda: baseline.load_baseline(path))


@fuzz(3)
def test_fuzzed_records_of_downloads(edits: Any, tmp_path: Path) -> None:
    path, record = tmp_path / "set.npz", tmp_path / "set.npz.json"
    path.write_bytes(b"PK")
    record.write_bytes(mutated(json.dumps(fetch.describe(path)).encode(), edits))
    survives(lambda: fetch.verified(path))


@fuzz(5)
def test_fuzzed_files_of_d4rl(edits: Any, tmp_path: Path) -> None:
    path = door(tmp_path)
    path.write_bytes(mutated(path.read_bytes(), edits))
    survives(lambda: d4rl.convert_d4rl(path, DOOR))


@fuzz(2)
def test_fuzzed_files_of_ogbench(edits: Any, maze: gymnasium.Env[Any, Any], tmp_path: Path) -> None:
    path = tmp_path / "set.npz"
    np.savez(path, **rows_of(maze))
    path.write_bytes(mutated(path.read_bytes(), edits))
    survives(lambda: ogbench._read_file(path, maze, None))


@fuzz(0.4)
def test_fuzzed_files_of_minari(edits: Any, hammer: Path) -> None:
    path = hammer / HAMMER.dataset / "data" / "metadata.json"
    whole = path.read_bytes()
    try:
        path.write_bytes(mutated(whole, edits))
        with minari.root_at(hammer):
            survives(lambda: minari.convert_minari(minari.find_minari(HAMMER), HAMMER))
    finally:
        path.write_bytes(whole)
