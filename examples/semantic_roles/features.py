"""Features of candidates, as one CSR matrix: conjunctions of a few strings, hashed in arrays.

Strings are looked up once per word of a sentence, predicate or pair of both. Conjunctions of them
are computed for all candidates at a time, so no string is built for a row and a feature.
"""

import zlib
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from .candidates import NONE, build_tree, find_candidates, gold_roles
from .sentences import ancestors

N_BITS = 19  # of a column: 2 ** 19 columns for about a million of conjunctions in 12,500 sentences
MARKERS = ("case", "mark")
WORD = ("w", "x", "u", "r", "first", "last", "firstx", "left", "right", "leftx", "rightx",
        "marker", "below", "up", "suffix")  # fmt: skip
OF_PREDICATE = ("lemma", "sense", "voice", "frame", "subject")
OF_PAIR = ("side", "distance", "path", "words", "above", "rank", "branch", "slot", "commas", "near")

# Each feature is the conjunction of the strings named in it. Those of the candidate have their
# own names, those of the predicate begin with "p".
FEATURES = """
w  x  r  path  words  sense  lemma  marker  below  branch+r  slot  first  last
w+r  w+side  lemma+r+side  sense+r+side  sense+r+voice  lemma+r+marker  sense+path  lemma+path
sense+w  lemma+w  sense+marker  sense+marker+r  lemma+x+path  r+voice+side  path+voice  path+x
px+path  x+side+distance  r+distance+side  r+rank+side  path+rank  branch+path+w  frame
lemma+frame+r+side  slot+voice  sense+slot  marker+r  marker+w  w+px  r+pr  path+pr
left+r  right+r  leftx+x+rightx  first+r  last+r  firstx+x+r  up+r  r+subject+path
sense+r+subject+path  below+path  suffix+r  commas+path  near+r  u+path+marker  words+w  lemma+words
pw+r+marker  px+r+side+voice  pr+r+x+side  sense+suffix+r  marker+suffix+r  lemma+above+branch
"""


@dataclass
class Candidates:
    """All candidates of sentences, a row of X for each.

    `sentence`, `predicate` and `candidate` are parallel lists: a row is the pair of
    ``sentences[sentence]`` and its predicate number `predicate`. `starts` has the first row of
    every predicate, and the number of rows at the end.
    """

    X: sparse.csr_array
    roles: np.ndarray
    trees: list
    predicates: list  # (sentence number, predicate number) of every predicate
    candidates: list  # those of every predicate
    starts: np.ndarray


class Strings:
    """Numbers and hash values of strings."""

    def __init__(self):
        self.codes = {}

    def __call__(self, string):
        return self.codes.setdefault(string, len(self.codes))

    def hashes(self):
        """Return a hash value of 32 bits for each number, the same in every process."""
        values = [zlib.crc32(string.encode()) for string in self.codes]
        return np.array(values, dtype=np.uint64)


def extract(sentences, report=None):
    """Return the `Candidates` of all predicates of sentences.

    Parameters
    ----------
    sentences : list of Sentence
    report : callable, default=None
        Called with the number of sentences done, after each thousand.
    """
    strings, rows, roles = Strings(), [], []
    trees, predicates, candidates, starts = [], [], [], [0]
    for number, sentence in enumerate(sentences):
        tree = build_tree(sentence)
        trees.append(tree)
        words = word_strings(sentence, tree, strings) if sentence.predicates else None
        for order, predicate in enumerate(sentence.predicates):
            found = find_candidates(sentence, tree, predicate)
            own = predicate_strings(sentence, tree, predicate, strings) + words[predicate.token]
            pairs = pair_strings(sentence, tree, predicate, found, strings)
            rows.extend(
                words[candidate.token] + own + pair
                for candidate, pair in zip(found, pairs, strict=True)
            )
            roles.extend(role for role, _, _ in gold_roles(sentence, found, predicate))
            predicates.append((number, order))
            candidates.append(found)
            starts.append(len(rows))
        if report is not None and (number + 1) % 1000 == 0:
            report(number + 1)
    n_columns = 2 * len(WORD) + len(OF_PREDICATE) + len(OF_PAIR)
    codes = np.array(rows, dtype=np.int32).reshape(len(rows), n_columns)
    X = conjoin(codes, strings.hashes())
    return Candidates(X, np.array(roles), trees, predicates, candidates, np.array(starts))


def word_strings(sentence, tree, strings):
    """Return a list of numbers for each word, in the order of `WORD`."""
    forms = [form.lower() for form in sentence.tokens]
    padded, tags = ["<s>", *forms, "</s>"], ["<s>", *sentence.xpos, "</s>"]
    rows = []
    for token, form in enumerate(forms):
        first, last, head = tree.first[token], tree.last[token], sentence.heads[token]
        below = [sentence.relations[child] for child in tree.children[token]]
        markers = [
            forms[child]
            for child, relation in zip(tree.children[token], below, strict=True)
            if relation in MARKERS
        ]
        values = (
            form, sentence.xpos[token], sentence.upos[token], sentence.relations[token],
            forms[first], forms[last], sentence.xpos[first], padded[token], padded[token + 2],
            tags[token], tags[token + 2], " ".join(markers), " ".join(below[:6]),
            forms[head] if head >= 0 else "", form[-3:],
        )  # fmt: skip
        rows.append([strings(value) for value in values])
    return rows


def predicate_strings(sentence, tree, predicate, strings):
    """Return numbers of what a predicate is, in the order of `OF_PREDICATE`."""
    token, relations = predicate.token, sentence.relations
    children = tree.children[token]
    below = [relations[child] for child in children]
    if any(r in ("nsubjpass", "auxpass", "nsubj:pass", "aux:pass", "csubjpass") for r in below):
        voice = "passive"
    else:
        voice = "participle" if sentence.xpos[token] == "VBN" and "aux" not in below else "active"
    frame = [r for child, r in zip(children, below, strict=True) if child < token and r != "punct"]
    frame += ["V"] + [
        r for child, r in zip(children, below, strict=True) if child > token and r != "punct"
    ]
    subject = [r for r in below if r.startswith(("nsubj", "csubj"))]
    values = (
        predicate.lemma, predicate.roleset, voice, " ".join(frame), " ".join(subject),
    )  # fmt: skip
    return [strings(value) for value in values]


def pair_strings(sentence, tree, predicate, candidates, strings):
    """Return a list of numbers for each candidate, in the order of `OF_PAIR`."""
    token, relations = predicate.token, sentence.relations
    path = [token, *ancestors(sentence.heads, token)]
    up, words = [""], [""]
    for node in path[:-1]:
        up.append(f"{up[-1]}{relations[node]}^")
        words.append(f"{words[-1]}{sentence.tokens[path[len(words)]].lower()}^")
    seen, rows = {}, []
    frame = [c.token for c in candidates if c.above == 0 and relations[c.token] != "punct"]
    for candidate in sorted(candidates, key=lambda c: abs(c.token - token)):
        relation, above, branch = relations[candidate.token], candidate.above, candidate.branch
        side = "L" if candidate.token < token else "R"
        rank = seen[relation, side] = seen.get((relation, side), 0) + 1
        down = "" if branch >= 0 else relation
        slot = " ".join(
            f"[{relations[t]}]" if t == candidate.token else relations[t] for t in frame
        ) if above == 0 else f"{above}"  # fmt: skip
        low, high = sorted((candidate.token, token))
        values = (
            side, str(min(abs(candidate.token - token), 9)), up[above] + down,
            f"{words[above]}{down}", str(min(above, 5)), str(min(rank, 4)),
            relations[branch] if branch >= 0 else "", slot,
            str(min(sentence.tokens[low + 1 : high].count(","), 2)),
            "adjacent" if tree.first[candidate.token] == token + 1
            or tree.last[candidate.token] == token - 1 else "apart",
        )  # fmt: skip
        rows.append((candidate, [strings(value) for value in values]))
    return [values for _, values in sorted(rows)]


def feature_columns():
    """Return the columns of strings that each feature joins."""
    names = [*WORD, *OF_PREDICATE, *(f"p{name}" for name in WORD), *OF_PAIR]
    return [[names.index(part) for part in name.split("+")] for name in FEATURES.split()]


def conjoin(codes, hashes):
    """Return the features of rows of string numbers: a one for every conjunction."""
    features = feature_columns()
    columns = np.empty((len(codes), len(features)), dtype=np.int32)
    with np.errstate(over="ignore"):
        for order, parts in enumerate(features):
            key = np.full(len(codes), order + 1, dtype=np.uint64)
            for part in parts:
                key = (key ^ hashes[codes[:, part]]) * np.uint64(0x9E3779B97F4A7C15)
                key ^= key >> np.uint64(29)
            columns[:, order] = key >> np.uint64(64 - N_BITS)
    indptr = np.arange(len(codes) + 1, dtype=np.int32) * len(features)
    ones = np.ones(columns.size, dtype=np.float32)
    X = sparse.csr_array((ones, columns.ravel(), indptr), shape=(len(codes), 1 << N_BITS))
    X.sum_duplicates()
    X.data[:] = 1
    return X
