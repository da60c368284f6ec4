"""What goes wrong outside the code, and what a person is told: the place, the value, what is allowed, the next step.

Through the command line every such mistake ends with exit code 2 and a message, never with a stack trace.
"""

from __future__ import annotations

import errno
import json
import os
import resource
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from support.toy import config
from support.toy_runs import adapter, gatherer
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from typer.testing import CliRunner

import privet.cast
import privet.runs
from privet import checkpoint
from privet.checkpoint import FILE
from privet.cli import app
from privet.config import Config, to_yaml
from privet.errors import PrivetError
from privet.run_folder import SIGN, RunFolder


def refused(*arguments: object) -> dict[str, str]:
    """The parts of the error that a command ends with; they stand on stderr too."""
    done = CliRunner().invoke(app, [*map(str, arguments), "--json"])
    assert done.exit_code == 2, done.output
    assert "Traceback" not in done.output
    # CliRunner keeps the exception that ended the command: a clean exit, not an error that leaked
    assert isinstance(done.exception, SystemExit)
    parts: dict[str, str] = json.loads(done.stdout)["error"]
    assert parts["message"]
    for part in parts.values():
        for line in part.splitlines():
            assert line.strip() in done.stderr
    return parts


def written(path: Path, config: Config | dict[str, Any]) -> Path:
    """A configuration as a file."""
    text = to_yaml(config) if isinstance(config, Config) else yaml.safe_dump(config)
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs on toy data, without a language model."""
    monkeypatch.setattr(privet.cast, "gather", gatherer())


@pytest.fixture
def run(toy: None, tmp_path: Path) -> tuple[Path, Path]:
    """Configuration and folder of a finished run."""
    file, out = written(tmp_path / "run.yaml", config()), tmp_path / "out"
    done = CliRunner().invoke(app, ["run", str(file), "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    return file, out


# --- folders and checkpoints


def test_an_existing_run_is_not_overwritten(run: tuple[Path, Path]) -> None:
    file, out = run
    before = adapter(out)
    error = refused("run", file, "--out", out)
    assert error["field"] == "--out"
    assert error["given"] == str(out)
    assert "--resume" in error["hint"]
    assert "--fresh" in error["hint"]
    assert adapter(out) == before


def test_fresh_throws_a_run_away_and_nothing_else(run: tuple[Path, Path], tmp_path: Path) -> None:
    file, out = run
    (out / "clients" / "0" / "old").write_bytes(b"old")
    done = CliRunner().invoke(app, ["run", str(file), "--out", str(out), "--fresh", "--json"])
    assert done.exit_code == 0, done.output
    assert not (out / "clients" / "0" / "old").exists()
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "chapter.txt").write_text("years of work", encoding="utf-8")
    error = refused("run", file, "--out", thesis, "--fresh")
    assert "not thrown away" in error["message"]
    assert "--out" in error["hint"]
    assert (thesis / "chapter.txt").exists()


def test_resume_needs_a_run(toy: None, tmp_path: Path) -> None:
    file = written(tmp_path / "run.yaml", config())
    error = refused("run", file, "--out", tmp_path / "nowhere", "--resume")
    assert "not the folder of a run" in error["message"]
    assert "without --resume" in error["hint"]
    assert not (tmp_path / "nowhere").exists()
    assert "--out" in refused("run", file, "--resume")["hint"]
    assert "a file" in refused("run", file, "--out", file)["message"]


@pytest.mark.parametrize("flags", [["--resume"], ["--fresh"]])
def test_two_processes_do_not_share_a_folder(run: tuple[Path, Path], flags: list[str]) -> None:
    """Also ``--fresh`` must not throw away what another process is running."""
    file, out = run
    before = adapter(out)
    with RunFolder(out).alone():
        error = refused("run", file, "--out", out, *flags)
    assert "another process" in error["message"]
    assert error["field"] == str(out)
    assert error["hint"]
    assert adapter(out) == before
    done = CliRunner().invoke(app, ["run", str(file), "--out", str(out), *flags, "--json"])
    assert done.exit_code == 0, "the lock is gone with its holder"


def test_a_run_is_resumed_with_its_own_configuration_only(run: tuple[Path, Path]) -> None:
    file, out = run
    kept = (out / "config.yaml").read_text(encoding="utf-8")
    for other in ("schedule.rounds=9", "privacy.noise_multiplier=0.5", "lora.rank=2"):
        error = refused("run", file, "--out", out, "--resume", "--set", other)
        assert "another configuration" in error["message"]
        assert "the same --set" in error["hint"]
        assert error["given"] != error["allowed"]
        assert (out / "config.yaml").read_text(encoding="utf-8") == kept, "the run keeps its own"
    faster = ["--set", "engine.threads=1", "--set", "engine.cache_mebibytes=0"]
    done = CliRunner().invoke(app, ["run", str(file), "--out", str(out), "--resume", *faster, "--json"])
    assert done.exit_code == 0, "how fast a run is may change"


def test_a_configuration_is_held_before_the_first_checkpoint(run: tuple[Path, Path]) -> None:
    """A client may have answered already: another question for the same round would be refused, or a second release."""
    file, out = run
    (out / FILE).unlink()
    error = refused("run", file, "--out", out, "--resume", "--set", "schedule.rounds=9")
    assert "another configuration" in error["message"]


def test_any_damage_to_a_checkpoint_is_seen(run: tuple[Path, Path]) -> None:
    file, out = run
    whole = (out / FILE).read_bytes()
    for position in (0, 40, 100, len(whole) // 2, len(whole) - 1):
        broken = bytearray(whole)
        broken[position] ^= 1
        (out / FILE).write_bytes(broken)
        error = refused("run", file, "--out", out, "--resume")
        assert "damaged" in error["message"], position
        assert error["field"] == str(out / FILE)
        assert "--fresh" in error["hint"]
    for length in (0, 10, 96, len(whole) - 1):
        (out / FILE).write_bytes(whole[:length])
        assert "damaged" in refused("run", file, "--out", out, "--resume")["message"]


def test_a_checkpoint_that_was_lost_or_put_back_is_not_gone_on_from(
    toy: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its ledger lacks what was released since: the run would end by a statement that is too small."""
    save, saved = checkpoint.save, []

    def keeping(folder: RunFolder, *what: Any, **more: Any) -> None:
        save(folder, *what, **more)
        saved.append((folder / FILE).read_bytes())

    monkeypatch.setattr(checkpoint, "save", keeping)
    file, out = written(tmp_path / "run.yaml", config()), tmp_path / "out"
    resume = ["run", str(file), "--out", str(out), "--resume", "--json"]
    assert CliRunner().invoke(app, [*resume[:4], "--json"]).exit_code == 0
    whole = {name: (out / name).read_bytes() for name in ("rounds.jsonl", "privacy.json", "dp_event.json")}
    for content, said in ((None, "is missing"), (saved[0], "is older"), (saved[len(saved) // 2], "is older")):
        (out / FILE).unlink()
        if content is not None:
            (out / FILE).write_bytes(content)
        error = refused(*resume[:-1])
        assert said in error["message"]
        assert error["field"] == str(out / FILE)
        assert "count the run as if it had gone to its end" in error["hint"]
        assert {name: (out / name).read_bytes() for name in whole} == whole, "what contradicts it stays"
        with pytest.raises(PrivetError, match=said):
            checkpoint.read_ledger(RunFolder(out))
        (out / FILE).touch()
    (out / FILE).write_bytes(saved[-1])
    assert CliRunner().invoke(app, resume).exit_code == 0


def test_a_damaged_memory_of_a_client_is_named(toy: None, tmp_path: Path) -> None:
    file, out = written(tmp_path / "run.yaml", config(sealing={"kind": "encrypted"})), tmp_path / "out"
    assert CliRunner().invoke(app, ["run", str(file), "--out", str(out), "--json"]).exit_code == 0
    state = out / "clients" / "2" / "state"
    state.write_bytes(state.read_bytes()[:50])
    error = refused("run", file, "--out", out, "--resume")
    assert "damaged" in error["message"]
    assert error["field"] == "silo2"
    assert error["hint"]


# --- the disk


def undisturbed(folder: Path) -> bytes:
    privet.runs.start(config(), to_yaml(config()), folder)
    return adapter(folder)


@pytest.mark.usefixtures("toy")
def test_a_disk_that_fills_up_anywhere_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """ENOSPC when data are forced to the disk, at instants from the first file to the last; then there is space."""
    expected = undisturbed(tmp_path / "undisturbed")
    fsync, calls, full_at = os.fsync, 0, 0

    def counting(descriptor: int) -> None:
        nonlocal calls
        calls += 1
        if calls == full_at:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", counting)
    undisturbed(tmp_path / "counted")
    total = calls
    assert total > 100
    for full_at in (1, 5, 12, total // 4, total // 2, total - 30, total - 8, total):
        calls, out = 0, tmp_path / f"full-{full_at}"
        with pytest.raises(PrivetError) as caught:
            privet.runs.start(config(), to_yaml(config()), out)
        assert "No space left" in str(caught.value.given)
        assert "--resume" in str(caught.value.hint)
        assert caught.value.field is not None
        calls = -(10**6)
        privet.runs.start(config(), to_yaml(config()), out, resume=True)
        assert adapter(out) == expected


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The kernel refuses to let a file grow beyond 4 kB, as a quota would."""
    # Python 3.11 would leave what it compiles meanwhile cut off, for good.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    yield
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.usefixtures("toy")
def test_a_write_that_the_kernel_refuses_is_a_message(tmp_path: Path, small_files: None) -> None:
    file = written(tmp_path / "run.yaml", config(schedule={"rounds": 60}))
    error = refused("run", file, "--out", tmp_path / "out")
    assert error["message"] == "cannot be written"
    assert error["given"] == os.strerror(errno.EFBIG)
    assert str(tmp_path / "out") in error["field"]
    assert "--resume" in error["hint"]


@pytest.mark.usefixtures("toy")
def test_a_full_disk_under_the_log_and_the_adapter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is written without our own care: the log, and the adapter by a library with errors of its own."""
    from safetensors import SafetensorError

    message = "Error while serializing: I/O error: No space left on device (os error 28)"

    def save(*arguments: Any) -> None:
        raise SafetensorError(message)

    with monkeypatch.context() as patch:
        patch.setattr("support.toy_runs.ToyLayout.save_peft", save)
        with pytest.raises(PrivetError) as caught:
            privet.runs.start(config(), to_yaml(config()), tmp_path / "out")
    assert caught.value.field == str(tmp_path / "out" / "adapter")
    assert "No space left" in str(caught.value.given)
    (tmp_path / "out" / "log.txt").unlink()
    (tmp_path / "out" / "log.txt").mkdir()
    (tmp_path / "out" / FILE).unlink()
    (tmp_path / "out" / "rounds.jsonl").unlink()
    with pytest.raises((PrivetError, OSError)) as wrong:
        privet.runs.start(config(), to_yaml(config()), tmp_path / "out", resume=True)
    assert "log.txt" in str(wrong.value)


# --- configuration and data


def own_data(folder: Path, model: str | Path, silos: int = 4) -> dict[str, Any]:
    """A run on the user's own files, one a silo."""
    (folder / "sites").mkdir(exist_ok=True)
    for silo in range(silos):
        rows = [{"prompt": f"the word {i} is", "completion": f" good {i % 7}"} for i in range(30)]
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / "sites" / f"site{silo}.jsonl").write_text(text, encoding="utf-8")
    return {
        "system": {"kind": "hedge"},
        "model": {"name": str(model), "dtype": "float32"},
        "data": {
            "kind": "jsonl",
            "path": str(folder / "sites" / "*.jsonl"),
            "partition": {"kind": "file"},
            "split": {"test": 0.0},
            "max_length": 32,
        },
        "schedule": {"rounds": 2, "sampling_rate": 0.3, "expected_batch": 36},
        "privacy": {"noise_multiplier": 1.0, "clip_norm": 1.0},
        "sealing": {"kind": "masked"},
        "engine": {"threads": 1},
    }


def make_model(folder: Path, **special: str) -> Path:
    """A tiny Llama with a tokenizer of its own, in Hugging Face format."""
    core = Tokenizer(models.WordLevel(unk_token="?"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=["?", "<end>", "<pad>"], show_progress=False)
    core.train_from_iterator(["the word is good " + " ".join(map(str, range(40)))], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, unk_token="?", **special)
    shape = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=64, max_position_embeddings=64, **shape))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_model(tmp_path_factory.mktemp("model"), eos_token="<end>", pad_token="<pad>")


def test_an_unknown_key_is_named_with_its_path(tmp_path: Path) -> None:
    raw = own_data(tmp_path, "small")
    raw["privacy"]["epsilon"] = 3
    raw["shedule"] = {"rounds": 3}
    error = refused("run", written(tmp_path / "run.yaml", raw), "--out", tmp_path / "out")
    assert "2 mistakes" in error["message"]
    assert "privacy.epsilon: unknown key (given: 3)" in error["message"]
    assert "shedule: unknown key" in error["message"]
    assert "docs/config.md" in error["hint"]
    assert not (tmp_path / "out").exists()


def test_broken_rows_are_listed_with_their_lines(tmp_path: Path, model: Path) -> None:
    raw = own_data(tmp_path, model)
    site = tmp_path / "sites" / "site2.jsonl"
    lines = site.read_text(encoding="utf-8").splitlines()
    lines[3], lines[17] = '{"prompt": "cut o', "[1, 2]"
    site.write_text("\n".join(lines), encoding="utf-8")
    error = refused("run", written(tmp_path / "run.yaml", raw), "--out", tmp_path / "out")
    assert error["field"] == str(site)
    assert "2 broken rows" in error["message"]
    assert "line 4: not valid JSON" in error["given"]
    assert "line 18" in error["given"]
    assert "cut o" not in json.dumps(error), "what a row says stays with its owner"
    lines[3], lines[17] = lines[0], '{"prompt": "no completion"}'
    site.write_text("\n".join(lines), encoding="utf-8")
    error = refused("run", tmp_path / "run.yaml", "--out", tmp_path / "out", "--fresh")
    assert "site2.jsonl line 18" in error["given"]
    assert "completion" in error["given"]


@pytest.mark.parametrize("content", ["", '{"prompt": "p", "completion": "  "}\n'])
def test_a_silo_without_records(tmp_path: Path, model: Path, content: str) -> None:
    """Its file is empty, or every completion is blank: it is not left out silently, everybody counts on its noise."""
    raw = own_data(tmp_path, model)
    (tmp_path / "sites" / "site1.jsonl").write_text(content, encoding="utf-8")
    error = refused("run", written(tmp_path / "run.yaml", raw), "--out", tmp_path / "out")
    assert "record" in error["message"]
    assert "site1" in error["field"] + error.get("given", "")
    assert error["hint"]


def test_a_model_that_cannot_be_read(tmp_path: Path, model: Path) -> None:
    raw = own_data(tmp_path, tmp_path / "gone")
    error = refused("run", written(tmp_path / "run.yaml", raw), "--out", tmp_path / "out")
    assert error["field"] == "model.name"
    assert error["given"] == str(tmp_path / "gone")
    assert error["hint"]
    broken = make_model(tmp_path / "broken", eos_token="<end>", pad_token="<pad>")
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:500])
    raw["model"]["name"] = str(broken)
    error = refused("run", written(tmp_path / "run.yaml", raw), "--out", tmp_path / "out", "--fresh")
    assert "cannot be loaded" in error["message"]
    assert error["field"] == "model.name"
    assert error["hint"]
    (broken / "config.json").unlink()
    error = refused("run", tmp_path / "run.yaml", "--out", tmp_path / "out", "--fresh")
    assert "no model" in error["message"]
    assert "config.json" in error["allowed"]


def test_a_tokenizer_without_padding(tmp_path: Path) -> None:
    """End-of-text pads in its place, masked, and a note says so; with neither there is nothing to pad with."""
    with_end = make_model(tmp_path / "end", eos_token="<end>")
    raw = own_data(tmp_path, with_end)
    file = written(tmp_path / "run.yaml", raw)
    done = CliRunner().invoke(app, ["run", str(file), "--out", str(tmp_path / "out"), "--json"])
    assert done.exit_code == 0, done.output
    assert any("no padding token" in note for note in json.loads(done.stdout)["notes"])
    raw["model"]["name"] = str(make_model(tmp_path / "bare"))
    error = refused("run", written(file, raw), "--out", tmp_path / "other")
    assert "padding" in error["message"]
    assert error["field"] == "model.name"
    assert "pad_token" in error["hint"]


def test_a_start_that_failed_may_be_repeated(tmp_path: Path, model: Path) -> None:
    """A folder in which nothing has happened yet is in nobody's way."""
    raw = own_data(tmp_path, tmp_path / "gone")
    file, out = written(tmp_path / "run.yaml", raw), tmp_path / "out"
    refused("run", file, "--out", out)
    raw["model"]["name"] = str(model)
    written(file, raw)
    done = CliRunner().invoke(app, ["run", str(file), "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    assert (out / SIGN).exists()


@pytest.mark.usefixtures("toy")
def test_as_many_weights_as_clients(tmp_path: Path) -> None:
    given = config(
        system={"kind": "fedavg"}, privacy=None, schedule={"weights": [1.0, 0.5], "sampling_rate": None}
    )
    error = refused("run", written(tmp_path / "run.yaml", given), "--out", tmp_path / "out")
    assert error["field"] == "schedule.weights"
    assert error["given"] == "2 weights"
    assert error["allowed"].startswith("4")
