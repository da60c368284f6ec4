"""Signed envelopes between a server and its sites, without an engine: what is refused, and nothing else changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from support.consortium import SITES, local_adapter, write_records
from support.network import CANARY, Network

from privet import wire
from privet.config import Config
from privet.engines.homes import KEYS, ROSTER
from privet.engines.joining import JOIN, joining, made_from_public
from privet.engines.party import Party, Refused
from privet.errors import PrivetError
from privet.model_config import ModelConfig
from privet.protocol import RoundId
from privet.run_folder import RunFolder
from privet.sealing.base import SealingRefused
from privet.sealing.enrolment import assemble, init_keys, sign_file
from privet.sealing.envelope import SERVER, Address, open_envelope
from privet.site_ledger import ENTRY


def reason_of_replay(party: Party, op: str, raw: bytes) -> str | None:
    """Why a question that is sent again is refused; ``None`` if it is answered as before."""
    try:
        party.answer(op, raw)
    except Refused as refusal:
        return refusal.reason
    return None


@pytest.fixture
def network(tmp_path: Path, small_folder: Path) -> Network:
    return Network(tmp_path / CANARY)


def test_envelopes_change_nothing_and_old_questions_are_refused(network: Network, tmp_path: Path) -> None:
    assert network.go() == "finished", network.server.status("run")
    result = network.server.run_folder("run") / "adapter" / "adapter_model.safetensors"
    assert result.read_bytes() == local_adapter(network.config(), tmp_path / "local")

    # Every question again, as whoever recorded them could send them: to the process that answered, and to a new one.
    for party in (network.parties[0], Party(network.home(SITES[0]), "run", network.logs.append)):
        reasons = [reason_of_replay(party, op, raw) for op, number, raw in network.sent if number == 0]
        assert reasons.count("refused: replayed") > 3
        assert set(reasons) <= {None, "refused: replayed", "refused: not-joined"}
    # Somebody else's question, an operation of another level, another operation's, another run's
    theirs = next(raw for op, party, raw in network.sent if (op, party) == ("round", 1))
    enrol = next(raw for op, party, raw in network.sent if (op, party) == ("enrol", 0))
    invited = next(raw for op, party, raw in network.sent if (op, party) == ("join", 0))
    for asked, raw, reason in (
        ("round", theirs, "wrong-receiver"),
        ("finish", theirs, "unknown-operation"),
        ("round", enrol, "wrong-op"),
    ):
        with pytest.raises(Refused, match=reason):
            network.parties[0].answer(asked, raw)
    with pytest.raises(Refused, match="wrong-run"):
        Party(network.home(SITES[0]), "other", network.logs.append).answer("join", invited)
    changed = bytearray(next(raw for o, number, raw in network.sent if (o, number) == ("round", 0)))
    changed[-80] ^= 1
    with pytest.raises(Refused, match="bad-signature"):
        network.parties[0].answer("round", bytes(changed))

    # Nothing that the server keeps has a record's text, or a path of a site.
    for path in network.server.path.rglob("*"):
        if (
            path.is_file()
            and path.parent.name != "submitted"
            and path.name not in ("config.yaml", "resolved.yaml")
        ):
            text = path.read_bytes().replace(str(network.server.path).encode(), b"")
            assert CANARY.encode() not in text, path


def test_an_answer_under_another_key_or_for_another_round_drops_its_site_out(network: Network) -> None:
    kept: dict[int, bytes] = {}

    def meddle(op: str, party: int, answer: bytes) -> bytes:
        if op != "round":
            return answer
        if party == 0:
            return kept.setdefault(0, answer)  # the first answer, ever again
        if party == 1:
            return answer[:-1] + bytes([answer[-1] ^ 1])
        return answer

    network.meddle = meddle
    assert network.go() == "stopped"
    log = (network.server.run_folder("run") / "log.txt").read_text(encoding="utf-8")
    assert "'site': 'hosp-b', 'op': 'round', 'reason': 'malformed: bad-signature'}" in log, "found here"
    assert "'site': 'hosp-a', 'op': 'round', 'reason': 'malformed: wrong-round'" in log


def test_a_site_with_anothers_key_is_refused_at_the_site_and_told_at_the_server(network: Network) -> None:
    home = network.home("hosp-b").path
    shutil.rmtree(home / KEYS)
    shutil.copytree(network.home("hosp-c").path / KEYS, home / KEYS)
    with pytest.raises(Refused, match="roster-or-key"):
        Party(network.home("hosp-b"), "run", network.logs.append)
    assert "stands in the roster under another name" in network.logs[-1]


def test_a_site_accepts_no_roster_that_one_member_did_not_sign(network: Network) -> None:
    path = network.home("hosp-a").path / ROSTER
    document = json.loads(path.read_text(encoding="utf-8"))
    del document["signatures"]["2"]
    path.write_text(json.dumps(document), encoding="utf-8")
    with pytest.raises(Refused, match="roster-or-key"):
        Party(network.home("hosp-a"), "run", network.logs.append)
    assert "not every member has signed this roster" in network.logs[-1]


def test_a_server_that_changes_the_roster_finds_no_site(network: Network) -> None:
    """Keys of its own making under the sites' names, signed by those keys: in order by itself, and not the sites'."""
    forged = network.base / "forged"
    cards = [init_keys(forged / name, name) for name in SITES]
    assemble(cards, "trial", network.server.path / ROSTER)
    for name in SITES:
        sign_file(forged / name, network.server.path / ROSTER)
    assert network.go() == "failed"
    assert "too few clients enrolled" in network.server.status("run")["reason"]
    assert sum("join: refused: bad-signature" in line for line in network.logs) == 3


def test_a_run_over_a_sites_policy_is_refused_with_the_reason_on_both_sides(network: Network) -> None:
    network.policy("hosp-a", max_epsilon=0.5)
    network.policy("hosp-b", sealing=["encrypted+masked"])
    network.policy("hosp-c", max_attempts=1)
    assert network.go() == "failed"
    told = network.server.status("run")["out"]
    assert told == {
        "hosp-a": "refused: policy-epsilon",
        "hosp-b": "refused: policy-sealing",
    }, told
    assert any("this site allows 0.5" in line for line in network.logs)
    assert any(
        "the run's sealing: masked; this site allows encrypted+masked" in line for line in network.logs
    )
    assert not any((network.home(name).path / "ledger" / "ledger.json").exists() for name in SITES)


def test_other_versions_are_refused(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    import privet.engines.party

    monkeypatch.setattr(privet.engines.party, "installed", lambda: {"privet": "0.0.0"})
    assert network.go() == "failed"
    assert set(network.server.status("run")["out"].values()) == {"refused: other-versions"}
    assert any("privet 0.0.0 (server: " in line for line in network.logs)


def test_a_site_names_its_own_data_whatever_the_server_names(network: Network) -> None:
    """The server's configuration points at a file of its own; a site opens what its own file says, and nothing else."""
    from privet.engines.party import at_site, understood

    raw = yaml.safe_load(network.config())
    raw["data"] |= {
        "path": "/etc/passwd",
        "test_path": "/etc/shadow",
        "public_path": "/etc/group",
        "test_public": True,
    }
    raw["engine"]["cache_folder"] = "/tmp"
    found = at_site(understood(yaml.safe_dump(raw)), network.home("hosp-a").settings)
    assert "/etc" not in found.model_dump_json()
    assert found.data.path == str(network.base / "hosp-a.jsonl")  # type: ignore[union-attr]  # jsonl has a path
    assert found.engine.cache_folder is None


@pytest.mark.parametrize(
    "text", ["a: &a [x, x]\nb: [*a, *a]", "[" * 3000, "seed: 2024-13-45", "seed: !!float abc", "5"]
)
def test_a_text_of_the_servers_that_is_none_is_refused_and_no_more(text: str) -> None:
    from privet.engines.party import understood

    with pytest.raises(Refused, match="refused: config"):
        understood(text)


def test_a_site_opens_no_model_because_a_server_names_it(network: Network, small_folder: Path) -> None:
    """A folder of the site's machine, or a name that a hub would be asked for; the site's own file may name it."""
    folder = shutil.copytree(small_folder, network.base / "elsewhere")
    network.policy("hosp-c", models=[str(folder)])
    assert network.go(model={"name": str(folder)}) == "failed"
    refused = dict.fromkeys(SITES[:2], "refused: policy-model")
    assert network.server.status("run")["out"] == refused
    assert sum("this site allows small, smollm2-135m-instruct, or what" in line for line in network.logs) == 2


def test_a_site_takes_no_other_revision_of_a_model_than_it_approved(network: Network) -> None:
    """On a hub anybody can propose a revision of anybody's model: the name alone approves none of them."""
    from privet.engines.party import at_site, check_model, understood

    raw = yaml.safe_load(network.config())

    def asks(revision: str | None) -> Config:
        return understood(yaml.safe_dump({**raw, "model": {"name": "org/model", "revision": revision}}))

    network.policy("hosp-a", models=["org/model@c0ffee"])
    home = network.home("hosp-a")
    check_model(home, asks("c0ffee"))
    for revision in (None, "main", "refs/pr/7"):
        with pytest.raises(SealingRefused, match="policy-model"):
            check_model(home, asks(revision))
    own = home.settings.model_copy(update={"model": "org/other@abc"})
    assert at_site(asks("refs/pr/7"), own).model.model_dump(include={"name", "revision"}) == {
        "name": "org/other",
        "revision": "abc",
    }


def test_a_server_that_was_put_back_ends_no_run_by_an_old_ledger(network: Network, tmp_path: Path) -> None:
    """Sites have answered what it knows nothing of, so its statement would be too small; they answer nothing twice."""
    folder, backup = network.server.run_folder("run"), tmp_path / "backup"

    def back_up(op: str, party: int, question: bytes) -> bytes:
        if op == "round" and not backup.exists() and len(rows(folder)) == 1:
            shutil.copytree(folder, backup)
        return question

    def rows(of: Path) -> list[str]:
        path = of / "rounds.jsonl"
        return path.read_text(encoding="utf-8").splitlines() if path.exists() else []

    network.forge = back_up
    assert network.go(rounds=3) == "finished"
    charged = [network.home(name).ledger.runs()["run"].to_json() for name in SITES]
    shutil.rmtree(folder)
    shutil.copytree(backup, folder)
    assert network.go(rounds=3) == "failed"
    said = network.server.status("run")["reason"]
    assert "hosp-a answered later rounds than this server knows of" in said
    assert not (folder / "privacy.json").exists()
    assert [network.home(name).ledger.runs()["run"].to_json() for name in SITES] == charged


def test_a_site_whose_ledger_was_lost_or_put_back_answers_nothing(network: Network) -> None:
    """A missing account is not an empty one: each run's folder says how often it was charged."""
    home = network.home(SITES[0])
    assert network.go() == "finished"
    store = home.ledger.store
    old = store.read(ENTRY)
    network.parties.clear()
    assert network.go("more") == "finished"
    for content in (None, old):
        store.path(ENTRY).unlink() if content is None else store.write(ENTRY, content)
        with pytest.raises(PrivetError, match="lacks answers that were given in the run more"):
            home.ledger.summary()
        network.parties.clear()
        assert network.go("third") == "failed"
        assert network.server.status("third")["out"] == {SITES[0]: "refused: ledger"}


def test_an_encrypted_run_ends_at_the_sites(network: Network, tmp_path: Path) -> None:
    """The server passes a sealed state on and has no adapter; every site has the one that a masked run makes."""
    assert network.go(seal="encrypted+masked") == "finished", network.server.status("run")
    assert not (network.server.run_folder("run") / "adapter").exists()
    expected = local_adapter(network.config(), tmp_path / "local")
    for name in SITES:
        result = network.home(name).run_folder("run") / "adapter" / "adapter_model.safetensors"
        assert result.read_bytes() == expected, name


def test_a_reading_that_was_not_approved_is_refused_before_the_file_is_opened(network: Network) -> None:
    """The files are gone, and no site says so: it does not look."""
    for name in SITES:
        (network.base / f"{name}.jsonl").unlink()
    words = {"kind": "classification", "verbalisers": {"0": " negative", "17": " positive"}}
    assert network.go(data={"template": words}) == "failed"
    assert set(network.server.status("run")["out"].values()) == {"refused: policy-reading"}
    log = (network.server.run_folder("run") / "log.txt").read_text(encoding="utf-8")
    assert log.count("'op': 'join', 'reason': 'refused: policy-reading', 'by': 'the network, unsigned'") == 3
    assert (
        sum("how the run reads records was not approved at this site" in line for line in network.logs) == 3
    )


def test_whether_a_site_takes_part_depends_on_no_record(network: Network) -> None:
    """A row that nothing can be made of, in one site's file, and none at all in another's: the server sees nothing."""
    path = network.base / "hosp-a.jsonl"
    bad = f'{{"text": "half {CANARY}\n{{"text": "t", "label": "{CANARY}"}}\n{{"label": 1}}\n'
    path.write_text(bad + path.read_text(encoding="utf-8"), encoding="utf-8")
    (network.base / "hosp-b.jsonl").write_text("", encoding="utf-8")
    assert network.go(rounds=1) == "finished"
    assert network.server.status("run")["in"] == list(SITES)
    assert not network.server.status("run")["out"]
    log = (network.server.run_folder("run") / "log.txt").read_text(encoding="utf-8")
    assert "dropped" not in log
    assert any("data: line 1: not valid JSON" in line for line in network.logs), (
        "the site's own people are told"
    )
    assert any("holds a label without a verbaliser" in line for line in network.logs)
    assert not any(CANARY in line for line in network.logs if "not valid JSON" in line)


PUBLIC: dict[str, dict[str, Any]] = {
    "row_pca": {"ratio": 4.0},
    "public_subspace": {"size": 4},
    "top_k": {"ratio": 4.0},
}


@pytest.mark.parametrize(
    ("codec", "seal"),
    [("row_pca", "masked"), ("public_subspace", "encrypted+masked"), ("top_k", "encrypted+masked")],
)
def test_a_codec_of_public_records_gives_the_run_of_one_process(
    network: Network, tmp_path: Path, codec: str, seal: str
) -> None:
    """The records lie at the server alone. Where it knows the adapter it makes the codec; else it hands them on."""
    public = tmp_path / "public.jsonl"
    write_records(public, 20, 99)
    fitted = {} if codec == "top_k" else {"updates": 8, "refresh_rounds": 1}
    sections: dict[str, Any] = {
        "codec": {"kind": codec, **PUBLIC[codec], **fitted, "allow_useless": True},
        "data": {"public_path": str(public)},
    }
    assert network.go(seal=seal, **sections) == "finished", network.server.status("run")
    expected = local_adapter(network.config(seal=seal, **sections), tmp_path / "local")
    folders = [network.home(name).run_folder("run") for name in SITES]
    for folder in folders if seal != "masked" else [network.server.run_folder("run")]:
        assert (folder / "adapter" / "adapter_model.safetensors").read_bytes() == expected
    sent = [raw for op, party, raw in network.sent if (op, party) == ("join", 0)]
    assert (b"public_tokens" in sent[0]) == (seal != "masked")


@pytest.mark.parametrize(("codec", "seal"), [("row_pca", "masked"), ("public_subspace", "encrypted+masked")])
def test_a_codec_of_self_written_sentences_gives_the_run_of_one_process(
    network: Network, tmp_path: Path, codec: str, seal: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server's copy of the model writes them, and no site's does: another processor would draw other words."""
    import privet.self_written
    from privet.models import load_model

    written: list[tuple[Path, int]] = []

    def ensure(name: str, build: Callable[[Path], Mapping[str, Any]], *, version: str) -> Path:
        folder = tmp_path / "cache" / f"{len(written)}-{name}"
        folder.mkdir(parents=True)
        build(folder)
        written.append((folder, len(json.loads((folder / "rows.json").read_text(encoding="utf-8")))))
        return folder

    monkeypatch.setattr(privet.self_written, "ensure", ensure)
    chosen = {"kind": codec, **PUBLIC[codec], "updates": 8, "refresh_rounds": 1, "allow_useless": True}
    sections: dict[str, Any] = {"codec": {**chosen, "source": "self_generated"}}
    assert network.go(seal=seal, **sections) == "finished", (network.server.status("run"), network.logs[-3:])
    assert [count for _, count in written] == [8 + 24], "at one place, once: for the codec, and to measure it"
    expected = local_adapter(network.config(seal=seal, **sections), tmp_path / "local")
    folders = [network.home(name).run_folder("run") for name in SITES]
    for folder in folders if seal != "masked" else [network.server.run_folder("run")]:
        assert (folder / "adapter" / "adapter_model.safetensors").read_bytes() == expected
    (invited, *_) = [raw for op, party, raw in network.sent if (op, party) == ("join", 0)]
    request = joining().request
    address = Address(SERVER, 0, "run", RoundId(0), "join")
    keys, roster = {SERVER: network.server.identity.public_key}, network.server.roster().hash
    payload = open_envelope(
        invited, expected=address, keys=keys, roster_hash=roster, max_payload=request.max_bytes()
    )
    body = wire.decode(payload, request)
    handed, first = made_from_public(body, 128)
    if seal == "masked":
        assert (handed, first) == ([], None), "the codec comes with each question"
        return
    with pytest.raises(wire.WireError):
        made_from_public(body, max(len(example.input_ids) for example in handed) - 1)
    rows = json.loads((written[0][0] / "rows.json").read_text(encoding="utf-8"))
    tokenizer: Any = load_model(ModelConfig(name="small")).tokenizer
    texts = [tokenizer.decode(example.input_ids) for example in handed]
    assert len(texts) == 8
    assert all(row["text"] in text for row, text in zip(rows, texts, strict=False))


def test_dr_encoder_gives_the_run_of_one_process(network: Network, tmp_path: Path) -> None:
    """Its statistics are about each tensor, so a site needs the names and shapes of its own model's."""
    sections: dict[str, Any] = {
        "system": {"kind": "dr_encoder", "statistics": {"releases": 1}},
        "codec": {"kind": "random_projection", "ratio": 4.0, "allocation": "by_std", "allow_useless": True},
        "privacy": {"unit": "client", "relation": "zero-out"},
        "schedule": {"sampling_rate": None, "expected_batch": None, "local": {"steps": 1, "batch_size": 4}},
    }
    for name in SITES:
        network.policy(name, systems=["dr_encoder"], unit="client", relation="zero-out")
    assert network.go(**sections) == "finished", (network.server.status("run"), network.logs[-3:])
    result = network.server.run_folder("run") / "adapter" / "adapter_model.safetensors"
    assert result.read_bytes() == local_adapter(network.config(**sections), tmp_path / "local")


def test_a_run_of_one_name_is_one_run(network: Network) -> None:
    """Charged under much noise and not yet answered; then a server asks the same question under next to none."""
    much = network.config(rounds=1, privacy={"noise_multiplier": 3.0})
    little = network.config(rounds=1, privacy={"noise_multiplier": 1e-3})
    network.meddle = lambda op, party, answer: b"" if op == "round" else answer
    network.go(rounds=1, privacy={"noise_multiplier": 3.0})
    (invited,) = [raw for op, party, raw in network.sent if (op, party) == (JOIN, 0)]
    again = Party(network.home(SITES[0]), "run", network.logs.append)
    for config, refused in ((little, True), (much, False)):
        # Signed for the attempt that came last, as a server would.
        asked = network.invitation_to_another(0, invited, config, RoundId(0, 1))
        with pytest.raises(Refused, match="other-run") if refused else nullcontext():
            again.answer(JOIN, asked)


def test_an_invitation_that_is_refused_does_not_use_up_the_runs_name(network: Network) -> None:
    """A server's mistake, or its mischief: with public records whose parts do not fit each other."""
    config = network.config(rounds=1, privacy={"noise_multiplier": 3.0})
    network.meddle = lambda op, party, answer: b"" if op == "round" else answer
    network.go(rounds=1, privacy={"noise_multiplier": 3.0})
    (invited,) = [raw for op, party, raw in network.sent if (op, party) == (JOIN, 0)]
    kept = network.home(SITES[0]).run_folder("run")
    shutil.rmtree(kept)
    wrong = {"public_tokens": np.ones(3, np.int32), "public_lengths": np.array([5], np.int32)}
    wrong["public_supervised"] = np.ones(3, np.bool_)
    again = Party(network.home(SITES[0]), "run", network.logs.append)
    with pytest.raises(Refused, match="malformed"):
        again.answer(JOIN, network.invitation_to_another(0, invited, config, RoundId(0, 1), **wrong))
    again.answer(JOIN, network.invitation_to_another(0, invited, config, RoundId(0, 2)))


@pytest.mark.parametrize("seal", ["masked", "encrypted", "encrypted+masked"])
def test_a_server_that_tells_sites_of_different_runs_opens_nothing(network: Network, seal: str) -> None:
    """The others would draw no record and add next to no noise: the sum would be one site's, with its share alone."""
    empty = {"sampling_rate": 1e-9, "expected_batch": 20}
    other = network.config(1, seal, schedule=empty, privacy={"noise_multiplier": 2.0})

    def forge(op: str, party: int, question: bytes) -> bytes:
        lies = op == JOIN and party > 0
        return network.invitation_to_another(party, question, other) if lies else question

    network.forge = forge
    assert network.go(rounds=1, seal=seal) in ("failed", "stopped")
    assert not any(op in ("recover.unmask", "open") for op, _, _ in network.sent)
    rows = RunFolder(network.server.run_folder("run")).rows("rounds.jsonl")
    assert not any("survivors" in row for row in rows), "nothing was opened"
    assert "1 of 3" in network.server.status("run")["reason"], (
        "one site agreed to the run that the server holds"
    )
