"""The compiled loop is the interpreted one: in every count and word, and in numbers to rounding."""

import importlib
import json
import math
import pkgutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from _tolerance import gamma
from compiled_pair import Interpreted, both, loops, stretches
from hypothesis import given
from hypothesis import strategies as st
from problems import ADAPTIVE, lotka_volterra, pendulum, riccati

import stiffkit as sk
from stiffkit import Status
from stiffkit._optional import is_jitted

numba = pytest.importorskip("numba")

COMPILED = {f: sk.jit(f) for f in (pendulum, riccati, lotka_volterra)}

# The first solve of a signature compiles its loop.
pytestmark = pytest.mark.timeout(600)


@sk.jit
def lambda_cos(t, y):
    """Stiff: attracted to cos t at the rate 2000."""
    return -2000.0 * (y - np.cos(t))


@sk.jit
def square(t, y):
    return y * y


@sk.jit
def nan_late(t, y):
    return y * math.nan if t > 0.5 else -y


@sk.jit
def inf_in_one(t, y):
    slope = -y
    slope[1] = -1.0 if t == 0 else math.inf
    return slope


@sk.jit
def huge(t, y):
    return y * 1e200


@sk.jit
def fails_late(t, y):
    if t > 0.5:
        raise ValueError("no further")  # noqa: EM101, TRY003 - numba takes no other
    return -y


PROBLEMS = [
    (pendulum, (0.0, 3.0), [1.0, 0.3]),
    (riccati, (0.0, 2.0), [1.0]),
    (lotka_volterra, (2.0, 0.0), [1.0, 1.0]),
]


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize(("f", "span", "y0"), PROBLEMS)
def test_equal_steps_give_equal_states_to_rounding(f, span, y0, method, monkeypatch):
    """With steps that accuracy does not set, all numbers differ by rounding alone."""
    taken = loops(monkeypatch)
    t_eval = np.linspace(*span, 11)[1:-1]
    steps = {"first_step": 0.03125, "max_step": 0.03125, "rtol": 1e-2, "atol": 1e-2}
    for options in ({}, {"t_eval": t_eval}, {"dense": True}, {"dense": True, "t_eval": t_eval}):
        ours, theirs = both(COMPILED[f], span, y0, method, log=True, **steps, **options)
        np.testing.assert_array_equal(ours.t, theirs.t)
        # A step costs some 20 sums of up to 16 terms; coefficients of vern8's interpolant are 1e5,
        # times differences of slopes that are small. Errors grow by e^3 at most (|∂f/∂y| t ≤ 3).
        N, amplified = len(theirs.log["t"]), 20 * gamma(16) * np.e**3
        bound = (N + 1e3 * bool(options)) * amplified * (1 + np.abs(theirs.y).max())
        np.testing.assert_allclose(ours.y, theirs.y, rtol=0, atol=bound)
        if "dense" in options:
            assert ours.interpolant.breaks == theirs.interpolant.breaks
            assert len(ours.interpolant.segments) == len(theirs.interpolant.segments)
            np.testing.assert_allclose(ours(t_eval), theirs(t_eval), rtol=0, atol=bound)
            np.testing.assert_array_equal(ours(span[1]), ours(np.array(span))[1])
    assert len(taken) == 4


@pytest.mark.parametrize("method", ADAPTIVE)
@pytest.mark.parametrize(("f", "span", "y0"), PROBLEMS)
def test_controlled_steps_agree_in_every_count(f, span, y0, method):
    for rtol in (1e-3, 1e-4, 1e-7 if sk.EXPLICIT[method].order > 3 else 1e-5):
        ours, theirs = both(COMPILED[f], span, y0, method, rtol=rtol, atol=rtol, log=True)
        # First steps are equal; the estimate of their error, far below the tolerance, to rounding.
        assert ours.log["h"][0] == theirs.log["h"][0]
        noise = 100 * np.finfo(float).eps / rtol
        mine, yours = ours.log["ratio"][0], theirs.log["ratio"][0]
        np.testing.assert_allclose(mine, yours, rtol=1e-9, atol=noise)
        np.testing.assert_allclose(ours.y[-1], theirs.y[-1], rtol=rtol, atol=rtol)


@pytest.mark.parametrize("method", ADAPTIVE)
@given(digits=st.floats(3.0, 7.0), which=st.integers(0, len(PROBLEMS) - 1))
def test_any_tolerance(method, digits, which):
    """Where an attempt passes by rounding's breadth, one loop may take it and the other not."""
    f, span, y0 = PROBLEMS[which]
    rtol = 10.0 ** -(digits if sk.EXPLICIT[method].order > 3 else 2.0 + digits / 4)
    ours, theirs = (
        sk.solve(g, span, y0, method, rtol=rtol, atol=rtol)
        for g in (COMPILED[f], Interpreted(COMPILED[f]))
    )
    assert ours.status is theirs.status is Status.success
    for count in ("accepted", "rejected"):
        assert abs(ours.stats[count] - theirs.stats[count]) <= 1
    np.testing.assert_allclose(ours.y[-1], theirs.y[-1], rtol=rtol, atol=rtol)


@pytest.mark.parametrize("name", sk.CONTROLLERS)
def test_controllers(name):
    f, span, y0 = PROBLEMS[0]
    both(COMPILED[f], span, y0, "tsit5", controller=name, log=True)
    mine = sk.PIDController(1, 0, alpha_2=0.1, safety=0.7, max_factor=3)
    both(COMPILED[f], span, y0, "dopri5", controller=mine, log=True)


def test_tolerances_and_steps_per_component():
    f, span, y0 = PROBLEMS[0]
    options = {"rtol": np.array([1e-4, 1e-7]), "atol": np.array([1e-3, 0.0]), "log": True}
    both(COMPILED[f], span, y0, "dopri5", **options)
    both(COMPILED[f], span, y0, "dop853", first_step=1.5, max_step=2.0, **options)


@pytest.mark.parametrize("method", ["bosh3", "dopri5", "dop853", "vern7"])
@pytest.mark.parametrize("options", [{}, {"dense": True}, {"t_eval": [0.2, 0.7, 1.5]}])
@pytest.mark.parametrize(
    ("f", "y0", "status"),
    [
        (nan_late, [1.0, 2.0], Status.non_finite),
        (inf_in_one, [1.0, 2.0], Status.non_finite),
        (huge, [1e200, 1.0], Status.non_finite),
    ],
)
def test_ends_are_the_same(f, y0, status, options, method):
    ours, _ = both(f, (0.0, 2.0), y0, method, log=True, **options)
    assert ours.status is status
    assert np.isfinite(ours.y).all()


@pytest.mark.parametrize("method", ["bosh3", "dopri5", "dop853", "vern7"])
def test_steps_that_get_too_small(method):
    far = both(square, (1e16, 1e16 + 100), [1e-9], method, max_step=1.0, log=True)[0]
    assert far.status is Status.step_too_small
    # Towards a pole all steps are of rounding's size in the end, and their number with them.
    ours, theirs = (sk.solve(f, (0.0, 2.0), [1.0], method) for f in (square, Interpreted(square)))
    assert ours.status is theirs.status is Status.step_too_small
    assert ours.t[-1] == pytest.approx(theirs.t[-1], rel=1e-5)
    assert ours.message.partition("fell")[2][:40] == theirs.message.partition("fell")[2][:40]


def test_max_steps_and_the_records_up_to_there():
    f, span, y0 = PROBLEMS[0]
    whole = sk.solve(COMPILED[f], span, y0, "tsit5")
    ours, _ = both(COMPILED[f], span, y0, "tsit5", max_steps=5, log=True, dense=True)
    assert ours.status is Status.max_steps
    np.testing.assert_array_equal(ours.y, whole.y[: len(ours.t)])


def test_spans_of_no_length_and_states_of_no_size():
    both(COMPILED[pendulum], (1.0, 1.0), [1.0, 0.3], "tsit5")
    both(square, (0.0, 1.0), np.zeros(0), "tsit5")
    both(square, (0.0, 0.5), np.array(1.0), "tsit5")  # no axis


@pytest.mark.parametrize("method", ["midpoint", "bosh3", "dopri5", "tsit5", "dop853", "cashkarp"])
def test_the_detector_sees_what_it_sees_in_the_interpreted_loop(method, monkeypatch):
    taken = loops(monkeypatch)
    ours, theirs = both(lambda_cos, (0.0, 1.5), [0.0], method, rtol=1e-4, atol=1e-6)
    assert taken
    assert "limited by stability" in ours.message
    assert len(ours.stiffness) == len(theirs.stiffness) >= 2
    for mine, yours in zip(ours.stiffness, theirs.stiffness, strict=True):
        assert mine.verdict is yours.verdict
        assert mine.products == yours.products
        np.testing.assert_allclose([mine.t, mine.h], [yours.t, yours.h], rtol=1e-2)
        np.testing.assert_allclose(mine.eigenvalue, yours.eigenvalue, rtol=1e-3)


def test_pauses_change_nothing(monkeypatch):
    f, span, y0 = PROBLEMS[2]
    options = {"log": True, "dense": True, "t_eval": np.linspace(*span, 7)}
    for extra in ({}, options, {"log": True}, {"dense": True}):
        whole = sk.solve(COMPILED[f], span, y0, "dopri5", **extra)
        monkeypatch.setattr(stretches, "_FIRST_ROOM", 1)
        monkeypatch.setattr(stretches, "_MOST_ROOM", 3)
        parts = sk.solve(COMPILED[f], span, y0, "dopri5", **extra)
        monkeypatch.undo()
        np.testing.assert_array_equal(whole.t, parts.t)
        np.testing.assert_array_equal(whole.y, parts.y)
        assert whole.stats == parts.stats
        if "log" in extra:
            np.testing.assert_array_equal(whole.log["ratio"], parts.log["ratio"])
        if "dense" in extra:
            np.testing.assert_array_equal(whole(np.linspace(0, 2, 5)), parts(np.linspace(0, 2, 5)))


# What f may be ------------------------------------------------------------------------------------


def test_arguments_shapes_and_complex_states(monkeypatch):
    taken = loops(monkeypatch)

    @sk.jit
    def turn(t, y, a, b):
        return a * y + b[0] * t

    y0 = np.array([[1.0, 2.0, 1j], [3.0, 4.0, 2 - 1j]])
    for method in ("tsit5", "dop853", "bosh3"):
        ours, theirs = both(
            turn, (0.0, 1.0), y0, method, args=(2j, np.ones(1)), log=True, dense=True
        )
        np.testing.assert_allclose(ours.y, theirs.y, rtol=1e-6)
        np.testing.assert_allclose(ours(0.3), theirs(0.3), rtol=1e-6)
    assert len(taken) == 3


@pytest.mark.parametrize(
    "f",
    [
        lambda t, y: (y[1], -y[0]),
        lambda t, y: [y[1], -y[0]],
        lambda t, y: y[::-1],
        lambda t, y: np.array([1, 2]),
    ],
    ids=["tuple", "list", "strided", "integers"],
)
def test_what_f_returns_becomes_a_state(f, monkeypatch):
    taken = loops(monkeypatch)
    both(numba.njit(f), (0.0, 1.0), [1.0, 2.0], "tsit5")
    assert taken


@sk.jit
def forced(t, y, a, b):
    return a * y + t * b


@sk.jit
def forced_in_place(t, y, dy, a, b):
    dy[:] = a * y + t * b


@pytest.mark.parametrize("method", ["tsit5", "dop853"])
def test_f_may_write_its_result(method, monkeypatch):
    taken = loops(monkeypatch)
    for y0 in ([1.0, 2.0], [[1.0, 2.0], [0.0, 1.0]]):
        options = {"args": (-1.5, 0.1), "dense": True, "t_eval": [0.3, 1.0]}
        returned = sk.solve(forced, (0.0, 3.0), y0, method, **options)
        written = sk.solve(forced_in_place, (0.0, 3.0), y0, method, **options)
        np.testing.assert_array_equal(written.y, returned.y)
        assert written.stats == returned.stats
    assert len(taken) == 4


def test_f_that_writes_serves_the_interpreted_loop_too():
    for options in ({"method": "rk4", "grid": 9}, {"method": "kvaerno4"}, {}):
        returned, written = (
            sk.solve(f, (0.0, 1.0), [1.0, 2.0], args=(-1.5, 0.1), **options)
            for f in (forced, forced_in_place)
        )
        np.testing.assert_array_equal(written.y, returned.y)
        assert written.stats == returned.stats


def test_f_with_an_argument_too_many_is_told():
    @numba.njit
    def f(t, y, a):
        return -a[0] * y

    with pytest.raises(TypeError, match=r"3 arguments, that is f\(t, y, dy\).*args"):
        sk.solve(f, (0.0, 1.0), [1.0], "tsit5")

    @numba.njit
    def half(t, y, dy):
        dy[0] = -y[0]

    assert "not finite at component 1" in sk.solve(half, (0.0, 1.0), [1.0, 1.0], "tsit5").message

    @numba.njit
    def by_default(t, y, a=2.0):
        return -a * y

    assert sk.solve(by_default, (0.0, 1.0), [1.0], "tsit5").y[-1, 0] == pytest.approx(
        np.exp(-2), 1e-3
    )


def test_parts_of_the_kernel_are_made_into_code_only_with_it():
    from stiffkit.solvers.compiled import calls, pipeline

    assert numba.version_info.short <= pipeline.KNOWN[1], "is this numba's pipeline still the same?"
    part = calls.compiled(lambda x: x * x)
    whole = numba.njit(**{**calls.ENTRY, "cache": False})(lambda x: part(x) + 1.0)
    assert whole(3.0) == 10.0

    def address(dispatcher):
        (compiled,) = dispatcher.overloads.values()
        return compiled.library.get_pointer_to_function(compiled.fndesc.llvm_func_name)

    assert address(part) == 0
    assert address(whole) != 0


def test_an_f_that_changes_size_is_told():
    @numba.njit
    def f(t, y):
        return np.ones(2 if t == 0 else 3)

    with pytest.raises(ValueError, match="another size"):
        sk.solve(f, (0.0, 1.0), [1.0, 2.0], "tsit5", first_step=0.1)


def test_an_exception_keeps_what_was_computed():
    with pytest.raises(ValueError, match="no further") as ours:
        sk.solve(fails_late, (0.0, 1.0), [1.0], "tsit5", log=True)
    with pytest.raises(ValueError, match="no further") as theirs:
        sk.solve(Interpreted(fails_late), (0.0, 1.0), [1.0], "tsit5", log=True)
    mine, yours = ours.value.solution, theirs.value.solution
    assert mine.status is Status.interrupted
    assert mine.stats == yours.stats
    np.testing.assert_allclose(mine.y, yours.y, rtol=1e-6)
    assert len(mine.log["t"]) == len(yours.log["t"])


def test_f_that_writes_to_y_is_refused():
    @numba.njit
    def f(t, y):
        y[0] = 1.0
        return -y

    with pytest.raises(ValueError, match="in place"):
        sk.solve(f, (0.0, 1.0), [2.0], "tsit5")


class Halving:
    """A controller of one's own."""

    def init(self):
        return None

    def __call__(self, ratio, memory, order):  # noqa: ARG002
        return ratio < 1, 0.5 if ratio >= 1 else 1.2, None


@pytest.mark.parametrize(
    "options",
    [
        {"method": "auto", "jac": lambda t, y: np.eye(2)},
        {"method": "rodas5p", "jac_sparsity": np.ones((2, 2))},
        {"method": "rodas5p", "jac": lambda t, y: np.eye(2)},
        {"method": "rodas5p", "mass": np.ones(2)},
        {"method": "rk4", "grid": 20},
        {"events": lambda t, y: y[0]},
        {"observe": lambda step, probe: step.h},
        {"norm": lambda x: float(np.abs(x).max())},
        {"on_attempt": lambda t, y, h, accepted: None},
        {"guide": lambda step, probe: step.y_new},
        {"callback": lambda step: step.t > 1},
        {"controller": Halving()},
        {"y0": np.array([1.0, 0.3], dtype=np.float32)},
    ],
    ids=lambda options: next(iter(options)),
)
def test_the_rest_is_interpreted(options, monkeypatch):
    taken = loops(monkeypatch)
    options = {"method": "tsit5", "y0": np.array([1.0, 0.3]), **options}
    y0, method = options.pop("y0"), options.pop("method")
    ours, theirs = both(COMPILED[pendulum], (0.0, 3.0), y0, method, **options)
    np.testing.assert_array_equal(ours.y, theirs.y)
    assert not taken


@pytest.mark.parametrize(("n", "compiled"), [(600, True), (601, False)])
def test_long_states_are_interpreted(n, compiled, monkeypatch):
    taken = loops(monkeypatch)
    both(square, (0.0, 0.5), np.linspace(0.1, 0.9, n), "tsit5")
    assert bool(taken) is compiled


def test_a_signature_of_ones_own_is_converted_to(monkeypatch):
    taken = loops(monkeypatch)
    f = numba.njit("float64[:](float64, float64[:])")(pendulum)
    ours, theirs = (sk.solve(g, (0.0, 1.0), [1.0, 0.3], "tsit5") for g in (f, pendulum))
    assert len(taken) == 1
    assert ours.stats == theirs.stats


def test_jit_is_told_what_is_no_function():
    with pytest.raises(TypeError, match="Python function"):
        sk.jit(np.sin)
    assert sk.jit(square) is square
    namespace = {}
    exec("def f(t, y):\n    return -y", namespace)  # no file to keep a cache beside
    assert sk.solve(sk.jit(namespace["f"]), (0.0, 1.0), [1.0], "tsit5").success


def test_threads_do_not_share_what_they_write_to():
    f, span, y0 = PROBLEMS[0]
    starts = [[y0[0] + 0.1 * i, y0[1]] for i in range(8)]

    def solve(start):
        return sk.solve(COMPILED[f], span, start, "dopri5", dense=True, rtol=1e-9)

    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(solve, starts))
    for start, solution in zip(starts, together, strict=True):
        np.testing.assert_array_equal(solution.y, solve(start).y)


# Imports and the cache ----------------------------------------------------------------------------

SECOND = """
import json, sys
import stiffkit as sk
without = "numba" in sys.modules
import numba, numpy as np
f = numba.njit(lambda t, y: -y)
solution = sk.solve(f, (0.0, 1.0), np.ones(1), "tsit5")
from stiffkit.solvers.compiled.kernel import integrate
hits, misses = (sum(c.values()) for c in integrate.stats[1:])
print(json.dumps([without, solution.success, hits, misses]))
"""


def test_a_second_process_finds_the_kernel_on_disk():
    sk.solve(square, (0.0, 0.5), [1.0], "tsit5")  # whichever test runs first compiles it
    told = subprocess.run([sys.executable, "-c", SECOND], capture_output=True, check=True)
    assert json.loads(told.stdout) == [False, True, 1, 0]


def test_the_loop_comes_without_the_implicit_families():
    """And so without SciPy's sparse matrices, which take longer to import."""
    text = "import sys, stiffkit.solvers.compiled.stretches; print('scipy.sparse' in sys.modules)"
    told = subprocess.run([sys.executable, "-c", text], capture_output=True, check=True, text=True)
    assert told.stdout == "False\n"


def test_all_that_is_compiled_is_in_the_stamp_of_the_cache():
    from stiffkit.solvers import compiled
    from stiffkit.solvers.compiled import kernel

    rooms = [
        importlib.import_module(f"{compiled.__name__}.{room.name}")
        for room in pkgutil.iter_modules(compiled.__path__)
    ]
    parts = {part for room in rooms for part in vars(room).values() if is_jitted(part)}
    files = {Path(part.py_func.__code__.co_filename) for part in parts}
    assert {file.stem for file in files} > {"control", "dense", "trigger", "radau"}
    assert files <= set(kernel._SOURCES)


@pytest.mark.parametrize("method", ["dopri5", "tsit5"])
def test_times_at_the_ends_of_steps(method):
    """Such a time takes the step's end, and no polynomial: so it costs no call of f."""
    steps = {"first_step": 0.125, "max_step": 0.125, "rtol": 1e-2, "atol": 1e-2}
    t_eval = np.array([0.125, 0.25, 0.3, 1.0, 1.5, 2.0])
    ours, _ = both(COMPILED[riccati], (0.0, 2.0), [1.0], method, t_eval=t_eval, **steps)
    whole = sk.solve(COMPILED[riccati], (0.0, 2.0), [1.0], method, **steps)
    np.testing.assert_array_equal(ours.t, t_eval)
    at_ends = [t in whole.t for t in t_eval]
    assert at_ends == [True, True, False, True, True, True]
    np.testing.assert_array_equal(ours.y[at_ends], whole.y[np.isin(whole.t, t_eval)])


@sk.jit
def itself(t, y):
    return y


@pytest.mark.parametrize("f", [lambda_cos, itself])
def test_what_f_returns_is_let_go_once(f):
    """Whether f made an array, or returned the one that it was called with."""
    from numba.core.runtime import _nrt_python, rtsys

    def held():
        stats = rtsys.get_allocation_stats()
        return stats.alloc - stats.free, stats.mi_alloc - stats.mi_free

    def solve():
        return sk.solve(f, (0.0, 0.1), [1.0], "dopri5").stats["nfev"]

    solve()
    _nrt_python.memsys_enable_stats()
    try:
        before = held()
        assert solve() > 6
        assert held() == before
    finally:
        _nrt_python.memsys_disable_stats()


TYPED = [name for name in sk.METHODS if sk.METHODS[name].error_order or name.startswith("radau")]


@pytest.mark.parametrize("y0", [np.ones(2), np.ones(2, complex)])
def test_all_methods_of_a_family_have_one_layout(y0, monkeypatch):
    """The kernel is found by the type of the method, and its entry point checks no argument."""
    numba = pytest.importorskip("numba")
    f = sk.jit(lambda t, y: -y)
    jac, J = sk.jit(lambda t, y: np.eye(2) * (-1 + 0 * y[0])), -np.eye(2)
    seen = {}

    class Seen(Exception):
        pass

    def entry(kernel, arguments):
        refs = {0: None, 2: None, -2: None}
        key = kernel, *(arguments[i] for i in refs), arguments[10] is None, type(arguments[5])
        types = [numba.typeof(argument) for argument in arguments]
        for i in refs:
            types[i] = None
        assert seen.setdefault(key, types) == types
        raise Seen

    monkeypatch.setattr("stiffkit.solvers.compiled.stretches.entry", entry)
    for name in TYPED:
        method = sk.METHODS[name]
        explicit = getattr(method, "explicit", False)
        ways = [{}, {"dense": True, "max_step": 1, "log": True}, {"controller": "I"}]
        if hasattr(method, "degrees"):
            ways += [{"radius": 1}, {"radius": sk.jit(lambda t, y: 1.0)}]
        elif not explicit:
            ways += [{"jac": jac}, {"jac": J}, {"jac": np.asfortranarray(J)}, {"bandwidth": (0, 0)}]
        for options in ways:
            with pytest.raises(Seen):
                sk.solve(f, (0, 1), y0, name, **options)
    assert len({key[-1] for key in seen}) == 5
