"""Files of word vectors: formats, broken files, memory."""

import gzip
import lzma
import pickle
import sys
import tracemalloc
import zipfile

import numpy as np
import pytest
from numpy.testing import assert_array_equal
from sklearn.base import clone

from skparse.feature_extraction import WordVectors, _vector_files, load_word_vectors

WORDS = ["the", "straße", ", .", "new york", "the_end"]
VECTORS = np.array([[0.5, -1, 3e-5], [1, 2, 3], [0, 0, 0], [4.25, 5, 6], [-7, 8, 9]], np.float32)


def lines_of(words=WORDS, vectors=VECTORS, separator=" ", end="\n"):
    return "".join(
        separator.join([word, *map(str, vector)]) + end
        for word, vector in zip(words, vectors.tolist(), strict=True)
    )


def binary_of(words, vectors, end=b"\n"):
    header = f"{len(words)} {vectors.shape[1]}\n".encode()
    return header + b"".join(
        word.encode() + b" " + vector.astype("<f4").tobytes() + end
        for word, vector in zip(words, vectors, strict=True)
    )


def write(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


TEXTS = {
    "GloVe": lines_of(),
    "header": "5 3\n" + lines_of(),
    "fastText ends lines with a space": "5 3\n" + lines_of(end=" \n"),
    "line ends of Windows": lines_of(end="\r\n"),
    "no line end at the end": lines_of().removesuffix("\n"),
    "blank lines": "\n".join(["", *lines_of().splitlines(), "  ", ""]).lstrip("\n"),
    "byte order mark": "\ufeff" + lines_of(),
    "tabs": lines_of(separator="\t"),
    "several spaces": lines_of(separator="  "),
}


@pytest.mark.parametrize("text", TEXTS.values(), ids=TEXTS)
def test_text_formats_give_words_and_vectors(tmp_path, text):
    words, vectors = load_word_vectors(write(tmp_path / "vectors.txt", text))
    assert words == WORDS
    assert vectors.dtype == np.float32
    assert_array_equal(vectors, VECTORS)


@pytest.mark.parametrize("block", [16, 64, 1 << 19])
@pytest.mark.parametrize("end", [b"\n", b""], ids=["line breaks", "no line breaks"])
def test_binaries_of_word2vec_give_words_and_vectors(tmp_path, monkeypatch, block, end):
    monkeypatch.setattr(_vector_files, "_BLOCK", block)
    words = [word.replace(" ", "_") for word in WORDS]
    vectors = np.random.RandomState(0).randn(5, 7).astype(np.float32)
    path = write(tmp_path / "vectors.bin", binary_of(words, vectors, end))
    loaded = load_word_vectors(str(path))
    assert loaded.words == words
    assert_array_equal(loaded.vectors, vectors)
    assert load_word_vectors(path, limit=2).words == words[:2]
    some = load_word_vectors(path, vocabulary={words[3], "unknown"})
    assert some.words == [words[3]]
    assert_array_equal(some.vectors, vectors[3:4])


@pytest.mark.parametrize("block", [7, 40, 1 << 19])
def test_blocks_of_any_size_give_the_same(tmp_path, monkeypatch, block):
    rng = np.random.RandomState(0)
    words = [f"w{i}" for i in range(200)]
    vectors = rng.randn(200, 3).astype(np.float32)
    path = write(tmp_path / "vectors.txt", lines_of(words, vectors))
    monkeypatch.setattr(_vector_files, "_BLOCK", block)
    loaded = load_word_vectors(path)
    assert loaded.words == words
    assert_array_equal(loaded.vectors, vectors)


def test_compressed_files_give_the_same(tmp_path):
    text = lines_of().encode()
    paths = [
        write(tmp_path / "vectors.txt.gz", gzip.compress(text)),
        write(tmp_path / "vectors.vec.xz", lzma.compress(text)),
        tmp_path / "one.zip",
        tmp_path / "vectors.zip" / "a" / "vectors.txt",
    ]
    with zipfile.ZipFile(tmp_path / "one.zip", "w") as archive:
        archive.writestr("vectors.txt", text)
    with zipfile.ZipFile(tmp_path / "vectors.zip", "w") as archive:
        archive.writestr("a/vectors.txt", text)
        archive.writestr("a/other.txt", b"the 1\n")
    for path in paths:
        words, vectors = load_word_vectors(path)
        assert words == WORDS
        assert_array_equal(vectors, VECTORS)
    with pytest.raises(ValueError, match=r"has the files a/vectors.txt, a/other.txt: add"):
        load_word_vectors(tmp_path / "vectors.zip")
    with pytest.raises(ValueError, match="has the files"):
        load_word_vectors(tmp_path / "vectors.zip" / "b.txt")
    binary = gzip.compress(binary_of(["a", "b"], VECTORS[:2]))
    assert load_word_vectors(write(tmp_path / "v.bin.gz", binary)).words == ["a", "b"]


def test_the_first_of_equal_words_is_used(tmp_path):
    text = "a 1 2\nb 3 4\na 5 6\n"
    words, vectors = load_word_vectors(write(tmp_path / "vectors.txt", text))
    assert words == ["a", "b"]
    assert_array_equal(vectors, [[1, 2], [3, 4]])


def test_limit_counts_vectors_of_the_file_and_vocabulary_chooses_among_them(tmp_path):
    path = write(tmp_path / "vectors.txt", lines_of())
    assert load_word_vectors(path, limit=2).words == WORDS[:2]
    assert load_word_vectors(path, limit=99).words == WORDS
    assert load_word_vectors(path, vocabulary=["new york", "the"]).words == ["the", "new york"]
    assert load_word_vectors(path, vocabulary=["new york", "the"], limit=2).words == ["the"]
    none = load_word_vectors(path, vocabulary=["unknown"])
    assert none.words == [] and none.vectors.shape == (0, 3)


BROKEN = {
    "too few numbers": ("a 1 2\nb 3\n", r"line 2: 1 numbers after the word, expected 2"),
    "too many numbers": ("a 1 2\nb 3 4\nc 3 4 5\n", r"line 3: 3 numbers after the word"),
    "no number": ("a 1 2\nb 3 x4\n", r"line 2: 'x4' is not a number"),
    "not finite": ("a 1 2\nb 3 nan\n", r"line 2: a number is not finite"),
    "no word": ("a 1 2\n 3 4\n", r"line 2: there is no word"),
    "other width than the header": ("2 3\na 1 2\nb 3 4\n", r"line 2: 2 numbers .* expected 3"),
    "fewer than the header": ("3 2\na 1 2\nb 3 4\n", r"has 2 vectors, and its line 1 .* 3"),
    "words alone": ("a\nb\n", r"line 1: there is no number after the word"),
    "empty": ("", r"has no word vectors"),
    "header alone": ("0 5\n", r"has no word vectors"),
}


@pytest.mark.parametrize(("text", "message"), BROKEN.values(), ids=BROKEN)
def test_errors_name_file_and_line(tmp_path, text, message):
    path = write(tmp_path / "vectors.txt", text)
    with pytest.raises(ValueError, match=message) as caught:
        load_word_vectors(path)
    assert str(path) in str(caught.value)


def test_a_broken_line_is_named_in_any_block(tmp_path, monkeypatch):
    monkeypatch.setattr(_vector_files, "_BLOCK", 50)
    text = "".join(f"w{i} {i} 2\n" for i in range(100)) + "bad 1 2,5\n"
    with pytest.raises(ValueError, match=r"line 101: '2,5' is not a number"):
        load_word_vectors(write(tmp_path / "vectors.txt", text))


def test_two_lines_that_are_wrong_together_are_found(tmp_path):
    """The fields of both lines together are as many as those of two good ones."""
    with pytest.raises(ValueError, match="line 2"):
        load_word_vectors(write(tmp_path / "vectors.txt", "a 1 2\nb 1  2\t3\nc 1\n"))


def test_encodings(tmp_path):
    path = write(tmp_path / "vectors.txt", "caf\xe9 1 2\nb 3 4\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"line 1: the word .* is not in utf-8"):
        load_word_vectors(path)
    assert load_word_vectors(path, encoding="latin-1").words == ["café", "b"]
    assert load_word_vectors(path, decode_error="ignore").words == ["caf", "b"]
    assert load_word_vectors(path, decode_error="replace").words == ["caf\ufffd", "b"]


def test_a_file_that_is_cut_off_is_an_error(tmp_path):
    content = gzip.compress(lines_of().encode() * 50)
    path = write(tmp_path / "vectors.txt.gz", content[: len(content) // 2])
    with pytest.raises(ValueError, match="is damaged or cut off after line"):
        load_word_vectors(path)
    for name in ("vectors.zip", "vectors.gz"):
        with pytest.raises(ValueError, match="is damaged or cut off after line 0"):
            load_word_vectors(write(tmp_path / name, b"neither"))
    binary = binary_of(["a", "b"], VECTORS[:2])
    with pytest.raises(ValueError, match="has 1 vectors, and its line 1 announces 2"):
        load_word_vectors(write(tmp_path / "vectors.bin", binary[:-4]))


def test_other_binaries_are_refused(tmp_path):
    fasttext = (793712314).to_bytes(4, "little") + bytes(100)
    with pytest.raises(ValueError, match="is a model of fastText"):
        load_word_vectors(write(tmp_path / "model.bin", fasttext))
    with pytest.raises(ValueError, match="line 1: expected the number of words"):
        load_word_vectors(write(tmp_path / "other.bin", b"\x00\x01\n"))
    with pytest.raises(ValueError, match="line 1: vectors of 0 dimensions"):
        load_word_vectors(write(tmp_path / "none.bin", b"1 0\na \n"))
    noise = b"2 2\n" + b"x" * 20_000
    with pytest.raises(ValueError, match="vector 1: there is no word"):
        load_word_vectors(write(tmp_path / "noise.bin", noise))


def test_a_missing_file_and_bad_parameters_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_word_vectors(tmp_path / "missing.txt")
    with pytest.raises(ValueError, match="'limit' parameter"):
        load_word_vectors(tmp_path / "missing.txt", limit=0)


def test_memory_stays_below_twice_the_array_and_the_words(tmp_path):
    n_words, n_dimensions = 40_000, 50
    numbers = " ".join(["0.123456"] * n_dimensions)
    text = "".join(f"word{i} {numbers}\n" for i in range(n_words))
    path = write(tmp_path / "vectors.txt.gz", gzip.compress(text.encode(), 1))
    load_word_vectors(path, limit=10)  # imports
    tracemalloc.start()
    try:
        words, vectors = load_word_vectors(path)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    of_words = sys.getsizeof(words) + sum(map(sys.getsizeof, words))
    assert vectors.shape == (n_words, n_dimensions)
    assert peak < 2 * vectors.nbytes + of_words


def test_progress_is_printed_only_when_asked_for(tmp_path, capsys, monkeypatch):
    path = write(tmp_path / "vectors.txt", lines_of())
    load_word_vectors(path)
    assert capsys.readouterr().out == ""
    load_word_vectors(path, verbose=1)
    assert f"{path}: 5 vectors read" in capsys.readouterr().out
    monkeypatch.setattr(_vector_files, "_BLOCK", 30)
    monkeypatch.setattr(_vector_files, "_SECONDS_PER_MESSAGE", 0.0)
    load_word_vectors(path, verbose=1)
    assert len(capsys.readouterr().out.splitlines()) > 2


def test_word_vectors_are_shared_by_clones_and_short_when_printed():
    pair = WordVectors(["a"], np.ones((1, 2)))
    assert clone(pair, safe=False) is pair
    assert repr(pair) == "WordVectors(1 words)"
    assert pickle.loads(pickle.dumps(pair)).words == ["a"]
    assert tuple(pair)[0] == ["a"]


def test_glove_is_loaded_as_a_loop_over_its_lines_reads_it(data_home):
    path = data_home / "glove_6b_50d" / "glove.6B.50d.top50k.txt.gz"
    words, vectors = load_word_vectors(path, limit=3000)
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        rows = [line.split(" ") for line, _ in zip(lines, range(3000), strict=False)]
    assert words == [row[0] for row in rows]
    assert_array_equal(vectors, np.array([row[1:] for row in rows], np.float32))
