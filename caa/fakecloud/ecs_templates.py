"""ECS actions on launch templates."""

from collections.abc import Mapping
from typing import Any

from caa.fakecloud.actions import Action
from caa.fakecloud.clock import timestamp
from caa.fakecloud.errors import invalid
from caa.fakecloud.paging import number_page
from caa.fakecloud.parameters import Parameters
from caa.fakecloud.region import Region
from caa.fakecloud.tags import read_tags, show_tags
from caa.fakecloud.templates import Template, Templates

_KEPT = (
    "Description",
    "HostName",
    "ImageId",
    "InstanceChargeType",
    "InstanceName",
    "InstanceType",
    "InternetChargeType",
    "InternetMaxBandwidthOut",
    "KeyPairName",
    "NetworkInterface",
    "PrivateIpAddress",
    "SecurityGroupId",
    "SecurityGroupIds",
    "SystemDisk",
    "Tag",
    "UserData",
    "VSwitchId",
    "ZoneId",
)
"""What becomes part of a template, by the first word of a parameter's name."""


class TemplateActions:
    def __init__(self, region: Region, templates: Templates) -> None:
        self._region = region
        self._templates = templates

    @property
    def actions(self) -> Mapping[str, Action]:
        return {
            "CreateLaunchTemplate": self.create,
            "DescribeLaunchTemplates": self.describe,
            "DescribeLaunchTemplateVersions": self.describe_versions,
        }

    def create(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept(
            "RegionId",
            "LaunchTemplateName",
            "VersionDescription",
            "TemplateTag.*",
            *_KEPT,
            *(f"{word}.*" for word in _KEPT),
        )
        self._region.check(parameters)
        read_tags(parameters)
        kept = {
            key: value for key, value in parameters.values.items() if key.partition(".")[0] in _KEPT and value
        }
        tags = {
            key.replace("TemplateTag.", "Tag.", 1): value
            for key, value in parameters.values.items()
            if key.startswith("TemplateTag.")
        }
        name = parameters.required("LaunchTemplateName")
        template = self._templates.create(name, kept, read_tags(Parameters(tags)))
        return {"LaunchTemplateId": template.id, "LaunchTemplateVersionNumber": 1}

    def describe(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept("RegionId", "LaunchTemplateId.*", "LaunchTemplateName.*", "PageNumber", "PageSize")
        self._region.check(parameters)
        ids, names = parameters.texts("LaunchTemplateId"), parameters.texts("LaunchTemplateName")
        found = [
            each
            for each in self._templates
            if (not ids or each.id in ids) and (not names or each.name in names)
        ]
        part, answer = number_page(parameters, found, largest=50)
        sets = [self._describe(each) for each in part]
        return answer | {"LaunchTemplateSets": {"LaunchTemplateSet": sets}}

    def _describe(self, template: Template) -> dict[str, Any]:
        return {
            "LaunchTemplateId": template.id,
            "LaunchTemplateName": template.name,
            "CreateTime": timestamp(template.created_at),
            "ModifiedTime": timestamp(template.created_at),
            "CreatedBy": self._region.settings.account_id,
            "DefaultVersionNumber": 1,
            "LatestVersionNumber": len(template.versions),
            "Tags": show_tags(template.tags),
        }

    def describe_versions(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept(
            "RegionId",
            "LaunchTemplateId",
            "LaunchTemplateName",
            "LaunchTemplateVersion.*",
            "DefaultVersion",
            "DetailFlag",
            "PageNumber",
            "PageSize",
        )
        self._region.check(parameters)
        template_id, name = parameters.text("LaunchTemplateId"), parameters.text("LaunchTemplateName")
        template = self._templates.find(template_id, name)
        numbers = parameters.texts("LaunchTemplateVersion")
        if numbers and parameters.boolean("DefaultVersion"):
            raise invalid("LaunchTemplateVersion", "It can't be specified with DefaultVersion.")
        if parameters.boolean("DefaultVersion"):
            numbers = ["1"]
        found = [
            number for number in range(1, len(template.versions) + 1) if not numbers or str(number) in numbers
        ]
        part, answer = number_page(parameters, found, largest=50)
        sets = [self._describe_version(template, number) for number in part]
        return answer | {"LaunchTemplateVersionSets": {"LaunchTemplateVersionSet": sets}}

    def _describe_version(self, template: Template, number: int) -> dict[str, Any]:
        return {
            "LaunchTemplateId": template.id,
            "LaunchTemplateName": template.name,
            "VersionNumber": number,
            "DefaultVersion": number == 1,
            "CreateTime": timestamp(template.created_at),
            "CreatedBy": self._region.settings.account_id,
            "LaunchTemplateData": _data(Parameters(template.versions[number - 1])),
        }


def _data(version: Parameters) -> dict[str, Any]:
    plain = {key: value for key, value in version.values.items() if "." not in key}
    interfaces = [
        {key: value for key, value in each.items() if "." not in key}
        for each in version.objects("NetworkInterface")
    ]
    disk = {"Category": version.text("SystemDisk.Category")}
    size = version.integer("SystemDisk.Size", 0, low=1, high=32768)
    return plain | {
        "SecurityGroupIds": {"SecurityGroupId": version.texts("SecurityGroupIds")},
        "SystemDisk": disk | ({"Size": size} if size else {}),
        "NetworkInterfaces": {"NetworkInterface": interfaces},
        "Tags": {"InstanceTag": list(version.objects("Tag"))},
    }
