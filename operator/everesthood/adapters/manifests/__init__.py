"""Reads manifests from files, with the line on which every field stands."""

from everesthood.adapters.manifests.documents import MAX_BYTES, Document, Unreadable, documents
from everesthood.adapters.manifests.files import in_files, in_text

__all__ = ["MAX_BYTES", "Document", "Unreadable", "documents", "in_files", "in_text"]
