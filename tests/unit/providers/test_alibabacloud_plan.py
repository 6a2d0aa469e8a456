import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from caa.config import AlibabaCloudSettings
from caa.errors import InvalidArgumentError, StartupError
from caa.providers import Holding, Provider, VmOrder
from caa.providers.alibabacloud import AlibabaCloud
from caa.providers.alibabacloud.holding import Held, Order
from caa.providers.alibabacloud.ordering import request_at

MakeSettings = Callable[..., AlibabaCloudSettings]


def order(**changes: Any) -> VmOrder:
    values: dict[str, Any] = {
        "sandbox_id": "ab" * 32,
        "pod_name": "web",
        "pod_namespace": "shop",
        "name": "podvm-web-abababab",
        "user_data": b"#cloud-config\n\xff",
        "client_token": "caa-abab-1",
        "vcpus": 1,
        "memory_mib": 2048,
    }
    return VmOrder(**(values | changes))


def ordered(settings: AlibabaCloudSettings, **changes: Any) -> Order:
    provider: Provider = AlibabaCloud(settings, node="worker-1")
    held = Held(json.loads(json.dumps(provider.plan(order(**changes)))), never)
    assert held.order
    return held.order


def planned(settings: AlibabaCloudSettings, **changes: Any) -> dict[str, Any]:
    placed = ordered(settings, **changes)
    return request_at(placed.places[0], placed)


async def never(_holding: Holding) -> None:
    raise AssertionError


def test_the_request_by_default(make_settings: MakeSettings) -> None:
    assert planned(make_settings(TAGS="team=ml")) == {
        "RegionId": "cn-beijing",
        "ImageId": "m-1",
        "InstanceType": "ecs.g8i.xlarge",
        "InstanceChargeType": "PostPaid",
        "Amount": 1,
        "VSwitchId": "vsw-1",
        "SecurityGroupIds": ["sg-1", "sg-2"],
        "InstanceName": "podvm-web-abababab",
        "UserData": base64.b64encode(b"#cloud-config\n\xff").decode(),
        "Tag": [
            {"Key": "team", "Value": "ml"},
            {"Key": "caa-node", "Value": "worker-1"},
            {"Key": "caa-sandbox", "Value": "ab" * 32},
            {"Key": "caa-pod", "Value": "web"},
            {"Key": "caa-namespace", "Value": "shop"},
        ],
        "ClientToken": "caa-abab-1-0",
        "SystemDisk": {"Category": "cloud_essd", "Size": 40},
        "SecurityOptions": {"ConfidentialComputingMode": "TDX"},
    }


def test_the_request_with_every_option_the_other_way(make_settings: MakeSettings) -> None:
    settings = make_settings(
        DISABLECVM="true",
        SYSTEM_DISK_SIZE="0",
        KEYNAME="ops",
        USE_PUBLIC_IP="1",
        VSWITCH_ID="vsw-1,vsw-2",
        TAGS="caa-pod=forged",
    )
    request = planned(settings, image="m-2", tags={"extra": "1"})
    assert "SecurityOptions" not in request
    assert "SystemDisk" not in request
    assert request["KeyPairName"] == "ops"
    assert (request["InternetChargeType"], request["InternetMaxBandwidthOut"]) == ("PayByTraffic", 100)
    assert request["VSwitchId"] == "vsw-1"
    assert request["ImageId"] == "m-2"
    tags = {tag["Key"]: tag["Value"] for tag in request["Tag"]}
    assert tags["extra"] == "1"
    assert tags["caa-pod"] == "web"
    assert len(tags) == len(request["Tag"])


def test_every_type_that_fits_is_tried_in_every_vswitch(make_settings: MakeSettings) -> None:
    settings = make_settings(
        PODVM_INSTANCE_TYPES="ecs.g8i.4xlarge,ecs.g8i.xlarge,ecs.g8i.large", VSWITCH_ID="vsw-1,vsw-2"
    )
    order = ordered(settings, vcpus=3)
    assert order.places == (
        ("ecs.g8i.xlarge", "vsw-1"),
        ("ecs.g8i.4xlarge", "vsw-1"),
        ("ecs.g8i.xlarge", "vsw-2"),
        ("ecs.g8i.4xlarge", "vsw-2"),
    )
    requests = [request_at(place, order) for place in order.places]
    assert len({request["ClientToken"] for request in requests}) == 4
    for place, request in zip(order.places, requests, strict=True):
        assert (request["InstanceType"], request["VSwitchId"]) == place


def test_a_second_interface_is_made_with_the_instance(make_settings: MakeSettings) -> None:
    order = ordered(make_settings(), second_interface=True)
    assert order.eip is None
    assert request_at(order.places[0], order)["NetworkInterface"] == [
        {
            "InstanceType": "Secondary",
            "VSwitchId": "vsw-1",
            "SecurityGroupId": "sg-1",
            "NetworkInterfaceName": f"peerpod-nic-{'ab' * 32}",
            "Description": f"caa-node=worker-1 caa-vpc= caa-sandbox={'ab' * 32}",
            "DeleteOnRelease": "true",
        }
    ]


def test_a_second_interface_gets_an_eip_where_the_first_has_a_public_address(
    make_settings: MakeSettings,
) -> None:
    order = ordered(make_settings(USE_PUBLIC_IP="true"), second_interface=True)
    assert order.eip
    assert order.eip["ClientToken"] == "caa-abab-1-eip"
    assert ordered(make_settings(USE_PUBLIC_IP="true")).eip is None


def test_what_the_user_set_goes_on_top_of_a_launch_template(make_settings: MakeSettings) -> None:
    bare = {"PODVM_LAUNCHTEMPLATE_NAME": "pods", "IMAGEID": "", "VSWITCH_ID": "", "SECURITY_GROUP_IDS": ""}
    request = planned(make_settings(**bare))
    assert request.keys() == {
        "RegionId",
        "LaunchTemplateName",
        "InstanceChargeType",
        "Amount",
        "InstanceName",
        "UserData",
        "Tag",
        "ClientToken",
        "SecurityOptions",
    }
    more = {"PODVM_INSTANCE_TYPE": "ecs.g8i.2xlarge", "SYSTEM_DISK_SIZE": "60", "KEYNAME": "ops"}
    on_top = planned(make_settings(**(bare | more | {"IMAGEID": "m-2", "DISABLECVM": "true"})))
    assert on_top["LaunchTemplateName"] == "pods"
    assert on_top["InstanceType"] == "ecs.g8i.2xlarge"
    assert on_top["SystemDisk"] == {"Category": "cloud_essd", "Size": 60}
    assert (on_top["KeyPairName"], on_top["ImageId"]) == ("ops", "m-2")
    assert "SecurityOptions" not in on_top
    with pytest.raises(InvalidArgumentError, match=r"ecs\.g7\.large.*the launch template's"):
        planned(make_settings(**bare), instance_type="ecs.g7.large")


def test_one_pods_choices_stay_with_that_pod(make_settings: MakeSettings) -> None:
    provider = AlibabaCloud(make_settings())
    first = provider.plan(order())
    provider.plan(order(image="m-other", vcpus=4))
    assert provider.plan(order()) == first


def test_a_name_that_is_too_long_for_a_tag_is_cut(make_settings: MakeSettings) -> None:
    request = planned(make_settings(), pod_name="p" * 253)
    assert {"Key": "caa-pod", "Value": "p" * 128} in request["Tag"]


def test_the_type_is_chosen_by_demand(make_settings: MakeSettings) -> None:
    settings = make_settings(PODVM_INSTANCE_TYPES="ecs.g8i.4xlarge,ecs.g8i.xlarge,ecs.gn8is.2xlarge")
    assert planned(settings)["InstanceType"] == "ecs.g8i.xlarge"
    assert planned(settings, vcpus=5)["InstanceType"] == "ecs.g8i.4xlarge"
    assert planned(settings, gpus=1)["InstanceType"] == "ecs.gn8is.2xlarge"
    assert planned(settings, instance_type="ecs.g8i.4xlarge")["InstanceType"] == "ecs.g8i.4xlarge"
    with pytest.raises(InvalidArgumentError, match=r"64 vCPUs.*ecs\.g8i\.4xlarge: 16 vCPUs, 65536 MiB"):
        planned(settings, vcpus=64)


def test_without_a_demand_the_configured_type_is_taken_if_it_is_listed(make_settings: MakeSettings) -> None:
    none = {"vcpus": 0, "memory_mib": 0}
    listed = make_settings(PODVM_INSTANCE_TYPES="ecs.g8i.large,ecs.g8i.xlarge")
    assert planned(listed, **none)["InstanceType"] == "ecs.g8i.xlarge"
    others = make_settings(PODVM_INSTANCE_TYPES="ecs.g7.2xlarge,ecs.g7.large")
    assert planned(others, **none)["InstanceType"] == "ecs.g7.2xlarge"


@pytest.mark.parametrize("value", ["ftp://x", "http://", "https://host/path", "http://host:1/?q=1"])
def test_an_endpoint_that_is_none(make_settings: MakeSettings, value: str) -> None:
    with pytest.raises(StartupError, match="ALIBABACLOUD_ECS_ENDPOINT"):
        AlibabaCloud(make_settings(ALIBABACLOUD_ECS_ENDPOINT=value))


def test_a_ca_file_that_is_none(make_settings: MakeSettings, tmp_path: Path) -> None:
    path = tmp_path / "ca"
    with pytest.raises(StartupError, match=f"ALIBABACLOUD_CA_FILE={path}: No such file"):
        AlibabaCloud(make_settings(ALIBABACLOUD_CA_FILE=str(path)))
    path.write_text("not a certificate")
    with pytest.raises(StartupError, match=f"ALIBABACLOUD_CA_FILE={path}: .*NO_CERTIFICATE"):
        AlibabaCloud(make_settings(ALIBABACLOUD_CA_FILE=str(path)))
