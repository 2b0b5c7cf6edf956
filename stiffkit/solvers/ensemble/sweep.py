"""The loop of an ensemble: what is under way, what came back, what to do about lost workers."""

from __future__ import annotations

import contextlib
import itertools
import math
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, BrokenExecutor, CancelledError, Future, wait
from dataclasses import dataclass
from typing import Any

from ..._optional import require
from .member import Failure, Member, Outcome, Task, dumps, lost, run_chunk, unpack
from .pool import Place
from .store import Store

__all__ = ["EnsembleError", "Sweep"]

_SECONDS = 0.5  # work in a chunk: some hundred times the cost of sending it
_LARGEST = 1024  # members in a chunk: a chunk is what a killed sweep loses


class EnsembleError(RuntimeError):
    """The executor failed, not a member: what was solved is in ``ensemble``, and in the store."""


@dataclass(frozen=True)
class _Chunk:
    indices: tuple[int, ...]
    alone: bool


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
        self.ready: dict[int, Member] = {}
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

    def run(self, *, ordered: bool) -> Iterator[Member]:
        """Yield the members, by index or as they come; what is under way ends with the iterator."""
        total = len(self.parameters)
        order = iter(range(total))
        if self.tqdm is not None:
            self.bar = self.tqdm(total=total, initial=len(self.stored), unit="solve")
        try:
            if not ordered:
                yield from map(self._from_store, sorted(self.stored))
            expected = next(order, None)
            while True:
                if ordered:
                    while expected is not None and (member := self._take(expected)):
                        yield member
                        expected = next(order, None)
                else:
                    while self.ready:
                        yield self.ready.pop(next(iter(self.ready)))
                if not (self.waiting or self.suspects or self.under_way):
                    break
                self._fill()
                for future in wait(self.under_way, return_when=FIRST_COMPLETED).done:
                    self._collect(future)
            self.where.close(kill=False)
        except BaseException:
            self._abandon()
            raise
        finally:
            if self.bar is not None:
                self.bar.close()
            if self.store is not None:
                self.store.close()

    def _take(self, i: int) -> Member | None:
        return self._from_store(i) if i in self.stored else self.ready.pop(i, None)

    def _from_store(self, i: int) -> Member:
        assert self.store is not None
        return Member(i, self.parameters[i], *self.store.read(i))

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
        self._record(chunk.indices, [unpack(outcome) for outcome in outcomes])

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
                self._record((i,), [lost(error, why)])
            else:
                self.suspects.append(i)
        if self.losses > self.most_losses:
            msg = f"{self.losses} tasks were lost in a row, the last to {name}: {error}"
            raise EnsembleError(msg) from error

    def _record(self, indices: Sequence[int], outcomes: Sequence[Outcome]) -> None:
        for i, outcome in zip(indices, outcomes, strict=True):
            self.ready[i] = Member(i, self.parameters[i], *outcome)
        self.solved += len(outcomes)
        self.seconds += sum(outcome.seconds for outcome in outcomes)
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
