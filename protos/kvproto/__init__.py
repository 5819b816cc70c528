"""The wire contract of kvserver: generated message and stub modules, owned by neither side."""
