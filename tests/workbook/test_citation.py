"""The citation as text, against CITATION.cff."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from hardlab.files import DamagedFile
from hardlab.workbook import citation


def test_the_text_names_every_author_title_and_year_of_the_file() -> None:
    about = yaml.safe_load(citation.FILE.read_text())
    own, *lines = citation.text().splitlines()
    assert about["title"] in own and about["version"] in own and about["authors"][0]["name"] in own
    assert len(lines) == len(about["references"])
    for line, reference in zip(lines, about["references"], strict=True):
        assert reference["title"] in line and str(reference["year"]) in line
        assert all(f"{a['given-names']} {a['family-names']}" in line for a in reference["authors"])


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "c.cff").write_text("title: x\n")
    with pytest.raises(DamagedFile, match=r"c\.cff"):
        citation.text(tmp_path / "c.cff")
