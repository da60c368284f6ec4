"""How ``plan`` and ``account`` look on a terminal."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import RenderableType
from rich.text import Text

from privet.cli.tables import epsilon_table, facts_table, stage_table
from privet.report import numbers
from privet.report.record import ObserverRow


def plan_view(plan: Mapping[str, Any]) -> list[RenderableType]:
    """Tables of a plan: the promise, what it costs, who could open what, and what stands against it."""
    promise = f"unit {plan['unit']}, relation {plan['relation']}, δ = {numbers.delta(plan['delta'])}"
    if plan["unit"] is None:
        promise = "no privacy section"
    rows = [_observer(row) for row in plan["observers"]]
    sealing = plan["sealing"]
    ratio = plan.get("noise_to_signal")
    first = plan.get("preparation_bytes_up_per_client_round")
    stage_one = None if first is None else f"{numbers.size(first)}, {plan['preparation_rounds']} times"
    facts = {
        "noise multiplier": numbers.number(plan.get("noise_multiplier")),
        "noise over largest possible signal": f"{numbers.number(ratio)} (norms, in one round)",
        "noise over expected signal": _expected(plan),
        "server optimiser": _optimiser(plan["server_optimiser"]),
        "up, a client and release of stage 1": stage_one,
        "up, a client and round": numbers.size(plan["bytes_up_per_client_round"]),
        "down, a client and round": numbers.size(plan["bytes_down_per_client_round"]),
        "time, about": numbers.duration(plan["seconds_estimate"]),
        "memory, about": numbers.size(plan["memory_estimate_bytes"]),
        "sealing": sealing["level"],
        "who can open one contribution": sealing["who_can_open"],
        "who sees the sum": sealing["who_sees_sum"],
    }
    stages = stage_table(plan.get("stages", ()), promise)
    parts: list[RenderableType] = [
        epsilon_table(f"{plan['system']}: ε per observer ({promise})", rows),
        *([stages] if stages else []),
        facts_table("Cost and trust", {name: value for name, value in facts.items() if value is not None}),
    ]
    parts += [Text(f"warning: {warning}", style="yellow") for warning in sealing.get("warnings", [])]
    parts += [Text(f"warning: {note}", style="yellow") for note in plan.get("notes", [])]
    parts += [Text(f"refused: {refusal}", style="bold red") for refusal in plan.get("refusals", [])]
    return parts


def _optimiser(server: Mapping[str, Any]) -> str:
    warm = f" after {server['warmup_rounds']} rounds of warm-up" if server["warmup_rounds"] else ""
    falls = "" if server["decay"] == "none" else f", {server['decay']} decay to zero"
    return f"{server['kind']}, rate {numbers.number(server['learning_rate'])}{warm}{falls}"


def _expected(plan: Mapping[str, Any]) -> str | None:
    if plan.get("coherence") is None:
        return None
    ratio = plan["noise_to_expected_signal"]
    shown = "no signal to be seen" if ratio is None else numbers.number(ratio)
    return f"{shown} (coherence {numbers.number(plan['coherence'])}, {plan['coherence_source']})"


def _observer(row: Mapping[str, Any]) -> ObserverRow:
    return ObserverRow(
        str(row["observer"]),
        str(row.get("description", row.get("text", row["observer"]))),
        row.get("epsilon"),
        str(row.get("method", "none")),
        rdp=row.get("rdp"),
        clt=row.get("clt"),
        clt_note=row.get("clt_note"),
        inside=bool(row.get("inside_trust_model", True)),
        reason=row.get("reason"),
    )


def account_view(computed: Mapping[str, Any]) -> list[RenderableType]:
    """The calculator's answer: the headline with what it is about, and every accountant's value."""
    head = computed["headline"]
    about = (
        f"unit {computed['unit']}, relation {computed['relation']}, δ = {numbers.delta(computed['delta'])}, "
        f"observer: {computed['observer']}"
    )
    if head["value"] is None:
        return [Text(f"ε = none ({about})", style="bold"), Text(f"because {computed.get('reason')}")]
    methods = computed["epsilon"]
    notes = {
        "exact": "closed form",
        "pld": "privacy loss distributions: upper bound, tight to about 1e-4",
        "rdp": "Rényi DP: looser upper bound",
        "clt": f"central limit: {computed.get('clt_note', 'no bound')}",
    }
    others = {
        name: numbers.epsilon(row["headline"]["value"]) for name, row in computed.get("observers", {}).items()
    }
    facts = {
        name: f"{numbers.epsilon(methods[name]):>8}  {note}"
        for name, note in notes.items()
        if methods.get(name) is not None
    }
    return [
        Text(f"ε = {numbers.epsilon(head['value'])} by {head['method']} ({about})", style="bold"),
        facts_table(None, facts),
        *([facts_table("ε by observer", others)] if len(others) > 1 else []),
        Text(f"δ′ = {numbers.number(computed['delta_prime'])} of δ; {computed['accountant']}", style="dim"),
    ]
