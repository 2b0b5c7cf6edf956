"""Implicit Runge-Kutta methods, as the literature prints them: ESDIRK pairs and Radau IIA.

Row i of a diagonally implicit ``A`` has i + 1 entries. All ESDIRK methods here are stiffly
accurate: the last row of ``A`` is ``b``, so y_new is the last stage.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from .tableau import ButcherTableau, FloatArray

__all__ = [
    "AdditiveTableau",
    "RadauTransformation",
    "ark3",
    "ark4",
    "ark5",
    "kencarp3",
    "kencarp4",
    "kencarp5",
    "kvaerno3",
    "kvaerno4",
    "kvaerno5",
    "radau5",
    "radau_transformation",
    "trbdf2",
]


@dataclass(frozen=True)
class AdditiveTableau:
    """An implicit-explicit pair for y' = f_explicit + f_implicit with common weights and nodes.

    Raises
    ------
    ValueError
        If `b`, `b_hat`, `c` or the orders of the two methods differ, or `explicit` is not explicit.
    """

    name: str
    implicit: ButcherTableau
    """Advances the stiff part."""
    explicit: ButcherTableau
    """Advances the other part."""

    def __post_init__(self) -> None:
        """Refuse two methods that do not belong together."""
        if not self.explicit.explicit:
            msg = f"additive tableau {self.name!r}: the explicit method is implicit"
            raise ValueError(msg)
        for key in ("order", "order_hat", "b", "b_hat", "c"):
            pair = getattr(self.implicit, key), getattr(self.explicit, key)
            if not np.array_equal(*pair):
                msg = f"additive tableau {self.name!r}: {key} differs, {pair[0]} and {pair[1]}"
                raise ValueError(msg)


_KVAERNO = (
    "A. Kværnø, Singly diagonally implicit Runge-Kutta methods with an explicit first "
    "stage, BIT Numer. Math. 44 (2004) 489-502, "
    "doi:10.1023/B:BITN.0000046811.70614.38"
)
_KENNEDY_CARPENTER = (
    "C. A. Kennedy, M. H. Carpenter, Additive Runge-Kutta schemes for "
    "convection-diffusion-reaction equations, Appl. Numer. Math. 44 (2003) 139-181, "
    "doi:10.1016/S0168-9274(02)00138-1"
)

# γ = 1 − √2/2 makes R(∞) = 0; the embedded row is of higher order than the method itself.
trbdf2 = ButcherTableau(
    name="trbdf2",
    order=2,
    order_hat=3,
    c=[0, 2 - math.sqrt(2), 1],
    A=[
        [0],
        [1 - math.sqrt(2) / 2, 1 - math.sqrt(2) / 2],
        [math.sqrt(2) / 4, math.sqrt(2) / 4, 1 - math.sqrt(2) / 2],
    ],
    b=[math.sqrt(2) / 4, math.sqrt(2) / 4, 1 - math.sqrt(2) / 2],
    b_hat=[(1 - math.sqrt(2) / 4) / 3, (1 + 3 * math.sqrt(2) / 4) / 3, (2 - math.sqrt(2)) / 6],
    reference=(
        "M. E. Hosea, L. F. Shampine, Analysis and implementation of TR-BDF2, Appl. "
        "Numer. Math. 20 (1996) 21-37, doi:10.1016/0168-9274(95)00115-8"
    ),
)

kvaerno3 = ButcherTableau(
    name="kvaerno3",
    order=3,
    order_hat=2,
    c=[0, 0.871733043016917998, 1, 1],
    A=[
        [0],
        [0.435866521508458999, 0.435866521508458999],
        [0.490563388421780570, 0.073570090069760429, 0.435866521508458999],
        [0.308809969976746523, 1.490563388421780570, -1.235239879906986093, 0.435866521508458999],
    ],
    b=[0.308809969976746523, 1.490563388421780570, -1.235239879906986093, 0.435866521508458999],
    b_hat=[0.490563388421780570, 0.073570090069760429, 0.435866521508458999, 0],
    reference=_KVAERNO,
)

# The paper prints two values of γ: this one makes the row of order 4, which advances here,
# L-stable; 0.4359 is for advancing with the row of order 3 (as in SUNDIALS, with R(∞) = 0.72).
kvaerno4 = ButcherTableau(
    name="kvaerno4",
    order=4,
    order_hat=3,
    c=[0, 1.145632124964269710816, 0.597104987652311492923, 1, 1],
    A=[
        [0],
        [0.572816062482134855408, 0.572816062482134855408],
        [0.167235462027210750751, -0.142946536857034113236, 0.572816062482134855408],
        [
            0.262603290252695818081,
            -0.311904327420563153023,
            0.476484974685732479534,
            0.572816062482134855408,
        ],
        [
            0.197216548312834995838,
            0.176843783906372186032,
            0.815442181350838447398,
            -0.762318576052180484676,
            0.572816062482134855408,
        ],
    ],
    b=[
        0.197216548312834995838,
        0.176843783906372186032,
        0.815442181350838447398,
        -0.762318576052180484676,
        0.572816062482134855408,
    ],
    b_hat=[
        0.262603290252695818081,
        -0.311904327420563153023,
        0.476484974685732479534,
        0.572816062482134855408,
        0,
    ],
    reference=_KVAERNO,
)

kvaerno5 = ButcherTableau(
    name="kvaerno5",
    order=5,
    order_hat=4,
    c=[0, 0.52, 1.230333209967908096, 0.895765984350075902, 0.436393609858647585, 1, 1],
    A=[
        [0],
        [0.26, 0.26],
        [0.13, 0.840333209967908096, 0.26],
        [0.223719614783205055, 0.476755323197996998, -0.064708953631126151, 0.26],
        [
            0.166485643232483215,
            0.104500188415917204,
            0.036314822720987151,
            -0.130907044510739985,
            0.26,
        ],
        [
            0.138556402312682249,
            0,
            -0.042453372017520430,
            0.024466578980031419,
            0.619430390724806761,
            0.26,
        ],
        [
            0.136597511776402914,
            0,
            -0.054969087965383767,
            -0.041186267283210468,
            0.629933048990164031,
            0.069624794482027289,
            0.26,
        ],
    ],
    b=[
        0.136597511776402914,
        0,
        -0.054969087965383767,
        -0.041186267283210468,
        0.629933048990164031,
        0.069624794482027289,
        0.26,
    ],
    b_hat=[
        0.138556402312682249,
        0,
        -0.042453372017520430,
        0.024466578980031419,
        0.619430390724806761,
        0.26,
        0,
    ],
    reference=_KVAERNO,
)

kencarp3 = ButcherTableau(
    name="kencarp3",
    order=3,
    order_hat=2,
    c=[0, 1767732205903 / 2027836641118, 3 / 5, 1],
    A=[
        [0],
        [1767732205903 / 4055673282236, 1767732205903 / 4055673282236],
        [
            2746238789719 / 10658868560708,
            -640167445237 / 6845629431997,
            1767732205903 / 4055673282236,
        ],
        [
            1471266399579 / 7840856788654,
            -4482444167858 / 7529755066697,
            11266239266428 / 11593286722821,
            1767732205903 / 4055673282236,
        ],
    ],
    b=[
        1471266399579 / 7840856788654,
        -4482444167858 / 7529755066697,
        11266239266428 / 11593286722821,
        1767732205903 / 4055673282236,
    ],
    b_hat=[
        2756255671327 / 12835298489170,
        -10771552573575 / 22201958757719,
        9247589265047 / 10645013368117,
        2193209047091 / 5459859503100,
    ],
    reference=_KENNEDY_CARPENTER,
)

ark3 = AdditiveTableau(
    name="ark3",
    implicit=kencarp3,
    explicit=ButcherTableau(
        name="ark3-explicit",
        order=3,
        order_hat=2,
        c=kencarp3.c.tolist(),
        A=[
            [],
            [1767732205903 / 2027836641118],
            [5535828885825 / 10492691773637, 788022342437 / 10882634858940],
            [
                6485989280629 / 16251701735622,
                -4246266847089 / 9704473918619,
                10755448449292 / 10357097424841,
            ],
        ],
        b=kencarp3.b.tolist(),
        b_hat=[
            2756255671327 / 12835298489170,
            -10771552573575 / 22201958757719,
            9247589265047 / 10645013368117,
            2193209047091 / 5459859503100,
        ],
        reference=_KENNEDY_CARPENTER,
    ),
)

kencarp4 = ButcherTableau(
    name="kencarp4",
    order=4,
    order_hat=3,
    c=[0, 1 / 2, 83 / 250, 31 / 50, 17 / 20, 1],
    A=[
        [0],
        [1 / 4, 1 / 4],
        [8611 / 62500, -1743 / 31250, 1 / 4],
        [5012029 / 34652500, -654441 / 2922500, 174375 / 388108, 1 / 4],
        [
            15267082809 / 155376265600,
            -71443401 / 120774400,
            730878875 / 902184768,
            2285395 / 8070912,
            1 / 4,
        ],
        [82889 / 524892, 0, 15625 / 83664, 69875 / 102672, -2260 / 8211, 1 / 4],
    ],
    b=[82889 / 524892, 0, 15625 / 83664, 69875 / 102672, -2260 / 8211, 1 / 4],
    b_hat=[
        4586570599 / 29645900160,
        0,
        178811875 / 945068544,
        814220225 / 1159782912,
        -3700637 / 11593932,
        61727 / 225920,
    ],
    reference=_KENNEDY_CARPENTER,
)

ark4 = AdditiveTableau(
    name="ark4",
    implicit=kencarp4,
    explicit=ButcherTableau(
        name="ark4-explicit",
        order=4,
        order_hat=3,
        c=kencarp4.c.tolist(),
        A=[
            [],
            [0.5],
            [13861 / 62500, 6889 / 62500],
            [
                -116923316275 / 2393684061468,
                -2731218467317 / 15368042101831,
                9408046702089 / 11113171139209,
            ],
            [
                -451086348788 / 2902428689909,
                -2682348792572 / 7519795681897,
                12662868775082 / 11960479115383,
                3355817975965 / 11060851509271,
            ],
            [
                647845179188 / 3216320057751,
                73281519250 / 8382639484533,
                552539513391 / 3454668386233,
                3354512671639 / 8306763924573,
                4040 / 17871,
            ],
        ],
        b=kencarp4.b.tolist(),
        b_hat=[
            4586570599 / 29645900160,
            0,
            178811875 / 945068544,
            814220225 / 1159782912,
            -3700637 / 11593932,
            61727 / 225920,
        ],
        reference=_KENNEDY_CARPENTER,
    ),
)

kencarp5 = ButcherTableau(
    name="kencarp5",
    order=5,
    order_hat=4,
    c=[
        0,
        41 / 100,
        2935347310677 / 11292855782101,
        1426016391358 / 7196633302097,
        92 / 100,
        24 / 100,
        3 / 5,
        1,
    ],
    A=[
        [0],
        [41 / 200, 41 / 200],
        [41 / 400, -567603406766 / 11931857230679, 41 / 200],
        [683785636431 / 9252920307686, 0, -110385047103 / 1367015193373, 41 / 200],
        [
            3016520224154 / 10081342136671,
            0,
            30586259806659 / 12414158314087,
            -22760509404356 / 11113319521817,
            41 / 200,
        ],
        [
            218866479029 / 1489978393911,
            0,
            638256894668 / 5436446318841,
            -1179710474555 / 5321154724896,
            -60928119172 / 8023461067671,
            41 / 200,
        ],
        [
            1020004230633 / 5715676835656,
            0,
            25762820946817 / 25263940353407,
            -2161375909145 / 9755907335909,
            -211217309593 / 5846859502534,
            -4269925059573 / 7827059040749,
            41 / 200,
        ],
        [
            -872700587467 / 9133579230613,
            0,
            0,
            22348218063261 / 9555858737531,
            -1143369518992 / 8141816002931,
            -39379526789629 / 19018526304540,
            32727382324388 / 42900044865799,
            41 / 200,
        ],
    ],
    b=[
        -872700587467 / 9133579230613,
        0,
        0,
        22348218063261 / 9555858737531,
        -1143369518992 / 8141816002931,
        -39379526789629 / 19018526304540,
        32727382324388 / 42900044865799,
        41 / 200,
    ],
    b_hat=[
        -975461918565 / 9796059967033,
        0,
        0,
        78070527104295 / 32432590147079,
        -548382580838 / 3424219808633,
        -33438840321285 / 15594753105479,
        3629800801594 / 4656183773603,
        4035322873751 / 18575991585200,
    ],
    reference=_KENNEDY_CARPENTER,
)

ark5 = AdditiveTableau(
    name="ark5",
    implicit=kencarp5,
    explicit=ButcherTableau(
        name="ark5-explicit",
        order=5,
        order_hat=4,
        c=kencarp5.c.tolist(),
        A=[
            [],
            [41 / 100],
            [367902744464 / 2072280473677, 677623207551 / 8224143866563],
            [1268023523408 / 10340822734521, 0, 1029933939417 / 13636558850479],
            [
                14463281900351 / 6315353703477,
                0,
                66114435211212 / 5879490589093,
                -54053170152839 / 4284798021562,
            ],
            [
                14090043504691 / 34967701212078,
                0,
                15191511035443 / 11219624916014,
                -18461159152457 / 12425892160975,
                -281667163811 / 9011619295870,
            ],
            [
                19230459214898 / 13134317526959,
                0,
                21275331358303 / 2942455364971,
                -38145345988419 / 4862620318723,
                -1 / 8,
                -1 / 8,
            ],
            [
                -19977161125411 / 11928030595625,
                0,
                -40795976796054 / 6384907823539,
                177454434618887 / 12078138498510,
                782672205425 / 8267701900261,
                -69563011059811 / 9646580694205,
                7356628210526 / 4942186776405,
            ],
        ],
        b=kencarp5.b.tolist(),
        b_hat=[
            -975461918565 / 9796059967033,
            0,
            0,
            78070527104295 / 32432590147079,
            -548382580838 / 3424219808633,
            -33438840321285 / 15594753105479,
            3629800801594 / 4656183773603,
            4035322873751 / 18575991585200,
        ],
        reference=_KENNEDY_CARPENTER,
    ),
)

radau5 = ButcherTableau(
    name="radau5",
    order=5,
    c=[(4 - math.sqrt(6)) / 10, (4 + math.sqrt(6)) / 10, 1],
    A=[
        [
            (88 - 7 * math.sqrt(6)) / 360,
            (296 - 169 * math.sqrt(6)) / 1800,
            (-2 + 3 * math.sqrt(6)) / 225,
        ],
        [
            (296 + 169 * math.sqrt(6)) / 1800,
            (88 + 7 * math.sqrt(6)) / 360,
            (-2 - 3 * math.sqrt(6)) / 225,
        ],
        [(16 - math.sqrt(6)) / 36, (16 + math.sqrt(6)) / 36, 1 / 9],
    ],
    b=[(16 - math.sqrt(6)) / 36, (16 + math.sqrt(6)) / 36, 1 / 9],
    reference=(
        "E. Hairer, G. Wanner, Solving Ordinary Differential Equations II, 2nd ed., Springer "
        "(1996), section IV.5, doi:10.1007/978-3-642-05221-7"
    ),
)


@dataclass(frozen=True)
class RadauTransformation:
    """Real block form T⁻¹ A⁻¹ T = diag(γ, [[α, −β], [β, α]]) and the embedded error's weights."""

    T: FloatArray
    """Shape (3, 3); Hairer's scaling, last row (t, 1, 0)."""
    T_inv: FloatArray
    """Shape (3, 3)."""
    gamma: float
    """Real eigenvalue of A⁻¹; γ_0 of the error estimate is 1/γ."""
    alpha: float
    """Real part of the complex pair."""
    beta: float
    """Imaginary part, positive."""
    e: FloatArray
    """err = (I − h γ_0 J)⁻¹ (γ_0 h f(t, y) + γ_0 (e_1 z_1 + e_2 z_2 + e_3 z_3))."""


@cache
def radau_transformation() -> RadauTransformation:
    """Derive from ``radau5.A`` what decouples Newton's linear systems.

    The error estimate compares y_new with ŷ = y + h (γ_0 f(t, y) + Σ b̂_i k_i), b̂ fixed by three
    moments Σ b̂_i c_i^(k-1) = 1/k − γ_0 [k = 1]. With z = h A k its weights are e = A⁻ᵀ(b̂ − b)/γ_0.

    References
    ----------
    E. Hairer, G. Wanner, Solving Ordinary Differential Equations II, 2nd ed., Springer (1996),
    section IV.8, doi:10.1007/978-3-642-05221-7.
    """
    A, b, c = radau5.A, radau5.b, radau5.c
    values, vectors = np.linalg.eig(np.linalg.inv(A))
    real = int(np.argmin(np.abs(values.imag)))
    pair = int(np.argmax(values.imag))
    # A⁻¹(u + iv) = (α + iβ)(u + iv) gives the columns u, −v; this one ends in 1.
    w = vectors[:, pair] / vectors[2, pair]
    v = vectors[:, real].real
    # Hairer scales the real column so that its first entry is that of radau5.f.
    v = v / v[2] * _T31
    T = np.column_stack([v, w.real, -w.imag])
    gamma = float(values[real].real)
    moments = np.vander(c, increasing=True).T
    b_hat = np.linalg.solve(moments, [1 - 1 / gamma, 1 / 2, 1 / 3])
    e = np.asarray(np.linalg.solve(A.T, b_hat - b) * gamma, dtype=np.float64)
    alpha, beta = float(values[pair].real), float(values[pair].imag)
    return RadauTransformation(
        T, np.asarray(np.linalg.inv(T), dtype=np.float64), gamma, alpha, beta, e
    )


_T31 = 0.96604818261509293619
"""radau5.f's last entry of the real eigenvector: a scaling that eigenvalues leave free."""
