"""What is measured, and how: every figure of README, LOG.md and quality cards comes from a command here."""
