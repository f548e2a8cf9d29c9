"""What holds for every network of this distribution, whatever its layers are."""

from __future__ import annotations

import json
import pickle

import attrs
import cattrs
import pytest
import torch
from atlas_models_builtin.embedding import LONGEST_PERIOD, SHORTEST_PERIOD, Embedding
from atlas_models_builtin.mlp import MLP
from atlas_models_builtin.unet import UNet

from atlas_core.contracts import Condition, Model

SMALL = {
    "unet": (UNet, {"shape": (2, 8, 8), "channels": 16, "blocks": 1, "heads": 2}),
    "mlp": (MLP, {"shape": (5,), "width": 32, "blocks": 2, "embedding": 16}),
}
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU"))]


def make(name, **changes):
    target, config = SMALL[name]
    torch.manual_seed(0)
    return target(target.Config(**{**config, "condition_width": 3, **changes}))


def inputs(net, batch=6, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, *net.config.shape, generator=generator)
    c_noise = torch.randn(batch, generator=generator).clamp(-2, 2)
    return x, c_noise, Condition(vector=torch.randn(batch, 3, generator=generator))


each = pytest.mark.parametrize("name", SMALL)


@each
def test_a_new_network_is_zero_so_that_training_starts_from_c_skip_x(name):
    net = make(name)
    assert isinstance(net, Model)
    assert torch.equal(net(*inputs(net)), torch.zeros(6, *net.config.shape))


@each
def test_every_parameter_gets_a_gradient(name, awake):
    net = awake(make(name))
    net(*inputs(net)).square().sum().backward()
    dead = [key for key, parameter in net.named_parameters() if parameter.grad is None or not parameter.grad.any()]
    assert not dead


@each
def test_row_i_of_the_output_depends_on_row_i_of_the_input_alone(name, awake):
    net = awake(make(name)).double()
    x, c_noise, condition = inputs(net)
    leaves = [leaf.double().requires_grad_() for leaf in (x, c_noise, condition.vector)]
    net(leaves[0], leaves[1], Condition(vector=leaves[2]))[2].square().sum().backward()
    for leaf in leaves:
        # Zero without tolerance: there is no path, not a small one.
        reached = leaf.grad.flatten(1).abs().sum(1) if leaf.ndim > 1 else leaf.grad.abs()
        assert reached[2] > 0
        assert torch.equal(reached[[0, 1, 3, 4, 5]], torch.zeros(5, dtype=torch.float64))


@each
def test_permuting_the_batch_permutes_the_output(name, awake):
    net = awake(make(name)).double()
    x, c_noise, condition = inputs(net)
    order = torch.tensor([3, 1, 5, 0, 2, 4])
    x, c_noise = x.double(), c_noise.double()
    expected = net(x, c_noise, condition)[order]
    torch.testing.assert_close(net(x[order], c_noise[order], condition.take(order)), expected, rtol=1e-12, atol=1e-12)


@each
def test_the_network_sees_the_noise_level(name, awake):
    """A sinusoid of period 10,000 moves the output by less than 1 % over the whole range of levels."""
    net = awake(make(name))
    x, _, condition = inputs(net)
    at = {c: net(x, torch.full((6,), c), condition) for c in (-2.0, -1.95, 2.0)}
    scale = at[-2.0].std()
    assert (at[2.0] - at[-2.0]).std() > 0.05 * scale
    assert (at[-1.95] - at[-2.0]).std() > 0.001 * scale


def test_noise_levels_are_told_apart_over_the_whole_range():
    """Of levels 0.2 apart in log-SNR, neighbours are the closest, and their distance is known: it is on circles."""
    frequencies = Embedding(8, 0).frequencies.double()
    ends = 2 * torch.pi / torch.tensor([LONGEST_PERIOD, SHORTEST_PERIOD], dtype=torch.float64)
    torch.testing.assert_close(frequencies[[0, -1]], ends, rtol=1e-5, atol=0)
    phase = torch.linspace(-2, 2, 161, dtype=torch.float64)[:, None] * frequencies
    features = torch.cat([phase.sin(), phase.cos()], dim=1)
    distance = torch.cdist(features, features).fill_diagonal_(float("inf"))
    assert distance.min() == pytest.approx(float(2 * torch.sin(frequencies * 0.025 / 2).norm()), rel=1e-3)


@each
def test_the_network_sees_the_condition(name, awake):
    net = awake(make(name))
    x, c_noise, condition = inputs(net)
    other = Condition(vector=condition.vector.roll(1, dims=0))
    plain = net(x, c_noise, condition)
    assert (net(x, c_noise, other) - plain).std() > 0.01 * plain.std()


@each
@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (None, "given no vector"),
        (Condition(vector=torch.zeros(6, 4)), "4 wide.*condition_width = 3"),
        (Condition(vector=torch.zeros(6, 3), tokens=torch.zeros(6, 2, 3)), "given tokens"),
        (Condition(vector=torch.zeros(6, 3), image=torch.zeros(6, 1, 8, 8)), "given image"),
    ],
)
def test_a_condition_that_cannot_be_used_is_refused_not_ignored(name, condition, message):
    net = make(name)
    x, c_noise, _ = inputs(net)
    with pytest.raises(ValueError, match=message):
        net(x, c_noise, condition)


@each
def test_an_unconditional_network_takes_no_condition(name):
    net = make(name, condition_width=0)
    x, c_noise, condition = inputs(net)
    assert net(x, c_noise).shape == x.shape
    with pytest.raises(ValueError, match="condition_width = 0"):
        net(x, c_noise, condition)


@each
def test_what_it_cannot_do_is_said(name):
    net = make(name)
    x, c_noise, condition = inputs(net)
    with pytest.raises(ValueError, match="takes no c_noise_end"):
        net(x, c_noise, condition, c_noise_end=c_noise)
    with pytest.raises(ValueError, match="was built for"):
        net(x[..., 1:], c_noise, condition)


@each
def test_a_flow_map_is_told_where_a_step_ends(name, awake):
    net = awake(make(name, jumps=True)).double()
    x, c_noise, condition = inputs(net)
    x, c_noise, condition = x.double(), c_noise.double(), condition.to(torch.float64)
    plain = net(x, c_noise, condition)
    assert torch.equal(net(x, c_noise, condition, c_noise_end=c_noise), plain)  # a step that goes nowhere
    ends = c_noise - torch.rand(6, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    told = net(x, c_noise, condition, c_noise_end=ends)
    assert (told - plain).std() > 0.01 * plain.std()
    ends[2] -= 0.1
    moved = (net(x, c_noise, condition, c_noise_end=ends) - told).detach().flatten(1).abs().sum(1)
    assert moved[2] > 0
    assert float(moved.sum() - moved[2]) < 1e-9
    assert torch.equal(make(name, jumps=True)(*inputs(net)), torch.zeros(6, *net.config.shape))
    net.zero_grad()
    net(x, c_noise, condition, c_noise_end=ends).square().sum().backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in net.parameters())


@each
def test_its_derivative_along_a_path_is_that_of_finite_differences(name, awake):
    """Forward-mode, as the training of flow maps takes it: along x and the level at once."""
    net = awake(make(name, jumps=True)).double()
    x, c_noise, condition = inputs(net)
    x, c_noise, condition = x.double(), c_noise.double(), condition.to(torch.float64)
    v, h = torch.randn_like(x), 1e-5

    def along(x, c):
        return net(x, c, condition, c_noise_end=c_noise - 0.3)

    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        _, slope = torch.func.jvp(along, (x, c_noise), (v, torch.ones_like(c_noise)))
    # The phases of the level are taken in float32: 1e-7 / 1e-5 is what differences of it can tell.
    difference = (along(x + h * v, c_noise) - along(x - h * v, c_noise)) / (2 * h)
    level = 1e-2
    difference = difference + (along(x, c_noise + level) - along(x, c_noise - level)) / (2 * level)
    torch.testing.assert_close(slope, difference, rtol=0.02, atol=0.02 * float(slope.std()))


@each
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("weights", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_and_device_follow_the_input(name, device, weights, dtype, awake):
    net = awake(make(name)).to(device, weights)
    x, c_noise, condition = inputs(net)
    output = net(x.to(device, dtype), c_noise.to(device), condition.to(device))
    assert (output.dtype, output.device.type) == (dtype, device)
    reference = awake(make(name)).double()(x.double(), c_noise.double(), condition)
    # bfloat16 has 8 bits: a relative rounding of 2⁻⁹ in each of about twenty layers.
    # Convolutions of a GPU round float32 inputs to the 11 bits of TF32 unless told otherwise.
    single = 1e-4 if device == "cpu" else 1e-2
    tolerance = {torch.float64: 1e-5, torch.float32: single, torch.bfloat16: 0.1}[weights]
    assert (output.cpu().double() - reference).std() < tolerance * reference.std()


@each
def test_bfloat16_autocast_is_close_to_float32(name, awake):
    net = awake(make(name))
    exact = net(*inputs(net))
    with torch.autocast("cpu", torch.bfloat16):
        cast = net(*inputs(net))
    assert cast.dtype == torch.float32
    assert 0 < (cast - exact).std() < 0.03 * exact.std()


@each
def test_config_and_weights_survive_their_round_trips(name, awake):
    net = awake(make(name))
    config = type(net).Config
    table = json.loads(json.dumps(cattrs.unstructure(net.config)))
    assert cattrs.structure(table, config) == net.config
    assert pickle.loads(pickle.dumps(net.config)) == net.config  # noqa: S301 - our own bytes
    again = type(net)(cattrs.structure(table, config))
    again.load_state_dict(net.state_dict())
    for copy in (again, pickle.loads(pickle.dumps(net))):  # noqa: S301 - our own bytes
        assert torch.equal(copy(*inputs(net)), net(*inputs(net)))


@each
def test_every_field_says_what_it_is_for(name):
    for field in attrs.fields(SMALL[name][0].Config):
        assert field.metadata["help"].endswith("."), field.name


@each
def test_a_forward_pass_draws_no_random_number_and_prints_nothing(name, capfd):
    net = make(name).eval()
    before = torch.get_rng_state()
    net(*inputs(net))
    assert torch.equal(torch.get_rng_state(), before)
    assert capfd.readouterr() == ("", "")
