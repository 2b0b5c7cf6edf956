"""What each method is for, in words: the pages of `method_pages` open with it."""

from __future__ import annotations

NOTES: dict[str, str] = {
    "euler": (
        "Euler's method is the least a method can do: follow the slope. Without an error "
        "estimate it runs on a `grid`. Take it to learn with, to compare with, and where the "
        "grid is imposed from outside, as by a sampler's noise levels."
    ),
    "heun": (
        "The explicit trapezoidal rule, with Euler's method embedded. Its second stage is "
        "evaluated at the end of the step, beside the slope of the next step: two slopes at one "
        "time, from which {doc}`ERK-Guid <../theory/erk-guid>` reads the stiffness for nothing. "
        "EDM's sampler is this method on a grid of noise levels."
    ),
    "midpoint": (
        "Runge's midpoint rule, with Euler's method embedded. Its stability function is that of "
        "all methods of order 2 with two stages; what differs is the error of nonlinear terms."
    ),
    "ralston": (
        "Of the methods of order 2 with two stages, the one with Ralston's least bound of the "
        "local error. Euler's method is embedded."
    ),
    "heun3": (
        "Heun's method of order 3, of which most weights are zero. Without an embedded row "
        "here, it runs on a `grid`."
    ),
    "bosh3": (
        "Bogacki and Shampine's pair, known as RK23 in SciPy and ode23 in MATLAB. Take it for "
        "two or three digits, or where stability limits the steps a little: its interval on the "
        "negative real axis is long for the calls that it takes."
    ),
    "rk4": (
        "The classical method of Kutta. It has no embedded row and runs on a `grid`. Among "
        "methods of its cost it has a long interval on the imaginary axis, which suits waves "
        "and other undamped oscillations with steps that are known beforehand."
    ),
    "rk38": (
        "Kutta's other method of order 4, the 3/8 rule: a little more accurate than `rk4`, with "
        "the same stability function. torchdiffeq's `rk4` is this one."
    ),
    "rkf45": (
        "Fehlberg's pair, the first that was widely used. Here the row of order 5 advances the "
        "solution. It is kept for comparison with older codes; newer pairs of this order need "
        "fewer calls."
    ),
    "cashkarp": (
        "The pair of *Numerical Recipes*. Cash and Karp embedded rows of every lower order for "
        "rough right-hand sides; here the one of order 4 is used."
    ),
    "dopri5": (
        "The pair of Dormand and Prince: RK45 in SciPy, ode45 in MATLAB, DOPRI5 of Hairer's "
        "codes. Take it to reproduce their results; `tsit5` is a little more accurate for the "
        "same calls."
    ),
    "tsit5": (
        "Tsitouras' pair, and the first method that `auto` tries. Start with it for non-stiff "
        "problems and three to seven digits."
    ),
    "bs5": (
        "Bogacki and Shampine's larger pair: one stage more than the other pairs of order 5, "
        "and an error so much smaller that it often needs the fewest calls of them. Its "
        "interpolant of order 5 takes further calls of f in the steps that are interpolated."
    ),
    "dopri8": (
        "Prince and Dormand's RK8(7)13M, torchdiffeq's `dopri8`. `dop853` and `vern8` are newer "
        "methods of the same order."
    ),
    "dop853": (
        "Hairer's method of order 8 with two embedded rows, whose estimates are combined. SciPy "
        "calls it DOP853. It is the one to take for many digits where SciPy's results are to be "
        "reproduced, and for undamped oscillations: its interval on the imaginary axis is long."
    ),
    "vern6": (
        "Verner's most efficient pair of order 6(5): a step between the pairs of order 5 and "
        "`vern7`."
    ),
    "vern7": (
        "Verner's most efficient pair of order 7(6). `auto` starts with it for tolerances below "
        "those of `tsit5`. Take it for seven to ten digits of a smooth solution."
    ),
    "vern8": (
        "Verner's most efficient pair of order 8(7), for smooth problems and nearly all the "
        "digits that double precision has."
    ),
    "vern9": (
        "Verner's most efficient pair of order 9(8): the method for reference solutions close "
        "to rounding, and for long orbits."
    ),
    "trbdf2": (
        "A step of the trapezoidal rule, then one of BDF2, made one ESDIRK method. The choice "
        "of γ makes it L-stable; the embedded row has the higher order. Take it for two or "
        "three digits of rough stiff problems, such as circuits."
    ),
    "kvaerno3": (
        "Kværnø's ESDIRK pair of order 3: both rows are stiffly accurate, so that the embedded "
        "method, too, is stable at infinity."
    ),
    "kvaerno4": (
        "Kværnø's ESDIRK pair of order 4. Of her two values of γ, it has the one for which the "
        "advancing row is L-stable."
    ),
    "kvaerno5": (
        "Kværnø's ESDIRK pair of order 5. A Jacobian and its factors serve several steps, which "
        "pays where they are expensive; it also solves batches of torch tensors."
    ),
    "kencarp3": (
        "The implicit half of Kennedy and Carpenter's additive pair of order 3 ([ark3](ark3.md)). "
        "It may be used alone; given two functions, `solve` runs the pair."
    ),
    "kencarp4": (
        "The implicit half of Kennedy and Carpenter's additive pair of order 4 ([ark4](ark4.md)). "
        "Alone it is a good choice where f or its Jacobian is expensive, and forgives a "
        "Jacobian that is old or rough."
    ),
    "kencarp5": (
        "The implicit half of Kennedy and Carpenter's additive pair of order 5 ([ark5](ark5.md)), "
        "for more digits than `kencarp4`."
    ),
    "radau5": (
        "The Radau IIA method with three stages: collocation at Radau's points. All stages are "
        "solved together, by Newton's iteration on one real and one complex system. Its stage "
        "order is 3, so that the order holds on stiff problems; take it for many digits, and "
        "where robustness counts."
    ),
    "radau9": (
        "The Radau IIA method with five stages: each iteration solves one real and two complex "
        "systems. Its stage order is 5. Take it for six digits and more; `auto` does. At two to "
        "four digits [radau5](radau5.md) takes as long. It takes NumPy states."
    ),
    "ros23": (
        "Shampine and Reichelt's ode23s of MATLAB: three linear solves with one matrix, no "
        "iteration. For two or three digits."
    ),
    "rodas4": (
        "Hairer and Wanner's Rosenbrock method RODAS of order 4. It is stiffly accurate and "
        "needs the exact Jacobian; nothing is iterated, so nothing can fail to converge."
    ),
    "rodas5p": (
        "Steinebach's Rosenbrock method of order 5, made to keep much of its order on stiff and "
        "on differential-algebraic problems. It is the stiff method to start with."
    ),
    "ros34pw2": (
        "Rang and Angermann's W-method: its order holds with any matrix in place of the "
        "Jacobian. Take it where the Jacobian is a rough approximation."
    ),
    "rkc2": (
        "The Runge-Kutta-Chebyshev method, for diffusion on fine grids and few digits; `auto` "
        "takes it at loose tolerances. It keeps a handful of states, however many stages it "
        "makes."
    ),
    "rkl2": (
        "The Runge-Kutta-Legendre method: a shorter interval than `rkc2`, and strong damping "
        "inside. The even stage counts end with R = 1 at the edge."
    ),
    "rock2": (
        "Abdulle and Medovikov's method of order 2, whose interval is the longest here, nearly "
        "the best possible. The embedded method is of order 1 only."
    ),
    "rock4": (
        "Abdulle's method of order 4: for diffusion and four or more digits, where `auto` takes "
        "it. In single precision its last stages amplify rounding."
    ),
    "ark3": (
        "Kennedy and Carpenter's additive pair of order 3, for y' = f_explicit + f_implicit: "
        "Newton's iteration sees the stiff part alone."
    ),
    "ark4": (
        "Kennedy and Carpenter's additive pair of order 4, and what `auto` is for a split "
        "right-hand side. Typical use: stiff diffusion with a cheap banded Jacobian beside a "
        "reaction or advection that is not stiff."
    ),
    "ark5": (
        "Kennedy and Carpenter's additive pair of order 5, for smooth split problems and many "
        "digits."
    ),
}
