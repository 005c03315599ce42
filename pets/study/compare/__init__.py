"""A whole comparison: its cells run into one table, step times and looks beside it."""
