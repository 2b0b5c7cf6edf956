"""method="auto" on batches and on tensors: each sample by its own method, as it would be alone."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stiff_problems import STIFF

import stiffkit as sk
from stiffkit.stiffness import NormRatio

torch = pytest.importorskip("torch")

FLOAT = torch.float64


def stack(parts):
    return torch.stack(parts, 1) if isinstance(parts[0], torch.Tensor) else np.stack(parts, 1)


def van_der_pol(t, y, mu):
    return stack([y[:, 1], mu * (1 - y[:, 0] ** 2) * y[:, 1] - y[:, 0]])


def one_van_der_pol(t, y, mu):
    parts = [y[1], mu * (1 - y[0] ** 2) * y[1] - y[0]]
    return torch.stack(parts) if isinstance(y, torch.Tensor) else np.array(parts)


def forced(t, y, rate):
    """y follows cos t, from afar at first."""
    cos, sin = (
        (torch.cos(t), torch.sin(t)) if isinstance(t, torch.Tensor) else (np.cos(t), np.sin(t))
    )
    return -rate[:, None] * (y - cos[:, None]) - sin[:, None]


def arrays(library, *values):
    return [torch.tensor(x, dtype=FLOAT) if library == "torch" else np.array(x) for x in values]


MU = [0.1, 2.0, 300.0, 1e4]
ENDS = [10.0, 10.0, 900.0, 2e4]


@pytest.fixture(scope="module")
def exact():
    """End values of the four oscillators."""
    runs = [
        sk.solve(
            one_van_der_pol, (0.0, end), [2.0, 0.0], "radau9", args=(mu,), rtol=1e-10, atol=1e-11
        )
        for mu, end in zip(MU, ENDS, strict=True)
    ]
    return np.array([run.y[-1] for run in runs])


@pytest.mark.parametrize(
    ("library", "rtol", "member"),
    [("numpy", 1e-4, "rodas5p"), ("torch", 1e-4, "rodas5p"), ("numpy", 1e-8, "radau9")],
)
def test_each_sample_goes_by_its_own_method(library, rtol, member, exact):
    mu, ends, y0 = arrays(library, MU, ENDS, [[2.0, 0.0]] * 4)
    s = sk.solve(van_der_pol, (0.0, ends), y0, args=(mu,), batched=True, rtol=rtol, atol=rtol)
    assert s.success
    assert s.switches[0] == s.switches[1] == ()
    for i in (2, 3):
        found = s[i].switches
        assert found == s.switches[i]
        # Stiff at first, not so in the jumps: there and back, each from where the last one led.
        explicit = "tsit5" if rtol > 1e-6 else "vern7"
        names = [explicit, *(change.target for change in found)]
        assert [change.source for change in found] == names[:-1]
        assert set(names) == {explicit, member}
        assert len(found) >= 3
        times = [change.t for change in found]
        assert times == sorted(times)
        assert "is at the limit" in found[0].why
        assert "explicit steps" in found[1].why
        assert s[i].stiffness[0].t == times[0]
        assert s[i].stats["accepted"] < 2000  # by tsit5 alone the last one takes 1e8
    got = np.stack([np.asarray(s[i].y[-1]) for i in range(4)])
    np.testing.assert_allclose(got, exact, rtol=100 * rtol, atol=100 * rtol)


@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_robertson_s_reference_values(library):
    p = STIFF["ROBER"]

    def f(t, y):
        a, b, c = y[:, 0], y[:, 1], y[:, 2]
        slow, fast = 0.04 * a - 1e4 * b * c, 3e7 * b * b
        return stack([-slow, slow - fast, fast])

    (y0,) = arrays(library, np.tile(p.y0, (2, 1)))
    atol = np.asarray(p.atol) * 1e-6
    s = sk.solve(f, (0.0, p.t_end), y0, batched=True, rtol=1e-6, atol=atol, t_eval=[p.t_end])
    error = np.abs(np.asarray(s.y[0]) / np.asarray(p.y_end) - 1).max()
    assert -math.log10(error) >= 4.5
    assert [change.target for change in s.switches[1]] == ["rodas5p"]


def test_what_is_not_stiff_is_solved_as_by_the_explicit_member():
    mu, y0 = np.array([0.5, 1.0, 3.0]), np.tile([2.0, 0.0], (3, 1))
    options = {"args": (mu,), "batched": True, "rtol": 1e-5, "atol": 1e-5}
    auto = sk.solve(van_der_pol, (0.0, 20.0), y0, **options)
    plain = sk.solve(van_der_pol, (0.0, 20.0), y0, "tsit5", **options)
    np.testing.assert_array_equal(auto.y, plain.y)
    assert auto.stats["nfev"] == plain.stats["nfev"]


def test_a_row_that_others_outlast_stays_explicit():
    # The second row is stiff, but the first, for accuracy, takes more steps than it does by tsit5.
    def f(t, y, rate, omega):
        turn = omega[:, None] * y[:, ::-1] * np.array([1.0, -1.0])
        return -rate[:, None] * (y - np.cos(t)[:, None]) + turn

    y0 = np.ones((2, 2))
    options = {"batched": True, "rtol": 1e-5, "atol": 1e-5}
    both = sk.solve(
        f, (0.0, 3.0), y0, args=(np.array([0.0, 1000.0]), np.array([400.0, 0.0])), **options
    )
    alone = sk.solve(f, (0.0, 3.0), y0[1:], args=(np.array([1000.0]), np.zeros(1)), **options)
    assert both.success
    assert both.switches == ((), ())
    assert [change.target for change in alone.switches[0]] == ["rodas5p"]


@pytest.mark.parametrize(("library", "rtol"), [("numpy", 1e-5), ("torch", 1e-5), ("numpy", 1e-8)])
def test_a_sample_that_is_not_finite_leaves_the_others_as_they_are(library, rtol):
    def broken(t, y, mu, end):
        late = (t > end)[:, None]
        f = van_der_pol(t, y, mu)
        return torch.where(late, math.nan, f) if library == "torch" else np.where(late, math.nan, f)

    mu, y0 = arrays(library, [1.0, 200.0, 500.0], [[2.0, 0.0]] * 3)
    (end,) = arrays(library, [math.inf, 50.0, math.inf])
    rest = [0, 2]
    options = {"batched": True, "rtol": rtol, "atol": rtol, "t_eval": [100.0]}
    with_it = sk.solve(broken, (0.0, 100.0), y0, args=(mu, end), **options)
    without = sk.solve(van_der_pol, (0.0, 100.0), y0[rest], args=(mu[rest],), **options)
    assert [status.name for status in with_it.status] == ["success", "non_finite", "success"]
    np.testing.assert_allclose(with_it.y[:, rest], without.y, rtol=10 * rtol, atol=10 * rtol)
    assert with_it.switches[1]
    assert [len(with_it.switches[i]) for i in rest] == [len(own) for own in without.switches]


@pytest.mark.parametrize(("library", "sign"), [("numpy", -1.0), ("torch", 1.0)])
def test_dense_output_and_events_join_across_switches(library, sign):
    rate, y0 = arrays(library, [1.0, 1e4, 1e5], [[2.0]] * 3)

    def f(t, y, rate):
        return sign * forced(sign * t, y, rate)

    def zero(t, y, rate):
        return y[:, 0]

    def enough(t, y, rate):
        return (sign * t - 8.0) + 10 * (rate < 2e4)  # the last one ends at t = 8

    enough.terminal = True
    s = sk.solve(
        f, (0.0, sign * 8.5), y0, args=(rate,), batched=True, rtol=1e-6, atol=1e-6, dense=True,
        events=[zero, enough], max_step=0.2,
    )  # fmt: skip
    assert [status.name for status in s.status] == ["success", "success", "event"]
    assert [bool(own) for own in s.switches] == [False, True, True]
    t = np.linspace(0.1, 7.9, 301)
    np.testing.assert_allclose(
        np.asarray(s(sign * t))[:, 1:, 0], np.cos(t)[:, None] + [0, 0], atol=1e-4
    )
    for i in range(3):
        own = s[i]
        np.testing.assert_allclose(own(own.t), own.y, rtol=0, atol=1e-13)
    roots = np.asarray(s.events[0].t)[:, 1:] * sign
    np.testing.assert_allclose(roots[:3, 0], (np.arange(3) + 0.5) * math.pi, atol=1e-4)
    assert np.isnan(roots[3:, 1]).all()
    assert float(s.t[s.count[2] - 1, 2]) == pytest.approx(sign * 8.0, abs=1e-9)


def test_observers_see_each_row_by_its_own_method():
    """An explicit row has a probe, and so a ratio; an implicit one has none."""

    def stages(step, probe):
        return float(len(step.k))

    spans, rates = (np.zeros(2), np.full(2, 3.0)), np.array([1.0, 1e5])
    options = {"observe": [NormRatio(), stages], "log": True, "rtol": 1e-5}
    run = sk.solve(forced, spans, np.ones((2, 1)), batched=True, args=(rates,), **options)
    assert [len(switches) for switches in run.switches] == [0, 1]
    count = run.log["stages"]
    mild, stiff = ({*column[~np.isnan(column)].tolist()} for column in count.T)
    assert (len(mild), len(stiff)) == (1, 2)
    assert mild < stiff
    ratio, implicit = run.log["rho"], np.flatnonzero(count[:, 1] == min(stiff))
    # The first implicit step still has the probe of the explicit one before.
    assert ratio[implicit[0], 1] == pytest.approx(rates[1], rel=1e-3)
    assert np.isnan(ratio[implicit[1:], 1]).all()
    alone = sk.solve(
        forced, (spans[0][:1], spans[1][:1]), np.ones((1, 1)), batched=True, args=(rates[:1],),
        **options,
    )  # fmt: skip
    made = ~np.isnan(count[:, 0])
    np.testing.assert_allclose(
        ratio[made, 0], alone.log["rho"][~np.isnan(alone.log["stages"][:, 0]), 0], rtol=1e-6
    )


def test_f_may_hold_the_values_of_its_samples():
    mu = np.array(MU[:3])
    rows = set()

    def f(t, y):
        rows.add(len(y))
        return van_der_pol(t, y, mu)

    y0 = np.tile([2.0, 0.0], (3, 1))
    for rtol in (1e-5, 1e-8):
        options = {"batched": True, "rtol": rtol, "atol": rtol, "t_eval": [5.0]}
        inside = sk.solve(f, (0.0, 5.0), y0, **options)
        outside = sk.solve(van_der_pol, (0.0, 5.0), y0, args=(mu,), **options)
        assert inside.switches[2]
        assert inside.success
        np.testing.assert_allclose(inside.y, outside.y, rtol=10 * rtol, atol=10 * rtol)
        assert [len(own) for own in inside.switches] == [len(own) for own in outside.switches]
    assert 3 in rows


@pytest.mark.parametrize("tight", [1e-6, 1e-9])
def test_tolerances_of_samples_go_with_them(tight):
    rtol = np.array([[1e-4], [1e-4], [tight], [tight]])
    mu, y0 = np.array([0.5, 500.0, 500.0, 1000.0]), np.tile([2.0, 0.0], (4, 1))
    s = sk.solve(
        van_der_pol, (0.0, 20.0), y0, args=(mu,), batched=True, rtol=rtol, atol=rtol, t_eval=[20.0]
    )  # fmt: skip
    assert [bool(own) for own in s.switches] == [False, True, True, True]
    for i in range(4):
        fine = sk.solve(
            one_van_der_pol, (0.0, 20.0), y0[i], "radau9", args=(mu[i],), rtol=1e-11, atol=1e-12
        )
        assert np.abs(s.y[0, i] - fine.y[-1]).max() < 100 * rtol[i, 0]


@settings(max_examples=4)
@given(st.floats(2, 5), st.sampled_from(["float32", "float64", "complex128"]))
def test_every_step_is_right_in_any_precision(power, dtype):
    def f(t, y, rate):
        return -rate[:, None] * (y - torch.cos(t)[:, None])

    dtype = getattr(torch, dtype)
    y0 = torch.full((3, 1), 2.0, dtype=dtype)
    rate = torch.tensor([1.0, 10.0**power, 2.0], dtype=y0.real.dtype)
    rtol = 1e-4
    s = sk.solve(f, (0.0, 3.0), y0, args=(rate,), batched=True, rtol=rtol, atol=rtol, t_eval=[3.0])
    assert s.success
    assert s.y.dtype == dtype
    fast = float(rate[1])
    follows = (fast**2 * math.cos(3) + fast * math.sin(3)) / (1 + fast**2)
    assert abs(complex(s.y[0, 1, 0]) - follows) < 20 * rtol


def test_every_call_is_counted():
    calls = 0

    def f(t, y, mu):
        nonlocal calls
        calls += 1
        return van_der_pol(t, y, mu)

    y0 = np.tile([2.0, 0.0], (3, 1))
    for rtol in (1e-4, 1e-8):  # by both explicit members, and both implicit ones
        calls = 0
        s = sk.solve(
            f, (0.0, 10.0), y0, args=(np.array([1.0, 300.0, 1000.0]),), batched=True, rtol=rtol
        )
        assert s.stats["nfev"] == calls
        assert s.switches[2]


def test_a_state_too_large_for_jacobians_is_solved_by_the_explicit_member():
    s = sk.solve(lambda t, y: -30 * y, (0.0, 20.0), np.ones((2, 501)), batched=True, rtol=1e-3)
    assert s.success
    assert s.switches == ()


# Gradients ----------------------------------------------------------------------------------------


def relaxing(adjoint, rtol=1e-7):
    """y' = −k (y − k t), the stiff samples by rodas5p; return the solution and its derivatives."""
    rate = torch.tensor([1.0, 300.0, 1000.0], dtype=FLOAT, requires_grad=True)
    y0 = torch.tensor([[2.0], [2.0], [1.0]], dtype=FLOAT, requires_grad=True)

    def f(t, y, rate):
        return -rate[:, None] * (y - (rate * t)[:, None] / 100)

    s = sk.solve(
        f, (0.0, 2.0), y0, args=(rate,), batched=True, rtol=rtol, atol=rtol, t_eval=[0.01, 2.0],
        adjoint=adjoint,
    )  # fmt: skip
    return s, torch.autograd.grad((s.y**2).sum(), (rate, y0)), (rate, y0)


def test_gradients_through_switches_with_and_without_checkpoints():
    s, plain, (rate, y0) = relaxing(None)
    assert [bool(own) for own in s.switches] == [False, True, True]
    again, replayed, _ = relaxing(sk.Checkpoints(5))
    torch.testing.assert_close(again.y, s.y, rtol=1e-12, atol=1e-12)
    k, exact = rate[:, None], torch.zeros((), dtype=FLOAT)
    for t in (0.01, 2.0):  # y = (k t − 1)/100 + (y0 + 1/100) e^(−kt)
        exact = exact + (((k * t - 1) / 100 + (y0 + 0.01) * torch.exp(-k * t)) ** 2).sum()
    there = torch.autograd.grad(exact, (rate, y0))
    for ours, theirs, right in zip(plain, replayed, there, strict=True):
        torch.testing.assert_close(ours, right, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(ours, theirs, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("batched", [True, False])
def test_gradcheck(batched):
    def solve(rate, y0):
        if batched:
            f, rate = forced, torch.cat([rate, torch.ones(1, dtype=FLOAT)])
        else:
            f = lambda t, y, rate: -rate * (y - torch.cos(t)) - torch.sin(t)  # noqa: E731
        s = sk.solve(
            f, (0.0, 1.0), y0, args=(rate,), batched=batched, rtol=1e-6, atol=1e-6, t_eval=[0.01, 1]
        )  # fmt: skip
        switched = s.switches[0] if batched else s.switches
        assert [change.target for change in switched][:1] == ["rodas5p"]
        return s.y

    rate = torch.tensor([1000.0], dtype=FLOAT, requires_grad=True)
    y0 = torch.full((2, 1) if batched else (1,), 1.5, dtype=FLOAT, requires_grad=True)
    # Another value may take other steps: differences are off by the tolerance over their width.
    assert torch.autograd.gradcheck(solve, (rate, y0), eps=1e-2, atol=1e-3, rtol=1e-2)


def test_backsolve_goes_backward_by_the_explicit_member():
    mu = torch.tensor([1.0, 2.0], dtype=FLOAT, requires_grad=True)
    y0 = torch.tensor([[2.0, 0.0]] * 2, dtype=FLOAT)
    grads = []
    for adjoint in ("backsolve", None):
        s = sk.solve(
            van_der_pol, (0.0, 2.0), y0, args=(mu,), batched=True, rtol=1e-8, atol=1e-8,
            t_eval=[2.0], adjoint=adjoint,
        )  # fmt: skip
        grads += torch.autograd.grad(s.y.sum(), mu)
    torch.testing.assert_close(*grads, rtol=1e-5, atol=1e-6)


# One tensor ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("rtol", [1e-3, 1e-8])
def test_a_tensor_makes_the_steps_of_numpy(rtol):
    options = {"args": (100.0,), "rtol": rtol, "atol": rtol}
    tensor = sk.solve(
        one_van_der_pol, (0.0, 100.0), torch.tensor([2.0, 0.0], dtype=FLOAT), **options
    )
    numpy = sk.solve(one_van_der_pol, (0.0, 100.0), [2.0, 0.0], **options)
    names = [(change.source, change.target) for change in numpy.switches]
    assert [(change.source, change.target) for change in tensor.switches] == names
    assert len(names) == 3
    assert tensor.stats["accepted"] == pytest.approx(numpy.stats["accepted"], rel=0.1)
    np.testing.assert_allclose(tensor.y[-1], numpy.y[-1], rtol=100 * rtol, atol=100 * rtol)


def test_a_tensor_of_any_shape_with_all_that_one_solve_has():
    rates = torch.tensor([[1.0, 1e4], [10.0, 3e5]], dtype=FLOAT)

    def f(t, y):
        return -rates * (y - torch.cos(t)) - torch.sin(t)

    def jac(t, y):
        return torch.diag(-rates.reshape(-1))

    def zero(t, y):
        return y[1, 1]

    seen = []
    y0 = torch.full((2, 2), 2.0, dtype=FLOAT)
    s = sk.solve(
        f, (0.0, 5.0), y0, rtol=1e-6, atol=1e-6, jac=jac, dense=True, events=zero, log=True,
        observe=lambda step, probe: float(step.h), max_step=0.2,
        callback=lambda step: seen.append(step.tableau.name),
    )  # fmt: skip
    assert s.success
    assert [change.target for change in s.switches] == ["radau9"]
    assert {"tsit5", "radau9"} == set(seen)
    assert "switch" in s.log["limit"]
    t = np.asarray(s.t)
    exact = np.cos(t)[:, None, None] + np.exp(-np.multiply.outer(t, rates.numpy()))
    np.testing.assert_allclose(s.y, exact, atol=2e-5)
    torch.testing.assert_close(s(s.t), s.y, rtol=0, atol=1e-13)
    np.testing.assert_allclose(s.events[0].t, [math.pi / 2, 3 * math.pi / 2], atol=1e-4)


def test_second_derivatives_of_a_stiff_tensor():
    rate = torch.tensor(200.0, dtype=FLOAT, requires_grad=True)

    def f(t, y):
        return -rate * (y - 0.01 * rate)

    y0 = torch.zeros(1, dtype=FLOAT)
    s = sk.solve(f, (0.0, 3.0), y0, rtol=1e-6, atol=1e-8, t_eval=[0.005, 3.0])
    assert [change.target for change in s.switches] == ["rodas5p"]
    (first,) = torch.autograd.grad(s.y[0, 0], rate, create_graph=True)
    (second,) = torch.autograd.grad(first, rate)
    # y = 0.01 k (1 − e^(−kt))
    k, t = 200.0, 0.005
    e = math.exp(-k * t)
    assert float(first.detach()) == pytest.approx(0.01 * (1 - e + k * t * e), rel=1e-4)
    assert float(second) == pytest.approx(0.01 * (2 * t - k * t * t) * e, rel=1e-3)


def test_one_tensor_with_an_adjoint_tells_which_method_made_each_step():
    seen, y0 = [], torch.ones(1, dtype=FLOAT, requires_grad=True)
    s = sk.solve(
        lambda t, y: -1e4 * (y - torch.cos(t)), (0.0, 3.0), y0,
        rtol=1e-4, atol=1e-4, t_eval=[3.0], adjoint="checkpoints",
        callback=lambda step: seen.append(step.tableau.name),
    )  # fmt: skip
    assert [change.target for change in s.switches] == ["rodas5p"]
    assert {"tsit5", "rodas5p"} == set(seen)
    s.y.sum().backward()
