"""Features as one CSR matrix: conjunctions of a few strings, hashed in arrays.

A row is a pair of a predicate and a word of its sentence. Strings are looked up once per word,
predicate, or pair. Their conjunctions are computed for all rows at a time, so no string is built
for a row and a feature.
"""

import zlib

import numpy as np
from scipy import sparse

MARKERS = ("case", "mark")
PASSIVE = ("nsubjpass", "auxpass", "csubjpass", "nsubj:pass", "aux:pass", "csubj:pass")

# What is known of a word; the names with "p" in front of them are those of the predicate's word.
WORD = (
    "w", "x", "u", "r",  # form, language's tag, universal tag, relation to its head
    "first", "last", "firstx",  # of its subtree
    "left", "right", "leftx", "rightx",  # its neighbours
    "marker", "below", "up", "suffix",  # case and mark, relations of children, head, end
)  # fmt: skip
PREDICATE = ("lemma", "sense", "voice", "frame", "subject")


class Table:
    """Rows of strings, as numbers: of words, of predicates, and of pairs of both."""

    def __init__(self, pair_names):
        self.pair_names = pair_names
        self.codes = {}  # string -> number
        self.words, self.predicates, self.pairs = [], [], []
        self.word_of_predicate, self.word_of_pair, self.starts = [], [], [0]

    def add_sentence(self, sentence, tree):
        """Add the words of a sentence; return the number of the first one."""
        first = len(self.words)
        self.words.extend(map(self._numbers, word_strings(sentence, tree)))
        return first

    def add_predicate(self, first_word, sentence, tree, predicate, tokens, pairs):
        """Add a predicate and rows for its pairs with tokens; `pairs` has their strings."""
        self.predicates.append(self._numbers(predicate_strings(sentence, tree, predicate)))
        self.pairs.extend(map(self._numbers, pairs))
        self.word_of_predicate.append(first_word + predicate.token)
        self.word_of_pair.extend(first_word + token for token in tokens)
        self.starts.append(len(self.pairs))

    def conjoin(self, features, n_bits):
        """Return a CSR array with a one for every feature of every row.

        Parameters
        ----------
        features : list of str
            Names joined by "+": a feature for each combination of their strings.
        n_bits : int
            The array has ``2 ** n_bits`` columns.
        """
        columns = np.empty((len(self.pairs), len(features)), dtype=np.int32)
        for order, column in enumerate(self._hashed(features, n_bits)):
            columns[:, order] = column
        indptr = np.arange(len(columns) + 1, dtype=np.int32) * len(features)
        ones = np.ones(columns.size, dtype=np.float32)
        X = sparse.csr_array((ones, columns.ravel(), indptr), shape=(len(columns), 1 << n_bits))
        X.sum_duplicates()
        X.data[:] = 1
        return X

    def name_columns(self, features, n_bits):
        """Return {column: (name, count)}: its most frequent feature, and the rows that have it.

        A name is such as "sense+r=give.01 nsubj".
        """
        strings, names = list(self.codes), {}
        numbers = self._numbers_by_name()
        for feature, column in zip(features, self._hashed(features, n_bits), strict=True):
            found, rows, counts = np.unique(column, return_index=True, return_counts=True)
            for number, row, count in zip(found.tolist(), rows, counts.tolist(), strict=True):
                if number not in names or count > names[number][1]:
                    parts = [strings[numbers(name)[row]] or "-" for name in feature.split("+")]
                    names[number] = f"{feature}={' '.join(parts)}", count
        return names

    def _numbers(self, strings):
        codes = self.codes
        return [codes.setdefault(string, len(codes)) for string in strings]

    def _numbers_by_name(self):
        """Return a function from a name to the numbers of its strings in all rows."""
        words, predicates, pairs = (
            np.array(rows, dtype=np.int32).reshape(len(rows), len(names)).T
            for rows, names in (
                (self.words, WORD), (self.predicates, PREDICATE), (self.pairs, self.pair_names),
            )
        )  # fmt: skip
        word = np.array(self.word_of_pair, dtype=np.intp)
        predicate = np.repeat(np.arange(len(self.predicates)), np.diff(self.starts))
        head = np.array(self.word_of_predicate, dtype=np.intp)[predicate]

        def numbers(name):
            if name in self.pair_names:
                return pairs[self.pair_names.index(name)]
            if name in PREDICATE:
                return predicates[PREDICATE.index(name)][predicate]
            if name in WORD:
                return words[WORD.index(name)][word]
            return words[WORD.index(name.removeprefix("p"))][head]

        return numbers

    def _hashed(self, features, n_bits):
        """Yield the column of each feature in all rows, the same in every process."""
        hashes = np.array([zlib.crc32(string.encode()) for string in self.codes], dtype=np.uint64)
        numbers = self._numbers_by_name()
        for order, feature in enumerate(features):
            key = np.full(len(self.pairs), order + 1, dtype=np.uint64)
            for name in feature.split("+"):
                key ^= hashes[numbers(name)]
                key *= np.uint64(0x9E3779B97F4A7C15)  # odd, half of its bits are ones
                key ^= key >> np.uint64(29)
            yield key >> np.uint64(64 - n_bits)


def word_strings(sentence, tree):
    """Return a row of strings for each word, in the order of `WORD`."""
    forms = [form.lower() for form in sentence.tokens]
    padded, tags = ["<s>", *forms, "</s>"], ["<s>", *sentence.xpos, "</s>"]
    rows = []
    for token, form in enumerate(forms):
        first, head, children = tree.first[token], sentence.heads[token], tree.children[token]
        markers = [forms[child] for child in children if sentence.relations[child] in MARKERS]
        below = [sentence.relations[child] for child in children[:6]]
        rows.append((
            form, sentence.xpos[token], sentence.upos[token], sentence.relations[token],
            forms[first], forms[tree.last[token]], sentence.xpos[first],
            padded[token], padded[token + 2], tags[token], tags[token + 2],
            " ".join(markers), " ".join(below), forms[head] if head >= 0 else "", form[-3:],
        ))  # fmt: skip
    return rows


def predicate_strings(sentence, tree, predicate):
    """Return what a predicate is, in the order of `PREDICATE`."""
    token, children = predicate.token, tree.children[predicate.token]
    relations = [sentence.relations[child] for child in children]
    if any(relation in PASSIVE for relation in relations):
        voice = "passive"
    elif sentence.xpos[token] == "VBN" and "aux" not in relations:
        voice = "participle"
    else:
        voice = "active"
    before = sum(child < token for child in children)
    frame = [r for r in (*relations[:before], "V", *relations[before:]) if r != "punct"]
    subjects = [r for r in relations if r.startswith(("nsubj", "csubj"))]
    return predicate.lemma, predicate.roleset, voice, " ".join(frame), " ".join(subjects)
