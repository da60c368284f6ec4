"""What a run would promise, send and cost, before anything runs and without loading the model's weights.

The adapter's size comes from the model's configuration alone (`privet.model_size`), epsilon from the same
composition that runs, bytes from the sealing level's own plan. Seconds and memory are estimates and say so.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from privet.codec_config import CodecConfig, IdentityCodec, PruneCodec, PublicSubspaceCodec
from privet.codecs.base import size_for
from privet.codecs.prune import pruned_share
from privet.config import Config, parse
from privet.data.load import load as load_data
from privet.data.records import Dataset
from privet.errors import PrivetError
from privet.federation import sum_field
from privet.fixed_point import Field
from privet.model_size import ModelSize, model_size
from privet.pipeline import Floats
from privet.privacy.ledger import Ledger
from privet.resolve import Resolved, resolve
from privet.run_traffic import RunTraffic
from privet.sealing.base import SealingPlan
from privet.sealing.levels import forecast, hands_sums_on
from privet.traffic import Traffic
from privet.weak_promise import weak_promises

SCHEMA = 1
FLOPS_PER_THREAD = {"bfloat16": 3e11, "float32": 8e10}
"""Matrix products of one thread of a current server processor; the weakest part of the time estimate."""
LIBRARIES_BYTES = 1.2e9
COHERENCE = {"record": 0.1, "client": 0.3}
"""Length of the mean of clipped units over the clip norm, at the start of a run, where it was not measured."""


@dataclass(frozen=True)
class PublicSignal:
    """What public records say of one unit's vector.

    Attributes:
        clip_norm: The clip norm.
        coherence: Length of the mean of clipped vectors over the clip norm.
    """

    clip_norm: float
    coherence: float


@dataclass(frozen=True)
class Plan:
    """The forecast of one configuration.

    Attributes:
        resolved: The configuration with everything filled in, and its composition.
        sealing: What the sealing level promises and costs.
        observers: Rows of epsilon, one an observer.
        size: The model.
        dataset: Silos and their sizes, for the time estimate.
        traffic: Bytes of one client in one round besides those of the sealing level.
        refusals: Why such a run would not start.
        preparation: What the sealing level costs in a round that prepares the codec, if there are any.
        measured: What public records say of clip norm and signal, if they were asked.
    """

    resolved: Resolved
    sealing: SealingPlan
    observers: list[dict[str, Any]]
    size: ModelSize
    dataset: Dataset
    traffic: Traffic
    refusals: list[str] = field(default_factory=list)
    preparation: SealingPlan | None = None
    measured: PublicSignal | None = None

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON, schema 1."""
        r, config = self.resolved, self.resolved.config
        privacy, mechanism = config.privacy, r.system.mechanism
        units = self._units_a_round()
        signal = mechanism.plan(units) if mechanism else {}
        expected = self._expected_signal(signal)
        return {
            "schema": SCHEMA,
            "system": r.system.name,
            "unit": privacy.unit if privacy else None,
            "relation": privacy.relation if privacy else None,
            "delta": privacy.delta if privacy else None,
            "observers": self.observers,
            **stages(r),
            "noise_multiplier": r.facts.noise_multiplier if privacy else None,
            "noise_norm": signal.get("noise_norm"),
            "largest_signal": signal.get("largest_signal"),
            "noise_to_signal": signal.get("noise_to_signal"),
            **expected,
            "noise_to_signal_note": "at clip norm 1 where it is taken from public records and was not measured; the "
            "ratios are the same",
            "parties": r.facts.parties,
            "survivors_demanded": r.trust.min_survivors,
            "honest_shares": r.trust.floor,
            "rounds": config.rounds,
            "server_optimiser": config.schedule.server.model_dump(mode="json"),
            **self._preparation(),
            "trained_values": self.size.dimension,
            "contribution_values": r.system.pipeline.size or self.size.dimension,
            "bytes_up_per_client_round": round(self.sealing.upload_bytes + self.traffic.up),
            "bytes_down_per_client_round": round(self.sealing.download_bytes + self.traffic.down),
            "seconds_estimate": self._seconds(),
            "memory_estimate_bytes": self._memory(),
            "sealing": asdict(self.sealing),
            "refusals": self.refusals,
            "notes": weak_promises(config, self.dataset.size, r.facts.parties),
        }

    def _preparation(self) -> dict[str, Any]:
        """What the rounds that prepare the codec send, if there are any."""
        preparation = self.resolved.system.preparation
        if preparation is None or self.preparation is None:
            return {}
        mechanism = preparation.system.mechanism
        return {
            "preparation_rounds": preparation.rounds,
            "preparation_values": preparation.system.pipeline.size or self.size.dimension,
            "preparation_bytes_up_per_client_round": round(self.preparation.upload_bytes + self.traffic.up),
            "preparation_noise_multiplier": mechanism.noise_multiplier if mechanism else None,
            "preparation_note": "bytes down count the learned codec once, at its size at most: what stage 1 says of "
            "tensors decides how many networks it has",
        }

    def _expected_signal(self, largest: dict[str, float]) -> dict[str, Any]:
        """The noise over what the units' mean is expected to add up to (docs/adr/0009-expected-signal.md)."""
        privacy = self.resolved.config.privacy
        if privacy is None or not largest:
            return {}
        found = self.measured.coherence if self.measured else COHERENCE[privacy.unit]
        signal = found * largest["largest_signal"]
        return {
            "coherence": found,
            "coherence_source": "measured on public records" if self.measured else "declared",
            "expected_signal": signal,
            # The noise may be over anything: where the mean cannot be told from nothing there is no ratio.
            "noise_to_expected_signal": largest["noise_norm"] / signal if signal > 0 else None,
        }

    def _units_a_round(self) -> float:
        schedule, privacy = self.resolved.config.schedule, self.resolved.config.privacy
        if privacy is not None and privacy.unit == "record" and schedule.expected_batch:
            return schedule.expected_batch
        return float(self.resolved.facts.parties)

    def _seconds(self) -> float:
        """Forward passes of all records touched, three times over where they are trained; evaluation twice."""
        config, schedule = self.resolved.config, self.resolved.config.schedule
        tokens = 0.4 * config.data.max_length
        records = self.dataset.size
        if schedule.sampling_rate is not None:
            touched = schedule.sampling_rate * records * schedule.local.steps
        else:
            touched = float(schedule.local.steps * schedule.local.batch_size * self.resolved.facts.parties)
        tested = sum(map(len, self.dataset.test.values())) if self.dataset.test_public else 0
        flops = 2.0 * self.size.layer_parameters * tokens * (3 * touched * config.rounds + 2 * tested)
        threads = config.engine.threads or os.cpu_count() or 1
        speed = FLOPS_PER_THREAD["float32" if config.model.dtype == "float32" else "bfloat16"] * threads
        return 30.0 + flops / speed + self.sealing.seconds * config.rounds

    def _memory(self) -> int:
        config = self.resolved.config
        weights = self.size.parameters * (4 if config.model.dtype == "float32" else 2)
        gradients = 3 * 4 * config.engine.micro_batch * self.size.dimension
        cache = config.engine.cache_mebibytes << 20
        return int(LIBRARIES_BYTES + 1.2 * weights + gradients + cache)


def make(config: Config, target_epsilon: float | None = None, measured: PublicSignal | None = None) -> Plan:
    """Plan a run.

    Args:
        config: A checked configuration.
        target_epsilon: Calibrate to this epsilon instead of what the configuration says.
        measured: Clip norm and coherence from public records; the declared coherence when absent.

    Raises:
        PrivetError: if data, model or composition do not work out.
    """
    if target_epsilon is not None:
        config = with_target(config, target_epsilon)
    dataset = load_data(config.data)
    size = model_size(config)
    resolved = resolve(
        config,
        dimension=size.dimension,
        parties=len(dataset.silos),
        factors=size.factors,
        layout=size.tensors,
        clip_norm=measured.clip_norm if measured else 1.0,
    )
    field_of_sum = sum_field(resolved, size.dimension)  # a run's field is made for the uncompressed vector
    sizes = round_sizes(config.codec, size.dimension, config.schedule.rounds)
    values = sizes[0]
    if values != size.dimension:
        resolved = replace(resolved, system=resolved.compose(_Sized(values)))
    parties = resolved.facts.parties
    sealing = _mean_forecast(resolved, field_of_sum, sizes)
    traffic = RunTraffic(
        size.dimension,
        parties,
        sizes,
        config.codec,
        config.schedule.server,
        encrypted=hands_sums_on(config.sealing),
    ).a_round()
    first = None
    if preparation := resolved.system.preparation:
        first = _mean_forecast(resolved, field_of_sum, [preparation.system.pipeline.size or size.dimension])
    refusals = _refusals(resolved, dataset)
    return Plan(resolved, sealing, observers(resolved), size, dataset, traffic, refusals, first, measured)


def _mean_forecast(resolved: Resolved, field: Field, sizes: Sequence[int]) -> SealingPlan:
    """What the level promises, and what it costs on average over rounds of these sizes."""
    plans = {
        size: forecast(
            resolved.config.sealing,
            size=size,
            field=field,
            parties=resolved.facts.parties,
            survivors=resolved.trust.min_survivors,
            rounds=resolved.config.rounds,
        )
        for size in set(sizes)
    }

    def mean(cost: Callable[[SealingPlan], float]) -> float:
        return sum(cost(plans[size]) for size in sizes) / len(sizes)

    return replace(
        plans[sizes[0]],
        upload_bytes=round(mean(lambda plan: plan.upload_bytes)),
        download_bytes=round(mean(lambda plan: plan.download_bytes)),
        seconds=mean(lambda plan: plan.seconds),
    )


@dataclass(frozen=True)
class _Sized:
    """Stands for a codec whose size alone is known yet."""

    size: int

    def encode(self, batch: Floats) -> Floats:
        """Plans encode nothing."""
        raise TypeError("a plan has no codec to encode with")

    def decode(self, total: Floats) -> Floats:
        """Plans decode nothing."""
        raise TypeError("a plan has no codec to decode with")


def round_sizes(config: CodecConfig, dimension: int, rounds: int) -> list[int]:
    """Values of a contribution to each round; for row PCA, which shares them out over layers, at most these.

    Args:
        config: The section ``codec``.
        dimension: Trained values D.
        rounds: Rounds of the run.
    """
    match config:
        case IdentityCodec():
            return [dimension] * rounds
        case PruneCodec():
            when: dict[str, Any] = {"start_round": config.start_round, "end_round": config.end_round}
            shares = [
                pruned_share(number, rounds, start=config.start_rate, end=config.end_rate, **when)
                for number in range(rounds)
            ]
            if config.mask == "last_update":
                shares[0] = 0.0  # nothing was released yet that could say what to keep
            return [max(1, round((1 - share) * dimension)) for share in shares]
        case PublicSubspaceCodec():
            return [config.size] * rounds
    return [size_for(dimension, config.ratio)] * rounds


def with_target(config: Config, target_epsilon: float) -> Config:
    """The configuration with another target epsilon in place of its noise.

    Raises:
        PrivetError: if the system has no noise to calibrate.
    """
    if config.privacy is None:
        raise PrivetError(
            f"{config.system.kind} has no noise to calibrate",
            field="--epsilon",
            given=target_epsilon,
            hint="add a privacy section, or use system dp_lora or hedge",
        )
    if not 0 < target_epsilon < math.inf:
        raise PrivetError(
            "cannot be reached by any noise", field="--epsilon", given=target_epsilon, allowed="a number > 0"
        )
    raw = config.model_dump(mode="json")
    raw["privacy"] |= {"target_epsilon": target_epsilon, "noise_multiplier": None, "max_epsilon": None}
    return parse(raw)


def planned_ledger(resolved: Resolved) -> Ledger:
    """The ledger of a run that goes to its end without a retry."""
    ledger = resolved.ledger()
    for release in resolved.planned():
        ledger.charge(release)
    return ledger


def stages(resolved: Resolved) -> dict[str, Any]:
    """Epsilon of each kind of release by itself, if there are several and the run promises anything."""
    rows = planned_ledger(resolved).stages()
    return {"stages": rows} if len(rows) > 1 and resolved.config.void is None else {}


def observers(resolved: Resolved) -> list[dict[str, Any]]:
    """One row an observer: epsilon of the whole run by every accountant, or the reason why there is none."""
    ledger = planned_ledger(resolved)
    rows = []
    table = ledger.epsilons()
    for who in ledger.trust.observers():
        epsilons = table[who.name]
        reason = resolved.config.void or epsilons.reason
        row: dict[str, Any] = {
            "observer": who.name,
            "description": who.description,
            "inside_trust_model": who.inside,
            "epsilon": None if reason else epsilons.headline.value,
            "method": "none" if reason else epsilons.headline.method,
            "rdp": epsilons.rdp,
            "clt": epsilons.clt,
        }
        if epsilons.clt is not None:
            row["clt_note"] = epsilons.as_dict()["clt_note"]
        rows.append(row | ({"reason": reason} if reason else {}))
    return rows


def _refusals(resolved: Resolved, dataset: Dataset) -> list[str]:
    """What would stop the run before its first round."""
    found = []
    privacy = resolved.config.privacy
    if privacy is not None and privacy.max_epsilon is not None:
        ledger, planned = resolved.ledger(), resolved.planned()
        if not all(ledger.admit(release, planned) for release in planned):
            found.append(
                f"the planned releases exceed the budget of epsilon {privacy.max_epsilon:g}: the run would stop early"
            )
    wants_public = resolved.config.privacy is not None and resolved.config.privacy.clip_norm == "public"
    if wants_public and not dataset.public:
        found.append("privacy.clip_norm is `public` but the data have no public part")
    if resolved.system.mechanism and not math.isfinite(resolved.system.mechanism.noise_std):
        found.append("the noise has no finite standard deviation")
    return found
