"""What API keys used, and the audit log."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from api.caller import Scope
from api.front.calls import caller, json_answer, service
from api.front.endpoint import Endpoint
from api.front.schemas.access import AuditFilter, AuditList, AuditView, UsageFilter, UsageList, UsageView

TAG = "Access"


async def usage(request: Request, wanted: UsageFilter) -> Response:
    rows = await service(request).accounts.usage(
        caller(request),
        days=wanted.days,
        key=wanted.key,
        model=wanted.model,
        limit=wanted.limit + 1,
        offset=wanted.offset,
    )
    page = [UsageView.of(row) for row in rows[: wanted.limit]]
    return json_answer(UsageList(data=page, has_more=len(rows) > wanted.limit))


async def audit(request: Request, wanted: AuditFilter) -> Response:
    rows = await service(request).accounts.changes(limit=wanted.limit + 1, before=wanted.before)
    page = [AuditView.of(row) for row in rows[: wanted.limit]]
    return json_answer(AuditList(data=page, has_more=len(rows) > wanted.limit))


ENDPOINTS = (
    Endpoint(
        "GET",
        "/v1/usage",
        usage,
        "Requests and tokens by key, model and day: your own, or all for an admin",
        TAG,
        scope=None,
        query=UsageFilter,
        answers={200: UsageList},
    ),
    Endpoint(
        "GET",
        "/v1/audit",
        audit,
        "List who changed what, newest first",
        TAG,
        scope=Scope.ADMIN,
        query=AuditFilter,
        answers={200: AuditList},
    ),
)
