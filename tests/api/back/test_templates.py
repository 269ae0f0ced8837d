"""Chat templates as transformers renders them, within bounds of time, memory and text."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from transformers.utils.chat_template_utils import render_jinja_template

from api.back.templates import TemplateFailed, Templates
from tests.api.conftest import Run

TALK = [
    {"role": "system", "content": "Be <b>brief</b>."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Ünï 🙂"},
]
# Of Llama 2, Zephyr and ChatML, shortened: filters, loop variables, whitespace control, exceptions, JSON.
TEMPLATES = [
    "{% for m in messages %}{{ '<|' + m['role'] + '|>\n' + m['content'] + eos_token + '\n' }}{% endfor %}",
    "{%- for m in messages %}\n    {%- if loop.first and m.role == 'system' %}\n<<SYS>>{{ m.content|trim }}\n"
    "    {%- endif %}\n    {% if m.role == 'user' %}[INST] {{ m.content }} [/INST]{% endif %}\n{%- endfor %}",
    "{% for m in messages %}{% if loop.index0 == 1 %}{% continue %}{% endif %}{{ m | tojson }}{% endfor %}",
    "{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}"
    "{% if add_generation_prompt %}{{ bos_token }}{% endif %}{{ missing }}",
    "{% macro say(m) %}{{ m.role.upper() }}: {{ m.content }}{% endmacro %}{{ say(messages[0]) }}",
]


@pytest.fixture(scope="module")
def rendered() -> Callable[[list[tuple[str, dict[str, Any]]]], list[Any]]:
    """Renders one after another, in one child process where it lives on."""

    def render(asked: list[tuple[str, dict[str, Any]]]) -> list[Any]:
        async def all_of_them() -> list[Any]:
            async with Templates.open() as templates:
                return [await outcome(templates, *item) for item in asked]

        return asyncio.run(all_of_them())

    async def outcome(templates: Templates, template: str, values: dict[str, Any]) -> Any:
        try:
            return await templates.render(template, values)
        except TemplateFailed as error:
            return error

    return render


def test_templates_are_rendered_as_transformers_does(rendered: Any) -> None:
    tokens = {"bos_token": "<s>", "eos_token": "</s>"}
    values = {"messages": TALK, "add_generation_prompt": True, **tokens}
    expected = [
        render_jinja_template([TALK], chat_template=template, add_generation_prompt=True, **tokens)[0][0]
        for template in TEMPLATES
    ]
    assert rendered([(template, values) for template in TEMPLATES]) == expected


@pytest.mark.parametrize(
    ("template", "said"),
    [
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{% for %}", "Expected an expression"),
        ("{{ messages.nothing.at_all }}", "has no attribute"),
        ("{{ 1 / 0 }}", "division by zero"),
        ("{{ [cycler()]|join }}", "at least one item"),  # RuntimeError
        ("{{ 'a'|urlize(rel=1) }}", "has no attribute 'split'"),  # AttributeError
        ("{{ ''.__class__.__mro__ }}", "unsafe"),
        ("{{ messages.append(1) }}", "unsafe"),
        ("{{ self.__init__.__globals__ }}", "unsafe"),
        ("{% for i in range(10 ** 9) %}x{% endfor %}", "Range too big"),
        ("{{ 'x' * 2000000 }}", "2000000 characters, but at most 1000000"),
        ("{{ ('x' * 10 ** 9)[:5] }}", "memory"),
        ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "recursion"),
    ],
)
def test_what_a_template_may_not_do(rendered: Any, template: str, said: str) -> None:
    error, after = rendered([(template, {"messages": []}), ("{{ 1 + 1 }}", {})])
    assert isinstance(error, TemplateFailed)
    assert said in str(error)
    assert after == "2"


def test_an_endless_template_is_ended_and_the_next_one_is_rendered(rendered: Any) -> None:
    slow = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    error, after = rendered([(slow, {}), ("{{ 1 + 1 }}", {})])
    assert "takes more than 1 s" in str(error)
    assert after == "2"


def test_a_caller_who_leaves_takes_no_answer_of_another(run: Run) -> None:
    async def test() -> None:
        async with Templates.open() as templates:
            first = asyncio.create_task(templates.render("first", {}))
            await asyncio.sleep(0)
            first.cancel()
            assert await templates.render("second", {}) == "second"

    run(test)
