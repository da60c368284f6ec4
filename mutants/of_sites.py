"""Bugs at a site that no one process would have: whom it believes, what it takes part in, what it runs."""

from __future__ import annotations

from mutants.mutant import Mutant, mutant
from mutants.tests_that_notice import (
    ADAPTIVE_RUNS,
    ADMITTED,
    ALTERED,
    ASKED,
    CUSTOM,
    DEAF,
    FOREIGN_JOB,
    LOST_LEDGER,
    NO_EVENT,
    NO_FILE_READ,
    NO_FILE_WRITTEN,
    NO_OBJECT,
    NO_TASK,
    ONE_AGREEMENT,
    ONE_NAME,
    ONE_QUESTION,
    ONE_REVISION,
    OVER_POLICY,
    PUT_BACK,
    PUT_BACK_AT_SERVER,
    REPLAYED,
    SAME_BATCH,
    SIGNED_JOB,
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
        "a ledger that was lost taken for an empty one",
        (
            "site_ledger.py",
            "            if _count(found.get(name)) < count:",
            "            if False:",
        ),
        tests=(LOST_LEDGER,),
    ),
    mutant(
        "a run ended by a ledger that was put back",
        ("checkpoint.py", "    if opened > (-1 if done is None else done):", "    if False:"),
        tests=(PUT_BACK,),
    ),
    mutant(
        "a server that was put back is told that sites are missing",
        ("engines/serving.py", 'if (op, reason) == (JOIN, f"refused: {REPLAYED}"):', "if False:"),
        tests=(PUT_BACK_AT_SERVER,),
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
        ("site_ledger.py", "        if several:\n", "        if False:\n"),
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
    mutant(
        "the server does not ask whose message it is",
        (
            "engines/flare/guarded.py",
            "    FederatedServer._validate_auth_headers = only_admitted(FederatedServer._validate_auth_headers)\n",
            "",
        ),
        tests=(ASKED,),
    ),
    mutant(
        "messages in another's name taken in at the server",
        (
            "engines/flare/admitted.py",
            "if not _within(facts.get(MessageHeaderKey.ORIGIN), sender):",
            "if False:",
        ),
        tests=(ADMITTED,),
    ),
    mutant(
        "messages with another's token taken in at the server",
        ("engines/flare/admitted.py", "name is not None and name != FQCN.get_root(sender)", "False"),
        tests=(ADMITTED,),
    ),
    mutant(
        "sites' messages for each other passed on",
        (
            "engines/flare/admitted.py",
            "if not _within(facts.get(MessageHeaderKey.DESTINATION), FQCN.ROOT_SERVER):",
            "if False:",
        ),
        tests=(ADMITTED,),
    ),
    mutant(
        "messages of any kind taken in at the server",
        (
            "engines/flare/admitted.py",
            '    return f"no such request here: {str((channel, topic))[:80]}"',
            '    return ""',
        ),
        tests=(ADMITTED,),
    ),
    mutant(
        "events fired at a message's word",
        ("engines/flare/guarded.py", "    FedEventRunner._receive = no_such_topic\n", ""),
        tests=(NO_EVENT,),
    ),
    mutant(
        "questions answered that a job at a site did not fetch",
        ("engines/flare/site.py", "    ClientRunner._handle_do_task = no_such_topic\n", ""),
        tests=(NO_TASK,),
    ),
    mutant(
        "arrays and ciphertexts made of what a message holds",
        ("engines/flare/guarded.py", "            if kind not in READ:", "            if False:"),
        tests=(NO_OBJECT,),
    ),
    mutant(
        "a job that another site signed runs at a site",
        (
            "engines/flare/site.py",
            "staticmethod(signed_by_an_operator(authorize_app_info))",
            "staticmethod(authorize_app_info)",
        ),
        tests=(SIGNED_JOB,),
    ),
    mutant(
        "two questions at a time on a worker's pipes",
        (
            "engines/worker.py",
            "        with self._one_question:\n            return",
            "        if True:\n            return",
        ),
        tests=(ONE_QUESTION,),
    ),
)
