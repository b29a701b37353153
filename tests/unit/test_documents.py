"""YAML as kubectl reads it, with lines, and without the traps."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from everesthood.adapters.manifests import MAX_BYTES, Unreadable, documents


def values(text):
    return [document.value for document in documents(text)]


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("yes", True), ("Off", False), ("y", True), ("yEs", "yEs"), ("~", None), ("NULL", None),
        ("12", 12), ("-1_000", -1000), ("0x1F", 31), ("0o17", 15), ("017", 15), ("0b11", 3),
        ("1.5", 1.5), ("1e3", 1000), ("30.0", 30), ("12:30", "12:30"), ("2026-01-01", "2026-01-01"),
        ("'12'", "12"), ('"yes"', "yes"), ("!!str 12", "12"), ("a", "a"), ("|\n  x\n", "x\n"),
        ("[1, a]", [1, "a"]), ("1.2.3", "1.2.3"), ("+5", 5), (".5", 0.5), ("09", 9),
    ],
)  # fmt: skip
def test_scalars_mean_what_they_mean_to_kubectl(text, value):
    """A manifest has offline the values that it has in the cluster."""
    [found] = values(f"a: {text}\n")
    assert found == {"a": value}
    assert type(found["a"]) is type(value)


def test_every_field_knows_its_line():
    """A problem points at the line that a person must change."""
    text = "a:\n  b:\n  - c: 1\n    d: 2\n  - e\n---\n# note\nf: {g: 1}\n"
    first, second = documents(text)

    assert first.line_of("a.b[0].d") == 4
    assert first.line_of("a.b[1]") == 5
    assert first.line_of("a.b[0].missing.deeper[3]") == 3
    assert first.line_of("nowhere") == 1
    assert second.line_of("f.g") == 8


def test_aliases_and_merges_are_followed():
    """Anchors, aliases and merge keys mean what they always mean."""
    text = "x: &x {a: 1, b: 2}\ny: {<<: *x, b: 3}\nz: {<<: [*x, {c: 4}]}\nw: *x\n"
    assert values(text) == [
        {
            "x": {"a": 1, "b": 2},
            "y": {"a": 1, "b": 3},
            "z": {"a": 1, "b": 2, "c": 4},
            "w": {"a": 1, "b": 2},
        }
    ]


def test_a_list_of_objects_is_taken_apart():
    """`kind: List` is as good as several documents, and lines stay right."""
    [document] = documents("kind: List\nitems:\n- kind: A\n- kind: B\n  spec:\n    x: 1\n")
    first, second = document.members()

    assert [first.value["kind"], second.value["kind"]] == ["A", "B"]
    assert second.line_of("spec.x") == 6
    assert second.line_of("") == 4


def test_a_document_that_is_no_list_is_itself():
    """A document without items, or with items of another kind, is left whole."""
    for text in ("kind: List\n", "kind: Other\nitems: []\n", "- 1\n"):
        [document] = documents(text)
        assert [m.value for m in document.members()] == [document.value]


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{c}: &{c} [{','.join([f'*{p}'] * 9)}]\n" for p, c in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        (BOMB, 1, "aliases expand to more than 100000 values"),
        ("a: &a [*a]\n", 1, "contains itself"),
        ("a: 1\nb: [\n", 3, "not valid YAML"),
        ("a: 1\na: 2\n", 2, "a is set twice"),
        ("a: !!python/object:os.system x\n", 1, "is not supported"),
        ("a: !!binary aGk=\n", 1, "is not supported"),
        ("? [1, 2]\n: 3\n", 1, "a key must be text"),
        ("a: {<<: 1}\n", 1, "<< needs a mapping"),
        ("a: \x00\n", 1, "not valid YAML"),
        ("\tq: 1\n", 1, "not valid YAML"),
        ("[" * 3_000_000, 1, "nested too deeply"),
        ("a: *nowhere\n", 1, "undefined alias"),
        ("x" * (MAX_BYTES + 1), 1, "larger than"),
    ],
)
def test_what_cannot_be_read_says_where_and_why(text, line, says):
    """Bombs, loops, unknown tags and broken syntax end in one sentence with a line."""
    with pytest.raises(Unreadable) as caught:
        values(text)

    assert says in caught.value.message
    assert caught.value.line == line


def test_an_empty_text_has_no_documents():
    """Nothing, blanks and comments are no documents."""
    assert values("") == []
    assert values("---\n---\n# nothing\n") == [None] or values("---\n---\n# nothing\n") == [None, None]


@settings(max_examples=200)
@given(st.text(alphabet="ab:-[]{}&*!|>'\"#%\n \t1?,~", max_size=40))
def test_no_text_breaks_the_reader(text):
    """Whatever a file contains, it is read or refused."""
    lines = text.count("\n") + 2
    try:
        values(text)
    except Unreadable as error:
        told = error
    else:
        return
    assert told.message
    assert 1 <= told.line <= lines
