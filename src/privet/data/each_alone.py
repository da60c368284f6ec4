"""A site's own file for a run of several machines: each row is judged by itself.

One row that cannot be read, or has a label without a verbaliser, is left out and told to the people at the site; it
does not keep the site out of the run. So neither whether a site takes part nor any other record depends on it, as the
neighbouring relation demands: there is one record less, nothing else. CSV is the exception, and `privacy.json` says so:
a quote that a row leaves open takes the rows after it.
"""

from __future__ import annotations

from privet.data.records import DataReport, Dataset, Record, Silo, copies
from privet.data.sources import rows_of_files
from privet.data.split import part_of
from privet.data_config import CsvData, JsonlData, ParquetData
from privet.templates import RowError, content, group_of, is_blank, render

_NAME = "this site"


def load_each_alone(config: JsonlData | CsvData | ParquetData) -> tuple[Dataset, list[str]]:
    """The training records of one file, and which rows were left out and why, in words that quote no row.

    Args:
        config: The ``data`` section with the site's own path; partition and separate test data play no part.

    Raises:
        PrivetError: if the file is missing, unreadable as a whole, or of another kind.
    """
    left_out: list[str] = []
    rows = rows_of_files(config.path, config, "data", left_out)
    unreadable, kept = len(left_out), list[Record]()
    held_out = 0
    for row in rows:
        try:
            group = group_of(row.columns, config.split.group)
            record = render(row.columns, config.template, record_id=row.id, group=group)
            text = content(row.columns, config.template)
            # JSON can spell half a character, which is no text to a tokenizer.
            "".join([record.prompt, record.completion, text, group or ""]).encode()
        except RowError as error:
            left_out.append(f"{row.place}: {error}")
        except UnicodeEncodeError:
            left_out.append(f"{row.place}: not valid Unicode")
        else:
            if part_of(group, text, config.split) == "train":
                kept.append(record)
            else:
                held_out += 1
    dropped = {"could not be read": len(left_out), "held out": held_out}
    report = DataReport(
        config.path,
        len(rows) + unreadable,
        dropped,
        train={_NAME: len(kept)},
        blank=sum(is_blank(record, config.template) for record in kept),
        copies=copies(kept),
    )
    return Dataset([Silo(_NAME, kept)], {}, False, {}, [], report), left_out
