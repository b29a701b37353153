"""The page of figures is filled by the command that measures them."""

import pytest
from tests.bench.engine.__main__ import PAGE, PARTS, filled


@pytest.mark.parametrize("part", PARTS)
def test_every_part_has_its_place_on_the_page(part):
    """What was printed stands there, once, and all else stays as it was."""
    page = PAGE.read_text()
    once = filled(page, part, "old-figure\n")
    twice = filled(once, part, "new-figure\n")

    assert "old-figure" in once
    assert "old-figure" not in twice
    assert twice == once.replace("old-figure", "new-figure")
    assert once.partition(f"<!-- {part} -->")[0] == page.partition(f"<!-- {part} -->")[0]
    assert once.partition(f"<!-- end of {part} -->")[2] == page.partition(f"<!-- end of {part} -->")[2]


def test_a_part_without_a_place_is_named():
    """A renamed part does not vanish from the page unseen."""
    with pytest.raises(SystemExit, match="has no block for speed"):
        filled("", "speed", "")
