"""Stand-ins of every kind that a pipeline has: strangers to atlas-core, found through the registry alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Literal

import attrs
import torch
from attrs.validators import and_, ge, gt, in_, lt

from atlas_core.contracts import Condition, DataSpec
from atlas_core.errors import DataError
from atlas_core.fields import component, derived

if TYPE_CHECKING:
    from torch import Tensor


def setting(default: Any, validator: Any = None, help: str = "A setting.") -> Any:
    return attrs.field(default=default, validator=validator, metadata={"help": help})


@attrs.frozen
class Scans:
    root: str = setting("")
    classes: int = setting(10, ge(0))
    broken: bool = setting(False)

    @property
    def spec(self) -> DataSpec:
        if self.broken:
            raise DataError("the folder is empty", hint="Put images into it.")
        return DataSpec(shape=(1, 8, 8), classes=tuple(str(label) for label in range(self.classes)), std=0.4)

    @property
    def splits(self) -> tuple[str, ...]:
        return ("train", "test")

    def split(self, name: str) -> list[Any]:
        return []


@attrs.frozen
class Line:
    t_min: ClassVar[float] = 1e-3
    t_max: ClassVar[float] = 1.0
    has_alpha_zero: ClassVar[bool] = True

    def alpha(self, t: Tensor) -> Tensor:
        return 1 - t

    def sigma(self, t: Tensor) -> Tensor:
        return t

    alpha_dot = sigma_dot = log_snr = time_of_log_snr = mix = ode_step = posterior = prior = sigma


@attrs.frozen
class Exploding(Line):
    has_alpha_zero: ClassVar[bool] = False

    def alpha(self, t: Tensor) -> Tensor:
        return t * 0 + 1


@attrs.frozen
class Whole:
    sigma_data: float = derived("data.std", validator=gt(0), help="Standard deviation of the data.")

    def coefficients(self, process: Any, t: Tensor) -> Any:
        return t, t, t, t


@attrs.frozen
class Noise:
    def coefficients(self, process: Any, t: Tensor) -> Any:
        if process.has_alpha_zero:
            raise ValueError("alpha is 0 at t = 1")
        return t, t, t, t


@attrs.frozen
class NetConfig:
    shape: tuple[int, ...] = derived("data.shape", help="Shape of an item.")
    condition_width: int = derived("condition.vector", default=0, help="Width of the condition.")
    width: int = setting(32, and_(ge(1), lt(4096)))
    multipliers: tuple[int, ...] = setting((1, 2))
    attention: bool = setting(False)
    groups: int = setting(8, ge(1))
    act: Literal["silu", "gelu"] = setting("silu")

    def __attrs_post_init__(self) -> None:
        if self.width % self.groups:
            raise ValueError(f"groups = {self.groups} does not divide width = {self.width}")


class Net:
    """Predict; built as Net(config)."""

    Config = NetConfig
    built = 0

    def __init__(self, config: NetConfig) -> None:
        type(self).built += 1
        self.config = config

    def forward(self, x: Any, c_noise: Any, condition: Any = None, *, c_noise_end: Any = None) -> Any:
        return x


@attrs.frozen
class BlindConfig:
    shape: tuple[int, ...] = derived("data.shape", help="Shape of an item.")


class BlindNet(Net):
    """Takes no condition."""

    Config = BlindConfig  # type: ignore[assignment]


@attrs.frozen
class Label:
    classes: int = derived("data.classes", help="Number of classes.")
    width: int = setting(16, ge(1))
    dropout: float = setting(0.1, and_(ge(0), lt(1)))

    @property
    def widths(self) -> dict[str, int]:
        return {"vector": self.width}

    def encode(self, inputs: Any) -> Condition:
        return Condition()

    def null(self, batch: int) -> Condition:
        return Condition()


@attrs.frozen
class MinSNR:
    """An objective that is nested as the weighting of another, to have nesting two deep."""

    networks: ClassVar[frozenset[str]] = frozenset({"denoiser"})
    couples_batch: ClassVar[bool] = False
    gamma: float = setting(5.0, gt(0))
    ceiling: float | None = setting(100.0)

    def loss(self, networks: Any, batch: Any, noise: Any) -> Any: ...


@attrs.frozen
class Denoising(MinSNR):
    inner: Any = component("objective", default=None, help="Another objective.")


@attrs.frozen
class Bridge(MinSNR):
    networks: ClassVar[frozenset[str]] = frozenset({"velocity", "score"})


@attrs.frozen
class Euler:
    accepts: ClassVar[frozenset[str]] = frozenset({"denoiser"})
    stochastic: ClassVar[bool] = False
    churn: float = setting(0.0, ge(0))
    order: int = setting(1, in_((1, 2)))

    def steps(self, denoiser: Any, x: Any, times: Any, *, noise: Any = None) -> Any: ...

    def nfe(self, steps: int) -> int | None:
        return steps


@attrs.frozen
class Heun(Euler):
    def nfe(self, steps: int) -> int | None:
        return 2 * steps


@attrs.frozen
class Adaptive(Euler):
    limit: float = setting(float("inf"), gt(0))

    def nfe(self, steps: int) -> int | None:
        return None


@attrs.frozen
class Drift(Euler):
    accepts: ClassVar[frozenset[str]] = frozenset({"dynamics"})


@attrs.frozen
class Uniform:
    shift: float = setting(1.0, gt(0))

    def times(self, process: Any, steps: int) -> Any:
        return torch.linspace(process.t_max, 0, steps + 1, dtype=torch.float64)


@attrs.frozen
class Upwards(Uniform):
    def times(self, process: Any, steps: int) -> Any:
        return super().times(process, steps).flip(0)


@attrs.frozen
class Lost(Uniform):
    def times(self, process: Any, steps: int) -> Any:
        return {}[steps]


@attrs.frozen
class Unguided:
    needs: ClassVar[frozenset[str]] = frozenset()
    stateful: ClassVar[bool] = False

    def __call__(self, context: Any, state: Any) -> Any: ...


@attrs.frozen
class Guided(Unguided):
    needs: ClassVar[frozenset[str]] = frozenset({"unconditional"})
    scale: float = setting(1.5)


@attrs.frozen
class Momentum(Guided):
    stateful: ClassVar[bool] = True


@attrs.frozen
class Weak(Unguided):
    needs: ClassVar[frozenset[str]] = frozenset({"weak-model"})


@attrs.frozen
class Gauss:
    has_log: ClassVar[bool] = True
    item_ndim: ClassVar[int] = 1
    scale: float = setting(1.0, gt(0))

    def log_kernel(self, x: Any, y: Any) -> Any: ...


@attrs.frozen
class Signed(Gauss):
    has_log: ClassVar[bool] = False


@attrs.frozen
class Sinkhorn:
    kernel: Any = component("kernel", default="gauss", help="Whose −log is the cost.")
    epsilon: float | Tensor = setting(0.1, gt(0))  # noqa: RUF009

    def solve(self, x: Any, y: Any, *, a: Any = None, b: Any = None, init: Any = None) -> Any: ...

    def solve_operator(
        self, operator: Any, *, a: Any = None, b: Any = None, init: Any = None, y: Any = None
    ) -> Any: ...


@attrs.define
class Score:
    better: ClassVar[str] = "lower"
    bins: int = setting(4, ge(1))
    solver: Any = component("solver", default=None, help="A solver.")
    seen: int = attrs.field(default=0, init=False)

    def update(self, generated: Any = None, real: Any = None, *, index: Any = None) -> None:
        self.seen += 1

    state = load_state = merge = compute = update


@attrs.define
class Copies:
    def fit(self, train: Any, spec: Any) -> None: ...

    def sample(self, labels: Any, noise: Any) -> Any: ...


NAMES = {
    "dataset": {"scans": "Scans"},
    "process": {"line": "Line", "edm": "Exploding"},
    "parametrization": {"edm": "Whole", "eps": "Noise"},
    "model": {"net": "Net", "blind": "BlindNet"},
    "conditioner": {"label": "Label"},
    "objective": {"denoising": "Denoising", "min-snr": "MinSNR", "bridge": "Bridge"},
    "sampler": {"multistep": "Euler", "heun": "Heun", "adaptive": "Adaptive", "drift": "Drift"},
    "grid": {"logistic-log-snr": "Uniform", "uniform": "Uniform", "upwards": "Upwards", "lost": "Lost"},
    "guidance": {"none": "Unguided", "cfg": "Guided", "momentum": "Momentum", "weak": "Weak"},
    "kernel": {"gauss": "Gauss", "signed": "Signed"},
    "solver": {"sinkhorn": "Sinkhorn"},
    "metric": {"score": "Score"},
    "baseline": {"copies": "Copies"},
}
