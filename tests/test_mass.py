"""M y' = f(t, y): regular masses, and differential-algebraic equations of index 1."""

import math

import numpy as np
import pytest
import scipy.sparse as sps
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.linalg import expm
from stiff_problems import DAE, LONG, STIFF

import stiffkit as sk
from stiffkit import Status
from stiffkit.solvers.dae import Constraints, check_fits
from stiffkit.solvers.linalg import Banded
from stiffkit.solvers.mass import mass_structure
from stiffkit.solvers.stabilised import STABILISED

IMPLICIT = [name for name in sk.METHODS if name not in sk.EXPLICIT and name not in STABILISED]
ORDER = {name: sk.METHODS[name].order for name in IMPLICIT}
FAMILIES = ["rodas5p", "ros34pw2", "kencarp4", "radau5"]

every_implicit = pytest.mark.parametrize("method", IMPLICIT)
each_family = pytest.mark.parametrize("method", FAMILIES)


# Regular masses -----------------------------------------------------------------------------------


@every_implicit
@pytest.mark.parametrize("mass", [np.eye(2), np.ones(2), sps.eye_array(2)])
def test_the_identity_is_no_mass_to_the_bit(method, mass):
    p = STIFF["VDPOL"]
    options = {"rtol": 1e-4, "atol": 1e-6, "dense": True}
    plain = sk.solve(p.f, (0.0, 0.5), p.y0, method, **options)
    ours = sk.solve(p.f, (0.0, 0.5), p.y0, method, mass=mass, **options)
    np.testing.assert_array_equal(ours.y, plain.y)
    np.testing.assert_array_equal(ours(0.3), plain(0.3))
    assert ours.stats == plain.stats


def pendulum(t, y):
    return np.array([y[1], -np.sin(y[0]) - 50 * y[1], -y[2] + y[0] * math.cos(t)])


@every_implicit
@settings(max_examples=5)
@given(arrays(float, (3, 3), elements=st.floats(-1, 1)))
def test_a_regular_mass_is_its_inverse_times_f(method, noise):
    M = 4 * np.eye(3) + noise  # diagonally dominant: its condition number is below 10
    y0, rtol = np.array([1.0, 0.0, 0.5]), 1e-4
    options = {"rtol": rtol, "atol": rtol, "dense": True}
    ours = sk.solve(pendulum, (0.0, 1.0), y0, method, mass=M, **options)
    plain = sk.solve(
        lambda t, y: np.linalg.solve(M, pendulum(t, y)), (0.0, 1.0), y0, method, **options
    )
    # Both are within their global errors, which for order 2 is a hundred tolerances here.
    assert np.abs(ours.y[-1] - plain.y[-1]).max() < (100 if ORDER[method] == 2 else 20) * rtol
    assert np.abs(ours(0.734) - plain(0.734)).max() < 200 * rtol


@each_family
@pytest.mark.parametrize("scale", [2.0**-30, 2.0**20])
def test_units_of_the_equations_do_not_count(method, scale):
    """Of s M y' = s f with s a power of two, not a bit depends on s: no step size, and no check."""
    p = DAE["CHEMAKZO"]
    options = {"rtol": 1e-5, "atol": 1e-8}
    M = np.asarray(p.mass)
    one = sk.solve(p.f, (0.0, 20.0), p.y0, method, mass=M, **options)
    other = sk.solve(
        lambda t, y: scale * p.f(t, y), (0.0, 20.0), p.y0, method, mass=scale * M, **options
    )
    assert other.stats["accepted"] == pytest.approx(one.stats["accepted"], abs=2)
    np.testing.assert_allclose(other.y[-1], one.y[-1], rtol=1e-5)


# Heat conduction with linear finite elements: M and J have three diagonals.
N = 12
_h = 1 / (N + 1)
_M = _h / 6 * (np.diag(np.full(N, 4.0)) + np.diag(np.ones(N - 1), 1) + np.diag(np.ones(N - 1), -1))
_A = 1 / _h * (np.diag(np.full(N, -2.0)) + np.diag(np.ones(N - 1), 1) + np.diag(np.ones(N - 1), -1))
_x = np.linspace(_h, 1 - _h, N)


def conduction(t, y):
    return _A @ y - _M @ y**3


def diagonals(A):
    ab = np.full((3, N), np.nan)  # corners are not looked at
    for i in range(N):
        for j in range(max(0, i - 1), min(N, i + 2)):
            ab[1 + i - j, j] = A[i, j]
    return ab


MASSES = {"dense": _M, "sparse": sps.coo_array(_M), "banded": Banded(diagonals(_M), 1, 1)}
JACOBIANS = {
    "dense": {"jac": lambda t, y: _A - _M * (3 * y**2)},
    "sparse": {"jac": lambda t, y: sps.csr_array(_A - _M * (3 * y**2))},
    "banded": {"jac": lambda t, y: diagonals(_A - _M * (3 * y**2)), "bandwidth": (1, 1)},
    "products": {"jvp": lambda t, y, v: _A @ v - _M @ (3 * y**2 * v)},
    "pattern": {"jac_sparsity": _M},
}


@each_family
def test_dense_sparse_and_banded_agree(method):
    y0 = np.sin(np.pi * _x)
    options = {"rtol": 1e-5, "atol": 1e-8}
    base = sk.solve(conduction, (0.0, 0.1), y0, method, mass=_M, **JACOBIANS["dense"], **options)
    exact = sk.solve(
        lambda t, y: np.linalg.solve(_M, conduction(t, y)), (0.0, 0.1), y0, "radau5", rtol=1e-9
    ).y[-1]
    np.testing.assert_allclose(base.y[-1], exact, rtol=0, atol=1e-4)
    for of_M, M in MASSES.items():
        for of_J, J in JACOBIANS.items():
            if method == "radau5" and of_J == "products":
                continue  # GMRES without a preconditioner, of complex systems
            ours = sk.solve(conduction, (0.0, 0.1), y0, method, mass=M, **J, **options)
            # Differences and GMRES leave errors of their own, of the size of the tolerance at most.
            close = 1e-12 if "jac" in J else 1e-5
            np.testing.assert_allclose(
                ours.y[-1], base.y[-1], rtol=0, atol=close, err_msg=f"{of_M} {of_J}"
            )


def test_a_complex_mass_and_state():
    M = np.array([[2.0, 1j], [0.0, 1.0]])
    a = np.array([[-100.0 + 3j, 1.0], [0.0, -1.0 + 2j]])
    y0 = np.array([1.0, 1j])
    exact = expm(np.linalg.solve(M, a)) @ y0
    for method in FAMILIES:
        solution = sk.solve(
            lambda t, y: a @ y, (0.0, 1.0), y0, method, mass=M, rtol=1e-6, atol=1e-9
        )
        np.testing.assert_allclose(solution.y[-1], exact, rtol=0, atol=1e-4)


# Index 1: orders ----------------------------------------------------------------------------------

_S = np.array([[2.0, 1.0], [1.0, 3.0]])
_T = np.array([[1.0, -1.0], [0.5, 2.0]])


def exact(t):
    return np.array([math.sin(t) + 2, math.exp(-t)])


def semi_explicit(t, y):
    """Return the right-hand side of (y', 0), nonlinear, with time in the constraint too."""
    (u, v), (a, b) = exact(t), y
    return np.array(
        [
            math.cos(t) + (b - v) * a + v * (a - u) * b,
            b * a - u * v + (a - u) ** 2 + 0.5 * (b - v),
        ]
    )


def mixed(t, w):
    """Return the same of combined equations and unknowns: M = S diag(1, 0) T."""
    return _S @ semi_explicit(t, _T @ w)


FORMS = {
    "rows of zeros": (semi_explicit, np.diag([1.0, 0.0]), np.eye(2)),
    "any singular M": (mixed, _S @ np.diag([1.0, 0.0]) @ _T, _T),
}


@every_implicit
@pytest.mark.parametrize("form", FORMS)
def test_every_method_keeps_its_order_on_index_one(method, form):
    f, M, T = FORMS[form]
    errors, dense = [], []
    # Newton's iteration stops relative to the tolerance: what it leaves must not be seen.
    for n in (16, 32) if ORDER[method] < 9 else (2, 4):
        solution = sk.solve(
            f,
            (0.0, 2.0),
            np.linalg.solve(T, exact(0.0)),
            method,
            grid=n,
            mass=M,
            rtol=1e-12,
            atol=1e-12,
            dense=True,
        )
        assert solution.status is Status.success
        # Each component: the algebraic one must be of the same order.
        errors.append(np.abs(T @ solution.y[-1] - exact(2.0)))
        between = [T @ solution(t) - exact(t) for t in np.linspace(0, 2, 67)]
        dense.append(np.abs(between).max())
    orders = np.log2(np.divide(errors[0], errors[1]))
    slack = 0.4 if ORDER[method] < 9 else 0.6  # its steps are long
    assert orders.min() > ORDER[method] - slack
    if method != "rodas4":  # which this problem lets off
        assert orders.min() < ORDER[method] + slack
    assert math.log2(dense[0] / dense[1]) > min(ORDER[method], 3) - 0.3


# Index 1: published values ------------------------------------------------------------------------


@every_implicit
@pytest.mark.parametrize("rtol", [1e-4, 1e-6, pytest.param(1e-8, marks=pytest.mark.slow)])
def test_chemical_akzo_nobel(method, rtol):
    p = DAE["CHEMAKZO"]
    solution = sk.solve(
        p.f, p.t_span, p.y0, method, mass=p.mass, rtol=rtol, atol=np.asarray(p.atol) * rtol
    )
    assert solution.status is Status.success
    # trbdf2: its estimate is filtered and of higher order than the method.
    margin = 2.5 if method == "trbdf2" else 1.5
    assert p.digits(solution.y[-1]) >= -math.log10(rtol) - margin


@pytest.mark.parametrize("method", ["rodas5p", "kencarp4", "radau5"])
def test_the_equation_without_its_algebraic_component(method):
    p = LONG["CHEMAKZO-ODE"]
    solution = sk.solve(p.f, p.t_span, p.y0, method, rtol=1e-6, atol=1e-10)
    assert p.digits(solution.y[-1]) >= 4.5


@every_implicit
def test_robertson_with_conservation_as_an_equation(method):
    p = DAE["ROBER-DAE"]
    solution = sk.solve(
        p.f, p.t_span, p.y0, method, mass=p.mass, rtol=1e-4, atol=np.asarray(p.atol) * 1e-4
    )
    assert solution.status is Status.success
    assert p.digits(solution.y[-1]) >= (1.5 if method == "trbdf2" else 2.5)
    # ros23's result is no stage: it is off the constraint by its error.
    assert np.abs(solution.y.sum(axis=1) - 1).max() < (1e-4 if method == "ros23" else 1e-9)


# What a solve offers ------------------------------------------------------------------------------


@every_implicit
def test_events_dense_output_t_eval_and_log(method):
    """The circle: y' = −z, 0 = y² + z² − 1 from (1/2, √3/2), with y = cos(t + π/3)."""
    start = np.array([0.5, math.sqrt(0.75)])
    times = np.linspace(0, 0.8, 9)
    solution = sk.solve(
        lambda t, y: np.array([-y[1], y[0] ** 2 + y[1] ** 2 - 1]),
        (0.0, 0.8),
        start,
        method,
        mass=[1.0, 0.0],
        rtol=1e-6,
        atol=1e-8,
        t_eval=times,
        dense=True,
        events=lambda t, y: y[0],
        log=True,
        max_step=0.1,
    )
    assert solution.status is Status.success
    assert solution.events[0].t == pytest.approx([math.pi / 6], abs=1e-4)
    angle = times + math.pi / 3
    np.testing.assert_allclose(
        solution.y, np.column_stack([np.cos(angle), np.sin(angle)]), rtol=0, atol=1e-4
    )
    np.testing.assert_allclose(solution(times), solution.y, rtol=0, atol=1e-12)
    assert solution.log["limit"][-1] == "end"


@every_implicit
def test_hooks_see_values_of_f(method):
    steps, p = [], DAE["CHEMAKZO"]
    sk.solve(
        p.f,
        (0.0, 1.0),
        p.y0,
        method,
        mass=p.mass,
        rtol=1e-6,
        atol=1e-9,
        observe=lambda step, probe: steps.append(step),
    )
    for step in steps:
        np.testing.assert_allclose(step.k[0], p.f(step.t, step.y), rtol=1e-4, atol=1e-7)
        assert np.isfinite(step.err).all()


@each_family
def test_every_call_is_counted(method):
    calls, p = 0, DAE["CHEMAKZO"]

    def f(t, y):
        nonlocal calls
        calls += 1
        return p.f(t, y)

    solution = sk.solve(f, (0.0, 10.0), p.y0, method, mass=p.mass, dense=True)
    assert solution.stats["nfev"] == calls


@each_family
def test_a_guide_may_move_along_the_constraints(method):
    def guide(step, probe):
        y = step.y_new.copy()
        y[0] += 1e-3
        y[1] = math.sqrt(1 - y[0] ** 2)
        return y

    solution = sk.solve(
        lambda t, y: np.array([-y[0], y[0] ** 2 + y[1] ** 2 - 1]),
        (0.0, 1.0),
        [0.5, math.sqrt(0.75)],
        method,
        mass=[1.0, 0.0],
        guide=guide,
        dense=True,
    )
    assert solution.status is Status.success
    n = solution.stats["accepted"]
    assert 0.5 * math.exp(-1) < solution.y[-1, 0] < 0.5 * math.exp(-1) + 1.01e-3 * n
    y = solution(np.linspace(0, 1, 50))
    assert np.abs(y[:, 0] ** 2 + y[:, 1] ** 2 - 1).max() < 1e-2


@each_family
def test_backwards_single_precision_and_shapes(method):
    def f(t, y):
        (a, b), c = y[0], y[1, 0]
        return np.array([[-c, a + b - 1], [a - 2 * c + y[1, 1], y[1, 1] - 0.5]], dtype=y.dtype)

    y0 = np.array([[0.5, 0.5], [0.5, 0.5]], dtype=np.float32)
    mass = np.array([1, 0, 0, 0], dtype=float)
    there = sk.solve(f, (0.0, 0.5), y0, method, mass=mass, rtol=1e-4, atol=1e-4)
    back = sk.solve(f, (0.5, 0.0), there.y[-1], method, mass=mass, rtol=1e-4, atol=1e-4)
    assert there.y.dtype == np.float32
    np.testing.assert_allclose(back.y[-1], y0, rtol=0, atol=2e-3)
    assert there.y[-1, 0, 0] == pytest.approx(math.exp(-0.25) - 0.5, abs=1e-3)


@each_family
@pytest.mark.parametrize("mass", [np.array([[2.0, 1.0], [0.0, 1.0]]), [1.0, 0.0]])
def test_f_that_is_not_finite_beyond_the_start_ends_with_a_status(method, mass):
    for how in ({}, {"jvp": lambda t, y, v: -v}):
        solution = sk.solve(
            lambda t, y: -y if t == 0 else y * math.nan,
            (0.0, 1.0),
            [1.0, 0.0],
            method,
            mass=mass,
            **how,
        )
        assert solution.status is Status.non_finite
        assert solution.t[-1] == 0


def test_auto_takes_an_implicit_method():
    p = DAE["CHEMAKZO"]
    options = {"mass": p.mass, "rtol": 1e-5, "atol": 1e-8}
    auto = sk.solve(p.f, (0.0, 0.5), p.y0, **options)
    named = sk.solve(p.f, (0.0, 0.5), p.y0, "radau9", **options)
    np.testing.assert_array_equal(auto.y, named.y)
    f, M = conduction, _M
    products = sk.solve(f, (0.0, 0.1), np.sin(np.pi * _x), mass=M, **JACOBIANS["products"])
    named = sk.solve(f, (0.0, 0.1), np.sin(np.pi * _x), "kencarp4", mass=M, **JACOBIANS["products"])
    np.testing.assert_array_equal(products.y, named.y)
    steps = sk.solve(p.f, (0.0, 5.0), p.y0, grid=50, mass=p.mass)
    assert steps.status is Status.success


def test_solve_ivp_takes_a_mass():
    p = DAE["CHEMAKZO"]
    result = sk.solve_ivp(p.f, p.t_span, p.y0, "Radau", mass=p.mass, rtol=1e-6, atol=1e-10)
    assert result.success
    assert p.digits(result.y[:, -1]) >= 4.5


def test_products_solve_an_algebraic_equation_too():
    y0 = exact(0.0)

    def jvp(t, y, v):
        (u, w), (a, b) = exact(t), y
        J = np.array(
            [[b - w + w * b, a + w * (a - u)], [b + 2 * (a - u), a + 0.5]],
        )
        return J @ v

    solution = sk.solve(semi_explicit, (0.0, 2.0), y0, "kencarp4", mass=[1.0, 0.0], jvp=jvp)
    np.testing.assert_allclose(solution.y[-1], exact(2.0), rtol=0, atol=1e-4)


# What is refused ----------------------------------------------------------------------------------


def test_an_inconsistent_start_is_told_with_component_and_residual():
    p = DAE["CHEMAKZO"]
    y0 = np.array(p.y0)
    y0[5] += 1e-3
    with pytest.raises(ValueError, match="not consistent") as caught:
        sk.solve(p.f, p.t_span, y0, "rodas5p", mass=p.mass)
    text = str(caught.value)
    assert "algebraic equation 5 has the residual -0.001" in text
    assert "Component 5 of y0 is 0.361;" in text
    assert "ask for 0.36 there" in text
    # A residual within the tolerance is none.
    y0[5] += 1e-7 - 1e-3
    assert sk.solve(p.f, (0.0, 1.0), y0, "rodas5p", mass=p.mass, atol=1e-6).success


@given(arrays(float, (2, 2), elements=st.floats(-0.4, 0.4)), st.floats(1e-3, 1e3))
def test_what_the_message_asks_for_is_consistent(noise, unit):
    """For linear constraints: of the equation's form and units nothing depends."""
    S = unit * (np.eye(2) + noise)
    M = S @ np.diag([1.0, 0.0])
    f = lambda t, y: S @ np.array([-y[0], y[0] + 2 * y[1] - 3.0])  # noqa: E731
    with pytest.raises(ValueError, match=r"asks? for 1 there"):
        sk.solve(f, (0.0, 1.0), [1.0, 1.5], "radau5", mass=M)
    assert sk.solve(f, (0.0, 1.0), [1.0, 1.0], "radau5", mass=M).success


def cartesian_pendulum(level):
    """The pendulum's position, velocity and tension, with the constraint differentiated."""

    def f(t, y):
        x, z, u, w, tension = y
        last = {
            3: x * x + z * z - 1,
            2: x * u + z * w,
            1: u * u + w * w - tension * (x * x + z * z) - 9.81 * z,
        }[level]
        return np.array([u, w, -tension * x, -tension * z - 9.81, last])

    return f


@each_family
def test_higher_index_is_refused_and_index_one_of_the_same_is_solved(method):
    start, mass = np.array([1.0, 0.0, 0.0, 0.0, 0.0]), [1.0, 1.0, 1.0, 1.0, 0.0]
    for level in (2, 3):
        with pytest.raises(ValueError, match="not of index 1"):
            sk.solve(cartesian_pendulum(level), (0.0, 1.0), start, method, mass=mass)
    solution = sk.solve(cartesian_pendulum(1), (0.0, 1.0), start, method, mass=mass)
    assert solution.status is Status.success
    x, z, u, w = solution.y[-1, :4]
    assert (u * u + w * w) / 2 + 9.81 * z == pytest.approx(0, abs=1e-3)  # energy
    assert x * x + z * z == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("form", ["dense", "sparse", "banded", "products", "large"])
def test_index_two_is_refused_in_every_form(form):
    n = 1200 if form == "large" else 4
    J = np.eye(n, k=1) if n < 10 else sps.eye_array(n, k=1, format="csc")
    mass = np.ones(n)
    mass[-2:] = 0  # the last row of J is zero, and y_{n-1} is determined by no equation
    f = lambda t, y: J @ y  # noqa: E731
    options = {
        "dense": {"jac": J},
        "sparse": {"jac": sps.csc_array(J)},
        "large": {"jac": J},
        "banded": {"bandwidth": (0, 1)},
        "products": {"jvp": lambda t, y, v: J @ v},
    }[form]
    with pytest.raises(ValueError, match="not of index 1"):
        sk.solve(f, (0.0, 1.0), np.zeros(n), "kencarp4", mass=mass, **options)


@pytest.mark.parametrize("method", ["tsit5", "dop853", "rkc2", "rock4"])
@pytest.mark.parametrize("mass", [[1.0, 2.0], [1.0, 0.0]])
def test_methods_without_a_linear_solve_are_refused_by_name(method, mass):
    with pytest.raises(ValueError, match=f"'{method}' is (explicit|stabilised): take rodas5p"):
        sk.solve(lambda t, y: -y, (0.0, 1.0), [1.0, 0.0], method, mass=mass)


def esdirk(name, A, b, b_hat):
    return sk.ButcherTableau(name, order=2, order_hat=1, c=np.sum(A, axis=1), A=A, b=b, b_hat=b_hat)


def test_methods_that_leave_the_constraints_are_refused_for_singular_masses_alone():
    trapezoid = esdirk("trapezoid", [[0, 0], [0.5, 0.5]], [0.5, 0.5], [1, 0])
    g = 1 - math.sqrt(0.5)  # the L-stable SDIRK method of order 2, behind an unused first stage
    loose = esdirk("loose", [[0, 0, 0], [0, g, 0], [0, 1 - 2 * g, g]], [0, 0.5, 0.5], [1, 0, 0])
    assert abs(loose.R(-1e12)) < 1e-9
    with pytest.raises(ValueError, match="'loose' does not end with a stage"):
        sk.solve(lambda t, y: -y, (0.0, 1.0), [1.0, 0.0], loose, mass=[1.0, 0.0])
    with pytest.raises(ValueError, match=r"'trapezoid' has \|R\(∞\)\| = 1, not below 1"):
        sk.solve(lambda t, y: -y, (0.0, 1.0), [1.0, 0.0], trapezoid, mass=[1.0, 0.0])
    for tableau in (trapezoid, loose):
        solution = sk.solve(
            lambda t, y: -y, (0.0, 1.0), [1.0, 1.0], tableau, mass=[1.0, 2.0], rtol=1e-6
        )
        np.testing.assert_allclose(solution.y[-1], np.exp([-1, -0.5]), rtol=1e-4)


@pytest.mark.parametrize(
    ("mass", "message"),
    [
        (np.eye(3), r"mass has shape \(3, 3\)"),
        ([1.0, math.nan], "mass must be finite"),
        (np.eye(2) * 1j, "mass is complex"),
        ("M", "mass must hold numbers"),
    ],
)
def test_bad_masses_are_named(mass, message):
    with pytest.raises(ValueError, match=message):
        sk.solve(lambda t, y: -y, (0.0, 1.0), [1.0, 2.0], "rodas5p", mass=mass)


def test_a_mass_that_depends_on_the_state_is_refused_and_the_way_out_works():
    """(2 + sin t) y' = −y: y = exp(−∫ 1/(2 + sin t))."""
    with pytest.raises(TypeError, match=r"mass=<function .* is a function; M must be constant"):
        sk.solve(lambda t, y: -y, (0.0, 2.0), [1.0], "rodas5p", mass=lambda t: [[2 + math.sin(t)]])

    def extended(t, x):
        y, z = x
        return np.array([z, -y - (2 + math.sin(t)) * z])

    options = {"rtol": 1e-8, "atol": 1e-10}
    end = sk.solve(extended, (0.0, 2.0), [1.0, -0.5], "radau9", mass=[1.0, 0.0], **options).y[-1, 0]
    plain = sk.solve(lambda t, y: -y / (2 + math.sin(t)), (0.0, 2.0), [1.0], "vern7", **options)
    assert end == pytest.approx(plain.y[-1, 0], rel=1e-7)


def test_tensors_are_refused():
    torch = pytest.importorskip("torch")
    with pytest.raises(
        ValueError, match="mass is not for batched solves, nor for implicit methods"
    ):
        sk.solve(lambda t, y: -y, (0.0, 1.0), torch.ones(2), "rodas5p", mass=np.diag([1.0, 2.0]))


def test_a_jacobian_that_is_not_finite_at_the_start_is_told():
    with pytest.raises(ValueError, match="not finite"):
        sk.solve(
            lambda t, y: np.array([-y[0], y[1]]),
            (0.0, 1.0),
            [1.0, 0.0],
            "radau5",
            mass=[1.0, 0.0],
            jac=lambda t, y: np.full((2, 2), math.nan),
        )


# Constraints --------------------------------------------------------------------------------------


@given(st.integers(0, 2**32 - 1), st.integers(2, 8))
def test_the_projection_is_on_the_left_kernel(seed, n):
    rng = np.random.default_rng(seed)
    rank = int(rng.integers(1, n))
    units = 10.0 ** rng.uniform(-3, 3, (2, n))
    M = rng.normal(size=(n, rank)) @ rng.normal(size=(rank, n))
    M = units[0][:, None] * M * units[1]
    mass = mass_structure(M, np.ones(n))
    assert mass.rank == rank
    P = Constraints(mass)
    v, J = rng.normal(size=n), rng.normal(size=(n, n))
    projected = P.part(v)
    size = np.abs(M).sum(axis=0)  # P M = 0, column by column, up to rounding
    assert (np.abs(P.part(M)) <= 1e-9 * size).all()
    np.testing.assert_allclose(P.part(projected), projected, rtol=0, atol=1e-12)
    np.testing.assert_allclose(P.rows(J) @ v, P.part(J @ v), rtol=0, atol=1e-11)


def test_rows_of_zeros_keep_the_kind_of_the_jacobian():
    P = Constraints(mass_structure(np.array([1.0, 0.0, 1.0, 0.0] * 3), np.ones(N)))
    full = P.zero[:, None] * _A
    np.testing.assert_array_equal(P.rows(_A), full)
    np.testing.assert_array_equal(P.rows(sps.csc_array(_A)).toarray(), full)
    band = P.rows(Banded(diagonals(_A), 1, 1))
    assert isinstance(band, Banded)
    np.testing.assert_array_equal(band.toarray(), full)


def test_a_large_sparse_mass_must_show_its_constraints():
    n = 1200
    M = sps.lil_array(sps.eye_array(n))
    M[0, 1] = 1.0
    M[n - 1] = M[0]  # two equal rows
    with pytest.raises(ValueError, match="each algebraic one has a row of zeros"):
        Constraints(mass_structure(sps.csc_array(M), np.ones(n)))


def test_rosenbrock_methods_fit_if_they_damp():
    singular = mass_structure(np.array([1.0, 0.0]), np.ones(2))
    for name in IMPLICIT:
        check_fits(singular, sk.METHODS[name])
