"""Ensembles: the same numbers anywhere, and whatever happens to a member happens to it alone."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from ensemble_problems import DECAY, decay, die_once, last, noisy, slow, solve_decay
from hypothesis import given
from hypothesis import strategies as st
from problems import same_solution

import stiffkit as sk
from stiffkit.solvers.ensemble import Ensemble, EnsembleError, pool
from stiffkit.solvers.ensemble.fingerprint import fingerprint
from stiffkit.solvers.ensemble.store import Store

RATES = [0.5, 1.0, 2.0, 4.0, 50.0]


def spawned(workers):
    return ProcessPoolExecutor(workers, get_context("forkserver"))


@pytest.fixture(scope="module")
def processes():
    with spawned(2) as executor:
        yield executor


def same_ensemble(a, b):
    assert [m.index for m in a] == [m.index for m in b]
    for x, y in zip(a.values, b.values, strict=True):
        same_solution(x, y)


# What is solved


def test_members_are_the_solves_one_would_write_by_hand():
    result = sk.ensemble(DECAY, RATES)
    assert len(result) == len(RATES)
    for rate, member in zip(RATES, result, strict=True):
        same_solution(member.value, sk.solve(decay, (0.0, 1.0), [1.0], args=(rate,)))
        assert member.parameters == rate
        assert member.success
        assert member.status is sk.Status.success


@dataclass
class Sweep:
    y0: Any
    t_span: tuple[float, float]


def test_entries_are_arguments_of_f_or_of_solve():
    problem = {**DECAY, "args": (2.0,)}
    one, two, mapped, typed = sk.ensemble(
        problem, [2, (2,), {"args": (2.0, 2)}, Sweep([0.5], (0.0, 2.0))]
    )
    exact = sk.solve(decay, (0.0, 1.0), [1.0], args=(2.0, 2))
    for member in (one, two, mapped):
        same_solution(member.value, exact)
    same_solution(typed.value, sk.solve(decay, (0.0, 2.0), [0.5], args=(2.0,)))


def test_a_dataclass_is_a_problem_and_no_entries_are_an_empty_ensemble():
    @dataclass
    class Problem:
        f: Any
        t_span: Any
        y0: Any

    assert last(sk.ensemble(Problem(**DECAY), [1.0])[0].value) == pytest.approx(math.exp(-1), 1e-5)
    empty = sk.ensemble(DECAY, [])
    assert (len(empty), empty.success, empty.values) == (0, True, [])


def test_reduce_sees_the_solution_and_its_result_is_kept():
    result = sk.ensemble(solve_decay, RATES, reduce=last)
    assert result.values == [last(member.value) for member in sk.ensemble(solve_decay, RATES)]


# Where


@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_the_same_bits_for_any_executor_and_chunk(processes, chunk):
    plain = sk.ensemble(DECAY, RATES)
    with ThreadPoolExecutor(2) as threads:
        same_ensemble(sk.ensemble(DECAY, RATES, threads, chunk=chunk), plain)
    same_ensemble(sk.ensemble(DECAY, RATES, processes, chunk=chunk), plain)


def test_the_same_bits_for_any_number_of_workers():
    entries = list(zip(RATES, np.random.SeedSequence(7).spawn(len(RATES)), strict=True))
    plain = sk.ensemble(noisy, entries)
    assert len({float(member.value.y[0, 0]) for member in plain}) == len(RATES)
    for workers in (1, 3):
        same_ensemble(sk.ensemble(noisy, entries, workers), plain)


@given(n=st.integers(0, 40), chunk=st.integers(1, 50) | st.none(), ordered=st.booleans())
def test_every_member_comes_once(n, chunk, ordered):
    with ThreadPoolExecutor(3) as threads:
        members = sk.ensemble_iter(lambda p: p, range(n), threads, chunk=chunk, ordered=ordered)
        values = [member.value for member in members]
    assert (values if ordered else sorted(values)) == list(range(n))


def test_the_iterator_hands_out_work_only_as_it_is_asked():
    done = []
    with ThreadPoolExecutor(2) as threads:
        members = sk.ensemble_iter(done.append, range(100), threads, chunk=1)
        assert next(members).index == 0
        time.sleep(0.05)
        assert len(done) <= 2 * (2 * 2 + 1)
        members.close()
    assert len(done) <= 2 * (2 * 2 + 1)


def test_dask():
    distributed = pytest.importorskip("distributed", reason="needs dask[distributed]")
    dask = pytest.importorskip("dask")
    settings = {
        "distributed.scheduler.allowed-failures": 0,
        "distributed.worker.multiprocessing-method": "forkserver",
    }
    with (
        dask.config.set(settings),
        distributed.LocalCluster(2, threads_per_worker=1, dashboard_address=":0") as cluster,
        distributed.Client(cluster) as client,
    ):
        executor = client.get_executor()
        for where in (client, executor):
            same_ensemble(sk.ensemble(DECAY, RATES, where), sk.ensemble(DECAY, RATES))
        result = sk.ensemble(solve_decay, [1.0, "die", 2.0], executor, retries=0, chunk=3)
        assert [member.success for member in result] == [True, False, True]
        assert result[1].error.kind == "KilledWorker"
        # No module of the workers': only cloudpickle takes it there.
        assert sk.ensemble(lambda p: p + 1, [1], executor).values == [2]


# Failures


def test_failures_are_their_members_alone(processes):
    entries = [1.0, "raise", "max_steps", 2.0]
    for executor in (None, processes):
        result = sk.ensemble(solve_decay, entries, executor)
        assert result.succeeded.tolist() == [True, False, False, True]
        assert [member.index for member in result.failures] == [1, 2]
        _, raised, stopped, _ = result
        assert raised.error.kind == "ValueError"
        assert raised.error.message == "no rate"
        assert "in solve_decay" in raised.error.traceback
        assert raised.value is None
        assert stopped.error is None
        assert stopped.status is sk.Status.max_steps
        assert len(stopped.value.t) == 3
        assert repr(result) == "<Ensemble of 4: 2 succeeded, 1 ValueError, 1 max_steps>"


def test_an_exception_in_f_keeps_what_was_solved_and_one_in_reduce_is_told():
    def f(t, y):
        if t > 0.5:
            msg = "late"
            raise RuntimeError(msg)
        return -y

    (member,) = sk.ensemble(lambda _: sk.solve(f, (0.0, 1.0), [1.0], max_step=0.1), [0])
    assert member.error.kind == "RuntimeError"
    assert 0.3 < member.value.t[-1] <= 0.5
    (member,) = sk.ensemble(DECAY, [1.0], reduce=lambda s: s.nothing)
    assert (member.success, member.error.kind, member.status) == (
        False,
        "AttributeError",
        sk.Status.success,
    )


def test_a_result_that_cannot_be_sent_is_its_members_failure(processes, monkeypatch):
    monkeypatch.setattr(pool, "best_codec", lambda: "pickle")
    result = sk.ensemble(solve_decay, [1.0, "unpicklable", 2.0], processes, chunk=3)
    assert result.succeeded.tolist() == [True, False, True]
    assert "let `reduce` return" in result[1].message


def test_a_worker_that_dies_is_replaced_and_only_the_guilty_member_fails():
    entries = [1.0, 2.0, "die", 4.0, "raise", 5.0]
    result = sk.ensemble(solve_decay, entries, 2)
    assert result.succeeded.tolist() == [True, True, False, True, False, True]
    assert result[2].error.kind == "BrokenProcessPool"
    assert "lost 2 times" in result[2].message
    assert result[4].error.kind == "ValueError"


def test_a_worker_that_dies_once_costs_nothing(tmp_path):
    entries = [(rate, str(tmp_path / "flag") if rate == 2.0 else None) for rate in RATES]
    same_ensemble(sk.ensemble(die_once, entries, 2, retries=0), sk.ensemble(DECAY, RATES))


def test_a_broken_pool_of_the_users_is_told_and_what_was_done_is_kept(tmp_path):
    entries = [*RATES, "die", *RATES]
    with spawned(1) as executor, pytest.raises(EnsembleError, match="a worker died") as told:
        sk.ensemble(solve_decay, entries, executor, store=tmp_path / "s", chunk=1)
    done = told.value.ensemble
    assert [member.index for member in done][: len(RATES)] == list(range(len(RATES)))
    result = sk.ensemble(solve_decay, entries, 1, store=tmp_path / "s")
    assert [member.index for member in result.failures] == [len(RATES)]


def test_an_executor_that_is_shut_down_is_told():
    with ThreadPoolExecutor(1) as executor:
        pass
    with pytest.raises(EnsembleError, match="takes no more work"):
        sk.ensemble(DECAY, RATES, executor)


def test_workers_that_always_die_end_the_sweep():
    with pytest.raises(EnsembleError, match="tasks were lost in a row"):
        sk.ensemble(solve_decay, ["die"] * 40, Fragile(), chunk=1)


class Fragile:
    """An executor that loses every task, as dask does whose workers die."""

    def __init__(self):
        self.calls = []

    def submit(self, *call):
        self.calls.append(call)
        future = pool.Future()
        future.set_exception(OSError("killed"))
        return future


def test_executors_get_another_call_each_time():
    # dask knows a result by the arguments, an erroneous one too.
    recorder = Fragile()
    result = sk.ensemble(DECAY, [1.0, 1.0], recorder, retries=2, chunk=1)
    assert [member.error.kind for member in result] == ["OSError"] * 2
    assert len(set(recorder.calls)) == len(recorder.calls) == 2 * (1 + 3)


# Interrupts


def test_ctrl_c_keeps_what_is_done(tmp_path):
    def problem(p):
        if p == 5:
            raise KeyboardInterrupt
        return p

    with pytest.raises(KeyboardInterrupt) as told:
        sk.ensemble(problem, range(10), store=tmp_path / "s", chunk=1)
    assert told.value.ensemble.values == [0, 1, 2, 3, 4]
    assert "5 members were done" in told.value.__notes__[0]
    calls = []
    resumed = sk.ensemble_iter(problem, range(10), store=tmp_path / "s", chunk=1)
    calls = [next(resumed).value for _ in range(5)]
    resumed.close()
    assert calls == [0, 1, 2, 3, 4]


@pytest.mark.skipif(sys.platform == "win32", reason="needs pthread_kill")
def test_ctrl_c_cancels_what_waits_and_ends_workers_of_ours(tmp_path):
    entries = [*RATES, *["hang"] * 10]
    store, main = tmp_path / "store", threading.main_thread().ident

    def interrupt():
        while len(list(store.glob("*.npz"))) < len(RATES) and time.monotonic() < start + 60:
            time.sleep(0.05)
        signal.pthread_kill(main, signal.SIGINT)

    timer = threading.Thread(target=interrupt)
    start = time.monotonic()
    # A process that a shell put into the background ignores the signal.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        timer.start()
        with pytest.raises(KeyboardInterrupt) as told:
            sk.ensemble(solve_decay, entries, 2, chunk=1, store=store)
    finally:
        signal.signal(signal.SIGINT, handler)
    timer.join()
    assert time.monotonic() - start < 60  # a hanging member takes 1000 s
    same_ensemble(told.value.ensemble, sk.ensemble(DECAY, RATES))


# The store


def test_a_store_gives_back_what_was_solved(tmp_path):
    def hit(t, y, rate):
        return y[0] - 0.5

    problem = {**DECAY, "log": True, "events": hit, "method": "tsit5"}
    first = sk.ensemble(problem, RATES, store=tmp_path / "s", chunk=2)
    again = sk.ensemble(problem, RATES, store=tmp_path / "s")
    same_ensemble(first, again)
    for a, b in zip(first, again, strict=True):
        assert a.value.stats == b.value.stats
        assert (a.message, a.seconds, a.success) == (b.message, b.seconds, b.success)
        assert b.value.y.dtype == np.float64
        np.testing.assert_array_equal(a.value.events[0].t, b.value.events[0].t)
        np.testing.assert_array_equal(a.value.log["h"], b.value.log["h"])


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.complex_numbers()
    | st.text()
    | st.builds(np.float32, st.floats(width=32))
    | st.builds(np.arange, st.integers(0, 5)),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.tuples(inner, inner)
        | st.dictionaries(st.text(max_size=3) | st.integers(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(values=st.lists(VALUES, min_size=1, max_size=3))
def test_any_value_of_the_allowed_kinds_survives(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("store")
    list(sk.ensemble_iter(lambda i: values[i], range(len(values)), store=path))
    again = sk.ensemble(lambda i: values[i], range(len(values)), store=path)
    assert repr(again.values) == repr(values)
    assert [type(v) for v in again.values] == [type(v) for v in values]


def test_tensors_survive(tmp_path):
    torch = pytest.importorskip("torch")
    problem = {**DECAY, "y0": torch.ones(2), "t_eval": [0.5, 1.0], "method": "tsit5"}
    first = sk.ensemble(problem, RATES, store=tmp_path)
    again = sk.ensemble(problem, RATES, store=tmp_path)
    for a, b in zip(first.values, again.values, strict=True):
        assert b.y.dtype is torch.float32
        assert torch.equal(a.y, b.y)


def test_a_store_refuses_another_sweep_and_names_what_differs(tmp_path):
    store = tmp_path / "s"
    sk.ensemble(DECAY, RATES, store=store, reduce=last)
    before = sorted(p.name for p in store.iterdir())
    with pytest.raises(ValueError, match="another sweep, with other parameters:"):
        sk.ensemble(DECAY, [*RATES[:-1], 7.0], store=store, reduce=last)
    with pytest.raises(ValueError, match="with other problem:"):
        sk.ensemble({**DECAY, "rtol": 1e-7}, RATES, store=store, reduce=last)
    with pytest.raises(ValueError, match="with other reduce:"):
        sk.ensemble(DECAY, RATES, store=store)
    with pytest.raises(ValueError, match="with other parameters and size:"):
        sk.ensemble(DECAY, RATES[1:], store=store, reduce=last)
    with pytest.raises(ValueError, match="holds no ensemble"):
        sk.ensemble(DECAY, RATES, store=tmp_path)
    assert sorted(p.name for p in store.iterdir()) == before


def test_a_value_that_the_store_cannot_hold_is_told(tmp_path):
    with pytest.raises(TypeError, match=r"value of member 0: builtins\.object") as told:
        sk.ensemble(lambda _: object(), [1], store=tmp_path / "a")
    assert len(told.value.ensemble) == 1
    with pytest.raises(TypeError, match="interpolant; use t_eval"):
        sk.ensemble({**DECAY, "dense": True}, [1.0], store=tmp_path / "b")


def test_failures_are_stored_and_solved_again_on_request(tmp_path):
    calls = []

    def problem(entry):
        calls.append(entry)
        return solve_decay(entry)

    entries = [1.0, "raise", "max_steps"]
    options = {"store": tmp_path / "s", "reduce": lambda s: len(s.t)}
    # `calls` is in the closure: a fingerprint must see it as it was.
    first = sk.ensemble(partial(call, _Unprinted(problem)), entries, **options)
    again = sk.ensemble(partial(call, _Unprinted(problem)), entries, **options)
    assert calls == entries
    assert [m.error for m in again] == [m.error for m in first]
    assert again[2].status is sk.Status.max_steps
    sk.ensemble(partial(call, _Unprinted(problem)), entries, retry_failed=True, **options)
    assert calls == [*entries, "raise"]


def test_what_is_solved_again_replaces_what_was_stored(tmp_path):
    def problem(i):
        if cured.f is None:
            raise RuntimeError(i)
        return i

    cured = _Unprinted(None)
    sk.ensemble(problem, range(4), store=tmp_path, chunk=1)
    cured.f = True
    assert sk.ensemble(problem, range(4), store=tmp_path).values == [None] * 4
    again = {"store": tmp_path, "retry_failed": True, "chunk": 3}
    assert sk.ensemble(problem, range(4), **again).values == [0, 1, 2, 3]
    assert sk.ensemble(problem, range(4), store=tmp_path).values == [0, 1, 2, 3]


def test_a_refused_call_does_not_keep_the_store(tmp_path, processes, monkeypatch):
    monkeypatch.setattr(pool, "best_codec", lambda: "pickle")
    with pytest.raises(TypeError, match="cannot be pickled"):
        sk.ensemble(lambda p: p, [1], processes, store=tmp_path)
    assert (tmp_path / "sweep.json").exists()  # and no ResourceWarning, which would be an error


def call(problem, entry):
    return problem.f(entry)


class _Unprinted:
    """Holds a function without being told apart by it."""

    def __init__(self, f):
        self.f = f

    def __reduce__(self):
        return (_Unprinted, (None,))


def test_a_file_that_is_damaged_is_solved_again(tmp_path):
    first = sk.ensemble(DECAY, RATES, store=tmp_path, chunk=1)
    files = sorted(tmp_path.glob("*.npz"))
    files[1].write_bytes(files[1].read_bytes()[:100])
    (tmp_path / "half.npz.tmp").write_bytes(b"half")
    with pytest.warns(RuntimeWarning, match="will be solved again"):
        same_ensemble(first, sk.ensemble(DECAY, RATES, store=tmp_path))
    assert not list(tmp_path.glob("*.tmp"))
    same_ensemble(first, sk.ensemble(DECAY, RATES, store=tmp_path))


@pytest.mark.skipif(sys.platform == "win32", reason="needs SIGKILL")
def test_a_sweep_that_was_killed_goes_on(tmp_path):
    n, store, calls = 20, tmp_path / "store", tmp_path / "calls"
    script = Path(__file__).with_name("ensemble_problems.py")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
    command = [sys.executable, str(script), str(store), str(calls), str(n)]
    with subprocess.Popen(command, env=environment) as process:
        deadline = time.monotonic() + 60
        while len(list(store.glob("*.npz"))) < 5 and time.monotonic() < deadline:
            time.sleep(0.02)
        # Another process may not write to it meanwhile.
        with pytest.raises(RuntimeError, match="in use by another process"):
            Store(store, n, json.loads((store / "sweep.json").read_text())["fingerprints"])
        process.send_signal(signal.SIGKILL)
    time.sleep(0.5)  # workers notice that their parent has gone
    stored = len(list(store.glob("*.npz")))
    before = len(calls.read_text().split())
    assert 5 <= stored < n
    assert before < n
    entries = [(float(rate), str(calls)) for rate in range(n)]
    result = sk.ensemble(slow, entries, 2, store=store, chunk=1)
    assert len(calls.read_text().split()) == before + n - stored
    same_ensemble(result, sk.ensemble(DECAY, [float(rate) for rate in range(n)]))


# Fingerprints

SCALE = 2.0


def scaled(x):
    return helper(x) * SCALE


def helper(x):
    return x + 1


def test_fingerprints_follow_code_constants_and_closures(monkeypatch):
    def closed(k):
        return lambda x: x + k

    def loop(n):
        return loop(n - 1) if n else 0

    assert fingerprint(closed(1), "f") == fingerprint(closed(1), "f")
    values = [closed(1), closed(2), loop, partial(decay, 1), partial(decay, 2), np.mean, np.max]
    values += [1, 1.0, True, "1", [1], (1,), {1: 2}, {1}, None, np.ones(2), np.ones((1, 2))]
    values += [np.float32(1), np.ones(2, np.float32), np.random.SeedSequence(1), Sweep(1, 2)]
    assert len({fingerprint(value, "x") for value in values}) == len(values)
    assert fingerprint({1: 2, 3: 4}, "x") == fingerprint({3: 4, 1: 2}, "x")
    before = fingerprint(scaled, "f")
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 3.0)
    assert fingerprint(scaled, "f") != before
    monkeypatch.setattr(sys.modules[__name__], "SCALE", 2.0)
    assert fingerprint(scaled, "f") == before
    monkeypatch.setattr(sys.modules[__name__], "helper", closed(1))
    assert fingerprint(scaled, "f") != before
    with pytest.raises(TypeError, match="problem cannot be fingerprinted"):
        fingerprint(threading.Lock(), "problem")


def test_fingerprints_are_those_of_another_process():
    value = {"s": {"a", "b", "c"}, "f": solve_decay, "x": np.arange(3.0), "r": noisy}
    code = (
        "from ensemble_problems import *; from stiffkit.solvers.ensemble.fingerprint import *;"
        "print(fingerprint({'s': {'c', 'b', 'a'}, 'f': solve_decay, 'x': np.arange(3.0), "
        "'r': noisy}, 'x'))"
    )
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(p for p in sys.path if p),
        "PYTHONHASHSEED": "17",
    }
    told = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert told.stdout.strip() == fingerprint(value, "x")


# Arguments and display


def test_pickling_errors_are_told_before_anything_is_solved(processes, monkeypatch):
    monkeypatch.setattr(pool, "best_codec", lambda: "pickle")
    with pytest.raises(TypeError, match=r"problem cannot be pickled .* not as lambdas"):
        sk.ensemble(lambda p: p, [1], processes)
    with pytest.raises(TypeError, match="reduce cannot be pickled"):
        sk.ensemble(DECAY, [1.0], processes, reduce=lambda s: s)
    with pytest.raises(TypeError, match=r"parameters\[1\] = .* cannot be pickled"):
        sk.ensemble(solve_decay, [1.0, threading.Lock()], processes)


def test_a_problem_that_workers_cannot_read_is_told(processes, monkeypatch):
    monkeypatch.setattr(pool, "best_codec", lambda: "pickle")
    module = type(sys)("nowhere_else")
    exec("def problem(p): return p", module.__dict__)
    monkeypatch.setitem(sys.modules, "nowhere_else", module)
    with pytest.raises(EnsembleError, match=r"cannot read the problem .*nowhere_else"):
        sk.ensemble(module.problem, [1, 2], processes)


@pytest.mark.parametrize(
    ("arguments", "error", "match"),
    [
        ((1, [1]), TypeError, "problem must be callable"),
        ((DECAY, 3), TypeError, "parameters must be"),
        ((DECAY, {"args": 1}), TypeError, "parameters must be"),
        (({**DECAY, "tol": 1}, [1]), TypeError, "problem has 'tol'"),
        ((DECAY, [{"mu": 1}]), TypeError, r"parameters\[0\] has 'mu'"),
        (({"f": decay}, [{"y0": 1.0}]), TypeError, r"nor parameters\[0\] has t_span"),
        ((DECAY, [1], 0), ValueError, "at least 1 worker"),
        ((DECAY, [1], True), TypeError, "executor must be"),
        ((DECAY, [1], ThreadPoolExecutor), TypeError, "executor must be"),
        ((DECAY, [1], "threads"), TypeError, "executor must be"),
    ],
)
def test_bad_arguments(arguments, error, match):
    with pytest.raises(error, match=match):
        sk.ensemble(*arguments)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"chunk": 0}, "chunk must be"),
        ({"chunk": 1.5}, "chunk must be"),
        ({"retries": -1}, "retries must be"),
        ({"retries": None}, "retries must be"),
    ],
)
def test_bad_options(options, match):
    for function in (sk.ensemble, sk.ensemble_iter):  # the iterator, too, when it is made
        with pytest.raises(ValueError, match=match):
            function(DECAY, [1.0], **options)


def test_progress_shows_a_bar_of_all_members(tmp_path, capfd):
    sk.ensemble(DECAY, RATES, progress=True, store=tmp_path)
    assert "5/5" in capfd.readouterr().err
    sk.ensemble(DECAY, RATES, progress=True, store=tmp_path)
    assert "5/5" in capfd.readouterr().err


def test_an_ensemble_is_a_sequence():
    result = sk.ensemble(DECAY, RATES)
    assert isinstance(result, Ensemble)
    assert [member.index for member in result[1:3]] == [1, 2]
    assert result[-1].parameters == RATES[-1]
    assert repr(result[0]) == "<Member 0: success, Solution>"


def test_final_states_are_one_array():
    result = sk.ensemble(DECAY, RATES)
    np.testing.assert_array_equal(result.final_states(), [value.y[-1] for value in result.values])
    stopped = sk.ensemble(solve_decay, [1.0, "max_steps"])
    assert stopped.final_states()[1] == stopped[1].value.y[-1]
    with pytest.raises(ValueError, match="member 1 has no final state: ValueError: no rate"):
        sk.ensemble(solve_decay, [1.0, "raise"]).final_states()
    with pytest.raises(TypeError, match="member 0 has no final state: its value is no Solution"):
        sk.ensemble(DECAY, RATES, reduce=last).final_states()
    with pytest.raises(ValueError, match="no members"):
        sk.ensemble(DECAY, []).final_states()
