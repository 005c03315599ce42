"""Tasks of a user's own: rows of a table, asked with a template."""
