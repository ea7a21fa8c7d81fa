"""Configuration of the documentation: ``sphinx-build -W docs docs/_build/html``."""

import os
import sys
from pathlib import Path

# The gallery looks up the names in its examples, among them HalvingGridSearchCV.
from sklearn.experimental import enable_halving_search_cv  # noqa: F401

from skparse import __version__

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))  # for the modules beside this file

from gallery import SECTIONS  # noqa: E402
from inventories import write_inventories  # noqa: E402

project = "skparse"
author = "the skparse developers"
copyright = f"2026, {author}"
version = release = __version__

extensions = [
    "mathml",
    "myst_parser",
    "numpydoc",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.intersphinx",
    "sphinx.ext.viewcode",
    "sphinx_gallery.gen_gallery",
]
intersphinx_mapping = write_inventories(HERE / "_build" / "inventories")
exclude_patterns = ["_build"]
templates_path = ["_templates"]
nitpicky = True  # a name that is meant as a link has to be one
html_theme = "furo"
html_static_path = ["_static"]
html_css_files = ["site.css"]
pygments_dark_style = "github-dark"
html_title = f"skparse {release}"
html_show_sourcelink = False

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3

# scikit-learn writes these methods; their docstrings refer to its own pages.
WRITTEN_BY_SCIKIT_LEARN = [
    "get_metadata_routing", "set_fit_request", "set_output", "set_partial_fit_request",
    "set_predict_request", "set_score_request", "set_transform_request",
]  # fmt: skip
autosummary_generate = True
autosummary_context = {
    "hidden": WRITTEN_BY_SCIKIT_LEARN,
    "inherited": [
        "fit_transform", "get_feature_names_out", "get_params", "score", "set_output",
        "set_params",
    ],
}  # fmt: skip
autodoc_default_options = {
    "members": True,
    "member-order": "bysource",
    "exclude-members": ", ".join(WRITTEN_BY_SCIKIT_LEARN),
}
autodoc_typehints = "none"  # the descriptions of the parameters have the types
numpydoc_show_class_members = False

# 20 Newsgroups has to be at hand; without it that example is shown but not run.
NOT_RUN = "" if "SKPARSE_DATA" in os.environ else "(?!20news)"
sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "ignore_pattern": r"benchmarks",
    "filename_pattern": f"/(plot_|service){NOT_RUN}",
    "subsection_order": [f"../examples/{section}" for section in SECTIONS],
    "within_subsection_order": "gallery.ByDifficulty",
    "reset_modules": ("matplotlib", "gallery.link_representations"),
    "abort_on_example_error": True,
    "remove_config_comments": True,
    "show_memory": False,
    "write_computation_times": False,
}


def skip_fields(app, what, name, member, skip, options):
    """Leave out the fields of named tuples, which are described as parameters."""
    return True if type(member).__name__ == "_tuplegetter" else None


def setup(app):
    app.connect("autodoc-skip-member", skip_fields)
