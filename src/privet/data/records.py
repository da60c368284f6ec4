"""What data are made of: records, the silos that hold them, and the report of what was left out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Record:
    """One text to learn: by default one privacy unit.

    Attributes:
        id: Unique among all records of a data set, the same whenever it is read: ``nyt/12_3`` or ``patients:17``.
        prompt: Text that is given.
        completion: Text that is learned.
        label: Index of the class in the template's verbalisers, if the task is classification.
        group: What the record belongs to (a person, an item); a group is never divided between parts.
        fields: The columns of the row it came from.
        own_id: Whether ``id`` is the record's own. A line number is not: it follows from the rows before.
    """

    id: str
    prompt: str
    completion: str
    label: int | None = None
    group: str | None = None
    fields: Mapping[str, Any] = field(default_factory=dict)
    own_id: bool = False


@dataclass(frozen=True)
class Silo:
    """The records that one client holds and trains on."""

    name: str
    records: list[Record]

    def __len__(self) -> int:
        return len(self.records)


@dataclass(frozen=True)
class DataReport:
    """What loading did, so that nothing is left out silently.

    The counts depend on private records: they are for the eyes of whoever holds the data, never a message.

    Attributes:
        source: Where rows came from.
        rows: Rows read.
        dropped: Rows left out, by reason; reasons with zero are listed too when they were looked for.
        train: Training records of each silo.
        test: Test records by key.
        validation: Validation records by silo.
        public: Records declared public.
        groups: Distinct groups among all records; 0 when there are none.
        labels: Training records by label, if the task is classification.
        blank: Training records in which a column of the prompt is empty.
        copies: Training records that say word for word what another of their silo says.
    """

    source: str
    rows: int = 0
    dropped: Mapping[str, int] = field(default_factory=dict)
    train: Mapping[str, int] = field(default_factory=dict)
    test: Mapping[str, int] = field(default_factory=dict)
    validation: Mapping[str, int] = field(default_factory=dict)
    public: int = 0
    groups: int = 0
    labels: Mapping[str, int] = field(default_factory=dict)
    blank: int = 0
    copies: int = 0

    def lines(self) -> list[str]:
        """The report as short lines for a person."""
        kept = self.rows - sum(self.dropped.values())
        lines = [f"{self.source}: {self.rows} rows, {kept} records used"]
        lines += [f"left out, {reason}: {count}" for reason, count in self.dropped.items()]
        sizes = [f"{name} {count}" for name, count in self.train.items()]
        shown = ", ".join(sizes[:8]) + (f", and {len(sizes) - 8} more" if len(sizes) > 8 else "")
        lines.append(f"training: {sum(self.train.values())} records in {len(sizes)} silos: {shown}")
        parts = {"test": sum(self.test.values()), "validation": sum(self.validation.values())}
        parts["public"] = self.public
        lines.append("held out: " + ", ".join(f"{name} {count}" for name, count in parts.items()))
        if self.labels:
            lines.append("labels: " + ", ".join(f"{name} {count}" for name, count in self.labels.items()))
        if self.blank:
            lines.append(f"a column of the prompt is empty in {_records(self.blank)}")
        if self.copies:
            lines.append(
                f"exact copies within a silo: {_records(self.copies)}; epsilon for one record is weaker for a text "
                "that stands several times"
            )
        return lines


def _records(count: int) -> str:
    return f"{count} record{'' if count == 1 else 's'}"


def copies(records: Sequence[Record]) -> int:
    """How many of a silo's records say, word for word, what an earlier one says."""
    return len(records) - len({(record.prompt, record.completion) for record in records})


@dataclass(frozen=True)
class Dataset:
    """Everything that one configuration's ``data`` section stands for.

    Attributes:
        silos: Training data, one entry a client. Private.
        test: Test records by silo or by domain.
        test_public: Whether ``test`` is declared public; if not, it must not leave the silo of its key.
        validation: Validation records by silo; they must not leave it.
        public: Records declared public, disjoint from all others.
        report: What was read, kept and left out.
    """

    silos: list[Silo]
    test: dict[str, list[Record]]
    test_public: bool
    validation: dict[str, list[Record]]
    public: list[Record]
    report: DataReport

    @property
    def size(self) -> int:
        """Number of training records over all silos."""
        return sum(len(silo) for silo in self.silos)


def in_public_order(records: Sequence[Record], seed: int) -> list[Record]:
    """Public records in an order that the public seed draws, so that the first of them stand for all.

    As they come they may be sorted by silo, and clip norms and codecs look at the first few hundred. No other record
    moves two of them past each other: a line number would, and private rows may stand in the same file.
    """

    def place(record: Record) -> bytes:
        # JSON can spell half a character, which is no text.
        said = record.id if record.own_id else f"{record.prompt}\0{record.completion}"
        return hashlib.sha256(f"{seed}/{said}".encode(errors="surrogatepass")).digest()

    return sorted(records, key=place)
