"""One module per bundled model; each runs as `python -m train.recipes.NAME --data DATA --out DIR`."""
