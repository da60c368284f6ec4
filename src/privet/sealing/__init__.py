"""Sealing: nobody but its owner sees one contribution; only a sum is ever opened (``docs/trust.md``)."""
