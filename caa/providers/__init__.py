"""What a cloud must offer (`Provider`), and in folders of their own the clouds that do.

`caa.providers.alibabacloud` is not imported here: its SDK costs more than half a second of start-up time.
"""

from caa.providers.base import LaunchPlan, Provider, VmOrder

__all__ = ["LaunchPlan", "Provider", "VmOrder"]
