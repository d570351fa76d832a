"""How a table is read: what its columns hold, and what is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from hardlab.analysis import schema
from hardlab.types import HardlabError


def write(folder: Path, name: str, **values: str) -> None:
    """A table of one row with these values, 1 in every other column."""
    columns = list(schema.WHO) if name == schema.RUNS else schema.columns(name)
    row = [values.get(column, "1") for column in columns]
    (folder / f"{name}.csv").write_text(",".join(columns) + "\n" + ",".join(row) + "\n")


def test_text_is_read_as_it_is_written_and_a_blank_number_is_none(tmp_path: Path) -> None:
    write(tmp_path, "evaluation", setting="0e123456", recipe="NA", options="", value="")
    row = schema.read(tmp_path, "evaluation").iloc[0]
    assert (row["setting"], row["recipe"], row["options"]) == ("0e123456", "NA", "")
    assert np.isnan(row["value"])


def test_a_word_among_numbers_and_a_missing_column_are_refused_with_the_name_of_the_file(tmp_path: Path) -> None:
    write(tmp_path, "evaluation", value="many")
    with pytest.raises(HardlabError, match=r"evaluation\.csv' has 'many' in its column 'value'"):
        schema.read(tmp_path, "evaluation")
    (tmp_path / "evaluation.csv").write_text("run,value\na,1\n")
    with pytest.raises(HardlabError, match=r"evaluation\.csv' has no column"):
        schema.read(tmp_path, "evaluation")
    with pytest.raises(HardlabError, match=r"names the run 'a', which '.*runs\.csv' lacks; `hardlab figures"):
        schema.read(tmp_path, "evaluation", whole=False)
    write(tmp_path, "runs", run="a")
    assert list(schema.read(tmp_path, "evaluation", whole=False)["run"]) == ["a"]


@pytest.mark.parametrize("name", schema.TABLES)
def test_a_table_that_is_not_there_has_its_columns_and_no_rows(name: str, tmp_path: Path) -> None:
    table = schema.read(tmp_path, name)
    assert len(table) == 0 and list(table.columns) == schema.columns(name)
