"""The server on loopback, and a client that knows nothing but HTTP."""

import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import aiohttp
import pytest
from apiserver import ADMIN, ApiServer, User

from caa.polling import growing, poll


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Any
    text: str

    @property
    def json(self) -> Any:
        return json.loads(self.text)


class Client:
    def __init__(self, api: ApiServer, session: aiohttp.ClientSession) -> None:
        self._api = api
        self._session = session

    def open(self, method: str, path: str, *, token: str | None = None, **options: Any) -> Any:
        headers = {"Authorization": f"Bearer {self._api.token(ADMIN) if token is None else token}"}
        headers |= options.pop("headers", {})
        return self._session.request(method, self._api.url + path, headers=headers, **options)

    async def call(
        self, method: str, path: str, body: Any = None, *, type_: str = "", **options: Any
    ) -> Answer:
        if body is not None:
            options["data"] = json.dumps(body) if isinstance(body, dict | list) else body
            options["headers"] = {"Content-Type": type_ or "application/json"}
        async with self.open(method, path, **options) as answer:
            return Answer(answer.status, answer.headers, await answer.text())

    async def call_as(self, user: User, method: str, path: str, body: Any = None) -> Answer:
        return await self.call(method, path, body, token=self._api.token(user))


@pytest.fixture
async def api() -> AsyncIterator[ApiServer]:
    async with ApiServer() as api:
        api.add_node("worker-1")
        yield api


@pytest.fixture
def eventually() -> Callable[[Callable[[], object]], Awaitable[None]]:
    """Wait until what is asked for is so."""

    async def wait(is_so: Callable[[], object]) -> None:
        async def ask() -> tuple[bool | None, str]:
            seen = is_so()
            return bool(seen) or None, repr(seen)

        await poll(ask, what="the API server", pauses=growing(0.01), timeout=5)

    return wait


@pytest.fixture
async def client(api: ApiServer) -> AsyncIterator[Client]:
    trust = ssl.create_default_context(cadata=api.ca)
    connector = aiohttp.TCPConnector(ssl=trust)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(10)) as session:
        yield Client(api, session)
