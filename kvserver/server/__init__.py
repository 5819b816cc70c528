"""The process: configuration, the order of start and stop, logging, HTTP for probes and metrics, the entry point."""
