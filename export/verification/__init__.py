"""Verification: the fp32 graph against models that share no code with it; start at `verify`."""
