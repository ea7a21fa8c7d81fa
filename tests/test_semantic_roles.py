"""The application that labels semantic roles: readers, candidates, decoding, scores, commands."""

import gzip
import itertools
import json
import subprocess
import sys
from pathlib import Path

import joblib
import numpy as np
import pytest
from numpy.testing import assert_array_equal
from semantic_roles import __main__ as command_line
from semantic_roles.candidates import NONE, SpanRules, build_tree, find_candidates, gold_roles
from semantic_roles.decoding import (
    CORE,
    allowed_tags,
    decode_candidates,
    log_odds_of_transitions,
    viterbi,
)
from semantic_roles.features import PREDICATE, WORD
from semantic_roles.labeller import CandidateLabeller, TagLabeller
from semantic_roles.pairs import CANDIDATE_FEATURES, OF_CANDIDATE
from semantic_roles.scoring import score_arguments
from semantic_roles.sentences import (
    Argument,
    Predicate,
    Sentence,
    arguments_of_tags,
    read_sentences,
    tags_of_arguments,
)
from sklearn.linear_model import SGDClassifier

PROJECT = Path(__file__).resolve().parents[1]
VERSION_1 = """\
# text = She gave him books .
1	She	she	PRON	PRP	_	2	nsubj	_	_	_	A0
2	gave	give	VERB	VBD	_	0	root	_	_	give.01	V
3	him	he	PRON	PRP	_	2	iobj	_	_	_	A2
4-5	booksies	_	_	_	_	_	_	_	_	_	_
4	old	old	ADJ	JJ	_	5	amod	_	_	_	_
5	books	book	NOUN	NNS	_	2	dobj	_	_	_	A1
6	.	.	PUNCT	.	_	2	punct	_	_	_	_
"""
VERSION_2 = """\
# global.columns = ID FORM LEMMA UPOS XPOS FEATS HEAD DEPREL DEPS MISC UP:PRED UP:ARGSPANS
1	She	she	PRON	PRP	_	2	nsubj	_	_	_	_
2	gave	give	VERB	VBD	_	0	root	_	_	give.01	A0:1-1|A2:3-3|A1:4-5|V:2-2
3	him	he	PRON	PRP	_	2	iobj	_	_	_	_
4	old	old	ADJ	JJ	_	5	amod	_	_	_	_
5	books	book	NOUN	NNS	_	2	dobj	_	_	_	_
6	.	.	PUNCT	.	_	2	punct	_	_	_	_

"""
HEADS = VERSION_2.replace("ARGSPANS", "ARGHEADS").replace(":1-1|A2:3-3|A1:4-5", ":1|A2:3|A1:5")
JSON_LINE = json.dumps(
    {
        "tokens": ["She", "gave", "him", "old", "books", "."],
        "upos": ["PRON", "VERB", "PRON", "ADJ", "NOUN", "PUNCT"],
        "xpos": ["PRP", "VBD", "PRP", "JJ", "NNS", "."],
        "head": [2, 0, 2, 5, 2, 2],
        "deprel": ["nsubj", "root", "iobj", "amod", "dobj", "punct"],
        "predicates": [
            {
                "index": 1,
                "lemma": "give",
                "roleset": "give.01",
                "tags": ["B-ARG0", "B-V", "B-ARG2", "B-ARG1", "I-ARG1", "O"],
            }
        ],
    }
)
GIVE = [Argument(0, 1, "ARG0"), Argument(2, 3, "ARG2"), Argument(3, 5, "ARG1")]


@pytest.fixture(scope="module")
def sentences():
    return read_sentences(command_line.HAND_MADE)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.conllu", VERSION_1),
        ("a.conllup", VERSION_2),
        ("a.conllup", HEADS),
        ("a.jsonl", JSON_LINE),
        ("a.jsonl.gz", JSON_LINE),
    ],
)  # fmt: skip
def test_all_formats_give_the_same_sentence(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    (sentence,) = read_sentences(path)
    row = json.loads(JSON_LINE)
    assert sentence.tokens == row["tokens"] and sentence.relations == row["deprel"]
    assert sentence.upos == row["upos"] and sentence.xpos == row["xpos"]
    assert sentence.heads == [1, -1, 1, 4, 1, 1]
    assert sentence.predicates == [Predicate(1, "give", "give.01", GIVE)]


def test_files_without_roles_or_trees_are_read(tmp_path):
    path = tmp_path / "a.conllu"
    path.write_text("1\tGo\tgo\tVERB\tVB\t_\t_\t_\t_\t_\n2\t!\t!\tPUNCT\t.\t_\t_\t_\t_\t_\n")
    (sentence,) = read_sentences(path)
    assert sentence.heads == [-1, -1] and sentence.predicates == []


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("a.conllu", "1\tShe\n", "line 1: 2 columns, expected 10"),
        ("a.conllu", VERSION_1.replace("\t2\tdobj", "\tx\tdobj"), "sentence at line 2"),
        ("a.conllu", VERSION_1.replace("\t2\tdobj", "\t9\tdobj"), "line 2: the head of token 5"),
        ("a.conllu", VERSION_1.replace("\t0\troot", "\t5\troot"), "token 2 is in no tree"),
        ("a.jsonl", "{}", "line 1: no sentence"),
        ("a.jsonl", JSON_LINE.replace('"index": 1', '"index": 7'), "outside of the sentence"),
        ("a.jsonl", JSON_LINE.replace('"PRP", "VBD", ', ""), "different lengths"),
    ],
)
def test_broken_files_are_errors_that_name_file_and_line(tmp_path, name, text, message):
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        read_sentences(path)
    assert str(path) in str(caught.value)


def test_tags_and_arguments_are_turned_into_each_other():
    tags = ["B-ARG0", "B-V", "O", "B-ARG1", "I-ARG1", "B-ARG1"]
    arguments = arguments_of_tags(tags)
    assert arguments == [(0, 1, "ARG0"), (3, 5, "ARG1"), (5, 6, "ARG1")]
    assert tags_of_arguments(arguments, 6) == [t if t != "B-V" else "O" for t in tags]
    assert arguments_of_tags(["O", "I-ARG1", "I-ARG2"]) == [(1, 2, "ARG1"), (2, 3, "ARG2")]


def test_candidates_are_the_children_of_the_predicate_and_of_its_ancestors(sentences):
    """ "The dog that chased the cat did not bark": dog, its children, bark, and its children."""
    sentence = sentences[4]
    tree, chased = build_tree(sentence), sentence.predicates[0]
    found = find_candidates(sentence, tree, chased)
    names = [sentence.tokens[candidate.token] for candidate in found]
    assert names == ["The", "dog", "that", "cat", "did", "not", "bark", "."]
    assert [c.above for c in found] == [1, 1, 0, 0, 2, 2, 2, 2]
    roles = [
        argument.role if argument else NONE for argument in gold_roles(sentence, found, chased)
    ]
    assert roles == [NONE, "ARG0", "R-ARG0", "ARG1", NONE, NONE, NONE, NONE]


def test_rules_of_spans_give_back_the_arguments_they_were_counted_from(sentences, monkeypatch):
    monkeypatch.setattr("semantic_roles.candidates.MIN_COUNT", 1)
    rules, cases = SpanRules(), []
    for sentence in sentences:
        tree = build_tree(sentence)
        for predicate in sentence.predicates:
            found = find_candidates(sentence, tree, predicate)
            for candidate, argument in zip(
                found, gold_roles(sentence, found, predicate), strict=True
            ):
                if argument:
                    rules.fit_argument(sentence, tree, candidate, argument)
                    cases.append((sentence, tree, candidate, argument))
    right = [rules.span(*case[:3], case[3].role) == case[3][:2] for case in cases]
    assert len(right) == 50 and np.mean(right) > 0.95


def test_a_child_before_the_branch_of_the_predicate_ends_the_span(sentences):
    """The dog is the argument of "chased", without the clause that has it."""
    sentence = sentences[4]
    tree = build_tree(sentence)
    dog = find_candidates(sentence, tree, sentence.predicates[0])[1]
    assert SpanRules().span(sentence, tree, dog, "ARG0") == (0, 2)


def slow_decoding(probabilities, roles, spans, predicate):
    """Try every choice of roles."""
    best, result = -1.0, None
    for columns in itertools.product(range(len(roles)), repeat=len(probabilities)):
        chosen = [
            (*spans[number, roles[column]], roles[column])
            for number, column in enumerate(columns)
            if roles[column] != NONE
        ]
        core = [role for _, _, role in chosen if role in CORE]
        places = [place for start, end, _ in chosen for place in range(start, end)]
        if len(set(core)) < len(core) or len(set(places)) < len(places) or predicate in places:
            continue
        product = np.prod(probabilities[range(len(columns)), columns])
        if product > best:
            best, result = product, sorted(chosen)
    return result


@pytest.mark.parametrize("seed", range(20))
def test_decoding_finds_what_trying_all_choices_finds(seed):
    rng = np.random.RandomState(seed)
    roles = [NONE, "ARG0", "ARG1", "ARGM-TMP"]
    heads = rng.choice(12, 5, replace=False)
    probabilities = rng.dirichlet(np.full(4, 0.5), size=5)
    spans = {
        (number, role): (max(head - rng.randint(3), 0), head + 1 + rng.randint(3))
        for number, head in enumerate(heads)
        for role in roles
    }
    found = decode_candidates(
        probabilities, roles, lambda number, role: spans[number, role], predicate=6
    )
    assert found == slow_decoding(probabilities, roles, spans, predicate=6)


def test_probabilities_of_zero_and_one_are_decoded():
    spans = {0: (0, 1), 1: (0, 2)}
    found = decode_candidates(
        np.array([[0.0, 1.0], [1.0, 0.0]]), [NONE, "ARG1"], lambda n, _: spans[n], predicate=5
    )
    assert found == [Argument(0, 1, "ARG1")]
    found = decode_candidates(np.ones((1, 1)), ["ARG1"], lambda n, _: spans[n], predicate=5)
    assert found == [Argument(0, 1, "ARG1")]


@pytest.mark.parametrize("seed", range(5))
def test_viterbi_finds_what_trying_all_sequences_finds(seed):
    rng = np.random.RandomState(seed)
    tags = ["B-A", "B-B", "I-A", "I-B", "O"]
    allowed, may_begin = allowed_tags(tags)
    transitions = rng.randn(5, 5)
    lengths = [3, 1, 4, 2, 4]
    starts = np.concatenate([[0], np.cumsum(lengths)])
    probabilities = rng.dirichlet(np.ones(5), size=starts[-1])
    found = viterbi(probabilities, starts, allowed, may_begin, transitions)
    for start, end in itertools.pairwise(starts):
        logs = np.log(probabilities[start:end])

        def score(path, logs=logs):
            if not may_begin[path[0]] or not all(
                allowed[a, b] for a, b in itertools.pairwise(path)
            ):
                return -np.inf
            steps = [transitions[a, b] for a, b in itertools.pairwise(path)]
            return sum(steps) + logs[range(len(path)), path].sum()

        best = max(itertools.product(range(5), repeat=end - start), key=score)
        assert tuple(found[start:end]) == best


def test_a_tag_goes_on_only_with_its_own_role():
    allowed, may_begin = allowed_tags(["B-A", "B-B", "I-A", "O"])
    assert_array_equal(may_begin, [True, True, False, True])
    assert_array_equal(allowed[:, 2], [True, False, True, False])
    assert allowed[:, [0, 1, 3]].all()


def test_transitions_are_log_odds():
    """Counts of pairs: A before B twice, B before A once."""
    odds = log_odds_of_transitions([["A", "B"], ["A", "B"], ["B", "A"]])
    assert odds[0, 1] == pytest.approx(np.log(2 / 3 / (2 / 3 * 2 / 3)), abs=0.02)
    assert odds[1, 0] == pytest.approx(np.log(1 / 3 / (1 / 3 * 1 / 3)), abs=0.02)
    assert odds[0, 0] < 0 and odds[1, 1] < 0


def test_scores_of_a_case_computed_by_hand():
    """Two predicates: two right, one with a wrong role, one with a wrong end, one missed."""
    gold = [
        [Argument(0, 1, "ARG0"), Argument(2, 4, "ARG1"), Argument(5, 6, "ARGM-TMP")],
        [Argument(0, 2, "ARG1"), Argument(3, 4, "ARG1")],
    ]
    found = [
        [Argument(0, 1, "ARG0"), Argument(2, 3, "ARG1"), Argument(5, 6, "ARGM-LOC")],
        [Argument(0, 2, "ARG1")],
    ]
    labelled, unlabelled, by_role = score_arguments(found, gold)
    assert labelled == (2, 4, 5) and unlabelled == (3, 4, 5)
    assert labelled.precision == 0.5 and labelled.recall == 0.4
    assert labelled.f1 == pytest.approx(2 * 0.5 * 0.4 / 0.9)
    assert list(by_role.items()) == [
        ("ARG1", (1, 2, 3)), ("ARG0", (1, 1, 1)), ("ARGM-TMP", (0, 0, 1)), ("ARGM-LOC", (0, 1, 0)),
    ]  # fmt: skip


def test_scores_without_arguments_are_zero_and_lengths_are_checked():
    assert score_arguments([[]], [[]])[0].f1 == 0
    assert score_arguments([[]], [GIVE])[0].precision == 0
    with pytest.raises(ValueError, match="1 predicates have been labelled, 0 are known"):
        score_arguments([[]], [])


def test_rows_have_a_column_for_the_strings_of_each_feature(sentences):
    """The same strings have the same column, other strings (hardly ever) another one."""
    labeller = CandidateLabeller(n_bits=24)
    rows = labeller.extract(sentences)
    assert rows.X.shape == (rows.starts[-1], 1 << 24)
    assert_array_equal(np.diff(rows.X.indptr), len(CANDIDATE_FEATURES))
    assert (rows.X.data == 1).all()
    names = rows.table.name_columns(CANDIDATE_FEATURES, 24)
    assert set(names) == set(rows.X.indices.tolist())
    counts = np.bincount(rows.X.indices, minlength=1 << 24)
    assert all(count == counts[column] for column, (_, count) in names.items())
    first = {names[column][0] for column in rows.X[[0]].indices}  # "teacher" of "gave"
    assert {"w=teacher", "r=nsubj", "sense+r+side=give.01 nsubj L", "px+path=VBD nsubj"} <= first
    assert {part for name in CANDIDATE_FEATURES for part in name.split("+")} <= {
        *WORD, *PREDICATE, *OF_CANDIDATE, *(f"p{name}" for name in WORD),
    }  # fmt: skip


def test_columns_do_not_depend_on_other_sentences(sentences):
    together = CandidateLabeller().extract(sentences)
    alone = CandidateLabeller().extract(sentences[3:4])
    start = together.starts[[n for n, _ in together.predicates].index(3)]
    assert (together.X[start : start + alone.X.shape[0]] != alone.X).nnz == 0


@pytest.mark.parametrize(
    "labeller", [CandidateLabeller(), TagLabeller(), TagLabeller(syntax=False)], ids=type
)
def test_labellers_learn_the_hand_made_sentences_and_are_saved(labeller, sentences, tmp_path):
    calls = []
    labeller.set_params(report=lambda n_done, n_all: calls.append((n_done, n_all)))
    found = labeller.fit(sentences).predict(sentences)
    assert score_arguments(found, command_line.gold_arguments(sentences))[0].f1 > 0.9
    assert calls[-1] == (len(sentences), len(sentences))
    labeller.save(tmp_path / "model.joblib")
    loaded = joblib.load(tmp_path / "model.joblib")
    assert loaded.report is None
    assert loaded.predict(sentences) == found
    assert loaded.predict([]) == [] or len(loaded.predict([])) == 0


@pytest.mark.parametrize("labeller", [CandidateLabeller(), TagLabeller()], ids=type)
def test_arguments_do_not_overlap_and_core_roles_occur_once(labeller, sentences):
    for found in labeller.fit(sentences[:3]).predict(sentences):
        assert all(a.end <= b.start for a, b in itertools.pairwise(found))
        if isinstance(labeller, CandidateLabeller):
            core = [argument.role for argument in found if argument.role in CORE]
            assert len(core) == len(set(core))


def test_sentences_without_predicates_are_skipped(sentences):
    bare = Sentence(["Hello"], ["INTJ"], ["UH"], [-1], ["root"])
    labeller = CandidateLabeller().fit([bare, *sentences])
    assert labeller.predict([bare, *sentences, bare]) == labeller.predict(sentences)
    with pytest.raises(ValueError, match="there is no predicate"):
        CandidateLabeller().fit([bare])


def test_other_classifiers_are_fitted_to_the_same_rows(sentences):
    rows = CandidateLabeller().extract(sentences)
    classifier = SGDClassifier(loss="log_loss", random_state=0)
    found = CandidateLabeller(classifier).fit_rows(sentences, rows).predict_rows(sentences, rows)
    assert score_arguments(found, command_line.gold_arguments(sentences))[0].f1 > 0.9


def test_commands_train_evaluate_label_draw_and_compare(tmp_path, capsys):
    model, picture = tmp_path / "model.joblib", tmp_path / "sentence.svg"
    command_line.main(["train", str(model)])
    assert "MB" in capsys.readouterr().out
    command_line.main(["evaluate", str(model)])
    assert "ARGM-TMP" in capsys.readouterr().out
    command_line.main(["label", str(model), "--picture", str(picture)])
    assert "give.01: [ARG0 The teacher] [ARG2 the children]" in capsys.readouterr().out
    assert picture.stat().st_size > 1000
    command_line.main(["features", str(model), "ARG0"])
    assert "nsubj" in capsys.readouterr().out
    command_line.main(["compare"])
    lines = capsys.readouterr().out.splitlines()
    assert sum("LinearSVC" in line for line in lines) == 1
    command_line.main(["train", str(model), "--method", "tags", "--no-syntax"])
    assert joblib.load(model).syntax is False


def test_the_application_runs_as_a_module():
    done = subprocess.run(
        [sys.executable, "-m", "examples.semantic_roles", "--help"],
        cwd=PROJECT, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert "evaluate" in done.stdout


def test_real_sentences_are_labelled_better_than_by_the_most_frequent_roles(data_home):
    folder = data_home / "srl_propbank_ewt"
    train = read_sentences(folder / "train.jsonl.gz")[::16]
    test = read_sentences(folder / "dev.jsonl.gz")[::4]
    labeller = CandidateLabeller().fit(train)
    labelled, unlabelled, _ = score_arguments(
        labeller.predict(test), command_line.gold_arguments(test)
    )
    assert labelled.f1 > 0.7
    assert unlabelled.f1 > 0.85
