"""What auto knows of time: it stands beside the counts, and only where it departs from them."""

import importlib
import math
from types import SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sps
from hypothesis import given, settings
from hypothesis import strategies as st
from stiff_problems import STIFF

import stiffkit as sk
from stiffkit._array import backend_of
from stiffkit.solvers import costs
from stiffkit.solvers.costs import CALLS, CLEARLY, ENOUGH, SAMPLES, Costs, Stopwatch, departure

OPERATION = 0.1
"""Nanoseconds of an operation of dense algebra, of the machine in these tests."""


COUNTED = int(4 * OPERATION * (100 + 20 * 2))
"""Nanoseconds that a call of a compiled f of two components is counted for."""


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
        cheap.f.add(CALLS["python"] * OPERATION)
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
    calls = 1e6 / OPERATION / (CALLS["python"] + 20 * n)
    assert before < 10
    assert 0.3 * calls < seen.algebra() < 2.1 * calls


@pytest.mark.usefixtures("clock")
def test_stretches_of_compiled_solves_time_f():
    seen = Costs(50, 3, kind="compiled")
    for _ in range(SAMPLES):
        seen.stretch(costs.ENTRY + 1, 1)  # too short to tell
    assert math.isnan(seen.f.least)
    for calls in (20, 100, 40):
        seen.stretch(costs.ENTRY + calls * 30_000, calls)
    assert seen.f.least == 30_000
    counted = 4 * OPERATION * (100 + 20 * 50)  # plain loops take four times as long
    assert 32 < 30_000 / counted < 128
    assert seen.algebra() == pytest.approx(Costs(50, 3, kind="compiled").algebra() / 64, rel=1e-12)


def test_no_more_calls_are_timed_than_are_enough(clock):
    watch, waited = Stopwatch(wait=lambda: waited.append(clock.now)), []
    watch.wait = lambda: waited.append(clock.now)
    for _ in range(ENOUGH):
        watch(clock.slow(lambda: None, 10))
    assert waited == [10 * ((i + 1) // 2) for i in range(2 * ENOUGH)]  # before and after each
    assert watch.rests
    assert watch(clock.slow(lambda: 7, 1)) == 7
    assert watch.least == 10
    assert len(waited) == 2 * ENOUGH


def test_what_entering_takes_is_not_the_function_s(clock):
    watch = Stopwatch(entry=100)
    for time in (90, 350, 400):
        watch(clock.slow(lambda: None, time))
    assert watch.least == 0.0
    assert watch.samples == 3


@pytest.mark.usefixtures("clock")
def test_some_rows_are_timed_as_if_they_were_all():
    seen = Costs(3, 8, rows=1000)
    watch = Stopwatch()
    per_row = (seen.call - seen.base) / 1000 * OPERATION
    for rows in (1000, 10, 1):  # what is counted for a call, whatever the rows
        costs.clock.now = 0
        time = round(seen.base * OPERATION + per_row * rows)
        seen.of_rows(watch, rows, costs.clock.slow(lambda: None, time))()
    assert watch.least == pytest.approx(seen.call * OPERATION, rel=1e-3)


@pytest.mark.usefixtures("clock")
def test_a_stretch_of_implicit_steps_times_the_factorisations_that_its_calls_leave():
    n, tau, dear = 40, 500, 1_000_000
    seen = Costs(n, 3, kind="compiled")
    before = seen.algebra()
    beside = costs.ENTRY + costs.LOAD + 40 * tau
    seen.stretch(beside + 3 * dear, 40, factorisations=3)
    assert seen.factorisation.samples == 0  # f was not timed yet
    seen.stretch(costs.ENTRY + 20 * tau, 20)
    for _ in range(SAMPLES):
        seen.stretch(beside + 3 * dear, 40, factorisations=3)
    # By 40 calls' solutions, 2 n² operations each, less than they took: 64,000 ns of a third.
    assert dear - 60_000 < seen.factorisation.least < dear
    seen.stretch(beside, 40, factorisations=3)  # nothing is left: the count stands
    assert seen.factorisation.least == 0.0
    assert seen.algebra() == before


@pytest.mark.usefixtures("clock")
def test_a_dear_jacobian_makes_no_factorisation_seem_dear():
    seen, tau = Costs(2, 3, kind="compiled"), COUNTED
    dear = 2047 * tau  # a price is rounded: here to half of it
    for _ in range(SAMPLES):
        seen.stretch(costs.ENTRY + 20 * tau, 20)
        seen.jac.add(dear)
        seen.stretch(
            costs.ENTRY + costs.LOAD + 40 * tau + 3 * dear, 40, jacobians=3, factorisations=5
        )
    assert seen.jacobian == 1024
    assert seen.factorisation.least == 0.0


@pytest.mark.usefixtures("clock")
@pytest.mark.parametrize("kind", ["python", "compiled", "tensor"])
def test_a_small_factorisation_that_is_clearly_dear_counts_for_what_it_takes(kind):
    seen = Costs(2, 3, kind=kind)
    for _ in range(SAMPLES):
        seen.f.add(OPERATION * seen.call)
        seen.factorisation.add(1e8)
    calls = 1e8 / (OPERATION * seen.call * seen.slower)  # rounded by at most two
    assert 0.45 * calls < seen.algebra() < 2.1 * calls


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
    counted = int((CALLS["python"] + 20 * 2) * OPERATION)

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


# Batches ------------------------------------------------------------------------------------------


def arrays(library, *values):
    if library == "numpy":
        return values
    torch = pytest.importorskip("torch")
    return [torch.tensor(x, dtype=torch.float64) for x in values]


def oscillating(library):
    """Van der Pol's equations of several mu, and their Jacobians."""
    stack = np.stack if library == "numpy" else pytest.importorskip("torch").stack

    def f(t, y, mu):
        a, b = y[:, 0], y[:, 1]
        return stack([b, mu * (1 - a**2) * b - a], 1)

    def jac(t, y, mu):
        a, b = y[:, 0], y[:, 1]
        rows = [0 * a, 1 + 0 * a], [-2 * mu * a * b - 1, mu * (1 - a**2)]
        return stack([stack(row, 1) for row in rows], 1)

    return f, jac


@pytest.mark.parametrize(("library", "call"), [("numpy", 2_000), ("torch", 20_000)])
def test_a_dear_f_lets_rows_leave_sooner(clock, library, call):
    """Small calls beside those of f are no reason to stay where f takes the time."""
    rate, y0 = arrays(library, np.array([1000.0, 1200.0]), np.full((2, 1), 1.0))

    def f(t, y, rate):
        return -rate[:, None] * y

    def switches(time):
        run = sk.solve(
            clock.slow(f, time), (0.0, 0.25), y0, args=(rate,), batched=True, rtol=1e-4, atol=1e-4
        )
        assert run.success
        return sum(map(len, run.switches))

    assert switches(call) == 0
    assert switches(1000 * call) == 2


@pytest.mark.parametrize(("library", "call"), [("numpy", 2_000), ("torch", 20_000)])
@pytest.mark.parametrize("dear", ["jac", "factorisation"])
def test_what_takes_a_batch_long_is_done_less_often(clock, library, call, dear, monkeypatch):
    f, jac = oscillating(library)
    mu, y0 = arrays(library, np.array([20.0, 25.0]), np.tile([2.0, 0.0], (2, 1)))
    if library == "numpy":
        room, name = "stiffkit.solvers.batch.linear", "_numpy_solve"
    else:
        room, name = "torch.linalg", "lu_factor_ex"
    where = importlib.import_module(room)
    factorise, made = getattr(where, name), []
    for factor in (1, 10_000):
        times = {"jac": call, "factorisation": call} | {dear: factor * call}
        monkeypatch.setattr(where, name, clock.slow(factorise, times["factorisation"]))
        run = sk.solve(
            clock.slow(f, call), (0.0, 80.0), y0, args=(mu,), batched=True, rtol=1e-5, atol=1e-5,
            jac=clock.slow(jac, times["jac"]),
        )  # fmt: skip
        assert run.success
        made.append(run.stats["njev" if dear == "jac" else "nlu"])
    assert 0 < made[1] < 0.5 * made[0]


@pytest.mark.parametrize(("device", "index"), [("cpu", None), ("cuda", None), ("cuda", 1)])
def test_the_clock_waits_for_a_device(device, index, monkeypatch):
    torch = pytest.importorskip("torch")
    waited = []
    monkeypatch.setattr(torch.cuda, "synchronize", lambda *which: waited.append(which))
    like = SimpleNamespace(device=SimpleNamespace(type=device, index=index))
    wait = backend_of(torch.zeros(1)).waiting(like)
    if device == "cpu":
        assert wait is None
        return
    wait()
    assert waited == ([()] if index is None else [(like.device,)])


# Compiled solves ----------------------------------------------------------------------------------


@pytest.fixture
def kernel_takes(clock, monkeypatch):
    """Return a function that says what the kernel's calls take, in nanoseconds."""
    pytest.importorskip("numba")
    from stiffkit.solvers.compiled import parts, stretches

    entry, timed = stretches.entry, Costs.timed

    def takes(f, jac, factorisation):
        price = {"nfev": f, "nfev_jac": f, "nfev_time": f, "njev": jac, "nlu": factorisation}

        def clocked(kernel, arguments):
            called = entry(kernel, arguments)
            (state,) = (x[0] for x in arguments if getattr(x, "dtype", None) == parts.STATE)

            def call(*arguments):
                before = {name: int(state[name]) for name in price}
                code = called(*arguments)
                spent = sum(price[name] * (int(state[name]) - before[name]) for name in price)
                clock.now += costs.ENTRY + spent
                return code

            return call

        monkeypatch.setattr(stretches, "entry", clocked)
        slow = lambda own, J: timed(own, clock.slow(J, costs.DISPATCH + jac) if callable(J) else J)  # noqa: E731
        monkeypatch.setattr(Costs, "timed", slow)

    return takes


def compiled_van_der_pol(mu):
    f, jac = van_der_pol(mu)
    return sk.jit(f), sk.jit(jac)


@pytest.mark.parametrize("dear", ["jac", "factorisation"])
def test_what_takes_the_kernel_long_is_done_less_often(kernel_takes, dear):
    f, jac = compiled_van_der_pol(20.0)
    key, runs = "njev" if dear == "jac" else "nlu", []
    for factor in (1, 10_000):
        times = {"jac": COUNTED, "factorisation": COUNTED} | {dear: factor * COUNTED}
        kernel_takes(COUNTED, **times)
        runs.append(sk.solve(f, (0.0, 80.0), [2.0, 0.0], rtol=1e-5, atol=1e-5, jac=jac))
        assert runs[-1].success
    assert len(runs[0].switches) > 2
    assert 0 < runs[1].stats[key] < 0.5 * runs[0].stats[key]


def test_a_dear_compiled_f_is_left_to_the_implicit_member_that_its_size_forbids(kernel_takes):
    rates = np.linspace(10.0, 40.0, 45)

    @sk.jit
    def f(t, y):
        u, v = y[:45] - math.sin(t), y[45:] - math.sin(t)
        return np.concatenate((rates * (v - u), -rates * (u + v)))

    counted, targets = int(4 * OPERATION * (100 + 20 * 90)), []
    for time in (counted, 10_000 * counted):
        kernel_takes(time, time, 0)
        solution = sk.solve(f, (0.0, 5.0), np.zeros(90), rtol=1e-4, atol=1e-4)
        targets.append([switch.target for switch in solution.switches])
    assert targets == [[], ["radau5"]]


def test_a_compiled_jacobian_that_spins_is_made_less_often():
    """By the real clock: a thousand times what f takes is seen on any machine."""
    pytest.importorskip("numba")
    f, jac = compiled_van_der_pol(20.0)

    @sk.jit
    def slow(t, y):
        x = 0.0
        for i in range(100_000):
            x = math.cos(x + i)
        J = jac(t, y)
        J[0, 0] += 0.0 * x
        return J

    made = [
        sk.solve(f, (0.0, 80.0), [2.0, 0.0], rtol=1e-5, atol=1e-5, jac=J).stats["njev"]
        for J in (jac, slow)
    ]
    assert 0 < made[1] < 0.5 * made[0]


# Any clock ----------------------------------------------------------------------------------------


def solved(way):
    """Solve by one of the loops that time something."""
    options = {"t_span": (0.0, 80.0), "rtol": 1e-5, "atol": 1e-5}
    if way in ("python", "compiled"):
        functions = van_der_pol(20.0)
        if way == "compiled":
            pytest.importorskip("numba")
            functions = map(sk.jit, functions)
        f, jac = functions
        return sk.solve(f, y0=[2.0, 0.0], jac=jac, **options)
    library = way.removesuffix(" batch")
    mu, y0 = arrays(library, np.array([20.0, 200.0, 0.5]), np.tile([2.0, 0.0], (3, 1)))
    f, jac = oscillating(library)
    given = {"jac": jac} if library == "numpy" else {}  # torch makes its own
    return sk.solve(f, y0=y0, args=(mu,), batched=True, **given, **options)


WAYS = ["python", "compiled", "numpy batch", "torch batch"]


def alike(runs):
    first, *others = runs
    assert sum(map(len, first.switches)) > 2
    for run in others:
        assert run.switches == first.switches
        for key, count in first.stats.items():
            np.testing.assert_array_equal(run.stats[key], count)


@pytest.mark.parametrize("way", WAYS)
def test_a_clock_that_stands_still_changes_nothing(way, monkeypatch):
    monkeypatch.setattr(costs, "clock", lambda: 0)
    still = solved(way)
    monkeypatch.setattr(costs, "CLEARLY", math.inf)
    alike([still, solved(way)])


@pytest.mark.parametrize("way", WAYS)
def test_two_runs_of_an_ordinary_problem_switch_at_the_same_steps(way):
    alike([solved(way) for _ in range(2)])
