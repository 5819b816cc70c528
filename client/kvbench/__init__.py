"""The benchmark's place in the distribution: the command and its workloads arrive with a later release.

Until then the figures come from ``scripts/bench``, which runs from a checkout with ``make bench``.
"""
