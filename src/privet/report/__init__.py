"""``report.html``: one file that says what was promised to whom, what was gained, and what is not covered.

It needs no network and runs no script. Figures are inline SVG; numbers that a figure shows also stand in a table.
"""

from __future__ import annotations

from pathlib import Path

from privet.report.page import render
from privet.report.record import RunRecord

__all__ = ["RunRecord", "render", "write_report"]


def write_report(record: RunRecord) -> Path:
    """Write the report of a run into its folder, and return where it lies.

    Raises:
        PrivetError: if it cannot be written.
    """
    record.folder.write("report.html", render(record))
    return record.folder / "report.html"
