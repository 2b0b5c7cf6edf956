"""Compiled ESDIRK and Radau solves are the interpreted ones: in every count and word."""

import numpy as np
import pytest
from compiled_pair import Interpreted, both, loops
from test_compiled_stiff import driven, hires, nan_late, robertson, robertson_jac

import stiffkit as sk
from stiffkit import Status
from stiffkit.solvers.implicit import kvaerno3

# The first solve of a signature compiles its loop.
pytestmark = pytest.mark.timeout(600)

numba = pytest.importorskip("numba")

NEWTON = (
    "trbdf2", "kvaerno3", "kvaerno4", "kvaerno5", "kencarp3", "kencarp4", "kencarp5",
    "radau5", "radau9",
)  # fmt: skip
ONE_OF_EACH = ("kencarp4", "radau5")


@sk.jit
def van_der_pol(t, y):
    return np.array([y[1], 1e3 * ((1 - y[0] ** 2) * y[1] - y[0])])


@sk.jit
def square(t, y):
    return y * y


@sk.jit
def nan_at_once(t, y):
    return -y * (np.nan if t > 0 else 1.0)


@sk.jit
def turn(t, y):
    return -100.0j * (y - np.exp(1j * t)) - 10.0 * y**2


NONLINEAR = [
    (robertson, (0.0, 1e5), [1.0, 0.0, 0.0], 1e-6),
    (hires, (0.0, 50.0), [1.0, 0, 0, 0, 0, 0, 0, 0.0057], 1e-3),
    (van_der_pol, (0.0, 1.0), [2.0, -0.66], 1.0),
    (van_der_pol, (0.1, 0.0999), [1.8, -0.8], 1.0),
]


@pytest.mark.parametrize("method", NEWTON)
@pytest.mark.parametrize(("f", "span", "y0", "atol"), NONLINEAR)
def test_counts_are_equal_and_states_to_rounding(f, span, y0, atol, method, monkeypatch):
    taken = loops(monkeypatch)
    for rtol in (1e-2, 1e-3, 1e-5):
        tolerances = {"rtol": rtol, "atol": rtol * atol}
        ours, theirs = both(f, span, y0, method, log=True, **tolerances)
        assert ours.status is Status.success
        # J's quotients differ by 1e-8 at most, and so do corrections, of their size; these are
        # above the tolerance at the first iteration only.
        scale = tolerances["atol"] + rtol * np.abs(theirs.y[-1])
        assert (np.abs(ours.y[-1] - theirs.y[-1]) / scale).max() < 1e-3
    assert len(taken) == 3


@pytest.mark.parametrize("method", NEWTON)
@pytest.mark.parametrize(("f", "span", "y0", "atol"), NONLINEAR[1:])
def test_steps_that_are_looked_into(f, span, y0, atol, method, monkeypatch):
    """Examined inside, by both loops; polynomials differ by as little as states do."""
    taken = loops(monkeypatch)
    t_eval = np.linspace(*span, 9)[1:-1]
    for options in ({"t_eval": t_eval}, {"dense": True}, {"dense": True, "t_eval": t_eval}):
        options |= {"rtol": 1e-4, "atol": 1e-4 * atol, "log": True}
        ours, theirs = both(f, span, y0, method, **options)
        scale = 1e-4 * (atol + np.abs(theirs.y[-1]))
        assert (np.abs(ours.y[-1] - theirs.y[-1]) / scale).max() < 1e-3
        if "t_eval" in options:
            assert (np.abs(ours.y - theirs.y) / scale).max() < 1e-2
        if "dense" in options:
            assert (np.abs(ours(t_eval) - theirs(t_eval)) / scale).max() < 1e-2
    assert len(taken) == 3


@pytest.mark.parametrize("method", ONE_OF_EACH)
def test_events(method, monkeypatch):
    taken = loops(monkeypatch)

    @sk.jit
    def half(t, y):
        return y[0] - 1.5

    options = {"rtol": 1e-5, "atol": 1e-5, "events": half, "dense": True}
    ours = sk.solve(van_der_pol, (0.0, 1.0), [2.0, -0.66], method, **options)
    theirs = sk.solve(Interpreted(van_der_pol), (0.0, 1.0), [2.0, -0.66], method, **options)
    assert ours.stats == theirs.stats
    assert len(ours.events[0].t) == 1
    np.testing.assert_allclose(ours.events[0].t, theirs.events[0].t, rtol=1e-8)
    assert len(taken) == 1


@pytest.mark.parametrize("method", NEWTON)
@pytest.mark.parametrize("span", [(0.0, 3.0), (3.0, 2.999)])
def test_linear_problems_agree_but_for_calls(span, method):
    """Of a linear problem a second correction is rounding, and whether it is made so, too."""
    for rtol in (1e-3, 1e-4):
        options = {"rtol": rtol, "atol": rtol * 1e-3}
        ours, theirs = (
            sk.solve(f, span, [np.cos(span[0]), 1.0], method, **options)
            for f in (driven, Interpreted(driven))
        )
        calls = ours.stats.pop("nfev"), theirs.stats.pop("nfev")
        assert ours.stats == theirs.stats
        assert abs(calls[0] - calls[1]) <= max(1, 0.05 * calls[1])
        np.testing.assert_allclose(ours.y[-1], theirs.y[-1], rtol=0.1 * rtol, atol=0.1 * rtol)


@pytest.mark.parametrize("method", NEWTON)
def test_equal_steps_give_equal_states_to_rounding(method):
    """With steps that accuracy does not set, states differ by what differences of J leave.

    Rounding in f moves J's entries by √ε, and so a correction that the tolerance lets stand.
    """
    steps = {"first_step": 1e-2, "max_step": 1e-2, "rtol": 0.1, "atol": 0.1}
    ours, theirs = both(van_der_pol, (0.0, 0.3), [2.0, -0.66], method, log=True, **steps)
    np.testing.assert_array_equal(ours.t, theirs.t)
    np.testing.assert_allclose(ours.y, theirs.y, rtol=0, atol=4 * np.finfo(float).eps ** 0.5)


def test_a_method_of_your_own_that_is_not_stiffly_accurate(monkeypatch):
    taken = loops(monkeypatch)
    A = [row[: i + 1].tolist() for i, row in enumerate(kvaerno3.A)]
    weights = {"order": 2, "b": kvaerno3.b_hat.tolist(), "order_hat": 3, "b_hat": kvaerno3.b}
    own = sk.ButcherTableau(name="own", c=kvaerno3.c.tolist(), A=A, reference="none", **weights)
    assert not own.stiffly_accurate
    mild = NONLINEAR[1:]  # f at the end, not the stage's derivative, amplifies rounding by h|λ|
    for f, span, y0, atol in mild:
        ours, theirs = both(f, span, y0, own, rtol=1e-3, atol=1e-3 * atol, log=True)
        np.testing.assert_allclose(ours.y[-1], theirs.y[-1], rtol=1e-6, atol=1e-6 * atol)
    assert len(taken) == len(mild)


@pytest.mark.parametrize("method", ONE_OF_EACH)
def test_given_jacobians(method, monkeypatch):
    taken = loops(monkeypatch)
    options = {"rtol": 1e-4, "atol": 1e-8}
    ours, theirs = (
        sk.solve(f, (0.0, 1e4), [1.0, 0, 0], method, jac=robertson_jac, **options)
        for f in (robertson, Interpreted(robertson))
    )
    assert ours.stats == theirs.stats
    assert 0 < ours.stats["njev"] < ours.stats["accepted"]
    np.testing.assert_allclose(ours.y, theirs.y, rtol=1e-9, atol=1e-12)
    constant = np.array([[0.0, 1.0], [-1e3, -3e3]])
    ours, _ = both(van_der_pol, (0.0, 0.1), [2.0, -0.66], method, jac=constant, **options)
    assert ours.stats["njev"] == 0
    assert len(taken) == 2


@pytest.mark.parametrize("method", ONE_OF_EACH)
def test_complex_states_and_states_of_two_axes(method):
    y0 = np.array([[1.0 + 0j, 0.5], [0.0, 1j]])
    ours, theirs = both(turn, (0.0, 1.0), y0, method, rtol=1e-4, atol=1e-4, log=True)
    assert ours.status is Status.success
    np.testing.assert_allclose(ours.y[-1], theirs.y[-1], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("method", ONE_OF_EACH)
def test_ends_are_the_same(method):
    ours, _ = both(nan_at_once, (0.0, 2.0), [1.0, 2.0], method, log=True)
    assert ours.status is Status.non_finite
    assert "f is not finite after t = 0.0, 20 times in a row" in ours.message
    short, _ = both(robertson, (0.0, 1e6), [1.0, 0, 0], method, max_steps=5, log=True)
    assert short.status is Status.max_steps


@pytest.mark.parametrize("method", ONE_OF_EACH)
@pytest.mark.parametrize(
    ("f", "status"), [(nan_late, Status.non_finite), (square, Status.step_too_small)]
)
def test_walls_are_found_by_both(f, status, method):
    """The last steps before a wall are as long as times are apart: their number is rounding."""
    ours, theirs = (sk.solve(g, (0.0, 2.0), [1.0, 2.0], method) for g in (f, Interpreted(f)))
    assert ours.status is theirs.status is status
    assert np.isfinite(ours.y).all()
    np.testing.assert_allclose(ours.t[-1], theirs.t[-1], rtol=1e-9)


@pytest.mark.parametrize("method", ONE_OF_EACH)
def test_an_iteration_that_diverges_ends_as_it_does_in_the_interpreted_loop(method):
    """Without a Jacobian it converges for h < 1e-15; a quarter of h twenty times over is 1e-12."""

    @sk.jit
    def fast(t, y):
        return -1e15 * y**3

    nothing = np.zeros((1, 1))
    ours, _ = both(fast, (0.0, 1.0), [1.0], method, jac=nothing, first_step=1.0, log=True)
    assert ours.status is Status.newton_failed
    assert "did not converge" in ours.message
    assert "is wrong there" in ours.message


@pytest.mark.parametrize("method", ONE_OF_EACH)
def test_singular_matrices_end_as_they_do_in_the_interpreted_loop(method):
    @sk.jit
    def explosive(t, y):
        return np.array([1e308 * (1.0 + y[0]) ** 3])

    ours, _ = both(explosive, (0.0, 1.0), [1e-3], method, first_step=0.1)
    assert ours.status is not Status.success


@pytest.mark.parametrize("method", ONE_OF_EACH)
def test_a_jacobian_that_is_not_finite_leaves_the_old_one(method):
    """In both loops the next attempt, shorter, is made with it; at last nothing helps."""

    @sk.jit
    def lost(t, y):
        J = np.array([[0.0, 1.0], [0.0, 0.0]])
        J[1, 0], J[1, 1] = 1e3 * (-2 * y[0] * y[1] - 1), 1e3 * (1 - y[0] ** 2)
        return J * np.nan if t > 0.3 else J

    ours, theirs = (
        sk.solve(f, (0.0, 2.0), [2.0, -0.66], method, jac=lost, rtol=1e-4)
        for f in (van_der_pol, Interpreted(van_der_pol))
    )
    assert ours.status is theirs.status
    assert ours.stats == theirs.stats
    assert ours.t[-1] > 0.3


@pytest.mark.parametrize("method", ONE_OF_EACH)
def test_what_is_not_compiled_runs_interpreted(method, monkeypatch):
    taken = loops(monkeypatch)
    options: list[dict] = [
        {"mass": np.diag([1.0, 2.0])},
        {"jac_sparsity": np.ones((2, 2))},
        {"jvp": lambda t, y, v: np.array([-2000.0 * v[0], v[0] - v[1]])},
        {"jac": lambda t, y: np.array([[-2000.0, 0.0], [1.0, -1.0]])},
        {"grid": [0.0, 0.5, 1.0]},
    ]
    for option in options:
        assert sk.solve(driven, (0.0, 1.0), [1.0, 1.0], method, **option).success
    assert not taken
