"""The table of providers and their capabilities says what the code does."""

from pathlib import Path

from house.capability_table import BEGIN, END, accounts, render, table_in

from quillgate_core.catalogue_file import read_catalogue

README = Path(__file__).resolve().parents[2] / "core" / "README.md"


def test_the_table_is_what_the_code_says() -> None:
    """core/README.md holds the table as it is rendered; `python tests/house/capability_table.py` prints it."""
    assert table_in(README.read_text()) == render(accounts(read_catalogue(None)))


def test_every_bundled_provider_has_a_row() -> None:
    """Nothing that can be switched on is left out."""
    catalogue = read_catalogue(None)
    rows = render(accounts(catalogue)).splitlines()[2:]
    assert [row.split("|")[1].strip() for row in rows] == sorted(catalogue.providers)


def test_only_what_is_between_the_markers_counts() -> None:
    """A document without markers has no table."""
    assert table_in(f"a\n{BEGIN}\n| b |\n{END}\nc") == "| b |"
    assert table_in("| b |") == ""
