"""The stage `film`: which episodes it films, that the films are of the evaluated episodes, and what it leaves without a renderer."""

from __future__ import annotations

import io
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import TASK, settings
from edits import contents, outcome, program, write_params
from PIL import Image
from test_evaluate import MANIFEST

from fd.errors import FdError
from fd.report.path_figure import paths
from fd.report.style import style, svg
from fd.results.films import read_film
from fd.settings.settings_file import read_settings
from fd.simulation.episodes import Episode
from fd.simulation.filming import FRAMES, LARGEST, SIZE, STRIP, chosen, webp
from fd.storage.files import read_record, write_record
from stages import evaluate, film, refine, report

ROOT = Path(__file__).parent.parent
METHOD = "fidec"
CELL = ["--task", TASK, "--method", METHOD]
FOLDER = Path("films", TASK, METHOD)


def episode(seed: int, number: int, return_: float, success: bool) -> Episode:
    return Episode(seed, 10, number, return_, success, 5)


def test_the_first_success_and_the_first_failure_are_filmed() -> None:
    """In the order of seeds and episodes; one that there is not is left out."""
    rows = [episode(0, 0, -5, False), episode(0, 1, -2, True), episode(2, 0, -1, True), episode(2, 1, -9, False)]
    told = replace(MANIFEST, score="success", return_range=None)
    assert chosen(rows, told) == {"success": rows[1], "failure": rows[0]}
    assert list(chosen(rows, told)) == ["success", "failure"]
    assert chosen(rows[1:3], told) == {"success": rows[1]}
    assert chosen(rows, MANIFEST) == {"highest": rows[2], "lowest": rows[3]}  # by returns


def test_pictures_are_small_whatever_they_show() -> None:
    """Of noise, which WebP cannot make smaller."""
    random = np.random.default_rng(0)
    frames = [Image.fromarray(random.integers(0, 256, (SIZE, SIZE, 3), np.uint8)) for _ in range(FRAMES)]
    animation = webp(frames)
    assert len(animation) <= LARGEST and Image.open(io.BytesIO(animation)).n_frames == FRAMES


@pytest.fixture(scope="module")
def filmed(made: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project whose one run was refined, evaluated and filmed; copy it, leave it as it is."""
    folder = Path(shutil.copytree(made, tmp_path_factory.mktemp("filmed") / "project"))
    values = settings(METHOD) | {"film": {"tasks": [TASK], "methods": [METHOD]}}
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.delenv("MUJOCO_GL", raising=False)
        write_params(folder, values)
        for stage in (refine, evaluate, film):
            code, told = outcome(stage.app, CELL)
            assert code == 0, told
    return folder


@pytest.fixture
def project(filmed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, which is the current folder."""
    folder = Path(shutil.copytree(filmed, tmp_path / "project"))
    monkeypatch.chdir(folder)
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    return folder


def record() -> dict[str, Any]:
    return read_record(FOLDER / "film.json")


def picture(name: str) -> Any:
    return Image.open(io.BytesIO((FOLDER / name).read_bytes()))


def page() -> str:
    """The page of a report."""
    assert outcome(report.app, [f"--reference={ROOT / 'reference'}"]) == (0, "")
    return Path("reports/tiny/index.html").read_text()


def test_the_films_are_of_the_evaluated_episodes(project: Path) -> None:
    told = record()
    assert (told["differ"], told["episodes"], told["step"]) == (0, 4, 40)
    rows = [row.split(",") for row in Path("evals", TASK, f"{METHOD}.csv").read_text().splitlines()[1:]]
    last = {(int(row[0]), int(row[2])): row for row in rows if row[1] == "40"}
    assert [path["success"] for path in told["paths"]] == [row[4] == "1" for row in last.values()]
    for shot in told["shots"]:
        row = last[shot["seed"], shot["episode"]]
        assert (shot["kind"], shot["length"]) == ("success" if row[4] == "1" else "failure", int(row[5]))


def test_paths_begin_at_the_start_and_go_through_no_wall(project: Path) -> None:
    told = record()
    maze = told["maze"]
    first, width = np.array(maze["first"]), np.array(maze["next"]) - np.array(maze["first"])
    for path in told["paths"]:
        columns, rows = np.rint((np.array(path["points"]) - first) / width).astype(int).T
        assert (rows[0], columns[0]) == (3, 1)  # the start in tests/tiny.yaml
        assert not any(maze["walls"][i][j] for i, j in zip(rows, columns, strict=True))
        column, row = np.rint((np.array(path["goal"]) - first) / width).astype(int)
        assert (row, column) == (1, 1)


def test_the_figure_of_paths_has_a_panel_a_method(project: Path) -> None:
    told = read_film(FOLDER, {})
    with style():
        one, two = (svg(paths({TASK: dict.fromkeys(names, told)})) for names in (["a"], ["a", "b"]))
    assert one == svg_of(told)
    panels = [sum(g.get("id", "").startswith("axes_") for g in ElementTree.fromstring(x).iter()) for x in (one, two)]
    assert panels == [1, 2]


def svg_of(told: Any) -> str:
    with style():
        return svg(paths({TASK: {"a": told}}))


def test_pictures_show_the_episode_from_its_start_to_its_end(project: Path) -> None:
    told = record()
    if told["renderer"] is None:
        pytest.skip(told["unrendered"])
    for shot in told["shots"]:
        strip = picture(f"{shot['kind']}-strip.webp")
        animation = picture(f"{shot['kind']}.webp")
        assert strip.size == (STRIP * SIZE, SIZE) and animation.size == (SIZE, SIZE)
        assert FRAMES / 2 < animation.n_frames <= -(-shot["length"] // shot["every"]) + 1 <= FRAMES
        ends = [np.asarray(strip.crop((x, 0, x + SIZE, SIZE)), float) for x in (0, (STRIP - 1) * SIZE)]
        assert ends[0].std() > 10 and np.abs(ends[0] - ends[1]).max() > 50  # something is seen, and moves
    assert {path.name for path in FOLDER.iterdir()} == {"film.json", *told["files"]}
    assert all(path.stat().st_size <= LARGEST for path in FOLDER.glob("*.webp"))


def test_equal_inputs_give_equal_bytes_and_another_weight_does_not(project: Path) -> None:
    assert outcome(film.app, [*CELL, "--out=again"])[0] == 0
    assert contents(Path("again", TASK, METHOD)) == contents(FOLDER)
    told = record()
    other = {"weights": told["weights"] | {"step_000000040.safetensors": "00"}}
    with pytest.raises(FdError, match=r"film\.json: weights is not that of the run"):
        read_film(FOLDER, other)


def test_without_a_renderer_there_is_one_line_and_the_page(
    project: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("MUJOCO_GL", "disabled")
    paths_before = record()["paths"]
    assert program(monkeypatch, film.app, *CELL) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("film ")]
    assert len(lines) == 1 and lines[0].startswith(f"no pictures of {TASK} {METHOD}: ") and "disabled" in lines[0]
    told = record()
    assert told["renderer"] is None and told["unrendered"] in lines[0] and told["paths"] == paths_before
    assert [path.name for path in FOLDER.iterdir()] == ["film.json"]
    assert os.environ["MUJOCO_GL"] == "disabled"
    shown = page()
    assert '<section id="films">' in shown and "No pictures: " in shown and "data:image/webp" not in shown


def test_every_renderer_that_fails_is_named(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """EGL without a vendor, and OSMesa without its library."""
    monkeypatch.setenv("__EGL_VENDOR_LIBRARY_FILENAMES", "/nonexistent")
    monkeypatch.setenv("PYOPENGL_PLATFORM", "glx")  # no matter
    assert outcome(film.app, CELL)[0] == 0
    told = record()
    assert told["renderer"] == "osmesa" or ("egl" in told["unrendered"] and "osmesa" in told["unrendered"])


def test_the_page_shows_the_films(project: Path) -> None:
    told, shown = record(), page()
    assert '<section id="films">' in shown and f"{METHOD} on {TASK}" in shown
    assert shown.count("data:image/webp;base64,") == 2 * len(told["shots"]) * (told["renderer"] is not None)
    assert "ended as in the evaluation" in shown and "paths.svg" in Path("reports/tiny/report.md").read_text()


def test_the_page_says_where_a_replay_was_another_episode(project: Path) -> None:
    write_record(FOLDER / "film.json", record() | {"differ": 1})
    assert "1 of the 4 replayed episodes ended otherwise" in page()


def test_without_the_section_nothing_is_filmed_or_shown(project: Path) -> None:
    values = settings(METHOD)
    write_params(project, values)
    shutil.rmtree("films")
    assert '<section id="films">' not in page()
    assert "paths.svg" not in Path("reports/tiny/report.md").read_text()


@pytest.mark.parametrize(("name", "unknown"), [("tasks", "walk"), ("methods", "iql")])
def test_a_name_that_does_not_exist_is_refused(tmp_path: Path, name: str, unknown: str) -> None:
    write_params(tmp_path, settings(METHOD) | {"film": {"tasks": [], "methods": []} | {name: [unknown]}})
    with pytest.raises(FdError, match=rf"film\.{name}: '{unknown}' does not exist, allowed: "):
        read_settings(tmp_path / "params.yaml")


def test_damage_is_named_by_the_report(project: Path) -> None:
    for path in sorted(FOLDER.iterdir()):
        content = path.read_bytes()
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
        code, told = outcome(report.app, [f"--reference={ROOT / 'reference'}"])
        assert code == 2 and told.startswith(f"{path}: ") and "\n" not in told
        path.write_bytes(content)
    assert not Path("reports").exists()
