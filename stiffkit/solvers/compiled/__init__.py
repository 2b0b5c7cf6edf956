"""Explicit adaptive solves whose whole loop numba compiles; imported when f is compiled.

Compiled are the explicit methods on float64 and complex128 states of any shape, with every option
of the tolerances, of the steps and of `t_eval`, `dense`, `log`, `detect` and `args`, and the named
controllers or a `PIDController`. All else (``method="auto"``, other families, `grid`, `events`,
`guide`, `observe`, `callback`, `progress`, your own controllers, single precision) runs the
interpreted loop around the compiled f, with the same results.
"""

from .functions import InPlace, jit, writes
from .run import CompiledRun

__all__ = ["CompiledRun", "InPlace", "jit", "writes"]
