"""The report: one file without references to anything else, that says what is there and what is not."""

from __future__ import annotations

import html.parser
import json
import re

import attrs
import pytest
import torch

from atlas_core.engine.scores import Cell, Column, Evaluation, Row
from atlas_core.errors import Problem
from atlas_core.report.images import grid_png, scatter_png, strip_png
from atlas_core.report.page import write_report
from atlas_core.runs.folder import RunFolder


class Page(html.parser.HTMLParser):
    """What a browser would see: tags in balance, images with their alt texts, text."""

    VOID = frozenset({"meta", "img", "br", "source", "link", "input"})

    def __init__(self, text):
        super().__init__()
        self.open, self.images, self.links, self.words = [], [], [], []
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"
        self.text = re.sub(r"\s+", " ", " ".join(self.words))

    def handle_starttag(self, tag, attributes):
        attributes = dict(attributes)
        if tag not in self.VOID:
            self.open.append(tag)
        if tag == "img":
            self.images.append(attributes)
        self.links += [attributes[name] for name in ("src", "href", "srcset", "action") if name in attributes]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)


@pytest.fixture
def run(tmp_path):
    return RunFolder.create(tmp_path, "digits <test>")


def scores(error=""):
    def row(kind, name, value):
        return Row(name, kind, 1000, 1.0, {"frechet-distance": Cell(value, 1000, "pixels", {"n_real": 360.0}, error)})

    rows = (row("ours", "ours", 0.5), row("floor", "training split", 0.45), row("baseline", "class-gaussian", 0.8))
    columns = (Column("frechet-distance", "lower", 0.45, summary="Tell how far."),)
    return Evaluation(rows, columns, 1000, "test", 360, 1437, 0, 9.0, ("All are clamped.",))


def fill(run):
    x = torch.linspace(-1, 1, 20 * 64).view(20, 1, 8, 8)
    grid_png(x, run.path / "samples.png", columns=10, titles=list("0123456789"))
    strip_png([x[:3]] * 4, run.samples / "strip.png")
    for step in range(100, 1000, 100):
        grid_png(x, run.samples / f"step-{step:08d}.png", columns=10)
        run.journal.append(step, {"loss": 10 / step, "seconds": step / 10, "validation_loss": 12 / step})
    run.config_toml.write_text(
        '[data]\nuse = "atlas-datasets-builtin:digits"\n[sampling]\nnfe = 20\n[sampler]\nuse = "p:heun"\n'
    )
    part = {
        "where": "$.data",
        "kind": "dataset",
        "id": "atlas-datasets-builtin:digits",
        "version": "2.1.7",
        "config": {},
    }
    run.lock_json.write_text(
        json.dumps({"schema": 1, "versions": {"torch": "2.9", "atlas-core": "2.0.1"}, "components": [part]})
    )
    (run.path / "evaluation.json").write_text(json.dumps(scores().to_json()))
    (run.path / "timings.json").write_text(json.dumps({"training": 121.4, "evaluation": 7200.0}))
    active = {"precision": {"requested": "bf16", "active": "float32", "reason": "no bfloat16 here"}}
    (run.path / "active.json").write_text(json.dumps(active))
    skipped = Problem("cannot identify image file", file="a/<b>.png", hint="replace it")
    (run.path / "problems.json").write_text(json.dumps([attrs.asdict(skipped), "hook acme is switched off"]))


def page_of(run):
    path = write_report(run)
    assert path == run.report_html
    return Page(path.read_text(encoding="utf-8"))


def test_the_page_shows_everything_and_needs_nothing_else(run):
    fill(run)
    page = page_of(run)
    assert page.links
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert all(len(image["alt"]) > 10 for image in page.images)
    assert len(page.images) == 3 + 6  # samples, strip, curve; six of the nine grids of the training
    for word in (
        *(
            "digits <test>",
            "heun, 20 NFE",
            "900 steps",
            "class-gaussian",
            "0.45",
            "n 1000",
            "● close",
            "11 % above real data",
        ),
        *(
            "better than class-gaussian",
            "All are clamped.",
            "2 min 1 s",
            "2 h 0 min",
            "no bfloat16 here",
            "2.1.7",
            "torch 2.9",
        ),
        *(
            "a/<b>.png : cannot identify image file",
            "replace it",
            "hook acme is switched off",
            "Training loss 0.1 at step 100",
        ),
        *("pip install atlas-core==2.0.1 atlas-datasets-builtin==2.1.7", "after 100 steps", "after 900 steps"),
    ):
        assert word in page.text, word
    assert "http" not in page.text
    assert run.report_html.stat().st_size < 1_000_000


def test_what_is_missing_is_said(run):
    page = page_of(run)
    assert not page.images
    for word in (
        "No samples yet",
        "Not evaluated yet",
        "No training curve",
        "No lock was written",
        "No timings",
        "Not recorded",
    ):
        assert word in page.text, word


def test_broken_files_are_problems_and_not_crashes(run):
    (run.path / "lock.json").write_text("{")
    (run.path / "evaluation.json").write_text('{"schema": 99}')
    (run.path / "timings.json").write_text('["no mapping"]')
    run.config_toml.write_text("= nonsense")
    page = page_of(run)
    for name in ("lock.json", "evaluation.json", "timings.json", "config.toml"):
        assert f"{name} cannot be read" in page.text
    assert "schema 99" in page.text


def test_a_score_that_cannot_be_computed_gives_its_reason(run):
    (run.path / "evaluation.json").write_text(json.dumps(scores("needs 5 samples").to_json()))
    assert "frechet-distance: needs 5 samples" in page_of(run).text


def test_points_are_shown_as_a_scatter_and_a_first_grid_before_the_last(run):
    scatter_png(torch.randn(30, 2), run.path / "samples.png")
    assert len(page_of(run).images) == 1
    (run.path / "samples.png").rename(run.samples / "step-00000500.png")
    assert "Samples after 500 steps; the run has not drawn its final ones yet." in page_of(run).text


def drawn_with(sampler, nfe, overrides=()):
    part = {"where": "$.sampler", "kind": "sampler", "id": f"p:{sampler}", "version": "3.1", "config": {}}
    return {
        "schema": 1,
        "overrides": list(overrides),
        "sampler": {"use": f"p:{sampler}"},
        "grid": {"use": "p:rho"},
        "guidance": {"use": "p:cfg"},
        "requested": {"steps": None, "nfe": nfe},
        "steps": 3,
        "nfe": nfe,
        "versions": {"torch": "2.14", "atlas-core": "2.0.1"},
        "parts": [part],
        "images": [],
    }


def test_what_drew_is_read_from_the_manifest_and_a_difference_is_said(run):
    fill(run)
    (run.path / "manifest.json").write_text(json.dumps(drawn_with("heun", 20)))
    assert "config.toml says" not in page_of(run).text
    (run.path / "manifest.json").write_text(json.dumps(drawn_with("euler", 5)))
    text = page_of(run).text
    for word in (
        "sampler euler, 5 NFE",
        "Drawn from noise with euler (3 steps, 5 NFE; grid rho; guidance cfg)",
        "Not drawn as config.toml says: sampler, steps or NFE differ; its own sampler is heun, 20 NFE.",
        "sampler euler p 3.1",
        "torch 2.14",
        "p==3.1",
    ):
        assert word in text, word


def test_an_evaluation_with_overrides_has_its_own_page_and_says_so(run):
    fill(run)
    other = RunFolder(run.path / "evaluations" / "sampler.use=euler")
    other.path.mkdir(parents=True)
    overrides = ["sampler.use=euler", "sampling.nfe=5"]
    (other.path / "manifest.json").write_text(json.dumps(drawn_with("euler", 5, overrides)))
    (other.path / "timings.json").write_text('{"sampling": 3.0}')
    scored = {"where": "$.evaluate.metrics[0]", "kind": "metric", "id": "acme:mine", "version": "9.8.7"}
    cell = Cell(None, 1000, error="RuntimeError: singular matrix", failed=True)
    table = attrs.evolve(scores(), parts=(scored,)).named(["acme:mine 9.8.7"], ["acme:base 1.0"])
    row = attrs.evolve(table.rows[0], cells={"frechet-distance": cell})
    table = attrs.evolve(table, rows=(row, *table.rows[1:]))
    (other.path / "evaluation.json").write_text(json.dumps(table.to_json()))
    text = page_of(other).text
    for word in (
        "Evaluated with sampler.use=euler, sampling.nfe=5 instead of the run's own settings; "
        "its own sampler is heun, 20 NFE.",
        *("900 steps", "sampler euler, 5 NFE", "metric mine acme 9.8.7", "sampling 3 s"),
        "metric acme:mine 9.8.7 failed: RuntimeError: singular matrix",
        f"atlas-core evaluate '{run.path}' sampler.use=euler sampling.nfe=5",
        f"atlas-core report '{other.path}'",
    ):
        assert word in text, word
    assert "2 min 1 s" not in text  # the run's own training time
    assert "Evaluated with" not in page_of(run).text


def test_the_page_is_made_again_to_the_same_bytes(run):
    fill(run)
    page_of(run)
    first = run.report_html.read_bytes()
    page_of(run)
    assert run.report_html.read_bytes() == first
