"""Gradients of batched solves, and of implicit ones: exact for the steps, whatever the way."""

import math
import warnings
from itertools import pairwise

import numpy as np
import pytest

import stiffkit as sk
from stiffkit.solvers.batch.linear import BatchAlgebra, factored
from stiffkit.solvers.batch.problem import make_batch_problem

torch = pytest.importorskip("torch")

MU = torch.tensor([0.5, 1.5, 3.0], dtype=torch.float64)
Y0 = torch.tensor([[2.0, 0.0], [1.0, 1.0], [0.0, 0.5]], dtype=torch.float64)
TIMES = [0.0, 0.3, 1.0]


def pendula(t, y, mu):
    x, v = y[:, 0], y[:, 1]
    return torch.stack([v, mu * (1 - x * x) * v - x + torch.sin(t)], 1)


def leaves():
    return Y0.clone().requires_grad_(), MU.clone().requires_grad_()


def along(function, inputs, direction, step):
    """Return the derivative of a sum along a direction: by differences, and by autograd."""
    ends = []
    for sign in (1, -1):
        with torch.no_grad():
            moved = [x + sign * step * d for x, d in zip(inputs, direction, strict=True)]
            ends.append(function(*moved).sum())
    found = torch.autograd.grad(function(*inputs).sum(), inputs)
    exact = sum((g * d).sum() for g, d in zip(found, direction, strict=True))
    return float((ends[0] - ends[1]) / (2 * step)), float(exact)


@pytest.mark.parametrize(
    ("method", "rtol"),
    [
        ("bosh3", 1e-7),
        ("dopri5", 1e-9),
        ("dop853", 1e-10),
        ("rkc2", 1e-5),
        ("rock4", 1e-8),
        ("rodas5p", 1e-9),
        ("ros34pw2", 1e-6),
    ],
)
def test_gradients_are_those_of_differences(method, rtol):
    def final(y0, mu):
        options = {"rtol": rtol, "atol": rtol / 10, "t_eval": TIMES, "first_step": 0.01}
        return sk.solve(pendula, (0.0, 1.0), y0, method, batched=True, args=(mu,), **options).y

    direction = (torch.tensor([[1.0, -0.5], [0.3, 0.8], [-0.7, 0.2]]), torch.tensor([0.4, -1, 0.6]))
    difference, gradient = along(final, leaves(), direction, 1e-3)
    # Differences see the steps change with the input, a gradient does not: they agree as well as
    # the solution is exact, and up to the differences' own h².
    assert gradient == pytest.approx(difference, rel=1e-5 + 300 * rtol)


@pytest.mark.parametrize("method", ["trbdf2", "kvaerno5", "kencarp4", "radau5", "radau9"])
def test_newton_s_method_is_differentiated_at_its_solution(method):
    y0, mu = leaves()
    options = {"rtol": 1e-6, "atol": 1e-9, "t_eval": [1.0], "batched": True, "args": (mu,)}
    mine = sk.solve(pendula, (0.0, 1.0), y0, method, **options).y
    exact = sk.solve(pendula, (0.0, 1.0), y0, "dop853", **(options | {"rtol": 1e-11})).y
    for a, b in zip(
        torch.autograd.grad((mine**2).sum(), (y0, mu)),
        torch.autograd.grad((exact**2).sum(), (y0, mu)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("method", ["tsit5", "vern7", "kvaerno3", "radau5", "rodas5p", "rkc2"])
def test_checkpoints_change_nothing(method):
    weight = torch.nn.Parameter(torch.tensor([[0.1, 0.2], [-0.3, 0.1]], dtype=torch.float64))

    def f(t, y, mu):
        return pendula(t, y, mu) + y @ weight

    y0, mu = leaves()
    options = {"rtol": 1e-4, "atol": 1e-6, "t_eval": TIMES, "batched": True, "args": (mu,)}
    plain = sk.solve(f, (0.0, 1.0), y0, method, **options).y
    reference = torch.autograd.grad((plain**2).sum(), (y0, mu, weight))
    found = []
    for count in (None, 1, 1000):
        y = sk.solve(f, (0.0, 1.0), y0, method, adjoint=sk.Checkpoints(count), **options).y
        found.append(torch.autograd.grad((y**2).sum(), (y0, mu, weight)))
        # Sums in another order move the steps; Newton's method is corrected once more where
        # autograd looks on.
        torch.testing.assert_close(y, plain, rtol=1e-5, atol=1e-5)
    for gradients in found:
        for a, b in zip(gradients, reference, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-4)
        # A piece of a Radau solve has its own start values and Jacobian: what the iteration leaves,
        # 1e-2 of rtol, differs.
        rtol, atol = (1e-5, 1e-5) if method == "radau5" else (1e-12, 1e-13)
        for a, b in zip(gradients, found[0], strict=True):
            torch.testing.assert_close(a, b, rtol=rtol, atol=atol)


def test_checkpoints_keep_little():
    net = torch.nn.Sequential(torch.nn.Linear(4, 64), torch.nn.Tanh(), torch.nn.Linear(64, 4))
    y0 = torch.randn(32, 4, generator=torch.Generator().manual_seed(0))

    def kept(adjoint):
        saved = 0

        def pack(x):
            nonlocal saved
            saved += x.numel()
            return x

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
            y = sk.solve(
                lambda t, y: net(y),
                (0.0, 3.0),
                y0,
                "dopri5",
                rtol=1e-6,
                atol=1e-7,
                t_eval=[3.0],
                batched=True,
                adjoint=adjoint,
            ).y
        y.sum().backward()
        return saved

    assert kept("checkpoints") < 0.1 * kept(None)


def test_the_adjoint_equation():
    weight = torch.nn.Parameter(torch.tensor([[0.1, 0.2], [-0.3, 0.1]], dtype=torch.float64))

    def f(t, y, mu):
        return pendula(t, y, mu) + y @ weight

    y0, mu = leaves()
    options = {"rtol": 1e-9, "atol": 1e-11, "t_eval": TIMES, "batched": True, "args": (mu,)}
    plain = sk.solve(f, (0.0, 1.0), y0, "dopri5", **options).y
    exact = torch.autograd.grad((plain**2).sum(), (y0, mu, weight))
    errors = []
    for rtol in (1e-5, 1e-8):
        kind = sk.Backsolve(rtol=rtol, atol=rtol / 10)
        y = sk.solve(f, (0.0, 1.0), y0, "dopri5", adjoint=kind, **options).y
        torch.testing.assert_close(y, plain, rtol=1e-12, atol=1e-12)
        found = torch.autograd.grad((y**2).sum(), (y0, mu, weight))
        errors.append(
            max(
                float((a - b).abs().max() / b.abs().max())
                for a, b in zip(found, exact, strict=True)
            )
        )
    assert errors[0] < 1e-3
    assert errors[1] < 1e-6


def test_what_cannot_be_found_backward_is_told():
    y0 = torch.ones((2, 1), dtype=torch.float64, requires_grad=True)
    with pytest.warns(sk.StiffBackwardWarning, match="deviations of sample"):
        y = sk.solve(
            lambda t, y: -1e3 * (y - torch.cos(t)[:, None]),
            (0.0, 1.0),
            y0,
            "dopri5",
            t_eval=[1.0],
            batched=True,
            adjoint="backsolve",
            rtol=1e-6,
            max_steps=20_000,
        ).y
    # Backward in time the deviation grows by e^1000.
    with pytest.raises(RuntimeError, match="adjoint equation of sample 0 could not be solved"):
        y.sum().backward()


@pytest.mark.parametrize("shrunk", [0.5, 2.0])
@pytest.mark.parametrize("method", ["tsit5", "kvaerno3", "rodas5p", "rock4"])
def test_backsolve_warns_where_damping_passes_the_tolerance(method, shrunk):
    """Deviations of y' = −ky shrink by e^(−k); the second sample's by `shrunk` powers of rtol."""
    rtol = 1e-4
    k = torch.tensor([0.1, shrunk * math.log(1 / rtol)], dtype=torch.float64, requires_grad=True)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        sk.solve(
            lambda t, y, k: -k[:, None] * y,
            (0.0, 1.0),
            torch.ones((2, 1), dtype=torch.float64),
            method,
            args=(k,),
            batched=True,
            adjoint=sk.Backsolve(method=sk.METHODS["tsit5"]),
            rtol=rtol,
        )
    told = [w for w in seen if w.category is sk.StiffBackwardWarning]
    assert len(told) == (shrunk > 1)
    assert all("sample 1" in str(w.message) for w in told)


@pytest.mark.parametrize("method", ["rodas5p", "kvaerno3", "radau5"])
def test_one_tensor_has_a_callback_as_elsewhere(method):
    steps = []

    def keep(step):
        steps.append(step)
        return len(steps) == 5

    y0 = torch.tensor([1.0, 0.5], dtype=torch.float64)
    s = sk.solve(lambda t, y: -50 * y, (0.0, 1.0), y0, method, callback=keep)
    assert s.status is sk.Status.interrupted
    assert [step.t_new for step in steps] == s.t[1:].tolist()
    assert all(a.t_new == b.t and torch.equal(a.y_new, b.y) for a, b in pairwise(steps))
    assert all(step.tableau.name == method and step.estimate.shape == (2,) for step in steps)
    torch.testing.assert_close(steps[0].k[0], -50 * y0)


def test_jacobians_of_both_modes_and_their_derivatives_agree():
    """Robertson's equation, driven: ∂f/∂y, ∂f/∂t, and the gradient of a sum of both."""
    k = torch.tensor([[0.04, 1e4, 3e7], [0.1, 2e3, 1e5]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([[0.9, 1e-5, 0.1], [0.5, 1e-3, 0.4]], dtype=torch.float64)

    def f(t, y, k):
        a, b, c = k[:, 0] * y[:, 0], k[:, 1] * y[:, 1] * y[:, 2], k[:, 2] * y[:, 1] ** 2
        return torch.stack([b - a + torch.sin(t), a - b - c, c * t], 1)

    t = np.array([0.3, 0.7])
    found = []
    for reverse in (True, False):
        problem = make_batch_problem(f, (t, 1.0), y, (k,))
        algebra = BatchAlgebra(problem, record=True, reverse=reverse)
        for _ in range(2):  # once autograd was seen to follow t, one pass gives both
            J, f_t = algebra.derivatives(t, y, problem.first_slopes(), np.full(2, 0.1))
        assert algebra.timed
        found.append((J, f_t, *torch.autograd.grad((J**2).sum() + f_t.sum(), k)))
        assert algebra.reverse_mode == reverse
    for one, two in zip(*found, strict=True):
        torch.testing.assert_close(one, two, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found[0][1][:, 0].detach(), torch.cos(torch.as_tensor(t)))


def test_gradients_of_event_times():
    def low(t, y, mu):
        return y[:, 0] - 0.2

    low.terminal = True

    def events(y0, mu):
        s = sk.solve(
            pendula,
            (0.0, 20.0),
            y0,
            "dopri5",
            rtol=1e-10,
            atol=1e-12,
            events=low,
            batched=True,
            args=(mu,),
        )
        assert all(status is sk.Status.event for status in s.status)
        return s.events[0].t[0], s.events[0].y[0]

    y0, mu = leaves()
    direction = torch.tensor([[1.0, -0.5], [0.3, 0.8], [-0.7, 0.2]]), torch.tensor([0.4, -1, 0.6])
    for k in range(2):
        difference, gradient = along(lambda *x, k=k: events(*x)[k], (y0, mu), direction, 1e-4)
        assert gradient == pytest.approx(difference, rel=1e-6)


def test_a_tensor_by_an_implicit_method_alone():
    rates = torch.tensor([0.04, 1e4, 3e7], dtype=torch.float64, requires_grad=True)

    def rober(t, y):
        a, b, c = rates[0] * y[0], rates[1] * y[1] * y[2], rates[2] * y[1] ** 2
        return torch.stack([b - a, a - b - c, c])

    y0 = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    options = {"rtol": 1e-6, "atol": 1e-13, "t_eval": [40.0]}
    found = []
    for adjoint in (None, "checkpoints"):
        y = sk.solve(rober, (0.0, 40.0), y0, "rodas5p", adjoint=adjoint, **options).y
        assert y.shape == (1, 3)
        # HW II, IV.10: y(40) of ROBER.
        np.testing.assert_allclose(y[0].detach(), [0.7158271, 9.185535e-6, 0.2841638], rtol=1e-5)
        found.append(torch.autograd.grad(y[0, 0], rates)[0])
    torch.testing.assert_close(found[0], found[1], rtol=1e-10, atol=0.0)
    # Central differences of solves to rtol 1e-10.
    expected = [-4.2475588, 1.3730808e-5, -2.2883551e-9]
    np.testing.assert_allclose(found[0], expected, rtol=1e-4)


def test_not_finite_attempts_do_not_reach_the_gradient():
    def f(t, y):
        return torch.sqrt(y)  # NaN where an attempt goes below zero

    y0 = torch.tensor([[1.0], [4.0]], dtype=torch.float64, requires_grad=True)
    s = sk.solve(lambda t, y: -f(t, y), (0.0, 1.5), y0, "dopri5", batched=True, first_step=3.0)
    assert s.success
    assert (s.stats["rejected"] > 0).any()
    last = torch.stack([s[i].y[-1, 0] for i in range(2)])
    (slope,) = torch.autograd.grad(last.sum(), y0)
    root = y0.detach().sqrt()  # y(t) = (√y0 − t/2)²
    torch.testing.assert_close(slope, (root - 0.75) / root, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("adjoint", [None, "checkpoints"])
@pytest.mark.parametrize("method", ["tsit5", "bosh3", "rodas5p", "kvaerno5", "radau5", "rkc2"])
def test_a_sample_that_is_not_finite_spoils_no_shared_gradient(method, adjoint):
    p = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    y0 = torch.tensor([[1.0]] * 7 + [[-1.0]], dtype=torch.float64)
    s = sk.solve(
        lambda t, y: -0.3 * p * torch.sqrt(y),
        (0.0, 1.0),
        y0,
        method,
        batched=True,
        t_eval=[1.0],
        adjoint=adjoint,
    )
    assert s.status[7] is sk.Status.non_finite
    (slope,) = torch.autograd.grad(s.y[0, :7].sum(), p)
    assert float(slope) == pytest.approx(-7 * 0.3 * 0.85, rel=1e-3)  # y(1) = (1 − 0.15 p)²


def test_gradients_of_two_events_in_one_step():
    y0 = torch.tensor([[0.0, 1.0], [0.0, 0.04]], dtype=torch.float64, requires_grad=True)
    levels = (0.05, 0.4)
    s = sk.solve(
        lambda t, y: torch.stack([y[:, 1], -y[:, 0]], 1),
        (0.0, 1.0),
        y0,
        "dop853",
        batched=True,
        first_step=0.9,
        rtol=1e-3,
        atol=1e-3,
        events=lambda t, y: (y[:, 0] - levels[0]) * (y[:, 0] - levels[1]),
    )
    assert s.count[0] == 3  # a step of 0.9, with both events, and the rest
    for k, level in enumerate(levels):  # v sin t = level: dt/dv = −tan t / v
        (slope,) = torch.autograd.grad(s.events[0].t[k, 0], y0, retain_graph=True)
        assert float(slope[0, 1]) == pytest.approx(-np.tan(np.arcsin(level)), rel=1e-4)


def test_the_adjoint_equation_with_parameters_made_outside_of_f():
    p = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)
    w = p.exp()
    y = sk.solve(
        lambda t, y: -w * y,
        (0.0, 1.0),
        torch.ones((2, 1), dtype=torch.float64),
        "dopri5",
        batched=True,
        t_eval=[1.0],
        rtol=1e-8,
        atol=1e-10,
        adjoint=sk.Backsolve(rtol=np.array([[1e-7], [1e-8]])),
    ).y
    (slope,) = torch.autograd.grad(y.sum(), p)
    rate = np.exp(0.5)
    assert float(slope) == pytest.approx(-2 * rate * np.exp(-rate), rel=1e-6)
    with pytest.raises(ValueError, match="rtol must be finite and positive"):
        sk.solve(lambda t, y: -y, (0.0, 1.0), Y0, "dopri5", batched=True, adjoint=sk.Backsolve(-1))


@pytest.mark.parametrize("method", ["tsit5", "kvaerno5", "radau9", "rkc2"])
def test_checkpoints_of_samples_with_their_own_ends(method):
    ends = np.array([0.1, 0.2, 1.5])
    times = np.stack([0.5 * ends, ends])
    rows = []

    def f(t, y, mu):
        rows.append(len(y))
        return pendula(t, y, mu)

    y0, mu = leaves()
    options = {"rtol": 1e-4, "atol": 1e-6, "t_eval": times, "batched": True, "args": (mu,)}
    plain = sk.solve(f, (0.0, ends), y0, method, **options)
    made = sk.solve(f, (0.0, ends), y0, method, adjoint="checkpoints", **options)
    torch.testing.assert_close(made.y, plain.y, rtol=1e-3, atol=1e-4)
    rows.clear()
    found = torch.autograd.grad((made.y**2).sum(), (y0, mu))
    assert rows.count(1) > 0.2 * len(rows)  # the pieces after the others' ends are made for one
    for a, b in zip(found, torch.autograd.grad((plain.y**2).sum(), (y0, mu)), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-3)


def test_a_tensor_alone_with_a_radius_and_a_list():
    y0 = torch.ones(2, dtype=torch.float64, requires_grad=True)
    for radius in (2.0, lambda t, y: 2.0):
        y = sk.solve(
            lambda t, y: -2 * y, (0.0, 1.0), y0, "rkc2", radius=radius, adjoint="checkpoints"
        ).y[-1]
        (slope,) = torch.autograd.grad(y.sum(), y0)
        torch.testing.assert_close(slope, torch.full_like(y0, np.exp(-2)), rtol=1e-2, atol=0.0)
    with pytest.raises(ValueError, match="is for torch states"):
        sk.solve(lambda t, y: -y, (0.0, 1.0), [1.0, 2.0], "tsit5", adjoint="checkpoints")


@pytest.mark.parametrize("method", ["kvaerno3", "radau5"])
def test_second_derivatives_through_newton_are_refused(method):
    k = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    y0 = torch.ones(1, dtype=torch.float64)
    end = sk.solve(lambda t, y: -k * y * y, (0.0, 1.0), y0, method).y[-1].sum()
    (first,) = torch.autograd.grad(end, k, retain_graph=True)
    assert float(first) == pytest.approx(-0.25, rel=1e-3)  # y = 1 / (1 + k t)
    with pytest.raises(RuntimeError, match="of first order only"):
        torch.autograd.grad(end, k, create_graph=True)


@pytest.mark.parametrize("adjoint", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128])
def test_solutions_by_shared_factors_have_their_derivatives(dtype, adjoint):
    generator = torch.Generator().manual_seed(1)
    W = 2 * torch.eye(3, dtype=dtype) + 0.5 * torch.randn(2, 3, 3, dtype=dtype, generator=generator)
    r = torch.randn(2, 3, dtype=dtype, generator=generator)

    def solve(W, r):
        LU, pivots, _ = torch.linalg.lu_factor_ex(W.detach())
        return factored().apply(W, r, LU, pivots, adjoint)

    inputs = W.requires_grad_(), r.requires_grad_()
    expected = torch.linalg.solve(W.mH if adjoint else W, r[..., None])[..., 0]
    assert torch.allclose(solve(*inputs), expected, rtol=1e-12, atol=0)
    assert torch.autograd.gradcheck(solve, inputs)
    assert torch.autograd.gradgradcheck(solve, inputs)


def test_an_autonomous_f_is_not_called_for_its_derivative_by_time():
    rate = torch.tensor([1.0, 30.0], dtype=torch.float64, requires_grad=True)

    def f(t, y, rate):
        return -rate[:, None] * y

    y0, stages = torch.ones(2, 1, dtype=torch.float64), sk.METHODS["rodas5p"].n_stages
    s = sk.solve(f, (0.0, 3.0), y0, "rodas5p", batched=True, args=(rate,), t_eval=[3.0])
    attempts = int((s.stats["accepted"] + s.stats["rejected"]).max())
    # A step: the stages but the first, the slope at the end, the Jacobian. Once: f at t0, the first
    # step, and the derivative by time, of which it is tried whether it is to be trusted.
    assert attempts > 5
    assert s.stats["nfev"] <= attempts * (stages + 1) + 4
