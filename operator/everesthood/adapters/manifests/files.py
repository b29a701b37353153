"""Manifests in files and folders."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

from everesthood.adapters.manifests.documents import MAX_BYTES, Document, Unreadable, documents

_SUFFIXES: Final = frozenset({".yaml", ".yml", ".json"})

Found = tuple[str, Document | Unreadable]
"""The name of a file, and one of its documents or why there is none."""


def in_files(paths: Iterable[Path]) -> Iterator[Found]:
    """Yield what is in the files, and in those of the folders and below them."""
    for path in (below for given in paths for below in expanded(given)):
        try:
            with path.open("rb") as stream:
                data = stream.read(MAX_BYTES + 1)
        except OSError as error:
            yield str(path), Unreadable(1, f"cannot be read: {error.strerror or error}")
        else:
            yield from in_text(str(path), data)


def in_text(name: str, data: bytes) -> Iterator[Found]:
    """Yield the documents of a text, none of one that is broken anywhere."""
    text = data.decode("utf-8-sig", errors="replace")
    try:
        found = [member for document in documents(text) for member in document.members()]
    except Unreadable as error:
        yield name, error
    else:
        yield from ((name, document) for document in found)


def expanded(path: Path) -> Iterator[Path]:
    """Yield the file, or the manifests in a folder and below it."""
    if not path.is_dir():
        yield path
        return
    for below in sorted(path.rglob("*")):
        if below.suffix in _SUFFIXES and below.is_file():
            yield below
