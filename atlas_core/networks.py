"""From a plan to its network: with the initial weights of its seed, or with those of a checkpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

from atlas_core.engine.network import Network
from atlas_core.engine.training.keys import seeded_build
from atlas_core.errors import CheckpointError

if TYPE_CHECKING:
    from atlas_core.config.plan import PipelinePlan
    from atlas_core.engine.checkpoint import Checkpoint


def new_network(plan: PipelinePlan) -> Network:
    """Build the network with the initial weights that the seed gives."""

    def make() -> Network:
        conditioner = plan.conditioner.build() if plan.conditioner else None
        return Network(plan.process.build(), plan.parametrization.build(), plan.model.build(), conditioner)

    return seeded_build(make, plan.train.seed)


def load_network(plan: PipelinePlan, checkpoint: Checkpoint, *, average: bool) -> Network:
    """Build the network with the weights of a checkpoint, or their moving average. Raises CheckpointError."""
    network = new_network(plan)
    weights = checkpoint.load_networks("ema" if average else "raw")
    try:
        network.load_state_dict(weights["denoiser"])
    except (KeyError, RuntimeError) as error:
        raise CheckpointError(
            f"the weights of {checkpoint.path} do not fit the network of its config: {error}",
            hint="The plugin that built it may have changed: its lock.json names the version.",
        ) from error
    return network
