"""Whether one more release keeps to a budget, whoever decides what is released next, and by what.

How often a round is tried may follow from what earlier rounds told: a server may want it so. Then releases of several
kinds cannot simply be added up and compared with the budget: the choice between a further release of one kind and
further ones of another would be paid by nobody. What is compared instead lies in a chain that was fixed before.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace

from privet.privacy.events import AnyRelease, NoGuarantee, Release


def kind_of(release: AnyRelease) -> AnyRelease:
    """All that one release costs, but for its distance from the Gaussian: without a model it is known less well."""
    return (
        release if isinstance(release, NoGuarantee) else replace(release, name="", count=1, delta_prime=0.0)
    )


def count_of(release: AnyRelease) -> int:
    """How many equal releases one is."""
    return 1 if isinstance(release, NoGuarantee) else release.count


def counted(charged: Sequence[AnyRelease], planned: Sequence[AnyRelease]) -> list[AnyRelease]:
    """What charged releases count as against a budget: the first set of a chain that holds them.

    The chain's sets are the beginnings of the plan, then the plan with one more release of every kind, two more, and so
    on. A budget allows the chain up to one set, which is fixed before anything was told, and everything that is
    released is part of that set. Draw all releases of the set independently, before; each release that happens, chosen
    by whatever was told, is one of them that was not used yet, and those that are left over cost nothing. So the
    epsilon of the set, by any accountant, covers the run (docs/privacy-ledger.md).

    One kind needs no chain: its counts are one. Nor do Gaussians on all units, which add up to a Gaussian however they
    were chosen.

    Args:
        charged: Releases so far and the one in question.
        planned: What the run releases if it goes to its end without a retry, in order; fixed before it begins.

    Returns:
        ``charged`` itself where it needs no chain; else the releases of the set.
    """
    noised = [each for each in (*charged, *planned) if isinstance(each, Release)]
    kinds: dict[AnyRelease, Release] = {kind_of(each): each for each in noised}
    if len(kinds) < 2 or all(each.sampling.everybody for each in noised):
        return list(charged)
    # The largest distance that any release of the kind has.
    for each in noised:
        if each.delta_prime > kinds[kind_of(each)].delta_prime:
            kinds[kind_of(each)] = each
    wanted, plan = _counts(charged), _counts(planned)
    over = max((count - plan[kind] for kind, count in wanted.items()), default=0)
    counts = {kind: plan[kind] + over for kind in kinds} if over > 0 else _beginning(wanted, planned)
    rest = [each for each in charged if isinstance(each, NoGuarantee)]
    return rest + [kinds[kind].times(count) for kind, count in counts.items()]


def _counts(releases: Sequence[AnyRelease]) -> Counter[AnyRelease]:
    counts: Counter[AnyRelease] = Counter()
    for each in releases:
        if isinstance(each, Release):
            counts[kind_of(each)] += each.count
    return counts


def _beginning(wanted: Counter[AnyRelease], planned: Sequence[AnyRelease]) -> Counter[AnyRelease]:
    """The shortest beginning of the plan that holds so many of each kind."""
    passed: Counter[AnyRelease] = Counter()
    shortest: Counter[AnyRelease] = Counter()
    for each in planned:
        if isinstance(each, NoGuarantee):
            continue
        kind = kind_of(each)
        if wanted[kind] > passed[kind]:
            shortest = passed.copy()
            shortest[kind] = min(wanted[kind], passed[kind] + each.count)
        passed[kind] += each.count
    return shortest


class CountFilter:
    """How often one release can be afforded beside fixed others; forgets when the others change."""

    def __init__(self) -> None:
        self._key: object = None
        self._affordable = 0
        self._too_many: int | None = None

    def allows(self, key: object, count: int, affordable: Callable[[int], bool]) -> bool:
        """Whether ``count`` releases are affordable; asks ``affordable`` O(log count) times in a run."""
        if key != self._key:
            self._key, self._affordable, self._too_many = key, 0, None
        while not (count <= self._affordable or (self._too_many is not None and count >= self._too_many)):
            if self._too_many is None:
                ask = max(count, 2 * self._affordable)
            else:
                ask = (self._affordable + self._too_many) // 2
            if affordable(ask):
                self._affordable = ask
            else:
                self._too_many = ask
        return count <= self._affordable
