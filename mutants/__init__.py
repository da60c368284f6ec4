"""Builds with a planted bug, each of which named tests must catch: ``python -m mutants``.

A mutant is a change of a few words in a copy of ``src`` that comes first on the path. The tests named with it pass on
the code as it is, and each of them fails on the mutant. What the tests do not look at, no mutant can show.
"""
