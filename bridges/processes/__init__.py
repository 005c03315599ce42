"""The bridges: one process a file, and what they are made of."""
