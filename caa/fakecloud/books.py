"""All that the local cloud has in its books, as plain data for whoever looks: the state of /local/state."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from caa.fakecloud.calls import CallLog
from caa.fakecloud.clock import Clock, timestamp
from caa.fakecloud.eips import Eip, Eips
from caa.fakecloud.enis import Eni, Enis
from caa.fakecloud.faults import Faults
from caa.fakecloud.images import ImageRecord, Images
from caa.fakecloud.instances import Instance, Instances, Status
from caa.fakecloud.settings import FakeCloudSettings
from caa.fakecloud.stock import Stock
from caa.fakecloud.vswitches import RESERVED_AT_END, AddressPool


@dataclass(frozen=True, kw_only=True)
class Books:
    settings: FakeCloudSettings
    clock: Clock
    instances: Instances
    enis: Enis
    eips: Eips
    images: Images
    pools: Sequence[AddressPool]
    stock: Stock
    calls: CallLog
    faults: Faults
    _stopping_since: dict[str, float] = field(default_factory=dict, init=False)

    def state(self, last_calls: int) -> dict[str, Any]:
        """Everything, with that many of the last calls. Times are seconds since the epoch where they are
        numbers.
        """
        calls = list(self.calls)
        return {
            "region": self.settings.region,
            "account": self.settings.account_id,
            "role": self.settings.role_name,
            "policy": str(self.settings.policy),
            "instances": self._instances(),
            "enis": [_eni(eni) for eni in self.enis],
            "eips": [_eip(eip) for eip in self.eips],
            "vswitches": [_vswitch(pool) for pool in self.pools],
            "stock": [
                {"zone": zone, "type": instance_type, "stock": left}
                for (zone, instance_type), left in self.stock.limits
            ],
            "images": [self._image(image) for image in self.images],
            "calls": [dataclasses.asdict(call) for call in calls[max(0, len(calls) - last_calls) :]],
            "faults": [fault.model_dump() for fault in self.faults],
            "limits": [
                {"action": action, "calls": limit.calls, "seconds": limit.seconds}
                for action, limit in sorted(self.settings.limits.items())
            ],
        }

    def _instances(self) -> list[dict[str, Any]]:
        shown = [self._instance(each) for each in self.instances]
        for gone in self._stopping_since.keys() - {each["id"] for each in shown}:
            del self._stopping_since[gone]
        return shown

    def _instance(self, instance: Instance) -> dict[str, Any]:
        status = self.instances.status(instance)
        return {
            "id": instance.id,
            "name": instance.order.name,
            "type": instance.order.type.id,
            "confidential": instance.order.confidential,
            "status": status,
            "status_since": self._since(instance, status),
            "power": instance.power.value,
            "visible": self.instances.visible(instance.id) is not None,
            "address": str(instance.address),
            "public_address": str(instance.public_address) if instance.public_address else None,
            "zone": instance.order.pool.vswitch.zone_id,
            "created_at": timestamp(instance.created_at),
            "tags": instance.tags,
        }

    def _since(self, instance: Instance, status: Status) -> float:
        """When the instance came into its status: by the timings, so that nobody had to watch. Only for
        Stopping is it when that was first seen.
        """
        timings = self.settings.timings
        match status:
            case Status.STOPPING:
                return self._stopping_since.setdefault(instance.id, self.clock.now())
            case Status.RUNNING:
                return instance.created_at + timings.running_after
            case Status.STARTING | Status.STOPPED:
                return instance.created_at + timings.starting_after
            case Status.PENDING:
                return instance.created_at

    def _image(self, image: ImageRecord) -> dict[str, Any]:
        return {
            "id": image.id,
            "name": image.name,
            "size_gib": image.size_gib,
            "status": self.images.status(image),
            "progress": self.images.progress(image),
            "tags": image.tags,
        }


def _vswitch(pool: AddressPool) -> dict[str, Any]:
    vswitch = pool.vswitch
    return {
        "id": vswitch.id,
        "zone": vswitch.zone_id,
        "cidr": str(vswitch.cidr),
        "addresses": vswitch.cidr.num_addresses - 1 - RESERVED_AT_END,
        "free": pool.available,
    }


def _eni(eni: Eni) -> dict[str, Any]:
    return {
        "id": eni.id,
        "name": eni.name,
        "primary": eni.primary,
        "status": eni.status,
        "instance": eni.instance,
        "address": str(eni.address),
        "created_at": timestamp(eni.created_at),
        "tags": eni.tags,
    }


def _eip(eip: Eip) -> dict[str, Any]:
    return {
        "id": eip.id,
        "name": eip.name,
        "status": eip.status,
        "instance": eip.instance,
        "address": str(eip.address),
        "created_at": timestamp(eip.created_at),
        "tags": eip.tags,
    }
