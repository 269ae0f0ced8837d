"""The façade: front (HTTP), middle (tasks), back (models, servers). Imports run front -> middle -> back."""
