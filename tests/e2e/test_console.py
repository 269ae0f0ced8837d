"""The console in a real browser: what a person does in it against a real appliance, and how it looks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import Browser, Page, expect

from bench.checkpoints import write_checkpoint
from tests.e2e.appliance import Appliance
from tests.e2e.browser import NARROW, SECONDS, Open, button, console_of, facade_with_keys, running_browser
from tests.e2e.pages import environment
from tests.e2e.test_healing import stub_of_mini_lm

# Of each view, what is there once it is drawn.
SHOWN = {
    "overview": "#servers table",
    "try/generate": "#generate",
    "try/classify": "#classify",
    "models": "#models table",
    "models/mini-lm": "#model .card",
    "tasks": "#tasks table",
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Ends with this file: Playwright's event loop would keep others from this thread."""
    with running_browser() as started:
        yield started


@pytest.fixture
def console(browser: Browser, appliance: Appliance) -> Iterator[Open]:
    with console_of(browser, appliance.url) as open_view:
        yield open_view


def code(page: Page, language: str) -> str:
    """What "As code" shows."""
    if not page.locator("#code").get_attribute("open"):
        page.locator("#code").evaluate("drawer => { drawer.open = true; }")
    button(page.locator("#code"), language).click()
    return page.locator("#code pre").inner_text()


def test_upload_to_delete(console: Open, appliance: Appliance, tmp_path: Path) -> None:
    write_checkpoint("gpt2", tmp_path / "my model", n_layer=1, n_embd=64, n_head=1, vocab_size=4096)
    page = console("models", refused=True)
    page.set_input_files("#choose-folder", tmp_path / "my model")
    upload = page.locator("#upload")
    expect(upload.get_by_label("Name")).to_have_value("my-model")
    upload.get_by_label("Name").fill("dragged")
    upload.get_by_label("Deploy it when it is converted").uncheck()
    button(upload, "Upload").click()
    page.get_by_role("link", name="dragged version 1").click()

    model = page.locator("#model")
    expect(model.get_by_role("row", name="Perplexity")).to_be_visible()
    expect(model.get_by_text("Not deployed.")).to_be_visible()
    button(model, "Deploy version 1 in fp32").click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("It gets 100 % of the model's traffic.")
    expect(dialog).to_contain_text("MiB of memory")
    dialog.get_by_label("Replicas").fill("2")
    button(dialog, "Deploy").click()
    expect(dialog.get_by_role("alert")).to_contain_text("1 server")
    dialog.get_by_label("Replicas").fill("1")
    button(dialog, "Deploy").click()

    weight = model.get_by_label("Traffic weight of version 1 fp32")
    weight.fill("40")
    button(model, "Set").click()
    appliance.wait_for(
        lambda: [each["traffic_weight"] for each in deployments(appliance, "dragged")] == [40], "the weight"
    )
    button(model, "Undeploy").click()
    button(dialog, "Undeploy").click()
    expect(model.get_by_text("Not deployed.")).to_be_visible()
    assert deployments(appliance, "dragged") == []
    button(model, "Delete model").click()
    button(dialog, "Delete").click()
    expect(page.get_by_role("heading", name="What is stored")).to_be_visible()
    expect(page.locator("#models")).not_to_contain_text("dragged")
    assert appliance.http.get("/v1/models/dragged").status_code == 404
    assert "curl -s -X DELETE" in code(page, "curl")


def deployments(appliance: Appliance, model: str) -> list[dict[str, Any]]:
    found = appliance.http.get("/v1/deployments").json()["data"]
    return [each for each in found if each["model"] == model]


DROP = """
(form) => {
  const transfer = new DataTransfer();
  transfer.items.add(new File(["no archive"], "Notes of mine.zip"));
  form.dispatchEvent(new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
}
"""


def test_a_dropped_file_that_is_no_archive(console: Open) -> None:
    page = console("models", refused=True)
    upload = page.locator("#upload")
    upload.evaluate(DROP)
    name = upload.get_by_label("Name")
    expect(name).to_have_value("notes-of-mine")
    name.fill("no name")
    button(upload, "Upload").click()
    expect(name).to_have_attribute("aria-invalid", "true")
    expect(upload.get_by_role("alert")).to_contain_text("'no-name' would")
    name.fill("notes")
    button(upload, "Upload").click()
    expect(upload.get_by_role("alert")).to_contain_text("archive")
    assert "-F 'file=@Notes of mine.zip'" in code(page, "curl")


PROMPT = """Lily's mom said: "It's a sunny day, café or not." So"""


def test_text_streams_and_its_code_gives_the_same(
    console: Open, appliance: Appliance, tmp_path: Path
) -> None:
    page = console("try/generate")
    form = page.locator("#generate")
    form.get_by_label("Temperature").fill("0")
    form.get_by_label("Prompt").fill(PROMPT)
    expect(form.locator(".story")).to_be_hidden()
    form.get_by_label("Prompt").press("Control+Enter")
    expect(form.locator(".answer")).to_contain_text("tokens in")
    text = form.locator(".story").inner_text().removeprefix(PROMPT)
    assert len(text) > 10
    (tmp_path / "shown.py").write_text(code(page, "Python"))
    assert ran('exec "$PYTHON" shown.py', tmp_path, appliance) == text
    answer = appliance.post(
        "/v1/generate", {"prompt": PROMPT, "temperature": 0, "top_p": 0.95, "max_tokens": 80}
    )
    last = json.dumps(answer["usage"])
    assert last in ran(code(page, "curl"), tmp_path, appliance).replace(":", ": ").replace(",", ", ")
    script = code(page, "JavaScript").replace("console.log", "window.seen = ")
    page.evaluate(f"(async () => {{ {script} }})()")
    assert '"usage":{"prompt_tokens"' in page.evaluate("window.seen")


def ran(command: str, folder: Path, appliance: Appliance) -> str:
    """What it prints."""
    ended = subprocess.run(
        ["bash", "-c", command], cwd=folder, env=environment(appliance.url), capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


STOP_AT_THE_FIRST_TEXT = """
() => new MutationObserver((_, observer) => {
  if (document.querySelector(".story").childNodes.length < 2) return;
  observer.disconnect();
  document.getElementById("stop").click();
}).observe(document.querySelector(".story"), {childList: true})
"""


def test_stop_cancels_in_the_engine(console: Open, appliance: Appliance) -> None:
    page = console("try/generate")
    form = page.locator("#generate")
    form.get_by_label("Tokens").fill("480")
    form.get_by_label("Temperature").fill("2")
    page.evaluate(STOP_AT_THE_FIRST_TEXT)
    button(form, "Generate").click()
    expect(form.locator(".answer")).to_have_text("Stopped.")
    expect(button(form, "Stop")).to_be_disabled()
    latest = "/v1/tasks?type=generate&limit=1"
    appliance.wait_for(
        lambda: appliance.http.get(latest).json()["data"][0]["state"] == "cancelled", "it is cancelled"
    )


def test_an_error_stands_at_its_field(console: Open) -> None:
    page = console("try/generate", refused=True)
    tokens = page.locator("#generate").get_by_label("Tokens")
    tokens.fill("100000")
    button(page, "Generate").click()
    expect(tokens).to_have_attribute("aria-invalid", "true")
    expect(tokens).to_be_focused()
    described = page.locator(f"#{tokens.get_attribute('aria-describedby')}")
    expect(described).to_contain_text("maximum context length is 512 tokens")
    page.goto(page.url.partition("#")[0] + "#/overview")
    errors = page.locator("#errors").get_by_role("row").nth(1)
    expect(errors).to_contain_text("maximum context length is 512 tokens")
    errors.get_by_role("link").click()
    expect(page.locator("#task")).to_contain_text('"max_tokens": 100000')


def test_the_other_tasks(console: Open) -> None:
    """What a caller wrote is shown as text."""
    page = console("try/classify")
    page.get_by_label("Labels of your own").fill("<b>sport</b>, politics")
    button(page, "Classify").click()
    expect(page.locator("#classify .answer")).to_contain_text("<b>sport</b>")
    page.get_by_role("link", name="Infer").click()
    button(page, "Infer").click()
    expect(page.locator("#infer .answer")).to_contain_text("entailment")
    page.get_by_role("link", name="Understand").click()
    button(page, "Find intent and slots").click()
    expect(page.locator("#nlu mark").first).to_contain_text("four")


LOG_HEALTH = """
() => {
  const health = document.getElementById("health");
  window.seen = [health.textContent];
  new MutationObserver(() => window.seen.push(health.textContent)).observe(health, {childList: true});
  window.asking = setInterval(() => document.dispatchEvent(new Event("changed")), 100);
}
"""


def test_the_badge_follows_a_server_that_heals(console: Open, appliance: Appliance) -> None:
    page = console("overview", refused=True)
    page.evaluate(LOG_HEALTH)
    os.kill(stub_of_mini_lm(appliance).pid, signal.SIGKILL)
    appliance.wait_for(lambda: "not ready" in page.evaluate("window.seen"), "the badge says so", SECONDS)
    expect(page.locator("#health")).to_have_text("ready")
    page.evaluate("clearInterval(window.asking)")
    appliance.wait_until_ready()


def test_the_order_of_the_keyboard(console: Open) -> None:
    page = console("try/generate")
    seen: list[str] = []
    while "stop" not in seen and len(seen) < 30:
        page.keyboard.press("Tab")
        seen.append(
            page.evaluate("(({name, id, textContent}) => name || id || textContent)(document.activeElement)")
        )
        if seen[-1] == "seed":
            button(page, "Stop").evaluate("stop => { stop.disabled = false; }")
    assert seen[:5] == ["Skip to the content", "Overview", "Try", "Models", "Tasks"]
    assert seen[-8:] == ["prompt", "model", "max_tokens", "temperature", "top_p", "seed", "Generate", "stop"]


VIOLATIONS = """
rules => axe.run(rules).then(
  ({violations}) => violations.map(({id, nodes}) => [id, nodes.map(({html}) => html)])
)
"""


def test_each_view_is_accessible_and_fits(console: Open) -> None:
    """axe-core knows most rules of WCAG 2 that a program can check. In the dark only the contrast changes."""
    page = console("overview", viewport=NARROW, color_scheme="light")
    page.evaluate(AXE_SCRIPT)
    for view, part in SHOWN.items():
        page.evaluate("view => { location.hash = `#/${view}`; }", view)
        expect(page.locator(part)).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), view
        assert page.evaluate(VIOLATIONS, {}) == [], view
        page.emulate_media(color_scheme="dark")
        assert page.evaluate(VIOLATIONS, {"runOnly": ["color-contrast"]}) == [], view
        page.emulate_media(color_scheme="light")


def test_a_key_stays_in_the_tab(browser: Browser, tmp_path: Path) -> None:
    with facade_with_keys(tmp_path) as (url, key):
        gives_keys(browser, url, key)


def gives_keys(browser: Browser, url: str, key: str) -> None:
    page = browser.new_page()
    page.goto(url)
    expect(page.locator("#health")).to_have_text("waits for a key")
    form = page.locator("#key")
    for given in ("lmaas_000000000000_wrong", key):
        expect(form).to_be_visible()
        form.get_by_label("This server needs an API key").fill(given)
        button(form, "Use it").click()
        if given != key:
            expect(form.locator("output")).not_to_be_empty()
    expect(page.locator("#health")).to_have_text("ready")
    expect(page.locator("#served table")).to_contain_text("mini-lm")
    stored = page.evaluate("[Object.values(sessionStorage), Object.values(localStorage), document.cookie]")
    assert stored == [[key], [], ""]
    page.get_by_role("link", name="Metrics").click()
    expect(page.locator("body")).to_contain_text("lmaas_http_requests_total")
    page.context.close()


def test_light_and_dark(console: Open) -> None:
    page = console("overview", color_scheme="dark")
    ground = "getComputedStyle(document.documentElement).backgroundColor"
    dark = page.evaluate(ground)
    button(page, "Light").click()
    light = page.evaluate(ground)
    assert [sum(map(int, colour[4:-1].split(","))) > 382 for colour in (dark, light)] == [False, True]
    page.reload()
    expect(button(page, "Dark")).to_be_visible()
    assert page.evaluate(ground) == light
