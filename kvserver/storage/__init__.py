"""What the node holds in memory (and, later, in tables), readable at a revision."""
