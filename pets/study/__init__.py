"""The honest comparison: running it, its statistics, its report."""
