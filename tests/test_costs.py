"""What auto knows of time: it stands beside the counts, and only where it departs from them."""

import math

import numpy as np
import pytest
import scipy.sparse as sps
from hypothesis import given, settings
from hypothesis import strategies as st
from stiff_problems import STIFF

import stiffkit as sk
from stiffkit.solvers import costs
from stiffkit.solvers.costs import CALL, CLEARLY, SAMPLES, Costs, Stopwatch, departure

OPERATION = 0.1
"""Nanoseconds of an operation of dense algebra, of the machine in these tests."""


class Clock:
    """A clock that only what is timed moves."""

    def __init__(self):
        self.now = 0

    def __call__(self):
        return self.now

    def slow(self, function, time):
        """Return a function that takes so many nanoseconds, a number or each of an iterator's."""

        def called(*arguments):
            self.now += time if isinstance(time, int) else next(time)
            return function(*arguments)

        return called


@pytest.fixture
def clock(monkeypatch):
    fake = Clock()
    monkeypatch.setattr(costs, "clock", fake)
    monkeypatch.setattr(costs, "pace", lambda: OPERATION)
    return fake


def oscillators(rates):
    """Pairs of strongly damped oscillators about sin t: f, its Jacobian, and the state at 0."""
    D = np.diag(rates)
    J = np.block([[-D, D], [-D, -D]])
    return lambda t, y: J @ (y - math.sin(t)), lambda t, y: J, np.zeros(2 * len(rates))


def van_der_pol(mu):
    def f(t, y):
        return np.array([y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]])

    def jac(t, y):
        return np.array([[0.0, 1.0], [-2 * mu * y[0] * y[1] - 1, mu * (1 - y[0] ** 2)]])

    return f, jac


# The rule -----------------------------------------------------------------------------------------


@given(st.floats(1e-12, 1e12))
def test_a_departure_is_a_power_of_four_and_within_two_of_the_ratio_if_it_is_clear(ratio):
    found = departure(ratio)
    if 1 / CLEARLY < ratio < CLEARLY:
        assert found == 1.0
    else:
        assert math.log(found, 4) == pytest.approx(round(math.log(found, 4)), abs=1e-9)
        assert 0.5 * (1 - 1e-9) <= found / ratio <= 2 * (1 + 1e-9)
    assert found * departure(1 / ratio) == pytest.approx(1.0)


@pytest.mark.parametrize("ratio", [math.nan, math.inf, 0.0])
def test_what_was_not_measured_does_not_depart(ratio):
    assert departure(ratio) == 1.0


def test_a_stopwatch_keeps_the_least_time_and_wants_a_few(clock):
    watch = Stopwatch()
    for time in (50, 3, 400)[: SAMPLES - 1]:
        assert watch(clock.slow(lambda x: x + 1, time), 1) == 2
        assert math.isnan(watch.least)
    watch(clock.slow(lambda x: x, 400), 1)
    assert watch.least == 3


@pytest.mark.usefixtures("clock")
def test_an_f_that_takes_a_millisecond_makes_factorisations_free():
    cheap, dear = (Costs(100, 3, dense=True) for _ in range(2))
    for _ in range(SAMPLES):
        cheap.f.add(CALL * OPERATION)
        dear.f.add(1e6)
    operations = 2 / 3 * 100**3 + 2 * 3 * 100**2
    assert cheap.algebra() == pytest.approx(operations / cheap.call)
    assert 0.49 < dear.algebra() / (operations * OPERATION / 1e6) < 2.01


@pytest.mark.usefixtures("clock")
def test_a_factorisation_that_was_seen_to_be_slow_counts_for_what_it_takes():
    n, seen = 1000, Costs(1000, 7, dense=False)
    before = seen.algebra()
    for _ in range(SAMPLES):
        seen.factorisation.add(1e6)  # as it fills in
    # In calls of f, that are taken for their operations: rounded by at most two.
    calls = 1e6 / OPERATION / (CALL + 20 * n)
    assert before < 10
    assert 0.3 * calls < seen.algebra() < 2.1 * calls


@pytest.mark.usefixtures("clock")
def test_stretches_of_compiled_solves_time_f():
    seen = Costs(50, 3, dense=True, compiled=True)
    for _ in range(SAMPLES):
        seen.stretch(costs.ENTRY + 1, 1)  # too short to tell
    assert math.isnan(seen.f.least)
    for calls in (20, 100, 40):
        seen.stretch(costs.ENTRY + calls * 30_000, calls)
    assert seen.f.least == 30_000
    counted = 4 * OPERATION * (100 + 20 * 50)  # plain loops take four times as long
    assert 32 < 30_000 / counted < 128
    assert seen.algebra() == pytest.approx(
        Costs(50, 3, dense=True, compiled=True).algebra() / 64, rel=1e-12
    )


# What follows from it -----------------------------------------------------------------------------


def test_a_dear_f_is_left_to_the_implicit_member_that_its_size_forbids(clock):
    f, jac, y0 = oscillators(np.linspace(10.0, 40.0, 90))
    targets = []
    for time in (1_000, 1_000_000):
        solution = sk.solve(
            clock.slow(f, time), (0.0, 5.0), y0, rtol=1e-4, atol=1e-4, jac=clock.slow(jac, 1_000)
        )
        targets.append([switch.target for switch in solution.switches])
    assert targets == [[], ["radau5"]]


def test_a_dear_jacobian_is_made_less_often(clock):
    f, jac = van_der_pol(20.0)
    made = []
    for time in (1_000, 1_000_000):
        solution = sk.solve(
            clock.slow(f, 1_000), (0.0, 80.0), [2.0, 0.0], rtol=1e-5, atol=1e-5,
            jac=clock.slow(jac, time),
        )  # fmt: skip
        assert solution.success
        made.append(solution.stats["njev"])
    assert made[1] < 0.5 * made[0]


@settings(max_examples=10)
@given(st.randoms(use_true_random=False))
def test_times_within_the_clear_factor_change_nothing(random):
    f, jac = van_der_pol(20.0)
    counted = int((CALL + 20 * 2) * OPERATION)

    def times():
        while True:  # of a call and of a Jacobian: their ratio is within 16 too
            yield random.randint(counted // 4, 4 * counted)

    def solve(f, jac):
        return sk.solve(f, (0.0, 20.0), [2.0, 0.0], rtol=1e-4, atol=1e-5, jac=jac)

    with pytest.MonkeyPatch.context() as patch:
        clock = Clock()
        patch.setattr(costs, "clock", clock)
        patch.setattr(costs, "pace", lambda: OPERATION)
        plain, noisy = solve(f, jac), solve(clock.slow(f, times()), clock.slow(jac, times()))
    assert len(plain.switches) > 2
    assert noisy.switches == plain.switches
    assert noisy.stats == plain.stats


@pytest.mark.parametrize("name", ["ROBER", "VDPOL", "OREGO"])
def test_two_runs_by_the_real_clock_are_equal_in_every_count(name):
    p = STIFF[name]
    runs = [
        sk.solve(p.f, (0.0, p.t_end), p.y0, rtol=1e-4, atol=np.asarray(p.atol) * 1e-4)
        for _ in range(2)
    ]
    assert runs[0].switches
    assert runs[0].switches == runs[1].switches
    assert runs[0].stats == runs[1].stats
    np.testing.assert_array_equal(runs[0].y, runs[1].y)


@pytest.mark.parametrize("way", ["jvp", "sparse matrix"])
def test_a_jacobian_by_products_or_sparse_is_not_counted_as_a_dense_one(way):
    rates = np.linspace(100.0, 1000.0, 150)
    f, _, y0 = oscillators(rates)
    J = sps.csc_array(sps.kron([[-1, 1], [-1, -1]], sps.diags_array(rates)))
    given = {"jvp": lambda t, y, v: J @ v} if way == "jvp" else {"jac": J}
    solution = sk.solve(f, (0.0, 2.0), y0, rtol=1e-5, atol=1e-5, **given)
    assert [switch.target for switch in solution.switches] == ["kencarp4"]
    plain = sk.solve(f, (0.0, 2.0), y0, "tsit5", rtol=1e-5, atol=1e-5, detect=False)
    assert solution.stats["nfev"] < plain.stats["nfev"]
