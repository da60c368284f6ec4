"""Near-duplicates by the Jaccard similarity of word shingles, found exactly.

Broder, "On the resemblance and containment of documents" (1997) for the similarity; Chaudhuri, Ganti and
Kaushik, "A primitive operator for similarity joins in data cleaning" (ICDE 2006) for the prefix filter that
makes it fast.

Removing a record because another one exists makes one person's presence change another's: it prepares data
*before* the neighbouring relation is defined, and the privacy guarantee does not cover it
(Debenedetti et al., "Privacy side channels in machine learning systems", arXiv 2309.05610).
"""

from __future__ import annotations

import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Sequence
from math import ceil

_WORD = re.compile(r"[a-z0-9']+|[^\W\d_]+")
_ADDRESS = re.compile(r"https?://\S+|www\.\S+|@\w+")


def normalise(text: str) -> str:
    """``text`` in lower case, without punctuation, addresses and user names; one space between words."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_WORD.findall(_ADDRESS.sub(" ", folded)))


def shingles(text: str, width: int = 3) -> frozenset[str]:
    """The runs of ``width`` words in normalised ``text``; all of it when it is shorter."""
    words = normalise(text).split()
    if len(words) <= width:
        return frozenset([" ".join(words)])
    return frozenset(" ".join(words[i : i + width]) for i in range(len(words) - width + 1))


def near_duplicates(texts: Sequence[str], similarity: float = 0.5, width: int = 3) -> list[int]:
    """Positions of texts that resemble an earlier text that is itself kept.

    Args:
        texts: Texts in order of precedence.
        similarity: Jaccard similarity of the shingle sets from which two texts count as near-duplicates.
        width: Words in a shingle.

    Returns:
        Positions to remove, ascending; the first text of every cluster stays.
    """
    sets = [shingles(text, width) for text in texts]
    frequency = Counter(shingle for one in sets for shingle in one)
    index: defaultdict[str, list[int]] = defaultdict(list)
    removed = []
    for position, one in enumerate(sets):
        # Two sets with the similarity share a member among the rarest |s| - ceil(similarity |s|) + 1 of each.
        rare = sorted(one, key=lambda shingle: (frequency[shingle], shingle))
        prefix = rare[: len(rare) - ceil(similarity * len(rare)) + 1]
        candidates = {kept for shingle in prefix for kept in index[shingle]}
        if any(_jaccard(one, sets[kept]) >= similarity for kept in candidates):
            removed.append(position)
            continue
        for shingle in prefix:
            index[shingle].append(position)
    return removed


def _jaccard(a: frozenset[str], b: frozenset[str]) -> float:
    return len(a & b) / len(a | b)
