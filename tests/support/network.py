"""A server and sites with folders and signed envelopes in one process, and no engine between them."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml
from support.consortium import SITES, approved, write_records

from privet import wire
from privet.config import parse, to_yaml
from privet.engines.homes import FOLDER, KEYS, ROSTER, SITE, Consortium, ServerHome, SiteHome, site_template
from privet.engines.joining import JOIN, joining
from privet.engines.party import Party, Refused
from privet.engines.remote import Delivery
from privet.engines.serving import serve
from privet.protocol import RoundId
from privet.resolve import resolve
from privet.sealing.enrolment import assemble, init_keys, sign_file
from privet.sealing.envelope import SERVER, Address, open_envelope, seal_envelope
from privet.sealing.identity import Identity

CANARY = "xyzzycanary"


class Network:
    """Kits' folders without FLARE, and a transport that calls the parties in this process.

    Attributes:
        sent: Every question, in order: operation, party, envelope.
        meddle: Changes an answer on its way: operation, party, answer.
        forge: Changes a question before it is sent, likewise.
    """

    def __init__(self, base: Path) -> None:
        self.base = base
        self.sent: list[tuple[str, int, bytes]] = []
        self.meddle: Callable[[str, int, bytes], bytes] = lambda op, party, answer: answer
        self.forge: Callable[[str, int, bytes], bytes] = lambda op, party, question: question
        self.logs: list[str] = []
        self.parties: dict[int, Party] = {}
        server = base / "server" / FOLDER
        server.mkdir(parents=True)
        key = Identity.create(server / KEYS).public_key.hex()
        facts = Consortium("trial", "localhost", key, SITES, 1)
        facts.write(server)
        cards = []
        for number, name in enumerate(SITES):
            home = self.home(name)
            home.path.mkdir(parents=True)
            facts.write(home.path)
            write_records(base / f"{name}.jsonl", 30 + 5 * number, number, CANARY)
            settings = yaml.safe_load(site_template())
            settings |= {"data": str(base / f"{name}.jsonl"), "threads": 1}
            limits = {"allow_insecure_test_seed": True, "max_epsilon": None}
            settings["policy"] |= {**limits, "readings": approved(self.config())}
            (home.path / SITE).write_text(yaml.safe_dump(settings), encoding="utf-8")
            cards.append(init_keys(home.path / KEYS, name))
        self.enrol(cards)

    def enrol(self, cards: list[Path]) -> None:
        roster = self.base / ROSTER
        assemble(cards, "trial", roster)
        for name in SITES:
            sign_file(self.home(name).path / KEYS, roster)
        for home in (self.server.path, *(self.home(name).path for name in SITES)):
            shutil.copy(roster, home / ROSTER)

    def home(self, name: str) -> SiteHome:
        return SiteHome(self.base / name / FOLDER, name)

    @property
    def server(self) -> ServerHome:
        return ServerHome(self.base / "server" / FOLDER)

    def policy(self, name: str, **limits: object) -> None:
        path = self.home(name).path / SITE
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
        settings["policy"] |= limits
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")

    def config(self, rounds: int = 2, seal: str = "masked", **sections: Any) -> str:
        raw: dict[str, Any] = {
            "insecure_test_seed": 7,
            "system": {"kind": "hedge"},
            "model": {"name": "small", "dtype": "float32"},
            "data": {
                "kind": "jsonl",
                "path": str(self.base / "*.jsonl"),
                "partition": {"kind": "file"},
                "split": {"test": 0.0},
                "template": {"kind": "classification", "verbalisers": {"0": " negative", "1": " positive"}},
            },
            "lora": {"rank": 2, "layers": {"top": 1}},
            "schedule": {"rounds": rounds, "sampling_rate": 0.2, "expected_batch": 20, "round_attempts": 2},
            "privacy": {"noise_multiplier": 1.0, "clip_norm": 1.0},
            "sealing": {"kind": seal},
            "engine": {"threads": 1, "deterministic_units": True},
        }
        for name, value in sections.items():
            raw[name] = {**raw.get(name, {}), **value}
        parse(raw)
        return yaml.safe_dump(raw)

    def go(self, run: str = "run", rounds: int = 2, seal: str = "masked", **sections: Any) -> str:
        """Run, or go on; returns the run's state."""
        path = self.server.submitted(run)
        path.parent.mkdir(exist_ok=True)
        path.write_text(self.config(rounds, seal, **sections), encoding="utf-8")
        for number, name in enumerate(SITES):
            if number not in self.parties:
                self.parties[number] = Party(self.home(name), run, self.logs.append)
        serve(self.base / "server", run, "job", self)
        return str(self.server.status(run)["state"])

    # What a transport is

    def present(self) -> frozenset[int]:
        return frozenset(self.parties)

    def wants_continuation(self) -> bool:
        return False

    def exchange(
        self, op: str, questions: Mapping[int, bytes], timeout: float, answered: Callable[[], None]
    ) -> Delivery:
        answers, failures = {}, {}
        for party, raw in ((party, self.forge(op, party, raw)) for party, raw in questions.items()):
            self.sent.append((op, party, raw))
            try:
                answers[party] = self.meddle(op, party, self.parties[party].answer(op, raw))
            except Refused as refused:
                failures[party] = refused.reason
        return Delivery(answers, failures)

    def invitation_to_another(
        self, party: int, raw: bytes, config: str, due: RoundId | None = None, **parts: Any
    ) -> bytes:
        """An invitation with another configuration and other parts in it, signed by the server, whose key this is."""
        address, request = Address(SERVER, party, "run", RoundId(0), JOIN), joining().request
        keys, roster = {SERVER: self.server.identity.public_key}, self.server.roster().hash
        opened = open_envelope(
            raw, expected=address, keys=keys, roster_hash=roster, max_payload=request.max_bytes()
        )
        body = wire.decode(opened, request)
        asked = resolve(parse(yaml.safe_load(config)), dimension=int(body["dimension"]), parties=len(SITES))
        payload = wire.encode({**body, "config": to_yaml(asked.config), **parts}, request)
        address = replace(address, round=due or address.round)
        return seal_envelope(self.server.identity, roster, address, payload)
