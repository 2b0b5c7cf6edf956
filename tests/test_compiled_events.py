"""Events of compiled solves: those of the interpreted loop, as many, and to rounding."""

import math

import numpy as np
import pytest
from compiled_pair import Interpreted, both, loops, stretches

import stiffkit as sk
from stiffkit import Status

# The first solve of a signature compiles its loop.
pytestmark = pytest.mark.timeout(600)

numba = pytest.importorskip("numba")


@sk.jit
def oscillator(t, y):
    return np.array([y[1], -y[0]])


@sk.jit
def height(t, y):
    return y[0]


@sk.jit
def speed(t, y):
    return y[1] - 0.5


@sk.jit
def grazing(t, y):
    """Two roots, close to each other, at each top of y_0."""
    return y[0] - 0.99999


@sk.jit
def clock(t, y):
    """Zero for a while, then not."""
    return max(t - 1.0, 0.0) * (3.0 - t)


def marked(g, terminal=None, direction=0):
    """Return a compiled function of its own with these attributes."""
    g = numba.njit(g.py_func)
    g.terminal, g.direction = terminal, direction
    return g


def check(ours, theirs):
    assert len(ours.events) == len(theirs.events)
    for mine, yours in zip(ours.events, theirs.events, strict=True):
        assert mine.t.shape == yours.t.shape
        # States agree to rounding, times to that over the slope of g, 0.004 where it grazes.
        np.testing.assert_allclose(mine.t, yours.t, rtol=0, atol=1e-9)
        np.testing.assert_allclose(mine.y, yours.y, rtol=0, atol=1e-9)


@pytest.mark.parametrize("method", ["bosh3", "dopri5", "dop853", "rkc2", "rodas5p"])
@pytest.mark.parametrize(("terminal", "direction"), [(None, 0), (None, 1), (True, -1), (3, 0)])
def test_events_are_equal(method, terminal, direction, monkeypatch):
    taken = loops(monkeypatch)
    events = [marked(height, terminal, direction), speed, grazing]
    times = np.linspace(0.0, 12.0, 25)
    steps = {"first_step": 0.125, "max_step": 0.125, "rtol": 1e-2, "atol": 1e-2}
    for options in ({}, {"dense": True}, {"t_eval": times}, {"dense": True, "t_eval": times}):
        ours, theirs = both(
            oscillator, (0.0, 12.0), [1.0, 0.0], method, events=events, log=True, **steps, **options
        )
        assert ours.status is (Status.event if terminal else Status.success)
        check(ours, theirs)
        np.testing.assert_allclose(ours.t, theirs.t, rtol=1e-12)
        np.testing.assert_allclose(ours.y, theirs.y, rtol=0, atol=1e-9)
        if "dense" in options:
            inside = times[times < ours.t[-1]]
            np.testing.assert_allclose(ours(inside), theirs(inside), rtol=0, atol=1e-9)
            assert len(ours.interpolant.segments) == len(ours.interpolant.breaks) - 1
    assert len(taken) == 4


def test_long_steps_with_all_there_is_in_them():
    """Zeros at samples, pairs of roots, three functions in one step: what Python looks at."""
    loose = {"rtol": 1e-3, "atol": 1e-3}
    for events, span in (
        ([height, speed, grazing, clock], (0.0, 20.0)),
        ([height, speed, grazing], (20.0, 0.0)),
        ([marked(clock, 1), height], (0.0, 20.0)),
    ):
        ours, theirs = both(oscillator, span, [1.0, 0.0], "dop853", events=events, **loose)
        check(ours, theirs)
        assert sum(len(record.t) for record in ours.events) > 1


def test_terminal_events_of_one_step_end_it_at_the_first():
    @sk.jit
    def still(t, y):
        return 0.0 * y

    @sk.jit
    def early(t, y):
        return t - 0.2

    @sk.jit
    def late(t, y):
        return t - 0.7

    events = [marked(late, 1), early, marked(early, 1)]
    ours, theirs = both(still, (0.0, 1.0), [1.0], "tsit5", events=events, first_step=1.0, log=True)
    check(ours, theirs)
    assert [len(record.t) for record in ours.events] == [0, 1, 1]
    assert ours.t[-1] == 0.2
    assert ours.log["limit"][-1] == "event"


def test_more_events_than_there_is_room_for(monkeypatch):
    compiled_events = __import__("stiffkit.solvers.compiled.events", fromlist=["events"])
    many = {"events": [height, marked(speed, 30)], "log": True, "dense": True}
    whole = sk.solve(oscillator, (0.0, 100.0), [1.0, 0.0], "dopri5", **many)
    monkeypatch.setattr(compiled_events, "_ROOM", 3)
    monkeypatch.setattr(stretches, "_FIRST_ROOM", 1)
    monkeypatch.setattr(stretches, "_MOST_ROOM", 2)
    parts = sk.solve(oscillator, (0.0, 100.0), [1.0, 0.0], "dopri5", **many)
    assert whole.status is parts.status is Status.event
    assert whole.stats == parts.stats
    assert len(whole.events[1].t) == 30
    for one, other in zip(whole.events, parts.events, strict=True):
        np.testing.assert_array_equal(one.t.shape, other.t.shape)
        # A step that Python looks at evaluates the polynomial in another order.
        np.testing.assert_allclose(one.t, other.t, rtol=1e-13)


def test_arguments_and_what_g_may_return(monkeypatch):
    taken = loops(monkeypatch)

    @sk.jit
    def turn(t, y, a):
        return a * np.array([y[1], -y[0]])

    @sk.jit
    def whole(t, y, a):
        return 1 if y[0] > 0.3 * a else -1

    ours, theirs = both(turn, (0.0, 3.0), [1.0, 0.0], "tsit5", args=(2.0,), events=whole)
    check(ours, theirs)
    assert ours.events[0].t[0] == pytest.approx(math.acos(0.6) / 2, abs=1e-6)
    assert len(taken) == 1
    # One that Python computes, one of an iterator, and one that returns no number are Python's.
    for one in (oscillator, Interpreted(oscillator)):
        once = sk.solve(one, (0.0, 3.0), [1.0, 0.0], "tsit5", events=iter([height]))
        assert len(once.events[0].t) == 1
    both(oscillator, (0.0, 3.0), [1.0, 0.0], "tsit5", events=[height, lambda t, y: y[1]])
    assert len(taken) == 1

    @sk.jit
    def vector(t, y):
        return y

    for f in (oscillator, Interpreted(oscillator)):
        with pytest.raises(ValueError, match="event 0 returned"):
            sk.solve(f, (0.0, 3.0), [1.0, 0.0], "tsit5", events=vector)


def test_an_event_that_fails_keeps_what_was_computed():
    @sk.jit
    def fails(t, y):
        if t > 1.0:
            raise ValueError("no event")  # noqa: EM101, TRY003 - numba takes no other
        return y[0] - 0.9

    for f in (oscillator, Interpreted(oscillator)):
        with pytest.raises(ValueError, match="no event") as error:
            sk.solve(f, (0.0, 3.0), [1.0, 0.0], "tsit5", events=fails)
        assert len(error.value.solution.events[0].t) == 1
        assert 0.4 < error.value.solution.t[-1] <= 1.0
