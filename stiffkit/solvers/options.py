"""The arguments of `solve` that are not the problem: steps, hooks, events, progress."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from .._optional import require
from .control import CONTROLLERS, Controller
from .problem import Problem, bind, check_positive, check_times

Floats = npt.NDArray[np.float64]

__all__ = ["Hooks", "Progress", "StepOptions", "counted", "event_functions"]

DEFAULT_CONTROLLER = "PI-DOPRI5"
"""Chosen by measurement: docs/decisions/001-default-controller.md."""

LOG_COLUMNS = ("t", "h", "ratio", "accepted", "limit")


def counted(count: float, noun: str) -> str:
    """Return a number of things in words."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


class StepOptions:
    """What decides the step sizes, checked."""

    grid: list[float] | None

    def __init__(
        self,
        controller: Any,
        first: Any,
        max_step: Any,
        max_steps: Any,
        grid: Any,
        norm: Any = None,
    ) -> None:
        chosen = DEFAULT_CONTROLLER if controller is None else controller
        if isinstance(chosen, str):
            if chosen not in CONTROLLERS:
                names = {name.lower(): name for name in CONTROLLERS}
                near = difflib.get_close_matches(chosen.lower(), names, n=1, cutoff=0.4)
                hint = f"; did you mean {names[near[0]]!r}?" if near else "."
                msg = f"unknown controller {chosen!r}{hint} Known are: {', '.join(CONTROLLERS)}"
                raise ValueError(msg)
            chosen = CONTROLLERS[chosen]
        if isinstance(chosen, type) or not (callable(chosen) and hasattr(chosen, "init")):
            msg = f"controller must be a name or a Controller, not {chosen!r}"
            raise TypeError(msg)
        self.controller: Controller = chosen
        self.first = None if first is None else check_positive("first_step", first)
        self.max_step = check_positive("max_step", max_step)
        self.max_steps = check_positive("max_steps", max_steps, whole=True)
        self.grid_argument, self.grid = grid, None
        if norm is not None and not callable(norm):
            msg = f"norm must be callable, norm(x), not {norm!r}"
            raise TypeError(msg)
        self.norm = norm

    def check(self, t0: float, t1: float) -> None:
        """Check what depends on the time span."""
        if self.first is not None and self.first > abs(t1 - t0) > 0:
            msg = f"first_step={self.first!r} is longer than t_span ({t0!r}, {t1!r})"
            raise ValueError(msg)
        grid = self.grid_argument
        if grid is None:
            return
        if callable(grid):
            grid = grid(t0, t1)
        if isinstance(grid, (int, float, np.integer, np.floating)) or getattr(grid, "ndim", 1) == 0:
            n = check_positive("grid", grid, whole=True)
            self._bounded(n)
            self.grid = np.linspace(t0, t1, int(n) + 1).tolist()
        else:
            self.grid = check_times("grid", grid, t0, t1)
            self._bounded(len(self.grid) - 1)
        if not self.grid or self.grid[0] != t0 or self.grid[-1] != t1:
            msg = f"grid must start at t0 = {t0!r} and end at t1 = {t1!r}"
            raise ValueError(msg)

    def table(self, t0: Floats, t1: Floats) -> Floats | None:
        """Return the grids of a batch, shape (n_t, B), or None; t0 and t1 of shape (B,)."""
        if self.grid_argument is None:
            return None
        columns: dict[tuple[float, float], list[float] | None] = {}
        spans = list(zip(t0.tolist(), t1.tolist(), strict=True))
        for span in spans:
            if span not in columns:
                self.check(*span)
                columns[span] = self.grid
        if len({len(column or ()) for column in columns.values()}) > 1:
            msg = "all samples of a batch must make the same number of steps: grid gives several"
            raise ValueError(msg)
        return np.array([columns[span] for span in spans]).T

    def _bounded(self, steps: float) -> None:
        if steps > self.max_steps:
            msg = f"grid has {steps} steps, more than max_steps = {self.max_steps}"
            raise ValueError(msg)


class Hooks:
    """What looks at steps, checked; `wanted` if anything does at those that are accepted."""

    def __init__(
        self, guide: Any, observe: Any, callback: Any, on_attempt: Any = None, *, log: bool
    ) -> None:
        if (
            observe is None
            or isinstance(observe, (str, bytes))
            or not (callable(observe) or np.iterable(observe))
        ):
            msg = f"observe must be a hook or a sequence of hooks, not {observe!r}"
            raise TypeError(msg)
        observers = [observe] if callable(observe) else list(observe)
        named = [("observe", hook) for hook in observers]
        named += [("guide", guide)] * (guide is not None)
        named += [("callback", callback)] * (callback is not None)
        self.wanted = bool(named)
        named += [("on_attempt", on_attempt)] * (on_attempt is not None)
        for name, hook in named:
            if not callable(hook):
                msg = f"{name} must be callable, not {hook!r}"
                raise TypeError(msg)
            if isinstance(hook, type):
                msg = f"{name} must be a hook, not the class {hook.__name__}: make one of it"
                raise TypeError(msg)
        self.guide, self.callback, self.on_attempt = guide, callback, on_attempt
        self.observers: dict[str, Callable[..., Any]] = {}
        for hook in observers:
            self.observers[self._free_name(hook)] = hook
        self.rows: list[dict[str, Any]] | None = [] if log or observers else None
        self._keys: dict[str, dict[Any, str]] = {}
        """Names of the columns of each observer that returns dicts, by its keys."""

    def record(self, name: str, reading: Any) -> None:
        """Log an observer's reading at the last step; of a dict, each entry under its key."""
        if self.rows is not None:
            self.rows[-1] |= self.by_column(name, reading)

    @property
    def keyed(self) -> set[str]:
        """Names of the observers that have returned dicts."""
        return set(self._keys)

    def by_column(self, name: str, reading: Any) -> dict[str, Any]:
        """Return an observer's reading under the names of the columns that it goes to."""
        if not isinstance(reading, Mapping):
            return {} if reading is None and name in self._keys else {name: reading}
        if name not in self._keys:  # until now there was none: nothing was known of the keys
            self._keys[name] = {}
            for earlier in self.rows or ():
                earlier.pop(name, None)
        keys = self._keys[name]
        for key in reading:
            if key not in keys:
                others = [*keys.values(), *(k for o in self._keys.values() for k in o.values())]
                keys[key] = self._free(str(key), {*LOG_COLUMNS, *self.observers, *others} - {name})
        return {keys[key]: value for key, value in reading.items()}

    def _free_name(self, hook: Any) -> str:
        """Name of the hook's column in the log; numbered where it is taken."""
        name = str(getattr(hook, "name", None) or getattr(hook, "__name__", "observer"))
        return self._free(name, {*LOG_COLUMNS, *self.observers})

    @staticmethod
    def _free(name: str, taken: set[str]) -> str:
        numbered = (f"{name}_{i}" for i in range(2, len(taken) + 3))
        return name if name not in taken else next(n for n in numbered if n not in taken)


def event_functions(events: Any, args: Sequence[Any]) -> list[Callable[..., Any]]:
    """Return the event functions with `args` bound and their attributes kept.

    Raises
    ------
    TypeError
        If one is not callable.
    """
    if events is None:
        return []
    if not (callable(events) or np.iterable(events)) or isinstance(events, (str, bytes)):
        msg = f"events must be functions g(t, y), not {events!r}"
        raise TypeError(msg)
    bound = []
    for event in [events] if callable(events) else list(events):
        if not callable(event):
            msg = f"events must be functions g(t, y), not {event!r}"
            raise TypeError(msg)
        g = bind(event, args)
        if g is not event:
            for name in ("terminal", "direction"):
                setattr(g, name, getattr(event, name, None))
        bound.append(g)
    return bound


class Progress:
    """A tqdm bar over the time span, or nothing."""

    def __init__(self, problem: Problem, *, enabled: bool) -> None:
        self.t0, self.bar = problem.t0, None
        if enabled:
            tqdm = require("tqdm.auto", "diffusion", "progress=True").tqdm
            length = abs(problem.t1 - problem.t0)
            if length < 1e300:
                layout = "{l_bar}{bar}| t = {n:.4g} of {total:.4g} [{elapsed}<{remaining}]"
                self.bar = tqdm(total=length, bar_format=layout)
            else:
                self.bar = tqdm(bar_format="t = {n:.4g} [{elapsed}]")

    def update(self, t: float) -> None:
        """Move the bar to time t."""
        if self.bar is not None:
            reached = abs(t - self.t0)
            # Rounding must not carry the sum of updates past the total.
            self.bar.update(min(reached, self.bar.total or math.inf) - self.bar.n)

    def __enter__(self) -> Progress:
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.close()
