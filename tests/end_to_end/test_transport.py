"""Transport from the command line to the report: files in, mapped files out, every number measured."""

from __future__ import annotations

import html.parser
import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import ot
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

from atlas_core.transport.memory import available_memory
from atlas_core.transport.pipeline import size_notes
from atlas_core.transport.side import Side

HEADER = "length,width"


def gaussian(seed: int, n: int, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 2)) + shift


def write_csv(path: Path, points: np.ndarray, header: str = HEADER) -> Path:
    np.savetxt(path, points, delimiter=",", fmt="%.17g", header=header, comments="")
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Two clouds of 40 and 50 points, as CSV with a header."""
    return write_csv(tmp_path / "a.csv", gaussian(0, 40)), write_csv(tmp_path / "b.csv", gaussian(1, 50, 3.0))


@pytest.fixture
def couple(cli: Any, tmp_path: Path) -> Any:
    """Run `atlas-core transport` in tmp_path/runs -> (exit code, summary, standard error)."""

    def call(*arguments: Any) -> tuple[int, dict[str, Any], str]:
        code, out, err = cli("transport", *arguments, "--runs", tmp_path / "runs", "--json")
        return code, json.loads(out) if out.startswith("{") else {}, err

    return call


def refused(call: tuple[int, Any, str], code: int, *words: str) -> None:
    got, _, err = call
    assert got == code, err
    assert "Traceback" not in err
    assert "mistake in Atlas" not in err
    for word in words:
        assert word in err, f"{word!r} is not in:\n{err}"


def reference(x: np.ndarray, y: np.ndarray, epsilon: float, a: Any = None, b: Any = None) -> np.ndarray:
    """The entropic plan under the squared distance over its mean, by POT in float64; ε relative to that mean."""
    a = np.full(len(x), 1 / len(x)) if a is None else a
    b = np.full(len(y), 1 / len(y)) if b is None else b
    cost = ot.dist(x, y) / (a @ ot.dist(x, y) @ b)
    plan: np.ndarray = ot.sinkhorn(a, b, cost, epsilon, method="sinkhorn_log", stopThr=1e-12, numItermax=20000)
    return plan


# ---- the numbers ---------------------------------------------------------------------------------------------------


def test_two_tables_are_coupled_as_pot_couples_them(couple: Any, files: tuple[Path, Path], tmp_path: Path) -> None:
    code, summary, err = couple(*files, "solver.epsilon=0.05", "solver.tolerance=1e-9")
    assert code == 0, err
    x, y = gaussian(0, 40), gaussian(1, 50, 3.0)
    plan = reference(x, y, 0.05)
    cost = ot.dist(x, y) / ot.dist(x, y).mean()
    solution = summary["solution"]
    assert solution["status"] == "converged"
    assert solution["converged"] is True
    assert solution["epsilon"] == pytest.approx(0.05)
    assert solution["mean_cost"] == pytest.approx(1, rel=1e-9)
    assert solution["cost"] == pytest.approx((plan * cost).sum(), rel=1e-6)
    entropy = (plan * np.log(plan * 40 * 50)).sum()
    assert solution["value"] == pytest.approx((plan * cost).sum() + 0.05 * entropy, rel=1e-6)
    assert max(solution["marginal_errors"]) <= 1e-9
    run = tmp_path / "runs" / "a-to-b"
    mapped = np.loadtxt(run / "mapped.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(mapped, 40 * plan @ y, atol=1e-6)
    assert (run / "mapped.csv").read_text().splitlines()[0] == HEADER
    kept = load_file(run / "coupling.safetensors")
    again = np.exp((kept["f"][:, None] + kept["g"] - cost) / kept["epsilon"]) / (40 * 50)
    np.testing.assert_allclose(again, plan, atol=1e-9)
    np.testing.assert_array_equal(kept["source"], x)
    np.testing.assert_allclose(kept["mapped"], mapped, rtol=1e-15)


def test_weights_of_both_sides_are_obeyed(couple: Any, tmp_path: Path) -> None:
    x, y = gaussian(2, 20), gaussian(3, 30, 1.0)
    a, b = np.arange(20.0), np.r_[np.ones(15), 3 * np.ones(15)]
    for name, points, weights in (("a", x, a), ("b", y, b)):
        write_csv(tmp_path / f"{name}.csv", np.c_[points, weights], "x,y,mass")
    code, summary, err = couple(
        tmp_path / "a.csv",
        tmp_path / "b.csv",
        "source.weights=mass",
        "target.weights=mass",
        "solver.epsilon=0.1",
        "solver.tolerance=1e-9",
    )
    assert code == 0, err
    # The first point weighs nothing: it is mapped, and changes no other.
    plan = reference(x[1:], y, 0.1, a[1:] / a.sum(), b / b.sum())
    mapped = np.loadtxt(tmp_path / "runs" / "a-to-b" / "mapped.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(mapped[1:], plan @ y / (a[1:] / a.sum())[:, None], atol=1e-6)
    assert summary["solution"]["mean_cost"] == pytest.approx(1, rel=1e-9)
    assert max(summary["solution"]["marginal_errors"]) < 1e-8


def test_the_exact_solver_is_reached_by_name(couple: Any, files: tuple[Path, Path], tmp_path: Path) -> None:
    code, summary, err = couple(*files, "solver.use=exact", "--name", "exact")
    assert code == 0, err
    x, y = gaussian(0, 40), gaussian(1, 50, 3.0)
    cost = ot.dist(x, y) / ot.dist(x, y).mean()
    best = ot.emd2(np.full(40, 1 / 40), np.full(50, 1 / 50), cost)
    assert summary["solution"]["cost"] == pytest.approx(best, rel=1e-6)
    assert "epsilon" not in summary["solution"]
    kept = load_file(tmp_path / "runs" / "exact" / "coupling.safetensors")
    assert len(kept["plan_values"]) <= 40 + 50 - 1  # a vertex of the transport polytope
    total = np.zeros((40, 50))
    total[kept["plan_rows"], kept["plan_columns"]] = kept["plan_values"]
    np.testing.assert_allclose(total.sum(1), 1 / 40, atol=1e-9)
    assert "kernel" in json.loads((tmp_path / "runs" / "exact" / "lock.json").read_text())["components"][3]["kind"]


def test_an_unbalanced_plan_is_kept_as_it_is_and_not_called_wrong(
    couple: Any, files: tuple[Path, Path], tmp_path: Path
) -> None:
    code, summary, err = couple(*files, "solver.use=sinkhorn-unbalanced", "evaluate.metrics=[]", "--name", "free")
    assert code == 0, err
    solution, run = summary["solution"], tmp_path / "runs" / "free"
    assert solution["converged"] is True
    assert solution["mass"] < 0.99
    assert "leaves the marginals free" in Page((run / "report.html").read_text()).text
    kept = load_file(run / "coupling.safetensors")
    x, y = gaussian(0, 40), gaussian(1, 50, 3.0)
    cost = ot.dist(x, y) / ot.dist(x, y).mean()
    plan = np.exp((kept["f"][:, None] + kept["g"] - cost) / kept["epsilon"]) / (40 * 50)
    assert "plan" not in kept
    assert plan.sum() == pytest.approx(solution["mass"], rel=1e-6)
    assert (plan * cost).sum() == pytest.approx(solution["cost"], rel=1e-6)
    np.testing.assert_allclose(kept["mapped"], plan @ y / plan.sum(1, keepdims=True), rtol=1e-6)


def test_debiased_potentials_are_not_taken_for_those_of_the_plan(
    couple: Any, files: tuple[Path, Path], tmp_path: Path
) -> None:
    more = ("solver.epsilon=0.05", "evaluate.metrics=[]", "--name", "debiased")
    code, summary, err = couple(*files, "solver.use=sinkhorn-divergence", *more)
    assert code == 0, err
    kept = load_file(tmp_path / "runs" / "debiased" / "coupling.safetensors")
    assert "f" not in kept
    # Stored in float32, from a solve to 1e-4 of the mass.
    expected = reference(gaussian(0, 40), gaussian(1, 50, 3.0), 0.05)
    assert np.abs(kept["plan"] - expected).sum() < 1e-3
    assert summary["kept"] == "the plan"


@pytest.mark.parametrize("ending", ["npy", "npz", "parquet", "tsv"])
def test_every_format_gives_the_same_map_in_its_own_format(couple: Any, tmp_path: Path, ending: str) -> None:
    import pyarrow
    from pyarrow import parquet

    for name, points in (("a", gaussian(0, 30)), ("b", gaussian(1, 20, 3.0))):
        path = tmp_path / f"{name}.{ending}"
        if ending == "parquet":
            parquet.write_table(pyarrow.table({"x": points[:, 0], "y": points[:, 1]}), path)
        elif ending == "tsv":
            np.savetxt(path, points, delimiter="\t", fmt="%.17g")
        else:
            np.save(path, points) if ending == "npy" else np.savez(path, p=points)
    code, _, err = couple(
        tmp_path / f"a.{ending}", tmp_path / f"b.{ending}", "solver.tolerance=1e-8", "evaluate.metrics=[]"
    )
    assert code == 0, err
    mapped = tmp_path / "runs" / "a-to-b" / f"mapped.{ending}"
    points = {
        "npy": lambda: np.load(mapped),
        "npz": lambda: np.load(mapped)["p"],
        "parquet": lambda: np.stack([column.to_numpy() for column in parquet.read_table(mapped).columns], axis=1),
        "tsv": lambda: np.loadtxt(mapped, delimiter="\t"),
    }[ending]()
    y = gaussian(1, 20, 3.0)
    np.testing.assert_allclose(points, 30 * reference(gaussian(0, 30), y, 0.05) @ y, atol=1e-5)


def test_a_single_point_takes_all_of_the_target(couple: Any, tmp_path: Path) -> None:
    y = gaussian(1, 25)
    write_csv(tmp_path / "a.csv", np.array([[1.0, 2.0]]))
    write_csv(tmp_path / "b.csv", y)
    code, summary, err = couple(tmp_path / "a.csv", tmp_path / "b.csv")
    assert code == 0, err
    mapped = np.loadtxt(tmp_path / "runs" / "a-to-b" / "mapped.csv", delimiter=",", skiprows=1)
    np.testing.assert_allclose(mapped, y.mean(0), atol=1e-6)
    assert any("single point" in note for note in summary["notes"])


def test_points_that_are_all_equal_cost_nothing(couple: Any, tmp_path: Path) -> None:
    write_csv(tmp_path / "a.csv", np.ones((5, 2)))
    code, summary, err = couple(tmp_path / "a.csv", tmp_path / "a.csv")
    assert code == 0, err
    assert summary["solution"]["cost"] == pytest.approx(0, abs=1e-12)
    assert any("4 of 5 points are copies" in note for note in summary["notes"])


def test_one_coordinate_is_mapped_in_order(couple: Any, tmp_path: Path) -> None:
    x, y = np.random.default_rng(0).normal(size=30), np.random.default_rng(1).normal(size=30) * 2
    np.save(tmp_path / "a.npy", x[:, None])
    np.save(tmp_path / "b.npy", y[:, None])
    code, _, err = couple(tmp_path / "a.npy", tmp_path / "b.npy", "solver.use=exact", "evaluate.metrics=[]")
    assert code == 0, err
    # On the line the best plan is monotone.
    mapped = np.load(tmp_path / "runs" / "a-to-b" / "mapped.npy")[:, 0]
    np.testing.assert_allclose(mapped[x.argsort()], np.sort(y), atol=1e-12)


def test_mapped_points_score_better_than_the_unmoved(couple: Any, files: tuple[Path, Path], tmp_path: Path) -> None:
    code, summary, err = couple(*files)
    assert code == 0, err
    table = json.loads((tmp_path / "runs" / "a-to-b" / "evaluation.json").read_text())
    scores = {row["name"]: row["cells"]["sinkhorn-divergence"]["value"] for row in table["rows"]}
    assert scores["mapped"] < 0.1 * scores["unmoved source"]
    assert summary["metrics"]["sinkhorn-divergence"]["value"] == scores["mapped"]
    assert "no held-out split" in table["notes"][0]


# ---- images --------------------------------------------------------------------------------------------------------


def folder(root: Path, seed: int, count: int = 9) -> Path:
    root.mkdir()
    for number, pixels in enumerate(np.random.default_rng(seed).integers(0, 256, (count, 8, 8, 3), np.uint8)):
        Image.fromarray(pixels).save(root / f"{number:02}.png")
    return root


def test_folders_of_images_give_images(couple: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATLAS_CACHE_DIR", str(tmp_path / "cache"))
    a, b = folder(tmp_path / "a", seed=0), folder(tmp_path / "b", seed=1)
    (a / "broken.png").write_bytes(b"\x89PNG nothing")
    code, summary, err = couple(a, b, "source.size=8", "target.size=8", "solver.use=exact", "evaluate.metrics=[]")
    assert code == 0, err
    run = tmp_path / "runs" / "a-to-b"
    assert sorted(path.name for path in (run / "mapped").iterdir()) == [f"{number:02}.png" for number in range(9)]
    assert any("broken.png: skipped" in note for note in summary["notes"])
    # Exact transport between as many images is a permutation: each mapped image is one of the target, to the byte.
    images = {path.name: np.asarray(Image.open(path)) for path in (run / "mapped").iterdir()}
    targets = [np.asarray(Image.open(path)) for path in sorted(b.iterdir())]
    x = np.stack([np.asarray(Image.open(path), dtype=float) for path in sorted(a.glob("[0-9]*"))]).reshape(9, -1)
    y = np.stack([target.astype(float) for target in targets]).reshape(9, -1)
    partner = ot.emd(np.ones(9) / 9, np.ones(9) / 9, ot.dist(x, y)).argmax(1)
    for number, image in enumerate(images[name] for name in sorted(images)):
        np.testing.assert_array_equal(image, targets[partner[number]])
    assert [picture["file"] for picture in summary["pictures"]] == ["images.png", "coupling.png"]
    assert all((run / picture["file"]).stat().st_size > 1000 for picture in summary["pictures"])


# ---- the report ----------------------------------------------------------------------------------------------------


class Page(html.parser.HTMLParser):
    """The links and the words of a page."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.links: list[str] = []
        self.words: list[str] = []
        self.feed(text)
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag: str, attributes: Any) -> None:
        self.links += [value for name, value in attributes if name in ("src", "href", "srcset")]

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def test_the_report_stands_alone_and_says_everything(
    couple: Any, files: tuple[Path, Path], cli: Any, tmp_path: Path
) -> None:
    code, summary, err = couple(*files)
    assert code == 0, err
    run = tmp_path / "runs" / "a-to-b"
    page = Page((run / "report.html").read_text())
    assert page.links
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    solution = summary["solution"]
    for word in (
        "converged",
        "a.csv: 40 points",
        "b.csv: 50 points",
        f"{solution['cost']:.4g}",
        f"{solution['value']:.4g}",
        "0.05 = 0.05 × the mean cost",
        f"{solution['marginal_errors'][1]:.4g}",
        f"{solution['iterations']}, {solution['matvecs']} products",
        "MiB",
        "atlas-solvers-builtin",
        "torch " + torch.__version__.partition("+")[0],
        "sinkhorn-divergence",
        "mapped.csv",
    ):
        assert word in page.text, word
    before = (run / "report.html").read_text()
    (run / "report.html").unlink()
    assert cli("report", run)[0] == 0
    assert (run / "report.html").read_text() == before


def test_a_solver_that_gives_up_is_written_in_full_and_said(
    couple: Any, files: tuple[Path, Path], tmp_path: Path
) -> None:
    code, summary, err = couple(*files, "solver.epsilon=0.001", "solver.max_iterations=1", "evaluate.metrics=[]")
    assert code == 3
    assert "not converged" in err
    assert summary["solution"]["converged"] is False
    assert summary["warnings"]
    run = tmp_path / "runs" / "a-to-b"
    assert (run / "mapped.csv").exists()
    page = Page((run / "report.html").read_text()).text
    assert "not converged" in page
    assert summary["warnings"][0] in page
    assert f"{summary['solution']['marginal_error']:.4g} of the mass" in page


# ---- the command ---------------------------------------------------------------------------------------------------


def test_a_dry_run_prints_the_plan_and_writes_nothing(cli: Any, files: tuple[Path, Path], tmp_path: Path) -> None:
    code, out, err = cli("transport", *files, "solver.epsilon=0.2", "--dry-run", "--runs", tmp_path / "runs")
    assert code == 0, err
    for word in ("a-to-b", "points-file", "sinkhorn", "epsilon = 0.2", "squared-euclidean"):
        assert word in out, word
    assert not (tmp_path / "runs").exists()


def test_the_same_through_toml_and_again_from_the_run(
    cli: Any, couple: Any, files: tuple[Path, Path], tmp_path: Path
) -> None:
    assert couple(*files)[0] == 0
    config = tmp_path / "transport.toml"
    config.write_text(
        f"""
        [source]
        use = "points-file"
        path = "{files[0]}"
        dtype = "float64"
        [target]
        use = "points-file"
        path = "{files[1]}"
        dtype = "float64"
        [solver]
        use = "sinkhorn"
        kernel = {{ use = "squared-euclidean", scale = "mean" }}
        [evaluate]
        metrics = [{{ use = "sinkhorn-divergence" }}]
        """
    )
    root = tmp_path / "runs"
    assert cli("run", config, "--runs", root, "-q")[0] == 0
    assert cli("run", root / "a-to-b" / "config.toml", "--runs", root, "--name", "again", "-q")[0] == 0
    mapped = [(root / name / "mapped.csv").read_text() for name in ("a-to-b", "transport", "again")]
    assert mapped[0] == mapped[1] == mapped[2]
    scores = [json.loads((root / name / "solution.json").read_text())["metrics"] for name in ("a-to-b", "again")]
    assert scores[0] == scores[1]
    assert not (root / "transport" / "checkpoints").exists()


def test_held_out_points_are_what_mapped_ones_are_compared_with(cli: Any, tmp_path: Path) -> None:
    config = tmp_path / "couple.toml"
    config.write_text(
        """
        source = { use = "gaussian-mixture", train = 60 }
        target = { use = "gaussian-mixture", seed = 1, train = 50, test = 30 }
        solver = { use = "sinkhorn" }
        evaluate = { metrics = ["sinkhorn-divergence"] }
        """
    )
    code, _, err = cli("run", config, "--runs", tmp_path / "runs", "-q")
    assert code == 0, err
    table = json.loads((tmp_path / "runs" / "couple" / "evaluation.json").read_text())
    assert (table["split"], table["held_out"], table["train"]) == ("test", 30, 50)
    refused(cli("run", config, "evaluate.split=tset", "--runs", tmp_path / "runs"), 2, "$.evaluate.split", "'test'")


# ---- strangers -----------------------------------------------------------------------------------------------------

STRANGERS = '''
import attrs
import torch


@attrs.frozen
class Shift:
    """Couple row i with row i: a coupling that says no more of itself than the contract asks for."""

    factor: float = attrs.field(default=1.0, metadata={"help": "Scale of the cost."})

    def solve(self, x, y, *, a=None, b=None, init=None):
        return Diagonal(x, y, self.factor)

    def solve_operator(self, operator, *, a=None, b=None, init=None, y=None):
        raise NotImplementedError


class Diagonal:
    def __init__(self, x, y, factor):
        self.y, self.weights = y, torch.full((len(x),), 1 / len(x), dtype=x.dtype)
        self.marginals = self.weights, self.weights
        self.cost = factor * (x - y).square().sum(1).mean()

    def matvec(self, v):
        return (self.weights * v.T).T

    rmatvec = matvec

    def barycentric_map(self, z=None):
        return self.y

    def plan(self):
        return self.weights.diag()


@attrs.frozen
class Lines:
    """Points of a text file, numbers separated by blanks."""

    opens = (".dat",)
    splits = ("train",)
    file: str = attrs.field(metadata={"help": "The file."})

    @classmethod
    def opening(cls, path):
        return {"file": path}

    @property
    def spec(self):
        from atlas_core.contracts import DataSpec

        return DataSpec(shape=(len(self.split("train")[0].x),), value_range=None)

    def split(self, name):
        from atlas_core.contracts import Example

        rows = [[float(cell) for cell in line.split()] for line in open(self.file)]
        return [Example(torch.tensor(row), None, index) for index, row in enumerate(rows)]
'''


def test_a_strangers_solver_and_format_are_as_good_as_ours(tmp_path: Path) -> None:
    site = tmp_path / "site"
    (site / "acme_parts-1.0.dist-info").mkdir(parents=True)
    (site / "acme_parts.py").write_text(STRANGERS)
    entries = "[atlas_core.solvers]\nshift = acme_parts:Shift\n[atlas_core.datasets]\nlines = acme_parts:Lines\n"
    (site / "acme_parts-1.0.dist-info" / "entry_points.txt").write_text(entries)
    metadata = "Metadata-Version: 2.1\nName: acme-parts\nVersion: 1.0\nRequires-Dist: atlas-core>=2,<3\n"
    (site / "acme_parts-1.0.dist-info" / "METADATA").write_text(metadata)
    (site / "acme_parts-1.0.dist-info" / "RECORD").write_text("acme_parts.py,,\n")
    x, y = gaussian(0, 6).astype(np.float32), gaussian(1, 6).astype(np.float32)
    np.savetxt(tmp_path / "a.dat", x)
    np.savetxt(tmp_path / "b.dat", y)

    def typed(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "atlas_core", "transport", *arguments, "solver.use=shift", "--json", "-q"]
        environment = {**os.environ, "PYTHONPATH": str(site)}
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, env=environment)

    done = typed("a.dat", "b.dat", "solver.factor=2")
    assert done.returncode == 0, done.stderr
    solution = json.loads(done.stdout)["solution"]
    assert solution["cost"] == pytest.approx(2 * ((x - y) ** 2).sum(1).mean(), rel=1e-6)
    assert solution["converged"] is None
    assert {"value", "epsilon", "status", "iterations"} & set(solution) == set()
    run = tmp_path / "runs" / "a-to-b"
    np.testing.assert_array_equal(np.load(run / "mapped.npy"), y)
    kept = load_file(run / "coupling.safetensors")
    np.testing.assert_array_equal(kept["plan_rows"], np.arange(6))
    assert "does not say whether it converged" in Page((run / "report.html").read_text()).text


# ---- what cannot be meant ------------------------------------------------------------------------------------------


def test_paths_that_nothing_opens(couple: Any, files: tuple[Path, Path], tmp_path: Path) -> None:
    a, b = files
    refused(couple(tmp_path / "aa.csv", b), 2, "there is no", "a.csv")
    refused(couple(tmp_path / "nowhere" / "a.csv", b), 2, "There is no folder")
    (tmp_path / "a.cvs").write_text("1\n")
    refused(couple(tmp_path / "a.cvs", b), 2, ".cvs", "Did you mean '.csv'", ".parquet")
    (tmp_path / "a.toml").write_text("")
    refused(couple(a, tmp_path / "a.toml"), 2, "atlas-core run")
    (tmp_path / "a.png").write_bytes(b"")
    refused(couple(tmp_path / "a.png", b), 2, "name their folder")
    assert not (tmp_path / "runs").exists()


def test_folders_without_images(couple: Any, files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    refused(couple(tmp_path / "empty", files[1]), 1, "no image", str(tmp_path / "empty"))
    (tmp_path / "tables").mkdir()
    write_csv(tmp_path / "tables" / "t.csv", gaussian(0, 3))
    refused(couple(tmp_path / "tables", files[1]), 2, "folder of tables", "t.csv")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ("is empty",)),
        ("length,width\n1,2\n3,x\n", ("a.csv:3", "column 'width'", "'x'")),
        ("length,width\n1,2\ninf,4\n", ("a.csv:3", "column 'length' is inf")),
        ("length,width\n1,nan\n", ("a.csv:2", "column 'width' is nan")),
    ],
)
def test_bad_tables_are_one_clear_message(
    couple: Any, files: tuple[Path, Path], text: str, words: tuple[str, ...]
) -> None:
    files[0].write_text(text)
    refused(couple(*files), 1, *words)
    assert not (files[0].parent / "runs").exists()


def test_points_of_two_spaces(couple: Any, files: tuple[Path, Path], tmp_path: Path) -> None:
    write_csv(tmp_path / "b.csv", np.ones((4, 3)), "x,y,z")
    refused(couple(*files), 2, "cannot be compared", "x, y, z", HEADER.replace(",", ", "), "target.columns")
    write_csv(tmp_path / "b.csv", gaussian(1, 4), "width,length")
    refused(couple(*files), 2, "another order", 'target.columns=["length", "width"]')
    code, summary, _ = couple(*files, "target.columns=['length', 'width']", "evaluate.metrics=[]")
    assert code == 0
    assert not any("paired" in note for note in summary["notes"])
    write_csv(tmp_path / "b.csv", gaussian(1, 4), "u,v")
    code, summary, _ = couple(*files, "evaluate.metrics=[]")
    assert code == 0
    assert any("length with u, width with v" in note for note in summary["notes"])


def test_settings_and_solvers_that_cannot_be_meant(couple: Any, files: tuple[Path, Path]) -> None:
    refused(couple(*files, "solver.epsilon=0"), 2, "$.solver.epsilon")
    refused(couple(*files, "solver.use=sinkhron"), 2, "sinkhorn")
    refused(couple(*files, "solver.epsilno=1"), 2, "$.solver.epsilno", "epsilon")
    refused(couple(*files, "train.steps=1"), 2, "$.train")
    refused(couple(*files, "transport.device=cuda:77"), 2, "$.transport.device")
    refused(couple(*files, "--name", "a/b"), 2, "name of a run")
    refused(couple(*files, "solver.use=sinkhorn-grid"), 1, "sinkhorn-grid cannot couple a.csv and b.csv", "`grid`")


def test_more_points_than_a_matrix_has_room_for_is_said() -> None:
    points = torch.zeros(9000, 2, dtype=torch.float64)
    side = Side("a.npy", None, points, None, (2,), ())
    before = resource.getrlimit(resource.RLIMIT_AS)
    status = Path("/proc/self/status").read_text()
    size = int(re.findall(r"VmSize:\s+(\d+) kB", status)[0]) * 1024
    resource.setrlimit(resource.RLIMIT_AS, (size + 2**30, before[1]))
    try:
        assert 0.9 * 2**30 < available_memory() <= 2**30
        (said,) = list(size_notes(side, side))
    finally:
        resource.setrlimit(resource.RLIMIT_AS, before)
    assert "9000 × 9000 entries would take 0.6 GiB, and 1.0 are free" in said
    assert not list(size_notes(side, attrs.evolve(side, points=points[:10])))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_not_be_written(couple: Any, files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir(mode=0o500)
    refused(couple(*files), 1, "cannot write", "nothing was started")


def test_a_place_for_runs_that_is_a_file(couple: Any, files: tuple[Path, Path], tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("")
    refused(couple(*files), 1, "cannot write", "nothing was started")
