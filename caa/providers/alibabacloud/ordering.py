"""What is asked of the cloud for a pod: the requests, from settings and order. Pure."""

import base64
from collections.abc import Mapping
from typing import Any

from caa.config import AlibabaCloudSettings
from caa.errors import InvalidArgumentError
from caa.providers.alibabacloud import strays
from caa.providers.alibabacloud.holding import Order, Place
from caa.providers.base import VmOrder
from caa.providers.instance_types import Demand, Size, fitting

LONGEST_TAG = 128
"""Characters of a tag's value. A pod's name may be longer."""


class Orders:
    def __init__(self, settings: AlibabaCloudSettings, node: str) -> None:
        self._settings = settings
        self._node = node
        self.candidates: tuple[str, ...] = settings.instance_types or (settings.instance_type,)
        """Instance types that a pod may get. None: the launch template decides."""
        if settings.launch_template_name and not settings.given & {"instance_types", "instance_type"}:
            self.candidates = ()

    def order(self, order: VmOrder, sizes: Mapping[str, Size], *, vpc: str = "") -> Order:
        """What is set here goes on top of the launch template, if there is one. A confidential instance and
        its charge type are always asked for by name: no template may quietly make it another."""
        settings = self._settings
        tags = {
            **settings.tags,
            **order.tags,
            **strays.tags(self._node, order.sandbox_id, order.pod_name, order.pod_namespace),
        }
        request: dict[str, Any] = {
            "RegionId": settings.region,
            "InstanceChargeType": "PostPaid",
            "Amount": 1,
            "InstanceName": order.name,
            "UserData": base64.b64encode(order.user_data).decode(),
            "Tag": [{"Key": key, "Value": value[:LONGEST_TAG]} for key, value in tags.items()],
        }
        if settings.launch_template_name:
            request["LaunchTemplateName"] = settings.launch_template_name
        if image := order.image or settings.image_id:
            request["ImageId"] = image
        if settings.security_group_ids:
            request["SecurityGroupIds"] = list(settings.security_group_ids)
        if settings.key_name:
            request["KeyPairName"] = settings.key_name
        disk_wanted = not settings.launch_template_name or "system_disk_size" in settings.given
        if settings.system_disk_size and disk_wanted:
            request["SystemDisk"] = {"Category": "cloud_essd", "Size": settings.system_disk_size}
        if not settings.disable_cvm:
            request["SecurityOptions"] = {"ConfidentialComputingMode": "TDX"}
        if settings.use_public_ip:
            request |= {"InternetChargeType": "PayByTraffic", "InternetMaxBandwidthOut": 100}
        types = self._types(order, sizes)
        return Order(
            request=request,
            token=order.client_token,
            places=tuple(
                Place(instance_type, vswitch)
                for vswitch in settings.vswitch_ids or ("",)
                for instance_type in types
            ),
            interface=self._interface(order, vpc) if order.second_interface else None,
            eip=self._eip(order, vpc) if order.second_interface and settings.use_public_ip else None,
        )

    def _types(self, order: VmOrder, sizes: Mapping[str, Size]) -> tuple[str, ...]:
        if not self.candidates:
            if order.instance_type:
                raise InvalidArgumentError(
                    f"the pod asks for instance type {order.instance_type}, but the type is the launch"
                    " template's: add it to PODVM_INSTANCE_TYPES or remove the pod's annotation"
                )
            return ("",)
        default = self._settings.instance_type
        return fitting(
            self.candidates,
            sizes,
            Demand(order.vcpus, order.memory_mib, order.gpus),
            default=default if default in self.candidates else self.candidates[0],
            named=order.instance_type,
        )

    def _interface(self, order: VmOrder, vpc: str) -> Mapping[str, Any]:
        return {
            "SecurityGroupId": self._settings.security_group_ids[0],
            "NetworkInterfaceName": f"peerpod-nic-{order.sandbox_id}"[:128],
            "Description": strays.mark(self._node, vpc, order.sandbox_id),
            "DeleteOnRelease": "true",
        }

    def _eip(self, order: VmOrder, vpc: str) -> Mapping[str, Any]:
        return {
            "RegionId": self._settings.region,
            "Bandwidth": "100",
            "InternetChargeType": "PayByTraffic",
            "InstanceChargeType": "PostPaid",
            "Name": f"peerpod-eip-{order.sandbox_id}"[:128],
            "Description": strays.mark(self._node, vpc, order.sandbox_id),
            "ClientToken": f"{order.client_token}-eip",
        }


def request_at(place: Place, order: Order) -> dict[str, Any]:
    """RunInstances for one place. Each has a token of its own, since a token's request may not change."""
    request = {**order.request, "ClientToken": f"{order.token}-{order.places.index(place)}"}
    if place.instance_type:
        request["InstanceType"] = place.instance_type
    if place.vswitch:
        request["VSwitchId"] = place.vswitch
    if order.interface:
        secondary = {"InstanceType": "Secondary", "VSwitchId": place.vswitch}
        request["NetworkInterface"] = [{**order.interface, **secondary}]
    return request
