"""What to grant."""

import json
import re
from collections.abc import Mapping
from typing import Any

import click

from caa.cli.group import cli

_OPTIONAL = ("fewer-calls", "gc", "check")


@cli.group()
def ram() -> None:
    """Print the RAM documents to grant: the policy of the daemon's role, and whom the role trusts."""


@ram.command()
@click.option(
    "--second-interface",
    envvar="EXTERNAL_NETWORK_VIA_PODVM",
    show_envvar=True,
    is_flag=True,
    help="For pods that reach the outside by a second interface of their VM.",
)
@click.option(
    "--public-ip",
    envvar="USE_PUBLIC_IP",
    show_envvar=True,
    is_flag=True,
    help="For VMs with public addresses.",
)
@click.option(
    "--optional",
    type=click.Choice(_OPTIONAL),
    multiple=True,
    help="Rights that the daemon can do without. fewer-calls: one question for all VMs, sizes of instance"
    " types from the cloud. gc: find leftovers. check: what `caa check` asks. (Repeatable.)",
)
@click.option("--full", is_flag=True, help="Everything: both features and all optional rights.")
@click.option("--region", help="Create and delete in this region only; default: in any.")
@click.option("--published", is_flag=True, help="The document of the guide, as many have granted it.")
@click.option("--for-images", metavar="BUCKET", help="The rights of who runs `caa image import`, instead.")
@click.option("--explain", is_flag=True, help="Print what each right is for, instead of the document.")
def policy(
    second_interface: bool,
    public_ip: bool,
    optional: tuple[str, ...],
    full: bool,
    region: str | None,
    published: bool,
    for_images: str | None,
    explain: bool,
) -> None:
    """Print the policy with the least rights that the daemon needs for the features that are on.

    \b
      aliyun ram CreatePolicy --PolicyName caa \\
        --PolicyDocument "$(caa ram policy --optional fewer-calls)"
      aliyun ram AttachPolicyToRole --PolicyType Custom \\
        --PolicyName caa --RoleName caa-alibaba
    """  # noqa: D301  \b tells click not to wrap what follows
    from caa.providers.alibabacloud import ram as rights  # noqa: PLC0415  see the docstring of `caa/cli/__init__.py`

    for flag, given in (("--published", published), ("--for-images", for_images)):
        if given and (full or optional or region or explain or (published and for_images)):
            raise click.UsageError(f"{flag} is a document of its own: give it alone")
    if for_images and not re.fullmatch(r"[a-z0-9][a-z0-9-]{1,61}[a-z0-9]", for_images):
        raise click.BadParameter(f"{for_images!r}; allowed: a bucket's name", param_hint="--for-images")
    if region and not re.fullmatch(r"[a-z0-9-]+", region):
        raise click.BadParameter(f"{region!r}; allowed: a region such as cn-beijing", param_hint="--region")
    if published:
        _print(rights.PUBLISHED)
        return
    if for_images:
        _print(rights.image_policy(for_images))
        return
    names = dict(zip(_OPTIONAL, rights.OPTIONAL, strict=True))
    needs = rights.needs(second_interface=second_interface or full, public_ip=public_ip or full)
    needs |= {need for name, need in names.items() if full or name in optional}
    if explain:
        for need in (each for each in rights.Need if each in needs):
            click.echo(need.value)
            for right in rights.rights([need]):
                click.echo(f"  {right.action:<36}{right.why}")
        return
    _print(rights.policy(needs, region=region or ""))


@ram.command()
@click.option(
    "--issuer", required=True, metavar="URL", help="The cluster's OIDC issuer (rrsa_config.issuer)."
)
@click.option(
    "--provider-arn",
    required=True,
    envvar="ALIBABA_CLOUD_OIDC_PROVIDER_ARN",
    show_envvar=True,
    metavar="ARN",
    help="Its OIDC provider in RAM.",
)
@click.option(
    "--service-account",
    "service_accounts",
    multiple=True,
    default=["confidential-containers-system:cloud-api-adaptor"],
    show_default=True,
    metavar="NAMESPACE:NAME",
    help="The daemon's service account; once more for the reaper's (repeatable).",
)
def trust(issuer: str, provider_arn: str, service_accounts: tuple[str, ...]) -> None:
    """Print the trust policy of the daemon's role: who may assume it.

    \b
      aliyun ram CreateRole --RoleName caa-alibaba \\
        --AssumeRolePolicyDocument "$(caa ram trust --issuer $ISSUER --provider-arn $ARN)"

    Both values are in the cluster's details, once RRSA is on:

    \b
      aliyun cs DescribeClusterDetail --ClusterId $CLUSTER_ID | jq -r .rrsa_config
    """  # noqa: D301  as above
    from caa.providers.alibabacloud import ram as rights  # noqa: PLC0415  see the docstring of `caa/cli/__init__.py`

    if not re.fullmatch(r"https?://[^\s,]+", issuer):
        raise click.BadParameter(f"{issuer!r}; allowed: one URL", param_hint="--issuer")
    if not re.fullmatch(r"acs:ram::\d+:oidc-provider/\S+", provider_arn):
        raise click.BadParameter(
            f"{provider_arn!r}; allowed: acs:ram::ACCOUNT:oidc-provider/NAME", param_hint="--provider-arn"
        )
    name = r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?"
    for account in service_accounts:
        if not re.fullmatch(f"{name}:{name}", account):
            raise click.BadParameter(f"{account!r}; allowed: NAMESPACE:NAME", param_hint="--service-account")
    _print(rights.trust(issuer=issuer, provider_arn=provider_arn, service_accounts=service_accounts))


def _print(document: Mapping[str, Any]) -> None:
    click.echo(json.dumps(document, indent=2))
