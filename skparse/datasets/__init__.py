"""Data sets that need no download: a real text set and documents with known topics."""

from ._api_docs import load_api_docs
from ._topic_documents import make_topic_documents

__all__ = ["load_api_docs", "make_topic_documents"]
