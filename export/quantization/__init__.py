"""Weights changed so that the same function loses less when it is quantized."""
