"""Existing conversations come along: what other programs kept, read as it is, and written to sessions here."""
