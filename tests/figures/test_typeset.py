"""A table of text as a figure."""

from __future__ import annotations

from hardlab.figures.typeset import Cell, typeset


def test_no_word_of_a_narrow_tables_head_is_cut_and_no_last_word_of_a_note_stands_alone() -> None:
    heads = [("1 % top-1", "own data", False)] * 4 + [("param. (M)", "backbone", False)]
    note = f"{'a line of a caption, ' * 5}end"
    figure = typeset("A title", [("a" * 60, "", False)], heads, [[Cell("1", "")] * 5], note)
    texts = [t.get_text() for t in figure.axes[0].texts]
    assert "backbone" in texts
    assert " ".join(texts[-2:]) == note and min(map(len, texts[-2:])) > 40
