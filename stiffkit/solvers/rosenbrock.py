"""Rosenbrock and W-methods, as the literature prints them: one linearisation, s linear solves.

Stage i of the method, in the form that needs no product with J (Hairer and Wanner II, (IV.7.25)):

    (I / (hγ) − J) u_i = f(t + c_i h, y + Σ_j A_ij u_j) + Σ_j (C_ij / h) u_j + d_i h f_t,

and y_new = y + Σ m_i u_i. In the textbook form u = Γ h k, with α = A Γ, b = m Γ, Γ⁻¹ = I/γ − C.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from . import trees
from .tableau import FloatArray, Row

__all__ = ["RosenbrockTableau", "rodas4", "rodas5p", "ros23", "ros34pw2"]

_TOL = 1e-9
"""Slack of the construction checks: the literature prints these methods to 12-16 digits."""


@dataclass(frozen=True, eq=False)
class RosenbrockTableau:
    """A Rosenbrock method with its embedded row and dense output.

    Raises
    ------
    ValueError
        If shapes disagree, α or Γ do not sum to `c` or `d`, `m_hat` is `m`, or an order condition
        of `m`, `m_hat` or `H` fails. The message names the method and the condition.
    """

    name: str
    order: int
    """Order p of `m`."""
    order_hat: int
    """Order of `m_hat`."""
    gamma: float
    """Diagonal of Γ."""
    c: Row
    """Row sums of α: the nodes."""
    d: Row
    """Row sums of Γ: what multiplies h ∂f/∂t."""
    A: Sequence[Row]
    """Row i has i entries."""
    C: Sequence[Row]
    """Row i has i entries."""
    m: Row
    """Weights of the u_i that advance the solution."""
    m_hat: Row
    """Weights of the embedded method."""
    H: Sequence[Row] = ()
    """y(θ) = (1−θ) y + θ y_new + θ(1−θ) Σ_m θ^m Σ_i H_mi u_i; empty for the cubic Hermite. The
    straight line is of order one, and with the exact J each row must add one, up to `order`."""
    w_method: bool = False
    """Whether the order holds with any matrix in place of J."""
    reference: str = ""

    def __post_init__(self) -> None:
        """Refuse inconsistent coefficients."""
        s = len(self.c)
        for label in ("d", "m", "m_hat", "A", "C"):
            if len(getattr(self, label)) != s:
                self._refuse(f"{label} has {len(getattr(self, label))} entries for {s} stages")
        if any(len(row) != i for M in (self.A, self.C) for i, row in enumerate(M)):
            self._refuse("row i of A and C must have i entries")
        if any(len(row) != s for row in self.H):
            self._refuse(f"rows of H must have {s} entries")
        if not self.gamma > 0:
            self._refuse(f"gamma must be positive, not {self.gamma!r}")
        for label, sums, row in (
            ("c", self.alpha.sum(axis=1), self.c),
            ("d", self.Gamma.sum(axis=1), self.d),
        ):
            gap = np.abs(sums - np.asarray(row, dtype=float))
            if not gap.max() <= _TOL:
                i = int(gap.argmax())
                self._refuse(f"{label}[{i}] = {row[i]!r}, but the row sums to {float(sums[i])!r}")
        for weights, order in (("b", self.order), ("b_hat", self.order_hat)):
            for p in range(1, order + 1):
                for label, r in self.order_conditions(p, weights, w=self.w_method).items():
                    if not abs(r) <= _TOL:
                        self._refuse(f"{weights} misses the order condition {label} by {r:.1e}")
        if np.allclose(self.m, self.m_hat, rtol=0, atol=_TOL):
            self._refuse("m_hat is m: their difference, the error estimate, is zero")
        if len(self.H):
            self._check_dense()

    def _check_dense(self) -> None:
        """Refuse an H whose rows do not add an order each: b(θ) · u(t) = θ^|t| / γ(t)."""
        # A condition is a polynomial of degree 1 + rows that is zero at θ = 0, and at θ = 1 by m's.
        for theta in np.arange(1, len(self.H) + 1) / (len(self.H) + 1):
            powers = theta ** np.arange(len(self.H))
            w = theta * np.asarray(self.m) + theta * (1 - theta) * (powers @ np.asarray(self.H))
            for p in range(1, min(1 + len(self.H), self.order) + 1):
                for tree in trees.rooted_trees(p):
                    for label, u, target in self._weights(tree, w=False):
                        r = float(w @ self.Gamma @ u) - theta**p * target
                        if not abs(r) <= _TOL:
                            where = f"{label} at θ = {theta:.3g}"
                            self._refuse(f"H misses the order condition {where} by {r:.1e}")

    def _refuse(self, condition: str) -> None:
        msg = f"Rosenbrock tableau {self.name!r}: {condition}"
        raise ValueError(msg)

    @property
    def error_order(self) -> int:
        """The q for which the error estimate behaves as h^(q+1)."""
        return min(self.order, self.order_hat)

    @property
    def n_stages(self) -> int:
        """Number of stages s."""
        return len(self.c)

    @cached_property
    def Gamma(self) -> FloatArray:
        """Γ with its diagonal, shape (s, s)."""
        inverse = np.eye(len(self.c)) / self.gamma - _lower(self.C)
        return np.asarray(np.linalg.inv(inverse), dtype=np.float64)

    @cached_property
    def alpha(self) -> FloatArray:
        """α, strictly lower triangular, shape (s, s)."""
        return np.asarray(np.tril(_lower(self.A) @ self.Gamma, -1))

    @cached_property
    def b(self) -> FloatArray:
        """Weights of the textbook form, shape (s,)."""
        return np.asarray(self.m, dtype=np.float64) @ self.Gamma

    @cached_property
    def b_hat(self) -> FloatArray:
        """Embedded weights of the textbook form, shape (s,)."""
        return np.asarray(self.m_hat, dtype=np.float64) @ self.Gamma

    @cached_property
    def stiffly_accurate(self) -> bool:
        """Whether the last row of α + Γ is b, and the last stage is at t + h."""
        return bool(np.allclose((self.alpha + self.Gamma)[-1], self.b, rtol=0, atol=_TOL))

    def R(self, z: npt.ArrayLike, row: str = "b") -> npt.NDArray[np.complex128]:
        """Stability function 1 + z bᵀ(I − z(α + Γ))⁻¹ 1 at the points `z`, any shape."""
        points = np.asarray(z, dtype=np.complex128)
        one = np.ones((*points.shape, self.n_stages, 1))
        system = np.eye(self.n_stages) - points[..., None, None] * (self.alpha + self.Gamma)
        values = np.linalg.solve(system, one)[..., 0] @ self._row(row)
        return np.asarray(1 + points * values, dtype=np.complex128)

    @cached_property
    def R_inf(self) -> float:
        """R(∞) = 1 − bᵀ(α + Γ)⁻¹ 1."""
        inner = np.linalg.solve(self.alpha + self.Gamma, np.ones(self.n_stages))
        return 1 - float(self.b @ inner)

    @cached_property
    def a_stable(self) -> bool:
        """Whether ``|R(iy)| ≤ 1`` on a grid of y; the one pole, 1/γ, is in the right half plane."""
        values = self.R(1j * np.logspace(-3, 8, 4001))
        return bool(np.abs(values).max() <= 1 + 1e-9)

    @property
    def l_stable(self) -> bool:
        """Whether the method is A-stable and R(∞) = 0."""
        return self.a_stable and abs(self.R_inf) <= _TOL

    def order_conditions(self, p: int, row: str = "b", *, w: bool = False) -> dict[str, float]:
        """Residuals of the order conditions with `p` nodes, by name.

        Parameters
        ----------
        p : int
            Number of nodes.
        row : {"b", "b_hat"}
            Which weights.
        w : bool
            Conditions of W-methods, for any matrix in place of J. An edge to an only child then is
            α or Γ (written ``γ``): 1/γ(t) without a Γ, 0 with one. With the exact J only their sum
            β = α + Γ counts.

        Returns
        -------
        dict
            Tree in bracket notation to residual.
        """
        values = self._row(row)
        return {
            label: float(values @ u) - target
            for tree in trees.rooted_trees(p)
            for label, u, target in self._weights(tree, w)
        }

    def _weights(self, tree: trees.Tree, w: bool) -> Iterator[tuple[str, FloatArray, float]]:
        """Every colouring of `tree`: name, stage weights, and what ``b . u`` must be."""
        if len(tree) != 1:
            products: list[tuple[list[str], FloatArray, float]] = [([], np.ones(self.n_stages), 1)]
            for child in tree:
                products = [
                    ([*labels, label], u * (self.alpha @ v), target * part)
                    for labels, u, target in products
                    for label, v, part in self._weights(child, w)
                ]
            for labels, u, target in products:
                name = "[" + ",".join(labels) + "]" if tree else "τ"
                yield name, u, target / trees.size(tree)
            return
        for label, v, target in self._weights(tree[0], w):
            if not w:
                yield f"[{label}]", (self.alpha + self.Gamma) @ v, target / trees.size(tree)
            else:
                yield f"[{label}]", self.alpha @ v, target / trees.size(tree)
                yield f"[γ {label}]", self.Gamma @ v, 0.0

    def _row(self, row: str) -> FloatArray:
        if row not in ("b", "b_hat"):
            msg = f"Rosenbrock tableau {self.name!r} has no row {row!r}"
            raise ValueError(msg)
        return self.b if row == "b" else self.b_hat


def _lower(rows: Sequence[Row]) -> FloatArray:
    s = len(rows)
    return np.array([[*row, *[0.0] * (s - len(row))] for row in rows], dtype=np.float64)


def _ros23() -> RosenbrockTableau:
    """Bring Shampine and Reichelt's k_1, k_2, k_3 to the u-form.

    Their F_i − k_i are products with hJ: γ_21 = −d, γ_31 = d(e_32 − 2), γ_32 = −d e_32.
    """
    d, e32 = 1 / (2 + math.sqrt(2)), 6 + math.sqrt(2)
    Gamma = np.array([[d, 0, 0], [-d, d, 0], [d * (e32 - 2), -d * e32, d]])
    inverse = np.linalg.inv(Gamma)

    def below(M: Any) -> list[list[float]]:
        return [[float(x) for x in row[:i]] for i, row in enumerate(M)]

    return RosenbrockTableau(
        name="ros23",
        order=2,
        order_hat=3,
        gamma=d,
        c=[0, 1 / 2, 1],
        d=[d, 0, -d],
        A=below(np.array([[0, 0, 0], [1 / 2, 0, 0], [0, 1, 0]]) @ inverse),
        C=below(np.eye(3) / d - inverse),
        m=(np.array([0, 1, 0]) @ inverse).tolist(),
        m_hat=(np.array([1 / 6, 4 / 6, 1 / 6]) @ inverse).tolist(),
        H=[(np.array([1, -1, 0]) @ inverse / (1 - 2 * d)).tolist()],
        reference=(
            "L. F. Shampine, M. W. Reichelt, The MATLAB ODE suite, SIAM J. Sci. Comput. 18 (1997) "
            "1-22, doi:10.1137/S1064827594276424"
        ),
    )


ros23 = _ros23()

rodas4 = RosenbrockTableau(
    name="rodas4",
    order=4,
    order_hat=3,
    gamma=0.25,
    c=[0, 0.386, 0.21, 0.63, 1, 1],
    d=[0.25, -0.1043, 0.1035, -0.0362, 0, 0],
    A=[
        [],
        [1.544],
        [0.9466785280815826, 0.2557011698983284],
        [3.314825187068521, 2.896124015972201, 0.9986419139977817],
        [1.221224509226641, 6.019134481288629, 12.53708332932087, -0.687886036105895],
        [1.221224509226641, 6.019134481288629, 12.53708332932087, -0.687886036105895, 1],
    ],
    C=[
        [],
        [-5.6688],
        [-2.430093356833875, -0.2063599157091915],
        [-0.1073529058151375, -9.594562251023355, -20.47028614809616],
        [7.496443313967647, -10.24680431464352, -33.99990352819905, 11.7089089320616],
        [
            8.083246795921522,
            -7.981132988064893,
            -31.52159432874371,
            16.31930543123136,
            -6.058818238834054,
        ],
    ],
    m=[1.221224509226641, 6.019134481288629, 12.53708332932087, -0.687886036105895, 1, 1],
    m_hat=[1.221224509226641, 6.019134481288629, 12.53708332932087, -0.687886036105895, 1, 0],
    H=[
        [
            10.12623508344586,
            -7.487995877610167,
            -34.80091861555747,
            -7.992771707568823,
            1.025137723295662,
            0,
        ],
        [
            -0.6762803392801253,
            6.087714651680015,
            16.43084320892478,
            24.76722511418386,
            -6.594389125716872,
            0,
        ],
    ],
    w_method=False,
    reference=(
        "E. Hairer, G. Wanner, Solving Ordinary Differential Equations II, 2nd ed., Springer "
        "(1996), section VI.4, doi:10.1007/978-3-642-05221-7"
    ),
)

rodas5p = RosenbrockTableau(
    name="rodas5p",
    order=5,
    order_hat=4,
    gamma=0.21193756319429014,
    c=[0, 0.6358126895828704, 0.4095798393397535, 0.9769306725060716, 0.4288403609558664, 1, 1, 1],
    d=[
        0.21193756319429014,
        -0.42387512638858027,
        -0.3384627126235924,
        1.8046452872882734,
        2.325825639765069,
        0,
        0,
        0,
    ],
    A=[
        [],
        [3.0],
        [2.849394379747939, 0.45842242204463923],
        [-6.954028509809101, 2.489845061869568, -10.358996098473584],
        [2.8029986275628964, 0.5072464736228206, -0.3988312541770524, -0.04721187230404641],
        [
            -7.502846399306121,
            2.561846144803919,
            -11.627539656261098,
            -0.18268767659942256,
            0.030198172008377946,
        ],
        [
            -7.502846399306121,
            2.561846144803919,
            -11.627539656261098,
            -0.18268767659942256,
            0.030198172008377946,
            1,
        ],
        [
            -7.502846399306121,
            2.561846144803919,
            -11.627539656261098,
            -0.18268767659942256,
            0.030198172008377946,
            1,
            1,
        ],
    ],
    C=[
        [],
        [-14.155112264123755],
        [-17.97296035885952, -2.859693295451294],
        [147.12150275711716, -1.41221402718213, 71.68940251302358],
        [165.43517024871676, -0.4592823456491126, 42.90938336958603, -5.961986721573306],
        [
            24.854864614690072,
            -3.0009227002832186,
            47.4931110020768,
            5.5814197821558125,
            -0.6610691825249471,
        ],
        [
            30.91273214028599,
            -3.1208243349937974,
            77.79954646070892,
            34.28646028294783,
            -19.097331116725623,
            -28.087943162872662,
        ],
        [
            37.80277123390563,
            -3.2571969029072276,
            112.26918849496327,
            66.9347231244047,
            -40.06618937091002,
            -54.66780262877968,
            -9.48861652309627,
        ],
    ],
    m=[
        -7.502846399306121,
        2.561846144803919,
        -11.627539656261098,
        -0.18268767659942256,
        0.030198172008377946,
        1,
        1,
        1,
    ],
    m_hat=[
        -7.502846399306121,
        2.561846144803919,
        -11.627539656261098,
        -0.18268767659942256,
        0.030198172008377946,
        1,
        1,
        0,
    ],
    H=[
        [
            25.948786856663858,
            -2.5579724845846235,
            10.433815404888879,
            -2.3679251022685204,
            0.524948541321073,
            1.1241088310450404,
            0.4272876194431874,
            -0.17202221070155493,
        ],
        [
            -9.91568850695171,
            -0.9689944594115154,
            3.0438037242978453,
            -24.495224566215796,
            20.176138334709044,
            15.98066361424651,
            -6.789040303419874,
            -6.710236069923372,
        ],
        [
            11.419903575922262,
            2.8879645146136994,
            72.92137995996029,
            80.12511834622643,
            -52.072871366152654,
            -59.78993625266729,
            -0.15582684282751913,
            4.883087185713722,
        ],
    ],
    w_method=False,
    reference=(
        "G. Steinebach, Construction of Rosenbrock-Wanner method Rodas5P and numerical benchmarks "
        "within the Julia Differential Equations package, BIT Numer. Math. 63 (2023) 27, "
        "doi:10.1007/s10543-023-00967-x"
    ),
)

ros34pw2 = RosenbrockTableau(
    name="ros34pw2",
    order=3,
    order_hat=2,
    gamma=0.435866521508459,
    c=[0.0, 0.871733043016918, 0.7315799577888524, 1.0],
    d=[0.435866521508459, -0.435866521508459, -0.4133333762338865, 0],
    A=[
        [],
        [2.0],
        [1.4192173174557647, -0.2592322116729697],
        [4.18476048231916, -0.28519201735549593, 2.294280360279042],
    ],
    C=[
        [],
        [-4.588560720558084],
        [-4.18476048231916, 0.28519201735549593],
        [-6.368179200128359, -6.795620944466837, 2.8700986043310563],
    ],
    m=[4.1847604823191595, -0.28519201735549565, 2.2942803602790414, 1.0],
    m_hat=[3.9070105346711914, 1.1180478778205036, 0.5216502326114907, 0.5],
    # Not published: the one H of order 3 with the exact J, which its four conditions determine. It
    # has order 2 with any matrix. Hermite's cubic would multiply the error of y_new by hλ.
    H=[
        [-3.3521014591647766, -1.176429319769157, -2.294280360279044, -3.3981200751955902],
        [1.1686827413555743, -5.904383642053178, 7.458659324889141, 2.1038397149165458],
    ],
    w_method=True,
    reference=(
        "J. Rang, L. Angermann, New Rosenbrock W-methods of order 3 for partial differential "
        "algebraic equations of index 1, BIT Numer. Math. 45 (2005) 761-787, "
        "doi:10.1007/s10543-005-0035-y"
    ),
)
