"""What a cloud must offer (`Provider`), and in folders of their own the clouds that do.

`caa.providers.alibabacloud` is not imported here: its SDK is for a process that uses that cloud.
"""

from caa.providers.base import (
    SANDBOX,
    CallObserver,
    CloudCall,
    Holding,
    InstanceLabels,
    Keep,
    Provider,
    Reaping,
    Stray,
    VmOrder,
)

__all__ = [
    "SANDBOX",
    "CallObserver",
    "CloudCall",
    "Holding",
    "InstanceLabels",
    "Keep",
    "Provider",
    "Reaping",
    "Stray",
    "VmOrder",
]
