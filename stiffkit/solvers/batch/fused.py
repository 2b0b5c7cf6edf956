"""The stages of an explicit step, f included, as one function that torch.compile makes."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import cache
from typing import Any, final

from ..._array import Array, is_torch
from ..tableau import ButcherTableau
from .problem import BatchProblem

__all__ = ["FusedStages"]

MOST = 64
"""Compiled functions that are kept: for every method and f in use, and kind of tensor."""


@final
class FusedStages:
    """Calls the compiled stages of a method.

    Parameters
    ----------
    problem : BatchProblem
        Has f.
    tableau : ButcherTableau
        An explicit method.
    record : bool
        Whether autograd needs the stages' history.
    """

    def __init__(self, problem: BatchProblem, tableau: ButcherTableau, *, record: bool) -> None:
        from torch._dynamo import exc

        self.problem, self.compiled = problem, _compiled(tableau)
        self.calls, self.first = tableau.n_stages - 1, True
        self.kind = None if problem.flat else problem.shape, record
        self.args = tuple(
            _any_rows(a) if own and is_torch(a) else a
            for a, own in zip(problem.args, problem.mine, strict=True)
        )
        limit = getattr(exc, "FailOnRecompileLimitHit", exc.TorchDynamoException)
        self.refusals: Any = (exc.TorchDynamoException, limit)

    def __call__(self, k_0: Array, t: Array, h: Array, y: Array) -> tuple[Array, Any]:
        """Return the states at the end of the step, and the slopes of the stages.

        These are one tensor, or with `record` a list of those after the first: then most of them
        have nothing to pass back.

        Parameters
        ----------
        k_0, y : tensor, shape (b, n)
            Slopes and states at the start.
        t, h : tensor, shape (b,)
            Ends of the steps, and their sizes.

        Raises
        ------
        RuntimeError
            If torch.compile does not make the function.
        """
        f, self.problem.nfev = self.problem.f, self.problem.nfev + self.calls
        try:
            if not self.first:
                return self.compiled(f, self.kind, k_0, t, h, y, self.args)
            return self._compile(f, k_0, t, h, y)
        except self.refusals as error:
            reason = str(error).strip().partition("\n")[0]
            msg = (
                "compile=True, but torch.compile makes no function of a step with this f, or a new "
                f"one at each call: {reason}"
            )
            raise RuntimeError(msg) from error

    def _compile(self, f: Any, k_0: Array, t: Array, h: Array, y: Array) -> tuple[Array, Any]:
        """Make the first call in such a way that what is compiled serves the later ones."""
        from torch._dynamo import config

        self.first = False
        if self.kind[1] and not y.requires_grad:  # as the states of all later steps do
            y = y.detach().requires_grad_()
        k_0, t, h, y = map(_any_rows, (k_0, t, h, y))
        # A number that f holds is a constant: as a variable it would be made a tensor at each call.
        with (
            config.patch(cache_size_limit=MOST, automatic_dynamic_shapes=False),
            warnings.catch_warnings(),
        ):
            warnings.simplefilter("ignore")  # torch warns of its own looks at tensors' .grad
            return self.compiled(f, self.kind, k_0, t, h, y, self.args)


def _any_rows(x: Array) -> Array:
    """Return a copy of x, by which torch.compile sees that there may be any number of rows."""
    from torch._dynamo import maybe_mark_dynamic

    x = x.clone()  # not a view: of such it asks how long the whole is
    maybe_mark_dynamic(x, 0)
    return x


@cache
def _compiled(tableau: ButcherTableau) -> Callable[..., tuple[Array, Any]]:
    """Return a method's stages as a function of f and what it needs.

    f is an argument, so that torch.compile itself remembers what it has compiled for which f, and
    sees what f has changed in itself since.
    """
    import torch

    s, fsal, rest = tableau.n_stages, tableau.fsal, [1.0 - float(c) for c in tableau.c]
    rows = [[(float(a), j) for j, a in enumerate(row) if a != 0.0] for row in tableau.rows]

    def stages(
        f: Any, kind: Any, k_0: Array, t: Array, h: Array, y: Array, args: tuple[Any, ...]
    ) -> tuple[Array, Any]:
        (trailing, record), k, z, h_0 = kind, [k_0], y, h[:, None]
        for i in range(1, s):
            z = y + h_0 * sum(a * k[j] for a, j in rows[i])
            state = z if trailing is None else z.reshape((-1, *trailing))
            k.append(f(t - rest[i] * h, state, *args).reshape(z.shape))
        if not fsal:
            z = y + h_0 * sum(b * k[j] for b, j in rows[s])
        return z, k[1:] if record else torch.stack(k)

    return torch.compile(stages, fullgraph=True)
