"""A site's half of several machines: from the bytes of a question to the bytes of an answer, or a refusal.

Every question is checked before it is looked at: signed by the server's key under the roster that this site accepted,
addressed to this site, of the run that it joined, and not of a round that is over. Nothing but a signed answer of the
protocol's schema, or a fixed reason, leaves.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import yaml

from privet import wire
from privet.client import Client
from privet.config import Config, ConfigError, load, parse
from privet.engines.homes import AGREED, SiteHome, SiteSettings
from privet.engines.joining import JOIN, REPLAYED, agreement, installed, joining, made_from_public
from privet.errors import PrivetError
from privet.federation import Blueprint, Secrets
from privet.messages import FINISH, OPEN, ROUND
from privet.model_config import EMBEDDED_MODEL, SMALL_MODEL, split_revision
from privet.protocol import RoundAborted, RoundId
from privet.reading import Reading
from privet.sealing.base import SealingRefused, Store
from privet.sealing.envelope import SERVER, Address, claimed_address, open_envelope, seal_envelope
from privet.sealing.roster import Roster
from privet.site_ledger import checked_name
from privet.site_policy import refusals
from privet.wire import Body

LATEST, AGREEMENT = "latest.round", "agreement"
_NUMBER_BYTES = 8
Log = Callable[[str], None]


class Refused(Exception):
    """No answer.

    Args:
        reason: Short fixed slug, which is sent.
        detail: A sentence for the people at the site, which is not.
    """

    def __init__(self, reason: str, detail: str = "") -> None:
        self.reason, self.detail = reason, detail
        super().__init__(f"{reason}: {detail}" if detail else reason)


@dataclass
class Joined:
    """A run that this site takes part in.

    Attributes:
        client: The site's half of it.
        blueprint: Its public facts.
        store: The site's files of this run.
        keep_adapter: Writes the adapter at this site, where only sites know it.
        invitation: The bytes that it was invited with; the same again change nothing.
    """

    client: Client
    blueprint: Blueprint
    store: Store
    keep_adapter: Callable[[], None]
    invitation: bytes = b""


class Party:
    """Answers questions of one run.

    Args:
        home: The site's folder.
        run: Name of the run.
        log: Told of every refusal, at the site.

    Raises:
        Refused: if this site's roster or key is not in order.
    """

    def __init__(self, home: SiteHome, run: str, log: Log = lambda line: None) -> None:
        self.home, self.run, self.log = home, run, log
        try:
            checked_name(run)
            self.roster, self.number = home.roster()
        except (SealingRefused, PrivetError) as error:
            log(f"run {ascii(run)[:80]}: {error}")
            raise Refused("refused: roster-or-key") from None
        self._joined: Joined | None = None

    def answer(self, op: str, raw: bytes) -> bytes:
        """The signed answer to one question.

        Raises:
            Refused: with the reason that may be sent; the log has the sentence.
        """
        try:
            return self._answer(op, raw)
        except SealingRefused as refusal:
            refused = Refused(f"refused: {refusal.reason}", refusal.detail)
        except wire.WireError as error:
            refused = Refused(f"refused: {error.reason}", f"the question was not what it should be ({error})")
        except Refused as error:
            refused = error
        self.log(f"run {self.run}, {op}: {refused}")
        raise refused

    def _answer(self, op: str, raw: bytes) -> bytes:
        message = joining() if op == JOIN else None
        if message is None and self._joined is None:
            raise Refused("refused: not-joined", "this process began anew and was not invited yet")
        request = message.request if message else self._asked(op)
        most = request.max_bytes()
        claimed = claimed_address(raw, most)
        expected = Address(SERVER, self.number, self.run, claimed.round, op)
        keys = {SERVER: bytes.fromhex(self.home.consortium.server_key)}
        payload = open_envelope(
            raw, expected=expected, keys=keys, roster_hash=self.roster.hash, max_payload=most
        )
        body = wire.decode(payload, request)
        if message is not None:
            if self._joined is None or self._joined.invitation != payload:
                self._joined = self._join(body, bytes(payload))
            self._not_over(claimed.round)
            return self._signed(op, claimed.round, {"version": installed()["privet"]}, message.reply)
        self._not_over(claimed.round)
        return self._signed(op, claimed.round, *self._handle(op, body))

    def _asked(self, op: str) -> wire.Schema:
        assert self._joined is not None
        known, client = self._joined.blueprint, self._joined.client
        if op not in known.messages:
            raise Refused("refused: unknown-operation", "this run has no such operation")
        return known.asked(op, client.aggregator.size)

    def _handle(self, op: str, body: Body) -> tuple[Body, wire.Schema]:
        assert self._joined is not None
        joined = self._joined
        answer = joined.client.handle(op, body)
        if op in (FINISH, OPEN):
            joined.keep_adapter()
        # Where the server sums up, a client's picture of the adapter comes with each question and counts no rounds.
        state = joined.client.aggregator
        size = state.size_at(int(body["number"])) if op == ROUND else state.size
        return answer, joined.blueprint.kept(op, size)

    def _not_over(self, due: RoundId) -> None:
        """Rounds and attempts never go back, in no job of the run: an old question that is sent again is refused."""
        assert self._joined is not None
        store, now = self._joined.store, (due.number, due.attempt)
        kept = store.get(LATEST)
        latest = tuple(int.from_bytes(kept[i : i + _NUMBER_BYTES], "big") for i in (0, 8)) if kept else (0, 0)
        if now < latest:
            raise Refused(f"refused: {REPLAYED}", f"round {now} after round {latest}")
        if now > latest or kept is None:
            store.put(LATEST, b"".join(n.to_bytes(_NUMBER_BYTES, "big") for n in now))

    def _signed(self, op: str, due: RoundId, answer: Body, schema: wire.Schema) -> bytes:
        address = Address(self.number, SERVER, self.run, due, op)
        return seal_envelope(self.home.identity, self.roster.hash, address, wire.encode(answer, schema))

    def _join(self, body: Body, invitation: bytes) -> Joined:
        asked = understood(str(body["config"]))
        self._same_versions(_mapping(str(body["versions"])))
        joined = join(self.home, self.run, self.roster, self.number, asked, body, self.log)
        return replace(joined, invitation=invitation)

    def _same_versions(self, theirs: dict[str, Any]) -> None:
        mine = installed()
        other = {name: (theirs.get(name), mine[name]) for name in mine if theirs.get(name) != mine[name]}
        if other:
            listed = ", ".join(f"{name} {mine_} (server: {his})" for name, (his, mine_) in other.items())
            raise Refused("refused: other-versions", f"versions differ from the server's: {listed}")


def _mapping(text: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise Refused("refused: malformed", "the server's versions are no mapping")
    return found


class _WithoutAliases(yaml.SafeLoader):
    """YAML in which nothing stands for something else: a few hundred bytes would otherwise become gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.events.AliasEvent):
            raise yaml.composer.ComposerError(problem="aliases have no place in what a server sends")
        node: yaml.Node | None = super().compose_node(parent, index)
        return node


def understood(text: str) -> Config:
    """A run's configuration as it came from the server.

    Raises:
        Refused: if this version does not understand it.
    """
    try:
        return parse(yaml.load(text, _WithoutAliases))  # a SafeLoader
    except (yaml.YAMLError, ConfigError, TypeError, AttributeError, ValueError, RecursionError):
        raise Refused(
            "refused: config", "the run's configuration is not understood by this version"
        ) from None


def at_site(asked: Config, settings: SiteSettings) -> Config:
    """A run's configuration with this site's own data, model and machine in place of what the server named.

    Raises:
        SealingRefused: if it asks for data of a kind that cannot lie in a site's file, or in a way that no site reads.
    """
    if settings.data is None:
        raise SealingRefused("no-data", "no data: name a file with --data or in site.yaml")
    raw = asked.model_dump(mode="json")
    raw["data"] = {**Reading.of(asked.data).section, "path": settings.data}
    # Only what changes the numbers is taken from the run's engine section.
    kept = {name: raw["engine"][name] for name in ("micro_batch", "deterministic_units")}
    raw["engine"] = {**kept, "threads": settings.threads, "cache_mebibytes": settings.cache_mebibytes}
    if settings.model is not None:
        raw["model"]["name"], raw["model"]["revision"] = split_revision(settings.model)
    return parse(raw)


def check_model(home: SiteHome, asked: Config) -> None:
    """Refuse a base model that only the server named: a site opens no folder and asks no hub because a server says so.

    Raises:
        SealingRefused: unless the site's own file names its model or this one, or the agreed configuration does.
    """
    settings, agreed = home.settings, home.path / AGREED
    known = {
        split_revision(model) for model in (EMBEDDED_MODEL, SMALL_MODEL, *(settings.policy.models or ()))
    }
    if agreed.exists():
        model = load(agreed).model
        known.add((model.name, model.revision))
    if settings.model is None and (asked.model.name, asked.model.revision) not in known:
        raise SealingRefused(
            "policy-model",
            f"the base model: {ascii(_model(asked.model.name, asked.model.revision))[:200]}; this site allows "
            f"{', '.join(sorted(_model(*each) for each in known))}, or what `model` or `policy.models` in its "
            "site.yaml names (a hub model as NAME@COMMIT)",
        )


def _model(name: str, revision: str | None) -> str:
    return f"{name}@{revision}" if revision else name


def _agreed_once(store: Store, agreed: str) -> str:
    """What a run is, kept for good: an answer that was charged under one configuration is never given under another.

    Raises:
        Refused: if a run of this name was something else.
    """
    known = store.get(AGREEMENT)
    if known is not None and known != agreed.encode():
        raise Refused("refused: other-run", "this run was joined with another configuration, model or codec")
    if known is None:
        store.put(AGREEMENT, agreed.encode())
    return agreed


def join(
    home: SiteHome, run: str, roster: Roster, number: int, asked: Config, body: Body, log: Log
) -> Joined:
    """Check a run against the site's policy and ledger, then load model and data.

    The answer depends on no record: whatever the policy does not allow is refused before the file is opened, and a
    record that cannot be used is left out without a word to the server.

    Raises:
        Refused: if the site does not take part.
        SealingRefused: likewise, from the approved readings and the ledger.
    """
    from privet.codec_schedule import follows_public
    from privet.lora import factors_of
    from privet.material import codec_schedule, gather, layout_of
    from privet.resolve import resolve
    from privet.work import Workplace

    # Resolved twice: without the model the policy can say no before anything is loaded.
    dimension, settings = int(body["dimension"]), home.settings
    early = resolve(asked, dimension=dimension, parties=roster.size)
    broken = refusals(settings.policy, early)
    if broken:
        raise Refused(f"refused: {broken[0].reason}", "; ".join(each.detail for each in broken))
    Reading.of(asked.data).check(settings.policy)
    check_model(home, asked)
    try:
        account = home.ledger.open(run, early)
    except PrivetError as error:
        raise Refused("refused: ledger", f"{error.message}; {error.hint}") from None
    config = at_site(asked, settings)
    material = gather(config, each_alone=True)
    for note in material.notes:
        log(f"run {run}, data: {note}")
    if material.trainer.dimension != dimension or material.model.fingerprint != body["model"]:
        raise Refused("refused: other-model", "this site's base model is not the server's")
    (examples,) = material.silos.values()
    backbone = material.trainer.backbone
    resolved = resolve(
        config,
        dimension=dimension,
        parties=roster.size,
        factors=factors_of(backbone.layout),
        layout=layout_of(material),
    )
    account.resolved = resolved
    seed = config.insecure_test_seed
    folder = home.run_folder(run)
    secrets = Secrets.of_site(folder, home.identity, None if seed is None else (seed, number))
    try:
        material.public, codec = made_from_public(body, config.data.max_length)
    except (wire.WireError, RoundAborted):
        raise Refused(
            "refused: malformed", "the invitation's public records or codec are malformed"
        ) from None
    # Under a level at which the server knows the adapter, codecs of public records come with each question.
    given = follows_public(config.codec) and not material.public
    schedule = codec_schedule(config, material, given=given)
    if codec is not None:
        schedule.check(codec)
    # Last of all: an invitation that is refused must not use up the run's name.
    agreed = _agreed_once(secrets.store, agreement(asked, body))
    blueprint = Blueprint(resolved, roster, run, agreed, backbone.initial_flat(), schedule, codec)
    place = Workplace(home.name, material.trainer, examples, config.engine.micro_batch)
    client = blueprint.client(place, secrets, account)

    def keep_adapter() -> None:
        backbone.layout.save_peft(client.aggregator.flat, folder / "adapter", material.model.name)

    return Joined(client, blueprint, secrets.store, keep_adapter)
