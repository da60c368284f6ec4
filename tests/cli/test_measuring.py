"""``privet bench codecs --json`` answers with flat rows and nothing else."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

import privet.bench_codecs
from privet.bench_codecs import Row
from privet.cli.app import app

ROW = Row(codec="row_pca", ratio=64.0, noise=0.3, cosine=0.787, relative_error=0.62, control_cosine=0.098)


def test_rows_of_bench_codecs_are_json_on_stdout(monkeypatch: pytest.MonkeyPatch) -> None:
    def measured(**options: object) -> list[Row]:
        print("a library that talks")
        return [ROW]

    monkeypatch.setattr(privet.bench_codecs, "bench_codecs", measured)
    done = CliRunner().invoke(app, ["bench", "codecs", "--json"])
    assert done.exit_code == 0
    (row,) = json.loads(done.stdout)
    assert list(row) == ["codec", "ratio", "noise", "cosine", "relative_error", "control_cosine"]
