"""The documentation leaves nothing out, and what it derives of a method is true."""

import ast
import inspect
import re
from functools import cached_property
from importlib import import_module
from pathlib import Path
from types import FunctionType

import method_tables as tables
import numpy as np
import pytest
from gallery_settings import ORDER, forget_stale
from method_notes import NOTES
from method_pages import ALL, bibliography, overview, page, toctree, usage

import stiffkit as sk
from stiffkit.diffusion import MULTISTEP
from stiffkit.solvers import trees
from stiffkit.solvers.methods import ADDITIVE
from stiffkit.solvers.stabilised import STABILISED

ROOT = Path(__file__).parents[1]
REFERENCE = "".join(
    path.read_text(encoding="utf-8") for path in (ROOT / "docs" / "reference").glob("*.md")
)
PAGES = [
    *(ROOT / "docs").glob("*.md"),
    *(path for path in (ROOT / "docs").glob("[a-z]*/*.md") if path.parent.name != "method"),
    ROOT / "README.md",
    ROOT / "CONTRIBUTING.md",
]
THEORY = [path for path in PAGES if path.parent.name == "theory" and path.stem != "index"]
GALLERY = sorted((ROOT / "examples" / "gallery").glob("*.py"))

PUBLIC = [
    "stiffkit",
    "stiffkit.solvers",
    "stiffkit.solvers.ensemble",
    "stiffkit.solvers.trees",
    "stiffkit.stiffness",
    "stiffkit.guidance",
    "stiffkit.diffusion",
    "stiffkit.diffusion.checkpoint",
    "stiffkit.diffusion.metrics",
    "stiffkit.diffusion.networks",
    "stiffkit.diffusion.shipped",
]


# Methods ------------------------------------------------------------------------------------------


def test_every_method_has_a_page_and_a_row():
    assert set(ALL) == set(sk.METHODS) | set(ADDITIVE) == set(NOTES)
    table, tree = overview(), toctree()
    for name in ALL:
        assert f"[{name}](../method/{name}.md)" in table
        assert f"../method/{name}\n" in tree


@pytest.mark.parametrize("name", ALL)
def test_a_page_is_no_stub(name):
    keys = bibliography(ROOT / "docs" / "references.bib")
    text = page(ALL[name], keys)
    titles = re.findall(r"^##? (.*)$", text, re.M)
    assert titles == [
        name,
        "Numbers",
        "Coefficients",
        "Order conditions",
        "Dense output",
        "Reference",
    ]
    assert "https://doi.org/" in text
    assert f'"{name}"' in text
    assert "None" not in text
    assert "nan" not in re.findall(r"\w+", text)


@pytest.mark.parametrize("name", ALL)
def test_the_call_on_a_page_runs(name):
    (call,) = re.findall(r"^```python\n(.*?)^```", usage(ALL[name]), re.M | re.S)
    names = {"sk": sk, "t_span": (0.0, 1.0), "y0": [1.0, 1.0]}
    names["f"] = names["f_implicit"] = lambda t, y: -y
    names["f_explicit"] = lambda t, y: 0 * y
    exec(call, names)
    # Of order one or more in a hundred steps, or within a global error of some thousand tolerances.
    np.testing.assert_allclose(names["solution"].y[-1], np.exp(-1.0), rtol=1e-2)


@pytest.mark.parametrize("name", ALL)
def test_the_conditions_counted_are_those_of_the_order(name):
    method = ALL[name]
    p = getattr(method, "order", None) or method.implicit.order
    rows = tables.order_rows(method)["b"]
    assert all(row.met == row.count for row in rows[:p])
    if p < trees.MAX_ORDER:
        assert rows[p].met < rows[p].count


@pytest.mark.parametrize("method", STABILISED.values(), ids=STABILISED)
@pytest.mark.parametrize("s", [5, 8, 20])
def test_the_tableau_of_a_recurrence_is_the_method(method, s):
    A, b, b_hat = tables.butcher(method, s)
    assert abs(b.sum() - 1) < 1e-13
    assert abs(b_hat.sum() - 1) < 1e-13
    z = np.array([-1.0, -3.0 + 0.5j, 0.1j])
    R = [1 + x * b @ np.linalg.solve(np.eye(len(b)) - x * A, np.ones(len(b))) for x in z]
    np.testing.assert_allclose(R, method.R(z, s), rtol=1e-11)


@pytest.mark.parametrize("name", [name for name in sk.METHODS if name not in STABILISED])
def test_the_error_constant_is_a_coefficient_of_exp_minus_R(name):
    method = ALL[name]
    q, C = tables.linear_error(method)
    # Cauchy's integral on a circle inside all poles, by the trapezoidal rule.
    z = np.exp(2j * np.pi * np.arange(64) / 64)
    series = np.fft.fft(np.exp(z) - method.R(z)).real[: q + 2] / 64
    # Large coefficients (vern6, vern8) are printed to digits that leave 1e-11.
    np.testing.assert_allclose(series[: q + 1], 0, atol=1e-10)
    np.testing.assert_allclose(series[q + 1], C, rtol=1e-3, atol=1e-11)


# Reference ----------------------------------------------------------------------------------------


def resolve(path):
    """The object that a dotted name stands for."""
    parts = path.split(".")
    for i in range(len(parts) - 1, 0, -1):
        try:
            found = import_module(".".join(parts[:i]))
        except ModuleNotFoundError:
            continue
        for name in parts[i:]:
            found = getattr(found, name)
        return found
    raise AssertionError(path)


@pytest.fixture(scope="module")
def listed():
    """Every object that the reference names itself; `automodule` lists those of a module."""
    names = re.findall(r"^\.\. (?:auto(?!module)|py:)\w+:: ([\w.]+)", REFERENCE, re.M)
    modules = re.findall(r"^\.\. automodule:: ([\w.]+)\n +:members:", REFERENCE, re.M)
    names += [f"{module}.{name}" for module in modules for name in import_module(module).__all__]
    return [resolve(name) for name in names]


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_is_in_the_reference(module, listed):
    found = import_module(module)
    missing = [
        name for name in found.__all__ if not any(getattr(found, name) is it for it in listed)
    ]
    assert not missing


def documented(module):
    """Every public function, class and method of a module, by name."""
    found = import_module(module)
    for name in found.__all__:
        value = getattr(found, name)
        if inspect.isclass(value):
            yield name, value
            for key, member in vars(value).items():
                public = key == "__call__" or not key.startswith("_")
                if public and isinstance(member, FunctionType | property | cached_property):
                    yield f"{name}.{key}", member
        elif inspect.isfunction(value):
            yield name, value


@pytest.mark.parametrize("module", PUBLIC)
def test_every_public_name_says_what_it_is_and_lists_all_parameters_or_none(module):
    for name, value in documented(module):
        text = inspect.getdoc(value)
        assert text, name
        if callable(value) and "\nParameters\n---" in text:
            listed = re.split(r"\n(?:Returns|Raises|Notes|References)\n---", text)[0]
            for parameter in inspect.signature(value).parameters:
                if parameter != "self":
                    assert re.search(rf"^(.*, )?\*{{0,2}}{parameter}\b", listed, re.M), name


# Theory -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", THEORY, ids=lambda path: path.stem)
def test_a_page_of_theory_ends_with_what_it_assumes_costs_and_rests_on(path):
    summary = path.read_text(encoding="utf-8").partition("\n## In short\n")[2]
    rows = re.findall(r"^\| (\w+) \| (.+) \|$", summary, re.M)
    assert [row for row, _ in rows] == ["assumed", "result", "cost", "fails", "sources"]
    assert "{cite}" in rows[-1][1]
    assert "::test_" in summary
    assert "{literalinclude} ../../stiffkit/" in summary


@pytest.mark.parametrize("path", THEORY, ids=lambda path: path.stem)
def test_a_page_of_theory_has_its_algebra_checked(path):
    text = path.read_text(encoding="utf-8")
    examples = "".join(re.findall(r"^```\{doctest\}\n(.*?)^```", text, re.M | re.S))
    assert ">>> import sympy as sp" in examples


RECORDS = {
    "Eigenpair",
    "Evidence",
    "GuidedDenoiser",
    "MethodCost",
    "Spectrum",
    "Stiffness",
    "StiffnessReport",
}
"""Types that hold a result, of which there is nothing to derive."""


def test_every_estimator_guidance_and_sampler_is_on_a_page_of_theory():
    told = "".join(path.read_text(encoding="utf-8") for path in THEORY)
    for family, first, last in re.findall(r"`([a-z]+)(\d)` to `\1(\d)`", told):
        told += "".join(f" {family}{order} " for order in range(int(first), int(last)))
    names = {*sk.guidance.__all__, *sk.stiffness.__all__, *MULTISTEP} - RECORDS
    assert len(names) > 35
    assert not [name for name in names if not re.search(rf"\b{name}\b", told)]


def test_tests_that_pages_name_exist():
    named = [
        (path.name, file, test)
        for path in PAGES
        for file, test in re.findall(
            r"tests/(test_\w+)\.py(?:::(\w+))?", path.read_text(encoding="utf-8")
        )
    ]
    assert len(named) > 80
    for page_, file, test in named:
        text = (ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8")
        assert not test or f"\ndef {test}(" in text, f"{page_} names {file}::{test}"


# Guides -------------------------------------------------------------------------------------------

SNIPPETS = [
    pytest.param(block, id=f"{path.stem}-{i}")
    for path in PAGES
    for i, block in enumerate(
        re.findall(r"^```python\n(.*?)^```", path.read_text(encoding="utf-8"), re.M | re.S)
    )
]


@pytest.mark.parametrize("block", SNIPPETS)
def test_what_a_snippet_imports_from_stiffkit_is_there(block):
    for node in ast.walk(ast.parse(block)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stiffkit"):
            found = import_module(node.module)
            assert all(hasattr(found, name.name) for name in node.names)
        named = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name)
        if named and node.value.id == "sk":
            assert hasattr(sk, node.attr)


def test_scripts_that_pages_name_exist_and_take_the_options():
    text = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    named = re.findall(
        r"\b((?:benchmarks|docs|examples)/\w+\.py)((?: --?[\w-]+(?: [\w./]+)*)*)", text
    )
    assert len(named) > 30
    for script, options in named:
        source = (ROOT / script).read_text(encoding="utf-8")
        assert all(option in source for option in re.findall(r"--[\w-]+", options)), script


# Sources ------------------------------------------------------------------------------------------


def trimmed(doi):
    """A DOI without the stop and the bracket of the sentence around it."""
    while doi.endswith(".") or doi.count(")") > doi.count("("):
        doi = doi[:-1]
    return doi


def test_the_bibliography_has_what_is_cited_and_nothing_else():
    bib = (ROOT / "docs" / "references.bib").read_text(encoding="utf-8")
    keys = bibliography(ROOT / "docs" / "references.bib")
    assert len(keys) == len(re.findall(r"^@", bib, re.M))
    sources = [*PAGES, *(ROOT / "stiffkit").rglob("*.py"), *(ROOT / "benchmarks").rglob("*.py")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in sources)
    dois = set(map(trimmed, re.findall(r"doi(?:\.org/|:)(10\.[^\s,;\"`\]]+)", text)))
    cited = {key for group in re.findall(r"\{cite\}`(.+?)`", text) for key in group.split(",")}
    assert dois <= set(keys)
    assert cited <= set(keys.values())
    assert {keys[doi] for doi in dois} | cited == set(keys.values())


# Gallery ------------------------------------------------------------------------------------------


def test_the_gallery_has_an_order():
    assert sorted(ORDER) == [path.stem for path in GALLERY]
    assert len(GALLERY) >= 15


@pytest.mark.parametrize("path", GALLERY, ids=lambda path: path.stem)
def test_an_example_uses_public_names_only(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("stiffkit"):
            public = import_module(node.module).__all__
            assert {name.name for name in node.names} <= {*public, "shipped"}
        if isinstance(node, ast.Attribute):
            assert not node.attr.startswith("_")
    assert ast.get_docstring(tree).split("\n")[1].startswith("====")


def test_examples_run_again_when_the_package_changes(tmp_path):
    package, gallery = tmp_path / "package", tmp_path / "gallery"
    package.mkdir()
    stamp = gallery / "robertson.py.md5"
    for text, runs_again in (("h = 1", True), ("h = 1", False), ("h = 2", True)):
        (package / "step.py").write_text(text, encoding="utf-8")
        forget_stale(package, gallery)
        assert stamp.exists() != runs_again
        stamp.touch()
