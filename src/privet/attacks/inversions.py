"""All inversions on one run: in the clear, under its codec, under its seal, and under its noise."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from privet.attacks import (
    control,
    invert_aggregate,
    invert_latent,
    invert_sequence,
    invert_tokens,
)
from privet.attacks.control import Prepared
from privet.attacks.finding import Finding, not_applicable
from privet.config import Config
from privet.lora import AdapterLayout
from privet.tokenise import Example

DECOYS = 99
CLEAR = "one client's message, not sealed, no noise"
FEW = "A silo has fewer records than this attack takes of each."
Pick = Callable[[int, int], dict[str, list[Example]]]
"""A number of records of each of a few silos, from an offset on."""


@dataclass(frozen=True)
class Inversions:
    """What is inverted.

    Attributes:
        config: The run, with its noise multiplier.
        prepared: The control's adapters.
        pick: Chooses victims and decoys.
        parties: Enrolled clients.
        alarm: Error probability of each kind of row that can raise an alarm.
    """

    config: Config
    prepared: Prepared
    pick: Pick
    parties: int
    alarm: float

    def clear(self, batches: tuple[int, ...]) -> list[Finding]:
        """Single messages without protection, whole and pruned: the positive controls."""
        rows = []
        for batch in batches:
            setting = f"batch {batch}, both factors, first layers, second round"
            if self._fewest(batch) < batch:
                rows.append(not_applicable("invert.tokens", setting, CLEAR, FEW))
                continue
            recalls = self._messages(control.clear(self.config), batch)
            rows.append(invert_tokens.finding(setting, recalls, sees=CLEAR, control=True))
        recalls = self._messages(control.coded(self.config, control.pruned(0.5)), 1)
        setting = "batch 1, half of the coordinates pruned by a public mask"
        pruned = invert_tokens.finding(setting, recalls, sees=CLEAR, control=True)
        # The same message is a code of a known encoder, the mask: the control of all other codes.
        code = replace(pruned, attack="invert.latent", setting="batch 1, codec prune, 2 times smaller")
        return [*rows, pruned, replace(code, sees=invert_latent.SEES)]

    def codes(self) -> list[Finding]:
        """Codes of a known encoder."""
        return invert_latent.findings(self.config, self.prepared, self.pick(1, 60))

    def sequences(self, count: int) -> list[Finding]:
        """Whole texts, in order; comes last, since it takes the other rows' adapters away."""
        return invert_sequence.findings(self.config, self.prepared, self.pick(64 * count, 70), count)

    def sealed(self) -> list[Finding]:
        """The opened sum without noise, and the sealed messages themselves."""
        if self.parties < 3:
            reason = "With fewer than three parties no seal hides anything."
            return [not_applicable("invert.aggregate", "the opened sum", "the opened sum", reason)]
        is_sealed = self.config.sealing.kind != "none"
        like = self.config if is_sealed else control.masked(self.config)
        records = self.pick(1, 30)
        done = self.prepared.rehearse(control.sealed(self.config, like), records)
        recall = invert_aggregate.sum_recall(self.prepared, done, records)
        setting = f"{sum(map(len, records.values()))} records of {len(records)} clients, no noise"
        rows = [invert_aggregate.sum_finding(setting, [recall], like.sealing.kind)]
        if not is_sealed:
            return rows
        empty = {**records, list(records)[-1]: []}
        done = self.prepared.rehearse(control.sealed(self.config, like), empty)
        return rows + invert_aggregate.message_findings(done, like.sealing.kind, self.alarm)

    def noised(self, count: int) -> list[Finding]:
        """What is opened under the run's noise: single messages where nothing seals them, else the sum."""
        if self.config.privacy is None:
            return []
        prepared, trials, reason = self.prepared, [], None
        plain = self.config.sealing.kind == "none"
        sees = "one client's message" if plain else "the opened sum"
        setting = "this run's system, seal and noise; a record of each client in every round"
        # Each trial has records of its own, a victim and its decoys: only so are trials independent.
        drawn = self.pick(count * (1 + DECOYS), 40)
        fewest = min(map(len, drawn.values()))
        if fewest < 2:
            return [not_applicable("invert.tokens", setting, sees, FEW)]
        count = min(count, fewest // 2)
        window = min(1 + DECOYS, fewest // count)
        config = control.noised(
            self.config, control.clip_norm(self.config, prepared), float(min(self.parties, 4))
        )
        for start in range(0, count * window, window):
            records = {name: own[start : start + 1] for name, own in drawn.items()}
            done = prepared.rehearse(config, records)
            seen, reason = control.last_round(done), done.ledger.epsilon().reason
            others = {name: own[start + 1 : start + window] for name, own in drawn.items()}
            assert seen.total is not None, "the last opened round has a sum"
            if not plain:
                victims = [e for own in records.values() for e in own]
                decoys = [list(each) for each in zip(*others.values(), strict=True)]
                trials.append(invert_tokens.trial(prepared, seen.direction(seen.total), victims, decoys))
                continue
            at = done.transcript.rounds.index(seen)
            for party, (name, own) in enumerate(records.items()):
                message = seen.direction(done.transcript.in_the_clear(at, party))
                trials.append(invert_tokens.trial(prepared, message, own, [[e] for e in others[name]]))
        return [invert_tokens.against_prior(setting, trials, sees=sees, alarm=self.alarm, reason=reason)]

    def protected(self, count: int) -> Finding:
        """The one row that says what is left under all of the run's protections."""
        if self.config.privacy is not None:
            return self.noised(count)[0]
        if self.config.sealing.kind != "none":
            return self.sealed()[0]
        return self.clear((1,))[0]

    def _fewest(self, count: int) -> int:
        """Records of the smallest silo, ``count`` at most."""
        return min(map(len, self.pick(count, 0).values()))

    def _messages(self, config: Config, batch: int) -> list[float]:
        records = self.pick(batch, 10)
        return invert_tokens.message_recalls(self.prepared, self.prepared.rehearse(config, records), records)


def own_layout(layout: AdapterLayout) -> list[Finding]:
    """Whether the run's own adapters are such as inversion works on; if not, that is said and is no safety."""
    first = layout.decoder_layers is None or 0 in layout.decoder_layers
    if layout.spec.factors == "both" and first:
        return []
    lacks = "no factor A" if layout.spec.factors != "both" else "no adapter on the first layer"
    reason = (
        f"This run trains {lacks}, and the pursuit needs both: it fails even without protection. That is no safety; "
        "other attacks may exist. The rows below use adapters on which it works."
    )
    return [not_applicable("invert.tokens", "this run's own adapters", "a message", reason)]
