"""``solve(..., batched=True, observe=...)``: a sample's readings are those that it has alone."""

import numpy as np
import pytest

import stiffkit as sk
from stiffkit.solvers import BatchStep
from stiffkit.stiffness import (
    Alignment,
    DominantEigenpair,
    NormRatio,
    PathSecant,
    RayleighQuotient,
    SpectralRadius,
    StabilityRatio,
    StageRatio,
)

torch = pytest.importorskip("torch")

SECANTS = [NormRatio(), RayleighQuotient(), StageRatio(), PathSecant()]
NAMES = [hook.name for hook in SECANTS]
MU = np.array([0.1, 1.0, 3.0, 6.0, 2.0])
Y0 = np.array([[2.0, 0.0], [1.0, 1.0], [0.0, 0.5], [-2.0, 0.0], [1.0, 0.0]])
ENDS = np.array([2.0, 2.0, 0.5, 0.75, 2.0])
BROKEN = np.array([np.inf, np.inf, np.inf, np.inf, 1.0])
"""f of the last sample is NaN after t = 1; two samples end early: the batch is compacted."""


def pendula(t, y, mu, broken):
    """Van der Pol's equation with a drive, one μ for each row."""
    xp = np if isinstance(y, np.ndarray) else torch
    x, v = y[:, 0], y[:, 1]
    slope = xp.stack([v, mu * (1 - x * x) * v - x + xp.sin(t)], 1)
    return xp.where((t > broken)[:, None], xp.full_like(slope, np.nan), slope)


class Dyadic:
    """Step sizes are powers of 2: roundings in the error estimates cannot move them."""

    def init(self):
        return None

    def __call__(self, ratio, memory, order):  # noqa: ARG002
        if ratio >= 1:
            return False, 0.5, None
        return True, 2.0 if ratio < 0.5 ** (order + 3) else 1.0, None


OPTIONS = {"controller": Dyadic(), "first_step": 0.25, "rtol": 1e-3, "atol": 1e-5}


def batch(method, library, hooks, **options):
    arrays = [Y0, MU, BROKEN]
    if library == "torch":
        arrays = [torch.tensor(a) for a in arrays]
    y0, *args = arrays
    more = {**OPTIONS, **options}
    return sk.solve(
        pendula, (0.0, ENDS), y0, method, batched=True, args=args, observe=hooks, **more
    )


def of_one(i):
    """The right-hand side of sample i, for NumPy and torch."""

    def f(t, y):
        xp = np if isinstance(y, np.ndarray) else torch
        t = np.array([t]) if xp is np else t.reshape(1)
        own = [xp.asarray(x[i : i + 1]) for x in (MU, BROKEN)]
        return pendula(t, y[None], *own)[0]

    return f


def alone(i, method, library, hooks, **options):
    y0 = torch.tensor(Y0[i]) if library == "torch" else Y0[i]
    more = {**OPTIONS, **options}
    return sk.solve(of_one(i), (0.0, ENDS[i]), y0, method, observe=hooks, **more)


def error_size(step, probe):
    """A hook for one sample, in ignorance of batches."""
    assert step.y.shape == (2,)
    assert isinstance(step.h, float)
    return float(np.linalg.norm(step.err))


def lost(step, probe):
    """Size of the secant that NormRatio and its fellows divide by."""
    return None if probe is None else float(np.linalg.norm(step.y - probe.z))


def stages_of_all(method):
    """Options with which stabilised methods take as many stages for a sample alone as for all."""
    return {"radius": 1e-3} if method in ("rkc2", "rock4") else {}


@pytest.mark.parametrize(
    ("method", "library"),
    [
        *((name, "numpy") for name in ("heun", "bosh3", "rkc2", "rock4", "rodas5p", "kencarp4")),
        *((name, "torch") for name in ("rodas5p", "rock4")),
        *(("dopri5", library) for library in ("numpy", "torch")),
        *(("radau5", library) for library in ("numpy", "torch")),
    ],
)
def test_readings_of_a_sample_are_those_it_has_alone(method, library):
    """Through rejections, ends, a failure and compaction."""
    hooks = [*SECANTS, error_size, lost]
    options = stages_of_all(method)
    many = batch(method, library, hooks, **options)
    names = [status.name for status in many.status]
    assert names[:4] == ["success"] * 4
    assert names[4] in ("non_finite", "newton_failed")
    assert (many.stats["rejected"] > 0).sum() >= 2
    explicit = method in sk.EXPLICIT
    newton = method in ("radau5", "kencarp4")
    for i in range(4 if newton else 5):
        log, one = many[i].log, alone(i, method, library, hooks, **options).log
        if newton:  # what is left of an iteration may turn a verdict
            assert abs(len(log["t"]) - len(one["t"])) <= 4
            assert (log["error_size"][log["accepted"]] > 0).all()
            continue
        for key in ("t", "h", "accepted"):
            np.testing.assert_array_equal(log[key], one[key])
        # States of the size 1 are subtracted, and their roundings have been carried on.
        noise = 1e-12 if explicit else 1e-6
        known = ~np.isnan(one["lost"])
        for key in ("rho", "rayleigh", "h_rho", "path_curvature", "error_size", "lost"):
            np.testing.assert_array_equal(np.isnan(log[key]), np.isnan(one[key]))
        for key in ("rho", "rayleigh"):
            slack = noise * (1 + one["rho"][known]) / one["lost"][known]
            assert (np.abs(log[key] - one[key])[known] <= slack).all()
        np.testing.assert_allclose(log["error_size"], one["error_size"], rtol=noise, atol=noise)
    assert np.isnan(many.log["rho"][~many.log["accepted"]]).all()


@pytest.mark.parametrize(
    ("method", "library"),
    [
        *((name, "numpy") for name in ("dopri5", "rk4", "rkc2", "rodas5p", "radau5", "kencarp4")),
        *((name, "torch") for name in ("rk4", "kencarp4")),
    ],
)
def test_on_a_grid_too(method, library):
    options = {"controller": None, "first_step": None, "grid": 8, **stages_of_all(method)}
    hooks = [*SECANTS, lambda step, probe: step.y_new]
    many = batch(method, library, hooks, **options)
    # Newton's iterations stop at 0.03 of the tolerance.
    tolerance = 1e-4 if method in ("kencarp4", "radau5") else 1e-8
    for i in range(4):
        log, one = many[i].log, alone(i, method, library, hooks, **options).log
        assert log["<lambda>"].shape == (8, 2)
        for key in (*NAMES, "<lambda>"):
            np.testing.assert_allclose(log[key], one[key], rtol=tolerance, atol=tolerance)


def test_a_hook_reads_the_same_for_one_and_for_all():
    """The secants are made for all rows at once; wrapped, they get one step after the other."""
    wrapped = [lambda step, probe, hook=hook: hook(step, probe) for hook in SECANTS]
    together, apart = (batch("dopri5", "numpy", hooks).log for hooks in (SECANTS, wrapped))
    names = ["<lambda>", *(f"<lambda>_{i}" for i in (2, 3, 4))]
    for name, other in zip(NAMES, names, strict=True):
        assert np.isfinite(together[name]).sum() >= 20
        np.testing.assert_allclose(together[name], apart[other], rtol=1e-13)


def test_observing_adds_no_calls_of_f_and_changes_nothing():
    calls = []

    def f(t, y, *args):
        calls.append(len(t))
        return pendula(t, y, *args)

    options = {"batched": True, "args": (MU, BROKEN)}
    plain, before = sk.solve(f, (0.0, ENDS), Y0, "dopri5", **options), len(calls)

    def spoiler(step, probe):
        for x in (step.y, step.y_new, *step.k, *(probe or ())):
            x[:] = np.nan

    watched = sk.solve(f, (0.0, ENDS), Y0, "dopri5", observe=[*SECANTS, spoiler], **options)
    assert len(calls) == 2 * before
    np.testing.assert_array_equal(plain.y, watched.y)
    assert plain.status == watched.status


def test_what_asks_for_the_whole_batch_gets_it():
    seen = []

    def largest(step, probe):
        assert isinstance(step, BatchStep)
        assert step.t.shape == step.h.shape == step.t_new.shape == step.samples.shape
        assert step.y.shape == step.err.shape == step.k[-1].shape == (len(step.t), 2)
        np.testing.assert_allclose(step.t + step.h, step.t_new)
        (mu,) = step.cut((MU,))
        np.testing.assert_array_equal(mu, MU[step.samples])
        seen.append(step.samples)
        return step.t_new

    largest.whole_batch = True
    solution = batch("dopri5", "numpy", largest)
    log = solution.log
    accepted = log["accepted"]
    np.testing.assert_allclose(log["largest"][accepted], (log["t"] + log["h"])[accepted])
    assert {len(samples) for samples in seen} >= {3, 4}
    assert sum(map(len, seen)) == accepted.sum()

    largest.whole_batch = False
    with pytest.raises(AssertionError):
        batch("dopri5", "numpy", largest)


def test_a_sample_has_a_probe_from_its_second_step_on():
    """One that rejects its first step while others go on has none either."""

    def bare(step, probe):
        return float(probe is None)

    log = batch("dopri5", "numpy", bare).log
    first = log["accepted"].argmax(0)
    assert first.max() > first.min()
    for i, row in enumerate(first):
        assert log["bare"][row, i] == 1.0
        assert np.nansum(log["bare"][:, i]) == 1.0


@pytest.mark.parametrize("value", [1.0, np.zeros(7), np.zeros((1, 5))])
def test_a_whole_reading_counts_the_samples(value):
    def short(step, probe):
        return value

    short.whole_batch = True
    with pytest.raises(ValueError, match=r"observer 'short'.*shape.*for 4 samples"):
        batch("dopri5", "numpy", short)


def test_readings_may_be_arrays_dicts_words_or_nothing():
    def pair(step, probe):
        return step.y_new

    def several(step, probe):
        return None if probe is None else {"at": step.t_new, "rho": step.h}

    def word(step, probe):
        return "long" if step.h > 0.1 else "short"

    def nothing(step, probe):
        return None

    log = batch("dopri5", "numpy", [NormRatio(), pair, several, word, nothing]).log
    shape = log["t"].shape
    assert log["pair"].shape == (*shape, 2)
    assert "several" not in log
    later = ~np.isnan(log["at"])
    np.testing.assert_array_equal(log["rho_2"][later], log["h"][later])  # the name was taken
    assert np.isnan(log["nothing"]).all()
    here = log["accepted"]
    assert set(log["word"][here]) == {"long", "short"}
    assert all(x is None for x in log["word"][~here])
    np.testing.assert_allclose(log["at"][later], (log["t"] + log["h"])[later])


def test_readings_of_differing_shapes_stay_objects():
    def many(step, probe):
        return np.zeros(2 if step.h > 0.1 else 3)

    log = batch("dopri5", "numpy", many).log
    assert log["many"].dtype == object
    assert {len(x) for x in log["many"][log["accepted"]]} == {2, 3}


def test_a_batch_that_never_steps_has_no_readings():
    solution = sk.solve(
        lambda t, y: y * np.nan, (0.0, 1.0), Y0, "dopri5", batched=True, observe=SECANTS
    )
    assert solution.log["rho"].shape == (0, 5)


def test_an_observer_that_raises_leaves_the_partial_solution():
    def bad(step, probe):
        if step.t_new > 1.0:
            msg = "enough"
            raise RuntimeError(msg)
        return 1.0

    with pytest.raises(RuntimeError, match="enough") as caught:
        batch("dopri5", "numpy", bad)
    assert (caught.value.solution.log["bad"] == 1.0).any()


def test_structures_and_events():
    def f(t, state):
        x, v = state["x"], state["v"]
        return {"x": v, "v": -x}

    def zero(t, state):
        return state["x"][:, 0]

    zero.terminal = True
    y0 = {"x": np.array([[1.0], [2.0]]), "v": np.zeros((2, 1))}
    hooks = [NormRatio(), lambda step, probe: step.t_new]
    many = sk.solve(f, (0.0, 3.0), y0, "dopri5", batched=True, events=zero, observe=hooks)
    assert [status.name for status in many.status] == ["event", "event"]
    log = many.log
    # J is a rotation: every secant shows its norm. The last step is shown whole, past the event.
    known = ~np.isnan(log["rho"])
    np.testing.assert_allclose(log["rho"][known], 1.0, rtol=1e-6)
    assert (np.nanmax(log["<lambda>"], 0) > np.pi / 2).all()


# Dominant eigenvectors ----------------------------------------------------------------------------


def readers(f, **options):
    eigen = DominantEigenpair(f, **options)
    return [Alignment(eigen), SpectralRadius(eigen), StabilityRatio(eigen)]


EIGEN = ["alignment", "spectral_radius", "stability_ratio"]


@pytest.mark.parametrize("library", ["numpy", "torch"])
@pytest.mark.parametrize("method", ["dopri5", "rodas5p"])
def test_alignment_of_a_sample_is_that_it_has_alone(method, library):
    args = [torch.tensor(a) if library == "torch" else a for a in (MU, BROKEN)]
    many = batch(method, library, [*readers(pendula, batched=True, args=args), error_size])
    # Products by differences have half the digits, those of torch all.
    tolerance = 1e-6 if library == "numpy" else 1e-10
    for i in range(5):
        log, one = many[i].log, alone(i, method, library, [*readers(of_one(i)), error_size]).log
        for key in EIGEN:
            # The direction of an error of the size of a rounding is that rounding's.
            noise = (1e-13 if method == "dopri5" else 1e-8) / one["error_size"]
            slack = tolerance * (1 + one[key]) + noise * (key == "alignment")
            np.testing.assert_array_equal(np.isnan(log[key]), np.isnan(one[key]))
            known = np.isfinite(one[key])
            np.testing.assert_array_equal(np.isfinite(log[key]), known)
            assert (np.abs(log[key][known] - one[key][known]) <= slack[known]).all()
        assert (log["spectral_radius"][log["accepted"]] > 0).all()
        assert np.isnan(log["stability_ratio"]).all() == (method == "rodas5p")


def test_a_right_hand_side_of_one_sample_serves_as_well():
    rates = np.array([-100.0, -1.0])
    y0 = np.array([[1.0, 1.0], [0.0, 1.0]])
    options = {"batched": True, "grid": 10}

    def f(t, y):
        return rates * y

    logs = [
        sk.solve(f, (0.0, 0.1), y0, "heun", observe=readers(f, batched=flag), **options).log
        for flag in (False, True)
    ]
    for log in logs:
        assert (log["alignment"][:, 0] > 0.99).all()
        assert (log["alignment"][:, 1] < 1e-6).all()
        np.testing.assert_allclose(log["spectral_radius"], 100.0, rtol=1e-5)
        np.testing.assert_allclose(log["stability_ratio"], 0.5, rtol=1e-5)


def test_a_sample_without_a_jacobian_leaves_the_others_their_readings():
    """√ has none beside 0, where the increments of differences lead."""

    def f(t, y):
        return np.where(y >= 0, 0.0, np.nan) - (y > 1)

    y0 = np.array([[0.0, 0.0], [4.0, 4.0]])
    hooks = readers(f, batched=True)
    log = sk.solve(f, (0.0, 1.0), y0, "heun", batched=True, grid=4, observe=hooks).log
    assert np.isnan(log["spectral_radius"][:, 0]).all()
    np.testing.assert_allclose(log["spectral_radius"][:, 1], 0.0, atol=1e-6)


# One problem in the batched loop ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "adjoint"),
    [
        *(("dopri5", adjoint) for adjoint in (None, "checkpoints", "backsolve")),
        *((name, None) for name in ("rodas5p", "kencarp4", "radau5")),
    ],
)
def test_single_tensors_are_observed_and_keep_their_gradients(method, adjoint):
    def run(observe):
        y0 = torch.tensor(Y0[0], requires_grad=True)
        s = sk.solve(
            of_one(0), (0.0, 0.5), y0, method, adjoint=adjoint, observe=observe, t_eval=[0.5]
        )
        return s, torch.autograd.grad(s.y.sum(), y0)[0]

    def state(step, probe):
        assert step.y.shape == (2,)
        return step.y_new

    hooks = [NormRatio(), RayleighQuotient(), state, *readers(of_one(0))]
    solution, gradient = run(hooks)
    assert torch.equal(gradient, run(())[1])
    assert len(solution.log["t"]) == solution.stats["accepted"] + solution.stats["rejected"]
    here = solution.log["accepted"]
    assert solution.log["state"].shape == (len(here), 2)
    assert np.isfinite(solution.log["spectral_radius"][here]).all()
    assert np.isfinite(solution.log["rho"][here][1:]).all() == (method == "dopri5")
    if method == "dopri5":
        numpy = sk.solve(of_one(0), (0.0, 0.5), Y0[0], method, observe=hooks, t_eval=[0.5])
        np.testing.assert_allclose(solution.log["rho"], numpy.log["rho"], rtol=1e-3)


def test_batched_hooks_of_a_single_tensor_count_its_own_rows():
    y0 = torch.tensor(Y0)

    def f(t, y):
        return -y * torch.arange(1.0, 6.0, dtype=torch.float64)[:, None]

    log = sk.solve(f, (0.0, 1.0), y0, "dopri5", adjoint="checkpoints", observe=NormRatio(True)).log
    assert log["rho"].shape[1:] == (5,)
    np.testing.assert_allclose(log["rho"][-1], np.arange(1.0, 6.0), rtol=1e-4)
