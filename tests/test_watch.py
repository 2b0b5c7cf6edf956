"""The detector on batches that go by a named explicit method, and what it may cost."""

import copy
import math
import re

import numpy as np
import pytest
from problems import decay, oscillator, pendulum, van_der_pol

import stiffkit as sk
from stiffkit.solvers.batch.looks import ExplicitStep
from stiffkit.solvers.batch.watch import AT_FIRST, INTERVAL, Watch
from stiffkit.stiffness import Stiffness, StiffnessDetector
from stiffkit.stiffness.trigger import Budget

torch = pytest.importorskip("torch")

METHODS = ["dopri5", "tsit5", "vern7", "bosh3", "dop853"]
OPTIONS = {"batched": True, "rtol": 1e-5, "atol": 1e-7}


def forced(t, y, rate):
    """y follows cos t; stability limits the steps where the rate is large."""
    cos, sin = (torch.cos(t), torch.sin(t)) if torch.is_tensor(t) else (np.cos(t), np.sin(t))
    return -rate[:, None] * (y - cos[:, None]) - sin[:, None]


def proved(evidence):
    return [found for found in evidence if found.verdict is not Stiffness.non_stiff]


def says(solution):
    return ["limited by stability" in message for message in solution.message]


@pytest.mark.parametrize("method", METHODS)
def test_each_sample_hears_what_it_would_hear_alone(method):
    rate, y0 = np.array([0.5, 3.0, 1000.0, 3000.0]), np.ones((4, 2))
    s = sk.solve(forced, (0.0, 3.0), y0, method, args=(rate,), **OPTIONS)
    assert says(s) == [False, False, True, True]
    assert len(s.stiffness) == 4
    limit = sk.METHODS[method].real_stability_limit
    for i in (2, 3):
        assert s[i].message == s.message[i]
        assert s[i].stiffness == s.stiffness[i]
        for found in proved(s.stiffness[i]):
            assert found.eigenvalue == pytest.approx(-rate[i], rel=0.05)
            assert 0.6 * limit < abs(found.h * found.eigenvalue) < 1.5 * limit
        assert "(2 of 4 samples)" in s.message[i]
        assert f"of {method}" in s.message[i]
        assert "try method='auto'" in s.message[i]
    assert not proved(s.stiffness[0])
    assert not proved(s.stiffness[1])


@pytest.mark.parametrize("method", METHODS)
def test_a_limited_sample_is_found_within_30_of_its_steps(method):
    rate = np.array([3.0, 2000.0, 9000.0])
    options = OPTIONS | {"args": (rate,), "log": True}
    s = sk.solve(forced, (0.0, 1.0), np.ones((3, 1)), method, **options)
    limit = sk.METHODS[method].real_stability_limit
    for i in (1, 2):
        log = s[i].log
        taken = log["accepted"]
        h, ends = log["h"][taken], (log["t"] + log["h"])[taken]
        start = int(np.argmax(rate[i] * h > 0.7 * limit))
        found = proved(s.stiffness[i])[0]
        assert int(np.searchsorted(ends, found.t * (1 - 1e-12))) - start <= 30


@pytest.mark.parametrize("method", ["tsit5", "bosh3"])
@pytest.mark.parametrize("onset", [0.0, 3.0])
def test_samples_that_look_stiff_and_are_not_do_not_delay_one_that_is(method, onset):
    """Rough slopes leave errors that no smooth path explains; their proofs spend the budget."""

    def f(t, y):
        slope = -0.5 * y + 2e-6 * np.sin(3e7 * y)
        rate = 500.0 if t[-1] > onset else 0.5
        slope[-1] = -rate * (y[-1] - np.cos(t[-1])) - np.sin(t[-1])
        return slope

    y0 = np.random.default_rng(0).standard_normal((32, 4))
    y0[-1] = 1.0
    s = sk.solve(f, (0.0, 10.0), y0, method, batched=True, rtol=1e-6, atol=1e-6, log=True)
    assert sum(map(len, s.stiffness[:-1])) - sum(len(proved(x)) for x in s.stiffness[:-1]) > 0
    log, found = s[31].log, proved(s.stiffness[-1])[0]
    h, ends = log["h"][log["accepted"]], (log["t"] + log["h"])[log["accepted"]]
    limit = sk.METHODS[method].real_stability_limit
    start = int(np.argmax((ends > onset) & (500.0 * h > 0.7 * limit)))
    assert int(np.searchsorted(ends, found.t * (1 - 1e-12))) - start <= 30


def relaxing(t, y):
    return np.stack([y[:, 1], 5.0 * (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0]], 1)


def many_modes(t, y):
    return -np.linspace(1.0, 1000.0, 32) * (y - np.cos(t)[:, None]) - np.sin(t)[:, None]


RELAXING = relaxing, 40.0, np.random.default_rng(0).uniform(0.5, 3, (64, 2)) * [1, 0], 1e-5
MANY_MODES = many_modes, 6.0, np.ones((2, 32)), 1e-8


@pytest.mark.parametrize("case", [RELAXING, MANY_MODES], ids=["van der Pol", "many modes"])
@pytest.mark.parametrize("method", ["tsit5", "bosh3"])
def test_what_is_noted_of_samples_makes_the_cases_that_their_detectors_would(
    case, method, monkeypatch
):
    """Each look at a sample that has a detector is shown to a copy of it too."""
    f, t1, y0, rtol = case
    twins, asked, noted, compared = {}, set(), set(), []
    look, count, note = Watch.look, Watch._count, Watch._note

    def counting(self, rows, doubtful):
        counts, cases, rests = count(self, rows, doubtful)
        for k in np.flatnonzero(doubtful | self.stands[rows.samples]).tolist():
            sample = int(rows.samples[k])
            asked.add(sample)
            if sample in twins:
                given = [float(x[k]) for x in rows[3:8]]
                passed = int(rows.taken[k]) - twins[sample].steps
                compared.append((k in cases, twins[sample].suspicious(*given, steps=passed)))
        return counts, cases, rests

    def looking(self, step, samples, *given, **named):
        asked.clear()
        noted.clear()
        look(self, step, samples, *given, **named)
        for sample in twins.keys() & set(samples.tolist()) - asked:
            twins[sample].pass_over(0)
        for sample in noted:
            twins[sample] = copy.deepcopy(self.detectors[sample])

    def noting(self, sample):
        noted.add(sample)
        return note(self, sample)

    monkeypatch.setattr(Watch, "_count", counting)
    monkeypatch.setattr(Watch, "look", looking)
    monkeypatch.setattr(Watch, "_note", noting)
    sk.solve(f, (0.0, t1), y0, method, batched=True, rtol=rtol, atol=rtol, t_eval=[t1])
    ours, theirs = zip(*compared, strict=True)
    assert ours == theirs
    assert {True, False} == set(ours)


def test_the_others_are_put_to_the_proof_if_one_of_the_first_holds(monkeypatch):
    tried, prove = [], ExplicitStep.prove

    def noted(self, rows, *, apart):
        tried.append(len(rows))
        return prove(self, rows, apart=apart)

    def relaxation(t, y):  # van der Pol's, its damping far from the limit when it looks stiff
        return np.stack([y[:, 1], 5.0 * (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0]], 1)

    monkeypatch.setattr(ExplicitStep, "prove", noted)
    B = 4 * AT_FIRST
    s = sk.solve(relaxation, (0.0, 20.0), np.tile([2.0, 0.0], (B, 1)), "dopri5", **OPTIONS)
    assert not any(says(s))
    assert tried
    assert set(tried) == {AT_FIRST}
    tried.clear()
    rate = np.full(B, 2000.0)
    s = sk.solve(forced, (0.0, 1.0), np.ones((B, 1)), "dopri5", args=(rate,), **OPTIONS)
    assert tried[:2] == [AT_FIRST, B - AT_FIRST]
    assert all(says(s))
    assert len({found.t for own in s.stiffness for found in own[:1]}) == 1


def columns(f):
    """Return a right-hand side of one problem for a batch."""
    return lambda t, y: np.stack([f(ti, yi) for ti, yi in zip(t, y, strict=True)])


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "bosh3"])
@pytest.mark.parametrize(
    ("f", "y0"),
    [
        (decay, [1.0]),
        (oscillator, [1.0, 0.0]),
        (pendulum, [1.0, 0.5]),
        (van_der_pol, [2.0, 0.0]),
        (lambda t, y: y * math.cos(t), [1.0]),
    ],
    ids=["A1", "circle", "pendulum", "E2", "A3"],
)
def test_no_alarm_where_accuracy_limits(method, f, y0):
    scale = np.array([0.5, 1.0, 1.5])[:, None]
    s = sk.solve(columns(f), (0.0, 12.0), scale * y0, method, **OPTIONS)
    assert s.success
    assert not any(says(s))
    assert not any(proved(own) for own in s.stiffness)


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("method", METHODS)
def test_no_sample_is_changed_by_it(method, library):
    rate, y0 = np.array([1.0, 500.0, 2000.0]), np.ones((3, 2))
    if library == "torch":
        rate, y0 = torch.tensor(rate), torch.tensor(y0)
    runs = [
        sk.solve(forced, (0.0, 1.5), y0, method, args=(rate,), detect=detect, **OPTIONS)
        for detect in (True, False)
    ]
    np.testing.assert_array_equal(np.asarray(runs[0].y), np.asarray(runs[1].y))
    np.testing.assert_array_equal(runs[0].stats["accepted"], runs[1].stats["accepted"])
    assert says(runs[0]) == [False, True, True]


def test_silence_on_request(caplog):
    rate = np.array([1.0, 2000.0])
    with caplog.at_level("INFO", logger="stiffkit"):
        quiet = sk.solve(
            forced, (0.0, 2.0), np.ones((2, 1)), "dopri5", args=(rate,), detect=False, **OPTIONS
        )
        assert not caplog.records
        sk.solve(forced, (0.0, 2.0), np.ones((2, 1)), "dopri5", args=(rate,), **OPTIONS)
        assert len(caplog.records) == 1  # of the batch, not of each sample
        assert "1 of 2 samples" in caplog.text
    assert quiet.message == (sk.Status.success.value,) * 2
    assert quiet.stiffness == ()


def test_grids_are_not_watched():
    rate = np.array([2000.0])
    s = sk.solve(forced, (0.0, 1.0), np.ones((1, 1)), args=(rate,), batched=True, grid=4000)
    assert s.stiffness == ()


# Backward in time such a mode grows: backsolve says so, and its gradient is what it is.
@pytest.mark.filterwarnings("ignore::stiffkit.StiffBackwardWarning")
@pytest.mark.parametrize("adjoint", [None, "checkpoints", "backsolve"])
def test_gradients_are_what_they_were(adjoint):
    def gradient(detect):
        rate = torch.tensor([1.0, 800.0], dtype=torch.float64, requires_grad=True)
        y0 = torch.ones((2, 1), dtype=torch.float64)
        options = OPTIONS | {"args": (rate,), "detect": detect, "t_eval": [0.6]}
        s = sk.solve(forced, (0.0, 0.6), y0, "tsit5", adjoint=adjoint, **options)
        assert says(s) == [False, detect]
        return torch.autograd.grad(s.y.sum(), rate)[0]

    np.testing.assert_array_equal(gradient(True).numpy(), gradient(False).numpy())


def test_a_single_tensor_with_an_adjoint_is_watched_too():
    y0 = torch.zeros(1, dtype=torch.float64)
    s = sk.solve(
        lambda t, y: -2000 * (y - torch.cos(t)), (0.0, 1.0), y0, "dopri5", adjoint="checkpoints"
    )
    assert "limited by stability" in s.message
    assert proved(s.stiffness)


@pytest.mark.parametrize("broken", [math.nan, math.inf, ValueError, RuntimeError])
def test_where_f_fails_beside_the_path_the_others_go_on(broken):
    """The second component stays 0 on the path of the first sample, and f fails beside it."""

    def f(t, y, rate):
        off = (y[:, 1] != 0) & (rate == 1000.0)
        if off.any() and isinstance(broken, type):
            raise broken
        slope = forced(t, y, rate)
        slope[:, 1] = np.where(off, broken if not isinstance(broken, type) else 0.0, 0.0)
        return slope

    rate, y0 = np.array([1000.0, 2000.0]), np.array([[1.0, 0.0], [1.0, 0.0]])
    runs = [
        sk.solve(f, (0.0, 1.5), y0, "tsit5", args=(rate,), detect=detect, **OPTIONS)
        for detect in (True, False)
    ]
    assert runs[0].success
    np.testing.assert_array_equal(runs[0].y, runs[1].y)


def test_a_row_that_cannot_be_asked_leaves_proofs_to_the_others():
    def f(t, y, rate):
        slope = forced(t, y, rate)
        # Of the first sample f is not finite where both components differ.
        slope[:, 1] = np.where((rate == 1000.0) & (y[:, 0] != y[:, 1]), np.nan, slope[:, 1])
        return slope

    rate, y0 = np.array([1000.0, 1001.0]), np.ones((2, 2))
    s = sk.solve(f, (0.0, 1.5), y0, "tsit5", args=(rate,), **OPTIONS)
    assert s.success
    assert proved(s.stiffness[1])


@pytest.mark.parametrize("method", ["tsit5", "bosh3", "dop853"])
def test_every_call_is_counted(method):
    calls = []

    def f(t, y, rate):
        calls.append(t)
        return forced(t, y, rate)

    rate = np.array([1.0, 1000.0])
    s = sk.solve(f, (0.0, 2.0), np.ones((2, 1)), method, args=(rate,), **OPTIONS)
    assert s.stats["nfev"] == len(calls)


def test_an_f_that_takes_no_fewer_rows_is_watched_all_the_same():
    rate = np.array([1.0, 2.0, 1000.0])

    def f(t, y):
        return forced(t, y, rate)

    s = sk.solve(f, (0.0, 2.0), np.ones((3, 1)), "tsit5", **OPTIONS)
    plain = sk.solve(f, (0.0, 2.0), np.ones((3, 1)), "tsit5", detect=False, **OPTIONS)
    assert says(s) == [False, False, True]
    np.testing.assert_array_equal(s.y, plain.y)


def test_only_suspected_rows_are_asked_about_and_no_matrix_is_made():
    """800 components: a Jacobian of each row would take 800 calls and 2.5e6 numbers."""
    sizes = []

    def f(t, y, rate):
        sizes.append(len(y))
        return forced(t, y, rate)

    rate = np.array([1.0, 1.0, 1.0, 2000.0])
    s = sk.solve(f, (0.0, 1.0), np.ones((4, 800)), "tsit5", args=(rate,), **OPTIONS)
    plain = sk.solve(
        forced, (0.0, 1.0), np.ones((4, 800)), "tsit5", args=(rate,), detect=False, **OPTIONS
    )
    assert says(s) == [False, False, False, True]
    assert "method='auto'" not in s.message[3]  # which has no implicit member so large
    calls = s.stats["nfev"] - plain.stats["nfev"]
    assert sum(found.products for found in s.stiffness[3]) <= 0.02 * plain.stats["nfev"]
    assert calls <= 0.1 * plain.stats["nfev"]
    assert min(sizes) == 1


def test_the_message_tells_what_another_method_takes():
    def robertson(t, y, k):
        a, b, c = k * y[:, 0], 1e4 * y[:, 1] * y[:, 2], 3e7 * y[:, 1] ** 2
        return np.stack([b - a, a - b - c, c], 1)

    k, y0 = np.array([0.03, 0.04]), np.tile([1.0, 0.0, 0.0], (2, 1))
    options = {"batched": True, "rtol": 1e-5, "atol": 1e-9, "args": (k,)}
    s = sk.solve(robertson, (0.0, 5.0), y0, "dopri5", **options)
    for i in range(2):
        found = proved(s.stiffness[i])
        told = re.search(r"(\w+) takes (\d+) steps from there, dopri5 took (\d+)", s.message[i])
        times = np.asarray(s[i].t)
        inside = (times > found[0].t) & (times <= found[-1].t)
        assert int(told[3]) == pytest.approx(inside.sum(), abs=5)
        start = np.asarray(s[i].y[int(np.searchsorted(times, found[0].t))])[None]
        span = found[0].t, found[-1].t
        more = options | {"args": (k[i : i + 1],), "detect": False}
        there = sk.solve(robertson, span, start, told[1], **more)
        assert there.stats["accepted"][0] == pytest.approx(int(told[2]), abs=1)
        assert int(told[2]) < 0.2 * int(told[3])


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_float32_and_backward(sign):
    rate = torch.tensor([1.0, 2000.0])

    def f(t, y, rate):
        return sign * forced(sign * t, y, rate)

    options = {"batched": True, "rtol": 1e-3, "atol": 1e-4, "args": (rate,)}
    s = sk.solve(f, (0.0, 2.0 * sign), torch.ones((2, 1)), "tsit5", **options)
    assert says(s) == [False, True]


# Cost ---------------------------------------------------------------------------------------------


def calls_of(f, y0, method, t1, **more):
    return [
        sk.solve(f, (0.0, t1), y0, method, detect=detect, **more).stats["nfev"]
        for detect in (True, False)
    ]


def ring(t, y):
    """Pendulums of small angle, coupled weakly: what nothing should be suspected of."""
    half = y.shape[-1] // 2
    angle, speed = y[..., :half], y[..., half:]
    pull = 0.01 * (np.roll(angle, 1, -1) - 2 * angle + np.roll(angle, -1, -1))
    return np.concatenate([speed, pull - angle], -1)


@pytest.mark.parametrize("method", ["bosh3", "midpoint", "ralston", "dopri5", "tsit5", "vern7"])
@pytest.mark.parametrize("rtol", [1e-4, 1e-6])
def test_looks_that_lead_nowhere_cost_little(method, rtol):
    y0 = np.concatenate([np.linspace(-1, 1, 50), np.zeros(50)])
    for f, start in ((ring, y0), (van_der_pol, np.array([2.0, 0.0]))):
        with_it, without = calls_of(f, start, method, 20.0, rtol=rtol, atol=1e-2 * rtol)
        assert with_it - without <= Budget.CREDIT + 0.03 * without


@pytest.mark.parametrize(("method", "calls"), [("bosh3", 0.01), ("midpoint", 0), ("ralston", 0)])
@pytest.mark.parametrize("batched", [False, True])
def test_looks_of_methods_without_a_probe_are_mostly_free(method, calls, batched):
    y0 = np.concatenate([np.linspace(-1, 1, 50), np.zeros(50)])
    options = {"batched": batched, "rtol": 1e-6, "atol": 1e-8}
    y0 = np.stack([y0, 0.9 * y0]) if batched else y0
    with_it, without = calls_of(ring, y0, method, 5.0, **options)
    assert with_it - without <= calls * without


@pytest.mark.parametrize("method", ["heun", "midpoint", "ralston"])
@pytest.mark.parametrize("kind", ["buffered", "recorded", "batched"])
def test_the_stages_tell_the_rate_of_a_single_mode(method, kind, monkeypatch):
    """What `along` would ask f for: of a linear problem it is exact."""
    rates, batched = [], kind == "batched"
    if batched:
        ratio = ExplicitStep.stage_ratio
        monkeypatch.setattr(
            ExplicitStep, "stage_ratio", lambda self: (rates.extend(ratio(self)), ratio(self))[1]
        )
    else:
        passes = StiffnessDetector.passes
        monkeypatch.setattr(
            StiffnessDetector,
            "passes",
            lambda self, h, stage: (rates.append(stage), passes(self, h, stage))[1],
        )
    y0 = np.ones((3, 1)) if batched else np.ones(1)
    if kind == "recorded":  # for gradients
        torch = pytest.importorskip("torch")
        y0 = torch.tensor(y0, requires_grad=True)
    sk.solve(lambda t, y: -3.0 * y, (0.0, 1.0), y0, method, batched=batched, rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(rates, 3.0, rtol=1e-4)
    assert rates


@pytest.mark.parametrize("method", ["bosh3", "tsit5"])
def test_so_they_do_in_a_batch(method):
    rng = np.random.default_rng(1)
    y0 = np.concatenate([rng.uniform(-1, 1, (8, 10)), np.zeros((8, 10))], 1)
    with_it, without = calls_of(ring, y0, method, 20.0, batched=True, rtol=1e-6, atol=1e-8)
    assert with_it - without <= Budget.CREDIT + 0.03 * without


def test_samples_that_take_turns_at_looking_stiff_are_looked_at_ever_less(monkeypatch):
    rng, looks = np.random.default_rng(0), []
    y0, rate = rng.uniform(-1, 1, (256, 100)), rng.uniform(0.5, 2, (256, 1))
    look = Watch.look

    def noted(self, *given, **named):
        looks.append(self.made)
        look(self, *given, **named)

    def rings(t, y, rate):
        angle, speed = y[:, :50], y[:, 50:]
        return np.concatenate([speed, 0.01 * (np.roll(angle, 1, 1) - angle) - rate * angle], 1)

    monkeypatch.setattr(Watch, "look", noted)
    options = {"batched": True, "args": (rate,), "rtol": 1e-6, "atol": 1e-8}
    s = sk.solve(rings, (0.0, 20.0), y0, "dopri5", **options)
    assert not any(map(proved, s.stiffness))
    further = [made for made in looks if made % INTERVAL]
    assert 2 <= len(further) <= 5  # by 36 steps, then 72, 144: two looks each


@pytest.mark.parametrize("method", ["bosh3", "tsit5", "vern7"])
def test_a_detector_that_is_always_wrong_keeps_within_its_budget(method):
    """Every look is suspicious, and every proof fails."""
    tableau = sk.METHODS[method]
    watch = StiffnessDetector(tableau)
    rng = np.random.default_rng(0)
    A = 0.3 * np.diag(-np.linspace(1, 2, 60))
    y, err, h = rng.standard_normal(60), rng.standard_normal(60), 1.0
    changes = A @ y, A @ A @ y, lambda x: float(np.sqrt(np.mean(x**2)))
    stage = 0.6 * tableau.real_stability_limit
    while watch.steps < 20_000:
        watch.nfev += watch.budget.look
        if watch.suspicious(h, 0.5, 10.0, 1e-3, stage):
            watch.examine(lambda t, z: A @ z, 1.0, y, A @ y, err, h, changes)
    assert watch.evidence
    assert watch.state is Stiffness.non_stiff
    calls = watch.steps * (tableau.n_stages - bool(tableau.fsal))
    # One more proof may begin within the budget than it pays for.
    assert watch.nfev <= 0.03 * calls + Budget.CREDIT + 25
