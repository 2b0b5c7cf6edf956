"""The loop: shapes, times, counts, the log, hooks, and equivalences that must hold."""

import contextlib
import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import (
    ADAPTIVE,
    FIXED,
    close_solution,
    counted,
    decay,
    event,
    lotka_volterra,
    oscillator,
    pendulum,
    riccati,
    riccati_exact,
    same_solution,
    van_der_pol,
)

import stiffkit as sk
from stiffkit import Status
from stiffkit.stiffness import NormRatio

torch = pytest.importorskip("torch")

EPS = np.finfo(float).eps

# The basics ---------------------------------------------------------------------------------------


def test_the_defaults_are_tsit5_at_rtol_1e_6_and_atol_1e_9():
    named = sk.solve(pendulum, (0.0, 5.0), [1.0, 0.0], "tsit5", rtol=1e-6, atol=1e-9)
    same_solution(sk.solve(pendulum, (0.0, 5.0), [1.0, 0.0]), named)
    assert named.status is Status.success
    assert named.success


@pytest.mark.parametrize("span", [(0.0, 3.0), (3.0, 0.0), (-1.0, 2.0), (1.0, -2.0)])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_the_solution_is_right_in_both_directions_of_time(method, span):
    y0 = riccati_exact(span[0])
    solution = sk.solve(riccati, span, [y0], method, rtol=1e-5, atol=1e-8)
    assert solution.status is Status.success
    assert (solution.t[0], solution.t[-1]) == span
    assert bool((np.diff(solution.t) * np.sign(span[1] - span[0]) > 0).all())
    # Backward from 3 the solution grows tenfold and its error with it: some hundred tolerances.
    np.testing.assert_allclose(solution.y[:, 0], riccati_exact(solution.t), rtol=1e-3)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (2, 3), (2, 1, 2), (0,), (2, 0)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex64, np.complex128])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_time_is_the_first_axis_and_shape_and_dtype_are_kept(shape, dtype, backend):
    y0 = np.ones(shape, dtype)
    y0 = y0 if backend == "numpy" else torch.as_tensor(y0)
    seen = set()

    def f(t, y):
        seen.add((tuple(y.shape), y.dtype))
        return -y

    for options in ({}, {"grid": 6}, {"t_eval": [0.25, 1.0]}, {"dense": True}):
        solution = sk.solve(f, (0.0, 1.0), y0, rtol=1e-4, **options)
        n = len(solution.t)
        assert solution.status is Status.success
        assert type(solution.y) is type(y0) or shape == ()
        assert tuple(solution.y.shape) == (n, *shape)
        assert solution.y.dtype == y0.dtype
        assert np.asarray(solution.t).dtype == np.float64
        if solution.interpolant is not None:
            assert tuple(solution(0.5).shape) == shape
            assert tuple(solution([0.5, 0.6]).shape) == (2, *shape)
            assert solution(0.5).dtype == y0.dtype
    assert seen == {(shape, y0.dtype)}


@pytest.mark.parametrize("dtype", [np.float32, np.complex64])
@pytest.mark.parametrize("method", [*ADAPTIVE, *FIXED])
def test_single_precision_stays_single_everywhere(method, dtype):
    seen, steps = set(), []

    def f(t, y):
        seen.add(y.dtype)
        return -y

    def watch(step, probe):
        steps.append(step)
        return step.y_new

    options = {"grid": 8} if method in FIXED else {"rtol": 1e-3, "atol": 1e-5}
    solution = sk.solve(
        f, (0.0, 1.0), np.ones(2, dtype), method, observe=watch, dense=True, **options
    )
    assert seen == {np.dtype(dtype)}
    assert solution.y.dtype == solution(0.3).dtype == solution([0.3]).dtype == dtype
    for step in steps:
        assert {step.y.dtype, step.y_new.dtype, *(k.dtype for k in step.k)} == {np.dtype(dtype)}
        for part in (step.err, step.y_hat, *(step.probe or ())):
            assert part is None or part.dtype == dtype


def test_f_is_called_with_floats_and_states_of_the_users_shape():
    def f(t, y):
        assert type(t) is float
        assert y.shape == (2, 2)
        return -y

    assert sk.solve(f, (0, 1), np.ones((2, 2)), t_eval=[0.5]).success


def test_args_reach_f():
    solution = sk.solve(lambda t, y, a, b: a * y + b, (0.0, 1.0), [1.0], args=(-1.0, 0.0))
    same_solution(solution, sk.solve(lambda t, y: -1.0 * y + 0.0, (0.0, 1.0), [1.0]))


@pytest.mark.parametrize(
    ("scipys", "ours"), [("RK23", "bosh3"), ("RK45", "dopri5"), ("DOP853", "dop853")]
)
def test_scipys_names_are_understood(scipys, ours):
    a, b = (sk.solve(pendulum, (0.0, 2.0), [1.0, 0.0], m) for m in (scipys, ours))
    same_solution(a, b)


def test_a_tableau_is_a_method():
    named = sk.solve(pendulum, (0.0, 2.0), [1.0, 0.0], "bs5")
    same_solution(named, sk.solve(pendulum, (0.0, 2.0), [1.0, 0.0], sk.METHODS["bs5"]))


# Where f is asked ---------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*ADAPTIVE, *FIXED])
@given(
    t0=st.floats(-10, 10),
    length=st.floats(1e-3, 10),
    sign=st.sampled_from([1.0, -1.0]),
    step=st.none() | st.floats(0.05, 1.0),
)
def test_f_is_never_asked_outside_the_span(method, t0, length, sign, step):
    # Exactly: t + (t1 - t) may round to the far side of t1, where a problem may have no meaning.
    t1 = t0 + sign * length
    f = counted(decay)
    if method in FIXED:
        options = {"grid": np.linspace(t0, t1, 8)}
    else:
        options = {"max_step": length if step is None else step * length, "rtol": 1e-2}
    solution = sk.solve(f, (t0, t1), [1.0], method, dense=True, **options)
    assert min(t0, t1) <= min(f.times)
    assert max(f.times) <= max(t0, t1)
    assert solution.t[-1] == t1


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("max_step", [1e-6, 0.01, 0.3])
@pytest.mark.parametrize("method", ["tsit5", "heun", "dop853"])
def test_the_probe_for_the_first_step_stays_within_max_step(method, max_step, sign):
    # f vanishes at the start: the rule would look 1e-6 ahead, or further for large states.
    f = counted(lambda t, y: 0 * y + 1e-8)
    sk.solve(f, (0.0, sign), [1e3], method, max_step=max_step, max_steps=1)
    assert f.times[0] == 0.0
    assert 0 < abs(f.times[1]) <= max_step
    assert max(map(abs, f.times)) <= max_step
    assert all(t * sign >= 0 for t in f.times)


def test_the_probe_for_the_first_step_stays_within_a_tiny_span():
    for sign in (1.0, -1.0):
        f = counted(lambda t, y: 0 * y)
        solution = sk.solve(f, (0.0, sign * 1e-9), [1.0])
        assert max(map(abs, f.times)) <= 1e-9
        assert solution.status is Status.success


@pytest.mark.parametrize(
    "options", [{}, {"dense": True}, {"t_eval": [0.1, 0.7]}, {"events": lambda t, y: y[0] - 0.5}]
)
@pytest.mark.parametrize("method", ADAPTIVE)
def test_no_step_is_longer_than_max_step(method, options):
    solution = sk.solve(
        decay, (0.0, 1.0), [1.0], method, max_step=0.07, rtol=1e-2, log=True, **options
    )
    assert np.abs(solution.log["h"]).max() <= 0.07 * (1 + 4 * EPS)
    assert "max_step" in solution.log["limit"].tolist()


def test_first_step_is_the_first_step():
    solution = sk.solve(decay, (0.0, 1.0), [1.0], first_step=1e-3, log=True)
    assert solution.log["h"][0] == 1e-3
    assert solution.log["limit"][0] == "first_step"
    assert sk.solve(decay, (1.0, 0.0), [1.0], first_step=1e-3).t[1] == 1 - 1e-3


# nfev ---------------------------------------------------------------------------------------------

COUNTED_MODES = {
    "adaptive": {},
    "grid": {"grid": 9},
    "dense": {"dense": True},
    "dense_grid": {"dense": True, "grid": 9},
    "t_eval": {"t_eval": np.linspace(0, 2, 37)},
    "t_eval_few": {"t_eval": [0.3, 1.9]},
    "events": {"events": lambda t, y: y[0]},
    "terminal": {"events": event(lambda t, y: y[0] - 0.5, True)},
    "same_guide": {"guide": lambda step, probe: step.y_new},
    "guide": {"guide": lambda step, probe: step.y_new * 0.99},
    "guide_dense": {"guide": lambda step, probe: step.y_new * 0.99, "dense": True},
    "guide_t_eval": {"guide": lambda step, probe: step.y_new * 0.99, "t_eval": [0.3, 1.9]},
    "guide_grid_events": {
        "guide": lambda s, p: s.y_new * 0.99,
        "grid": 9,
        "events": lambda t, y: y[0],
    },
    "observe": {"observe": lambda step, probe: 0.0},
    "callback": {"callback": lambda step: step.t > 1},
    "first_step": {"first_step": 0.01},
    "log": {"log": True, "progress": False},
    "rejections": {"first_step": 2.0},
    "max_steps": {"max_steps": 3},
}


@pytest.mark.parametrize("backend", ["numpy", "torch", "grad"])
@pytest.mark.parametrize("mode", COUNTED_MODES)
@pytest.mark.parametrize("method", ["tsit5", "heun", "dop853", "bs5", "vern6", "rk4"])
def test_nfev_is_the_number_of_calls_in_every_mode(method, mode, backend):
    options = dict(COUNTED_MODES[mode])
    if method == "rk4":
        if "first_step" in options or "max_steps" in options:
            pytest.skip("needs an error estimate")
        options.setdefault("grid", 9)
    y0 = np.array([1.0, 0.0])
    if backend == "numpy":
        f = counted(pendulum)
    else:
        f = counted(lambda t, y: torch.stack([y[1], -torch.sin(y[0])]))
        y0 = torch.tensor(y0, requires_grad=backend == "grad")
    solution = sk.solve(f, (0.0, 2.0), y0, method, rtol=1e-3, **options)
    assert solution.stats["nfev"] == f.calls
    assert solution.stats["njev"] == solution.stats["nlu"] == 0


def test_stats_is_a_mapping_of_five_counts():
    stats = sk.solve(decay, (0.0, 1.0), [1.0]).stats
    assert set(stats) == {"nfev", "accepted", "rejected", "njev", "nlu"}
    assert all(type(n) is int for n in stats.values())


@pytest.mark.parametrize("method", ["tsit5", "bosh3", "dopri5", "bs5", "vern6"])
def test_an_fsal_method_pays_one_call_less_per_step(method):
    s = sk.METHODS[method].n_stages
    solution = sk.solve(pendulum, (0.0, 5.0), [1.0, 0.0], method, detect=False)
    attempts = solution.stats["accepted"] + solution.stats["rejected"]
    assert solution.stats["nfev"] == 2 + attempts * (s - 1)  # 2: f(t0, y0) and the first step's


@pytest.mark.parametrize("method", ["heun", "dop853", "vern7", "cashkarp"])
def test_other_methods_pay_s_calls_per_accepted_step_and_one_less_per_rejected(method):
    s = sk.METHODS[method].n_stages
    stats = sk.solve(pendulum, (0.0, 5.0), [1.0, 0.0], method, first_step=3.0, detect=False).stats
    # The very last state needs no slope; the first one is f(t0, y0).
    assert stats["rejected"] > 0
    assert stats["nfev"] == (s - 1) * (stats["accepted"] + stats["rejected"]) + stats["accepted"]


# t_eval, dense, events, observe change no step ----------------------------------------------------


@pytest.mark.parametrize("method", ADAPTIVE)
def test_looking_does_not_change_the_steps(method):
    plain = sk.solve(van_der_pol, (0.0, 3.0), [2.0, 0.0], method, rtol=1e-4)
    for options in (
        {"dense": True},
        {"observe": lambda step, probe: step.err},
        {"guide": lambda step, probe: step.y_new},
        {"callback": lambda step: step.probe and step.y_hat is None},
        {"log": True},
        {"events": [lambda t, y: y[0], lambda t, y: y[1]]},
        {"dense": True, "log": True, "observe": lambda step, probe: 1, "events": lambda t, y: y[1]},
    ):
        same_solution(
            sk.solve(van_der_pol, (0.0, 3.0), [2.0, 0.0], method, rtol=1e-4, **options), plain
        )


@pytest.mark.parametrize("method", ADAPTIVE)
def test_output_times_do_not_change_the_steps_and_hit_the_dense_output(method):
    t_eval = np.linspace(0.0, 3.0, 23)
    dense = sk.solve(van_der_pol, (0.0, 3.0), [2.0, 0.0], method, rtol=1e-4, dense=True, log=True)
    at = sk.solve(van_der_pol, (0.0, 3.0), [2.0, 0.0], method, rtol=1e-4, t_eval=t_eval, log=True)
    np.testing.assert_array_equal(at.log["h"], dense.log["h"])
    np.testing.assert_array_equal(at.t, t_eval)
    np.testing.assert_allclose(at.y, dense(t_eval), rtol=0, atol=32 * EPS)


def test_output_times_at_step_ends_return_the_very_states():
    free = sk.solve(pendulum, (0.0, 5.0), [1.0, 0.0])
    same_solution(sk.solve(pendulum, (0.0, 5.0), [1.0, 0.0], t_eval=free.t), free)
    some = sk.solve(pendulum, (0.0, 5.0), [1.0, 0.0], t_eval=free.t[2:7:2])
    np.testing.assert_array_equal(some.y, free.y[2:7:2])


@pytest.mark.parametrize("span", [(0.0, 2.0), (2.0, 0.0)])
@given(st.lists(st.floats(0, 2), min_size=1, max_size=12, unique=True))
def test_any_output_times_come_back_as_given(span, times):
    times = sorted(times, reverse=span[1] < span[0])
    solution = sk.solve(riccati, span, [riccati_exact(span[0])], t_eval=times, rtol=1e-5)
    np.testing.assert_array_equal(solution.t, times)
    np.testing.assert_allclose(solution.y[:, 0], riccati_exact(times), rtol=1e-3)


# Grids --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", [*ADAPTIVE, *FIXED])
@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_grid_is_followed_exactly(method, sign):
    grid = sign * np.array([0.0, 0.1, 0.15, 0.4, 1.0])
    solution = sk.solve(decay, (0.0, sign), [1.0], method, grid=grid)
    np.testing.assert_array_equal(solution.t, grid)
    assert solution.stats["accepted"] == 4
    # By hand, with the stability polynomial: y_(n+1) = R(-h) y_n. Its coefficients round as
    # products of the coefficients do, whose size is therefore the amplification.
    tableau = sk.METHODS[method]
    factors = tableau.R(-np.diff(grid)).real
    size = (1 + np.abs(tableau.b).sum()) * (1 + np.abs(tableau.A).sum())
    np.testing.assert_allclose(solution.y[1:, 0], np.cumprod(factors), rtol=16 * size * EPS)


def test_an_integer_grid_is_that_many_equal_steps():
    by_number = sk.solve(pendulum, (0.0, 1.0), [1.0, 0.0], "rk4", grid=10)
    same_solution(
        by_number, sk.solve(pendulum, (0.0, 1.0), [1.0, 0.0], "rk4", grid=np.linspace(0, 1, 11))
    )


def test_a_grid_may_be_a_tensor_or_a_list():
    grid = [0.0, 0.375, 1.0]
    expected = sk.solve(decay, (0.0, 1.0), [1.0], "rk4", grid=np.array(grid))
    same_solution(sk.solve(decay, (0.0, 1.0), [1.0], "rk4", grid=grid), expected)
    same_solution(
        sk.solve(decay, (0.0, 1.0), [1.0], "rk4", grid=torch.tensor(grid).double()), expected
    )


def test_a_grid_of_accepted_times_repeats_an_adaptive_solve():
    free = sk.solve(van_der_pol, (0.0, 3.0), [2.0, 0.0])
    same_solution(sk.solve(van_der_pol, (0.0, 3.0), [2.0, 0.0], grid=free.t), free)


# Equivalences -------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_scalar_state_is_a_vector_of_one(method):
    scalar = sk.solve(riccati, (0.0, 2.0), 1.0, method, rtol=1e-4)
    vector = sk.solve(riccati, (0.0, 2.0), [1.0], method, rtol=1e-4)
    np.testing.assert_array_equal(scalar.t, vector.t)
    np.testing.assert_array_equal(scalar.y, vector.y[:, 0])


@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_matrix_state_is_its_flat_vector(method):
    y0 = np.arange(6.0) / 6

    def on_matrix(t, y):
        assert y.shape == (2, 3)
        return np.cos(y[::-1] + t)

    flat = sk.solve(
        lambda t, y: on_matrix(t, y.reshape(2, 3)).ravel(), (0.0, 2.0), y0, method, rtol=1e-4
    )
    matrix = sk.solve(on_matrix, (0.0, 2.0), y0.reshape(2, 3), method, rtol=1e-4)
    np.testing.assert_array_equal(matrix.t, flat.t)
    np.testing.assert_array_equal(matrix.y.reshape(-1, 6), flat.y)


def test_a_fortran_ordered_or_strided_state_is_its_copy():
    y0 = np.arange(12.0).reshape(3, 4) / 12
    expected = sk.solve(lambda t, y: np.cos(y), (0.0, 1.0), y0)
    same_solution(sk.solve(lambda t, y: np.cos(y), (0.0, 1.0), np.asfortranarray(y0)), expected)
    wide = np.repeat(y0, 2, axis=1)[:, ::2]
    same_solution(sk.solve(lambda t, y: np.cos(y), (0.0, 1.0), wide), expected)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_an_autonomous_problem_does_not_know_the_time(method):
    a = sk.solve(pendulum, (0.0, 3.0), [1.0, 0.0], method, rtol=1e-4)
    close_solution(a, sk.solve(pendulum, (4.0, 7.0), [1.0, 0.0], method, rtol=1e-4))
    # With steps that are binary fractions nothing rounds, and nothing may differ.
    grid = np.array([0.0, 0.25, 1.0, 3.0])
    on_grid = sk.solve(pendulum, (0.0, 3.0), [1.0, 0.0], method, grid=grid)
    shifted = sk.solve(pendulum, (4.0, 7.0), [1.0, 0.0], method, grid=grid + 4)
    np.testing.assert_array_equal(shifted.y, on_grid.y)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_reversing_time_and_the_field_changes_nothing(method):
    # Every operation is the same up to signs, and signs are exact.
    forward = sk.solve(lambda t, y: np.cos(y + t), (0.0, 3.0), [1.0, 0.0], method, rtol=1e-4)
    backward = sk.solve(lambda t, y: -np.cos(y - t), (0.0, -3.0), [1.0, 0.0], method, rtol=1e-4)
    np.testing.assert_array_equal(-backward.t, forward.t)
    np.testing.assert_array_equal(backward.y, forward.y)


@pytest.mark.parametrize("method", ["tsit5", "dop853", "vern7", "bosh3"])
def test_there_and_back_again(method):
    out = sk.solve(pendulum, (0.0, 3.0), [1.0, 0.0], method, rtol=1e-8)
    back = sk.solve(pendulum, (3.0, 0.0), out.y[-1], method, rtol=1e-8)
    np.testing.assert_allclose(back.y[-1], [1.0, 0.0], rtol=0, atol=1e-6)  # a hundred tolerances


@pytest.mark.parametrize("method", ADAPTIVE)
@given(power=st.integers(-200, 200), sign=st.sampled_from([1, -1]))
def test_a_linear_problem_does_not_know_the_unit_of_the_state(method, power, sign):
    # Scaling by a power of two is exact, and rtol, f and the step control are homogeneous.
    scale = sign * 2.0**power
    a = sk.solve(oscillator, (0.0, 2.0), [1.0, 0.5], method, rtol=1e-3, atol=1e-6)
    b = sk.solve(
        oscillator, (0.0, 2.0), [scale, 0.5 * scale], method, rtol=1e-3, atol=1e-6 * abs(scale)
    )
    np.testing.assert_array_equal(a.t, b.t)
    np.testing.assert_array_equal(a.y * scale, b.y)


@pytest.mark.parametrize(
    ("dtype", "size"), [(np.float64, 1e300), (np.float32, 1e30), (np.float64, 1e-290)]
)
def test_very_large_and_very_small_states_are_solved(dtype, size):
    # An error of 1e-6 times the state has a square beyond the numbers; the ratio has not.
    solution = sk.solve(decay, (0.0, 1.0), np.array([size], dtype), rtol=1e-4, atol=0.0)
    assert solution.status is Status.success
    assert solution.y[-1, 0] / size == pytest.approx(math.exp(-1), rel=1e-3)


@pytest.mark.parametrize(
    ("dtype", "rtol"), [(np.float64, 1e-170), (np.float64, 1e-300), (np.float32, 1e-30)]
)
def test_a_vanishing_rtol_leaves_control_to_atol(dtype, rtol):
    y0 = np.array([1.0, 0.0], dtype)
    tight = sk.solve(pendulum, (0.0, 3.0), y0, rtol=rtol, atol=1e-4)
    loose = sk.solve(pendulum, (0.0, 3.0), y0, rtol=1e-12, atol=1e-4)  # 1e-12 of 1 is nothing here
    assert tight.stats["accepted"] == loose.stats["accepted"]
    np.testing.assert_allclose(tight.y, loose.y, atol=1e-3 if dtype == np.float32 else 1e-6)


@pytest.mark.parametrize("method", ["tsit5", "dop853", "heun"])
def test_a_complex_state_is_the_real_system_of_twice_the_size(method):
    rotation = 0.3 + 2.0j

    def real(t, y):
        z = (y[0] + 1j * y[1]) * rotation
        return np.array([z.real, z.imag])

    options = {"method": method, "rtol": 1e-7, "atol": 1e-9}
    z = sk.solve(lambda t, y: rotation * y, (0.0, 2.0), [1.0 + 0j], **options)
    y = sk.solve(real, (0.0, 2.0), [1.0, 0.0], **options)
    exact = np.exp(2 * rotation)
    # |z| and (|x|, |y|) weigh the same error differently: the steps differ, both are good to some
    # ten tolerances (of order 1, a hundred).
    assert abs(z.y[-1, 0] - exact) < 1e-5
    assert abs(y.y[-1] @ [1, 1j] - exact) < 1e-5


@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_complex_state_with_no_imaginary_part_is_the_real_one(method):
    real = sk.solve(pendulum, (0.0, 3.0), [1.0, 0.0], method, rtol=1e-4)
    as_complex = sk.solve(
        lambda t, y: np.array([y[1], -np.sin(y[0])]),
        (0.0, 3.0),
        np.array([1.0 + 0j, 0]),
        method,
        rtol=1e-4,
    )
    close_solution(real, as_complex)
    np.testing.assert_array_equal(as_complex.y.imag, 0.0)


@pytest.mark.parametrize("method", ["tsit5", "heun", "dop853"])
def test_copies_of_a_problem_in_one_state_take_the_steps_of_one(method):
    # The norm is a mean: twice the same is the same.
    one = sk.solve(pendulum, (0.0, 3.0), [1.0, 0.0], method, rtol=1e-4)
    two = sk.solve(
        lambda t, y: np.tile(pendulum(t, y[:2]), 2),
        (0.0, 3.0),
        [1.0, 0.0, 1.0, 0.0],
        method,
        rtol=1e-4,
    )
    assert len(one.t) == len(two.t)
    np.testing.assert_allclose(two.y[-1, :2], one.y[-1], rtol=0, atol=1e-6)  # see close_solution
    np.testing.assert_array_equal(two.y[:, :2], two.y[:, 2:])


# Tolerances ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ADAPTIVE)
def test_the_error_falls_with_rtol(method):
    exact = sk.solve(lotka_volterra, (0.0, 3.0), [2.0, 1.0], "vern9", rtol=1e-13, atol=1e-13).y[-1]
    tolerances = [1e-3, 1e-5] if sk.METHODS[method].order <= 2 else [1e-4, 1e-7, 1e-10]
    errors = []
    for rtol in tolerances:
        solution = sk.solve(lotka_volterra, (0.0, 3.0), [2.0, 1.0], method, rtol=rtol, atol=rtol)
        errors.append(np.abs(solution.y[-1] / exact - 1).max())
        assert errors[-1] < 100 * rtol
    # With local extrapolation the error falls as rtol^(p/(q+1)), p ≥ q: at least as rtol^(1/2).
    for (r_1, e_1), (r_2, e_2) in itertools.pairwise(zip(tolerances, errors, strict=True)):
        assert e_2 < e_1 * (r_2 / r_1) ** 0.5


def test_tolerances_may_be_arrays_of_the_states_shape():
    y0 = np.array([[1.0, 2.0], [3.0, 4.0]])
    number = sk.solve(decay, (0.0, 1.0), y0, rtol=1e-5, atol=1e-7)
    arrays = sk.solve(decay, (0.0, 1.0), y0, rtol=np.full((2, 2), 1e-5), atol=np.full((2, 2), 1e-7))
    # Divided once by the number, each by its own: rounding, amplified by the control.
    np.testing.assert_allclose(arrays.t, number.t, rtol=0, atol=1e4 * EPS)
    np.testing.assert_allclose(arrays.y, number.y, rtol=1e4 * EPS)


def test_each_component_heeds_its_own_atol():
    # Two uncoupled oscillators; whose tolerance is tight decides the steps.
    def f(t, y):
        return np.array([y[1], -y[0], 10 * y[3], -10 * y[2]])

    slow, fast = np.array([1e-9, 1e-9, 1e3, 1e3]), np.array([1e3, 1e3, 1e-9, 1e-9])
    y0 = [1.0, 0.0, 1.0, 0.0]
    lazy = sk.solve(f, (0.0, 5.0), y0, rtol=1e-12, atol=slow, max_steps=10**4)
    busy = sk.solve(f, (0.0, 5.0), y0, rtol=1e-12, atol=fast, max_steps=10**4)
    assert lazy.stats["accepted"] < busy.stats["accepted"]
    assert abs(lazy.y[-1, 0] - math.cos(5)) < 1e-7
    assert abs(busy.y[-1, 2] - math.cos(50)) < 1e-6


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_atol_zero_with_zero_components_is_no_division_by_zero(method, dtype, backend):
    # One component is zero for good, one only at the start.
    y0 = np.array([1.0, 0.0, 0.0], dtype)
    mask = np.array([-1.0, 0.0, 0.0], dtype), np.array([0.0, 0.0, 1.0], dtype)
    if backend == "torch":
        y0, mask = torch.as_tensor(y0), tuple(map(torch.as_tensor, mask))
    solution = sk.solve(
        lambda t, y: mask[0] * y + mask[1], (0.0, 1.0), y0, method, rtol=1e-3, atol=0.0
    )
    assert solution.status is Status.success
    end = np.asarray(solution.y)[-1]
    np.testing.assert_allclose(end, [math.exp(-1), 0.0, 1.0], rtol=0.02)


def test_atol_zero_from_a_zero_state_is_solved():
    solution = sk.solve(lambda t, y: np.ones(2), (0.0, 1.0), [0.0, 0.0], atol=0.0)
    np.testing.assert_allclose(solution.y[-1], [1.0, 1.0], rtol=1e-12)
    rest = sk.solve(lambda t, y: 0 * y, (0.0, 1.0), [0.0, 0.0], atol=0.0)
    assert rest.status is Status.success


# The log ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["tsit5", "heun", "dop853"])
def test_the_log_has_a_row_per_attempt_and_tells_the_story(method):
    solution = sk.solve(van_der_pol, (0.0, 4.0), [2.0, 0.0], method, first_step=2.0, log=True)
    log = solution.log
    assert {"t", "h", "ratio", "accepted", "limit"} <= set(log)
    accepted, rejected = log["accepted"], ~log["accepted"]
    assert accepted.sum() == solution.stats["accepted"]
    assert rejected.sum() == solution.stats["rejected"] > 0
    assert bool((log["ratio"][accepted] < 1).all())
    assert bool((log["ratio"][rejected] >= 1).all())
    np.testing.assert_array_equal(log["t"][accepted], solution.t[:-1])
    np.testing.assert_array_equal(log["t"][accepted] + log["h"][accepted], solution.t[1:])
    # A rejected attempt is followed by a shorter one from the same place.
    again = np.flatnonzero(rejected) + 1
    np.testing.assert_array_equal(log["t"][again], log["t"][again - 1])
    assert bool((np.abs(log["h"][again]) < np.abs(log["h"][again - 1])).all())
    assert log["limit"][0] == "first_step"
    assert log["limit"][-1] == "end"
    assert set(log["limit"]) <= {"first_step", "accuracy", "max_step", "end", "non_finite"}


def test_the_log_of_a_grid_says_so():
    log = sk.solve(decay, (0.0, 1.0), [1.0], "rk4", grid=4, log=True).log
    assert log["limit"].tolist() == ["grid"] * 4
    np.testing.assert_array_equal(log["h"], 0.25)


def test_without_being_asked_there_is_no_log_and_no_interpolant():
    solution = sk.solve(decay, (0.0, 1.0), [1.0])
    assert solution.log is None
    assert solution.interpolant is None
    with pytest.raises(ValueError, match="dense"):
        solution(0.5)


def test_the_log_has_its_keys_even_if_no_step_was_made():
    log = sk.solve(lambda t, y: y * math.nan, (0.0, 1.0), [1.0], log=True).log
    for key in ("t", "h", "ratio", "accepted", "limit"):
        assert len(log[key]) == 0


# Hooks --------------------------------------------------------------------------------------------


def test_observers_are_logged_under_their_names():
    def rho(step, probe):
        return abs(step.h)

    solution = sk.solve(decay, (0.0, 1.0), [1.0], observe=[rho], first_step=1.0)
    accepted = solution.log["accepted"]
    readings = np.array([r for r, a in zip(solution.log["rho"], accepted, strict=True) if a], float)
    np.testing.assert_array_equal(readings, np.abs(solution.log["h"][accepted]))


def test_two_observers_of_one_name_do_not_replace_each_other():
    solution = sk.solve(
        decay, (0.0, 1.0), [1.0], observe=[lambda step, probe: 1.0, lambda step, probe: 2.0]
    )
    columns = [
        v for k, v in solution.log.items() if k not in ("t", "h", "ratio", "accepted", "limit")
    ]
    assert sorted(float(column[0]) for column in columns) == [1.0, 2.0]


def test_an_observer_named_like_a_column_of_the_log_does_not_destroy_it():
    def ratio(step, probe):
        return -1.0

    try:
        solution = sk.solve(decay, (0.0, 1.0), [1.0], observe=ratio)
    except ValueError:
        return
    plain = sk.solve(decay, (0.0, 1.0), [1.0], log=True)
    np.testing.assert_array_equal(solution.log["ratio"], plain.log["ratio"])


@pytest.mark.parametrize("grid", [None, 12])
@pytest.mark.parametrize("method", ["heun", "tsit5", "bosh3", "vern6", "vern7", "dop853"])
def test_the_probe_is_the_previous_steps_at_this_steps_time(method, grid):
    tableau, previous, seen = sk.METHODS[method], [], []

    def watch(step, probe):
        seen.append(probe)
        if not previous or tableau.probe is None:
            assert probe is None
        else:
            before = previous[-1]
            assert before.t_new == step.t
            i = tableau.probe
            z = before.y + before.h * sum(
                a * k for a, k in zip(tableau.A[i], before.k, strict=True)
            )
            np.testing.assert_allclose(probe.z, z, rtol=64 * EPS)
            np.testing.assert_allclose(probe.f, riccati(step.t, z), rtol=1e3 * EPS)
            np.testing.assert_allclose(step.k[0], riccati(step.t, step.y), rtol=64 * EPS)
        previous.append(step)
        return step.y_new

    sk.solve(riccati, (0.0, 1.0), [1.0, 0.9], method, rtol=1e-4, grid=grid, observe=watch)
    assert len(seen) > 2


@pytest.mark.parametrize("grid", [None, 10])
def test_heuns_probe_is_the_euler_predictor(grid):
    previous = []

    def watch(step, probe):
        if previous:
            before = previous[-1]
            euler = before.y + before.h * before.k[0]
            np.testing.assert_allclose(probe.z, euler, rtol=4 * EPS)
            np.testing.assert_allclose(probe.f, riccati(before.t_new, euler), rtol=16 * EPS)
        previous.append(step)

    sk.solve(riccati, (0.0, 1.0), [1.0], "heun", grid=grid, rtol=1e-2, observe=watch)


@pytest.mark.parametrize("method", ["heun", "tsit5", "dop853", "rk4"])
def test_the_step_that_hooks_see_is_consistent(method):
    tableau = sk.METHODS[method]

    def watch(step, probe):
        assert step.t_new == pytest.approx(step.t + step.h, rel=4 * EPS)
        assert len(step.k) == tableau.n_stages
        y_new = step.y + step.h * sum(b * k for b, k in zip(tableau.b, step.k, strict=True))
        np.testing.assert_allclose(step.y_new, y_new, rtol=64 * EPS)
        if tableau.e is None:
            assert step.err is None
            assert step.y_hat is None
        else:
            np.testing.assert_allclose(step.y_hat + step.err, step.y_new, rtol=64 * EPS)
        if tableau.fsal:
            np.testing.assert_array_equal(step.f_new, pendulum(step.t_new, step.y_new))

    assert sk.solve(pendulum, (0.0, 1.0), [1.0, 0.0], method, grid=6, observe=watch).success


@pytest.mark.parametrize(
    "options", [{}, {"grid": 12}, {"dense": True}, {"t_eval": [0.1, 0.9]}], ids=str
)
@pytest.mark.parametrize("method", ADAPTIVE)
def test_the_identity_guide_costs_nothing_and_changes_nothing(method, options):
    plain = sk.solve(pendulum, (0.0, 2.0), [1.0, 0.0], method, rtol=1e-3, detect=False, **options)
    guided = sk.solve(
        pendulum,
        (0.0, 2.0),
        [1.0, 0.0],
        method,
        rtol=1e-3,
        guide=lambda step, probe: step.y_new,
        **options,
    )
    same_solution(guided, plain)
    assert guided.stats == plain.stats


@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_guide_that_returns_an_equal_copy_changes_no_number_and_pays_for_fsal(method):
    plain = sk.solve(pendulum, (0.0, 2.0), [1.0, 0.0], method, rtol=1e-3, grid=12)
    copied = sk.solve(
        pendulum,
        (0.0, 2.0),
        [1.0, 0.0],
        method,
        grid=12,
        guide=lambda step, probe: step.y_new.copy(),
    )
    same_solution(copied, plain)
    # Once per step, but for the last, after which no slope is wanted.
    extra = 11 if sk.METHODS[method].fsal else 0
    assert copied.stats["nfev"] - plain.stats["nfev"] == extra


@pytest.mark.parametrize("method", ["heun", "tsit5", "dop853", "bs5", "vern7"])
@pytest.mark.parametrize("backend", ["numpy", "torch", "grad"])
def test_a_moved_state_is_committed_and_the_next_step_starts_from_it(method, backend):
    # The map by hand: y -> 0.9 R(-h) y. A stale FSAL slope would give another number.
    y0 = np.array([1.0, 2.0])
    if backend != "numpy":
        y0 = torch.tensor(y0, requires_grad=backend == "grad")
    solution = sk.solve(
        decay, (0.0, 1.0), y0, method, grid=5, guide=lambda step, probe: 0.9 * step.y_new
    )
    factor = 0.9 * sk.METHODS[method].R(-0.2).real
    y = np.asarray(solution.y.detach() if backend != "numpy" else solution.y)
    np.testing.assert_allclose(y, factor ** np.arange(6)[:, None] * [1.0, 2.0], rtol=256 * EPS)


@pytest.mark.parametrize("method", ["heun", "tsit5", "dop853", "bs5", "vern7", "bosh3"])
@pytest.mark.parametrize("grid", [None, 8])
def test_the_dense_output_passes_through_moved_states(method, grid):
    solution = sk.solve(
        pendulum,
        (0.0, 2.0),
        [1.0, 0.0],
        method,
        rtol=1e-3,
        grid=grid,
        dense=True,
        guide=lambda step, probe: step.y_new + 0.01,
    )
    np.testing.assert_allclose(solution(solution.t), solution.y, rtol=0, atol=16 * EPS)
    # From both sides: the segment that begins at a moved state begins there.
    inner = solution.t[1:-1]
    np.testing.assert_allclose(
        solution(inner * (1 + 4 * EPS)), solution.y[1:-1], rtol=0, atol=1e-12
    )


def test_a_guide_may_return_one_buffer_again_and_again():
    buffer = np.empty(2)

    def reuses(step, probe):
        np.multiply(step.y_new, 0.9, out=buffer)
        return buffer

    fresh = sk.solve(
        decay, (0.0, 1.0), [1.0, 2.0], grid=5, guide=lambda step, probe: 0.9 * step.y_new
    )
    same_solution(sk.solve(decay, (0.0, 1.0), [1.0, 2.0], grid=5, guide=reuses), fresh)


@pytest.mark.parametrize("method", ["heun", "tsit5"])
@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_a_guide_that_changes_y_new_in_place_is_an_error_or_right(method, backend):
    def in_place(step, probe):
        step.y_new[:] = 0.9 * step.y_new
        return step.y_new

    y0 = np.array([1.0, 2.0]) if backend == "numpy" else torch.tensor([1.0, 2.0]).double()
    expected = sk.solve(decay, (0.0, 1.0), y0, method, grid=5, guide=lambda s, p: 0.9 * s.y_new)
    try:
        solution = sk.solve(decay, (0.0, 1.0), y0, method, grid=5, guide=in_place)
    except (ValueError, RuntimeError):
        return
    np.testing.assert_allclose(np.asarray(solution.y), np.asarray(expected.y), rtol=64 * EPS)


@pytest.mark.parametrize("method", ["heun", "tsit5", "vern7"])
def test_a_callback_cannot_change_the_solution_by_writing_into_the_step(method):
    def vandal(step):
        for array in (step.y, step.y_new, *step.k):
            with contextlib.suppress(ValueError):  # read-only is fine
                array[:] = 7.0

    plain = sk.solve(decay, (0.0, 1.0), [1.0, 2.0], method, grid=6)
    vandalised = sk.solve(decay, (0.0, 1.0), [1.0, 2.0], method, grid=6, callback=vandal)
    same_solution(vandalised, plain)


def test_steps_may_be_kept_and_read_later():
    steps = []
    sk.solve(pendulum, (0.0, 2.0), [1.0, 0.0], observe=lambda step, probe: steps.append(step))
    for step in steps:
        np.testing.assert_array_equal(step.k[0], pendulum(step.t, step.y))
        np.testing.assert_array_equal(step.k[-1], pendulum(step.t_new, step.y_new))


def test_hooks_see_the_users_shape():
    def watch(step, probe):
        shapes = {step.y.shape, step.y_new.shape, step.err.shape, *(k.shape for k in step.k)}
        assert shapes == {(2, 3)}
        assert probe is None or {probe.z.shape, probe.f.shape} == {(2, 3)}
        return step.y_new

    assert sk.solve(decay, (0.0, 1.0), np.ones((2, 3)), observe=watch, guide=watch).success
    assert sk.solve(decay, (0.0, 1.0), 1.0, observe=lambda step, probe: step.y_new[()]).success


def test_observers_come_before_the_guide_and_see_what_the_method_computed():
    order = []
    sk.solve(
        decay,
        (0.0, 1.0),
        [1.0],
        grid=1,
        observe=[lambda step, probe: order.append("a"), lambda step, probe: order.append("b")],
        guide=lambda step, probe: order.append("guide") or step.y_new,
        callback=lambda step: order.append("callback"),
    )
    assert order == ["a", "b", "guide", "callback"]


# Progress -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "span", [(0.0, 1.0), (1.0, 0.0), (0.1, 0.7), (-3.0, 1e5), (1e-9, 3e-9), (2.0, 2.0)]
)
def test_progress_shows_a_bar_and_changes_nothing(span, capfd):
    plain = sk.solve(decay, span, [1.0])
    same_solution(sk.solve(decay, span, [1.0], progress=True), plain)
    assert "t = " in capfd.readouterr().err


@given(st.floats(-10, 10), st.floats(1e-6, 10))
def test_progress_never_warns_of_rounding(t0, length):
    # Steps add up to the span only to rounding; tqdm warns of a bar beyond its end.
    assert sk.solve(decay, (t0, t0 + length), [1.0], grid=7, progress=True).success


def test_progress_survives_an_exception_an_infinite_end_and_a_terminal_event(capfd):
    g = event(lambda t, y: y[0] - 0.5, True)
    assert sk.solve(decay, (0.0, math.inf), [1.0], progress=True, events=g).status is Status.event
    with pytest.raises(ZeroDivisionError):
        sk.solve(lambda t, y: -y if t < 0.5 else 1 / 0, (0.0, 1.0), [1.0], progress=True)
    assert capfd.readouterr().err


# Readings -----------------------------------------------------------------------------------------


def test_a_dict_of_readings_becomes_columns():
    def hook(step, probe):
        return {"first": step.y_new[0], "t": step.t_new, "rows": step.y_new}

    log = sk.solve(
        decay, (0.0, 1.0), [1.0, 2.0], grid=4, observe=[hook, NormRatio(name="first")]
    ).log
    assert log["first_2"].shape == (4,)  # "first" is another observer's, and "t" the log's own
    np.testing.assert_allclose(log["t_2"], [0.25, 0.5, 0.75, 1.0])
    np.testing.assert_array_equal(log["rows"][:, 0], log["first_2"])
    assert "hook" not in log


def test_a_hook_may_have_nothing_to_say_at_first_and_different_things_later():
    def hook(step, probe):
        if probe is None:
            return None
        return {"a": 1.0} if step.t < 0.5 else {"b": np.ones(2)}

    log = sk.solve(decay, (0.0, 1.0), [1.0], "heun", grid=4, observe=hook).log
    np.testing.assert_array_equal(log["a"], [np.nan, 1, np.nan, np.nan])
    np.testing.assert_array_equal(log["b"], np.array([[np.nan] * 2] * 2 + [[1, 1]] * 2))
    assert "hook" not in log


@pytest.mark.parametrize("backend", [np.asarray, torch.tensor])
def test_readings_per_sample_are_stacked_with_nan_where_a_step_was_refused(backend):
    y0 = backend([[2.0, 0.0], [1.5, 0.5], [1.0, 1.0]])

    def f(t, y):
        return y * 0 - 50 * (y - math.cos(50 * t)) * (t > 0.1)

    hook = NormRatio(batched=True)
    log = sk.solve(f, (0.0, 1.0), y0, "dopri5", observe=hook).log
    assert log["rho"].shape == (len(log["t"]), 3)
    refused = ~log["accepted"]
    assert refused.any()
    assert np.isnan(log["rho"][refused]).all()
    assert np.isfinite(log["rho"][log["accepted"]][1:]).all()


def test_what_is_no_number_stays_a_list():
    log = sk.solve(decay, (0.0, 1.0), [1.0], grid=3, observe=lambda step, probe: step).log
    assert [type(x).__name__ for x in log["<lambda>"]] == ["Step"] * 3
