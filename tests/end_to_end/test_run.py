"""The main job from the command line to the report, on the real digits, in short."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import atlas_core
from atlas_core.errors import UsageError


def test_a_run_leaves_every_part_that_the_design_names(digits_run: Path) -> None:
    for name in ("config.toml", "lock.json", "metrics.jsonl", "samples.png", "manifest.json", "report.html"):
        assert (digits_run / name).stat().st_size > 0, name
    assert [path.name for path in sorted((digits_run / "checkpoints").iterdir())] == [
        "step-00000010",
        "step-00000020",
        "step-00000030",
    ]
    assert (digits_run / "samples" / "step-00000020.png").exists()
    rows = [json.loads(line) for line in (digits_run / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [10, 20, 30]
    assert [row["step"] for row in rows if "validation_loss" in row] == [15, 30]
    losses = [row["loss"] for row in rows if "loss" in row]
    assert losses[-1] < 0.85 * losses[0], f"nothing was learned: {losses}"


def test_the_report_needs_nothing_beside_it_and_holds_the_scores(digits_run: Path) -> None:
    page = (digits_run / "report.html").read_text()
    evaluation = json.loads((digits_run / "evaluation.json").read_text())
    ours = next(row for row in evaluation["rows"] if row["kind"] == "ours")
    for column, cell in ours["cells"].items():
        assert column in page
        assert cell["value"] is not None, cell["error"]
    assert "class-gaussian" in page
    assert "atlas-solvers-builtin" in page
    for reference in ('src="http', 'href="http', "src='http", "url(http", "@import"):
        assert reference not in page


@pytest.fixture
def copy(digits_run: Path, tmp_path: Path) -> Path:
    """A copy of the run, to change."""
    return Path(shutil.copytree(digits_run, tmp_path / "digits"))


def test_an_evaluation_with_overrides_stands_beside_the_runs_own(copy: Path, cli) -> None:
    own = {path: path.read_bytes() for path in copy.rglob("*") if path.is_file()}
    heun = ["sampler.use=heun", "sampler.pairs=false"]
    change = [*heun, "sampling.nfe=5", "evaluate.count=40", "evaluate.metrics=[{use='frechet-distance'}]"]
    for number in (1, 2):
        code, out, err = cli("evaluate", copy, *change, "-q")
        assert code == 0, err
        assert "evaluations" in out
        assert len(list((copy / "evaluations").iterdir())) == number
    assert all(path.read_bytes() == content for path, content in own.items())
    folder = next(path for path in (copy / "evaluations").iterdir() if str(path) + "/report.html" in out)
    manifest = json.loads((folder / "manifest.json").read_text())
    assert (manifest["overrides"], manifest["steps"], manifest["nfe"]) == (change, 3, 5)
    page = (folder / "report.html").read_text()
    parts = page[page.index("Parts and versions") : page.index("Make it again")]
    for word in ("heun", "frechet-distance", "denoising", "digits"):
        assert word in parts, word
    for word in ("multistep", "two-sample"):
        assert word not in parts, word
    assert "Evaluated with sampler.use=heun, sampler.pairs=false, sampling.nfe=5" in page
    assert set(json.loads((folder / "timings.json").read_text())) == {"sampling", "evaluation"}
    assert "3 steps, 5 NFE" in json.loads((folder / "active.json").read_text())["sampling"]["active"]
    before = page
    assert cli("report", folder)[0] == 0
    assert (folder / "report.html").read_text() == before


def test_an_evaluation_without_overrides_writes_the_runs_own_files(copy: Path, cli) -> None:
    (copy / "evaluation.json").unlink()
    code, _, err = cli("evaluate", copy, "-q")
    assert code == 0, err
    assert not (copy / "evaluations").exists()
    table = json.loads((copy / "evaluation.json").read_text())
    assert table["columns"][0]["component"].startswith("atlas-metrics-builtin:conditional-accuracy 2")
    assert [part["kind"] for part in table["parts"]] == ["dataset", "metric", "metric", "baseline"]


def test_a_metric_that_crashes_is_named_and_the_report_is_written(copy: Path, cli, monkeypatch) -> None:
    from atlas_metrics_builtin.two_sample import TwoSample

    def crash(self: object) -> None:
        raise RuntimeError("singular matrix")

    monkeypatch.setattr(TwoSample, "compute", crash)
    (copy / "report.html").unlink()
    code, out, err = cli("evaluate", copy, "-q")
    assert code == 0, err
    said = r"metric atlas-metrics-builtin:two-sample 2\S+ failed: RuntimeError: singular matrix"
    assert re.search(said, out)
    problems = json.loads((copy / "problems.json").read_text())
    assert re.search(said, problems[-1]["message"])
    assert problems[-1]["hint"] == "atlas-core list-plugins --check"
    assert re.search(said, (copy / "report.html").read_text())
    ours = json.loads((copy / "evaluation.json").read_text())["rows"][0]["cells"]
    assert (ours["conditional-accuracy"]["error"], ours["two-sample"]["value"]) == ("", None)


def test_an_evaluation_that_fails_as_a_whole_loses_no_report(copy: Path, cli, monkeypatch) -> None:
    def crash(*_: object) -> None:
        raise OSError("the disk is gone")

    monkeypatch.setattr("atlas_core.engine.evaluation.whole", crash)
    (copy / "report.html").unlink()
    assert cli("evaluate", copy, "-q")[0] == 1
    assert "the evaluation failed: OSError: the disk is gone" in (copy / "report.html").read_text()


def test_a_model_without_conditioner_is_not_judged_by_labels(cli, tmp_path: Path) -> None:
    config = tmp_path / "blind.toml"
    config.write_text(
        """
        [data]
        use = "digits"
        [model]
        use = "unet"
        channels = 8
        [train]
        steps = 2
        batch = 8
        [sampling]
        nfe = 2
        [evaluate]
        count = 20
        metrics = [{ use = "conditional-accuracy" }, { use = "frechet-distance" }]
        """
    )
    code, out, err = cli("run", config, "--runs", tmp_path / "runs", "-q")
    assert code == 0, err
    cells = json.loads((tmp_path / "runs" / "blind" / "evaluation.json").read_text())["rows"][0]["cells"]
    assert "needs the class of each generated sample" in cells["conditional-accuracy"]["error"]
    assert cells["frechet-distance"]["value"] is not None
    assert "The model takes no labels" in out


def test_data_of_another_shape_are_refused_before_anything_is_drawn(copy: Path, cli) -> None:
    code, _, err = cli("evaluate", copy, "data={use='gaussian-mixture'}", "-q")
    assert code == 2, err
    assert "(1, 8, 8)" in err
    assert "atlas-datasets-builtin:gaussian-mixture holds data of shape (2,)" in err
    assert not (copy / "evaluations").exists()


def test_the_config_of_a_run_runs_again(digits_run: Path, cli) -> None:
    code, out, _ = cli("run", digits_run / "config.toml", "--dry-run")
    assert code == 0
    assert "steps = 30" in out
    assert tomllib.loads((digits_run / "config.toml").read_text())["data"]["use"] == "atlas-datasets-builtin:digits"


def test_every_image_can_be_drawn_again_alone_from_its_seed(digits_run: Path) -> None:
    manifest = json.loads((digits_run / "manifest.json").read_text())
    assert len(manifest["images"]) == 100
    assert len({image["seed"] for image in manifest["images"]}) == 100
    model = atlas_core.load(digits_run)
    together = model.sample(100, condition=[image["condition"] for image in manifest["images"]])
    picture = np.asarray(Image.open(digits_run / "samples.png").convert("L"), dtype=float)
    for number in (0, 37, 99):
        image = manifest["images"][number]
        alone = model.sample(1, seed=image["seed"], condition=image["condition"])
        # Batches of another size may be summed in another order: float32 re-association over 20 steps.
        torch.testing.assert_close(alone[0], together[number], rtol=0, atol=2e-4)
        # The tile of the grid shows that image: enlarged, so its mean brightness is compared.
        tile = _tile(picture, image["row"], image["column"], rows=10, columns=10)
        assert tile.mean() == pytest.approx(float((alone.mean() + 1) / 2 * 255), abs=4)


def _tile(picture: np.ndarray, row: int, column: int, *, rows: int, columns: int) -> np.ndarray:
    side = (picture.shape[1] - 2) // columns
    top = picture.shape[0] - 2 - rows * side
    y, x = top + row * side + 2, column * side + 2
    return picture[y : y + side - 2, x : x + side - 2]


def test_samples_are_images_in_range_and_the_batch_does_not_matter(digits_run: Path) -> None:
    model = atlas_core.load(digits_run)
    x = model.sample(7, seed=3, steps=5, condition=4)
    assert x.dtype == torch.float32
    assert x.shape == (7, 1, 8, 8)
    assert x.min() >= -1
    assert x.max() <= 1
    assert x.std() > 0.1
    torch.testing.assert_close(model.sample(7, seed=3, steps=5, condition=4, batch=2), x, rtol=0, atol=2e-4)
    torch.testing.assert_close(model.sample(4, seed=6, steps=5, condition=4), x[3:], rtol=0, atol=2e-4)
    assert (model.sample(7, seed=4, steps=5, condition=4)[:6] - x[1:]).abs().max() < 2e-4
    assert (model.sample(1, seed=3, steps=5, condition=5)[0] - x[0]).abs().max() > 0.01


@pytest.mark.parametrize(
    ("sampler", "nfe", "steps"),
    [
        ("heun, sampler.pairs=false", 9, 5),
        ("heun", 9, 9),
        ("euler", 9, 9),
        ("ddpm-ancestral", 9, 9),
        ("dpmpp-2m", 9, 9),
    ],
)
def test_equal_nfe_means_equal_calls_of_the_network(digits_run: Path, sampler: str, nfe: int, steps: int) -> None:
    model = atlas_core.load(digits_run, [*f"sampler.use={sampler}".split(", "), f"sampling.nfe={nfe}"])
    calls = 0

    def count(*_: object) -> None:
        nonlocal calls
        calls += 1

    model.network.model.register_forward_hook(count)
    model.sample(2, condition=[0, 1])
    assert calls == nfe
    assert len(model.times()) == steps + 1


def test_guidance_is_a_swap_of_one_part(digits_run: Path) -> None:
    plain = atlas_core.load(digits_run).sample(8, condition=3, nfe=6)
    unit = atlas_core.load(digits_run, ["sampling.guidance={use='cfg', scale=1.0}"]).sample(8, condition=3, nfe=6)
    strong = atlas_core.load(digits_run, ["sampling.guidance={use='cfg', scale=3.0}"]).sample(8, condition=3, nfe=6)
    torch.testing.assert_close(unit, plain, rtol=0, atol=2e-4)
    assert (strong - plain).abs().max() > 0.05


def test_raw_weights_differ_from_the_average(digits_run: Path) -> None:
    average = atlas_core.load(digits_run).sample(2, condition=3, nfe=4)
    raw = atlas_core.load(digits_run, average=False).sample(2, condition=3, nfe=4)
    assert (average - raw).abs().max() > 1e-3


def test_sample_writes_images_and_their_seeds(digits_run: Path, cli, tmp_path: Path) -> None:
    out = tmp_path / "drawn"
    code, text, _ = cli(
        "sample",
        digits_run,
        "-n",
        "5",
        "--condition",
        "0,1",
        "--seed",
        "10",
        "--nfe",
        "4",
        "--out",
        out,
        "--json",
        "-q",
    )
    assert code == 0
    assert len(json.loads(text)["files"]) == 6
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["nfe"] == 4
    assert [(image["seed"], image["condition"]) for image in manifest["images"]] == [
        (10, 0),
        (11, 1),
        (12, 0),
        (13, 1),
        (14, 0),
    ]
    again = atlas_core.load(digits_run).sample(1, seed=12, condition=0, nfe=4)
    pixels = np.asarray(Image.open(out / "000012.png"), dtype=float)
    np.testing.assert_allclose(pixels, ((again[0, 0] + 1) / 2 * 255).numpy(), atol=1.01)


def test_titles_stand_over_columns_of_one_class_alone(digits_run: Path, cli, tmp_path: Path) -> None:
    heights = {}
    for name, options in {
        "default": [],
        "sevens": ["--condition", "7"],
        "unconditional": ["--condition", "none"],
    }.items():
        out = tmp_path / name
        code, _, err = cli("sample", digits_run, "-n", "20", "--nfe", "2", "--out", out, "-q", *options)
        assert code == 0, err
        heights[name] = Image.open(out / "samples.png").height
    assert heights["default"] > heights["sevens"] == heights["unconditional"]
    conditions = [
        image["condition"] for image in json.loads((tmp_path / "default" / "manifest.json").read_text())["images"]
    ]
    assert conditions == [*range(10), *range(10)]


def test_a_class_is_known_by_its_name(digits_run: Path) -> None:
    model = atlas_core.load(digits_run)
    assert torch.equal(model.sample(2, condition="7", nfe=2), model.sample(2, condition=7, nfe=2))
    with pytest.raises(
        UsageError, match=r"there is no class '77'(.|\n)*A string is a name; an index is given as an int"
    ):
        model.sample(2, condition="77", nfe=2)
    for neither in (7.0, True):
        with pytest.raises(UsageError, match=f"label {neither} of sample 0 is not an int: labels are the ints 0 to 9"):
            model.sample(2, condition=neither, nfe=2)


def test_a_run_that_was_stopped_goes_on_to_the_same_bits(cli, tmp_path: Path) -> None:
    short = ["train.checkpoint_every=4", "train.validate_every=0", "train.sample_every=0", "train.batch=32", "-q"]
    assert cli("train", "digits", "train.steps=8", *short, "--runs", tmp_path, "--name", "whole")[0] == 0
    assert cli("train", "digits", "train.steps=8", *short, "--runs", tmp_path, "--name", "parts")[0] == 0
    last = tmp_path / "parts" / "checkpoints" / "step-00000008"
    for file in last.iterdir():
        file.unlink()
    last.rmdir()
    code, _, err = cli("train", "--resume", tmp_path / "parts", "-q")
    assert code == 0, err
    for name in ("networks", "ema", "optimizer"):
        whole = (tmp_path / "whole" / "checkpoints" / "step-00000008" / f"{name}.safetensors").read_bytes()
        assert (last / f"{name}.safetensors").read_bytes() == whole, name


def test_a_resume_that_is_refused_changes_nothing_of_the_run(cli, tmp_path: Path) -> None:
    short = ["train.validate_every=0", "train.sample_every=0", "train.batch=8", "-q"]
    assert cli("train", "digits", "train.steps=2", *short, "--runs", tmp_path)[0] == 0
    run = tmp_path / "digits"
    before = {path: path.read_bytes() for path in (run / "config.toml", run / "lock.json", run / "metrics.jsonl")}
    for override, words in (
        ("train.batch=16", "8 in the checkpoint, 16 now"),
        ("model.channels=32", "$.model.channels"),
        ("train.steps=1", "2 steps are done already"),
    ):
        code, _, err = cli("train", "--resume", run, override, "-q")
        assert code == 2, err
        assert words in err
        assert {path: path.read_bytes() for path in before} == before
    code, _, err = cli("train", "--resume", run, "train.steps=3", "-q")
    assert code == 0, err
    assert "steps = 3" in (run / "config.toml").read_text()


@pytest.mark.parametrize(
    "wrong",
    [{"n": 0}, {"n": 2.0}, {"seed": -1}, {"seed": 1.5}, {"seed": 2**63}, {"steps": 0}, {"batch": 0}, {"batch": -1}],
)
def test_numbers_that_cannot_be_meant_are_refused_by_name(digits_run: Path, wrong: dict[str, float]) -> None:
    with pytest.raises(UsageError, match=f"{next(iter(wrong))}="):
        atlas_core.load(digits_run).sample(**{"n": 2, **wrong})


def test_a_second_run_never_overwrites_the_first(cli, tmp_path: Path) -> None:
    short = ["train.steps=1", "train.validate_every=0", "train.batch=8", "-q", "--runs", tmp_path]
    assert cli("train", "digits", *short)[0] == 0
    assert cli("train", "digits", *short)[0] == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["digits", "digits-2"]


def test_points_run_through_the_same_pipeline(cli, tmp_path: Path) -> None:
    config = tmp_path / "mixture.toml"
    config.write_text(
        """
        [data]
        use = "gaussian-mixture"
        [model]
        use = "mlp"
        width = 64
        [train]
        steps = 40
        [sampling]
        nfe = 10
        [evaluate]
        count = 200
        metrics = [{ use = "sinkhorn-divergence" }]
        """
    )
    code, out, err = cli("run", config, "--runs", tmp_path / "runs", "-q")
    assert code == 0, err
    assert "sinkhorn-divergence" in out
    assert (tmp_path / "runs" / "mixture" / "report.html").exists()


def test_a_transport_pipeline_couples_two_data_sets(cli, tmp_path: Path) -> None:
    config = tmp_path / "couple.toml"
    config.write_text(
        """
        [source]
        use = "gaussian-mixture"
        train = 60
        [target]
        use = "gaussian-mixture"
        seed = 1
        train = 50
        [solver]
        use = "sinkhorn"
        kernel = { use = "gaussian", bandwidth = 2.0 }
        """
    )
    code, out, err = cli("run", config, "--runs", tmp_path / "runs", "-q", "--json")
    assert code == 0, err
    solution = json.loads(out)["solution"]
    assert solution["status"] == "converged"
    assert solution["marginal_error"] < 1e-3
    assert (tmp_path / "runs" / "couple" / "coupling.safetensors").exists()


def test_the_module_is_the_command() -> None:
    done = subprocess.run([sys.executable, "-m", "atlas_core", "--version"], capture_output=True, text=True, check=True)
    assert atlas_core.__version__ in done.stdout
