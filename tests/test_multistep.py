"""The multistep family, against plain implementations of each paper's own formulae."""

from itertools import pairwise

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.integrate import quad

import stiffkit as sk
from stiffkit.diffusion import (
    MULTISTEP,
    DataDenoiser,
    GaussianMixture,
    Multistep,
    Polynomials,
    Spectrum,
    gaussian,
    karras_sigmas,
    logsnr_sigmas,
    natural_spectrum,
    probability_flow,
    sample,
    vp_time,
)
from stiffkit.diffusion.multistep import deis_rectangles
from stiffkit.diffusion.schedule import vp_parameters

DATA = DataDenoiser(0.5 * np.random.default_rng(0).standard_normal((20, 6)), 0.1)
NOISE = np.random.default_rng(1).standard_normal((4, 6))
MIXTURE = GaussianMixture(np.array([[1.0, -0.5], [-1.0, 0.5]]), std=0.6)


def lower(i, n, order):
    """Order of step i on n levels, with lower_order_final."""
    return i + 1 if i + 1 < order else min(order, n - 1 - i)


def plain_dpmpp(denoiser, x, sigmas, order):
    """DPM-Solver++ (2211.01095), algorithm 2 and its third-order form, in λ = −log σ."""
    lam, Ds = -np.log(sigmas), []
    for i in range(len(sigmas) - 1):
        Ds.append(denoiser(x, sigmas[i]))
        h, e = lam[i + 1] - lam[i], np.expm1(-(lam[i + 1] - lam[i]))
        p = lower(i, len(sigmas), order)
        x = sigmas[i + 1] / sigmas[i] * x
        if p == 1:
            x = x - e * Ds[-1]
            continue
        r0 = (lam[i] - lam[i - 1]) / h
        D1_0 = (Ds[-1] - Ds[-2]) / r0
        if p == 2:
            x = x - e * (Ds[-1] + 0.5 * D1_0)
            continue
        r1 = (lam[i - 1] - lam[i - 2]) / h
        D1_1 = (Ds[-2] - Ds[-3]) / r1
        D1 = D1_0 + r0 / (r0 + r1) * (D1_0 - D1_1)
        D2 = (D1_0 - D1_1) / (r0 + r1)
        x = x - e * Ds[-1] + (e / h + 1) * D1 - ((e + h) / h**2 - 0.5) * D2
    return denoiser(x, sigmas[-1])


def plain_unipc(denoiser, x, sigmas, order, bh2):
    """UniPC (2302.04867), algorithm 1 and 2, data prediction: φ-functions and R ρ = b."""
    lam, Ds, n = -np.log(sigmas), [denoiser(x, sigmas[0])], len(sigmas)
    for i in range(n - 1):
        h = lam[i + 1] - lam[i]
        p = lower(i, n, order)
        r = [(lam[i - k] - lam[i]) / h for k in range(1, p)] + [1.0]
        B = np.expm1(-h) if bh2 else -h
        phi, factorial, b = np.expm1(-h) / -h - 1, 1.0, []
        for k in range(1, p + 1):
            b.append(phi * factorial / B)
            factorial *= k + 1
            phi = phi / -h - 1 / factorial
        R = np.array([[r_k ** (k - 1) for r_k in r] for k in range(1, p + 1)])
        base = sigmas[i + 1] / sigmas[i] * x - np.expm1(-h) * Ds[-1]
        D1 = [(Ds[-1 - k] - Ds[-1]) / r[k - 1] for k in range(1, p)]
        rho = [0.5] if p == 2 else np.linalg.solve(R[:-1, :-1], b[:-1]) if p > 2 else []
        ahead = base - B * sum(w * d for w, d in zip(rho, D1, strict=True))
        if i == n - 2:
            return denoiser(ahead, sigmas[-1])
        new = denoiser(ahead, sigmas[i + 1])
        rho = [0.5] if p == 1 else np.linalg.solve(R, b)
        x = base - B * sum(w * d for w, d in zip(rho, [*D1, new - Ds[-1]], strict=True))
        Ds.append(new)
    return None


def plain_deis(denoiser, x, sigmas, order):
    """DEIS-tAB (2204.13902): ε interpolated in the time of a VP process, adaptive quadrature."""
    parameters, fs = vp_parameters(), []
    t = vp_time(sigmas, *parameters)
    for i, (s, s_new) in enumerate(pairwise(sigmas)):
        fs.append((x - denoiser(x, s)) / s)
        p = min(order, i + 1)
        for j in range(p):

            def lagrange(v, i=i, j=j, p=p):
                u = vp_time(np.asarray(v), *parameters)
                others = [t[i - k] for k in range(p) if k != j]
                return np.prod([(u - o) / (t[i - j] - o) for o in others])

            x = x + quad(lagrange, s, s_new, epsabs=1e-13, epsrel=1e-12, limit=200)[0] * fs[-1 - j]
    return denoiser(x, sigmas[-1])


def plain_ipndm(denoiser, x, sigmas, order):
    """iPNDM: Adams-Bashforth weights as if the steps were equal."""
    rows = ([1], [3 / 2, -1 / 2], [23 / 12, -4 / 3, 5 / 12], [55 / 24, -59 / 24, 37 / 24, -3 / 8])
    fs = []
    for i, (s, s_new) in enumerate(pairwise(sigmas)):
        fs.append((x - denoiser(x, s)) / s)
        row = rows[min(order, i + 1) - 1]
        x = x + (s_new - s) * sum(w * f for w, f in zip(row, fs[::-1], strict=False))
    return denoiser(x, sigmas[-1])


PLAIN = {
    "dpmpp2m": lambda *a: plain_dpmpp(*a, 2),
    "dpmpp3m": lambda *a: plain_dpmpp(*a, 3),
    "unipc2": lambda *a: plain_unipc(*a, 2, True),
    "unipc3": lambda *a: plain_unipc(*a, 3, True),
    "unipc2_bh1": lambda *a: plain_unipc(*a, 2, False),
    "unipc3_bh1": lambda *a: plain_unipc(*a, 3, False),
    "deis2": lambda *a: plain_deis(*a, 2),
    "deis3": lambda *a: plain_deis(*a, 3),
    "deis4": lambda *a: plain_deis(*a, 4),
    "ipndm2": lambda *a: plain_ipndm(*a, 2),
    "ipndm3": lambda *a: plain_ipndm(*a, 3),
    "ipndm4": lambda *a: plain_ipndm(*a, 4),
}


@pytest.mark.parametrize("name", PLAIN)
@pytest.mark.parametrize("grid", [karras_sigmas(9), logsnr_sigmas(12)])
def test_sampler_is_its_papers_algorithm(name, grid):
    expected = PLAIN[name](DATA, NOISE * grid[0], grid)
    # A state of size 80 and some tens of roundings; the data's modes part and amplify them.
    np.testing.assert_allclose(sample(DATA, NOISE, grid, sampler=name), expected, atol=1e-11)


@pytest.mark.parametrize("name", MULTISTEP)
@pytest.mark.parametrize("n", [2, 3, 5, 18])
def test_one_call_per_noise_level_and_short_grids_work(name, n):
    calls = []

    def counted(x, sigma):
        calls.append(float(sigma))
        return DATA(x, sigma)

    sigmas = karras_sigmas(n)
    x = sample(counted, NOISE, sigmas, sampler=name)
    assert calls == list(sigmas)
    assert np.isfinite(x).all()
    assert abs(x).max() < 10  # the data are of size 1: no weight may blow up at few steps


@pytest.mark.parametrize("name", MULTISTEP)
def test_weights_integrate_a_constant(name):
    for sigmas in (karras_sigmas(2), karras_sigmas(7), logsnr_sigmas(300)):
        for row, (s, s_new) in zip(MULTISTEP[name].plan(sigmas), pairwise(sigmas), strict=True):
            total = 1 - s_new / s if MULTISTEP[name].quantity == "D" else s_new - s
            for weights in (row.predictor, row.corrector):
                if weights:
                    scale = sum(abs(w) for w in weights)
                    assert abs(sum(weights) - total) < 1e-13 * max(scale, abs(total))


@given(
    s=st.floats(0.05, 50.0),
    ratios=st.lists(st.floats(0.3, 0.97), min_size=1, max_size=4),
    quantity=st.sampled_from(["D", "f"]),
)
def test_polynomials_are_integrated_exactly(s, ratios, quantity):
    # The interpolant of a polynomial in log σ of degree < nodes is itself.
    s_new, nodes = s * ratios[0], [s]
    for ratio in ratios[1:]:
        nodes.append(nodes[-1] / ratio)
    w = Polynomials().weights(np.array(nodes), s, s_new, quantity)
    for degree in range(len(nodes)):

        def g(v, degree=degree):
            return np.log(v / s) ** degree

        def integrand(v, g=g):
            return g(v) * (-s_new / v**2 if quantity == "D" else 1.0)

        exact = quad(integrand, s, s_new, epsabs=0, epsrel=1e-12)[0]
        values = g(np.array(nodes))
        scale = abs(w) @ abs(values) + abs(exact) + 1e-300
        assert abs(w @ values - exact) < 1e-11 * scale


def test_dpmpp2m_is_unipc2s_predictor():
    sigmas = karras_sigmas(9)
    for a, b in zip(
        MULTISTEP["dpmpp2m"].plan(sigmas), MULTISTEP["unipc2"].plan(sigmas), strict=True
    ):
        np.testing.assert_allclose(a.predictor, b.predictor, rtol=1e-13)


def test_rectangles_of_deis_tend_to_the_integral():
    nodes, s_new = np.array([1.0, 2.0, 4.0]), 0.5
    exact = MULTISTEP["deis3"].weights(nodes, 1.0, s_new)
    errors = [abs(deis_rectangles(nodes, 1.0, s_new, n) - exact).max() for n in (2000, 4000)]
    assert abs(errors[0] / errors[1] - 2) < 0.01  # first order, as both ends count in full


# Kriging ------------------------------------------------------------------------------------------


def kriging(std, power, nodes, s, s_new):
    """The kernel form, [K, 1; 1ᵀ, 0][w; μ] = [b; 1 − r], in 60 digits and with no nugget."""
    mpmath.mp.dps = 60
    mp = mpmath.mpf
    S, u = [mp(float(v)) for v in std], [mp(float(v)) for v in nodes]
    s, s_new = mp(float(s)), mp(float(s_new))
    p = {a: mp(float(b)) * a**2 / (a**2 + s_new**2) for a, b in zip(S, power, strict=True)}

    def kernel(u, v):
        return mpmath.fsum(p[a] * a**4 / mpmath.sqrt((a**2 + u**2) * (a**2 + v**2)) for a in S)

    def integral(u):
        # ∫ d(1/v)/√(S² + v²) has the primitive −√(S² + v²)/(S² v)
        # since d/dv [√(S² + v²)/v] = −S²/(v² √(S² + v²)).
        return s_new * mpmath.fsum(
            p[a]
            * a**4
            / mpmath.sqrt(a**2 + u**2)
            * (mpmath.sqrt(a**2 + s_new**2) / s_new - mpmath.sqrt(a**2 + s**2) / s)
            / a**2
            for a in S
        )

    k = len(u)
    system = mpmath.matrix(k + 1, k + 1)
    right = mpmath.matrix(k + 1, 1)
    for i in range(k):
        for j in range(k):
            system[i, j] = kernel(u[i], u[j])
        system[i, k] = system[k, i] = 1
        right[i] = integral(u[i])
    right[k] = 1 - s_new / s
    return [float(w) for w in mpmath.lu_solve(system, right)][:k]


@pytest.mark.parametrize("n", [5, 18, 200])
def test_kriging_weights_are_those_of_the_kernel_in_sixty_digits(n):
    std = np.geomspace(0.003, 80.0, 20)
    spectrum = Spectrum(tuple(std), tuple(1 / std))
    sigmas = karras_sigmas(n)
    for i in (1, n // 2, n - 2):
        nodes = sigmas[max(i - 2, 0) : i + 1][::-1]
        expected = kriging(spectrum.std, spectrum.power, nodes, sigmas[i], sigmas[i + 1])
        w = spectrum.weights(nodes, sigmas[i], sigmas[i + 1], "D")
        # The least squares' condition grows as the square of the distance between levels falls.
        tolerance = 1e-10 * (n / 5) ** 2
        np.testing.assert_allclose(w, expected, atol=tolerance * np.abs(expected).max())


@pytest.mark.parametrize("S", [0.5, 0.1])
def test_one_scale_is_exact_for_isotropic_gaussian_data(S):
    rule = Multistep("psi", 2, basis=Spectrum((S,)))
    denoiser = gaussian(np.full(3, S**2), mean=np.array([1.0, 0.0, -1.0]))
    sigmas = karras_sigmas(8)
    # The first step has one value: begin where the flow is known, at the second level.
    x0 = np.random.default_rng(0).standard_normal((5, 3))
    for s, s_new, s_old in zip(sigmas[1:-1], sigmas[2:], sigmas[:-2], strict=True):
        mean = np.array([1.0, 0.0, -1.0])
        at = {v: mean + x0 * np.sqrt(S**2 + v**2) for v in (s_old, s, s_new)}
        w = rule.weights((s, s_old), s, s_new)
        step = s_new / s * at[s] + w[0] * denoiser(at[s], s) + w[1] * denoiser(at[s_old], s_old)
        np.testing.assert_allclose(step, at[s_new], rtol=1e-10, atol=1e-11)


def test_the_spectrum_scales_with_the_data():
    # D(c x, c σ) = c D(x, σ) for data c times as large: the same weights at c times the levels.
    nodes = np.array([1.0, 2.0, 4.0])
    small = natural_spectrum(0.5).weights(nodes, 1.0, 0.6, "D")
    large = natural_spectrum(1.5).weights(3 * nodes, 3.0, 1.8, "D")
    np.testing.assert_allclose(large, small, rtol=1e-9)
    with pytest.raises(ValueError, match="std must be positive"):
        natural_spectrum(0.0)


@pytest.mark.parametrize("name", ["sk34", "sk44"])
def test_kriging_weights_are_bounded_at_few_steps(name):
    for n in (2, 3, 4, 5, 6, 7):
        for sigmas in (karras_sigmas(n), logsnr_sigmas(n), karras_sigmas(n, rho=10.0)):
            for row in MULTISTEP[name].plan(sigmas):
                assert sum(map(abs, row.predictor)) < 5
                assert sum(map(abs, row.corrector)) < 3


# Convergence --------------------------------------------------------------------------------------

ORDERS = {
    "dpmpp2m": 2, "dpmpp3m": 2, "unipc2": 2, "unipc3": 3, "unipc2_bh1": 2, "unipc3_bh1": 3,
    "deis2": 2, "deis3": 3, "deis4": 4, "ipndm2": 1, "ipndm3": 1, "ipndm4": 1, "psi2": 2,
    "sk34": 3, "sk44": 4,
}  # fmt: skip


@pytest.mark.parametrize("name", MULTISTEP)
def test_error_falls_with_the_order(name):
    # Steps equal in log σ; there iPNDM's equidistant weights are of order 1 only, for they mean
    # steps equal in σ. DPM-Solver++(3M) halves the quadratic term: its order is 2.
    x0, span = 5.0 * NOISE[:, :2], (5.0, 0.3)
    flow = probability_flow(MIXTURE)
    end = sk.solve(flow, span, x0, "dop853", rtol=1e-13, atol=1e-14).y[-1]
    exact, errors = MIXTURE(end, 0.3), []
    for n in (41, 81):
        errors.append(
            abs(
                sample(MIXTURE, NOISE[:, :2], logsnr_sigmas(n, 0.3, 5.0), sampler=name) - exact
            ).max()
        )
    # The first steps are of order 1, which costs an order-p rule at most order 2 to the rest: their
    # local error is O(h²) once. PEC adds one order to that.
    assert np.log2(errors[0] / errors[1]) > min(ORDERS[name], 2) - 0.25, errors


@pytest.mark.parametrize("name", ["sk34", "sk44", "unipc3", "deis4"])
def test_error_falls_to_rounding_as_the_grid_is_refined(name):
    variances = np.geomspace(1e-4, 4.0, 16)
    denoiser, noise = gaussian(variances), np.random.default_rng(0).standard_normal((3, 16))
    first, last = 80.0, 0.002
    exact = denoiser(noise * first * np.sqrt((variances + last**2) / (variances + first**2)), last)
    errors = [
        abs(sample(denoiser, noise, karras_sigmas(n), sampler=name) - exact).max()
        for n in (10, 40, 160, 640)
    ]
    assert all(b < 0.3 * a for a, b in pairwise(errors)), errors


@pytest.mark.parametrize("name", MULTISTEP)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_torch_is_numpy_up_to_the_dtypes_rounding(name, dtype):
    data = torch.as_tensor(DATA.data, dtype=dtype)
    sigmas = karras_sigmas(12)
    drawn = sample(
        DataDenoiser(data, 0.1), torch.as_tensor(NOISE, dtype=dtype), sigmas, sampler=name
    )
    assert drawn.dtype == dtype
    atol = 1e4 * float(torch.finfo(dtype).eps)  # σ_max/σ_data amplifies the rounding of x by 160
    np.testing.assert_allclose(drawn, sample(DATA, NOISE, sigmas, sampler=name), rtol=0, atol=atol)


def test_a_rule_of_ones_own_and_bad_ones():
    exponential = Multistep("exponential Adams", 3)
    exact = sample(MIXTURE, NOISE[:, :2], karras_sigmas(400), sampler="unipc3")
    assert (
        abs(sample(MIXTURE, NOISE[:, :2], karras_sigmas(100), sampler=exponential) - exact).max()
        < 1e-3
    )
    for options, word in (({"order": 0}, "order"), ({"order": 2, "quantity": "x"}, "quantity")):
        with pytest.raises(ValueError, match=word):
            Multistep("bad", **options)
    for std, power in (((), None), ((0.0,), None), ((1.0,), (1.0, 2.0)), ((1.0,), (-1.0,))):
        with pytest.raises(ValueError, match="std and power"):
            Spectrum(std, power)
    with pytest.raises(ValueError, match="Spectrum"):
        Multistep("bad", 2, "f", Spectrum((0.5,))).plan([2.0, 1.0])
