"""Tuning one PET: settings, loop, selection, run folder."""
