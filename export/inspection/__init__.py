"""Inspection: what a file or folder holds, without running or changing it. One module for each kind."""
