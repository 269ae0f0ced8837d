"""Validation of a ready-made artifact: its files are checked, then run once within limits. See `artifact`."""
