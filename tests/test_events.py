"""Events: found wherever they are, once each, to full relative accuracy, on both backends."""

import itertools
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import ADAPTIVE, event, oscillator, same_solution
from scipy.integrate import solve_ivp

import stiffkit as sk
from stiffkit import Status
from stiffkit.solvers import events

torch = pytest.importorskip("torch")

EPS = np.finfo(float).eps


def constant_speed(t, y):
    """y = t exactly, whatever the method: where an event is, is then exact too."""
    return np.ones(1)


def still(t, y):
    """No error at all, so that one step takes the whole span."""
    return 0 * y


def roots_of(solution, i=0):
    return np.asarray(solution.events[i].t)


# Where and how often ------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize(
    ("direction", "quarter_turns"), [(0, [1, 3, 5, 7]), (1, [3, 7]), (-1, [1, 5])]
)
def test_direction_selects_the_sign_of_the_slope(direction, quarter_turns, method):
    # y_0 = cos t falls through 0 at π/2.
    solution = sk.solve(
        oscillator,
        (0.0, 4 * math.pi),
        [1.0, 0.0],
        method,
        events=event(lambda t, y: y[0], direction=direction),
        rtol=1e-4,
        atol=1e-4,
    )
    # The error of the low orders grows over the two turns: a hundred tolerances.
    expected = np.array(quarter_turns) * math.pi / 2
    np.testing.assert_allclose(roots_of(solution), expected, atol=1e-2)


@pytest.mark.parametrize("direction", [1, -1])
def test_direction_means_the_slope_along_the_integration_when_time_runs_backward(direction):
    # SciPy's meaning: the sign of g from one step to the next, not that of dg/dt.
    g = event(lambda t, y: y[0], direction=direction)
    ours = sk.solve(oscillator, (0.0, -10.0), [1.0, 0.0], events=g)
    scipys = solve_ivp(oscillator, (0.0, -10.0), [1.0, 0.0], events=g, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(roots_of(ours), scipys.t_events[0], rtol=1e-5)


@pytest.mark.parametrize("terminal", [1, 2, 3, True])
def test_a_terminal_count_ends_the_solve_at_that_event(terminal):
    solution = sk.solve(
        oscillator, (0.0, 20.0), [1.0, 0.0], events=event(lambda t, y: y[0], terminal)
    )
    assert solution.status is Status.event
    assert len(roots_of(solution)) == int(terminal)
    assert solution.t[-1] == roots_of(solution)[-1]
    np.testing.assert_array_equal(solution.y[-1], solution.events[0].y[-1])
    assert solution.t[-1] == pytest.approx((2 * int(terminal) - 1) * math.pi / 2, abs=1e-5)


def test_the_first_of_several_terminal_events_ends_the_solve_and_later_ones_are_not_recorded():
    # One step holds all three roots.
    late, early, early_too = (
        event(lambda t, y, s=s: y[0] - s, terminal)
        for s, terminal in ((0.7, True), (0.3, True), (0.2, False))
    )
    solution = sk.solve(
        constant_speed, (0.0, 1.0), [0.0], events=[late, early, early_too], first_step=1.0
    )
    assert solution.t.tolist() == pytest.approx([0.0, 0.3], abs=4 * EPS)
    assert [len(record.t) for record in solution.events] == [0, 1, 1]


def test_simultaneous_terminal_events_are_all_recorded():
    g, same = (event(lambda t, y: y[0] - 0.25, True) for _ in range(2))
    solution = sk.solve(constant_speed, (0.0, 1.0), [0.0], events=[g, same])
    assert [len(record.t) for record in solution.events] == [1, 1]


def test_several_events_are_recorded_each_under_its_function():
    solution = sk.solve(
        oscillator, (0.0, 7.0), [1.0, 0.0], events=[lambda t, y: y[0], lambda t, y: y[1]]
    )
    np.testing.assert_allclose(roots_of(solution, 0), [math.pi / 2, 3 * math.pi / 2], atol=1e-5)
    np.testing.assert_allclose(roots_of(solution, 1), [math.pi, 2 * math.pi], atol=1e-5)


def test_events_carry_args_and_keep_their_attributes():
    def g(t, y, level):
        return y[0] - level

    g.terminal, g.direction = True, 1
    solution = sk.solve(lambda t, y, level: np.ones(1), (0.0, 1.0), [0.0], events=g, args=(0.4,))
    assert solution.t[-1] == pytest.approx(0.4, abs=4 * EPS)


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=4, unique=True),
    st.sampled_from([1.0, -1.0]),
    st.sampled_from(["tsit5", "bosh3", "vern7"]),
)
def test_every_root_is_found_once_whatever_the_steps(thirtieths, sign, method):
    # y = t to rounding; roots lie at least 1/31 apart and steps are bounded by 1/31, so that each
    # step holds at most one or two: nothing may be missed, nothing found twice.
    wanted = sorted(sign * n / 31 for n in thirtieths)
    solution = sk.solve(
        lambda t, y: np.ones(1),
        (0.0, sign),
        [0.0],
        method,
        max_step=1 / 31,
        events=lambda t, y: math.prod(y[0] - root for root in wanted),
    )
    np.testing.assert_allclose(sorted(roots_of(solution)), wanted, rtol=64 * EPS)


@given(st.floats(0.05, 0.9), st.floats(0.02, 0.4), st.sampled_from([1.0, -1.0]))
def test_a_pair_of_roots_inside_one_step_is_found(first, gap, sign):
    # g varies as a parabola does over the step: on the scale that is promised.
    second = min(first + gap, 0.99)
    solution = sk.solve(
        constant_speed,
        (0.0, 1.0),
        [0.0],
        first_step=1.0,
        events=lambda t, y: sign * (y[0] - first) * (y[0] - second),
    )
    assert solution.stats["accepted"] == 1
    np.testing.assert_allclose(roots_of(solution), [first, second], rtol=64 * EPS)


@pytest.mark.parametrize("direction", [1, -1])
def test_of_a_pair_inside_one_step_direction_selects_one(direction):
    solution = sk.solve(
        constant_speed,
        (0.0, 1.0),
        [0.0],
        first_step=1.0,
        events=event(lambda t, y: (y[0] - 0.3) * (y[0] - 0.4), direction=direction),
    )
    assert roots_of(solution) == pytest.approx([0.4 if direction == 1 else 0.3], abs=8 * EPS)


@pytest.mark.parametrize("power", [-900, -300, -60, -20, 0, 20, 60, 300])
@pytest.mark.parametrize("roots", [(0.3, 0.35), (0.6,), (0.2, 0.6, 0.65)])
def test_events_do_not_depend_on_the_unit_of_time(roots, power):
    # Scaling t by a power of two scales every number exactly.
    scale = 2.0**power

    def g(t, y):
        return math.prod(t / scale - root for root in roots)

    solution = sk.solve(still, (0.0, scale), [1.0], first_step=scale, events=g)
    np.testing.assert_allclose(roots_of(solution) / scale, roots, rtol=64 * EPS)


@pytest.mark.parametrize("root", [1e-20, 1e-100, 1e-300])
def test_a_root_at_a_tiny_time_is_found_to_its_own_digits(root):
    solution = sk.solve(lambda t, y: np.ones(1), (0.0, 1.0), [0.0], events=lambda t, y: y[0] - root)
    assert roots_of(solution) == pytest.approx([root], rel=1e-12, abs=0)


@pytest.mark.parametrize("shift", [1e3, 1e9])
def test_a_root_at_a_large_time_is_found_to_the_spacing_of_times(shift):
    solution = sk.solve(
        constant_speed, (shift, shift + 1), [0.0], events=lambda t, y: t - (shift + 0.3)
    )
    assert roots_of(solution) == pytest.approx([shift + 0.3], abs=4 * math.ulp(shift))


# No duplicates ------------------------------------------------------------------------------------


@pytest.mark.parametrize("root", [0.25, 0.5, 0.75, 1.0])
@pytest.mark.parametrize("options", [{}, {"t_eval": [0.25, 0.5, 0.75, 1.0]}, {"dense": True}])
def test_a_root_at_the_end_of_a_step_or_at_t_eval_counts_once(root, options):
    # Binary fractions: y = t holds without rounding, g is exactly zero at the step's end.
    solution = sk.solve(
        constant_speed,
        (0.0, 1.0),
        [0.0],
        "heun",
        grid=4,
        events=lambda t, y: y[0] - root,
        **options,
    )
    assert roots_of(solution).tolist() == [root]


def test_a_root_at_a_sample_inside_a_step_counts_once():
    for root in (0.25, 0.5, 0.75):
        solution = sk.solve(
            constant_speed, (0.0, 1.0), [0.0], "heun", grid=1, events=lambda t, y, r=root: y[0] - r
        )
        assert roots_of(solution).tolist() == [root]


def test_a_root_at_a_sample_does_not_hide_the_next_one():
    solution = sk.solve(
        constant_speed,
        (0.0, 1.0),
        [0.0],
        "heun",
        grid=1,
        events=lambda t, y: (y[0] - 0.5) * (y[0] - 0.55),
    )
    np.testing.assert_allclose(roots_of(solution), [0.5, 0.55], rtol=64 * EPS)


def test_an_event_function_that_is_zero_at_the_start_is_no_event_there():
    solution = sk.solve(oscillator, (0.0, 4.0), [0.0, 1.0], events=lambda t, y: y[0])
    assert roots_of(solution) == pytest.approx([math.pi], abs=1e-5)


def test_an_event_function_that_stays_zero_is_no_flood_of_events():
    solution = sk.solve(oscillator, (0.0, 4.0), [0.0, 1.0], events=lambda t, y: 0.0)
    assert len(roots_of(solution)) == 0


@pytest.mark.parametrize("direction", [0, -1, 1])
@pytest.mark.parametrize("method", ["tsit5", "bosh3", "dop853"])
def test_a_restart_at_an_event_does_not_find_it_again(method, direction):
    # Six restarts in a row, each from what the last solve returned.
    t, y, found = 0.0, np.array([1.0, 0.0]), []
    g = event(lambda t, y: y[0], True, direction)
    for _ in range(6):
        solution = sk.solve(oscillator, (t, 40.0), y, method, events=g)
        assert solution.status is Status.event
        t, y = float(solution.t[-1]), solution.y[-1]
        found.append(t)
    stride = math.pi if direction == 0 else 2 * math.pi
    # Up to 38 time units at rtol 1e-6: errors add up to some ten tolerances.
    np.testing.assert_allclose(np.diff(found), stride, atol=1e-4)


def ball(t, y):
    return np.array([y[1], -9.81])


@pytest.mark.parametrize("method", ADAPTIVE)
def test_a_bouncing_ball_bounces_where_it_should(method):
    # Height 0 at the start of each flight; flights last 2 v / g. The motion is a parabola, so that
    # methods of order ≥ 2 make no error and their steps grow beyond the length of the flight.
    ground = event(lambda t, y: y[0], True, -1)
    t, v, landings, expected = 0.0, 5.0, [], []
    start = 0.0
    for _ in range(5):
        solution = sk.solve(ball, (t, t + 100.0), [0.0, v], method, events=ground)
        assert solution.status is Status.event
        start += 2 * v / 9.81
        expected.append(start)
        t, v = float(solution.t[-1]), -0.8 * float(solution.y[-1, 1])
        landings.append(t)
    np.testing.assert_allclose(landings, expected, rtol=1e-5)


def test_a_root_soon_after_a_start_at_zero_is_found_in_one_long_step():
    # g(t0) = 0, up and down again before the first inner sample.
    ground = event(lambda t, y: y[0], True, -1)
    solution = sk.solve(ball, (0.0, 10.0), [0.0, 5.0], first_step=10.0, events=ground)
    assert solution.t[-1] == pytest.approx(2 * 5.0 / 9.81, rel=1e-12)


def test_a_ball_that_restarts_at_the_ground_does_not_fall_through():
    # Falling only: a start below the ground by a rounding goes up through it first, and that is a
    # zero of its own.
    for height, direction in ((1e-17, 0), (0.0, 0), (0.0, -1), (-1e-17, -1), (1e-17, -1)):
        ground = event(lambda t, y: y[0], True, direction)
        solution = sk.solve(ball, (0.0, 10.0), [height, 5.0], events=ground)
        assert solution.t[-1] == pytest.approx(2 * 5.0 / 9.81, rel=1e-9)


# What is returned ---------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("shape", [(), (1,), (2, 3), (2, 1, 2)])
def test_times_and_states_of_events_come_back_in_the_shape_of_the_state(shape, backend):
    y0 = np.ones(shape)
    if backend == "torch":
        y0 = torch.as_tensor(y0)
    g, never = (lambda t, y: y.reshape(-1)[0] - 0.5), (lambda t, y: y.reshape(-1)[0] + 1)
    for options in ({}, {"t_eval": [0.0, 0.9]}, {"dense": True}, {"grid": 7}):
        solution = sk.solve(lambda t, y: -y, (0.0, 1.0), y0, events=[g, never], **options)
        found, none = solution.events
        assert type(found.y) is type(y0)
        assert found.y.shape == (1, *shape)
        assert found.t.shape == (1,)
        assert none.t.shape == (0,)
        assert none.y.shape == (0, *shape)
        assert float(found.t[0]) == pytest.approx(math.log(2), abs=1e-4)
        assert float(found.y.reshape(-1)[0]) == pytest.approx(0.5, abs=4 * EPS)


def test_a_terminal_event_comes_back_although_t_eval_does_not_hold_its_time():
    g = event(lambda t, y: y[0] - 0.5, True)
    solution = sk.solve(lambda t, y: -y, (0.0, 2.0), [1.0], t_eval=[0.1, 0.5, 1.0], events=g)
    assert solution.status is Status.event
    assert solution.t.tolist() == [0.1, 0.5]
    assert roots_of(solution) == pytest.approx([math.log(2)], abs=1e-5)
    assert solution.events[0].y.shape == (1, 1)


def test_an_event_exactly_at_a_t_eval_point_is_in_both():
    g = event(lambda t, y: y[0] - 0.5, True)
    solution = sk.solve(
        constant_speed, (0.0, 1.0), [0.0], "heun", grid=1, t_eval=[0.25, 0.5, 0.75], events=g
    )
    assert solution.t.tolist() == [0.25, 0.5]
    assert roots_of(solution).tolist() == [0.5]


def test_the_states_of_events_lie_on_the_dense_output():
    solution = sk.solve(
        oscillator, (0.0, 10.0), [1.0, 0.0], events=lambda t, y: y[0] - 0.3, dense=True
    )
    record = solution.events[0]
    np.testing.assert_allclose(solution(record.t), record.y, rtol=0, atol=8 * EPS)
    np.testing.assert_allclose(record.y[:, 0], 0.3, atol=64 * EPS)


def test_the_dense_output_ends_at_a_terminal_event():
    g = event(lambda t, y: y[0], True)
    solution = sk.solve(oscillator, (0.0, 10.0), [1.0, 0.0], events=g, dense=True)
    end = float(solution.t[-1])
    np.testing.assert_allclose(solution(end), solution.y[-1], rtol=0, atol=8 * EPS)
    with pytest.raises(ValueError, match="outside"):
        solution(end + 1e-3)


@pytest.mark.parametrize("method", ADAPTIVE)
def test_events_that_do_not_stop_the_solve_leave_its_steps_alone(method):
    plain = sk.solve(oscillator, (0.0, 5.0), [1.0, 0.0], method, rtol=1e-4)
    watched = sk.solve(
        oscillator, (0.0, 5.0), [1.0, 0.0], method, rtol=1e-4, events=lambda t, y: y[0]
    )
    same_solution(plain, watched)


@pytest.mark.parametrize("method", ["tsit5", "dop853", "heun", "bs5"])
def test_torch_finds_the_events_that_numpy_finds(method):
    def g(t, y):
        return y[0] - 0.3

    def f(t, y):
        return torch.stack([y[1], -y[0]])

    ours = sk.solve(oscillator, (0.0, 10.0), [1.0, 0.0], method, events=g)
    tensors = sk.solve(f, (0.0, 10.0), torch.tensor([1.0, 0.0]).double(), method, events=g)
    # The error estimate, a small difference of large numbers, rounds differently: steps differ by
    # about eps/rtol, and with them the solution by that share of its error.
    np.testing.assert_allclose(tensors.events[0].t.numpy(), roots_of(ours), rtol=1e-8)
    np.testing.assert_allclose(tensors.events[0].y.numpy(), ours.events[0].y, rtol=0, atol=1e-8)


def test_an_event_function_of_a_torch_problem_is_called_as_f_is():
    seen = set()

    def g(t, y):
        seen.add((type(t), type(y)))
        return torch.cos(t)

    solution = sk.solve(
        lambda t, y: -y, (0.0, 2.0), torch.ones(2, dtype=torch.float64), events=event(g, True)
    )
    assert seen == {(torch.Tensor, torch.Tensor)}
    assert roots_of(solution) == pytest.approx([math.pi / 2], rel=1e-12)


@pytest.mark.parametrize("value", [lambda y: y[:1], lambda y: y[0], lambda y: float(y[0])])
def test_an_event_function_may_return_any_kind_of_scalar(value):
    solution = sk.solve(
        oscillator, (0.0, 2.0), [1.0, 0.0], events=event(lambda t, y: value(y), True)
    )
    assert solution.t[-1] == pytest.approx(math.pi / 2, abs=1e-5)


def test_events_agree_with_scipys_where_scipy_is_right():
    events = [event(lambda t, y: y[0], d, s) for d, s in itertools.product((False, 2), (0, 1, -1))]
    for g in events:
        ours = sk.solve(oscillator, (0.0, 12.0), [0.8, 0.1], "dopri5", events=g, rtol=1e-9)
        scipys = solve_ivp(
            oscillator, (0.0, 12.0), [0.8, 0.1], "RK45", events=g, rtol=1e-9, atol=1e-9
        )
        # Both solutions are good to about a hundred rtol there.
        np.testing.assert_allclose(roots_of(ours), scipys.t_events[0], rtol=1e-7)
        assert ours.success
        assert (ours.status is Status.event) == (scipys.status == 1)


def test_a_jump_of_the_event_function_is_found_at_the_jump():
    solution = sk.solve(
        constant_speed, (0.0, 1.0), [0.0], events=lambda t, y: -1.0 if t < 0.3 else 1.0
    )
    assert roots_of(solution) == pytest.approx([0.3], abs=4 * EPS)


def test_an_event_function_that_is_nan_in_places_neither_hangs_nor_invents_events():
    solution = sk.solve(
        oscillator,
        (0.0, 4.0),
        [1.0, 0.0],
        events=lambda t, y: math.nan if 1.4 < t < 1.7 else y[0] + 2,
    )
    assert solution.success
    assert len(roots_of(solution)) == 0


@pytest.mark.parametrize("grid", [None, 40])
def test_events_see_the_state_that_a_guide_commits(grid):
    # The guide holds the state at 1: the decay never reaches 0.5.
    solution = sk.solve(
        lambda t, y: -y,
        (0.0, 4.0),
        [1.0],
        "heun",
        grid=grid,
        max_step=0.1,
        guide=lambda step, probe: np.ones(1),
        events=lambda t, y: y[0] - 0.5,
    )
    assert len(roots_of(solution)) == 0


def test_the_last_step_before_a_terminal_event_is_shown_and_logged():
    shown = []

    def low(t, y):
        return y[0] - 0.5

    low.terminal = True
    solution = sk.solve(
        lambda t, y: -y, (0.0, 9.0), [1.0], events=low, callback=shown.append, log=True
    )
    assert solution.status is sk.Status.event
    assert len(shown) == solution.stats["accepted"] == solution.log["accepted"].sum()
    assert solution.log["limit"][-1] == "event"


# The rule that finds a root -----------------------------------------------------------------------


@given(
    root=st.one_of(st.floats(1e-3, 1.0), st.just(0.0)),
    size=st.floats(-30.0, 0.0),
    kind=st.sampled_from(["line", "cube", "jump", "bend"]),
    sign=st.sampled_from([1.0, -1.0]),
)
def test_a_root_is_bracketed_to_rounding_and_its_far_side_returned(root, size, kind, sign):
    scale = 10.0**size
    r, low, high = root * scale, -0.5 * scale, 1.5 * scale

    def g(t):
        x = (t - r) / scale
        shapes = {"line": x, "cube": x**3, "jump": math.copysign(1.0, x) if x else 0.0}
        return sign * shapes.get(kind, math.expm1(8 * x))

    bracket = low, high, low, g(low), g(high), g(low)
    for m in range(events.MOST):
        t = events.next_time(bracket, m)
        if t == bracket[0]:
            break
        assert min(bracket[:2]) <= t <= max(bracket[:2])
        bracket = events.narrowed(bracket, t, g(t))
    found = events.far_end(bracket, g(low))
    assert found >= r or g(found) == 0
    # At t = 0 there is no relative accuracy: 150 halvings and more are made.
    assert found - r <= (4 * math.ulp(r) if r else 2.0**-150 * scale)
