"""One module per bundled model; run it as `python -m train.recipes.NAME --data DATA --out DIR`."""
