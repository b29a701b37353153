"""Reads manifests from files, with the line on which every field stands."""

from everesthood.adapters.manifests.documents import MAX_BYTES, Document, Unreadable, documents

__all__ = ["MAX_BYTES", "Document", "Unreadable", "documents"]
