"""Files of an author: which there are, and when they are saved."""

import asyncio
import contextlib
import hashlib
import os
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Final

_LOOK_SECONDS: Final = 0.3
_WATCHED: Final = frozenset({".yaml", ".yml", ".json", ".py"})
_SKIPPED: Final = frozenset({".git", ".venv", "node_modules", "__pycache__"})

Stamps = dict[str, tuple[int, int]]
"""File → when it was saved, and its size."""


async def changes(paths: Sequence[Path], before: Stamps) -> AsyncIterator[set[str]]:
    """Yield the names of files that changed, once they have been quiet for a moment."""
    while True:
        await asyncio.sleep(_LOOK_SECONDS)
        now = await asyncio.to_thread(stamps, paths)
        if now == before:
            continue
        while (later := await _after_a_moment(paths)) != now:
            now = later
        yield {Path(name).name for name, _ in set(now.items()) ^ set(before.items())}
        before = now


async def _after_a_moment(paths: Sequence[Path]) -> Stamps:
    await asyncio.sleep(_LOOK_SECONDS)
    return await asyncio.to_thread(stamps, paths)


def stamps(paths: Sequence[Path]) -> Stamps:
    """Return what is there now."""
    found = {}
    for path in _files(paths):
        with contextlib.suppress(OSError):
            seen = path.stat()
            found[str(path)] = (seen.st_mtime_ns, seen.st_size)
    return found


def _files(paths: Sequence[Path]) -> Iterator[Path]:
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        for folder, below, files in os.walk(path):
            below[:] = sorted(set(below) - _SKIPPED)
            yield from (Path(folder) / name for name in sorted(files) if Path(name).suffix in _WATCHED)


def code_digest(paths: Sequence[Path]) -> str:
    """Return a digest of the Python files: a worker that imported others must be started anew."""
    whole = hashlib.sha256()
    for path in _files(paths):
        if path.suffix == ".py":
            with contextlib.suppress(OSError):
                whole.update(str(path).encode() + b"\0" + path.read_bytes() + b"\0")
    return whole.hexdigest()
