"""Step size control on plain numbers: controllers, error ratio, first step."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import ADAPTIVE, counted, pendulum, same_solution, van_der_pol
from scipy.integrate._ivp.common import select_initial_step

import stiffkit as sk
from stiffkit import CONTROLLERS, PIDController
from stiffkit._array import backend_of
from stiffkit.solvers.control import ErrorRatio, PredictiveController, first_step

torch = pytest.importorskip("torch")

EPS = np.finfo(float).eps
RATIOS = st.floats(1e-300, 1e300) | st.floats(0.01, 100.0) | st.sampled_from([0.0, 1.0, 5e-324])
ORDERS = st.integers(1, 12)
NAMES = st.sampled_from(list(CONTROLLERS))

# Controllers --------------------------------------------------------------------------------------


def run(controller, ratios, order):
    """Feed a sequence of ratios; return (accept, factor) of each."""
    memory, decisions = controller.init(), []
    for ratio in ratios:
        accept, factor, memory = controller(ratio, memory, order)
        decisions.append((accept, factor))
    return decisions


@given(NAMES, st.lists(RATIOS, min_size=1, max_size=12), ORDERS)
def test_the_factor_stays_within_its_bounds(name, ratios, order):
    controller = CONTROLLERS[name]
    for _, factor in run(controller, ratios, order):
        assert controller.min_factor <= factor <= controller.max_factor


@given(NAMES, st.lists(RATIOS, min_size=1, max_size=12), ORDERS)
def test_a_step_is_rejected_if_and_only_if_its_ratio_is_at_least_one(name, ratios, order):
    for ratio, (accept, _) in zip(ratios, run(CONTROLLERS[name], ratios, order), strict=True):
        assert accept == (ratio < 1)


@given(NAMES, st.lists(RATIOS, min_size=1, max_size=12), ORDERS)
def test_a_rejected_step_shrinks(name, ratios, order):
    controller = CONTROLLERS[name]
    for accept, factor in run(controller, ratios, order):
        if not accept:
            assert factor <= controller.safety < 1


@given(NAMES, st.lists(RATIOS, min_size=2, max_size=12), ORDERS)
def test_there_is_no_growth_right_after_a_rejection(name, ratios, order):
    decisions = run(CONTROLLERS[name], ratios, order)
    for (before, _), (after, factor) in itertools.pairwise(decisions):
        if after and not before:
            assert factor <= 1


@given(NAMES, st.lists(RATIOS, max_size=6), RATIOS, ORDERS)
def test_a_larger_error_never_gives_a_larger_next_step(name, history, ratio, order):
    controller = CONTROLLERS[name]
    memory = controller.init()
    for past in history:
        memory = controller(past, memory, order)[2]
    for smaller in (ratio / 2, ratio / 1.001):
        assert controller(ratio, memory, order)[1] <= controller(smaller, memory, order)[1]


@given(st.floats(0.05, 0.99), ORDERS)
def test_the_elementary_rule_is_the_textbook_formula(ratio, order):
    # h_new = 0.9 h ratio^(-1/(q+1)), both ways: HNW I, II.4, eq. 4.13.
    i = CONTROLLERS["I"]
    assert i(ratio, i.init(), order)[1] == pytest.approx(
        min(0.9 * ratio ** (-1 / (order + 1)), 10.0), rel=8 * EPS
    )
    assert i(1 / ratio, i.init(), order)[1] == pytest.approx(
        max(0.9 * ratio ** (1 / (order + 1)), 0.2), rel=8 * EPS
    )


@given(st.lists(st.floats(0.3, 0.99), min_size=3, max_size=3), st.integers(4, 8))
def test_the_filters_are_soederlinds_formula(ratios, order):
    k = order + 1
    controller = PIDController(0.3, 0.05, -0.25, -0.4, -0.1, max_factor=1e9, min_factor=1e-9)
    decisions = run(controller, ratios, order)
    r_2, r_1, r = (ratio / 0.9**k for ratio in ratios)
    (_, f_2), (_, f_1), (_, f) = decisions
    expected = r ** (-0.3 / k) * r_1 ** (-0.05 / k) * r_2 ** (0.25 / k) * f_1**0.4 * f_2**0.1
    assert f == pytest.approx(expected, rel=32 * EPS)


@given(st.lists(RATIOS, min_size=1, max_size=12), ORDERS)
def test_pi_with_beta_2_zero_is_the_i_controller(ratios, order):
    pi = PIDController(beta_1=1.0, beta_2=0.0)
    assert run(pi, ratios, order) == run(CONTROLLERS["I"], ratios, order)


def test_pi_with_beta_2_zero_solves_as_the_i_controller_does():
    i = sk.solve(van_der_pol, (0.0, 5.0), [2.0, 0.0], controller="I")
    pi = sk.solve(van_der_pol, (0.0, 5.0), [2.0, 0.0], controller=PIDController(1.0, 0.0))
    same_solution(i, pi)


@given(NAMES, ORDERS)
def test_the_set_point_is_a_fixed_point_whatever_the_filter(name, order):
    # At equal safety all filters aim at the same error: one that settles, settles at safety^k.
    controller, memory = CONTROLLERS[name], CONTROLLERS[name].init()
    set_point = controller.safety ** (order + 1)
    for _ in range(5):
        _, factor, memory = controller(set_point, memory, order)
        assert factor == pytest.approx(1.0, rel=64 * EPS)


@pytest.mark.parametrize(
    ("name", "betas"),
    [
        # Söderlind, ACM TOMS 29 (2003), table of controllers; kβ and α.
        ("I", (1, 0, 0, 0, 0)),
        ("PI3333", (2 / 3, -1 / 3, 0, 0, 0)),
        ("PI3040", (0.7, -0.4, 0, 0, 0)),
        ("PI4020", (0.6, -0.2, 0, 0, 0)),
        ("H211PI", (1 / 6, 1 / 6, 0, 0, 0)),
        ("H211b", (1 / 4, 1 / 4, 0, 1 / 4, 0)),
        ("H312PID", (1 / 18, 1 / 9, 1 / 18, 0, 0)),
        ("H312b", (1 / 8, 2 / 8, 1 / 8, 3 / 8, 1 / 8)),
        ("H321", (1 / 3, 1 / 18, -5 / 18, -5 / 6, -1 / 6)),
    ],
)
def test_the_named_sets_are_soederlinds(name, betas):
    c = CONTROLLERS[name]
    assert (c.beta_1, c.beta_2, c.beta_3, c.alpha_2, c.alpha_3) == pytest.approx(betas)


@pytest.mark.parametrize("name", ["H211b", "H211PI", "H312b", "H312PID", "H321"])
def test_the_digital_filters_have_their_order_of_adaptivity_or_filter_order(name):
    # Söderlind's order conditions. The closed loop's log h responds to the error with the transfer
    # function C(q) = Σ β_i q^(1-i) ... / (1 + Σ α_i q^(1-i)); a low-pass filter of order p_F has a
    # zero of that order at q = -1 in the numerator Σ β_i q^(n-i).
    c = CONTROLLERS[name]
    beta = np.array([c.beta_1, c.beta_2, c.beta_3])
    q = np.array([1.0, -1.0, 1.0])  # q^2, q, 1 at q = -1
    assert beta @ q == pytest.approx(0.0, abs=1e-15)
    if name.startswith("H312"):  # of order 2: the derivative vanishes too
        assert 2 * beta[0] * -1 + beta[1] == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize(
    "bad",
    [
        {"safety": 0.0},
        {"safety": 1.5},
        {"min_factor": 0.0},
        {"min_factor": 1.0},
        {"max_factor": 1.0},
        {"safety": math.nan},
        {"max_factor": math.nan},
    ],
    ids=str,
)
def test_a_controller_that_cannot_work_is_refused(bad):
    with pytest.raises(ValueError, match=next(iter(bad))):
        PIDController(**bad)


@pytest.mark.parametrize("name", CONTROLLERS)
@pytest.mark.parametrize("method", ["tsit5", "heun", "dop853"])
def test_every_named_controller_solves(name, method):
    solution = sk.solve(van_der_pol, (0.0, 3.0), [2.0, 0.0], method, rtol=1e-4, controller=name)
    exact = sk.solve(van_der_pol, (0.0, 3.0), [2.0, 0.0], "vern9", rtol=1e-11, atol=1e-12)
    assert solution.success
    np.testing.assert_allclose(solution.y[-1], exact.y[-1], atol=2e-2)  # a hundred tolerances of 2


def test_a_controller_of_the_users_own_decides():
    class Always:
        def init(self):
            return 0

        def __call__(self, ratio, memory, order):
            assert ratio >= 0
            seen.append((memory, order))
            return True, 1.0, memory + 1

    seen = []
    solution = sk.solve(pendulum, (0.0, 1.0), [1.0, 0.0], controller=Always(), first_step=0.1)
    assert solution.stats == {"nfev": 61, "accepted": 10, "rejected": 0, "njev": 0, "nlu": 0}
    assert seen == [(i, 4) for i in range(10)]


# Error ratio --------------------------------------------------------------------------------------

NUMBERS = st.floats(-1e6, 1e6, allow_subnormal=False)


@given(
    st.data(), st.integers(1, 5), st.booleans(), st.booleans(), st.sampled_from(["numpy", "torch"])
)
def test_the_error_ratio_is_the_plain_formula(data, n, array_rtol, array_atol, backend):
    vector = st.lists(NUMBERS, min_size=n, max_size=n).map(np.array)
    y, y_new, err = data.draw(vector), data.draw(vector), data.draw(vector)
    size = st.floats(1e-9, 1.0)
    rtol = data.draw(st.lists(size, min_size=n, max_size=n).map(np.array) if array_rtol else size)
    atol = data.draw(st.lists(size, min_size=n, max_size=n).map(np.array) if array_atol else size)
    expected = math.sqrt(np.mean((err / (atol + rtol * np.maximum(np.abs(y), np.abs(y_new)))) ** 2))
    make = np.array if backend == "numpy" else (lambda x: torch.tensor(x, dtype=torch.float64))
    like = make(y)
    rtol, atol = (x if isinstance(x, float) else make(x) for x in (rtol, atol))
    ratio = ErrorRatio(rtol, atol, like, backend_of(like))
    # A few roundings per component; tiny ratios underflow when squared.
    assert ratio([make(err)], make(y_new)) == pytest.approx(expected, rel=64 * EPS, abs=1e-150)


def test_the_error_ratio_follows_the_step():
    y0, y1, y2, err = np.ones(1), np.full(1, 10.0), np.full(1, 2.0), np.ones(1)
    ratio = ErrorRatio(0.1, 1.0, y0, backend_of(y0))
    assert ratio([err.copy()], y1) == pytest.approx(1 / 2.0)  # max(1, 10)
    ratio([err.copy()], y2)  # a rejected attempt leaves no trace
    assert ratio([err.copy()], y1) == pytest.approx(1 / 2.0)
    ratio.accept(y1)
    assert ratio([err.copy()], y2) == pytest.approx(1 / 2.0)  # max(10, 2)
    ratio.accept(y2)
    assert ratio([err.copy()], y2) == pytest.approx(1 / 1.2)  # max(2, 2)
    ratio.accept(np.full(1, 90.0))  # a guide moved the state
    assert ratio([err.copy()], y2) == pytest.approx(1 / 10.0)  # max(90, 2)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("rows", [1, 2])
@given(st.floats(1e-300, 1e300), st.floats(1e-300, 1.0))
def test_any_finite_error_has_a_ratio(backend, rows, size, tolerance):
    # At least 1 where the error is above the tolerance, whatever the squares do; no exception.
    make = np.array if backend == "numpy" else (lambda x: torch.tensor(x, dtype=torch.float64))
    y = make([1.0, 1.0])
    ratio = ErrorRatio(tolerance, tolerance, y, backend_of(y))
    with np.errstate(over="ignore"):
        value = ratio([make([size, size]) for _ in range(rows)], y)
    if size > 100 * tolerance:
        assert value >= 1
    if size < 0.01 * tolerance:
        assert value < 1


@pytest.mark.parametrize("rows", [1, 2])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_an_error_that_is_not_finite_has_no_finite_ratio(backend, rows, bad):
    make = np.array if backend == "numpy" else (lambda x: torch.tensor(x, dtype=torch.float64))
    y = make([1.0, 1.0])
    ratio = ErrorRatio(1e-6, 1e-9, y, backend_of(y))
    with np.errstate(invalid="ignore"):
        assert not math.isfinite(ratio([make([0.0, bad]) for _ in range(rows)], y))
        # Either of DOP853's two rows suffices.
        if rows == 2:
            good, broken = make([1e-3, 1e-3]), make([0.0, bad])
            assert not ratio([good, broken], y) < 1


def test_hairers_combination_of_two_errors():
    # err5² / √(err5² + 0.01 err3²): HNW I, II.10, eq. 10.17.
    y = np.array([1.0])
    ratio = ErrorRatio(1.0, 1.0, y, backend_of(y))
    a, b = 0.3 / 2, 4.0 / 2
    expected = a**2 / math.sqrt(a**2 + 0.01 * b**2)
    assert ratio([np.array([0.3]), np.array([4.0])], y) == pytest.approx(expected, rel=16 * EPS)
    assert ratio([np.zeros(1), np.zeros(1)], y) == 0.0


# First step ---------------------------------------------------------------------------------------


def ask(f, t0, y0, sign, order, rtol, atol, longest=1e9, max_step=math.inf):
    y0 = np.asarray(y0)
    return first_step(
        f,
        t0,
        y0,
        f(t0, y0),
        direction=sign,
        order=order,
        rtol=rtol,
        atol=atol,
        longest=longest,
        max_step=max_step,
        backend=backend_of(y0),
    )


@given(
    st.lists(st.floats(-1e3, 1e3, allow_subnormal=False), min_size=1, max_size=4),
    st.floats(1e-4, 1e4),
    ORDERS,
    st.floats(1e-12, 1e-2),
    st.floats(1e-14, 1e-2),
    st.sampled_from([1.0, -1.0]),
    st.floats(1e-8, 1e3),
    st.floats(1e-8, 1e3) | st.just(math.inf),
)
def test_the_first_step_is_scipys(y0, rate, order, rtol, atol, sign, span, max_step):
    def f(t, y):
        return np.cos(rate * t) - rate * y

    y0 = np.array(y0)
    ours = ask(f, 0.5, y0, sign, order, rtol, atol, span, max_step)
    theirs = select_initial_step(
        f, 0.5, y0, 0.5 + sign * span, max_step, f(0.5, y0), sign, order, rtol, atol
    )
    # SciPy clips the probe to the span but not to max_step: beyond it, its estimate is another.
    if max_step >= span or theirs < max_step:
        assert ours == pytest.approx(theirs, rel=1e-9)
    assert 0 < ours <= min(span, max_step) * (1 + 4 * EPS)


@given(
    st.floats(1e-12, 1e3), st.floats(1e-12, 1e3), st.sampled_from([1.0, -1.0]), st.floats(-10, 10)
)
def test_the_first_step_asks_f_once_and_within_the_bounds(span, max_step, sign, t0):
    f = counted(lambda t, y: 0 * y + 1e-7)
    h = ask(f, t0, [1e4], sign, 4, 1e-3, 1e-6, span, max_step)
    assert len(f.times) == 2  # one of them f(t0, y0), made here
    # t0 ± h rounds once.
    assert abs(f.times[1] - t0) <= min(span, max_step) + math.ulp(abs(t0) + span)
    assert 0 < h <= min(span, max_step)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_the_first_step_is_not_rejected_on_a_smooth_problem(method):
    solution = sk.solve(pendulum, (0.0, 1.0), [1.0, 0.0], method, rtol=1e-4, log=True)
    assert bool(solution.log["accepted"][0])


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_probe_that_is_not_finite_still_gives_a_step(bad):
    h = ask(lambda t, y: -y if t == 0 else y * bad, 0.0, [1.0], 1.0, 4, 1e-6, 1e-9)
    assert 0 < h < 1e9
    assert math.isfinite(h)


# Gustafsson's predictive rule ---------------------------------------------------------------------


@given(st.floats(1e-3, 0.5), st.floats(1.05, 1.5), st.integers(1, 5))
def test_the_predictive_rule_follows_a_coefficient_that_grows(start, growth, order):
    """Errors φ h^k whose φ grows by a constant factor: every step meets the set point."""
    k = order + 1
    controller = PredictiveController()
    phi, h, memory, ratios = start, 1.0, controller.init(), []
    for _ in range(8):
        ratio = phi * h**k
        accept, factor, memory = controller(ratio, memory, order)
        assert accept
        ratios.append(ratio)
        h, phi = h * factor, phi * growth
    np.testing.assert_allclose(ratios[3:], controller.safety**k, rtol=1e-9)


def test_the_predictive_rule_is_the_elementary_one_where_errors_shrink():
    controller, elementary = PredictiveController(), PIDController(safety=0.75)
    memory = controller.init()
    for ratio in (0.5, 0.3, 0.2, 0.05):
        accept, factor, memory = controller(ratio, memory, 3)
        assert accept
        assert factor == pytest.approx(elementary(ratio, elementary.init(), 3)[1], rel=1e-12)


def test_the_predictive_rule_learns_from_rejections():
    controller = PredictiveController()
    _, first, memory = controller(0.1, controller.init(), 3)
    accept, shrink, memory = controller(40.0, memory, 3)
    assert not accept
    assert shrink == pytest.approx(0.75 * 40 ** (-1 / 4))
    # The step that follows was first · shrink times the last accepted one.
    r = 0.2
    _, factor, _ = controller(r, memory, 3)
    expected = 0.75 * r ** (-1 / 4) * min(1.0, first * shrink * (0.1 / r) ** (1 / 4))
    assert factor == pytest.approx(expected)


@pytest.mark.parametrize("safety", [0.0, -1.0, 1.1, math.nan])
def test_a_predictive_rule_out_of_range_is_refused(safety):
    with pytest.raises(ValueError, match="safety="):
        PredictiveController(safety)
