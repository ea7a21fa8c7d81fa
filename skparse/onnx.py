"""Fitted models as ONNX graphs, for runtimes without Python."""

from numbers import Integral
from typing import TYPE_CHECKING, Any

import numpy as np
from sklearn.base import BaseEstimator
from sklearn.feature_extraction.text import CountVectorizer, TfidfTransformer, TfidfVectorizer
from sklearn.pipeline import Pipeline
from sklearn.utils.validation import check_is_fitted

from . import SparseExpertClassifier

if TYPE_CHECKING:
    from onnx import ModelProto

WORD = r"[\p{L}\p{N}_]"  # what \w is in Python; in RE2, which ONNX Runtime uses, \w is ASCII
PATTERNS = {
    r"(?u)\b\w\w+\b": WORD + "{2,}",
    r"\b\w\w+\b": WORD + "{2,}",
    r"\w\w+": WORD + "{2,}",
    r"(?u)\b\w+\b": WORD + "+",
    r"\b\w+\b": WORD + "+",
    r"\w+": WORD + "+",
    r"\S+": r"[^\s\p{Z}\x0b\x1c-\x1f\x85]+",
}
NO_TOKEN = " "  # fills the rows of shorter texts


def to_onnx(
    estimator: BaseEstimator,
    *,
    initial_types: list[tuple[str, Any]] | None = None,
    locale: str = "C.UTF-8",
    target_opset: int | dict[str, int] | None = None,
) -> "ModelProto":
    """Convert a fitted classifier, or a pipeline that ends in one, to an ONNX graph.

    The graph computes in float32. Its outputs are ``label`` and ``probabilities``: what `predict`
    and `predict_proba` return at the current `top_k`. It needs the extra "onnx".

    Parameters
    ----------
    estimator : SparseExpertClassifier, Pipeline or search
        Fitted. The steps of a pipeline before the classifier are converted by skl2onnx, except
        `CountVectorizer`, `TfidfVectorizer` and `TfidfTransformer`, whose converters are here.
    initial_types : list of (str, type of skl2onnx), default=None
        Names and types of the inputs. By default it is one input: ``texts``, strings of shape
        (n_samples,), if the first step is a vectorizer of texts, else ``X``, float32 of shape
        (n_samples, n_features). A pipeline that begins with a `ColumnTransformer` needs it.
    locale : str, default="C.UTF-8"
        The locale with which the graph makes texts lower-case. It has to exist where the graph
        runs; on Windows it is "en-US".
    target_opset : int or dict, default=None
        Version of the operators, as skl2onnx takes it.

    Returns
    -------
    graph : onnx.ModelProto
        ``graph.SerializeToString()`` is what a file holds.

    Raises
    ------
    ImportError
        If onnx or skl2onnx is missing.
    TypeError
        If `estimator` does not end in a `SparseExpertClassifier`.
    ValueError
        If the classes are neither integers nor strings nor bool, if a vectorizer does something
        that a graph cannot do (`analyzer` other than "word", `strip_accents`, a `tokenizer` or
        `preprocessor`, a `token_pattern` that is not known), or if `initial_types` is needed.

    Notes
    -----
    ONNX Runtime has no sparse matrix product. So a graph computes with dense rows, and a dense
    router is in memory; in the file, the router is stored sparse where that is smaller.

    A graph makes texts lower-case letter by letter. A capital sigma at the end of a Greek word and
    the Turkish capital I with a dot become another letter than in Python.

    Examples
    --------
    With onnxruntime, which the extra does not install::

        graph = to_onnx(pipeline)
        session = onnxruntime.InferenceSession(graph.SerializeToString())
        label, probabilities = session.run(None, {"texts": np.array(texts)})
    """
    try:
        import onnx  # noqa: F401, skl2onnx alone would not name it if it is missing
        import skl2onnx
    except ImportError as error:
        raise ImportError(
            'to_onnx needs onnx and skl2onnx, the extra "onnx": pip install "skparse[onnx]".'
        ) from error
    check_is_fitted(estimator)
    estimator = _unwrap(estimator)
    texts = _convert_texts(locale)
    return skl2onnx.convert_sklearn(
        estimator,
        initial_types=initial_types or _guess_initial_types(estimator),
        target_opset=target_opset,
        custom_conversion_functions={
            SparseExpertClassifier: _convert_classifier,
            CountVectorizer: texts,
            TfidfVectorizer: texts,
            TfidfTransformer: _convert_weighting,
        },
        custom_shape_calculators={
            SparseExpertClassifier: _set_classifier_shapes,
            CountVectorizer: _set_vectorizer_shape,
            TfidfVectorizer: _set_vectorizer_shape,
            TfidfTransformer: _set_weighting_shape,
        },
    )


def _unwrap(estimator):
    """Replace searches by what they found; raises TypeError unless it ends in the classifier."""
    estimator = getattr(estimator, "best_estimator_", estimator)
    if isinstance(estimator, Pipeline):
        *before, (name, last) = estimator.steps
        return Pipeline([*before, (name, _unwrap(last))])
    if not isinstance(estimator, SparseExpertClassifier):
        raise TypeError(
            "estimator has to be a SparseExpertClassifier, or a pipeline or a search that ends in "
            f"one, got {type(estimator).__name__}."
        )
    return estimator


def _guess_initial_types(estimator):
    from skl2onnx.common.data_types import FloatTensorType, StringTensorType

    while isinstance(estimator, Pipeline):
        estimator = estimator.steps[0][1]
    if isinstance(estimator, CountVectorizer):
        return [("texts", StringTensorType([None]))]
    if not hasattr(estimator, "n_features_in_") or hasattr(estimator, "transformers"):
        raise ValueError(
            "initial_types has to be given, a list of pairs of a name and a type of skl2onnx: "
            f"it cannot be guessed for a pipeline that begins with {type(estimator).__name__}."
        )
    return [("X", FloatTensorType([None, estimator.n_features_in_]))]


class _Graph:
    """Adds nodes and constants to the graph of skl2onnx; returns the names of their outputs."""

    def __init__(self, scope, container):
        self.scope, self.container = scope, container

    def node(self, op_type, *inputs, outputs=1, domain="", **attributes):
        """Add a node; ``outputs`` are names, or how many there are. One is returned by itself."""
        if isinstance(outputs, int):
            outputs = [self.scope.get_unique_variable_name(op_type) for _ in range(outputs)]
        name = self.scope.get_unique_operator_name(op_type)
        version = {"op_version": 1} if domain else {}
        self.container.add_node(
            op_type, list(inputs), outputs, op_domain=domain, name=name, **version, **attributes
        )
        return outputs[0] if len(outputs) == 1 else outputs

    def constant(self, values):
        """Add an array."""
        from onnx import numpy_helper

        return self.node("Constant", value=numpy_helper.from_array(np.asarray(values)))

    def matrix(self, matrix):
        """Add a CSR array in float32, stored sparse if that takes fewer bytes."""
        from onnx import helper, numpy_helper

        n_rows, n_columns = matrix.shape
        places = 8 * matrix.nnz
        if places + 4 * matrix.nnz >= 4 * n_rows * n_columns:
            return self.constant(matrix.toarray().astype(np.float32))
        matrix = matrix.sorted_indices().tocoo()  # the places have to be ascending
        flat = matrix.row.astype(np.int64) * n_columns + matrix.col
        values = numpy_helper.from_array(matrix.data.astype(np.float32), "values")
        tensor = helper.make_sparse_tensor(
            values, numpy_helper.from_array(flat, "places"), [n_rows, n_columns]
        )
        return self.node("Constant", sparse_value=tensor)


def _set_classifier_shapes(operator):
    from skl2onnx.common import data_types

    classifier = operator.raw_operator
    n_classes = len(classifier.classes_)
    labels = _class_labels(classifier)
    kind = {
        "O": data_types.StringTensorType, "b": data_types.BooleanTensorType,
        "i": data_types.Int64TensorType,
    }[labels.dtype.kind]  # fmt: skip
    operator.outputs[0].type = kind([None, n_classes] if classifier._multilabel else [None])
    operator.outputs[1].type = data_types.FloatTensorType([None, n_classes])


def _class_labels(classifier):
    """Return the classes as an array that a graph can hold."""
    classes = classifier.classes_
    if classes.dtype.kind in "iu":
        return classes.astype(np.int64)
    if classes.dtype.kind == "b":
        return classes
    if all(isinstance(label, str) for label in classes.tolist()):
        return classes.astype(object)
    if all(isinstance(label, Integral) for label in classes.tolist()):
        return classes.astype(np.int64)
    raise ValueError(
        "An ONNX graph needs classes that are integers, strings or bool; classes_ has the dtype "
        f"{classes.dtype}: encode y with sklearn.preprocessing.LabelEncoder before the fit."
    )


def _convert_classifier(scope, operator, container):
    """Add the nodes of ``y = softmax(W h_sparse + b2)``."""
    from onnx import TensorProto

    classifier, graph = operator.raw_operator, _Graph(scope, container)
    label, probabilities = operator.output_full_names
    x = graph.node("Cast", operator.input_full_names[0], to=TensorProto.FLOAT)
    codes, sizes = _add_codes(graph, classifier, x)
    model = classifier._model.at_level(classifier._checked_top_k())
    logits = graph.node("MatMul", codes, graph.matrix(model.outputs))
    logits = graph.node("Add", logits, graph.constant(model.intercept.astype(np.float32)))
    if model.prior_logits is not None:
        is_known = graph.node("Greater", sizes, graph.constant(np.float32(0)))
        prior = graph.constant(model.prior_logits.astype(np.float32))
        logits = graph.node("Where", is_known, logits, prior)
    if classifier._multilabel:
        above = graph.node("Greater", logits, graph.constant(np.float32(0)))
        graph.node("Cast", above, outputs=[label], to=TensorProto.INT64)
        edge = np.finfo(np.float32).eps
        bounds = graph.constant(edge), graph.constant(np.float32(1 - edge))
        graph.node("Clip", graph.node("Sigmoid", logits), *bounds, outputs=[probabilities])
    else:
        best = graph.node("ArgMax", logits, axis=1, keepdims=0)
        classes = graph.constant(_class_labels(classifier))
        graph.node("Gather", classes, best, outputs=[label], axis=0)
        graph.node("Softmax", logits, outputs=[probabilities], axis=1)


def _add_codes(graph, classifier, x):
    """Add the nodes of ``h_sparse``, the gate weights of the kept experts; dense.

    Returns
    -------
    codes : str
        (n_samples, n_experts)
    sizes : str
        (n_samples, 1), the largest magnitude of a score without its b1.
    """
    intercept = classifier.router_intercept_.astype(np.float64)
    if hasattr(classifier, "_columns"):
        # The weights of dense columns cancel their means, which float32 could not do after the
        # product.
        offset = np.asarray(classifier._columns[0], dtype=np.float64).astype(np.float32)
        intercept = intercept + classifier.router_coef_.T.astype(np.float64) @ offset
        x = graph.node("Sub", x, graph.constant(offset))
    products = graph.node("MatMul", x, graph.matrix(classifier.router_coef_))
    axis = graph.constant(np.array([1]))
    sizes = graph.node("ReduceMax", graph.node("Abs", products), axis, keepdims=1)
    scores = graph.node("Add", products, graph.constant(intercept.astype(np.float32)))
    top_k = graph.constant(np.array([classifier._checked_top_k()], dtype=np.int64))
    # Of equal entries TopK puts those of lower indices first, as the classifier does.
    kept, experts = graph.node("TopK", scores, top_k, outputs=2, axis=1)
    zero = graph.constant(np.float32(0))
    largest = graph.node("Gather", kept, graph.constant(np.array([0])), axis=1)
    weights = graph.node("Exp", graph.node("Sub", kept, largest))
    weights = graph.node("Where", graph.node("Greater", kept, zero), weights, zero)
    total = graph.node("ReduceSum", weights, axis, keepdims=1)
    # Without an expert above zero all weights are zero.
    total = graph.node("Max", total, graph.constant(np.finfo(np.float32).tiny))
    weights = graph.node("Div", weights, total)
    nothing = graph.node("Mul", scores, zero)
    return graph.node("ScatterElements", nothing, experts, weights, axis=1), sizes


def _set_vectorizer_shape(operator):
    from skl2onnx.common.data_types import FloatTensorType

    operator.outputs[0].type = FloatTensorType([None, len(operator.raw_operator.vocabulary_)])


def _convert_texts(locale):
    """Return the converter of `CountVectorizer` and `TfidfVectorizer`."""

    def convert(scope, operator, container):
        vectorizer, graph = operator.raw_operator, _Graph(scope, container)
        tokens = _choose_tokens(vectorizer)
        texts = graph.constant(np.array([-1]))
        texts = graph.node("Reshape", operator.input_full_names[0], texts)
        if vectorizer.lowercase:
            texts = graph.node(
                "StringNormalizer", texts, case_change_action="LOWER", is_case_sensitive=1,
                locale=locale,
            )  # fmt: skip
        words = graph.node(
            "Tokenizer", texts, domain="com.microsoft", pad_value=NO_TOKEN, mark=0, mincharnum=1,
            tokenexp=tokens,
        )  # fmt: skip
        values = graph.node("TfIdfVectorizer", words, **_list_n_grams(vectorizer))
        if vectorizer.binary:
            values = graph.node("Sign", values)
        if isinstance(vectorizer, TfidfVectorizer):
            values = _add_weighting(graph, vectorizer, values)
        graph.node("Identity", values, outputs=operator.output_full_names)

    return convert


def _choose_tokens(vectorizer):
    """Return the pattern of a token for RE2; raises ValueError if there is none."""
    low, high = vectorizer.ngram_range
    for name, allowed in {
        "analyzer": vectorizer.analyzer == "word",
        "strip_accents": vectorizer.strip_accents is None,
        "preprocessor": vectorizer.preprocessor is None,
        "tokenizer": vectorizer.tokenizer is None,
        "stop_words": vectorizer.stop_words is None or high == 1,
        "token_pattern": vectorizer.token_pattern in PATTERNS,
    }.items():
        if not allowed:
            allowed_values = {
                "analyzer": '"word"', "stop_words": "None, or any with single words",
                "token_pattern": f"one of {list(PATTERNS)}",
            }.get(name, "None")  # fmt: skip
            raise ValueError(
                f"An ONNX graph cannot do what {name}={getattr(vectorizer, name)!r} of "
                f"{type(vectorizer).__name__} does; it has to be {allowed_values}. Convert the "
                "classifier alone, and keep the vectorizer in Python."
            )
    return PATTERNS[vectorizer.token_pattern]


def _list_n_grams(vectorizer):
    """Return the attributes of the operator TfIdfVectorizer, which counts n-grams here."""
    low, high = vectorizer.ngram_range
    n_grams = [(gram.split(" "), column) for gram, column in vectorizer.vocabulary_.items()]
    n_grams = [(gram, column) for gram, column in n_grams if low <= len(gram) <= high]
    n_grams.sort(key=lambda entry: (len(entry[0]), entry[1]))
    pool, columns, starts = [], [], {}
    for gram, column in n_grams:
        starts.setdefault(len(gram), len(pool))
        pool.extend(gram)
        columns.append(int(column))
    # Where the n-grams of each length start; without any of a length, where they would.
    counts = [starts.get(high, len(pool))]
    for length in range(high - 1, 0, -1):
        counts.insert(0, starts.get(length, counts[0]))
    return {
        "mode": "TF", "max_skip_count": 0, "min_gram_length": low, "max_gram_length": high,
        "pool_strings": pool, "ngram_indexes": columns, "ngram_counts": counts,
    }  # fmt: skip


def _set_weighting_shape(operator):
    from skl2onnx.common.data_types import FloatTensorType

    operator.outputs[0].type = FloatTensorType([None, operator.inputs[0].type.shape[1]])


def _convert_weighting(scope, operator, container):
    from onnx import TensorProto

    graph = _Graph(scope, container)
    values = graph.node("Cast", operator.input_full_names[0], to=TensorProto.FLOAT)
    values = _add_weighting(graph, operator.raw_operator, values)
    graph.node("Identity", values, outputs=operator.output_full_names)


def _add_weighting(graph, step, values):
    """Add what TfidfTransformer does to counts: logarithm, idf, norm."""
    if step.sublinear_tf:
        zero = graph.constant(np.float32(0))
        logarithms = graph.node("Add", graph.node("Log", values), graph.constant(np.float32(1)))
        values = graph.node("Where", graph.node("Greater", values, zero), logarithms, zero)
    if step.use_idf:
        values = graph.node("Mul", values, graph.constant(step.idf_.astype(np.float32)))
    if step.norm is not None:
        values = graph.node("LpNormalization", values, axis=1, p=int(step.norm[1]))
    return values
