"""Implicit, Rosenbrock and stabilised methods in the loop: values, orders, Jacobians, failures."""

import math
import pickle

import numpy as np
import pytest
import scipy.sparse as sps
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import solve_ivp
from scipy.linalg import expm
from stiff_problems import STIFF

import stiffkit as sk
from stiffkit import Status
from stiffkit.solvers.mass import mass_structure
from stiffkit.solvers.problem import make_problem
from stiffkit.solvers.rosenbrock import RosenbrockTableau
from stiffkit.solvers.stabilised import STABILISED
from stiffkit.solvers.stiff import start_stiff

ROSENBROCK = ["ros23", "rodas4", "rodas5p", "ros34pw2"]
NEWTON = [
    "trbdf2",
    "kvaerno3",
    "kvaerno4",
    "kvaerno5",
    "kencarp3",
    "kencarp4",
    "kencarp5",
    "radau5",
    "radau9",
]
IMPLICIT = [*ROSENBROCK, *NEWTON]
ORDER = {name: sk.METHODS[name].order for name in [*IMPLICIT, *STABILISED]}

every_implicit = pytest.mark.parametrize("method", IMPLICIT)
every_stiff = pytest.mark.parametrize("method", [*IMPLICIT, *STABILISED])


def test_every_stiff_method_is_in_the_tests():
    assert {*IMPLICIT, *STABILISED} == set(sk.METHODS) - set(sk.EXPLICIT)


# Values -------------------------------------------------------------------------------------------


@every_implicit
@pytest.mark.parametrize("name", ["ROBER", "HIRES", "E5", "POLLU", "VDPOL"])
@pytest.mark.parametrize("rtol", [1e-4, 1e-6])
def test_published_end_values(method, name, rtol):
    if rtol < 1e-5 and ORDER[method] == 2:
        pytest.skip("too many steps for a method of order two")
    p = STIFF[name]
    solution = sk.solve(
        p.f, (p.t_span[0], p.t_end), p.y0, method, rtol=rtol, atol=np.asarray(p.atol) * rtol
    )
    assert solution.status is Status.success
    digits = -np.log10(np.abs(solution.y[-1] / np.asarray(p.y_end) - 1).max())
    # The error of a whole solve is not the tolerance: one and a half digits are allowed, and two
    # and a half for trbdf2, whose estimate is filtered and of higher order than the method.
    assert digits >= -math.log10(rtol) - (2.5 if method == "trbdf2" else 1.5)


@every_implicit
def test_robertson_to_the_end_of_time(method):
    p = STIFF["ROBER"]
    solution = sk.solve(p.f, (0.0, 1e11), p.y0, method, rtol=1e-4, atol=1e-12)
    expected = np.array([0.2083340149701255e-07, 0.8333360770334713e-13, 0.9999999791665050])
    assert solution.status is Status.success
    assert np.abs(solution.y[-1] / expected - 1).max() < 1e-2
    assert solution.stats["accepted"] < 2000


ESDIRK = [name for name in NEWTON if not name.startswith("radau")]


@pytest.mark.parametrize("method", ESDIRK)
@pytest.mark.parametrize("rtol", [1e-2, 3e-3, 1e-3])
def test_loose_tolerances_do_not_miss_an_outbreak(method, rtol):
    """Between its two pulses the Oregonator rests for 300 units of time, and steps grow long."""
    p = STIFF["OREGO"]
    solution = sk.solve(p.f, p.t_span, p.y0, method, rtol=rtol, atol=p.atol * rtol)
    assert solution.status is Status.success
    assert solution.y[solution.t > 250, 0].max() > 1e4


def test_a_constant_jacobian_is_made_once_however_long_the_steps_grow():
    a = np.diag([-1.0, -1000.0])
    calls = [
        sk.solve(lambda t, y: a @ y, (0.0, 50.0), [1.0, 1.0], "kencarp4", **how).stats
        for how in ({"jac": a}, {"jac": lambda t, y: a})
    ]
    assert calls[0]["njev"] == 0
    assert 1 < calls[1]["njev"] <= calls[1]["accepted"]
    assert calls[0]["nfev"] <= calls[1]["nfev"]


# Orders -------------------------------------------------------------------------------------------


def smooth(t, y):
    """Nonlinear, nonautonomous, with a known solution: (sin t + 2, e^(−t))."""
    u, v = math.sin(t) + 2, math.exp(-t)
    return np.array(
        [math.cos(t) + v * (y[0] - u) * y[1], -v + 0.5 * (y[1] ** 2 - v * v) - (y[0] - u)]
    )


@every_stiff
def test_the_observed_order_is_the_methods(method):
    errors = []
    # More steps of order 9, and rounding is all that is left.
    grids, tol = ((16, 32, 64), 1e-10) if ORDER[method] < 9 else ((2, 4, 8), 1e-13)
    for n in grids:
        radius = {"radius": 4.0} if method in STABILISED else {}
        solution = sk.solve(
            smooth, (0.0, 2.0), [2.0, 1.0], method, grid=n, rtol=tol, atol=tol, **radius
        )
        errors.append(np.abs(solution.y[-1] - [math.sin(2.0) + 2, math.exp(-2.0)]).max())
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    assert orders.max() == pytest.approx(ORDER[method], abs=0.6)


@every_stiff
def test_dense_output_has_at_least_the_order_it_says(method):
    radius = {"radius": 4.0} if method in STABILISED else {}
    errors = []
    for n in (8, 16):
        solution = sk.solve(
            smooth,
            (0.0, 2.0),
            [2.0, 1.0],
            method,
            grid=n,
            dense=True,
            rtol=1e-10,
            atol=1e-10,
            **radius,
        )
        t = np.linspace(0.0, 2.0, 203)
        exact = np.column_stack([np.sin(t) + 2, np.exp(-t)])
        errors.append(np.abs(solution(t) - exact).max())
    least = min(ORDER[method], 3)  # Hermite, collocation and the Rosenbrock polynomials
    assert math.log2(errors[0] / errors[1]) > least - 0.5


# A linear problem of prescribed stiffness ---------------------------------------------------------


@every_implicit
@given(st.floats(0, 8), st.sampled_from([1e-3, 1e-5]))
def test_prothero_and_robinson_at_any_stiffness(method, power, rtol):
    lam = -(10.0**power)

    def f(t, y):
        return lam * (y - math.cos(t)) - math.sin(t)

    solution = sk.solve(f, (0.0, 10.0), [1.0], method, rtol=rtol, atol=rtol)
    assert solution.status is Status.success
    assert abs(solution.y[-1, 0] - math.cos(10.0)) < 50 * rtol
    assert solution.stats["accepted"] < 3000  # no step is spent on stability


def cascade(t, y):
    a, b = y  # cos t and its square
    return np.array([1e6 * (math.cos(t) - a) - math.sin(t), 1e6 * (a * a - b) - math.sin(2 * t)])


@every_implicit
@pytest.mark.parametrize("rtol", [1e-4, 1e-6])
def test_a_stiff_part_that_drives_another_is_as_exact_as_asked_at_every_step(method, rtol):
    # Newton's second correction is nearly exact here: what it contracted by must not vouch for the
    # first one of the next iteration, since error estimates see nothing of such components.
    solution = sk.solve(cascade, (0.0, 3.0), [1.0, 1.0], method, rtol=rtol, atol=1e-2 * rtol)
    assert solution.status is Status.success
    exact = np.column_stack([np.cos(solution.t), np.cos(solution.t) ** 2])
    assert (np.abs(solution.y - exact) < 2 * rtol).all()


@pytest.mark.parametrize("method", NEWTON)
def test_what_algebraic_equations_give_one_after_the_other_is_exact(method):
    def f(t, y):
        return np.array([y[0] - math.cos(t), y[1] - y[0] ** 2])

    solution = sk.solve(f, (0.0, 3.0), [1.0, 1.0], method, mass=[0.0, 0.0], rtol=1e-6, atol=1e-6)
    exact = np.column_stack([np.cos(solution.t), np.cos(solution.t) ** 2])
    assert np.abs(solution.y - exact).max() < 1e-6


@every_implicit
def test_a_complex_state(method):
    a = np.array([[-1000 + 30j, 1.0], [0.0, -1 + 2j]])
    y0 = np.array([1.0, 1j])
    solution = sk.solve(lambda t, y: a @ y, (0.0, 1.0), y0, method, rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(solution.y[-1], expm(a) @ y0, rtol=0, atol=2e-4)


@every_implicit
def test_single_precision_stays_single(method):
    p = STIFF["VDPOL"]
    y0 = np.array(p.y0, dtype=np.float32)
    solution = sk.solve(p.f, (0.0, 0.5), y0, method, rtol=1e-3, atol=1e-3)
    assert solution.y.dtype == np.float32
    assert solution.status is Status.success


@every_implicit
def test_both_directions_and_any_shape(method):
    a = np.array([[0.0, 1.0], [-1.0, 0.0]])
    there = sk.solve(lambda t, y: a @ y, (0.0, 2.0), np.eye(2), method, rtol=1e-5, atol=1e-7)
    back = sk.solve(lambda t, y: a @ y, (2.0, 0.0), there.y[-1], method, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(back.y[-1], np.eye(2), rtol=0, atol=2e-3)


# Jacobians ----------------------------------------------------------------------------------------


def brusselator(t, y):
    """One-dimensional, with diffusion; unknowns interleaved: five diagonals."""
    u, v = y[::2], y[1::2]
    n = len(u)
    c = 0.02 * (n + 1) ** 2
    wide = np.concatenate([[1.0], u, [1.0]]), np.concatenate([[3.0], v, [3.0]])
    out = np.empty_like(y)
    out[::2] = 1 + u * u * v - 4 * u + c * (wide[0][:-2] - 2 * u + wide[0][2:])
    out[1::2] = 3 * u - u * u * v + c * (wide[1][:-2] - 2 * v + wide[1][2:])
    return out


def brusselator_jacobian(t, y):
    u, v = y[::2], y[1::2]
    n = len(u)
    c = 0.02 * (n + 1) ** 2
    J = np.zeros((2 * n, 2 * n))
    i = np.arange(n)
    J[2 * i, 2 * i], J[2 * i, 2 * i + 1] = 2 * u * v - 4 - 2 * c, u * u
    J[2 * i + 1, 2 * i], J[2 * i + 1, 2 * i + 1] = 3 - 2 * u * v, -u * u - 2 * c
    for k in (0, 1):
        J[2 * i[1:] + k, 2 * i[1:] - 2 + k] = J[2 * i[:-1] + k, 2 * i[:-1] + 2 + k] = c
    return J


def brusselator_start(n):
    x = np.arange(1, n + 1) / (n + 1)
    return np.column_stack([1 + np.sin(2 * np.pi * x), np.full(n, 3.0)]).ravel()


@pytest.mark.parametrize("method", ["rodas5p", "kencarp4", "radau5"])
def test_given_sparse_banded_and_matrix_free_jacobians_agree(method):
    y0 = brusselator_start(15)
    pattern = np.abs(brusselator_jacobian(0.0, y0)) + np.eye(30) > 0
    forms = {
        "differences": {},
        "jac": {"jac": brusselator_jacobian},
        "sparse jac": {"jac": lambda t, y: sps.csc_array(brusselator_jacobian(t, y))},
        "sparsity": {"jac_sparsity": pattern},
        "bandwidth": {"bandwidth": (2, 2)},
    }
    if method != "radau5":  # GMRES for the complex systems of radau5 would take complex products
        forms["jvp"] = {"jvp": lambda t, y, v: brusselator_jacobian(t, y) @ v}
    ends = {
        name: sk.solve(brusselator, (0.0, 4.0), y0, method, rtol=1e-6, atol=1e-8, **form)
        for name, form in forms.items()
    }
    tight = solve_ivp(brusselator, (0.0, 4.0), y0, "Radau", rtol=1e-10, atol=1e-12)
    for name, solution in ends.items():
        assert solution.status is Status.success, name
        np.testing.assert_allclose(solution.y[-1], tight.y[:, -1], rtol=0, atol=2e-4, err_msg=name)
    # Five groups of columns instead of thirty.
    saved = ends["differences"].stats["nfev"] - ends["bandwidth"].stats["nfev"]
    assert saved >= 20 * min(end.stats["njev"] for end in ends.values())
    assert ends["jac"].stats["nfev"] < ends["bandwidth"].stats["nfev"]


@every_implicit
def test_a_constant_jacobian_is_never_asked_for(method):
    a = np.array([[-1000.0, 1.0], [0.0, -0.5]])
    solution = sk.solve(lambda t, y: a @ y, (0.0, 5.0), [1.0, 1.0], method, jac=a)
    assert solution.stats["njev"] <= solution.stats["accepted"] + 1
    np.testing.assert_allclose(solution.y[-1], expm(5 * a) @ [1.0, 1.0], rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"jac": np.ones((3, 3))}, "jac"),
        ({"jac": lambda t, y: np.ones((1, 2))}, "jac"),
        ({"jac_sparsity": np.ones((3, 2))}, "jac_sparsity"),
        ({"bandwidth": (0, 5)}, "bandwidth"),
        ({"bandwidth": (0, 1), "jac_sparsity": np.ones((2, 2))}, "bandwidth"),
    ],
)
def test_bad_jacobians_are_told_by_name(options, message):
    with pytest.raises(ValueError, match=message):
        sk.solve(lambda t, y: -y, (0.0, 1.0), [1.0, 2.0], "rodas5p", **options)


# Account, hooks, events ---------------------------------------------------------------------------


@every_stiff
def test_every_call_is_counted(method):
    calls = 0

    def f(t, y):
        nonlocal calls
        calls += 1
        return -np.array([50.0, 1.0]) * y + np.array([1.0, 0.0])

    solution = sk.solve(f, (0.0, 2.0), [1.0, 1.0], method, events=lambda t, y: y[1] - 0.5)
    assert solution.stats["nfev"] == calls
    assert solution.events[0].t == pytest.approx([math.log(2)], abs=1e-4)


@every_stiff
def test_hooks_see_the_steps_and_their_error_estimates(method):
    seen = []
    solution = sk.solve(
        lambda t, y: -y,
        (0.0, 1.0),
        [1.0, 2.0],
        method,
        observe=lambda step, probe: seen.append(step),
    )
    assert len(seen) == solution.stats["accepted"]
    for step in seen:
        assert step.err.shape == step.y_new.shape == (2,)
        np.testing.assert_allclose(step.y_hat + step.err, step.y_new, rtol=1e-14)
        np.testing.assert_allclose(step.k[0], -step.y, rtol=1e-6)
    assert solution.log["limit"][-1] == "end"


@every_implicit
def test_what_f_cannot_do_ends_with_a_status(method):
    nan = sk.solve(lambda t, y: y * (math.nan if t > 0.5 else 1.0), (0.0, 1.0), [1.0], method)
    assert nan.status is Status.non_finite
    assert 0.4 < nan.t[-1] <= 0.5
    pole = sk.solve(lambda t, y: y * y, (0.0, 2.0), [1.0], method)  # 1/(1 − t)
    assert pole.status in (Status.step_too_small, Status.non_finite, Status.newton_failed)
    assert pole.t[-1] == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("method", NEWTON)
def test_a_useless_jacobian_is_a_failure_of_newtons_method_and_said(method):
    wrong = np.diag([3e5, -2e5])
    solution = sk.solve(
        lambda t, y: np.array([-1e6, -1e6]) * (y - np.sin(t)),
        (0.0, 1.0),
        [1.0, 1.0],
        method,
        jac=wrong,
        log=True,
        max_steps=3000,
    )
    assert "newton" in set(solution.log["limit"]) or "singular" in set(solution.log["limit"])
    assert solution.stats["rejected"] > 0


@pytest.mark.filterwarnings("ignore:invalid value")
@pytest.mark.parametrize("method", NEWTON)
def test_leaving_the_domain_of_f_within_an_iteration_is_a_rejection(method):
    solution = sk.solve(lambda t, y: -np.sqrt(y), (0.0, 1.9), [1.0], method)
    assert solution.status is Status.success
    assert solution.y[-1, 0] == pytest.approx(0.05**2, rel=1e-2)


@pytest.mark.parametrize(
    ("method", "status"),
    [
        ("trbdf2", Status.non_finite),
        ("radau5", Status.non_finite),
        ("rodas4", Status.non_finite),
        ("rkc2", Status.non_finite),
    ],
)
def test_nan_on_a_grid_is_told_as_such(method, status):
    solution = sk.solve(
        lambda t, y: y * (math.nan if t > 0.5 else -1), (0, 1), [1.0], method, grid=10
    )
    assert solution.status is status
    assert solution.t[-1] == pytest.approx(0.5)


def test_a_grid_step_that_is_not_stable_is_told():
    solution = sk.solve(lambda t, y: -1e9 * y, (0.0, 1.0), [1.0], "rkc2", grid=4)
    assert solution.status is Status.unstable


@every_implicit
@pytest.mark.parametrize(
    ("J", "options"),
    [(-np.eye(2), {}), (-sps.eye_array(2), {}), (-np.ones((1, 2)), {"bandwidth": (0, 0)})],
)
def test_a_jacobian_that_is_not_finite_ends_the_solve(method, J, options):
    options = options | {"jac": lambda t, y: J * (math.nan if t > 0.5 else 1.0), "rtol": 1e-3}
    solution = sk.solve(lambda t, y: -(y**3), (0.0, 2.0), [1.0, 2.0], method, **options)
    if solution.status is not Status.success:  # who keeps a Jacobian may never ask again
        assert solution.status is Status.non_finite
        assert "Jacobian is not finite" in solution.message


@every_stiff
def test_an_empty_state(method):
    solution = sk.solve(lambda t, y: -y, (0.0, 1.0), np.zeros(0), method)
    assert solution.status is Status.success
    assert solution.y.shape[1:] == (0,)


@pytest.mark.parametrize("method", ["rodas4", "rodas5p"])
def test_products_are_accurate_enough_for_what_nothing_corrects(method):
    a = np.diag([-1.0, -2.0, -3.0, -50.0]) + np.diag([1.0, 1.0, 1.0], 1)
    options = {"rtol": 1e-8, "atol": 1e-11}
    given_ = sk.solve(lambda t, y: a @ y, (0.0, 2.0), np.ones(4), method, jac=a, **options)
    products = sk.solve(
        lambda t, y: a @ y, (0.0, 2.0), np.ones(4), method, jvp=lambda t, y, v: a @ v, **options
    )
    assert products.stats["accepted"] <= 1.05 * given_.stats["accepted"]


def test_factorisations_are_kept():
    a = np.diag([-1.0, -1000.0])
    for method in ("rodas4", "trbdf2", "radau5"):
        solution = sk.solve(
            lambda t, y: a @ y, (0.0, 1.0), [1.0, 1.0], method, jac=a, grid=np.linspace(0, 1, 101)
        )
        assert solution.stats["nlu"] <= (2 if method == "radau5" else 1)


def test_arguments_reach_jacobians_and_radii():
    def f(t, y, a):
        return -a * y

    def end(method, **options):
        return sk.solve(f, (0.0, 1.0), [1.0], method, args=(2.0,), **options).y[-1, 0]

    assert end("trbdf2", jvp=lambda t, y, v, a: -a * v) == pytest.approx(math.exp(-2), abs=1e-4)
    assert end("radau5", jac=lambda t, y, a: [[-a]]) == pytest.approx(math.exp(-2), abs=1e-4)
    assert end("rkc2", radius=lambda t, y, a: a) == pytest.approx(math.exp(-2), abs=1e-4)


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("tsit5", {"jac": np.eye(1)}, "jac is for implicit"),
        ("rkc2", {"bandwidth": (0, 0)}, "bandwidth is for implicit"),
        ("radau5", {"radius": 1.0}, "radius is for stabilised"),
        ("rkc2", {"radius": -1}, "radius must be a positive"),
        ("auto", {"radius": "x"}, "radius must be a positive"),
    ],
)
def test_what_a_method_has_no_use_for_is_refused(method, options, message):
    with pytest.raises(ValueError, match=message):
        sk.solve(lambda t, y: -y, (0.0, 1.0), [1.0], method, **options)


# Hints --------------------------------------------------------------------------------------------


def robertson_jacobian(t, y, sign=-1):
    """The Jacobian of Robertson's reaction; with sign 1 one entry's sign is wrong."""
    _, b, c = y
    row = [0.04, -1e4 * c + sign * 6e7 * b, -1e4 * b]
    return np.array([[-0.04, 1e4 * c, 1e4 * b], row, [0.0, 6e7 * b, 0.0]])


@pytest.mark.parametrize("method", ["rodas5p", "kencarp4", "radau5"])
@pytest.mark.parametrize(
    "given_",
    [
        {"jac": lambda t, y: robertson_jacobian(t, y, 1)},
        {"jac": lambda t, y: sps.csc_array(robertson_jacobian(t, y, 1))},
        {"jac": lambda t, y: np.array([[0.0] * 3, *robertson_jacobian(t, y)[:2]])[[1, 2, 0]].T},
        {"jvp": lambda t, y, v: robertson_jacobian(t, y, 1) @ v},
        {"bandwidth": (1, 0)},
        {"jac_sparsity": np.eye(3)},
    ],
)
def test_a_grossly_wrong_jacobian_is_named_when_a_solve_gets_stuck(method, given_):
    p = STIFF["ROBER"]
    solution = sk.solve(p.f, (0.0, 1e4), p.y0, method, atol=1e-12, max_steps=30, **given_)
    assert solution.status in (Status.max_steps, Status.newton_failed)
    (name,) = given_
    assert f"the Jacobian that {name} describes is wrong there" in solution.message
    assert "component" in solution.message


def test_auto_names_a_wrong_jacobian_though_it_ends_with_an_explicit_method():
    solution = sk.solve(
        lambda t, y: -1e4 * (y - math.cos(t)),
        (0.0, 10.0),
        [1.0],
        jac=lambda t, y: [[1e4]],
        max_steps=1000,
    )
    assert solution.status is Status.max_steps
    assert "the Jacobian that jac describes is wrong there" in solution.message


@pytest.mark.parametrize("method", NEWTON)
def test_a_component_without_tolerance_is_named(method):
    def f(t, y):
        return np.array([-y[0], y[0] - 2 * y[1]])

    solution = sk.solve(f, (0.0, 1.0), [1.0, 0.0], method, atol=0.0)
    assert not solution.success
    assert "component 1 is zero there and has no atol" in solution.message
    assert sk.solve(f, (0.0, 1.0), [1.0, 0.0], method, atol=[0.0, 1e-9]).success


@every_implicit
@pytest.mark.parametrize(
    "given_", [{"jac": robertson_jacobian}, {"jac_sparsity": np.ones((3, 3))}, {}]
)
def test_a_right_jacobian_is_not_accused(method, given_):
    p = STIFF["ROBER"]
    solution = sk.solve(p.f, (0.0, 1e4), p.y0, method, atol=1e-12, max_steps=20, **given_)
    assert solution.status is Status.max_steps
    assert "Jacobian" not in solution.message


def test_a_pole_is_no_fault_of_the_jacobian():
    pole = sk.solve(lambda t, y: y * y, (0.0, 2.0), [1.0], "rodas5p", jac=lambda t, y: [2 * y])
    assert pole.status is Status.step_too_small
    assert "Jacobian" not in pole.message


def test_the_look_at_the_jacobian_hides_no_failure():
    calls = 0

    def f(t, y):
        nonlocal calls
        calls += 1
        if calls > 200:
            raise ZeroDivisionError
        return -1e3 * (y - math.cos(t))

    plain = sk.solve(f, (0.0, 1e3), [1.0], "kencarp4", max_steps=20, rtol=1e-8)
    used, calls = plain.stats["nfev"], 200 - plain.stats["nfev"]
    solution = sk.solve(
        f, (0.0, 1e3), [1.0], "kencarp4", max_steps=20, rtol=1e-8, jac_sparsity=np.eye(1)
    )
    assert used <= solution.stats["nfev"] + 4
    assert solution.status is Status.max_steps


def test_a_singular_matrix_is_a_rejection():
    # I − hγJ is singular at the first step that is tried.
    tableau = sk.METHODS["rodas4"]
    h = 2.0**-6
    a = np.array([[1 / (h * tableau.gamma)]])
    solution = sk.solve(
        lambda t, y: a @ y, (0.0, 0.1), [1.0], "rodas4", jac=a, first_step=h, log=True, rtol=1e-3
    )
    assert solution.status is Status.success
    assert solution.log["limit"][1] in ("singular", "accuracy", "non_finite")


# Stabilised methods -------------------------------------------------------------------------------


def heat(n):
    c = (n + 1.0) ** 2

    def f(t, y):
        wide = np.concatenate([[0.0], y, [0.0]])
        return c * (wide[:-2] - 2 * y + wide[2:])

    return f, c


@pytest.mark.parametrize("method", STABILISED)
@pytest.mark.parametrize("n", [50, 200])
def test_the_heat_equation_at_the_square_root_of_the_cost(method, n):
    f, c = heat(n)
    x = np.arange(1, n + 1) / (n + 1)
    y0 = np.sin(np.pi * x) + np.sin(5 * np.pi * x)
    rates = [c * (2 - 2 * math.cos(k * math.pi / (n + 1))) for k in (1, 5)]
    exact = sum(
        math.exp(-0.2 * rate) * np.sin(k * np.pi * x) for k, rate in zip((1, 5), rates, strict=True)
    )
    solution = sk.solve(f, (0.0, 0.2), y0, method, rtol=1e-4, atol=1e-6)
    assert solution.status is Status.success
    np.testing.assert_allclose(solution.y[-1], exact, rtol=0, atol=2e-4)
    explicit = 0.2 * 4 * c / 3.5 * 6  # calls of tsit5, whose steps stability bounds
    assert solution.stats["nfev"] < (0.6 if n == 50 else 0.15) * explicit


def test_a_bound_of_the_radius_saves_its_estimates():
    f, c = heat(100)
    y0 = np.sin(np.pi * np.arange(1, 101) / 101)
    given_bound = sk.solve(f, (0.0, 0.1), y0, "rkc2", radius=4 * c)
    called = sk.solve(f, (0.0, 0.1), y0, "rkc2", radius=lambda t, y: 4 * c)
    estimated = sk.solve(f, (0.0, 0.1), y0, "rkc2")
    np.testing.assert_allclose(given_bound.y[-1], called.y[-1], rtol=1e-12)
    assert given_bound.stats["nfev"] < estimated.stats["nfev"]


@pytest.mark.parametrize("method", STABILISED)
def test_stabilised_methods_take_tensors_of_any_shape(method):
    torch = pytest.importorskip("torch")
    y0 = torch.linspace(0, 1, 12, dtype=torch.float64).reshape(3, 2, 2)
    ours = sk.solve(lambda t, y: -50 * (y - torch.cos(t)), (0.0, 1.0), y0, method, rtol=1e-5)
    theirs = sk.solve(
        lambda t, y: -50 * (y - math.cos(t)), (0.0, 1.0), y0.numpy(), method, rtol=1e-5
    )
    np.testing.assert_allclose(ours.y[-1].numpy(), theirs.y[-1], rtol=0, atol=1e-9)


# Methods of one's own -----------------------------------------------------------------------------


def test_a_method_of_ones_own():
    base = sk.METHODS["ros23"]
    fields = {name: getattr(base, name) for name in RosenbrockTableau.__dataclass_fields__}
    own = RosenbrockTableau(**{**fields, "name": "own"})
    ours = sk.solve(lambda t, y: -y, (0.0, 1.0), [1.0], own)
    np.testing.assert_array_equal(ours.y, sk.solve(lambda t, y: -y, (0.0, 1.0), [1.0], "ros23").y)


def test_an_implicit_tableau_without_a_kernel_is_refused():
    gauss = sk.ButcherTableau("gauss2", order=2, c=[0.5], A=[[0.5]], b=[1.0])
    with pytest.raises(ValueError, match="'gauss2' is implicit"):
        sk.solve(lambda t, y: -y, (0.0, 1.0), [1.0], gauss, grid=10)


@pytest.mark.parametrize("method", ["rodas5p", "kencarp4", "rock4"])
def test_through_solve_ivp(method):
    p = STIFF["HIRES"] if method != "rock4" else None
    f, span, y0 = (p.f, (0.0, 10.0), p.y0) if p else (heat(40)[0], (0.0, 0.1), np.ones(40))
    ours = sk.solve_ivp(f, span, y0, method, rtol=1e-5, atol=1e-8)
    theirs = solve_ivp(f, span, y0, "Radau", rtol=1e-8, atol=1e-11)
    assert ours.status == 0
    np.testing.assert_allclose(ours.y[:, -1], theirs.y[:, -1], rtol=1e-3, atol=1e-6)
    assert (ours.njev > 0) == (method != "rock4")


@every_stiff
def test_solutions_can_be_pickled(method):
    solution = sk.solve(lambda t, y: -y, (0.0, 1.0), [1.0], method, dense=True)
    copy = pickle.loads(pickle.dumps(solution))
    assert copy(0.5) == solution(0.5)


@pytest.mark.parametrize("mass", [None, np.array([[2.0, 0.5], [0.0, 1.0]])])
@pytest.mark.parametrize("method", ROSENBROCK)
def test_a_rosenbrock_step_is_the_textbooks(method, mass):
    """M k_i = h f(t + c_i h, y + Σ α_ij k_j) + hJ Σ γ_ij k_j + d_i h² f_t,
    y_new = y + Σ b_i k_i.
    """
    tableau, (t, h), y = sk.METHODS[method], (0.3, 0.1), np.array([1.0, -0.5])

    def f(t, y):
        return np.array([y[1] ** 2 - t if t < 0.45 else np.nan, -3 * y[0] * y[1] + t])

    J = np.array([[0.0, 2 * y[1]], [-3 * y[1], -3 * y[0]]])
    problem = make_problem(f, (t, 1.0), y, (), 1e-3, 1e-6)
    given = {} if mass is None else {"mass": mass_structure(mass, y)}
    stages = start_stiff(problem, tableau, f(t, y), jac=lambda t, y: J, **given)
    stages.attempt(t, y, t + 2 * h)  # the NaN that it leaves behind must not enter the next one
    y_new = stages.attempt(t, y, t + h)

    M = np.eye(2) if mass is None else mass
    k = np.zeros((tableau.n_stages, 2))
    for i in range(tableau.n_stages):
        right = h * f(t + tableau.c[i] * h, y + tableau.alpha[i] @ k)
        right += h * J @ (tableau.Gamma[i] @ k) + tableau.d[i] * h * h * np.array([-1.0, 1.0])
        k[i] = np.linalg.solve(M - h * tableau.gamma * J, right)
    # The difference quotient of f by t is good to eight digits, and multiplied by h².
    assert y_new == pytest.approx(y + tableau.b @ k, rel=0, abs=1e-9)
    assert stages.estimate_error() == pytest.approx(
        (tableau.b - tableau.b_hat) @ k, rel=0, abs=1e-9
    )


def test_a_start_forgets_what_was_before():
    """A family that is taken up again far away must not step with what it knew of another time."""
    p = STIFF["VDPOL"]
    problem = make_problem(p.f, (0.0, 1.0), p.y0, (), 1e-4, 1e-6)
    f_0 = p.f(0.0, problem.y0)
    radau = start_stiff(problem, sk.METHODS["radau5"], f_0)
    y = radau.attempt(0.0, problem.y0, 1e-7)
    radau.errors()
    radau.advance(1e-7, y)
    assert radau.last is not None
    radau.start(problem.y0, f_0)
    assert radau.last is None
    njev = radau.njev
    np.testing.assert_allclose(radau.attempt(0.0, problem.y0, 1e-7), y, rtol=1e-6)
    assert radau.njev == njev + 1
    asked = []
    stabilised = start_stiff(
        problem, sk.METHODS["rkc2"], f_0, radius=lambda t, y: asked.append(t) or 1.0
    )
    stabilised.radius.every = 25
    for start in (0.0, 0.5):
        stabilised.start(problem.y0, f_0)
        stabilised.attempt(start, problem.y0, start + 1e-7)
    assert asked == [0.0, 0.5]
