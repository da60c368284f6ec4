"""report.html: self-contained, accessible, and honest about what was promised and what was not."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from support.finished_run import SILOS, finished_run

from privet.report import RunRecord, render, write_report
from privet.report.page import AGGREGATE_WARNING, CODE_WARNING, DIAGNOSTICS_NOTE, INSECURE_NOTE


@pytest.fixture(scope="module")
def private(tmp_path_factory: pytest.TempPathFactory) -> RunRecord:
    return RunRecord.open(finished_run(tmp_path_factory.mktemp("runs") / "private <run> & co"))


@pytest.fixture(scope="module")
def page(private: RunRecord) -> str:
    return render(private)


class Elements(HTMLParser):
    """All start tags with their attributes, and whether every element is closed in order."""

    VOID = frozenset({"meta", "br", "use", "path", "rect", "img", "link", "input"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        if tag in self.VOID:
            return
        assert self.open, tag
        assert self.open.pop() == tag


def test_the_page_is_well_formed_and_loads_nothing(page: str) -> None:
    elements = Elements(page)
    assert not elements.open
    tags = {tag for tag, _ in elements.tags}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "image"}
    for tag, attributes in elements.tags:
        for name in ("src", "href", "xlink:href", "data", "srcset"):
            value = attributes.get(name)
            assert value is None or value.startswith("#"), (tag, name, value)
        assert not any(name.startswith("on") for name in attributes)
    assert not re.search(r"url\((?!#)", page)
    assert "@import" not in page
    policy = next(a["content"] for t, a in elements.tags if t == "meta" and "http-equiv" in a)
    assert policy is not None
    assert "default-src 'none'" in policy


def test_ids_are_unique_and_references_resolve(page: str) -> None:
    elements = Elements(page)
    ids = [attributes["id"] for _, attributes in elements.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    for _, attributes in elements.tags:
        for name in ("href", "xlink:href"):
            if (value := attributes.get(name)) is not None:
                assert value[1:] in ids
        for reference in (attributes.get("aria-labelledby") or "").split():
            assert reference in ids
    assert set(re.findall(r"url\(#([^)]*)\)", page)) <= set(ids)


def test_figures_have_names_words_and_the_pages_colours(page: str) -> None:
    elements = Elements(page)
    drawings = [attributes for tag, attributes in elements.tags if tag == "svg"]
    assert len(drawings) == 3
    assert all(attributes["role"] == "img" and attributes["aria-labelledby"] for attributes in drawings)
    svg = "".join(re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL))
    assert "#0101" not in svg, "a marker colour was left over"
    assert "var(--s1)" in svg
    assert "DejaVu" not in svg
    assert "<text" in svg, "text must stay text"
    assert "tweets: loss 0.360 to 0.240" in page


def test_tables_have_heads_with_scopes_and_captions(page: str) -> None:
    elements = Elements(page)
    assert all("scope" in attributes for tag, attributes in elements.tags if tag == "th")
    assert '<html lang="en">' in page
    assert page.count("<h1>") == 1


def test_epsilon_stands_with_observer_unit_relation_and_delta(private: RunRecord, page: str) -> None:
    assert "ε for unit record, relation add-remove, at δ = 1e-5" in page
    assert private.privacy is not None
    for observer in private.privacy["epsilon"]:
        assert f'<th scope="row">{observer}</th>' in page
    assert "beyond the trust model: shown, not promised" in page
    assert "worst observer: server; unit record; add-remove; δ = 1e-5" in page
    assert "can under-report" in page


def test_everything_that_the_reader_was_promised_is_there(private: RunRecord, page: str) -> None:
    assert private.privacy is not None
    for text in (
        "Poisson, rate 0.0183",
        "0.9",
        "2.5",
        "dp-accounting",
        "honest but curious",
        "masked",
        *SILOS,
    ):
        assert text in page
    for text in private.privacy["not_covered"]:
        assert text.replace("'", "&#39;") in page
    assert DIAGNOSTICS_NOTE in page
    assert "opened at attempt 2" in page
    assert "4-bit" in page
    assert "torch" in page


def test_names_are_escaped(page: str) -> None:
    assert "private &lt;run&gt; &amp; co" in page
    assert "<run>" not in page


def test_it_follows_the_readers_colours_and_prints(page: str) -> None:
    assert "prefers-color-scheme: dark" in page
    assert "@media print" in page
    assert 'name="color-scheme" content="light dark"' in page


def test_a_run_without_finite_epsilon_says_none_and_why(tmp_path: Path) -> None:
    page = render(RunRecord.open(finished_run(tmp_path / "open", "fedavg")))
    assert "This run has no finite ε" in page
    assert "they are not noised" in page
    assert '<td class="n strong">none</td>' in page
    assert "nothing is clipped" in page
    assert AGGREGATE_WARNING.replace("'", "&#39;") not in page


def test_sealing_without_noise_warns_that_it_hides_single_updates_only(tmp_path: Path) -> None:
    path = finished_run(tmp_path / "sealed", "fedavg")
    resolved = (
        (path / "resolved.yaml").read_text(encoding="utf-8").replace("  kind: none", "  kind: encrypted")
    )
    (path / "resolved.yaml").write_text(resolved, encoding="utf-8")
    assert AGGREGATE_WARNING.replace("'", "&#39;") in render(RunRecord.open(path))


def test_a_codec_without_noise_warns_that_codes_give_texts_away(tmp_path: Path) -> None:
    path = finished_run(tmp_path / "coded", "fedavg")
    assert CODE_WARNING not in render(RunRecord.open(path))
    resolved = (path / "resolved.yaml").read_text(encoding="utf-8")
    assert "  kind: identity" in resolved
    (path / "resolved.yaml").write_text(
        resolved.replace("  kind: identity", "  kind: prune"), encoding="utf-8"
    )
    assert CODE_WARNING in render(RunRecord.open(path))
    private = finished_run(tmp_path / "private")
    resolved = (
        (private / "resolved.yaml").read_text(encoding="utf-8").replace("  kind: identity", "  kind: prune")
    )
    (private / "resolved.yaml").write_text(resolved, encoding="utf-8")
    assert CODE_WARNING not in render(RunRecord.open(private))


def test_an_insecure_run_is_marked(tmp_path: Path) -> None:
    path = finished_run(tmp_path / "test")
    resolved = (path / "resolved.yaml").read_text(encoding="utf-8")
    resolved = resolved.replace("insecure_test_seed: null", "insecure_test_seed: 3")
    (path / "resolved.yaml").write_text(resolved, encoding="utf-8")
    assert INSECURE_NOTE in render(RunRecord.open(path))


def test_an_unfinished_run_has_a_report_too(tmp_path: Path) -> None:
    page = render(RunRecord.open(finished_run(tmp_path / "half", rounds=3, ended=False)))
    assert "unfinished after 3 of 40 rounds" in page
    assert "--resume" in page


def test_a_run_that_has_not_begun_has_one_as_well(tmp_path: Path) -> None:
    path = finished_run(tmp_path / "new", rounds=0, ended=False)
    for name in ("privacy.json", "metrics.jsonl"):
        (path / name).unlink()
    page = render(RunRecord.open(path))
    assert "has not written its privacy statement" in page
    assert "nothing is covered" in page


def test_diagnostics_of_the_simulation_can_be_left_out(tmp_path: Path) -> None:
    path = finished_run(tmp_path / "quiet", rounds=5)
    rows = [json.loads(line) for line in (path / "rounds.jsonl").read_text(encoding="utf-8").splitlines()]
    text = "".join(json.dumps({k: v for k, v in row.items() if k != "simulated"}) + "\n" for row in rows)
    (path / "rounds.jsonl").write_text(text, encoding="utf-8")
    page = render(RunRecord.open(path))
    assert "Diagnostics of the simulation" not in page
    assert "records sampled" not in page


def test_counts_that_a_resumed_client_no_longer_knows_are_gaps(tmp_path: Path) -> None:
    path = finished_run(tmp_path / "resumed", rounds=6)
    rows = [json.loads(line) for line in (path / "rounds.jsonl").read_text(encoding="utf-8").splitlines()]
    rows[3]["simulated"]["sampled"][1] = None
    (path / "rounds.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    totals = [sum(row["simulated"]["sampled"]) for row in rows if None not in row["simulated"]["sampled"]]
    page = render(RunRecord.open(path))
    assert f"Between {min(totals)} and {max(totals)} records" in page


def test_write_report_is_repeatable(private: RunRecord) -> None:
    first = write_report(private).read_bytes()
    assert write_report(private).read_bytes() == first
    assert len(first) < 200_000
