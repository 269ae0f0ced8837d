"""The loss of rows of logits, some rows at a time, is torch's own, and so is its gradient."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from train import row_losses


@pytest.mark.parametrize("at_once", [1, 15, 1 << 19])
@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_cross_entropy_is_torchs(at_once: int, kind: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(row_losses.AT_ONCE, "cpu", at_once)
    logits = torch.randn(8, 5).to(kind).requires_grad_()
    targets, counted = torch.randint(5, (8,)), torch.arange(8) % 3 > 0
    found = 3 * row_losses.cross_entropy(logits, targets, counted)
    plain = 3 * F.cross_entropy(logits.float()[counted], targets[counted])
    assert found.item() == pytest.approx(plain.item(), rel=1e-6)
    own, wanted = (torch.autograd.grad(loss, logits)[0] for loss in (found, plain))
    assert own.dtype == kind
    assert torch.allclose(
        own.float(), wanted.float(), atol=1e-7, rtol=1e-6 if kind == torch.float32 else 0.02
    )
    with torch.no_grad():
        assert row_losses.cross_entropy(logits, targets, counted).item() * 3 == pytest.approx(found.item())
