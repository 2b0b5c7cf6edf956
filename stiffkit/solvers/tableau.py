"""Butcher tableaus: a method is data, and everything about it is derived from the data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cache, cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from . import trees

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["ButcherTableau", "Interpolant", "PairQuality", "bubble"]

FloatArray = npt.NDArray[np.float64]
Row = Sequence[float]

_TOL = 1e-11
"""Slack of the construction checks: coefficients are printed to at least 12 digits."""

_CHECKED_ORDER = 4
"""Order conditions are checked at construction to here: the whole of them is for the tests."""
_ORDER_TOL = 1e-9


@dataclass(frozen=True)
class Interpolant:
    """Dense output y(t + θh) ≈ y + h Σ_i b_i(θ) k_i of a method, as printed in the literature."""

    order: int
    """Uniform order q: the continuous order conditions hold for every tree of order ≤ q."""
    P: Sequence[Row]
    """P[i][j] multiplies k_i θ^(j+1): one row per stage, then, if the method is not FSAL, one for
    f(t + h, y_new), then one per extra stage."""
    c: Row = ()
    """Nodes of the extra stages."""
    A: Sequence[Row] = ()
    """Rows of the extra stages, over all the stages that precede them; short rows are padded."""
    reference: str = ""
    """Where it was published, with DOI."""


@dataclass(frozen=True)
class PairQuality:
    """Dormand and Prince's measures of an embedded pair; small is good, B and C near 1.

    With τ the vector of the principal error's tree coefficients of `b`, τ̂ that of `b_hat`, and q
    the order of `b_hat`.

    References
    ----------
    P. J. Prince, J. R. Dormand, High order embedded Runge-Kutta formulae, J. Comput. Appl. Math. 7
    (1981) 67-75, doi:10.1016/0771-050X(81)90010-3.
    """

    A: float
    """‖τ^(p+1)‖: the principal error norm of the method itself."""
    A_hat: float
    """‖τ̂^(q+1)‖: the principal error norm of the embedded method."""
    B: float
    """‖τ̂^(q+2)‖ / ‖τ̂^(q+1)‖."""
    C: float
    """‖τ̂^(q+2) − τ^(q+2)‖ / ‖τ̂^(q+1)‖: how soon the error estimate is asymptotic."""
    D: float
    """Largest absolute coefficient."""
    E: float
    """‖τ^(q+2)‖ / ‖τ̂^(q+1)‖."""


@dataclass(frozen=True, init=False, eq=False, repr=False)
class ButcherTableau:
    """A Runge-Kutta method, embedded pair and dense output included.

    Coefficients are written as the literature prints them; construction refuses inconsistent ones,
    and every other property is derived. `b` advances the solution, `b_hat` is the embedded row. No
    error row is stored: two sign conventions are in use, so :attr:`e` is derived as ``b - b_hat``.

    Parameters
    ----------
    name : str
        Name of the method, as in ``stiffkit.METHODS``.
    order : int
        Order p of `b`.
    c : sequence of float, length s
        Nodes.
    A : sequence of rows
        Row i has i entries (explicit), or up to s (implicit); missing entries are zero.
    b : sequence of float, length s
        Weights that advance the solution.
    b_hat : sequence of float, length s, optional
        Weights of the embedded method.
    order_hat : int, optional
        Order of `b_hat`; needed with it.
    b_hat2, order_hat2 : optional
        A second embedded row. The error estimate is then Hairer's combination
        ``|err|² / sqrt(|err|² + 0.01 |err2|²)`` (DOP853).
    interpolant : Interpolant, optional
        Published dense output. Without it the cubic Hermite interpolant is used.
    reference : str
        Source of the coefficients, with DOI.

    Raises
    ------
    ValueError
        If shapes disagree, a row of A does not sum to its node, or a row of weights does not sum
        to one. The message names the method and the condition.
    """

    name: str
    order: int
    c: FloatArray
    A: FloatArray
    b: FloatArray
    b_hat: FloatArray | None
    order_hat: int | None
    b_hat2: FloatArray | None
    order_hat2: int | None
    interpolant: Interpolant | None
    reference: str

    def __init__(
        self,
        name: str,
        *,
        order: int,
        c: Row,
        A: Sequence[Row],
        b: Row,
        b_hat: Row | None = None,
        order_hat: int | None = None,
        b_hat2: Row | None = None,
        order_hat2: int | None = None,
        interpolant: Interpolant | None = None,
        reference: str = "",
    ) -> None:
        s = len(c)

        def weights(label: str, row: Row) -> FloatArray:
            if len(row) != s:
                self._refuse(name, f"{label} has {len(row)} entries for {s} stages")
            return _frozen(row)

        if len(A) != s or any(len(row) > s for row in A):
            self._refuse(name, f"A must have {s} rows of at most {s} entries")
        for label, row, q in (("b_hat", b_hat, order_hat), ("b_hat2", b_hat2, order_hat2)):
            if (row is None) != (q is None):
                self._refuse(name, f"{label} and its order must be given together")
        if str(name) != name:
            msg = f"tableau name must be a string, not {name!r}"
            raise TypeError(msg)
        for label, p in (("order", order), ("order_hat", order_hat), ("order_hat2", order_hat2)):
            if p is not None and not (p >= 1 and int(p) == p):
                self._refuse(name, f"{label} must be a whole number, at least 1, not {p!r}")
        values: dict[str, Any] = {
            "name": name,
            "order": order,
            "c": _frozen(c),
            "A": _frozen([[*row, *[0.0] * (s - len(row))] for row in A], (s, s)),
            "b": weights("b", b),
            "b_hat": None if b_hat is None else weights("b_hat", b_hat),
            "order_hat": order_hat,
            "b_hat2": None if b_hat2 is None else weights("b_hat2", b_hat2),
            "order_hat2": order_hat2,
            "interpolant": interpolant,
            "reference": reference,
        }
        for key, value in values.items():
            object.__setattr__(self, key, value)
        self._check()

    @staticmethod
    def _refuse(name: str, condition: str) -> None:
        msg = f"tableau {name!r}: {condition}"
        raise ValueError(msg)

    def _check(self) -> None:
        for label, row in (("b", self.b), ("b_hat", self.b_hat), ("b_hat2", self.b_hat2)):
            if row is not None and not abs(row.sum() - 1.0) <= _TOL * (1 + np.abs(row).sum()):
                self._refuse(self.name, f"{label} sums to {float(row.sum())!r} instead of 1")
        for label, row in (("b_hat", self.b_hat), ("b_hat2", self.b_hat2)):
            if row is not None and np.array_equal(row, self.b):
                self._refuse(self.name, f"{label} equals b: it would estimate every error as zero")
        _check_row_sums(self.name, "A", self.A, self.c)
        for label, q in (("b", self.order), ("b_hat", self.order_hat), ("b_hat2", self.order_hat2)):
            self._check_order(label, q or 0)
        if self.interpolant is not None:
            self._check_interpolant(self.interpolant)

    def _check_order(self, label: str, q: int) -> None:
        """Check the order conditions that are cheap: of trees with up to four nodes."""
        for p in range(2, min(q, _CHECKED_ORDER) + 1):
            for tree, residual in self.order_conditions(p, label).items():
                if not abs(residual) <= _ORDER_TOL:
                    self._refuse(
                        self.name,
                        f"{label} misses the condition of tree {tree}, of order {p}, by "
                        f"{residual:.2g}; order {q} is claimed",
                    )

    def _check_interpolant(self, dense: Interpolant) -> None:
        base = len(self.c) + (not self.fsal)
        rows = base + len(dense.c)
        if len(dense.A) != len(dense.c) or len(dense.P) != rows:
            self._refuse(
                self.name, f"the interpolant needs {rows} rows in P and {len(dense.c)} in A"
            )
        if any(len(row) > base + m for m, row in enumerate(dense.A)):
            self._refuse(self.name, "a row of the interpolant's A reaches past its own stage")
        _check_row_sums(self.name, "interpolant.A", _pad(dense.A, rows), np.array(dense.c))
        end, weights = _pad(dense.P).sum(axis=1), np.zeros(rows)
        weights[: len(self.c)] = self.b
        if not np.allclose(end, weights, rtol=0, atol=_TOL * (1 + np.abs(_pad(dense.P)).max())):
            self._refuse(self.name, "the interpolant at θ = 1 is not y_new")

    # Structure ------------------------------------------------------------------------------------

    @property
    def n_stages(self) -> int:
        """Number of stages s."""
        return len(self.c)

    @cached_property
    def explicit(self) -> bool:
        """Whether A is strictly lower triangular."""
        return not np.triu(self.A).any()

    @cached_property
    def stiffly_accurate(self) -> bool:
        """Whether y_new is the last stage: the last row of A is b."""
        return bool(np.array_equal(self.A[-1], self.b))

    @cached_property
    def fsal(self) -> bool:
        """Whether the last stage is f(t + h, y_new): first same as last."""
        return self.explicit and self.stiffly_accurate and self.n_stages > 1

    @cached_property
    def probe(self) -> int | None:
        """Index of the last stage at c = 1 whose state is not y_new; None where there is none.

        With f(t + h, y_new) it makes two evaluations at one and the same time, already paid for.
        """
        for i in range(self.n_stages - 1, -1, -1):
            if self.c[i] == 1.0 and not np.array_equal(self.A[i], self.b):
                return i
        return None

    @cached_property
    def e(self) -> FloatArray | None:
        """Error row b − b_hat, shape (s,); the local error estimate is ``h Σ e_i k_i``."""
        return None if self.b_hat is None else _frozen(self.b - self.b_hat)

    @cached_property
    def error_stage(self) -> int | None:
        """Index i of the stage with y_new − ŷ = Y_s − Y_i, that is, with b_hat for its row of A.

        None where there is none, or y_new is no stage. In the limit z = hλ → ∞ each stage of an
        implicit method is φ + O(1/z) for a component that follows the others, y = φ(t). So such an
        estimate vanishes as the error does. The filter (I − hγJ)⁻¹ is for those that do not (E.
        Hairer, G. Wanner, Solving Ordinary Differential Equations II, 2nd ed., section IV.8, eq.
        (8.19), doi:10.1007/978-3-642-05221-7; M. E. Hosea, L. F. Shampine, Appl. Numer. Math. 20
        (1996) 21-37, doi:10.1016/0168-9274(95)00115-8); it would make this one too small by z.
        """
        if self.b_hat is None or not self.stiffly_accurate:
            return None
        rows = enumerate(self.A)
        return next((i for i, row in rows if np.array_equal(row, self.b_hat)), None)

    @cached_property
    def error_slope(self) -> FloatArray | None:
        """Weights d for which ``J err = Σ d_i k_i`` on linear problems y' = Jy, err = h Σ e_i k_i.

        k_i are the stages, f(t + h, y_new) the last of them; J times the error estimate costs no
        call of f then. On a smooth solution the sum is of one order in h more than err/h. None
        where there are no such weights.
        """
        if self.e is None or not self.explicit:
            return None
        A, e = self.A, self.e
        if not self.fsal:
            A = np.pad(np.vstack([A, self.b]), ((0, 0), (0, 1)))
            e = np.append(e, 0.0)
        # k_i = Σ_j z^j (A^j 1)_i Jy: the powers of z are to agree, those beyond the last included.
        powers = [np.ones(len(A))]
        for _ in A:
            powers.append(A @ powers[-1])
        smooth = [powers[1] ** j for j in range(2, int(self.error_order or 1) + 1)]
        system = np.vstack([*powers, *smooth])
        target = np.array([0.0, *(p @ e for p in powers[:-1]), *(0.0 for _ in smooth)])
        d = np.linalg.lstsq(system, target, rcond=None)[0]
        return _frozen(d) if np.abs(system @ d - target).max() < 1e-12 else None

    @cached_property
    def e2(self) -> FloatArray | None:
        """Second error row b − b_hat2, shape (s,)."""
        return None if self.b_hat2 is None else _frozen(self.b - self.b_hat2)

    @cached_property
    def rows(self) -> FloatArray:
        """A, b and the error rows, one below the other: what a step weighs its stages with."""
        errors = [row for row in (self.e, self.e2) if row is not None]
        return _frozen(np.vstack([self.A, self.b, *errors]))

    @property
    def error_order(self) -> int | None:
        """The q for which the error estimate behaves as h^(q+1); None without an embedded row."""
        if self.order_hat is None:
            return None
        if self.order_hat2 is not None:
            return 2 * self.order_hat - self.order_hat2
        return min(self.order, self.order_hat)

    # Order ----------------------------------------------------------------------------------------

    def order_conditions(self, p: int, row: str = "b") -> dict[trees.Tree, float]:
        """Residuals ``row . u(t) - 1/gamma(t)`` of the order conditions with exactly `p` nodes.

        Parameters
        ----------
        p : int
            Number of nodes, 1 to 10.
        row : {"b", "b_hat", "b_hat2"}
            Which weights.

        Returns
        -------
        dict
            Tree (see `stiffkit.solvers.trees`) to residual. The method has order p when the
            residuals for 1, ..., p vanish to rounding.
        """
        values = self._row(row)
        u = trees.weights(self.A, p)
        return {t: float(values @ u[t]) - 1 / trees.density(t) for t in trees.rooted_trees(p)}

    def _row(self, row: str) -> FloatArray:
        values = {"b": self.b, "b_hat": self.b_hat, "b_hat2": self.b_hat2}.get(row)
        if values is None:
            msg = f"tableau {self.name!r} has no row {row!r}"
            raise ValueError(msg)
        return values

    def error_coefficients(self, p: int, row: str = "b") -> FloatArray:
        """Coefficients τ(t) = (b . u(t) − 1/γ(t)) / σ(t) of the error's differentials."""
        residuals = self.order_conditions(p, row)
        return np.array([r / trees.symmetry(t) for t, r in residuals.items()])

    @cached_property
    def principal_error_norm(self) -> float:
        """Euclidean norm of τ^(p+1), Dormand and Prince's measure of a method's accuracy."""
        return float(np.linalg.norm(self.error_coefficients(self.order + 1)))

    @cached_property
    def error_constant(self) -> float:
        """The C of y' = λy: y(t+h) − y_new = C z^(p+1) y + O(z^(p+2)), z = hλ."""
        r = self.stability_polynomial
        p = self.order
        return 1 / math.factorial(p + 1) - (float(r[p + 1]) if len(r) > p + 1 else 0.0)

    @cached_property
    def stage_order(self) -> int:
        """Largest q with ``A c^(k-1) = c^k / k`` for all k ≤ q and ``b . c^(k-1) = 1/k``."""
        q = 0
        while q < self.order:
            k = q + 1
            moments = self.A @ self.c ** (k - 1) - self.c**k / k
            if np.abs(moments).max() > 1e-9 or abs(self.b @ self.c ** (k - 1) - 1 / k) > 1e-9:
                break
            q = k
        return q

    @cached_property
    def pair_quality(self) -> PairQuality | None:
        """Dormand and Prince's measures of the pair; None without an embedded row."""
        if self.b_hat is None or self.order_hat is None:
            return None
        q = self.order_hat
        norm = np.linalg.norm
        A_hat = float(norm(self.error_coefficients(q + 1, "b_hat")))
        tau, tau_hat = (self.error_coefficients(q + 2, row) for row in ("b", "b_hat"))
        return PairQuality(
            A=self.principal_error_norm,
            A_hat=A_hat,
            B=float(norm(tau_hat)) / A_hat,
            C=float(norm(tau_hat - tau)) / A_hat,
            D=float(max(np.abs(v).max() for v in (self.A, self.b, self.b_hat, self.c))),
            E=float(norm(tau)) / A_hat,
        )

    # Linear stability -----------------------------------------------------------------------------

    @cached_property
    def stability_polynomial(self) -> FloatArray:
        """Coefficients r_0, r_1, ... of R(z) = 1 + z bᵀ(I − zA)⁻¹1 as a power series.

        For an explicit method the series ends with z^s. Coefficients up to the order are those of
        e^z and are set so, exactly.
        """
        v = np.ones(self.n_stages)
        r = [1.0]
        for j in range(1, max(self.n_stages, self.order + 1) + 1):
            r.append(1 / math.factorial(j) if j <= self.order else float(self.b @ v))
            v = self.A @ v
        return _frozen(r[: self.n_stages + 1] if self.explicit else r)

    def R(self, z: npt.ArrayLike, row: str = "b") -> npt.NDArray[np.complex128]:
        """Stability function R(z) = 1 + z bᵀ(I − zA)⁻¹ 1 at the points `z`, any shape.

        Of the method by default; `row` may name an embedded one, ``b_hat`` or ``b_hat2``.
        """
        points = np.asarray(z, dtype=np.complex128)
        one = np.ones(self.n_stages)
        system = np.eye(self.n_stages) - points[..., None, None] * self.A
        inner = np.linalg.solve(system, np.broadcast_to(one, (*points.shape, len(one)))[..., None])
        return np.asarray(1 + points * (inner[..., 0] @ self._row(row)), dtype=np.complex128)

    @cached_property
    def real_stability_limit(self) -> float:
        """Largest x with ``|R(−ξ)| ≤ 1`` for all ξ in [0, x]."""
        self._explicit_only("real_stability_limit")
        flipped = self.stability_polynomial * (-1.0) ** np.arange(len(self.stability_polynomial))
        # R leaves [−1, 1] at a root of R − 1 or of R + 1. (Those of R² − 1 are the same, but where
        # R only touches ±1 nearly, squaring doubles the digits that rounding takes.)
        one = np.eye(1, len(flipped))[0]
        edges = np.concatenate(
            [_positive_roots((flipped - one)[1:]), _positive_roots(flipped + one)]
        )
        R = np.polynomial.Polynomial(flipped)
        return _first_above(lambda x: abs(R(x)) - 1, np.sort(edges))

    @cached_property
    def imaginary_stability_limit(self) -> float:
        """Largest y with ``|R(iη)| ≤ 1`` for all η in [0, y]: first sign change of ``|R|² − 1``."""
        self._explicit_only("imaginary_stability_limit")
        powers = np.array([1j**k for k in range(len(self.stability_polynomial))])
        r = self.stability_polynomial * powers
        # R agrees with e^z up to z^p, and |e^(iη)| = 1: every coefficient up to η^p vanishes.
        return _first_exit(_squared_modulus(r.real, r.imag), vanishing=self.order)

    @cache  # noqa: B019 - tableaus live as long as the program, and angles are few
    def stability_limit(self, angle: float) -> float:
        """Largest r with ``|R(ρ e^(i·angle))| ≤ 1`` for all ρ in [0, r].

        Parameters
        ----------
        angle : float
            Direction in the complex plane: π is the negative real axis, ±π/2 the imaginary one.

        Returns
        -------
        float
            0 for directions to the right of the imaginary axis.
        """
        self._explicit_only("stability_limit")
        if abs(math.cos(angle)) < 1e-12:
            return self.imaginary_stability_limit
        powers = np.exp(1j * angle * np.arange(len(self.stability_polynomial)))
        r = self.stability_polynomial * powers
        return _first_exit(_squared_modulus(r.real, r.imag))

    def _explicit_only(self, what: str) -> None:
        if not self.explicit:
            msg = f"tableau {self.name!r}: {what} is defined for explicit methods"
            raise ValueError(msg)

    # Dense output ---------------------------------------------------------------------------------

    @cached_property
    def dense(self) -> Interpolant:
        """The published interpolant, or one that is derived.

        For ESDIRK methods that is `stiff_interpolant`'s, for Radau methods the collocation
        polynomial; for all others, the cubic Hermite one written as polynomials in the stages.

        Collocation: ``Σ_i b_i(θ) c_i^m = θ^(m+1)/(m+1)`` for m < s.

        Hermite: ``b_i(θ) = b_i (3θ² − 2θ³)``, plus ``θ − 2θ² + θ³`` for k_1 and ``θ³ − θ²`` for
        f(t + h, y_new).
        """
        if self.interpolant is not None:
            return self.interpolant
        from .stiff_limit import stiff_interpolant  # which needs tableaus

        stiff = stiff_interpolant(self)
        if stiff is not None:
            return stiff
        s = self.n_stages
        if self.A[0].any() and self.stage_order >= s:
            P = np.linalg.inv(np.vander(self.c, increasing=True).T) / np.arange(1, s + 1)
            return Interpolant(order=s, P=[*P.tolist(), [0.0] * s], reference="collocation")
        P = np.zeros((self.n_stages + (not self.fsal), 3))
        P[: self.n_stages] = np.outer(self.b, [0.0, 3.0, -2.0])
        P[0] += [1.0, -2.0, 1.0]
        P[-1] += [0.0, -1.0, 1.0]
        return Interpolant(order=min(self.order, 3), P=P.tolist(), reference="cubic Hermite")

    @cached_property
    def dense_A(self) -> FloatArray:
        """A of all stages that the dense output uses, square: stages, f(t+h, y_new), extra ones."""
        rows = [list(row) for row in self.A]
        if not self.fsal:
            rows.append(list(self.b))
        rows += [list(row) for row in self.dense.A]
        return _frozen(_pad(rows, len(rows)))

    @cached_property
    def bubble(self) -> FloatArray:
        """Rows W_m with y(θ) = (1−θ) y + θ y_new + θ(1−θ) h Σ_m θ^m Σ_i W_mi k_i.

        The interpolant's b_i(θ) − θ b_i vanishes at both ends, so θ(1−θ) divides it, and the
        coefficients of the quotient are the running sums of those of b_i(θ)/θ − b_i. In this
        form dense output meets y and y_new to the last bit. Σ_i b_i(θ) = θ makes every row sum
        zero: the k_i may be replaced by k_i − k_1, and should be, where coefficients of 1e5 (vern6,
        vern8) would round more of a nearly constant slope than the method's own error is.
        """
        return bubble(self.dense, self.b)

    def dense_conditions(self, p: int, theta: float) -> dict[trees.Tree, float]:
        """Residuals ``b(θ) . u(t) − θ^p/γ(t)`` of the interpolant's order conditions, p nodes."""
        powers = theta ** np.arange(1, 1 + max(map(len, self.dense.P)))
        row = _pad(self.dense.P) @ powers
        u = trees.weights(self.dense_A, p)
        return {t: float(row @ u[t]) - theta**p / trees.density(t) for t in trees.rooted_trees(p)}

    # Pictures -------------------------------------------------------------------------------------

    def __repr__(self) -> str:
        pair = "" if self.order_hat is None else f"({self.order_hat})"
        stages = "1 stage" if self.n_stages == 1 else f"{self.n_stages} stages"
        return f"<ButcherTableau {self.name}, order {self.order}{pair}, {stages}>"

    def __str__(self) -> str:
        """Draw the tableau: c | A, then b and the embedded rows."""
        body = [
            [_number(c), *(_number(a) for a in (row[:i] if self.explicit else row))]
            for i, (c, row) in enumerate(zip(self.c, self.A, strict=True))
        ]
        feet = [("b", self.b), ("b̂", self.b_hat), ("b̂₂", self.b_hat2)]
        foot = [[label, *map(_number, row)] for label, row in feet if row is not None]
        columns = range(self.n_stages + 1)
        cells = [row + [""] * (self.n_stages + 1 - len(row)) for row in (*body, *foot)]
        width = [max(len(row[j]) for row in cells) for j in columns]
        lines = [
            f"{row[0]:>{width[0]}} │ "
            + "  ".join(f"{row[j]:>{width[j]}}" for j in columns[1:]).rstrip()
            for row in cells
        ]
        rule = "─" * (width[0] + 1) + "┼" + "─" * (sum(width[1:]) + 2 * self.n_stages)
        lines.insert(self.n_stages, rule)
        return "\n".join([repr(self)[1:-1], *(line.rstrip() for line in lines)])

    def plot(self, ax: Axes | None = None, **style: Any) -> Axes:
        """Draw the boundary of the stability region ``{z : |R(z)| ≤ 1}`` and its inside.

        Parameters
        ----------
        ax : matplotlib Axes, optional
            Where to draw; a new figure by default.
        **style
            Passed to ``Axes.contour``.

        Returns
        -------
        matplotlib Axes

        Raises
        ------
        ImportError
            If matplotlib is not installed (``pip install stiffkit[plot]``).
        ValueError
            If the method is implicit.
        """
        from .._optional import matplotlib_axes

        ax = matplotlib_axes(ax)
        reach = 1.2 * max(self.real_stability_limit, self.imaginary_stability_limit, 2.0)
        x, y = np.meshgrid(np.linspace(-reach, 0.5 * reach, 301), np.linspace(-reach, reach, 401))
        modulus = np.abs(np.polynomial.Polynomial(self.stability_polynomial)(x + 1j * y))
        ax.contourf(x, y, modulus, levels=[0.0, 1.0], alpha=0.2, colors=["C0"])
        ax.contour(x, y, modulus, levels=[1.0], **{"colors": ["C0"], **style})
        ax.axhline(0, lw=0.5, color="0.5")
        ax.axvline(0, lw=0.5, color="0.5")
        ax.set(xlabel="Re z", ylabel="Im z", aspect="equal", title=f"{self.name}: |R(z)| ≤ 1")
        return ax


def bubble(dense: Interpolant, b: FloatArray) -> FloatArray:
    """Rows W_m of an interpolant of a method with weights b: see `ButcherTableau.bubble`."""
    P = _pad(dense.P).copy()
    P[: len(b), 0] -= b
    return _frozen(np.cumsum(P, axis=1)[:, :-1].T)


def _frozen(values: Any, shape: tuple[int, ...] | None = None) -> FloatArray:
    array = np.array(values, dtype=np.float64)
    array = array if shape is None else array.reshape(shape)
    array.setflags(write=False)
    return array


def _pad(rows: Sequence[Row], width: int | None = None) -> FloatArray:
    """Ragged rows as one array, filled up with zeros."""
    width = max(map(len, rows), default=0) if width is None else width
    return np.array([[*row, *[0.0] * (width - len(row))] for row in rows]).reshape(len(rows), width)


def _check_row_sums(name: str, label: str, A: FloatArray, c: FloatArray) -> None:
    for i, (row, node) in enumerate(zip(A, c, strict=True)):
        if not abs(row.sum() - node) <= _TOL * (1 + np.abs(row).sum()):
            row_sum = f"row {i + 1} of {label} sums to {float(row.sum())!r}"
            msg = f"tableau {name!r}: {row_sum}, not to c = {float(node)!r}"
            raise ValueError(msg)


def _squared_modulus(re: FloatArray, im: FloatArray) -> tuple[FloatArray, FloatArray]:
    """|p(x)|² − 1 for p = re + i im (rising powers), and the size of the terms of each power."""
    polynomial = np.convolve(re, re) + np.convolve(im, im)
    size = np.convolve(abs(re), abs(re)) + np.convolve(abs(im), abs(im))
    polynomial[0] -= 1.0
    return polynomial, size


def _first_exit(polynomial: tuple[FloatArray, FloatArray], vanishing: int = 0) -> float:
    """First x > 0 where g(x) = |R|² − 1 turns positive; 0 if it is positive from the start."""
    g, size = polynomial
    g = np.where(np.abs(g) <= 1e-12 * size, 0.0, g)
    g[: vanishing + 1] = 0.0
    lowest = np.flatnonzero(g)
    if len(lowest) == 0:
        return math.inf
    g = g[lowest[0] :]
    return _first_above(np.polynomial.Polynomial(g), np.sort(_positive_roots(g)))


def _positive_roots(coefficients: FloatArray) -> FloatArray:
    """Positive real roots of a polynomial in rising powers."""
    roots = np.roots(coefficients[::-1])
    real = (np.abs(roots.imag) < 1e-9 * np.abs(roots)) & (roots.real > 0)
    return np.asarray(roots.real[real], dtype=np.float64)


def _first_above(g: Callable[[float], float], edges: FloatArray) -> float:
    """Left end of the first interval between sorted `edges`, 0 included, where g is positive."""
    last = edges[-1] if len(edges) else 1.0
    for left, right in pairwise([0.0, *edges.tolist(), 2 * last]):
        if right > left and g((left + right) / 2) > 0:
            return float(left)
    return math.inf


def _number(x: float) -> str:
    """Write a coefficient as the fraction it is, or to six digits."""
    fraction = Fraction(x).limit_denominator(1_000_000)
    exact = abs(x - float(fraction)) <= 4 * np.finfo(float).eps * abs(x)
    return str(fraction) if exact else f"{x:.6g}"
