"""Adaptive solves whose whole loop numba compiles; imported when f is compiled.

Compiled are all families of methods on float64 and complex128 states of any shape, with every
option of the tolerances, of the steps and of `log`, `detect` and `args`, with `t_eval`, `dense` and
compiled `events`, and the named controllers or a `PIDController`. Jacobians are dense or banded: by
differences, by a compiled `jac`, or a constant matrix; a `radius` is compiled, or a number. All
else (``method="auto"``, `grid`, `guide`, `observe`, `callback`, `progress`, `norm`, your own
controllers, sparse and matrix-free Jacobians, `mass`, single precision) runs the interpreted loop
around the compiled f, with the same results.

`kernel` is the loop. What families of methods do of their own (`explicit`, `stabilised`,
`rosenbrock`, `dirk` and `radau`, which share `newton`) are the parts that `parts` names; numba
chooses them by the type of the method's NamedTuple. `linear` makes Jacobians and decomposes.
"""

from .functions import InPlace, jit, writes
from .run import CompiledRun

__all__ = ["CompiledRun", "InPlace", "jit", "writes"]
