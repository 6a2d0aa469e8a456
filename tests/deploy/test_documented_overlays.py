"""The overlays that docs/ has operators write, built as they would."""

import os
import re
import subprocess
import textwrap
from pathlib import Path

import manifests
import pytest
import yaml

DOCS = Path(__file__).parents[2] / "docs"
TOKEN_FILE = "ALIBABA_CLOUD_OIDC_TOKEN_FILE"


def block(page: str, language: str, has: str) -> str:
    """The one code block of a page with these words in it."""
    blocks = re.findall(
        rf"^( *)```{language}\n(.*?)^\1```", (DOCS / page).read_text(), re.MULTILINE | re.DOTALL
    )
    (found,) = (textwrap.dedent(text) for _, text in blocks if has in text)
    return found


@pytest.fixture
def folder(overlays: Path) -> Path:
    """my-cluster, beside deploy."""
    folder = overlays.parents[2] / "my-cluster"
    folder.mkdir(exist_ok=True)
    for old in folder.iterdir():
        old.unlink()
    return folder


def test_of_your_own(folder: Path) -> None:
    text = block("install.md", "yaml", "- ../deploy/kustomize/overlays/ack\n")
    overlay = yaml.safe_load(re.sub("^# ", "", text, flags=re.MULTILINE))  # the components, too
    overlay["patches"] += yaml.safe_load(block("upgrade.md", "yaml", "OnDelete"))["patches"]
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    built = manifests.build(folder)
    assert {each.container["image"] for each in built.workloads()} == {
        "registry.example.com/team/cloud-api-adaptor:0.1.0"
    }
    environ = built.environment(built.daemon().container)
    assert environ["IMAGEID"] == "m-…"
    assert environ["ALIBABA_CLOUD_ROLE_ARN"] == "acs:ram::…:role/caa"
    assert environ[TOKEN_FILE], "what the overlay ack has stays"
    assert built.one("PodMonitor", "cloud-api-adaptor")
    assert built.one("Deployment", "cloud-api-adaptor-reaper")
    account = built.one("ServiceAccount", "cloud-api-adaptor")
    assert set(account["metadata"]["annotations"].values()) == {"caa"}
    daemons = built.one("DaemonSet", "cloud-api-adaptor-daemonset")
    assert daemons["spec"]["updateStrategy"] == {"type": "OnDelete"}


def test_of_the_way_from_an_empty_account(folder: Path) -> None:
    commands, _, _ = block("alibabacloud.md", "sh", "my-cluster/kustomization.yaml").partition("kubectl")
    names = set(re.findall(r"\$([A-Z_]+)", commands))
    given = {name: f"the-{name.lower()}" for name in names}
    environ = {**os.environ, **given}
    subprocess.run(["sh", "-euc", commands], cwd=folder.parent, env=environ, check=True)
    built = manifests.build(folder)
    daemon = built.daemon().container
    assert daemon["image"] == "the-registry/cloud-api-adaptor:the-version"
    environ = built.environment(daemon)
    assert environ["VSWITCH_ID"] == "the-vswitch_id"
    assert environ["ALIBABA_CLOUD_OIDC_PROVIDER_ARN"] == "the-oidc_arn"
    assert environ[TOKEN_FILE]


def test_of_settings_that_were_taken_along(folder: Path) -> None:
    overlay = yaml.safe_load(block("install.md", "yaml", "envs: [peer-pods-cm.env]"))
    (folder / "kustomization.yaml").write_text(yaml.safe_dump(overlay))
    (folder / "peer-pods-cm.env").write_text("CLOUD_PROVIDER=alibabacloud\nTAGS=a=b,c=d\nVXLAN_PORT=\n")
    (folder / "peer-pods-secret.env").write_text("ALIBABACLOUD_ACCESS_KEY_SECRET=a=b==\n")
    built = manifests.build(folder)
    environ = built.environment(built.daemon().container)
    assert environ["TAGS"] == "a=b,c=d"
    assert environ["VXLAN_PORT"] == ""
    assert environ["ALIBABACLOUD_ACCESS_KEY_SECRET"] == "a=b=="
