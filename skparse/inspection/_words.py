"""Contributions of features to the words of a text, in which n-grams overlap."""

import re
from typing import NamedTuple


class Word(NamedTuple):
    """A word of a text."""

    text: str
    contribution: float
    known: bool  # whether it is part of a feature


def split_contributions(vectorizer, text, contributions):
    """Distribute the contributions of n-grams over the words of a text.

    Every occurrence of an n-gram has an equal part of its contribution, and each of its words an
    equal part of that.

    Parameters
    ----------
    vectorizer : CountVectorizer or None
        With analyzer "word", "char" or "char_wb". With another one, a word gets the
        contribution of the feature that is written like it.
    text : str
    contributions : dict from str to float
        By the names of all features in the text.

    Returns
    -------
    list of Word
        The words of the text, split at spaces. Their contributions add up to all of the given
        ones that were found.
    """
    words = [match.span() for match in re.finditer(r"\S+", text)]
    occurrences = {}  # of every n-gram, the words that each covers
    for ngram, spans in _find_ngrams(vectorizer, text):
        if ngram in contributions:
            covered = _words_in(words, spans)
            occurrences.setdefault(ngram, []).append(covered)
    sums, known = [0.0] * len(words), [False] * len(words)
    for ngram, places in occurrences.items():
        for covered in places:
            for word in covered:
                sums[word] += contributions[ngram] / len(places) / len(covered)
                known[word] = True
    return [
        Word(text[start:end], contribution, is_known)
        for (start, end), contribution, is_known in zip(words, sums, known, strict=True)
    ]


def _words_in(words, spans):
    """Numbers of the words that overlap with any of the spans."""
    return [
        number
        for number, (start, end) in enumerate(words)
        if any(first < end and last > start for first, last in spans)
    ]


def _find_ngrams(vectorizer, text):
    """Yield (n-gram, places of its parts) of a text, as a vectorizer makes them."""
    analyzer = getattr(vectorizer, "analyzer", None)
    prepared = text if vectorizer is None else vectorizer.build_preprocessor()(text)
    if len(prepared) != len(text) or analyzer not in ("word", "char", "char_wb"):
        # The places in the text are not known: only whole words are looked for.
        units = [(match.group(), *match.span()) for match in re.finditer(r"\w+", text.lower())]
        yield from _join(units, 1, 1, "")
    elif analyzer == "word":
        yield from _join(_find_tokens(vectorizer, prepared), *vectorizer.ngram_range, " ")
    elif analyzer == "char":
        yield from _join(_find_characters(prepared), *vectorizer.ngram_range, "")
    else:
        smallest, largest = vectorizer.ngram_range
        for match in re.finditer(r"\S+", prepared):
            padded = f" {match.group()} "
            for n in range(smallest, largest + 1):
                for i in range(max(1, len(padded) - n + 1)):
                    yield padded[i : i + n], [match.span()]
                if n >= len(padded):  # a short word is one n-gram, however many sizes there are
                    break


def _join(units, smallest, largest, between):
    """Yield the n-grams of units (unit, start, end)."""
    for n in range(smallest, largest + 1):
        for i in range(len(units) - n + 1):
            part = units[i : i + n]
            yield between.join(unit for unit, _, _ in part), [place for _, *place in part]


def _find_tokens(vectorizer, text):
    """Tokens of a text that are no stop words, with their places."""
    if vectorizer.tokenizer is not None:  # it does not give the places
        return [(match.group(), *match.span()) for match in re.finditer(r"\w+", text)]
    stop_words = vectorizer.get_stop_words() or ()
    pattern = re.compile(vectorizer.token_pattern)
    group = 1 if pattern.groups else 0
    return [
        (match.group(group), *match.span(group))
        for match in pattern.finditer(text)
        if match.group(group) not in stop_words
    ]


def _find_characters(text):
    """Characters with their places; of several spaces, as in character n-grams, one."""
    return [
        (" " if len(match.group()) > 1 else match.group(), *match.span())
        for match in re.finditer(r"\s\s+|.", text, flags=re.DOTALL)
    ]
