"""What an audit found stands in the report and the model card; an attack that never works is not called withstood."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

from support.finished_run import finished_run

from privet.attacks.finding import IN_DOUBT, Finding
from privet.attacks.suite import without_silence
from privet.cli.auditing import _closing
from privet.model_card import model_card
from privet.report import RunRecord, render

COUNTS = Path(__file__).parents[2] / "experiments" / "audit_calibration" / "results" / "small.json"
HELD = Finding(
    "mia.gradient", "this run", "the opened sums", "AUC", 0.52, 0.4, 0.64, "95 %", "20 members", "holds", text="Within."
)  # fmt: skip
CONTROL = replace(HELD, setting="no noise", value=1.0, verdict="leaks", control=True)
ALARM = replace(HELD, attack="audit.canary", verdict="alarm", text="Too visible.")


def audited(path: Path, rows: list[Finding]) -> RunRecord:
    record = RunRecord.open(finished_run(path))
    found = {
        "schema": 1, "version": "0", "suite": "quick", "run": "r", "config": "c", "seed": 0, "false_alarm": 0.05,
        "alarms": sum(row.verdict == "alarm" for row in rows), "seconds": 3.0, "findings": [r.as_dict() for r in rows],
    }  # fmt: skip
    record.folder.write_json("audit.json", found)
    return RunRecord.open(path)


def test_the_report_and_the_card_hold_the_rows(tmp_path: Path) -> None:
    record = audited(tmp_path / "run", [CONTROL, HELD])
    page, card = render(record), model_card(record, base="small", parameters=1)
    for text in (page, card):
        assert "mia.gradient" in text
        assert "0.52 [0.4, 0.64]" in text
        assert "(control)" in text
        assert "no ε covers" in text, "attacks look at training records, and say exactly what they found"
    assert "No alarm" in page


def test_an_alarm_is_a_warning(tmp_path: Path) -> None:
    page = render(audited(tmp_path / "run", [ALARM]))
    assert "An attack found more than what was promised" in page
    assert "1 alarm" in page


def test_rows_in_doubt_are_told_of_beside_no_alarm(tmp_path: Path) -> None:
    rows = [CONTROL, HELD, replace(HELD, verdict="in doubt", low=0.6, compared=0.55, text=IN_DOUBT)]
    record = audited(tmp_path / "run", rows)
    page = render(record)
    assert "No alarm" in page
    assert "1 row in doubt" in page
    found = {"alarms": 0, "false_alarm": 0.05, "findings": [row.as_dict() for row in rows]}
    assert "1 row(s) in doubt" in _closing(found)
    assert "in doubt" not in _closing({**found, "findings": found["findings"][:2]})


def test_the_rate_of_false_alarms_is_told_as_set_and_as_counted(tmp_path: Path) -> None:
    """Twenty seeds do not show 5 %, so neither place may say that it is so."""
    said = _closing({"alarms": 0, "false_alarm": 0.05, "findings": [HELD.as_dict()]})
    assert "set so that a suite raises an alarm on an honest run with probability 0.05 at most" in said
    counted = json.loads(COUNTS.read_text(encoding="utf-8"))["rows"]
    suites = [row for row in counted if row["what"] == "quick suite"]
    by_system = {
        name: [r["over"] for r in suites if r["codec"] == name] for name in {r["codec"] for r in suites}
    }
    whole = [over for over in by_system.values() if len(over) == 20]
    assert f"20 honest seeds of each of {('no', 'one', 'two', 'three')[len(whole)]} systems" in said
    assert "systems raised none, which" in said
    assert max(map(sum, whole)) == 0
    # What none of twenty leaves possible at 95 % (Clopper and Pearson), rounded up.
    assert f"bounds that probability by {math.ceil(100 * (1 - 0.05 ** (1 / 20))) / 100:.2f} only" in said
    assert "are set so that" in render(audited(tmp_path / "run", [CONTROL, HELD]))


def test_a_run_that_was_not_attacked_says_so(tmp_path: Path) -> None:
    page = render(RunRecord.open(finished_run(tmp_path / "run")))
    assert "was not attacked" in page
    assert "no ε covers" not in page


def test_without_a_control_that_works_nothing_is_withstood() -> None:
    failed = replace(CONTROL, verdict="not applicable")
    assert [r.verdict for r in without_silence([failed, HELD])] == ["not applicable", "not applicable"]
    assert [r.verdict for r in without_silence([CONTROL, HELD])] == ["leaks", "holds"]
    assert [r.verdict for r in without_silence([failed, replace(HELD, attack="audit.canary")])][1] == "holds"


def test_a_row_whose_own_control_failed_is_not_withstood_though_another_setting_s_control_works() -> None:
    bytes_held = replace(HELD, attack="invert.tokens", setting="single messages")
    other = replace(CONTROL, attack="invert.tokens", setting="batch 1")
    own = replace(other, setting="single messages, with the key", stands_for="single messages")
    failed = replace(own, verdict="not applicable")
    assert without_silence([other, failed, bytes_held])[-1].verdict == "not applicable"
    assert without_silence([other, own, bytes_held])[-1].verdict == "holds"
    elsewhere = replace(bytes_held, setting="this run's noise")
    assert without_silence([other, failed, elsewhere])[-1].verdict == "holds", (
        "no control of its own: the attack's"
    )
    failed_other = replace(other, verdict="not applicable")
    assert without_silence([failed_other, own, elsewhere])[-1].verdict == "not applicable"
