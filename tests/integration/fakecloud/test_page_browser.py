"""The page in a real browser: what callers do shows by itself, as text, whatever they call it."""

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from typing import Any

import aiohttp
import pytest
from alibabacloud_ecs20140526.models import DescribeInstanceAttributeRequest, RunInstancesRequestTag
from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select, WebDriverWait

from caa.fakecloud import LocalCloud, Timings

CHROMIUM, CHROMEDRIVER = shutil.which("chromium"), shutil.which("chromedriver")
HOSTILE = "<img src=x onerror=document.title='owned'>"

pytestmark = pytest.mark.skipif(
    not (CHROMIUM and CHROMEDRIVER) and "CI" not in os.environ, reason="needs chromium and chromium-driver"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[webdriver.Chrome]:
    """A headless one with a profile of its own, which talks to nobody but the page's server."""
    assert CHROMIUM
    assert CHROMEDRIVER
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-quic",
        "disable-dev-shm-usage",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        f"user-data-dir={tmp_path_factory.mktemp('profile')}",
        "window-size=1440,900",
    ):
        options.add_argument(f"--{flag}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with pytest.MonkeyPatch.context() as patch:
        # With both paths given, Selenium has nothing to find; should it look after all, it must not download.
        patch.setenv("SE_OFFLINE", "true")
        patch.setenv("SE_AVOID_STATS", "true")
        driver = webdriver.Chrome(options, Service(CHROMEDRIVER))
    yield driver
    driver.quit()


@pytest.fixture
async def slow_cloud(start_cloud: Any) -> AsyncIterator[LocalCloud]:
    """One whose states can be seen, if only just."""
    timings = Timings(starting_after=0.6, running_after=1.2)
    async with start_cloud(credentials="keys", policy="full", timings=timings) as cloud:
        yield cloud


async def test_it_shows_what_happens(slow_cloud: LocalCloud, browser: webdriver.Chrome, sdk: Any) -> None:
    cloud = slow_cloud
    page = _Page(browser)
    await page.open(cloud.ecs_endpoint)
    assert "There is none" in await page.text("#instances .empty")

    tags = [
        RunInstancesRequestTag(key="caa-namespace", value="shop"),
        RunInstancesRequestTag(key="caa-pod", value="nginx"),
        RunInstancesRequestTag(key="hostile", value=HOSTILE),
    ]
    order = sdk.run_request(cloud, tag=tags, user_data="c2VjcmV0")
    created = (await sdk.ecs(cloud).run_instances_async(order)).body
    [instance_id] = created.instance_id_sets.instance_id_set
    row = f"#instances tbody[data-key='{instance_id}']"
    await page.shows(row, "podvm-nginx-12345678", "10.64.0.1", "shop/nginx", f"hostile={HOSTILE}")
    await page.shows(row, "Running")
    assert "podvm-nginx-12345678 is Running" in await page.text("#news", hidden=True)

    with pytest.raises(Exception, match="SignatureDoesNotMatch"):
        await sdk.ecs(cloud, access_key_secret="wrong").describe_instance_attribute_async(
            DescribeInstanceAttributeRequest(instance_id=HOSTILE)
        )
    async with aiohttp.ClientSession(cloud.ecs_endpoint) as http:
        await (await http.get("/", params={"Action": HOSTILE, "Version": HOSTILE, HOSTILE: HOSTILE})).read()
    await page.shows("#calls tr.failed", "DescribeInstanceAttribute", "SignatureDoesNotMatch", "400")
    await page.click("#only-failed")
    await page.shows("#calls tbody", HOSTILE, "InvalidVersion")
    await page.click("#calls tbody .unfold")
    await page.shows("#calls tr.more", "Request id", HOSTILE)
    assert await page.count("#calls tbody") == 2, "the one that was well is not among those that failed"
    await page.click("#only-failed")
    await page.shows("#calls tbody:last-of-type", "RunInstances", "ok")
    await page.click("#calls tbody:last-of-type .unfold")
    await page.shows("#calls tbody:last-of-type tr.more", "UserData", "(8 characters)")

    await page.choose("#arm [name=action]", "DeleteInstance")
    await page.choose("#arm [name=when]", "after the effect")
    await page.click("#arm [type=submit]")
    await page.shows("#faults tbody", "DeleteInstance", "OperationDenied.NoStock, after the effect")
    assert [(fault.action, fault.when) for fault in cloud.faults] == [("DeleteInstance", "after")]
    await page.click("#disarm")
    await page.shows("#faults .empty", "None")

    assert await page.count("img[src=x], td img, td script") == 0
    assert await page.run("return document.title") == "Local cloud"
    assert await page.console() == []

    # In a narrow window nothing is out of reach, and a cell says what it is.
    await page.narrow()
    assert await page.run("return document.documentElement.scrollWidth <= innerWidth")
    label = f"return getComputedStyle(document.querySelector(\"{row} td\"), '::before').content"
    assert await page.run(label) == '"Instance"'


async def test_it_comes_back_when_the_cloud_does(start_cloud: Any, browser: webdriver.Chrome) -> None:
    page = _Page(browser)
    async with start_cloud() as cloud:
        port = int(cloud.ecs_endpoint.rpartition(":")[2])
        await page.open(cloud.ecs_endpoint)
    await page.shows("#link", "trying again")
    async with start_cloud(port=port, region="cn-hangzhou"):
        await page.shows("#link", "live")
        await page.shows("#where", "cn-hangzhou")


class _Page:
    """The driver waits in a thread, so that the cloud in this one can answer."""

    def __init__(self, driver: webdriver.Chrome) -> None:
        self._driver = driver

    async def open(self, url: str) -> None:
        await self.console()  # what is in it so far is another page's
        await asyncio.to_thread(self._driver.get, url)
        await self.shows("#link", "live")

    async def shows(self, selector: str, *texts: str, timeout: float = 20) -> None:
        """Wait until one of the elements has all the texts."""

        def look(driver: webdriver.Chrome) -> bool:
            shown = [element.text for element in driver.find_elements(By.CSS_SELECTOR, selector)]
            return any(all(text in each for text in texts) for each in shown)

        wait = WebDriverWait(
            self._driver, timeout, poll_frequency=0.05, ignored_exceptions=[StaleElementReferenceException]
        )
        await asyncio.to_thread(wait.until, look, f"{selector} shows {texts}")

    async def text(self, selector: str, *, hidden: bool = False) -> str:
        element = self._driver.find_element
        return await asyncio.to_thread(
            lambda: str(
                element(By.CSS_SELECTOR, selector).get_property("textContent" if hidden else "innerText")
            )
        )

    async def click(self, selector: str) -> None:
        await asyncio.to_thread(lambda: self._driver.find_element(By.CSS_SELECTOR, selector).click())

    async def choose(self, selector: str, text: str) -> None:
        await asyncio.to_thread(
            lambda: Select(self._driver.find_element(By.CSS_SELECTOR, selector)).select_by_visible_text(text)
        )

    async def count(self, selector: str) -> int:
        return len(await asyncio.to_thread(self._driver.find_elements, By.CSS_SELECTOR, selector))

    async def run(self, script: str) -> Any:
        return await asyncio.to_thread(self._driver.execute_script, script)

    async def console(self) -> list[dict[str, Any]]:
        """What went wrong in it, of scripts, of what it loads, and of its security policy."""
        return await asyncio.to_thread(self._driver.get_log, "browser")

    async def narrow(self) -> None:
        await asyncio.to_thread(self._driver.set_window_size, 500, 800)
