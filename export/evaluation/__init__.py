"""Evaluation: how far a variant's answers are from fp32's. The texts, the answers and the quality card."""
