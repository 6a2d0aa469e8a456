"""`caa ram`: what it prints, and what it refuses."""

import json
import re
from typing import Any

import pytest
from click.testing import CliRunner, Result

import caa.cli  # noqa: F401  which adds the commands
from caa.cli.group import cli
from caa.providers.alibabacloud.ram import PUBLISHED

ARN = "acs:ram::1000000000000001:oidc-provider/ack-rrsa-local"
TRUST = ("trust", "--issuer", "https://oidc.example", "--provider-arn")


def invoke(*words: str, **environ: str) -> Result:
    unset: dict[str, str | None] = dict.fromkeys(("EXTERNAL_NETWORK_VIA_PODVM", "USE_PUBLIC_IP"))
    return CliRunner(env=unset | environ).invoke(cli, ["ram", *words])


def document(*words: str, **environ: str) -> dict[str, Any]:
    done = invoke(*words, **environ)
    assert (done.exit_code, done.stderr) == (0, "")
    printed: dict[str, Any] = json.loads(done.stdout)
    return printed


def test_flags_and_variables_say_the_same() -> None:
    least = document("policy")
    both = document("policy", "--second-interface", "--public-ip")
    assert both == document("policy", EXTERNAL_NETWORK_VIA_PODVM="true", USE_PUBLIC_IP="1")
    assert least == document("policy", EXTERNAL_NETWORK_VIA_PODVM="false", USE_PUBLIC_IP="")
    assert least["Statement"][0]["Action"] < both["Statement"][0]["Action"]


def test_full_is_everything() -> None:
    optional = ("--optional", "fewer-calls", "--optional", "gc", "--optional", "check")
    assert document("policy", "--full") == document("policy", "--second-interface", "--public-ip", *optional)


def test_published_and_region() -> None:
    assert document("policy", "--published") == PUBLISHED
    assert "acs:ecs:cn-beijing:*:*" in str(document("policy", "--region", "cn-beijing"))


def test_for_images_is_what_the_import_says_it_takes() -> None:
    printed = document("policy", "--for-images", "my-images")
    images, bucket = printed["Statement"]
    assert bucket["Resource"] == ["acs:oss:*:*:my-images", "acs:oss:*:*:my-images/*"]
    told = CliRunner().invoke(cli, ["image", "import", "--help"], terminal_width=80).stdout
    assert set(images["Action"] + bucket["Action"]) == set(re.findall(r"(?:ecs|oss):[A-Z]\w+", told))


def test_explained() -> None:
    done = invoke("policy", "--explain", "--full")
    assert max(map(len, done.stdout.splitlines())) <= 80
    assert "  ecs:RunInstances                    creates the pod VM\n" in done.stdout


def test_trust() -> None:
    printed = document(*TRUST, ARN, "--service-account", "ns:name")
    condition = printed["Statement"][0]["Condition"]["StringEquals"]
    assert condition["oidc:sub"] == ["system:serviceaccount:ns:name"]
    assert printed["Statement"][0]["Principal"] == {"Federated": [ARN]}
    assert document(*TRUST[:3], ALIBABA_CLOUD_OIDC_PROVIDER_ARN=ARN) == document(*TRUST, ARN)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (("trust",), "Missing option '--issuer'"),
        (("trust", "--issuer", "x", "--provider-arn", ARN), "'x'; allowed: one URL"),
        ((*TRUST, "y"), "allowed: acs:ram::ACCOUNT:oidc-provider/NAME"),
        ((*TRUST, ARN, "--service-account", "z"), "NAMESPACE:NAME"),
        (("policy", "--published", "--full"), "--published is a document of its own"),
        (("policy", "--published", "--for-images", "my-images"), "is a document of its own"),
        (("policy", "--for-images", "*"), "a bucket's name"),
        (("policy", "--region", "c n"), "a region such as cn-beijing"),
    ],
)
def test_wrong_words(words: tuple[str, ...], told: str) -> None:
    done = invoke(*words)
    assert (done.exit_code, done.stdout) == (2, "")
    assert told in done.stderr


@pytest.mark.parametrize("words", [("ram",), ("ram", "policy"), ("ram", "trust"), ("check",)], ids=" ".join)
def test_help(words: tuple[str, ...]) -> None:
    done = CliRunner().invoke(cli, [*words, "--help"], terminal_width=80)
    assert done.exit_code == 0
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "\\b" not in done.stdout
