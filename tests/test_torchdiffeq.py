"""`odeint`, `odeint_adjoint`, `odeint_event` beside torchdiffeq itself, option by option."""

import math
from functools import partial

import numpy as np
import pytest

torch = pytest.importorskip("torch")
td = pytest.importorskip("torchdiffeq")

import stiffkit as sk  # noqa: E402 - after the skips

EPS = float(np.finfo(float).eps)
FIXED = ["euler", "midpoint", "heun2", "heun3", "rk4"]
TIMES = torch.tensor([0.0, 0.3, 1.0, 2.5], dtype=torch.float64)
Y0 = torch.tensor([1.0, 2.0], dtype=torch.float64)


class Swing(torch.nn.Module):
    """A bounded, non-autonomous problem that remembers what it was asked."""

    def __init__(self):
        super().__init__()
        self.a = torch.nn.Parameter(torch.tensor(3.0, dtype=torch.float64))
        self.calls = []

    def forward(self, t, y):
        self.calls.append(float(t.detach()))
        return torch.sin(self.a * t) * y + torch.cos(y + t)


@pytest.fixture
def both():
    """Call both libraries on problems of their own; return results and problems."""

    def call(name="odeint", y0=Y0, t=TIMES, **given):
        pairs = []
        for library in (sk, td):
            f = Swing()
            pairs.append((getattr(library, name)(f, y0, t, **given), f))
        return pairs

    return call


def close(ours, theirs, roundings=100):
    """Whether two results of the same arithmetic agree to some roundings."""
    scale = float(theirs.detach().abs().max())
    assert float((ours - theirs).detach().abs().max()) <= roundings * EPS * max(scale, 1.0)


# Fixed steps: the same arithmetic -----------------------------------------------------------------


@pytest.mark.parametrize("t", [TIMES, TIMES.flip(0)], ids=["forward", "backward"])
@pytest.mark.parametrize(
    "options", [None, {"step_size": 0.1}, {"step_size": 0.07, "perturb": True}], ids=str
)
@pytest.mark.parametrize("method", FIXED)
def test_fixed_steps_are_torchdiffeqs_to_rounding(both, method, options, t):
    (ours, f), (theirs, g) = both(t=t, method=method, options=options)
    close(ours, theirs)
    assert len(f.calls) == len(g.calls)
    np.testing.assert_allclose(f.calls, g.calls, rtol=0, atol=10 * EPS)


@pytest.mark.parametrize("method", FIXED)
def test_cubic_interpolation_is_torchdiffeqs(both, method):
    (ours, _), (theirs, _) = both(method=method, options={"step_size": 0.17, "interp": "cubic"})
    close(ours, theirs)


def test_a_grid_constructor_gets_what_torchdiffeq_gives_it_and_decides_the_steps(both):
    seen = []

    def grid(f, y0, t):
        seen.append((type(f), y0, t))
        return torch.linspace(float(t[0]), float(t[-1]), 40, dtype=t.dtype)

    (ours, _), (theirs, _) = both(method="rk4", options={"grid_constructor": grid})
    close(ours, theirs)
    assert seen[0][0] is Swing
    assert torch.equal(seen[0][1], Y0)
    assert torch.equal(seen[0][2], TIMES)


def test_a_step_size_that_divides_the_span_makes_no_step_of_a_rounding(both):
    (_, f), _ = both(
        t=torch.tensor([0.0, 0.7], dtype=torch.float64), method="euler", options={"step_size": 0.1}
    )
    assert len(f.calls) == 7


# Steps under control ------------------------------------------------------------------------------


def attempts(library, method, options, tol=1e-5):
    """All attempted steps with their verdicts, as the callbacks tell them."""
    f, seen = Swing(), []
    f.callback_step = lambda t, y, dt: seen.append([t.item(), dt.item(), y.clone()])
    f.callback_accept_step = lambda t, y, dt: seen[-1].append("accept")
    f.callback_reject_step = lambda t, y, dt: seen[-1].append("reject")
    library.odeint(f, Y0, TIMES, rtol=tol, atol=tol, method=method, options=options)
    return seen, f


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"first_step": 1e-3},
        {"first_step": 1.0},  # rejected, and more than once
        {"safety": 0.7},
        {"ifactor": 1.5, "first_step": 1e-3},
        {"dfactor": 0.6, "first_step": 2.0},
        {"max_step": 0.02},
        {"norm": lambda y: y.abs().max()},
        {"max_num_steps": 1000},
    ],
)
@pytest.mark.parametrize("method", ["bosh3", "dopri8"])
def test_attempts_are_torchdiffeqs_up_to_the_last_step(method, options):
    # The two pairs are the same methods in both libraries. torchdiffeq steps past the end.
    (ours, _), (theirs, _) = (attempts(library, method, options) for library in (sk, td))
    n = len(ours) - 1
    assert abs(len(theirs) - len(ours)) <= 1
    for a, b in zip(ours[:n], theirs[:n], strict=True):
        assert a[3] == b[3]
        # Where an estimate passes through zero, roundings are much of what decides h.
        assert a[0] == pytest.approx(b[0], rel=1e-3, abs=1e-9)
        assert a[1] == pytest.approx(b[1], rel=1e-3)
        torch.testing.assert_close(a[2].detach(), b[2].detach(), rtol=1e-2, atol=1e-3)


@pytest.fixture(scope="module")
def reference():
    """The solution at `TIMES`, to 12 digits."""
    return sk.odeint(Swing(), Y0, TIMES, method="vern9", rtol=1e-13, atol=1e-14).detach()


@pytest.mark.parametrize(
    "method",
    [None, "dopri5", "dopri8", "bosh3", "adaptive_heun", "tsit5", "kvaerno5", "rodas5p", "auto"],
)
def test_controlled_steps_are_right_to_the_tolerance(reference, method):
    tol = 1e-5
    y = sk.odeint(Swing(), Y0, TIMES, rtol=tol, atol=tol, method=method)
    # Errors grow by at most exp(∫|∂f/∂y|) < exp(2.5 · 2) over the span.
    assert float((y.detach() - reference).abs().max()) <= math.exp(5) * tol


@pytest.mark.parametrize("method", ["dopri8", "bosh3"])
def test_output_between_steps_is_nearer_to_the_solution_than_torchdiffeqs(reference, method):
    errors = [
        float(
            (library.odeint(Swing(), Y0, TIMES, rtol=1e-6, atol=1e-8, method=method) - reference)
            .abs()
            .max()
            .detach()
        )
        for library in (sk, td)
    ]
    assert 10 * errors[0] < errors[1]


def test_fehlberg2_is_as_far_from_the_tolerance_as_in_torchdiffeq(both, reference):
    # Its two rows differ by 1/512 of what they should: errors are some hundred tolerances.
    for y, _ in both(method="fehlberg2", rtol=1e-5, atol=1e-7):
        assert 1e-4 < float((y - reference).detach().abs().max()) < 1e-2


@pytest.mark.parametrize("sign", [1.0, -1.0])
@pytest.mark.parametrize("method", ["dopri5", "bosh3", "rodas5p"])
def test_f_is_seen_from_one_side_of_a_jump(method, sign):
    jump, calls = 0.5 * sign, []

    def f(t, y):
        calls.append(float(t))
        return torch.where(t * sign < 0.5, 1.0 + 0 * y, -2.0 + 0 * y)

    t = torch.tensor([0.0, 0.4, 1.0], dtype=torch.float64) * sign
    y = sk.odeint(
        f,
        torch.zeros(1, dtype=torch.float64),
        t,
        method=method,
        options={"jump_t": torch.tensor([jump])},
    )
    # Constant slopes are integrated to rounding, up to that of a time beside the jump.
    expected = torch.tensor([0.0, 0.4, -0.5], dtype=torch.float64) * sign
    assert float((y[:, 0] - expected).abs().max()) <= 1e-13
    assert jump not in calls


def test_steps_end_at_step_t():
    stops, f = [0.123, 0.77], Swing()
    ends = []
    f.callback_accept_step = lambda t, y, dt: ends.append(float(t + dt))
    sk.odeint(f, Y0, TIMES, rtol=1e-4, options={"step_t": torch.tensor(stops).double()})
    for stop in torch.tensor(stops).double().tolist():
        assert min(abs(end - stop) for end in ends) <= 4 * EPS


# Structures ---------------------------------------------------------------------------------------


def parts(t, y):
    a, b = y
    return b.sum() * torch.ones_like(a), -a * torch.ones_like(b)


def test_tuples_come_back_as_tuples_under_torchdiffeqs_norm():
    y0 = (torch.tensor(1.0).double(), torch.ones(2, 3).double())
    t = torch.tensor([0.0, 0.5, 1.0]).double()
    for options in ({}, {"norm": lambda y: torch.stack([y[0].abs(), y[1].abs().max()]).max()}):
        ours, theirs = (
            library.odeint(
                parts, y0, t, method="dopri5", rtol=1e-7, atol=(1e-9, 1e-8), options=options
            )
            for library in (sk, td)
        )
        assert isinstance(ours, tuple)
        for a, b in zip(ours, theirs, strict=True):
            assert a.shape == b.shape
            assert float((a[-1] - b[-1]).abs().max()) <= 1e-6


def test_nested_structures_do_too():
    y0 = {"a": torch.ones(2).double(), "b": (torch.zeros(1).double(),)}
    y = sk.odeint(lambda t, y: {"b": (y["a"][:1],), "a": -y["a"]}, y0, TIMES)
    assert y["a"].shape == (4, 2)
    assert y["b"][0].shape == (4, 1)
    torch.testing.assert_close(y["b"][0][:, 0], 1 - torch.exp(-TIMES), rtol=1e-6, atol=1e-8)


def test_single_precision_runs_at_the_default_tolerances_without_a_warning():
    y = sk.odeint(lambda t, y: -y, torch.ones(2), torch.tensor([0.0, 1.0]))
    assert y.dtype is torch.float32
    assert float((y[-1] - math.exp(-1)).abs().max()) < 1e-6


def test_one_time_gives_the_initial_state():
    y = sk.odeint(Swing(), Y0, TIMES[:1])
    assert torch.equal(y, Y0[None])


# Gradients ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dopri5", "dopri8", "rk4"])
@pytest.mark.parametrize("name", ["odeint", "odeint_adjoint"])
def test_gradients_of_state_parameter_and_times(name, method):
    f = Swing()
    options = {"step_size": 0.1, "interp": "cubic"} if method == "rk4" else None
    solve = partial(getattr(sk, name), method=method, options=options, rtol=1e-8, atol=1e-10)

    def run(y0, t, a):
        g = Swing()
        g.a = torch.nn.Parameter(a.detach())
        del g.a
        g.a = a
        given = {"adjoint_params": (a,)} if name == "odeint_adjoint" else {}
        return solve(g, y0, t, **given)

    inputs = [x.clone().detach().requires_grad_() for x in (Y0, TIMES[:3], f.a)]
    # Times get the derivative of the flow, and not of the steps: rk4's errors at h = 0.1 are 1e-5,
    # and differences over 1e-6 see the jitter of a tolerance of 1e-8 as 1e-2 at the worst.
    assert torch.autograd.gradcheck(run, inputs, eps=1e-4, atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("method", ["kvaerno5", "rodas5p", "rkc2"])
@pytest.mark.parametrize("name", ["odeint", "odeint_adjoint"])
def test_stiff_methods_have_the_gradients_of_the_others(name, method):
    grads = []
    for given in ({"method": "vern9", "rtol": 1e-10}, {"method": method, "rtol": 1e-6}):
        f, y0, t = Swing(), Y0.clone().requires_grad_(), TIMES[:3].clone().requires_grad_()
        y = getattr(sk, name)(f, y0, t, atol=1e-8, **given)
        grads.append(torch.autograd.grad((y**2).sum(), (y0, t, f.a)))
    for ours, expected in zip(grads[1], grads[0], strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", FIXED)
def test_the_adjoint_of_fixed_steps_is_torchdiffeqs_to_rounding(both, method):
    given = {"method": method, "options": {"step_size": 0.1}}
    grads = []
    for y, f in both("odeint_adjoint", y0=Y0.clone().requires_grad_(), **given):
        (y[1:] ** 2).sum().backward()
        grads.append((f.a.grad, len(f.calls)))
    assert float(grads[0][0]) == pytest.approx(float(grads[1][0]), rel=1e-10)


@pytest.mark.parametrize("t_grad", [True, False])
def test_the_adjoint_of_controlled_steps_is_torchdiffeqs_to_the_tolerance(both, t_grad):
    grads = []
    t = TIMES.clone().requires_grad_(t_grad)
    y0 = Y0.clone().requires_grad_()
    for y, f in both("odeint_adjoint", y0=y0, t=t, rtol=1e-9, atol=1e-11):
        wrt = [y0, f.a, *([t] * t_grad)]
        grads.append(torch.autograd.grad((y**2).sum(), wrt))
    for ours, theirs in zip(*grads, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


def test_adjoint_callbacks_are_called_in_the_backward_pass():
    f, seen = Swing(), []
    f.callback_step = lambda t, y, dt: seen.append("forward")
    f.callback_step_adjoint = lambda t, y, dt: seen.append((len(y), y[0].shape, float(t)))
    y = sk.odeint_adjoint(f, Y0, TIMES[[0, 2]], method="rk4", options={"step_size": 0.25})
    assert seen == ["forward"] * 4
    y.sum().backward()
    assert [entry[2] for entry in seen[4:]] == [1.0, 0.75, 0.5, 0.25]
    assert seen[4][:2] == (2, (2,))


def test_adjoint_options_are_those_of_the_backward_solve():
    f = Swing()
    y = sk.odeint_adjoint(
        f, Y0, TIMES[[0, 2]], adjoint_method="euler", adjoint_options={"step_size": 0.1}
    )
    f.calls.clear()
    y.sum().backward()
    assert sorted(set(np.round(f.calls, 12))) == [round(0.1 * k, 12) for k in range(1, 11)]


def test_parameters_without_influence_have_the_gradient_zero():
    f = Swing()
    f.unused = torch.nn.Linear(2, 5)
    sk.odeint_adjoint(f, Y0, TIMES).sum().backward()
    assert float(f.unused.weight.grad.abs().max()) == 0.0


# Events -------------------------------------------------------------------------------------------


def falling(t, y):
    return torch.stack([y[1], -9.81 + 0 * y[0]])


@pytest.mark.parametrize("interface", ["odeint", "odeint_adjoint"])
def test_time_and_state_of_an_event_and_their_gradients_are_those_of_a_falling_ball(interface):
    height, floor = (torch.tensor(x).double().requires_grad_() for x in (10.0, 0.5))
    y0 = torch.stack([height, 0 * height])
    given = {"adjoint_params": ()} if interface == "odeint_adjoint" else {}
    t, y = sk.odeint_event(
        falling,
        y0,
        torch.tensor(1.0).double(),
        rtol=1e-10,
        atol=1e-12,
        event_fn=lambda t, y: y[0] - floor,
        odeint_interface=getattr(sk, interface),
        **given,
    )
    fall = math.sqrt(2 * 9.5 / 9.81)
    assert float(t.detach()) == pytest.approx(1 + fall, rel=1e-12)
    assert y.shape == (2, 2)
    assert float(y[1, 1].detach()) == pytest.approx(-9.81 * fall, rel=1e-10)
    d_t = torch.autograd.grad(t, (height, floor), retain_graph=True)
    d_v = torch.autograd.grad(y[1, 1], (height, floor))
    rate = 1 / (9.81 * fall)  # d√(2 (h − floor)/g)/dh
    np.testing.assert_allclose(d_t, (rate, -rate), rtol=1e-8)
    np.testing.assert_allclose(d_v, (-9.81 * rate, 9.81 * rate), rtol=1e-8)


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("method", ["dopri5", "bosh3", "rk4", "rodas5p"])
def test_events_are_torchdiffeqs_and_so_are_their_gradients(method, reverse):
    grads = []
    for library, name in ((sk, method), (td, "dopri5" if method == "rodas5p" else method)):
        options = {"step_size": 0.01, "interp": "cubic"} if method == "rk4" else {}
        f, y0 = Swing(), Y0.clone().requires_grad_()
        t0 = torch.tensor(0.2).double().requires_grad_()
        t, y = library.odeint_event(
            f,
            y0,
            t0,
            method=name,
            options=options,
            reverse_time=reverse,
            rtol=1e-8,
            atol=1e-10,
            event_fn=lambda t, y: torch.stack([y[1] - 2.2, y[0] - 0.7]),
        )
        grads.append((t, y[-1], *torch.autograd.grad(t + (y[-1] ** 2).sum(), (y0, t0, f.a))))
    for k, (ours, theirs) in enumerate(zip(*grads, strict=True)):
        if k == 3:  # the time where torchdiffeq starts has no gradient of its solver's own
            continue
        torch.testing.assert_close(ours, theirs, rtol=2e-5, atol=2e-5)


def test_the_start_of_an_event_has_the_gradient_of_a_shift():
    # An autonomous problem: all that comes later is shifted with t0.
    t0 = torch.tensor(0.3).double().requires_grad_()
    t, y = sk.odeint_event(lambda t, y: -y, Y0, t0, event_fn=lambda t, y: y[0] - 0.5)
    (shift,) = torch.autograd.grad(t, t0, retain_graph=True)
    assert float(shift) == pytest.approx(1.0, abs=1e-6)
    (moved,) = torch.autograd.grad(y[-1].sum(), t0)
    assert float(moved) == pytest.approx(0.0, abs=1e-6)


def test_an_event_function_that_is_zero_at_the_start_ends_there_as_in_torchdiffeq():
    for library in (sk, td):
        t, y = library.odeint(Swing(), Y0, TIMES[:2], event_fn=lambda t, y: y[0] - 1.0)
        assert float(t) == 0.0
        assert torch.equal(y, torch.stack([Y0, Y0]))


def test_events_of_structures_get_structures():
    y0 = (torch.tensor([10.0]).double().requires_grad_(), torch.tensor([0.0]).double())
    t, y = sk.odeint_event(
        lambda t, y: (y[1], 0 * y[0] - 9.81),
        y0,
        torch.tensor(0.0).double(),
        event_fn=lambda t, y: y[0],
    )
    fall = math.sqrt(20 / 9.81)
    assert float(t.detach()) == pytest.approx(fall, rel=1e-9)
    assert y[1].shape == (2, 1)
    (grad,) = torch.autograd.grad(t, y0[0])
    assert float(grad) == pytest.approx(1 / (9.81 * fall), rel=1e-6)


def test_a_solve_without_its_event_fails_and_keeps_what_it_has(monkeypatch):
    monkeypatch.setattr("stiffkit.solvers.torchdiffeq.run.EVENT_STEPS", 50)
    with pytest.raises(RuntimeError, match="max_steps = 30") as caught:
        sk.odeint(
            lambda t, y: -y,
            Y0,
            TIMES[:2],
            event_fn=lambda t, y: y[0] + 1.0,
            options={"max_num_steps": 30},
        )
    assert caught.value.solution.stats["accepted"] > 0
    with pytest.raises(RuntimeError, match="no event came"):
        sk.odeint(
            lambda t, y: 0 * y,
            Y0,
            TIMES[:2],
            event_fn=lambda t, y: y[0] + 1.0,
            method="euler",
            options={"step_size": 1e-3},
        )


# What is refused ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"method": "explicit_adams"}, "no method 'explicit_adams'; the nearest is 'rk4'"),
        ({"method": "implicit_adams"}, "'vern7'"),
        ({"method": "fixed_adams"}, "'vern7'"),
        ({"method": "gl4"}, "'kvaerno4'"),
        ({"method": "scipy_solver"}, "no scipy_solver 'LSODA' on tensors; the nearest is"),
        ({"method": "scipy_solver", "options": {"solver": "BDF"}}, "'rodas5p'"),
        ({"method": "dopry5"}, "did you mean 'dopri5'"),
        ({"options": {"first_stp": 1}}, "option 'first_stp' is unknown.*did you mean 'first_step'"),
        ({"method": "rk4", "options": {"safety": 0.9}}, "option 'safety' is not for fixed steps"),
        ({"options": {"perturb": True}}, "option 'perturb' is not for steps under control"),
        ({"options": {"min_step": 0.1}}, "min_step=0.1"),
        ({"options": {"safety": -1.0}}, "safety"),
        ({"options": {"dfactor": 2.0}}, "dfactor < 1"),
        ({"options": {"dtype": torch.int64}}, "dtype"),
        ({"options": {"step_t": torch.tensor([0.5]), "jump_t": torch.tensor([0.5])}}, "share"),
        ({"method": "rk4", "options": {"step_size": 0.1, "grid_constructor": len}}, "exclude"),
        ({"method": "rk4", "options": {"interp": "quartic"}}, "interp must be"),
        ({"method": "rk4", "options": {"step_size": 0.0}}, "step_size must be a positive"),
        ({"method": "rk4", "event_fn": lambda t, y: y[0], "t": TIMES[:2]}, "step_size"),
        ({"event_fn": lambda t, y: y[0]}, "t has two times"),
        ({"t": torch.tensor([0.0, 1.0, 0.5])}, "t must be strictly increasing or decreasing"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(given, message):
    call = {"func": Swing(), "y0": Y0, "t": TIMES, **given}
    with pytest.raises(ValueError, match=message):
        sk.odeint(**call)
    assert call["func"].calls == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"func": 3}, "func must be callable"),
        ({"y0": [1.0]}, "y0 must be a tensor or a tuple"),
        ({"t": [0.0, 1.0]}, "t must be a one-dimensional tensor"),
        ({"t": torch.tensor([0, 1])}, "torch.int64"),
    ],
)
def test_what_is_of_a_wrong_type_is_refused_by_name(given, message):
    with pytest.raises(TypeError, match=message):
        sk.odeint(**{"func": Swing(), "y0": Y0, "t": TIMES, **given})


def test_what_odeint_adjoint_cannot_do_is_refused():
    with pytest.raises(ValueError, match="adjoint_params"):
        sk.odeint_adjoint(lambda t, y: y, Y0, TIMES)
    with pytest.raises(ValueError, match="give adjoint_options"):
        sk.odeint_adjoint(
            Swing(), Y0, TIMES, method="dopri5", options={"safety": 0.8}, adjoint_method="bosh3"
        )
    with pytest.raises(ValueError, match="seminorm"):
        sk.odeint_adjoint(Swing(), Y0, TIMES, adjoint_options={"norm": lambda y: 0.0})


def test_fixed_steps_warn_of_callbacks_that_are_not_called():
    f = Swing()
    f.callback_accept_step = lambda t, y, dt: None
    with pytest.warns(UserWarning, match="callback_accept_step"):
        sk.odeint(f, Y0, TIMES, method="euler")
