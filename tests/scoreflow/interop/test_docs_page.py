"""docs/import_options.md is what the readers ask."""

from pathlib import Path

from scoreflow.interop.docs import page


def test_the_page_is_the_one_that_is_generated():
    path = Path(__file__).parents[3] / "docs" / "import_options.md"
    assert path.read_text(encoding="utf-8") == page(), "make docs writes it anew"
