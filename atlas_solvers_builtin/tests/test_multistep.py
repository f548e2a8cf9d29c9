"""Multistep samplers against their papers' formulas, diffusers' schedulers and quadrature, and against Euler."""

from __future__ import annotations

import math
from itertools import pairwise

import attrs
import numpy as np
import pytest
import torch
from atlas_solvers_builtin.grids.karras import Karras
from atlas_solvers_builtin.grids.logistic_log_snr import LogisticLogSNR
from atlas_solvers_builtin.processes.edm import EDM
from atlas_solvers_builtin.processes.rectified_flow import RectifiedFlow
from atlas_solvers_builtin.processes.vp_linear import VPLinear
from atlas_solvers_builtin.samplers import multistep_plan
from atlas_solvers_builtin.samplers.deis import DEIS
from atlas_solvers_builtin.samplers.dpmpp_2m import DPMpp2M
from atlas_solvers_builtin.samplers.dpmpp_3m import DPMpp3M
from atlas_solvers_builtin.samplers.euler import Euler
from atlas_solvers_builtin.samplers.exponential_average import exponential_average
from atlas_solvers_builtin.samplers.logistic_average import logistic_average
from atlas_solvers_builtin.samplers.multistep import Multistep
from atlas_solvers_builtin.samplers.unipc import UniPC
from scipy.integrate import quad

from atlas_core.engine.sampling import drain

F64 = torch.float64
ANY = 1.0


def start(process, rows=32):
    unit = torch.from_numpy(np.random.default_rng(5).standard_normal((rows, 2)))
    return process.prior(unit, process.t_max)


def lagrange(nodes, j, at):
    return math.prod((at - other) / (nodes[j] - other) for i, other in enumerate(nodes) if i != j)


@pytest.mark.parametrize("span", [1e-3, 0.3, 2.0, 9.0])
@pytest.mark.parametrize("nodes", [(1.0,), (1.0, 1.7), (1.0, 1.4, 3.0), (0.0, 1.0, 1.9, 2.4)])
def test_the_average_is_the_integral_of_the_polynomial(nodes, span):
    nodes = [node * span for node in nodes]
    got = exponential_average(nodes, span)
    for j, share in enumerate(got):
        exact, _ = quad(lambda u, j=j: math.exp(-u) * lagrange(nodes, j, u), 0, span, epsabs=0, epsrel=1e-13)
        assert share == pytest.approx(exact / -math.expm1(-span), rel=1e-10)


def test_on_short_steps_it_is_adams_bashforth():
    h = 1e-5
    assert exponential_average([h, 2 * h, 3 * h], h) == pytest.approx((23 / 12, -16 / 12, 5 / 12), rel=1e-4)


@pytest.mark.parametrize(("now", "after"), [(-4.4, -1.3), (-0.5, 0.1), (1.0, 1.02), (3.0, 6.2), (20.0, 28.0)])
def test_the_logistic_average_is_the_integral_of_its_polynomial(now, after):
    def w(level):
        return 1 / (1 + math.exp(-(level - 1) / 1.1))

    known = [now, now - 0.3, now - 1.1]
    nodes = [w(level) for level in known]
    got = logistic_average(known, now, after)
    for j, share in enumerate(got):
        exact, _ = quad(lambda u, j=j: math.exp(-u) * lagrange(nodes, j, w(after - u)), 0, after - now, epsabs=1e-13)
        assert share == pytest.approx(exact / -math.expm1(now - after), rel=1e-7)
    assert sum(got) == pytest.approx(1, abs=1e-12)


def levels_of(process, times):
    return process.alpha(times).tolist(), process.sigma(times).tolist()


def rule_of_dpmpp_3m(process, denoiser, x, times, second):
    """DPM-Solver++(3M) in the variables of its authors' code; `second`: what they multiply the second derivative by."""
    alphas, sigmas = levels_of(process, times)
    known = []
    for i, s in enumerate(times[:-1]):
        data = denoiser(x, s)
        left = len(times) - 1 - i
        if left == 1:
            return data
        lambdas = [math.log(a / b) for a, b in zip(alphas[: i + 2], sigmas[: i + 2], strict=True)]
        h = lambdas[-1] - lambdas[-2]
        x = sigmas[i + 1] / sigmas[i] * x - alphas[i + 1] * math.expm1(-h) * data
        if i >= 1:
            phi_2 = math.expm1(-h) / h + 1
            r0 = (lambdas[-2] - lambdas[-3]) / h
            d1_0 = (data - known[-1]) / r0
            if i == 1 or left == 2:
                x = x + alphas[i + 1] * phi_2 * d1_0
            else:
                r1 = (lambdas[-3] - lambdas[-4]) / h
                d1_1 = (known[-1] - known[-2]) / r1
                d1 = d1_0 + r0 / (r0 + r1) * (d1_0 - d1_1)
                d2 = (d1_0 - d1_1) / (r0 + r1)
                x = x + alphas[i + 1] * (phi_2 * d1 + second * (0.5 - (math.expm1(-h) + h) / h**2) * d2)
        known.append(data)
    raise AssertionError("the last step returns")


def test_dpmpp_3m_has_the_whole_second_derivative(exact_denoiser, mixture):
    process = VPLinear()
    denoiser, times = exact_denoiser(process, mixture), Karras().times(process, 14)
    x = start(process)
    ours = drain(DPMpp3M(reach=ANY).steps(denoiser, x, times))
    torch.testing.assert_close(ours, rule_of_dpmpp_3m(process, denoiser, x, times, 2.0), rtol=0, atol=1e-10)
    assert float((ours - rule_of_dpmpp_3m(process, denoiser, x, times, 1.0)).abs().max()) > 1e-3


def test_deis_is_its_integral_over_the_noise_level(process, exact_denoiser, mixture):
    denoiser, times = exact_denoiser(process, mixture), Karras().times(process, 9)
    times[0] = min(float(times[0]), process.time_of_log_snr(torch.tensor(-2 * math.log(80.0), dtype=F64)))
    alphas, sigmas = levels_of(process, times)
    rho = [s / a for s, a in zip(sigmas, alphas, strict=True)]
    x = expected = alphas[0] * 80.0 * start(EDM()) / 80.0
    known = []
    for i, s in enumerate(times[:-1]):
        known.insert(0, (expected - alphas[i] * (data := denoiser(expected, s))) / sigmas[i])
        depth = min(3, i + 1, len(times) - 1 - i)
        nodes = [math.log(rho[i - j]) for j in range(depth)]
        if depth == 1:
            expected = (
                data if rho[i + 1] == 0 else alphas[i + 1] * (expected / alphas[i] + (rho[i + 1] - rho[i]) * known[0])
            )
            continue
        total = expected / alphas[i]
        for j in range(depth):
            weight, _ = quad(
                lambda r, j=j, nodes=nodes: lagrange(nodes, j, math.log(r)), rho[i], rho[i + 1], epsabs=0, epsrel=1e-13
            )
            total = total + weight * known[j]
        expected = alphas[i + 1] * total
    torch.testing.assert_close(drain(DEIS(reach=ANY).steps(denoiser, x, times)), expected, rtol=0, atol=1e-9)


def scheduler(name, sigmas, **config):
    """A scheduler of diffusers on these σ/α, in float64: its own are rounded to float32."""
    diffusers = pytest.importorskip("diffusers")
    made = getattr(diffusers, name)(use_karras_sigmas=True, **config)
    made.set_timesteps(len(sigmas) - 1)
    made.sigmas = torch.tensor(sigmas, dtype=F64)
    return made


@pytest.mark.parametrize("steps", [6, 14])  # from 15 on theirs does not lower the order at the end
@pytest.mark.parametrize(
    ("name", "config", "sampler"),
    [
        ("DPMSolverMultistepScheduler", {"solver_order": 2}, DPMpp2M(reach=ANY)),
        ("DEISMultistepScheduler", {"solver_order": 2}, DEIS(order=2, reach=ANY)),
        ("DEISMultistepScheduler", {"solver_order": 3}, DEIS(reach=ANY)),
        ("UniPCMultistepScheduler", {"solver_order": 1}, UniPC(order=1, reach=ANY)),
        ("UniPCMultistepScheduler", {"solver_order": 2}, UniPC(order=2, reach=ANY)),
        ("UniPCMultistepScheduler", {"solver_order": 3}, UniPC(reach=ANY)),
        ("UniPCMultistepScheduler", {"solver_order": 4}, UniPC(order=4, reach=ANY)),
        ("UniPCMultistepScheduler", {"solver_order": 3, "solver_type": "bh1"}, UniPC(variant="bh1", reach=ANY)),
    ],
)
def test_the_numbers_are_those_of_diffusers(name, config, sampler, steps, exact_denoiser, mixture):
    process = VPLinear()
    denoiser, times = exact_denoiser(process, mixture), Karras().times(process, steps)
    theirs = scheduler(
        name,
        (process.sigma(times) / process.alpha(times)).tolist(),
        **config,
        **({} if "DEIS" in name else {"final_sigmas_type": "zero"}),
    )
    x = expected = start(process)
    upcast = {"rtol": 0, "atol": 1e-10 if "DPM" not in name else 1e-5}  # theirs rounds the state to float32
    for t, s, ours in zip(theirs.timesteps, times[:-1], sampler.steps(denoiser, x, times), strict=True):
        noise = (expected - process.alpha(s) * denoiser(expected, s)) / process.sigma(s)
        expected = theirs.step(noise, t, expected).prev_sample.double()
        if s == times[-2] and ("DEIS" in name or "solver_type" in config):
            assert bool(expected.isnan().all())  # theirs knows no step to σ = 0, where h is infinite
            assert bool(ours.x.isfinite().all())
        else:
            torch.testing.assert_close(ours.x, expected, **upcast)


def test_unipc_from_order_three_is_the_family(exact_denoiser, mixture):
    # Where no order is one or two, both are exact integrals: between a start and an end that are left out.
    process = EDM()
    times = Karras().times(process, 24)
    family = Multistep(order=3, variable="log-snr", ramp_down=True, reach=ANY).plan(process, times)
    named = UniPC(reach=ANY).plan(process, times)
    for ours, theirs in list(zip(family, named, strict=True))[4:-3]:
        assert ours.predict == pytest.approx(theirs.predict, rel=1e-13)
        assert ours.correct == pytest.approx(theirs.correct, rel=1e-13)


def test_first_order_is_euler(process, exact_denoiser, mixture):
    denoiser, times, x = exact_denoiser(process, mixture), Karras().times(process, 7), start(process)
    expected = drain(Euler().steps(denoiser, x, times))
    for sampler in (Multistep(order=1, corrector=False), DEIS(order=1), Multistep(corrector=False, reach=1e-9)):
        torch.testing.assert_close(drain(sampler.steps(denoiser, x, times)), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("variable", ["logistic", "log-snr"])
def test_errors_are_amplified_no_more_than_the_length_of_a_step_permits(variable):
    process = EDM()
    for steps in (4, 9, 30, 100):
        times = Karras().times(process, steps)
        lambdas = -process.sigma(times[:-1]).log()
        w = torch.sigmoid((lambdas - 1) / 1.1).tolist()
        keep, pull = (c.tolist() for c in process.ode_step(times[:-1], times[1:]))
        plan = Multistep(order=6, variable=variable, reach=0.2).plan(process, times)
        for i, step in enumerate(plan[:-1]):
            shares = [weight / pull[i] for weight in step.predict[1:]]
            limit = max(1, 1 + 2 * (0.2 / (w[i + 1] - w[i]) - 1))
            assert step.predict[0] == keep[i]
            assert sum(shares) == pytest.approx(1, abs=1e-10)
            assert sum(map(abs, shares)) <= limit * (1 + 1e-9)
            if i and len(shares) < min(6, i + 1):  # lowered, so there was no room for more
                assert sum(map(abs, shares)) == pytest.approx(limit) or len(shares) == 1
        assert plan[-1].predict[1:] == (1.0,)


def guided(mixture, scale=4.0):
    """The mixture's denoiser, pushed towards its first and third component by classifier-free guidance."""
    kept = torch.tensor([0, 2])
    towards = attrs.evolve(mixture, weights=mixture.weights[kept], means=mixture.means[kept], stds=mixture.stds[kept])

    def denoise(y, level):
        either = mixture.denoise(y, level)
        return either + scale * (towards.denoise(y, level) - either)

    return denoise


class Levels:
    """A denoiser given by y = x/α and σ/α."""

    def __init__(self, process, denoise):
        self.process, self.denoise = process, denoise

    def __call__(self, x, t):
        alpha, sigma = float(self.process.alpha(t)), float(self.process.sigma(t))
        return self.denoise(x / alpha, sigma / alpha)


SAFE = {
    "multistep": Multistep(),
    "multistep, order 2": Multistep(order=2),
    "multistep, order 6": Multistep(order=6),
    "multistep, log-snr": Multistep(variable="log-snr"),
    "multistep, no corrector": Multistep(corrector=False),
    "dpmpp-2m": DPMpp2M(),
    "dpmpp-3m": DPMpp3M(),
    "deis": DEIS(),
    "unipc": UniPC(),
}


@pytest.fixture(scope="module")
def problems(mixture):
    """Denoisers, starts, their exact ends, and Euler's error for each number of steps."""
    process, steps = EDM(), [*range(3, 13), 15, 20, 30, 50]
    fine = torch.cat([torch.linspace(1, 0.1, 400, dtype=F64), torch.zeros(1, dtype=F64)])  # σ = 8e-6, then 0
    made = []
    for denoise in (mixture.denoise, guided(mixture)):
        denoiser, x = Levels(process, denoise), start(process, 256)
        end = drain(Multistep(order=4, variable="log-snr", reach=ANY).steps(denoiser, x, fine))
        made.append((denoiser, x, end, {n: rms(drain(Euler().steps(denoiser, x, default(n))) - end) for n in steps}))
    return made


def rms(x):
    return float(x.square().mean().sqrt())


def default(steps):
    return LogisticLogSNR().times(EDM(), steps)


@pytest.mark.parametrize("name", SAFE)
def test_no_order_is_worse_than_euler_at_any_number_of_calls(name, problems):
    for denoiser, x, end, euler in problems:
        for steps, error in euler.items():
            assert rms(drain(SAFE[name].steps(denoiser, x, default(steps))) - end) <= error * (1 + 1e-9), steps


def test_the_default_is_far_more_accurate_than_published_rules(problems):
    for denoiser, x, end, _ in problems:
        for steps in (8, 10, 15, 20, 50):
            ours = rms(drain(Multistep().steps(denoiser, x, default(steps))) - end)
            theirs = [
                rms(drain(sampler.steps(denoiser, x, Karras().times(EDM(), steps))) - end)
                for sampler in (DPMpp2M(reach=ANY), DEIS(reach=ANY), UniPC(reach=ANY))
            ]
            assert ours <= 0.6 * min(theirs), steps


def test_without_the_safeguard_order_three_explodes_under_guidance(problems):
    denoiser, x, end, _ = problems[1]
    grid = Karras().times(EDM(), 8)
    exploded = rms(drain(UniPC(reach=ANY).steps(denoiser, x, grid)) - end)
    held = rms(drain(UniPC().steps(denoiser, x, grid)) - end)
    assert exploded > 2 * held


def test_a_plan_is_numbers_alone(process):
    # The loop has nothing to look up on the way, which a CUDA graph could not.
    for sampler in (Multistep(), UniPC(), DEIS()):
        for step in sampler.plan(process, Karras().times(process, 6)):
            numbers = [*step.predict, *step.correct, *(step.remember or ())]
            assert all(type(number) is float and math.isfinite(number) for number in numbers)


@pytest.mark.parametrize("sampler", [Multistep(), UniPC()], ids=["multistep", "unipc"])
def test_a_plan_is_made_once_for_all_batches_and_anew_for_other_numbers(sampler, monkeypatch):
    class Changing:
        """A process that hashes by identity, and whose numbers change all the same."""

        def __init__(self):
            self.kept = EDM()

        def __getattr__(self, name):
            return getattr(self.kept, name)

    process, times, made = Changing(), torch.linspace(0.9, 0.1, 6, dtype=F64), []
    honest = multistep_plan.step_shares
    monkeypatch.setattr(multistep_plan, "step_shares", lambda *a, **k: (made.append(a), honest(*a, **k))[1])
    first = sampler.plan(process, times)
    first.pop()  # the caller's own list
    assert sampler.plan(process, times.clone()) == sampler.plan(EDM(), times)
    assert len(made) <= 1
    process.kept = RectifiedFlow()
    assert sampler.plan(process, times) == sampler.plan(RectifiedFlow(), times) != sampler.plan(EDM(), times)
    assert len(sampler.plan(EDM(), times)) == 5
    made.clear()
    assert attrs.evolve(sampler, order=2).plan(EDM(), times) != sampler.plan(EDM(), times)


def test_grids_beyond_the_noise_of_float32_stay_finite(exact_denoiser, mixture):
    process = EDM(sigma_min=1e-9)
    levels = torch.logspace(1.9, -9, 40, dtype=F64)
    times = torch.cat([process.time_of_log_snr(-2 * levels.log()), torch.zeros(1, dtype=F64)])
    for sampler in SAFE.values():
        assert bool(drain(sampler.steps(exact_denoiser(process, mixture), start(process), times)).isfinite().all())


def test_settings_out_of_range_are_named():
    for make in (
        lambda: Multistep(order=0),
        lambda: Multistep(variable="log-snr "),
        lambda: DEIS(order=7),
        lambda: UniPC(variant="bh3"),
        lambda: DPMpp2M(reach=0.0),
    ):
        with pytest.raises(ValueError, match=r"order|variable|variant|reach"):
            make()


def test_every_setting_changes_the_numbers():
    times = LogisticLogSNR().times(EDM(), 12)

    def numbers(sampler):
        return [(step.predict, step.correct) for step in sampler.plan(EDM(), times)]

    changed = [
        Multistep(),
        Multistep(order=2),
        Multistep(corrector=False),
        Multistep(variable="log-snr"),
        Multistep(ramp_down=True),
        Multistep(reach=0.1),
        UniPC(),
        UniPC(order=2),
        UniPC(variant="bh1"),
        UniPC(reach=0.1),
    ]
    assert all(numbers(a) != numbers(b) for i, a in enumerate(changed) for b in changed[:i])


def test_flow_matching_starts_where_there_is_no_data_at_all(exact_denoiser, mixture):
    process = RectifiedFlow()
    times = torch.linspace(1, 0, 9, dtype=F64)
    for sampler in SAFE.values():
        assert bool(drain(sampler.steps(exact_denoiser(process, mixture), start(process), times)).isfinite().all())
    plan = Multistep().plan(process, times)
    assert [len(step.predict) - 1 for step in plan][:2] == [1, 1]  # nothing is known of pure noise


def test_steps_are_pairs_of_times():
    assert len(Multistep().plan(EDM(), default(5))) == len(list(pairwise(default(5)))) == 5
