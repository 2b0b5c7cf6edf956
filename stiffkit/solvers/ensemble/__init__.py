"""Many independent solves, in this process or over any `concurrent.futures` executor."""

from __future__ import annotations

import inspect
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import accumulate
from typing import Any, overload

import numpy as np

from ..problem import check_flags
from ..solve import solve
from .arguments import as_arguments, replaces
from .fingerprint import fingerprint
from .member import Failure, Member, Task
from .pool import place
from .store import Store
from .sweep import Block, EnsembleError, Sweep

__all__ = ["Ensemble", "EnsembleError", "Failure", "Member", "ensemble", "ensemble_iter"]


class Ensemble(Sequence[Member]):
    """Result of `stiffkit.ensemble`: its members, in the order of `parameters`.

    Those whose f is compiled stay arrays, of many at a time, and a `Member` with its `Solution` is
    made when it is first asked for, and kept.
    """

    def __init__(self, parameters: Sequence[Any], blocks: Iterable[Block]) -> None:
        self._parameters, self._blocks = parameters, list(blocks)
        self._starts = [0, *accumulate(len(block.indices) for block in self._blocks)]
        indices = [i for block in self._blocks for i in block.indices]
        self._order = np.argsort(np.array(indices, dtype=int))
        """Where each member is in the blocks, one after the other."""
        self._made: dict[int, Member] = {}

    @overload
    def __getitem__(self, i: int) -> Member: ...
    @overload
    def __getitem__(self, i: slice) -> tuple[Member, ...]: ...
    def __getitem__(self, i: int | slice) -> Member | tuple[Member, ...]:
        """Return a member."""
        if isinstance(i, slice):
            return tuple(self[k] for k in range(len(self))[i])
        i = range(len(self))[i]
        member = self._made.get(i)
        if member is None:
            place = int(self._order[i])
            b = bisect_right(self._starts, place) - 1
            member = self._blocks[b].member(place - self._starts[b], self._parameters)
            member = self._made.setdefault(i, member)  # another thread may have been faster
        return member

    def __len__(self) -> int:
        return len(self._order)

    @property
    def members(self) -> tuple[Member, ...]:
        """All of them; those that were done, if the sweep was interrupted."""
        return self[:]

    @property
    def values(self) -> list[Any]:
        """What each member's solve returned, or `reduce` made of it."""
        return [member.value for member in self]

    def final_states(self) -> np.ndarray[Any, Any]:
        """Return the last state of each member, ``value.y[-1]``, as one array.

        Of a member whose status is a failure it is the last one that it reached (see `succeeded`).

        Returns
        -------
        ndarray, shape ``(len(self), *shape)``

        Raises
        ------
        TypeError
            If a value is no `Solution` of NumPy arrays, for instance what `reduce` made of one.
        ValueError
            If a member ended with an exception, the shapes differ, or there is no state.
        """
        try:
            parts = [states for block in self._blocks for states in block.final_states()]
        except IndexError as error:
            msg = "there are no states: t_eval is empty"
            raise ValueError(msg) from error
        shapes = sorted({states.shape[1:] for states in parts})
        if len(shapes) != 1:
            msg = f"states of shapes {shapes} make no one array" if shapes else "no members"
            raise ValueError(msg)
        return np.concatenate(parts)[self._order]

    @property
    def success(self) -> bool:
        """Whether all members succeeded."""
        return bool(self.succeeded.all())

    @property
    def succeeded(self) -> np.ndarray[Any, Any]:
        """Which members succeeded, shape (len(self),)."""
        ended = [good for block in self._blocks for good in block.outcomes.succeeded]
        return np.array(ended, dtype=bool)[self._order]

    @property
    def failures(self) -> list[Member]:
        """The members that did not succeed."""
        return [self[i] for i in np.flatnonzero(~self.succeeded).tolist()]

    def __repr__(self) -> str:
        failures = self.failures
        counts = {"succeeded": len(self) - len(failures)}
        for member in failures:
            how = member.error.kind if member.error else getattr(member.status, "name", "failed")
            counts[how] = counts.get(how, 0) + 1
        return f"<Ensemble of {len(self)}: {', '.join(f'{n} {how}' for how, n in counts.items())}>"


def ensemble(
    problem: Any,
    parameters: Iterable[Any],
    executor: Any = None,
    *,
    reduce: Callable[[Any], Any] | None = None,
    store: Any = None,
    retry_failed: bool = False,
    chunk: int | None = None,
    retries: int = 1,
    progress: bool = False,
) -> Ensemble:
    """Solve many independent problems: a sweep over parameters or initial states.

    Each member is solved alone, by its own entry of `parameters`: its numbers are the same bits for
    any executor, number of workers and chunks, on machines of one kind. (A linear algebra library
    with a different number of threads may round differently.) A member that fails, by its status,
    by an exception or by the death of its worker, is kept as failed, and the sweep goes on.

    Parameters
    ----------
    problem : callable, or mapping or dataclass
        ``problem(parameters[i])``, which returns a `Solution` or anything else; or arguments of
        `stiffkit.solve` by name. An entry of `parameters` is then a mapping or a dataclass of
        arguments that replace those; or a tuple or list of further arguments of f, which are put
        behind ``args``: ``f(t, y, *args, *entry)``; or one such argument. For other processes,
        `problem` and the entries are pickled: by cloudpickle where it is installed, which takes
        lambdas and functions of a notebook, too.
    parameters : iterable
        One entry per member. The rows of a two-dimensional array are one argument each.
    executor : int or concurrent.futures.Executor or dask.distributed.Client, optional
        Number of processes to start, or where to run: a pool of processes or threads, a client of
        dask or its ``get_executor()``, mpi4py's ``MPIPoolExecutor``, or any other whose `submit`
        returns futures of `concurrent.futures`. By default in this process, one after the other.
        An executor that is given stays open.
    reduce : callable, optional
        ``reduce(solution)`` is called in the worker, and its result is kept instead: so memory
        stays small. It also gets solutions whose status is a failure.
    store : path, optional
        Directory for the results, written as they come. A sweep that was killed goes on from there
        when the same call is made again. A store of another problem, other parameters or another
        `reduce` is refused. Values are then limited to numbers, strings, arrays, and lists, tuples
        and dicts of these, and to `Solution` without ``dense=True``; of one that comes from the
        store, `stiffness` is empty.
    retry_failed : bool
        Solve those members again of which the store has an exception or a lost worker. (One whose
        status is a failure would end the same.)
    chunk : int, optional
        Members per task. By default such that a task takes about half a second.
    retries : int
        How often a member is tried again that was alone with its worker when that died.
    progress : bool
        Show a progress bar (needs tqdm).

    Returns
    -------
    Ensemble
        A sequence of `Member`.

    Raises
    ------
    TypeError, ValueError
        If an argument is unusable, or cannot be pickled for a pool of processes; before the first
        solve. A value that the store cannot hold ends the sweep when it comes.
    EnsembleError
        If the executor fails: a pool that was given is broken by a worker's death, or workers
        cannot read the problem, or are lost again and again.

    Notes
    -----
    This and any other exception that ends the sweep, such as KeyboardInterrupt, has the members
    that were done as its attribute ``ensemble``. What waits in the executor is cancelled; workers
    that ``executor=<int>`` has started are ended; others finish what they are at.

    Examples
    --------
    >>> import stiffkit as sk
    >>> def decay(t, y, rate):
    ...     return -rate * y
    >>> problem = {"f": decay, "t_span": (0.0, 1.0), "y0": [1.0]}
    >>> result = sk.ensemble(problem, [0.5, 1.0, 2.0], reduce=lambda s: round(float(s.y[-1, 0]), 4))
    >>> result.values
    [0.6065, 0.3679, 0.1353]
    """
    sweep = _sweep(
        problem, parameters, executor, reduce, store, retry_failed, chunk, retries, progress
    )
    blocks: list[Block] = []
    try:
        blocks.extend(sweep.run(ordered=False))
    except BaseException as error:
        partial = Ensemble(sweep.parameters, [*blocks, *sweep.ready])
        error.ensemble = partial  # type: ignore[attr-defined]
        error.add_note(f"stiffkit: {len(partial)} members were done; see .ensemble")
        raise
    return Ensemble(sweep.parameters, blocks)


def ensemble_iter(
    problem: Any,
    parameters: Iterable[Any],
    executor: Any = None,
    *,
    ordered: bool = True,
    reduce: Callable[[Any], Any] | None = None,
    store: Any = None,
    retry_failed: bool = False,
    chunk: int | None = None,
    retries: int = 1,
    progress: bool = False,
) -> Iterator[Member]:
    """Solve as `ensemble`, and yield the members one by one instead of keeping them.

    New work is handed out only as members are asked for. To leave the loop early, or to close the
    iterator, cancels the rest.

    Parameters
    ----------
    problem, parameters, executor, reduce, store, retry_failed, chunk, retries, progress
        As for `ensemble`; checked when this is called.
    ordered : bool
        Yield by index. Members that are done before an earlier one wait in memory; with False they
        are yielded as they come, those of the store first.

    Returns
    -------
    iterator of Member
    """
    return _sweep(
        problem, parameters, executor, reduce, store, retry_failed, chunk, retries, progress
    ).members(ordered=ordered)


def _sweep(
    problem: Any,
    parameters: Iterable[Any],
    executor: Any,
    reduce: Any,
    store: Any,
    retry_failed: bool,
    chunk: int | None,
    retries: int,
    progress: bool,
) -> Sweep:
    """Check the arguments, and make the sweep."""
    where = place(executor)
    if reduce is not None and not callable(reduce):
        msg = f"reduce must be a function of a solution, not {reduce!r}"
        raise TypeError(msg)
    check_flags(retry_failed=retry_failed, progress=progress)
    _check_count("chunk", chunk, 1)
    _check_count("retries", retries, 0)
    entries = _entries(parameters)
    _check_problem(problem, entries)
    disk = None
    if store is not None:
        described = {"problem": problem, "parameters": entries, "reduce": reduce}
        parts = {name: fingerprint(x, name) for name, x in described.items()}
        disk = Store(store, len(entries), parts)
    try:
        return Sweep(
            Task(problem, reduce),
            entries,
            where,
            store=disk,
            chunk=chunk,
            retries=retries,
            retry_failed=retry_failed,
            progress=progress,
        )
    except BaseException:
        if disk is not None:
            disk.close()
        raise


def _check_count(name: str, n: Any, least: int) -> None:
    if n is None and name == "chunk":
        return
    if not isinstance(n, int) or isinstance(n, bool) or n < least:
        msg = f"{name} must be a whole number of at least {least}, not {n!r}"
        raise ValueError(msg)


def _entries(parameters: Iterable[Any]) -> list[Any]:
    if isinstance(parameters, (str, bytes, Mapping)) or not hasattr(parameters, "__iter__"):
        msg = f"parameters must be a sequence with one entry per member, not {parameters!r}"
        raise TypeError(msg)
    return list(parameters)


def _check_problem(problem: Any, entries: Sequence[Any]) -> None:
    """Refuse a problem that is none, and arguments that `solve` does not have or lacks."""
    if callable(problem):
        return
    given = as_arguments(problem)
    if given is None:
        msg = f"problem must be callable, or a mapping of solve's arguments, not {problem!r}"
        raise TypeError(msg)
    signature = inspect.signature(solve).parameters
    needed = {name for name, p in signature.items() if p.default is inspect.Parameter.empty}
    _check_names("problem", given, set(signature))
    by_name = {kind for kind in set(map(type, entries)) if replaces(kind)}
    checked = set()
    for i, entry in enumerate(entries if by_name else entries[:1]):
        names = tuple(as_arguments(entry) or ()) if type(entry) in by_name else ()
        if names in checked:
            continue
        _check_names(f"parameters[{i}]", names, set(signature))
        missing = needed - {*given, *names}
        if missing:
            msg = f"neither problem nor parameters[{i}] has {', '.join(sorted(missing))}"
            raise TypeError(msg)
        checked.add(names)


def _check_names(where: str, given: Iterable[str], known: set[str]) -> None:
    unknown = [name for name in given if name not in known]
    if unknown:
        msg = f"{where} has {unknown[0]!r}, which is no argument of solve"
        raise TypeError(msg)
