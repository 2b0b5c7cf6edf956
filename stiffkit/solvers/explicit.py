"""Explicit Runge-Kutta methods, as the literature prints them; DOP853 has a module of its own.

``c`` are the nodes and row i of ``A`` the i coefficients of stage i, so the first row is empty.
``b`` advances the solution and is the row of higher order; ``b_hat`` is the embedded method of
order ``order_hat``, never the difference of the two. A method whose last row of ``A`` is ``b``
(first same as last) lists that stage. ``interpolant.P[i][j]`` multiplies ``k_i θ^(j+1)``.
"""

from __future__ import annotations

from .tableau import ButcherTableau, Interpolant

__all__ = [
    "bosh3",
    "bs5",
    "cashkarp",
    "dopri5",
    "euler",
    "heun",
    "midpoint",
    "ralston",
    "rk4",
    "rkf45",
    "tsit5",
]

euler = ButcherTableau(
    name="euler",
    order=1,
    c=[0],
    A=[[]],
    b=[1],
    reference=(
        "L. Euler, Institutiones calculi integralis I (1768); E. Hairer, S. P. Nørsett, G. Wanner, "
        "Solving Ordinary Differential Equations I, Springer (1993), section I.7, "
        "doi:10.1007/978-3-540-78862-1"
    ),
)

# Heun's name is also given to a method of order 3; this is the explicit trapezoidal rule.
heun = ButcherTableau(
    name="heun",
    order=2,
    order_hat=1,
    c=[0, 1],
    A=[
        [],
        [1],
    ],
    b=[1 / 2, 1 / 2],
    b_hat=[1, 0],
    reference=(
        "K. Heun, Z. Math. Phys. 45 (1900) 23-38; E. Hairer, S. P. Nørsett, G. Wanner, Solving "
        "Ordinary Differential Equations I, Springer (1993), section II.1, "
        "doi:10.1007/978-3-540-78862-1"
    ),
)

midpoint = ButcherTableau(
    name="midpoint",
    order=2,
    order_hat=1,
    c=[0, 1 / 2],
    A=[
        [],
        [1 / 2],
    ],
    b=[0, 1],
    b_hat=[1, 0],
    reference=(
        "C. Runge, Ueber die numerische Auflösung von Differentialgleichungen, Math. Ann. 46 "
        "(1895) 167-178, doi:10.1007/BF01446807"
    ),
)

# Of all two-stage methods of order 2, the one of least error bound.
ralston = ButcherTableau(
    name="ralston",
    order=2,
    order_hat=1,
    c=[0, 2 / 3],
    A=[
        [],
        [2 / 3],
    ],
    b=[1 / 4, 3 / 4],
    b_hat=[1, 0],
    reference=(
        "A. Ralston, Runge-Kutta methods with minimum error bounds, Math. Comp. 16 (1962) 431-437, "
        "doi:10.1090/S0025-5718-1962-0150954-0"
    ),
)

bosh3 = ButcherTableau(
    name="bosh3",
    order=3,
    order_hat=2,
    c=[0, 1 / 2, 3 / 4, 1],
    A=[
        [],
        [1 / 2],
        [0, 3 / 4],
        [2 / 9, 1 / 3, 4 / 9],
    ],
    b=[2 / 9, 1 / 3, 4 / 9, 0],
    b_hat=[7 / 24, 1 / 4, 1 / 3, 1 / 8],
    reference=(
        "P. Bogacki, L. F. Shampine, A 3(2) pair of Runge-Kutta formulas, Appl. Math. Lett. 2 "
        "(1989) 321-325, doi:10.1016/0893-9659(89)90079-7"
    ),
)

rk4 = ButcherTableau(
    name="rk4",
    order=4,
    c=[0, 1 / 2, 1 / 2, 1],
    A=[
        [],
        [1 / 2],
        [0, 1 / 2],
        [0, 0, 1],
    ],
    b=[1 / 6, 1 / 3, 1 / 3, 1 / 6],
    reference=(
        "W. Kutta, Z. Math. Phys. 46 (1901) 435-453; E. Hairer, S. P. Nørsett, G. Wanner, Solving "
        "Ordinary Differential Equations I, Springer (1993), section II.1, "
        "doi:10.1007/978-3-540-78862-1"
    ),
)

# Fehlberg advances with the row of order 4; here, as in Shampine and Watts's code RKF45, that is
# the embedded one.
rkf45 = ButcherTableau(
    name="rkf45",
    order=5,
    order_hat=4,
    c=[0, 1 / 4, 3 / 8, 12 / 13, 1, 1 / 2],
    A=[
        [],
        [1 / 4],
        [3 / 32, 9 / 32],
        [1932 / 2197, -7200 / 2197, 7296 / 2197],
        [439 / 216, -8, 3680 / 513, -845 / 4104],
        [-8 / 27, 2, -3544 / 2565, 1859 / 4104, -11 / 40],
    ],
    b=[16 / 135, 0, 6656 / 12825, 28561 / 56430, -9 / 50, 2 / 55],
    b_hat=[25 / 216, 0, 1408 / 2565, 2197 / 4104, -1 / 5, 0],
    reference=(
        "E. Fehlberg, Klassische Runge-Kutta-Formeln vierter und niedrigerer Ordnung mit "
        "Schrittweiten-Kontrolle und ihre Anwendung auf Wärmeleitungsprobleme, Computing 6 (1970) "
        "61-71, doi:10.1007/BF02241732"
    ),
)

# The paper embeds rows of every order from 1 to 4; only that of order 4 is used here.
cashkarp = ButcherTableau(
    name="cashkarp",
    order=5,
    order_hat=4,
    c=[0, 1 / 5, 3 / 10, 3 / 5, 1, 7 / 8],
    A=[
        [],
        [1 / 5],
        [3 / 40, 9 / 40],
        [3 / 10, -9 / 10, 6 / 5],
        [-11 / 54, 5 / 2, -70 / 27, 35 / 27],
        [1631 / 55296, 175 / 512, 575 / 13824, 44275 / 110592, 253 / 4096],
    ],
    b=[37 / 378, 0, 250 / 621, 125 / 594, 0, 512 / 1771],
    b_hat=[2825 / 27648, 0, 18575 / 48384, 13525 / 55296, 277 / 14336, 1 / 4],
    reference=(
        "J. R. Cash, A. H. Karp, A variable order Runge-Kutta method for initial value problems "
        "with rapidly varying right-hand sides, ACM Trans. Math. Softw. 16 (1990) 201-222, "
        "doi:10.1145/79505.79507"
    ),
)

dopri5 = ButcherTableau(
    name="dopri5",
    order=5,
    order_hat=4,
    c=[0, 1 / 5, 3 / 10, 4 / 5, 8 / 9, 1, 1],
    A=[
        [],
        [1 / 5],
        [3 / 40, 9 / 40],
        [44 / 45, -56 / 15, 32 / 9],
        [19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729],
        [9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656],
        [35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84],
    ],
    b=[35 / 384, 0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84, 0],
    # Dormand and Prince's own embedded row, as in DOPRI5, SciPy, MATLAB and SUNDIALS. JAX,
    # diffrax and torchdiffeq use Shampine's: (1951/21600, 0, 22642/50085, 451/720, ..., 1/60).
    b_hat=[5179 / 57600, 0, 7571 / 16695, 393 / 640, -92097 / 339200, 187 / 2100, 1 / 40],
    # One of a family of order 4; this is the member that Shampine, DOPRI5 and SciPy chose.
    interpolant=Interpolant(
        order=4,
        P=[
            [1, -8048581381 / 2820520608, 8663915743 / 2820520608, -12715105075 / 11282082432],
            [0, 0, 0, 0],
            [0, 131558114200 / 32700410799, -68118460800 / 10900136933, 87487479700 / 32700410799],
            [0, -1754552775 / 470086768, 14199869525 / 1410260304, -10690763975 / 1880347072],
            [
                0,
                127303824393 / 49829197408,
                -318862633887 / 49829197408,
                701980252875 / 199316789632,
            ],
            [0, -282668133 / 205662961, 2019193451 / 616988883, -1453857185 / 822651844],
            [0, 40617522 / 29380423, -110615467 / 29380423, 69997945 / 29380423],
        ],
        reference=(
            "L. F. Shampine, Some practical Runge-Kutta formulas, Math. Comp. 46 (1986) 135-150, "
            "doi:10.1090/S0025-5718-1986-0815836-3"
        ),
    ),
    reference=(
        "J. R. Dormand, P. J. Prince, A family of embedded Runge-Kutta formulae, J. Comput. Appl. "
        "Math. 6 (1980) 19-26, doi:10.1016/0771-050X(80)90013-3"
    ),
)

# fmt: off
tsit5 = ButcherTableau(
    name="tsit5",
    order=5,
    order_hat=4,
    c=[0, 0.161, 0.327, 0.9, 0.9800255409045096857298102862870245954942, 1, 1],
    A=[
        [],
        [161 / 1000],
        [-0.008480655492356988544426874250230774675121, 0.3354806554923569885444268742502307746751],
        [2.897153057105493432130432594192938764925, -6.359448489975074843148159912383825625953,
         4.362295432869581411017727318190886861028],
        [5.325864828439256604428877920840511317836, -11.74888356406282787774717033978577296189,
         7.495539342889836208304604784564358155659, -0.09249506636175524925650207933207191611350],
        [5.861455442946420028659251486982647890394, -12.92096931784710929170611868178335939542,
         8.159367898576158643180400794539253485182, -0.07158497328140099722453054252582973869127,
         -0.02826905039406838290900305721271224146718],
        [0.09646076681806522951816731316512876333712, 1 / 100,
         0.4798896504144995747752495322905965199130, 1.379008574103741893192274821856872770756,
         -3.290069515436080679901047585711363850116, 2.324710524099773982415355918398765796109],
    ],
    b=[0.09646076681806522951816731316512876333712, 1 / 100,
       0.4798896504144995747752495322905965199130, 1.379008574103741893192274821856872770756,
       -3.290069515436080679901047585711363850116, 2.324710524099773982415355918398765796109, 0],
    # The weights themselves; codes store their difference to b, with either sign. The method has a
    # family of embedded rows: this is the usual one, and SUNDIALS has that with 1/40 for 1/66.
    b_hat=[0.09468075576583945807478876255758922856118,
           0.009183565540343253096776363936645313759814, 0.4877705284247615707855642599631228241517,
           1.234297566930478985655109673884237654036, -2.707712349983525454881109975059321670690,
           1.866628418170587035753719399566211498666, 1 / 66],
    # The paper prints these polynomials to 17 digits. Those of k_2 and k_7 are exact, and with them
    # the order conditions determine the others, which are completed to 40 digits here.
    interpolant=Interpolant(
        order=4,
        P=[
            [1, -2.763706197274825868672988363027682259932,
             2.913255461821912655418645978715879573212, -1.053088497729021557227490302523068549943],
            [0, 0.1317, -0.2234, 0.1017],
            [0, 3.930296236894751517409293669459985498088,
             -5.941033872131504735717589209757584916523, 2.490627285651252793083545072588195938349],
            [0, -12.41107716693367703873047339671185493681,
             30.33818863028232165023004608085120095664, -16.54810288924490271830729786228247324908],
            [0, 37.50931341651103917897843911106474125196,
             -88.17890489476640107756106856497493790438, 47.37952196281928121868158186819883280231],
            [0, -27.89652628919728778898427102078518955331,
             65.09189467479367150762996571516544229105, -34.87065786149660973623033877598148694164],
            [0, 1.5, -4, 2.5],
        ],
        reference=(
            "Ch. Tsitouras, Runge-Kutta pairs of order 5(4) satisfying only the first column "
            "simplifying assumption, Comput. Math. Appl. 62 (2011) 770-775, "
            "doi:10.1016/j.camwa.2011.06.002"
        ),
    ),
    reference=(
        "Ch. Tsitouras, Runge-Kutta pairs of order 5(4) satisfying only the first column "
        "simplifying assumption, Comput. Math. Appl. 62 (2011) 770-775, "
        "doi:10.1016/j.camwa.2011.06.002"
    ),
)
# fmt: on

# fmt: off
bs5 = ButcherTableau(
    name="bs5",
    order=5,
    order_hat=4,
    c=[0, 1 / 6, 2 / 9, 3 / 7, 2 / 3, 3 / 4, 1, 1],
    A=[
        [],
        [1 / 6],
        [2 / 27, 4 / 27],
        [183 / 1372, -162 / 343, 1053 / 1372],
        [68 / 297, -4 / 11, 42 / 143, 1960 / 3861],
        [597 / 22528, 81 / 352, 63099 / 585728, 58653 / 366080, 4617 / 20480],
        [174197 / 959244, -30942 / 79937, 8152137 / 19744439, 666106 / 1039181, -29421 / 29068,
         482048 / 414219],
        [587 / 8064, 0, 4440339 / 15491840, 24353 / 124800, 387 / 44800, 2152 / 5985, 7267 / 94080],
    ],
    b=[587 / 8064, 0, 4440339 / 15491840, 24353 / 124800, 387 / 44800, 2152 / 5985, 7267 / 94080,
       0],
    # The pair has two independent error estimates. This row uses all eight stages, as in RKSUITE;
    # the other estimate needs only the first six.
    b_hat=[2479 / 34992, 0, 123 / 416, 612941 / 3411720, 43 / 1440, 2272 / 6561, 79937 / 1113912,
           3293 / 556956],
    interpolant=Interpolant(
        order=5,
        c=[1 / 2, 5 / 6, 1 / 9],
        A=[
            [455 / 6144, 0, 10256301 / 35409920, 2307361 / 17971200, -387 / 102400, 73 / 5130,
             -7267 / 215040, 1 / 32],
            [-837888343715 / 13176988637184, 30409415 / 52955362, -48321525963 / 759168069632,
             8530738453321 / 197654829557760, 1361640523001 / 1626788720640,
             -13143060689 / 38604458898, 18700221969 / 379584034816, -5831595 / 847285792,
             -5183640 / 26477681],
            [98719073263 / 1551965184000, 1307 / 123552, 4632066559387 / 70181753241600,
             7828594302389 / 382182512025600, 40763687 / 11070259200, 34872732407 / 224610586200,
             -2561897 / 30105600, 1 / 10, -1 / 10, -1403317093 / 11371610250],
        ],
        P=[
            [1, -3547880131 / 437837400, 35856435071 / 1313512200, -2722545893 / 59875200,
             12923488183 / 350269920, -12134338393 / 1050809760],
            [0, 0, 0, 0, 0, 0],
            [0, -1046723109 / 304608304, 4323308999 / 152304152, -27096444225 / 374902528,
             65150312289 / 870309440, -33197340367 / 1218433216],
            [0, -55058055073 / 41469456600, 3249645975331 / 248816739600,
             -201150852119 / 5671036800, 6343174409579 / 165877826400, -284800997201 / 19905339168],
            [0, -1772261 / 10810800, 3586937 / 4054050, -2903933 / 1478400, 85695583 / 43243200,
             -540919 / 741312],
            [0, 2449079168 / 623918295, -9134977024 / 267393555, 413114104 / 5332635,
             -41174140576 / 623918295, 7157998304 / 374350977],
            [0, -7267 / 3920, 792103 / 47040, -1329861 / 31360, 94471 / 2240, -138073 / 9408],
            [0, 37 / 16, -1349 / 64, 3435 / 64, -3479 / 64, 1245 / 64],
            [0, 0, -7 / 3, 23, -39, 55 / 3],
            [0, -423642896 / 126351225, 11411880511 / 379053675, -26477681 / 359975,
             1774004627 / 25270245, -1774004627 / 75810735],
            [0, 12, -59, 117, -105, 35],
        ],
        reference=(
            "P. Bogacki, L. F. Shampine, An efficient Runge-Kutta (4,5) pair, Comput. Math. Appl. "
            "32 (1996) 15-28, doi:10.1016/0898-1221(96)00141-1"
        ),
    ),
    reference=(
        "P. Bogacki, L. F. Shampine, An efficient Runge-Kutta (4,5) pair, Comput. Math. Appl. 32 "
        "(1996) 15-28, doi:10.1016/0898-1221(96)00141-1"
    ),
)
# fmt: on
