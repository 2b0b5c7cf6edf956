"""Table of benchmarks/index.md: the scripts, what they measure, and the pages that show it."""

from __future__ import annotations

import ast
from pathlib import Path

DOCS = Path(__file__).parent


def benchmarks_table() -> str:
    """One row for each script, from its docstring, with links to the pages that name it."""
    pages = {
        path: path.read_text(encoding="utf-8")
        for part in ("guides", "methods", "theory", "benchmarks", "decisions")
        for path in sorted((DOCS / part).glob("*.md"))
        if path != DOCS / "benchmarks" / "index.md"
    }
    lines = ["| script | what it measures | shown in |", "|:--|:--|:--|"]
    for script in sorted((DOCS.parent / "benchmarks").glob("[a-z]*.py")):
        doc = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8")))
        if doc is None:
            msg = f"{script.name} has no docstring"
            raise ValueError(msg)
        title = " ".join(doc.split("\n\n")[0].split()).rstrip(".").replace("``", "`")
        named = f"benchmarks/{script.name}"
        shown = [path for path, text in pages.items() if named in text]
        links = ", ".join(f"{{doc}}`/{path.relative_to(DOCS).with_suffix('')}`" for path in shown)
        lines.append(f"| `{script.name}` | {title.replace('|', '∣')} | {links} |")
    return "\n".join(lines) + "\n"
