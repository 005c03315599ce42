"""Independent pieces of work, on this machine or on Ray."""
