"""Rooted trees: their number, their functions, and the stage weights u(t)."""

import itertools
import math

import numpy as np
import pytest
from _tolerance import gamma
from hypothesis import given
from hypothesis import strategies as st

from stiffkit.solvers import trees

LEAF = ()
CHAIN_2 = (LEAF,)  # [τ]
BUSH_3 = (LEAF, LEAF)  # [τ,τ]
CHAIN_3 = (CHAIN_2,)  # [[τ]]


def sort_tree(tree):
    return tuple(sorted(sort_tree(child) for child in tree))


# Up to nine leaves, but the nodes between them may make a tree too large for the lists.
any_tree = (
    st.recursive(st.just(LEAF), lambda child: st.lists(child, max_size=4).map(tuple), max_leaves=9)
    .map(sort_tree)
    .filter(lambda tree: trees.size(tree) <= trees.MAX_ORDER)
)


def nodes(tree):
    """Return the subtree at every node."""
    return [tree, *itertools.chain.from_iterable(map(nodes, tree))]


def test_trees_are_as_many_as_counted():
    # https://oeis.org/A000081; also Hairer, Nørsett & Wanner I, table II.2.1.
    counts = [len(trees.rooted_trees(p)) for p in range(1, 11)]
    assert counts == [1, 1, 2, 4, 9, 20, 48, 115, 286, 719]


@pytest.mark.parametrize("p", range(1, 11))
def test_trees_of_one_order_are_distinct_sorted_and_of_that_size(p):
    forest = trees.rooted_trees(p)
    assert len(set(forest)) == len(forest)
    assert all(sort_tree(t) == t for t in forest)
    assert {trees.size(t) for t in forest} == {p}


@pytest.mark.parametrize("p", [0, -1, trees.MAX_ORDER + 1])
def test_trees_outside_the_listed_orders_are_refused(p):
    with pytest.raises(ValueError, match=f"orders 1 to 10, not p={p}"):
        trees.rooted_trees(p)


# Hairer, Nørsett & Wanner I, table II.2.1 (γ), and Butcher's tables (σ).
KNOWN = {
    LEAF: ("τ", 1, 1, 1),
    CHAIN_2: ("[τ]", 2, 2, 1),
    BUSH_3: ("[τ,τ]", 3, 3, 2),
    CHAIN_3: ("[[τ]]", 3, 6, 1),
    (LEAF, LEAF, LEAF): ("[τ,τ,τ]", 4, 4, 6),
    (LEAF, CHAIN_2): ("[τ,[τ]]", 4, 8, 1),
    (BUSH_3,): ("[[τ,τ]]", 4, 12, 2),
    (CHAIN_3,): ("[[[τ]]]", 4, 24, 1),
    (LEAF, LEAF, LEAF, LEAF): ("[τ,τ,τ,τ]", 5, 5, 24),
    (LEAF, LEAF, CHAIN_2): ("[τ,τ,[τ]]", 5, 10, 2),
    (LEAF, BUSH_3): ("[τ,[τ,τ]]", 5, 15, 2),
    (LEAF, CHAIN_3): ("[τ,[[τ]]]", 5, 30, 1),
    (CHAIN_2, CHAIN_2): ("[[τ],[τ]]", 5, 20, 2),
    ((LEAF, LEAF, LEAF),): ("[[τ,τ,τ]]", 5, 20, 6),
    ((LEAF, CHAIN_2),): ("[[τ,[τ]]]", 5, 40, 1),
    ((BUSH_3,),): ("[[[τ,τ]]]", 5, 60, 2),
    ((CHAIN_3,),): ("[[[[τ]]]]", 5, 120, 1),
}


@pytest.mark.parametrize("tree", KNOWN, ids=[known[0] for known in KNOWN.values()])
def test_name_size_density_and_symmetry_are_the_tabulated_ones(tree):
    values = (trees.tree_name(tree), trees.size(tree), trees.density(tree), trees.symmetry(tree))
    assert values == KNOWN[tree]


def test_the_table_of_known_trees_is_complete():
    assert set(KNOWN) == {t for p in range(1, 6) for t in trees.rooted_trees(p)}


def monotonic_labellings(tree):
    """Count α(t) = p! / (σ γ): labellings that grow away from the root, up to symmetry."""
    alpha, rest = divmod(
        math.factorial(trees.size(tree)), trees.symmetry(tree) * trees.density(tree)
    )
    assert rest == 0
    return alpha


@pytest.mark.parametrize("p", range(1, 11))
def test_monotonic_labellings_of_one_order_number_p_minus_1_factorial(p):
    # Node k + 1 can hang on any of the nodes 1, ..., k: (p − 1)! labelled trees in all.
    assert sum(map(monotonic_labellings, trees.rooted_trees(p))) == math.factorial(p - 1)


@pytest.mark.parametrize("p", range(1, 11))
def test_all_labellings_of_one_order_number_p_to_the_p_minus_1(p):
    # Cayley: p^(p−1) rooted labelled trees, of which each shape has p!/σ.
    labelled = sum(math.factorial(p) // trees.symmetry(t) for t in trees.rooted_trees(p))
    assert labelled == p ** (p - 1)


@given(any_tree)
def test_any_tree_is_in_the_list_of_its_order(tree):
    assert tree in trees.rooted_trees(trees.size(tree))


@given(any_tree)
def test_density_is_the_product_of_the_sizes_of_all_subtrees(tree):
    assert trees.density(tree) == math.prod(trees.size(t) for t in nodes(tree))


@given(any_tree)
def test_symmetry_counts_the_permutations_of_children_that_change_nothing(tree):
    def orders_at(node):
        return sum(children == node for children in itertools.permutations(node))

    assert trees.symmetry(tree) == math.prod(map(orders_at, nodes(tree)))


@given(any_tree)
def test_a_name_holds_one_letter_per_leaf_and_one_bracket_per_other_node(tree):
    name = trees.tree_name(tree)
    assert name.count("τ") == nodes(tree).count(LEAF)
    assert name.count("[") == name.count("]") == trees.size(tree) - name.count("τ")


@st.composite
def matrices(draw):
    s = draw(st.integers(1, 5))
    entry = st.floats(-2, 2, allow_subnormal=False)
    rows = draw(st.lists(st.lists(entry, min_size=s, max_size=s), min_size=s, max_size=s))
    return np.array(rows)


@given(matrices())
def test_weights_of_bushes_and_chains_are_powers(A):
    u, c = trees.weights(A, 6), A.sum(axis=1)
    chain, power = LEAF, np.ones(len(A))
    for p in range(1, 7):
        bush = (LEAF,) * (p - 1)
        # p factors, each a sum of s terms; the sum without cancellation bounds what they amplify.
        slack = gamma(p * (len(A) + 1)) * trees.weights(np.abs(A), p)[chain]
        assert np.all(np.abs(u[chain] - power) <= slack)
        c_slack = gamma(p * (len(A) + 1)) * np.abs(A).sum(axis=1) ** (p - 1)
        assert np.all(np.abs(u[bush] - c ** (p - 1)) <= c_slack)
        chain, power = (chain,), A @ power


@given(matrices())
def test_weights_of_a_lower_triangle_solve_the_trees_own_differential_equation(A):
    """Butcher's problem y_t' = Π y_child, y_t(0) = 0 makes every stage derivative a u(t)."""
    A, p = np.tril(A, -1), 5
    s, forest = len(A), [t for q in range(1, p + 1) for t in trees.rooted_trees(q)]
    k = {t: np.zeros(s) for t in forest}
    for i in range(s):  # a step of size 1 from zero: the state of stage i is Σ_j a_ij k_j
        state = {t: A[i, :i] @ k[t][:i] for t in forest}
        for t in forest:
            k[t][i] = math.prod(state[child] for child in t)
    u, u_abs = trees.weights(A, p), trees.weights(np.abs(A), p)
    for t in forest:
        assert np.all(np.abs(u[t] - k[t]) <= 2 * gamma(p * (s + 1)) * u_abs[t])


def test_weights_cover_every_tree_up_to_the_order_and_no_other():
    u = trees.weights(np.eye(3), 7)
    assert set(u) == {t for p in range(1, 8) for t in trees.rooted_trees(p)}
    assert all(value.shape == (3,) for value in u.values())
