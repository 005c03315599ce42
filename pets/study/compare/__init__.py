"""Comparisons: a grid of tasks, PETs and arms, run cell by cell into one table."""
