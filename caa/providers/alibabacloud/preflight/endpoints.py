"""Whether the cloud's endpoints can be reached, and whether its clock and this node's agree."""

import email.utils
import time
from functools import partial

import requests

from caa.checking import Finding, Verdict, failed, in_thread, ok, warning
from caa.providers.alibabacloud.client import ECS, VPC, Product
from caa.providers.alibabacloud.errors import from_sdk
from caa.providers.alibabacloud.preflight.questions import Questions
from caa.providers.alibabacloud.preflight.subject import Subject

TIMEOUT = 6.0
"""Seconds for a connection, and for the answer."""
CLOCK_TOLERATED, CLOCK_REFUSED = 60.0, 900.0
"""Seconds that this node's clock may be off: without a word, and until requests are refused, which the API
reference on signatures says of timestamps."""


class EndpointChecks:
    """Any answer to an unsigned GET will do: it has a Date."""

    def __init__(self, subject: Subject, questions: Questions) -> None:
        self._settings = subject.settings
        self._questions = questions
        self._endpoints = {ECS: self._settings.ecs_endpoint, VPC: self._settings.vpc_endpoint}

    async def endpoint(self, product: Product) -> Finding:
        return await self._questions.once(f"{product.name} endpoint", partial(self._reach, product))

    async def are_out_of_reach(self) -> bool:
        return any([(await self.endpoint(each)).verdict is Verdict.FAILED for each in self._endpoints])

    async def _reach(self, product: Product) -> Finding:
        endpoint = self._endpoints[product] or f"{product.name}.{self._settings.region}.aliyuncs.com"
        url = endpoint if "://" in endpoint else f"https://{endpoint}"

        def get() -> str:
            with requests.get(
                url, timeout=TIMEOUT, verify=self._settings.ca_file or True, allow_redirects=False
            ) as answer:
                return answer.headers.get("Date", "")

        try:
            return _compared(url, await in_thread(get))
        except requests.RequestException as error:
            understood = from_sdk(f"{product.name}:GET", error)
            return failed(f"{url}: {understood.code}", understood.rule.remedy)


def _compared(url: str, date: str) -> Finding:
    try:
        off = time.time() - email.utils.parsedate_to_datetime(date).timestamp()
    except ValueError:
        return ok(f"{url} answers")
    seen = f"{url} answers; this node's clock is {abs(off):.0f} s {'ahead' if off > 0 else 'behind'}"
    if abs(off) < CLOCK_TOLERATED:
        return ok(f"{url} answers")
    told = warning if abs(off) < CLOCK_REFUSED else failed
    return told(seen, "set the clock (NTP): requests that are 15 minutes off are refused")
