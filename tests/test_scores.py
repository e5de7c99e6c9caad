"""The protocol's score on tables that are worked out by hand, and every kind of gap in them."""

from pathlib import Path

import numpy as np
import pytest
from edits import refused

from fd.errors import FdError
from fd.results.episode_scores import COLUMNS, EvaluatedCell, read_episodes
from fd.storage.files import digests, write_record

CELL = EvaluatedCell("cube", "fql", seeds=(0, 7), steps=(100, 200, 300), episodes=2)


def lines() -> list[str]:
    """A complete table: seed 0 scores 0, then 50, then 100; seed 7 scores 100 in the first episode of each evaluation."""
    scores = {0: ((0, 0), (0, 100), (100, 100)), 7: ((100, 0), (100, 0), (100, 0))}
    return [
        f"{seed},{step},{episode},1.5,{score // 100},80,{score}"
        for seed in CELL.seeds
        for step, pair in zip(CELL.steps, scores[seed], strict=True)
        for episode, score in enumerate(pair)
    ]


def write(folder: Path, rows: list[str], header: str = ",".join(COLUMNS)) -> Path:
    """The rows as the table of the cell, and its record; returns the folder of all tables."""
    path = folder / "cube" / "fql.csv"
    path.parent.mkdir(parents=True)
    path.write_text("\n".join([header, *rows]) + "\n")
    write_record(path.with_suffix(".json"), {"files": digests(path)})
    return folder


def test_scores_by_hand(tmp_path: Path) -> None:
    evaluations = read_episodes(write(tmp_path, lines()), CELL)
    assert evaluations.scores.shape == (2, 3, 2)
    assert evaluations.curve().tolist() == [[0, 50, 100], [50, 50, 50]]
    assert evaluations.final(1).tolist() == [100, 50]
    assert evaluations.final(2).tolist() == [75, 50]
    assert evaluations.final(3).tolist() == [50, 50]


def test_order_of_rows_does_not_matter(tmp_path: Path) -> None:
    evaluations = read_episodes(write(tmp_path, lines()[::-1]), CELL)
    assert evaluations.curve().tolist() == [[0, 50, 100], [50, 50, 50]]


def test_scores_of_returns_may_leave_the_range(tmp_path: Path) -> None:
    rows = lines()
    rows[0] = "0,100,0,-3.0,0,80,-12.5"
    assert read_episodes(write(tmp_path, rows), CELL).scores[0, 0].tolist() == [-12.5, 0.0]


@pytest.mark.parametrize("count", [0, 4])
def test_more_evaluations_than_there_are(tmp_path: Path, count: int) -> None:
    evaluations = read_episodes(write(tmp_path, lines()), CELL)
    message = rf"evaluate.final_evaluations: {count}, but cube/fql has 3 evaluations \(allowed: 1 to 3\)"
    with pytest.raises(FdError, match=message):
        evaluations.final(count)


def without(text: str) -> list[str]:
    """The table without the rows that start so."""
    return [row for row in lines() if not row.startswith(text)]


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (without("7,"), "seed 7 is missing"),
        (without("7,300,"), "the evaluation of seed 7 at step 300 is missing"),
        (without("7,300,1,"), "seed 7, step 300, episode 1 is missing"),
        ([], "seed 0 is missing (needed: seeds 0, 7; steps 100, 200, 300; 2 episodes each)"),
        ([*lines(), "9,100,0,0,0,1,0"], "seed 9, step 100, episode 0 is not part of params.yaml"),
        ([*lines(), "7,400,0,0,0,1,0"], "seed 7, step 400, episode 0 is not part of params.yaml"),
        ([*lines(), "7,300,2,0,0,1,0"], "seed 7, step 300, episode 2 is not part of params.yaml"),
        ([*lines(), lines()[0]], "fql.csv:14: seed 0, step 100, episode 0 appears twice"),
        ([*lines()[:-1], "7,300,1,0,0,1,nan"], "fql.csv:13: score nan, allowed: a finite number"),
        ([*lines()[:-1], "7,300,1,0,0,1,inf"], "fql.csv:13: score inf, allowed: a finite number"),
        ([*lines()[:-1], "7,300,1,0,0,1,"], "fql.csv:13: '7,300,1,0,0,1,' is not a row of numbers"),
        ([*lines()[:-1], "7,300,1"], "fql.csv:13: '7,300,1,None,None,None,None' is not a row of numbers"),
        ([*lines()[:-1], "7,3e2,1,0,0,1,0"], "fql.csv:13: '7,3e2,1,0,0,1,0' is not a row of numbers"),
    ],
)
def test_gaps_are_named(tmp_path: Path, rows: list[str], message: str) -> None:
    with refused(message):
        read_episodes(write(tmp_path, rows), CELL)


def test_missing_cell(tmp_path: Path) -> None:
    with pytest.raises(FdError, match=r"cube/fql\.csv: no such file; every task and method of params\.yaml needs one"):
        read_episodes(tmp_path, CELL)


def test_missing_column(tmp_path: Path) -> None:
    with pytest.raises(FdError, match=r"columns 'seed,step,score', allowed: 'seed,step,episode,return"):
        read_episodes(write(tmp_path, [], header="seed,step,score"), CELL)


def test_not_text(tmp_path: Path) -> None:
    folder = write(tmp_path, [])
    path = folder / "cube" / "fql.csv"
    path.write_bytes(np.arange(200, 256, dtype=np.uint8).tobytes())
    write_record(path.with_suffix(".json"), {"files": digests(path)})
    with pytest.raises(FdError, match=r"fql\.csv: not a CSV file"):
        read_episodes(folder, CELL)
