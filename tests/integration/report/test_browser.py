"""The page in a real browser: quiet console, no request to anywhere, readable at both widths, alive in a sandbox."""

from __future__ import annotations

import html
import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from nanwatch.report.finish import finish

CHROMIUM, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None or DRIVER is None, reason="chromium and chromedriver are not installed: nothing to look with"
)
SWITCHES = (
    "--headless=new --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync --disable-dev-shm-usage"
)


@pytest.fixture(scope="module")
def build():
    """The incident folders of the unit tests."""
    path = Path(__file__).parents[2] / "unit" / "report" / "conftest.py"
    spec = importlib.util.spec_from_file_location("report_folders", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def pages(build, tmp_path_factory):
    """The two pages and one that is full of markup."""
    home = tmp_path_factory.mktemp("pages")
    gpt = build.write_gpt(home / "gpt")
    finish(gpt, build.history(steps=80))
    image = build.write_image(home / "image")
    finish(image, None)
    poison = "\"'><script>document.title='owned'</script><img src=http://127.0.0.1:9/x onerror=document.title='owned'>"
    hostile = build.write_gpt(home / "hostile", poison=lambda text: text + poison)
    finish(hostile, build.history(steps=10, tensors=3))
    return {"gpt": gpt, "image": image, "hostile": hostile}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    for switch in SWITCHES.split():
        options.add_argument(switch)
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    options.binary_location = CHROMIUM
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(DRIVER))
    driver.set_page_load_timeout(30)
    yield driver
    driver.quit()


def look(browser, path, width=1440, scheme="light"):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    feature = {"name": "prefers-color-scheme", "value": scheme}
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    browser.get_log("performance")
    browser.get_log("browser")
    browser.get(path.as_uri())


def requests(browser):
    events = [json.loads(e["message"])["message"] for e in browser.get_log("performance")]
    return [e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"]


@pytest.mark.parametrize("name", ["gpt", "image", "hostile"])
def test_the_console_is_quiet_and_nobody_is_asked(browser, pages, name):
    path = pages[name] / "report.html"
    look(browser, path)
    assert [e["message"] for e in browser.get_log("browser")] == []
    assert [u for u in requests(browser) if not u.startswith("data:image/png")] == [path.as_uri()]
    assert browser.title.endswith("· nanwatch")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1440])
@pytest.mark.parametrize("name", ["gpt", "image", "hostile"])
def test_the_page_fits_its_window(browser, pages, name, width, scheme):
    look(browser, pages[name] / "report.html", width, scheme)
    assert browser.execute_script("return document.documentElement.scrollWidth <= innerWidth")
    too_wide = browser.execute_script(
        "return [...document.querySelectorAll('main > * , main section > *')]"
        ".filter(e => e.getBoundingClientRect().right > innerWidth + 1).map(e => e.className || e.tagName)"
    )
    assert too_wide == []
    # Text against its background: WCAG asks for 4.5 : 1.
    pairs = browser.execute_script(
        "return ['h1', '.lead', '.sub', '.facts dt', '.badge', 'td', 'th'].map(s => document.querySelector(s))"
        ".filter(e => e).map(e => [getComputedStyle(e).color, getComputedStyle(document.body).backgroundColor])"
    )
    assert all(contrast(*pair) >= 4.5 for pair in pairs)


def contrast(a, b):
    def light(colour):
        channels = [int(c) / 255 for c in colour[colour.index("(") + 1 : -1].split(",")[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    high, low = sorted((light(a), light(b)), reverse=True)
    return (high + 0.05) / (low + 0.05)


def test_the_origin_and_the_pictures_can_be_seen(browser, pages):
    look(browser, pages["gpt"] / "report.html")
    sizes = browser.execute_script(
        "return ['.code .marked', '#module-graph .origin', '.chart .fault', '.heat image', '.fix li']"
        ".map(s => { const r = document.querySelector(s).getBoundingClientRect(); return [s, r.width + r.height]; })"
    )
    assert all(size > 20 for _, size in sizes), sizes
    look(browser, pages["image"] / "report.html")
    assert browser.execute_script("return document.querySelector('.row img').naturalWidth") == 32


def test_it_works_in_the_sandbox_of_an_artifact_viewer(browser, pages, tmp_path):
    page = (pages["gpt"] / "report.html").read_text()
    frame = tmp_path / "viewer.html"
    source = html.escape(page, quote=True)
    frame.write_text(f'<!doctype html><iframe sandbox="allow-scripts" width=900 height=700 srcdoc="{source}"></iframe>')
    look(browser, frame)
    assert [e["message"] for e in browser.get_log("browser")] == []
    browser.switch_to.frame(0)
    look_at = "return document.getElementById('history').getBoundingClientRect().top"
    before = browser.execute_script(look_at)
    browser.execute_script(
        "const scroll = Element.prototype.scrollIntoView;"
        "Element.prototype.scrollIntoView = function () { scroll.call(this, { behavior: 'instant' }); };"
        "document.querySelector('button[data-to=history]').click()"
    )
    assert before > 700
    assert abs(browser.execute_script(look_at)) < 200
    browser.switch_to.default_content()
