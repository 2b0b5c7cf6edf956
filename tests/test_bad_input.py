"""Every unusable argument is refused before the first step, by name and value; never a hang."""

import math
import warnings

import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from problems import counted, decay

import stiffkit as sk
from stiffkit import Status
from stiffkit.diffusion import sample

torch = pytest.importorskip("torch")

REFUSED = (TypeError, ValueError)
HUGE = 10**400
"""An integer beyond the floats: float(HUGE) raises OverflowError."""


def short(value):
    """A test id for junk."""
    return f"{type(value).__name__}-{value!r}"[:24]


def refuses(name, value, message=None, **options):
    """Assert that solve refuses `value` for the argument `name`, naming it; return the message."""
    f = counted(decay)
    arguments = {"f": f, "t_span": (0.0, 1.0), "y0": [1.0, 2.0], **options, name: value}
    with pytest.raises(REFUSED) as caught:
        sk.solve(**arguments)
    assert name in str(caught.value), f"{name} is not named in: {caught.value}"
    if message is not None:
        assert message in str(caught.value)
    assert f.calls <= 1  # f(t0, y0): no step was made
    return str(caught.value)


def test_swapped_arguments_of_f_are_told():
    with pytest.raises(ValueError, match=r"has shape \(\).*called as f\(t, y\), the time first"):
        sk.solve(lambda y, t: -y, (0.0, 1.0), [1.0, 2.0])


# One argument at a time ---------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["rtol", "atol"])
@pytest.mark.parametrize(
    "value",
    [
        -1e-6,
        math.nan,
        math.inf,
        -math.inf,
        None,
        "junk",
        [1e-6] * 3,
        [1e-6, math.nan],
        1j,
        {},
        HUGE,
    ],
    ids=short,
)
def test_a_tolerance_that_is_none_is_refused(name, value):
    refuses(name, value)


def test_rtol_zero_is_refused_and_atol_zero_is_not():
    refuses("rtol", 0.0, "0.0")
    refuses("rtol", [1e-6, 0.0])
    assert sk.solve(decay, (0.0, 1.0), [1.0, 2.0], atol=0.0).success


@pytest.mark.parametrize("name", ["max_step", "first_step", "max_steps"])
@pytest.mark.parametrize(
    "value",
    [0, -1, math.nan, -math.inf, "junk", [1.0, 2.0], [], 1j, {}, np.array([3.0, 4.0])],
    ids=short,
)
def test_a_step_size_or_count_that_is_none_is_refused(name, value):
    refuses(name, value)


def test_max_step_none_is_refused_but_first_step_none_means_automatic():
    refuses("max_step", None)
    assert sk.solve(decay, (0.0, 1.0), [1.0], first_step=None).success


@pytest.mark.parametrize("name", ["max_step", "first_step"])
def test_an_integer_beyond_the_floats_is_refused(name):
    refuses(name, HUGE)


@pytest.mark.parametrize("value", [1.5, None])
def test_max_steps_is_a_whole_number(value):
    refuses("max_steps", value)


def test_first_step_beyond_the_span_is_refused():
    refuses("first_step", 2.0, "2.0")
    refuses("first_step", 1.5, t_span=(0.0, -1.0))
    refuses("first_step", math.inf)


@pytest.mark.parametrize(
    ("misspelt", "meant"),
    [
        ("tsit", "tsit5"),
        ("doprii5", "dopri5"),
        ("Vern7", "vern7"),
        ("RK-45", "RK45"),
        ("bosh", "bosh3"),
    ],
)
def test_an_unknown_method_is_refused_with_the_nearest_name(misspelt, meant):
    assert repr(meant) in refuses("method", misspelt, repr(misspelt))


@pytest.mark.parametrize(
    "value", [None, 5, 1.0, [], {}, ["tsit5"], "", b"tsit5", np.ones(2)], ids=short
)
def test_a_method_that_is_none_is_refused(value):
    refuses("method", value)


@pytest.mark.parametrize("method", ["euler", "rk4"])
def test_a_method_without_error_estimate_wants_a_grid(method):
    message = refuses("method", method, method)
    assert "grid" in message
    assert sk.solve(decay, (0.0, 1.0), [1.0], method, grid=10).success


@pytest.mark.parametrize(
    "value",
    [
        None,
        5,
        1.0,
        "junk",
        (0.0,),
        (0.0, 1.0, 2.0),
        (0.0, math.nan),
        (math.nan, 1.0),
        (math.inf, 1.0),
        (-math.inf, math.inf),
        (0.0, None),
        ("a", "b"),
        (0.0, 1j),
        (0, HUGE),
        [[0, 1]],
    ],
    ids=short,
)
def test_a_time_span_that_is_none_is_refused(value):
    refuses("t_span", value)


@pytest.mark.parametrize(
    "value",
    [
        None,
        "junk",
        [1.0, math.nan],
        [math.inf, 1.0],
        [[1.0], [1.0, 2.0]],
        {},
        object(),
        [None],
        np.array(["a"]),
        np.ones(2, dtype=np.float16),
        np.ones(2, dtype=np.longdouble),
        [HUGE],
        torch.ones(2, dtype=torch.float16),
        torch.tensor([1.0, math.nan]),
        np.array(["2020-01-01"], dtype="datetime64[D]"),
        [1.0, "a"],
    ],
    ids=short,
)
def test_an_initial_state_that_is_none_is_refused(value):
    refuses("y0", value)


def test_a_non_finite_initial_state_names_the_component():
    refuses("y0", [[1.0, 2.0], [3.0, math.nan]], "(1, 1)")
    refuses("y0", [1.0, -math.inf], "component 1")


@pytest.mark.parametrize(
    "value",
    [
        5,
        1.0,
        "junk",
        {"a": 1},
        [[0.1, 0.2]],
        [0.5, 0.2],
        [0.1, 0.1],
        [-0.1, 0.5],
        [0.5, 1.1],
        [math.nan],
        [0.1, math.inf],
        [None],
        [0.1, "a"],
        [0.5j],
        np.array([0.5j]),
        [[0.1], [0.1, 0.2]],
    ],
    ids=short,
)
def test_output_times_that_are_none_are_refused(value):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # NumPy's, of complex numbers made real
        refuses("t_eval", value)


def test_output_times_name_the_offending_value():
    refuses("t_eval", [0.5, 1.25], "1.25")
    refuses("t_eval", [0.2, 0.5], t_span=(1.0, 0.0))


@pytest.mark.parametrize(
    "value",
    [
        0,
        -3,
        2.5,
        math.nan,
        math.inf,
        "junk",
        [],
        [0.0, 0.5],
        [0.5, 1.0],
        [0.0, 0.7, 0.5, 1.0],
        {},
        [0.0, math.nan, 1.0],
        [[0.0, 1.0]],
        [0.0, None, 1.0],
        [[0.0], [0.5, 1.0]],
        [0.0, 0.0, 1.0],
    ],
    ids=short,
)
def test_a_grid_that_is_none_is_refused(value):
    refuses("grid", value, method="rk4")


def test_a_grid_of_more_steps_than_max_steps_does_not_run():
    # 10^18 steps: neither memory nor time for it.
    refuses("grid", 10**18)
    refuses("grid", HUGE)


@pytest.mark.parametrize(
    "value",
    ["junk", 5, 1.0, {}, [], sk.PIDController, object(), lambda *_: (True, 1.0, None)],
    ids=short,
)
def test_a_controller_that_is_none_is_refused(value):
    refuses("controller", value)


@pytest.mark.parametrize("name", ["guide", "callback"])
@pytest.mark.parametrize("value", ["junk", 5, [], {}, [lambda *_: None]], ids=short)
def test_a_hook_that_is_none_is_refused(name, value):
    refuses(name, value)


@pytest.mark.parametrize("name", ["events", "observe"])
@pytest.mark.parametrize("value", ["junk", 5, 1.0, [None], [5], object()], ids=short)
def test_hooks_that_are_none_are_refused(name, value):
    refuses(name, value)


@pytest.mark.parametrize("value", ["yes", -1, 1.5, math.nan, math.inf, [1], object()], ids=short)
def test_a_terminal_attribute_that_is_none_is_refused(value):
    def g(t, y):
        return y[0]

    g.terminal = value
    with pytest.raises(REFUSED, match="terminal"):
        sk.solve(decay, (0.0, 1.0), [1.0, 2.0], events=g)


@pytest.mark.parametrize("value", ["up", math.nan, [1], object()], ids=short)
def test_a_direction_attribute_that_is_none_is_refused(value):
    def g(t, y):
        return y[0]

    g.direction = value
    with pytest.raises(REFUSED, match="direction"):
        sk.solve(decay, (0.0, 1.0), [1.0, 2.0], events=g)


def test_an_event_function_that_is_no_scalar_is_refused():
    for value in ([1.0, 2.0], None, "junk", 1j):
        with pytest.raises(REFUSED, match="event"):
            sk.solve(decay, (0.0, 1.0), [1.0, 2.0], events=lambda t, y, v=value: v)


@pytest.mark.parametrize("value", [5, 1.0, None], ids=short)
def test_args_that_are_no_sequence_are_refused(value):
    refuses("args", value)


@pytest.mark.parametrize("value", [None, 5, "junk", [decay]], ids=short)
def test_a_right_hand_side_that_is_no_function_is_refused(value):
    with pytest.raises(TypeError, match="f must be callable"):
        sk.solve(value, (0.0, 1.0), [1.0])


@pytest.mark.parametrize("name", ["dense", "progress", "log", "detect"])
@pytest.mark.parametrize("value", [None, 2, [], np.True_], ids=short)
def test_flags_take_any_truth_value(name, value):
    assert sk.solve(decay, (0.0, 1.0), [1.0], **{name: value}).success


@pytest.mark.parametrize("name", ["dense", "progress", "log", "detect", "batched"])
def test_text_is_no_truth_value(name):
    refuses(name, "no", f"{name} must be True or False, not 'no'")


def test_text_is_no_truth_value_of_ensembles_and_samplers():
    with pytest.raises(TypeError, match="retry_failed must be True or False, not 'no'"):
        sk.ensemble(decay, [{}], retry_failed="no")
    with pytest.raises(TypeError, match="trace must be True or False, not 'no'"):
        sample(lambda x, sigma: x, torch.zeros(1, 1), steps=2, trace="no")


# What f returns -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "slope",
    [
        None,
        "junk",
        [1.0],
        [1.0, 2.0, 3.0],
        [[1.0, 2.0]],
        [[1.0], [2.0, 3.0]],
        1.0,
        {},
        [None, 1.0],
        ["a", "b"],
        [1j, 1.0],
        object(),
        lambda: None,
    ],
    ids=short,
)
def test_a_slope_of_wrong_shape_or_kind_is_refused_at_the_first_call(slope):
    f = counted(lambda t, y: slope)
    with pytest.raises(REFUSED, match="f"):
        sk.solve(f, (0.0, 1.0), [1.0, 2.0])
    assert f.calls == 1


def test_the_message_about_a_wrong_shape_holds_both_shapes():
    with pytest.raises(ValueError, match=r"\(3,\).*\(2,\)"):
        sk.solve(lambda t, y: np.ones(3), (0.0, 1.0), [1.0, 2.0])


@pytest.mark.parametrize("kind", [list, tuple, np.float32, np.int64, bool])
def test_a_slope_may_be_any_array_like_of_numbers(kind):
    def f(t, y):
        ones = np.ones(2)
        return kind(ones) if kind in (list, tuple) else ones.astype(kind)

    solution = sk.solve(f, (0.0, 1.0), [0.0, 1.0])
    assert solution.y.dtype == np.float64
    np.testing.assert_allclose(solution.y[-1], [1.0, 2.0], rtol=1e-14)


@pytest.mark.parametrize("method", ["tsit5", "heun", "vern7", "dop853"])
@pytest.mark.parametrize("wrong", ["short", "transposed", "complex"])
def test_a_slope_that_turns_wrong_after_the_first_call_is_no_silent_broadcast(wrong, method):
    def f(t, y):
        if t == 0:
            return -y
        return {"short": -y[:1], "transposed": -y.T, "complex": -y * 1j}[wrong]

    # NumPy's own warning about complex numbers made real will do: here it is an error.
    with pytest.raises((*REFUSED, np.exceptions.ComplexWarning), match=r"shape|[Cc]omplex|dtype"):
        sk.solve(f, (0.0, 1.0), np.arange(1.0, 7.0).reshape(2, 3), method)


@pytest.mark.parametrize("backend", ["numpy", "torch"])
def test_f_that_changes_its_argument_at_once_is_refused(backend):
    def f(t, y):
        y *= 2
        return y

    y0 = np.ones(2) if backend == "numpy" else torch.ones(2, dtype=torch.float64)
    with pytest.raises(ValueError, match="f changes its argument"):
        sk.solve(f, (0.0, 1.0), y0)
    assert bool((y0 == 1).all())  # the user's own array is left alone


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("method", ["tsit5", "heun", "cashkarp", "vern7"])
def test_f_that_changes_its_argument_later_does_no_harm_or_is_an_error(method, backend):
    # Clamping in place: it changes nothing at t0, where it could have been seen.
    def clean(t, y):
        return -(y.clip(0.5, 9.0))

    def dirty(t, y):
        if t > 0.5:
            y[:] = y.clip(0.5, 9.0)
        return -(y.clip(0.5, 9.0))

    y0 = np.array([1.0, 2.0]) if backend == "numpy" else torch.tensor([1.0, 2.0]).double()
    expected = sk.solve(clean, (0.0, 2.0), y0, method)
    try:
        solution = sk.solve(dirty, (0.0, 2.0), y0, method)
    except ValueError:
        return
    np.testing.assert_array_equal(np.asarray(solution.y), np.asarray(expected.y))


@pytest.mark.parametrize("method", ["tsit5", "heun", "dop853"])
@pytest.mark.parametrize("options", [{}, {"dense": True}, {"grid": 20}], ids=str)
def test_f_may_return_one_buffer_again_and_again(method, options):
    buffer = np.empty(2)

    def reuses(t, y):
        np.negative(y, out=buffer)
        return buffer

    expected = sk.solve(decay, (0.0, 1.0), [1.0, 2.0], method, **options)
    solution = sk.solve(reuses, (0.0, 1.0), [1.0, 2.0], method, **options)
    np.testing.assert_array_equal(solution.y, expected.y)


def test_f_may_return_its_argument_itself():
    solution = sk.solve(lambda t, y: y, (0.0, 1.0), [1.0])
    assert solution.y[-1, 0] == pytest.approx(math.e, rel=1e-5)


# What a guide returns -----------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("wrong", [None, 5, "junk", [1.0], "shape"])
def test_a_guide_that_returns_no_state_is_an_error_that_names_it(wrong, backend):
    y0 = np.ones(2) if backend == "numpy" else torch.ones(2, dtype=torch.float64)

    def guide(step, probe):
        return step.y_new[:1] if wrong == "shape" else wrong

    with pytest.raises(REFUSED, match="guide"):
        sk.solve(decay, (0.0, 1.0), y0, guide=guide)


def test_a_guide_that_returns_another_dtype_is_an_error_that_names_it():
    with pytest.raises(REFUSED, match="guide"):
        sk.solve(decay, (0.0, 1.0), [1.0], guide=lambda step, probe: step.y_new * 1j)
    with pytest.raises(REFUSED, match="guide"):
        sk.solve(
            decay,
            (0.0, 1.0),
            torch.ones(2, dtype=torch.float64),
            guide=lambda step, probe: step.y_new.float(),
        )


# Documented results -------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", ["numpy", "torch"])
@pytest.mark.parametrize("options", [{}, {"dense": True}, {"grid": 1}, {"log": True}], ids=str)
def test_a_span_of_length_zero_returns_y0_and_success(options, backend):
    y0 = np.array([1.0, 2.0]) if backend == "numpy" else torch.tensor([1.0, 2.0]).double()
    if "grid" in options:
        options = {"grid": [3.0]}
    solution = sk.solve(decay, (3.0, 3.0), y0, **options)
    assert solution.status is Status.success
    assert solution.t.tolist() == [3.0]
    np.testing.assert_array_equal(np.asarray(solution.y), [[1.0, 2.0]])
    if options.get("dense"):
        np.testing.assert_array_equal(np.asarray(solution(3.0)), [1.0, 2.0])
    if options.get("log"):
        assert len(solution.log["t"]) == 0


def test_a_span_of_length_zero_takes_an_integer_grid_and_output_times():
    assert sk.solve(decay, (3.0, 3.0), [1.0], grid=5).status is Status.success
    solution = sk.solve(decay, (3.0, 3.0), [1.0], t_eval=[3.0])
    assert solution.t.tolist() == [3.0]
    assert sk.solve(decay, (3.0, 3.0), [1.0], t_eval=[]).y.shape == (0, 1)


@pytest.mark.parametrize(
    "y0", [[1, 2], np.array([1, 2], dtype=np.int8), [True, True], (1, 2), range(1, 3)]
)
def test_an_integer_initial_state_becomes_float64(y0):
    solution = sk.solve(decay, (0.0, 1.0), y0)
    assert solution.y.dtype == np.float64
    assert solution.y[-1, 0] == pytest.approx(math.exp(-1), rel=1e-5)


def test_an_integer_torch_state_becomes_the_default_dtype():
    solution = sk.solve(decay, (0.0, 1.0), torch.tensor([1, 2]))
    assert solution.y.dtype == torch.get_default_dtype()


def test_the_initial_state_is_copied():
    y0 = np.array([1.0, 2.0])
    solution = sk.solve(decay, (0.0, 1.0), y0)
    y0[:] = 7.0
    assert solution.y[0].tolist() == [1.0, 2.0]


def test_empty_output_times_give_no_output():
    solution = sk.solve(decay, (0.0, 1.0), [1.0, 2.0], t_eval=[])
    assert solution.success
    assert solution.y.shape == (0, 2)
    assert repr(solution)


# Fuzz ---------------------------------------------------------------------------------------------

JUNK = st.one_of(
    st.none(),
    st.booleans(),
    st.text(max_size=3),
    st.floats(),
    st.integers(-3, 3),
    st.sampled_from([HUGE, -HUGE, 10**18, 1e308, 5e-324, 1e-200]),
    st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, -1.0, 1j, complex("nan")]),
    st.lists(st.floats(-2, 2) | st.none() | st.sampled_from([math.nan, math.inf]), max_size=3),
    st.just({}),
    st.just({"a": 1}),
    st.just([[1.0], [1.0, 2.0]]),
    st.builds(object),
    st.sampled_from([b"x", print, int, np.float64(0.5), np.array([0.5]), np.array(["a"])]),
    st.sampled_from([np.array([]), np.array([[0.0, 1.0]]), np.array(None), np.datetime64("2020")]),
    st.lists(st.floats(0, 1), min_size=2, max_size=2).map(torch.tensor),
    st.floats(-1, 1).map(torch.tensor),
)
ARGUMENTS = [
    *("t_span", "y0", "method", "rtol", "atol", "t_eval", "grid", "events", "controller"),
    *("first_step", "max_step", "max_steps", "guide", "observe", "callback", "args"),
]


# Shrinking would walk through junk that is merely expensive, such as a grid of 10^7 steps.
FUZZ = settings(phases=[Phase.explicit, Phase.generate])


def fuzzed(arguments):
    """Assert the property of the fuzz for one set of junk arguments."""
    f = counted(lambda t, y, *args: {"a": -y["a"]} if isinstance(y, dict) else -y)
    call = {"f": f, "t_span": (0.0, 1.0), "y0": [1.0, 2.0], "max_steps": 200, **arguments}
    with warnings.catch_warnings():
        # Only our errors are the subject, not what NumPy warns of when it makes sense of junk.
        warnings.simplefilter("ignore")
        try:
            solution = sk.solve(**call)
        except REFUSED as error:
            refused = error
        else:
            refused = None
    if refused is not None:
        # Before the first step, by name. A shape that does not fit is f's or y0's.
        assert not hasattr(refused, "solution"), repr(refused)
        assert f.calls <= 1
        assert any(name in str(refused) for name in (*arguments, "f(t0, y0)")), repr(refused)
        return
    assert isinstance(solution.status, Status)
    assert solution.stats["nfev"] == f.calls
    assert f.calls < 200 * 16
    if solution.success:
        y = solution.y["a"] if isinstance(solution.y, dict) else solution.y
        assert bool(np.isfinite(np.asarray(y)).all())


@pytest.mark.parametrize("name", ARGUMENTS)
@FUZZ
@given(data=st.data())
def test_any_junk_for_one_argument_gives_a_solution_or_an_error_that_names_it(name, data):
    junk = data.draw(JUNK)
    hooks = ("guide", "observe", "callback", "events", "grid")
    if not (callable(junk) and name in hooks):
        fuzzed({name: junk})  # what a function of the user's does is the user's affair


@FUZZ
@given(
    st.dictionaries(st.sampled_from(ARGUMENTS), JUNK.filter(lambda x: not callable(x)), max_size=3)
)
def test_junk_for_several_arguments_gives_a_solution_or_an_error_that_names_one(arguments):
    fuzzed(arguments)


@pytest.mark.filterwarnings("ignore:rtol and atol ask for")
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@given(
    st.floats(-1e308, 1e308),
    st.floats(-1e308, 1e308),
    st.floats(1e-300, 1e300),
    st.floats(0, 1e300),
)
def test_any_finite_span_and_tolerance_ends_with_a_status(dtype, t0, t1, rtol, atol):
    with np.errstate(all="ignore"):
        solution = sk.solve(
            lambda t, y: np.cos(y), (t0, t1), np.ones(2, dtype), rtol=rtol, atol=atol, max_steps=50
        )
    assert isinstance(solution.status, Status)
    assert bool(np.isfinite(solution.y).all())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_tolerance_below_the_rounding_of_the_state_is_told(dtype):
    y0 = np.ones(2, dtype)
    eps = float(np.finfo(dtype).eps)
    with pytest.warns(UserWarning, match="below the rounding error of float"):
        sk.solve(lambda t, y: -y, (0.0, 1e-3), y0, rtol=eps / 8, atol=0.0)
    sk.solve(lambda t, y: -y, (0.0, 1e-3), y0, rtol=1e-300, atol=1e-5)  # absolute control: no word


@pytest.mark.parametrize("factor", [0.0, -1.0, math.nan])
def test_a_controller_that_gives_no_step_is_refused(factor):
    class Broken:
        def init(self):
            return None

        def __call__(self, _ratio, memory, _order):
            return True, factor, memory

    with pytest.raises(ValueError, match="controller returned factor=") as caught:
        sk.solve(lambda t, y: -y, (0.0, 1.0), [1.0], controller=Broken())
    assert caught.value.solution.t[0] == 0.0


@pytest.mark.filterwarnings("ignore:Casting complex")  # NumPy speaks of it too
@pytest.mark.parametrize("method", ["dopri5", "rk4"])
@pytest.mark.parametrize(
    ("late", "message"),
    [
        (lambda y: np.float64(-1.0), "shape"),
        (lambda y: -y[:1], "shape"),
        (lambda y: -y * 1j, "complex"),
    ],
)
def test_f_that_breaks_its_word_in_a_later_step_is_told(method, late, message):
    def f(t, y):
        return -y if t < 0.5 else late(y)

    grid = np.linspace(0.0, 1.0, 21) if method == "rk4" else None
    with pytest.raises(ValueError, match=message) as caught:
        sk.solve(f, (0.0, 1.0), [1.0, 2.0], method, grid=grid)
    assert 0.3 < caught.value.solution.t[-1] <= 0.55


def test_f_may_return_a_list_or_integers_throughout():
    lists = sk.solve(lambda t, y: [-1, 2], (0.0, 1.0), [1.0, 2.0])
    np.testing.assert_allclose(lists.y[-1], [0.0, 4.0], atol=1e-12)


def test_solve_ivp_refuses_a_tensor_by_name():
    torch = pytest.importorskip("torch")
    with pytest.raises(TypeError, match=r"stiffkit\.solve takes torch"):
        sk.solve_ivp(lambda t, y: -y, (0, 1), torch.ones(2))


def test_a_controller_is_found_whatever_its_case():
    with pytest.raises(ValueError, match="did you mean 'PI3040'"):
        sk.solve(lambda t, y: -y, (0, 1), [1.0], controller="pi3040")


def test_a_grid_may_be_a_number_of_numpy():
    solution = sk.solve(lambda t, y: -y, (0, 1), [1.0], "rk4", grid=np.array(10))
    assert len(solution.t) == 11


@pytest.mark.parametrize("method", ["auto", "radau5", "rodas5p", "kencarp4"])
@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("jac", np.eye(3), "(3, 3)"),
        ("jac", np.full((2, 2), math.nan), "not finite"),
        ("jac_sparsity", np.eye(3), "(3, 3)"),
        ("bandwidth", 1, "not 1"),
        ("bandwidth", (0, 2), "(0, 2)"),
        ("precond", lambda t, y, c: None, "give jvp too"),
    ],
)
def test_what_is_said_of_jacobians_is_checked_even_if_none_is_ever_needed(
    method, name, value, message
):
    refuses(name, value, message, method=method)


def test_auto_takes_one_way_to_make_a_jacobian():
    refuses("jvp", lambda t, y, v: -v, "give one of", jac=-np.eye(2))


def test_solve_ivp_says_where_auto_is():
    with pytest.raises(ValueError, match=r"'auto', which is a choice .*stiffkit\.solve makes it"):
        sk.solve_ivp(decay, (0.0, 1.0), [1.0, 2.0], method="auto")
