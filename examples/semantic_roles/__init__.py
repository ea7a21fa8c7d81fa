"""Semantic role labelling: who did what to whom, with `SparseExpertClassifier`.

Run ``python -m examples.semantic_roles --help`` in the folder of the project.
"""
