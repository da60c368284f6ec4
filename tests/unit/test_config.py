"""Reading a configuration: every mistake with its path, overrides, and a file that says what was meant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from support.toy import config

from privet.config import ConfigError, load, parse, read_yaml, to_yaml, with_overrides
from privet.errors import PrivetError
from privet.run_folder import config_hash

RAW: dict[str, Any] = config().model_dump(mode="json")


def problems(raw: dict[str, Any]) -> dict[str, Any]:
    with pytest.raises(ConfigError) as caught:
        parse(raw, "run.yaml")
    assert caught.value.field == "run.yaml"
    assert caught.value.hint
    return {problem.path: problem for problem in caught.value.problems}


def test_every_mistake_of_single_fields_comes_at_once() -> None:
    raw = with_overrides(
        RAW,
        [
            "schedule.rounds=0",
            "privacy.delta=2",
            "lora.factors=neither",
            "engine.kind=cloud",
            "privacy.epsilon=3",
            "sealing.treshold=3",
            "colour=red",
        ],
    )
    del raw["model"]
    found = problems(raw)
    assert len(found) == 8
    assert found["schedule.rounds"].given == 0
    assert "1" in found["schedule.rounds"].allowed
    assert "< 1" in found["privacy.delta"].allowed
    assert "freeze_a" in found["lora.factors"].allowed
    assert found["privacy.epsilon"].message == "unknown key"
    assert found["colour"].message == "unknown key"
    assert found["model"].message == "is missing"
    assert any("treshold" in path for path in found)


@pytest.mark.parametrize("value", [".nan", ".inf"])
@pytest.mark.parametrize(
    "key",
    ["schedule.expected_batch", "schedule.server.learning_rate", "privacy.clip_norm", "privacy.max_epsilon"],
)
def test_numbers_are_finite(key: str, value: str) -> None:
    """A NaN passes every comparison that looks for a mistake, and YAML has a word for it."""
    assert key in " ".join(problems(with_overrides(RAW, [f"{key}={value}"])))
    assert "schedule.weights.1" in problems(with_overrides(RAW, [f"schedule.weights=[0.5, {value}]"]))


def test_paths_are_those_of_the_file_and_each_stands_once() -> None:
    """No name of a kind or of a type of the schema gets into a path, wherever a key may be several things."""
    raw = with_overrides(
        RAW,
        [
            "data={kind: jsonl, path: x, test_public: maybe, template: {kind: classification, verbalisers: {a: 1}}}",
            "schedule.server.learning_rte=1",
            "lora.layers=topp",
            "privacy.clip_norm=abc",
            "schedule.weights=[1, a]",
            "sealing.kind=maskd",
            "codec={ratio: 3}",
        ],
    )
    found = problems(raw)
    assert set(found) == {
        "data.test_public",
        "data.template.verbalisers.a",
        "schedule.server.learning_rte",
        "lora.layers",
        "privacy.clip_norm",
        "schedule.weights.1",
        "sealing.kind",
        "codec.kind",
    }
    assert found["schedule.server.learning_rte"].allowed.startswith("learning_rate (nearest), kind")
    assert found["lora.layers"].allowed == "a section, with its keys indented below or 'all' or a list"
    assert found["privacy.clip_norm"].allowed == "a number or 'public'"
    assert found["sealing.kind"].given == "maskd"
    assert found["sealing.kind"].allowed.startswith("masked (nearest), none")
    assert "random_projection" in found["codec.kind"].allowed
    assert not any("Input should" in str(problem) for problem in found.values())


def test_yes_is_no_number_and_infinity_no_bound() -> None:
    raw = with_overrides(
        RAW, ["schedule.rounds=yes", "schedule.server.learning_rate=true", "privacy.target_epsilon=.inf"]
    )
    found = problems(raw)
    assert set(found) == {"schedule.rounds", "schedule.server.learning_rate", "privacy.target_epsilon"}
    assert found["schedule.rounds"].allowed == "a whole number"
    assert found["privacy.target_epsilon"].allowed == "a finite number"
    assert parse(with_overrides(RAW, ["engine.diagnostics=false"])).engine.diagnostics is False


@pytest.mark.parametrize("assignment", ["data.path=[a", "data.path=*x", "lora.layers={top: 1, top: 2}"])
def test_an_assignment_that_is_no_yaml_is_told(assignment: str) -> None:
    with pytest.raises(PrivetError, match="not valid YAML") as caught:
        with_overrides(RAW, [assignment])
    assert (caught.value.field, caught.value.given) == ("--set", assignment)
    assert caught.value.hint


def test_a_key_that_stands_twice_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("privacy:\n  delta: 1.0e-5\n  unit: record\n  delta: 0.1\n", encoding="utf-8")
    with pytest.raises(PrivetError) as caught:
        read_yaml(path)
    assert caught.value.given == "line 4, column 3: the key 'delta' stands in line 2 already"
    path.write_text("a: &a {x: 1}\nb: {<<: *a, x: 2}\n", encoding="utf-8")
    assert read_yaml(path) == {"a": {"x": 1}, "b": {"x": 2}}


def test_a_long_value_is_cut() -> None:
    found = problems(RAW | {"version": "x" * 5000})
    assert len(str(found["version"])) < 300


@pytest.mark.parametrize(
    ("text", "message"),
    [("a: [1", "valid YAML"), ("- 1\n- 2", "no sections"), ("", "no sections"), (None, "cannot be read")],
)
def test_a_file_that_is_none(tmp_path: Path, text: str | None, message: str) -> None:
    path = tmp_path / "run.yaml"
    if text is not None:
        path.write_text(text, encoding="utf-8")
    with pytest.raises(PrivetError, match=message) as caught:
        read_yaml(path)
    assert caught.value.field == str(path)
    assert caught.value.hint


def test_a_yaml_mistake_is_placed_and_bytes_that_are_no_text_too(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("system:\n  kind: hedge\n bad: 1\n", encoding="utf-8")
    with pytest.raises(PrivetError) as caught:
        read_yaml(path)
    assert str(caught.value.given).startswith("line 3, column 2: expected")
    path.write_bytes(b"\xff\xfe\x00system")
    with pytest.raises(PrivetError) as caught:
        read_yaml(path)
    assert caught.value.given is not None


def test_overrides_are_yaml_and_leave_the_original_alone() -> None:
    raw: dict[str, Any] = {"schedule": {"rounds": 3}, "privacy": None}
    merged = with_overrides(raw, ["schedule.rounds=7", "privacy.delta=1e-6", "a.b.c=[1, x]", "n=null"])
    assert merged == {
        "schedule": {"rounds": 7},
        "privacy": {"delta": "1e-6"},
        "a": {"b": {"c": [1, "x"]}},
        "n": None,
    }
    assert raw == {"schedule": {"rounds": 3}, "privacy": None}
    for wrong in ("rounds", "=3", "schedule.rounds.deep=3"):
        with pytest.raises(PrivetError) as caught:
            with_overrides(raw, [wrong])
        assert caught.value.field == "--set"
        assert caught.value.given == wrong


def test_a_written_configuration_reads_back_the_same(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(to_yaml(config()), encoding="utf-8")
    assert load(path) == config()
    assert config_hash(load(path)) == config_hash(config())


@pytest.mark.parametrize(
    ("sections", "alone"),
    [
        ({}, True),
        ({"engine": {"deterministic_units": False}}, False),
        ({"privacy": {"unit": "client", "relation": "zero-out"}}, False),
        (
            {"privacy": {"unit": "client", "relation": "zero-out"}, "engine": {"deterministic_units": True}},
            True,
        ),
        ({"system": {"kind": "fedavg"}, "privacy": None}, False),
    ],
)
def test_records_pass_alone_where_a_guarantee_counts_them_one_by_one(
    sections: dict[str, Any], alone: bool
) -> None:
    """Among others a record's gradient would depend on theirs, which its sensitivity does not count."""
    assert config(**sections).deterministic_units == alone


def test_the_hash_names_what_a_run_computes_and_nothing_else() -> None:
    base = config_hash(config())
    for same in ({"threads": 1}, {"cache_mebibytes": 0}, {"diagnostics": False}):
        assert config_hash(config(engine=same)) == base
    for other in (
        {"engine": {"micro_batch": 3}},
        {"engine": {"deterministic_units": False}},
        {"privacy": {"noise_multiplier": 1.1}},
        {"seed": 1},
        {"insecure_test_seed": 8},
        {"sealing": {"kind": "encrypted"}},
    ):
        assert config_hash(config(**other)) != base


@pytest.mark.parametrize(
    "text", ["seed: 2024-13-45", "seed: 0x_", "seed: !!float abc", "seed: " + "[" * 3000]
)
def test_what_yaml_itself_stumbles_over_is_told(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(PrivetError, match="is not valid YAML"):
        read_yaml(path)
    with pytest.raises(PrivetError, match="not valid YAML"):
        with_overrides(RAW, [text.replace(": ", "=", 1)])


def test_a_value_that_stands_for_many_is_not_written_out() -> None:
    """A few hundred bytes of aliases are gigabytes in full."""
    value: Any = ["x"] * 8
    for _ in range(40):
        value = [value] * 8
    assert len(str(problems({**RAW, "seed": value})["seed"])) < 400
