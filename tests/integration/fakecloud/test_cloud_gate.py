"""Who may call, how often, and what goes wrong to order: requests that the unmodified SDK signs, with both of
its signatures, as they are and changed on their way.
"""

import asyncio
import json
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import requests
from alibabacloud_ecs20140526.models import DescribeInstanceAttributeRequest
from alibabacloud_tea_openapi.exceptions import AlibabaCloudException, ClientException
from alibabacloud_tea_openapi.utils_models import OpenApiRequest, Params
from darabonba.exceptions import RetryError, UnretryableException
from darabonba.runtime import RuntimeOptions

from caa.fakecloud import Fault, Limit, LocalCloud, PolicyError
from caa.polling import growing, poll

NOBODY = DescribeInstanceAttributeRequest(instance_id="i-1")
ARRIVED = "InvalidInstanceId.NotFound"
"""What NOBODY is answered, once it is let in."""

Change = Callable[[requests.PreparedRequest], None]


ACS3, RPC = "ACS3-HMAC-SHA256", "v2"
"""The signatures, as the SDK names them; the second is HMAC-SHA1 in the parameters."""


@pytest.fixture(params=[ACS3, RPC])
def algorithm(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def on_the_way(monkeypatch: pytest.MonkeyPatch) -> Callable[[Change], None]:
    """Have what the SDK has signed changed before it is sent."""

    def arrange(change: Change) -> None:
        send = requests.Session.send

        def changed(session: requests.Session, request: requests.PreparedRequest, **kwargs: Any) -> Any:
            change(request)
            return send(session, request, **kwargs)

        monkeypatch.setattr(requests.Session, "send", changed)

    return arrange


def _params(
    action: str, version: str = "2014-05-26", *, method: str = "POST", body: str = "formData"
) -> Params:
    return Params(
        action=action,
        version=version,
        protocol="HTTP",
        pathname="/",
        method=method,
        auth_type="AK",
        style="RPC",
        req_body_type=body,
        body_type="json",
    )


async def _call(client: Any, params: Params, **request: Any) -> dict[str, Any]:
    answer = await asyncio.to_thread(client.call_api, params, OpenApiRequest(**request), RuntimeOptions())
    body = answer["body"]
    assert isinstance(body, dict)
    return body


async def _code(client: Any) -> str:
    with pytest.raises(ClientException) as refusal:
        await asyncio.to_thread(client.describe_instance_attribute, NOBODY)
    return str(refusal.value.code)


class TestSignatures:
    async def test_a_good_one(self, cloud: LocalCloud, sdk: Any, algorithm: str) -> None:
        assert await _code(sdk.ecs(cloud, signature_algorithm=algorithm)) == ARRIVED
        [call] = cloud.calls
        assert call.signature == {ACS3: "ACS3-HMAC-SHA256 ok", RPC: "HMAC-SHA1 ok"}[algorithm]
        assert call.identity == cloud.keys.own.id

    @pytest.mark.parametrize("method", ["GET", "POST"])
    @pytest.mark.parametrize("form", [False, True])
    async def test_methods_and_places(
        self, cloud: LocalCloud, sdk: Any, algorithm: str, method: str, form: bool
    ) -> None:
        client = sdk.ecs(cloud, signature_algorithm=algorithm)
        where = {"body" if form else "query": {"InstanceId": "i-1"}}
        with pytest.raises(ClientException) as refusal:
            await _call(client, _params("DescribeInstanceAttribute", method=method), **where)
        assert refusal.value.code == ARRIVED

    async def test_a_body_of_json(self, cloud: LocalCloud, sdk: Any) -> None:
        """It is covered by the signature; an RPC action has no parameters in there."""
        with pytest.raises(ClientException) as refusal:
            await _call(
                sdk.ecs(cloud), _params("DescribeInstanceAttribute", body="json"), body={"InstanceId": "x"}
            )
        assert refusal.value.code == "MissingParameter"
        [call] = cloud.calls
        assert call.signature == "ACS3-HMAC-SHA256 ok"

    async def test_another_method(self, cloud: LocalCloud, sdk: Any) -> None:
        with pytest.raises(ClientException) as refusal:
            await _call(sdk.ecs(cloud), _params("DescribeInstanceAttribute", method="PUT"))
        assert refusal.value.code == "UnsupportedHTTPMethod"

    async def test_a_changed_parameter(
        self, cloud: LocalCloud, sdk: Any, algorithm: str, on_the_way: Callable[[Change], None]
    ) -> None:
        def change(request: requests.PreparedRequest) -> None:
            assert request.url
            assert "InstanceId=i-1" in request.url
            request.url = request.url.replace("InstanceId=i-1", "InstanceId=i-2")

        on_the_way(change)
        assert await _code(sdk.ecs(cloud, signature_algorithm=algorithm)) == "SignatureDoesNotMatch"
        [call] = cloud.calls
        assert (call.signature, call.identity) == ("SignatureDoesNotMatch", "")

    async def test_a_changed_form(
        self, cloud: LocalCloud, sdk: Any, algorithm: str, on_the_way: Callable[[Change], None]
    ) -> None:
        def change(request: requests.PreparedRequest) -> None:
            assert request.body == b"InstanceId=i-1"
            request.body = b"InstanceId=i-2"

        on_the_way(change)
        client = sdk.ecs(cloud, signature_algorithm=algorithm)
        with pytest.raises(ClientException) as refusal:
            await _call(client, _params("DescribeInstanceAttribute"), body={"InstanceId": "i-1"})
        assert refusal.value.code == "SignatureDoesNotMatch"

    async def test_a_changed_action(
        self, cloud: LocalCloud, sdk: Any, algorithm: str, on_the_way: Callable[[Change], None]
    ) -> None:
        """The SDK sends it in a header with both signatures; the older one does not cover it."""

        def change(request: requests.PreparedRequest) -> None:
            assert request.headers["x-acs-action"] == "DescribeInstanceAttribute"
            request.headers["x-acs-action"] = "DeleteInstance"

        on_the_way(change)
        code = await _code(sdk.ecs(cloud, signature_algorithm=algorithm))
        assert code == (ARRIVED if algorithm == RPC else "SignatureDoesNotMatch")
        assert (cloud.calls.of("DeleteInstance") == []) is (algorithm == RPC)

    @pytest.mark.parametrize(
        ("header", "value", "code"),
        [
            ("x-acs-signature-nonce", "another", "SignatureDoesNotMatch"),
            ("x-acs-content-sha256", "0" * 64, "SignatureDoesNotMatch"),
            ("x-acs-date", "2020-01-01T00:00:00Z", "InvalidTimeStamp.Expired"),
            ("x-acs-date", "2120-01-01T00:00:00Z", "InvalidTimeStamp.Expired"),
            ("x-acs-more", "x", "IncompleteSignature"),
            ("host", "ecs.cn-hangzhou.aliyuncs.com", "SignatureDoesNotMatch"),
            ("authorization", "ACS3-HMAC-SM3 Credential=x", "IncompleteSignature"),
            ("x-other", "more", ARRIVED),
        ],
    )
    async def test_a_changed_header(
        self,
        cloud: LocalCloud,
        sdk: Any,
        on_the_way: Callable[[Change], None],
        header: str,
        value: str,
        code: str,
    ) -> None:
        def change(request: requests.PreparedRequest) -> None:
            request.headers[header] = value

        on_the_way(change)
        assert await _code(sdk.ecs(cloud)) == code

    async def test_the_same_request_twice(
        self, cloud: LocalCloud, sdk: Any, algorithm: str, on_the_way: Callable[[Change], None]
    ) -> None:
        sent: list[requests.PreparedRequest] = []

        def keep(request: requests.PreparedRequest) -> None:
            sent.append(request.copy())

        on_the_way(keep)
        assert await _code(sdk.ecs(cloud, signature_algorithm=algorithm)) == ARRIVED
        again = await asyncio.to_thread(requests.Session().send, sent[0])
        assert (again.status_code, again.json()["Code"]) == (400, "SignatureNonceUsed")
        again.close()

    async def test_a_wrong_key(self, cloud: LocalCloud, sdk: Any, algorithm: str) -> None:
        ecs = sdk.ecs(cloud, signature_algorithm=algorithm, access_key_secret="guessed")
        assert await _code(ecs) == "SignatureDoesNotMatch"
        ecs = sdk.ecs(cloud, signature_algorithm=algorithm, access_key_id="LTAInobody")
        assert await _code(ecs) == "InvalidAccessKeyId.NotFound"

    async def test_a_sessions_token(self, cloud: LocalCloud, sdk: Any, algorithm: str) -> None:
        session, other = cloud.keys.issue(60, "node-1"), cloud.keys.issue(60)

        async def code(token: str | None, key: Any = session) -> str:
            return await _code(
                sdk.ecs(
                    cloud,
                    signature_algorithm=algorithm,
                    access_key_id=key.id,
                    access_key_secret=key.secret,
                    security_token=token,
                )
            )

        assert await code(session.session_token) == ARRIVED
        assert list(cloud.calls)[-1].identity == "node-1"
        assert await code(None) == "MissingSecurityToken"
        assert (
            await code(session.session_token, cloud.keys.own) == "InvalidSecurityToken.MismatchWithAccessKey"
        )
        assert await code(other.session_token) == "InvalidSecurityToken.MismatchWithAccessKey"
        ended = cloud.keys.issue(-1)
        assert await code(ended.session_token, ended) == "InvalidSecurityToken.Expired"


class TestRights:
    async def test_a_document_of_ones_own(self, start_cloud: Any, sdk: Any, tmp_path: Path) -> None:
        allow = {"Effect": "Allow", "Action": "ecs:*", "Resource": "acs:ecs:*:*:instance/i-1"}
        deny = {"Effect": "Deny", "Action": "ecs:Delete*", "Resource": "*"}
        file = tmp_path / "policy.json"
        file.write_text(json.dumps({"Version": "1", "Statement": [allow, deny]}))
        async with start_cloud(credentials="keys", policy=str(file)) as cloud:
            ecs = sdk.ecs(cloud)

            async def denied(action: str, instance_id: str) -> str | None:
                with pytest.raises(ClientException) as refusal:
                    await _call(ecs, _params(action), query={"InstanceId": instance_id})
                if refusal.value.code != "Forbidden.RAM":
                    return None
                assert refusal.value.status_code == 403
                return str(refusal.value.access_denied_detail["NoPermissionType"])

            assert await denied("DescribeInstanceAttribute", "i-1") is None
            assert await denied("DescribeInstanceAttribute", "i-2") == "ImplicitDeny"
            assert await denied("DeleteInstance", "i-1") == "ExplicitDeny"

    async def test_a_malformed_document_is_refused_at_the_start(
        self, start_cloud: Any, tmp_path: Path
    ) -> None:
        file = tmp_path / "policy.json"
        file.write_text(
            '{"Version": "1", "Statement": [{"Effect": "Allow", "Action": "all", "Resource": "*"}]}'
        )
        with pytest.raises(PolicyError, match=r"policy\.json .*Statement\[0\]\.Action: 'all'"):
            async with start_cloud(policy=str(file)):
                pass
        assert list((tmp_path / "cloud").iterdir()) == []

    async def test_anybody_may_ask_who_they_are(self, start_cloud: Any, sdk: Any, tmp_path: Path) -> None:
        file = tmp_path / "policy.json"
        file.write_text('{"Version": "1", "Statement": [{"Effect": "Deny", "Action": "*", "Resource": "*"}]}')
        async with start_cloud(credentials="keys", policy=str(file)) as cloud:
            answer = await _call(sdk.ecs(cloud), _params("GetCallerIdentity", "2015-04-01"))
            assert answer["Arn"] == "acs:ram::1000000000000001:user/caa-local"
            wrong = sdk.ecs(cloud, access_key_secret="guessed")
            with pytest.raises(ClientException, match="does not match"):
                await _call(wrong, _params("GetCallerIdentity", "2015-04-01"))


class TestSessions:
    async def test_who_a_role_session_is(self, start_cloud: Any, sdk: Any) -> None:
        async with start_cloud() as cloud:
            ecs = sdk.ecs(cloud, credential=sdk.credential(cloud))
            answer = await _call(ecs, _params("GetCallerIdentity", "2015-04-01"))
            assert answer["IdentityType"] == "AssumedRoleUser"
            assume, ask = cloud.calls
            assert (assume.signature, assume.identity) == ("none (anonymous)", "")
            assert ask.signature == "ACS3-HMAC-SHA256 ok"
            assert answer["Arn"].endswith(f":assumed-role/caa-alibaba/{ask.identity}")

    async def test_a_session_ends_for_real(self, start_cloud: Any, sdk: Any) -> None:
        async with start_cloud(session_seconds=1) as cloud:
            credentials = await sdk.role(cloud).get_credentials_async()
            ecs = sdk.ecs(
                cloud,
                access_key_id=credentials.get_access_key_id(),
                access_key_secret=credentials.get_access_key_secret(),
                security_token=credentials.get_security_token(),
            )

            async def ended() -> tuple[bool | None, str]:
                code = await _code(ecs)
                assert code in (ARRIVED, "InvalidSecurityToken.Expired")
                return code != ARRIVED or None, code

            assert await poll(ended, what="the session's end", pauses=growing(0.1), timeout=10)

    async def test_a_session_with_a_policy_of_its_own(self, start_cloud: Any, sdk: Any) -> None:
        document = '{"Version": "1", "Statement": [{"Effect": "Allow", "Action": "vpc:*", "Resource": "*"}]}'
        async with start_cloud() as cloud:
            credentials = await sdk.role(cloud, policy=document).get_credentials_async()
            ecs = sdk.ecs(
                cloud,
                access_key_id=credentials.get_access_key_id(),
                access_key_secret=credentials.get_access_key_secret(),
                security_token=credentials.get_security_token(),
            )
            with pytest.raises(ClientException) as refusal:
                await asyncio.to_thread(ecs.describe_instance_attribute, NOBODY)
            assert refusal.value.access_denied_detail["PolicyType"] == "SessionPolicy"


class TestLimits:
    """With windows as long as can be, so that none ends during a test."""

    async def test_too_often(self, start_cloud: Any, sdk: Any) -> None:
        limits = {"DescribeInstanceAttribute": Limit(2, 10**9)}
        async with start_cloud(credentials="keys", limits=limits, policy="full") as cloud:
            ecs = sdk.ecs(cloud)
            assert [await _code(ecs) for _ in range(3)] == [ARRIVED, ARRIVED, "Throttling.User"]
            assert await _call(ecs, _params("DescribeInstances"), query={"RegionId": "cn-beijing"})
            assert await _call(sdk.ecs(cloud), _params("GetCallerIdentity", "2015-04-01"))

    async def test_a_throttled_call_says_nothing_of_when_to_come_back(self, start_cloud: Any) -> None:
        query = "Action=AssumeRoleWithOIDC&Version=2015-04-01"
        async with (
            start_cloud(limits={"*": Limit(0)}) as cloud,
            aiohttp.ClientSession(cloud.ecs_endpoint) as http,
            http.get(f"/?{query}") as answer,
        ):
            assert (answer.status, (await answer.json())["Code"]) == (400, "Throttling.User")
            assert not {"Retry-After", "x-acs-retry-after"} & set(answer.headers)

    async def test_who_is_refused_before_is_not_counted(self, start_cloud: Any, sdk: Any) -> None:
        async with start_cloud(credentials="keys", limits={"*": Limit(1, 10**9)}) as cloud:
            wrong = sdk.ecs(cloud, access_key_secret="guessed")
            for _ in range(3):
                assert await _code(wrong) == "SignatureDoesNotMatch"
            assert await _code(sdk.ecs(cloud)) == ARRIVED


class TestFaults:
    async def test_calls_that_are_not_let_in_do_not_count(self, start_cloud: Any, sdk: Any) -> None:
        async with start_cloud(credentials="keys", limits={"DeleteInstance": Limit(0)}) as cloud:
            cloud.faults.add(Fault(code="InternalError", nth=2))
            assert await _code(sdk.ecs(cloud, access_key_secret="guessed")) == "SignatureDoesNotMatch"
            for action in ("DescribeInstances", "DeleteInstance"):
                with pytest.raises(ClientException):
                    await _call(sdk.ecs(cloud), _params(action))
            assert await _code(sdk.ecs(cloud)) == ARRIVED
            with pytest.raises(AlibabaCloudException) as fault:
                await asyncio.to_thread(sdk.ecs(cloud).describe_instance_attribute, NOBODY)
            assert (fault.value.status_code, fault.value.code) == (500, "InternalError")

    async def test_each_client_loses_its_first_answer(self, cloud: LocalCloud, sdk: Any) -> None:
        cloud.faults.add(Fault(action="RunInstances", per="ClientToken", drop="after"))
        ecs = sdk.ecs(cloud)

        async def create(token: str) -> str:
            request = sdk.run_request(cloud, client_token=token)
            with suppress(RetryError, UnretryableException):
                await asyncio.to_thread(ecs.run_instances, request)
                pytest.fail("the first answer was to be lost")
            answer = await asyncio.to_thread(ecs.run_instances, request)
            [instance_id] = answer.body.instance_id_sets.instance_id_set
            return str(instance_id)

        ids = await asyncio.gather(*(create(f"token-{n}") for n in range(4)))
        assert {instance.id for instance in cloud.instances} == set(ids)
        outcomes = [call.outcome for call in cloud.calls.of("RunInstances")]
        assert sorted(outcomes) == ["dropped"] * 4 + ["ok"] * 4

    async def test_a_delay_before_the_effect(self, cloud: LocalCloud, sdk: Any) -> None:
        cloud.faults.add(Fault(action="DescribeInstanceAttribute", delay=0.2))
        began = time.monotonic()
        assert await _code(sdk.ecs(cloud)) == ARRIVED
        assert time.monotonic() - began >= 0.2
