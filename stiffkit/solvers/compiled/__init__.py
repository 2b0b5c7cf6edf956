"""Adaptive solves whose whole loop numba compiles; imported when f is compiled.

Compiled are all families of methods on float64 and complex128 states of any shape, with every
option of the tolerances, of the steps and of `log`, `detect` and `args`, with `t_eval`, `dense` and
compiled `events`, and the named controllers or a `PIDController`. Jacobians are dense or banded: by
differences, by a compiled `jac`, or a constant matrix; a `radius` is compiled, or a number. All
else (`grid`, `guide`, `observe`, `callback`, `progress`, `norm`, your own
controllers, sparse and matrix-free Jacobians, `mass`, single precision) runs the interpreted loop
around the compiled f, with the same results.

``method="auto"`` is compiled where all of its members are. The choice is the interpreted loop's
own, `stiffkit.solvers.switch`: Python is asked between stretches of one method, where another one
may have to go on, and a method is compiled when it is first chosen.

`kernel` is the loop. What families of methods do of their own (`explicit`, `stabilised`,
`rosenbrock`, `dirk` and `radau`, which share `newton`) are the parts that `parts` names; numba
chooses them by the type of the method's NamedTuple. `linear` makes Jacobians and decomposes.
"""

from .functions import InPlace, jit, writes
from .run import CompiledRun

__all__ = ["CompiledRun", "InPlace", "jit", "writes"]
