"""The limits within which a variant may differ from fp32; one beyond them is deployed only with `force`."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.contract import Kind, Variant
from runtime.manifest import Manifest


@dataclass(frozen=True, slots=True)
class QualityGate:
    """Limits on the figures of a quality card; each is a share: 0.01 is one percent."""

    perplexity_change: float = 0.005  # at most, of a language model
    top1_agreement: float = 0.97  # at least, of a language model
    label_agreement: float = 0.99  # at least, of the labels and the slots of a head

    def excess(self, manifest: Manifest, variant: Variant) -> list[str]:
        """The figures of the variant's card beyond a limit, each with its limit; none for fp32."""
        if variant is Variant.FP32:
            return []
        card = manifest.variants[variant].quality
        if card is None:
            return ["it has no quality card: nobody knows how far it is from fp32"]
        limits = {
            "perplexity_change": (self.perplexity_change, 1),
            "top1_agreement": (self.top1_agreement, -1),
            "label_agreement": (self.label_agreement, -1),
            "slot_agreement": (self.label_agreement, -1),
        }
        missing = [f"{name} is not in its quality card" for name in _needed(manifest) if name not in card]
        return missing + [
            f"{name} {card[name]:.4g}, {'at most' if sign > 0 else 'at least'} {limit:g}"
            for name, (limit, sign) in limits.items()
            # Not a number (NaN) is beyond every limit.
            if name in card and not sign * card[name] <= sign * limit
        ]


def _needed(manifest: Manifest) -> list[str]:
    """The figures that a card must have; a regression has no labels to agree on, and no limits."""
    if manifest.kind is Kind.LM:
        return ["perplexity_change", "top1_agreement"]
    names = ["label_agreement"] if manifest.labels and manifest.problem_type != "regression" else []
    return names + (["slot_agreement"] if manifest.kind is Kind.NLU else [])
