"""Parsed sentences with their predicates: CoNLL-U with PropBank columns, and JSON lines."""

import gzip
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

PREDICATE = "V"  # the role of the predicate itself, which no scorer counts
EXTENDED = "# global.columns ="
COLUMNS = "ID FORM LEMMA UPOS XPOS FEATS HEAD DEPREL DEPS MISC".split()


class Argument(NamedTuple):
    """A role of the tokens from `start` to `end`, without `end`."""

    start: int
    end: int
    role: str


@dataclass
class Predicate:
    """A word with arguments; `arguments` are empty where they are not known."""

    token: int
    lemma: str
    roleset: str
    arguments: list = field(default_factory=list)


@dataclass
class Sentence:
    """Tokens with their tree: `heads` are positions, -1 for the root."""

    tokens: list
    upos: list
    xpos: list
    heads: list
    relations: list
    predicates: list = field(default_factory=list)


def read_sentences(path):
    """Read sentences from ``.jsonl``, ``.conllu`` or ``.conllup``, also with ``.gz``.

    Raises
    ------
    ValueError
        If a sentence is broken; the message names file and line.
    """
    path = Path(path)
    opener = gzip.open if path.suffix == ".gz" else open
    read = _read_json if ".jsonl" in path.suffixes else _read_conllu
    with opener(path, "rt", encoding="utf-8") as lines:
        return list(read(lines, path))


def arguments_of_tags(tags):
    """Return the arguments of BIO tags, ordered by start, without the predicate itself."""
    arguments, start = [], None
    for position, tag in enumerate([*tags, "O"]):
        if start is not None and tag != f"I-{tags[start][2:]}":
            arguments.append(Argument(start, position, tags[start][2:]))
            start = None
        if tag.startswith("B-") or (tag.startswith("I-") and start is None):
            start = position
    return [argument for argument in arguments if argument.role != PREDICATE]


def tags_of_arguments(arguments, n_tokens):
    """Return the BIO tags of arguments that do not overlap."""
    tags = ["O"] * n_tokens
    for start, end, role in arguments:
        tags[start:end] = [f"B-{role}", *[f"I-{role}"] * (end - start - 1)]
    return tags


def _read_json(lines, path):
    for number, line in enumerate(lines, start=1):
        try:
            row = json.loads(line)
            heads = [head - 1 for head in row["head"]]
            predicates = [
                Predicate(p["index"], p["lemma"], p["roleset"], arguments_of_tags(p["tags"]))
                for p in row["predicates"]
            ]
            parts = row["tokens"], row["upos"], row["xpos"], heads, row["deprel"]
            sentence = _check(Sentence(*parts, predicates))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}, line {number}: no sentence ({error!r})") from error
        yield sentence


def _read_conllu(lines, path):
    """Yield the sentences of both formats of the Universal PropBanks.

    Version 1 has the roleset in column 11 and a column for each predicate behind it, with roles
    at the heads of arguments. Version 2 names its columns in the first line: UP:PRED, and
    UP:ARGSPANS with entries such as ``A0:1-2``, or UP:ARGHEADS.
    """
    columns, rows, start = COLUMNS, [], 1
    for number, line in enumerate([*lines, ""], start=1):
        line = line.rstrip("\n")
        if line.startswith(EXTENDED):
            columns = line.removeprefix(EXTENDED).split()
        elif line.startswith("#"):
            continue
        elif line.strip():
            fields = line.split("\t")
            if len(fields) < len(columns):
                raise ValueError(
                    f"{path}, line {number}: {len(fields)} columns, expected {len(columns)}"
                )
            if fields[0].isdigit():  # no multiword token, no empty node
                start = start if rows else number
                rows.append(fields)
        elif rows:
            try:
                sentence = _check(_sentence_of_rows(rows, columns))
            except (ValueError, IndexError) as error:
                raise ValueError(f"{path}, sentence at line {start}: {error}") from error
            yield sentence
            rows = []


def _sentence_of_rows(rows, columns):
    at = {name: [row[columns.index(name)] for row in rows] for name in columns}
    heads = [int(head) - 1 if head != "_" else -1 for head in at["HEAD"]]
    _check_heads(heads)
    sentence = Sentence(at["FORM"], at["UPOS"], at["XPOS"], heads, at["DEPREL"])
    n_columns = len(columns)
    if "UP:PRED" in at:
        senses, values = at["UP:PRED"], at.get("UP:ARGSPANS", at.get("UP:ARGHEADS"))
    else:
        senses, values = [row[n_columns] if len(row) > n_columns else "_" for row in rows], None
    places = [token for token, sense in enumerate(senses) if sense not in ("_", "")]
    for order, token in enumerate(places):
        if values is None:
            column = [row[n_columns + 1 + order : n_columns + 2 + order] for row in rows]
            pairs = [(role[0], str(i)) for i, role in enumerate(column, start=1) if role]
        else:
            pairs = [tuple(entry.split(":", 1)) for entry in values[token].split("|")]
        lemma = at["LEMMA"][token] if at["LEMMA"][token] != "_" else senses[token].split(".")[0]
        arguments = [
            Argument(*_span(place[0], sentence.heads), _full_role(role))
            for role, *place in pairs
            if role not in ("_", "", PREDICATE)
        ]
        arguments = sorted(a for a in arguments if a.role != PREDICATE)
        sentence.predicates.append(Predicate(token, lemma, senses[token], arguments))
    return sentence


def _span(place, heads):
    """Return start and end of "2-4", or of the subtree of a head "3"."""
    first, _, last = place.partition("-")
    if last:
        return int(first) - 1, int(last)
    head = int(first) - 1
    inside = [token for token in range(len(heads)) if head in ancestors(heads, token)]
    return min([head, *inside]), max([head, *inside]) + 1


def ancestors(heads, token):
    """Return the tokens above a token, the nearest first."""
    above = []
    while heads[token] >= 0 and len(above) < len(heads):
        token = heads[token]
        above.append(token)
    return above


def _full_role(role):
    """Return PropBank's long name: ARG0 for A0, ARGM-TMP for AM-TMP."""
    for prefix in ("", "C-", "R-"):
        name = role.removeprefix(prefix)
        if role.startswith(prefix) and name[:1] == "A" and name[1:2].isdigit():
            return f"{prefix}ARG{name[1:]}"
        if role.startswith(prefix) and name.startswith("AM-"):
            return f"{prefix}ARGM-{name[3:]}"
    return role


def _check_heads(heads):
    for token, head in enumerate(heads):
        if not -1 <= head < len(heads):
            raise ValueError(f"the head of token {token + 1} is outside of the sentence")
    for token in range(len(heads)):
        if token in ancestors(heads, token):
            raise ValueError(f"token {token + 1} is in no tree: it is above itself")


def _check(sentence):
    n_tokens = len(sentence.tokens)
    columns = (sentence.upos, sentence.xpos, sentence.heads, sentence.relations)
    if any(len(column) != n_tokens for column in columns):
        raise ValueError("the columns have different lengths")
    _check_heads(sentence.heads)
    for predicate in sentence.predicates:
        ends = [predicate.token + 1, *(argument.end for argument in predicate.arguments)]
        if max(ends) > n_tokens:
            raise ValueError("a position is outside of the sentence")
    return sentence
