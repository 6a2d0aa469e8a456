"""Alibaba Cloud: pod VMs as ECS instances, by the calls and rights of the published RAM policy.

The only folder that imports the cloud's SDK, which costs start-up time: import it where a cloud is used.
"""

from caa.providers.alibabacloud.provider import AlibabaCloud

__all__ = ["AlibabaCloud"]
