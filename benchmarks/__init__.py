"""Measurements: modules to run, ``python -m benchmarks.gpu``, and a suite, ``pytest benchmarks/``."""
