"""Radau methods on tensors and batches: the steps of the NumPy kernel, each sample as if alone."""

import numpy as np
import pytest

import stiffkit as sk
from stiffkit.solvers.control import PredictiveController

torch = pytest.importorskip("torch")

RADAU = ["radau5", "radau9"]
every_radau = pytest.mark.parametrize("method", RADAU)
MU = torch.tensor([0.5, 1.5, 3.0, 20.0], dtype=torch.float64)
Y0 = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 0.5], [1.5, 0.0]], dtype=torch.float64)
COUNTS = ("nfev", "accepted", "rejected", "njev", "nlu")


def stack(rows):
    """Return a matrix or vector in the library of its entries."""
    if isinstance(rows[0], list):
        return stack([stack(row) for row in rows])
    return np.stack(rows) if isinstance(rows[0], (np.ndarray, np.generic)) else torch.stack(rows)


def rober(t, y):
    slow, back, fast = 0.04 * y[0], 1e4 * y[1] * y[2], 3e7 * y[1] ** 2
    return stack([back - slow, slow - back - fast, fast])


def rober_jac(t, y):
    o, a, b, c = 0 * y[0], 0.04 + 0 * y[0], 1e4 * y[1], 1e4 * y[2]
    return stack([[-a, c, b], [a, -c - 6e3 * b, -b], [o, 6e3 * b, o]])


def vdpol(t, y):
    return stack([y[1], 1e6 * ((1 - y[0] ** 2) * y[1] - y[0])])


def vdpol_jac(t, y):
    o = 0 * y[0]
    return stack([[o, 1 + o], [-1e6 * (2 * y[0] * y[1] + 1), 1e6 * (1 - y[0] ** 2)]])


# HW II, IV.10; the sizes are those of the components.
PROBLEMS = {
    "ROBER": (rober, rober_jac, 1e11, [1.0, 0.0, 0.0], np.array([1e-8, 1e-14, 1e-6])),
    "VDPOL": (vdpol, vdpol_jac, 2.0, [2.0, 0.0], np.array([1e-2, 1e-2])),
}
ENDS = {
    "ROBER": [0.2083340149701255e-7, 0.8333360770334713e-13, 0.9999999791665050],
    "VDPOL": [1.706167732170483, -0.8928097010247975],
}


@pytest.mark.parametrize(
    ("name", "method", "rtol"),
    [
        ("ROBER", "radau5", 1e-4),
        ("ROBER", "radau9", 1e-4),
        ("ROBER", "radau9", 1e-8),
        ("VDPOL", "radau5", 1e-4),
        ("VDPOL", "radau9", 1e-6),
    ],
)
def test_a_tensor_makes_the_steps_of_numpy(name, method, rtol):
    f, jac, t1, y0, size = PROBLEMS[name]
    options = {"rtol": rtol, "jac": jac}
    numpy = sk.solve(f, (0.0, t1), np.array(y0), method, atol=rtol * size, **options)
    state = torch.tensor(y0, dtype=torch.float64)
    tensor = sk.solve(f, (0.0, t1), state, method, atol=torch.tensor(rtol * size), **options)
    assert numpy.success
    assert tensor.success
    # A rounding may turn a verdict that is as close as that. Where none is, all counts are equal.
    for count in COUNTS:
        assert tensor.stats[count] == pytest.approx(numpy.stats[count], rel=0.03, abs=3)
    np.testing.assert_allclose(tensor.y[-1].numpy(), numpy.y[-1], rtol=1e-2 * rtol)
    np.testing.assert_allclose(tensor.y[-1].numpy(), ENDS[name], rtol=100 * rtol)


@every_radau
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
@pytest.mark.parametrize(
    "options", [{}, {"grid": 150}, {"controller": PredictiveController()}, {"first_step": 2.0}]
)
def test_counts_are_those_of_numpy(method, dtype, options):
    def f(t, y):
        return stack([y[1], 8 * (1 - y[0] ** 2) * y[1] - y[0]])

    def jac(t, y):
        o = 0 * y[0]
        return stack([[o, 1 + o], [-16 * y[0] * y[1] - 1, 8 * (1 - y[0] ** 2)]])

    y0 = torch.tensor([2.0, 0.0], dtype=dtype)
    options = options | {"rtol": 1e-4, "atol": 1e-6, "jac": jac}
    numpy = sk.solve(f, (0.0, 10.0), y0.numpy(), method, **options)
    tensor = sk.solve(f, (0.0, 10.0), y0, method, **options)
    assert numpy.success
    # radau9's first estimates are rounding: the steps that follow from them differ in late digits.
    slack = 0 if method == "radau5" else 1
    for count in ("accepted", "rejected", "njev"):
        assert abs(tensor.stats[count] - numpy.stats[count]) <= slack
    if slack == 0:
        assert {k: tensor.stats[k] for k in COUNTS} == {k: numpy.stats[k] for k in COUNTS}
        np.testing.assert_allclose(tensor.t, numpy.t, rtol=1e-9)
    np.testing.assert_allclose(tensor.y[-1].numpy(), numpy.y[-1], rtol=1e-9)


def pendula(t, y, mu):
    x, v = y[:, 0], y[:, 1]
    return torch.stack([v, mu.to(x.dtype) * (1 - x * x) * v - x + torch.sin(t)], 1)


@every_radau
@pytest.mark.parametrize("rtol", [1e-3, 1e-5])
def test_a_sample_is_what_it_is_alone(method, rtol):
    tolerances = rtol * torch.tensor([[1.0], [0.1], [3.0], [1.0]], dtype=torch.float64)
    options = {"atol": 1e-2 * rtol, "t_eval": [0.0, 0.7, 1.3, 5.0]}
    many = sk.solve(
        pendula, (0.0, 5.0), Y0, method, batched=True, args=(MU,), rtol=tolerances, **options
    )
    assert many.success
    for i in range(4):
        one = sk.solve(
            lambda t, y, i=i: pendula(t[None], y[None], MU[i : i + 1])[0],
            (0.0, 5.0),
            Y0[i],
            method,
            rtol=float(tolerances[i]),
            **options,
        )
        for count in ("accepted", "rejected"):
            assert many.stats[count][i] == one.stats[count]
        torch.testing.assert_close(many.y[:, i], one.y, rtol=1e-10, atol=1e-10)


@every_radau
@pytest.mark.parametrize("dtype", [torch.float32, torch.complex64])
def test_single_precision(method, dtype):
    options = {"batched": True, "args": (MU,), "rtol": 1e-4, "atol": 1e-6, "t_eval": [1.0]}
    y = sk.solve(pendula, (0.0, 1.0), Y0.to(dtype), method, **options).y
    assert y.dtype == dtype
    exact = sk.solve(pendula, (0.0, 1.0), Y0, "vern7", **(options | {"rtol": 1e-10})).y
    torch.testing.assert_close(y.to(torch.complex128).real, exact, rtol=3e-3, atol=1e-3)


def relaxation(t, y, k, end):
    """Towards cos t at the rates k; NaN after `end`."""
    slope = -k[:, None] * (y - torch.cos(t)[:, None])
    return slope + torch.where(t > end, torch.nan, 0.0)[:, None]


@pytest.mark.parametrize(
    ("method", "adjoint", "end"),
    [
        ("radau5", None, -1.0),
        ("radau5", None, 0.3),
        ("radau5", "checkpoints", 0.3),
        ("radau9", None, 0.3),
    ],
)
def test_a_sample_that_is_not_finite_leaves_the_others_as_they_are(method, adjoint, end):
    k = torch.tensor([1.0, 7.0, 100.0, 5.0], dtype=torch.float64)
    end = torch.tensor([9.0, end, 9.0, 9.0], dtype=torch.float64)
    rest, found = [0, 2, 3], []
    for rows in ([0, 1, 2, 3], rest):
        rates = k[rows].clone().requires_grad_()
        s = sk.solve(
            relaxation,
            (0.0, 1.0),
            torch.ones((len(rows), 1), dtype=torch.float64),
            method,
            batched=True,
            args=(rates, end[rows]),
            t_eval=[0.5, 1.0],
            adjoint=adjoint,
        )
        mine = rest if len(rows) == 4 else [0, 1, 2]
        (slope,) = torch.autograd.grad(s.y[:, mine].sum(), rates)
        found.append((s.y[:, mine].detach(), slope[mine]))
        if len(rows) == 4:
            assert s.status[1] is sk.Status.non_finite
            assert all(s.status[i] is sk.Status.success for i in rest)
    for with_it, without in zip(*found, strict=True):
        torch.testing.assert_close(with_it, without, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("method", "adjoint"), [("radau5", None), ("radau5", "checkpoints"), ("radau9", None)]
)
def test_gradients_are_those_of_the_steps(method, adjoint):
    """Few steps, so long that J changes a lot within each: all stages' Jacobians are needed."""

    def states(y0, mu):
        options = {"rtol": 1e-8, "atol": 1e-8, "t_eval": [0.3, 1.0], "grid": 3}
        return sk.solve(
            pendula, (0.0, 1.0), y0, method, batched=True, args=(mu,), adjoint=adjoint, **options
        ).y

    leaves = Y0[1:3].clone().requires_grad_(), MU[1:3].clone().requires_grad_()
    assert torch.autograd.gradcheck(states, leaves)


@every_radau
def test_complex_gradients(method):
    def final(y0, rate):
        return sk.solve(
            lambda t, y: rate * y * (1 - y), (0.0, 1.0), y0, method, grid=3, rtol=1e-8
        ).y[-1]

    y0 = torch.tensor([0.2 + 0.1j], dtype=torch.complex128, requires_grad=True)
    rate = torch.tensor(-2.0 + 1.0j, dtype=torch.complex128, requires_grad=True)
    assert torch.autograd.gradcheck(final, (y0, rate))


@every_radau
def test_a_stiff_part_that_drives_another_is_as_exact_as_asked_at_every_step(method):
    def cascade(t, y):
        a, b = y[..., 0], y[..., 1]  # cos t and its square
        return stack([1e6 * (t.cos() - a) - t.sin(), 1e6 * (a * a - b) - (2 * t).sin()])

    y0 = torch.ones(2, dtype=torch.float64)
    solution = sk.solve(cascade, (0.0, 3.0), y0, method, rtol=1e-6, atol=1e-6)
    assert (solution.y[:, 1] - solution.t.cos() ** 2).abs().max() < 1e-6


def test_a_jacobian_serves_more_than_one_step():
    s = sk.solve(
        pendula, (0.0, 5.0), Y0[:1], "radau5", batched=True, args=(MU[:1],), rtol=1e-6, atol=1e-8
    )
    assert s.stats["njev"] < 0.3 * s.stats["accepted"][0]


def test_a_grid_that_newton_s_method_cannot_follow_ends_there():
    rows = [0, 3]
    s = sk.solve(pendula, (0.0, 20.0), Y0[rows], "radau5", batched=True, args=(MU[rows],), grid=40)
    assert [status.name for status in s.status] == ["success", "newton_failed"]
    assert 1 < len(s[1].t) < 41


def test_a_controller_of_one_number_takes_what_is_not_finite_for_a_rejection():
    end = torch.tensor([9.0, 0.3], dtype=torch.float64)
    s = sk.solve(
        relaxation,
        (0.0, 1.0),
        torch.ones((2, 1), dtype=torch.float64),
        "dopri5",
        batched=True,
        args=(torch.ones(2, dtype=torch.float64), end),
        controller=PredictiveController(),
    )
    assert [status.name for status in s.status] == ["success", "non_finite"]
