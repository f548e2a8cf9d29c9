"""The U-Net's own promises: exact attention, checkpointing without a trace, sizes that fit, a known loss reached."""

from __future__ import annotations

import math
import weakref

import numpy as np
import pytest
import torch
from atlas_models_builtin.blocks import Attention, ResidualBlock
from atlas_models_builtin.unet import Stage, UNet, UNetConfig
from torch.utils._python_dispatch import TorchDispatchMode

from atlas_core.contracts import Condition

SMALL = {"shape": (1, 8, 8), "channels": 16, "blocks": 1, "heads": 2, "condition_width": 3}


def batch_of(config, batch=4):
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(batch, *config.shape, generator=generator)
    condition = Condition(vector=torch.randn(batch, 3, generator=generator)) if config.condition_width else None
    return x, torch.randn(batch, generator=generator), condition


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_is_the_softmax_of_the_scaled_products(heads, awake):
    """Vaswani et al. 2017, eq. 1, one head and one sample at a time, in numpy."""
    channels, height, width = 8, 3, 5
    layer = awake(Attention(channels, heads, groups=2)).double()
    x = torch.randn(2, channels, height, width, dtype=torch.float64)
    weights = {key: value.numpy() for key, value in layer.state_dict().items()}
    normed = layer.norm(x).detach().numpy()
    expected = x.numpy().copy()
    for sample in range(2):
        tokens = normed[sample].reshape(channels, -1).T
        q, k, v = np.split(tokens @ weights["qkv.weight"].T + weights["qkv.bias"], 3, axis=1)
        mixed = np.empty_like(q)
        for head in np.split(np.arange(channels), heads):
            scores = q[:, head] @ k[:, head].T / math.sqrt(channels // heads)
            scores = np.exp(scores - scores.max(1, keepdims=True))
            mixed[:, head] = scores / scores.sum(1, keepdims=True) @ v[:, head]
        attended = mixed @ weights["out.weight"].T + weights["out.bias"]
        expected[sample] += attended.T.reshape(channels, height, width)
    assert np.abs(expected - x.numpy()).max() > 0.01
    np.testing.assert_allclose(layer(x).detach().numpy(), expected, rtol=1e-11, atol=1e-12)


def test_a_residual_block_is_its_formula(awake):
    """Group normalisation and modulation in numpy; convolutions are PyTorch's."""
    block = awake(ResidualBlock(4, 6, embedding=5, groups=2, dropout=0.0)).double()
    x, embedding = torch.randn(3, 4, 5, 7, dtype=torch.float64), torch.randn(3, 5, dtype=torch.float64)

    def norm(values, layer):
        grouped = values.detach().numpy().reshape(3, 2, -1)
        grouped = (grouped - grouped.mean(2, keepdims=True)) / np.sqrt(grouped.var(2, keepdims=True) + 1e-5)
        gain, bias = (part.detach().numpy()[:, None, None] for part in (layer.weight, layer.bias))
        return gain * grouped.reshape(values.shape) + bias

    def silu(values):
        return torch.tensor(values / (1 + np.exp(-values)))

    modulation = embedding / (1 + (-embedding).exp()) @ block.modulation.weight.T + block.modulation.bias
    scale, shift = (part.detach().numpy() for part in (modulation[:, :6, None, None], modulation[:, 6:, None, None]))
    h = block.conv1(silu(norm(x, block.norm1)))
    expected = block.skip(x) + block.conv2(silu((1 + scale) * norm(h, block.norm2) + shift))
    torch.testing.assert_close(block(x, embedding), expected, rtol=1e-11, atol=1e-12)


def test_new_blocks_are_the_identity():
    x, embedding = torch.randn(2, 8, 4, 4), torch.randn(2, 5)
    assert torch.equal(ResidualBlock(8, 8, embedding=5, groups=2, dropout=0.0)(x, embedding), x)
    assert torch.equal(Attention(8, heads=2, groups=2)(x), x)


def count(inputs, outputs, embedding):
    """Numbers in a residual block, from its formula: two norms, two 3 × 3 convolutions, modulation, skip."""
    skip = 0 if inputs == outputs else inputs * outputs + outputs
    return (
        2 * inputs
        + (9 * inputs * outputs + outputs)
        + (embedding * 2 * outputs + 2 * outputs)
        + 2 * outputs
        + (9 * outputs * outputs + outputs)
        + skip
    )


def test_the_number_of_parameters_is_the_one_counted_by_hand():
    net = UNet(UNetConfig(shape=(3, 16, 16), condition_width=10, channels=32, multipliers=(1, 2), blocks=2))
    e, a, b = 128, 32, 64
    expected = (
        (64 * e + e) + (e * e + e) + (10 * e + e)  # noise level and condition
        + (9 * 3 * a + a)  # stem
        + count(a, a, e) * 2 + (9 * a * a + a)  # fine encoder, down
        + count(a, b, e) + count(b, b, e)  # coarse encoder
        + count(b, b, e)  # middle
        + count(2 * b, b, e) * 2 + (9 * b * a + a)  # coarse decoder, up
        + count(2 * a, a, e) * 2  # fine decoder
        + 5 * (2 * b + 3 * b * b + 3 * b + b * b + b)  # attention after each of the five coarse blocks
        + 2 * a + (9 * a * 3 + 3)  # norm, output
    )  # fmt: skip
    assert sum(parameter.numel() for parameter in net.parameters()) == expected == 797_091


class Living(TorchDispatchMode):
    """Bytes of the tensors made while it is on that are still alive."""

    def __init__(self):
        super().__init__()
        self.storages = weakref.WeakSet()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for value in result if isinstance(result, tuple | list) else (result,):
            if isinstance(value, torch.Tensor):
                self.storages.add(value.untyped_storage())
        return result

    @property
    def bytes(self):
        return sum(storage.nbytes() for storage in self.storages)


def gradients(net, seed=5):
    net.zero_grad()
    torch.manual_seed(seed)
    with Living() as living:
        output = net(*batch_of(net.config, 16))
    held = living.bytes
    output.square().mean().backward()
    return output, {key: parameter.grad.clone() for key, parameter in net.named_parameters()}, held


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_checkpointing_changes_memory_and_nothing_else(dropout, awake):
    config = {**SMALL, "channels": 32, "blocks": 2, "dropout": dropout}
    plain = awake(UNet(UNetConfig(**config)))
    saving = UNet(UNetConfig(**config, checkpointing=True))
    saving.load_state_dict(plain.state_dict())
    output, expected, held = gradients(plain)
    same, got, held_saving = gradients(saving)
    torch.testing.assert_close(same, output, rtol=0, atol=0)
    for key, gradient in expected.items():
        # The dropout mask is the same in the second forward pass: a fresh one would change gradients by their own size.
        torch.testing.assert_close(got[key], gradient, rtol=1e-4, atol=1e-6, msg=key)
    # A block keeps about a dozen maps of its size for the backward pass, a checkpointed one its input alone.
    assert held_saving < 0.35 * held, f"{held_saving / 2**20:.1f} MiB instead of {held / 2**20:.1f} MiB"


def test_checkpointing_recomputes_in_training_only():
    net = UNet(UNetConfig(**SMALL, checkpointing=True))
    calls = []
    for module in net.modules():
        if isinstance(module, Stage):
            module.block.register_forward_pre_hook(lambda *_: calls.append(1))
    net(*batch_of(net.config)).sum().backward()
    in_training = len(calls)
    net.eval()(*batch_of(net.config)).sum().backward()
    assert (in_training, len(calls) - in_training) == (2 * 5, 5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_checkpointing_lowers_the_peak_memory_of_a_gpu():
    peaks = {}
    for checkpointing in (False, True):
        net = UNet(UNetConfig(shape=(3, 64, 64), multipliers=(1, 2, 2), checkpointing=checkpointing)).cuda()
        x = torch.randn(16, 3, 64, 64, device="cuda")
        torch.cuda.reset_peak_memory_stats()
        net(x, torch.zeros(16, device="cuda")).square().mean().backward()
        peaks[checkpointing] = torch.cuda.max_memory_allocated()
    assert peaks[True] < 0.5 * peaks[False]


@pytest.mark.parametrize("resample", ["conv", "pool"])
@pytest.mark.parametrize(
    ("shape", "multipliers", "patch"),
    [((1, 8, 8), (1, 2, 2), 1), ((1, 28, 28), (1, 2, 3), 1), ((3, 12, 20), (2, 1), 2), ((2, 7, 5), (1,), 1)],
)
def test_legal_sizes_come_back_in_their_shape(shape, multipliers, patch, resample, awake):
    config = UNetConfig(shape=shape, channels=8, multipliers=multipliers, patch=patch, resample=resample)
    net = awake(UNet(config))
    seen = {}
    net.middle[0].register_forward_hook(lambda module, args, output: seen.update(shape=tuple(output.shape)))
    output = net(torch.randn(2, *shape), torch.zeros(2))
    assert output.shape == (2, *shape)
    assert output.is_contiguous()
    unit = patch * 2 ** (len(multipliers) - 1)
    assert seen["shape"] == (2, 8 * multipliers[-1], shape[1] // unit, shape[2] // unit)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"shape": (1, 28, 28), "multipliers": (1, 2, 2, 2)},
            r"multiples of 8 .* at most 3 multipliers, or 32 × 32 pixels",
        ),
        ({"shape": (1, 7, 7)}, "multiples of 2 .* at most 1 multiplier, or 8 × 8 pixels"),
        ({"shape": (1, 10, 10), "patch": 2}, "multiples of 4 .* patch = 1 and at most 2 multipliers, or 12 × 12"),
        ({"shape": (2,)}, "no image .* mlp"),
        ({"channels": 20}, "groups = 8 does not divide a width of 20 .* legal here: 1, 2, 4, 5, 10, 20"),
        ({"heads": 3}, "heads = 3 does not divide the width 32 of level -1; legal there: 1, 2, 4, 8, 16, 32"),
        ({"attention": (2,)}, "level 2; with 2 multipliers: -2 to 1"),
        ({"multipliers": ()}, "multipliers"),
        ({"dropout": 1.0}, "dropout"),
        ({"resample": "bicubic"}, "resample"),
    ],
)
def test_a_size_that_does_not_fit_is_refused_with_those_that_do(changes, message):
    with pytest.raises(ValueError, match=message):
        UNetConfig(**{**SMALL, **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"shape": (2, 8, 8)},
        {"condition_width": 0},
        {"channels": 32},
        {"multipliers": (1, 3)},
        {"blocks": 2},
        {"middle": 0},
        {"attention": (0, 1)},
        {"attention": ()},
        {"heads": 4},
        {"embedding": 32},
        {"groups": 4},
        {"dropout": 0.5},
        {"resample": "pool"},
        {"patch": 2},
    ],
    ids=str,
)
def test_every_field_changes_the_network(changes, awake):
    """`checkpointing` has its own tests: it changes memory alone."""

    def outcome(config):
        torch.manual_seed(0)
        net = awake(UNet(config))
        torch.manual_seed(0)
        return net(*batch_of(config))

    before, after = outcome(UNetConfig(**SMALL)), outcome(UNetConfig(**{**SMALL, **changes}))
    assert before.shape != after.shape or not torch.allclose(before, after, rtol=1e-3, atol=1e-4)


def test_attention_levels_count_from_both_ends():
    config = UNetConfig(**{**SMALL, "multipliers": (1, 2, 2), "attention": (0, -1)})
    assert [config.attends(level) for level in range(3)] == [True, False, True]


def test_it_reaches_the_loss_floor_with_the_condition_and_the_class_variance_without():
    """Four images, one a class, from pure noise: the best mean squared error is 0, or the variance between classes."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(4, 1, 4, 4, generator=generator)
    variance = float(images.var(dim=0, correction=0).mean())
    labels = torch.arange(4).repeat(4)
    losses = {}
    for width in (4, 0):
        torch.manual_seed(0)
        net = UNet(UNetConfig(shape=(1, 4, 4), channels=16, blocks=1, heads=1, condition_width=width))
        optimizer = torch.optim.Adam(net.parameters(), lr=3e-3)
        condition = Condition(vector=torch.eye(4)[labels]) if width else None
        history = []
        for _ in range(120):
            noise = torch.randn(16, 1, 4, 4, generator=generator)
            loss = (net(noise, torch.zeros(16), condition) - images[labels]).square().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            history.append(loss.item())
        losses[width] = sum(history[-20:]) / 20
    assert losses[4] < 0.02 * variance, losses
    assert losses[0] == pytest.approx(variance, rel=0.1), losses
