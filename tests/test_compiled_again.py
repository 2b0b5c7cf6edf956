"""A compiled solve that is like an earlier one takes a short way, to the same solution."""

import threading

import numpy as np
import pytest

import stiffkit as sk

pytest.importorskip("numba")

from stiffkit.solvers.compiled import again


@sk.jit
def oscillator(t, y, dy, rate):
    dy[0] = y[1]
    dy[1] = -rate * y[0]


@sk.jit
def decay(t, y, rate):
    if y[0] > 10.0:
        raise ValueError("too large")  # noqa: EM101, TRY003 - numba compiles no other form
    return -np.sqrt(rate) * y


@pytest.fixture
def taken(monkeypatch):
    """Start with no kind known; list what the short way has returned."""
    monkeypatch.setattr(again, "_READY", type(again._READY)())
    seen = []
    short = again.solve_again

    def told(*arguments):
        seen.append(short(*arguments))
        return seen[-1]

    monkeypatch.setattr(again, "solve_again", told)
    return seen


def equal(ours, theirs):
    """Whether two solutions are the same to the bit."""
    for name in ("t", "y"):
        a, b = getattr(ours, name), getattr(theirs, name)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)
        assert a.flags.writeable
    for name in ("status", "message", "stats", "log", "events", "stiffness", "switches"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert list(ours.stats) == list(theirs.stats)


OPTIONS = [
    {"method": "dopri5"},
    {"method": "auto"},
    {"method": "rodas5p"},
    {"method": "rkc2"},
    {"method": "rodas5p", "atol": np.array([1e-4, 1e-9])},
    {"method": "dopri5", "atol": [1e-4, 1e-9]},
    {"method": "dopri5", "t_eval": [0.0, 0.5, 2.0]},
    {"method": "dopri5", "t_eval": np.array([0.5]), "first_step": 0.1, "detect": False},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda options: "-".join(options))
def test_the_short_way_leads_to_the_same(options, taken):
    starts = [([1.0, 0.0], 1.0), (np.array([0.0, 2.0]), 0.7), ([1, 1], 0.5), ([1.0, 0.0], 1.0)]
    first = [
        sk.solve(oscillator, (0.0, 2.0), y0, args=(rate,), **options, max_steps=1000 + i)
        for i, (y0, rate) in enumerate(starts)
    ]
    assert taken == [None] * 4
    for (y0, rate), expected in zip(starts, first, strict=True):
        equal(sk.solve(oscillator, (0.0, 2.0), y0, args=(rate,), **options), expected)
    assert taken[4] is None
    short = sum(solution is not None for solution in taken[5:])
    # A case of stiffness, true or not, is for the long way: "auto" is quick to see one.
    assert short == 3 or (options["method"] == "auto" and short > 0)


def test_an_array_of_tolerances_that_changes_makes_another_kind(taken):
    atol = np.array([1e-4, 1e-4])
    options = {"method": "rodas5p", "rtol": 1e-3, "args": (1.0,)}
    loose = [sk.solve(oscillator, (0.0, 2.0), [1.0, 0.0], atol=atol, **options) for _ in range(2)]
    assert taken[1] is not None
    atol[:] = 1e-9
    tight = sk.solve(oscillator, (0.0, 2.0), [1.0, 0.0], atol=atol, **options)
    equal(tight, sk.solve(oscillator, (0.0, 2.0), [1.0, 0.0], atol=1e-9, **options))
    atol[:] = 1e-4
    equal(sk.solve(oscillator, (0.0, 2.0), [1.0, 0.0], atol=atol, **options), loose[0])


def test_solutions_own_what_they_hold(taken):
    solutions = [sk.solve(oscillator, (0.0, 1.0), [1.0, 0.0], "dopri5", args=(1.0,)) for _ in "123"]
    assert taken[2] is not None
    solutions[1].y[:] = 0.0
    equal(solutions[2], solutions[0])


def test_what_fails_is_told_by_the_long_way(taken):
    def attempt(rate, y0=(1.0,)):
        return sk.solve(decay, (0.0, 1.0), list(y0), "dopri5", args=(rate,))

    for _ in range(3):
        assert attempt(2.0).success
    assert taken[2] is not None
    with pytest.raises(ValueError, match="too large"):
        attempt(2.0, (11.0,))
    assert attempt(-1.0).status is sk.Status.non_finite
    with pytest.raises(ValueError, match="y0 is not finite"):
        attempt(1.0, (np.nan,))
    assert attempt(2.0).success
    assert taken[-1] is None  # this kind has needed Python too often


@pytest.mark.parametrize(
    "options",
    [{"dense": True}, {"log": True}, {"callback": lambda step: None}, {"rtol": np.full(2, 1e-4)}],
    ids=lambda options: next(iter(options)),
)
def test_what_python_has_a_part_in_goes_the_long_way(options, taken):
    for _ in range(3):
        assert sk.solve(oscillator, (0.0, 1.0), [1.0, 0.0], "dopri5", args=(1.0,), **options)
    assert taken == [None] * 3


def test_types_that_differ_are_of_another_kind(taken):
    for y0, rate in [([1.0, 0.0], 1.0), ([1.0, 0.0], 1), ([1j, 0.0], 1.0)]:
        for _ in range(3):
            solution = sk.solve(oscillator, (0.0, 1.0), y0, "dopri5", args=(rate,))
        assert taken[-1] is solution
        assert solution.y.dtype == np.asarray(y0).dtype


def test_long_solves_and_many_kinds(taken, monkeypatch):
    monkeypatch.setattr(again, "_NUMBERS", 60)
    for _ in range(3):
        assert sk.solve(oscillator, (0.0, 50.0), [1.0, 0.0], "dopri5", args=(1.0,)).success
    assert taken == [None] * 3
    for max_steps in range(100, 100 + again._MOST + 5):
        sk.solve(oscillator, (0.0, 1.0), [1.0, 0.0], "dopri5", args=(1.0,), max_steps=max_steps)
    assert len(again._READY) == again._MOST


def test_threads_have_one_each(taken):
    rates = np.linspace(0.5, 3.0, 40).tolist()
    results = {}

    def work(mine):
        for rate in mine:
            results[rate] = sk.solve(oscillator, (0.0, 9.0), [1.0, 0.0], "dopri5", args=(rate,))

    threads = [threading.Thread(target=work, args=(rates[i::4],)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    again._READY.clear()
    for rate in rates:
        again._READY.clear()
        equal(results[rate], sk.solve(oscillator, (0.0, 9.0), [1.0, 0.0], "dopri5", args=(rate,)))


def test_a_tolerance_below_rounding_is_warned_of_each_time(taken):
    tight = {"rtol": 1e-17, "atol": 1e-20, "max_steps": 9}
    for _ in range(3):
        with pytest.warns(UserWarning, match="rounding error") as told:
            sk.solve(decay, (0.0, 1.0), [1.0], "dopri5", args=(1.0,), **tight)
        assert [warning.filename for warning in told] == [__file__]
