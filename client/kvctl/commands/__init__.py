"""The commands of kvctl, a file for each group; only ``wal`` knows the server's code."""
