"""What the run would refuse is refused by the dry run: the same checks, before anything is made."""

from __future__ import annotations

from typing import Any

import pytest

from atlas_core.cli import main
from atlas_core.config.values import convert
from atlas_core.errors import ConfigError
from atlas_core.plugins.registry import Registry

CONFIG = '[data]\nuse = "scans"\n[model]\nuse = "net"\n'


@pytest.mark.parametrize(
    ("override", "where", "message"),
    [
        ("train.device=foo", "$.train.device", "'foo' is no device"),
        ("train.device=cuda:77", "$.train.device", "cuda:77 is not there"),
        ("train.accumulate=1000", "$.train.batch", "cannot be shared"),
        ("train.threads=0", "$.train.threads", "≥ 1 and ≤ 1024"),
        ("train.threads=1025", "$.train.threads", "≥ 1 and ≤ 1024"),
        (f"train.seed={2**63}", "$.train.seed", "out of range"),
        (f"sampling.seed={2**63}", "$.sampling.seed", "out of range"),
        ("train.learning_rate=inf", "$.train.learning_rate", "finite number, got inf"),
        ("train.clip_norm=nan", "$.train.clip_norm", "finite number, got nan"),
        (f"train.weight_decay=1{'0' * 400}", "$.train.weight_decay", "finite number"),
    ],
)
def test_what_this_machine_or_arithmetic_cannot_do(
    document: Any, registry: Registry, override: str, where: str, message: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        document(CONFIG, override).resolve(registry)
    (problem,) = caught.value.problems
    assert problem.where == where
    assert message in problem.message
    assert problem.file.startswith("override")


def test_half_precision_on_a_cpu(document: Any, registry: Registry) -> None:
    with pytest.raises(ConfigError, match=r"\$\.train\.precision(.|\n)*fp16 needs a CUDA device"):
        document(CONFIG, "train.device=cpu", "train.precision=fp16").resolve(registry)


def test_the_largest_seed_is_a_seed(document: Any, registry: Registry) -> None:
    assert document(CONFIG, f"train.seed={2**63 - 1}").resolve(registry).train.seed == 2**63 - 1


def test_a_class_that_names_an_infinity_gets_it(document: Any, registry: Registry) -> None:
    plan = document(CONFIG, "sampler.use=adaptive", "sampling.steps=4", "sampler.limit=inf").resolve(registry)
    assert plan.sampler.config.limit == float("inf")
    with pytest.raises(ConfigError, match="finite"):
        document(CONFIG, "sampler.use=adaptive", "sampling.steps=4", "sampler.churn=inf").resolve(registry)


def test_finite_numbers_in_a_union_and_a_list() -> None:
    for annotation, value in ((float | None, float("inf")), (tuple[float, ...], [1.0, float("nan")])):
        _, (complaint,) = convert(value, annotation, "$.a")
        assert "expected a finite number" in complaint.message
        assert convert(value, annotation, "$.a", finite=False)[1] == []


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\\b"])
def test_a_name_that_is_no_folder_is_refused_before_anything(name: str, capsys: Any) -> None:
    assert main(["run", "no-such-preset", "--name", name, "--dry-run"]) == 2
    assert "cannot be the name of a run" in capsys.readouterr().err
