"""What `caa fakecloud` is told about rights, limits and lifetimes, as a user types it."""

import json
import signal
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from caa.demo import CAA, Child
from caa.fakecloud import FakeCloudSettings
from caa.fakecloud.errors import ApiError
from caa.fakecloud.keys import AccessKey
from caa.fakecloud.ram import Ram


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--policy", "none.json"), "'none.json' is neither published nor full nor a file"),
        (("--allow", "RunInstances"), "'RunInstances' is not of the form service:Action"),
        (("--limits", "RunInstances=10"), "such as RunInstances=10/60s"),
    ],
)
def test_what_is_refused(tmp_path: Path, options: tuple[str, ...], says: str) -> None:
    command = (*CAA, "fakecloud", "--listen", "127.0.0.1:0", "--dir", "cloud", *options)
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode in (1, 2)
    assert says in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "cloud" / "env").exists()


async def test_what_is_taken(tmp_path: Path) -> None:
    policy = tmp_path / "policy.json"
    statement = {"Effect": "Allow", "Action": "ecs:Describe*", "Resource": "*"}
    policy.write_text(json.dumps({"Version": "1", "Statement": [statement]}))
    folder = tmp_path / "cloud"
    options = ("--policy", str(policy), "--session-seconds", "30", "--token-seconds", "30")
    limits = ("--limits", "real", "--limits", "AssumeRoleWithOIDC=0/60s")
    command = (*CAA, "fakecloud", "--listen", "127.0.0.1:0", "--dir", str(folder), *options, *limits)
    async with Child.running(command, tmp_path / "cloud.log") as child:
        await child.event("local cloud is up", 60)
        environment = dict(line.split("=", 1) for line in (folder / "env").read_text().splitlines())
        query = "?Action=AssumeRoleWithOIDC&Version=2015-04-01"
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(environment["ALIBABACLOUD_STS_ENDPOINT"] + query, timeout=30)
        with refusal.value as answer:
            assert json.load(answer)["Code"] == "Throttling.User"
        assert await child.end(signal.SIGTERM) == 0


class TestDocumentsOfTheDaemon:
    """What `caa ram` prints is what the local cloud reads."""

    def _printed(self, file: Path, *words: str) -> Path:
        command = (*CAA, "ram", *words)
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
        file.write_text(done.stdout)
        return file

    @pytest.mark.parametrize("options", [("--published",), ("--full",), ("--full", "--region", "cn-beijing")])
    def test_policy(self, tmp_path: Path, options: tuple[str, ...]) -> None:
        file = self._printed(tmp_path / "policy.json", "policy", *options)
        settings = FakeCloudSettings(dir=tmp_path / "cloud", policy=str(file))
        key = AccessKey("id", "secret")
        ram = Ram(settings, issuer="http://issuer")
        run = {"ImageId": "m-1", "VSwitchId": "vsw-1", "SecurityGroupIds.1": "sg-1"}
        ram.authorize_call(key, "ecs", "RunInstances", run, address="127.0.0.1")
        ram.authorize_call(key, "ecs", "DeleteInstance", {"InstanceId": "i-1"}, address="127.0.0.1")
        with pytest.raises(ApiError, match=r"Forbidden\.RAM"):
            ram.authorize_call(key, "ecs", "CreateUnicorn", {}, address="127.0.0.1")

    def test_trust(self, tmp_path: Path) -> None:
        settings = FakeCloudSettings(dir=tmp_path / "cloud", trust_policy=tmp_path / "trust.json")
        provider = ("--issuer", "http://issuer", "--provider-arn", settings.oidc_provider_arn)
        self._printed(tmp_path / "trust.json", "trust", *provider)
        claims = {"iss": "http://issuer", "aud": ["sts.aliyuncs.com"], "sub": settings.service_account}
        ram = Ram(settings, issuer="http://unused")
        assert ram.trusts(claims)
        assert not ram.trusts(claims | {"sub": "system:serviceaccount:default:default"})
