"""``privet deploy | server | site`` and what the operator does with runs: one model, several machines."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from privet.cli.app import Interrupted, JsonOption, SetOption, answer, app, say, tell
from privet.errors import PrivetError

_GROUP: dict[str, Any] = {"no_args_is_help": True, "rich_markup_mode": None}
deploy = typer.Typer(help="Make start-up kits for a server and its sites.", **_GROUP)
server = typer.Typer(help="The server's machine.", **_GROUP)
site = typer.Typer(help="A site's machine.", **_GROUP)
app.add_typer(deploy, name="deploy")
app.add_typer(server, name="server")
app.add_typer(site, name="site")

ServerKit = Annotated[
    Path, typer.Option("--kit", envvar="PRIVET_KIT", help="The server's kit (or set PRIVET_KIT).")
]
AnyKit = Annotated[
    Path, typer.Option("--kit", envvar="PRIVET_KIT", help="The server's or a site's kit (or set PRIVET_KIT).")
]
SiteKit = Annotated[
    Path, typer.Option("--kit", envvar="PRIVET_KIT", help="This site's kit (or set PRIVET_KIT).")
]
RunArgument = Annotated[str, typer.Argument(metavar="RUN", help="Name of the run.")]


@deploy.command("init")
def init(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="New folder for the kits.")],
    project: Annotated[
        Path | None, typer.Option("--from", help="YAML file with name, server, sites, port, admin_port.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the consortium.")] = None,
    server_: Annotated[
        str | None, typer.Option("--server", help="Host name that sites reach the server by.")
    ] = None,
    sites: Annotated[list[str] | None, typer.Option("--site", help="Name of a site; repeat it.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the server that sites connect to.")] = None,
    config: Annotated[
        Path | None,
        typer.Option(help="The configuration that was agreed on; sites check their data against it."),
    ] = None,
    json_: JsonOption = False,
) -> None:
    """Make a hardened start-up kit for the server and one for each site; asks for what is not given."""
    from privet.config import load
    from privet.deploy.project import FEW_SITES, check_agreed, checked, make_project, read_raw
    from privet.sealing.base import FEWEST_PARTIES

    wanted = None if config is None else load(config)
    raw = read_raw(project) if project else {}
    given = {"name": name, "server": server_, "sites": sites, "port": port}
    raw |= {key: value for key, value in given.items() if value is not None}
    for key, question in (("name", "Name of the consortium"), ("server", "Host name of the server")):
        if key not in raw:
            raw[key] = typer.prompt(question, err=True)
    if "sites" not in raw:
        raw["sites"] = typer.prompt("Names of the sites, separated by spaces", err=True).split()
    agreed = config.read_text(encoding="utf-8") if config else None
    found = checked(raw, str(project or "deploy init"))
    if wanted is not None:
        check_agreed(wanted, len(found.sites))
    elif len(found.sites) < FEWEST_PARTIES:
        say(f"note: {FEW_SITES}")
    kits = make_project(found, folder, agreed)
    if json_:
        paths = {key: str(path) for key, path in kits.sites.items()}
        answer({"server": str(kits.server), "sites": paths, "authority": str(kits.authority)})
        return
    typer.echo(f"server     {kits.server}")
    for path in kits.sites.values():
        typer.echo(f"site       {path}")
    typer.echo(f"authority  {kits.authority}  (secret: take it offline; it can make kits)")
    say(
        "Hand each kit to its site like a password. Then at each site: "
        "`privet keys init KIT/privet/keys --name SITE`, send card.json around, and look at how runs read "
        "the rows: `privet site approve --kit KIT`. docs/deploy.md goes on."
    )


@server.command("start")
def start_server(
    kit: ServerKit, check: Annotated[bool, typer.Option("--check", help="Check only, start nothing.")] = False
) -> None:
    """Check the server's kit and become the server; Ctrl-C or a signal ends it."""
    from privet.deploy.starting import become, prepare_server

    _tell(prepare_server(kit))
    if not check:
        become(kit)


@site.command("start")
def start_site(
    kit: SiteKit,
    data: Annotated[
        Path | None, typer.Option(help="This site's records; kept in the kit for later starts.")
    ] = None,
    check: Annotated[bool, typer.Option("--check", help="Check only, start nothing.")] = False,
) -> None:
    """Check kit, keys, roster, data and versions, and become this site; Ctrl-C or a signal ends it."""
    from privet.deploy.starting import become, prepare_site

    _tell(prepare_site(kit, data))
    if not check:
        become(kit)


@site.command("approve")
def approve(
    kit: SiteKit,
    config: Annotated[
        Path | None,
        typer.Argument(metavar="[CONFIG]", help="A run's configuration; the agreed one when not given."),
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Show how a run reads this site's rows, and allow runs that read them so from now on."""
    from privet.deploy.approving import approve as allow
    from privet.deploy.approving import reading_of

    reading = reading_of(kit, config)
    _tell(reading.lines())
    if not yes:
        typer.confirm("May runs read this site's rows so?", abort=True, err=True)
    new = allow(kit, reading)
    typer.echo(f"{'approved' if new else 'was approved before'}: {reading.fingerprint}")


@site.command("ledger")
def ledger(kit: SiteKit, json_: JsonOption = False) -> None:
    """What this site's records were used for so far, over all runs and jobs."""
    from privet.deploy.starting import site_home
    from privet.report import numbers

    found = site_home(kit).ledger.summary()
    if json_:
        answer(found)
        return
    spent = (
        "no finite epsilon" if found["epsilon"] is None else f"epsilon {numbers.epsilon(found['epsilon'])}"
    )
    allowed = "no limit" if found["allowed"] is None else f"{found['allowed']:g} allowed"
    typer.echo(
        f"{spent} spent, {allowed} (delta {found['delta']:g}, unit {found['unit']}, {found['relation']}, against the "
        "observer of each run who sees least noise)"
    )
    for run, epsilon in found["runs"].items():
        tell(f"  {run}: {'no finite epsilon' if epsilon is None else numbers.epsilon(epsilon)}")


@app.command()
def submit(
    kit: ServerKit,
    config: Annotated[
        Path | None, typer.Argument(metavar="[CONFIG]", help="The run's configuration.")
    ] = None,
    set_: SetOption = None,
    name: Annotated[
        str | None, typer.Option(help="Name of the run; made of time and system when not given.")
    ] = None,
    continue_: Annotated[
        str | None, typer.Option("--continue", metavar="RUN", help="Go on with this run.")
    ] = None,
    detach: Annotated[
        bool,
        typer.Option(
            "--detach", help="Do not follow the run: if its job ends early, nothing goes on by itself."
        ),
    ] = False,
    json_: JsonOption = False,
) -> None:
    """Run a configuration over the sites that are connected, or go on with a run, and follow it to its end.

    While it is followed, a job that ends before its run does is continued by another. With --detach nobody does that.
    """
    from privet.deploy.operating import Operator

    if (config is None) == (continue_ is None):
        raise PrivetError("give a configuration, or --continue RUN", field="CONFIG")
    operator = Operator(kit, _show)
    if continue_ is not None:
        run = continue_
        operator.start_job(run)
    else:
        assert config is not None
        run = operator.submit(*_read(config, set_ or []), name)
    status: dict[str, Any] = {"run": run, "state": "submitted"}
    if not detach:
        try:
            status = {"run": run, **operator.follow(run)}
        except KeyboardInterrupt:
            raise Interrupted(
                f"no longer followed: the job goes on by itself, but nobody continues it if it ends early: "
                f"`privet status {run}`, then `privet submit --continue {run}`"
            ) from None
    else:
        say(
            f"not followed: a job that ends early, or a site that comes back, is not gone on with until somebody runs "
            f"`privet submit --continue {run}`"
        )
    if json_:
        answer(status)
    else:
        tell(f"{run}: {status['state']}" + (f" ({status['reason']})" if status.get("reason") else ""))
    if status["state"] == "failed":
        raise typer.Exit(1)


@app.command()
def status(
    kit: ServerKit,
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="Only this run.")] = None,
    json_: JsonOption = False,
) -> None:
    """Which sites are connected, and how runs stand: rounds, who is in, who dropped out and why, bytes, seconds."""
    from privet.deploy.operating import Operator

    operator = Operator(kit)
    home, connected = operator.home, operator.sites()
    runs = {each: home.status(each) or {"state": "submitted"} for each in home.runs() if run in (None, each)}
    if run is not None and not runs:
        raise PrivetError(
            "there is no such run", field="RUN", given=run, allowed=", ".join(home.runs()) or "none yet"
        )
    if json_:
        answer({"connected": connected, "runs": runs})
        return
    tell("no server answers" if connected is None else f"connected: {', '.join(connected) or 'nobody'}")
    for each, facts in runs.items():
        tell(f"{each}: {facts['state']}" + (f" ({facts['reason']})" if facts.get("reason") else ""))
        if "round" in facts:
            tell(f"  {_round(facts)}")


@app.command()
def logs(
    kit: AnyKit,
    run: Annotated[str | None, typer.Argument(metavar="[RUN]", help="At the server: which run.")] = None,
    json_: JsonOption = False,
) -> None:
    """At the server the log of a run; at a site its own log, with every refusal and its reason."""
    from privet.deploy.operating import log_of

    text = log_of(kit, run).read_text(encoding="utf-8")
    if json_:
        answer(text.splitlines())
    else:
        typer.echo(text, nl=False)


@app.command()
def stop(kit: ServerKit, run: RunArgument, json_: JsonOption = False) -> None:
    """End a run's job; `privet submit --continue` can go on with it."""
    from privet.deploy.operating import Operator

    Operator(kit).stop(run)
    if json_:
        answer({"run": run, "state": "stopped"})
    else:
        typer.echo(f"{run}: stopped")


@app.command("fetch-result")
def fetch_result(
    kit: AnyKit,
    run: RunArgument,
    out: Annotated[Path, typer.Option(help="New folder for adapter, statement and rounds.")],
    json_: JsonOption = False,
) -> None:
    """Copy a run's result out of a kit: at the server, or in encrypted modes at a site."""
    from privet.deploy.operating import fetch_result as fetch

    found = fetch(kit, run, out)
    if json_:
        answer([str(path) for path in found])
    else:
        typer.echo("\n".join(map(str, found)))


def _read(config: Path, overrides: list[str]) -> tuple[Any, str]:
    """The checked configuration, and its text with overrides applied."""
    import yaml

    from privet.config import parse, read_yaml, with_overrides

    raw = with_overrides(read_yaml(config), overrides)
    text = config.read_text(encoding="utf-8") if not overrides else yaml.safe_dump(raw, sort_keys=False)
    return parse(raw, str(config)), text


def _tell(lines: list[str]) -> None:
    for line in lines:
        say(line)


def _show(kind: str, facts: dict[str, Any]) -> None:
    if kind == "job":
        say(f"{facts['run']}: job {facts['job']}")
    elif kind == "round":
        say(_round(facts))
    elif kind == "back":
        say(f"{', '.join(facts['sites'])} came back: another job goes on after this round")


def _round(facts: dict[str, Any]) -> str:
    from privet.report import numbers

    parts = [f"round {facts['round']}/{facts.get('rounds', '?')}: {', '.join(facts.get('in', []))}"]
    if facts.get("out"):
        parts.append("without " + ", ".join(f"{name} ({reason})" for name, reason in facts["out"].items()))
    parts.append(f"{facts.get('bytes_up', 0):,} bytes up, {facts.get('bytes_down', 0):,} down")
    parts.append(numbers.duration(facts.get("seconds")))
    return "; ".join(parts)
