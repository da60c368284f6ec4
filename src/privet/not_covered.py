"""What one run's guarantee leaves out, beside what all guarantees leave out (`privet.privacy.statement`)."""

from __future__ import annotations

from privet.config import Config
from privet.data_config import GroupPartition
from privet.resolve import Resolved

NEAR_DUPLICATES = (
    "Preparation: near-duplicates were looked for among all records and removed (`data.remove_near_duplicates`): one "
    "that comes or goes also brings others in or keeps them out. The guarantee is for the records that were left."
)
"""What a guarantee leaves out where records decide about each other before the run."""

DEALT_OUT = (
    "Preparation: records were dealt out to simulated clients (`data.partition`), so one that comes or goes also moves "
    "others between clients or in and out of the run. The guarantee is for the clients' records as they were dealt."
)
"""What a record-level guarantee leaves out where a record's place depends on other records."""

WHO_EXISTS = (
    "Preparation: which clients there are follows from the records (`data.partition`), and their number is taken as "
    "public. The guarantee does not hide a record that is the only one of its client."
)
"""What a record-level guarantee leaves out where a column or a group makes clients."""

ROWS_OF_CSV = (
    "CSV: a quote that a row leaves open takes the rows after it into one value, so such a row also decides about "
    "others. The guarantee is for the rows as they were read. JSONL and Parquet have no such thing."
)
"""What a record-level guarantee leaves out where rows are not apart in their file."""

DECLARED_PUBLIC = (
    "Records declared public (`data.split.public`, `data.public_path`, test data with `data.test_public`): clip norms, "
    "codecs, learning rates and published metrics follow them without noise. Nothing is promised to the people in them."
)
"""What a guarantee leaves out where some records are used as public ones."""

RECORDS_OF_A_CLIENT = (
    "Single records of a client: the guarantee is for whether a whole client counted. A client that has other records "
    "instead may contribute something at twice the clip norm from what it did, so one record, or one person whose "
    "records are not all that the client holds, has the weaker guarantee of relation replace-one."
)
"""What a client-level guarantee leaves out unless its relation is replace-one: one record may turn a sum round."""

ROUNDING_OF_CIPHERTEXTS = (
    "Encryption: whoever opens a sum also sees the sum of its ciphertexts' rounding errors, which depend a little on "
    "single contributions; BFV does not hide how a sum came about. Epsilon counts the sum alone. Under "
    "`encrypted+masked` these errors are those of uniform words and tell nothing."
)
"""What the level `encrypted` leaves out (docs/trust.md)."""


def not_covered(resolved: Resolved, *, here: bool) -> list[str]:
    """Sentences for the run's privacy statement.

    Args:
        resolved: The run.
        here: Whether the clients' data were prepared here; sites prepare their own, row by row.
    """
    config = resolved.config
    privacy, data = config.privacy, config.data
    if privacy is None:
        return []
    record, how = privacy.unit == "record", data.partition
    # Where others of them go is no matter to who sees the sum alone. A participant also knows its own records, and
    # the server single contributions where one opens by itself.
    moves = resolved.facts.parties > 1 and how.kind in {"iid", "dirichlet", "blocks"}
    drops = isinstance(how, GroupPartition) and how.minimum_records > 1
    said = {
        NEAR_DUPLICATES: here and data.remove_near_duplicates,
        DEALT_OUT: here and record and (moves or drops),
        WHO_EXISTS: here and record and how.kind in {"group", "column"},
        ROWS_OF_CSV: record and data.kind == "csv",
        DECLARED_PUBLIC: _some_are_public(config),
        RECORDS_OF_A_CLIENT: not record and privacy.relation != "replace-one",
        ROUNDING_OF_CIPHERTEXTS: config.sealing.kind == "encrypted",
    }
    return [sentence for sentence, applies in said.items() if applies]


def _some_are_public(config: Config) -> bool:
    data = config.data
    return bool(data.split.public or data.test_public or getattr(data, "public_path", None))
