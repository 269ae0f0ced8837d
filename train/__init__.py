"""Training: the recipes behind the bundled checkpoints in `models/`, and the figures on their cards."""
