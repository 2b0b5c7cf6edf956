"""diagnose(): what a problem is at one state, which class of method fits it, and why."""

from __future__ import annotations

import html
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .._array import Array, backend_of, is_torch, to_numpy
from ..solvers._tree import Layout, is_tree
from ..solvers.jacobian import JacobianOperator, dense_jacobian
from ..solvers.methods import EXPLICIT
from ..solvers.problem import Problem, bind, check_callable, first_bad, make_problem
from ..solvers.stabilised import ROCK4, stabilised_pays
from ..solvers.tableau import ButcherTableau
from .detect import MANY_STAGES
from .indicators import as_damped, stability_ratio, stiffness_ratio
from .krylov import arnoldi
from .spectrum import NotFiniteError, eigenvalues, finite_matrix

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["MethodCost", "StiffnessReport", "diagnose"]


@dataclass(frozen=True)
class MethodCost:
    """What one class of methods would need to cover one unit of time at this state."""

    name: str
    """The class, with the method that stands for it."""
    step: float
    """Step size that both accuracy and stability allow."""
    limited_by: str
    """"accuracy" or "stability"."""
    calls: float
    """Calls of f for one unit of time; Jacobians by differences included."""
    factorisations: float
    """LU factorisations of an n × n matrix for one unit of time."""


@dataclass(frozen=True, eq=False)
class StiffnessReport:
    """Spectrum, time scales and costs at one state. Print it, or show it in a notebook."""

    t: float
    n: int
    """Size of the state."""
    eigenvalues: npt.NDArray[np.complex128]
    """All of them (small n), or Ritz values, those of largest modulus first."""
    residuals: npt.NDArray[np.float64]
    """Of each: the eigenvalue is exact for a Jacobian this close."""
    exact: bool
    """Whether all eigenvalues were computed."""
    spectral_radius: float
    spectral_abscissa: float
    """Largest real part (of the Ritz values, unless exact)."""
    stiffness_ratio: float
    """``max |Re λ| / min |Re λ|`` over the decaying modes."""
    log_norm: float
    """μ₂, the rate at which solutions can start to grow apart (from inside, unless exact)."""
    departure: float
    """Henrici's departure from normality √(‖J‖_F² − Σ|λ|²) / ‖J‖_F; nan unless exact."""
    slope_time: float
    """‖f‖ / ‖df/dt along the solution‖: the time in which the slope turns."""
    accuracy_step: float
    """Step that the tolerances allow an order 5 method on the smooth path."""
    costs: tuple[MethodCost, ...]
    verdict: str
    """Which class fits, and why, in words."""
    nfev: int
    """Calls of f that the diagnosis took."""

    @property
    def fastest_time(self) -> float:
        """1/ρ, the smallest time scale."""
        return 1 / self.spectral_radius if self.spectral_radius > 0 else math.inf

    def rows(self) -> list[tuple[str, str]]:
        """Return what the text and the HTML show, label and value."""
        kind = "all eigenvalues" if self.exact else f"{len(self.eigenvalues)} Ritz values"
        bound, right = self.residuals[0], self.residuals[int(np.argmax(self.eigenvalues.real))]
        rightmost, of = f"{self.spectral_abscissa:.6g}", ""
        if not self.exact:  # a Krylov space may be far from these, and must not claim to know
            rightmost, of = f"{rightmost} (residual {right:.1e})", " of Ritz values"
        rows = [
            ("state", f"n = {self.n} at t = {self.t:g} ({kind}, {self.nfev} calls of f)"),
            ("spectral radius", f"{self.spectral_radius:.6g} (residual {bound:.1e})"),
            ("rightmost eigenvalue" if self.exact else "rightmost Ritz value", rightmost),
            ("time scales", f"{self.fastest_time:.3g} (fastest) to {self.slope_time:.3g} (path)"),
            ("stiffness ratio", f"{self.stiffness_ratio:.3g}{of}"),
            ("logarithmic norm μ₂", f"{'' if self.exact else '≥ '}{self.log_norm:.3g}"),
        ]
        if self.exact:
            rows.append(("departure from normality", f"{self.departure:.3g} of ‖J‖"))
        rows.append(("step that accuracy allows", f"{self.accuracy_step:.3g}"))
        return rows

    def __str__(self) -> str:
        lines = [f"{label:26} {value}" for label, value in self.rows()]
        lines.append("")
        lines.append(f"{'per unit of time':34} {'step':>10} {'limit':>10} {'calls':>10} {'LUs':>8}")
        lines += [
            f"{c.name:34} {c.step:10.3g} {c.limited_by:>10} {c.calls:10.3g} {c.factorisations:8.3g}"
            for c in self.costs
        ]
        return "\n".join([*lines, "", self.verdict])

    def _repr_html_(self) -> str:
        def line(cells: Sequence[str], tag: str = "td") -> str:
            body = "".join(f"<{tag}>{html.escape(cell)}</{tag}>" for cell in cells)
            return f"<tr>{body}</tr>"

        facts = "".join(line(row) for row in self.rows())
        head = line(["per unit of time", "step", "limit", "calls", "LUs"], "th")
        costs = "".join(
            line(
                [c.name, f"{c.step:.3g}", c.limited_by, f"{c.calls:.3g}", f"{c.factorisations:.3g}"]
            )
            for c in self.costs
        )
        table = f"<table>{facts}</table><table>{head}{costs}</table>"
        return f"<div><p><b>{html.escape(self.verdict)}</b></p>{table}</div>"

    def plot(
        self, methods: Sequence[str] = ("tsit5", "vern7", "dop853"), ax: Axes | None = None
    ) -> Axes:
        """Draw hλ, h being the step that accuracy allows, over the methods' stability regions.

        Parameters
        ----------
        methods : sequence of str
            Explicit methods whose regions are drawn.
        ax : matplotlib Axes, optional
            Where; a new figure by default.

        Returns
        -------
        matplotlib Axes
            Symmetric-logarithmic where the spectrum reaches far beyond the regions. There h is
            at most 1e6 times the fastest time scale.

        Raises
        ------
        TypeError, ValueError
            If `methods` is no sequence or empty, or one is unknown or not explicit.
        """
        from .._optional import matplotlib_axes

        given: Any = methods
        if not np.iterable(given):
            msg = f"methods must be names of explicit methods, not {given!r}"
            raise TypeError(msg)
        methods = [given] if isinstance(given, str) else list(given)
        for name in methods:
            if name not in EXPLICIT:
                msg = f"methods: {name!r} is not one of {', '.join(EXPLICIT)}"
                raise ValueError(msg)
        if not methods:
            msg = "methods must name at least one explicit method"
            raise ValueError(msg)
        ax = matplotlib_axes(ax)
        # At rest no step is too long, and the figure has to end somewhere.
        h = min(self.accuracy_step, 1e6 * self.fastest_time, 1e100)
        z = h * self.eigenvalues
        reach = 1.3 * max(EXPLICIT[name].real_stability_limit for name in methods)
        x, y = np.meshgrid(np.linspace(-reach, reach / 2, 241), np.linspace(-reach, reach, 321))
        for i, name in enumerate(methods):
            modulus = np.abs(EXPLICIT[name].R(x + 1j * y))
            ax.contour(x, y, modulus, levels=[1.0], colors=[f"C{i}"])
            ax.plot([], [], color=f"C{i}", label=f"|R| = 1, {name}")
        ink = ax.xaxis.label.get_color()  # which is seen on a dark ground too
        ax.plot(z.real, z.imag, ".", color=ink, label=f"hλ, h = {h:.2g}")
        for axis, part in ((ax.xaxis, z.real), (ax.yaxis, z.imag)):
            decades = math.ceil(math.log10(max(np.abs(part).max(initial=0.0), 1.0)))
            if 10**decades > 3 * reach:
                scale = ax.set_xscale if axis is ax.xaxis else ax.set_yscale
                scale("symlog", linthresh=10.0)
                powers = 10.0 ** np.arange(1, decades + 1)[:: 1 + decades // 6]
                negative = powers[: None if part.min() < -10 else 1]
                positive = powers[: None if part.max() > 10 else 1]
                axis.set_ticks([*-negative[::-1], 0.0, *positive])
        ax.axhline(0, lw=0.5, color="0.5")
        ax.axvline(0, lw=0.5, color="0.5")
        ax.set(xlabel="Re hλ", ylabel="Im hλ", title="spectrum, scaled by the accuracy step")
        ax.legend(fontsize=8, loc="upper left")
        return ax


def diagnose(
    f: Callable[..., Array],
    t: float,
    y: Array,
    *,
    args: Sequence[Any] = (),
    jvp: Callable[..., Array] | None = None,
    rtol: float = 1e-6,
    atol: float = 1e-9,
    exact: bool | None = None,
    k: int = 30,
) -> StiffnessReport:
    """Diagnose a problem at one state: how stiff, and which class of methods fits.

    Stiffness is local. At the start of a solve the path itself may be as fast as the fastest mode
    (a transient), and nothing is stiff. The verdict says so, and how much later to ask again, at a
    state on the smooth path such as ``solution.y[-1]``. A solve backward in time is that of
    ``lambda s, y: -f(-s, y)`` from ``s = -t``.

    Parameters
    ----------
    f : callable
        Right-hand side ``f(t, y, *args)``, or a pair of them whose sum it is.
    t : float
        Time.
    y : array, or dict, list or tuple of such
        State, NumPy or torch, any shape.
    args : sequence
        Further arguments of f.
    jvp : callable, optional
        ``jvp(t, y, v, *args)``; else products are made by differences, or by torch.
    rtol, atol : float
        Tolerances that the accuracy step refers to.
    exact : bool, optional
        Compute all eigenvalues, by n products; by default for n ≤ 200.
    k : int
        Dimension of the Krylov space otherwise.

    Returns
    -------
    StiffnessReport

    Raises
    ------
    TypeError, ValueError
        If an argument is unusable, or y, f(t, y) or the Jacobian there is not finite.

    References
    ----------
    E. Hairer, G. Wanner, Solving Ordinary Differential Equations II, 2nd ed., Springer (1996),
    sections IV.2 and IV.8, doi:10.1007/978-3-642-05221-7. P. Henrici, Bounds for iterates,
    inverses, spectral variation and fields of values of non-normal matrices, Numer. Math. 4 (1962)
    24-40, doi:10.1007/BF01386294.

    Examples
    --------
    >>> import numpy as np
    >>> import stiffkit as sk
    >>> report = sk.diagnose(lambda t, y: np.array([-1000 * (y[0] - y[1]), -y[1]]), 0.0, [1.0, 1.0])
    >>> round(report.spectral_radius), round(report.stiffness_ratio)
    (1000, 1000)
    """
    t = _time(t)
    if is_tree(y):
        f, jvp, y, atol = _flat(f, jvp, y, atol)
    backend = backend_of(y)
    state = backend.state(y, "y")
    if not np.isfinite(backend.numpy(state)).all():
        msg = f"y is not finite at component {first_bad(state, backend)}"
        raise ValueError(msg)
    if exact not in (None, True, False):
        msg = f"exact must be True, False or None, not {exact!r}"
        raise ValueError(msg)
    problem = make_problem(f, (t, t), y, args, rtol, atol)
    if jvp is not None:
        check_callable("jvp", jvp)
        jvp = bind(jvp, args)
    # Central differences: chemistry is quadratic, and one-sided ones see fast reactions of species
    # that are not there yet.
    method = "auto" if jvp is not None or is_torch(problem.y0) else "central"
    whole = problem.y0.reshape(problem.shape)
    operator = JacobianOperator(_of_shape(problem), t, whole, jvp=jvp, method=method)
    if not operator.n:
        msg = f"y must not be empty, as shape {problem.shape} is"
        raise ValueError(msg)
    numpy = operator.backend.numpy
    if not np.isfinite(numpy(operator.f_0)).all():
        msg = f"f(t, y) is not finite at component {first_bad(operator.f_0, operator.backend)}"
        raise ValueError(msg)
    f_0 = numpy(operator.f_0).reshape(-1)
    exact = operator.n <= 200 if exact is None else exact
    try:
        if exact:
            J = finite_matrix(dense_jacobian(operator))
            spectrum, departure = eigenvalues(J), _departure(J)
        else:
            spectrum, departure = arnoldi(operator, operator.n, k=k), math.nan
    except NotFiniteError as error:
        msg = f"the Jacobian of f at (t, y) is not finite ({error}): f has to exist around y"
        raise ValueError(msg) from error
    scale = np.abs(numpy(problem.y0)) * to_numpy(problem.rtol) + to_numpy(problem.atol)
    radius = float(np.abs(spectrum.values).max(initial=0.0))
    scale = np.where(scale > 0, scale, 1.0)
    path = _path(operator, f_0, scale, radius)
    values = spectrum.values
    costs = _costs(values, radius, path, operator.n)
    least = float(np.min(to_numpy(problem.rtol)))
    return StiffnessReport(
        t=float(t),
        n=operator.n,
        eigenvalues=values,
        residuals=spectrum.residuals,
        exact=exact,
        spectral_radius=radius,
        spectral_abscissa=float(values.real.max(initial=-math.inf)),
        stiffness_ratio=stiffness_ratio(values),
        log_norm=float(spectrum.field_of_values[1]),
        departure=departure,
        slope_time=path.time,
        accuracy_step=path.step(*_explicit_error()),
        costs=costs,
        verdict=_verdict(values, radius, path, costs, operator.n, least),
        nfev=operator.nfev,
    )


REFERENCE = "tsit5"
"""The explicit method that costs are told for."""

STABILISED_ERROR = (6.2e-4, 3)
IMPLICIT_ERROR = (0.275 / 60, 3)
"""(A, q) of the error estimates A h^(q+1) y^(q+1): of ROCK4 with 20 stages, and of Radau IIA
γ_0/60, before its filter."""


def _explicit_error() -> tuple[float, int]:
    """Return the same of the explicit pair."""
    quality, q = EXPLICIT[REFERENCE].pair_quality, EXPLICIT[REFERENCE].error_order
    assert quality is not None
    assert q is not None
    return quality.A_hat, q


TRANSIENT = 2.0
"""The path counts as fast as the fastest mode where its slope turns within so many 1/ρ."""


def _time(t: Any) -> float:
    try:
        time = float(t)
    except (TypeError, ValueError) as error:
        msg = f"t must be a number, not {t!r}"
        raise ValueError(msg) from error
    if not math.isfinite(time):
        msg = f"t must be finite, not {t!r}"
        raise ValueError(msg)
    return time


def _flat(f: Any, jvp: Any, y: Any, atol: Any) -> tuple[Any, Any, Any, Any]:
    """Return f, jvp, y and atol for a structure as functions of a flat state."""
    layout = Layout.of(y, batched=False)
    un, flatten = layout.unflatten, layout.flatten
    check_callable("f", f)

    def flat_f(t: Any, y: Any, *rest: Any) -> Any:
        return flatten(f(t, un(y), *rest), "what f returns")

    def flat_jvp(t: Any, y: Any, v: Any, *rest: Any) -> Any:
        return flatten(jvp(t, un(y), un(v), *rest), "what jvp returns")

    whole = flatten(layout.like)
    atol = flatten(atol, "atol") if is_tree(atol) else atol
    return flat_f, flat_jvp if callable(jvp) else jvp, whole, atol


def _of_shape(problem: Problem) -> Callable[[Any, Array], Array]:
    """Return f on states of the caller's shape."""
    if problem.split is None:
        return problem.raw["f"]
    both, shape = problem.f, problem.shape
    return lambda t, y: both(t, y.reshape(-1)).reshape(shape)


def _departure(J: npt.NDArray[Any]) -> float:
    """Henrici's departure from normality, over ‖J‖_F."""
    from scipy.linalg import schur

    top = float(np.abs(J).max())
    if top == 0:
        return 0.0
    # The norm of what is above the diagonal of a Schur form, which is the same: the difference of
    # the squares would cancel, and leave 1e-8 of a normal matrix.
    T = schur(J / top, output="complex")[0]  # no square over- or underflows
    return float(np.linalg.norm(np.triu(T, 1)) / np.linalg.norm(T))


class _Path(NamedTuple):
    """How the solution moves here."""

    speed: float
    """‖f‖ in units of the tolerance."""
    time: float
    """The time in which the slope turns."""

    def step(self, A: float, q: int) -> float:
        """Step whose error A (h/L)^q h ‖f‖, L being the time, is half the tolerance."""
        if self.speed == 0 or math.isinf(self.time):
            return math.inf
        return self.time * math.pow(0.5 / (A * self.speed * self.time), 1 / (q + 1))


def _path(
    operator: JacobianOperator, f_0: npt.NDArray[Any], scale: npt.NDArray[Any], radius: float
) -> _Path:
    """Return speed and time, L = ‖f‖/‖f'‖ with f' = ∂f/∂t + J f along the solution.

    f' is taken by one difference. `scale` is the tolerance of each component.
    """
    numpy, y = operator.backend.numpy, operator.y
    speed = _rms(f_0 / scale)
    eps = float(operator.backend.xp.finfo(y.dtype).eps)
    fastest = 1 / radius if radius > 0 else math.inf
    # Long enough to show in f beside rounding: a share of the time in which y changes, or, where
    # y is zero or rests, the fastest mode acts; and longer than the spacing of times.
    size = _rms(numpy(y).reshape(-1) / scale)
    own = (size / speed if speed > 0 else 0.0) or (fastest if radius > 0 else 1.0)
    delta = eps**0.5 * max(own, abs(float(operator.t)) * eps**0.25)
    moved = y + delta * operator.f_0
    operator.nfev += 1
    slope = numpy(operator.backend.slope(operator.f(operator.t + delta, moved), y)).reshape(-1)
    change = slope - f_0
    if speed == 0:
        # A force sets it going, and the fastest mode will answer.
        push = _rms(change / scale) / delta
        return _Path(push * fastest if push > 0 else 0.0, fastest if push > 0 else math.inf)
    # In units of the tolerance and as it is: a component that is just passing zero has a very
    # small unit, and would speak for all.
    pairs = [(speed, _rms(change / scale)), (_rms(f_0), _rms(change))]
    return _Path(speed, min((delta * a / b for a, b in pairs if b > 0), default=math.inf))


def _transient(values: npt.NDArray[np.complex128], radius: float, path: _Path) -> float:
    """Time in which the fastest mode dies out, if the path follows it here; else nan.

    A mode λ that f consists of is |f/λ| away from rest, and falls to a millionth of the tolerance,
    where it hardly bends the path, in ln(1e6 |f/λ|)/|λ|.
    """
    if radius == 0 or not path.time * radius < TRANSIENT:
        return math.nan
    dominant = complex(values[int(np.argmax(np.abs(values)))])
    if -dominant.real < abs(dominant.imag):
        return math.nan
    return math.log1p(1e6 * path.speed / radius) / -dominant.real


def _rms(x: npt.NDArray[Any]) -> float:
    top = float(np.abs(x).max(initial=0.0))
    return top * math.sqrt(float((np.abs(x / top) ** 2).mean())) if top > 0 else 0.0


def _costs(
    values: npt.NDArray[np.complex128], radius: float, path: _Path, n: int
) -> tuple[MethodCost, ...]:
    tableau = EXPLICIT[REFERENCE]
    accurate, stable = path.step(*_explicit_error()), _stable_step(values, tableau)
    h = min(accurate, stable)
    limit = "accuracy" if accurate <= stable else "stability"
    costs = [MethodCost(f"explicit ({REFERENCE})", h, limit, (tableau.n_stages - 1) / h, 0.0)]
    if _is_real(values):
        accurate, stable = path.step(*STABILISED_ERROR), ROCK4.longest(radius)
        h = min(accurate, stable)
        limit = "accuracy" if accurate <= stable else "stability"
        calls = (ROCK4.stages(h * radius) + 1) / h
        costs.append(MethodCost("stabilised (ROCK4)", h, limit, calls, 0.0))
    # Radau IIA(5): about 4 simplified Newton iterations of 3 calls, a Jacobian by differences (n
    # calls) every ten steps, and two factorisations (one real, one complex) every other step.
    h = path.step(*IMPLICIT_ERROR)
    calls, factorisations = (12 + n / 10) / h, 1 / h
    name = "implicit (Radau IIA, order 5)"
    return (*costs, MethodCost(name, h, "accuracy", calls, factorisations))


def _stable_step(values: npt.NDArray[np.complex128], tableau: ButcherTableau) -> float:
    """Largest h for which no mode is amplified that does not grow."""
    modes = [as_damped(v) for v in values.tolist()]
    # stability_ratio grows linearly with h along a fixed direction.
    rate = max((stability_ratio(1.0, v, tableau) for v in modes if v.real < 0), default=0.0)
    return 1 / rate if rate > 0 else math.inf


def _is_real(values: npt.NDArray[np.complex128]) -> bool:
    """Whether the decaying part of the spectrum lies along the negative real axis."""
    fast = values[np.abs(values) > 0.1 * np.abs(values).max(initial=0.0)]
    return bool((np.abs(fast.imag) <= 0.1 * np.abs(fast.real)).all() and (fast.real <= 0).any())


def _verdict(
    values: npt.NDArray[np.complex128],
    radius: float,
    path: _Path,
    costs: tuple[MethodCost, ...],
    n: int,
    rtol: float,
) -> str:
    explicit, h = costs[0], path.step(*_explicit_error())
    if math.isinf(h) and math.isfinite(explicit.step):
        return (
            "At rest: f does not change along the path here, so that accuracy bounds no step. "
            f"Stability holds {REFERENCE} to h = {explicit.step:.3g}. Ask at a state that moves."
        )
    if explicit.limited_by == "accuracy" or not math.isfinite(explicit.step):
        opening = (
            f"Not stiff here: accuracy allows h = {explicit.step:.3g}, and stability of "
            f"{REFERENCE} allows that too."
        )
        transient = _transient(values, radius, path)
        if math.isnan(transient):
            return f"{opening} An explicit method fits."
        return (
            f"{opening} But the path itself is as fast as the fastest mode: a transient, and what "
            f"follows it cannot be told from here. Ask again at t + {transient:.3g} or later, for "
            "instance at solution.y[-1] of a short solve."
        )
    share = h / explicit.step
    dominant = complex(values[int(np.argmax(np.abs(values)))])
    opening = (
        f"Stability holds {REFERENCE} to h = {explicit.step:.3g}, where accuracy would allow "
        f"{h:.3g} ({share:.3g} times more; hρ = {h * radius:.3g})."
    )
    if share < 2:
        return f"{opening} Hardly stiff: an explicit method fits."
    if abs(dominant.imag) > abs(dominant.real):
        return (
            f"{opening} The fastest mode oscillates (λ = {dominant:.3g}): an implicit method "
            "damps it or skips it; if it matters, small steps are needed with any method."
        )
    if _is_real(values) and costs[1].step * radius < ROCK4.growth * MANY_STAGES**2:
        mild = f"{opening} Mildly stiff with a real spectrum:"
        if stabilised_pays(n, rtol):
            return f"{mild} a stabilised explicit method fits."
        return f"{mild} an implicit method fits, since at n = {n} a Jacobian is cheap."
    return f"{opening} Stiff: an implicit method fits."
