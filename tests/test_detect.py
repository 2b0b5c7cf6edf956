"""The detector: what makes it suspicious, what it proves, and silence where nothing is stiff."""

import math
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from problems import counted, decay, oscillator, pendulum, van_der_pol

import stiffkit as sk
from stiffkit.solvers.loop import steps_until
from stiffkit.stiffness import Evidence, Stiffness, StiffnessDetector
from stiffkit.stiffness.proof import slow_path
from stiffkit.stiffness.trigger import QUIET, smooth_error, turned, unexplained

torch = pytest.importorskip("torch")

TSIT5 = sk.METHODS["tsit5"]


def detector(**options):
    return StiffnessDetector(TSIT5, **options)


def rms(x):
    return float(np.sqrt(np.mean(np.square(x))))


def prove(watch, A, h, err, rise):
    """Prove a case on y' = A y at y = 1, where y has changed by `rise`."""
    A = np.asarray(A, dtype=float)
    y = np.ones(len(A))
    rise = np.asarray(rise, dtype=float)
    changes = rise, A @ rise, rms
    return watch.prove(lambda t, y: A @ y, 1.0, y, A @ y, np.asarray(err, dtype=float), h, changes)


def proved(solution):
    return [e for e in solution.stiffness if e.verdict is not Stiffness.non_stiff]


# Suspicion ----------------------------------------------------------------------------------------


def test_quiet_looks_keep_the_interval():
    watch = detector(interval=7)
    for _ in range(5):
        assert not watch.suspicious(0.1, 0.5, 10.0, 1000.0, 0.1)
        assert watch.wait == 7
    assert (watch.hits, watch.steps, watch.nfev) == (0, 35, 0)


@pytest.mark.parametrize("looks", [1, 2, 3])
def test_unexplained_error_makes_a_case_after_some_looks(looks):
    watch = detector(looks=looks)
    # kappa = 0.01: the path explains next to nothing of a ratio of 0.5.
    found = [watch.suspicious(0.1, 0.5, 10.0, 1.0, 0.0) for _ in range(looks)]
    assert found == [False] * (looks - 1) + [True]
    assert watch.wait == 1


def test_stage_ratio_alone_makes_a_case():
    stage = 0.71 * TSIT5.real_stability_limit / 0.1
    assert detector(looks=1).suspicious(-0.1, 0.0, 10.0, 100.0, stage)
    assert not detector(looks=1).suspicious(0.1, 0.0, 10.0, 100.0, 0.95 * stage)


def test_a_quiet_look_clears_the_count():
    watch = detector(looks=2)
    assert not watch.suspicious(0.1, 0.5, 10.0, 1.0, 0.0)
    assert not watch.suspicious(0.1, 0.5, 10.0, 1000.0, 0.0)
    assert not watch.suspicious(0.1, 0.5, 10.0, 1.0, 0.0)


def test_a_mode_that_limits_steps_and_explains_its_error_turns_the_path():
    """bosh3 takes the stage ratio of a step that is `turned`, or not explained, alone."""
    tableau = sk.METHODS["bosh3"]
    norm, q, rise = tableau.pair_quality.A_hat, tableau.error_order, 1e6
    for angle in np.linspace(np.pi / 2, np.pi, 19):
        limit = tableau.stability_limit(angle)
        for size in np.linspace(StiffnessDetector.PROOF, 1.0, 20) * limit:
            z = size * np.exp(1j * angle)
            grown = abs(tableau.R(z) - 1)
            made = abs(tableau.R(z) - tableau.R(z, "b_hat"))
            for share in np.geomspace(1e-4, 1.0, 50):  # of the change that is the mode's
                turn, ratio = share * size * rise, made / grown * share * rise
                left = unexplained(ratio, smooth_error(1.0, rise, turn, norm, q), q)
                # |z| comes down to 0.98 of the 1 that it is taken for.
                assert left or turned(1.0, ratio, rise, turn / 0.98, q)


def test_a_path_that_explains_its_error_needs_no_stage_ratio():
    def asked(method, *measures):
        calls = []
        StiffnessDetector(sk.METHODS[method]).suspicious(*measures, lambda: calls.append(1) or 0.0)
        return bool(calls)

    watch = StiffnessDetector(sk.METHODS["bosh3"])
    smooth = smooth_error(0.1, 100.0, 100.0, watch.error_norm, watch.order)  # kappa = 0.1
    assert not asked("bosh3", 0.1, smooth, 100.0, 100.0)
    assert asked("bosh3", 0.1, 10 * smooth, 100.0, 100.0)
    assert asked("bosh3", 0.1, smooth, 100.0, 150.0)
    assert not asked("bosh3", 0.1, 1e-4, 1e-2, 1.0)  # an error so small may be rounding
    assert asked("midpoint", 0.1, 0.5, 100.0, 1.0)
    assert asked("tsit5", 0.1, smooth, 100.0, 100.0)  # a probe's is free


@pytest.mark.parametrize("stage", [0.0, 0.6, 0.8])
def test_a_stage_ratio_may_be_told_when_it_is_asked_for(stage):
    at_once, later = detector(looks=1), detector(looks=1)
    measures = (0.1, 0.5, 10.0, 1000.0)
    rate = stage * TSIT5.real_stability_limit / 0.1
    assert at_once.suspicious(*measures, rate) == later.suspicious(*measures, lambda: rate)
    assert at_once.near == later.near == pytest.approx(stage)


@pytest.mark.parametrize("method", ["tsit5", "dop853"])
@pytest.mark.parametrize("growth", [1e-3, 0.0, -1e-3])
def test_a_mode_beside_the_imaginary_axis_limits_steps_whatever_its_sign(growth, method):
    A = np.array([[growth, 1000, 0], [-1000, growth, 0], [0, 0, -1]])
    solution = sk.solve(
        lambda t, y: A @ y + [0, 0, np.cos(t + 0.5)], (0.0, 2.0), [1e-11, 0.0, 1.0], method
    )
    assert "oscillatory" in solution.message
    assert proved(solution)[-1].stability_ratio <= 1.1


@pytest.mark.parametrize("method", ["heun", "midpoint"])
def test_a_small_stage_ratio_of_the_error_passes_a_look(method):
    """It tells all that `suspicious` would: no error can be unexplained then."""
    watch = StiffnessDetector(sk.METHODS[method])
    assert watch.stage_first
    rate = QUIET * watch.limit / 0.1
    assert watch.passes(-0.1, 0.99 * rate)
    assert (watch.steps, watch.wait) == (watch.interval, watch.interval)
    assert not watch.suspicious(0.1, 0.5, 10.0, 1.0, 0.99 * rate)
    assert not watch.passes(0.1, 1.01 * rate)
    watch.suspicious(0.1, 0.5, 10.0, 1.0, 1.01 * rate)
    assert watch.hits == 1
    watch.state = Stiffness.stiff  # a verdict may lapse: all is looked at
    assert not watch.passes(0.1, 0.0)


@pytest.mark.parametrize("method", ["bosh3", "dopri5", "tsit5"])
def test_else_the_path_is_looked_at_too(method):
    assert not StiffnessDetector(sk.METHODS[method]).stage_first


def test_rounding_is_no_evidence():
    assert not detector(looks=1).suspicious(0.1, 9e-4, 1e-3, 1e-9, 0.0)


def test_smooth_error_is_the_formula():
    watch = detector()
    h, rise, turn = 0.2, 50.0, 100.0
    watch.suspicious(h, 0.5, rise, turn, 0.0)
    kappa, q = h * turn / rise, TSIT5.error_order
    smooth = TSIT5.pair_quality.A_hat * kappa**q * rise
    assert watch.accuracy_step == pytest.approx(h * (0.5 / smooth) ** (1 / (q + 1)), rel=1e-14)


@pytest.mark.parametrize(("rise", "turn"), [(0.0, 0.0), (0.0, 1.0), (1.0, 0.0)])
def test_a_path_that_does_not_turn_allows_any_step(rise, turn):
    watch = detector()
    watch.suspicious(0.1, 0.0, rise, turn, 0.0)
    assert watch.accuracy_step == math.inf


def test_a_method_without_estimate_is_refused():
    with pytest.raises(ValueError, match="rk4"):
        StiffnessDetector(sk.METHODS["rk4"])


# Proof --------------------------------------------------------------------------------------------


def test_proof_of_a_real_mode():
    watch = detector()
    found = prove(watch, np.diag([-1000.0, -1.0, -2.0]), 0.0033, [1, 0, 0], [0, 1, 1])
    assert found.eigenvalue == pytest.approx(-1000, rel=0.02)
    assert found.stability_ratio == pytest.approx(3.3 / TSIT5.real_stability_limit, rel=0.02)
    assert found.verdict in (Stiffness.mildly_stiff, Stiffness.stiff)
    assert watch.state is found.verdict
    assert watch.since == found.t == 1.0
    assert watch.nfev == found.products >= 2
    assert watch.evidence == [found]


@pytest.mark.parametrize(
    ("block", "verdict"),
    [
        ([[-700, 700], [-700, -700]], Stiffness.stiff),
        ([[-300, 1000], [-1000, -300]], Stiffness.oscillatory),
    ],
)
def test_proof_of_a_complex_pair(block, verdict):
    A = np.zeros((3, 3))
    A[:2, :2] = block
    A[2, 2] = -1
    h = 0.9 * TSIT5.stability_limit(np.angle(complex(*block[0]))) / np.hypot(*block[0])
    found = prove(detector(), A, h, [1, 0.5, 1e-3], [0, 0, 1])
    assert abs(found.eigenvalue) == pytest.approx(np.hypot(*block[0]), rel=0.05)
    assert found.stability_ratio == pytest.approx(0.9, rel=0.1)
    # On the diagonal |Im| = |Re| rounding decides between the two names.
    allowed = {verdict, Stiffness.oscillatory}
    assert found.verdict in allowed


def test_many_stages_are_stiff_few_are_mild():
    h, err = 0.0033, [1, 0]
    mild = prove(detector(), np.diag([-1000.0, -1.0]), h, err, [0, 1])
    assert mild.verdict is Stiffness.mildly_stiff
    assert abs(mild.eigenvalue) * mild.accuracy_step < 50**2
    stiff = prove(detector(), np.diag([-1000.0, -1e-3]), h, err, [0, 1])
    assert stiff.verdict is Stiffness.stiff
    assert abs(stiff.eigenvalue) * stiff.accuracy_step > 50**2


@pytest.mark.parametrize(
    ("rate", "h"),
    [(1000.0, 0.0033), (-1000.0, 0.5 * 0.0035), (-1000.0, -0.0033)],
    ids=["growing", "half the limit", "backward"],
)
def test_no_proof(rate, h):
    watch = detector()
    found = prove(watch, np.diag([rate, -1.0]), h, [1, 0], [0, 1])
    assert found.verdict is Stiffness.non_stiff
    assert watch.state is Stiffness.non_stiff
    assert watch.since is None


def test_backward_in_time_a_growing_mode_limits_the_step():
    found = prove(detector(), np.diag([1000.0, 1.0]), -0.0033, [1, 0], [0, 1])
    assert found.verdict is not Stiffness.non_stiff


def test_the_mode_is_taken_out_of_the_path():
    # The path turns fast, but along the mode alone.
    A, h = np.diag([-1000.0, -1.0]), 0.0033
    rise = np.array([1e6, 1.0])
    watch = detector()
    watch.suspicious(h, 0.5, rms(rise), rms(A @ rise), 0.0)
    assert watch.accuracy_step < h
    found = prove(watch, A, h, [1, 0], rise)
    assert found.accuracy_step > 2 * h
    assert found.verdict is not Stiffness.non_stiff


def test_accuracy_acquits():
    found = prove(detector(), np.diag([-1000.0, 900.0]), 0.0033, [1, 0], [0, 1e6])
    assert found.accuracy_step < 2 * 0.0033
    assert found.verdict is Stiffness.non_stiff


def test_failures_make_the_next_case_wait_longer():
    watch = detector(interval=5)
    pauses = []
    for _ in range(9):
        prove(watch, -np.eye(2), 0.1, [1, 0], [0, 1])
        pauses.append(watch.resume - watch.steps)
        assert watch.wait == 5  # looks are free: they go on
    assert pauses == [10, 20, 40, 80, 160, 320, 640, 1000, 1000]
    prove(watch, np.diag([-1000.0, -1.0]), 0.0033, [1, 0], [0, 1])
    assert watch.wait == 25
    assert watch.pause == 5


@pytest.mark.parametrize("err", [[0.0, 0.0], [1e-300, 0.0]])
def test_a_vanishing_error_estimate_is_no_obstacle(err):
    found = prove(detector(), np.diag([-1000.0, -1.0]), 0.0033, err, [0, 1])
    assert found.eigenvalue == pytest.approx(-1000, rel=0.1)


def test_one_equation():
    found = prove(detector(), [[-1000.0]], 0.0033, [1], [1])
    assert found.eigenvalue == pytest.approx(-1000)
    assert found.products == 3  # one for λ, two to take its mode out of the path


def test_a_verdict_lapses_after_quiet_looks():
    watch = detector(interval=10, looks=2)
    prove(watch, np.diag([-1000.0, -1.0]), 0.0033, [1, 0], [0, 1])
    for state in (Stiffness.mildly_stiff, Stiffness.non_stiff):
        watch.suspicious(0.1, 0.5, 10.0, 1000.0, 0.0)
        assert (watch.state is Stiffness.non_stiff) == (state is Stiffness.non_stiff)
    assert watch.since is None
    # The look at a verdict comes after five intervals, the next one after one.
    assert watch.stiff_steps == 60


# Rest ---------------------------------------------------------------------------------------------


def look(watch, h, *, stage=0.0, ratio=0.5, rise=10.0, turn=1.0):
    return watch.suspicious(h, ratio, rise, turn, stage)


def examine(watch, A, h, err, rise, f=None):
    A = np.asarray(A, dtype=float)
    y = np.ones(len(A))
    rise, err = np.asarray(rise, dtype=float), np.asarray(err, dtype=float)
    watch.examine(f or (lambda t, y: A @ y), 1.0, y, A @ y, err, h, (rise, A @ rise, rms))


def test_a_case_that_rests_is_followed_and_reopened_when_its_mode_comes_near():
    watch, slow, h = detector(interval=5, looks=2), [0.0, 1.0], 1e-3

    def meet(rate):
        """One suspicious look, and what comes of it, where the fast mode has this rate."""
        if look(watch, h):
            examine(watch, np.diag([-rate, -1.0]), h, [1, 0], slow)
        return watch.wait

    assert [meet(1000.0), meet(1000.0)] == [1, 5]  # a proof that fails: hρ = 1
    assert len(watch.evidence) == 1
    calls = watch.nfev
    assert meet(1500.0) == 5  # it rests; one call tells that hρ = 1.5 is not enough
    assert (watch.nfev, len(watch.evidence)) == (calls + 1, 1)
    assert meet(3300.0) == 1  # hρ = 3.3 is: looks at successive steps again
    assert meet(3300.0) == 25
    assert watch.state is not Stiffness.non_stiff
    assert watch.evidence[-1].eigenvalue == pytest.approx(-3300, rel=0.01)


def test_a_mode_that_grew_is_not_waited_for():
    watch = detector(looks=1)
    assert look(watch, 1e-3)
    examine(watch, np.diag([1000.0, -1.0]), 1e-3, [1, 0], [0, 1])
    assert watch.evidence[-1].verdict is Stiffness.non_stiff
    assert not look(watch, 1e-3)


@pytest.mark.parametrize("quietly", [False, True])
def test_once_a_growing_stretch_is_over_the_next_case_waits_for_nothing(quietly):
    """A jump ends at the limit of stability: a proof within it tells nothing of that."""
    for rate, waits in ((1000.0, False), (-1000.0, True)):
        watch = detector(interval=5, looks=1)
        assert look(watch, 1e-3)
        examine(watch, np.diag([rate, -1.0]), 1e-3, [1, 0], [0, 1])
        assert watch.evidence[-1].verdict is Stiffness.non_stiff
        assert watch.rests
        if quietly:  # as the compiled loop tells of looks without signs
            watch.pass_over(1)
        else:
            assert not look(watch, 1e-3, ratio=0.0)
        assert watch.rests is waits


def test_steps_that_grow_fast_make_no_case():
    watch = detector(looks=2)
    grown = [look(watch, h) for h in (1.0, 1.2, 1.44, 1.8)]
    assert not any(grown)
    assert watch.wait == 1
    assert look(watch, 1.85)


def test_a_verdict_stands_while_its_mode_limits_the_step():
    watch = detector(interval=10, looks=1)
    prove(watch, np.diag([-1000.0, -1.0]), 0.0033, [1, 0], [0, 1])
    # A small error is no sign, but the step is where the proof found it, and the path is smooth.
    assert not look(watch, 0.0033, ratio=1e-4)
    assert watch.state is not Stiffness.non_stiff
    assert not look(watch, 0.001, ratio=1e-4)
    assert watch.state is Stiffness.non_stiff


@pytest.mark.parametrize(
    "broken", [np.nan, np.inf, ValueError, ZeroDivisionError, RuntimeError, IndexError]
)
def test_where_f_fails_beside_the_path_nothing_is_proved(broken):
    def f(t, y):
        if isinstance(broken, type):
            raise broken
        return np.full_like(y, broken)

    watch = detector(looks=1)
    assert look(watch, 0.0033)
    examine(watch, np.diag([-1000.0, -1.0]), 0.0033, [1, 0], [0, 1], f)
    assert not watch.evidence
    assert watch.rests
    assert watch.nfev >= 1


def test_a_solve_survives_an_f_that_fails_beside_its_path():
    """The root exists on the path only: y[1] stays 0, and differences leave it."""

    def f(t, y):
        return np.array([-1000 * (y[0] - math.cos(t)), -math.sqrt(-abs(y[1]))])

    solution = sk.solve(f, (0.0, 2.0), [0.0, 0.0], "tsit5", rtol=1e-5)
    plain = sk.solve(f, (0.0, 2.0), [0.0, 0.0], "tsit5", rtol=1e-5, detect=False)
    assert solution.success
    np.testing.assert_array_equal(solution.y, plain.y)


@given(seed=st.integers(0, 2**20), size=st.integers(3, 8), pair=st.booleans())
def test_the_filter_takes_out_the_mode_and_leaves_the_slow_ones(seed, size, pair):
    """(1 − J/λ) is exact for any J: eigenvectors need not be orthogonal."""
    rng = np.random.default_rng(seed)
    fast = np.array([[-1e4, 2e3], [-2e3, -1e4]]) if pair else np.array([[-1e4]])
    m = len(fast)
    D = np.zeros((size, size))
    D[:m, :m], D[m:, m:] = fast, np.diag(-rng.uniform(0, 1, size - m))
    X = rng.standard_normal((size, size)) + 2 * np.eye(size)
    J = X @ D @ np.linalg.inv(X)
    value = complex(-1e4, 2e3) if pair else complex(-1e4)
    slack = 1e3 * np.finfo(float).eps * np.linalg.cond(X) ** 2
    mode, slow = X[:, :m] @ rng.standard_normal(m), X[:, m:] @ rng.standard_normal(size - m)
    rise = np.stack([mode, slow])
    turn = rise @ J.T
    left = slow_path(rise, turn, turn @ J.T, np.full(2, value), lambda v: v @ J.T)
    for kept in (left[0][0], left[1][0]):
        assert np.linalg.norm(kept) <= 1e4 * slack * np.linalg.norm(mode)
    # What changes at the rate μ is multiplied by 1 − μ/λ, or (1 − μ/λ)(1 − μ/λ̄): |μ/λ| is 1e-4.
    for kept, was in ((left[0][1], slow), (left[1][1], J @ slow)):
        change, whole = np.linalg.solve(X, np.stack([kept - was, was], axis=1)).T
        assert np.linalg.norm(change) <= 3e-4 * np.linalg.norm(whole) + 1e4 * slack


@pytest.mark.parametrize("rate", [300.0, 3000.0])
def test_a_force_along_the_fast_mode_is_path(rate):
    """y follows cos t: accuracy allows what it would for y' = -sin t, not any step."""

    def relax(t, y):
        return -rate * (y - np.cos(t)) - np.sin(t)

    options = {"rtol": 1e-5, "atol": 1e-7}
    slow = sk.solve(lambda t, y: -np.sin(t) + 0 * y, (0.0, 6.0), [1.0], "dopri5", **options)
    steps = [
        e.accuracy_step for e in proved(sk.solve(relax, (0.0, 6.0), [1.0], "dopri5", **options))
    ]
    typical = np.median(np.diff(slow.t))
    assert 0.2 * typical < np.median(steps) < 5 * typical


def test_a_path_that_turns_too_fast_overflows_nothing():
    watch = detector()
    assert not watch.suspicious(1.0, 0.5, 1.0, 1e300, 0.0)
    assert watch.accuracy_step < 1e-20


@pytest.mark.parametrize(
    "options",
    [{"interval": 0}, {"looks": 0}, {"first": -1}, {"first": 0}, {"looks": 2.5}, {"interval": "a"}],
)
def test_counts_must_be_positive_integers(options):
    with pytest.raises(ValueError, match=next(iter(options))):
        detector(**options)


def test_a_name_is_no_tableau():
    with pytest.raises(TypeError, match="'tsit5'"):
        StiffnessDetector("tsit5")


# Summary ------------------------------------------------------------------------------------------


def evidence(t, verdict=Stiffness.stiff, **changes):
    values = {"h": 0.0035, "eigenvalue": -1000 + 0j, "residual": 0.0, "stability_ratio": 1.0}
    values |= {"accuracy_step": 0.5, "products": 2, "verdict": verdict}
    return Evidence(t=t, **(values | changes))


def summary(steps, entered, proofs, *, state=Stiffness.stiff):
    watch = detector()
    watch.evidence, watch.state = proofs, state
    watch.steps, watch._entered = steps, entered
    return watch.summary()


def test_nothing_proved_says_nothing():
    assert summary(1000, 0, []) is None
    assert summary(1000, 0, [evidence(1.0, Stiffness.non_stiff)]) is None


@pytest.mark.parametrize(
    ("steps", "stiff", "speaks"), [(100, 19, False), (100, 20, True), (1000, 99, False)]
)
def test_short_phases_are_not_mentioned(steps, stiff, speaks):
    proofs = [evidence(1.0), evidence(2.0)]
    assert (summary(steps, steps - stiff, proofs) is not None) == speaks
    assert summary(steps, 0, [evidence(1.0)]) is None  # one proof alone is not mentioned


def test_message_text():
    text = summary(1000, 0, [evidence(1.0), evidence(5.0)])
    assert text == (
        "limited by stability since t = 1: stiff, hρ = 3.5 at the limit 3.5 of tsit5; try "
        "method='auto', or an implicit method such as 'rodas5p'"
    )


@pytest.mark.parametrize(
    ("n", "rtol", "other"), [(3, 1e-4, "rodas5p"), (32, 1e-4, "rock4"), (32, 1e-8, "rodas5p")]
)
@pytest.mark.parametrize("batched", [False, True])
def test_the_advice_is_what_auto_would_take(n, rtol, other, batched):
    """Mildly stiff, with a real spectrum: a stabilised method only where auto goes to one."""
    rates = np.linspace(1.0, 1000.0, n)

    def f(t, y):
        return -rates * (y - np.cos(t)[..., None]) - np.sin(t)[..., None]

    options = {"rtol": rtol, "atol": rtol, "t_eval": [6.0]}
    if batched:
        s = sk.solve(f, (0.0, 6.0), np.ones((2, n)), "tsit5", batched=True, **options)
        message, last = s.message[0], proved(s[0])[-1]
    else:
        s = sk.solve(f, (0.0, 6.0), np.ones(n), "tsit5", **options)
        message, last = s.message, proved(s)[-1]
    assert last.verdict is Stiffness.mildly_stiff
    assert message.endswith(f"method such as {other!r}")
    tried = re.search(r"(\w+) takes", message)
    assert tried is None or tried[1] == other
    report = sk.diagnose(f, 3.0, np.full(n, math.cos(3.0)), rtol=rtol, atol=rtol)
    if "Mildly stiff" in report.verdict:
        assert ("a stabilised explicit method fits" in report.verdict) == (other == "rock4")


# Solves -------------------------------------------------------------------------------------------


def linear(values):
    """y' = A y with these eigenvalues (pairs by their upper member), in mixed coordinates."""
    blocks = []
    for value in values:
        a, b = complex(value).real, complex(value).imag
        blocks.append(np.array([[a, b], [-b, a]]) if b else np.array([[a]]))
    n = sum(map(len, blocks))
    A, i = np.zeros((n, n)), 0
    for block in blocks:
        A[i : i + len(block), i : i + len(block)] = block
        i += len(block)
    Q = np.linalg.qr(np.random.default_rng(n).standard_normal((n, n)))[0]
    A = Q @ A @ Q.T
    return A, Q @ np.ones(n)


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "bosh3", "vern7", "dop853"])
@pytest.mark.parametrize("values", [[-2000, -1, -0.5], [-1000 + 1000j, -1], [-500 + 1500j, -0.5]])
def test_prescribed_spectra_are_found(method, values):
    A, y0 = linear(values)
    solution = sk.solve(lambda t, y: A @ y, (0.0, 3.0), y0, method, rtol=1e-5, atol=1e-7)
    found = proved(solution)
    assert found
    assert "limited by stability" in solution.message
    top = max(abs(complex(v)) for v in values)
    for e in found:
        assert abs(e.eigenvalue) == pytest.approx(top, rel=0.1)
        assert e.eigenvalue.real < 0
    if values[0] == -500 + 1500j:
        assert found[0].verdict is Stiffness.oscillatory
    if values[0] == -2000:
        assert found[0].verdict in (Stiffness.mildly_stiff, Stiffness.stiff)


@pytest.mark.parametrize("method", ["dopri5", "tsit5", "vern7", "bosh3"])
@pytest.mark.parametrize(
    ("f", "y0"),
    [
        (decay, [1.0]),
        (oscillator, [1.0, 0.0]),
        (pendulum, [1.0, 0.5]),
        (van_der_pol, [2.0, 0.0]),
        (lambda t, y: y * math.cos(t), [1.0]),
        (lambda t, y: np.array([2 * (y[0] - y[0] * y[1]), y[0] * y[1] - y[1]]), [1.0, 3.0]),
        (lambda t, y: np.array([y[1] * y[2], -y[0] * y[2], -0.51 * y[0] * y[1]]), [0.0, 1.0, 1.0]),
    ],
    ids=["A1", "circle", "pendulum", "E2", "A3", "B1", "B5"],
)
def test_no_alarm_where_nothing_is_stiff(method, f, y0):
    for rtol in (1e-5, 1e-8):
        solution = sk.solve(f, (0.0, 12.0), y0, method, rtol=rtol, atol=1e-2 * rtol)
        assert not proved(solution)
        assert "stability" not in solution.message


@pytest.mark.parametrize("method", ["dopri5", "tsit5"])
@pytest.mark.parametrize("rtol", [1e-3, 1e-5, 1e-7])
def test_stiff_phase_is_found_within_30_steps(method, rtol):
    """From the start on the path: all steps but the first few are limited by stability."""

    def relax(t, y):
        return -5000 * (y - [math.cos(t), math.sin(t)]) + [-math.sin(t), math.cos(t)]

    solution = sk.solve(relax, (0.0, 1.0), [1.0, 0.0], method, rtol=rtol, atol=rtol, log=True)
    log = solution.log
    taken = log["accepted"]
    h, ends = log["h"][taken], (log["t"] + log["h"])[taken]
    limited = 5000 * h > 0.7 * sk.METHODS[method].real_stability_limit
    start = int(np.argmax(limited))
    found = proved(solution)[0]
    assert int(np.searchsorted(ends, found.t * (1 - 1e-12))) - start <= 30


@pytest.mark.parametrize("method", ["tsit5", "bosh3", "dop853"])
@pytest.mark.parametrize("detect", [True, False])
def test_every_call_is_counted(method, detect):
    f = counted(lambda t, y: -1000 * (y - math.cos(t)))
    solution = sk.solve(f, (0.0, 2.0), [0.0], method, detect=detect)
    assert solution.stats["nfev"] == f.calls
    assert bool(solution.stiffness) == detect
    assert ("stability" in solution.message) == detect


def test_the_detector_leaves_the_solution_alone():
    runs = [
        sk.solve(lambda t, y: -1000 * (y - math.cos(t)), (0.0, 1.0), [0.0], detect=detect)
        for detect in (True, False)
    ]
    np.testing.assert_array_equal(runs[0].y, runs[1].y)


def test_proofs_cost_little():
    solution = sk.solve(lambda t, y: -1000 * (y - math.cos(t)), (0.0, 5.0), [0.0], "tsit5")
    plain = sk.solve(
        lambda t, y: -1000 * (y - math.cos(t)), (0.0, 5.0), [0.0], "tsit5", detect=False
    )
    cost = solution.stats["nfev"] - plain.stats["nfev"]
    proofs = sum(e.products for e in solution.stiffness)
    assert proofs <= 0.02 * plain.stats["nfev"]
    assert proofs < cost <= 0.08 * plain.stats["nfev"]  # the other method was tried, for 5 %


def test_the_message_tells_what_another_method_takes():
    def robertson(t, y):
        a, b, c = 0.04 * y[0], 1e4 * y[1] * y[2], 3e7 * y[1] ** 2
        return np.array([b - a, a - b - c, c])

    tolerances = {"rtol": 1e-5, "atol": 1e-9}
    solution = sk.solve(robertson, (0.0, 5.0), [1.0, 0.0, 0.0], "dopri5", **tolerances)
    found = proved(solution)
    told = re.search(r"(\w+) takes (\d+) steps from there, dopri5 took (\d+)", solution.message)
    method, taken, made = told[1], int(told[2]), int(told[3])
    assert made == pytest.approx(
        ((solution.t > found[0].t) & (solution.t <= found[-1].t)).sum(), abs=5
    )
    start = solution.y[np.searchsorted(solution.t, found[0].t)]
    span = found[0].t, found[-1].t
    there = sk.solve(robertson, span, start, method, detect=False, **tolerances)
    assert there.stats["accepted"] == taken
    assert taken < 0.2 * made


def _heat(t, y):
    """60 points of the heat equation, driven."""
    inside = np.concatenate([[0.0], y, [0.0]])
    return 3000 * (inside[2:] - 2 * y + inside[:-2]) + math.cos(t)


def _relaxation(t, y):
    return np.array([y[1], 200 * (1 - y[0] ** 2) * y[1] - y[0]])


def _follower(t, y):
    return -1000 * (y - math.cos(t))


@pytest.mark.parametrize(
    ("f", "y0", "t1", "rtol"),
    [
        (_heat, np.ones(60), 1.0, 1e-3),
        (_heat, np.ones(60), 1.0, 1e-6),  # a trial that covers little: nothing is told of it
        (_relaxation, np.array([2.0, 0.0]), 60.0, 1e-3),
    ],
)
@pytest.mark.parametrize("method", ["tsit5", "bosh3"])
def test_what_the_message_foretells_comes_true(f, y0, t1, rtol, method):
    options = {"rtol": rtol, "atol": 1e-3 * rtol}
    solution = sk.solve(f, (0.0, t1), y0, method, **options)
    assert "limited by stability" in solution.message
    told = re.search(r"(\w+) takes (?:about )?(\d+) steps from there", solution.message)
    assert told or (f, rtol) == (_heat, 1e-6)
    if told:
        first, *_, last = proved(solution)
        start = solution.y[np.searchsorted(solution.t, first.t)]
        there = sk.solve(f, (first.t, last.t), start, told[1], detect=False, **options)
        assert 0.6 <= int(told[2]) / there.stats["accepted"] <= 1.6


def test_the_first_short_steps_of_a_trial_foretell_little():
    ends = np.concatenate([[0.0], np.cumsum(2.0 ** np.arange(8)), 255.0 + 128.0 * np.arange(1, 9)])
    assert steps_until(float(ends[-1]), ends.tolist()) == 16
    assert steps_until(float(ends[-1]), ends[:13].tolist()) == 16
    assert steps_until(-float(ends[-1]), (-ends[:13]).tolist()) == 16
    assert steps_until(float(ends[-1]), ends[:7].tolist()) is None
    assert steps_until(1.0, [0.0]) is None


def test_the_longer_a_stretch_the_rarer_its_proofs():
    counts = [
        len(sk.solve(_follower, (0.0, t1), [0.0], "tsit5").stiffness) for t1 in (5.0, 20.0, 80.0)
    ]
    assert counts[0] < counts[1] < counts[2]
    # By a quarter each time: log 4 / log 1.25 = 6.2 more for a stretch 4 times as long.
    assert counts[2] - counts[1] <= 8


def test_a_trial_that_fails_is_not_mentioned():
    class Refusing:
        """Lets the solve through, and nothing after it."""

        over = False

        def __call__(self, t, y):
            if self.over and t < 1.9:
                raise ValueError
            self.over = self.over or t == 2.0
            return -1000 * (y - math.cos(t))

    solution = sk.solve(Refusing(), (0.0, 2.0), [0.0], "dopri5")
    assert solution.success
    assert "limited by stability" in solution.message
    assert "from there" not in solution.message


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_torch_finds_what_numpy_finds(dtype):
    rates = torch.tensor([-1000.0, -1.0, -2.0], dtype=dtype)
    y0 = torch.ones(3, dtype=dtype)
    options = {"rtol": 1e-4, "atol": 1e-6}
    ours = sk.solve(lambda t, y: rates * y, (0.0, 2.0), y0, **options)
    plain = rates.numpy().astype(float)
    numpy = sk.solve(lambda t, y: plain * y, (0.0, 2.0), np.ones(3), **options)
    assert proved(ours)
    assert proved(numpy)
    a, b = proved(ours)[0], proved(numpy)[0]
    assert a.eigenvalue.real == pytest.approx(b.eigenvalue.real, rel=0.05)
    assert a.verdict is b.verdict
    if dtype == torch.float64:
        assert a.t == pytest.approx(b.t, rel=1e-6)


def test_complex_states():
    rates = np.array([-1000 + 100j, -1.0])
    solution = sk.solve(lambda t, y: rates * y, (0.0, 2.0), np.ones(2, dtype=complex))
    assert proved(solution)[0].eigenvalue == pytest.approx(-1000 + 100j, rel=0.05)


def test_backward_solves_are_watched_too():
    solution = sk.solve(lambda t, y: 1000 * (y - math.cos(t)), (0.0, -1.0), [0.0], "tsit5")
    assert proved(solution)[0].eigenvalue == pytest.approx(1000, rel=0.01)
    assert "stability" in solution.message


def test_it_is_silent_on_request(caplog):
    with caplog.at_level("INFO", logger="stiffkit"):
        quiet = sk.solve(lambda t, y: -1e3 * (y - 1), (0, 5), [0.0], "dopri5", detect=False)
        loud = sk.solve(lambda t, y: -1e3 * (y - 1), (0, 5), [0.0], "dopri5")
    assert quiet.message == sk.Status.success.value
    assert quiet.stiffness == ()
    assert "limited by stability" in loud.message
    assert len(caplog.records) == 1


def test_the_finding_is_logged(caplog):
    with caplog.at_level("INFO", logger="stiffkit"):
        sk.solve(lambda t, y: -1000 * (y - math.cos(t)), (0.0, 1.0), [0.0], "tsit5")
        assert "limited by stability" in caplog.text
        caplog.clear()
        sk.solve(decay, (0.0, 1.0), [1.0])
        assert not caplog.text


@pytest.mark.parametrize("more", [{"grid": 5000}, {"guide": lambda step, probe: step.y_new}])
def test_grids_and_guides_are_not_watched(more):
    solution = sk.solve(lambda t, y: -1000 * (y - math.cos(t)), (0.0, 1.0), [0.0], **more)
    assert solution.stiffness == ()


@pytest.mark.parametrize("rate", [1e3, 1e5])
@pytest.mark.parametrize("method", ["dopri5", "tsit5", "vern7"])
def test_a_stiff_solution_at_rest_is_limited_by_stability(method, rate):
    """Rounding is all that changes there, and is no fast path."""
    solution = sk.solve(
        lambda t, y: -rate * (y - 1), (0.0, 2000 / rate), [0.0], method, rtol=1e-5, atol=1e-7
    )
    assert "limited by stability" in solution.message
    auto = sk.solve(lambda t, y: -rate * (y - 1), (0.0, 1.0), [0.0], rtol=1e-5, atol=1e-7)
    assert [s.target for s in auto.switches] in (["radau5"], ["radau9"])
    assert auto.stats["nfev"] < 600
