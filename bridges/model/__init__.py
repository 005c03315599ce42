"""What is asked of a language model: its shape, what its states predict, whose weights it has."""
