"""The parts of the benchmark, each with its loads and its tables."""
