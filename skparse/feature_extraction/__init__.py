"""Features of texts beside TF-IDF: pretrained word vectors."""

from ._vector_files import WordVectors, load_word_vectors
from ._word_vectors import WordVectorVectorizer

__all__ = ["WordVectorVectorizer", "WordVectors", "load_word_vectors"]
