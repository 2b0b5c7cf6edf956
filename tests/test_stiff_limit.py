"""The stiff limit of ESDIRK methods: derived dense output, and the scale of the error estimate."""

import math

import numpy as np
import pytest

import stiffkit as sk
from stiffkit.solvers import trees
from stiffkit.solvers.methods import ADDITIVE
from stiffkit.solvers.stiff_limit import error_factor, stiff_interpolant

DERIVED = {"kvaerno4": 3, "kvaerno5": 4, "kencarp4": 3, "kencarp5": 4}
every_derived = pytest.mark.parametrize("name", DERIVED)
THETA = np.linspace(0.0, 1.0, 21)


def weights(dense, theta=THETA):
    """b(θ), shape (s, len(theta))."""
    P = np.array(dense.P)[:-1]  # without f(t + h, y_new)
    return P @ theta ** np.arange(1, 1 + P.shape[1])[:, None]


def worst(residuals):
    return max(map(abs, residuals.values()))


def test_which_methods_have_one():
    found = {
        name: tab.dense.order
        for name, tab in sk.METHODS.items()
        if isinstance(tab, sk.ButcherTableau) and stiff_interpolant(tab) is not None
    }
    assert found == DERIVED
    for name in ("trbdf2", "kencarp3", "kvaerno3", "radau5"):
        assert sk.METHODS[name].dense.reference == "cubic Hermite"


@every_derived
def test_the_continuous_order_is_sharp(name):
    tab, q = sk.METHODS[name], DERIVED[name]
    for theta in (0.1, 0.5, 0.8):
        assert max(worst(tab.dense_conditions(p, theta)) for p in range(1, q + 1)) < 1e-11
    assert max(worst(tab.dense_conditions(q + 1, theta)) for theta in THETA) > 1e-4


@pytest.mark.parametrize("name", ["ark4", "ark5"])
def test_pairs_meet_the_conditions_of_order_three_in_both_colours(name):
    pair = ADDITIVE[name]
    b = weights(stiff_interpolant(pair.implicit, pair.explicit))
    matrices = pair.implicit.A, pair.explicit.A
    for p in (1, 2, 3, 4):
        residual = max(
            np.abs(u @ b - THETA**p / trees.density(tree)).max()
            for tree in trees.rooted_trees(p)
            for u in trees.coloured_weights(tree, matrices)
        )
        assert residual < 1e-11 if p < 4 else residual > 1e-4


def test_ark3_has_the_cubic_one():
    assert stiff_interpolant(ADDITIVE["ark3"].implicit, ADDITIVE["ark3"].explicit) is None


@every_derived
def test_a_fast_mode_is_not_amplified_inside_the_step(name):
    """y' = λy in one step: Hermite's polynomial has the slope λy at its left end, ours has not."""
    tab = sk.METHODS[name]
    for z in (-1e2, -1e4, -1e6):
        step = sk.solve(
            lambda t, y, z=z: z * y, (0.0, 1.0), [1.0], name, grid=1, jac=[[z]], dense=True
        )
        inside = np.abs(step(np.linspace(0.0, 1.0, 21))).max()
        assert inside < 1.1
    b = weights(tab.dense)
    r = np.linalg.solve(tab.A[1:, 1:], tab.A[1:, 0])
    assert np.abs(b[0] - r @ b[1:]).max() < 1e-11  # no growth with z


@pytest.mark.parametrize("name", ["kencarp4", "kencarp5"])
def test_what_follows_the_others_is_interpolated_to_order_three(name):
    """Prothero and Robinson's problem at λ → −∞, where stage order 2 leaves the slopes order 2."""
    lam = -1e10

    def error(h):
        step = sk.solve(
            lambda t, y: lam * (y - math.sin(t)) + math.cos(t),
            (0.3, 0.3 + h),
            [math.sin(0.3)],
            name,
            grid=1,
            jac=[[lam]],
            rtol=1e-12,
            atol=1e-12,
            dense=True,
        )
        t = 0.3 + h * THETA
        return np.abs(step(t)[:, 0] - np.sin(t)).max()

    assert math.log2(error(0.2) / error(0.1)) == pytest.approx(4, abs=0.4)


@every_derived
@pytest.mark.parametrize("complex_state", [False, True])
def test_dense_output_meets_the_steps_and_has_its_order(name, complex_state):
    a = -0.5 + 2j if complex_state else -0.5

    def f(t, y):
        return a * y * (1 + 0.2 * y * math.cos(t))

    y0 = np.array([1.0 + 0 * a])
    exact = sk.solve(f, (0.0, 4.0), y0, "vern9", rtol=1e-13, atol=1e-14, dense=True)
    t = np.linspace(0.0, 4.0, 401)
    errors = []
    for n in (32, 64):
        ours = sk.solve(f, (0.0, 4.0), y0, name, grid=n, dense=True, rtol=1e-12, atol=1e-12)
        np.testing.assert_array_equal(ours(ours.t), ours.y)
        errors.append(np.abs(ours(t) - exact(t)).max())
    assert math.log2(errors[0] / errors[1]) > DERIVED[name] + 1 - 0.4


def test_an_interpolant_of_ones_own_goes_first():
    tab = sk.METHODS["kencarp4"]
    fields = ("name", "order", "order_hat", "c", "A", "b", "b_hat")
    line = np.array([*tab.b, 0.0])[:, None].tolist()  # b(θ) = θ b
    own = sk.ButcherTableau(
        **{key: getattr(tab, key) for key in fields}, interpolant=sk.Interpolant(order=1, P=line)
    )
    ours = sk.solve(lambda t, y: -y, (0.0, 1.0), [1.0], own, grid=1, dense=True)
    assert ours(0.5) == pytest.approx((1.0 + ours.y[-1]) / 2, rel=1e-14)


def test_where_conditions_contradict_each_other_there_is_none():
    """As with an explicit half that meets no conditions of its own."""
    tab = sk.METHODS["kvaerno4"]
    explicit = np.tril(np.vander(tab.c, 5), -1)
    sums = explicit.sum(axis=1, keepdims=True)
    explicit[1:] *= (tab.c[:, None] / np.where(sums == 0, 1, sums))[1:]
    other = sk.ButcherTableau("other", order=1, c=tab.c, A=explicit, b=tab.b)
    assert stiff_interpolant(tab, other) is None


# The error estimate -----------------------------------------------------------------------------


def test_the_factor_of_each_method():
    factors = {
        name: error_factor(tab)
        for name, tab in sk.METHODS.items()
        if isinstance(tab, sk.ButcherTableau) and error_factor(tab) != 1
    }
    assert factors == {
        "kencarp4": pytest.approx(2.4, abs=0.05),
        "kencarp5": pytest.approx(10, abs=0.1),
    }


@pytest.mark.parametrize("name", ["kencarp4", "kencarp5"])
def test_the_estimate_is_the_error_of_what_follows_the_others(name):
    lam, h = -1e7, 0.02
    seen = []
    sk.solve(
        lambda t, y: lam * (y - math.sin(t)) + math.cos(t),
        (0.3, 0.3 + h),
        [math.sin(0.3)],
        name,
        grid=1,
        jac=[[lam]],
        rtol=1e-14,
        atol=1e-16,
        callback=seen.append,
    )
    # The error itself, 1e-13, would drown in roundings of the state: it is known in closed form.
    A, c = sk.METHODS[name].A, sk.METHODS[name].c
    defect = np.linalg.solve(A[1:, 1:], (c**3 / 6 - A @ c**2 / 2)[1:])[-1]
    error = defect * h**3 * math.cos(0.3) / (h * lam)
    assert abs(seen[0].err[0] / error) == pytest.approx(1.0, abs=0.1)
