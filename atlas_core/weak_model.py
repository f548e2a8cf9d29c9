"""Open the weak model that guidance leads away from, and refuse one that cannot serve."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from atlas_core.errors import UsageError
from atlas_core.runs.folder import step_of

if TYPE_CHECKING:
    from atlas_core.contracts import WeakModel
    from atlas_core.engine.network import Network
    from atlas_core.pipeline import Pipeline


def weak_path(weak: WeakModel, pipeline: Pipeline) -> Path | None:
    """Return where the weak model lies; None while the run that it belongs to has no such checkpoint yet."""
    own = Path(weak.checkpoint)
    if weak.checkpoint and (own.exists() or step_of(own) is None or own.name != weak.checkpoint):
        return own
    kept = [] if pipeline.run is None else pipeline.run.all_checkpoints()
    if weak.checkpoint:
        return next((path for path in kept if path.name == weak.checkpoint), None)
    return kept[0] if kept else None


def is_there(weak_model: WeakModel, pipeline: Pipeline) -> bool:
    """Whether the weak model exists by now. Raises CheckpointError for one of another run that does not."""
    from atlas_core.engine.checkpoint import open_checkpoint

    path = weak_path(weak_model, pipeline)
    if path is not None:
        open_checkpoint(path)
    return path is not None


def open_weak(weak: WeakModel, pipeline: Pipeline) -> Network:
    """Return the weak network, on the device of `pipeline`, whose samples it is going to guide.

    Raises CheckpointError for what is no checkpoint; UsageError, saying what to do, where there is none, where it is
    of another process or item shape, or where it is the very network that it should be weaker than.
    """
    from atlas_core.pipeline import Pipeline

    path = weak_path(weak, pipeline)
    if path is None:
        named = f"no checkpoint {weak.checkpoint}" if weak.checkpoint else "no checkpoint yet"
        raise UsageError(
            f"guidance leads away from an earlier checkpoint of this run, which has {named}",
            hint="Name another run with sampling.guidance.checkpoint, or train with a larger train.keep_checkpoints.",
        )
    other = Pipeline.from_checkpoint(path, average=weak.weights == "ema")
    network, strong = other.network.to(pipeline.device), pipeline.network
    for word, theirs, ours in (
        ("process", network.process, strong.process),
        ("item shape", tuple(other.spec.shape), tuple(pipeline.spec.shape)),
        ("classes", other.spec.classes, pipeline.spec.classes),
    ):
        if theirs != ours:
            raise UsageError(
                f"the weak model {path} has another {word} than the model it guides: {theirs}, not {ours}",
                hint="A weak model is trained on the same data and process: for less time, or smaller.",
            )
    weights = network.state_dict()
    same = {name: tensor for name, tensor in strong.state_dict().items() if name in weights}
    if len(same) == len(weights) and all(
        tensor.shape == weights[name].shape and bool((tensor == weights[name]).all()) for name, tensor in same.items()
    ):
        raise UsageError(
            f"the weak model {path} is the very model that it should guide: nothing would change",
            hint="Name an earlier checkpoint or another run with sampling.guidance.checkpoint, or weights='raw'.",
        )
    return network
