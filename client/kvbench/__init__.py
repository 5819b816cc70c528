"""kvbench, the benchmark of kvserver: it measures a node through the client that users have, and says on what it measured."""
