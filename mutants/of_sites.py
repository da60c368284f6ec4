"""Bugs at a site that no one process would have: whom it believes, what it takes part in, what it runs."""

from __future__ import annotations

from mutants.mutant import Mutant, mutant
from mutants.tests_that_notice import (
    ADAPTIVE_RUNS,
    ALTERED,
    CUSTOM,
    DEAF,
    FOREIGN_JOB,
    NO_FILE_READ,
    NO_FILE_WRITTEN,
    ONE_AGREEMENT,
    ONE_NAME,
    ONE_REVISION,
    OVER_POLICY,
    REPLAYED,
    SAME_BATCH,
    STARTS,
    UNPACKED,
    UPLOADED,
)

SITE_MUTANTS: tuple[Mutant, ...] = (
    mutant(
        "a site takes part in a run over its policy",
        ("engines/party.py", "    if broken:", "    if False:"),
        tests=(OVER_POLICY,),
    ),
    mutant(
        "signatures of envelopes not checked",
        (
            "sealing/envelope.py",
            "    if not verify(key,",
            "    if False and not verify(key,",
        ),
        tests=(ALTERED, REPLAYED),
    ),
    mutant(
        "old questions answered again",
        ("engines/party.py", "        if now < latest:", "        if False:"),
        tests=(REPLAYED,),
    ),
    mutant(
        "an answer that was charged in one run given in another of its name",
        ("engines/party.py", "known != agreed.encode():", "False:"),
        tests=(ONE_NAME,),
    ),
    mutant(
        "an answer begun as often as a server likes for one charge",
        ("client.py", "        if starts != 1 or not batches:", "        if not starts:"),
        tests=(STARTS,),
    ),
    mutant(
        "another batch at the start that costs nothing",
        (
            "client.py",
            "RoundRandomness(self.keys, round_id, batches)",
            "RoundRandomness(self.keys, round_id)",
        ),
        tests=(SAME_BATCH,),
    ),
    mutant(
        "the batch of a charged answer drawn once for all",
        ("client.py", 'batches = self.keys.draw("batches", round_id)', 'batches = b"b" * 32'),
        tests=(SAME_BATCH,),
    ),
    mutant(
        "only the first start of an answer counted",
        (
            "client.py",
            "        self.store.put(_CHARGED, mark + (starts + 1)",
            "        if not starts:\n            self.store.put(_CHARGED, mark + (1)",
        ),
        tests=(STARTS,),
    ),
    mutant(
        "masks not bound to the run's configuration",
        ("federation.py", 'f"{self.run}/{self.agreement}"', "self.run"),
        tests=(ONE_AGREEMENT,),
    ),
    mutant(
        "a site runs a job that brings its own code",
        ("engines/flare/job.py", "    if found != {CONFIG,", "    if False and found != {CONFIG,"),
        tests=(FOREIGN_JOB,),
    ),
    mutant(
        "a job unpacked before its contents are read",
        ("engines/flare/site.py", "return packed_fault(request.body)", 'return ""'),
        tests=(UNPACKED,),
    ),
    mutant(
        "a folder of a job's where Python looks for modules",
        ("engines/flare/site.py", '    Workspace.get_app_custom_dir = lambda self, job_id: ""\n', ""),
        tests=(CUSTOM,),
    ),
    mutant(
        "runs that follow from each other added up as if fixed before",
        ("site_ledger.py", "        if _several(runs):\n", "        if False:\n"),
        tests=(ADAPTIVE_RUNS,),
    ),
    mutant(
        "messages of FLARE's read files",
        ("engines/flare/guarded.py", "    DatumManager.add_datum = _add_bytes_only\n", ""),
        tests=(NO_FILE_READ,),
    ),
    mutant(
        "files uploaded to the server by anybody",
        ("engines/flare/guarded.py", "        if stream and not", "        if False and stream and not"),
        tests=(UPLOADED,),
    ),
    mutant(
        "messages of FLARE's write files",
        ("engines/flare/guarded.py", "    lobs.get_datum_dir = _no_file\n", ""),
        tests=(NO_FILE_WRITTEN,),
    ),
    mutant(
        "another revision of an approved model loaded",
        (
            "engines/party.py",
            "(asked.model.name, asked.model.revision) not in known",
            "asked.model.name not in dict(known)",
        ),
        tests=(ONE_REVISION,),
    ),
    mutant(
        "FLARE's network agent answers requests at a site",
        ("engines/flare/guarded.py", "    NetAgent.__init__ = _listening_to_nobody(NetAgent.__init__)\n", ""),
        tests=(DEAF,),
    ),
)
