"""Files: written whole or not at all, nobody else's touched, checked when read."""
