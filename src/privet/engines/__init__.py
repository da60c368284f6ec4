"""Engines carry messages between a server's generator and clients' handlers; the algorithm knows none of them."""
