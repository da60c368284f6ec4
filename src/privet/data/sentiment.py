"""The embedded data: rated sentences of tweets, film reviews, product reviews and editorials.

C. J. Hutto and E. Gilbert, "VADER: a parsimonious rule-based model for sentiment analysis of social media
text" (ICWSM 2014): every sentence carries the mean of twenty or so people's ratings between -4 and 4.
Sentences of product reviews and editorials carry the review's or article's number, which is their group.
"""

from __future__ import annotations

import html
from pathlib import Path

from privet.data.sources import Row
from privet.data_config import GROUPED_DOMAINS, Domain
from privet.fetch import SENTIMENT_FILES, SENTIMENT_LEXICON


def read_sentiment(folder: Path, domain: Domain) -> list[tuple[Row, str | None]]:
    """All sentences of a domain.

    Args:
        folder: What ``fetch.sentiment_dir`` returned.
        domain: Which file.

    Returns:
        For each sentence its row (columns ``text``, ``score`` in [-4, 4], ``label`` ``0`` or ``1``,
        ``domain``) and its group, which films and tweets do not have.
    """
    rows: list[tuple[Row, str | None]] = []
    lines = (folder / SENTIMENT_FILES[domain]).read_text(encoding="utf-8-sig").splitlines()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        identity, rating, text = line.split("\t", 2)
        score = float(rating)
        columns = {
            "text": " ".join(html.unescape(text).split()),
            "score": score,
            "label": "1" if score > 0 else "0",
            "domain": domain,
        }
        group = f"{domain}/{identity.split('_')[0]}" if domain in GROUPED_DOMAINS else None
        rows.append((Row(f"{domain}/{identity}", f"line {number}", columns), group))
    return rows


def read_lexicon(folder: Path) -> list[tuple[str, float]]:
    """The rated words that come with the sentences: each with its mean rating in [-4, 4], emoticons left out."""
    lines = (folder / SENTIMENT_LEXICON).read_text(encoding="utf-8", errors="replace").splitlines()
    words = [line.split("\t")[:2] for line in lines if line.strip()]
    return [(word, float(rating)) for word, rating in words if word.isalpha()]
