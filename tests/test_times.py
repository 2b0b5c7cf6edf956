"""Gradients with respect to times, norms of one's own, attempts, and grids of batches."""

import math

import numpy as np
import pytest

import stiffkit as sk

torch = pytest.importorskip("torch")


def tensors(*values):
    return [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values]


def swing(t, y):
    return torch.sin(3 * t) * y + 1.0


@pytest.mark.parametrize(
    ("method", "adjoint"),
    [
        ("tsit5", None),
        ("tsit5", "checkpoints"),
        ("tsit5", "backsolve"),
        ("rodas5p", None),
    ],
)
def test_ends_of_the_span_and_output_times_have_the_gradients_of_the_flow(method, adjoint):
    tol = {"rtol": 1e-8 if method == "tsit5" else 1e-7, "atol": 1e-9, "adjoint": adjoint}

    def at_times(t0, t1, t_eval, y0):
        return sk.solve(swing, (t0, t1), y0, method, t_eval=t_eval, **tol).y

    def at_the_end(t0, t1, y0):
        return sk.solve(swing, (t0, t1), y0, method, **tol).y[-1]

    t0, t1, t_eval, y0 = tensors(0.1, 1.0, [0.4, 0.9], [1.0, 2.0])
    # Differences over 2e-4 of solutions that are right to some 1e-8.
    assert torch.autograd.gradcheck(at_times, (t0, t1, t_eval, y0), eps=1e-4, atol=1e-3)
    assert torch.autograd.gradcheck(at_the_end, (t0, t1, y0), eps=1e-4, atol=1e-3)


def test_times_of_a_batch_have_gradients_of_their_own():
    def end(t0, t1, y0):
        solution = sk.solve(
            lambda t, y: torch.sin(3 * t)[:, None] * y,
            (t0, t1),
            y0,
            "tsit5",
            batched=True,
            rtol=1e-8,
            atol=1e-10,
        )
        return solution.y[torch.as_tensor(solution.count - 1), torch.arange(2)]

    assert torch.autograd.gradcheck(
        end, tensors([0.0, 0.1], [1.0, 2.0], [[1.0], [2.0]]), eps=1e-4, atol=1e-3
    )


def test_calls_for_times_are_counted_and_made_for_times_that_move_alone():
    calls = 0

    def f(t, y):
        nonlocal calls
        calls += 1
        return -y

    y0, t1 = torch.ones(2).double(), torch.tensor(1.0).double()
    plain = sk.solve(f, (0.0, t1), y0, "tsit5")
    assert plain.stats["nfev"] == calls
    moved = sk.solve(f, (0.0, t1.clone().requires_grad_()), y0, "tsit5")
    assert moved.stats["nfev"] == plain.stats["nfev"] + 1 == calls - plain.stats["nfev"]
    torch.testing.assert_close(moved.y.detach(), plain.y, rtol=0, atol=0)
    with torch.no_grad():
        assert not sk.solve(f, (0.0, t1.clone().requires_grad_()), y0, "tsit5").y.requires_grad


def test_an_end_that_is_not_reached_has_no_gradient():
    (t1,) = tensors(1.0)
    solution = sk.solve(swing, (0.0, t1), torch.ones(1).double(), "tsit5", max_steps=2)
    (grad,) = torch.autograd.grad(solution.y[-1].sum(), t1)
    assert float(grad) == 0.0


def test_a_replay_ends_where_the_solve_did():
    # Of these spans, about one in five has t + (t1 − t) ≠ t1 for the last t.
    for k in range(40):
        t1 = 1.0 + k / 7
        y = sk.solve(
            lambda t, y: 1.0 + 0 * y,
            (0.1, t1),
            torch.zeros(1).double().requires_grad_(),
            "tsit5",
            t_eval=[t1],
            adjoint="checkpoints",
        ).y
        assert float(y.detach()) == pytest.approx(t1 - 0.1, rel=1e-12)


# Norms --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batched", [False, True])
@pytest.mark.parametrize("method", ["tsit5", "dop853", "rodas5p"])
def test_the_rms_written_out_is_the_default_norm(method, batched):
    y0 = np.array([[1.0, 0.5, 2.0]] * 2) if batched else np.array([1.0, 0.5, 2.0])
    given = {"method": method, "batched": batched}
    plain = sk.solve(lambda t, y: -y * y, (0.0, 5.0), y0, **given)
    seen = set()

    def rms(x):
        seen.add(x.shape)
        return np.sqrt(np.mean(x**2))

    own = sk.solve(lambda t, y: -y * y, (0.0, 5.0), y0, norm=rms, **given)
    assert seen == {(3,)}
    # The estimates cancel, and pairs by different summation differ in what is left.
    np.testing.assert_allclose(own.t, plain.t, rtol=1e-5)


def test_a_larger_norm_makes_more_steps():
    counts = [
        len(
            sk.solve(
                lambda t, y: -y,
                (0.0, 5.0),
                np.ones(3),
                "tsit5",
                norm=lambda x, c=c: c * abs(x).max(),
            ).t
        )
        for c in (1.0, 1e3)
    ]
    assert counts[0] < counts[1]


def test_norms_and_hooks_that_are_none_are_refused():
    with pytest.raises(TypeError, match="norm must be callable"):
        sk.solve(lambda t, y: y, (0.0, 1.0), [1.0], norm=2)
    with pytest.raises(TypeError, match="on_attempt must be callable"):
        sk.solve(lambda t, y: y, (0.0, 1.0), [1.0], on_attempt=2)
    with pytest.raises(ValueError, match="norm must return one real number"):
        sk.solve(lambda t, y: y, (0.0, 1.0), [1.0, 2.0], norm=lambda x: x)


# Attempts -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["tsit5", "kvaerno5", "rkc2", "rodas5p"])
@pytest.mark.parametrize("batched", [False, True])
def test_attempts_are_told_before_and_after(method, batched):
    told = []
    y0 = np.ones((2, 1)) if batched else np.ones(1)
    solution = sk.solve(
        lambda t, y: -30 * (y - np.cos(t).reshape(np.shape(t) + (1,) * batched)),
        (0.0, 2.0),
        y0,
        method,
        batched=batched,
        log=True,
        first_step=1.0,
        on_attempt=lambda *seen: told.append(seen),
    )
    before, after = told[::2], told[1::2]
    assert all(seen[3] is None for seen in before)
    verdicts = np.array([seen[3] for seen in after])
    np.testing.assert_array_equal(verdicts.sum(0), solution.stats["accepted"])
    assert len(after) == len(solution.log["t"])
    for one, two in zip(before, after, strict=True):
        np.testing.assert_array_equal(one[0], two[0])
        np.testing.assert_array_equal(one[2], two[2])


# Grids of batches ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "grid", [7, [0.0, 0.1, 0.5, 1.2, 2.0], lambda t0, t1: np.geomspace(1, 3, 6) - 1]
)
@pytest.mark.parametrize("method", ["rk4", "tsit5", "rodas5p", "kvaerno5", "rkc2"])
def test_a_batch_on_a_grid_is_its_samples_on_that_grid(method, grid):
    y0 = np.array([[1.0], [0.3], [2.0]])
    f = lambda t, y: np.cos(y) - y  # noqa: E731 - a formula
    many = sk.solve(f, (0.0, 2.0), y0, method, grid=grid, batched=True, t_eval=[0.5, 2.0])
    assert many.success
    for i in range(3):
        one = sk.solve(f, (0.0, 2.0), y0[i], method, grid=grid, t_eval=[0.5, 2.0])
        # Newton's method may stop elsewhere; explicit steps are the same to rounding.
        rtol = 1e-12 if method in ("rk4", "tsit5") else 1e-4
        np.testing.assert_allclose(many[i].y, one.y, rtol=rtol)


def test_a_sample_that_breaks_on_a_grid_leaves_the_others_alone():
    y0 = np.array([[1.0], [1e200], [2.0]])
    f = lambda t, y: np.where(y > 1e100, np.inf, -y)  # noqa: E731 - a formula
    f_ok = lambda t, y: -y  # noqa: E731
    broken = sk.solve(
        lambda t, y: f(t, y) if np.any(t > 0) else -y, (0.0, 1.0), y0, "rk4", grid=4, batched=True
    )
    assert [status.name for status in broken.status] == ["success", "non_finite", "success"]
    whole = sk.solve(f_ok, (0.0, 1.0), y0[[0, 2]], "rk4", grid=4, batched=True)
    np.testing.assert_array_equal(broken.y[:, [0, 2]], whole.y)


@pytest.mark.parametrize("method", ["rk4", "heun3", "kvaerno3"])
@pytest.mark.parametrize("adjoint", ["checkpoints", "backsolve"])
def test_gradients_on_a_grid(method, adjoint):
    if method == "kvaerno3" and adjoint == "backsolve":
        with pytest.raises(ValueError, match="explicit tableau"):
            sk.solve(swing, (0.0, 1.0), torch.ones(1), method, grid=4, adjoint=adjoint)
        return
    grads = []
    for way in (None, adjoint):
        (y0,) = tensors([1.0, 2.0])
        y = sk.solve(swing, (0.0, 1.0), y0, method, grid=np.linspace(0, 1, 41), adjoint=way).y
        grads.append(torch.autograd.grad((y[-1] ** 2).sum(), y0)[0])
    # Backsolve has the errors of two solves of order 3 or 4 with h = 1/40.
    rtol = 1e-10 if adjoint == "checkpoints" else 1e-4
    torch.testing.assert_close(grads[1], grads[0], rtol=rtol, atol=0)


def test_grids_of_different_lengths_are_refused_in_a_batch():
    with pytest.raises(ValueError, match="same number of steps"):
        sk.solve(
            lambda t, y: y,
            ([0.0, 0.0], [1.0, 2.0]),
            np.ones((2, 1)),
            "rk4",
            batched=True,
            grid=lambda t0, t1: math.ceil(5 * (t1 - t0)),
        )


# Events -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["dopri5", "rkc2", "kvaerno5"])
def test_times_and_states_of_events_have_gradients(method):
    (y0, level) = tensors([1.0, 2.0], 0.7)
    g = lambda t, y: y[0] - level  # noqa: E731 - a formula
    g.terminal = True
    solution = sk.solve(
        lambda t, y: -y,
        (0.0, 5.0),
        y0,
        method,
        events=[g, lambda t, y: y[1] - 1.7],
        rtol=1e-8,
        atol=1e-10,
    )
    assert solution.status.name == "event"
    first, second = solution.events
    # t = log(y0/level); there the other component is 2 level/y0.
    grads = torch.autograd.grad(first.t[0], (y0, level), retain_graph=True)
    np.testing.assert_allclose(grads[0], [1.0, 0.0], atol=1e-5)
    np.testing.assert_allclose(grads[1], -1 / 0.7, rtol=1e-5)
    (grad,) = torch.autograd.grad(first.y[0, 1], level, retain_graph=True)
    np.testing.assert_allclose(grad, 2.0, rtol=1e-5)
    (grad,) = torch.autograd.grad(second.t[0], y0, retain_graph=True)
    np.testing.assert_allclose(grad, [0.0, 0.5], atol=1e-5)
    assert float(solution.t[-1]) == float(first.t[0].detach())
    (grad,) = torch.autograd.grad(solution.y[-1, 0], level)  # the solve ends at the level
    np.testing.assert_allclose(grad, 1.0, rtol=1e-5)


@pytest.mark.parametrize("batched", [False, True])
def test_an_event_that_only_touches_zero_keeps_its_time(batched):
    (y0,) = tensors([0.0])
    # y = t, and at t = 1/2, where a step ends and is sampled, g = −(t − 1/2)³ has slope zero.
    solution = sk.solve(
        lambda t, y: 1.0 + 0 * y,
        (0.0, 1.0),
        y0[None] if batched else y0,
        "dopri5",
        events=lambda t, y: -((y[..., 0] - 0.5) ** 3),
        batched=batched,
        max_step=0.5,
        first_step=0.5,
    )
    t = solution.events[0].t.reshape(-1)
    assert float(t[0].detach()) == pytest.approx(0.5, abs=1e-5)
    assert t.requires_grad


def test_event_functions_that_return_numbers_are_left_as_they_are():
    (y0,) = tensors([1.0])
    solution = sk.solve(lambda t, y: -y, (0.0, 1.0), y0, events=lambda t, y: y[0].item() - 0.5)
    assert float(solution.events[0].t[0]) == pytest.approx(math.log(2), rel=1e-5)
