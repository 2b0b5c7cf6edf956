"""From noise to a sample, step by step: solves of the probability-flow ODE, and multistep rules."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from .._array import Array, backend_of, is_torch
from ..guidance.pairs import Past
from ..solvers import ButcherTableau, Solution, Status, Step, StepHook, solve
from ..solvers.step import Probe, combine
from .multistep import Multistep

__all__ = ["Churn", "SeededNoise", "follow_multistep", "follow_tableau", "midpoint_in_log"]

Flow = Callable[[Any, Array], Array]

_SAME_LEVEL = ("stage", "embedded")
"""Pairs of states that must be at one noise level."""


@dataclass(frozen=True)
class Churn:
    """EDM's stochastic churn: at the start of a step, noise is added and then solved away.

    Within S_min ≤ σ ≤ S_max the level rises to σ̂ = (1 + γ) σ, γ = min(S_churn/n, √2 − 1) on a grid
    of n levels, by noise of standard deviation S_noise.

    Raises
    ------
    ValueError
        If a number is negative or `S_min` above `S_max`.

    References
    ----------
    T. Karras et al., Elucidating the design space of diffusion-based generative models, NeurIPS
    2022, algorithm 2, doi:10.48550/arXiv.2206.00364.
    """

    S_churn: float
    S_min: float = 0.0
    S_max: float = math.inf
    S_noise: float = 1.0

    def __post_init__(self) -> None:
        if not (0 <= self.S_churn < math.inf and 0 <= self.S_min <= self.S_max):
            msg = f"churn needs S_churn >= 0 and 0 <= S_min <= S_max, not {self!r}"
            raise ValueError(msg)
        if not 0 <= self.S_noise < math.inf:
            msg = f"S_noise must be finite and not negative, not {self.S_noise!r}"
            raise ValueError(msg)

    def raised(self, sigma: float, n: int) -> float:
        """Return σ̂ for a step from `sigma` on a grid of n levels."""
        inside = self.S_min <= sigma <= self.S_max
        return sigma * (1 + (min(self.S_churn / n, math.sqrt(2) - 1) if inside else 0.0))


class SeededNoise:
    """One random generator per sample, so that a sample does not depend on its batch.

    Parameters
    ----------
    seeds : sequence of int
        Taken modulo 2³², as EDM does.
    like : array
        What is drawn is of its library, dtype and device. With torch the numbers are EDM's own:
        draw the noise first, then the labels, then sample with churn.
    """

    def __init__(self, seeds: Sequence[int], like: Array) -> None:
        self.like, seeds = like, [int(seed) % (1 << 32) for seed in seeds]
        if is_torch(like):
            torch = backend_of(like).xp
            self.generators = [torch.Generator(like.device).manual_seed(s) for s in seeds]
        else:
            self.generators = [np.random.default_rng(s) for s in seeds]

    def normal(self, shape: Sequence[int]) -> Array:
        """Return unit normal numbers of shape ``(B, *shape)``, B the number of seeds."""
        like, xp = self.like, backend_of(self.like).xp
        if is_torch(like):
            kind = {"dtype": like.dtype, "device": like.device}
            return xp.stack([xp.randn(tuple(shape), generator=g, **kind) for g in self.generators])
        return np.stack([g.standard_normal(tuple(shape)) for g in self.generators]).astype(
            like.dtype
        )

    def integers(self, stop: int) -> Array:
        """Return an integer 0, …, stop − 1 per sample."""
        if is_torch(self.like):
            xp, device = backend_of(self.like).xp, self.like.device
            draw = [xp.randint(stop, size=[], generator=g, device=device) for g in self.generators]
            return xp.stack(draw)
        return np.array([g.integers(stop) for g in self.generators])


def midpoint_in_log(s: float, s_new: float) -> ButcherTableau:
    """DPM-Solver-2's tableau for one step: its middle stage is at √(s s')."""
    c = 1 / (1 + math.sqrt(s_new / s))
    return ButcherTableau(
        "dpm2",
        order=1,  # for any ratio s'/s; 2 as it tends to 1
        c=[0, c],
        A=[[], [c]],
        b=[0, 1],
        reference="C. Lu et al., DPM-Solver, NeurIPS 2022, doi:10.48550/arXiv.2206.00927",
    )


def follow_tableau(
    flow: Flow,
    x: Array,
    levels: Sequence[float],
    method: ButcherTableau | Callable[[float, float], ButcherTableau],
    hook: StepHook | None = None,
    churn: tuple[Churn, SeededNoise] | None = None,
    pair: str = "stage",
) -> tuple[Array, float]:
    """Solve from the first level to the last; return the state and the level it is at.

    Parameters
    ----------
    flow : callable
        ``f(σ, x)``.
    x : array, shape ``(B, *shape)``
        State at the first level.
    levels : sequence of float
        Grid.
    method : ButcherTableau or callable
        Explicit method, or a function of the two levels of a step that gives one.
    hook : StepHook, optional
        Guide.
    churn : (Churn, SeededNoise), optional
        Noise to add before every step, and before the last evaluation.
    pair : str
        What the guide compares. Two states that the previous step left at one level must stay at
        one level: with churn the second is raised by the same noise as the first, and evaluated
        there. That is the one case in which a guide costs a call.
    """
    if churn is None and isinstance(method, ButcherTableau):
        return _solved(flow, x, levels, method, hook), levels[-1]
    probe: Probe | None = None
    for s, s_new in pairwise(levels):
        start = s
        if churn is not None:
            start, added = _added(*churn, s, len(levels), x)
            x = x + added
            if start > s and hook is not None and probe is not None and pair in _SAME_LEVEL:
                z = probe.z + added
                probe = Probe(z, flow(backend_of(x).time(start, x), z))
        last = probe

        def carry(step: Step, _: Probe | None, last: Probe | None = last) -> Array:
            nonlocal probe
            probe = step.probe
            return step.y_new if hook is None else hook(step, last)

        tableau = method if isinstance(method, ButcherTableau) else method(start, s_new)
        x = _solved(flow, x, (start, s_new), tableau, None if hook is None else carry)
    if churn is None:
        return x, levels[-1]
    end, added = _added(*churn, levels[-1], len(levels), x)
    return x + added, end


def _added(
    churn: Churn, source: SeededNoise, s: float, n: int, x: Array
) -> tuple[float, Array | float]:
    raised = churn.raised(s, n)
    # EDM draws at every step, whether the level rises or not.
    return raised, math.sqrt(raised**2 - s**2) * churn.S_noise * source.normal(x.shape[1:])


def _solved(
    flow: Flow, x: Array, levels: Sequence[float], method: ButcherTableau, hook: StepHook | None
) -> Array:
    first, last = levels[0], levels[-1]
    solution = solve(flow, (first, last), x, method, grid=levels, t_eval=[last], guide=hook)
    if not solution.success:
        raise stopped(solution, solution.message)
    return solution.y[-1]


def stopped(solution: Any, message: str) -> RuntimeError:
    """Return the error of a run that did not reach its end, with all that it computed."""
    error = RuntimeError(f"sampling stopped: {message}")
    error.solution = solution  # type: ignore[attr-defined]
    return error


def follow_multistep(
    denoise: Callable[[Array, Any], Array],
    x: Array,
    levels: Sequence[float],
    method: Multistep,
    hook: Callable[..., Array] | None = None,
) -> Array:
    """Return D at the last level, after one call at each.

    Parameters
    ----------
    denoise : callable
        ``D(x, σ)``.
    x : array, shape ``(B, *shape)``
        State at the first level.
    levels : sequence of float
        Grid.
    method : Multistep
        The rule.
    hook : callable, optional
        ``hook(step, past)``, with a `Step` of one slope and the `Past` of the step before; returns
        the state to go on with.
    """
    backend, run = backend_of(x), MultistepRun(levels, method)
    errors = method.error_rows(levels) if hook is not None else ()
    D = denoise(x, backend.time(levels[0], x))
    past: Past | None = None
    for i, (s, s_new) in enumerate(pairwise(levels)):
        x = run.push(x, D)
        ahead = run.predict()
        if hook is not None:
            f = (x - D) / s
            estimate = combine(errors[i], run.values) if errors[i] else None
            step = Step(method, s, s_new - s, x, [f], ahead, s_new, estimate)
            ahead, past = hook(step, past), Past(x, f, s_new - s)
        x, D = ahead, denoise(ahead, backend.time(s_new, ahead))
        if not bool(backend.xp.isfinite(D).all()):
            message = f"the denoiser is not finite at sigma = {s_new!r}"
            t, counts = backend.times([s_new], x), {"nfev": i + 2}
            raise stopped(Solution(t, x[None], Status.non_finite, message, counts), message)
    return D


class MultistepRun:
    """A multistep sampler between the calls of the network: `push` what it said, then `predict`.

    Parameters
    ----------
    levels : sequence of float
        Grid.
    method : Multistep
        The rule.
    """

    def __init__(self, levels: Sequence[float], method: Multistep) -> None:
        self.levels, self.method, self.plan = levels, method, method.plan(levels)
        self.i = 0
        """Index of the level at which the network is to be called."""
        self.x: Array = None
        """The solution at the level before."""
        self.values: list[Array] = []
        """D or f, newest first."""

    def push(self, at: Array, D: Array) -> Array:
        """Take D(at, σ_i) and return the solution at σ_i, which a corrector moves from `at`."""
        method, s = self.method, self.levels[self.i]
        self.values.insert(0, D if method.quantity == "D" else (at - D) / s)
        before = self.plan[self.i - 1] if self.i else None
        if before is not None and before.corrector:
            # PEC: corrected once D is known at the predicted end, and not evaluated again.
            at = before.keep * self.x + combine(before.corrector, self.values)
        del self.values[max(method.order, method.corrector) :]
        self.x = at
        return at

    def predict(self) -> Array:
        """Return the state at σ_{i+1} at which to call the network next."""
        row = self.plan[self.i]
        self.i += 1
        return row.keep * self.x + combine(row.predictor, self.values)
