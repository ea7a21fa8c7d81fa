"""The order of the examples, and links from HTML representations in their output."""

from pathlib import Path

from skparse._documentation import DocumentedMixin

SECTIONS = ["tasks", "tuning", "production", "networks"]

# The first ones first.
NAMES = [
    "plot_quickstart.py",
    "plot_explain.py",
    "plot_choosing_k.py",
    "plot_several_labels.py",
    "plot_unequal_classes.py",
    "plot_mixed_columns.py",
    "plot_embeddings.py",
    "plot_word_vectors.py",
    "plot_20newsgroups.py",
    "plot_experts.py",
    "plot_tune_with_optuna.py",
    "plot_model_size.py",
    "service.py",
    "plot_translate_number_words.py",
]


class ByDifficulty:
    """A key for the files of a folder; those that are not named come last."""

    def __init__(self, folder):
        self.folder = folder

    def __call__(self, name):
        return NAMES.index(name) if name in NAMES else len(NAMES), name

    def __repr__(self):
        return "ByDifficulty()"


def link_representations(gallery_conf, example):
    """Let the HTML representations of an example link to the API pages of the same site."""
    depth = 2 if Path(example).parent.name in SECTIONS else 1
    page = "generated/{estimator_module}.{estimator_name}.html"
    DocumentedMixin._doc_link_template = "../" * depth + page
