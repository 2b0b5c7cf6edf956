"""A solve in progress whose steps the compiled kernel takes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, final

import numpy as np

from ..._optional import is_jitted
from ..control import PIDController
from ..loop import Run
from ..options import Progress
from ..problem import Problem
from ..rosenbrock import RosenbrockTableau
from ..stabilised import SCHEMES, StabilisedMethod
from ..tableau import ButcherTableau
from .functions import Function, given_jacobian, given_number, rhs

if TYPE_CHECKING:
    from .stretches import Stretches

__all__ = ["CompiledRun"]

_LONGEST = 600
"""Components up to which the kernel's loops over them cost less than NumPy's calls. Those of
stabilised methods always do: a stage is one loop."""

_LARGEST = 128
"""Entries in a row of J whose LU decomposition is plain loops: LAPACK's, which the interpreted
loop calls, is faster from some 150 on."""


@final
class CompiledRun(Run):
    """`Run`, with the steps of an adaptive solve compiled where they can be; all else is inherited.

    Parameters
    ----------
    f : numba dispatcher
        The user's right-hand side.
    given : mapping
        `jac`, `radius` and `events` as the user gave them.
    args : sequence
        Further arguments of both.
    *arguments, **options
        As for `Run`.
    """

    compiled = True

    def __init__(
        self,
        f: Any,
        given: Mapping[str, Any],
        args: Sequence[Any],
        *arguments: Any,
        **options: Any,
    ) -> None:
        super().__init__(*arguments, **options)
        self.f, self.jac, self.radius, self.args = f, given["jac"], given["radius"], tuple(args)
        self.events = _functions(given["events"])
        self.unseen = bool(self.hooks.wanted or options["progress"])
        self.function: Function | None = None
        self.function_jac: Function | None = None
        self.function_radius: Function | None = None
        self.watched: list[Function] = []

    def _make_stages(self, p: Problem, tableau: Any, f_0: Any) -> Any:
        if self.function is None and self.stages is None and self._fits(tableau):
            self.function = rhs(self.f, p.y0.reshape(p.shape), self.args)
        explicit = isinstance(tableau, ButcherTableau) and tableau.explicit
        if explicit and self.function is not None:
            from .stretches import Rows

            return Rows(tableau, f_0)
        return super()._make_stages(p, tableau, f_0)

    def _fits(self, tableau: Any) -> bool:
        """Whether the kernel can take the solve's steps, by one method or by all of a choice."""
        p, steps = self.problem, self.steps
        y = p.y0.reshape(p.shape)
        return (
            not self.unseen
            and steps.grid is None
            and steps.norm is None
            and type(steps.controller) is PIDController
            and self.hooks.on_attempt is None
            and p.split is None
            and y.dtype.char in "dD"
            and y.size > 0
            and p.shape != ()
            and self._events_fit(y)
            and all(
                self._method_fits(method, y)
                for method in ([tableau] if self.switcher is None else self.switcher.members())
            )
        )

    def _method_fits(self, method: Any, y: Any) -> bool:
        if isinstance(method, StabilisedMethod):
            return self._radius_fits(method, y)
        if y.size > _LONGEST:
            return False
        if isinstance(method, ButcherTableau) and method.explicit:
            return True
        return isinstance(method, RosenbrockTableau | ButcherTableau) and self._jacobian_fits(y)

    def _jacobian_fits(self, y: Any) -> bool:
        """Whether the kernel makes J: dense or a band, by differences or a compiled function."""
        band = self.stiff.get("bandwidth")
        if min(y.size, y.size if band is None else sum(band) + 1) > _LARGEST:
            return False
        others = (self.stiff[name] for name in self.stiff.keys() - {"jac", "bandwidth", "radius"})
        if any(value is not None for value in others):
            return False
        if is_jitted(self.jac):
            self.function_jac = given_jacobian(self.jac, y, self.args)
            return self.function_jac is not None
        return self.jac is None or (isinstance(self.jac, np.ndarray) and self.jac.ndim == 2)

    def _events_fit(self, y: Any) -> bool:
        """Whether the kernel can watch: compiled functions that return a number."""
        count = 0 if self.finder is None else len(self.finder.functions)
        # An iterator has been used up by now.
        if len(self.events) != count or not all(map(is_jitted, self.events)):
            return False
        found = [given_number(g, y, self.args) for g in self.events]
        self.watched = [g for g in found if g is not None]
        return len(self.watched) == len(found)

    def _radius_fits(self, method: StabilisedMethod, y: Any) -> bool:
        """Whether the kernel finds the spectral radius itself: a number, or a compiled function."""
        if is_jitted(self.radius):
            self.function_radius = given_number(self.radius, y, self.args)
            return self.function_radius is not None and method.step in SCHEMES
        return not callable(self.radius) and method.step in SCHEMES

    def ready(self) -> Stretches | None:
        """Start, and return the kernel's arguments; None where Python has a part in the steps."""
        looks = self.finder is not None or self.segments is not None or self.hooks.rows is not None
        if looks or not self._start() or self.function is None:
            return None
        from .stretches import Stretches

        return Stretches(self, self.function)

    def _control_steps(self, bar: Progress) -> None:
        if self.function is None:
            super()._control_steps(bar)
            return
        from .stretches import Stretches  # the kernel comes with it

        stay = Stretches(self, self.function)
        change = stay.take()
        while change is not None:
            assert self.switcher is not None
            (self.stages, h_abs), self.tableau = change, self.switcher.method
            self.watch()
            stay = Stretches(self, self.function, stay, h_abs)
            change = stay.take()


def _functions(events: Any) -> list[Any]:
    """Return the user's event functions, which are known to be such."""
    if events is None:
        return []
    return [events] if callable(events) else list(events)
