"""``privet keys``: a site's identity, and the roster that every member signs. Private keys are never shown."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from privet.cli.app import JsonOption, answer, app, tell

keys = typer.Typer(
    help="Make this site's key, put rosters together, sign and show them.",
    no_args_is_help=True,
    rich_markup_mode=None,
)
app.add_typer(keys, name="keys")

RosterArgument = Annotated[Path, typer.Argument(metavar="ROSTER", help="The roster's file.")]


@keys.command("init")
def init(
    folder: Annotated[Path, typer.Argument(help="New folder for the key; it stays at this site.")],
    name: Annotated[str, typer.Option(help="The site's name, as it will stand in the roster.")],
    json_: JsonOption = False,
) -> None:
    """Make this site's identity, and a public card to send to whoever puts the roster together."""
    from privet.sealing.enrolment import init_keys, read_card
    from privet.sealing.identity import fingerprint

    card = init_keys(folder, name)
    print_ = fingerprint(read_card(card).public_key)
    if json_:
        answer({"card": str(card), "name": name, "fingerprint": print_})
    else:
        typer.echo(
            f"{card} is public: send it around. Everything else in {folder} stays here.\nfingerprint: {print_}"
        )


@keys.command("roster")
def roster(
    cards: Annotated[list[Path], typer.Argument(metavar="CARD...", help="card.json of every site.")],
    consortium: Annotated[str, typer.Option(help="Name of the group; it is part of what is signed.")],
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("roster.json"),
    json_: JsonOption = False,
) -> None:
    """Make the roster that every member then signs; the order of the cards makes no difference."""
    from privet.sealing.enrolment import assemble

    _show(assemble(cards, consortium, out), out, json_)


@keys.command("sign")
def sign(
    folder: Annotated[Path, typer.Argument(help="Folder of this site's identity.")],
    path: RosterArgument,
    json_: JsonOption = False,
) -> None:
    """Add this site's signature, after comparing the fingerprints with the other members by telephone."""
    from privet.sealing.enrolment import sign_file

    _show(sign_file(folder, path), path, json_)


@keys.command("merge")
def merge(
    paths: Annotated[list[Path], typer.Argument(metavar="ROSTER...", help="Copies of one roster.")],
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("roster.json"),
    json_: JsonOption = False,
) -> None:
    """Collect the signatures of several copies of one roster."""
    from privet.sealing.enrolment import merge_files

    _show(merge_files(paths, out), out, json_)


@keys.command("show")
def show(
    path: Annotated[Path, typer.Argument(help="A roster, or the folder of an identity.")],
    json_: JsonOption = False,
) -> None:
    """Show a roster's members and who has signed, or this site's own fingerprint."""
    from privet.sealing.enrolment import read_roster
    from privet.sealing.identity import Identity, fingerprint

    if not path.is_dir():
        _show(read_roster(path), path, json_)
        return
    print_ = fingerprint(Identity.load(path).public_key)
    if json_:
        answer({"identity": str(path), "fingerprint": print_})
    else:
        typer.echo(f"fingerprint: {print_}")


def _show(roster: Any, path: Path, as_json: bool) -> None:
    from privet.sealing.enrolment import describe
    from privet.sealing.identity import fingerprint

    unsigned, wrong = set(roster.unsigned_by()), set(roster.mismatched())
    if as_json:
        members = [
            {
                "party": party,
                "name": m.name,
                "fingerprint": fingerprint(m.public_key),
                "signed": party not in unsigned,
                "signature": "wrong" if party in wrong else "missing" if party in unsigned else "valid",
            }
            for party, m in enumerate(roster.members)
        ]
        document = {
            "path": str(path),
            "consortium": roster.consortium,
            "hash": roster.hash.hex(),
            "members": members,
        }
        answer({**document, "complete": not unsigned})
        return
    tell("\n".join([str(path), *describe(roster)]))
    if wrong:
        typer.echo(
            f"{len(wrong)} of {len(roster.members)} signatures do not match: the roster was changed after it was "
            "signed. Do not sign it; ask who put it together"
        )
    elif unsigned:
        count = f"{len(unsigned)} of {len(roster.members)}"
        typer.echo(
            f"{count} signatures are missing: `privet keys sign` at each site, then `privet keys merge`"
        )
