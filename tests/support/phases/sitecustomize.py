"""Loaded by a consortium's processes in tests, never by the product: kills at a chosen phase, and a journal.

Python imports a module of this name at its start when its folder is in PYTHONPATH. It does nothing unless
``PRIVET_TEST_PHASES`` names a folder. There:

    order-*.json    what happens at a phase: who, at what operation, before or after it, from which round on, and what
    pace            seconds that the server waits before each round, if it is there
    journal.jsonl   contributions as they were sealed, survivor sets that shares were given for, releases that are in
                    the server's ledger, sums that were opened

The classes are wrapped when their modules are imported, so no process loads anything that it would not load anyway.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.abc
import importlib.machinery
import io
import json
import os
import signal
import sys
import time
import uuid
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

FOLDER = os.environ.get("PRIVET_TEST_PHASES")


def _folder() -> Path:
    assert FOLDER is not None
    return Path(FOLDER)


def _machine() -> str:
    """The site's name in its worker, ``server`` in the server's job process."""
    return sys.argv[-1] if Path(sys.argv[0]).name == "worker.py" else "server"


def journal(kind: str, **facts: Any) -> None:
    """Add a line that no kill takes back."""
    line = json.dumps({"kind": kind, "machine": _machine(), **facts}).encode() + b"\n"
    descriptor = os.open(_folder() / "journal.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, line)
    os.close(descriptor)


def reach(op: str, when: str, number: int) -> str | None:
    """Do what was ordered for this phase; returns an order that is for the caller to carry out."""
    for path in sorted(_folder().glob("order-*.json")):
        try:
            order = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        wanted = (order["machine"], order["op"], order["when"])
        if wanted != (_machine(), op, when) or number < order["number"]:
            continue
        try:
            path.rename(path.with_suffix(".done"))
        except OSError:
            continue  # another process was first
        journal("order", op=op, when=when, number=number, order=order)
        if order.get("do"):
            return str(order["do"])
        _kill(order["kill"], order.get("part", ""))
    return None


def _kill(kit: str, part: str) -> None:
    """kill -9 of a machine's processes; this one last, if it is among them."""
    me, found = os.getpid(), []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                line = (entry / "cmdline").read_bytes().decode("utf-8", "replace")
                if kit in line and part in line:
                    found.append(int(entry.name))
    for pid in sorted(found, key=lambda each: (each == me, each)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


def _digest(array: Any) -> str:
    return hashlib.sha256(array.tobytes()).hexdigest()


def name_of(context: Any) -> str:
    """The name of the run that keys are bound to, without what was agreed on."""
    return str(context.run.partition("/")[0])


def _client(module: Any) -> None:
    answer = module.Client.handle

    def handle(self: Any, op: str, body: Any) -> Any:
        number = int(body.get("number", -1))
        if reach(op, "before", number) == "raise":
            raise RuntimeError(f"{os.environ.get('PRIVET_TEST_CANARY', '')} in {__file__}")
        found = answer(self, op, body)
        if op == "recover.unmask":
            slot = {name: int(body[name]) for name in ("number", "attempt")}
            run = name_of(self.sealing._masking._context)
            journal("shares", run=run, **slot, survivors=[int(p) for p in body["survivors"]])
        reach(op, "after", number)
        return found

    module.Client.handle = handle


def _masked(module: Any) -> None:
    seal, opening = module.MaskedClient.seal, module.MaskedServer.open

    def sealed(self: Any, round: Any, values: Any, question: bytes = b"") -> Any:
        slot = {"run": name_of(self._masking._context), "number": round.number, "attempt": round.attempt}
        journal("sealed", **slot, values=_digest(values))
        return seal(self, round, values, question)

    def opened(self: Any, round: Any, count: int, replies: Any, question: bytes = b"") -> Any:
        found = yield from opening(self, round, count, replies, question)
        slot = {"run": name_of(self._unmasking._context), "number": round.number, "attempt": round.attempt}
        journal("opened", **slot, survivors=list(found.survivors))
        reach("open", "after", round.number)
        return found

    module.MaskedClient.seal, module.MaskedServer.open = sealed, opened


def _unmasking(module: Any) -> None:
    remove = module.Masks.remove

    def removed(self: Any, words: Any) -> None:
        reach("open", "before", 0)
        remove(self, words)

    module.Masks.remove = removed


def _transport(module: Any) -> None:
    """Phases at the server, and one that sends an old question again instead of the one that is due."""
    from privet.sealing.envelope import claimed_address

    exchange = module.FlareTransport.exchange
    old: dict[tuple[str, int], bytes] = {}

    def exchanged(self: Any, op: str, questions: Any, timeout: float, answered: Any) -> Any:
        if op == "round" and (_folder() / "pace").exists():
            time.sleep(float((_folder() / "pace").read_text(encoding="ascii")))
        sent = dict(questions)
        for party, raw in questions.items():
            first = old.setdefault((op, party), raw)
            if first is not raw and reach(f"send {op} {party}", "before", 0) == "replay":
                sent[party] = first
        number = max(claimed_address(raw, len(raw)).round.number for raw in questions.values())
        if (turned := reach("turn", "before", number)) is not None:
            _turn(self, turned)
        reach(op, "before", number)
        delivery = exchange(self, op, sent, timeout, answered)
        reach(op, "after", number)
        return delivery

    module.FlareTransport.exchange = exchanged


def _turn(transport: Any, order: str) -> None:
    """What a server that turned against its sites could send beside tasks; a site's answers go into the journal."""
    from nvflare.fuel.f3.cellnet.utils import new_cell_message
    from nvflare.lighter.utils import load_private_key_file, sign_folders
    from nvflare.private.admin_defs import Message

    site, file = order.split(" ")
    engine = transport._fl_ctx.get_engine()
    operator = Path(engine.get_workspace().get_root_dir()) / "operator" / "startup"

    def send(attack: str, topic: str, body: Any, **headers: Any) -> None:
        message = Message(topic, body)
        for name, value in headers.items():
            message.set_header(name, value)
        asked = new_cell_message({}, message)
        reply = engine.get_cell().send_request(
            channel="admin", target=site, topic=topic, request=asked, timeout=15.0
        )
        journal("turned", attack=attack, answer=str(getattr(reply.payload, "body", reply.payload)))

    def job() -> bytes:
        """The app that the test left here, signed as the server can: it has the operator's key."""
        app, out = _folder() / "app", io.BytesIO()
        sign_folders(
            str(app), load_private_key_file(str(operator / "client.key")), str(operator / "client.crt")
        )
        with zipfile.ZipFile(out, "w") as archive:
            for path in filter(Path.is_file, app.rglob("*")):
                archive.write(path, path.relative_to(app))
        return out.getvalue()

    def cookie(attack: str, path: str) -> None:
        """A message whose cookie says that it is a file, in a process of FLARE's as FLARE makes it."""
        import msgpack
        from nvflare.fuel.f3.cellnet.defs import Encoding
        from nvflare.fuel.f3.streaming.stream_const import StreamHeaderKey
        from nvflare.fuel.utils.fobs import lobs
        from nvflare.fuel.utils.fobs.datum import DatumManager

        DatumManager.add_datum = lambda self, datum: self.datums.__setitem__(datum.datum_id, datum)
        lobs.get_datum_dir = lambda: str(_folder())
        facts = {"datum_id": str(uuid.uuid4()), "datum_type": 3, "dot": 0, "value": path}
        value = {
            "__fobs_type__": "nvflare.fuel.utils.fobs.datum.Datum",
            "__fobs_dc__": "nvflare.fuel.utils.fobs.decomposer.DataClassDecomposer",
            "__fobs_data__": {"data": facts},
        }
        body = msgpack.packb(
            {
                "__fobs_type__": "nvflare.apis.shareable.Shareable",
                "__fobs_dc__": "nvflare.fuel.utils.fobs.decomposer.DictDecomposer",
                "__fobs_data__": {"__headers__": {"__cookie_jar__": {"x": value if path else "a cookie"}}},
            }
        )
        raw = lobs._Header(lobs.MARKER_MAIN, 0, len(body)).to_bytes() + body
        encoded = {StreamHeaderKey.PAYLOAD_ENCODING: Encoding.FOBS}
        asked = new_cell_message(encoded, raw)
        reply = engine.get_cell().send_request(
            channel="aux_communication", target=site, topic="no.such.topic", request=asked, timeout=15.0
        )
        answer = f"{reply.payload} {reply.headers}"
        for kept in [*_folder().glob("*.dat")]:
            answer += kept.read_text(encoding="utf-8")
        journal("turned", attack=attack, answer=answer)

    cookie("a cookie", "")
    cookie("a cookie that is a file", file)
    who = {"submitter_name": "x", "submitter_org": "x", "submitter_role": "super"}
    new = {"job_id": "00000000-0000-4000-8000-000000000000", "job_meta": who, "app_name": "app"}
    send("read a file", "sys.shell", f"cat {file}")
    send("where is it", "sys.report_env", "")
    send("forget", "train.deploy", job(), **{**new, "job_id": "privet"})
    (_folder() / "app" / "custom").mkdir()
    (_folder() / "app" / "custom" / "sitecustomize.py").write_text("print('taken over')", encoding="utf-8")
    send("run code", "train.deploy", job(), **new)
    send("delete", "train.delete_run", "", job_id="privet")


def _aggregate(module: Any) -> None:
    """The new adapter is in the server's memory, and not yet on its disk."""
    apply = module.Aggregator.apply

    def applied(self: Any, round_id: Any, *arguments: Any) -> Any:
        norm = apply(self, round_id, *arguments)
        reach("apply", "after", round_id.number)
        return norm

    module.Aggregator.apply = applied


def _checkpoint(module: Any) -> None:
    """The last release that is in the server's ledger, on its disk."""
    save = module.save

    def saved(folder: Any, server: Any, **facts: Any) -> None:
        save(folder, server, **facts)
        progress = server.progress
        if progress.charged is not None:
            charged = {"number": progress.charged.number, "attempt": progress.charged.attempt}
            journal("charged", run=server.run, **charged)

    module.save = saved


_WRAPPED: dict[str, Callable[[Any], None]] = {
    "privet.aggregate": _aggregate,
    "privet.checkpoint": _checkpoint,
    "privet.client": _client,
    "privet.sealing.masked": _masked,
    "privet.sealing.unmasking": _unmasking,
    "privet.engines.flare.controller": _transport,
}


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the modules to wrap where they would be found anyway."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: Any = None) -> Any:
        wrap = _WRAPPED.pop(name, None)
        spec = importlib.machinery.PathFinder.find_spec(name, path) if wrap else None
        if spec is None or spec.loader is None or wrap is None:
            return None
        load = spec.loader.exec_module

        def exec_module(module: Any) -> None:
            load(module)
            wrap(module)

        spec.loader.exec_module = exec_module  # type: ignore[method-assign]  # this one loader's
        return spec


if FOLDER:
    sys.meta_path.insert(0, _Finder())
