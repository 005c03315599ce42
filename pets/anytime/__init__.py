"""Answers before the last layer: a running cost's posterior as an early exit."""
