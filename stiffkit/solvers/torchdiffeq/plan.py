"""torchdiffeq's methods and options, in stiffkit's terms."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from ..._array import to_numpy
from .._tree import is_tree, tree_map
from ..methods import METHODS
from ..problem import check_method, check_positive
from ..tableau import ButcherTableau

__all__ = ["Plan"]

# The two rows differ by 1/512 (k_1 − k_3): the estimate is far smaller than the error of either, so
# that this pair stands here for its name alone, and not among the methods.
FEHLBERG2 = ButcherTableau(
    name="fehlberg2",
    order=2,
    order_hat=1,
    c=[0, 1 / 2, 1],
    A=[
        [],
        [1 / 2],
        [1 / 256, 255 / 256],
    ],
    b=[1 / 512, 255 / 256, 1 / 512],
    b_hat=[1 / 256, 255 / 256, 0],
    reference=(
        "E. Fehlberg, Klassische Runge-Kutta-Formeln vierter und niedrigerer Ordnung mit "
        "Schrittweiten-Kontrolle und ihre Anwendung auf Wärmeleitungsprobleme, Computing 6 (1970) "
        "61-71, doi:10.1007/BF02241732"
    ),
)

_ADAPTIVE = {"adaptive_heun": "heun", "fehlberg2": FEHLBERG2}
_FIXED = {
    "euler": "euler",
    "midpoint": "midpoint",
    "heun2": "heun",
    "heun3": "heun3",
    "rk4": "rk38",
}
"""torchdiffeq's names that mean something else here; its rk4 is the 3/8 rule."""

_NEAREST = {
    "explicit_adams": "'rk4' for fixed steps, or 'vern7'",
    "implicit_adams": "'rk4' for fixed steps, or 'vern7'",
    "fixed_adams": "'rk4' for fixed steps, or 'vern7'",
    "implicit_euler": "'trbdf2' with step_size for fixed steps",
    "implicit_midpoint": "'trbdf2' with step_size for fixed steps",
    "trapezoid": "'trbdf2' with step_size for fixed steps",
    "sdirk2": "'trbdf2' with step_size for fixed steps",
    "radauIIA3": "'kvaerno3', with step_size for fixed steps",
    "radauIIA5": "'radau5', with step_size for fixed steps",
    "gl4": "'kvaerno4', with step_size for fixed steps",
    "gl6": "'kvaerno5', with step_size for fixed steps",
}
_SCIPY = {"RK45": "dopri5", "RK23": "bosh3", "DOP853": "dop853"}
_NEAREST_SCIPY = {"Radau": "'radau5'", "BDF": "'rodas5p'", "LSODA": "'kvaerno5' or 'rodas5p'"}

_FOR_STEPS = {"first_step", "safety", "ifactor", "dfactor", "min_step", "max_step", "max_num_steps"}
_FOR_STEPS |= {"dtype", "step_t", "jump_t", "norm"}
_FOR_GRIDS = {"step_size", "grid_constructor", "interp", "perturb", "norm"}


@dataclass(frozen=True)
class _Elementary:
    """torchdiffeq's control: h shrinks only after a rejection, and may grow at once after it."""

    safety: float = 0.9
    ifactor: float = 10.0
    dfactor: float = 0.2

    def __post_init__(self) -> None:
        for name in ("safety", "ifactor", "dfactor"):
            check_positive(f"options[{name!r}]", getattr(self, name))
        if not (self.dfactor < 1.0 <= self.ifactor and self.safety <= 1.0):
            msg = (
                "options must have dfactor < 1 <= ifactor and safety <= 1, not "
                f"{self.dfactor!r}, {self.ifactor!r}, {self.safety!r}"
            )
            raise ValueError(msg)

    def init(self) -> None:
        """Nothing is remembered."""

    def __call__(self, ratio: float, _: None, order: int) -> tuple[bool, float, None]:
        accept = ratio <= 1.0
        factor = self.safety * ratio ** (-1 / (order + 1)) if ratio > 0 else self.ifactor
        least = 1.0 if accept else self.dfactor
        return accept, min(self.ifactor, max(factor, least)), None


@dataclass(frozen=True, eq=False)
class Plan:
    """A method and its options, checked."""

    method: Any
    fixed: bool
    options: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, method: Any, options: Any) -> Plan:
        """Return the plan of arguments as `odeint` takes them.

        Raises
        ------
        ValueError
            If there is no such method or option, or a value is out of range.
        """
        given = dict(options or {})
        name: Any = "dopri5" if method is None else method
        if name == "scipy_solver":
            solver = given.pop("solver", "LSODA")
            name = _SCIPY.get(solver)
            if name is None:
                near = _NEAREST_SCIPY.get(solver, "'dopri5'")
                msg = f"there is no scipy_solver {solver!r} on tensors; the nearest is {near}"
                raise ValueError(msg)
        if isinstance(name, str) and name in _NEAREST:
            msg = f"there is no method {name!r}; the nearest is {_NEAREST[name]}"
            raise ValueError(msg)
        fixed = name in _FIXED if isinstance(name, str) else False
        fixed = fixed or any(
            given.get(key) is not None for key in ("step_size", "grid_constructor")
        )
        if isinstance(name, str):
            name = {**_ADAPTIVE, **_FIXED}.get(name, name)
        if name != "auto":
            name = check_method(name, METHODS, adaptive=not fixed)
        known = _FOR_GRIDS if fixed else _FOR_STEPS
        for key in given:
            if key not in known:
                other = key in _FOR_GRIDS | _FOR_STEPS
                close = difflib.get_close_matches(key, known, n=1)
                hint = f"; did you mean {close[0]!r}?" if close else "."
                kind = "fixed steps" if fixed else "steps under control"
                why = f" {'is not for' if other else 'is unknown for'} {kind}{hint}"
                msg = f"option {key!r}{why} Known are: {', '.join(sorted(known))}"
                raise ValueError(msg)
        plan = cls(name, fixed, given)
        plan._check()
        return plan

    def _check(self) -> None:
        options = self.options
        if options.get("min_step"):
            msg = f"min_step={options['min_step']!r}: steps are not accepted unless they are good"
            raise ValueError(msg)
        dtype = options.get("dtype", torch.float64)
        if not (isinstance(dtype, torch.dtype) and dtype.is_floating_point):
            msg = f"options['dtype'] must be a floating dtype of torch, not {dtype!r}"
            raise ValueError(msg)
        if options.get("step_size") is not None:
            check_positive("step_size", options["step_size"])
            if options.get("grid_constructor") is not None:
                msg = "step_size and grid_constructor exclude each other"
                raise ValueError(msg)
        if options.get("interp", "linear") not in ("linear", "cubic"):
            msg = f"interp must be 'linear' or 'cubic', not {options['interp']!r}"
            raise ValueError(msg)

    def grid(self, func: Any, y0: Any, t: torch.Tensor) -> np.ndarray[Any, Any] | None:
        """Return the fixed steps' times from t[0] to t[-1]."""
        if not self.fixed:
            return None
        if self.options.get("grid_constructor") is not None:
            return to_numpy(self.options["grid_constructor"](func, y0, t))
        times = to_numpy(t)
        if self.options.get("step_size") is None:
            return times
        t0, t1, h = times[0], times[-1], float(self.options["step_size"])
        # A rounding in the quotient is no reason for one more step.
        n = max(1, math.ceil(abs(t1 - t0) / h * (1 - 1e-9)))
        grid = np.append(t0 + math.copysign(h, t1 - t0) * np.arange(n), t1)
        # Nor is one a reason for a time beside an output's.
        near = np.abs(grid[:, None] - times).argmin(1)
        return np.where(np.abs(grid - times[near]) < 1e-9 * h, times[near], grid)

    def cuts(self, t0: float, t1: float) -> tuple[list[float], set[float]]:
        """Return where steps must end inside the span, in order, and where f may jump there."""
        found = []
        for name in ("step_t", "jump_t"):
            given = self.options.get(name)
            times = np.unique(np.atleast_1d(to_numpy([] if given is None else given)))
            found.append(times[(times > min(t0, t1)) & (times < max(t0, t1))].tolist())
        if set(found[0]) & set(found[1]):
            msg = "step_t and jump_t must not share a time"
            raise ValueError(msg)
        return sorted(found[0] + found[1], reverse=t1 < t0), set(found[1])

    def norm(self, y0: Any) -> Any:
        """Return the norm of the states; torchdiffeq's for tuples is the largest rms of a part."""
        return self.options.get("norm", _largest_rms if is_tree(y0) else None)

    def control(self) -> dict[str, Any]:
        """Return the arguments of `solve` that decide the steps."""
        if self.fixed:
            return {}
        given = {key: value for key, value in self.options.items() if value is not None}
        factors = {k: float(given[k]) for k in ("safety", "ifactor", "dfactor") if k in given}
        control: dict[str, Any] = {"controller": _Elementary(**factors)}
        for theirs, ours in (("max_step", "max_step"), ("max_num_steps", "max_steps")):
            if theirs in given:
                control[ours] = given[theirs]
        return control


def _largest_rms(parts: Any) -> torch.Tensor:
    sizes: list[torch.Tensor] = []
    tree_map(lambda x: sizes.append(x.abs().square().mean().sqrt()), parts)
    return torch.stack(sizes).max()
