"""scikit-learn's own checks of an estimator: no failure is expected, no check is skipped."""

import os
import subprocess
import sys

import pytest
from sklearn.utils import estimator_checks as checks
from sklearn.utils.estimator_checks import estimator_checks_generator

from skparse import SparseExpertClassifier

VARIANTS = {
    "defaults": {},
    "top_k=1": {"top_k": 1},
    "top_k large": {"top_k": 1000},
    "early stopping": {"early_stopping": True},
    "half of the weights": {"weight_density": 0.5},
    "all weights": {"weight_density": 1.0},
    "many experts": {"n_experts": 40},
    "torch": {"engine": "torch"},
}

# What neither check_estimator nor parametrize_with_checks runs.
FURTHER_CHECKS = (
    checks.check_dataframe_column_names_consistency,
    checks.check_get_feature_names_out_error,
    checks.check_global_output_transform_pandas,
    checks.check_global_set_output_transform_polars,
    checks.check_inplace_ensure_writeable,
    checks.check_param_validation,
    checks.check_set_output_transform,
    checks.check_set_output_transform_pandas,
    checks.check_set_output_transform_polars,
    checks.check_transformer_get_feature_names_out,
    checks.check_transformer_get_feature_names_out_pandas,
)
if hasattr(checks, "check_all_zero_sample_weights_error"):  # from scikit-learn 1.9 on
    FURTHER_CHECKS += (checks.check_all_zero_sample_weights_error,)


def checks_of_variants():
    """Yield what `parametrize_with_checks` takes, but for the check of array API input.

    That one skips itself unless SCIPY_ARRAY_API was set before the import of scipy: it runs in
    a process of its own. The decorator itself passes an iterator, which pytest 9 warns of.
    """
    for variant, parameters in VARIANTS.items():
        estimator = SparseExpertClassifier(**parameters)
        for copy, check in estimator_checks_generator(estimator):
            name = check.func.__name__
            if name != "check_array_api_input":
                options = [str(value) for value in check.keywords.values()]
                yield pytest.param(copy, check, id="-".join([variant, name, *options]))


@pytest.mark.parametrize(("estimator", "check"), list(checks_of_variants()))
def test_the_estimator_passes_every_check_of_scikit_learn(estimator, check):
    check(estimator)


# The set_output checks fit on a frame and transform an array, which scikit-learn's own
# transformers warn of as well.
@pytest.mark.filterwarnings("ignore:X (does not have valid|has) feature names")
@pytest.mark.parametrize("check", FURTHER_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("parameters", VARIANTS.values(), ids=VARIANTS)
def test_the_estimator_passes_the_checks_that_check_estimator_leaves_out(parameters, check):
    check("SparseExpertClassifier", SparseExpertClassifier(**parameters))


def test_the_checks_include_multilabel_targets_and_sample_weights():
    pairs = estimator_checks_generator(SparseExpertClassifier())
    names = {check.func.__name__ for _, check in pairs}
    assert "check_classifiers_multilabel_output_format_predict_proba" in names
    assert "check_sample_weight_equivalence_on_sparse_data" in names
    assert "check_sample_weight_equivalence_on_dense_data" in names


def test_no_check_fails_or_is_skipped_with_the_array_api_enabled():
    code = (
        "from sklearn.utils.estimator_checks import check_estimator\n"
        "from skparse import SparseExpertClassifier\n"
        "results = check_estimator(SparseExpertClassifier())\n"
        "print({result['status'] for result in results}, len(results) > 60)\n"
        "print('check_array_api_input' in {result['check_name'] for result in results})\n"
    )
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env={**os.environ, "SCIPY_ARRAY_API": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.split("\n")[:2] == ["{'passed'} True", "True"]
