"""The routes, a file per subject; `ENDPOINTS` is all of them."""

from __future__ import annotations

from api.front.endpoint import Endpoint
from api.front.routes import (
    access,
    batches,
    blobs,
    chat,
    deployments,
    files,
    inference,
    models,
    openai,
    operations,
    pages,
    tasks,
    uploads,
    vllm,
)

ENDPOINTS: tuple[Endpoint, ...] = (
    *inference.ENDPOINTS,
    *openai.ENDPOINTS,
    *chat.ENDPOINTS,
    *vllm.ENDPOINTS,
    *models.ENDPOINTS,
    *uploads.ENDPOINTS,
    *blobs.ENDPOINTS,
    *deployments.ENDPOINTS,
    *tasks.ENDPOINTS,
    *files.ENDPOINTS,
    *access.ENDPOINTS,
    *batches.ENDPOINTS,
    *operations.ENDPOINTS,
    *pages.ENDPOINTS,
)
