"""Attacks on a run, each in a file that a reviewer can read, each with a positive control.

An attack reads what a run's own protocol sent and opened (`transcript.py` watches the engine and the seal,
nothing is computed beside them). It is run twice: where there is no protection, so that its success there shows
that it works (the positive control), and under the run's own system, sealing and noise. Where it fails even in
the clear, the result is *not applicable*, never *safe*. Whatever an audit trains is thrown away; nothing of it
can be exported.

    invert_tokens invert_aggregate invert_latent invert_sequence     tokens and texts out of messages, sums and codes
    mia_gradient mia_statistics mia_codec mia_model                  was this record (this client) in it?
    audit_canary audit_one_run                                       lower bounds on epsilon from one run
    poison_norm                                                      what a client that does not follow the rules can do
    suite                                                            all of them on one run: ``privet audit``
"""
