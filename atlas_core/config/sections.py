"""The tables of a config that are not components: what the engine itself is told."""

from __future__ import annotations

from typing import Any, Literal

import attrs
from attrs.validators import and_, ge, gt, le, lt, optional

from atlas_core.fields import component

_SEED = and_(ge(0), lt(2**63))
"""A seed is a key of 64 bits with a sign."""


def _setting(default: Any, help: str, validator: Any = None) -> Any:
    return attrs.field(default=default, validator=validator, metadata={"help": help})


@attrs.frozen
class TrainConfig:
    """How a network is trained."""

    steps: int = _setting(3000, "Optimizer steps.", ge(1))
    batch: int = _setting(128, "Samples an optimizer step sees, over all ranks and accumulated micro-batches.", ge(1))
    accumulate: int = _setting(1, "Micro-batches that one optimizer step is split into.", ge(1))
    seed: int = _setting(0, "Seed of initial weights, order, augmentation, times and noise.", _SEED)
    learning_rate: float = _setting(1e-3, "Peak learning rate of AdamW.", gt(0))
    schedule: Literal["cosine", "constant"] = _setting("cosine", "Learning rate after the warm-up: to zero, or kept.")
    warmup_steps: int = _setting(100, "Steps over which the learning rate rises linearly from zero.", ge(0))
    weight_decay: float = _setting(0.0, "Decoupled weight decay of AdamW.", ge(0))
    beta1: float = _setting(0.9, "First AdamW momentum.", and_(ge(0), lt(1)))
    beta2: float = _setting(0.99, "Second AdamW momentum.", and_(ge(0), lt(1)))
    clip_norm: float | None = _setting(1.0, "Largest norm of the gradient; null: not clipped.", optional(gt(0)))
    precision: Literal["float32", "bf16", "fp16"] = _setting("float32", "Arithmetic of the forward and backward pass.")
    ema_decay: float = _setting(0.999, "Decay of the averaged weights per optimizer step.", and_(ge(0), lt(1)))
    device: str = _setting("auto", "`auto`, `cpu`, `cuda`, `cuda:1`, `mps`.")
    threads: int | None = _setting(
        None,
        "CPU threads that train and sample; null: all cores. Small networks are faster on one.",
        optional(and_(ge(1), le(1024))),
    )
    log_every: int = _setting(50, "Steps between lines of metrics.jsonl.", ge(1))
    validate_every: int = _setting(500, "Steps between validation losses; 0: never.", ge(0))
    sample_every: int = _setting(1000, "Steps between sample grids; 0: never.", ge(0))
    checkpoint_every: int = _setting(500, "Steps between checkpoints; the last step always has one.", ge(1))
    keep_checkpoints: int = _setting(3, "Newest checkpoints that are kept.", ge(1))


@attrs.frozen
class SamplingConfig:
    """How samples are drawn from the trained network."""

    nfe: int | None = _setting(
        None, "Calls of the denoiser a sample; the most steps that fit. Default 20.", optional(ge(1))
    )
    steps: int | None = _setting(None, "Steps of the sampler, instead of nfe.", optional(ge(1)))
    seed: int = _setting(0, "Sample i is drawn from seed + i, alone or in any batch.", _SEED)
    batch: int = _setting(250, "Samples drawn at once; changes memory and speed, never a sample.", ge(1))
    grid: Any = component(
        "grid", default="atlas-solvers-builtin:logistic-log-snr", help="Times that the sampler visits."
    )
    guidance: Any = component("guidance", default="atlas-solvers-builtin:none", help="How the condition is amplified.")


@attrs.frozen
class EvaluateConfig:
    """How the samples are scored."""

    count: int = _setting(1000, "Samples that are drawn and scored.", ge(1))
    split: str = _setting("test", "Held-out split that the samples are compared with.")
    metrics: Any = component("metric", default=[], many=True, help="Scores of the table.")
    baselines: Any = component(
        "baseline", default=[], many=True, help="Simple generators that the table is compared with."
    )


@attrs.frozen
class TransportConfig:
    """Where two bodies of data are coupled."""

    device: str = _setting("auto", "`auto`, `cpu`, `cuda`, `cuda:1`, `mps`.")


@attrs.frozen
class TransportEvaluateConfig:
    """How mapped points are scored against the target."""

    count: int = _setting(1000, "Most mapped points that are scored, evenly spaced.", ge(1))
    split: str | None = _setting(
        None,
        "Split of the target that they are compared with; unset: `test` where there is one, else one half of `train`, "
        "with the other half as real data.",
    )
    metrics: Any = component("metric", default=[], many=True, help="Scores of the table.")


@attrs.frozen
class PluginsConfig:
    """Which installed plugins take part."""

    prefer: tuple[str, ...] = _setting((), "Providers that win a name that several have, first wins.")
    disable: tuple[str, ...] = _setting((), "Providers, or `provider:name`, that are never imported.")
    allow: tuple[str, ...] = _setting((), "Providers that may be imported in allow-list mode.")
    mode: Literal["open", "allowlist"] = _setting("open", "`allowlist`: nothing but `allow` is imported.")
