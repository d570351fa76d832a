"""Tables, bars, curves and sparks: what stands in them, read back from the HTML and the text."""

from __future__ import annotations

import re
from xml.etree import ElementTree

from hardlab import rich


def test_a_table_holds_its_cells_in_order_and_escapes_all_but_markup() -> None:
    made = rich.table([("a<b", rich.bar(0.5)), ("&", 3)], ("name", "value"))
    tree = ElementTree.fromstring(made)
    cells = ["".join(cell.itertext()) for cell in tree.iter() if cell.tag in ("td", "th")]
    assert cells == ["name", "value", "a<b", "", "&", "3"]


def test_a_bar_is_as_wide_as_its_share_and_never_wider_than_all() -> None:
    for share, wide in ((0.25, 2), (1, 8), (7, 8), (-1, 0)):
        outer, inner = (float(x) for x in re.findall(r"width:([\d.]+)em", rich.bar(share)))
        assert (outer, inner) == (8, wide)


def test_a_curve_goes_through_its_points_with_the_highest_on_top() -> None:
    points = [(0.0, 1.0), (5.0, 3.0), (10.0, 2.0)]
    tree = ElementTree.fromstring(rich.curve(points, "loss & more"))
    line = next(node for node in tree.iter() if node.tag.endswith("polyline"))
    places = [tuple(map(float, xy.split(","))) for xy in line.attrib["points"].split()]
    assert places[1][0] - places[0][0] == places[2][0] - places[1][0] > 0
    assert places[1][1] < places[2][1] < places[0][1]  # y grows downwards
    assert (places[2][1] - places[1][1]) * 2 == places[0][1] - places[1][1]
    assert tree.attrib["aria-label"] == "loss & more: 1 to 3, last 2"
    assert rich.curve([(1.0, 4.0)], "a") and rich.curve([(1.0, 4.0), (2.0, 4.0)], "flat")


def test_a_spark_rises_with_its_values_and_is_no_wider_than_asked() -> None:
    assert rich.spark([0, 1, 2, 3, 4, 5, 6, 7]) == "▁▂▃▄▅▆▇█"
    assert rich.spark([3, 3]) == "▁▁" and rich.spark([]) == ""
    many = rich.spark([float(x) for x in range(1000)], 10)
    assert len(many) == 10 and list(many) == sorted(many)
