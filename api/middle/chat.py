"""Conversations with a language model: its chat template makes the prompt, and task `generate` answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from api.back.cluster.manager import ClusterManager
from api.back.cluster.records import Target
from api.back.templates import TemplateFailed, Templates
from api.config import PLAIN_TEMPLATE
from api.errors import InvalidInput
from runtime.contract import Kind
from runtime.manifest import CHAT_TEMPLATE

# Where an answer to PLAIN_TEMPLATE ends.
PLAIN_STOPS = ("\nUser:", "\nSystem:")


@dataclass(frozen=True, slots=True)
class Conversation:
    target: Target
    prompt: str
    stops: tuple[str, ...]  # that belong to the template


class Chat:
    """`default_template` is that of models which have none; empty: they take no conversations."""

    def __init__(self, cluster: ClusterManager, templates: Templates, default_template: str) -> None:
        self._cluster = cluster
        self._templates = templates
        self._default = default_template

    def template_of(self, model: str, version: int) -> str | None:
        """Of a deployed version; None: it has none."""
        for target in self._cluster.targets(model):
            if target.version == version:
                return self.template(target) or None
        return None

    def template(self, target: Target) -> str:
        """Of the target's version, else the default; empty: there is none."""
        return target.chat.get(CHAT_TEMPLATE, self._default)

    async def conversation(
        self, model: str | None, messages: Sequence[Mapping[str, Any]], *, add_generation_prompt: bool
    ) -> Conversation:
        """Raises InvalidInput, and what `ClusterManager.choose` raises."""
        target = self._cluster.choose(model, None, Kind.LM)
        template = self.template(target)
        if not template:
            raise InvalidInput.of("model", f"{target.model} has no chat template; use /v1/completions")
        values = {
            **{name: text for name, text in target.chat.items() if name != CHAT_TEMPLATE},
            "messages": messages,
            "add_generation_prompt": add_generation_prompt,
            "tools": None,
            "documents": None,
        }
        try:
            prompt = await self._templates.render(template, values)
        except TemplateFailed as error:
            raise InvalidInput.of("messages", f"the chat template of {target.model}: {error}") from None
        return Conversation(target, prompt, PLAIN_STOPS if template == PLAIN_TEMPLATE else ())
