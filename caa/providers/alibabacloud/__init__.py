"""Alibaba Cloud: pod VMs as ECS instances, by the calls and rights of the published RAM policy.

The only folder that imports the cloud's SDK, which costs start-up time: import it where a cloud is used.
"""

from caa.providers.alibabacloud.client import ECS, Client, Credentials
from caa.providers.alibabacloud.credentials import credentials_for
from caa.providers.alibabacloud.errors import ApiError, Kind, Rule, explained
from caa.providers.alibabacloud.provider import AlibabaCloud
from caa.providers.alibabacloud.retry import persist

__all__ = [
    "ECS",
    "AlibabaCloud",
    "ApiError",
    "Client",
    "Credentials",
    "Kind",
    "Rule",
    "credentials_for",
    "explained",
    "persist",
]
