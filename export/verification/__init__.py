"""The fp32 graph beside models that share no code with it; `verify` is the way in."""
