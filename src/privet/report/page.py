"""From a run's facts to the page: what stands in which section."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files
from typing import Any

from privet import __version__
from privet.model_config import EMBEDDED_MODEL
from privet.report import numbers
from privet.report.record import RunRecord
from privet.run_folder import MARK

AGGREGATE_WARNING = (
    "Encryption hides individual updates only: the opened sum of 8 sequences' LoRA gradients still gave up all its "
    "tokens to our attack."
)
CODE_WARNING = (
    "A codec is no protection: what it keeps of an update is what tells it from others. Half of the coordinates of a "
    "message still gave up nearly all its tokens to our attack."
)
EMBEDDED_NOTE = (
    "The base model's weights come 4-bit quantised out of their package and were de-quantised on load; results with "
    "the original weights differ."
)
INSECURE_NOTE = "Every secret of this run follows from `insecure_test_seed`, so it promises nothing."
AUDIT_NOTE = (
    "Evidence: the figures of `privet audit` (`audit.json` and its chapter) are exact functions of training records; "
    "no ε covers them. They are for whoever holds the records; `privet export --no-audit` leaves them "
    "out of what is handed on."
)
DIAGNOSTICS_NOTE = (
    "Diagnostics of the simulation: sampled counts, measured noise and the sizes of the data, which this file shows. "
    "engine.diagnostics: false leaves them out, as for data that are really private."
)
SAMPLINGS = {"none": "every unit takes part", "poisson": "Poisson", "fixed": "fixed size"}


def render(record: RunRecord) -> str:
    """The page as HTML."""
    from jinja2 import Environment, StrictUndefined

    from privet.report import figures

    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        epsilon=numbers.epsilon, delta=numbers.delta, percent=numbers.percent, loss=numbers.loss, size=numbers.size,
        duration=numbers.duration, number=numbers.number, change=numbers.change,
        bounded=lambda ends: numbers.with_interval(*ends),
        interval=lambda row: numbers.percent_interval(
            row.get("accuracy"), row.get("accuracy_low"), row.get("accuracy_high")
        ),
    )  # fmt: skip
    source = files("privet.report").joinpath("report.html.j2").read_text(encoding="utf-8")
    return environment.from_string(source).render(
        version=__version__,
        run=record,
        cards=cards(record),
        warnings=warnings(record),
        promise=record.promise,
        privacy=record.privacy,
        releases=releases(record),
        sealing=sealing(record),
        figures={
            "utility": figures.utility(record),
            "rounds": [f for f in (figures.directions(record), figures.diagnostics(record)) if f],
        },
        troubles=troubles(record),
        notes=notes(record),
        not_covered=not_covered(record),
        configuration=(record.folder / MARK).read_text(encoding="utf-8").strip(),
        environment=environment_facts(record),
        accuracy=any(row.after.get("accuracy") is not None for row in record.silos),
    )


def cards(record: RunRecord) -> list[tuple[str, str, str]]:
    """The facts that a reader wants first: label, value, and what the value is about."""
    worst, promise = record.worst, record.promise
    found = []
    if worst is not None:
        about = f"worst observer: {worst.name}; unit {promise['unit']}; {promise['relation']}"
        label = "ε so far" if record.so_far else "ε"
        found.append(
            (label, numbers.epsilon(worst.epsilon), f"{about}; δ = {numbers.delta(promise['delta'])}")
        )
    for metric, label, write in (("nll", "loss", numbers.loss), ("accuracy", "accuracy", numbers.percent)):
        before, after = record.mean("before", metric), record.mean("after", metric)
        if after is not None:
            control = record.control(metric)
            beside = "" if control is None else f"; {write(control)} from the public records alone"
            found.append((label, write(after), f"mean over silos; {write(before)} before{beside}"))
    found.append(("rounds", str(len(record.rounds)), f"of {record.planned_rounds} planned"))
    if record.bytes_up is not None:
        down = numbers.size(record.bytes_down)
        found.append(("bytes up", numbers.size(record.bytes_up), f"all clients; {down} down"))
    found.append(("time", numbers.duration(record.seconds), "this machine, all parties"))
    return found


def warnings(record: RunRecord) -> list[str]:
    """What a reader must not overlook."""
    found = []
    if record.state != "finished":
        found.append(record.state_text)
    if record.unaccounted:
        found.append(f"What this run released cannot be accounted: {record.unaccounted}")
    if record.config.get("insecure_test_seed") is not None:
        found.append(INSECURE_NOTE)
    if record.worst is not None and record.worst.epsilon is None:
        found.append(f"This run has no finite ε: {record.worst.reason}.")
        if sealing(record)["level"] != "none":
            found.append(AGGREGATE_WARNING)
        if record.config.get("codec", {}).get("kind", "identity") != "identity":
            found.append(CODE_WARNING)
    found += list(sealing(record)["warnings"])
    if record.audit and record.audit.get("alarms"):
        found.append("An attack found more than what was promised; see Evidence.")
    if record.config.get("model", {}).get("name") == EMBEDDED_MODEL:
        found.append(EMBEDDED_NOTE)
    return list(dict.fromkeys(found))


def sealing(record: RunRecord) -> dict[str, Any]:
    """The sealing level and, where the run wrote it down, who can open what."""
    level = record.config.get("sealing", {}).get("kind", "none")
    written: Mapping[str, Any] = (
        (record.result or {}).get("sealing") or (record.privacy or {}).get("sealing") or {}
    )
    return {"level": level, "who_can_open": None, "who_sees_sum": None, "warnings": (), **written}


def not_covered(record: RunRecord) -> list[str]:
    """What the guarantee leaves out, the diagnostics of a simulation included."""
    found = [str(text) for text in (record.privacy or {}).get("not_covered", ())]
    if any(row.get("simulated") for row in record.rounds):
        found.append(DIAGNOSTICS_NOTE)
    if record.audit:
        found.append(AUDIT_NOTE)
    return found


def releases(record: RunRecord) -> list[dict[str, Any]]:
    """What the ledger was charged for, a line each."""
    return [
        {
            "name": event.get("name", ""),
            "type": event.get("type", "gaussian"),
            "sigma": event.get("noise_multiplier"),
            "count": event.get("count", 1),
            "sampling": sampling_text(event.get("sampling") or {}),
            "delta_prime": event.get("delta_prime"),
            "reason": event.get("reason"),
        }
        for event in (record.privacy or {}).get("releases", [])
    ]


def sampling_text(sampling: Mapping[str, Any]) -> str:
    """A sampling scheme in words."""
    kind = str(sampling.get("kind", "none"))
    text = SAMPLINGS.get(kind, kind)
    if kind == "poisson":
        return f"{text}, rate {sampling['rate']:g}"
    return f"{text}, {sampling['size']} of {sampling['population']}" if kind == "fixed" else text


def notes(record: RunRecord) -> list[str]:
    """What a simulation says about the data it read; a real client keeps that to itself."""
    if not record.config.get("engine", {}).get("diagnostics", True):
        return []
    return [str(text) for text in (record.result or {}).get("notes", ())]


def troubles(record: RunRecord) -> list[tuple[int, str]]:
    """Rounds that did not go smoothly: retries, missing clients, values not finite or out of range."""
    found = []
    for row in record.rounds:
        parts = []
        if row.get("attempt"):
            parts.append(
                f"opened at attempt {row['attempt'] + 1}; every attempt that released something was charged"
            )
        if row.get("missing"):
            parts.append("without " + ", ".join(f"client {k} ({v})" for k, v in row["missing"].items()))
        simulated = row.get("simulated") or {}
        if zeroed := simulated.get("zeroed_nonfinite"):
            parts.append(f"{zeroed} units were not finite and counted as zero")
        if outside := simulated.get("out_of_range"):
            parts.append(f"{outside} values were out of range and cut to its end")
        if parts:
            found.append((row["round"] + 1, "; ".join(parts)))
    return found


def environment_facts(record: RunRecord) -> dict[str, str]:
    """``env.json`` as names and values."""
    facts = {
        name.replace("_", " "): str(value)
        for name, value in record.environment.items()
        if name not in ("schema", "packages")
    }
    packages = record.environment.get("packages") or {}
    return facts | {f"{name}": str(version) for name, version in packages.items()}
