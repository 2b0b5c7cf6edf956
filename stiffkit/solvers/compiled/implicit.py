"""What is done for implicit methods between the kernel's calls.

It is imported when one is in use, for it brings SciPy's linear algebra and all those families: an
explicit solve starts sooner without.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..algebra import NOT_FINITE
from ..linalg import singular
from ..newton_step import F_NOT_FINITE, NO_CONVERGENCE, DirkStages, RadauStages
from . import dirk, linear, parts, radau, rosenbrock
from .parts import K

if TYPE_CHECKING:
    from .run import CompiledRun

__all__ = ["implicit_method", "show_jacobian", "show_stages", "why_failed"]


def implicit_method(run: CompiledRun) -> Any:
    """Return the method as the kernel takes it, its rows of W, and those of its polynomials."""
    p, stages = run.problem, run.stages
    source, band, J = stages.linear.source, run.stiff.get("bandwidth"), None
    if run.jac is not None:
        J = source(run.t, run.y, stages.f_0)
        # The kernel has no clock: a Jacobian that seems dear is made again for the time alone.
        while run.switcher is not None and run.switcher.costs.doubts_jacobian:
            J = source(run.t, run.y, stages.f_0)
    a = linear.linear(len(p.y0), p.y0.dtype, band, J, constant=source.constant)
    if isinstance(stages, DirkStages):
        return dirk.dirk(stages, a)
    if isinstance(stages, RadauStages):
        return radau.radau(stages, a)
    return rosenbrock.rosenbrock(run.tableau, a)


def show_jacobian(stages: Any, method: Any) -> None:
    """Let the stages know the kernel's last J."""
    stages.linear.J = linear.matrix(method.linear)


def show_stages(stages: Any, W: Any) -> None:
    """Let the stages know the last stage derivatives, where they guess the next ones by those."""
    if isinstance(stages, DirkStages):
        stages.K_flat[:] = W[K:][: len(stages.K)]


def why_failed(limit: int, c: complex) -> object:
    """Say what the last attempts failed for; c is what their matrix I − cJ was made with."""
    return {
        parts.NON_FINITE: NOT_FINITE,
        parts.F_NON_FINITE: F_NOT_FINITE,
        parts.NEWTON: NO_CONVERGENCE,
    }.get(limit) or singular(c if c.imag else c.real)
