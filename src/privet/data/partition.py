"""Who holds which records: by column, by file, at random, by Dirichlet draw, in blocks, or one silo a group.

Seeds are public. A partition simulates silos out of data that one place holds; it protects nobody.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from privet.data.records import Record
from privet.data.split import Part
from privet.data_config import (
    BlockPartition,
    ColumnPartition,
    DirichletPartition,
    FilePartition,
    GroupPartition,
    IidPartition,
    Partition,
)
from privet.errors import PrivetError

Held: TypeAlias = dict[str, list[Record]]
"""Records by silo, in the silos' order."""

FILE_COLUMN = "__file__"
"""Field that sources put the name of a record's file into."""


def partition(parts: Mapping[Part, Sequence[Record]], how: Partition) -> dict[Part, Held]:
    """Divide every part of the data (train, test, validation) over the same silos.

    Args:
        parts: Records by part; ``train`` decides which silos there are.
        how: The partition.

    Returns:
        For every part the records of each silo. All parts have the same silos, some of them maybe empty.

    Raises:
        PrivetError: if a silo gets no training record, or a column or group that is asked for is missing.
    """
    train = parts["train"]
    if isinstance(how, ColumnPartition):
        held = _by_key(parts, lambda record: _column(record, how.column))
    elif isinstance(how, FilePartition):
        held = _by_key(parts, lambda record: str(record.fields.get(FILE_COLUMN)))
    elif isinstance(how, IidPartition):
        held = {name: _iid(records, how) for name, records in parts.items()}
    elif isinstance(how, DirichletPartition):
        held = _dirichlet(parts, how)
    elif isinstance(how, BlockPartition):
        held = _blocks(parts, how)
    else:
        held = _groups(parts, how)
    empty = [silo for silo, records in held["train"].items() if not records]
    if empty or not train:
        raise PrivetError(
            "these silos have no training records" if train else "there are no training records",
            field="data.partition",
            given=", ".join(empty[:10]) or how.kind,
            hint="fewer silos, a smaller held-out share, or leave these silos' rows out of the data",
        )
    return held


def silo_names(count: int) -> list[str]:
    """Names for silos that have none of their own, in an order that sorts."""
    width = len(str(count - 1))
    return [f"silo-{i:0{width}d}" for i in range(count)]


def _by_key(parts: Mapping[Part, Sequence[Record]], key: Callable[[Record], str]) -> dict[Part, Held]:
    names = dict.fromkeys(key(record) for records in parts.values() for record in records)
    held: dict[Part, Held] = {part: {name: [] for name in names} for part in parts}
    for part, records in parts.items():
        for record in records:
            held[part][key(record)].append(record)
    return held


def _column(record: Record, column: str) -> str:
    value = record.fields.get(column)
    if value is None or value == "":
        raise PrivetError(
            "this record has no value in the column that names silos",
            field="data.partition.column",
            given=f"{column} of {record.id}",
            allowed="a column that every row fills: " + ", ".join(sorted(map(str, record.fields))),
        )
    return str(value)


def _iid(records: Sequence[Record], how: IidPartition) -> Held:
    order = np.random.default_rng(how.seed).permutation(len(records))
    shares = np.array_split(order, how.silos)
    names = silo_names(how.silos)
    return {name: _pick(records, share) for name, share in zip(names, shares, strict=True)}


def _dirichlet(parts: Mapping[Part, Sequence[Record]], how: DirichletPartition) -> dict[Part, Held]:
    """Each label shared out by its own draw: Yurochkin et al., arXiv 1905.12022, section 5."""

    def key(record: Record) -> str:
        if how.column is not None:
            return _column(record, how.column)
        if record.label is None:
            raise PrivetError(
                "records have no label to skew by",
                field="data.partition.column",
                allowed="a column, or a classification template",
            )
        return str(record.label)

    labels = sorted({key(record) for records in parts.values() for record in records})
    rng = np.random.default_rng(how.seed)
    for _ in range(1000):
        # One row of proportions for each label; the same proportions rule every part.
        proportions = rng.dirichlet([how.alpha] * how.silos, size=len(labels))
        orders = rng.integers(2**63, size=len(parts))
        held = {
            part: _share_out(records, [labels.index(key(r)) for r in records], proportions, int(seed))
            for (part, records), seed in zip(parts.items(), orders, strict=True)
        }
        if all(len(records) >= how.minimum_records for records in held["train"].values()):
            return held
    raise PrivetError(
        "no draw out of 1000 gave every silo its minimum of records",
        field="data.partition",
        given=f"alpha {how.alpha}, {how.silos} silos, minimum_records {how.minimum_records}",
        hint="a larger alpha, fewer silos, or a smaller minimum_records",
    )


def _share_out(
    records: Sequence[Record], labels: Sequence[int], proportions: NDArray[np.float64], seed: int
) -> Held:
    rng = np.random.default_rng(seed)
    silos = proportions.shape[1]
    chosen: list[list[int]] = [[] for _ in range(silos)]
    for label, shares in enumerate(proportions):
        members = rng.permutation([i for i, of in enumerate(labels) if of == label]).astype(np.int64)
        cuts = np.round(np.cumsum(shares)[:-1] * len(members)).astype(np.int64)
        for silo, members_of_silo in enumerate(np.split(members, cuts)):
            chosen[silo].extend(members_of_silo.tolist())
    return {name: _pick(records, chosen[i]) for i, name in enumerate(silo_names(silos))}


def _blocks(parts: Mapping[Part, Sequence[Record]], how: BlockPartition) -> dict[Part, Held]:
    by_value = _by_key(parts, lambda record: _column(record, how.column))
    sizes = {value: len(records) for value, records in by_value["train"].items()}
    if how.silos < len(sizes):
        raise PrivetError(
            f"there are fewer silos than values of column '{how.column}'",
            field="data.partition.silos",
            given=how.silos,
            allowed=f"at least {len(sizes)}",
        )
    held: dict[Part, Held] = {part: {} for part in parts}
    for value, count in _apportion(sizes, how.silos).items():
        names = [f"{value}-{name.removeprefix('silo-')}" for name in silo_names(count)]
        for part in parts:
            dealt = _deal_groups(by_value[part][value], count, how.seed)
            held[part] |= dict(zip(names, dealt, strict=True))
    return held


def _apportion(sizes: Mapping[str, int], seats: int) -> dict[str, int]:
    """One seat for each, the others by Sainte-Laguë's method: the next to whoever has most records a seat."""
    given = dict.fromkeys(sizes, 1)
    for _ in range(seats - len(sizes)):
        given[max(sizes, key=lambda value: sizes[value] / (2 * given[value] + 1))] += 1
    return given


def _deal_groups(records: Sequence[Record], count: int, seed: int) -> list[list[Record]]:
    members: defaultdict[str, list[int]] = defaultdict(list)
    for i, record in enumerate(records):
        members[record.group if record.group is not None else f"record/{record.id}"].append(i)
    names = list(members)
    order = np.random.default_rng(seed).permutation(len(names))
    blocks: list[list[int]] = [[] for _ in range(count)]
    for i in order:
        min(blocks, key=len).extend(members[names[i]])  # the block with fewest records takes the next group
    return [_pick(records, block) for block in blocks]


def _groups(parts: Mapping[Part, Sequence[Record]], how: GroupPartition) -> dict[Part, Held]:
    for record in parts["train"]:
        if record.group is None:
            raise PrivetError(
                "records have no group, so there cannot be one silo for each",
                field="data.partition.kind",
                given=f"group, but {record.id} belongs to none",
                hint="set data.split.group to the column that holds it",
            )
    groups = dict.fromkeys(str(record.group) for records in parts.values() for record in records)
    # The embedded data's groups are `domain/number`, and a slash cannot stand in a roster.
    silo_of = {group: group.replace("/", "-") for group in groups}
    if len(set(silo_of.values())) < len(groups):
        silo_of = {group: group for group in groups}  # two groups would become one silo
    held = _by_key(parts, lambda record: silo_of[str(record.group)])
    names = [name for name, records in held["train"].items() if len(records) >= how.minimum_records]
    return {part: {name: silos[name] for name in names} for part, silos in held.items()}


def _pick(records: Sequence[Record], positions: Sequence[int] | NDArray[np.int64]) -> list[Record]:
    # In the order of the data, whatever order they were drawn in: a silo's file order must not tell the draw.
    return [records[i] for i in sorted(int(p) for p in positions)]
