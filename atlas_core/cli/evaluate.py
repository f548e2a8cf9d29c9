"""`atlas-core evaluate`: score a run."""

from __future__ import annotations

import json

import click

from atlas_core.cli import options
from atlas_core.cli.progress import result


@click.command("evaluate")
@click.argument("run", metavar="RUN|CHECKPOINT", type=click.Path())
@options.OVERRIDES
@options.QUIET
@options.JSON
def evaluate(run: str, overrides: tuple[str, ...], quiet: bool, as_json: bool) -> None:
    """Score the samples of a run beside real data and simple baselines, and write its report again.

    With overrides, samples, scores and report go into a new folder RUN/evaluations/…; the run's own stay as they are.

    \b
    atlas-core evaluate runs/digits
    atlas-core evaluate runs/digits sampler.use=heun sampling.nfe=40 evaluate.count=500
    """
    from atlas_core.pipeline import load
    from atlas_core.workflow import finish, score

    pipeline = load(run, overrides)
    with options.watched(pipeline, quiet):
        # A checkpoint that was moved out of its run has no report to write.
        summary = finish(pipeline, overrides) if pipeline.run is not None and pipeline.plan.metrics else None
        evaluation = summary.evaluation if summary is not None else score(pipeline)
    assert evaluation is not None  # evaluate() refuses a config without metrics
    if as_json:
        result(json.dumps(evaluation.to_json(), indent=2))
        return
    result(evaluation.table())
    if summary is not None:
        result(f"\nOpen {summary.report}")
