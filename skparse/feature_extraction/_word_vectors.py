"""Texts as weighted means of pretrained word vectors."""

import os
from collections.abc import Callable, Iterable
from numbers import Integral
from typing import Any, Literal, Self

import numpy as np
from numpy.typing import DTypeLike
from sklearn.base import (
    BaseEstimator,
    ClassNamePrefixFeaturesOutMixin,
    TransformerMixin,
    _fit_context,
)
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.preprocessing import StandardScaler, normalize
from sklearn.utils._param_validation import Interval, Options, StrOptions
from sklearn.utils.validation import check_is_fitted

from .._documentation import DocumentedMixin
from .._typing import FloatArray, typed
from ._vector_files import load_word_vectors

_ANALYSIS = (
    "strip_accents", "lowercase", "preprocessor", "tokenizer", "stop_words", "token_pattern",
    "analyzer", "encoding", "decode_error",
)  # fmt: skip
_SIF_A = 1e-3  # of the paper; 1e-3 to 1e-4 are equally good there


class WordVectorVectorizer(
    DocumentedMixin, ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator
):
    """Texts to dense vectors: the weighted mean of pretrained vectors of their words.

    Pretrained vectors help where few texts have labels: words that the training texts lack have
    vectors near those of words that they have. Use it alone, or beside a
    :class:`~sklearn.feature_extraction.text.TfidfVectorizer` in a
    :class:`~sklearn.pipeline.FeatureUnion`. With many labels TF-IDF alone is nearly as good.

    A text that has no word with a vector becomes a row of zeros.

    Parameters
    ----------
    vectors : str, path-like, pair, or object
        The word vectors. A path is read in `fit` by :func:`load_word_vectors`. A pair is a
        sequence of words and an array of shape (n_words, n_dimensions). An object has the
        attributes `key_to_index`, a mapping from words to rows, and `vectors`, such as gensim's
        ``KeyedVectors``.

        An estimator is pickled with this parameter: with a path pickles are small. In a search,
        read the file once and pass the pair that :func:`load_word_vectors` returns.

    strip_accents, lowercase, preprocessor, tokenizer, stop_words, token_pattern, analyzer
        How texts become words, as in :class:`~sklearn.feature_extraction.text.CountVectorizer`.
        With ``lowercase=True`` the vectors of words that have capital letters are not used.

    encoding, decode_error
        Of texts that are bytes, as in :class:`~sklearn.feature_extraction.text.CountVectorizer`,
        and of the words in a file of vectors.

    vocabulary : iterable of str, default=None
        Keep the vectors of these words only, to make the fitted estimator smaller: for instance
        all words of a large collection of texts without labels.

    weighting : {"mean", "idf", "sif"}, default="mean"
        The weight of a word in the mean: 1; its inverse document frequency in the texts of the
        fit, as in :class:`~sklearn.feature_extraction.text.TfidfTransformer`; or the smooth
        inverse frequency a / (a + p) [1]_, with a = 0.001 and p the share of the word among the
        words of the fit. Words that do not occur there have the largest weight.

    remove_components : int, default=0
        Subtract the projections on so many first singular vectors of the means of the fit, as in
        [1]_ with 1. At least one dimension has to remain.

    standardize : bool, default=True
        Subtract the mean of each column and divide it by its standard deviation, both of the
        texts of the fit.

    norm : {"l1", "l2", "max"} or None, default="l2"
        Norm of the rows of the result.

    limit : int, default=None
        Use only the first `limit` vectors. Most files are sorted by frequency.

    dtype : {numpy.float32, numpy.float64}, default=numpy.float32
        Type of the result and of the stored vectors.

    verbose : int, default=0
        If positive, print the progress of reading a file.

    Attributes
    ----------
    vocabulary_ : dict of str to int
        The row of each word in `vectors_`. Words that no text can contain are left out: their
        own analysis does not return them, as for ``","`` with the default pattern.

    vectors_ : ndarray of shape (n_words, n_dimensions), dtype `dtype`
        The vectors that are kept.

    word_weights_ : ndarray of shape (n_words,), dtype `dtype`
        The weight of each word, by `weighting`.

    components_ : ndarray of shape (remove_components, n_dimensions), dtype `dtype`
        The singular vectors that are removed.

    scaler_ : StandardScaler or None
        Mean and scale of the columns; None without `standardize`.

    n_texts_without_words_ : int
        Number of texts of the fit that have no word with a vector.

    See Also
    --------
    load_word_vectors : Reads a file of word vectors.

    References
    ----------
    .. [1] S. Arora, Y. Liang, T. Ma, "A Simple but Tough-to-Beat Baseline for Sentence
       Embeddings", ICLR 2017.

    Examples
    --------
    >>> from skparse.feature_extraction import WordVectorVectorizer
    >>> words = ["red", "blue", "seven"]
    >>> vectors = [[1.0, 0.2], [0.8, 0.0], [0.0, 1.0]]
    >>> vectorizer = WordVectorVectorizer((words, vectors), standardize=False, norm=None)
    >>> vectorizer.fit_transform(["Red and blue", "seven", "nothing known"])
    array([[0.9, 0.1],
           [0. , 1. ],
           [0. , 0. ]], dtype=float32)
    >>> vectorizer.n_texts_without_words_
    1
    """

    _parameter_constraints = {
        **{name: CountVectorizer._parameter_constraints[name] for name in _ANALYSIS},
        "vectors": "no_validation",  # its own messages
        "vocabulary": ["array-like", set, frozenset, dict, None],
        "weighting": [StrOptions({"mean", "idf", "sif"})],
        "remove_components": [Interval(Integral, 0, None, closed="left")],
        "standardize": ["boolean"],
        "norm": [StrOptions({"l1", "l2", "max"}), None],
        "limit": [Interval(Integral, 1, None, closed="left"), None],
        "dtype": [Options(type, {np.float32, np.float64}), StrOptions({"float32", "float64"})],
        "verbose": ["verbose"],
    }

    def __init__(
        self,
        vectors: str | os.PathLike[str] | tuple[Iterable[str], Any] | Any,
        *,
        strip_accents: Literal["ascii", "unicode"] | Callable[[str], str] | None = None,
        lowercase: bool = True,
        preprocessor: Callable[[str], str] | None = None,
        tokenizer: Callable[[str], Iterable[str]] | None = None,
        stop_words: Literal["english"] | list[str] | None = None,
        token_pattern: str | None = r"(?u)\b\w\w+\b",
        analyzer: Literal["word", "char", "char_wb"] | Callable[[str], Iterable[str]] = "word",
        encoding: str = "utf-8",
        decode_error: Literal["strict", "ignore", "replace"] = "strict",
        vocabulary: Iterable[str] | None = None,
        weighting: Literal["mean", "idf", "sif"] = "mean",
        remove_components: int = 0,
        standardize: bool = True,
        norm: Literal["l1", "l2", "max"] | None = "l2",
        limit: int | None = None,
        dtype: DTypeLike = np.float32,
        verbose: int = 0,
    ) -> None:
        self.vectors = vectors
        self.strip_accents = strip_accents
        self.lowercase = lowercase
        self.preprocessor = preprocessor
        self.tokenizer = tokenizer
        self.stop_words = stop_words
        self.token_pattern = token_pattern
        self.analyzer = analyzer
        self.encoding = encoding
        self.decode_error = decode_error
        self.vocabulary = vocabulary
        self.weighting = weighting
        self.remove_components = remove_components
        self.standardize = standardize
        self.norm = norm
        self.limit = limit
        self.dtype = dtype
        self.verbose = verbose

    def fit(self, X: Iterable[str], y: Any = None) -> Self:
        """Read the vectors; learn weights of words, components and the scale of columns.

        Parameters
        ----------
        X : iterable of str
            Texts.

        y : None
            Ignored.

        Returns
        -------
        self : object
            The fitted estimator.

        Raises
        ------
        ValueError
            If there are no texts, the vectors are not as described, or none of their words can
            occur in a text.
        """
        self.fit_transform(X)
        return self

    @typed(_fit_context(prefer_skip_nested_validation=True))
    def fit_transform(self, X: Iterable[str], y: Any = None) -> FloatArray:
        """Fit, and return the vectors of the same texts.

        Parameters
        ----------
        X : iterable of str
            Texts.

        y : None
            Ignored.

        Returns
        -------
        X_new : ndarray of shape (n_samples, n_dimensions), dtype `dtype`
            A row for each text.
        """
        words, vectors = self._read_vectors()
        counter = CountVectorizer(**{name: getattr(self, name) for name in _ANALYSIS})
        rows = _rows_of_words(words, counter, self.vocabulary)
        vectors = np.ascontiguousarray(vectors[list(rows.values())], dtype=self.dtype)
        if self.remove_components >= vectors.shape[1]:
            raise ValueError(
                f"remove_components={self.remove_components} has to be less than the number of "
                f"dimensions, {vectors.shape[1]}"
            )
        counter.set_params(vocabulary=list(rows), dtype=self.dtype)
        counts = counter.transform(X)  # no fit: its vocabulary is given
        if counts.shape[0] == 0:
            raise ValueError("X has no texts: at least one is required")
        counter.set_params(vocabulary=None)  # its vocabulary_ is enough from here on
        self._counter, self.vectors_ = counter, vectors
        self.word_weights_ = _word_weights(counts, self.weighting).astype(self.dtype)
        means, known = self._mean_vectors(counts)
        self.n_texts_without_words_ = int(np.count_nonzero(~known))
        self.components_ = _first_components(means, self.remove_components)
        means -= (means @ self.components_.T) @ self.components_
        self.scaler_ = StandardScaler() if self.standardize else None
        if self.standardize:
            self.scaler_.fit(means[known] if known.any() else means)
        return self._scale(means, known)

    def transform(self, X: Iterable[str]) -> FloatArray:
        """Return the vectors of texts.

        Parameters
        ----------
        X : iterable of str
            Texts.

        Returns
        -------
        X_new : ndarray of shape (n_samples, n_dimensions), dtype `dtype`
            A row for each text; zeros where it has no word with a vector.
        """
        check_is_fitted(self)
        means, known = self._mean_vectors(self._counter.transform(X))
        means -= (means @ self.components_.T) @ self.components_
        return self._scale(means, known)

    def _mean_vectors(self, counts):
        """Return weighted means, zero without known words, and which rows have known words."""
        counts.data *= self.word_weights_[counts.indices]
        means = counts @ self.vectors_
        totals = np.asarray(counts.sum(axis=1)).ravel()
        known = totals > 0
        means /= np.where(known, totals, 1)[:, np.newaxis]
        return means, known

    def _scale(self, means, known):
        if self.scaler_ is not None and len(means):
            means = self.scaler_.transform(means, copy=False)
            means[~known] = 0
        if self.norm is not None and len(means):
            means = normalize(means, norm=self.norm, copy=False)
        return means

    def _read_vectors(self):
        """Return words and an array of their vectors, from what `vectors` is."""
        vectors = self.vectors
        if isinstance(vectors, str | os.PathLike):
            return load_word_vectors(
                vectors, vocabulary=self.vocabulary, limit=self.limit, encoding=self.encoding,
                decode_error=self.decode_error, verbose=self.verbose,
            )  # fmt: skip
        if hasattr(vectors, "key_to_index") and hasattr(vectors, "vectors"):
            words = sorted(vectors.key_to_index, key=vectors.key_to_index.get)
            rows = [vectors.key_to_index[word] for word in words]
            return _check_pair(words[: self.limit], vectors.vectors, rows[: self.limit])
        if isinstance(vectors, tuple | list) and len(vectors) == 2:
            words, array = vectors
            return _check_pair(list(words)[: self.limit], array[: self.limit], None)
        raise ValueError(
            "vectors has to be a path, a pair (words, array), or an object with the attributes "
            f"key_to_index and vectors; it is of type {type(vectors).__name__}"
        )

    @property
    def vocabulary_(self) -> dict[str, int]:
        """The row of each word in `vectors_`."""
        return self._counter.vocabulary_

    @property
    def _n_features_out(self):
        return self.vectors_.shape[1]

    def __sklearn_is_fitted__(self):
        """Whether `fit` has been called."""
        return hasattr(self, "scaler_")

    def __sklearn_tags__(self):
        """Return the tags of scikit-learn's own vectorizers: input is an iterable of texts."""
        tags = super().__sklearn_tags__()
        tags.input_tags.string = True
        tags.input_tags.two_d_array = False
        return tags


def _check_pair(words, vectors, rows):
    """Return words and their vectors, or raise what is wrong with them."""
    vectors = np.asarray(vectors)
    if rows is not None:
        vectors = vectors[rows]
    if vectors.ndim != 2 or not np.issubdtype(vectors.dtype, np.number):
        raise ValueError(
            "vectors: the array has to be of numbers and of shape (n_words, n_dimensions); it is "
            f"of {vectors.dtype} and shape {vectors.shape}"
        )
    if len(words) != len(vectors):
        raise ValueError(f"vectors: {len(words)} words have an array of {len(vectors)} rows")
    for word in words:
        if not isinstance(word, str):
            raise ValueError(f"vectors: the words have to be str, {word!r} is not")
    if not np.isfinite(vectors).all():
        row = np.flatnonzero(~np.isfinite(vectors).all(axis=1))[0]
        raise ValueError(f"vectors: the vector of {words[row]!r} is not finite")
    return words, vectors


def _rows_of_words(words, counter, vocabulary):
    """Return {word: row} of the words that a text can contain and the vocabulary has."""
    rows = {}
    for row, word in enumerate(words):
        rows.setdefault(word, row)
    if vocabulary is not None:
        wanted = frozenset(vocabulary)
        rows = {word: row for word, row in rows.items() if word in wanted}
        if not rows:
            raise ValueError("vocabulary: none of its words has a vector")
    own = (counter.analyzer, counter.tokenizer, counter.preprocessor)
    if any(callable(function) for function in own):
        return rows  # it may need a whole text
    analyze = counter.build_analyzer()
    possible = {word: row for word, row in rows.items() if word in analyze(word)}
    if not possible:
        examples = ", ".join(map(repr, list(rows)[:3]))
        raise ValueError(
            f"vectors: none of its {len(rows)} words, such as {examples}, is returned by the "
            "analysis of a text; check lowercase, token_pattern, analyzer and stop_words"
        )
    return possible


def _word_weights(counts, weighting):
    """Return the weight of every word, from the counts of the texts of the fit."""
    n_texts, n_words = counts.shape
    if weighting == "idf":
        n_texts_with = np.bincount(counts.indices, minlength=n_words)
        return np.log((1 + n_texts) / (1 + n_texts_with)) + 1
    if weighting == "sif":
        occurrences = np.bincount(counts.indices, weights=counts.data, minlength=n_words)
        return _SIF_A / (_SIF_A + occurrences / max(occurrences.sum(), 1))
    return np.ones(n_words)


def _first_components(means, n_components):
    """Return the first right singular vectors of the means."""
    gram = means.T.astype(np.float64) @ means.astype(np.float64)
    _, directions = np.linalg.eigh(gram)  # by increasing singular value
    last = directions.shape[1]
    return directions[:, last - n_components :].T[::-1].astype(means.dtype)
