"""The façade: front (HTTP), middle (tasks), back (models and servers). Imports run front -> middle -> back."""
