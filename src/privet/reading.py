"""How a run reads a site's rows: which become records, and what each says. A site's operator approves it beforehand.

What a server may choose freely it may choose again and again, and each answer of a site, be it only that it takes part,
tells something of the rows that no ledger counts. So all of the ``data`` section that matters at a site has a
fingerprint, and a site takes part only in runs whose fingerprint stands in its own policy file.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import yaml

from privet.data_config import DataConfig, HuggingFaceData, SentimentData
from privet.plain import plain
from privet.sealing.base import SealingRefused
from privet.site_policy import SitePolicy
from privet.templates import required_columns

_NOT_OF_THE_SERVER = frozenset(
    {"path", "test_path", "public_path", "test_public", "partition", "remove_near_duplicates"}
)


@dataclass(frozen=True)
class Reading:
    """The part of a run's ``data`` section that a site follows.

    Attributes:
        section: Kind, template with its columns and verbalisers, longest record, and what is held out.
        columns: Columns of the site's file that are read.
    """

    section: Mapping[str, Any]
    columns: tuple[str, ...]

    @classmethod
    def of(cls, data: DataConfig) -> Reading:
        """What a site follows of a run's ``data`` section.

        Raises:
            SealingRefused: if such data cannot lie in a site's file, or one record would decide about another.
        """
        if isinstance(data, SentimentData | HuggingFaceData):
            raise SealingRefused(
                "data-kind",
                f"data of kind {data.kind} cannot lie in a site's file; jsonl, csv and parquet can",
            )
        if data.remove_near_duplicates:
            raise SealingRefused(
                "near-duplicates",
                "data.remove_near_duplicates: one record would bring others in or keep them out, which no epsilon "
                "covers; a site removes them from its file beforehand",
            )
        section = data.model_dump(mode="json", exclude=set(_NOT_OF_THE_SERVER))
        # Codecs are fitted on what is public without noise: no server declares a share of a site's records so.
        section["split"]["public"] = 0.0
        group = data.split.group
        columns = required_columns(data.template) | ({group} if group is not None else set())
        return cls(section, tuple(sorted(columns)))

    @property
    def fingerprint(self) -> str:
        """SHA-256 over the section as canonical JSON, in hex."""
        text = json.dumps(self.section, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
        return hashlib.sha256(b"privet reading 1\0" + text.encode()).hexdigest()

    def lines(self) -> list[str]:
        """For the people at the site, who have to see each character of what a server may have written."""
        text = yaml.safe_dump(dict(self.section), sort_keys=False, allow_unicode=True)
        return [
            "columns that are read: " + ", ".join(map(plain, self.columns)),
            *map(plain, text.strip().splitlines()),
            f"fingerprint {self.fingerprint}",
        ]

    def check(self, policy: SitePolicy) -> None:
        """Refuse what the site has not approved.

        Raises:
            SealingRefused: with the fingerprint, for the people at the site.
        """
        if self.fingerprint not in policy.readings:
            approved = ", ".join(each[:12] for each in policy.readings) or "none"
            raise SealingRefused(
                "policy-reading",
                f"how the run reads records was not approved at this site: columns {', '.join(self.columns)}, "
                f"fingerprint {self.fingerprint[:12]}; this site allows {approved}: privet site approve CONFIG",
            )
