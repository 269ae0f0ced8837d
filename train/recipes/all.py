"""All bundled models, in the order in which they build on each other.

`python -m train.recipes.all --data DATA --out models`
"""

from train.recipes import mini_lm, mini_nli, mini_nlu, mini_sentiment
from train.recipes.command import arguments, execute

RECIPES = (mini_lm.RECIPE, mini_nlu.RECIPE, mini_sentiment.RECIPE, mini_nli.RECIPE)


def main() -> None:
    """Run every recipe into its own folder under `--out`."""
    chosen = arguments(__doc__, "the folder that holds one folder per model").parse_args()
    for recipe in RECIPES:
        execute(recipe, chosen.data, chosen.out / recipe.name, chosen.card_only, chosen.threads)


if __name__ == "__main__":
    main()
