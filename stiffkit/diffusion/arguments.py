"""The arguments of `sample`: samplers by name, and what goes together."""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

from .._array import Array, backend_of, to_numpy
from ..solvers import EXPLICIT, ButcherTableau
from .denoiser import cast_to
from .multistep import MULTISTEP, Multistep
from .stepping import Churn, midpoint_in_log

__all__ = ["DEFAULT_SAMPLER", "SAMPLERS", "Method"]

DEFAULT_SAMPLER = "sk44"
"""Used when neither a sampler nor a guide nor churn is given: see docs/theory/multistep.md."""

Method = ButcherTableau | Multistep | Callable[[float, float], ButcherTableau]

SAMPLERS: dict[str, Method] = {"dpm2": midpoint_in_log, **MULTISTEP, **EXPLICIT}
"""The samplers by name: DPM-Solver-2, the multistep family and every explicit tableau."""


def find_method(sampler: Any) -> Method:
    if isinstance(sampler, (ButcherTableau, Multistep)):
        if isinstance(sampler, ButcherTableau) and not sampler.explicit:
            msg = f"sampler {sampler.name!r} is implicit; sampling needs an explicit method"
            raise ValueError(msg)
        return sampler
    if not isinstance(sampler, str) or sampler not in SAMPLERS:
        near = difflib.get_close_matches(str(sampler).lower(), SAMPLERS, n=1, cutoff=0.5)
        hint = f"; did you mean {near[0]!r}?" if near else "."
        msg = f"unknown sampler {sampler!r}{hint} Known are: {', '.join(SAMPLERS)}"
        raise ValueError(msg)
    return SAMPLERS[sampler]


def carries(method: Method, pair: str | None) -> bool:
    """Whether a method's steps have the two states that a guide compares."""
    if isinstance(method, Multistep):
        return pair == "path" and not method.corrector
    if not isinstance(method, ButcherTableau):
        return pair in ("midpoint", None)
    return {
        "stage": method.probe is not None,
        "embedded": method.b_hat is not None,
        "midpoint": False,
        "path": False,
    }.get(str(pair), True)


def check_together(method: Method, guide: Any, churn: Churn, seeds: Any, rtol: Any) -> None:
    """Refuse what does not go together."""
    if guide is not None:
        pair = getattr(guide, "pair", None)
        if not carries(method, pair):
            able = ", ".join(name for name, other in SAMPLERS.items() if carries(other, pair))
            msg = f"sampler cannot carry this guide ({guide!r}); those that can: {able}"
            raise ValueError(msg)
    if churn.S_churn:
        if isinstance(method, Multistep):
            able = ", ".join(n for n, other in SAMPLERS.items() if not isinstance(other, Multistep))
            msg = f"churn breaks the history of {method.name!r}; samplers that can carry it: {able}"
            raise ValueError(msg)
        if seeds is None:
            msg = "churn draws noise: give seeds, one per sample"
            raise ValueError(msg)
    if rtol is not None:
        if not isinstance(method, ButcherTableau) or method.error_order is None:
            able = ", ".join(n for n, other in EXPLICIT.items() if other.error_order is not None)
            msg = f"rtol needs a sampler with an embedded pair: {able}"
            raise ValueError(msg)
        if guide is not None or churn.S_churn:
            msg = "rtol controls the error of the flow itself: it goes with no guide and no churn"
            raise ValueError(msg)


def check_levels(sigmas: Any) -> list[float]:
    levels = [float(s) for s in to_numpy(sigmas).reshape(-1)]
    if len(levels) < 2 or not all(a > b for a, b in pairwise([math.inf, *levels, 0.0])):
        msg = f"sigmas must be at least two positive, falling noise levels, not {levels!r}"
        raise ValueError(msg)
    return levels


def start_state(noise: Any, image: Any, sigma: float, dtype: Any) -> Array:
    """Return the state at the first level."""
    for name, array in (("noise", noise), ("image", image)):
        if array is not None and not getattr(array, "ndim", 0):
            msg = f"{name} must be an array of shape (B, *shape), not {type(array).__name__}"
            raise TypeError(msg)
    if image is not None and tuple(image.shape) != tuple(noise.shape):
        msg = f"image has shape {tuple(image.shape)}, the noise {tuple(noise.shape)}"
        raise ValueError(msg)
    if dtype is not None:
        cast = [a if a is None else cast_to(a, dtype) for a in (noise, image)]
        noise, image = cast
    backend, x = backend_of(noise), sigma * noise
    x = backend.state(x if image is None else image + x)
    if not bool(backend.xp.isfinite(x).all()):
        msg = "noise (or image) is not finite"
        raise ValueError(msg)
    return x
