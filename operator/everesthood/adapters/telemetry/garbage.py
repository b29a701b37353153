"""When a process looks for garbage: as it comes, that is again and again among all that was imported."""

import gc
from typing import Final

_OBJECTS: Final = 10_000
"""New objects between two looks; with the usual 700, a look is due with every other request."""


def collect_seldom() -> None:
    """Leave alone for good what is there by now, and look at the rest less often: for when all is started."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS, 20, 20)
