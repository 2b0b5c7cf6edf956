"""Error-controlled sampling: every sample has its own steps in log σ, counts and end."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from .._array import Array, backend_of, is_torch
from ..solvers import ButcherTableau, Status, solve
from ..solvers.solution import BatchSolution
from .stepping import stopped

__all__ = ["AdaptiveRun"]


class AdaptiveRun:
    """Solve dx/dlog σ = x − D by an embedded pair, each sample with its own steps.

    Samples that have come to the end leave the batch.

    Parameters
    ----------
    denoise : callable
        ``denoise(x, sigma, rows)``, with the samples `rows` of the batch at levels (b,).
    x : array, shape ``(B, *shape)``
        State at the first level.
    levels : sequence of float
        Its first and its last entry are the ends.
    method : ButcherTableau
        An explicit pair.
    passed : callable
        ``passed(sigma, sigma_next, x, denoised)`` after every step of the batch: levels of shape
        (B,), states at its end and D at its start of all samples. A true return value stops.

    Attributes
    ----------
    sigma : ndarray, shape (B,)
        Level that each sample has reached.
    x, D : array, shape ``(B, *shape)``
        State and D there.
    """

    def __init__(
        self,
        denoise: Callable[[Array, Array, Any], Array],
        x: Array,
        levels: list[float],
        method: ButcherTableau,
        passed: Callable[..., Any],
    ) -> None:
        self.denoise, self.method, self.passed = denoise, method, passed
        self.backend, self.x, self.D, self.end = backend_of(x), x, x, levels[-1]
        self.span = math.log(levels[0]), math.log(levels[-1])
        self.sigma = np.full(len(x), levels[0])
        self.called: tuple[Any, Array] | None = None
        """Samples of the last call, and their D."""

    def integrate(self, rtol: float, atol: float, *, log: bool = False) -> BatchSolution:
        """Solve to the last level; x, D and sigma say how far each sample came."""
        x, self.called = self.x, None
        tell: Any = self._accepted
        return solve(  # type: ignore[return-value]
            self._slope, self.span, x, self.method, rtol=rtol, atol=atol, t_eval=self.span[1:],
            callback=tell, log=log, args=(np.arange(len(x)),), batched=True, detect=False,
        )  # fmt: skip

    def calls(self, solution: BatchSolution) -> np.ndarray[Any, Any]:
        """Return the calls of the network that each sample needed, as if alone, shape (B,)."""
        stats, ended = solution.stats, solution.succeeded.astype(int)
        accepted, stages = stats["accepted"], self.method.n_stages
        # The first slope and step size; the stages but the first, which is known; D at the end.
        needed = 2 + (stages - 1) * (accepted + stats["rejected"]) + ended
        return np.asarray(needed + (0 if self.method.fsal else accepted - ended))

    def error(self, solution: BatchSolution, D: Array) -> RuntimeError:
        """Return the error of a run in which samples failed, with what was computed."""
        lost = np.flatnonzero(~solution.succeeded)
        first = ", ".join(
            f"sample {i} at sigma = {self.sigma[i]:.6g} ({solution.message[i]})" for i in lost[:3]
        )
        more = ", ..." if len(lost) > 3 else ""
        msg = f"{len(lost)} of {len(self.x)} samples did not reach sigma = {self.end:g}: {first}"
        error = stopped(solution, msg + more)
        for name, value in (("samples", D), ("states", self.x), ("sigma", self.sigma)):
            setattr(error, name, value)
        return error

    def _slope(self, t: Array, x: Array, rows: Any) -> Array:
        D = self.denoise(x, self.backend.xp.exp(t), rows)
        if self.called is None:
            self.D = D
        self.called = rows, D
        return x - D

    def _accepted(self, t: Any, x: Array, accept: Any) -> bool:
        """Note a step of the batch.

        The network was last called at the steps' ends: their last stage, or the next step's first.
        """
        assert self.called is not None
        rows, D = self.called
        at, rows = self.backend.index(np.flatnonzero(accept), x), rows[accept]
        before, start, self.sigma = self.sigma, self.D, self.sigma.copy()
        self.sigma[rows] = np.where(t[accept] == self.span[1], self.end, np.exp(t[accept]))
        self.x, self.D = _replaced(self.x, rows, x[at]), _replaced(self.D, rows, D[at])
        return bool(self.passed(before, self.sigma, self.x, start))


def of_samples(labels: Any, rows: Any, count: int) -> Any:
    """Return the labels of some samples: of arrays with `count` rows, in lists and dicts too."""
    if isinstance(labels, dict):
        return {key: of_samples(value, rows, count) for key, value in labels.items()}
    if isinstance(labels, (list, tuple)):
        one_each = not any(hasattr(v, "shape") or isinstance(v, (dict, list)) for v in labels)
        if one_each and len(labels) == count:
            return [labels[i] for i in rows]
        return type(labels)(of_samples(value, rows, count) for value in labels)
    if getattr(labels, "ndim", 0) and len(labels) == count:
        return labels[backend_of(labels).index(rows, labels)]
    return labels


def interrupted(solution: BatchSolution) -> bool:
    """Whether the callback stopped a run in which no sample had failed."""
    ends = set(solution.status)
    return Status.interrupted in ends and ends <= {Status.interrupted, Status.success}


def _replaced(target: Array, rows: Any, values: Array) -> Array:
    """`target` with other rows, as a new array; autograd may follow it."""
    if is_torch(target):
        return target.index_put((backend_of(target).index(rows, target),), values)
    new = target.copy()
    new[rows] = values
    return new
