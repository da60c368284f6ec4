"""FedShield's example on the small language model: a seal changes who sees what, and not one value of the adapter."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from privet.config import load
from privet.run_folder import RunFolder
from privet.runs import start

EXAMPLE = Path(__file__).parents[2] / "examples" / "fedshield.yaml"
ROUNDS = 4


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory, small_folder: Path) -> Path:
    """Files of four silos; the small model itself is made before any run is timed."""
    assert small_folder.is_dir()
    folder = tmp_path_factory.mktemp("sites")
    draw = random.Random(3)
    for name in ("east", "north", "south", "west"):
        rows = []
        for number in range(40):
            label = draw.randrange(2)
            text = f"the {draw.choice(['food', 'film', 'room'])} was {('awful', 'lovely')[label]} on day {number}"
            rows.append(json.dumps({"text": text, "label": label}))
        (folder / f"{name}.jsonl").write_text("\n".join(rows) + "\n", encoding="utf-8")
    return folder


def run(sites: Path, out: Path, kind: str) -> Path:
    """The example under a level, with a smaller model, adapter and number of rounds; party 3 leaves in round 2."""
    asked = load(
        EXAMPLE,
        overrides=[
            "insecure_test_seed=5",
            "model={name: small, dtype: float32}",
            "data={kind: jsonl, path: '"
            + str(sites / "*.jsonl")
            + "', partition: {kind: file}, split: {test: 0.0}, "
            "template: {kind: classification, verbalisers: {'0': ' negative', '1': ' positive'}}}",
            "lora={rank: 4, layers: {top: 1}}",
            f"schedule.rounds={ROUNDS}",
            "schedule.local.steps=2",
            "engine.threads=1",
            f"sealing.kind={kind}",
        ],
    )
    start(asked, "", out)
    return out


@pytest.fixture(scope="module")
def unsealed(sites: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run(sites, tmp_path_factory.mktemp("unsealed") / "run", "none")


@pytest.mark.parametrize("kind", ["masked", "encrypted", "encrypted+masked"])
def test_a_sealed_run_ends_with_the_adapter_of_the_unsealed_one(
    kind: str, sites: Path, unsealed: Path, tmp_path: Path
) -> None:
    """Equal bits after de-quantisation, with a dropout and the pruning mask of the last update."""
    sealed = run(sites, tmp_path / "run", kind)
    weights = "adapter/adapter_model.safetensors"
    assert (sealed / weights).read_bytes() == (unsealed / weights).read_bytes()
    ours, theirs = (
        [row["survivors"] for row in RunFolder(each).rows("rounds.jsonl")] for each in (sealed, unsealed)
    )
    assert ours == theirs
    assert [3 in survivors for survivors in ours] == [True, True, False, False]


def test_the_adapter_has_moved(unsealed: Path) -> None:
    """Or adapters would be equal because all of them are zero."""
    from safetensors.numpy import load_file

    factors = load_file(unsealed / "adapter/adapter_model.safetensors")
    assert any(values.any() for name, values in factors.items() if "lora_B" in name)
