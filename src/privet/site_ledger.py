"""A site's own account of everything that its records were ever used for, across runs and jobs.

The server keeps a ledger of its run; a site does not rely on it. Before a site computes a new answer to a round it
writes the release down here, and refuses if its policy's epsilon would be exceeded. What is charged stays charged.
"""

from __future__ import annotations

import fcntl
import json
import math
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from privet.errors import PrivetError
from privet.keys import SecretStore
from privet.privacy.accountants import adaptive, headline
from privet.privacy.events import AnyRelease, NoGuarantee
from privet.privacy.filters import count_of, counted, kind_of
from privet.privacy.ledger import Ledger
from privet.privacy.statement import rounded_up
from privet.protocol import RoundId
from privet.resolve import Resolved
from privet.sealing.base import SealingRefused
from privet.site_policy import SitePolicy

ENTRY, LOCK, WITNESS = "ledger.json", "ledger.lock", "charges"
UNLIMITED = 8.0
"""Where a site sets no limit, runs are added up as well as can be at this epsilon."""
_RUN = re.compile(r"[a-z0-9][a-z0-9-]{0,63}")
Runs = Mapping[str, Ledger]


def checked_name(run: str) -> str:
    """The name of a run, if it can name a folder.

    Raises:
        SealingRefused: if it cannot; a server chose it.
    """
    if not _RUN.fullmatch(run):
        raise SealingRefused("bad-run-name", "the name of the run is not made of a-z, 0-9 and '-'")
    return run


@dataclass(frozen=True)
class SiteLedger:
    """Ledgers of all runs at one site, in one file of mode 0600 that several jobs may share.

    Attributes:
        store: The folder of the file.
        policy: The site's limits; its unit, relation and delta are those of the account.
        folder: Where the runs' folders lie. In each stands how often it was charged, so that a ledger that is lost, or
            was put back from a backup by itself, is noticed.
    """

    store: SecretStore
    policy: SitePolicy
    folder: Path | None = None

    def runs(self) -> dict[str, Ledger]:
        """The ledgers as they stand on the disk, by name of the run.

        Raises:
            PrivetError: if the file is damaged, or lacks what was charged.
        """
        # Read before the ledger, which is written first: what another job charges meanwhile is in both or in it alone.
        charged = {
            path.parent.name: int.from_bytes(path.read_bytes(), "big")
            for path in sorted(self.folder.glob(f"*/{WITNESS}") if self.folder else ())
        }
        found: dict[str, Ledger] = {}
        try:
            if ENTRY in self.store:
                stored = json.loads(self.store.read(ENTRY))
                found = {name: Ledger.from_json(ledger) for name, ledger in stored["runs"].items()}
        except (ValueError, KeyError, AttributeError):
            raise PrivetError(
                "this site's ledger is damaged",
                field=str(self.store.path(ENTRY)),
                hint="restore it from a backup; without it nobody knows what these records were used for",
            ) from None
        for name, count in charged.items():
            if _count(found.get(name)) < count:
                raise PrivetError(
                    f"this site's ledger lacks answers that were given in the run {name}",
                    field=str(self.store.path(ENTRY)),
                    hint="it was lost, or is an old copy; docs/deploy.md, 'Backups', says what to do",
                )
        return found

    def epsilon(self, runs: Runs | None = None, planned: Sequence[AnyRelease] | None = None) -> float:
        """Epsilon of everything charged, against the worst observer of each run; infinite without any.

        One run is accounted as it accounts for itself. Where there are several, a server may have chosen the later ones
        by what the first told, so they are added up in a way that holds for that too and takes more for the same noise.
        Releases that were accounted for another unit or relation than this site's say nothing about its own.

        Args:
            runs: Ledgers by name of the run; by default those on the disk.
            planned: To ask whether a limit is kept: what the run releases if none of its rounds is tried twice. It
                then counts as :func:`privet.privacy.filters.counted` says.
        """
        seen: list[AnyRelease] = []
        runs = self.runs() if runs is None else runs
        several = _several(runs)
        for ledger in runs.values():
            if ledger.releases and (ledger.unit, ledger.relation) != (self.policy.unit, self.policy.relation):
                return float("inf")
            releases = ledger.releases if planned is None or several else counted(ledger.releases, planned)
            seen += ledger.trust.seen_by(ledger.trust.worst, releases)
        if any(isinstance(each, NoGuarantee) for each in seen):
            return float("inf")
        policy = self.policy
        if several:
            return adaptive(seen, policy.delta, policy.relation, policy.max_epsilon or UNLIMITED)
        return headline(seen, policy.delta, policy.relation) if seen else 0.0

    def open(self, run: str, resolved: Resolved) -> RunAccount:
        """The account of one run, new or gone on with; nothing is charged yet.

        Raises:
            SealingRefused: if the run's guarantee is of another kind than this site's ledger or than what was charged
                under its name, or what it plans would exceed the site's epsilon.
        """
        policy, asked = self.policy, resolved.ledger()
        planned = [*void(resolved), *resolved.planned()]
        if policy.max_epsilon is not None:
            reasons = [release.reason for release in planned if isinstance(release, NoGuarantee)]
            if reasons:
                raise SealingRefused(
                    "policy-epsilon",
                    f"the run has no finite epsilon ({reasons[0]}); this site allows {policy.max_epsilon}",
                )
            if (asked.unit, asked.relation) != (policy.unit, policy.relation):
                raise SealingRefused(
                    "policy-unit",
                    f"the run accounts for unit {asked.unit}, {asked.relation}; this site's ledger for "
                    f"{policy.unit}, {policy.relation}",
                )
        account = RunAccount(self, checked_name(run), resolved)
        runs = self.runs()
        before = runs.get(run, asked)
        if (before.trust, before.unit, before.relation) != (asked.trust, asked.unit, asked.relation):
            raise SealingRefused(
                "policy-other-run", "releases of a run of this name were charged under another trust model"
            )
        done = account.charged(runs)
        left = [(release, count_of(release) - done[kind_of(release)]) for release in planned]
        missing = [times(release, count) for release, count in left if count > 0]
        if not account.affords(runs, missing):
            spent, then = self.epsilon(runs), self.epsilon(account.after(runs, missing), planned)
            raise SealingRefused(
                "policy-epsilon",
                f"epsilon {_said(spent)} is spent and the run would take it to {_said(then)}; this site allows "
                f"{policy.max_epsilon}",
            )
        return account

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps the jobs of this site from charging at the same time; a kill releases the lock."""
        path = self.store.directory / LOCK
        descriptor = os.open(path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def write(self, runs: Runs) -> None:
        """Replace the file; when this returns it has reached the disk."""
        document = {"schema": 1, "runs": {name: ledger.to_json() for name, ledger in runs.items()}}
        self.store.write(ENTRY, json.dumps(document, indent=1).encode())

    def witness(self, run: str, charged: int) -> None:
        """Write down beside a run's secrets how often it was charged; the ledger is on the disk before."""
        if self.folder is not None:
            SecretStore(self.folder / run).write(WITNESS, charged.to_bytes(8, "big"))

    def summary(self) -> dict[str, Any]:
        """What was used so far, for the people at the site: each epsilon for this site's delta, unit and relation."""
        runs, policy = self.runs(), self.policy
        spent = self.epsilon(runs)
        return {
            "epsilon": _finite(spent),
            "allowed": policy.max_epsilon,
            "delta": policy.delta * (2 if _several(runs) else 1),
            "unit": policy.unit,
            "relation": policy.relation,
            "runs": {name: _finite(self.epsilon({name: ledger})) for name, ledger in runs.items()},
        }


def _count(ledger: Ledger | None) -> int:
    return sum(count_of(each) for each in ledger.releases) if ledger else 0


def _several(runs: Runs) -> bool:
    return sum(bool(ledger.releases) for ledger in runs.values()) > 1


def _said(value: float) -> str:
    return rounded_up(value) if math.isfinite(value) else "infinity"


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def void(resolved: Resolved) -> list[NoGuarantee]:
    """What a site charges beside a run that promises nothing, whatever noise it adds."""
    reason = resolved.config.void
    return [] if reason is None else [NoGuarantee("the whole run", reason)]


def times(release: AnyRelease, count: int) -> AnyRelease:
    """The release ``count`` times; what has no guarantee counts once."""
    return release if isinstance(release, NoGuarantee) else release.times(count)


@dataclass
class RunAccount:
    """One run's part of a site's ledger, and the guard that a client asks before it answers a round.

    Attributes:
        site: The whole ledger.
        run: Name of the run.
        resolved: What runs, as this site resolved it.
    """

    site: SiteLedger
    run: str
    resolved: Resolved
    _known: dict[frozenset[str], Counter[AnyRelease]] = field(default_factory=dict)

    def charged(self, runs: Runs, more: Sequence[AnyRelease] = ()) -> Counter[AnyRelease]:
        """Releases of this run so far and ``more`` of them, by kind: a name says nothing of a release's noise."""
        counts: Counter[AnyRelease] = Counter()
        for each in (*(runs[self.run].releases if self.run in runs else ()), *more):
            counts[kind_of(each)] += count_of(each)
        return counts

    def after(self, runs: Runs, more: Sequence[AnyRelease]) -> dict[str, Ledger]:
        """The ledgers with ``more`` releases of this run."""
        ledger = self.resolved.ledger()
        before = runs[self.run].releases if self.run in runs else ()
        for each in (*void(self.resolved), *before, *more):
            ledger.charge(each)
        return {**runs, self.run: ledger}

    def affords(self, runs: Runs, more: Sequence[AnyRelease]) -> bool:
        """Whether ``more`` releases keep to the site's epsilon; what was found affordable is remembered."""
        limit = self.site.policy.max_epsilon
        if limit is None or not more:
            return True
        # Releases of other runs that are charged meanwhile make the answer another one.
        others = frozenset(f"{name} {ledger.to_json()}" for name, ledger in runs.items() if name != self.run)
        wanted = self.charged(runs, more)
        if not wanted <= self._known.get(others, Counter()):
            if self.site.epsilon(self.after(runs, more), self.resolved.planned()) > limit:
                return False
            self._known[others] = wanted
        return True

    def admit(self, due: RoundId) -> None:
        """Charge a new answer to one attempt at a round.

        Raises:
            SealingRefused: if there were too many attempts, or the site's epsilon would be exceeded.
        """
        policy, release = self.site.policy, self.resolved.system.at(due.number).release
        if due.attempt >= policy.max_attempts:
            asked = f"attempt {due.attempt + 1} at round {due.number}"
            raise SealingRefused("policy-attempts", f"{asked}; this site answers {policy.max_attempts}")
        with self.site.alone():
            runs = self.site.runs()
            if not self.affords(runs, [release]):
                what = f"one more release would exceed epsilon {policy.max_epsilon}"
                raise SealingRefused("policy-epsilon", what)
            after = self.after(runs, [release])
            self.site.write(after)
            self.site.witness(self.run, _count(after[self.run]))
