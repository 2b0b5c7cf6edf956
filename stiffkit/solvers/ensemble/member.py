"""One member of an ensemble: what is solved, what comes of it, and how both travel to a worker."""

from __future__ import annotations

import importlib
import pickle
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from ..._optional import is_jitted
from ..solution import Solution, Status
from ..solve import solve
from .arguments import as_arguments, solve_arguments
from .together import solve_together

if TYPE_CHECKING:
    from ..columns import SolutionColumns

__all__ = ["Failure", "Member", "Outcome", "Outcomes", "Task", "dumps", "run_chunk"]


class Failure(NamedTuple):
    """An exception in words: the object itself may not survive the way from a worker."""

    kind: str
    """Name of its type."""
    message: str
    """What it said."""
    traceback: str
    """Where it was raised; empty if the worker died."""

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """Describe an exception."""
        return cls(type(error).__name__, str(error), "".join(traceback.format_exception(error)))


class Outcome(NamedTuple):
    """What a solve of an ensemble came to, without whose it is: the tail of `Member`'s fields."""

    value: Any
    success: bool
    status: Status | None
    message: str
    error: Failure | None
    seconds: float


@dataclass(frozen=True, eq=False)
class Outcomes:
    """What the members of a task came to; of those in columns it is made when it is asked for."""

    alone: list[Any]
    """Outcome, or its pickle, of each member; None of one whose solution is in the columns."""
    columns: SolutionColumns | None = None
    """The others' solutions, in their order; all have succeeded."""
    share: float = 0.0
    """Seconds that each of those took."""

    def __len__(self) -> int:
        return len(self.alone)

    def __getitem__(self, k: int) -> Outcome:
        """Return the outcome of a member."""
        outcome: Outcome | None = self.alone[k]
        if outcome is not None:
            return outcome
        assert self.columns is not None
        solution = self.columns[self._rows[k]]
        return Outcome(solution, True, solution.status, solution.message, None, self.share)

    def __iter__(self) -> Iterator[Outcome]:
        return map(self.__getitem__, range(len(self)))

    def each(self, change: Callable[[Any], Any]) -> Outcomes:
        """Return these with those changed that are not in columns."""
        return replace(self, alone=[x if x is None else change(x) for x in self.alone])

    @cached_property
    def _rows(self) -> list[int]:
        """Where in the columns each member is that is there."""
        rows = np.cumsum([outcome is None for outcome in self.alone]) - 1
        return rows.tolist()  # type: ignore[no-any-return]

    @property
    def succeeded(self) -> list[bool]:
        """Which succeeded."""
        return [outcome is None or outcome.success for outcome in self.alone]

    @property
    def seconds(self) -> float:
        """Time that all took (s)."""
        return sum(self.share if outcome is None else outcome.seconds for outcome in self.alone)


@dataclass(frozen=True, eq=False)
class Member:
    """One solve of an ensemble, and how it ended."""

    index: int
    """Its place in `parameters`."""
    parameters: Any
    """Its entry of `parameters`."""
    value: Any
    """What `problem` returned, or `reduce` made of it. After an exception None, or the partial
    `Solution` where there is one and no `reduce`."""
    success: bool
    """Whether there was no exception and, for a `Solution`, it ended as planned."""
    status: Status | None
    """The Solution's status; None if `problem` returned something else, or an exception came
    before."""
    message: str
    """How it ended, in words."""
    error: Failure | None
    """The exception, or how the worker was lost; else None."""
    seconds: float
    """Time that it took in its worker (s)."""

    def __repr__(self) -> str:
        how = self.error.kind if self.error else self.status.name if self.status else "done"
        return f"<Member {self.index}: {how}, {type(self.value).__name__}>"


@dataclass(frozen=True)
class Task:
    """What is done for each member."""

    problem: Any
    """``problem(parameters)``, or a mapping of `solve`'s arguments."""
    reduce: Callable[[Any], Any] | None

    @property
    def compiled(self) -> bool:
        """Whether members may be solved together."""
        given = as_arguments(self.problem)
        return given is not None and is_jitted(given.get("f"))

    def solve(self, parameters: Any) -> Any:
        """Solve for one entry of `parameters`."""
        if callable(self.problem):
            return self.problem(parameters)
        return solve(**solve_arguments(self.problem, parameters))

    def run(self, entries: Sequence[Any]) -> Outcomes:
        """Solve members: together those that one call can solve, which share the time of it."""
        start = time.perf_counter()
        found = solve_together(self.problem, entries) if self.compiled else None
        if found is None:
            return Outcomes([self(p) for p in entries])
        which, solutions = set(found[0]), found[1]
        share = (time.perf_counter() - start) / len(which)
        if self.reduce is None:
            alone = [None if i in which else self(p) for i, p in enumerate(entries)]
            return Outcomes(alone, solutions, share)
        turn = iter(solutions)  # one alive at a time, which spares the garbage collector
        return Outcomes(
            [self(p, next(turn) if i in which else None, share) for i, p in enumerate(entries)]
        )

    def __call__(
        self, parameters: Any, solution: Solution | None = None, spent: float = 0.0
    ) -> Outcome:
        """Solve, unless there is a solution that took so long, and reduce.

        An exception becomes part of the outcome.
        """
        start = time.perf_counter() - (0.0 if solution is None else spent)
        status, message, value = None, "done", None
        try:
            value = self.solve(parameters) if solution is None else solution
            success = bool(getattr(value, "success", True))
            if isinstance(value, Solution):
                status, message = value.status, value.message
            if self.reduce is not None:
                value = self.reduce(value)
        except Exception as error:  # whatever it is, it is this member's alone
            partial = None if self.reduce else getattr(error, "solution", None)
            failure = Failure.of(error)
            message = f"{failure.kind}: {failure.message}"
            return Outcome(partial, False, status, message, failure, time.perf_counter() - start)
        return Outcome(value, success, status, message, None, time.perf_counter() - start)


def dumps(x: Any, codec: str) -> bytes:
    """Pickle x with the module named `codec`: pickle or cloudpickle."""
    return importlib.import_module(codec).dumps(x)  # type: ignore[no-any-return]


@lru_cache(maxsize=2)
def _task(payload: bytes) -> Task:
    # A worker gets the same task with every chunk: it is unpickled once.
    return pickle.loads(payload)  # type: ignore[no-any-return]


def run_chunk(
    task: Task | bytes, parameters: Sequence[Any] | bytes, codec: str | None, attempt: int
) -> Outcomes | Failure:
    """Solve some members, in a worker.

    With a `codec` all comes and goes as pickles made here: an outcome that cannot be pickled is
    then its member's failure, where a pool would lose the whole chunk.

    Parameters
    ----------
    task : Task
        Or its pickle.
    parameters : sequence
        Entries of the members, or their pickle.
    codec : str, optional
        Which module pickles; None where the worker shares the caller's memory.
    attempt : int
        Different in each call: some executors know results by their arguments.

    Returns
    -------
    Outcomes
        In the order of `parameters`; or the Failure that kept the worker from reading its task.
    """
    del attempt
    if codec is None:
        assert isinstance(task, Task)
        return task.run(parameters)
    try:
        task = _task(task)
        entries = pickle.loads(parameters)  # type: ignore[arg-type]
    except Exception as error:  # the caller raises it again
        return Failure.of(error)
    outcomes = task.run(entries)
    return outcomes.each(lambda outcome: _pack(outcome, codec))


def _pack(outcome: Outcome, codec: str) -> bytes:
    try:
        return dumps(outcome, codec)
    except Exception as error:  # pickle raises whatever the object raises
        failure = Failure.of(error)
        message = (
            f"the result cannot be sent back ({failure.kind}: {failure.message}): "
            "let `reduce` return arrays and numbers"
        )
        return dumps(
            outcome._replace(value=None, success=False, message=message, error=failure), codec
        )


def unpack(outcome: Outcome | bytes) -> Outcome:
    """Return an outcome of those that `run_chunk` returned."""
    if isinstance(outcome, Outcome):
        return outcome
    try:
        return pickle.loads(outcome)  # type: ignore[no-any-return]
    except Exception as error:  # as above
        return lost(error, "the result cannot be read")


def lost(error: BaseException, why: str) -> Outcome:
    """Return the outcome of a member whose own is not to be had."""
    kind = type(error).__name__
    message = f"{why} ({kind}: {error})"
    return Outcome(None, False, None, message, Failure(kind, str(error), ""), 0.0)
