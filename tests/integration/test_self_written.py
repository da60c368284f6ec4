"""A codec from sentences that the base model writes itself: the same bits after a resume, and its control beside it."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from privet import self_written
from privet.cli.app import app
from privet.config import Config, load
from privet.data_config import PromptTemplate
from privet.errors import PrivetError
from privet.model_config import ModelConfig
from privet.models import LoadedModel, load_model
from privet.run_folder import RunFolder
from privet.runs import start

EXAMPLE = Path(__file__).parents[2] / "examples" / "fedshield.yaml"
WEIGHTS = "adapter/adapter_model.safetensors"
TEMPLATE = {
    "kind": "classification",
    "prompt": "Text: {text}\nSentiment:",
    "verbalisers": {"0": " negative", "1": " positive"},
}
PROMPT = PromptTemplate(prompt="{{Text}}: {q}\nAgain: {q}\nAnswer:", completion=" {a}")


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory, small_folder: Path) -> Path:
    """Files of three silos, without a public part."""
    assert small_folder.is_dir()
    folder = tmp_path_factory.mktemp("sites")
    draw = random.Random(3)
    for name in ("east", "north", "south"):
        rows = [
            json.dumps(
                {"text": f"{draw.choice(['food', 'film'])} {('awful', 'lovely')[i % 2]} {i}", "label": i % 2}
            )
            for i in range(30)
        ]
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(autouse=True)
def caches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache folder of its own for the sentences; the small model stays in the usual one."""

    def ensure(name: str, build: Callable[[Path], Mapping[str, Any]], *, version: str) -> Path:
        folder = tmp_path / "cache" / name
        if not folder.exists():
            folder.mkdir(parents=True)
            build(folder)
        return folder

    monkeypatch.setattr(self_written, "ensure", ensure)
    return tmp_path / "cache"


class Interrupted(Exception):
    """A run that was killed."""


def run(sites: Path, out: Path, *, stop_after: int | None = None, resume: bool = False) -> Path:
    """Four rounds in the span of eight gradients on self-written text, computed anew after two."""
    asked = load(
        EXAMPLE,
        overrides=[
            "insecure_test_seed=5",
            "system={kind: fedavg}",
            "model={name: small, dtype: float32}",
            f"data={{kind: jsonl, path: '{sites}/*.jsonl', partition: {{kind: file}}, test_public: true}}",
            f"data.template={json.dumps(TEMPLATE)}",
            "data.split={test: 0.2}",
            "lora={rank: 2, layers: {top: 1}, factors: freeze_a}",
            "schedule={rounds: 4, local: {steps: 2}}",
            "codec={kind: public_subspace, size: 8, updates: 12, source: self_generated, refresh_rounds: 2}",
            "sealing.kind=masked",
            "engine.threads=1",
            "engine.dropouts=[]",
        ],
    )

    def observe(kind: str, facts: dict[str, Any]) -> None:
        if kind == "round" and facts["round"] == stop_after:
            raise Interrupted

    start(asked, "", out, resume=resume, observe=observe)
    return out


def test_a_run_follows_self_written_text_and_resumes_to_the_same_bits(
    sites: Path, tmp_path: Path, caches: Path
) -> None:
    whole = run(sites, tmp_path / "whole")
    (written,) = caches.iterdir()
    rows = json.loads((written / "rows.json").read_text())
    assert len(rows) == 12 + 24
    assert {row["label"] for row in rows} == {"0", "1"}
    (written / "rows.json").unlink()
    written.rmdir()  # so that the resumed run writes them again
    with pytest.raises(Interrupted):
        run(sites, tmp_path / "cut", stop_after=2)
    again = json.loads((written / "rows.json").read_text())
    assert again == rows
    assert (run(sites, tmp_path / "cut", resume=True) / WEIGHTS).read_bytes() == (
        whole / WEIGHTS
    ).read_bytes()

    folder = RunFolder(whole)
    codec = folder.read_json("codec.json")
    assert codec["measured_on"] == "updates on self-written text"
    assert codec["cosine"] > codec["control_cosine"]
    result = folder.read_json("result.json")
    assert any("36 sentences that small wrote itself (seed 0, SHA-256" in note for note in result["notes"])
    # What training on the same sentences alone gives is beside what the run gave.
    assert result["public_alone"]["nll"] not in (None, result["before"]["nll"], result["after"]["nll"])
    shown = CliRunner().invoke(app, ["report", str(whole)])
    assert shown.exit_code == 0
    assert "public records alone" in (whole / "report.html").read_text(encoding="utf-8")


def test_a_learned_codec_is_tried_on_self_written_text_where_public_records_are_too_few(
    sites: Path, tmp_path: Path, caches: Path
) -> None:
    """A network without structure to learn is useless: refused before any client has made a thing."""
    asked = run_of_dr_encoder(sites, allocation="uniform")
    with pytest.raises(PrivetError, match="no more of an update"):
        start(asked, "", tmp_path / "useless")
    (written,) = caches.iterdir()
    assert len(json.loads((written / "rows.json").read_text())) == 24 + 48
    assert not (tmp_path / "useless" / "clients").exists()
    # By spread the largest tensors are kept whole.
    start(run_of_dr_encoder(sites, allocation="by_std"), "", tmp_path / "useful")
    folder = RunFolder(tmp_path / "useful")
    assert folder.read_json("codec.json")["measured_on"] == "updates on self-written text"
    notes = folder.read_json("result.json")["notes"]
    assert any(note.startswith("the codec is tried on 72 sentences that small wrote") for note in notes)


def run_of_dr_encoder(sites: Path, *, allocation: str) -> Config:
    """One round of each stage; nothing public but the test records."""
    network = "{kind: autoencoder, network: mlp, block: 64, ratio: 4, samples: 16, holdout: 4, epochs: 1"
    return load(
        EXAMPLE.with_name("dr_encoder.yaml"),
        overrides=[
            "insecure_test_seed=5",
            "model={name: small, dtype: float32}",
            f"data={{kind: jsonl, path: '{sites}/*.jsonl', partition: {{kind: file}}, test_public: true}}",
            f"data.template={json.dumps(TEMPLATE)}",
            "data.split={test: 0.2}",
            "lora={rank: 2, layers: {top: 2}, factors: both}",
            "schedule={rounds: 1, local: {steps: 2}}",
            "system.statistics.releases=1",
            "privacy.clip_norm=0.1",
            f"codec={network}, allocation: {allocation}}}",
            "engine.threads=1",
        ],
    )


def test_a_seed_decides_what_is_written(small_folder: Path) -> None:
    assert small_folder.is_dir()
    model: LoadedModel = load_model(ModelConfig(name="small"))
    rows = self_written.write(model, PROMPT, 5, 0)
    assert rows == self_written.write(model, PROMPT, 5, 0) != self_written.write(model, PROMPT, 5, 1)
    assert all(set(row) == {"q", "a"} and row["q"] and "\n" not in row["q"] for row in rows)
    records, digest = self_written.self_written(model, PROMPT, 5, 0)
    assert records[0].prompt == f"{{Text}}: {rows[0]['q']}\nAgain: {rows[0]['q']}\nAnswer:"
    assert (records[0].completion, len(digest)) == (f" {rows[0]['a']}", 64)
