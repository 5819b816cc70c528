"""What ``make bench`` is made of: peers and ourselves under load, the figures that they give, and their tables and plots."""
