"""Sealed segments, compressed and kept elsewhere: format, stores, catalogue, retention. Empty until the log is archived."""
