"""Pod VM images, for an operator."""

import json
import os
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from caa.cli.common import cloud_settings_of, command_with_settings, seconds, until_signal
from caa.cli.group import cli
from caa.config import cloud_options

if TYPE_CHECKING:
    from caa.image import Image, Progress

INTERRUPTED = 130


@cli.group()
def image() -> None:
    """Bring a pod VM image into the cloud, and list the images that are there."""


@command_with_settings(
    image,
    name="import",
    settings=cloud_options,
    epilog="Rights that it takes: ecs:DescribeImages, ecs:ImportImage (ecs:DescribeTasks and"
    " ecs:DescribeTaskAttribute for the reason of a failure); in the bucket oss:GetBucketInfo, oss:PutObject,"
    " oss:GetObject, oss:DeleteObject, oss:ListMultipartUploads, oss:ListParts, oss:AbortMultipartUpload."
    " They are yours: the daemon needs none of them.",
)
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--bucket", required=True, help="OSS bucket in the image's region.")
@click.option("--object", "object_name", default="", help="Object to upload to; default: the file's name.")
@click.option("--name", default="", help="The image's name; default: the file's, without its ending.")
@click.option(
    "--platform",
    default="Aliyun",
    show_default=True,
    help="Distribution in the image, as ECS names it: Ubuntu, Fedora, Others Linux …",
)
@click.option("--keep-object", is_flag=True, help="Leave the object in the bucket after success.")
@click.option(
    "--discard", is_flag=True, help="Only remove what interrupted uploads of the object have left there."
)
@click.option(
    "--timeout",
    default="1h",
    show_default=True,
    callback=seconds,
    help="How long to wait for ECS after the upload.",
)
@click.option(
    "--oss-endpoint",
    envvar="ALIBABACLOUD_OSS_ENDPOINT",
    default="",
    help="OSS endpoint; default: the region's. From inside the region, oss-REGION-internal.aliyuncs.com"
    " takes no internet traffic.  [env: ALIBABACLOUD_OSS_ENDPOINT]",
)
def import_(
    flags: Mapping[str, str],
    file: Path,
    bucket: str,
    object_name: str,
    name: str,
    platform: str,
    keep_object: bool,
    discard: bool,
    timeout: float,
    oss_endpoint: str,
) -> None:
    """Make an ECS image of a disk image (QCOW2, VHD or raw) that boots by UEFI from an NVMe disk.

    Uploads FILE to OSS, has ECS import it, waits, removes the object, and prints the image's id:

    \b
      IMAGEID=$(caa image import podvm.qcow2 --bucket my-images)

    Interrupted, at any point, the same command goes on where it was.
    """  # noqa: D301  \b tells click not to wrap what follows
    settings = cloud_settings_of(flags)

    from caa.image import ImportOrder, discard_upload, import_image  # noqa: PLC0415  see the docstring of `caa/cli/__init__.py`
    from caa.providers.alibabacloud import credentials_for  # noqa: PLC0415  as above

    order = ImportOrder(
        file=file,
        bucket=bucket,
        object_name=object_name,
        name=name,
        platform=platform,
        keep_object=keep_object,
        oss_endpoint=oss_endpoint,
        timeout=timeout,
    )
    outcome: list[str] = []

    async def work() -> None:
        credentials = credentials_for(settings)
        try:
            if discard:
                number = await discard_upload(order, settings, credentials, _progress())
                outcome.append(f"{number} unfinished upload{'' if number == 1 else 's'} removed")
            else:
                outcome.append(await import_image(order, settings, credentials, _progress()))
        finally:
            await credentials.close()

    until_signal(work())
    if not outcome:
        sys.exit(INTERRUPTED)
    click.echo(outcome[0], err=discard)


@command_with_settings(
    image, name="ls", settings=cloud_options, epilog="Right that it takes: ecs:DescribeImages."
)
@click.option("--output", type=click.Choice(["table", "json"]), default="table", show_default=True)
def ls(flags: Mapping[str, str], output: str) -> None:
    """List the account's own images, and the one that IMAGEID names, whosever it is."""
    settings = cloud_settings_of(flags)
    chosen = os.environ.get("IMAGEID", "")

    from caa.image import list_images  # noqa: PLC0415  see the docstring of `caa/cli/__init__.py`
    from caa.providers.alibabacloud import credentials_for  # noqa: PLC0415  as above

    images: list[Image] = []

    async def work() -> None:
        credentials = credentials_for(settings)
        try:
            images.extend(await list_images(settings, credentials, chosen))
        finally:
            await credentials.close()

    until_signal(work())
    if output == "json":
        rows = [asdict(each) | {"imageid": each.id == chosen} for each in images]
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    elif images:
        _print_table(images, chosen)
    else:
        click.echo(f"no images in {settings.region}", err=True)


def _progress() -> "Progress":
    from caa.image import Bar, Lines  # noqa: PLC0415  see the docstring of `caa/cli/__init__.py`

    if not sys.stderr.isatty():
        return Lines(sys.stderr)
    from rich.console import Console  # noqa: PLC0415  as above

    return Bar(Console(stderr=True))


def _print_table(images: "list[Image]", chosen: str) -> None:
    from rich.console import Console  # noqa: PLC0415  see the docstring of `caa/cli/__init__.py`
    from rich.table import Table  # noqa: PLC0415  as above

    table = Table(box=None, pad_edge=False)
    table.add_column("id", no_wrap=True)
    table.add_column("name", overflow="fold")
    table.add_column("status", no_wrap=True)
    table.add_column("GiB", justify="right", no_wrap=True)
    table.add_column("created", no_wrap=True)
    table.add_column("boot", no_wrap=True)
    table.add_column("NVMe", no_wrap=True)
    for each in images:
        status = each.status if each.status != "Creating" else f"Creating {each.progress}"
        table.add_row(
            f"{'*' if each.id == chosen else ' '} {each.id}",
            each.name,
            status,
            str(each.size_gib),
            each.created[:10],
            each.boot_mode or "?",
            "yes" if each.nvme else "no",
        )
    Console().print(table)
    if chosen:
        click.echo(
            "* is IMAGEID" if any(each.id == chosen for each in images) else f"IMAGEID={chosen}: not found"
        )
