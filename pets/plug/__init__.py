"""The plug: a running cost in a model's own forward."""
