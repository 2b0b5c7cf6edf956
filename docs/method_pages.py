"""One page for each method, and the tables of methods/index.md; `conf.py` calls `write`.

The pages follow from `stiffkit.METHODS` and the additive pairs. Nothing in them is a number that
somebody typed: `method_tables` and `method_figures` derive or measure it.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import method_tables as tables
from method_figures import kind, stability_region, work_precision
from method_notes import NOTES

import stiffkit as sk
from stiffkit.solvers.implicit import AdditiveTableau
from stiffkit.solvers.methods import ADDITIVE
from stiffkit.solvers.radau import RADAU
from stiffkit.solvers.rosenbrock import RosenbrockTableau
from stiffkit.solvers.stabilised import StabilisedMethod

ALL: dict[str, Any] = {**sk.METHODS, **ADDITIVE}
"""Every method that has a page."""

THEORY = {
    "explicit": "{doc}`../theory/order-conditions` and {doc}`../theory/stability`",
    "ESDIRK": "{doc}`../theory/implicit-tableaus`",
    "collocation": "{doc}`../theory/implicit-tableaus`",
    "Rosenbrock": "{doc}`../theory/implicit-tableaus`",
    "stabilised": "{doc}`../theory/stabilised`",
    "additive": "{doc}`../theory/implicit-tableaus`, and the guide to {doc}`../guides/stiff`",
}


def write(out: Path) -> None:
    """Write pages and pictures into the folder `out`, which is emptied first."""
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    keys = bibliography(Path(__file__).parent / "references.bib")
    for name, method in ALL.items():
        (out / f"{name}.md").write_text(page(method, keys), encoding="utf-8")
        peers = [other for other in ALL if kind(ALL[other]) == kind(method)]
        figures = {
            "region": stability_region(method),
            "work": work_precision(method, peers),
        }
        for label, figure in figures.items():
            # Not cut to what is drawn: the two stand side by side, in one size.
            with mpl.rc_context({"savefig.bbox": None}):
                figure.savefig(out / f"{name}-{label}.svg", metadata={"Date": None})
            plt.close(figure)


def bibliography(path: Path) -> dict[str, str]:
    """Return DOI to BibTeX key."""
    entries = re.findall(r"@\w+\{(\w+),(.*?)\n\}", path.read_text(encoding="utf-8"), re.DOTALL)
    dois = {key: re.search(r"doi = \{(.*?)\}", body) for key, body in entries}
    return {doi[1]: key for key, doi in dois.items() if doi is not None}


def cited(reference: str, keys: dict[str, str]) -> str:
    """Return the BibTeX key of a reference.

    Raises
    ------
    ValueError
        If its DOI is not in references.bib.
    """
    doi = re.search(r"doi:(\S+?)(,|;|$)", reference)
    if doi is None or doi[1] not in keys:
        msg = f"no entry of references.bib has the DOI of {reference!r}"
        raise ValueError(msg)
    return keys[doi[1]]


def linked(reference: str) -> str:
    """Make links of the DOIs."""
    return re.sub(r"doi:([^\s,;]+)", r"[doi:\1](https://doi.org/\1)", reference)


# The page -----------------------------------------------------------------------------------------


def page(method: Any, keys: dict[str, str]) -> str:
    """Return a method's page."""
    parts = [
        f"# {method.name}",
        f"{summary(method)} {NOTES[method.name]}",
        usage(method),
        pictures(method),
        "## Numbers",
        tables.numbers(method),
        meaning(method),
        "## Coefficients",
        coefficients_text(method),
        tables.coefficients(method),
        "## Order conditions",
        order_text(method),
        tables.order_table(method),
        "## Dense output",
        dense_text(method),
        "## Reference",
        f"{linked(source(method))} ({{cite}}`{cited(source(method), keys)}`).",
        f"Theory: {THEORY[tables.facts(method).kind]}.",
    ]
    return "\n\n".join(part.rstrip("\n") for part in parts if part) + "\n"


def source(method: Any) -> str:
    """Reference of the coefficients."""
    return str(
        method.implicit.reference if isinstance(method, AdditiveTableau) else method.reference
    )


def summary(method: Any) -> str:
    """One sentence: family, order, stages."""
    f = tables.facts(method)
    names = {
        "explicit": "An explicit Runge-Kutta method",
        "ESDIRK": "A singly diagonally implicit Runge-Kutta method with an explicit first stage",
        "collocation": "A fully implicit Runge-Kutta method",
        "Rosenbrock": "A Rosenbrock method",
        "stabilised": "A stabilised explicit method",
        "additive": "An implicit-explicit pair",
    }
    stages = f.stages.replace(" FSAL", "")
    count = f"{stages} stage" + ("" if stages == "1" else "s")
    fsal = ", first same as last" if "FSAL" in f.stages else ""
    return f"{names[f.kind]} of order {f.pair} with {count}{fsal}."


def usage(method: Any) -> str:
    """What to pass to `solve`."""
    f = tables.facts(method)
    if f.kind == "additive":
        call = f'solution = sk.solve((f_explicit, f_implicit), t_span, y0, "{method.name}")'
    elif not f.adaptive:
        call = f'solution = sk.solve(f, t_span, y0, "{method.name}", grid=100)'
    else:
        call = f'solution = sk.solve(f, t_span, y0, "{method.name}", rtol=1e-6, atol=1e-9)'
    return f"```python\n{call}\n```\n\n{TAKES[f.kind]}"


TAKES = {
    "explicit": (
        "NumPy arrays and torch tensors of any shape, with `batched=True` too, each sample with "
        "its own "
        "step where the step size is controlled; `sk.jit` compiles its loop. As the `sampler` of "
        "{py:func}`stiffkit.diffusion.sample` it runs on a grid of noise levels."
    ),
    "ESDIRK": (
        "NumPy arrays, with `jac`, `jvp`, `jac_sparsity`, `bandwidth`, `precond` and `mass`; "
        "torch tensors "
        "and batches as in {doc}`../guides/batching`."
    ),
    "collocation": (
        "NumPy arrays, with `jac`, `jvp`, `jac_sparsity`, `bandwidth`, `precond` and `mass`; "
        "torch tensors and batches as in {doc}`../guides/batching`. "
        '`sk.solve_ivp(method="Radau")` is this method with SciPy\'s options.'
    ),
    "Rosenbrock": (
        "NumPy arrays, with `jac`, `jvp`, `jac_sparsity`, `bandwidth`, `precond` and `mass`; "
        "torch tensors "
        "and batches as in {doc}`../guides/batching`."
    ),
    "stabilised": (
        "It takes `radius`, a bound or an estimate of the spectral radius; without it the radius "
        "is "
        "found by power iteration. NumPy arrays, torch tensors, and batches of both. How many "
        "stages "
        "a step makes follows from its length."
    ),
    "additive": (
        "`jac`, `jvp`, `jac_sparsity`, `bandwidth` and `precond` are about `f_implicit` alone. "
        "It takes "
        "NumPy arrays."
    ),
}


def pictures(method: Any) -> str:
    """Both figures, side by side where there is room."""
    f = tables.facts(method)
    region = (
        "Shaded: the stability region, where ∣R(z)∣ ≤ 1. Dashed: the boundary of the order star, "
        f"∣R(z)∣ = ∣eᶻ∣, which leaves the origin in {2 * (tables.linear_error(method)[0] + 1)} "
        "directions."
    )
    if f.kind == "stabilised":
        region = (
            f"The stability region with {tables.STAGES} stages: ∣R(z)∣ ≤ 1. The axes are not of "
            "equal "
            "scale."
        )
    counted = "calls of both parts" if f.kind == "additive" else "calls of f"
    by_jacobian = "" if f.kind in ("explicit", "stabilised") else ", those for Jacobians included"
    others = "explicit methods" if kind(method) == "orbit" else "methods for stiff problems"
    steps = "equal steps" if not f.adaptive else "tolerances"
    work = (
        f"Work over precision, {counted}{by_jacobian}, for a row of {steps}. Grey: the other "
        f"{others}."
    )
    return "\n".join(
        [
            "::::{container} pictures",
            f":::{{figure}} {method.name}-region.svg",
            f":alt: Stability region of {method.name}",
            "",
            region,
            ":::",
            "",
            f":::{{figure}} {method.name}-work.svg",
            f":alt: Work-precision diagram of {method.name}",
            "",
            work,
            ":::",
            "::::",
        ]
    )


def _order(method: Any) -> int:
    return int(method.implicit.order if isinstance(method, AdditiveTableau) else method.order)


def meaning(method: Any) -> str:
    """What the numbers mean."""
    f = tables.facts(method)
    lines = [
        "C is the error constant of y' = λy: a step misses the solution by C zᵖ⁺¹ y + …, z = hλ. "
        "The "
        "principal error norm is ‖τ⁽ᵖ⁺¹⁾‖, the measure of accuracy among methods of equal order."
    ]
    if isinstance(method, sk.ButcherTableau) and method.pair_quality is not None:
        lines.append(
            "The pair's measures are Prince and Dormand's "
            "({py:class}`stiffkit.solvers.PairQuality`): "
            "B, C and E near 1 or below mean that the error estimate is soon asymptotic, D is "
            "the largest "
            "coefficient."
        )
    if f.kind in ("ESDIRK", "collocation", "Rosenbrock"):
        lines.append(
            "A limit of ∞ stands for the whole half-axis. A-stability is checked on ∣R(iy)∣."
        )
    return " ".join(lines)


def coefficients_text(method: Any) -> str:
    """How to read the block."""
    exact = f'`sk.METHODS["{method.name}"]` has all digits.'
    if isinstance(method, AdditiveTableau):
        return (
            "Nodes, matrix, weights b and embedded weights b̂, to six digits; both halves share "
            "c, b and b̂."
        )
    if isinstance(method, RosenbrockTableau):
        return (
            "In the form without products by J: (I/(hγ) − J) uᵢ = f(t + cᵢh, y + Σ Aᵢⱼ uⱼ) + "
            f"Σ (Cᵢⱼ/h) uⱼ + dᵢ h f_t, and y_new = y + Σ mᵢ uᵢ; to six digits. {exact}"
        )
    if isinstance(method, StabilisedMethod):
        return (
            "The recurrence Y_j = (1 − μ_j − ν_j) y + μ_j Y_(j−1) + ν_j Y_(j−2) + μ̃_j h "
            "f(Y_(j−1)) + "
            f"γ̃_j h f(y), for {tables.STAGES} stages, to six digits."
        )
    text = (
        "Nodes and matrix; below the line the weights b, and b̂ of the embedded method. "
        f"Fractions are exact, decimals are to six digits; {exact}"
    )
    if method.name in RADAU:
        text += (
            " The error estimate is (I − hγ₀J)⁻¹ (γ₀ h f(t, y) + γ₀ Σ eᵢ zᵢ) with "
            f"{tables.radau_error(method)}."
        )
    return text


def order_text(method: Any) -> str:
    """How the conditions were counted."""
    if isinstance(method, AdditiveTableau):
        return (
            "One condition for each tree and each colouring of its edges, so that the coupling "
            "of both "
            "halves is included ({doc}`../theory/order-conditions`). Met: to 10⁻¹² of the terms' "
            "size."
        )
    if isinstance(method, RosenbrockTableau):
        return "One condition for each rooted tree, with the exact Jacobian. Met: to 10⁻¹²."
    if isinstance(method, StabilisedMethod):
        return (
            f"With {tables.STAGES} stages, of the tableau that the recurrence amounts to. Met: "
            "to 10⁻¹² "
            "of the terms' size."
        )
    return (
        "One condition for each rooted tree ({doc}`../theory/order-conditions`). Met: to 10⁻¹² "
        "of the "
        "terms' size, which for large coefficients leaves a residual above rounding."
    )


def dense_text(method: Any) -> str:
    """The interpolant."""
    hermite = (
        "Cubic Hermite interpolation, of states and slopes at both ends of the step, order "
        f"{min(3, _order(method))}. See {{doc}}`../theory/dense-output`."
    )
    f = tables.facts(method)
    if f.dense.endswith("H"):
        return hermite
    if f.kind == "additive":
        return (
            f"Derived from the stages of both halves, of order {f.dense}. See "
            f"{{doc}}`../theory/dense-output`."
        )
    if f.kind == "collocation":
        s = method.n_stages
        return f"The collocation polynomial through y and the {s} stages, of order {s}."
    if isinstance(method, RosenbrockTableau):
        source = "Derived from" if method.name == "ros34pw2" else "Published with the method, from"
        return f"{source} the stages of the step, of order {f.dense}."
    dense = method.dense
    if dense.reference == "stiff_interpolant":
        return (
            f"Derived from the stages, of order {dense.order}, such that stiff components stay "
            "damped: "
            "{py:func}`stiffkit.solvers.stiff_limit.stiff_interpolant`."
        )
    extra = (
        f"It takes {len(dense.c)} further calls of f in each step that is interpolated."
        if dense.c
        else "It takes no further call of f."
    )
    return (
        f"A published interpolant of order {dense.order} ({linked(dense.reference)}). {extra} See "
        "{doc}`../theory/dense-output`."
    )


# The overview -------------------------------------------------------------------------------------


def overview() -> str:
    """One row for each method."""
    head = (
        "| method | family | order | stages | limit: real | imaginary | error norm | dense |",
        "|:--|:--|:--|:--|--:|--:|--:|:--|",
    )
    lines = [*head]
    for name, method in ALL.items():
        f = tables.facts(method)
        norm = "" if f.error_norm is None else tables.scientific(f.error_norm)
        cells = [
            f"[{name}](../method/{name}.md)",
            f.kind,
            f.pair,
            f.stages,
            f.real,
            f.imaginary,
            norm,
            f.dense,
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def toctree() -> str:
    """The pages, for the sidebar."""
    lines = "\n".join(f"../method/{name}" for name in ALL)
    return f"```{{toctree}}\n:hidden:\n\n{lines}\n```\n"
