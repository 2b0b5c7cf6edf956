"""The comparison with peers: its arithmetic, its forms of f, and the page made from its file."""

import json
import math
from itertools import pairwise
from pathlib import Path

import _measure
import _peer_precision
import _peer_problems
import _peer_solvers
import ivp_problems
import numpy as np
import peers
import pytest
import stiff_problems
from hypothesis import given
from hypothesis import strategies as st

DOCS = Path(__file__).parents[1] / "docs"


# Digits and ratios --------------------------------------------------------------------------------


def test_cost_is_interpolated_log_linearly():
    points = [(2.0, 1.0), (4.0, 100.0), (6.0, 400.0)]
    assert _measure.at_digits(points, 3.0) == pytest.approx(10.0, rel=1e-14)
    assert _measure.at_digits(points, 5.0) == pytest.approx(200.0, rel=1e-14)
    assert _measure.at_digits(points, 4.0) == pytest.approx(100.0, rel=1e-14)


def test_digits_beyond_the_runs_are_not_extrapolated():
    points = [(2.0, 1.0), (4.0, 100.0)]
    assert _measure.at_digits(points, 4.1) == math.inf
    assert _measure.at_digits(points, 1.0) == pytest.approx(1.0)  # its cheapest run has them
    assert _measure.at_digits([], 1.0) == math.inf
    assert _measure.at_digits([(None, 1.0), (math.nan, 2.0)], 1.0) == math.inf


def test_a_run_that_is_beaten_in_both_is_left_out():
    # The run of 3 digits costs more than that of 5: nobody would take it.
    assert _measure.at_digits([(2.0, 1.0), (3.0, 90.0), (5.0, 8.0)], 4.0) == pytest.approx(4.0)


@given(
    st.lists(st.tuples(st.floats(0, 15), st.floats(1e-6, 1e3)), min_size=1, max_size=8),
    st.lists(st.floats(-1, 16), min_size=2, max_size=5),
)
def test_more_digits_never_cost_less(points, wanted):
    costs = [_measure.at_digits(points, digits) for digits in sorted(wanted)]
    assert all(a <= b * (1 + 1e-12) for a, b in pairwise(costs))
    least = min(cost for _, cost in points)
    assert all(cost >= least * (1 - 1e-12) for cost in costs)


def test_digits_are_of_the_worst_component():
    y, exact = [1.001, 1e-6], [1.0, 1.1e-6]
    assert _measure.digits(y, exact) == pytest.approx(-math.log10(0.1 / 1.1))
    # Relative to the largest component only the first counts.
    assert _measure.digits(y, exact, componentwise=False) == pytest.approx(3.0)
    assert _measure.digits(exact, exact) == 16.0
    assert math.isnan(_measure.digits([math.nan, 1.0], exact))


def test_ratio_of_what_was_not_reached_is_none():
    assert _measure.ratio(3.0, 2.0) == 1.5
    assert _measure.ratio(math.inf, 2.0) is None
    assert _measure.ratio(3.0, math.inf) is None


def test_file_is_json_without_nan_and_with_all_that_was_given():
    value = {"a": [{"b": [1.23456, math.nan], "c": np.float64(2.0)}, {}], "d": {}, "e": "ü"}
    kept = _measure.short(value)
    assert kept == {"a": [{"b": [1.235, None], "c": 2.0}, {}], "d": {}, "e": "ü"}
    for depth in range(5):
        assert json.loads(_measure.as_lines(kept, depth)) == kept


def cell(solver, kind, digits, seconds, library="peer"):
    return {
        "problem": "p",
        "solver": solver,
        "library": library,
        "kind": kind,
        "rtol": 1e-4,
        "digits": digits,
        "times": [seconds, 2 * seconds] if digits is not None else [],
    }


CELLS = [
    cell("ours", "Python", 5.0, 2.0, "stiffkit"),
    cell("better", "Python", 4.5, 1.0, "stiffkit"),
    cell("ours, jit", "compiled", 5.0, 0.1, "stiffkit"),
    cell("slow", "Python", 5.0, 6.0),
    cell("fast", "compiled", 6.0, 0.05),
    cell("failed", "Python", None, 0.0),
]


def test_ratios_are_to_our_best_of_the_same_kind():
    python, compiled = _peer_precision.equal_digits(CELLS, [4])
    assert (python["best"], python["seconds"]) == ("better", 1.0)
    assert python["ratios"] == {"ours": 2.0, "better": 1.0, "slow": 6.0, "failed": None}
    assert python["peers"] == ["slow", "failed"]
    # Against our compiled code all peers stand, and none of ours that is interpreted.
    assert compiled["ratios"] == {
        "ours, jit": 1.0,
        "slow": pytest.approx(60.0),
        "fast": pytest.approx(0.5),
        "failed": None,
    }


def test_where_none_of_ours_has_the_digits():
    _, row = _peer_precision.equal_digits(CELLS, [6])
    assert row["best"] is None
    assert row["seconds"] is None
    assert row["times"].pop("fast") == pytest.approx(0.05)
    assert set(row["times"].values()) == {None}


# Turns --------------------------------------------------------------------------------------------


class Clock:
    """Time that passes only when a run says so."""

    def __init__(self):
        self.now, self.order = 0.0, []

    def __call__(self):
        return self.now

    def run(self, name, seconds):
        def step():
            self.order.append(name)
            self.now += seconds
            return name

        return step


def test_solvers_take_turns():
    clock = Clock()
    runs = {"a": clock.run("a", 0.1), "b": clock.run("b", 0.3)}
    timings = _measure.take_turns(runs, 3, clock=clock)
    assert clock.order[-6:] == ["a", "b"] * 3
    assert timings["a"].times == pytest.approx([0.1] * 3)
    assert timings["b"].best == pytest.approx(0.3)
    assert timings["b"].result == "b"


def test_a_short_run_fills_its_measurement():
    clock = Clock()
    timing = _measure.take_turns({"a": clock.run("a", 0.001)}, 1, shortest=0.01, clock=clock)["a"]
    assert len(clock.order) == 2 + 10
    assert timing.times == pytest.approx([0.001])


def test_a_long_run_is_not_repeated():
    clock = Clock()
    runs = {"a": clock.run("a", 5.0), "b": clock.run("b", 0.1)}
    timings = _measure.take_turns(runs, 2, clock=clock)
    assert clock.order.count("a") == 1
    assert timings["a"].times == [5.0]
    # One that was counted on the way is run again, without what counts.
    clock = Clock()
    counting = {"a": clock.run("counting", 6.0)}
    timings = _measure.take_turns({"a": clock.run("a", 5.0)}, 2, warm_up=counting, clock=clock)
    assert clock.order == ["counting", "a"]
    assert timings["a"].times == [5.0]
    assert timings["a"].result == "counting"


def test_a_failing_run_leaves_the_others():
    clock = Clock()

    def fail():
        msg = "no"
        raise ValueError(msg)

    runs = {"a": fail, "b": clock.run("b", 0.1)}
    timings = _measure.take_turns(runs, 2, clock=clock)
    assert timings["a"].failure == "ValueError: no"
    assert timings["a"].times == []
    assert timings["a"].best == math.inf
    assert len(timings["b"].times) == 2
    with pytest.raises(RuntimeError, match="a failed: ValueError: no"):
        _measure.best_times(runs, 2, clock=clock)


# Peers --------------------------------------------------------------------------------------------


def test_an_absent_peer_is_left_out_with_a_word(capsys):
    assert _measure.peer("no_such_peer") is None
    assert _measure.peer("no_such_peer") is None
    assert capsys.readouterr().out.count("no_such_peer is left out") == 1
    assert "no_such_peer" in _measure.absent()
    assert _measure.peer("math") is math


@pytest.mark.parametrize("family", ["explicit", "stiff", "stabilised"])
def test_without_peers_ours_and_scipy_remain(monkeypatch, family):
    monkeypatch.setattr(_peer_solvers, "peer", lambda name: None)
    libraries = {solver.library for solver in getattr(_peer_solvers, family)()}
    assert libraries == {"stiffkit", "SciPy"}


def test_every_solver_gives_the_end_and_its_calls():
    case = _peer_problems.Case(
        "decay",
        lambda _, y: -y,
        (0.0, 1.0),
        (1.0, 2.0),
        rtols=(1e-6,),
        wanted=(4,),
        end=np.exp(-1.0) * np.array([1.0, 2.0]),
    )
    solvers = [s for s in _peer_solvers.explicit() if s.kind == _peer_solvers.PYTHON]
    measured = _peer_precision.measure([case], solvers, 1)
    for c in measured["cells"]:
        assert c["digits"] > 4, c["solver"]
        assert c["nfev"] > 5, c["solver"]
        assert len(c["times"]) == 1


def test_no_f_no_cell():
    case = _peer_problems.Case("none", lambda _, y: -y, (0.0, 1.0), (1.0,), (1e-4,), (3,))
    assert [s.f(case) for s in _peer_solvers.explicit() if s.kind == "compiled"].count(None) > 4
    compiled = [s for s in _peer_solvers.explicit() if s.kind == "compiled"]
    assert _peer_precision.measure([case], compiled, 1)["cells"] == []


def test_a_solver_that_gives_up_says_so():
    endless = _peer_problems.Case("rough", lambda _, y: y * y, (0.0, 2.0), (1.0,), (1e-4,), (3,))
    solver = _peer_solvers.ours("dopri5", _peer_solvers.PYTHON)
    (found,) = _peer_precision.at_tolerance(
        endless, {"dopri5": (solver, endless.python)}, 1e-4, repetitions=1
    )
    assert found["digits"] is None
    assert found["times"] == []
    assert found["failure"].startswith("GivenUp")


FORMS = {
    "lotka-volterra": (ivp_problems.lotka_volterra_slopes, ivp_problems.lotka_volterra, 2),
    "arenstorf": (ivp_problems.arenstorf_slopes, ivp_problems.arenstorf, 4),
    "robertson": (stiff_problems.robertson_slopes, stiff_problems.robertson, 3),
    "hires": (stiff_problems.hires_slopes, stiff_problems.hires, 8),
    "van der pol": (stiff_problems.van_der_pol_slopes, stiff_problems.van_der_pol, 2),
}


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_f_agree(name):
    slopes, f, n = FORMS[name]
    y = np.linspace(0.3, 0.9, n)
    made = _peer_problems.forms(slopes, n)
    expected = f(0.0, y)
    assert np.array_equal(made["python"](0.0, y), expected)
    tolerance = 8 * np.finfo(float).eps * np.abs(expected).max()
    if made["compilable"] is not None:
        numba = pytest.importorskip("numba")
        assert np.abs(numba.njit(made["compilable"])(0.0, y) - expected).max() <= tolerance
    torch = pytest.importorskip("torch")
    rows = _peer_problems.in_torch(slopes)(0.0, torch.from_numpy(y)[None]).numpy()
    assert np.abs(rows[0] - expected).max() <= tolerance


def test_brusselator_in_jax_is_that_in_numpy():
    jax = pytest.importorskip("jax")
    case = _peer_problems.brusselator(5)
    y = np.asarray(case.y0) + 0.1
    with jax.enable_x64(True):
        got = np.asarray(case.in_jax(0.0, jax.numpy.asarray(y), None))
    expected = case.python(0.0, y)
    assert got.dtype == np.float64
    assert np.abs(got - expected).max() <= 16 * np.finfo(float).eps * np.abs(expected).max()


def test_brusselator_has_its_band():
    case = _peer_problems.brusselator(4)
    y0, lower = np.asarray(case.y0), case.bandwidth[0]
    for j in range(len(y0)):
        moved = case.python(0.0, y0 + np.eye(len(y0))[j]) - case.python(0.0, y0)
        assert max(abs(i - j) for i in np.flatnonzero(moved)) <= lower


# The command --------------------------------------------------------------------------------------


def test_what_was_measured_is_kept_when_a_section_fails(monkeypatch, tmp_path):
    def fail():
        msg = "broken"
        raise RuntimeError(msg)

    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(peers, "sections", lambda *, quick: {"call": lambda: [1.0], "n": fail})
    out = tmp_path / "there" / "peers.json"
    with pytest.raises(RuntimeError, match="broken"):
        peers.main(["--only", "call", "n", "--json", str(out), "--note", "busy"])
    told = json.loads(out.read_text())
    assert told["sections"] == {"call": [1.0]}
    (run,) = told["runs"]
    assert (run["note"], run["sections"]) == ("busy", ["call"])
    assert run["versions"]["numpy"] == np.__version__
    assert str(tmp_path) not in out.read_text()


def test_a_later_run_replaces_its_own_sections(monkeypatch, tmp_path):
    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))
    value = "old"
    made = {name: lambda: value for name in ("call", "n", "memory")}
    monkeypatch.setattr(peers, "sections", lambda *, quick: made)
    command = ["--json", str(tmp_path / "peers.json"), "--only"]
    peers.main([*command, "call", "n", "memory"])
    value = "new"
    peers.main(["--add", *command, "n"])
    told = json.loads((tmp_path / "peers.json").read_text())
    assert told["sections"] == {"call": "old", "n": "new", "memory": "old"}
    assert [run["sections"] for run in told["runs"]] == [["call", "memory"], ["n"]]
    peers.main(["--add", *command, "memory", "call"])
    told = json.loads((tmp_path / "peers.json").read_text())
    assert [run["sections"] for run in told["runs"]] == [["n"], ["memory", "call"]]
    assert set(told["sections"].values()) == {"new"}


def test_nothing_to_add_to_is_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        peers.main(["--add", "--json", str(tmp_path / "none.json")])
    assert "none.json" in capsys.readouterr().err


def test_an_unknown_section_is_refused(capsys):
    with pytest.raises(SystemExit):
        peers.main(["--only", "weather"])
    assert "'weather'" in capsys.readouterr().err


def test_sections_are_those_that_can_be_chosen():
    assert tuple(peers.sections(quick=True)) == peers.SECTIONS


# The page -----------------------------------------------------------------------------------------


@pytest.fixture
def page(monkeypatch):
    pytest.importorskip("matplotlib").use("Agg")
    monkeypatch.syspath_prepend(DOCS)
    import figures_peers

    return figures_peers


def told(sections):
    machine = {
        "processor": "P",
        "system": "Linux",
        "cores": 2,
        "memory_GiB": None,
        "load": None,
    }
    run = {
        "date": "2026-01-01",
        "command": "python benchmarks/peers.py",
        "note": "",
        "machine": machine,
        "versions": {"Python": "3.11"},
        "absent": {"diffrax": "No module named 'diffrax'"},
        "sections": list(sections),
    }
    return {"runs": [run], "sections": sections}


def small():
    rows = _peer_precision.equal_digits(CELLS, [4, 6])
    part = {"cells": CELLS, "rows": rows, "first": {"p": {"ours, jit": 3.0}}}
    n = [
        {"n": 2, "solver": "dopri5", "per_call": 1e-6, "f": 1e-7, "times": [1.0], "nfev": 9},
        {"n": 2, "solver": "SciPy RK45", "per_call": 5e-7, "f": 1e-7, "times": [1.0], "nfev": 9},
        {"n": 2, "solver": "torchdiffeq dopri5", "failure": "no"},
    ]
    batch = {
        "cells": [],
        "rows": [
            {
                "batch": 4,
                "digits": 4.0,
                "seconds": 1.0,
                "times": {"tsit5": 1.0, "torchode Tsit5": 3.0},
                "ratios": {"tsit5": 1.0, "torchode Tsit5": 3.0},
                "peers": ["torchode Tsit5"],
            }
        ],
    }
    memory = [
        {"n": 9, "solver": "dopri5", "steps": 3, "end": 10.0, "all": 20.0},
        {"n": 9, "solver": "SciPy RK45", "steps": 3, "end": 20.0, "all": 5.0},
    ]
    events = [{"solver": "dopri5, jit", "count": 3, "without": 1e-3, "with": 2e-3}]
    families = dict.fromkeys(("call", "explicit", "stiff", "stabilised"), part)
    return _measure.short({**families, "n": n, "batch": batch, "memory": memory, "events": events})


def test_tables_and_figures_of_a_small_file(page):
    import matplotlib.pyplot as plt

    data = told(small())
    tables = {name: write(data) for name, write in page.tables().items()}
    for name, table in tables.items():
        assert page.NOT_MEASURED not in table, name
        widths = {row.count("|") for row in table.splitlines() if row.startswith("|")}
        assert len(widths) <= 1, name
    assert "| slow | 6.00 |" in tables["peers_explicit_python"]
    assert "| fast | 0.500 | 50.0 ms |" in tables["peers_explicit_compiled"]
    assert "diffrax, which could not be imported" in tables["peers_conditions"]
    for draw in page.drawings().values():
        figure = draw(data)
        assert any(ax.lines for ax in figure.axes)
        plt.close(figure)


def test_lost_comparisons_are_listed_and_won_ones_are_not(page):
    text = page.lost(told(small()))
    assert "p, f compiled, 4 digits: fast 2.0 times" in text
    assert "p, f compiled, 6 digits: fast of ours none" in text
    assert "n = 2, per call of f: SciPy RK45 2.0 times" in text
    assert "memory, all steps kept: SciPy RK45 4.0 times" in text
    assert "slow" not in text
    assert "torchode" not in text
    assert "end kept" not in text
    # For each of four families: slow at 4 digits twice, fast at 4 and at 6; n, batch, memory twice.
    assert text.startswith("In 10 of 20 comparisons")


def test_each_run_is_told_with_its_sections(page):
    first, second = told({"n": []}), told({"batch": {}})
    second["runs"][0]["note"] = "a busy machine"
    text = page.conditions({"runs": first["runs"] + second["runs"]})
    assert text.index("Sections n:") < text.index("Sections batch:") < text.index("a busy machine")
    assert "Sections" not in page.conditions(first)


def test_a_section_that_was_not_measured_is_said(page):
    import matplotlib.pyplot as plt

    data = told({})
    for name, write in page.tables().items():
        assert name == "peers_conditions" or write(data) == page.NOT_MEASURED
    for draw in page.drawings().values():
        plt.close(draw(data))


def test_the_page_shows_every_table_and_figure(page):
    text = (DOCS / "benchmarks" / "peers.md").read_text(encoding="utf-8")
    for name in page.tables():
        assert f"_build/generated/{name}.md" in text
    for name in page.drawings():
        assert f"_build/generated/{name}.svg" in text
