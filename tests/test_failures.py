"""However a solve ends, it ends soon, says why, and keeps what was computed."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import ADAPTIVE, FIXED, counted, decay, event, pendulum

import stiffkit as sk
from stiffkit import Status

torch = pytest.importorskip("torch")


def nan_always(t, y):
    return y * math.nan


def nan_after_start(t, y):
    return -y if t == 0 else y * math.nan


def nan_in_one(t, y):
    slope = -y
    slope[1] = slope[1] if t == 0 else math.nan
    return slope


def inf_after_start(t, y):
    return -y if t == 0 else y * 0 + math.inf


def minus_inf_in_one(t, y):
    slope = -y
    slope[0] = slope[0] if t == 0 else -math.inf
    return slope


BROKEN = [nan_always, nan_after_start, nan_in_one, inf_after_start, minus_inf_in_one]


def states(backend):
    y0 = np.array([1.0, 2.0, 3.0])
    return y0 if backend == "numpy" else torch.as_tensor(y0)


def all_finite(y):
    return bool(np.isfinite(np.asarray(y)).all())


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_right_hand_side_that_is_not_finite_ends_the_solve_at_once(method, broken, backend):
    f = counted(broken)
    with np.errstate(invalid="ignore"):  # of inf: tested for itself below
        solution = sk.solve(f, (0.0, 1.0), states(backend), method)
    assert solution.status is Status.non_finite
    assert f.calls == solution.stats["nfev"] < 100
    assert solution.stats["accepted"] == 0
    np.testing.assert_array_equal(np.asarray(solution.y), [[1.0, 2.0, 3.0]])


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_wall_of_nan_is_reached_and_reported_within_few_steps_of_the_first_nan(
    method, bad, backend
):
    def walled(t, y):
        if t > 0.6:
            walled.after += 1
            return y * 0 + bad
        walled.after += walled.after > 0
        return -y

    walled.after = 0
    with np.errstate(invalid="ignore"):  # of inf: tested for itself below
        solution = sk.solve(walled, (0.0, 1.0), states(backend), method, rtol=1e-4)
    assert solution.status in (Status.non_finite, Status.step_too_small)
    assert all_finite(solution.y)
    # A step may end beyond the wall if the method does not look there, but none starts there.
    assert float(solution.t[-2]) <= 0.6
    # Five rejections, with at most three accepted steps between two of them: 17 attempts.
    assert walled.after <= 18 * sk.METHODS[method].n_stages


def test_a_passing_nan_is_a_rejection_and_the_solve_goes_on():
    # The 20th to the 22nd call fail; at a smaller step all is well again.
    def hiccup(t, y):
        hiccup.calls += 1
        return y * math.nan if 20 <= hiccup.calls < 23 else -y

    hiccup.calls = 0
    solution = sk.solve(hiccup, (0.0, 1.0), [1.0], log=True)
    assert solution.status is Status.success
    assert solution.stats["rejected"] >= 1
    assert "non_finite" in list(solution.log["limit"])
    assert abs(solution.y[-1, 0] - math.exp(-1)) < 1e-5  # rtol 1e-6, times a few steps


@pytest.mark.parametrize(
    ("y0", "bad", "name"),
    [
        ([1.0, 2.0], 1, "1"),
        ([[1.0, 2.0], [3.0, 4.0]], (1, 0), "(1, 0)"),
    ],
)
def test_f_not_finite_at_the_start_names_the_component(y0, bad, name):
    def f(t, y):
        slope = -y
        slope[bad] = math.nan
        return slope

    f = counted(f)
    solution = sk.solve(f, (0.0, 1.0), y0)
    assert solution.status is Status.non_finite
    assert not solution.success
    assert f"component {name}" in solution.message
    assert "nan" in solution.message
    assert f.calls == 1


def test_f_not_finite_at_the_start_of_a_scalar_state_is_reported():
    solution = sk.solve(nan_always, (0.0, 1.0), 1.0)
    assert solution.status is Status.non_finite
    assert solution.y.shape == (1,)


def test_the_message_names_the_component_that_is_not_finite_inside_a_step():
    solution = sk.solve(nan_in_one, (0.0, 1.0), [1.0, 2.0, 3.0])
    assert "component 1" in solution.message


@pytest.mark.parametrize("method", ["euler", "rk4", "heun", "tsit5", "dop853"])
def test_a_grid_stops_before_a_nan_state(method):
    solution = sk.solve(
        lambda t, y: -y if t < 0.55 else y * math.nan, (0.0, 1.0), [1.0], method, grid=10
    )
    assert solution.status is Status.non_finite
    assert all_finite(solution.y)
    assert solution.t[-2] < 0.55  # f is finite wherever a step starts


@pytest.mark.parametrize("method", ["euler", "heun", "rk4", "tsit5", "vern7"])
@pytest.mark.parametrize("grid", [None, 10])
def test_success_is_never_claimed_for_a_state_that_is_not_finite(method, grid):
    # Non-FSAL methods do not evaluate f at the very last state: NaN from there must not matter,
    # NaN in the state itself must.
    if grid is None and method in FIXED:
        pytest.skip("has no error estimate")

    def f(t, y):
        return -y if t < 1 - 1e-12 else y * math.nan

    solution = sk.solve(f, (0.0, 1.0), [1.0], method, grid=grid)
    assert all_finite(solution.y)
    if solution.status is Status.success:
        assert solution.t[-1] == 1.0


def test_a_guide_that_returns_nan_does_not_end_in_success():
    solution = sk.solve(
        decay, (0.0, 1.0), [1.0], grid=4, guide=lambda step, probe: step.y_new * math.nan
    )
    assert solution.status is Status.non_finite
    adaptive = sk.solve(
        decay,
        (0.0, 1.0),
        [1.0],
        guide=lambda step, probe: step.y_new * (math.nan if step.t_new == 1.0 else 1.0),
    )
    assert adaptive.status is not Status.success


# Steps below the spacing of t ---------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_blow_up_ends_the_solve_at_the_singularity(method, backend):
    # y = 1 / (1 - t)
    y0 = np.array([1.0]) if backend == "numpy" else torch.ones(1, dtype=torch.float64)
    with np.errstate(over="ignore", invalid="ignore"):  # of y*y, which is the user's
        solution = sk.solve(lambda t, y: y * y, (0.0, 2.0), y0, method, max_steps=20_000)
    assert solution.status in (Status.step_too_small, Status.non_finite, Status.max_steps)
    assert all_finite(solution.y)
    # Order 1 at rtol 1e-6 moves the singularity by a few thousand steps' errors.
    assert abs(float(solution.t[-1]) - 1.0) < 1e-2


def test_a_blow_up_is_reported_as_a_step_too_small():
    with np.errstate(over="ignore", invalid="ignore"):
        solution = sk.solve(lambda t, y: y * y, (0.0, 2.0), [1.0])
    assert solution.status is Status.step_too_small
    assert "t = " in solution.message
    assert solution.t[-1] == pytest.approx(1.0, abs=1e-5)


def test_a_blow_up_backward_in_time_ends_as_well():
    with np.errstate(over="ignore", invalid="ignore"):
        solution = sk.solve(lambda t, y: -y * y, (0.0, -2.0), [1.0])
    assert solution.status is Status.step_too_small
    assert solution.t[-1] == pytest.approx(-1.0, abs=1e-5)


def test_a_singularity_at_t_zero_ends_the_solve_although_times_have_no_spacing_there():
    # From t = -1 with y = -1/t: the spacing of floats shrinks with |t|, as does the step.
    with np.errstate(over="ignore", invalid="ignore"):
        solution = sk.solve(lambda t, y: y * y, (-1.0, 1.0), [1.0], max_steps=30_000)
    assert not solution.success
    assert all_finite(solution.y)
    assert abs(solution.t[-1]) < 1e-5


def test_a_start_at_which_times_are_sparse_ends_with_a_status():
    # At t = 1e15 times are 0.125 apart, and y' = -100 y wants steps of about 0.01.
    solution = sk.solve(lambda t, y: -100 * y, (1e15, 1e15 + 10), [1.0], max_steps=1000)
    assert solution.status in (Status.step_too_small, Status.non_finite)
    assert all_finite(solution.y)


def test_a_slow_problem_at_large_times_is_solved():
    # Steps of 1 or more at t = 1e15, where times are 0.125 apart: representable steps suffice.
    solution = sk.solve(lambda t, y: -1e-4 * y, (1e15, 1e15 + 1024), [1.0])
    assert solution.status is Status.success
    assert solution.y[-1, 0] == pytest.approx(math.exp(-0.1024), rel=1e-5)


def test_max_step_below_the_spacing_of_times_is_a_status():
    solution = sk.solve(decay, (1e15, 1e15 + 10), [1.0], max_step=1e-3)
    assert solution.status is Status.step_too_small


def test_a_discontinuity_does_not_stop_a_solve():
    # The step shrinks at the jump, and must grow again. Over a jump the true error is a multiple of
    # the estimate that depends on where between the nodes the jump falls: hence 100 tolerances.
    solution = sk.solve(lambda t, y: np.array([1.0 if t < 0.5 else -1.0]), (0.0, 1.0), [0.0])
    assert solution.status is Status.success
    assert solution.y[-1, 0] == pytest.approx(0.0, abs=1e-4)


def test_an_infinite_end_is_cut_off_by_max_steps():
    solution = sk.solve(pendulum, (0.0, math.inf), [1.0, 0.0], max_steps=50)
    assert solution.status is Status.max_steps
    assert solution.stats["accepted"] + solution.stats["rejected"] == 50


def test_an_infinite_end_without_error_ends():
    # The step grows tenfold each time until t leaves the numbers.
    solution = sk.solve(lambda t, y: 0 * y, (0.0, math.inf), [1.0], max_steps=5000)
    assert isinstance(solution.status, Status)
    assert all_finite(solution.t)
    assert all_finite(solution.y)


@pytest.mark.parametrize("n", [1, 2, 7])
def test_max_steps_counts_attempts_and_keeps_what_was_computed(n):
    solution = sk.solve(pendulum, (0.0, 100.0), [1.0, 0.0], max_steps=n, log=True, dense=True)
    assert solution.status is Status.max_steps
    assert not solution.success
    assert f"{n}" in solution.message
    assert len(solution.log["t"]) == n
    assert len(solution.t) == solution.stats["accepted"] + 1
    np.testing.assert_allclose(solution(solution.t), solution.y, rtol=1e-14)


def test_exactly_enough_steps_are_enough():
    free = sk.solve(pendulum, (0.0, 5.0), [1.0, 0.0])
    n = free.stats["accepted"] + free.stats["rejected"]
    assert sk.solve(pendulum, (0.0, 5.0), [1.0, 0.0], max_steps=n).status is Status.success
    assert sk.solve(pendulum, (0.0, 5.0), [1.0, 0.0], max_steps=n - 1).status is Status.max_steps


def test_max_steps_bounds_a_grid_too():
    for grid in (10, np.linspace(0.0, 1.0, 11), 10**15):
        with pytest.raises(ValueError, match=r"grid has .* more than max_steps = 4"):
            sk.solve(decay, (0.0, 1.0), [1.0], grid=grid, max_steps=4)
    assert sk.solve(decay, (0.0, 1.0), [1.0], grid=10, max_steps=10).success


def test_a_stiff_problem_ends_by_max_steps_rather_than_never():
    solution = sk.solve(lambda t, y: -1e9 * (y - 1), (0.0, 1e6), [0.0], "tsit5", max_steps=500)
    assert solution.status is Status.max_steps
    assert all_finite(solution.y)


# Exceptions ---------------------------------------------------------------------------------------


class Mine(Exception):
    pass


MODES = {
    "adaptive": {},
    "grid": {"grid": 8},
    "dense": {"dense": True},
    "t_eval": {"t_eval": [0.1, 0.35, 0.9]},
    "events": {"events": lambda t, y: y[0] - 0.5},
    "guide": {"guide": lambda step, probe: step.y_new * 0.999},
    "observe": {"observe": lambda step, probe: 1.0},
    "first_step": {"first_step": 0.1},
}


def raises_at(n):
    """A right-hand side whose n-th call raises."""
    calls = itertools.count(1)

    def f(t, y):
        if next(calls) == n:
            raise Mine
        return -y

    return f


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("method", ["tsit5", "heun", "dop853", "bs5", "vern7"])
def test_nfev_is_the_true_count_wherever_f_raises(method, mode):
    complete = counted(decay)
    options = {"t_span": (0.0, 1.0), "y0": [1.0], "method": method, "rtol": 1e-2, **MODES[mode]}
    assert sk.solve(complete, **options).stats["nfev"] == complete.calls
    for n in range(2, complete.calls + 1):
        failing = counted(raises_at(n))
        with pytest.raises(Mine) as caught:
            sk.solve(failing, **options)
        partial = caught.value.solution
        assert partial.stats["nfev"] == failing.calls == n
        assert partial.status is Status.interrupted
        assert all_finite(partial.y)


def test_an_exception_in_the_first_call_of_f_carries_a_solution_too():
    with pytest.raises(Mine) as caught:
        sk.solve(raises_mine, (0.0, 1.0), [1.0])
    partial = caught.value.solution
    assert partial.status is Status.interrupted
    assert partial.stats["nfev"] == 1


def raises_mine(*args):
    raise Mine


@pytest.mark.parametrize("error", [Mine, KeyboardInterrupt, SystemExit, StopIteration])
@pytest.mark.parametrize("where", ["f", "events", "guide", "observe", "callback"])
def test_an_exception_propagates_unchanged_with_the_partial_solution(where, error):
    raised = error("three")
    counts = {"n": 0}

    def fails_later(*args):
        t = args[0] if where in ("f", "events") else args[0].t
        if t > 0.5:
            counts["n"] += 1
            raise raised
        if where in ("guide", "observe"):
            return args[0].y_new
        if where == "callback":
            return False
        return -args[-1] if where == "f" else 1.0

    options = {} if where == "f" else {where: fails_later}
    f = fails_later if where == "f" else decay
    with pytest.raises(error) as caught:
        sk.solve(f, (0.0, 1.0), [1.0], max_step=0.05, dense=True, **options)
    assert caught.value is raised
    assert caught.value.args == ("three",)
    assert counts["n"] == 1
    partial = raised.solution
    assert partial.status is Status.interrupted
    assert not partial.success
    assert 0.3 < partial.t[-1] <= 0.6
    np.testing.assert_allclose(partial.y[:, 0], np.exp(-partial.t), rtol=1e-5)
    np.testing.assert_allclose(partial(partial.t), partial.y, rtol=1e-14)
    # Every time in the solution is an accepted step, and no step is counted that is not in it.
    assert partial.stats["accepted"] == len(partial.t) - 1


def test_an_exception_in_an_event_at_the_start_carries_a_solution():
    with pytest.raises(Mine) as caught:
        sk.solve(decay, (0.0, 1.0), [1.0], events=raises_mine)
    assert caught.value.solution.status is Status.interrupted


def test_the_partial_solution_holds_the_events_and_the_log_so_far():
    def f(t, y):
        if t > 2.5:
            raise Mine
        return np.array([y[1], -y[0]])

    with pytest.raises(Mine) as caught:
        sk.solve(f, (0.0, 10.0), [1.0, 0.0], events=lambda t, y: y[0], log=True)
    partial = caught.value.solution
    assert partial.events[0].t == pytest.approx([math.pi / 2], abs=1e-5)
    assert len(partial.log["h"]) == partial.stats["accepted"] + partial.stats["rejected"]


def test_a_callback_stops_the_run_by_a_true_value():
    seen = []

    def callback(step):
        seen.append(step.t_new)
        return len(seen) == 3

    solution = sk.solve(pendulum, (0.0, 10.0), [1.0, 0.0], callback=callback, dense=True)
    assert solution.status is Status.interrupted
    assert solution.t.tolist() == [0.0, *seen]
    assert solution.stats["accepted"] == 3
    assert solution(seen[-1]).shape == (2,)


def test_a_callback_that_stops_at_the_very_last_step_is_heeded():
    solution = sk.solve(decay, (0.0, 1.0), [1.0], callback=lambda step: step.t_new == 1.0)
    assert solution.status is Status.interrupted
    assert solution.t[-1] == 1.0


@pytest.mark.parametrize("result", [None, False, 0, 0.0, ""])
def test_a_false_value_of_the_callback_goes_on(result):
    assert sk.solve(decay, (0.0, 1.0), [1.0], callback=lambda step: result).success


def test_a_terminal_event_beats_max_steps_and_is_a_success():
    solution = sk.solve(decay, (0.0, 10.0), [1.0], events=event(lambda t, y: y[0] - 0.5, True))
    assert solution.status is Status.event
    assert solution.success


# Warnings: the tests run with warnings as errors, so that one from our arithmetic fails them ------


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.complex128])
@pytest.mark.parametrize("method", ADAPTIVE)
def test_no_warning_of_ours_escapes_when_f_returns_nan(method, dtype):
    def f(t, y):
        return -y if t < 0.3 else np.full_like(y, math.nan)

    for extra in ({}, {"dense": True}, {"t_eval": [0.1, 0.9]}):
        solution = sk.solve(f, (0.0, 1.0), np.ones(3, dtype), method, rtol=1e-3, **extra)
        assert not solution.success


@pytest.mark.parametrize("bad", [math.inf, -math.inf])
def test_no_warning_of_ours_escapes_when_f_returns_inf(bad):
    solution = sk.solve(
        lambda t, y: -y if t < 0.3 else np.full_like(y, bad), (0.0, 1.0), np.ones(3)
    )
    assert not solution.success


@pytest.mark.parametrize("method", ["heun", "tsit5", "dop853"])
def test_no_warning_of_ours_escapes_when_the_state_overflows(method):
    # f itself is linear and never warns; the state passes 1e308 at t = 18.
    solution = sk.solve(lambda t, y: y, (0.0, 100.0), [1e300], method, atol=0.0, rtol=1e-3)
    assert not solution.success
    assert all_finite(solution.y)
    assert solution.t[-1] > 15


def test_no_warning_of_ours_escapes_when_a_grid_overflows():
    solution = sk.solve(lambda t, y: y, (0.0, 100.0), [1e300], "rk4", grid=100)
    assert solution.status is Status.non_finite
    assert all_finite(solution.y)


@given(
    st.sampled_from(ADAPTIVE),
    st.floats(0.01, 0.99),
    st.sampled_from([math.nan, math.inf, -math.inf]),
    st.integers(0, 2),
    st.sampled_from([1.0, -1.0]),
)
def test_no_state_that_is_not_finite_is_ever_accepted(method, wall, bad, component, sign):
    def f(t, y):
        slope = np.cos(3 * y)
        if abs(t) > wall:
            slope[component] = bad
        return slope

    with np.errstate(invalid="ignore"):  # of inf: tested for itself above
        solution = sk.solve(f, (0.0, sign), [0.1, 0.2, 0.3], method, rtol=1e-3)
    assert not solution.success
    assert all_finite(solution.y)
    assert abs(solution.t[-2]) <= wall
