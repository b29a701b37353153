"""Fixtures of the record, each test once per implementation."""

from tests.support.record import database_url, databases, published, record

__all__ = ["database_url", "databases", "published", "record"]
