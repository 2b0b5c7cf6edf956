"""Stages of a batch whose rows go by two methods, each row by its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, final

import numpy as np

from ..._array import Array
from ..switch import EVERY
from .auto import EXPLICIT, IMPLICIT, RARELY, Judge, Pair
from .dense import BatchSegment
from .problem import BatchProblem, Floats
from .stages import BatchStages, ExplicitBatch
from .stiff import LinearStages

__all__ = ["SwitchingBatch"]


@final
class SwitchingBatch(BatchStages):
    """An explicit method and an implicit one, side by side.

    Rows of one method make their steps together, and what both have made is put together again in
    the order of the rows: to the loop it is one method.

    Parameters
    ----------
    problem : BatchProblem
        The rows' problem.
    pair : Pair
        The members.
    make : callable
        ``make(method, problem, samples, record=...)``, the stages of one of them.
    tolerances : (rtol, atol)
        Of the whole batch.
    samples : array of int or slice
        Whose the rows are; a slice of the whole batch is all of them.
    jac : callable or array, optional
        The Jacobian.
    record, correct : bool
        Whether autograd needs the history, or will when the steps are made again.
    """

    def __init__(
        self,
        problem: BatchProblem,
        pair: Pair,
        make: Callable[..., BatchStages],
        tolerances: tuple[Any, Any],
        samples: Any,
        jac: Any,
        *,
        record: bool,
        correct: bool,
    ) -> None:
        super().__init__(problem, pair)
        self.methods = pair.members(record=record or correct)
        self.make, self.tolerances, self.jac, self.record = make, tolerances, jac, record
        every = np.arange(problem.size)
        self.samples = every if isinstance(samples, slice) else np.array(samples)
        self.family = np.zeros(problem.size, int)
        """By which method each row goes."""
        self.groups: dict[int, tuple[BatchStages, Any]] = {}
        """The stages of each method, and the rows that they hold."""
        self.only: BatchStages | None = None
        """The stages of all rows, where all go by one method."""
        self.order: Any = None
        """Where each row is found when the groups' rows are laid one below the other."""
        self.spent = np.zeros(2, int)
        """Jacobians and factorisations of stages that are no more."""
        self.judge: Judge | None = None
        self.leaving: dict[int, float] = {}
        self.looked = 0
        self.now: tuple[Floats, Array]
        """Sizes and starts of the last attempt."""
        self.arrange(problem, np.arange(problem.size), self.family, apart=False)

    # The rows -------------------------------------------------------------------------------------

    def arrange(self, problem: BatchProblem, old: Any, family: Any, *, apart: bool) -> None:
        """Let the rows go on by these methods.

        Parameters
        ----------
        problem : BatchProblem
            Theirs.
        old : array of int
            Which of the rows at hand each of them was.
        family : array of int
            By which method it goes.
        apart : bool
            Whether f takes some of the rows alone. If not, each method holds all of them, and those
            of the other rest.
        """
        backend, every = self.backend, np.arange(len(family))
        f_0 = None if self.f_0 is None else backend.take(self.f_0, old, 0)
        came = family != self.family[old]
        self.problem, self.samples, self.family = problem, self.samples[old], family
        groups: dict[int, tuple[BatchStages, Any]] = {}
        self.order, offset = np.zeros(len(family), int), 0
        for k in np.unique(family).tolist():
            rows = np.flatnonzero(family == k) if apart else every
            part = problem if len(rows) == problem.size else problem.take(rows)
            known = self.groups.pop(k, None)
            if known is None:
                stages = self.make(self.methods[k], part, self.samples[rows], record=self.record)
            else:
                stages = known[0]
                self._carry(stages, part, known[1], old[rows], rows, came[rows])
            if f_0 is not None:
                stages.start(backend.take(f_0, rows, 0))
            own = np.flatnonzero(family[rows] == k)
            self.order[rows[own]] = offset + own
            groups[k], offset = (stages, rows), offset + len(rows)
        for stages, _ in self.groups.values():
            self.spent += stages.njev, stages.nlu
        self.groups = groups
        self.only = next(iter(groups.values()))[0] if len(groups) == 1 else None
        self.error_order = self._of_rows({k: s.error_order for k, (s, _) in groups.items()})
        low, high = ({k: s.hold[i] for k, (s, _) in groups.items()} for i in (0, 1))
        self.hold = self._of_rows(low), self._of_rows(high)
        self._gather()

    def _of_rows(self, values: dict[int, Any]) -> Any:
        """Return what the groups have, a number each: one number, or one for each row."""
        if len(values) == 1:
            return next(iter(values.values()))
        return np.where(self.family == IMPLICIT, values[IMPLICIT], values[EXPLICIT])

    def go_by(self, family: Any, *, apart: bool) -> None:
        """Let each row go by one of the methods, as `arrange` does."""
        if (family != self.family).any():
            self.arrange(self.problem, np.arange(len(family)), family, apart=apart)

    def _carry(
        self, stages: BatchStages, part: BatchProblem, held: Any, old: Any, rows: Any, came: Any
    ) -> None:
        """Let stages go on with some rows; what they know of those that stay is kept."""
        place = np.full(max(held.max(), old.max()) + 1, -1)
        place[held] = np.arange(len(held))
        place = place[old]
        stages.take(part, np.maximum(place, 0))  # of rows that come, another's memory: forgotten
        if isinstance(stages, LinearStages):
            mine = self.samples[rows]
            stages.tolerate(*(x if isinstance(x, float) else x[mine] for x in self.tolerances))
            stages.forget(came | (place < 0))

    def take(self, problem: BatchProblem, rows: Any) -> None:
        """Go on with some of the rows."""
        self.arrange(problem, rows, self.family[rows], apart=True)

    @property
    def sole(self) -> BatchStages:
        """Stages that hold the first row as one of their own."""
        return self.groups[int(self.family[0])][0]

    def _gather(self) -> None:
        """Read f(t, y) off the groups."""
        self.f_0 = self._joined([stages.f_0 for stages, _ in self.groups.values()])

    def _joined(self, parts: list[Array]) -> Array:
        """Return what the groups have, of shape (b, ...), in the order of the rows."""
        if len(parts) == 1:
            return parts[0]
        if isinstance(parts[0], np.ndarray):
            return np.concatenate(parts)[self.order]
        return self.backend.take(self.backend.xp.concatenate(parts), self.order, 0)

    def _each(self, *arrays: Any) -> Iterator[tuple[BatchStages, Any, list[Any]]]:
        """Yield the groups' stages, which of their rows are their own, and their rows of arrays."""
        for k, (stages, rows) in self.groups.items():
            if self.only is not None:
                yield stages, True, list(arrays)
                continue
            yield (
                stages,
                self.family[rows] == k,
                [
                    x[rows] if isinstance(x, np.ndarray) else self.backend.take(x, rows, 0)
                    for x in arrays
                ],
            )

    # The stages -----------------------------------------------------------------------------------

    @property
    def njev(self) -> int:  # type: ignore[override]
        """Jacobians made, one call for all rows."""
        return int(self.spent[0]) + sum(s.njev for s, _ in self.groups.values())

    @property
    def nlu(self) -> int:  # type: ignore[override]
        """Factorisations, one call for all rows."""
        return int(self.spent[1]) + sum(s.nlu for s, _ in self.groups.values())

    def start(self, f_0: Array) -> None:
        """Get ready to step, given f at the rows' times and states."""
        for stages, _, (own,) in self._each(f_0):
            stages.start(own)
        self._gather()

    def attempt(self, t: Floats, h: Floats, y: Array) -> Array:
        """Compute the stages; see `BatchStages`."""
        if self.only is not None:
            self.only.fixed = self.fixed
            y_new = self.only.attempt(t, h, y)
            self.failed, self.longest = self.only.failed, self.only.longest
            self.now = h, y
            return y_new
        made, failed, longest = [], [], []
        for stages, own, (t_k, h_k, y_k) in self._each(t, h, y):
            stages.fixed = self.fixed
            made.append(stages.attempt(t_k, np.where(own, h_k, 0.0), y_k))
            lost = stages.failed
            failed.append(np.zeros(len(h_k), bool) if lost is None else lost)
            longest.append(stages.longest)
        self.failed, self.longest = self._joined(failed), self._joined(longest)
        y_new = self._joined(made)
        self.now = h, y
        return y_new

    def errors(self) -> list[Array]:
        """Return the methods' estimates: both have one."""
        if self.only is not None:
            return self.only.errors()
        errors = [self.backend.array(stages.errors()[0]) for stages, _ in self.groups.values()]
        return [self._joined(errors)]

    def slopes(self) -> list[Array]:
        """Return the stage derivatives of the first row's method."""
        return self.sole.slopes()

    def parts(self, index: Any, accept: Any, *step: Any) -> Iterator[tuple[Any, ...]]:
        """Yield the rows of a step method by method."""
        for stages, own, (index_k, accept_k, *step_k) in self._each(index, accept, *step):
            yield index_k, accept_k & own, stages, *step_k

    @property
    def inside_error(self) -> Callable[..., Array] | None:
        """What `LinearStages` has; None where no row goes by the implicit method."""
        return self._inside_error if IMPLICIT in self.groups else None

    def _inside_error(self, t: Floats, t_new: Floats, y: Array, y_new: Array, looked: Any) -> Array:
        errors = []
        for stages, own, step in self._each(t, t_new, y, y_new, looked):
            if isinstance(stages, LinearStages):
                step[4] = step[4] & own
                errors.append(stages.inside_error(*step))
            else:
                errors.append(self.backend.full(tuple(step[2].shape), 0.0, y))
        return self._joined(errors)

    def damping(self, h: Floats, y: Array, y_new: Array) -> Floats:
        """Return −hλ of each row's last attempt."""
        own = [stages.damping(*part) for stages, _, part in self._each(h, y, y_new)]
        damping: Floats = self._joined(own)
        return damping

    def segment(self, t: Floats, t_new: Floats, y: Array, y_new: Array) -> BatchSegment:
        """Return dense output over the step: a polynomial of the higher of both degrees."""
        if self.only is not None:
            return self.only.segment(t, t_new, y, y_new)
        parts = []
        for stages, own, (t_k, end, *states) in self._each(t, t_new, y, y_new):
            parts.append(stages.segment(t_k, np.where(own, end, t_k), *states))
        return BatchSegment.joined(parts).take(self.order)

    def advance(self, accept: Any, t: Floats, y: Array) -> None:
        """Get ready for the next step; look every few steps where rows should change."""
        if self.judge is not None:
            self.looked += 1
            if self.looked % EVERY == 0:
                made = self.family >= 0 if accept is None else self.backend.numpy(accept)[:, 0]
                self._look(self.judge, made, t, y)
        if self.only is not None:
            self.only.advance(accept, t, y)
            self.f_0 = self.only.f_0
            return
        given = (t, y) if accept is None else (t, y, accept)
        for stages, _, (t_k, y_k, *own) in self._each(*given):
            stages.advance(own[0] if own else None, t_k, y_k)
        self._gather()

    # Who goes by which ----------------------------------------------------------------------------

    def watch(self, whole: BatchProblem, longest: float) -> None:
        """Begin to look which rows should go by the other method.

        `whole` is the whole batch, and no step may be longer than `longest`.
        """
        self.judge = Judge(whole, self.methods, *self.tolerances, self.jac, longest)

    def _look(self, judge: Judge, made: Any, end: Floats, y_end: Array) -> None:
        judge.steps[self.samples] += EVERY
        h, y = self.now
        parts = self._each(made, self.samples, end, h, y, y_end)
        for stages, own, (made_k, who, end_k, h_k, *states) in parts:
            h_k = np.where(own, h_k, 0.0)
            step, did = (end_k, h_k, *states), made_k & own & (h_k != 0)
            if isinstance(stages, LinearStages):
                self.leaving |= judge.leave_implicit(stages, who, did, step)
            elif isinstance(stages, ExplicitBatch) and self.looked % (RARELY * EVERY) == 0:
                # The next step starts with it: autograd included.
                stages.slope_at_end(end_k, states[1])
                self.leaving |= judge.leave_explicit(stages, who, did, step)

    def changes(self) -> tuple[Any, Floats]:
        """Return by which method each row should go on, and first steps; NaN where none changes."""
        first = np.array([self.leaving.get(sample, np.nan) for sample in self.samples.tolist()])
        self.leaving = {}
        return np.where(np.isnan(first), self.family, 1 - self.family), first
