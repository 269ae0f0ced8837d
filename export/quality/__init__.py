"""How far a variant is from fp32: the texts, the answers to them, and the card."""
