"""States that are tuples and dicts of arrays: the same solve as on the flat state."""

from collections import OrderedDict, namedtuple

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import stiffkit as sk
from stiffkit.solvers._tree import Layout, is_tree, tree_map

torch = pytest.importorskip("torch")

Pair = namedtuple("Pair", "x v")
SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)
LEAVES = SHAPES.map(lambda shape: np.arange(float(np.prod(shape))).reshape(shape))
TREES = st.recursive(
    LEAVES,
    lambda inner: (
        st.lists(inner, min_size=1, max_size=3).map(tuple)
        | st.dictionaries(st.text(max_size=2), inner, min_size=1, max_size=3)
    ),
    max_leaves=6,
)


def flat(y):
    return np.concatenate([np.asarray(y["x"]).ravel(), np.asarray(y["v"]).ravel()])


def spring(t, y):
    return {"v": -4 * y["x"], "x": y["v"]}


def spring_flat(t, y):
    n = y.shape[-1] // 2
    return np.concatenate([y[..., n:], -4 * y[..., :n]], -1)


Y0 = {"x": np.ones((2, 2)), "v": np.zeros((2, 2))}


@given(TREES, st.sampled_from([(), (2,), (3, 2)]))
def test_what_is_flattened_comes_back(tree, lead):
    layout = Layout.of((tree,), batched=False)  # in a tuple: a bare array is no structure
    whole = layout.flatten((tree,))
    assert whole.ndim == 1
    many = layout.unflatten(np.broadcast_to(whole, (*lead, len(whole))))
    assert is_tree(many) == is_tree((tree,)) or whole.size == 0 or not is_tree((tree,))
    again = layout.flatten(many, lead=lead)
    np.testing.assert_array_equal(again, np.broadcast_to(whole, again.shape))
    shapes = []
    tree_map(lambda a: shapes.append(a.shape), many)
    assert [shape[: len(lead)] for shape in shapes] == [lead] * len(shapes)


@pytest.mark.parametrize("method", ["tsit5", "kvaerno5", "rodas5p", "rkc2", "auto"])
def test_a_structure_is_solved_step_for_step_as_its_flat_state(method):
    ours = sk.solve(spring, (0.0, 2.0), Y0, method, dense=True)
    plain = sk.solve(spring_flat, (0.0, 2.0), flat(Y0), method, dense=True)
    np.testing.assert_array_equal(ours.t, plain.t)
    assert ours.y["x"].shape == (len(ours.t), 2, 2)
    assert list(ours.y) == ["x", "v"]  # the order of y0, whatever that of f
    np.testing.assert_array_equal(ours.y["v"].reshape(-1, 4), plain.y[:, 4:])
    np.testing.assert_array_equal(ours(0.3)["x"].ravel(), plain(0.3)[:4])
    assert ours(np.array([0.3, 0.4]))["x"].shape == (2, 2, 2)


def test_kinds_of_containers_are_kept():
    y0 = Pair(np.ones(2), OrderedDict(a=np.zeros(2)))
    solution = sk.solve(lambda t, y: Pair(y.v["a"], OrderedDict(a=-y.x)), (0.0, 1.0), y0)
    assert type(solution.y) is Pair
    assert type(solution.y.v) is OrderedDict


@pytest.mark.parametrize("y0", [[1.0, 2.0], (1.0, 2.0), [np.ones(2), np.zeros(2)], np.ones(2)])
def test_numbers_and_lists_are_arrays_as_ever(y0):
    solution = sk.solve(lambda t, y: -y, (0.0, 1.0), y0)
    assert isinstance(solution.y, np.ndarray)


@pytest.mark.parametrize("method", ["tsit5", "rodas5p"])
@pytest.mark.parametrize("make", [np.asarray, torch.as_tensor], ids=["numpy", "torch"])
def test_batches_of_structures_are_their_samples(make, method):
    y0 = {"x": make([[1.0], [2.0], [3.0]]), "v": make([[0.0], [1.0], [0.0]])}
    many = sk.solve(spring, (0.0, 1.0), y0, method, batched=True, dense=True)
    assert tuple(many.y["x"].shape[1:]) == (3, 1)
    for i in range(3):
        one = sk.solve(spring, (0.0, 1.0), {k: v[i] for k, v in y0.items()}, method, dense=True)
        assert len(many[i].t) == len(many[i].y["x"])
        # Two loops, and one batch: the same steps up to what the tolerance leaves open.
        np.testing.assert_allclose(many[i].y["x"][-1], one.y["x"][-1], rtol=1e-5)
        assert tuple(many[i](0.5)["v"].shape) == (1,)


def test_events_callbacks_norms_and_jacobians_see_structures():
    steps, attempts = [], []
    solution = sk.solve(
        spring,
        (0.0, 2.0),
        {"x": np.ones(1), "v": np.zeros(1)},
        "kvaerno5",
        events=lambda t, y: y["x"][0],
        callback=lambda step: steps.append(step.y_new["x"].shape),
        on_attempt=lambda t, y, h, accepted: attempts.append((y["v"].shape, accepted)),
        norm=lambda y: max(abs(y["x"]).max(), abs(y["v"]).max()),
        jac=lambda t, y: np.array([[0.0, len(y["v"])], [-4.0, 0.0]]),
    )
    assert solution.events[0].t[0] == pytest.approx(np.pi / 4, rel=1e-5)
    assert solution.events[0].y["v"][0, 0] == pytest.approx(-2.0, rel=1e-5)
    assert steps == [(1,)] * solution.stats["accepted"]
    assert len(attempts) == 2 * (solution.stats["accepted"] + solution.stats["rejected"])
    assert attempts[0] == ((1,), None)
    assert attempts[1] == ((1,), True)


def test_tolerances_may_be_structures():
    loose = sk.solve(spring, (0.0, 2.0), Y0, "tsit5", atol={"x": 1e-3, "v": 1e-3}, rtol=1e-3)
    tight = sk.solve(spring, (0.0, 2.0), Y0, "tsit5", atol={"x": 1e-3, "v": np.full((2, 2), 1e-9)})
    assert len(loose.t) < len(tight.t)


def test_gradients_pass_through_structures():
    x, k = (torch.tensor(value).double().requires_grad_() for value in ([1.0], 4.0))
    solution = sk.solve(
        lambda t, y: (y[1], -k * y[0]), (0.0, 1.0), (x, torch.zeros(1).double()), "dopri5"
    )
    grads = torch.autograd.grad(solution.y[0][-1, 0], (x, k))
    # x cos(√k t): derivatives cos 2 and −sin(2)/4.
    np.testing.assert_allclose(grads[0], np.cos(2.0), rtol=1e-4)
    np.testing.assert_allclose(grads[1], -np.sin(2.0) / 4, rtol=1e-4)


def test_a_failing_solve_keeps_structures():
    def f(t, y):
        if t > 0.5:
            raise KeyError(t)
        return spring(t, y)

    with pytest.raises(KeyError) as caught:
        sk.solve(f, (0.0, 1.0), Y0)
    assert caught.value.solution.y["x"].shape[1:] == (2, 2)


@pytest.mark.parametrize(
    ("y0", "f", "message"),
    [
        ({}, spring, "holds no arrays"),
        (Y0, lambda t, y: {"x": y["x"]}, r"what f returns must be a dict with the keys"),
        (Y0, lambda t, y: (y["x"], y["v"]), "what f returns must be a dict"),
        (Y0, lambda t, y: {"x": y["x"], "v": y["v"][0]}, r"has an array of shape \(2,\)"),
        ((np.ones(2), np.ones(1)), lambda t, y: y[:1], "a tuple of 2 parts, not 1"),
        ((np.ones(2), np.ones(1, "float32")), lambda t, y: y, "one dtype and device"),
        ({"a": np.array(["x"])}, lambda t, y: y, "y0 has dtype"),
    ],
)
def test_what_does_not_fit_is_told(y0, f, message):
    with pytest.raises(ValueError, match=message):
        sk.solve(f, (0.0, 1.0), y0)


def test_tensors_and_arrays_do_not_mix():
    with pytest.raises(TypeError, match="mixes tensors with ndarray"):
        sk.solve(lambda t, y: y, (0.0, 1.0), (torch.ones(2), np.ones(2)))
    with pytest.raises(ValueError, match="first axis of a batched y0"):
        sk.solve(lambda t, y: y, (0.0, 1.0), (np.ones((2, 1)), np.ones((3, 1))), batched=True)
