"""Additive Runge-Kutta methods on y' = f_explicit + f_implicit: orders, halves, account, PDEs."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.linalg import expm

import stiffkit as sk
from stiffkit import Status
from stiffkit.solvers.implicit import AdditiveTableau
from stiffkit.solvers.methods import ADDITIVE

every_pair = pytest.mark.parametrize("pair", ADDITIVE.values(), ids=ADDITIVE)


def counted(f):
    def call(*args):
        call.calls += 1
        return f(*args)

    call.calls = 0
    return call


# Orders -------------------------------------------------------------------------------------------


def exact(t):
    return np.stack([np.sin(t) + 2, np.exp(-t)], axis=-1)


def smooth_explicit(t, y):
    u, v = exact(t)
    return np.array([math.cos(t) + (y[0] - u) * y[1], -(y[0] - u) - 0.3 * v])


def smooth_implicit(t, y):
    """With the other part: nonlinear, nonautonomous, and `exact` is the solution."""
    u, v = exact(t)
    return np.array([v * (y[0] - u) ** 2, -0.7 * v + 0.5 * (y[1] ** 2 - v * v) - 2 * (y[1] - v)])


smooth = (smooth_explicit, smooth_implicit)
fine = {"rtol": 1e-11, "atol": 1e-11}


@every_pair
def test_the_observed_order_is_the_pairs(pair):
    errors = [
        np.abs(sk.solve(smooth, (0.0, 2.0), [2.0, 1.0], pair, grid=n, **fine).y[-1] - exact(2.0))
        for n in (16, 32)
    ]
    observed = math.log2(errors[0].max() / errors[1].max())
    assert observed == pytest.approx(pair.implicit.order, abs=0.5)


@every_pair
def test_dense_output_has_at_least_order_three(pair):
    t = np.linspace(0.0, 2.0, 203)
    errors = [
        np.abs(
            sk.solve(smooth, (0.0, 2.0), [2.0, 1.0], pair, grid=n, dense=True, **fine)(t) - exact(t)
        ).max()
        for n in (8, 16)
    ]
    assert math.log2(errors[0] / errors[1]) > 2.5


@every_pair
def test_the_error_estimate_has_its_order(pair):
    """Of one step the estimate is O(h^(q̂+1)), whether or not it is filtered."""

    def estimate(h):
        seen = []
        sk.solve(smooth, (0.3, 0.3 + h), exact(0.3), pair, grid=1, callback=seen.append, **fine)
        return np.abs(seen[0].err).max()

    # The principal coefficients of ark5's row are so small that a run sees the next ones.
    rate = math.log2(estimate(0.02) / estimate(0.01))
    low = pair.implicit.order_hat + 1
    assert low - 0.3 < rate < low + (1.5 if pair.name == "ark5" else 0.5)


def periodic(n):
    """Centred differences on n points of a circle of length 2π: advection and diffusion."""
    shift = np.roll(np.eye(n), 1, axis=1)
    h = 2 * math.pi / n
    return (shift.T - shift) / (2 * h), (shift - 2 * np.eye(n) + shift.T) / h**2


@every_pair
def test_advection_with_stiff_diffusion_keeps_the_order(pair):
    """A periodic problem has no boundaries to lose it at; explicit steps would be unstable."""
    n, steps = 128, 16
    advection, diffusion = periodic(n)
    y0 = np.exp(np.cos(2 * np.pi * np.arange(n) / n))
    end = expm(advection + 0.1 * diffusion) @ y0
    split = (lambda t, y: advection @ y, lambda t, y: 0.1 * (diffusion @ y))
    errors = []
    for m in (steps, 2 * steps):
        assert 0.1 * 4 * (n / (2 * math.pi)) ** 2 / m > 5  # hρ of the coarser and the finer grid
        solution = sk.solve(split, (0.0, 1.0), y0, pair, grid=m, jac=0.1 * diffusion, **fine)
        errors.append(np.abs(solution.y[-1] - end).max())
    assert math.log2(errors[0] / errors[1]) > pair.implicit.order - 0.5


def kaps(pair, power, n):
    """Error at t = 1 of Kaps' problem: y = (e^(−2t), e^(−t)) for every ε."""
    eps = 10.0**-power
    split = (
        lambda t, y: np.array([-2 * y[0], y[0] - y[1] - y[1] ** 2]),
        lambda t, y: np.array([(y[1] ** 2 - y[0]) / eps, 0.0]),
    )
    end = sk.solve(split, (0.0, 1.0), [1.0, 1.0], pair, grid=n, rtol=1e-9, atol=1e-12).y[-1]
    return np.abs(end - [math.exp(-2), math.exp(-1)]).max()


@every_pair
def test_kaps_problem_from_its_order_to_its_stage_order(pair):
    soft = math.log2(kaps(pair, 0.5, 10) / kaps(pair, 0.5, 20))
    assert soft == pytest.approx(pair.implicit.order, abs=0.2)
    stiff = math.log2(kaps(pair, 8, 40) / kaps(pair, 8, 80))
    assert stiff > pair.implicit.stage_order - 0.1


@every_pair
@given(power=st.floats(0, 8))
def test_kaps_problem_at_any_stiffness(pair, power):
    assert kaps(pair, power, 40) < 5e-5


# Halves -------------------------------------------------------------------------------------------


@every_pair
def test_without_an_explicit_part_it_is_the_implicit_method(pair):
    a = np.array([[-200.0, 1.0], [3.0, -1.0]])

    def f(t, y):
        return a @ y + [math.sin(t), 1.0]

    split = sk.solve((lambda t, y: 0 * y, f), (0.0, 1.0), [1.0, 2.0], pair, grid=20, jac=a)
    plain = sk.solve(f, (0.0, 1.0), [1.0, 2.0], pair.implicit, grid=20, jac=a)
    np.testing.assert_allclose(split.y, plain.y, rtol=1e-12, atol=1e-14)


@every_pair
def test_without_an_implicit_part_it_is_the_explicit_method(pair):
    def f(t, y):
        return np.array([y[1], -np.sin(y[0]) + 0.1 * math.cos(t)])

    split = sk.solve((f, lambda t, y: 0 * y), (0.0, 3.0), [1.0, 0.0], pair, grid=20)
    plain = sk.solve(f, (0.0, 3.0), [1.0, 0.0], pair.explicit, grid=20)
    np.testing.assert_allclose(split.y, plain.y, rtol=1e-12, atol=1e-14)


@every_pair
def test_the_implicit_half_is_L_stable(pair):
    y = np.concatenate([[0.0], np.logspace(-3, 6, 2001)])
    assert np.abs(pair.implicit.R(1j * y)).max() <= 1 + 1e-12
    A = pair.implicit.A
    assert abs(np.linalg.solve(A[1:, 1:], A[1:, 0])[-1]) < 1e-11  # R(∞)
    # So a step removes a fast mode, whatever the explicit part is.
    f = (lambda t, y: np.array([0.0, y[0]]), lambda t, y: np.array([-1e10 * y[0], 0.0]))
    end = sk.solve(f, (0.0, 1.0), [1.0, 0.0], pair, grid=1).y[-1]
    assert np.abs(end).max() < 1e-7


@every_pair
def test_names(pair):
    def end(method):
        return sk.solve(smooth, (0.0, 1.0), [2.0, 1.0], method).y[-1]

    for method in (pair.name, pair.implicit.name, pair.implicit):
        np.testing.assert_array_equal(end(method), end(pair))


def test_auto_is_kencarp4():
    ours = sk.solve(smooth, (0.0, 1.0), [2.0, 1.0])
    np.testing.assert_array_equal(ours.y, sk.solve(smooth, (0.0, 1.0), [2.0, 1.0], "kencarp4").y)


# What the loop does with them ---------------------------------------------------------------------


def brusselator(n):
    """u' = 1 + u²v − 4u − u_x + u_xx/50 and its like on a line: advection and reaction explicit."""
    dx = 1 / (n + 1)

    def padded(w):
        return np.pad(w[::2], 1, constant_values=1.0), np.pad(w[1::2], 1, constant_values=3.0)

    def explicit(t, w):
        u, v = padded(w)
        reaction = u[1:-1] ** 2 * v[1:-1]
        du = 1 + reaction - 4 * u[1:-1] - 0.5 * (u[2:] - u[:-2]) / (2 * dx)
        dv = 3 * u[1:-1] - reaction - 0.5 * (v[2:] - v[:-2]) / (2 * dx)
        return np.column_stack([du, dv]).ravel()

    def implicit(t, w):
        return np.column_stack(
            [0.05 * (x[2:] - 2 * x[1:-1] + x[:-2]) / dx**2 for x in padded(w)]
        ).ravel()

    x = np.arange(1, n + 1) * dx
    y0 = np.column_stack([1 + np.sin(2 * np.pi * x), np.full(n, 3.0)]).ravel()
    return explicit, implicit, y0


@every_pair
def test_the_brusselator_with_advection_against_scipy(pair):
    explicit, implicit, y0 = brusselator(40)
    peer = solve_ivp(
        lambda t, y: explicit(t, y) + implicit(t, y), (0.0, 2.0), y0, "BDF", rtol=1e-9, atol=1e-10
    )
    times = np.linspace(0.0, 2.0, 5)
    split = (explicit, implicit)
    ours = sk.solve(
        split, (0.0, 2.0), y0, pair, rtol=1e-6, atol=1e-6, bandwidth=(2, 2), t_eval=times
    )
    assert ours.status is Status.success
    np.testing.assert_allclose(ours.y[-1], peer.y[:, -1], rtol=0, atol=1e-4)
    assert ours.stats["njev"] < ours.stats["accepted"]  # kept from step to step


def test_calls_of_both_parts_are_counted():
    explicit, implicit, y0 = brusselator(10)
    f = counted(explicit), counted(implicit)
    for options in ({}, {"grid": 30}, {"jac_sparsity": np.ones((20, 20))}, {"dense": True}):
        f[0].calls = f[1].calls = 0
        stats = sk.solve(f, (0.0, 1.0), y0, "kencarp4", **options).stats
        assert (stats["nfev_explicit"], stats["nfev_implicit"]) == (f[0].calls, f[1].calls)
        assert stats["nfev"] == f[0].calls + f[1].calls
    assert "nfev_explicit" not in sk.solve(explicit, (0.0, 0.1), y0, "kencarp4").stats


def test_jacobians_and_arguments_are_the_implicit_parts():
    def explicit(t, y, a):
        return np.array([0.0, -a * y[1]])

    def implicit(t, y, a):
        return np.array([-1e4 * a * (y[0] - y[1]), 0.0])

    for options in (
        {"jac": lambda t, y, a: 1e4 * a * np.array([[-1.0, 1.0], [0.0, 0.0]])},
        {"jvp": lambda t, y, v, a: 1e4 * a * np.array([v[1] - v[0], 0.0])},
        {"bandwidth": (0, 1)},
    ):
        split = (explicit, implicit)
        end = sk.solve(split, (0.0, 1.0), [1.0, 1.0], "kencarp4", args=(2.0,), **options).y[-1]
        assert end[1] == pytest.approx(math.exp(-2), abs=1e-6)
        assert end[0] == pytest.approx(math.exp(-2) / (1 - 1e-4), abs=1e-6)


@every_pair
def test_events_hooks_and_shapes(pair):
    def hit(t, y):
        return y[0, 0] - 0.5

    hit.terminal = True
    solution = sk.solve(
        (lambda t, y: -y, lambda t, y: -99 * (y - math.exp(-t))),
        (0.0, 5.0),
        np.ones((2, 3)),
        pair,
        events=hit,
        observe=lambda step, probe: float(np.abs(step.k[0] + step.y).max()),
        log=True,
        rtol=1e-7,
        atol=1e-9,
    )
    assert solution.status is Status.event
    assert solution.t[-1] == pytest.approx(math.log(2), abs=1e-5)
    # Hooks see the slope of both parts together, here −y.
    assert np.nanmax(solution.log["<lambda>"]) < 1e-3


def test_a_guide_moves_the_state():
    ends = [
        sk.solve(smooth, (0.0, 1.0), [2.0, 1.0], "kencarp4", grid=4, guide=guide).y[-1]
        for guide in (
            lambda step, probe: step.y_new,
            lambda step, probe: step.y_new + 0.0,
            lambda step, probe: exact(1.0),
        )
    ]
    np.testing.assert_array_equal(ends[0], ends[1])
    np.testing.assert_array_equal(ends[2], exact(1))


def test_backwards_and_complex():
    a = -1j * np.pi
    split = (lambda t, y: a * y, lambda t, y: (0.5 + t) * y)
    solution = sk.solve(split, (1.0, 0.0), np.array([1.0 + 0j]), "kencarp4", rtol=1e-9, atol=1e-12)
    assert abs(solution.y[-1, 0] - np.exp(-a - 1.0)) < 1e-7


def test_single_precision_stays_single():
    y0 = np.array([2.0, 1.0], dtype=np.float32)
    solution = sk.solve(smooth, (0.0, 1.0), y0, "kencarp3", rtol=1e-3, atol=1e-4)
    assert solution.y.dtype == np.float32
    assert solution.success


# Failures -----------------------------------------------------------------------------------------


def broken(value, where):
    def f(t, y):
        return np.array([value if t > where else -y[0]])

    return f


@every_pair
@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("which", [0, 1])
def test_a_part_that_is_not_finite_ends_the_solve(pair, value, which):
    parts = [lambda t, y: -y, lambda t, y: -y]
    parts[which] = broken(value, 0.5)
    solution = sk.solve(tuple(parts), (0.0, 1.0), [1.0], pair)
    assert solution.status in (Status.non_finite, Status.step_too_small)
    assert 0.3 < solution.t[-1] <= 0.5
    np.testing.assert_allclose(solution.y[:, 0], np.exp(-2 * solution.t), rtol=1e-4)
    parts[which] = broken(value, -1.0)
    solution = sk.solve(tuple(parts), (0.0, 1.0), [1.0], pair)
    assert (solution.status, len(solution.t)) == (Status.non_finite, 1)


def test_an_exception_in_either_part_keeps_what_was_computed():
    def bad(t, y):
        if t > 0.5:
            raise ZeroDivisionError
        return -y

    for split in ((bad, lambda t, y: -y), (lambda t, y: -y, bad)):
        with pytest.raises(ZeroDivisionError) as caught:
            sk.solve(split, (0.0, 1.0), [1.0])
        assert 0.1 < caught.value.solution.t[-1] <= 0.5


@pytest.mark.parametrize(
    ("f", "method", "error", "message"),
    [
        ((smooth_explicit, 3), "kencarp4", TypeError, "f_implicit must be callable"),
        ((smooth_explicit,), "kencarp4", TypeError, "two functions .* not 1"),
        ((*smooth, smooth_explicit), "auto", TypeError, "two functions .* not 3"),
        (smooth, "rodas5p", ValueError, r"'rodas5p' has no explicit half.*kencarp3 \(ark3\)"),
        (smooth, "tsit5", ValueError, "'tsit5' has no explicit half"),
        (smooth, "kvaerno5", ValueError, "'kvaerno5' has no explicit half"),
        (smooth, "junk", ValueError, "'junk' has no explicit half"),
        (smooth_explicit, "ark4", ValueError, r"'ark4' is an additive pair: give f as"),
        (
            (smooth_explicit, lambda t, y: 1.0),
            "auto",
            ValueError,
            r"f_implicit\(t0, y0\) has sha",
        ),
        ((lambda t, y: y[:1], smooth_implicit), "auto", ValueError, r"f_explicit\(t0, y0\) has sh"),
        ((lambda t, y: y + 1j, smooth_implicit), "auto", ValueError, "f_explicit.* is complex"),
    ],
)
def test_bad_input(f, method, error, message):
    with pytest.raises(error, match=message):
        sk.solve(f, (0.0, 1.0), [2.0, 1.0], method)


def test_lists_and_one_shared_buffer():
    buffer = np.empty(2)

    def into(f):
        def call(t, y):
            buffer[:] = f(t, y)
            return buffer

        return call

    def solve(parts):
        return sk.solve(parts, (0.0, 1.0), [2.0, 1.0], first_step=1.0, rtol=1e-8)

    plain = solve(smooth)
    assert plain.stats["rejected"] > 0  # after a rejection the slopes at the start serve once more
    shared = solve(tuple(map(into, smooth)))
    lists = solve(tuple(lambda t, y, f=f: list(f(t, y)) for f in smooth))
    np.testing.assert_array_equal(plain.y, shared.y)
    np.testing.assert_array_equal(plain.y, lists.y)


def test_an_empty_state_and_an_empty_span():
    split = (lambda t, y: -y, lambda t, y: -y)
    assert sk.solve(split, (0.0, 1.0), np.zeros(0)).success
    assert sk.solve(split, (1.0, 1.0), [1.0]).y.tolist() == [[1.0]]


def test_a_pair_of_ones_own():
    """The first-order pair of Euler's methods, with an embedded row."""
    implicit = sk.ButcherTableau(
        "backward", order=1, order_hat=1, c=[0, 1], A=[[], [0, 1]], b=[0, 1], b_hat=[0.5, 0.5]
    )
    explicit = sk.ButcherTableau(
        "forward", order=1, order_hat=1, c=[0, 1], A=[[], [1]], b=[0, 1], b_hat=[0.5, 0.5]
    )
    pair = AdditiveTableau("euler-imex", implicit, explicit)
    errors = [
        np.abs(sk.solve(smooth, (0.0, 2.0), [2.0, 1.0], pair, grid=n, **fine).y[-1] - exact(2.0))
        for n in (200, 400)
    ]
    assert math.log2(errors[0].max() / errors[1].max()) == pytest.approx(1.0, abs=0.2)
    gauss = sk.ButcherTableau("gauss", order=1, c=[0], A=[[]], b=[1])
    with pytest.raises(ValueError, match="'x': its implicit part must be an ESDIRK"):
        sk.solve(smooth, (0.0, 1.0), [2.0, 1.0], AdditiveTableau("x", gauss, gauss))


def test_tensors_are_refused():
    torch = pytest.importorskip("torch")
    split = (lambda t, y: -y, lambda t, y: -y)
    with pytest.raises(ValueError, match="takes a NumPy state"):
        sk.solve(split, (0.0, 1.0), torch.ones(2))
