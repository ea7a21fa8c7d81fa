"""The order of the examples: the first ones first."""

NAMES = [
    "plot_quickstart.py",
    "plot_explain.py",
    "plot_choosing_k.py",
    "plot_several_labels.py",
    "plot_unequal_classes.py",
    "plot_mixed_columns.py",
    "plot_experts.py",
    "plot_20newsgroups.py",
    "plot_model_size.py",
    "tune_with_optuna.py",
    "service.py",
    "plot_word_vectors.py",
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
