"""Synthetic documents with known topics, as sparse term counts."""

from numbers import Integral, Real
from typing import Literal, NamedTuple, overload

import numpy as np
from numpy.typing import DTypeLike
from scipy.sparse import csr_array, csr_matrix, get_index_dtype
from sklearn import get_config
from sklearn.utils import Bunch, check_random_state
from sklearn.utils._param_validation import Interval, validate_params

from .._typing import Array, RandomState, typed

_TOKENS_AT_ONCE = 2**20  # bounds the memory of temporary arrays

_DESCR = """\
Synthetic topic documents
-------------------------

:Number of samples: {n_samples}
:Number of terms: {n_features}
:Number of topics: {n_topics}
:Number of classes: {n_classes}

A document has one topic, and the topic determines the class. Its terms are drawn independently
from P(term | topic) = (1 - background_share) * topic_terms[topic] + background_share * background.
"""


class _TopicModel(NamedTuple):
    """The distributions from which documents are drawn."""

    terms: np.ndarray  # (n_blocks, terms_per_topic), the features of each block of terms
    blocks: np.ndarray  # (n_topics, 3), two facets and the block of its own
    classes: np.ndarray  # (n_topics,)
    block_shares: np.ndarray  # (3,), probabilities of a topic's blocks
    rank_probability: np.ndarray  # (terms_per_topic,), the same in every block
    background: np.ndarray  # (n_features,)
    background_share: float


@overload
def make_topic_documents(
    n_samples: int = 1000,
    n_features: int = 2000,
    n_topics: int = 20,
    *,
    n_classes: int | None = None,
    document_length: int = 50,
    terms_per_topic: int = 20,
    background_share: float = 0.4,
    facet_share: float = 0.5,
    dtype: DTypeLike = np.float32,
    random_state: RandomState = None,
    return_X_y: Literal[False] = False,
) -> Bunch: ...


@overload
def make_topic_documents(
    n_samples: int = 1000,
    n_features: int = 2000,
    n_topics: int = 20,
    *,
    n_classes: int | None = None,
    document_length: int = 50,
    terms_per_topic: int = 20,
    background_share: float = 0.4,
    facet_share: float = 0.5,
    dtype: DTypeLike = np.float32,
    random_state: RandomState = None,
    return_X_y: Literal[True],
) -> tuple[csr_array | csr_matrix, Array]: ...


@typed(
    validate_params(
        {
            "n_samples": [Interval(Integral, 1, None, closed="left")],
            "n_features": [Interval(Integral, 1, None, closed="left")],
            "n_topics": [Interval(Integral, 1, None, closed="left")],
            "n_classes": [Interval(Integral, 1, None, closed="left"), None],
            "document_length": [Interval(Integral, 1, None, closed="left")],
            "terms_per_topic": [Interval(Integral, 1, None, closed="left")],
            "background_share": [Interval(Real, 0, 1, closed="both")],
            "facet_share": [Interval(Real, 0, 1, closed="both")],
            "dtype": "no_validation",  # checked in the body
            "random_state": ["random_state"],
            "return_X_y": ["boolean"],
        },
        prefer_skip_nested_validation=True,
    )
)
def make_topic_documents(
    n_samples: int = 1000,
    n_features: int = 2000,
    n_topics: int = 20,
    *,
    n_classes: int | None = None,
    document_length: int = 50,
    terms_per_topic: int = 20,
    background_share: float = 0.4,
    facet_share: float = 0.5,
    dtype: DTypeLike = np.float32,
    random_state: RandomState = None,
    return_X_y: bool = False,
) -> Bunch | tuple[csr_array | csr_matrix, Array]:
    """Draw documents with known topics, as sparse term counts (classification).

    Each document has one topic, and each topic belongs to one class. The terms of a topic come
    from three blocks of terms: one of its own, and two facets that it shares with other topics.
    Topics are arranged on a grid of ceil(sqrt(n_topics)) columns. Topics of a row share one facet,
    topics of a column the other. Classes follow the diagonals of the grid. If the grid is full and
    its number of columns is a multiple of the number of classes, one facet alone is independent of
    the class, and both facets together determine it. ``facet_share=1`` then makes an exclusive or,
    which no linear model solves. ``facet_share=0`` makes a linear task. The topics are the experts
    of an ideal model.

    Time and memory are linear in ``n_samples * document_length + n_features``.

    Parameters
    ----------
    n_samples : int, default=1000
        Number of documents. Topics are balanced: their numbers of documents differ by at most one.

    n_features : int, default=2000
        Number of terms.

    n_topics : int, default=20
        Number of topics.

    n_classes : int, default=None
        Number of classes, at most `n_topics`. None means ``n_topics // 4``, and at least two if
        there are two topics.

    document_length : int, default=50
        Mean number of terms of a document, repetitions included. The lengths are one plus a
        Poisson number. A row of the result has fewer nonzeros, about 36 by default, as terms
        repeat.

    terms_per_topic : int, default=20
        Number of terms in a block, at most `n_features`. The blocks are disjoint if `n_features`
        suffices for all of them. Otherwise features are used again.

    background_share : float, default=0.4
        Share of the terms that are independent of the topic, in [0, 1]. They follow Zipf's law
        over all features, and the first feature is the most frequent.

    facet_share : float, default=0.5
        Share of a topic's terms that comes from the facets it shares, in [0, 1].

    dtype : {numpy.float32, numpy.float64}, default=numpy.float32
        Type of the counts.

    random_state : int, RandomState instance or None, default=None
        Determines the blocks and the documents. Pass an int for reproducible output across
        multiple function calls.

    return_X_y : bool, default=False
        If True, return ``(data, target)`` instead of a Bunch.

    Returns
    -------
    bunch : :class:`~sklearn.utils.Bunch`
        Dictionary-like object, with the following attributes. Sparse containers are matrices or
        arrays, depending on scikit-learn's ``sparse_interface`` configuration.

        data : CSR of shape (n_samples, n_features)
            Term counts, with sorted indices, no duplicates and no explicit zeros. No row is
            empty.
        target : ndarray of shape (n_samples,), dtype int64
            The class of each document.
        topic : ndarray of shape (n_samples,), dtype int64
            The topic of each document.
        topic_classes : ndarray of shape (n_topics,), dtype int64
            The class of each topic: ``target == topic_classes[topic]``.
        topic_terms : CSR of shape (n_topics, n_features), dtype float64
            The distribution over terms of each topic, without the background.
        background : ndarray of shape (n_features,), dtype float64
            The distribution over terms that all topics share.
        feature_names : ndarray of shape (n_features,), dtype object
            A word for each feature.
        DESCR : str
            The description of the data set.

    (data, target) : tuple if ``return_X_y`` is True
        The first two of these attributes.

    Raises
    ------
    ValueError
        If a parameter is out of its range.

    Examples
    --------
    >>> from skparse.datasets import make_topic_documents
    >>> documents = make_topic_documents(n_samples=100, n_topics=8, random_state=0)
    >>> documents.data.shape
    (100, 2000)
    >>> documents.topic_classes.tolist()
    [0, 1, 0, 1, 0, 1, 0, 1]
    """
    n_classes = _check_n_classes(n_classes, n_topics)
    dtype = _check_dtype(dtype)
    if terms_per_topic > n_features:
        raise ValueError(
            f"terms_per_topic must be at most n_features={n_features}, got {terms_per_topic}"
        )
    rng = check_random_state(random_state)
    blocks, classes = _arrange_topics(n_topics, n_classes)
    model = _TopicModel(
        terms=np.resize(rng.permutation(n_features), (blocks.max() + 1, terms_per_topic)),
        blocks=blocks,
        classes=classes,
        block_shares=np.array([facet_share / 2, facet_share / 2, 1 - facet_share]),
        rank_probability=_zipf(terms_per_topic),
        background=_zipf(n_features),
        background_share=background_share,
    )
    topic = rng.permutation(np.arange(n_samples) % n_topics)
    data = _draw_counts(rng, model, topic, document_length, dtype)
    target = classes[topic]
    if return_X_y:
        return data, target
    return Bunch(
        data=data,
        target=target,
        topic=topic,
        topic_classes=classes,
        topic_terms=_topic_terms(model),
        background=model.background,
        feature_names=np.array([f"term{j}" for j in range(n_features)], dtype=object),
        DESCR=_DESCR.format(
            n_samples=n_samples, n_features=n_features, n_topics=n_topics, n_classes=n_classes
        ),
    )


def _check_n_classes(n_classes, n_topics):
    if n_classes is None:
        return max(min(2, n_topics), n_topics // 4)
    if n_classes > n_topics:
        raise ValueError(f"n_classes must be at most n_topics={n_topics}, got {n_classes}")
    return n_classes


def _check_dtype(dtype):
    if dtype in (np.float32, np.float64, "float32", "float64"):
        return np.dtype(dtype)
    raise ValueError(f"dtype must be float32 or float64, got {dtype!r}")


def _arrange_topics(n_topics, n_classes):
    """Arrange the topics on a grid; return the blocks of terms and the class of each topic.

    Returns
    -------
    blocks : ndarray of shape (n_topics, 3)
        Facet of the row, facet of the column, block of the topic itself.

    classes : ndarray of shape (n_topics,)
    """
    n_columns = int(np.ceil(np.sqrt(n_topics)))
    topics = np.arange(n_topics)
    row, column = np.divmod(topics, n_columns)
    blocks = np.stack([row, n_columns + column, 2 * n_columns + topics], axis=1)
    # A step of one per row makes a Latin square. With more classes than columns it would not
    # reach all classes.
    step = 1 if n_classes <= n_columns else n_columns
    return blocks, (row * step + column) % n_classes


def _zipf(n):
    weights = 1 / np.arange(1, n + 1)
    return weights / weights.sum()


def _draw_counts(rng, model, topic, document_length, dtype):
    """Draw the documents into one CSR matrix, a bounded number of tokens at a time."""
    n_samples, n_features = len(topic), len(model.background)
    lengths = 1 + rng.poisson(document_length - 1, size=n_samples)
    indptr = np.concatenate([[0], np.cumsum(lengths)])
    index_dtype = get_index_dtype(maxval=max(indptr[-1], n_features))
    indices = np.empty(indptr[-1], dtype=index_dtype)
    block_shares = (1 - model.background_share) * model.block_shares
    sums = [
        _cumulated(part)
        for part in (
            np.append(model.background_share, block_shares),
            model.rank_probability,
            model.background,
        )
    ]
    rows_at_once = max(1, _TOKENS_AT_ONCE // document_length)
    for start in range(0, n_samples, rows_at_once):
        stop = min(start + rows_at_once, n_samples)
        token_topic = np.repeat(topic[start:stop], lengths[start:stop])
        indices[indptr[start] : indptr[stop]] = _draw_terms(rng, model, token_topic, *sums)
    ones = np.ones(len(indices), dtype=dtype)
    counts = _csr(ones, indices, indptr.astype(index_dtype), n_features)
    counts.sum_duplicates()
    return counts


def _draw_terms(rng, model, token_topic, source_sums, rank_sums, background_sums):
    """Draw one term per token: first its block, then its rank in the block."""
    source = np.searchsorted(source_sums, rng.random_sample(len(token_topic)), side="right")
    position = rng.random_sample(len(token_topic))
    terms = np.empty(len(token_topic), dtype=np.int64)
    common = source == 0
    terms[common] = np.searchsorted(background_sums, position[common], side="right")
    topical = ~common
    block = model.blocks[token_topic[topical], source[topical] - 1]
    rank = np.searchsorted(rank_sums, position[topical], side="right")
    terms[topical] = model.terms[block, rank]
    return terms


def _cumulated(probability):
    sums = np.cumsum(probability)
    return sums / sums[-1]  # ends at exactly 1, so that every draw from [0, 1) is below it


def _topic_terms(model):
    """Compute the distributions of the topics over terms."""
    n_topics, _ = model.blocks.shape
    terms = model.terms[model.blocks].reshape(n_topics, -1)
    probability = np.outer(model.block_shares, model.rank_probability).ravel()
    indptr = np.arange(n_topics + 1) * len(probability)
    topic_terms = _csr(
        np.tile(probability, n_topics), terms.ravel(), indptr, len(model.background)
    )
    topic_terms.sum_duplicates()
    topic_terms.eliminate_zeros()
    return topic_terms


def _csr(data, indices, indptr, n_features):
    """Build a matrix or an array, as scikit-learn's vectorizers return it."""
    as_array = get_config().get("sparse_interface") == "sparray"
    container = csr_array if as_array else csr_matrix
    return container((data, indices, indptr), shape=(len(indptr) - 1, n_features))
