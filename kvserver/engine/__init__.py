"""The database: open, recover, write, read, close."""
