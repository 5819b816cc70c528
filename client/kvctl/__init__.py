"""kvctl, the command line of kvserver: reads and writes keys, loads and saves data, looks at nodes and their logs."""
