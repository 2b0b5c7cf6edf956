"""A solve that is like an earlier one takes over what was made ready for that.

What a call of `solve` checks and makes depends on f, on the options, and on the types of y0 and of
f's further arguments. For a small system it takes several times as long as the loop.
"""

from __future__ import annotations

import inspect
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from operator import add, is_, itemgetter
from typing import TYPE_CHECKING, Any

import numpy as np

from ..._array import backend_of
from ..problem import span
from ..solution import Solution, plain_solution
from ..solve import solve
from . import stabilised
from .functions import InPlace, writes
from .parts import DONE, LOOK, STATE, K, Y
from .stretches import Stretches

if TYPE_CHECKING:
    from ...stiffness.detect import StiffnessDetector
    from .run import CompiledRun

__all__ = ["REACHABLE", "Ready", "solve_again"]

_MOST = 32
"""Kinds of solves that are remembered."""

_NUMBERS = 2**16
"""Those that the records of each hold: a solve of more steps is long beside its call."""

_SHARED = (
    *("f", "method", "rtol", "atol", "controller", "first_step", "max_step", "max_steps"),
    *("detect", "jac", "radius", "bandwidth"),
)
"""Arguments of `solve` that tell one kind from another. So do the times of `t_eval`, the dtype and
shape of y0, and the types in `args`; all others have their defaults."""

_PLAIN = {
    name: parameter.default
    for name, parameter in inspect.signature(solve).parameters.items()
    if name not in (*_SHARED, "y0", "t_span", "args", "t_eval")
}

_shared, _plain = itemgetter(*_SHARED), itemgetter(*_PLAIN)

REACHABLE = float(np.finfo(np.float64).eps)
"""Relative tolerance below which there are states of which `solve` warns."""

_SCALARS = (float, int, complex, np.float64)

_SPENT = ("accepted", "rejected", "nfev", "nfev_jac", "nfev_time", "nfev_look", "njev", "nlu")
_SPENT_AT = np.array([STATE.fields[name][1] // 8 for name in _SPENT])  # type: ignore[index]
"""Where those stand in the kernel's state, which is aligned, in words of eight bytes."""


class Ready:
    """A solve before its first step, whose memory can be made as it was.

    Parameters
    ----------
    run : CompiledRun
        The solve, started.
    stay : Stretches
        The kernel's arguments; its arrays are moved into one memory.
    room : int
        Attempts that its records have room for.
    """

    def __init__(self, run: CompiledRun, stay: Stretches, room: int) -> None:
        self.run, self.stay, stats = run, stay, run.stats()
        self.f = InPlace(run.f) if writes(run.f, run.args) else run.f
        if stay.jac is not None:
            # Each solve makes its own first Jacobian, which Python made of this one.
            stay.s["first_jac"], stats["njev"] = False, 0
        self.counts = [*stats.values()]
        """What is spent before the loop."""
        # The tables of stabilised methods are large; nothing but `learn` writes to them.
        own = () if isinstance(stay.method, stabilised.Stabilised) else stay.method
        (state, W, method), self.memory = _gathered((stay.state, stay.W, own))
        stay.use(state, W, method or stay.method)
        self.fresh = self.memory.copy()
        self.begin = stay.W[Y : K + 1 : K - Y]
        """y0 and f(t0, y0), where the kernel has them."""
        stay.make_room(room)
        self.records = records = stay.records
        """What the kernel writes to: behind the start, where the steps are kept."""
        if run.t_eval is None:
            self.records = records._replace(t=records.t[1:], path=records.path[1:])
        self.detector: StiffnessDetector | None = None
        """That of the solve in progress, where it was asked."""
        self.credit = 0
        """Solves that were made, less those that were for Python."""

    def looked(self) -> bool:
        """Let a detector look at a step; return whether the solve goes on without a proof."""
        if self.detector is None:
            self.run.detectors.clear()
            self.detector = self.run.watch()
        if self.stay.suspects(self.detector):
            return False
        self.stay.looked(self.detector)
        return True

    def solution(self, t: Any, y: Any, spent: Sequence[int]) -> Solution:
        """Return a solution that has reached t1.

        Parameters
        ----------
        t, y : ndarray
            Times and states.
        spent : sequence of int
            Its `stats`, without what was spent before the loop.
        """
        run, counts = self.run, [*map(add, self.counts, spent)]
        if self.detector is not None:
            counts[0], self.detector = counts[0] + self.detector.nfev, None
        y = y.reshape(-1, *run.problem.shape)
        return plain_solution(t, y, run.status, run.message, counts)

    def solve(self, t_span: Any, y0: Any, args: tuple[Any, ...]) -> Solution | None:
        """Solve from another start; None where Python has a part in it, or is to say what fails."""
        run, stay = self.run, self.stay
        (t0, t1), timed = span(t_span), run.t_eval is not None
        if t0 == t1 or (run.steps.first or 0.0) > abs(t1 - t0):
            return None
        self.memory[:] = self.fresh
        s, W, self.detector = stay.s, stay.W, None
        if not self._begins(t0, y0, args):
            return None
        t, path = stay.records.t, stay.records.path
        s["t"], s["wall"], s["room"] = t0, t1, 2**62 if timed else len(t) - 1
        if timed:
            stay.y_eval[: run.i_eval] = W[Y]
        else:
            t[0], path[0, 0] = t0, W[Y]
        arguments = stay.arguments(args, (t1, 1.0 if t1 >= t0 else -1.0), self.records)
        while (code := stay.enter(arguments)) == LOOK and self.looked():
            pass
        if code != DONE:
            return None
        accepted, rejected, *calls, njev, nlu = stay.state.view(np.int64)[_SPENT_AT].tolist()
        spent, end = (sum(calls), accepted, rejected, njev, nlu), 1 + accepted
        if timed:
            return self.solution(stay.t_eval.copy(), stay.y_eval.copy(), spent)
        return self.solution(t[:end].copy(), path[:end, 0].copy(), spent)

    def _begins(self, t0: float, y0: Any, args: tuple[Any, ...]) -> bool:
        """Write y0 and f(t0, y0) to where the kernel has them; return whether it can go on."""
        argument = y0.copy()
        value = np.asarray(self.f(t0, argument, *args))
        fits = value.dtype is y0.dtype or np.can_cast(value.dtype, y0.dtype, "same_kind")
        if value.shape != y0.shape or not fits:
            return False
        begin = self.begin
        begin[0], begin[1] = y0.reshape(-1), value.reshape(-1)
        return bool(np.isfinite(begin).all()) and argument.tobytes() == y0.tobytes()


_READY: OrderedDict[Any, list[Ready] | None] = OrderedDict()
"""By kind of solve, those that are free, for threads have one each; None of a kind that needs
Python more often than not."""


_UNKNOWN: list[Ready] = []


def solve_again(arguments: Mapping[str, Any], make: Callable[[], Any]) -> Solution | None:
    """Solve as `solve` would with these arguments, if a solve of this kind was made before.

    Parameters
    ----------
    arguments : mapping
        All arguments of `solve`.
    make : callable
        Returns the `CompiledRun` for them.

    Returns
    -------
    Solution, optional
        None where `solve` has to go the long way.
    """
    try:
        y0, args = backend_of(arguments["y0"]).state(arguments["y0"]), tuple(arguments["args"])
        key = _kind(arguments, y0, args)
    except (TypeError, ValueError):  # what cannot be a key, or is no argument at all
        return None
    if key is None:
        return None
    free = _READY.get(key, _UNKNOWN)
    if free is _UNKNOWN:
        _READY[key] = []
        if len(_READY) > _MOST:
            _READY.popitem(last=False)
        return None
    if free is None:
        return None
    ready = solution = None
    try:
        ready = _taken(free) or _make_ready(make())
        if ready is not None:
            solution = ready.solve(arguments["t_span"], y0, args)
    except Exception:  # the long way tells it as it should be told
        solution = None
    if ready is not None:
        ready.credit += -1 if solution is None else 1
        free.append(ready)
    if ready is None or ready.credit < 0:
        _READY[key] = None
    return solution


def _taken(free: list[Ready]) -> Ready | None:
    try:
        return free.pop()
    except IndexError:  # other threads may have them all
        return None


def _make_ready(run: CompiledRun) -> Ready | None:
    with run.problem.backend.quiet():
        stay = run.ready()
    return None if stay is None else Ready(run, stay, min(stay.most_room, _NUMBERS // (stay.n + 1)))


def _kind(arguments: Mapping[str, Any], y0: Any, args: tuple[Any, ...]) -> Any:
    """Return what tells one kind of solve from another; None of one that has no kind.

    Raises
    ------
    TypeError
        If an argument cannot be part of a key.
    """
    if not all(map(is_, _plain(arguments), _PLAIN.values())):
        return None
    if not arguments["rtol"] >= REACHABLE:
        return None
    types = [_type(value) for value in args]
    if type(y0) is not np.ndarray or y0.dtype.char not in "dD" or None in types:
        return None
    t_eval, times = arguments["t_eval"], None
    if t_eval is not None:
        times = (*arguments["t_span"], np.asarray(t_eval, dtype=float).tobytes())
    shared = _shared(arguments)
    try:
        hash(shared)
    except TypeError:
        shared = tuple(map(_value, shared))
        hash(shared)
    return (shared, y0.dtype, y0.shape, *types, times)


def _value(x: Any) -> Any:
    """Return what tells a value of an argument from others: of an array, what it holds."""
    if isinstance(x, np.ndarray):
        return x.dtype, x.shape, x.tobytes()
    return tuple(x) if isinstance(x, list) else x


def _type(value: Any) -> Any:
    """Return what the kernel knows an argument by; None where that takes numba to say."""
    if type(value) in _SCALARS:
        return type(value)
    if type(value) is np.ndarray and value.flags.carray:
        return value.dtype, value.ndim
    return None


def _gathered(parts: Any) -> tuple[Any, Any]:
    """Return nested tuples with copies of their arrays in one memory, and this memory."""
    sizes: list[int] = []
    _each(parts, lambda a: sizes.append(-(-a.nbytes // 8)))
    memory, used = np.zeros(sum(sizes), np.int64), 0

    def moved(a: Any) -> Any:
        nonlocal used
        start, used = used, used - (-a.nbytes // 8)
        copy = memory[start:used].view(np.uint8)[: a.nbytes].view(a.dtype).reshape(a.shape)
        copy[...] = a
        return copy

    return _each(parts, moved), memory


def _each(x: Any, change: Any) -> Any:
    """Return nested tuples with each array changed."""
    if isinstance(x, np.ndarray):
        return change(x)
    if not isinstance(x, tuple):
        return x
    items = [_each(item, change) for item in x]
    return type(x)(*items) if hasattr(x, "_fields") else tuple(items)
