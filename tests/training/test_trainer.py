"""The loop against what is known: the optimum of a linear model, sums over micro-batches, the numbers of a journal."""

from __future__ import annotations

import math

import attrs
import pytest
import tiny_training as tiny
import torch
from torch import nn

from atlas_core.contracts import DataSpec, Example, LossOutput
from atlas_core.engine.checkpoint import open_checkpoint
from atlas_core.engine.training.keys import seeded_build
from atlas_core.errors import ConfigError, DataError, RunError, UsageError
from atlas_core.runs.folder import RunFolder


def weights(folder):
    return open_checkpoint(folder).load_networks("raw")["denoiser"]


# ---- the loss floor ----------------------------------------------------------------------------------------


@attrs.frozen
class Gaussian:
    """x₀ ~ N(2, 0.5²), one number, a training split large enough to be its own distribution."""

    splits = ("train", "test")
    spec = DataSpec(shape=(1,), value_range=None)

    def split(self, name):
        generator = torch.Generator().manual_seed(self.splits.index(name))
        values = 2 + 0.5 * torch.randn(4096, 1, generator=generator)
        return [Example(x, None, i) for i, x in enumerate(values)]


class Line(nn.Module):
    """x̂₀ = a x + b."""

    process = parametrization = conditioner = None

    def __init__(self):
        super().__init__()
        self.line = nn.Linear(1, 1)

    def x0(self, x, t, condition=None, *, t_end=None):
        return self.line(x)


@attrs.frozen
class OneLevel:
    """E |x̂₀(x₀ + σ z) − x₀|² at the one noise level σ = 0.5."""

    networks = frozenset({"denoiser"})
    couples_batch = False

    def loss(self, networks, batch, noise):
        x = batch.x + 0.5 * noise.normal("noise", batch.step, batch.x)
        return LossOutput((networks["denoiser"].x0(x, None) - batch.x).square().mean(1))


def test_a_linear_model_on_gaussian_data_reaches_the_known_optimum(tmp_path):
    """E[x₀ | x] = m + s²/(s² + σ²) (x − m): slope ½, intercept 1, loss s²σ²/(s² + σ²) = 1/8.

    The test split has 4096 examples: the standard error of its mean squared error is 1/8 · √(2/4096) = 0.0028, so 3 of
    them are 0.0083. The average of the weights is within 0.02 of the optimum: 1500 steps at a rate that falls to zero.
    """
    settings = tiny.config(steps=1500, batch=64, learning_rate=0.03, ema_decay=0.98, validate_every=1500, log_every=500)
    network = seeded_build(Line, 0)
    tiny.trainer(tmp_path / "run", settings, network=network, objective=OneLevel(), dataset=Gaussian(), table={}).fit()
    ema = open_checkpoint(tmp_path / "run").load_networks("ema")["denoiser"]
    assert float(ema["line.weight"]) == pytest.approx(0.5, abs=0.02)
    assert float(ema["line.bias"]) == pytest.approx(1.0, abs=0.04)
    assert RunFolder(tmp_path / "run").journal.rows()[-1]["validation_loss"] == pytest.approx(1 / 8, abs=0.0083)


# ---- accumulation, precision -------------------------------------------------------------------------------


def test_micro_batches_add_up_to_the_batch(tmp_path):
    """Sums of 64 float32 in another order: 1e-5. The average is updated once an optimizer step in both."""
    for accumulate in (1, 4, 7):
        settings = tiny.config(steps=25, batch=64, accumulate=accumulate)
        tiny.trainer(tmp_path / str(accumulate), settings, network=tiny.tiny(dropout=0.0)).fit()
    whole = weights(tmp_path / "1")
    for accumulate in (4, 7):
        folder = tmp_path / str(accumulate)
        parts = weights(folder)
        for name in whole.keys() - {"calls"}:
            torch.testing.assert_close(parts[name], whole[name], atol=1e-5, rtol=1e-4)
        assert open_checkpoint(folder).counters["ema_updates"] == 25
        for ours, theirs in zip(
            RunFolder(folder).journal.rows(), RunFolder(tmp_path / "1").journal.rows(), strict=True
        ):
            for name in ours.keys() - {"seconds"}:
                assert ours[name] == pytest.approx(theirs[name], rel=1e-4), name


def test_a_bf16_run_computes_in_bf16_and_stays_close_to_float32(tmp_path):
    """bf16 has 8 bits: losses of order one agree to some percent, and the stored weights are float32."""
    seen = []

    class Watching(tiny.Tiny):
        def x0(self, *args, **kwargs):
            out = super().x0(*args, **kwargs)
            if self.training:
                seen.append(out.dtype)
            return out

    build = lambda kind: seeded_build(lambda: kind(0.0, tiny.Labels()), 3)  # noqa: E731
    losses = []
    for precision, kind in (("float32", tiny.Tiny), ("bf16", Watching)):
        settings = tiny.config(steps=20, precision=precision)
        tiny.trainer(tmp_path / precision, settings, network=build(kind)).fit()
        losses.append(RunFolder(tmp_path / precision).journal.rows()[-1]["validation_loss"])
    assert set(seen) == {torch.bfloat16}
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    assert {tensor.dtype for tensor in weights(tmp_path / "bf16").values()} == {torch.float32}


def test_fp16_on_the_cpu_is_refused_before_anything_starts(tmp_path):
    with pytest.raises(ConfigError, match=r"\$\.train\.precision: fp16 needs a CUDA device(.|\n)*bf16 or float32"):
        tiny.trainer(tmp_path / "run", tiny.config(precision="fp16"))
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="fp16 needs a CUDA device")
def test_fp16_resumes_to_the_same_bits_with_its_loss_scale(tmp_path):
    """A loss of thousands overflows at the first scale, 65536: steps are skipped, and not averaged."""

    @attrs.frozen
    class Loud(tiny.Regression):
        def loss(self, networks, batch, noise):
            output = super().loss(networks, batch, noise)
            return LossOutput(output.per_sample * 4000)

    changes = {"precision": "fp16", "device": "cuda", "checkpoint_every": 3}
    tiny.trainer(tmp_path / "whole", tiny.config(steps=12, **changes), objective=Loud()).fit()
    first = tiny.trainer(tmp_path / "parts", tiny.config(steps=12, **changes), objective=Loud(), events=_StopAfter(3))
    with pytest.raises(_StopError):
        first.fit()
    tiny.trainer(tmp_path / "parts", tiny.config(steps=12, **changes), objective=Loud()).fit(resume=True)
    whole, parts = (open_checkpoint(tmp_path / name) for name in ("whole", "parts"))
    assert whole.counters["scaler"] == parts.counters["scaler"]
    assert whole.counters["scaler"]["scale"] < 65536
    assert whole.counters["ema_updates"] == parts.counters["ema_updates"] < 12
    for which in ("raw", "ema"):
        ours, theirs = parts.load_networks(which)["denoiser"], whole.load_networks(which)["denoiser"]
        assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


class _StopError(Exception):
    """Raised by `_StopAfter`."""


class _StopAfter:
    """Ends a training as abruptly as a test can in its own process: after the checkpoint of `step`."""

    def __init__(self, step):
        self.step = step

    def checkpoint_saved(self, run, path, step):
        if step == self.step:
            raise _StopError

    def __getattr__(self, name):
        return lambda *args: None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"device": "cuda:99"}, r"\$\.train\.device: cuda:99 is not there"),
        ({"device": "gpu"}, r"\$\.train\.device: 'gpu' is no device"),
        ({"batch": 2, "accumulate": 3}, r"\$\.train\.batch: 2 samples cannot be shared by 1 ranks × 3"),
    ],
)
def test_what_the_machine_cannot_do_is_said_with_its_place(tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        tiny.trainer(tmp_path / "run", tiny.config(**changes))


def test_a_coupling_in_the_loss_needs_its_batch_whole(tmp_path):
    @attrs.frozen
    class Coupled(tiny.Regression):
        couples_batch = True

    tiny.trainer(tmp_path / "a", tiny.config(steps=1), objective=Coupled()).fit()
    with pytest.raises(ConfigError, match="couples the samples"):
        tiny.trainer(tmp_path / "b", tiny.config(accumulate=2), objective=Coupled())


def test_a_coupling_sees_the_whole_batch_however_it_is_split(tmp_path):
    """Micro-batches of 3 and 2 of 8 rows, paired as 8: the same training, and shorter ways than by chance."""
    journals = []
    for name, accumulate, objective in (("one", 1, tiny.Coupled()), ("parts", 3, tiny.Coupled()), ("free", 1, None)):
        parts = {"objective": objective} if objective else {}
        settings = tiny.config(accumulate=accumulate)
        tiny.trainer(tmp_path / name, settings, network=tiny.tiny(dropout=0.0), **parts).fit()
        journals.append(RunFolder(tmp_path / name).journal.rows())
    one, parts, free = journals
    for mine, theirs in zip(one, parts, strict=True):
        for key in mine.keys() - {"seconds"}:
            assert theirs[key] == pytest.approx(mine[key], rel=1e-4), (key, mine["step"])
    distances = [sum(row["distance"] for row in rows if "distance" in row) for rows in (one, free)]
    assert distances[0] < 0.95 * distances[1]
    validations = [[row["validation_loss"] for row in rows if "validation_loss" in row] for rows in (one, free)]
    assert validations[0] != validations[1]


# ---- what goes wrong ---------------------------------------------------------------------------------------


def test_a_loss_that_is_not_finite_names_the_step_and_leaves_the_checkpoint(tmp_path):
    with pytest.raises(RunError) as error:
        tiny.trainer(tmp_path / "run", objective=tiny.Regression(poison_step=24)).fit()
    text = str(error.value)
    assert "the loss is nan at step 25" in text
    assert "step-00000020 is intact" in text
    assert "--resume" in text
    assert "train.learning_rate=0.00033" in text
    saved = open_checkpoint(tmp_path / "run")
    assert saved.step == 20
    assert all(tensor.isfinite().all() for tensor in saved.load_networks("raw")["denoiser"].values())


def test_a_gradient_that_is_not_finite_stops_the_run_although_the_loss_is(tmp_path):
    """|x|^½ at 0 has the value 0 and the slope ∞: the weights would be NaN in the very checkpoint of this step."""

    @attrs.frozen
    class Cusp(tiny.Regression):
        def loss(self, networks, batch, noise):
            output = super().loss(networks, batch, noise)
            zero = (output.per_sample - output.per_sample.detach()) if batch.step == 9 else output.per_sample * 0 + 1
            return LossOutput(output.per_sample + zero.abs().sqrt() - 1 * (batch.step != 9))

    with pytest.raises(RunError, match=r"the grad_norm is (nan|inf) at step 10; no checkpoint was written yet"):
        tiny.trainer(tmp_path / "run", objective=Cusp()).fit()


def test_an_example_of_another_shape_is_named(tmp_path):
    @attrs.frozen
    class Ragged(tiny.Points):
        def split(self, name):
            rows = [super(Ragged, self).split(name)[i] for i in range(9)]
            return [*rows, Example(torch.zeros(3), 0, 9)]

    with pytest.raises(DataError, match=r"example 9 has the shape \(3,\) instead of \(2,\)"):
        tiny.trainer(tmp_path / "run", dataset=Ragged()).fit()


def test_networks_and_objective_have_to_agree(tmp_path):
    with pytest.raises(UsageError, match="trains denoiser, not velocity"):
        tiny.trainer(tmp_path / "run", network={"velocity": tiny.tiny()})


# ---- what is observed --------------------------------------------------------------------------------------


class Listener:
    def __init__(self):
        self.heard = []

    def __getattr__(self, name):
        return lambda *args: self.heard.append((name, args))


def test_events_samples_and_checkpoints_come_when_they_are_due(tmp_path):
    listener, drawn = Listener(), []

    def on_sample(network, step):
        assert not network.training
        assert not torch.is_grad_enabled()
        drawn.append((step, network.net[0].weight.clone()))

    trainer = tiny.trainer(
        tmp_path / "run",
        tiny.config(steps=25, sample_every=9),
        events=listener,
        on_sample=on_sample,
        network=(net := tiny.tiny()),
    )
    result = trainer.fit()
    names = [name for name, _ in listener.heard]
    assert names[0] == "train_start"
    assert names[-1] == "train_end"
    assert listener.heard[0][1][1:] == (tiny.TABLE, 0, 25)
    assert listener.heard[-1][1][1:] == (25, "finished")
    steps = [args for name, args in listener.heard if name == "train_step"]
    assert [step for _, step, _, _ in steps] == list(range(1, 26))
    assert all(math.isfinite(logs["loss"]) for *_, logs in steps)
    saved = [(args[1].name, args[2]) for name, args in listener.heard if name == "checkpoint_saved"]
    assert saved == [("step-00000010", 10), ("step-00000020", 20), ("step-00000025", 25)]
    assert [step for step, _ in drawn] == [9, 18]
    assert not torch.equal(drawn[-1][1], net.net[0].weight), "it has to be the average that is drawn from"
    assert (result.steps, result.stopped) == (25, "")
    assert set(result.timings) == {"steps", "validation", "samples", "checkpoints"}


def test_an_error_in_the_middle_is_told_to_the_listeners(tmp_path):
    listener = Listener()
    with pytest.raises(RunError):
        tiny.trainer(tmp_path / "run", objective=tiny.Regression(poison_step=3), events=listener).fit()
    name, (_, step, reason) = listener.heard[-1]
    assert (name, step) == ("train_end", 4)
    assert "nan" in reason


def test_the_validation_loss_is_that_of_the_average_on_held_out_data_with_fixed_noise(tmp_path):
    """With a learning rate of (almost) nothing the curve is flat to the last bits; new noise would move it by 10 %."""
    settings = tiny.config(steps=33, learning_rate=1e-12)
    tiny.trainer(tmp_path / "run", settings).fit()
    losses = [row["validation_loss"] for row in RunFolder(tmp_path / "run").journal.rows() if "validation_loss" in row]
    assert len(losses) == 3
    assert losses == pytest.approx([losses[0]] * 3, rel=1e-6)


def test_labels_are_dropped_at_the_stated_rate_in_training_and_never_in_validation(tmp_path):
    """3200 draws at 0.2: the standard deviation of the share is 0.0071, four of them 0.028."""
    shares = {True: [], False: []}

    class Counting(tiny.Tiny):
        def x0(self, x, t, condition=None, *, t_end=None):
            null = self.conditioner.null(1).vector
            shares[self.training].append((condition.vector == null).all(1).float().mean())
            return super().x0(x, t, condition)

    network = seeded_build(lambda: Counting(0.0, tiny.Labels(dropout=0.2)), 0)
    tiny.trainer(tmp_path / "run", tiny.config(steps=50, batch=64), network=network).fit()
    assert float(torch.stack(shares[True]).mean()) == pytest.approx(0.2, abs=0.028)
    assert float(torch.stack(shares[False]).max()) == 0.0
    trained, fresh = network.conditioner.table.weight, seeded_build(lambda: Counting(0.0, tiny.Labels()), 0)
    assert not torch.equal(trained[3], fresh.conditioner.table.weight[3]), "the null vector has to be trained"


def test_lines_hold_the_mean_since_the_last_line(tmp_path):
    listener = Listener()
    tiny.trainer(tmp_path / "run", tiny.config(steps=20), events=listener).fit()
    losses = [args[3]["loss"] for name, args in listener.heard if name == "train_step"]
    single = {}
    tiny.trainer(tmp_path / "every", tiny.config(steps=20, log_every=1)).fit()
    for row in RunFolder(tmp_path / "every").journal.rows():
        single[row["step"]] = row["loss"]
    rows = [row for row in RunFolder(tmp_path / "run").journal.rows() if "loss" in row]
    assert [row["step"] for row in rows] == [7, 14, 20]
    for row, first in zip(rows, (1, 8, 15), strict=True):
        window = [single[k] for k in range(first, row["step"] + 1)]
        assert row["loss"] == pytest.approx(sum(window) / len(window), rel=1e-6)
    assert len(losses) == 20


def test_a_data_set_that_holds_nothing_out_has_no_validation_loss(tmp_path):
    @attrs.frozen
    class Whole(tiny.Points):
        splits = ("train",)

    tiny.trainer(tmp_path / "run", dataset=Whole()).fit()
    assert not any("validation_loss" in row for row in RunFolder(tmp_path / "run").journal.rows())
