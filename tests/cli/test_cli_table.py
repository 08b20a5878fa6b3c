"""How tables and facts are laid out: whole in a pipe, folded on a terminal."""

import pytest

from quillgate_cli.table import Column, fields_text, table_text

COLUMNS = [Column("ID", whole=True), Column("NAME"), Column("COUNT", number=True)]


def test_columns_line_up() -> None:
    """Text stands left, numbers right, under titles and a rule."""
    text = table_text(COLUMNS, [["key_1", "a b", "7"], ["key_22", "c", "1,000"]], room=None)
    assert text.splitlines() == [
        "ID      NAME  COUNT",
        "------  ----  -----",
        "key_1   a b       7",
        "key_22  c     1,000",
    ]


@pytest.mark.parametrize("text", ["1e5", "0x10", "False", "nan", "007", "1_000", "-", "+1.50"])
@pytest.mark.parametrize("room", [None, 80, 1])
def test_names_that_look_like_something_else(text: str, room: int | None) -> None:
    """A name that could be read as a number or a truth value is shown as it is."""
    assert table_text([Column("NAME")], [[text], ["1.0"]], room=room).splitlines()[2].strip() == text
    assert fields_text([("Name", text)], room=room) == f"Name  {text}"


def test_no_rows() -> None:
    """Without rows the titles remain."""
    assert len(table_text(COLUMNS, [], room=None).splitlines()) == 2
    assert len(table_text(COLUMNS, [], room=80).splitlines()) == 2


def test_long_cells_are_folded_into_the_terminal() -> None:
    """With a width, long text is folded to fit; what is whole stays whole, and no letter is lost."""
    words = " ".join(f"word{number}" for number in range(20))
    text = table_text(COLUMNS, [["key_1" * 4, words, "1"], ["k", "x" * 90, "2"]], room=60)
    assert max(map(len, text.splitlines())) <= 60
    assert "key_1" * 4 in text
    assert [word for word in words.split() if word not in text.split()] == []
    assert text.count("x") == 90


def test_a_terminal_too_narrow_for_what_is_whole() -> None:
    """Ids and numbers are never broken, even where the line is then too long."""
    text = table_text(COLUMNS, [["key_" + "1" * 40, "a name of some length", "1"]], room=20)
    assert "key_" + "1" * 40 in text


def test_what_fits_is_left_alone() -> None:
    """A wide enough terminal changes nothing."""
    rows = [["key_1", "n" * 40, "7"]]
    assert table_text(COLUMNS, rows, room=200) == table_text(COLUMNS, rows, room=None)


def test_long_facts_are_folded() -> None:
    """A long value goes on below itself, not below its name."""
    lines = fields_text([("Models", "some/model-1, some/model-2"), ("Name", "k")], room=26).splitlines()
    assert lines == ["Models  some/model-1,", "        some/model-2", "Name    k"]
