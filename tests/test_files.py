"""Files that are written whole or not at all, and read with one sentence where they are damaged."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from hardlab import files
from hardlab.types import HardlabError


def test_a_line_without_its_end_is_no_line_of_a_log_and_a_fault_of_any_other_file(tmp_path: Path) -> None:
    file = tmp_path / "some.jsonl"
    file.write_text('{"a": 1}\n{"a": 2')
    assert files.read_lines(file) == [{"a": 1}]
    with pytest.raises(files.DamagedFile, match=r"Line 2 of '.*some\.jsonl' is not JSON"):
        files.read_lines(file, appended=False)
    assert files.read_lines(tmp_path / "none.jsonl") == []


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe", b'"\\udcff"', b"[" * 10**5])
def test_what_is_no_json_names_its_file(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "some.json"
    file.write_bytes(content)
    with pytest.raises(files.DamagedFile, match=r"some\.json"):
        files.read_json(file)


def test_arrays_come_back_and_a_flipped_byte_names_its_file(tmp_path: Path) -> None:
    file = tmp_path / "some.npz"
    np.savez(file, a=np.arange(100.0), b=np.ones((2, 3), np.uint8))
    assert files.read_arrays(file)["a"].sum() == 4950
    content = bytearray(file.read_bytes())
    content[len(content) // 3] ^= 1
    file.write_bytes(content)
    with pytest.raises(files.DamagedFile, match=r"some\.npz"):
        files.read_arrays(file)


def test_a_yaml_file_with_a_fault_is_named_with_its_line(tmp_path: Path) -> None:
    file = tmp_path / "some.yaml"
    file.write_text("a: 1\nb: [1, 2\nc: 3\n")
    with pytest.raises(files.DamagedFile, match=r"some\.yaml.*line 3"):
        files.read_yaml(file)


def test_an_error_of_unexpected_content_names_the_files_and_a_sentence_passes(tmp_path: Path) -> None:
    one, two = tmp_path / "one", tmp_path / "two"
    with pytest.raises(HardlabError, match=r"one.*KeyError"), files.as_expected(one):
        json.loads("{}")["missing"]
    with pytest.raises(HardlabError, match=r"one.*two"), files.as_expected(one, two):
        raise ValueError("of either")
    with pytest.raises(HardlabError, match=r"^as it is$"), files.as_expected(one):
        raise HardlabError("as it is")
