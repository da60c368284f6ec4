"""The benchmark's rows: their form, what they compare, and that each path gives the mean."""

from __future__ import annotations

from privet.bench_sealing import PATHS, bench_sealing, make_path, measure

NAMES = {
    "path",
    "values",
    "clients",
    "encrypt_s",
    "total_s",
    "upload_bytes",
    "expansion",
    "speedup",
}


def test_rows_have_the_documented_form_and_the_bytes_that_are_promised() -> None:
    rows = {row["path"]: row for row in bench_sealing(values=49_152, clients=3, repeats=1)}
    assert tuple(rows) == PATHS
    for row in rows.values():
        assert set(row) == NAMES
        assert row["total_s"] > row["encrypt_s"] > 0
        assert row["expansion"] == round(row["upload_bytes"] / (4 * 49_152), 4)
    assert rows["fedshield_ckks"]["speedup"] == 1
    assert rows["fedshield_ckks"]["expansion"] > 19
    # bytes do not depend on the machine: these are the project's targets
    assert rows["encrypted"]["expansion"] <= 1.05
    assert rows["encrypted+masked"]["expansion"] <= 1.05
    assert rows["masked"]["expansion"] <= 1.0


def test_a_mask_that_all_share_halves_the_bytes() -> None:
    for name in ("masked", "encrypted"):
        path = make_path(name, 3)
        whole = measure(path, 98_304, 3)
        half = measure(path, 98_304, 3, keep=lambda vector: vector[::2])
        assert abs(half.upload / whole.upload - 0.5) < 0.01
