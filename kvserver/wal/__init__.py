"""The log: frame and segment format, writer, group commit, reader, recovery."""
