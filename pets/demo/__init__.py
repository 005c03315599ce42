"""The demo: a tiny language model of Python's docstrings."""
