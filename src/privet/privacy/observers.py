"""Who sees what of the noise: the server, one participant, several who collude, the public.

Noise that is put together from shares protects against an observer only as far as the observer does not know
the shares. A share has variance (sigma Delta)^2 / ``floor``, so ``floor`` unknown shares are exactly sigma.
What may be promised is decided before the run, by the survivors demanded and the colluders assumed; who
happened to survive is a diagnostic.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from privet.errors import PrivetError
from privet.privacy.events import AnyRelease, NoGuarantee


@dataclass(frozen=True)
class Observer:
    """Somebody who sees every opened sum.

    Attributes:
        name: Name in tables and JSON.
        description: What the observer sees and knows.
        known_shares: Noise shares that do not protect against this observer: known to it, or left out.
        inside: Whether the trust model promises anything against this observer.
        with_server: Whether the server is one of them, so that single contributions pass by, sealed.
    """

    name: str
    description: str
    known_shares: int
    inside: bool
    with_server: bool = False


@dataclass(frozen=True)
class TrustModel:
    """What is assumed about the parties before the run.

    Attributes:
        parties: Enrolled participants.
        min_survivors: Contributions demanded before a sum is opened.
        colluders: Participants who may tell an observer their shares, or leave them out.
        floor: Unknown shares that make up sigma; by default ``min_survivors - colluders``.
        noise: ``shares`` of one noise, or ``local``: each participant adds all of sigma to what is its own,
            and other participants' noise is not counted.
        openers: Participants who, pooling with the server, can open one contribution by itself; 0 if no number of
            them can. A contribution holds one share of the noise, so that is all that counts against them.
    """

    parties: int
    min_survivors: int
    colluders: int = 0
    floor: int = 0
    noise: Literal["shares", "local"] = "shares"
    openers: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.min_survivors <= self.parties:
            raise _refusal("min_survivors", self.min_survivors, f"1 to {self.parties}, the enrolled parties")
        if not 0 <= self.colluders < self.min_survivors:
            raise _refusal(
                "colluders", self.colluders, f"0 to {self.min_survivors - 1}: one share must be honest"
            )
        honest = self.min_survivors - self.colluders
        object.__setattr__(self, "floor", self.floor or honest)
        if not 1 <= self.floor <= honest:
            raise _refusal("floor", self.floor, f"1 to {honest}: survivors demanded minus colluders assumed")
        if self.openers < 0:
            raise _refusal("openers", self.openers, "at least 0")

    @classmethod
    def local(cls, parties: int = 1) -> TrustModel:
        """Each of the participants adds all of its noise itself, so all observers see the same."""
        return cls(parties, parties, noise="local")

    def observers(self, colluding: int | None = None) -> tuple[Observer, ...]:
        """The observers to report on.

        Args:
            colluding: Size of a coalition to show besides, inside the trust model or not; the assumed
                colluders if they are several, else 2 (where that leaves any other participant).
        """
        c = self.colluders
        helped = f" with {c} colluding participant{'s' if c > 1 else ''}" if c else ""
        seen = "every opened sum and all messages"
        rows = [Observer("server", f"the server{helped}: {seen}{self._opened(c)}", c, True, with_server=True)]
        if self.parties > 1:
            others = f" and {c - 1} more who collude" if c > 1 else ""
            own = "" if self.noise == "local" else ", who takes off its own noise"
            rows.append(Observer("participant", f"a participant{others}{own}", max(c, 1), True))
        k = max(c, 2) if colluding is None else colluding
        if 2 <= k < self.parties:
            pooling = f"{k} participants and the server pooling all they know{self._opened(k)}"
            # Where each adds all of its own noise, no coalition of others takes any of it off.
            inside = k <= c or self.noise == "local"
            rows.append(Observer("colluders", pooling, max(k, c), inside, with_server=True))
        omitted = f", if {c} participant{'s' if c > 1 else ''} left the noise out" if c else ""
        rows.append(Observer("public", f"whoever gets the adapter of any round{omitted}", c, True))
        return tuple(rows)

    def observer(self, name: str) -> Observer:
        """The observer of that name.

        Raises:
            PrivetError: if the run has no such observer.
        """
        for observer in self.observers():
            if observer.name == name:
                return observer
        names = ", ".join(o.name for o in self.observers())
        raise PrivetError("no such observer in this run", field="observer", given=name, allowed=names)

    def factor(self, observer: Observer, survivors: int | None = None) -> float:
        """Standard deviation of the noise that ``observer`` does not know, over sigma.

        Args:
            observer: Who looks.
            survivors: Shares in the sum; the number demanded when absent, which is what may be promised.
        """
        if self.noise == "local":
            return 1.0
        unknown = (self.min_survivors if survivors is None else survivors) - observer.known_shares
        if observer.with_server and self._open_singly(observer.known_shares):
            unknown = min(unknown, 1)
        return math.sqrt(max(unknown, 0) / self.floor)

    @property
    def counts_single_contributions(self) -> bool:
        """Whether the guarantee covers each contribution by itself, so that one that was sent is a release already.

        Where noise is whole in each of them nothing is assumed of whoever sees it, and where the assumed colluders can
        open it with the server they need no sum.
        """
        return self.noise == "local" or self._open_singly(self.colluders)

    def _open_singly(self, participants: int) -> bool:
        """Whether so many participants and the server can open one contribution by itself."""
        return self.noise == "shares" and 0 < self.openers <= participants

    def _opened(self, participants: int) -> str:
        return ", which opens single contributions" if self._open_singly(participants) else ""

    def promised(self, observer: Observer) -> float:
        """As :meth:`factor`, at most 1: the guarantee never counts more shares than the declared floor."""
        return min(1.0, self.factor(observer))

    @property
    def worst(self) -> Observer:
        """The observer inside the trust model who sees least noise; a target epsilon means this one."""
        return min((o for o in self.observers() if o.inside), key=self.promised)

    def seen_by(self, observer: Observer, releases: Sequence[AnyRelease]) -> list[AnyRelease]:
        """The releases with the noise that may be promised against ``observer``."""
        return scaled(releases, self.promised(observer))

    def describe(self) -> str:
        """The trust model in words, for reports."""
        if self.noise == "local":
            return (
                "Each participant adds all of its noise itself before anything leaves it, so nothing is "
                "assumed of the others or of the server; the noise of other participants is not counted."
            )
        alone = (
            f" The server and {self.openers} or more of them could open a contribution by itself, where one share "
            "of the noise is all that protects; that is accounted for."
            if self._open_singly(self.colluders)
            else ""
        )
        return (
            "All parties follow the protocol but may look (honest but curious). A sum is opened only if at "
            f"least {self.min_survivors} of {self.parties} participants contributed to it. At most "
            f"{self.colluders} of them tell others their noise share or leave it out; {self.floor} honest "
            f"shares make up the accounted noise.{alone}"
        )

    def to_json(self) -> dict[str, Any]:
        """The fields, for JSON."""
        return asdict(self)


def scaled(releases: Sequence[AnyRelease], factor: float) -> list[AnyRelease]:
    """The releases with ``factor`` times their noise; without noise there is no guarantee."""
    if factor == 0:
        reason = "this observer knows every share of the noise"
        return [r if isinstance(r, NoGuarantee) else NoGuarantee(r.name, reason) for r in releases]
    return [r if isinstance(r, NoGuarantee) else r.scaled(factor) for r in releases]


def _refusal(field: str, given: object, allowed: str) -> PrivetError:
    return PrivetError(
        "the trust model does not add up", field=f"privacy.trust.{field}", given=given, allowed=allowed
    )
