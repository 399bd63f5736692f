"""The operators' page in a real browser, with faults running."""

from __future__ import annotations

import asyncio
import json
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.browser import browser, show
from tests.support.fault_backend import FaultBackend
from tests.support.gateway import RunningGateway, running_gateway
from tests.support.processes import FaultProcess, free_port, wait_until
from tests.support.serving import Serving, gateway_yaml

pytestmark = pytest.mark.slow

NAMES = ("llama-a", "llama-b", "small")
#: Text whose contrast is below WCAG 2.1 AA: 4.5 to 1, for large text 3 to 1. Disabled controls are exempt.
CONTRAST = """
const parse = (text) => (text.match(/[\\d.]+/g) || []).map(Number);
const linear = (v) => (v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
const light = ([r, g, b]) => [r, g, b].map((v) => linear(v / 255))
  .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
const ground = (element) => {
  for (let at = element; at; at = at.parentElement) {
    const colour = parse(getComputedStyle(at).backgroundColor);
    if (colour.length === 3 || colour[3] > 0.99) return colour;
  }
  return [255, 255, 255];
};
const low = [];
for (const element of document.querySelectorAll("body *")) {
  const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
  if (!own || !element.checkVisibility() || element.matches(":disabled")) continue;
  const style = getComputedStyle(element);
  const pair = [light(parse(style.color)), light(ground(element))].sort((a, b) => b - a);
  const size = parseFloat(style.fontSize), large = size >= 24 || (size >= 18.66 && Number(style.fontWeight) >= 700);
  if ((pair[0] + 0.05) / (pair[1] + 0.05) < (large ? 3 : 4.5)) low.push(element.textContent.trim().slice(0, 40));
}
return low;
"""
#: Controls without a name for a screen reader, header cells without scope, images without alt.
UNNAMED = """
const named = (each) => each.getAttribute("aria-label") || each.textContent.trim() || each.labels?.length;
return [
  ...[...document.querySelectorAll("button, input, a")].filter((each) => !named(each)),
  ...document.querySelectorAll("th:not([scope]), img:not([alt])"),
  ...document.querySelectorAll("svg:not([aria-label], [aria-hidden=true])"),
].map((each) => each.outerHTML.slice(0, 120));
"""


def settings(backends: list[FaultBackend]) -> str:
    lines = "\n".join(
        f"  {name}: {{url: '{backend.url}', kind: vllm, model: tiny, health: {{interval: 200ms, unhealthy_after: 2}}}}"
        for name, backend in zip(NAMES, backends, strict=True)
    )
    return (
        f"server: {{listen: '127.0.0.1:0', watch: false, admin: {{key: operator-secret}}}}\nbackends:\n{lines}\n"
        "routes: [{model: tiny, backends: [llama-a, llama-b], fallback: [small], policy: chat}]\n"
        "policies: {chat: {circuit_breaker: {open_for: 2s}}}\n"
    )


class Page:
    """The page, as a person sees it. Runs in a thread; `run` does something in a gateway of this process."""

    def __init__(self, driver: Any, url: str, run: Callable[[Any], Any]) -> None:
        self.driver, self.url, self.run = driver, url, run

    def open(self) -> None:
        show(self.driver, width=1440, height=1000, scheme="light")
        self.driver.get(f"{self.url}/admin")
        self.until(lambda: "live" in self.text("#live"))

    def text(self, selector: str) -> str:
        found = self.driver.execute_script("return document.querySelector(arguments[0])?.innerText ?? ''", selector)
        return str(found)

    def row(self, name: str) -> str:
        script = """return [...document.querySelectorAll('#backends tbody tr')]
            .find((row) => row.dataset.key === arguments[0])?.innerText ?? ''"""
        return str(self.driver.execute_script(script, name)).replace("\n", " ")

    def until(self, condition: Callable[[], Any]) -> None:
        wait_until(condition, 15, "the page")

    def press(self, label: str) -> None:
        """Presses the button with this accessible name."""
        script = """const wanted = arguments[0];
            const all = [...document.querySelectorAll('button')].filter((each) => each.checkVisibility());
            const found = all.find((each) => (each.getAttribute('aria-label') ?? each.innerText).trim() === wanted);
            found.focus(); found.click()"""
        self.driver.execute_script(script, label)

    def keys(self, *keys: str) -> None:
        from selenium.webdriver.common.action_chains import ActionChains

        ActionChains(self.driver).send_keys(*keys).perform()

    def complaints(self) -> list[str]:
        """What the browser's console holds; a refused act is an answer, not a fault of the page."""
        return [entry["message"] for entry in self.driver.get_log("browser") if "401" not in entry["message"]]


async def chats(gateway: RunningGateway, times: int, **fields: Any) -> None:
    for _ in range(times):
        await gateway.chat(stream=True, stream_options={"include_usage": True}, **fields)


async def in_browser(tmp_path: Path, scenario: Callable[[Page, RunningGateway, list[FaultBackend]], None]) -> None:
    """Runs the scenario in a thread, against a gateway and three backends in this loop."""
    loop = asyncio.get_running_loop()

    def run(work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, loop).result(30)

    backends = [FaultBackend(first_token=0.01, per_token=0.002) for _ in NAMES]
    for each in backends:
        await each.start()
    file = tmp_path / "gateway.yaml"
    file.write_text(settings(backends))

    def work(url: str, gateway: RunningGateway) -> None:
        with browser(tmp_path / "profile") as driver:
            page = Page(driver, url, run)
            page.open()
            scenario(page, gateway, backends)
            assert page.complaints() == []

    try:
        async with running_gateway(settings(backends), file) as gateway:
            await asyncio.to_thread(work, gateway.url, gateway)
    finally:
        for each in backends:
            await each.kill()


async def test_faults_show_as_they_happen_and_their_stories_are_found(tmp_path: Path) -> None:
    def scenario(page: Page, gateway: RunningGateway, backends: list[FaultBackend]) -> None:
        page.until(lambda: "healthy" in page.row("llama-a"))
        page.run(chats(gateway, 20))
        page.until(lambda: page.text("#chart-ttft [data-series=p50]") not in ("", "\u2013"))
        page.until(lambda: page.text("#chart-itl [data-series=p50]") not in ("", "\u2013"))
        page.run(backends[0].kill())
        page.until(lambda: "unhealthy" in page.row("llama-a") and page.text("#overall") == "degraded")
        assert "llama-a" in page.text("#problems")
        backends[1].inject("oom")
        page.run(chats(gateway, 12))
        page.until(lambda: "open" in page.row("llama-b"))
        page.run(gateway.chat(model="nope", headers={"X-Correlation-ID": "lost-1"}))
        page.until(lambda: "model not found" in page.text("#errors-by-type"))
        page.driver.find_element("id", "query").send_keys("lost-1")
        page.until(lambda: page.text("#requests").count("lost-1") == 1)
        page.driver.execute_script("document.getElementById('query').value = ''")
        page.driver.find_element("css selector", "[value=hidden]").find_element("xpath", "..").click()
        page.until(lambda: "hidden" in page.text("#requests") and "lost-1" not in page.text("#requests"))
        page.driver.find_element("css selector", "#requests summary").click()
        page.until(
            lambda: "because" in page.driver.page_source and "out of memory" in page.text("#requests details[open]")
        )
        assert "llama-b" in page.text("#requests details[open]")
        page.run(backends[0].start())
        backends[1].heal()
        page.until(lambda: "healthy" in page.row("llama-a") and "unhealthy" not in page.row("llama-a"))

    await in_browser(tmp_path, scenario)


async def test_acts_are_confirmed_keyed_and_seen_by_the_balancer(tmp_path: Path) -> None:
    def scenario(page: Page, gateway: RunningGateway, backends: list[FaultBackend]) -> None:
        endpoints = gateway.gateway.runtime.endpoints
        page.until(lambda: "healthy" in page.row("llama-a"))
        page.press("Drain llama-a")
        page.until(lambda: page.text("#dialog-title") == "Drain llama-a?")
        page.keys("new driver", "\ue007")
        page.until(lambda: "key" in page.text("#dialog-error"))
        assert endpoints["llama-a"].service == "active"
        page.keys("wrong", "\ue007")
        page.until(lambda: page.driver.find_element("id", "dialog-key").is_displayed())
        page.driver.find_element("id", "dialog-key").clear()
        page.driver.find_element("id", "dialog-key").send_keys("operator-secret", "\ue007")
        page.until(lambda: "drained" in page.row("llama-a"))
        assert "new driver" in page.text("#acts")
        assert page.driver.execute_script("return document.activeElement.closest('tr')?.dataset.key") == "llama-a"
        page.run(chats(gateway, 6))
        assert not list(backends[0].log.to("/v1/chat/completions"))
        page.press("Restore llama-a")
        page.keys("\ue007")
        page.until(lambda: "drained" not in page.row("llama-a"))
        page.press("Open circuit llama-b")
        page.keys("\ue007")
        page.until(lambda: "held open by an operator" in page.row("llama-b"))
        page.press("Close circuit llama-b")
        page.keys("\ue00c")  # escape
        page.until(lambda: not page.driver.execute_script("return document.getElementById('dialog').open"))
        assert endpoints["llama-b"].breaker.forced

    await in_browser(tmp_path, scenario)


async def test_a_reload_shows_its_diff_first(tmp_path: Path) -> None:
    def scenario(page: Page, gateway: RunningGateway, backends: list[FaultBackend]) -> None:
        file = tmp_path / "gateway.yaml"
        file.write_text(settings(backends).replace("open_for: 2s", "open_for: 7s"))
        page.press("Reload configuration…")
        page.until(lambda: page.driver.find_element("id", "dialog-go").is_displayed())
        page.press("Look")
        page.until(lambda: page.driver.find_element("id", "dialog-key").is_displayed())
        page.keys("operator-secret", "\ue007")
        page.until(lambda: "policies.chat.circuit_breaker.open_for: 2s -> 7s" in page.text("#dialog-body"))
        assert gateway.gateway.runtime.config.policies["chat"].circuit_breaker.open_for == 2
        page.press("Apply")
        page.until(lambda: gateway.gateway.runtime.config.policies["chat"].circuit_breaker.open_for == 7)
        page.until(lambda: "reload" in page.text("#acts"))

    await in_browser(tmp_path, scenario)


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_it_can_be_read_and_fits(tmp_path: Path, scheme: str) -> None:
    def scenario(page: Page, gateway: RunningGateway, backends: list[FaultBackend]) -> None:
        page.run(chats(gateway, 6))
        backends[1].inject("oom")
        page.run(backends[0].kill())
        page.run(chats(gateway, 8))
        page.run(chats(gateway, 2, model="nope"))
        page.until(lambda: "unhealthy" in page.row("llama-a") and "open" in page.row("llama-b"))
        page.until(lambda: page.text("#errors-by-type b"))
        for width, height in ((1440, 1000), (390, 844)):
            show(page.driver, width=width, height=height, scheme=scheme)
            page.driver.find_element("css selector", "#requests summary").click()
            assert page.driver.execute_script(CONTRAST) == []
            wide = page.driver.execute_script("return document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0
        assert page.driver.execute_script(UNNAMED) == []
        dark = page.driver.execute_script("return getComputedStyle(document.body).backgroundColor") == "rgb(14, 20, 26)"
        assert dark == (scheme == "dark")

    await in_browser(tmp_path, scenario)


def test_the_page_of_two_worker_processes_is_of_both(tmp_path: Path) -> None:
    def ask() -> None:
        body = json.dumps(
            {"model": "tiny", "max_tokens": 4, "messages": [{"role": "user", "content": "count"}]}
        ).encode()
        headers = {"Content-Type": "application/json", "Connection": "close"}
        request = urllib.request.Request(f"{gateway.url}/v1/chat/completions", body, headers)
        assert urllib.request.urlopen(request, timeout=10).status == 200

    with FaultProcess() as one, FaultProcess() as two, browser(tmp_path / "profile") as driver:
        path = tmp_path / "gateway.yaml"
        path.write_text(gateway_yaml(one, two, server="workers: 2, watch: false"))
        with Serving(path, free_port()) as gateway:
            page = Page(driver, gateway.url, lambda _: None)
            page.open()
            for _ in range(40):
                ask()
            page.until(lambda: page.text("#routes tbody [data-label=Answered]") == "40")
            assert all(f"Worker {number}" in page.text("#machine") for number in (0, 1))
            one.kill()
            page.until(lambda: "unhealthy" in page.row("b0"))
            page.press("Drain b1")
            page.keys("\ue007")
            page.until(lambda: "drained" in page.row("b1") and "drain b1" in page.text("#acts"))
            assert page.complaints() == []


async def test_a_lost_connection_is_said_and_mended(tmp_path: Path) -> None:
    def scenario(page: Page, gateway: RunningGateway, backends: list[FaultBackend]) -> None:
        async def cut() -> None:
            for queue in list(gateway.gateway.admin.events._queues):
                gateway.gateway.admin.events._let_go(queue)

        page.driver.execute_script("""window.said = [];
            new MutationObserver(() => window.said.push(document.getElementById('live').textContent))
              .observe(document.getElementById('live'), {childList: true, characterData: true, subtree: true})""")
        page.run(cut())
        page.until(lambda: page.driver.execute_script("return window.said.includes('connection lost')"))
        page.until(lambda: page.text("#live") == "live")

    await in_browser(tmp_path, scenario)
