"""Tables that show themselves in a notebook by what they mean; what is computed from them is a plain data frame."""

from __future__ import annotations

from collections.abc import Callable

import pandas as pd

from hardlab import rich


class Shown(pd.DataFrame):
    """A data frame with a summary above its first rows."""

    @property
    def _constructor(self) -> Callable[..., pd.DataFrame]:
        return pd.DataFrame

    def summary(self) -> str:
        """One sentence."""
        raise NotImplementedError

    def drawn(self) -> str:
        """What stands between the sentence and the rows, as HTML."""
        return ""

    def __repr__(self) -> str:
        return f"{self.summary()}\n{pd.DataFrame(self)!r}"

    def _repr_html_(self) -> str:
        rows = pd.DataFrame(self).to_html(max_rows=10, max_cols=20, border=0)
        table = f"<details><summary>{len(self)} rows</summary>{rows}</details>"
        return f"<p>{rich.escape(self.summary())}</p>{self.drawn()}{table}"
