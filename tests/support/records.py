"""Small data sets of users, for tests of the data section."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from privet.data import Dataset, Record
from privet.data_config import (
    DataConfig,
)

PAIRS = {"kind": "prompt", "prompt": "{question}", "completion": "{answer}"}


ADAPTER: TypeAdapter[Any] = TypeAdapter(DataConfig)


def config(**facts: Any) -> Any:
    return ADAPTER.validate_python(facts)


def write_jsonl(path: Path, rows: list[dict[str, Any]]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def pairs(count: int, **more: Any) -> list[dict[str, Any]]:
    return [{"question": f"What is {i} times {i}?", "answer": str(i * i), **more} for i in range(count)]


def every_record(dataset: Dataset) -> list[Record]:
    parts = [silo.records for silo in dataset.silos]
    parts += [*dataset.test.values(), *dataset.validation.values(), dataset.public]
    return [record for part in parts for record in part]
