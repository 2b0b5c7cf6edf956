"""Jacobians of a batch, one matrix per row, and solutions of systems with I − cJ."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np

from ..._array import Array, is_torch
from .problem import BatchProblem, Floats

__all__ = ["BatchAlgebra", "factored"]

REVERSE = 8
"""Most components for which a Jacobian is made by rows, a backward pass each: for a cheap f that
takes 0.4 ms, and forward mode, some of whose rules torch has in Python, 1.6 ms (n = 3)."""


class BatchAlgebra:
    """Where ∂f/∂y comes from: given, by derivatives of either mode (torch), or by differences.

    Parameters
    ----------
    problem : BatchProblem
        The whole batch.
    jac : callable or array, optional
        ``jac(t, y, *args)`` of shape (b, n, n), or a constant matrix of shape (n, n).
    record : bool
        Whether autograd needs the history.
    reverse : bool
        Whether reverse-mode derivatives may be taken. Not where the steps are made again by
        checkpoints: each backward pass within a piece would make the piece again.
    """

    def __init__(
        self, problem: BatchProblem, jac: Any = None, *, record: bool = False, reverse: bool = True
    ) -> None:
        self.problem, self.jac, self.record = problem, jac, record
        self.backend, self.n = problem.backend, problem.y0.shape[1]
        self.torch = is_torch(problem.y0)
        self.forward_mode = self.torch
        self.reverse_mode = reverse and self.torch and 0 < self.n <= REVERSE
        self.reverse_mode = self.reverse_mode and not problem.y0.is_complex()
        self.time_mode: bool | None = None
        """Whether autograd sees what f does with t; None before that is known."""
        self.timed = self.tried = False
        """Whether autograd is trusted to follow t, so that backward passes find ∂f/∂t too; whether
        they were tried."""
        self.njev = self.nlu = 0
        self.eye = self.backend.vector(np.eye(self.n), problem.y0)
        if jac is not None and not callable(jac):
            matrix = np.asarray(jac.detach().cpu() if is_torch(jac) else jac)
            if matrix.dtype.kind == "c" and problem.y0.dtype == problem.y0.real.dtype:
                msg = "jac is complex for a real y0"
                raise ValueError(msg)
            if matrix.shape != (self.n, self.n):
                msg = (
                    f"jac has shape {matrix.shape}; it must be ({self.n}, {self.n}), or a function"
                )
                raise ValueError(msg)
            self.jac = self.backend.vector(matrix, problem.y0)

    def derivatives(self, t: Floats, y: Array, f_y: Array, h: Floats) -> tuple[Array, Array]:
        """Return ∂f/∂y and ∂f/∂t of each row, where f is `f_y`; steps `h` are about to be tried."""
        found: tuple[Array, Array] = self._timed("jac", self._derivatives)(t, y, f_y, h)
        return found

    def _timed(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function, on the watch of that name where there is one."""
        costs = self.problem.costs
        if costs is None:
            return function
        return costs.of_rows(getattr(costs, name), self.problem.size, function)

    def _derivatives(self, t: Floats, y: Array, f_y: Array, h: Floats) -> tuple[Array, Array]:
        if self.jac is None and self.reverse_mode:
            time = self.problem.time(t)
            found = self._reverse(time, y, with_time=self.timed)
            if found is not None:
                self.njev += 1
                J, slope = found
                return J, self.time_slope(t, y, f_y, h) if slope is None else slope
        return self._jacobian(t, y, f_y), self.time_slope(t, y, f_y, h)

    def jacobian(self, t: Floats, y: Array, f_y: Array) -> Array:
        """Return ∂f/∂y of each row, shape (b, n, n), where f is `f_y`."""
        return self._timed("jac", self._jacobian)(t, y, f_y)

    def _jacobian(self, t: Floats, y: Array, f_y: Array) -> Array:
        self.njev += 1
        if self.jac is None:
            return self._derived(t, y, f_y)
        p, shape = self.problem, (len(y), self.n, self.n)
        if not callable(self.jac):
            return self.jac.reshape((1, self.n, self.n)) + 0 * self.backend.full(shape, 0.0, y)
        J = self.jac(p.time(t), y.reshape((len(y), *p.shape)), *p.args)
        if getattr(J, "shape", None) != shape or J.dtype != y.dtype:
            got = tuple(J.shape) if hasattr(J, "shape") else type(J).__name__
            msg = f"jac returned {got} for {len(y)} rows; it must return {y.dtype} of shape {shape}"
            raise ValueError(msg)
        return J

    def _derived(self, t: Floats, y: Array, f_y: Array) -> Array:
        p, time = self.problem, self.problem.time(t)
        if self.n == 0:
            return self.backend.full((len(y), 0, 0), 0.0, y)
        if self.reverse_mode:
            found = self._reverse(time, y, with_time=False)
            if found is not None:
                return found[0]
        if self.forward_mode:
            basis = self.eye[:, None, :] + 0 * y  # (n, b, n): a unit vector for all rows at once
            calls = p.nfev
            try:
                func = self.backend.xp.func
                columns = func.vmap(
                    lambda v: func.jvp(lambda state: p(time, state), (y,), (v,))[1]
                )(basis)
                p.nfev = calls + self.n
                return columns.permute(1, 2, 0)
            except (RuntimeError, NotImplementedError, ValueError, TypeError):
                # An operation without forward derivatives, or one that vmap does not know.
                self.forward_mode, p.nfev = False, calls
        return self._differences(time, y, f_y)

    def _reverse(
        self, time: Array, y: Array, *, with_time: bool
    ) -> tuple[Array, Array | None] | None:
        """Return ∂f/∂y and ∂f/∂t by n backward passes; None where f does not let them through."""
        torch, calls = self.backend.xp, self.problem.nfev
        keep = self.record and torch.is_grad_enabled()
        try:
            with torch.enable_grad():
                if keep and y.requires_grad:
                    # Time lies behind y in the history: from a leaf the engine would look for it
                    # through all steps before.
                    state, moment = y, torch.cat([time, y.reshape(-1)])[: len(time)]
                else:
                    state, moment = y.detach().requires_grad_(), time.detach().requires_grad_()
                wrt = (state, moment) if with_time else (state,)
                value = self._tracked(moment if with_time else time, state)
                if value.requires_grad:
                    rows = [
                        torch.autograd.grad(
                            value,
                            wrt,
                            unit.expand_as(value),
                            create_graph=keep,
                            retain_graph=True,
                            allow_unused=True,
                            materialize_grads=True,
                        )
                        for unit in self.eye
                    ]
                    J = torch.stack([row[0] for row in rows], 1)
                    slope = torch.stack([row[1] for row in rows], 1) if with_time else None
                    return J, slope
        except (RuntimeError, NotImplementedError, TypeError, UserWarning):
            pass  # an operation without derivatives, or one that autograd does not see
        self.reverse_mode, self.problem.nfev = False, calls
        return None

    def _tracked(self, time: Array, y: Array) -> Array:
        """Return f; the first time torch's warning that f makes a number of y becomes an error."""
        if self.tried:
            return self.problem(time, y)
        self.tried = True
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            return self.problem(time, y)

    def _differences(self, time: Array, y: Array, f_y: Array) -> Array:
        """Forward differences, a column of all rows at a time."""
        p, xp = self.problem, self.backend.xp
        info = xp.finfo(y.dtype)
        size = abs(self.backend.detach(y))
        top = xp.amax(size, 1).reshape((-1, 1))
        size = xp.maximum(size, top * float(info.eps) ** 0.25)
        size = xp.maximum(size, 0 * size + float(info.tiny) / float(info.eps))
        delta = (y + float(info.eps) ** 0.5 * size) - y
        columns = []
        for j in range(self.n):
            step = delta[:, j : j + 1]
            columns.append((p(time, y + step * self.eye[j]) - f_y) / step)
        return xp.stack(columns, 2)

    def time_slope(self, t: Floats, y: Array, f_y: Array, h: Floats) -> Array:
        """Return ∂f/∂t of each row; `h` is about to be tried."""
        time = self.problem.time(t)
        if self.time_mode is not False and self.forward_mode and self.jac is None:
            slope = self._forward_time_slope(time, y)
            if slope is not None:
                return self._trusted(slope, t, y, f_y, h)
            self.time_mode = False
        return self._time_difference(t, y, f_y, h)

    def _trusted(self, slope: Array, t: Floats, y: Array, f_y: Array, h: Floats) -> Array:
        """Return autograd's ∂f/∂t, or the difference where autograd does not see t.

        Zeros may be what is left of a t that f has made a number of: once, that is tried.
        """
        if self.time_mode is None:
            self.time_mode = bool((slope != 0).any())
            if not self.time_mode:
                other = self._time_difference(t, y, f_y, h)
                self.time_mode = not bool((other != 0).any())
            self.timed = self.time_mode
        return slope if self.time_mode else self._time_difference(t, y, f_y, h)

    def _forward_time_slope(self, time: Array, y: Array) -> Array | None:
        """Return ∂f/∂t by forward-mode derivatives; None where f does not let them through."""
        one = self.backend.xp.ones_like(time)
        calls = self.problem.nfev
        try:
            slope = self.backend.xp.func.jvp(lambda s: self.problem(s, y), (time,), (one,))[1]
        except (RuntimeError, NotImplementedError, ValueError, TypeError):
            self.problem.nfev = calls
            return None
        return slope

    def _time_difference(self, t: Floats, y: Array, f_y: Array, h: Floats) -> Array:
        p, time = self.problem, self.problem.time(t)
        eps = float(self.backend.xp.finfo(y.dtype).eps)
        length = np.abs(h)
        delta = np.minimum(np.sqrt(eps * length * np.maximum(np.abs(t), length)), length)
        later = p.time(t + np.copysign(delta, h))
        step = later - time  # of the times that f gets, in the precision it gets them in
        safe = self.backend.xp.where(step == 0, 1 + 0 * step, step)
        change = (p(later, y) - f_y) / safe[:, None]
        return self.backend.xp.where((step == 0)[:, None], 0 * f_y, change)

    def solver(self, J: Array, c: Any) -> Callable[[Array], Array]:
        """Return r ↦ (I − cJ)⁻¹ r for rows of their own c; rows without a solution become NaN.

        c of shape (..., b) may be complex; r has the shape (..., b, n).
        """
        self.nlu += c.size // max(len(J), 1)
        eye, weight = self.eye, c[..., None, None]
        if J.shape[-1] != self.n:  # a system of all stages together
            eye = self.backend.vector(np.eye(J.shape[-1]), J)
        if np.iscomplexobj(c):
            J = J + 0j
            W = eye - self.backend.vector(weight, J) * J
        else:
            W = eye - self.backend.real_like(weight, J) * J
        if not self.torch:
            return lambda r: self._timed("factorisation", _numpy_solve)(W, r)
        linalg = self.backend.xp.linalg
        LU, pivots, _ = self._timed("factorisation", linalg.lu_factor_ex)(W.detach())
        if W.requires_grad:
            solve = factored()
            return lambda r: solve.apply(W, r, LU, pivots, False)
        return lambda r: linalg.lu_solve(LU, pivots, r[..., None])[..., 0]

    def take(self, problem: BatchProblem) -> None:
        """Go on with some of the rows."""
        self.problem = problem


@cache
def factored() -> Any:
    """Return W, r ↦ W⁻¹ r by factors that are there: all stages, and the way back, share them."""
    import torch

    class Factored(torch.autograd.Function):
        """x = W⁻¹ r, or with W's adjoint: then ∂L/∂r is v = W⁻ᴴ ∂L/∂x, and ∂L/∂W is −v xᴴ."""

        @staticmethod
        def forward(ctx: Any, W: Array, r: Array, LU: Array, pivots: Array, adjoint: bool) -> Array:
            x = torch.linalg.lu_solve(LU, pivots, r[..., None], adjoint=adjoint)[..., 0]
            ctx.save_for_backward(W, x, LU, pivots)
            ctx.adjoint = adjoint
            return x

        @staticmethod
        def backward(ctx: Any, grad: Array) -> Any:
            W, x, LU, pivots = ctx.saved_tensors
            v = factored().apply(W, grad, LU, pivots, not ctx.adjoint)
            left, right = (x, v) if ctx.adjoint else (v, x)
            return -left[..., :, None] * right[..., None, :].conj(), v, None, None, None

    return Factored


def _numpy_solve(W: Array, r: Array) -> Array:
    try:
        return np.linalg.solve(W, r[..., None])[..., 0]
    except np.linalg.LinAlgError:  # one singular matrix spoils the call, not the other rows
        x = np.full_like(r, np.nan)
        for i in np.ndindex(r.shape[:-1]):
            try:
                x[i] = np.linalg.solve(W[i], r[i])
            except np.linalg.LinAlgError:
                continue
        return x
