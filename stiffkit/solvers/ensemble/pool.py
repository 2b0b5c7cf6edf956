"""Where members are solved: in this process, in a pool of our own, or in an executor that is given.

The three differ in what is sent (objects or pickles), in how many tasks are worth having under way,
and in what can be done when a worker dies.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from importlib.util import find_spec
from typing import Any

from .member import run_chunk

__all__ = ["Given", "Here", "Own", "Place", "place"]


class Place:
    """Runs tasks: `submit`, and what the sweep must know of it."""

    workers = 1
    """How many tasks run at a time."""
    window = 1
    """How many tasks to have under way, with those that wait for a worker."""
    codec: str | None = None
    """Module that makes the pickles; None where workers share memory with the caller."""
    own = False
    """Whether a pool that broke can be replaced."""

    def submit(self, f: Callable[..., Any], *args: Any, alone: bool) -> Future[Any]:
        """Start a task; with `alone` no other task shares its pool, where pools are ours."""
        raise NotImplementedError

    def ended(self, future: Future[Any], *, broken: bool) -> None:
        """Take note that a task is over, and whether its pool is broken."""

    def close(self, *, kill: bool) -> None:
        """End what we started; with `kill` at once, whatever it is at."""


class Here(Place):
    """In this process, one by one."""

    def submit(self, f: Callable[..., Any], *args: Any, alone: bool) -> Future[Any]:
        """Run the task now."""
        del alone
        future: Future[Any] = Future()
        future.set_result(f(*args))
        return future


class Given(Place):
    """An executor of the user's: threads share memory, all others get pickles."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.workers = _count_workers(executor)
        self.window = 2 * self.workers + 1
        if not isinstance(executor, ThreadPoolExecutor):
            self.codec = best_codec()

    def submit(self, f: Callable[..., Any], *args: Any, alone: bool) -> Future[Any]:
        """Hand the task on."""
        del alone
        return self.executor.submit(f, *args)


class Dask(Place):
    """A client of dask.distributed.

    Its own executor is not used: where a result is lost with its worker and made again in vain, its
    future never ends (distributed 2026.8).
    """

    def __init__(self, client: Any, options: Mapping[str, Any]) -> None:
        self.client, self.options = client, dict(options) | {"pure": False}
        self.workers = max(1, sum(client.nthreads().values()))
        self.window = 2 * self.workers + 1
        self.codec = best_codec()

    def submit(self, f: Callable[..., Any], *args: Any, alone: bool) -> Future[Any]:
        """Start the task, and wait for it in the client's event loop."""
        del alone
        theirs = self.client.submit(f, *args, **self.options)
        return asyncio.run_coroutine_threadsafe(theirs._result(), self.client.loop.asyncio_loop)


class Own(Place):
    """Processes that we start, and start again."""

    own = True

    def __init__(self, workers: int) -> None:
        self.workers, self.window = workers, 2 * workers + 1
        self.codec = best_codec()
        self.pool: ProcessPoolExecutor | None = None
        self.pools: dict[Future[Any], ProcessPoolExecutor] = {}
        """Which pool each task under way is in."""

    def submit(self, f: Callable[..., Any], *args: Any, alone: bool) -> Future[Any]:
        """Start the task in the pool, or in a pool of one worker."""
        if alone:
            pool = _new_pool(1)
        else:
            pool = self.pool = self.pool or _new_pool(self.workers)
        future = pool.submit(f, *args)
        self.pools[future] = pool
        return future

    def ended(self, future: Future[Any], *, broken: bool) -> None:
        """Shut down a pool that broke, or that was for this task alone."""
        pool = self.pools.pop(future, self.pool)
        if pool is self.pool and broken:
            self.pool = None
        if pool is not None and pool is not self.pool:
            pool.shutdown(wait=False)

    def close(self, *, kill: bool) -> None:
        """End all pools."""
        for pool in {id(pool): pool for pool in (self.pool, *self.pools.values()) if pool}.values():
            # Python 3.14 has kill_workers; before, the processes are to be had in this way alone.
            processes = list((pool._processes or {}).values()) if kill else []
            for process in processes:
                process.terminate()
            pool.shutdown(wait=not kill, cancel_futures=True)


def place(executor: Any) -> Place:
    """Return where to run, for `ensemble`'s argument of this name."""
    if executor is None:
        return Here()
    if isinstance(executor, int) and not isinstance(executor, bool):
        if executor < 1:
            msg = f"executor must be at least 1 worker, not {executor!r}"
            raise ValueError(msg)
        return Own(executor)
    if isinstance(executor, type) or not callable(getattr(executor, "submit", None)):
        msg = f"executor must be None, a number of processes or an Executor, not {executor!r}"
        raise TypeError(msg)
    client = getattr(executor, "_client", executor)
    if hasattr(client, "nthreads"):
        return Dask(client, getattr(executor, "_kwargs", {}))
    return Given(executor)


def _count_workers(executor: Any) -> int:
    """Return how many workers an executor has, or twice this machine's where it does not say."""
    for name in ("num_workers", "_max_workers"):  # mpi4py's and loky's, the standard library's
        n = getattr(executor, name, None)
        if isinstance(n, int) and n > 0:
            return int(n)
    return 2 * (os.cpu_count() or 1)


def best_codec() -> str:
    """Return cloudpickle where it is installed, for lambdas and functions of a notebook."""
    return "cloudpickle" if find_spec("cloudpickle") else "pickle"


def _new_pool(workers: int) -> ProcessPoolExecutor:
    """Start processes by the method that the user has set, or else by none that copies threads.

    A process that is forked from one with threads can hang: OpenMP's, which torch uses, do.
    """
    method: str | None = multiprocessing.get_start_method(allow_none=True)
    if method is None:
        known = multiprocessing.get_all_start_methods()
        method = "forkserver" if "forkserver" in known else "spawn"
    context = multiprocessing.get_context(method)
    if method == "forkserver":
        context.set_forkserver_preload(["__main__", run_chunk.__module__])
    return ProcessPoolExecutor(workers, context, initializer=_start_worker)


def _start_worker() -> None:
    """Let the parent alone decide about Ctrl-C, and end when it has gone, by kill -9 too."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), daemon=True).start()


def _end_with(parent: Any) -> None:
    parent.join()
    os._exit(1)
