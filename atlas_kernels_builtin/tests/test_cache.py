"""The operator cache: never a stale operator, never more than its budget, and what it did is seen."""

from __future__ import annotations

import gc
import pickle
import threading
import weakref

import attrs
import pytest
import torch
from atlas_kernels_builtin.exact.dense import DenseOperator
from atlas_kernels_builtin.keeping.cache import OperatorCache, operator_cache
from atlas_kernels_builtin.keeping.cached import Cached
from atlas_kernels_builtin.keeping.content import content_key, held_bytes

from atlas_kernels_builtin import Gaussian, operator_of

MIB = 2**20


def points(n=50, d=3, seed=0, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype)


@attrs.frozen
class Stored(Gaussian):
    """A kernel whose operator holds n × m entries, all at once or from the first product on."""

    lazy: bool = False

    def operator(self, x, y, *, epsilon=1.0):
        return StoredOperator(kernel=self, x=x, y=y, lazy=self.lazy)


class StoredOperator:
    def __init__(self, kernel, x, y, lazy):
        self.kernel, self.x, self.y = kernel, x, y
        self.entries = None if lazy else kernel.log_kernel(x, y).exp()

    def matvec(self, v):
        if self.entries is None:
            self.entries = self.kernel.log_kernel(self.x, self.y).exp()
        return self.entries @ v


CHANGES = {
    "a method in place": lambda x: x.add_(1),
    "one entry": lambda x: x.__setitem__((0, 0), 5.0),
    "the last bit of one entry": lambda x: x.view(torch.int64)[-1, -1].bitwise_xor_(1),
    "through .data, which leaves the version as it is": lambda x: x.data.mul_(2),
    "through numpy, likewise": lambda x: x.numpy().__setitem__(3, 7.0),
    "through a view of the same memory": lambda x: x[1:].zero_(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_in_place_is_never_answered_with_the_old_operator(change):
    x, y, v = points(), points(seed=1), points(d=1, seed=2)[:, 0]
    with operator_cache(MIB) as cache:
        before = operator_of(Gaussian(), x, y)
        old = before.matvec(v)
        kept = x.clone()
        CHANGES[change](x)
        after = operator_of(Gaussian(), x, y)
        torch.testing.assert_close(after.matvec(v), Gaussian().log_kernel(x, y).exp() @ v, rtol=1e-12, atol=1e-14)
        assert (cache.stats().hits, cache.stats().misses) == (0, 2)
        # Nor did the change reach the operator that the old points, wherever they are now, are answered with.
        again = operator_of(Gaussian(), kept, y)
        assert again is before
        assert torch.equal(again.matvec(v), old)


def test_memory_that_is_used_again_for_other_points_is_a_miss():
    """Address, shape and version are the same; only the content is not."""
    v = torch.ones(50, dtype=torch.float64)
    with operator_cache(MIB):
        for seed in range(20):
            x = points(seed=seed)
            expected = Gaussian().log_kernel(x, x).exp() @ v
            torch.testing.assert_close(operator_of(Gaussian(), x, x).matvec(v), expected, rtol=1e-12, atol=1e-14)
            del x


def test_the_same_content_is_a_hit_and_everything_else_is_not():
    x, y = points(), points(seed=1)
    with operator_cache(MIB) as cache:
        first = operator_of(Gaussian(0.5), x, y, epsilon=0.1)
        assert operator_of(Gaussian(0.5), x.clone(), y, epsilon=0.1) is first
        others = [
            (Gaussian(0.5 + 2**-53), x, y, 0.1),  # one unit in the last place
            (Gaussian(0.5), x, y, 0.1 + 2**-56),
            (Gaussian(0.5), x, y, torch.tensor(0.1, dtype=torch.float64)),
            (Gaussian(0.5), x.float(), y.float(), 0.1),
            (Gaussian(0.5), x[:-1], y, 0.1),
            (Gaussian(0.5), x[None], y, 0.1),
            (Gaussian(0.5), y, x, 0.1),
            (Stored(0.5), x, y, 0.1),
        ]
        made = [operator_of(kernel, a, b, epsilon=epsilon) for kernel, a, b, epsilon in others]
        assert len({id(operator) for operator in (first, *made)}) == len(others) + 1
        stats = cache.stats()
    assert (stats.hits, stats.misses, stats.entries) == (1, len(others) + 1, len(others) + 1)
    assert operator_of(Gaussian(0.5), x, y, epsilon=0.1) is not first  # the block has ended


def test_bytes_are_those_of_the_tensors_and_the_least_recently_used_goes_first():
    n = 100
    one = 8 * (n * n + 2 * n * 3)  # the entries, and the copies of two sets of points
    clouds = [points(n, seed=seed) for seed in range(4)]
    with operator_cache(3 * one) as cache:
        a, b, c = (operator_of(Stored(), x, clouds[3]) for x in clouds[:3])
        assert cache.stats().bytes == 3 * one
        assert operator_of(Stored(), clouds[0], clouds[3]) is a
        fourth = operator_of(Stored(2.0), clouds[0], clouds[3])
        assert (cache.stats().evictions, cache.stats().entries, cache.stats().bytes) == (1, 3, 3 * one)
        assert operator_of(Stored(), clouds[0], clouds[3]) is a  # used after b
        assert operator_of(Stored(), clouds[2], clouds[3]) is c
        assert operator_of(Stored(2.0), clouds[0], clouds[3]) is fourth
        assert operator_of(Stored(), clouds[1], clouds[3]) is not b


def test_an_operator_larger_than_the_budget_is_handed_out_and_not_kept():
    x = points(100)
    with operator_cache(8 * 100 * 100) as cache:
        small = operator_of(Gaussian(), x, x)
        large = operator_of(Stored(), x, x)
        torch.testing.assert_close(large.entries, Gaussian().log_kernel(x, x).exp())
        stats = cache.stats()
        assert (stats.too_large, stats.entries, stats.evictions) == (1, 1, 0)
        assert operator_of(Gaussian(), x, x) is small


def test_an_operator_that_grows_after_it_was_kept_is_held_to_the_budget_too():
    x = points(100)
    with operator_cache(8 * 100 * 100) as cache:
        operator_of(Gaussian(), x, x)
        lazy = operator_of(Stored(lazy=True), x, x)
        lazy.matvec(x)
        assert operator_of(Gaussian(2.0), x, x) is not lazy
        stats = cache.stats()
    assert stats.bytes <= stats.budget_bytes
    assert stats.evictions == 2  # the older one, and what outgrew the budget


def test_neither_the_callers_points_nor_what_was_evicted_is_kept_alive():
    x = points(100)
    alive = weakref.ref(x)
    with operator_cache(100_000) as cache:
        entries = weakref.ref(operator_of(Stored(), x, x).entries)
        del x
        gc.collect()
        assert alive() is None
        assert entries() is not None
        y = points(100, seed=1)
        operator_of(Stored(), y, y)
        gc.collect()
        assert entries() is None
        cache.clear()
        assert (cache.stats().bytes, cache.stats().entries) == (0, 0)


def test_what_needs_a_graph_or_cannot_be_compared_is_made_anew_and_counted():
    class Opaque:
        has_log, item_ndim = True, 1

        def log_kernel(self, x, y):
            return -torch.cdist(x, y)

    x, y = points().requires_grad_(), points(seed=1)
    with operator_cache(MIB) as cache:
        operator = operator_of(Gaussian(), x, y)
        (gradient,) = torch.autograd.grad(operator.matvec(y).sum(), x)
        assert gradient.norm() > 0
        assert operator_of(Gaussian(), x, y) is not operator
        operator_of(Opaque(), y, y)
        assert (cache.stats().bypassed, cache.stats().entries) == (3, 0)


def test_an_operator_made_in_inference_mode_serves_under_gradients():
    x, v = points(), points(d=1)[:, 0].requires_grad_()
    with operator_cache(MIB) as cache:
        with torch.inference_mode():
            operator_of(Gaussian(), x.clone(), x)
        operator = operator_of(Gaussian(), x, x.clone())
        assert cache.stats().hits == 1
        (gradient,) = torch.autograd.grad(operator.matvec(v).sum(), v)
    torch.testing.assert_close(gradient, Gaussian().log_kernel(x, x).exp().sum(0))


def test_threads_share_a_cache_and_every_answer_is_right():
    clouds = [points(40, seed=seed) for seed in range(4)]
    v = torch.ones(40, dtype=torch.float64)
    expected = [Gaussian().log_kernel(x, x).exp() @ v for x in clouds]
    cache = OperatorCache(8 * 40 * 40 * 2)  # room for two of them: hits, misses and evictions all the time
    failures = []

    def work(start):
        with cache.active():
            for i in range(start, start + 60):
                x = clouds[i % 4]
                if not torch.allclose(operator_of(Stored(), x, x).matvec(v), expected[i % 4], rtol=1e-12):
                    failures.append(i)

    threads = [threading.Thread(target=work, args=(k,)) for k in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    stats = cache.stats()
    assert not failures
    assert stats.hits + stats.misses == 240
    assert stats.bytes <= stats.budget_bytes


def test_a_thread_that_was_not_given_the_cache_does_not_use_it():
    x = points()
    with operator_cache(MIB) as cache:
        thread = threading.Thread(target=operator_of, args=(Gaussian(), x, x))
        thread.start()
        thread.join()
        assert cache.stats().misses == 0


def test_the_inner_block_is_asked_and_the_outer_one_afterwards():
    x = points()
    with operator_cache(MIB) as outer:
        with operator_cache(MIB) as inner:
            operator_of(Gaussian(), x, x)
        operator_of(Gaussian(), x, x)
    assert (inner.stats().misses, outer.stats().misses) == (1, 1)


def test_the_component_keeps_operators_of_its_own_and_adds_nothing_to_the_kernel():
    x, y = points(), points(seed=1)
    cached = Cached(kernel=Gaussian(0.7), budget_mb=1.0)
    operator = operator_of(cached, x, y, epsilon=0.5)
    assert operator_of(cached, x.clone(), y, epsilon=0.5) is operator
    assert operator_of(cached, x + 1, y, epsilon=0.5) is not operator
    assert (cached.cache.stats().hits, cached.cache.stats().misses) == (1, 2)
    assert isinstance(operator, DenseOperator)
    torch.testing.assert_close(operator.dense(), operator_of(Gaussian(0.7), x, y, epsilon=0.5).dense())
    assert torch.equal(cached.log_kernel(x, y), Gaussian(0.7).log_kernel(x, y))
    loaded = pickle.loads(pickle.dumps(cached))  # noqa: S301 - our own bytes
    assert loaded == cached
    assert loaded.cache.stats().entries == 0


def test_settings_that_depend_on_the_points_and_weights_are_fitted_once_and_share_the_cache():
    @attrs.frozen
    class MeanScaled(Gaussian):
        def fitted(self, x, y, a=None, b=None):
            return Gaussian(float((a[:, None] * torch.cdist(x, y)).sum()))

    x, y = points(), points(seed=1)
    cached = Cached(kernel=MeanScaled())
    weights = torch.rand(50, dtype=torch.float64)
    fitted = cached.fitted(x, y, weights)
    assert fitted.kernel == MeanScaled().fitted(x, y, weights)
    assert operator_of(fitted, x, y) is operator_of(cached.fitted(x, y, weights), x, y)
    assert cached.cache.stats().hits == 1


@pytest.mark.parametrize("budget", [0, -1])
def test_a_budget_that_holds_nothing_is_refused(budget):
    with pytest.raises(ValueError, match="budget_bytes"):
        OperatorCache(budget)


def test_a_key_tells_apart_what_differs_by_type_sign_or_nan():
    values = [1, 1.0, True, "1", b"1", None, 0.0, -0.0, float("nan"), (1,), [1], {"a": 1}, torch.float32, Gaussian]
    keys = [content_key(value) for value in values]
    assert None not in keys
    assert len(set(keys)) == len(values)
    assert content_key(float("nan")) == content_key(float("nan"))
    assert content_key(object()) is None


@pytest.mark.filterwarnings("ignore:Sparse CSR", "ignore:Sparse invariant")
def test_bytes_count_every_storage_once_wherever_it_hangs():
    base = torch.zeros(1000, dtype=torch.float32)
    steps = torch.arange(11)
    sparse = torch.sparse_csr_tensor(steps, steps[:10].clone(), torch.ones(10, dtype=torch.float64), (10, 10))

    def closure(v):
        return base @ v

    assert held_bytes([base, base[10:], {"view": base.view(10, 100)}, closure]) == 4000
    assert held_bytes(sparse) == 8 * (11 + 10 + 10)
    dense = torch.eye(10, dtype=torch.float64)
    assert held_bytes(torch.sparse_coo_tensor(torch.stack([steps, steps]), torch.ones(11), (11, 11))) == 8 * 22 + 44
    assert held_bytes({dense: torch.nn.Linear(3, 4)}) == 800 + 4 * (12 + 4)
    assert held_bytes(operator_of(Gaussian(), base[:, None], base[:500, None].clone())) == 6000
