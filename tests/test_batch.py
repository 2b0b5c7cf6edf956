"""``solve(..., batched=True)``: every sample as if it were alone."""

import math
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stiffkit as sk

EXPLICIT = ["bosh3", "dopri5", "tsit5", "dop853", "vern7"]
LINEAR = ["ros23", "rodas4", "rodas5p", "ros34pw2"]
ESDIRK = ["trbdf2", "kvaerno3", "kencarp4", "kvaerno5"]
STABILISED = ["rkc2", "rkl2", "rock2", "rock4"]
MU = np.array([0.1, 1.0, 3.0, 6.0])
Y0 = np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 0.5], [-2.0, 0.0]])
TIMES = np.linspace(0.0, 5.0, 11)


def pendula(t, y, mu):
    """Van der Pol's equation with a drive, one μ for each row."""
    xp = np if isinstance(y, np.ndarray) else pytest.importorskip("torch")
    x, v = y[:, 0], y[:, 1]
    return xp.stack([v, mu * (1 - x * x) * v - x + xp.sin(t)], 1)


def alone(i, method, **options):
    def f(t, y):
        return pendula(np.array([t]), y[None], MU[i : i + 1])[0]

    return sk.solve(f, (0.0, 5.0), Y0[i], method, **options)


@pytest.mark.parametrize("method", EXPLICIT + LINEAR)
def test_a_sample_is_what_it_is_alone(method):
    options = {"rtol": 1e-6, "atol": 1e-8, "t_eval": TIMES}
    many = sk.solve(pendula, (0.0, 5.0), Y0, method, batched=True, args=(MU,), **options)
    # Alone a W-method keeps its Jacobian; in a batch each step has its own.
    peer = replace(sk.METHODS[method], w_method=False) if method in LINEAR else method
    for i in range(4):
        one = alone(i, peer, **options)
        # Sums in another order are a rounding off; so are Jacobians by differences by much more.
        slack = 3 if method in LINEAR else 0
        for count in ("accepted", "rejected"):
            assert abs(int(many.stats[count][i]) - one.stats[count]) <= slack
        np.testing.assert_allclose(many.y[:, i], one.y, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("method", ESDIRK + STABILISED)
def test_a_sample_keeps_its_tolerance(method):
    options = {"rtol": 1e-5, "atol": 1e-7}
    many = sk.solve(
        pendula, (0.0, 5.0), Y0, method, batched=True, args=(MU,), t_eval=[5.0], **options
    )
    assert many.success
    for i in range(4):
        exact = alone(i, "vern7", rtol=1e-10, atol=1e-12, t_eval=[5.0]).y
        np.testing.assert_allclose(many.y[:, i], exact, rtol=3e-3, atol=3e-4)


@pytest.mark.parametrize("method", ["dopri5", "vern7", "rodas5p", "kvaerno5", "radau5", "rock4"])
def test_torch_is_numpy(method):
    torch = pytest.importorskip("torch")
    options = {"batched": True, "rtol": 1e-6, "atol": 1e-8, "t_eval": TIMES}
    numpy = sk.solve(pendula, (0.0, 5.0), Y0, method, args=(MU,), **options)
    state, mu = torch.tensor(Y0), torch.tensor(MU)
    tensor = sk.solve(pendula, (0.0, 5.0), state, method, args=(mu,), **options)
    assert tensor.y.shape == (11, 4, 2)
    # A rounding may move a step size by as much as the controller amplifies it.
    np.testing.assert_allclose(tensor.y.numpy(), numpy.y, rtol=1e-6, atol=1e-6)


@given(seed=st.integers(0, 2**32 - 1), bad=st.integers(0, 3))
def test_a_sample_that_fails_leaves_the_others_as_they_are(seed, bad):
    y0 = Y0 + 0.1 * np.random.default_rng(seed).standard_normal(Y0.shape)
    rest = [i for i in range(4) if i != bad]

    def broken(t, y, mu, limit):
        f = pendula(t, y, mu)
        return np.where((t > limit)[:, None], np.nan, f)

    limit = np.full(4, np.inf)
    limit[bad] = 1.0
    options = {"batched": True, "t_eval": TIMES}
    with_it = sk.solve(broken, (0.0, 5.0), y0, "tsit5", args=(MU, limit), **options)
    without = sk.solve(pendula, (0.0, 5.0), y0[rest], "tsit5", args=(MU[rest],), **options)
    assert with_it.status[bad] is sk.Status.non_finite
    assert "not finite" in with_it.message[bad]
    # Kept up to where it failed, and nothing made up after it.
    known = ~np.isnan(with_it.y[:, bad, 0])
    assert known[TIMES < 0.5].all()
    assert not known[TIMES > 1.0].any()
    # Sums over another number of rows round differently, and the solve carries that on.
    np.testing.assert_allclose(with_it.y[:, rest], without.y, rtol=1e-9, atol=1e-9)
    assert (with_it.stats["accepted"][rest] == without.stats["accepted"]).all()


def test_every_sample_has_its_own_end():
    def f(t, y, kind):
        growth = np.stack([-y[:, 0], y[:, 0] ** 2, np.sin(1e3 * t), np.full(len(t), np.nan)], 1)
        return growth[np.arange(len(t)), kind][:, None]

    kind = np.arange(4)
    s = sk.solve(f, (0.0, 2.0), np.ones((4, 1)), "tsit5", batched=True, args=(kind,), max_steps=400)
    names = [status.name for status in s.status]
    assert names == ["success", "step_too_small", "max_steps", "non_finite"]
    assert not s.success
    assert s.succeeded.tolist() == [True, False, False, False]
    assert "made max_steps = 400" in s.message[2]
    assert "f(t0, y0)" in s.message[3]
    assert s[1].t[-1] == pytest.approx(1.0, rel=1e-6)  # y' = y², y(0) = 1 has a pole there
    assert np.isnan(s.t[len(s[0].t) :, 0]).all()
    assert "1 success" in repr(s)
    assert len(s) == 4


def test_values_of_samples_may_stay_in_f_itself():
    shapes = set()

    def f(t, y):
        shapes.add(y.shape)
        return -MU[:, None] * y  # works with all four rows or with none

    s = sk.solve(f, (0.0, np.array([0.1, 5.0, 5.0, 5.0])), Y0, "tsit5", batched=True, rtol=1e-9)
    assert s.success
    assert (3, 2) in shapes
    assert (4, 2) in shapes
    ends = np.array([0.1, 5.0, 5.0, 5.0])
    for i in range(4):
        np.testing.assert_allclose(
            s[i].y[-1], Y0[i] * np.exp(-MU[i] * ends[i]), rtol=1e-6, atol=1e-8
        )


def test_samples_that_have_ended_are_left_out():
    rows = []

    def f(t, y, mu):
        rows.append(len(y))
        assert len(mu) == len(y) == len(t)
        return -mu[:, None] * y

    span = (0.0, np.array([0.1, 0.2, 10.0, 0.1]))
    s = sk.solve(f, span, Y0, "dopri5", batched=True, args=(MU,))
    assert s.success
    assert rows[-1] == 1
    assert s.stats["nfev"] == len(rows)
    assert rows.count(4) < 0.5 * len(rows)


def test_spans_times_and_tolerances_of_each_sample():
    t1 = np.array([1.0, 2.0, 3.0, 4.0])
    times = np.linspace(0.0, 1.0, 5)[:, None] * t1
    f = lambda t, y: -y  # noqa: E731
    s = sk.solve(f, (0.0, t1), Y0, "dopri5", batched=True, t_eval=times, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(s.y, Y0 * np.exp(-times)[..., None], rtol=1e-6, atol=1e-9)
    back = sk.solve(f, (t1, 0.0), s.y[-1], "dopri5", batched=True, rtol=1e-8, atol=1e-10)
    last = np.stack([back[i].y[-1] for i in range(4)])
    np.testing.assert_allclose(last, Y0, rtol=1e-5, atol=1e-7)
    loose = np.array([1e-2, 1e-4, 1e-6, 1e-8])[:, None]
    steps = sk.solve(
        f, (0.0, 4.0), np.ones((4, 2)), "dopri5", batched=True, rtol=1e-10, atol=loose
    ).stats["accepted"]
    assert (np.diff(steps) > 0).all()


@pytest.mark.parametrize("method", ["dopri5", "vern7", "rodas5p", "kvaerno5", "radau9", "rkc2"])
def test_dense_output(method):
    options = {"rtol": 1e-7, "atol": 1e-9, "dense": True}
    s = sk.solve(pendula, (0.0, 5.0), Y0, method, batched=True, args=(MU,), **options)
    t = np.linspace(0.0, 5.0, 33)
    y = s(t)
    assert y.shape == (33, 4, 2)
    for i in range(4):
        np.testing.assert_allclose(s[i](t), y[:, i], rtol=1e-13, atol=1e-13)
        np.testing.assert_array_equal(s[i](s[i].t), s[i].y)
        np.testing.assert_allclose(
            y[:, i], alone(i, "dop853", rtol=1e-11, atol=1e-12, t_eval=t).y, rtol=5e-4, atol=5e-5
        )
    own = np.linspace(0.0, 1.0, 3)[:, None] * np.array([1.0, 2.0, 3.0, 4.0])
    assert s(own).shape == (3, 4, 2)
    assert s(1.0).shape == (4, 2)
    with pytest.raises(ValueError, match=r"outside .* of sample 0"):
        s(6.0)


def test_events_are_those_of_the_sample_alone():
    def rising(t, y, mu):
        return y[:, 0] - 0.3

    rising.direction = 1

    def second(t, y, mu):
        return y[:, 1]

    second.terminal = 2
    options = {"rtol": 1e-8, "atol": 1e-10, "events": [rising, second]}
    s = sk.solve(pendula, (0.0, 30.0), Y0, "tsit5", batched=True, args=(MU,), **options)
    assert all(status is sk.Status.event for status in s.status)
    for i in range(4):
        mu = MU[i : i + 1]

        def g_1(t, y):
            return y[0] - 0.3

        def g_2(t, y):
            return y[1]

        g_1.direction, g_2.terminal = 1, 2
        one = sk.solve(
            lambda t, y, mu=mu: pendula(np.array([t]), y[None], mu)[0],
            (0.0, 30.0),
            Y0[i],
            "tsit5",
            rtol=1e-8,
            atol=1e-10,
            events=[g_1, g_2],
        )
        for mine, theirs in zip(s[i].events, one.events, strict=True):
            np.testing.assert_allclose(mine.t, theirs.t, rtol=1e-11, atol=1e-11)
            np.testing.assert_allclose(mine.y, theirs.y, rtol=1e-8, atol=1e-8)
        assert s[i].t[-1] == s[i].events[1].t[-1]


def test_any_controller_and_shape():
    class Halves:
        """A controller of one's own."""

        def init(self):
            return 0

        def __call__(self, ratio, memory, _order):
            return ratio < 1, 1.5 if ratio < 0.1 else 0.5, memory + 1

    y0 = np.arange(12.0).reshape((2, 3, 2)) + 1
    s = sk.solve(
        lambda t, y: -y * t[:, None, None],
        (0.0, 2.0),
        y0,
        "tsit5",
        batched=True,
        controller=Halves(),
        log=True,
    )
    for i in range(2):
        np.testing.assert_allclose(s[i].y[-1], y0[i] * math.exp(-2.0), rtol=1e-4)
        assert set(s[i].log) == {"t", "h", "ratio", "accepted"}
        assert s[i].log["accepted"].sum() == s.stats["accepted"][i]


def test_dtypes_are_kept():
    single = sk.solve(
        lambda t, y: -y, (0, 1), Y0.astype(np.float32), "dopri5", batched=True, rtol=1e-4, atol=1e-6
    )
    assert single.y.dtype == np.float32
    turning = sk.solve(lambda t, y: 1j * y, (0, 1), Y0 + 0j, "tsit5", batched=True, t_eval=[1.0])
    np.testing.assert_allclose(turning.y[0], Y0 * np.exp(1j), rtol=1e-5, atol=1e-8)


def test_one_singular_matrix_spoils_its_row_only():
    # I − hγJ is singular for one row at some step sizes: J = 1/(hγ) at the first step.
    gamma = sk.METHODS["rodas5p"].gamma
    rates = np.array([-1.0, 1 / (0.1 * gamma)])

    s = sk.solve(
        lambda t, y, a: a[:, None] * y,
        (0.0, 0.2),
        np.ones((2, 1)),
        "rodas5p",
        batched=True,
        args=(rates,),
        first_step=0.1,
        jac=lambda t, y, a: a[:, None, None] * np.ones((1, 1, 1)),
    )
    assert s.success
    for i in range(2):
        np.testing.assert_allclose(s[i].y[-1], np.exp(0.2 * rates[i]), rtol=1e-4)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"y0": 1.0}, "first axis that counts"),
        ({"y0": np.array([[np.nan]])}, "not finite at component"),
        ({"t_span": (0.0, np.array([1.0, -1.0, 1.0, 1.0]))}, "same direction"),
        ({"t_span": (0.0, np.ones(3))}, "t_span must be"),
        ({"t_span": (0.0, math.inf)}, "must be finite"),
        ({"t_eval": np.ones((2, 3))}, "t_eval must have shape"),
        ({"t_eval": [0.0, 7.0]}, "outside t_span"),
        ({"t_eval": [1.0, 0.5]}, "strictly monotone"),
        ({"rtol": np.ones(3)}, "does not broadcast"),
        ({"atol": -1.0}, "atol must be finite"),
        ({"guide": lambda step, probe: step.y_new}, "guide is not for batched"),
        ({"adjoint": "checkpoints"}, "is for torch states"),
        ({"adjoint": "magic"}, "adjoint must be"),
        ({"f": lambda t, y: y[:, :1]}, "for a batch of states of shape"),
        ({"f": lambda t, y: y * 1j}, "is complex for a real y0"),
        ({"events": lambda t, y: y}, "event 0 returned"),
        ({"jac": np.eye(3), "method": "rodas5p"}, "jac has shape"),
    ],
)
def test_bad_input_is_told_before_work(change, message):
    given = {"f": lambda t, y: -y, "t_span": (0.0, 5.0), "y0": Y0, "method": "dopri5"} | change
    f, span, y0 = (given.pop(key) for key in ("f", "t_span", "y0"))
    with pytest.raises(ValueError, match=message):
        sk.solve(f, span, y0, batched=True, **given)


def test_an_exception_takes_the_partial_solution_along():
    def f(t, y):
        if (t > 1).any():
            msg = "no further"
            raise RuntimeError(msg)
        return -y

    with pytest.raises(RuntimeError, match="no further") as caught:
        sk.solve(f, (0.0, 5.0), Y0, "tsit5", batched=True)
    partial = caught.value.solution
    assert all(status is sk.Status.interrupted for status in partial.status)
    assert (partial.stats["accepted"] > 0).all()


@pytest.mark.parametrize("direction", [1.0, -1.0])
def test_pairs_of_events_within_a_quarter_of_a_step_are_found(direction):
    """g = (t − c)² − d² on a step from 0 to 1; the last sample's parabola stays above zero."""
    centre, half = np.array([0.3, 0.56, 0.8, 0.4]), np.array([0.02, 0.005, 0.04, -1.0])

    def g(t, y, c, d):
        return (t * direction - c) ** 2 - d * np.abs(d)

    s = sk.solve(
        lambda t, y, c, d: np.zeros_like(y),
        (0.0, direction),
        np.ones((4, 1)),
        "dopri5",
        batched=True,
        args=(centre, half),
        events=[g],
        grid=1,
    )
    exact = np.stack([centre - half, centre + half])[:, :3] * direction
    np.testing.assert_allclose(s.events[0].t[:, :3], exact, rtol=1e-13)
    assert np.isnan(s.events[0].t[:, 3]).all()


def test_a_callback_stops_the_solve():
    s = sk.solve(
        lambda t, y: -y,
        (0.0, 5.0),
        Y0,
        "tsit5",
        batched=True,
        callback=lambda t, y, accepted: bool((t > 1).all()),
    )
    assert all(status is sk.Status.interrupted for status in s.status)
    assert all(1 < s[i].t[-1] < 5 for i in range(4))


def test_an_empty_batch_and_an_empty_span():
    none = sk.solve(lambda t, y: -y, (0.0, 1.0), np.ones((0, 2)), "tsit5", batched=True)
    assert none.success
    assert len(none) == 0
    still = sk.solve(lambda t, y: -y, (0.0, 0.0), Y0, "tsit5", batched=True)
    assert still.success
    assert still.y.shape == (1, 4, 2)


# Samples leave the batch -------------------------------------------------------------------------

ENDS = np.array([0.1, 0.2, 10.0, 5.0])


def decay(t, y, mu):
    return -mu[:, None] * y


@pytest.mark.parametrize("name", ["rtol", "atol"])
@pytest.mark.parametrize("method", ["dopri5", "rodas5p", "kvaerno5", "radau5", "rkc2"])
def test_tolerances_of_samples_leave_with_them(method, name):
    own = np.array([1e-3, 1e-4, 1e-6, 1e-7])[:, None]
    options = {"rtol": 1e-5, "atol": 1e-8} | {name: own}
    s = sk.solve(decay, (0.0, ENDS), Y0, method, batched=True, args=(MU,), **options)
    assert s.success
    for i in range(4):
        options[name] = float(own[i, 0])
        one = sk.solve(
            lambda t, y, i=i: -MU[i] * y, (0.0, ENDS[i]), Y0[i], method, detect=False, **options
        )
        # Stabilised and ESDIRK methods know the batch; the tolerance is each one's own.
        np.testing.assert_allclose(s[i].y[-1], one.y[-1], rtol=3e-3, atol=1e-4)
        if method in ("dopri5", "rodas5p", "radau5"):
            assert s.stats["accepted"][i] == one.stats["accepted"]


@pytest.mark.parametrize("shared", [np.array([1.0, 2.0]), np.array([[1.0, 0.5], [-0.5, 2.0]])])
def test_an_array_that_all_share_may_be_as_long_as_what_is_left(shared):
    def f(t, y, w):
        return -y * w if w.ndim == 1 else -y @ w

    ends = np.array([0.1, 0.2, 3.0, 5.0])  # four, three, two rows, one
    s = sk.solve(f, (0.0, ends), Y0, "tsit5", batched=True, args=(shared,), rtol=1e-9, atol=1e-11)
    for i in range(4):
        one = sk.solve(
            lambda t, y: f(t, y, shared), (0.0, ends[i]), Y0[i], "tsit5", rtol=1e-9, atol=1e-11
        )
        np.testing.assert_allclose(s[i].y[-1], one.y[-1], rtol=1e-7, atol=1e-9)


def test_dense_output_and_events_end_where_the_sample_does():
    def low(t, y, k):
        return y[:, 0] - 0.2

    low.terminal = True
    rates, times = np.array([0.01, 1.0, 3.0, 10.0]), np.linspace(0.0, 10.0, 21)
    s = sk.solve(
        decay,
        (0.0, 10.0),
        np.ones((4, 1)),
        "tsit5",
        batched=True,
        args=(rates,),
        events=low,
        dense=True,
        t_eval=times,
        rtol=1e-7,
        atol=1e-9,
    )
    assert [status.name for status in s.status] == ["success", "event", "event", "event"]
    for i in range(1, 4):
        end = s[i].events[0].t[0]
        assert end == pytest.approx(math.log(5) / rates[i], rel=1e-5)
        assert len(s[i].t) == (times <= end).sum()
        assert np.isnan(s.y[s.count[i] :, i]).all()
        assert s[i](end)[0] == pytest.approx(0.2, rel=1e-7)
        with pytest.raises(ValueError, match="outside"):
            s[i](end + 1e-6)
        with pytest.raises(ValueError, match=f"outside .* of sample {i}"):
            s(np.where(np.arange(4) == i, end + 1e-6, 0.0)[None])


# What f does with arrays -------------------------------------------------------------------------


@pytest.mark.parametrize(
    "method", ["dopri5", "vern7", "rodas5p", "trbdf2", "radau5", "rkc2", "rock4"]
)
def test_f_may_reuse_one_buffer(method):
    buffers = {}

    def fresh(t, y):
        return -y * (1 + y * y) + np.sin(t)[:, None]

    def reused(t, y):
        buffer = buffers.setdefault(y.shape, np.empty(y.shape))
        buffer[:] = fresh(t, y)
        return buffer

    options = {"batched": True, "rtol": 1e-4, "t_eval": [1.0, 2.5, 3.0]}
    new = sk.solve(fresh, (0.0, 3.0), Y0, method, **options)
    old = sk.solve(reused, (0.0, 3.0), Y0, method, **options)
    np.testing.assert_array_equal(old.y, new.y)
    assert old.stats["nfev"] == new.stats["nfev"]


@pytest.mark.parametrize("method", ["tsit5", "rodas5p", "kvaerno5", "radau5", "rkc2"])
def test_f_cannot_change_a_state(method):
    def late(t, y):
        if t[0] > 0.1:
            y *= 0.999
        return -y

    with pytest.raises(ValueError, match="read-only"):
        sk.solve(late, (0.0, 1.0), Y0, method, batched=True)
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match="in place"):
        sk.solve(late, (0.0, 1.0), torch.tensor(Y0), method, batched=True)


def test_a_callback_cannot_change_a_state():
    def halve(t, y, accepted):
        y *= 0.5

    with pytest.raises(ValueError, match="read-only"):
        sk.solve(lambda t, y: -y, (0.0, 1.0), Y0, "tsit5", batched=True, callback=halve)


def test_f_may_return_nested_lists():
    s = sk.solve(lambda t, y: (-y).tolist(), (0.0, 1.0), Y0, "tsit5", batched=True, t_eval=[1.0])
    np.testing.assert_allclose(s.y[0], Y0 * math.exp(-1), rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("method", ["tsit5", "rodas5p", "kvaerno5", "radau9"])
def test_states_without_components(method):
    s = sk.solve(lambda t, y: -y, (0.0, 1.0), np.ones((3, 0)), method, batched=True)
    assert s.success
    assert s.y.shape[1:] == (3, 0)


# What is given of a Jacobian ---------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rkc2", "rock4"])
def test_a_bound_of_the_spectral_radius(method):
    rates = np.array([10.0, 100.0, 30.0, 1.0])
    seen = []

    def f(t, y, k):
        return -k[:, None] * (y - np.cos(t)[:, None])

    def radius(t, y, k):
        assert t.shape == k.shape == y.shape[:1]
        seen.append(len(t))
        return k

    def run(bound):
        options = {"batched": True, "args": (rates,), "rtol": 1e-5, "atol": 1e-7}
        return sk.solve(f, (0.0, ENDS / 5), Y0, method, radius=bound, **options)

    exact = run(None)
    for bound in (100.0, radius):
        s = run(bound)
        assert s.success
        for i in range(4):
            np.testing.assert_allclose(s[i].y[-1], exact[i].y[-1], rtol=1e-3, atol=1e-4)
    assert min(seen) < 4
    with pytest.raises(ValueError, match="radius returned"):
        run(-1.0)


def test_a_radius_that_grows_is_found_again():
    # y' = −k(t)(y − 1): the estimate at t = 0 is 50 times too small at the end.
    def f(t, y):
        return -(20 + 1e3 * t**4)[:, None] * (y - 1)

    s = sk.solve(f, (0.0, 2.0), 1 + 0.1 * Y0, "rkc2", batched=True, rtol=1e-3, atol=1e-4)
    assert s.success
    assert s.stats["rejected"].max() < 0.5 * s.stats["accepted"].max()


def test_a_constant_complex_jacobian():
    f = lambda t, y: 1j * y  # noqa: E731
    options = {"batched": True, "rtol": 1e-7, "atol": 1e-9, "t_eval": [1.0]}
    s = sk.solve(f, (0.0, 1.0), Y0 + 0j, "rodas5p", jac=1j * np.eye(2), **options)
    np.testing.assert_allclose(s.y[0], Y0 * np.exp(1j), rtol=1e-6, atol=1e-7)
    with pytest.raises(ValueError, match="complex for a real y0"):
        sk.solve(lambda t, y: -y, (0.0, 1.0), Y0, "rodas5p", jac=1j * np.eye(2), **options)


@pytest.mark.parametrize("stop", [lambda t: t.detach(), lambda t: t.new_tensor(t.tolist())])
def test_times_that_derivatives_cannot_follow(stop):
    torch = pytest.importorskip("torch")
    options = {"batched": True, "rtol": 1e-5, "atol": 1e-7}
    y0 = torch.tensor(Y0)
    seen, hidden = (
        sk.solve(
            lambda t, y, of=of: torch.sin(3 * of(t))[:, None] - y,
            (0.0, 1.0),
            y0,
            "rodas5p",
            **options,
        )
        for of in (lambda t: t, stop)
    )
    # With ∂f/∂t taken for zero the method has order 1, and takes a hundred times the steps.
    assert hidden.stats["accepted"].max() <= 1.1 * seen.stats["accepted"].max()


def test_a_solution_is_pickled_and_counted():
    s = sk.solve(
        lambda t, y: -y,
        (0.0, 1.0),
        Y0,
        "tsit5",
        batched=True,
        dense=True,
        log=True,
        events=lambda t, y: y[:, 0] - 0.5,
    )
    again = pickle.loads(pickle.dumps(s))
    np.testing.assert_array_equal(again(0.5), s(0.5))
    np.testing.assert_array_equal(again[-1].events[0].t, s[3].events[0].t)
    assert len(list(again)) == 4
    with pytest.raises(IndexError):
        s[4]
    with pytest.raises(TypeError, match="slice"):
        s[1:3]
