"""Sphinx configuration. `make docs` builds with -n -W: every warning is an error."""

import logging
import sys
from importlib.metadata import version as installed_version
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS))

import figures  # noqa: E402
from gallery_settings import forget_stale  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402

project = "stiffkit"
author = "The stiffkit developers"
copyright = "2026, The stiffkit developers"
version = release = installed_version("stiffkit")

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.doctest",
    "sphinx.ext.mathjax",
    # Puts MathJax beside the pages: neither the build nor the reader needs the network.
    "sphinx-mathjax-offline",
    "sphinx_gallery.gen_gallery",
    "sphinxcontrib.bibtex",
]
exclude_patterns = ["_build"]

# Solves report what `auto` and the detector do, and sphinx-gallery would show it.
logging.getLogger("stiffkit").setLevel(logging.WARNING)

# Every example runs; one that fails ends the build. Results are kept while neither the script nor
# the package changes.
forget_stale(DOCS.parent / "stiffkit", DOCS / "gallery")
sphinx_gallery_conf = {
    "examples_dirs": "../examples/gallery",
    "gallery_dirs": "gallery",
    "filename_pattern": "/",
    "within_subsection_order": "gallery_settings.Order",
    "reset_modules": ("matplotlib", "gallery_settings.style"),
    "abort_on_example_error": True,
    "capture_repr": (),
    "download_all_examples": False,
    "image_srcset": ["2x"],
    "nested_sections": False,
    "show_signature": False,
    "write_computation_times": False,
}

html_theme = "furo"
html_title = "stiffkit"
html_static_path = ["_static"]
html_css_files = ["book.css"]
html_js_files = ["sort.js"]

myst_enable_extensions = ["amsmath", "colon_fence", "dollarmath"]
myst_heading_anchors = 3

bibtex_bibfiles = ["references.bib"]
bibtex_default_style = "unsrt"
bibtex_reference_style = "author_year"

# The docstrings give the types, with shapes; signatures without them stay readable.
autodoc_typehints = "none"
autodoc_member_order = "bysource"
toc_object_entries_show_parents = "hide"
numpydoc_show_class_members = False
default_role = "code"

# There is no intersphinx, since the build must not need the network: names of these packages lead
# nowhere, and all others must be found.
nitpick_ignore_regex = [
    (r"py:.*", r"(collections|fractions|matplotlib|np|npt|numpy|scipy|torch|typing)\..*"),
]

doctest_global_setup = """
import numpy as np
import stiffkit
"""


def generate(app: Sphinx) -> None:
    """Make figures, tables and the pages of the methods anew; the doctests take those there are."""
    out = DOCS / "_build" / "generated"
    if app.builder.name != "doctest" or not out.exists():
        figures.make(out)


def setup(app: Sphinx) -> None:
    """Generate before Sphinx looks for pages."""
    app.connect("builder-inited", generate)
