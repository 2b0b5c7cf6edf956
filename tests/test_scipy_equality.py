"""Our solve_ivp is SciPy's: step for step, field for field, on all options."""

import math

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.sparse as sps
from hypothesis import given
from hypothesis import strategies as st
from problems import (
    event,
    lotka_volterra,
    oscillator,
    pendulum,
    riccati,
    riccati_exact,
    van_der_pol,
)

import stiffkit as sk

EPS = np.finfo(float).eps
METHODS = {"RK23": 3, "RK45": 5, "DOP853": 8}
FIELDS = {
    "t",
    "y",
    "sol",
    "t_events",
    "y_events",
    "nfev",
    "njev",
    "nlu",
    "status",
    "message",
    "success",
}

PROBLEMS = {
    "pendulum": (pendulum, [1.0, 0.0]),
    "lotka_volterra": (lotka_volterra, [2.0, 1.0]),
    "van_der_pol": (van_der_pol, [2.0, 0.0]),
    "riccati": (riccati, [1.0]),
}


def pose(problem, span):
    """The problem's f and y0; Riccati's is exact at the start, or it would blow up backward."""
    f, y0 = PROBLEMS[problem]
    return f, [riccati_exact(span[0])] if f is riccati else y0


def rounding(theirs, method, rtol, atol):
    """How far two runs may drift apart by rounding alone: a bound on |Δh|/h, and so on Δt, Δy.

    The error estimate is a sum that cancels down from h|k|: it carries an absolute rounding error
    of a few eps·|y|, which the division by the tolerance makes eps·|y|/(ratio·tol) of the ratio,
    and the (q+1)-th root of the control divides by about q+1. As long as h grows by the full
    factor 10, the ratio decides nothing; below that it is at least 10^-(q+1).
    """
    size = np.abs(theirs.y).max() if np.size(theirs.y) else 1.0
    smallest_ratio = 10.0 ** -(METHODS[method] - (method == "DOP853") + 0)
    tolerance = atol + rtol * size
    return min(64 * EPS * (1 + size) / (smallest_ratio * tolerance), 1.0)


def compare(f, span, y0, method, **options):
    """Solve with both; assert that all fields agree."""
    rtol, atol = options.get("rtol", 1e-3), options.get("atol", 1e-6)
    theirs = scipy.integrate.solve_ivp(f, span, y0, method=method, **options)
    ours = sk.solve_ivp(f, span, y0, method=method, **options)
    assert set(ours) == set(theirs) == FIELDS
    assert isinstance(ours, scipy.optimize.OptimizeResult)  # SciPy's own class is private
    drift = rounding(theirs, method, np.min(rtol), np.min(atol))
    # A step's end moves by Δh, the state there by |f| Δh.
    close = {"rtol": drift, "atol": drift * max(abs(span[1] - span[0]), 1.0) * 10}
    assert np.shape(ours.t) == np.shape(theirs.t)
    assert np.shape(ours.y) == np.shape(theirs.y)
    assert np.asarray(ours.y).dtype == np.asarray(theirs.y).dtype
    np.testing.assert_allclose(ours.t, theirs.t, **close)
    np.testing.assert_allclose(ours.y, theirs.y, **close)
    for field in ("status", "message", "success", "njev", "nlu"):
        assert ours[field] == theirs[field], field
        assert type(ours[field]) is type(theirs[field]), field
    if method == "DOP853":
        # Three calls for the interpolant of a step: SciPy makes it for every t_eval it meets, we
        # where one lies strictly inside; SciPy for a step with an event, we for every step watched.
        assert options.get("events") or ours.nfev <= theirs.nfev
    else:
        assert ours.nfev == theirs.nfev
    assert (ours.sol is None) == (theirs.sol is None)
    if theirs.sol is not None:
        times = np.linspace(theirs.sol.t_min, theirs.sol.t_max, 31)
        np.testing.assert_allclose(ours.sol(times), theirs.sol(times), **close)
        assert ours.sol(times).shape == theirs.sol(times).shape
        assert ours.sol(times[3]).shape == theirs.sol(times[3]).shape
        np.testing.assert_allclose(ours.sol.ts, theirs.sol.ts, **close)
        assert type(ours.sol) is type(theirs.sol)
    assert (ours.t_events is None) == (theirs.t_events is None)
    if theirs.t_events is not None:
        assert len(ours.t_events) == len(theirs.t_events)
        for a, b in zip(ours.t_events, theirs.t_events, strict=True):
            np.testing.assert_allclose(a, b, **close)
        for a, b in zip(ours.y_events, theirs.y_events, strict=True):
            assert np.shape(a) == np.shape(b)
            np.testing.assert_allclose(a, b, **close)
    return ours, theirs


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("problem", PROBLEMS)
@pytest.mark.parametrize("rtol", [1e-2, 1e-3, 1e-6])
@pytest.mark.parametrize("backward", [False, True])
def test_every_step_is_scipys(method, problem, rtol, backward):
    span = (2.0, 0.0) if backward else (0.0, 2.0)
    f, y0 = pose(problem, span)
    compare(f, span, y0, method, rtol=rtol, atol=rtol)


@given(
    method=st.sampled_from(list(METHODS)),
    problem=st.sampled_from(list(PROBLEMS)),
    span=st.sampled_from([(0.0, 2.0), (0.5, 3.0), (2.0, 0.0), (-1.0, 1.0)]),
    rtol=st.sampled_from([1e-2, 1e-3, 1e-5]),
    t_eval=st.none() | st.lists(st.floats(0.05, 0.95), max_size=5, unique=True),
    dense=st.booleans(),
    first_step=st.none() | st.floats(1e-3, 0.1),
    max_step=st.sampled_from([np.inf, 0.5, 0.05]),
    events=st.sampled_from([None, "one", "two", "terminal", "directed"]),
)
def test_all_options_give_scipys_result(
    method, problem, span, rtol, t_eval, dense, first_step, max_step, events
):
    f, y0 = pose(problem, span)
    lengths = None if t_eval is None else span[0] + np.sort(t_eval) * (span[1] - span[0])
    level = {"pendulum": 0.6, "lotka_volterra": 1.2, "van_der_pol": 1.7, "riccati": 0.7}[problem]
    functions = {
        None: None,
        "one": event(lambda t, y: y[0] - level),
        "two": [event(lambda t, y: y[0] - level), event(lambda t, y: t - 0.77)],
        "terminal": event(lambda t, y: y[0] - level, True),
        "directed": [
            event(lambda t, y: y[0] - level, 2, -1),
            event(lambda t, y: y[0] - level, False, 1),
        ],
    }[events]
    compare(
        f,
        span,
        y0,
        method,
        rtol=rtol,
        atol=rtol,
        t_eval=lengths,
        dense_output=dense,
        first_step=first_step,
        max_step=max_step,
        events=functions,
    )


@pytest.mark.parametrize("method", METHODS)
def test_complex_states_args_and_vectorized_are_scipys(method):
    def rotate(t, y, rate, shift):
        return (1j * rate - 0.1) * y + shift

    compare(
        rotate, (0.0, 3.0), np.array([1.0 + 1j, 2.0]), method, args=(2.0, 0.5), dense_output=True
    )
    compare(rotate, (0.0, 3.0), np.array([1.0 + 1j]), method, args=(2.0, 0.5), vectorized=True)
    compare(
        lambda t, y: np.vstack([y[1], -y[0]]) if y.ndim == 2 else np.array([y[1], -y[0]]),
        (0.0, 3.0),
        [1.0, 0.0],
        method,
        vectorized=True,
    )
    compare(oscillator, (0, 3), [1, 0], method)
    compare(oscillator, (0.0, 3.0), [1.0, 0.0], method, rtol=[1e-3, 1e-4], atol=[1e-6, 1e-5])


@pytest.mark.parametrize("method", METHODS)
def test_spans_of_length_zero_and_empty_states_are_scipys(method):
    compare(pendulum, (1.0, 1.0), [1.0, 0.0], method)
    compare(pendulum, (1.0, 1.0), [1.0, 0.0], method, t_eval=[1.0])
    compare(lambda t, y: y, (0.0, 1.0), [], method)
    compare(pendulum, (0.0, 1.0), [1.0, 0.0], method, t_eval=[])


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("span", [(0.0, 2.0), (2.0, 0.0)])
@pytest.mark.parametrize(
    "options", [{}, {"dense_output": True}, {"t_eval": [0.5, 1.0]}, {"max_step": 0.1}], ids=str
)
def test_our_solver_class_in_scipys_driver_is_scipys_class(method, span, options):
    if "t_eval" in options and span[1] < span[0]:
        options = {"t_eval": options["t_eval"][::-1]}
    y0 = [riccati_exact(span[0])]
    theirs = scipy.integrate.solve_ivp(riccati, span, y0, method=method, **options)
    ours = scipy.integrate.solve_ivp(riccati, span, y0, method=sk.ode_solver(method), **options)
    assert len(ours.t) == len(theirs.t)
    drift = rounding(theirs, method, 1e-3, 1e-6)
    np.testing.assert_allclose(ours.t, theirs.t, atol=10 * drift, rtol=drift)
    np.testing.assert_allclose(ours.y, theirs.y, atol=10 * drift, rtol=drift)
    assert (ours.status, ours.message) == (theirs.status, theirs.message)
    # SciPy's DOP853 pays for f(t + h, y_new) in rejected steps and in the last one too.
    assert ours.nfev <= theirs.nfev if method == "DOP853" else ours.nfev == theirs.nfev


@pytest.mark.parametrize("name", ["tsit5", "vern7", "bs5", "heun", "cashkarp"])
def test_every_method_runs_in_scipys_driver_as_in_our_solve_ivp(name):
    ours = sk.solve_ivp(pendulum, (0.0, 5.0), [1.0, 0.0], name, rtol=1e-5)
    theirs = scipy.integrate.solve_ivp(
        pendulum, (0.0, 5.0), [1.0, 0.0], sk.ode_solver(name), rtol=1e-5
    )
    np.testing.assert_array_equal(ours.t, theirs.t)
    np.testing.assert_array_equal(ours.y, theirs.y)
    assert ours.nfev == theirs.nfev


def brusselator(t, y, a=1.0, b=3.0):
    return np.array([a + y[0] ** 2 * y[1] - (b + 1) * y[0], b * y[0] - y[0] ** 2 * y[1]])


def brusselator_jac(t, y, a=1.0, b=3.0):
    return np.array([[2 * y[0] * y[1] - (b + 1), y[0] ** 2], [b - 2 * y[0] * y[1], -(y[0] ** 2)]])


JACOBIANS = {
    "none": {},
    "function": {"jac": brusselator_jac},
    "sparse": {"jac": lambda t, y, *args: sps.csc_matrix(brusselator_jac(t, y, *args))},
    "pattern": {"jac_sparsity": sps.csr_matrix(np.ones((2, 2)))},
    "both": {"jac": brusselator_jac, "jac_sparsity": np.eye(2)},  # SciPy ignores the pattern
}


@pytest.mark.parametrize("form", JACOBIANS)
@pytest.mark.parametrize("rtol", [1e-3, 1e-7])
def test_radau_is_ours_with_scipys_options_fields_and_accuracy(form, rtol):
    options = {"rtol": rtol, "atol": rtol * 1e-2, "args": (1.0, 3.2), "dense_output": True}
    options |= {"events": lambda t, y, *args: y[0] - 2.0, **JACOBIANS[form]}
    theirs = scipy.integrate.solve_ivp(brusselator, (0.0, 9.0), [1.2, 3.1], "Radau", **options)
    ours = sk.solve_ivp(brusselator, (0.0, 9.0), [1.2, 3.1], "Radau", **options)
    assert set(ours) == set(theirs) == FIELDS
    assert (ours.status, ours.message, ours.success) == (0, theirs.message, True)
    assert ours.y.shape == (2, len(ours.t))
    # Both estimates are of the same order, and so are the global errors that they leave.
    assert np.abs(ours.y[:, -1] - theirs.y[:, -1]).max() < 100 * rtol
    t = np.linspace(0.0, 9.0, 91)
    assert np.abs(ours.sol(t) - theirs.sol(t)).max() < 300 * rtol
    assert len(ours.t_events[0]) == len(theirs.t_events[0])
    np.testing.assert_allclose(ours.t_events[0], theirs.t_events[0], rtol=0, atol=100 * rtol)
    assert 0 < ours.njev < 2 * theirs.njev
    assert 0 < ours.nlu < 2 * theirs.nlu
    assert len(ours.t) < 1.5 * len(theirs.t)


def test_radau_is_not_scipys():
    """Nothing is handed on: SciPy's raises for a complex state."""
    complex_state = {"t_span": (0.0, 1.0), "y0": [1.0 + 1j], "method": "Radau"}
    with pytest.raises(ValueError, match="complex"):
        scipy.integrate.solve_ivp(lambda t, y: -y, **complex_state)
    ours = sk.solve_ivp(lambda t, y: -y, **complex_state)
    assert ours.y[0, -1] == pytest.approx((1 + 1j) * math.exp(-1), rel=1e-3)


def test_radau_with_a_constant_jacobian_asks_for_none():
    J = np.array([[0.0, 1.0], [-1.0, 0.0]])
    for jac in (J, sps.csc_matrix(J)):
        ours = sk.solve_ivp(oscillator, (0, 2), [1.0, 0.0], "Radau", jac=jac)
        assert ours.success
        assert ours.njev == 0


def test_radau_says_what_has_no_effect():
    with pytest.warns(UserWarning, match="have no effect for a chosen solver: `min_step`"):
        sk.solve_ivp(oscillator, (0, 1), [1.0, 0.0], "Radau", min_step=1e-3)


def test_radau_in_solve_is_radau5():
    options = {"rtol": 1e-4, "atol": 1e-6}
    named = sk.solve(oscillator, (0, 2), [1.0, 0.0], "Radau", **options)
    np.testing.assert_array_equal(
        named.y, sk.solve(oscillator, (0, 2), [1.0, 0.0], "radau5", **options).y
    )


@pytest.mark.parametrize("name", ["Radau", "rodas5p", "kencarp4", "rock4"])
def test_stiff_methods_run_in_scipys_driver(name):
    problem, options = (van_der_pol, (0.0, 2.0), [2.0, 0.0]), {"rtol": 1e-5, "atol": 1e-8}
    theirs = scipy.integrate.solve_ivp(*problem, sk.ode_solver(name), **options)
    ours = sk.solve_ivp(*problem, name, **options)
    # The first steps' estimates are rounding errors, and decide about the next step sizes.
    np.testing.assert_allclose(theirs.t, ours.t, rtol=1e-6)
    np.testing.assert_allclose(theirs.y, ours.y, rtol=0, atol=1e-6)
    assert (theirs.njev, theirs.nlu) == (ours.njev, ours.nlu)
    assert theirs.nfev == ours.nfev
    # Ours knows that its steps will be looked into, and examines them there: steps of its own.
    options["dense_output"] = True
    theirs = scipy.integrate.solve_ivp(*problem, sk.ode_solver(name), **options)
    t, scale = np.linspace(0, 2, 11), 1e-5 * 2
    expected = sk.solve_ivp(*problem, name, rtol=1e-9, atol=1e-12, t_eval=t).y
    np.testing.assert_allclose(theirs.sol(t), expected, rtol=0, atol=30 * scale)
    ours = sk.solve_ivp(*problem, name, **options)
    np.testing.assert_allclose(ours.sol(t), expected, rtol=0, atol=10 * scale)


def test_solver_classes_of_implicit_methods_take_jacobians():
    cls = sk.ode_solver("Radau")
    solver = cls(brusselator, 0.0, [1.2, 3.1], 1.0, jac=brusselator_jac)
    while solver.status == "running":
        assert solver.step() is None
    assert solver.njev > 0
    with pytest.warns(UserWarning, match="have no effect for a chosen solver: `jac`"):
        sk.ode_solver("RK45")(brusselator, 0.0, [1.2, 3.1], 1.0, jac=brusselator_jac)


@pytest.mark.parametrize("method", ["BDF", "LSODA", scipy.integrate.RK45, scipy.integrate.Radau])
def test_scipys_own_methods_are_scipys_to_the_bit(method):
    options = {"rtol": 1e-5, "events": lambda t, y: y[0], "t_eval": [0.5, 1.5], "args": ()}
    theirs = scipy.integrate.solve_ivp(
        van_der_pol, (0.0, 2.0), [2.0, 0.0], method=method, **options
    )
    ours = sk.solve_ivp(van_der_pol, (0.0, 2.0), [2.0, 0.0], method=method, **options)
    np.testing.assert_array_equal(ours.t, theirs.t)
    np.testing.assert_array_equal(ours.y, theirs.y)
    assert (ours.nfev, ours.njev, ours.nlu) == (theirs.nfev, theirs.njev, theirs.nlu)


def test_options_of_the_stiff_methods_are_passed_on():
    ours = sk.solve_ivp(
        oscillator, (0, 2), [1.0, 0.0], "BDF", jac=np.array([[0.0, 1.0], [-1.0, 0.0]])
    )
    assert ours.success


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    "bad",
    [
        {"rtol": -1.0},
        {"atol": -1.0},
        {"max_step": 0.0},
        {"first_step": -1.0},
        {"first_step": 9.0},
        {"t_eval": [3.0]},
        {"t_eval": [0.5, 0.2]},
        {"args": 5},
        {"y0": [[1.0]]},
        {"y0": [math.nan, 1.0]},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:At least one element of")
def test_what_scipy_refuses_is_refused_with_the_same_kind_of_error(method, bad):
    call = {"fun": pendulum, "t_span": (0.0, 1.0), "y0": [1.0, 0.0], "method": method, **bad}
    try:
        scipy.integrate.solve_ivp(**call)
    except (TypeError, ValueError) as error:
        with pytest.raises(type(error)):
            sk.solve_ivp(**call)
    else:
        assert sk.solve_ivp(**call).success


@pytest.mark.parametrize("method", METHODS)
def test_the_warnings_are_scipys(method):
    for call in (scipy.integrate.solve_ivp, sk.solve_ivp):
        with pytest.warns(UserWarning, match="`rtol` is too small"):
            call(oscillator, (0.0, 0.1), [1.0, 0.0], method, rtol=0.0)
        with pytest.warns(UserWarning, match="no effect"):
            call(oscillator, (0.0, 0.1), [1.0, 0.0], method, nonsense=5)


@pytest.mark.parametrize("method", METHODS)
def test_where_scipy_loops_for_ever_we_end_with_status_minus_one(method):
    result = sk.solve_ivp(lambda t, y: y * math.nan, (0.0, 1.0), [1.0], method)
    assert result.status == -1
    assert not result.success
    calls = []

    def nan(t, y):
        calls.append(t)
        return -y if t == 0 else y * math.nan

    # In SciPy's driver the step shrinks to nothing; it must be bounded.
    result = scipy.integrate.solve_ivp(nan, (0.0, 1.0), [1.0], sk.ode_solver(method))
    assert result.status == -1
    assert len(calls) < 10_000


@pytest.mark.parametrize("method", METHODS)
def test_a_blow_up_ends_as_scipys(method):
    with np.errstate(over="ignore", invalid="ignore"):
        theirs = scipy.integrate.solve_ivp(lambda t, y: y * y, (0.0, 2.0), [1.0], method)
        ours = sk.solve_ivp(lambda t, y: y * y, (0.0, 2.0), [1.0], method)
    assert ours.status == theirs.status == -1
    assert ours.t[-1] == pytest.approx(theirs.t[-1], rel=1e-2)
    assert type(ours.message) is str
