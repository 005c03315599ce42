"""Intervals, tests of differences, power."""
