"""A whole toy run whose server and clients are processes of their own, with nothing between them but wire bytes.

``python apart.py server FOLDER`` and ``python apart.py client FOLDER PARTY``. FOLDER holds the public facts: the
configuration and the signed roster. A client's own folder, ``site PARTY``, holds its secrets and, for the test, what it
contributed. The server writes down every byte that reaches its process.
"""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from support.toy import WideTrainer

from privet import wire
from privet.codec_schedule import CodecSchedule
from privet.config import parse, read_yaml
from privet.engines.local import LocalEngine
from privet.federation import Blueprint, Secrets
from privet.keys import SecretStore
from privet.messages import ROUND
from privet.packing import pack
from privet.protocol import RoundId
from privet.resolve import resolve
from privet.sealing import enrolment
from privet.sealing.base import SealingRefused
from privet.sealing.bfv import SEED_BYTES, _context
from privet.sealing.encrypted_masked import EncryptedMaskedClient
from privet.sealing.enrolment import read_roster
from privet.sealing.identity import Identity
from privet.sealing.seal_memory import MemoryFile
from privet.store import FolderStore
from privet.wire import Body, Message
from privet.work import Workplace

DIMENSION = 9000
PARTIES = 4
LEAKER = 0
"""This client sends its secrets and its bare contribution in the last round: what the search has to find."""


def blueprint(folder: Path) -> Blueprint:
    """The public facts, from files that everybody may read."""
    config = parse(read_yaml(folder / "config.yaml"))
    codec = CodecSchedule(
        config.codec,
        [("w", (DIMENSION,))],
        config.seed,
        config.schedule.rounds,
        private=config.privacy is not None,
        sealed=True,
    )
    resolved = resolve(config, dimension=DIMENSION, parties=PARTIES)
    roster = read_roster(folder / "roster.json")
    return Blueprint(resolved, roster, "a run apart", "agreed", np.zeros(DIMENSION, np.float32), codec)


def send(connection: socket.socket, head: dict[str, Any], data: bytes = b"") -> None:
    """One frame: lengths, a line of JSON, the message."""
    line = json.dumps(head).encode()
    connection.sendall(struct.pack("<II", len(line), len(data)) + line + data)


def receive(connection: socket.socket) -> tuple[dict[str, Any], bytes]:
    """The next frame; an end of file is an error."""
    sizes = struct.unpack("<II", _read(connection, 8))
    line, data = (_read(connection, size) for size in sizes)
    return json.loads(line), data


def _read(connection: socket.socket, size: int) -> bytes:
    read = bytearray()
    while len(read) < size:
        piece = connection.recv(size - len(read))
        if not piece:
            raise EOFError
        read += piece
    return bytes(read)


@dataclass
class SocketEngine(LocalEngine):
    """The local engine with each client at the other end of a socket; records all that comes in, by round."""

    sockets: dict[int, socket.socket] = field(default_factory=dict)
    folder: Path = Path()

    def _exchange(
        self,
        op: str,
        message: Message,
        question: bytes,
        party: int,
        ok: dict[int, Body],
        failed: dict[int, str],
    ) -> None:
        send(self.sockets[party], {"op": op}, question)
        head, raw = receive(self.sockets[party])
        with open(self.folder / f"received.{self._round}", "ab") as file:
            file.write(json.dumps(head).encode() + raw)
        if "refused" in head:
            failed[party] = f"refused: {head['refused']}"
            return
        try:
            ok[party] = wire.decode(raw, message.reply)
        except wire.WireError as error:
            failed[party] = f"malformed: {error.reason}"


def serve(folder: Path) -> None:
    """The server's process: no client's folder is known to it."""
    plan = blueprint(folder)
    told: list[Any] = []

    def save(server: Any) -> None:
        if server.aggregator is not None:
            np.save(folder / f"adapter.{server.aggregator.rounds}.npy", server.aggregator.flat)

    server = plan.server(FolderStore(SecretStore(folder / "server")), save, lambda *event: told.append(event))
    with socket.socket(socket.AF_UNIX) as listener, ExitStack() as stack:
        listener.bind(str(folder / "socket"))
        listener.listen()
        (folder / "listening").touch()
        sockets = {}
        for _ in range(PARTIES):
            connection = stack.enter_context(listener.accept()[0])
            sockets[receive(connection)[0]["party"]] = connection
        clients: Any = dict.fromkeys(range(PARTIES))
        dropouts = plan.resolved.config.engine.dropouts
        engine = SocketEngine(clients, plan.messages, dropouts, sockets=sockets, folder=folder)
        engine.run(server.steps())
        (folder / "server" / "sealed_state").write_bytes(server.sealed_state)
        (folder / "told.json").write_text(json.dumps(told))
        for connection in sockets.values():
            send(connection, {"op": "end"})


def take_part(folder: Path, party: int) -> None:
    """A client's process."""
    site, plan = folder / f"site {party}", blueprint(folder)
    secrets = Secrets.of_site(site / "secrets", Identity.load(site))
    client = plan.client(Workplace(f"site {party}", WideTrainer(DIMENSION), [None], 8), secrets)  # type: ignore[list-item]  # the trainer reads none
    honest = client.sealing.seal
    last = plan.resolved.config.schedule.rounds - 1

    def seal(round: RoundId, values: Any, question: bytes) -> Body:
        np.save(site / f"contribution.{round.number}.npy", values)
        body = honest(round, values, question)
        if party == LEAKER and round.number == last:
            bare = secrets.seal_root + pack(values.astype(np.uint64) & np.uint64((1 << bits) - 1), bits)
            if "words" in body:
                body["words"] = bare[: len(body["words"])]  # type: ignore[arg-type]  # a Blob
            else:
                sealing: Any = client.sealing
                body["ciphertexts"] = sealing.keys.key._root + bare
        return body

    bits = plan.seal.field.bits
    client.sealing.seal = seal  # type: ignore[method-assign]  # watches, and once leaks
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(folder / "socket"))
        send(connection, {"party": party})
        while (question := receive(connection))[0]["op"] != "end":
            op = question[0]["op"]
            body = wire.decode(question[1], plan.asked(op, client.aggregator.size))
            try:
                reply = client.handle(op, body)
            except SealingRefused as refusal:
                send(connection, {"refused": refusal.reason})
                continue
            schema = plan.answer(client.aggregator.size) if op == ROUND else plan.messages[op].reply
            send(connection, {}, wire.encode(reply, schema))
            np.save(site / f"adapter.{client.aggregator.rounds}.npy", client.aggregator.flat)
    held = dict(secrets_of(site, secrets, client.sealing))
    (site / "secrets.json").write_text(json.dumps({name: key.hex() for name, key in held.items()}))


def secrets_of(site: Path, secrets: Secrets, sealing: Any) -> Iterator[tuple[str, bytes]]:
    """Every key of a client that nobody else, or no server, may have; names and at least 16 bytes each."""
    for file in sorted((site / "secrets").iterdir()):
        if file.stat().st_size == 32:
            yield file.name, file.read_bytes()
    key = secrets.identity._key.private_bytes_raw()
    yield "identity", key
    yield "seal root", secrets.seal_root
    masking = sealing.masking if isinstance(sealing, EncryptedMaskedClient) else sealing._masking
    epoch = masking._book.current
    yield "epoch", epoch.secret
    for slot in range(len(epoch.rounds)):
        yield f"self seed {slot}", epoch.self_seed(slot)
        yield f"key seed {slot}", epoch.key_seed(slot)
    if isinstance(sealing, EncryptedMaskedClient):
        parameters = sealing._bfv.parameters
        seed = sealing.keys.key.derive(parameters.label(), length=SEED_BYTES)
        yield "run key", sealing.keys.key._root
        yield "seed of the BFV key", seed
        import tenseal.sealapi as seal

        secret = seal.KeyGenerator(_context(parameters, seed)).secret_key()
        yield "BFV key", MemoryFile().save(secret)


def run(folder: Path, config: str, timeout: float = 120.0) -> None:
    """Make the sites' keys and a roster that all sign, start all processes, and wait for their end.

    Raises:
        RuntimeError: if one of them failed.
    """
    (folder / "config.yaml").write_text(config)
    sites = [folder / f"site {party}" for party in range(PARTIES)]
    cards = [enrolment.init_keys(site, site.name) for site in sites]
    enrolment.assemble(cards, "apart", folder / "roster.json")
    for site in sites:
        enrolment.sign_file(site, folder / "roster.json")
    roles = [["server"], *(["client", str(party)] for party in range(PARTIES))]
    children: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        for role in roles:
            if role == ["client", "0"]:
                _wait_for(folder / "listening", children[0], timeout)
            children.append(stack.enter_context(_start(folder, role)))
            stack.callback(children[-1].kill)
        for role, child in zip(roles, children, strict=True):
            _, errors = child.communicate(timeout=timeout)
            if child.returncode:
                raise RuntimeError(f"{' '.join(role)}: {errors.decode()[-2000:]}")


def _start(folder: Path, role: list[str]) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, __file__, role[0], str(folder), *role[1:]]
    return subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _wait_for(file: Path, child: subprocess.Popen[bytes], timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while not file.exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)


if __name__ == "__main__":
    if sys.argv[1] == "server":
        serve(Path(sys.argv[2]))
    else:
        take_part(Path(sys.argv[2]), int(sys.argv[3]))
