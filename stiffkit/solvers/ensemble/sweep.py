"""The loop of an ensemble: what is under way, what came back, what to do about lost workers."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections import Counter, deque
from collections.abc import Generator, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, wait
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from ..._optional import require
from ..solution import Solution
from .member import Failure, Member, Outcome, Outcomes, Task, dumps, lost, run_chunk, unpack
from .pool import Place
from .store import Store

__all__ = ["Block", "EnsembleError", "Sweep"]

_SECONDS = 0.5  # work in a chunk: some hundred times the cost of sending it
_LARGEST = 1024  # members in a chunk: a chunk is what a killed sweep loses


class EnsembleError(RuntimeError):
    """The executor failed, not a member: what was solved is in ``ensemble``, and in the store."""


@dataclass(frozen=True)
class _Chunk:
    indices: tuple[int, ...]
    alone: bool


class Block(NamedTuple):
    """Members that are done, and are members only when somebody asks."""

    indices: Sequence[int]
    outcomes: Outcomes

    def member(self, k: int, parameters: Sequence[Any]) -> Member:
        """Make the k-th of them, of the sweep's `parameters`."""
        i = self.indices[k]
        return Member(i, parameters[i], *self.outcomes[k])

    def final_states(self) -> list[np.ndarray[Any, Any]]:
        """Return the last states of all, one after the other: some rows in each array."""
        alone, columns = self.outcomes.alone, self.outcomes.columns
        states: Any = () if columns is None else columns.final_states()
        if len(states) == len(alone):
            return [states]
        turn = iter(states)
        return [
            (next(turn) if outcome is None else _final_state(i, outcome))[None]
            for i, outcome in zip(self.indices, alone, strict=True)
        ]


def _final_state(i: int, outcome: Outcome) -> Any:
    if outcome.error is not None:
        msg = f"member {i} has no final state: {outcome.message}"
        raise ValueError(msg)
    y = outcome.value.y if isinstance(outcome.value, Solution) else None
    if not isinstance(y, np.ndarray):
        msg = f"member {i} has no final state: its value is no Solution of NumPy arrays"
        raise TypeError(msg)
    return y[-1]


class Sweep:
    """Solves all members that the store does not hold.

    A task that does not come back (its worker died, or could not send) is taken apart, and its
    members are solved alone, so that it is known whose fault a loss is: each in a pool of one
    worker if pools are ours, and else with nothing beside it. A member that is lost more than
    `retries` times when alone is recorded as failed. Each loss moves members from `waiting` to
    `suspects`, or uses up a retry: there are finitely many. If more tasks in a row are lost than
    one bad member explains, the sweep ends.
    """

    def __init__(
        self,
        task: Task,
        parameters: Sequence[Any],
        where: Place,
        *,
        store: Store | None,
        chunk: int | None,
        retries: int,
        retry_failed: bool,
        progress: bool,
    ) -> None:
        self.parameters, self.where, self.store = parameters, where, store
        self.chunk, self.retries = chunk, retries
        self.task: Task | bytes = task if where.codec is None else _pickled(task, where.codec)
        # In this process nothing is sent, and an interrupt then loses no more than one.
        self.one_by_one = where.window == 1 and store is None and not task.compiled
        self._check_pickles()
        stored = set() if store is None else set(store.files)
        if store is not None and retry_failed:
            stored -= store.errors
        self.stored = stored
        self.waiting = deque(i for i in range(len(parameters)) if i not in stored)
        self.suspects: deque[int] = deque()
        self.strikes: Counter[int] = Counter()
        self.under_way: dict[Future[Any], _Chunk] = {}
        self.ready: deque[Block] = deque()
        """Solved, and not handed out yet."""
        self.losses = 0  # tasks lost since one came back
        self.most_losses = 20 + where.window * (retries + 2)
        self.attempts = itertools.count()
        self.size, self.solved, self.seconds = 1, 0, 0.0
        self.bar: Any = None
        self.tqdm = require("tqdm.auto", "diffusion", "progress=True").tqdm if progress else None

    def _check_pickles(self) -> None:
        if self.where.codec is None:
            return
        for i, p in enumerate(self.parameters):
            try:
                dumps(p, self.where.codec)
            except Exception as error:
                msg = f"parameters[{i}] = {p!r} cannot be pickled for the workers: {error}"
                raise TypeError(msg) from error

    def members(self, *, ordered: bool) -> Iterator[Member]:
        """Yield the members, each made when its turn comes."""
        with contextlib.closing(self.run(ordered=ordered)) as blocks:
            for block in blocks:
                for k in range(len(block.indices)):
                    yield block.member(k, self.parameters)

    def run(self, *, ordered: bool) -> Generator[Block]:
        """Yield what is done, by index or as it comes; what is under way ends with the iterator."""
        if self.tqdm is not None:
            self.bar = self.tqdm(total=len(self.parameters), initial=len(self.stored), unit="solve")
        try:
            yield from self._in_order() if ordered else self._as_it_comes()
            self.where.close(kill=False)
        except BaseException:
            self._abandon()
            raise
        finally:
            if self.bar is not None:
                self.bar.close()
            if self.store is not None:
                self.store.close()

    def _as_it_comes(self) -> Iterator[Block]:
        if self.store is not None:
            for _, indices in itertools.groupby(sorted(self.stored), self.store.files.get):
                yield self._from_store(indices)
        yield from iter(self._next, None)

    def _in_order(self) -> Iterator[Block]:
        """Yield each member by itself."""
        done: dict[int, tuple[Block, int]] = {}
        for i in range(len(self.parameters)):
            if i in self.stored:
                yield self._from_store([i])
                continue
            while i not in done:
                block = self._next()
                assert block is not None
                done.update((j, (block, k)) for k, j in enumerate(block.indices))
            block, k = done.pop(i)
            yield Block([i], Outcomes([block.outcomes[k]]))

    def _from_store(self, indices: Iterable[int]) -> Block:
        assert self.store is not None
        indices = [*indices]
        return Block(indices, Outcomes([self.store.read(i) for i in indices]))

    def _next(self) -> Block | None:
        """Return what is done and was not handed out; wait for it; None where all is."""
        while not self.ready:
            if not (self.waiting or self.suspects or self.under_way):
                return None
            self._fill()
            for future in wait(self.under_way, return_when=FIRST_COMPLETED).done:
                self._collect(future)
        return self.ready.popleft()

    def _fill(self) -> None:
        """Submit tasks: first those of one suspect, then chunks while there is room."""
        alone = sum(chunk.alone for chunk in self.under_way.values())
        if not self.where.own and (self.suspects or alone):
            # Dask blames all tasks that a dead worker had: a suspect must be the only one.
            if self.suspects and not self.under_way:
                self._submit((self.suspects.popleft(),), alone=True)
            return
        while self.suspects and alone < self.where.workers:
            self._submit((self.suspects.popleft(),), alone=True)
            alone += 1
        room = self.where.workers if alone else self.where.window
        while self.waiting and len(self.under_way) < room:
            n = min(self._chunk_size(), len(self.waiting))
            self._submit(tuple(self.waiting.popleft() for _ in range(n)), alone=False)

    def _chunk_size(self) -> int:
        """Return so many members as take half a second, and leave work for all workers."""
        if self.chunk is not None:
            return self.chunk
        if self.one_by_one:
            return 1
        share = math.ceil(len(self.waiting) / (4 * self.where.workers))
        if self.solved:
            mean = max(self.seconds / self.solved, 1e-6)
            # The first members may be unlike the rest.
            self.size = max(1, min(2 * self.size, int(_SECONDS / mean), _LARGEST))
        return min(self.size, share)

    def _submit(self, indices: tuple[int, ...], *, alone: bool) -> None:
        codec = self.where.codec
        entries: Any = [self.parameters[i] for i in indices]
        if codec is not None:
            entries = dumps(entries, codec)
        arguments = (run_chunk, self.task, entries, codec, next(self.attempts))
        chunk = _Chunk(indices, alone)
        try:
            future = self.where.submit(*arguments, alone=alone)
        except Exception as error:
            if not isinstance(error, BrokenExecutor):
                msg = f"the executor takes no more work ({type(error).__name__}: {error})"
                raise EnsembleError(msg) from error
            future = Future()
            future.set_exception(error)
        self.under_way[future] = chunk

    def _collect(self, future: Future[Any]) -> None:
        chunk = self.under_way.pop(future)
        broken = not future.cancelled() and isinstance(future.exception(), BrokenExecutor)
        self.where.ended(future, broken=broken)
        try:
            outcomes = future.result()
        except CancelledError as error:
            msg = "the executor cancelled the work"
            raise EnsembleError(msg) from error
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # what a lost task ends with is the executor's
            self._lose(chunk, error)
            return
        if isinstance(outcomes, Failure):
            msg = (
                f"the workers cannot read the problem ({outcomes.kind}: {outcomes.message}): its "
                "functions must be in a module that can be imported there"
            )
            raise EnsembleError(msg)
        self.losses = 0
        self._record(chunk.indices, outcomes.each(unpack))

    def _lose(self, chunk: _Chunk, error: BaseException) -> None:
        name = type(error).__name__
        if isinstance(error, BrokenExecutor) and not self.where.own:
            msg = (
                f"the executor is broken ({name}: {error}): a worker died. With "
                "executor=<number of processes> the pool is replaced, and the sweep goes on"
            )
            raise EnsembleError(msg) from error
        self.losses += 1
        for i in chunk.indices:
            self.strikes[i] += chunk.alone
            if self.strikes[i] > self.retries:
                why = f"its worker was lost {self.strikes[i]} times when solving it alone"
                self._record((i,), Outcomes([lost(error, why)]))
            else:
                self.suspects.append(i)
        if self.losses > self.most_losses:
            msg = f"{self.losses} tasks were lost in a row, the last to {name}: {error}"
            raise EnsembleError(msg) from error

    def _record(self, indices: Sequence[int], outcomes: Outcomes) -> None:
        self.ready.append(Block(indices, outcomes))
        self.solved += len(outcomes)
        self.seconds += outcomes.seconds
        if self.store is not None:
            self.store.write(indices, outcomes)
        if self.bar is not None:
            self.bar.update(len(indices))

    def _abandon(self) -> None:
        """Cancel what waits and keep what is done; workers of ours end at once."""
        for future in self.under_way:
            future.cancel()
        for future in [f for f in self.under_way if f.done() and not f.cancelled()]:
            with contextlib.suppress(Exception):  # the first error is the one to tell
                self._collect(future)
        self.where.close(kill=True)


def _pickled(task: Task, codec: str) -> bytes:
    for name, part in (("problem", task.problem), ("reduce", task.reduce)):
        try:
            dumps(part, codec)
        except Exception as error:
            msg = (
                f"{name} cannot be pickled for the workers ({type(error).__name__}: {error}): "
                "define functions at the top level of a module, not as lambdas or inside others, "
                "and give them data by functools.partial"
            )
            raise TypeError(msg) from error
    return dumps(task, codec)
