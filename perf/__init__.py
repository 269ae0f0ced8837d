"""What is measured, and how: every figure of README, cards and LOG.md comes from a command here."""
