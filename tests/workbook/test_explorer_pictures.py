"""The static pictures of the explorer's panels; what they show is tested with the page."""

from __future__ import annotations

from hardlab.workbook import explorer_pictures


def test_a_panel_becomes_a_small_picture_with_its_points_in_two_colours() -> None:
    points = [[x, y, kind, 0.5] for kind in (0, 1) for x, y in ((0, 0), (1, kind), (0.5, 0.2))]
    url = explorer_pictures.picture("negatives", {"at": [{"step": 7, "points": points}]})
    colours = explorer_pictures.pixels(url).reshape(-1, 3)
    assert len(url) < 60_000
    for colour in ((0x00, 0x72, 0xB2), (0xE6, 0x9F, 0x00)):  # queries and negatives, of Okabe and Ito
        assert (abs(colours.astype(int) - colour).sum(1) < 30).sum() > 10
