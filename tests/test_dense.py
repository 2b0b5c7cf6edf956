"""Dense output: its order, its ends, its shape, on both backends."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import ADAPTIVE, FIXED, decay, oscillator, pendulum, riccati, riccati_exact

import stiffkit as sk

torch = pytest.importorskip("torch")

EPS = np.finfo(float).eps


def growth(t, y):
    return y * np.cos(t)


@pytest.mark.parametrize("method", [*ADAPTIVE, *FIXED])
def test_the_dense_output_has_its_order_and_no_more(method):
    # One step from the exact state, so that what is measured is the interpolant's own local error,
    # O(h^(q+1)) for uniform order q < p (O(h^(p+1)) at most): y' = y cos t, y = exp(sin t).
    q = sk.METHODS[method].dense.order
    theta, errors = np.array([0.13, 0.37, 0.62, 0.86]), []
    for h in 1.6 * 0.5 ** np.arange(7):
        solution = sk.solve(growth, (0.0, h), [1.0], method, grid=1, dense=True)
        exact = np.exp(np.sin(theta * h))
        errors.append(np.abs(solution(theta * h)[:, 0] - exact).max())
    # Halving h divides the error by 2^(q+1), as long as it is well above rounding; at h of about
    # one, where the highest orders must be measured, the next term is worth up to one order.
    largest = max(np.abs(row).max() for row in sk.METHODS[method].dense.P)
    # The polynomials' coefficients round the slopes they weigh: 1e5 of them for vern6 and vern8.
    floor = max(1e-13, 0.5 * np.finfo(float).eps * largest)
    errors = np.array([e for e in errors if e > floor])
    observed = np.median(np.log2(errors[:-1] / errors[1:])[-3:])
    assert q + 0.25 < observed < q + 2.5, (q, observed, errors)


@pytest.mark.parametrize("method", [*ADAPTIVE, *FIXED])
def test_the_dense_output_is_exact_at_every_step_end(method):
    options = {"grid": 7} if method in FIXED else {"rtol": 1e-4}
    solution = sk.solve(pendulum, (0.0, 2.0), [1.0, 0.0], method, dense=True, **options)
    np.testing.assert_allclose(solution(solution.t), solution.y, rtol=0, atol=8 * EPS)


@pytest.mark.parametrize("method", [*ADAPTIVE, *FIXED])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_the_dense_output_is_continuously_differentiable_at_step_ends(method, sign):
    if method == "euler":
        pytest.skip("the line of Euler's method has kinks")
    solution = sk.solve(oscillator, (0.0, sign), [1.0, 0.0], method, grid=4, dense=True)
    delta = 1e-6
    for t, y in zip(solution.t[1:-1], solution.y[1:-1], strict=True):
        left, right = solution(t - sign * delta), solution(t + sign * delta)
        slopes = (y - left) / (sign * delta), (right - y) / (sign * delta)
        # The interpolant's slope at its ends is f there to the order of the method at least: h = ¼.
        q = sk.METHODS[method].dense.order
        for slope in slopes:
            np.testing.assert_allclose(slope, oscillator(t, y), atol=max(0.25**q, 1e-5))


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize("span", [(0.0, 2.0), (2.0, 0.0)])
def test_the_dense_output_is_as_good_as_the_tolerance(method, span):
    solution = sk.solve(
        riccati, span, [riccati_exact(span[0])], method, rtol=1e-6, atol=1e-8, dense=True
    )
    times = np.linspace(*span, 101)
    error = np.abs(solution(times)[:, 0] - riccati_exact(times)).max()
    # Interpolants of lower order than the step (Hermite's cubic under cashkarp and rkf45, h of
    # about ¼) err by h^4 y''''/384, some 1e-4; all others by a hundred tolerances.
    lower = sk.METHODS[method].dense.order < sk.METHODS[method].order - 1
    assert error < (1e-3 if lower else 1e-4)


@given(st.lists(st.floats(0, 2), max_size=20), st.sampled_from(["tsit5", "dop853", "heun"]))
def test_evaluation_in_any_order_is_evaluation_one_by_one(times, method):
    solution = sk.solve(pendulum, (0.0, 2.0), [1.0, 0.0], method, rtol=1e-3, dense=True)
    together = solution(times)
    assert together.shape == (len(times), 2)
    for t, y in zip(times, together, strict=True):
        np.testing.assert_allclose(solution(t), y, rtol=0, atol=4 * EPS)
        assert solution(t).shape == (2,)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (0,)])
def test_the_shape_of_the_result_is_that_of_t_then_that_of_y(shape, backend):
    y0 = np.ones(shape) if backend == "numpy" else torch.ones(shape, dtype=torch.float64)
    solution = sk.solve(decay, (0.0, 1.0), y0, dense=True)
    for t, lead in (
        (0.5, ()),
        ([0.5], (1,)),
        ([0.1, 0.2, 0.3], (3,)),
        ([], (0,)),
        (np.array(0.5), ()),
    ):
        value = solution(t)
        assert tuple(value.shape) == (*lead, *shape)
        assert type(value) is type(y0) or shape == ()
    with pytest.raises(ValueError, match="one-dimensional"):
        solution([[0.1, 0.2]])


@pytest.mark.parametrize("t", [-1e-9, 1.0 + 1e-9, math.nan, math.inf, [0.5, 2.0]])
def test_times_outside_the_interval_are_refused_by_value(t):
    solution = sk.solve(decay, (0.0, 1.0), [1.0], dense=True)
    with pytest.raises(ValueError, match="outside"):
        solution(t)


def test_the_interval_is_that_which_was_solved():
    solution = sk.solve(decay, (1.0, -1.0), [1.0], dense=True, max_steps=2)
    interpolant = solution.interpolant
    assert interpolant.t_max == 1.0
    assert interpolant.t_min == solution.t[-1] > -1.0
    with pytest.raises(ValueError, match="outside"):
        solution(-1.0)


def test_single_precision_is_interpolated_in_single_precision_at_large_times():
    # θ is formed in double precision: at t = 1e4 single precision could not tell steps apart.
    y0 = np.ones(1, np.float32)
    solution = sk.solve(decay, (1e4, 1e4 + 1), y0, rtol=1e-4, atol=1e-6, dense=True)
    times = 1e4 + np.linspace(0, 1, 50)
    np.testing.assert_allclose(solution(times)[:, 0], np.exp(-(times - 1e4)), rtol=1e-3)


@pytest.mark.parametrize("method", ["tsit5", "dop853", "bs5", "vern7"])
def test_an_interpolant_costs_its_extra_stages_and_no_more(method):
    tableau = sk.METHODS[method]
    plain = sk.solve(pendulum, (0.0, 2.0), [1.0, 0.0], method, grid=10)
    dense = sk.solve(pendulum, (0.0, 2.0), [1.0, 0.0], method, grid=10, dense=True)
    extra = 10 * len(tableau.dense.c) + (0 if tableau.fsal else 1)  # the very last f(t1, y1)
    assert dense.stats["nfev"] - plain.stats["nfev"] == extra


@pytest.mark.parametrize("method", ["bosh3", "dopri5", "tsit5", "dop853", "vern7"])
def test_a_large_step_is_the_same_sampled_and_settled(method):
    """Of more than 8192 components: events sample the stages, dense output forms the polynomial."""
    n = 10_000
    rates = np.linspace(0.1, 2.0, n)
    seen = []

    def g(t, y):
        seen.append((t, y.copy()))
        return 1.0

    solution = sk.solve(
        lambda t, y: -rates * y, (0.0, 1.0), np.ones(n), method, events=g, rtol=1e-3, atol=1e-3
    )
    kept = sk.solve(
        lambda t, y: -rates * y, (0.0, 1.0), np.ones(n), method, dense=True, rtol=1e-3, atol=1e-3
    )
    assert len(seen) >= 4 * solution.stats["accepted"]
    # States and slopes of one, weighed by up to the interpolant's largest coefficient.
    largest = 1 + np.abs(sk.EXPLICIT[method].bubble).max()
    for t, y in seen:
        np.testing.assert_allclose(y, kept(t), rtol=0, atol=100 * largest * np.finfo(float).eps)
