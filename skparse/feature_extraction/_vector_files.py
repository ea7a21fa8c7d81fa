"""Files of pretrained word vectors: GloVe and fastText texts, word2vec texts and binaries."""

import gzip
import io
import lzma
import os
import time
import zipfile
import zlib
from collections.abc import Iterable
from contextlib import contextmanager
from numbers import Integral
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
from sklearn.utils._param_validation import Interval, StrOptions, validate_params

from .._typing import Array, typed

_BLOCK = 1 << 19  # bytes read at a time: large enough for speed, small beside the array
_GROWTH = 1.5  # of the array while it is filled: its peak stays below twice its final size
_LONGEST_WORD = 10_000  # bytes; a binary file with a longer word is damaged
_SECONDS_PER_MESSAGE = 2.0
_DAMAGE = EOFError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, gzip.BadGzipFile
_FASTTEXT_MAGIC = (793712314).to_bytes(4, "little")


class WordVectors(NamedTuple):
    """Words with their vectors, as :func:`load_word_vectors` returns them.

    It is a pair: ``words, vectors = load_word_vectors(path)``. Clones of an estimator share it
    instead of copying it.

    Examples
    --------
    >>> import numpy as np
    >>> from skparse.feature_extraction import WordVectors
    >>> WordVectors(["red", "blue"], np.array([[1.0, 0.0], [0.8, 0.6]]))
    WordVectors(2 words)
    """

    words: list[str]
    vectors: Array  # (n_words, n_dimensions)

    def __sklearn_clone__(self):
        """Return self: searches clone their estimator for every fit."""
        return self

    def __repr__(self) -> str:
        """Return a short description, as estimators show their parameters."""
        return f"WordVectors({len(self.words)} words)"


@typed(
    validate_params(
        {
            "path": [str, os.PathLike],
            "vocabulary": ["array-like", set, frozenset, dict, None],
            "limit": [Interval(Integral, 1, None, closed="left"), None],
            "encoding": [str],
            "decode_error": [StrOptions({"strict", "ignore", "replace"})],
            "verbose": ["verbose"],
        },
        prefer_skip_nested_validation=True,
    )
)
def load_word_vectors(
    path: str | os.PathLike[str],
    *,
    vocabulary: Iterable[str] | None = None,
    limit: int | None = None,
    encoding: str = "utf-8",
    decode_error: Literal["strict", "ignore", "replace"] = "strict",
    verbose: int = 0,
) -> WordVectors:
    r"""Load pretrained word vectors from a file.

    The formats are those of GloVe, fastText and word2vec:

    - texts with a word and its numbers in each line, separated by spaces or tabs, with or
      without a first line that has the number of words and of dimensions;
    - word2vec's binary files, recognised by their name: ``.bin``, ``.bin.gz``.

    Both may be compressed (``.gz``, ``.xz``, ``.zip``). The path of a zip archive with several
    files is followed by the name of one: ``glove.6B.zip/glove.6B.50d.txt``.

    A word may contain spaces. The first of several vectors of a word is used. Lines without
    content are skipped. The vectors are in one array from the start, so the peak of memory is
    less than twice that array and the words.

    Parameters
    ----------
    path : str or path-like
        The file.

    vocabulary : iterable of str, default=None
        Load the vectors of these words only. The numbers of other words are not parsed and not
        checked, which takes less time.

    limit : int, default=None
        Read only the first `limit` vectors of the file. Most files are sorted by frequency.

    encoding : str, default="utf-8"
        The encoding of the words. ASCII has to be a part of it.

    decode_error : {"strict", "ignore", "replace"}, default="strict"
        What to do with bytes that are no characters in `encoding`, as in
        :class:`~sklearn.feature_extraction.text.CountVectorizer`.

    verbose : int, default=0
        If positive, print the number of vectors that have been read, every two seconds and at
        the end.

    Returns
    -------
    words : list of str of length n_words
        The words, in the order of the file.

    vectors : ndarray of shape (n_words, n_dimensions), dtype float32
        Their vectors. Both are the fields of a :class:`WordVectors`.

    Raises
    ------
    ValueError
        If a line is broken: other than the first one it has more or fewer numbers, a value is no
        finite number, a word is missing or not in `encoding`. If the file ends too early, has no
        vectors, or is a model of fastText (``.bin``). The message names file and line.

    References
    ----------
    .. [1] J. Pennington, R. Socher, C. Manning, "GloVe: Global Vectors for Word Representation",
       EMNLP 2014.
    .. [2] T. Mikolov, I. Sutskever, K. Chen, G. Corrado, J. Dean, "Distributed Representations of
       Words and Phrases and their Compositionality", NIPS 2013.

    Examples
    --------
    >>> import tempfile
    >>> from pathlib import Path
    >>> from skparse.feature_extraction import load_word_vectors
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     path = Path(folder, "colours.txt")
    ...     _ = path.write_text("red 1 0.5\nblue 0.25 2\n")
    ...     words, vectors = load_word_vectors(path)
    >>> words
    ['red', 'blue']
    >>> vectors
    array([[1.  , 0.5 ],
           [0.25, 2.  ]], dtype=float32)
    """
    if vocabulary is not None:
        vocabulary = frozenset(vocabulary)
    name = Path(path).name.lower()
    for suffix in (".gz", ".xz", ".zip"):
        name = name.removesuffix(suffix)
    reader_class = _BinaryReader if name.endswith(".bin") else _TextReader
    reader = reader_class(path, vocabulary, limit, encoding, decode_error, verbose)
    try:
        with _open(path) as stream:
            reader.read(stream)
    except _DAMAGE as error:
        raise ValueError(f"{path} is damaged or cut off {reader.place()}: {error}") from error
    return reader.result()


@contextmanager
def _open(path):
    """Open a file, or a file in a zip archive, as a stream of its uncompressed bytes."""
    path = Path(path)
    archive = next((p for p in (path, *path.parents) if p.suffix.lower() == ".zip"), None)
    if archive is not None and archive.is_file():
        with zipfile.ZipFile(archive) as files:
            with files.open(_member(path, archive, files.namelist())) as stream:
                yield stream
    elif path.suffix.lower() in (".gz", ".xz"):
        opener = gzip.open if path.suffix.lower() == ".gz" else lzma.open
        with opener(path, "rb") as stream:
            yield stream
    else:
        with open(path, "rb") as stream:
            yield stream


def _member(path, archive, names):
    """Return the name of the file to read in a zip archive."""
    wanted = path.relative_to(archive).as_posix()
    names = [name for name in names if not name.endswith("/")]
    if wanted in names:
        return wanted
    if wanted == "." and len(names) == 1:
        return names[0]
    raise ValueError(
        f"{archive} has the files {', '.join(names)}: add the name of one to the path, as in "
        f"{archive / names[0] if names else archive}"
    )


class _Reader:
    """What both formats share: the words so far, their array, limits and messages."""

    def __init__(self, path, vocabulary, limit, encoding, decode_error, verbose):
        self.path, self.vocabulary, self.limit = path, vocabulary, limit
        self.encoding, self.decode_error, self.verbose = encoding, decode_error, verbose
        self.index = {}  # word -> row
        self.vectors = None
        self.n_dimensions = None
        self.n_announced = None  # vectors, by the header
        self.n_read = 0  # vectors of the file so far, also those that are not kept
        self.start = self.last_message = time.perf_counter()

    def add(self, words, vectors):
        """Append the vectors of new words to the array, which grows in place."""
        fresh = []
        for position, word in enumerate(words):
            n_words = len(self.index)
            self.index.setdefault(word, n_words)
            if len(self.index) > n_words:
                fresh.append(position)
        end = len(self.index)
        if self.vectors is None:
            self.vectors = np.empty((end, self.n_dimensions), dtype=np.float32)
        if end > len(self.vectors):
            # No other object refers to the array, so it may move.
            rows = max(end, int(_GROWTH * len(self.vectors)))
            self.vectors.resize((rows, self.n_dimensions), refcheck=False)
        self.vectors[end - len(fresh) : end] = vectors[fresh]
        if self.verbose and time.perf_counter() - self.last_message > _SECONDS_PER_MESSAGE:
            self.report()

    def report(self):
        self.last_message = time.perf_counter()
        seconds = self.last_message - self.start
        print(f"{self.path}: {self.n_read} vectors read, {seconds:.1f} s", flush=True)

    def is_wanted(self, word):
        return self.vocabulary is None or word in self.vocabulary

    def decode(self, word, line):
        if not word:
            raise self.error(line, "there is no word")
        try:
            return word.decode(self.encoding, self.decode_error)
        except UnicodeDecodeError as error:
            raise self.error(
                line,
                f"the word {word!r} is not in {self.encoding} ({error.reason}): choose another "
                "encoding, or decode_error='replace'",
            ) from error

    def result(self):
        if self.n_read == 0:
            raise ValueError(f"{self.path} has no word vectors")
        if self.limit is None and self.n_announced not in (None, self.n_read):
            raise ValueError(
                f"{self.path} has {self.n_read} vectors, and its line 1 announces "
                f"{self.n_announced}"
            )
        if self.vectors is None:  # none of the vocabulary
            self.vectors = np.empty((0, self.n_dimensions), dtype=np.float32)
        self.vectors.resize((len(self.index), self.n_dimensions), refcheck=False)
        if self.verbose:
            self.report()
        return WordVectors(list(self.index), self.vectors)


class _TextReader(_Reader):
    """Lines of a word and its numbers."""

    n_lines = 0  # lines before the current block

    def place(self):
        return f"after line {self.n_lines}"

    def error(self, line, problem):
        return ValueError(f"{self.path}, line {line + 1}: {problem}")

    def read(self, stream):
        rest = stream.readline().removeprefix(b"\xef\xbb\xbf")  # a byte order mark
        rest = self.read_header(rest)
        while self.limit is None or self.n_read < self.limit:
            block = stream.read(_BLOCK)
            lines = (rest + block).split(b"\n")
            rest = lines.pop() if block else b""
            self.read_lines(lines)
            if not block:
                break

    def read_header(self, line):
        """Set the number of dimensions; return the line if it has a vector, else nothing."""
        fields = line.split()
        if len(fields) == 2 and all(field.isdigit() for field in fields):
            self.n_announced, self.n_dimensions = map(int, fields)
            self.n_lines = 1
            line = b""
        else:
            self.n_dimensions = len(fields) - 1
        if self.n_dimensions < 1 and fields:
            raise self.error(0, "there is no number after the word")
        return line

    def read_lines(self, lines):
        """Parse complete lines: words one by one, their numbers all at once."""
        words, numbers, places = [], [], []
        for place, line in enumerate(lines, start=self.n_lines):
            line = line.rstrip(b" \t\r")
            if line.count(b" ") == self.n_dimensions:
                word, _, rest = line.partition(b" ")
            elif line:
                word, rest = self.split_line(line, place)
            else:
                continue
            self.n_read += 1
            word = self.decode(word, place)
            if self.is_wanted(word):
                words.append(word)
                numbers.append(rest)
                places.append(place)
            if self.n_read == self.limit:
                break
        self.n_lines += len(lines)
        if words:
            self.add(words, self.parse(words, numbers, places))

    def split_line(self, line, place):
        """Split a line whose word contains spaces, or that has other white space."""
        fields = line.split()
        if line[:1].isspace():
            raise self.error(place, "there is no word")
        n_words = len(fields) - self.n_dimensions
        # A longer line has a word of several fields, unless the last of them is a number.
        n_numbers = len(fields) - 1
        if n_words < 1 or (n_words > 1 and _is_number(fields[n_words - 1])):
            raise self.error(
                place, f"{n_numbers} numbers after the word, expected {self.n_dimensions}"
            )
        return b" ".join(fields[:n_words]), b" ".join(fields[n_words:])

    def parse(self, words, numbers, places):
        """Return the numbers of lines as rows; say which line is broken."""
        vectors = self.parse_block(numbers)
        if vectors is None:
            numbers = [
                self.repair(word, rest, place)
                for word, rest, place in zip(words, numbers, places, strict=True)
            ]
            vectors = self.parse_block(numbers)
        finite = np.isfinite(vectors).all(axis=1)
        if not finite.all():
            raise self.error(places[finite.argmin()], "a number is not finite")
        return vectors

    def parse_block(self, numbers):
        """Return the rows of many lines, or None if one of them is broken."""
        text = io.BytesIO(b"\n".join(numbers))
        try:
            vectors = np.loadtxt(
                text, dtype=np.float32, delimiter=" ", comments=None, ndmin=2, encoding="latin1"
            )
        except ValueError:
            return None
        return vectors if vectors.shape == (len(numbers), self.n_dimensions) else None

    def repair(self, word, rest, place):
        """Return the numbers of a line with single spaces, or raise the error of the line."""
        fields = rest.split()
        for field in fields:
            if not _is_number(field):
                raise self.error(
                    place, f"{field.decode(self.encoding, 'replace')!r} is not a number"
                )
        if len(fields) != self.n_dimensions:
            raise self.error(
                place,
                f"{len(fields)} numbers after the word {word!r}, expected {self.n_dimensions}",
            )
        return b" ".join(fields)


class _BinaryReader(_Reader):
    """word2vec's binary format: a header, then each word, a space, and its numbers as float32."""

    def place(self):
        return f"after vector {self.n_read}"

    def error(self, vector, problem):
        return ValueError(f"{self.path}, vector {vector + 1}: {problem}")

    def read(self, stream):
        header = stream.readline(_LONGEST_WORD)
        fields = header.split()
        if header.startswith(_FASTTEXT_MAGIC):
            raise ValueError(
                f"{self.path} is a model of fastText: its vectors are in the .vec file beside it"
            )
        if len(fields) != 2 or not all(field.isdigit() for field in fields):
            raise ValueError(
                f"{self.path}, line 1: expected the number of words and of dimensions"
            )
        self.n_announced, self.n_dimensions = map(int, fields)
        if self.n_dimensions < 1:
            raise ValueError(f"{self.path}, line 1: vectors of 0 dimensions")
        end = self.n_announced if self.limit is None else min(self.limit, self.n_announced)
        rest = b""
        while self.n_read < end:
            block = stream.read(_BLOCK)
            rest = self.read_block(rest + block, end)
            if not block:
                break

    def read_block(self, data, end):
        """Parse the complete vectors of a block; return the bytes after them."""
        words, vectors, places = [], [], []
        start, width = 0, 4 * self.n_dimensions
        while self.n_read < end:
            space = data.find(b" ", start)
            if space < 0 and len(data) - start > _LONGEST_WORD:
                raise self.error(self.n_read, "there is no word")
            if space < 0 or space + 1 + width > len(data):
                break
            # Some programs write a line break after each vector, others do not.
            word = self.decode(data[start:space].lstrip(b"\n"), self.n_read)
            start = space + 1 + width
            if self.is_wanted(word):
                words.append(word)
                vectors.append(data[space + 1 : start])
                places.append(self.n_read)
            self.n_read += 1
        if words:
            rows = np.frombuffer(b"".join(vectors), dtype="<f4").reshape(len(words), -1)
            finite = np.isfinite(rows).all(axis=1)
            if not finite.all():
                raise self.error(places[finite.argmin()], "a number is not finite")
            self.add(words, rows)
        return data[start:]


def _is_number(field):
    try:
        float(field)
    except ValueError:
        return False
    return True
