"""Ablations of a made-up suite whose numbers are known, what their pages say of it, and the ways in which they fail."""

import csv
import re
import shutil
from collections.abc import Callable
from itertools import combinations, pairwise, product
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml
from edits import change_params, outcome
from example_suite import MACHINE, STEPS, edit_record, rewrite, suite_params, write_suite

from fd.report.ablation_figure import FigureLayout
from fd.report.ablation_page import axis_of
from fd.settings.settings_file import read_settings
from fd.storage.files import write_record
from stages.ablate import app

FINALS = {"early": (10.0, 20.0), "late": (100.0, 100.0), "loose": (90.0, 100.0), "fql": (40.0, 60.0), "bc": (0.0, 0.0)}
FORMULA = r"a|b, $\x$"  # neither the end of a cell of a table nor mathematics
LATER = 0.75 * STEPS[-1]  # the quarter whose mean is the end of training comes after


def settings() -> dict[str, Any]:
    """Params of two tasks with two ablations."""
    params = suite_params({"near": "made-v0", "far": "made-v1"}, ["bc", "fql", "fidec"])
    fidec = params["methods"].pop("fidec")
    params["methods"] |= {
        "early": fidec | {"train": fidec["train"] | {"t_eps": [0.5, 0.5]}},
        "late": fidec | {"train": fidec["train"] | {"t_eps": [0.9, 0.95]}},
        "loose": fidec | {"train": fidec["train"] | {"dual": "fixed"}, "refine": {"target_divergence": 0.5}},
    }
    params["tasks"]["far"]["refine"] = {"target_divergence": 0.03}
    params["ablations"] = {
        "t-eps": {"about": "time of the score", "values": {"0.5": "early", "0.9 to 0.95": "late"}},
        "kind": {
            "about": "kind of policy",
            "values": {"flow": "bc", FORMULA: "fql", "residual": "late", "fixed": "loose"},
        },
        "flow-alone": {"about": "policies that are not moved", "values": {"flow": "bc", "one step": "fql"}},
    }
    return params


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The finished suite; read only."""
    root = tmp_path_factory.mktemp("suite")

    def constraint(task: str, method: str, seed: int, step: int) -> tuple[float, float, float]:
        return (1.0 + seed, step / 9000, 0.004 if method == "early" else 0.03) if step > LATER else (99.0, 99.0, 99.0)

    write_suite(root, settings(), score=lambda _, method, seed, *rest: FINALS[method][seed], constraint=constraint)
    return root


@pytest.fixture
def suite(made: Path, tmp_path: Path) -> Path:
    """A copy of the suite that a test may break."""
    return Path(shutil.copytree(made, tmp_path / "suite", ignore=shutil.ignore_patterns("reports", "again")))


def run(root: Path, axis: str, out: str = "reports") -> tuple[int, str]:
    """Exit code and output of the stage, or the message of its FdError."""
    folders = [f"--{name}={root / name}" for name in ("evals", "runs")]
    return outcome(app, [f"--axis={axis}", f"--params={root / 'params.yaml'}", f"--out={root / out}", *folders])


@pytest.fixture(scope="module")
def pages(made: Path) -> Path:
    """The folder with all ablations of the finished suite."""
    for axis in settings()["ablations"]:
        assert run(made, axis) == (0, "")
    return made / "reports" / "example" / "ablations"


def rows(page: Path) -> list[str]:
    """Rows of a page's table, without its head."""
    return [line for line in page.read_text().splitlines() if line.startswith("|")][2:]


def test_an_axis_is_three_files(pages: Path) -> None:
    names = {f"{axis}.{kind}" for axis in settings()["ablations"] for kind in ("md", "csv", "svg")}
    assert {path.name for path in pages.iterdir()} == names


def test_table(pages: Path) -> None:
    # 10 and 20: a t-interval with one degree of freedom, 12.706 * 7.07 / sqrt(2) = 63.53; it ends below 100.
    assert rows(pages / "t-eps.md") == [
        "| near | 0.5 | 15.0 ± 7.1 | [-48.5, 78.5] | 0.004 | 0.217 | 0.01 | 1.5 | 2:05 |",
        "| near | 0.9 to 0.95 | **100.0 ± 0.0** | [100.0, 100.0] | 0.03 | 0.217 | 0.01 | 1.5 | 2:05 |",
        "| far | 0.5 | 15.0 ± 7.1 | [-48.5, 78.5] | 0.004 | 0.217 | 0.03 | 1.5 | 2:05 |",
        "| far | 0.9 to 0.95 | **100.0 ± 0.0** | [100.0, 100.0] | 0.03 | 0.217 | 0.03 | 1.5 | 2:05 |",
    ]


def test_caption_says_where_intervals_are_cut(pages: Path) -> None:
    assert "as in the table, cut at 0 and 100; dots: the seeds" in (pages / "t-eps.md").read_text()  # 15 [-48.5, 78.5]


def test_what_a_method_lacks_is_empty(pages: Path) -> None:
    assert rows(pages / "kind.md")[:4] == [
        "| near | flow | 0.0 ± 0.0 | [0.0, 0.0] |  |  |  |  | 2:05 |",
        r"| near | a\|b, $\x$ | **50.0 ± 14.1** | [-77.1, 177.1] |  | 0.217 |  |  | 2:05 |",
        "| near | residual | **100.0 ± 0.0** | [100.0, 100.0] | 0.03 | 0.217 | 0.01 | 1.5 | 2:05 |",
        "| near | fixed | **95.0 ± 7.1** | [31.5, 158.5] | 0.03 | 0.217 |  | 1.5 | 2:05 |",
    ]


def test_csv(pages: Path) -> None:
    table = list(csv.reader((pages / "kind.csv").read_text().splitlines()))
    assert ",".join(table[0]) == ("task,value,method,mean,std,low,high,seeds,delta2,penalty,dual,budget,refine_seconds")
    assert len(table) == 1 + 2 * 4
    assert table[2] == [
        "near",
        FORMULA,
        "fql",
        "50.00",
        "14.14",
        "-77.06",
        "177.06",
        "2",
        "",
        "0.216667",
        "",
        "",
        "125.0",
    ]
    assert table[7] == ["far", "residual", "late", "100.00", "0.00", "100.00", "100.00", "2", "0.03", "0.216667", "1.5",
                        "0.03", "125.0"]  # fmt: skip


def test_page_says_what_differs_and_how_it_was_measured(pages: Path) -> None:
    text = (pages / "t-eps.md").read_text()
    assert "What differs: time of the score. In `params.yaml`: `train.t_eps`.\n" in text
    assert "- 0.5: method `early`, `train.t_eps` [0.5, 0.5]\n" in text
    assert "95 % t-interval of the mean over seeds" in text and "over 2 seeds" in text
    assert "2 episodes per seed after each of 1,500, 2,000 training steps" in text
    assert "](t-eps.svg)" in text


def test_overrides_of_a_method_differ_from_what_each_task_has(suite: Path) -> None:
    change_params(suite, lambda params: params["ablations"]["t-eps"].update(values={"tight": "late", "own": "loose"}))
    first, second = axis_of(read_settings(suite / "params.yaml"), "t-eps").values
    assert first.settings["refine.target_divergence"] == "0.01 (near), 0.03 (far)"
    assert second.settings["refine.target_divergence"] == "0.5"
    assert list(second.settings) == ["train.t_eps", "train.dual", "refine.target_divergence"]


def test_two_labels_of_one_method_are_refused(suite: Path) -> None:
    change_params(suite, lambda params: params["ablations"]["t-eps"].update(values={"a": "late", "b": "late"}))
    message = f"{suite / 'params.yaml'}: ablations.t-eps.values: duplicate 'late', allowed: each once"
    assert run(suite, "t-eps") == (2, message)
    assert not (suite / "reports").exists()


@pytest.mark.parametrize(("axis", "panels"), [("t-eps", 4), ("kind", 4), ("flow-alone", 2)])
def test_figure(pages: Path, axis: str, panels: int) -> None:
    text = (pages / f"{axis}.svg").read_text()
    assert ElementTree.fromstring(text).tag.endswith("svg") and "dc:date" not in text
    assert len(re.findall(r'<g id="axes_\d+">', text)) == panels
    for label in settings()["ablations"][axis]["values"]:
        assert text.count(f"<!-- {label} -->") == 2, label  # once a task


def test_same_inputs_give_the_same_bytes(made: Path, pages: Path) -> None:
    assert run(made, "kind", "again") == (0, "")
    again = made / "again" / "example" / "ablations"
    for path in again.iterdir():
        assert path.read_bytes() == (pages / path.name).read_bytes(), path.name


def test_one_seed_has_no_spread(suite: Path) -> None:
    params = yaml.safe_load((suite / "params.yaml").read_text()) | {"seeds": [3]}
    write_suite(suite, params, score=lambda *_: 50.0, constraint=lambda *_: (1.0, 0.1, 0.1))
    assert run(suite, "t-eps") == (0, "")
    folder = suite / "reports" / "example" / "ablations"
    assert rows(folder / "t-eps.md")[0] == "| near | 0.5 | **50.0** |  | 0.1 | 0.1 | 0.01 | 1 | 2:05 |"
    assert not any("nan" in (folder / f"t-eps.{kind}").read_text().lower() for kind in ("md", "csv", "svg"))
    assert "as in the table; dots: the seeds" in (folder / "t-eps.md").read_text()  # no interval that is cut


def test_only_the_methods_of_the_axis_are_read(suite: Path) -> None:
    shutil.rmtree(suite / "runs" / "near" / "loose")
    (suite / "evals" / "near" / "loose.csv").unlink()
    assert run(suite, "t-eps") == (0, "")


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda root: (root / "evals/near/late.csv").unlink(), "evals/near/late.csv: no such file"),
        (lambda root: (root / "runs/far/late.json").unlink(), "runs/far/late.json: no such file"),
        (lambda root: (root / "runs/far/late/train.csv").unlink(), "runs/far/late/train.csv: no such file"),
        (lambda root: (root / "runs/far/fql/train.csv").unlink(), "runs/far/fql/train.csv: no such file"),
        (
            lambda root: rewrite(root / "runs/far/fql/train.csv", "step,seed,penalty\n1,0,\n1,4,\n"),
            "train.csv:2: penalty is '', allowed: a number",
        ),
        (lambda root: edit_record(root / "runs/far/bc.json", seeds=[0]), "bc.json: seeds is [0], but [0, 4] is needed"),
        (
            lambda root: edit_record(root / "runs/far/bc.json", machine=MACHINE | {"gpu": "Example GPU"}),
            "runs/far/bc.json: was trained on Example GPU, but",
        ),
        (lambda root: write_record(root / "runs/far/bc.json", {}), "bc.json: field 'task' is missing"),
        (lambda root: change_params(root, lambda p: p["seeds"].append(7)), "evals/near/bc.csv: seed 7 is missing"),
        (
            lambda root: change_params(root, lambda p: p["ablations"].pop("kind")),
            "ablations: 'kind' does not exist, allowed: t-eps, flow-alone",
        ),
    ],
)
def test_broken_inputs_are_named_and_nothing_is_written(
    suite: Path, broken: Callable[[Path], object], message: str
) -> None:
    broken(suite)
    code, error = run(suite, "kind")
    assert code == 2 and message in error and "\n" not in error.strip()
    assert not (suite / "reports").exists()


@pytest.mark.parametrize(("tasks", "count", "length"), list(product((1, 2, 3, 9), (2, 5, 10), (3, 10, 18))))
def test_panels_and_labels_have_room(tasks: int, count: int, length: int) -> None:
    layout = FigureLayout.of(tasks, ["x" * length] * count, displacement=True)
    width, height = layout.size()
    assert 2 < width < 7.01
    boxes = [box for index in range(tasks) for box in layout.boxes(index)]
    for (x, y, w, h), (u, v, p, q) in combinations(boxes, 2):
        assert x + w <= u or u + p <= x or y + h <= v or v + q <= y
    assert min(x for x, *_ in boxes) > 0 and max(x + w for x, _, w, _ in boxes) < 1
    assert max(y + h for _, y, _, h in boxes) < 1 and min(y for _, y, *_ in boxes) * height >= layout.labels - 1e-9
    slot = layout.width / count
    assert slot > 0.14 if layout.turned else slot > 0.055 * length


def test_turned_labels_are_of_those_that_need_it() -> None:
    chosen = [FigureLayout.of(3, ["x" * length] * 5, displacement=False) for length in (3, 4, 8, 18)]
    assert [layout.turned for layout in chosen] == [False, False, True, True]
    assert all(shorter.labels <= longer.labels for shorter, longer in pairwise(chosen))


BUDGETS = {"0.01": (50.0, 60.0, 70.0), "0.02": (60.0, 70.0, 80.0), "0.05": (20.0, 20.0, 20.0)}


def test_metrics_at_several_budgets_are_curves(tmp_path: Path) -> None:
    """Best budget of each, its interval, and paired differences from the first over the same seeds, as computed by hand."""
    params = suite_params({"near": "made-v0"}, ["bc", "fidec"]) | {"seeds": [0, 1, 2]}
    fidec, scores, values = params["methods"].pop("fidec"), dict[str, tuple[float, ...]](), dict[str, str]()
    for metric, gain in (("identity", (0.0, 0.0, 0.0)), ("state", (1.0, 2.0, 3.0))):
        for budget, own in BUDGETS.items():
            name = f"{metric}-{budget.replace('.', '')}"
            params["methods"][name] = fidec | {
                "train": fidec["train"] | {"metric": metric},
                "refine": {"target_divergence": float(budget)},
            }
            scores[name], values[f"{metric} {budget}"] = tuple(map(sum, zip(own, gain, strict=True))), name
    params["ablations"] = {"budget": {"about": "metric and budget", "values": values}}
    scores["bc"] = (0.0, 0.0, 0.0)
    write_suite(
        tmp_path,
        params,
        score=lambda _, method, seed, *rest: scores[method][seed],
        constraint=lambda *_: (1.0, 0.01, 0.02),
    )
    assert run(tmp_path, "budget") == (0, "")
    text = (tmp_path / "reports" / "example" / "ablations" / "budget.md").read_text()
    assert "mean over seeds and its t-interval." in text  # the widest is [35.2, 84.8]
    write_suite(tmp_path, params, score=lambda _, m, seed, *rest: 50.0 * seed, constraint=lambda *_: (1.0, 0.01, 0.02))
    assert run(tmp_path, "budget", "wide") == (0, "")
    text = (tmp_path / "wide" / "example" / "ablations" / "budget.md").read_text()
    assert "mean over seeds and its t-interval, cut at 0 and 100." in text  # 50 ± 50: [-74.2, 174.2]
    folder = tmp_path / "reports" / "example" / "ablations"
    text = (folder / "budget.md").read_text()
    assert "| near | identity | 0.02 | 70.0 ± 10.0 | [45.2, 94.8] | 0.02 |  |  |  |  |" in text
    # The differences 1, 2, 3 have mean 2, standard error 0.577, t = 3.46 with two degrees of freedom.
    gained = "+2.0 [-0.5, 4.5] | 0.074"
    assert f"| near | state | 0.02 | 72.0 ± 11.0 | [44.7, 99.3] | 0.02 | {gained} | {gained} |" in text
    assert ElementTree.parse(folder / "budget.svg").getroot().tag.endswith("svg")
