"""Records made by hand, as in the tests of reports."""

from reporting.conftest import records, row, table

__all__ = ["records", "row", "table"]
