"""Members whose loop is compiled are solved together, and come out as if each were alone."""

import pickle
import re
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import stiffkit as sk

pytest.importorskip("numba")

from compiled_pair import stretches

from stiffkit.solvers import columns
from stiffkit.solvers.compiled import many
from stiffkit.solvers.ensemble import member as rooms


@sk.jit
def van_der_pol(t, y, dy, mu):
    dy[0] = y[1]
    dy[1] = mu * ((1 - y[0] ** 2) * y[1]) - y[0]


@sk.jit
def jacobian(t, y, mu):
    return np.array([[0.0, 1.0], [-2 * mu * y[0] * y[1] - 1, mu * (1 - y[0] ** 2)]])


@sk.jit
def delicate(t, y, rates, bound):
    """Decay; an exception beyond a bound, NaN for a negative rate."""
    if y[0] > bound:
        raise ValueError("beyond the bound")  # noqa: EM101, TRY003 - numba compiles no other form
    return -np.sqrt(rates) * y


@sk.jit
def turning(t, y, speed):
    return 1j * speed * y


PROBLEM = {"f": van_der_pol, "t_span": (0.0, 3.0), "y0": [2.0, 0.0], "method": "dopri5"}
MEMBERS = [0.1, 0.2, 0.4, 0.7, 1.0]


@pytest.fixture
def alone(monkeypatch):
    """List what is solved by a call of its own."""
    seen = []
    solve = rooms.solve

    def told(**arguments):
        seen.append(arguments)
        return solve(**arguments)

    monkeypatch.setattr(rooms, "solve", told)
    return seen


@pytest.fixture
def made(monkeypatch):
    """List the solutions that are made of columns."""
    seen = []
    make = columns.plain_solution

    def told(*parts):
        seen.append(make(*parts))
        return seen[-1]

    monkeypatch.setattr(columns, "plain_solution", told)
    return seen


def check(problem, entries, **options):
    """Solve as an ensemble and one by one; all must be equal to the bit. Return the ensemble."""
    result = sk.ensemble(problem, entries, chunk=len(entries), **options)
    for member, entry in zip(result, entries, strict=True):
        arguments = rooms.solve_arguments(problem, entry)
        if member.error is not None:
            with pytest.raises(Exception, match=re.escape(member.error.message)) as raised:
                sk.solve(**arguments)
            assert member.error.kind == raised.type.__name__
            continue
        expected = sk.solve(**arguments)
        equal(member.value, expected)
        assert member.status is expected.status
        assert member.message == expected.message
        assert member.success == expected.success
        assert member.seconds > 0
    return result


def equal(ours, theirs):
    """Whether two solutions are the same in all that they tell."""
    assert type(ours) is type(theirs)
    for name in ("t", "y"):
        a, b = getattr(ours, name), getattr(theirs, name)
        assert (a.dtype, a.shape) == (b.dtype, b.shape)
        np.testing.assert_array_equal(a, b)
        assert a.flags.owndata or a.base.size == a.size  # nothing else is kept alive by it
        assert a.flags.writeable
    for name in ("status", "message", "stats", "log", "switches"):
        assert getattr(ours, name) == getattr(theirs, name)
    assert list(ours.stats) == list(theirs.stats)
    assert len(ours.events) == len(theirs.events)
    assert len(ours.stiffness) == len(theirs.stiffness)


METHODS = ("dopri5", "bosh3", "rkc2", "rodas5p", "kvaerno3", "radau5")


@pytest.mark.parametrize("method", METHODS)
def test_members_are_what_they_are_alone(method, alone):
    check(PROBLEM | {"method": method}, MEMBERS)
    assert not alone


def test_members_whose_method_is_chosen(alone):
    check(PROBLEM | {"method": "auto"}, MEMBERS)
    assert len(alone) < len(MEMBERS)  # a case of stiffness is for Python, true or not


@pytest.mark.parametrize("method", ["rodas5p", "kvaerno3", "radau5"])
def test_each_member_makes_its_own_jacobians(method, alone):
    check(PROBLEM | {"method": method, "jac": jacobian, "rtol": 1e-4}, MEMBERS)
    assert not alone


def test_a_constant_jacobian_is_made_once(alone):
    problem = PROBLEM | {"method": "rodas5p", "jac": np.array([[0.0, 1.0], [-1.0, -3.0]])}
    check(problem, MEMBERS)
    assert not alone


@given(
    starts=st.lists(
        st.tuples(st.floats(-3, 3), st.floats(-3, 3), st.floats(0, 5), st.floats(-2, 2)),
        min_size=2,
        max_size=6,
    )
)
@settings(max_examples=30, deadline=None)
def test_states_spans_and_arguments_may_all_differ(starts):
    entries = [
        {"y0": np.array([x, v]), "args": (mu,), "t_span": (0.5, 0.5 + length)}
        for x, v, mu, length in starts
    ]
    check(PROBLEM, entries)


@pytest.mark.parametrize(
    "options",
    [
        {"t_eval": [0.0, 0.3, 2.9, 3.0]},
        {"t_eval": [1.0]},
        {"t_eval": []},
        {"first_step": 1e-3},
        {"max_step": 0.05},
        {"controller": "I"},
        {"detect": False},
        {"rtol": np.array([1e-3, 1e-8]), "atol": np.array([1e-9, 1e-3])},
        {"t_span": (3.0, 0.0), "method": "bosh3"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_options(options, alone):
    check(PROBLEM | options, MEMBERS)
    assert not alone


@pytest.mark.parametrize(
    "options",
    [{"dense": True}, {"log": True}, {"events": lambda t, y, mu: y[0]}, {"grid": 30}],
    ids=lambda options: next(iter(options)),
)
def test_what_python_has_a_part_in_is_solved_alone(options, alone):
    problem = PROBLEM | options
    result = sk.ensemble(problem, MEMBERS, chunk=5)
    assert result.success
    assert len(alone) == 5
    expected = [sk.solve(**problem, args=(mu,)) for mu in MEMBERS]
    for member, solution in zip(result, expected, strict=True):
        np.testing.assert_array_equal(member.value.y, solution.y)


def test_members_of_another_kind_are_solved_alone(alone):
    entries = [
        {"args": (1.0,)},
        {"args": (1.0,), "rtol": 1e-3},
        {"args": (2.0,)},
        {"args": (2.0,), "y0": np.array([2.0, 0.0], dtype=np.float32)},
        {"args": (2.0,), "y0": [2.0, np.nan]},
        {"args": (2.0,), "y0": [2.0, 0.0, 1.0]},
        {"args": (2.0,), "t_span": (1.0, 1.0)},
        {"args": (2.0,), "t_span": (0.0, np.nan)},
        {"args": (2.0,), "y0": [2, 0]},
    ]
    result = check(PROBLEM, entries)
    assert len(alone) == 6
    assert [m.index for m in result.failures] == [4, 5, 7]


def test_arguments_of_another_type_are_solved_alone(alone):
    check(PROBLEM, [1.0, 2, 3.0])
    assert len(alone) == 3


def test_arguments_that_are_arrays(alone):
    problem = {"f": delicate, "t_span": (0.0, 2.0), "y0": np.ones((3,)), "method": "dopri5"}
    entries = [(np.arange(1.0, 4.0) * k, 10.0) for k in range(1, 4)]
    check(problem, entries)
    assert not alone
    strided = [(np.arange(1.0, 7.0)[::2], 10.0)] * 2
    check(problem, strided)
    assert len(alone) == 2


def test_complex_states_of_any_shape(alone):
    problem = {"f": turning, "t_span": (0.0, 2.0), "method": "tsit5"}
    y0 = np.array([[1.0, 1j], [2.0, 1 + 1j]])
    check(problem, [{"y0": k * y0, "args": (0.5 * k,)} for k in (1, 2, 3)])
    assert not alone


def test_failures_are_told_as_alone(alone):
    problem = {"f": delicate, "t_span": (0.0, 20.0), "y0": [1.0], "method": "dopri5"}
    good, nan, high = np.array([2.0]), np.array([-1.0]), 10.0
    entries = [(good, high), (nan, high), (good, 0.5), (good, high), (good, 0.99), (good, high)]
    result = check(problem, entries)
    assert [m.success for m in result] == [True, False, False, True, False, True]
    assert len(alone) == 3
    check(PROBLEM | {"max_steps": 25}, MEMBERS)
    assert 0 < len(alone) - 3 < 5


def test_what_the_detector_suspects_is_solved_alone(alone):
    check(PROBLEM | {"t_span": (0.0, 20.0)}, [0.5, 100.0, 1.0])
    assert [arguments["args"] for arguments in alone] == [(100.0,)]
    check(PROBLEM | {"t_span": (0.0, 20.0), "method": "auto"}, [0.5, 100.0, 1.0])
    assert (100.0,) in [arguments["args"] for arguments in alone[1:]]


def test_pages_that_are_full(monkeypatch, alone):
    stats = [sk.solve(**PROBLEM, args=(mu,)).stats for mu in MEMBERS]
    rows = [1 + each["accepted"] + each["rejected"] for each in stats]
    assert rows[-1] > max(rows[:-1])
    monkeypatch.setattr(many, "_NUMBERS", 0)
    monkeypatch.setattr(stretches, "_MOST_ROOM", rows[-1])
    check(PROBLEM, MEMBERS)
    assert not alone
    monkeypatch.setattr(stretches, "_MOST_ROOM", rows[-1] - 1)
    check(PROBLEM, MEMBERS)
    assert [arguments["args"] for arguments in alone] == [(MEMBERS[-1],)]


def test_threads_and_stores(tmp_path, alone):
    entries = np.linspace(0.1, 1.0, 40)
    plain = sk.ensemble(PROBLEM, entries)
    with ThreadPoolExecutor(2) as pool:
        threads = sk.ensemble(PROBLEM, entries, pool, store=tmp_path)
        before = len(alone)
        again = sk.ensemble(PROBLEM, entries, pool, store=tmp_path)
    assert len(alone) == before < len(entries)
    for i, mu in enumerate(entries):
        expected = sk.solve(**PROBLEM, args=(mu,))
        for result in (plain, threads, again):
            equal(result[i].value, expected)


def test_reduce_is_called_with_each_solution(alone):
    ends = [sk.solve(**PROBLEM, args=(mu,)).y[-1] for mu in MEMBERS]
    bound = np.median([y[0] for y in ends])

    def last(solution):
        if solution.y[-1, 0] > bound:
            raise ArithmeticError
        return solution.y[-1]

    result = sk.ensemble(PROBLEM, MEMBERS, chunk=5, reduce=last)
    assert not alone
    for member, y in zip(result, ends, strict=True):
        if y[0] > bound:
            assert member.error.kind == "ArithmeticError"
        else:
            np.testing.assert_array_equal(member.value, y)
    assert len(result.failures) == 2


# What is kept

DELICATE = {"f": delicate, "t_span": (0.0, 20.0), "y0": [1.0], "method": "dopri5"}
GOOD, HIGH = np.array([2.0]), 10.0


def test_no_solution_is_made_before_somebody_asks(made, alone):
    with ThreadPoolExecutor(2) as pool:
        result = sk.ensemble(PROBLEM, MEMBERS, pool, chunk=2)
    assert (len(result), result.success, result.failures) == (5, True, [])
    assert result.succeeded.tolist() == [True] * 5
    assert repr(result) == "<Ensemble of 5: 5 succeeded>"
    states = result.final_states()
    again = pickle.loads(pickle.dumps(result))
    assert len(alone) == 1  # has a chunk of its own
    assert not made
    for i, mu in enumerate(MEMBERS):
        expected = sk.solve(**PROBLEM, args=(mu,))
        equal(result[i].value, expected)
        equal(again[i].value, expected)
        np.testing.assert_array_equal(states[i], expected.y[-1])
    assert len(made) == 2 * 4


def test_a_member_is_made_once(made):
    result = sk.ensemble(PROBLEM, MEMBERS, chunk=5)
    member = result[-2]
    member.value.y[:] = 7.0
    assert len(made) == 1
    assert result[3] is result[1:4][-1] is result.members[3] is member
    assert (result[3].value.y == 7.0).all()
    assert result.index(member) == 3
    assert len(made) == 5


def test_failures_within_a_block_leave_the_others_as_they_are(made):
    entries = [(GOOD, HIGH), (-GOOD, HIGH), (GOOD, 0.5), (GOOD, HIGH)]
    result = sk.ensemble(DELICATE, entries, chunk=4)
    assert repr(result) == "<Ensemble of 4: 2 succeeded, 1 non_finite, 1 ValueError>"
    assert [member.index for member in result.failures] == [1, 2]
    assert not made
    with pytest.raises(ValueError, match="member 2 has no final state: ValueError: beyond"):
        result.final_states()
    rest = sk.ensemble(DELICATE, entries[:2] + entries[3:], chunk=3)
    ends = rest.final_states()
    assert not made
    np.testing.assert_array_equal(ends, [value.y[-1] for value in rest.values])
    assert rest[2].parameters is entries[3]


def test_final_states_of_any_shape():
    problem = {"f": turning, "t_span": (0.0, 2.0), "method": "tsit5", "t_eval": [0.5, 1.0]}
    entries = [{"y0": np.full((2, 3), 1j) * k, "args": (0.5,)} for k in (1, 2, 3)]
    result = sk.ensemble(problem, entries, chunk=3)
    states = result.final_states()
    assert (states.shape, states.dtype) == ((3, 2, 3), complex)
    np.testing.assert_array_equal(states, [value.y[-1] for value in result.values])
    other = [*entries, {"y0": np.ones(2) * 1j, "args": (0.5,)}]
    with pytest.raises(ValueError, match=r"shapes \[\(2,\), \(2, 3\)\]"):
        sk.ensemble(problem, other, chunk=4).final_states()
    with pytest.raises(ValueError, match="t_eval is empty"):
        sk.ensemble(problem | {"t_eval": []}, entries, chunk=3).final_states()


@pytest.mark.parametrize("options", [{}, {"t_eval": [1.0, 2.0]}], ids=["steps", "times"])
def test_what_is_kept_is_what_was_asked_for(options):
    problem = PROBLEM | options
    task = rooms.Task(problem, None)
    few = task.run(MEMBERS).columns
    rows = sum(len(sk.solve(**problem, args=(mu,)).t) for mu in MEMBERS)
    assert len(few.y) == rows
    for array in (few.t, few.y):
        owner = array if array.base is None else array.base
        assert owner.nbytes <= rows * 2 * 8
    # A failure has no rows in what is kept of the others.
    entries = [(GOOD, HIGH), (-GOOD, HIGH), (GOOD, HIGH)]
    kept = rooms.Task(DELICATE | options, None).run(entries).columns
    owner = kept.y if kept.y.base is None else kept.y.base
    assert owner.size == 2 * len(sk.solve(**DELICATE, **options, args=entries[0]).t)


def test_a_worker_sends_columns():
    task, entries = rooms.Task(DELICATE, None), [(GOOD, HIGH), (-GOOD, HIGH), (GOOD, HIGH)]
    packed = [rooms.dumps(x, "pickle") for x in (task, entries)]
    sent = pickle.loads(pickle.dumps(rooms.run_chunk(*packed, "pickle", 0)))
    assert [type(x) for x in sent.alone] == [type(None), bytes, type(None)]
    outcomes = sent.each(rooms.unpack)
    assert outcomes.succeeded == [True, False, True]
    for outcome, entry in zip(outcomes, entries, strict=True):
        equal(outcome.value, sk.solve(**DELICATE, args=entry))


@pytest.mark.parametrize("ordered", [True, False])
def test_the_iterator_makes_members_in_turn(ordered, made):
    members = sk.ensemble_iter(PROBLEM, MEMBERS, chunk=5, ordered=ordered)
    for k, member in enumerate(members):
        assert (member.index, member.parameters, len(made)) == (k, MEMBERS[k], k + 1)
        equal(member.value, sk.solve(**PROBLEM, args=(MEMBERS[k],)))


def test_an_interrupt_keeps_the_blocks_that_were_done():
    def reduce(solution):
        if solution.y[0, 0] == 0.0:
            raise KeyboardInterrupt
        return solution.y[-1]

    entries = [{"y0": [y, 0.0], "args": (1.0,)} for y in (2.0, 1.0, 1.5, 0.5, 0.0, 1.0)]
    with pytest.raises(KeyboardInterrupt) as told:
        sk.ensemble(PROBLEM, entries, chunk=2, reduce=reduce)
    done = told.value.ensemble
    assert [member.index for member in done] == [0, 1, 2, 3]
    with pytest.raises(TypeError, match="member 0 has no final state: its value"):
        done.final_states()
