"""The routes, a file per subject; `ENDPOINTS` is all of them."""

from __future__ import annotations

from api.front.endpoint import Endpoint
from api.front.routes import deployments, inference, models, openai, operations, pages, tasks, uploads

ENDPOINTS: tuple[Endpoint, ...] = (
    *inference.ENDPOINTS,
    *openai.ENDPOINTS,
    *models.ENDPOINTS,
    *uploads.ENDPOINTS,
    *deployments.ENDPOINTS,
    *tasks.ENDPOINTS,
    *operations.ENDPOINTS,
    *pages.ENDPOINTS,
)
