"""Configuration of the documentation: ``sphinx-build -W docs docs/_build/html``."""

import os
import sys
from pathlib import Path

# The gallery looks up the names in its examples, among them HalvingGridSearchCV.
from sklearn.experimental import enable_halving_search_cv  # noqa: F401

from skparse import __version__

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for gallery_order and inventories

from inventories import write_inventories  # noqa: E402

project = "skparse"
author = "the skparse developers"
copyright = f"2026, {author}"
version = release = __version__

extensions = [
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.mathjax",
    "sphinx_gallery.gen_gallery",
]
intersphinx_mapping = write_inventories(HERE / "_build" / "inventories")
exclude_patterns = ["_build"]
templates_path = ["_templates"]
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_title = f"skparse {release}"
html_show_sourcelink = False

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

autosummary_generate = True
autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    # scikit-learn writes these methods; their docstrings refer to its own pages.
    "exclude-members": (
        "get_metadata_routing, set_fit_request, set_output, set_partial_fit_request, "
        "set_predict_request, set_score_request, set_transform_request"
    ),
}
numpydoc_show_class_members = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "ignore_pattern": r"benchmarks",
    # 20 Newsgroups has to be at hand; without it that example is shown but not run.
    "filename_pattern": r"/plot_" if "SKPARSE_DATA" in os.environ else r"/plot_(?!20news)",
    "within_subsection_order": "gallery_order.ByDifficulty",
    "abort_on_example_error": True,
    "show_memory": False,
}
