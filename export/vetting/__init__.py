"""Ready-made artifacts: looked at, then run once within limits; `artifact` is the way in."""
