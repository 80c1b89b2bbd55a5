"""Debian's chromium, without a window, and what tests do in it."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.remote.webelement import WebElement

CHROMIUM, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
_FLAGS = (
    "headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-background-networking",
    "disable-component-update", "disable-sync", "hide-scrollbars",
)  # fmt: skip


class Browser:
    """A page, looked at as a visitor does.

    Args:
        profile: an empty folder.
        url: of the app.
    """

    def __init__(self, profile: Path, url: str):
        options = webdriver.ChromeOptions()
        options.binary_location = str(CHROMIUM)
        for flag in (*_FLAGS, f"user-data-dir={profile}"):
            options.add_argument(f"--{flag}")
        options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
        self.driver, self.url = webdriver.Chrome(options=options, service=Service(str(DRIVER))), url

    def open(self) -> None:
        """Open the page, and wait for its result."""
        self.driver.get("about:blank")
        self.severe()  # that the page before was left while it was waiting for something
        self.driver.get(self.url)
        self.until(lambda: self.shown(".look-answer") and self.one(".look-answer").text, "the first result")

    def screen(self, width: int, height: int, mobile: bool = False) -> None:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": mobile}
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)

    def one(self, selector: str) -> WebElement:
        return self.driver.find_element(By.CSS_SELECTOR, selector)

    def all(self, selector: str) -> list[WebElement]:
        return self.driver.find_elements(By.CSS_SELECTOR, selector)

    def shown(self, selector: str) -> bool:
        return any(element.is_displayed() for element in self.all(selector))

    def until(self, holds: Callable[[], Any], what: str, seconds: float = 60) -> Any:
        """Wait until something holds, and return it."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            try:
                if found := holds():
                    return found
            except StaleElementReferenceException:
                pass
            time.sleep(0.05)
        raise AssertionError(f"After {seconds:g} s there is no {what}. The page says: {self.one('body').text[:2000]}")

    def run(self, script: str, *arguments: Any) -> Any:
        return self.driver.execute_script(script, *arguments)

    def click(self, selector: str) -> None:
        element = self.one(selector)
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        self.until(element.is_enabled, f"{selector} that can be pressed")
        element.click()

    def click_in(self, selector: str, x: float, y: float) -> None:
        """Click at a place in an element, in shares of its width and height."""
        element = self.one(selector)
        self.run("arguments[0].scrollIntoView({block: 'center'})", element)
        width, height = element.size["width"], element.size["height"]
        actions = ActionChains(self.driver)
        actions.move_to_element_with_offset(element, round((x - 0.5) * width), round((y - 0.5) * height))
        actions.click().perform()

    def type_model(self, letter: str, name: str) -> None:
        field = self.one(f"#model-{letter} input")
        field.click()
        field.send_keys(Keys.CONTROL, "a")
        field.send_keys(name)

    def score(self, kind: str = "raw") -> float:
        return float(self.one(f"[data-score='{kind}'] [data-value]").get_attribute("data-value"))

    def compare(self) -> None:
        """Press Compare, and wait until it is done."""
        self.run(
            "window.began = false; const status = document.querySelector('#status');"
            "new MutationObserver(() => { window.began ||= Boolean(status.querySelector('.stage')); })"
            ".observe(status, {subtree: true, childList: true, characterData: true})"
        )
        self.click("#compare")
        self.until(
            lambda: self.run("return window.began") and not self.shown(".stage") and self.one("#compare").is_enabled(),
            "end of the comparison",
        )

    def picture(self, view: str) -> str:
        """What a canvas shows."""
        return self.run("return document.querySelector(`canvas[data-view='${arguments[0]}']`).toDataURL()", view)

    def pictures(self) -> list[str]:
        return [self.picture(view) for view in ("0", "1")]

    def severe(self) -> list[str]:
        """What the page complained of since it was opened."""
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]
