"""Differential-algebraic equations M y' = f(t, y) of index 1: constraints, slopes, consistency.

Let the columns of U span the left kernel of M: then Uᴴ f(t, y) = 0 must hold for all t, and so must
its derivative, Uᴴ (f_t + J y') = 0. With P = U Uᴴ both halves of the slope are one linear system,

    (M + P J) y' = (I − P) f − P f_t,

and it is regular if and only if the index is 1 (Hairer and Wanner II, section VI.1; Kunkel and
Mehrmann, Differential-Algebraic Equations, 2006, section 3.1, doi:10.4171/017).
"""

from __future__ import annotations

from typing import Any, final

import numpy as np
import numpy.typing as npt
import scipy.sparse as sps

from .._array import Array
from .jacobian import JacobianOperator
from .linalg import Banded, linear_solver_for
from .mass import LARGE, Mass, scaled_rank
from .tableau import ButcherTableau

__all__ = ["INDEX", "Constraints", "Slopes", "check_fits", "check_start"]


def check_fits(mass: Mass, method: Any) -> None:
    """Check that a method is sound for M y' = f.

    The algebraic components' errors go from step to step with the factor R(∞), which must be below
    one (Hairer and Wanner II, section VI.1). A Runge-Kutta step must end with a stage too: any
    other combination of the stages is off the constraints. A Rosenbrock step of order p is off by
    O(h^(p+1)) at most, whatever its last stage is.

    Parameters
    ----------
    mass : Mass
        M.
    method : ButcherTableau or RosenbrockTableau
        An implicit method.

    Raises
    ------
    ValueError
        If it is not.
    """
    if not mass.singular:
        return
    far = abs(complex(method.R(-1e6)))
    if far > 1 - 1e-5:
        why = f"has |R(∞)| = {far:.3g}, not below 1"
    elif isinstance(method, ButcherTableau) and not method.stiffly_accurate:
        why = "does not end with a stage (it is not stiffly accurate)"
    else:
        return
    msg = (
        f"method {method.name!r} {why}, so it does not keep the constraints of a singular mass "
        "matrix: take rodas5p, radau5 or kencarp4"
    )
    raise ValueError(msg)


@final
class Constraints:
    """The projection P on the left kernel of a singular M.

    Parameters
    ----------
    mass : Mass
        Singular, and of NumPy's.

    Raises
    ------
    ValueError
        If M is large and sparse, and its kernel is not seen from its zero rows.
    """

    def __init__(self, mass: Mass) -> None:
        sizes = abs(mass.matrix)
        zero = (sizes if mass.kind == "diagonal" else sizes.sum(axis=1)) == 0
        self.zero: npt.NDArray[np.bool_] | None = None
        """Rows of zeros, where these are the whole kernel."""
        if int(zero.sum()) == mass.n - mass.rank:
            self.zero = zero
        elif mass.kind == "sparse" and mass.n > LARGE:
            msg = (
                f"the mass matrix has rank {mass.rank} of {mass.n}, and {int(zero.sum())} rows of "
                "zeros: combine its equations so that each algebraic one has a row of zeros"
            )
            raise ValueError(msg)
        else:
            self.U = _left_kernel(mass)

    def part(self, v: Array) -> Array:
        """P v."""
        return self.zero * v if self.zero is not None else self.U @ (self.U.conj().T @ v)

    def rows(self, J: Any) -> Any:
        """P J, of the kind of J where rows of zeros allow it."""
        if isinstance(J, JacobianOperator):
            return JacobianOperator(J.f, J.t, J.y, jvp=lambda _t, _y, v: self.part(J(v)))
        if self.zero is None:
            return self.U @ (self.U.conj().T @ (J if isinstance(J, np.ndarray) else J.toarray()))
        if sps.issparse(J):
            return sps.csc_array(sps.diags_array(self.zero.astype(J.dtype)) @ J)
        if isinstance(J, Banded):
            # Entry (i, j) is in row mu + i − j.
            i = np.arange(-J.mu, J.ml + 1)[:, None] + np.arange(J.n)
            kept = self.zero[np.clip(i, 0, J.n - 1)] & (i >= 0) & (i < J.n)
            return Banded(np.where(kept, J.ab, 0), J.ml, J.mu)
        return J * self.zero[:, None]


def _left_kernel(mass: Mass) -> npt.NDArray[Any]:
    M = mass.matrix.toarray() if mass.kind == "sparse" else mass.matrix
    # As for the rank: rows and columns are brought to a largest entry of one.
    scaled, scales = M, []
    for axis in (1, 0):
        top = np.abs(scaled).max(axis=axis, keepdims=True)
        scales.append(np.where(top > 0, top, 1))
        scaled = scaled / scales[-1]
    kernel = np.linalg.svd(scaled)[0][:, mass.rank :] / scales[0]
    return np.asarray(np.linalg.qr(kernel)[0], dtype=M.dtype)


@final
class Slopes:
    """f(s, x) ↦ y' for (s, x) near (t, y).

    Parameters
    ----------
    mass : Mass
        M, singular.
    constraints : Constraints
        Its own.
    J, f_t : Jacobian, flat array
        ∂f/∂y and ∂f/∂t at (t, y).
    noise : float, optional
        The relative error of J, to look at the index; without it that is not done.

    Raises
    ------
    ValueError
        If the index is looked at, and not 1.
    LinearSolveError
        If the matrix is singular.
    """

    def __init__(
        self,
        mass: Mass,
        constraints: Constraints,
        J: Any,
        f_t: Array,
        noise: float | None = None,
    ) -> None:
        self.constraints, self.drift = constraints, constraints.part(f_t)
        rows = constraints.rows(J)
        if noise is not None and not isinstance(rows, JacobianOperator):
            _check_index(mass, rows, noise)
        solver = linear_solver_for(rows, mass, rtol=1e-10)
        self.solve = solver.factorise(rows, -1.0)
        self.nlu = solver.nlu
        if noise is not None and isinstance(rows, JacobianOperator):
            # Of a singular matrix GMRES knows by its failure, with a vector that is in no range.
            self.solve(rows.backend.vector(np.cos(1.0 + np.arange(mass.n)), rows.y))

    def __call__(self, f: Array) -> Array:
        """Return y'."""
        return self.solve(f - self.constraints.part(f) - self.drift)

    def correction(self, f: Array) -> Array:
        """Return the Newton correction that leaves M y as it is and reduces P f to zero."""
        return self.solve(-self.constraints.part(f))


def _check_index(mass: Mass, rows: Any, noise: float) -> None:
    system = mass.tosparse() + (rows.tosparse() if isinstance(rows, Banded) else rows)
    system = sps.csc_array(system)
    if not np.isfinite(system.data).all():
        msg = "the Jacobian is not finite at (t0, y0)"
        raise ValueError(msg)
    if scaled_rank(system, noise) < mass.n:
        raise ValueError(INDEX)


INDEX = (
    "the equation M y' = f is not of index 1 at (t0, y0): its constraints do not determine the "
    "algebraic components (∂g/∂z is singular). Differentiate the constraints until they do, and "
    "replace them by their derivatives"
)


def check_start(slopes: Slopes, y: Array, f_0: Array, scale: Any) -> None:
    """Check that y0 satisfies the constraints of M y' = f.

    Parameters
    ----------
    slopes : Slopes
        At (t0, y0).
    y, f_0 : flat array
        y0, and f(t0, y0).
    scale : flat array
        The tolerance of each component: the correction that Newton's method makes to the algebraic
        components must be below.

    Raises
    ------
    ValueError
        If y0 does not. The message names the equation, its residual, and the change that it takes.
    """
    change = slopes.correction(f_0)
    ratio = np.abs(change) / scale
    worst = int(np.argmax(ratio))
    if not ratio[worst] <= 1:
        residual = slopes.constraints.part(f_0)
        row = int(np.argmax(np.abs(residual)))
        msg = (
            f"y0 is not consistent with M y' = f: the algebraic equation {row} has the residual "
            f"{residual[row]:.3g}. Component {worst} of y0 is {y[worst]:.6g}; linearised, the "
            f"constraints ask for {y[worst] + change[worst]:.6g} there, {ratio[worst]:.3g} times "
            "the tolerance away"
        )
        raise ValueError(msg)
