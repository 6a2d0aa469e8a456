"""Tags: as they are sent, as they select resources, and as they are changed."""

from collections.abc import Callable, Mapping, MutableMapping
from typing import Any

from caa.fakecloud.actions import Action
from caa.fakecloud.errors import ApiError, missing
from caa.fakecloud.paging import token_page
from caa.fakecloud.parameters import Parameters

MAX_TAGS = 20
MAX_RESOURCES = 50
"""Of one call."""

Resources = Callable[[], Mapping[str, MutableMapping[str, str]]]
"""The tags of every resource of a type, by the resource's id."""


def read_tags(parameters: Parameters) -> dict[str, str]:
    """`Tag.N.Key` and `Tag.N.Value`. Raises ApiError for what no tag can be."""
    tags: dict[str, str] = {}
    for tag in parameters.objects("Tag"):
        key, value = tag.get("Key", ""), tag.get("Value", "")
        if not 0 < len(key) <= 128 or key.lower().startswith(("aliyun", "acs:")) or "://" in key:
            raise ApiError(400, "InvalidTagKey.Malformed", "The specified Tag.n.Key is not valid.")
        if len(value) > 128 or "://" in value:
            raise ApiError(400, "InvalidTagValue.Malformed", "The specified Tag.n.Value is not valid.")
        if key in tags:
            raise ApiError(400, "Duplicate.TagKey", "The Tag.N.Key contain duplicate key.")
        tags[key] = value
    if len(tags) > MAX_TAGS:
        raise ApiError(400, "InvalidTagCount", "The specified tags are beyond the permitted range.")
    return tags


def wanted_tags(parameters: Parameters) -> Callable[[Mapping[str, str]], bool]:
    """Whether tags have all that `Tag.N` names; one without a value only asks for its key."""
    wanted = [(tag.get("Key", ""), tag.get("Value")) for tag in parameters.objects("Tag")]
    return lambda tags: all(key in tags and value in (None, tags[key]) for key, value in wanted)


def show_tags(tags: Mapping[str, str], key: str = "TagKey", value: str = "TagValue") -> dict[str, Any]:
    """The form that answers have. ECS calls the fields TagKey and TagValue, VPC Key and Value."""
    return {"Tag": [{key: each, value: tags[each]} for each in tags]}


class TagActions:
    """TagResources, UntagResources and ListTagResources of one product."""

    def __init__(self, types: Mapping[str, Resources], untag: str = "UntagResources") -> None:
        """`types` is by ResourceType; `untag` is what the product calls that action."""
        self._types = {name.lower(): resources for name, resources in types.items()}
        self._untag = untag

    @property
    def actions(self) -> Mapping[str, Action]:
        return {
            "TagResources": self.tag_resources,
            self._untag: self.untag_resources,
            "ListTagResources": self.list_tag_resources,
        }

    def tag_resources(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept("RegionId", "ResourceType", "ResourceId.*", "Tag.*")
        resources = self._chosen(parameters)
        if len(list(parameters.objects("Tag"))) > MAX_TAGS:
            raise ApiError(400, "NumberExceed.Tags", "The Tags parameter's number is exceed , Valid : 20")
        tags = read_tags(parameters)
        if not tags:
            raise missing("Tag.1.Key")
        if any(len({*of, *tags}) > MAX_TAGS for of in resources.values()):
            raise ApiError(
                400,
                "OperationDenied.QuotaExceed",
                "The quota of tags on resource is beyond permitted range.",
            )
        for of in resources.values():
            of.update(tags)
        return {}

    def untag_resources(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept("RegionId", "ResourceType", "ResourceId.*", "TagKey.*", "All")
        resources = self._chosen(parameters)
        keys = parameters.texts("TagKey")
        for of in resources.values():
            for key in keys or (list(of) if parameters.boolean("All") else []):
                of.pop(key, None)
        return {}

    def list_tag_resources(self, parameters: Parameters) -> dict[str, Any]:
        parameters.accept("RegionId", "ResourceType", "ResourceId.*", "Tag.*", "NextToken", "MaxResults")
        kind, every = self._of_type(parameters)
        ids, wanted = parameters.texts("ResourceId"), wanted_tags(parameters)
        if not ids and not list(parameters.objects("Tag")):
            raise missing("ResourceId.1")
        found = [
            {"ResourceId": each, "ResourceType": kind, "TagKey": key, "TagValue": value}
            for each, tags in every.items()
            if (not ids or each in ids) and wanted(tags)
            for key, value in tags.items()
        ]
        page, answer = token_page(parameters, found, default=50, largest=1000)
        return answer | {"TagResources": {"TagResource": page}}

    def _of_type(self, parameters: Parameters) -> tuple[str, Mapping[str, MutableMapping[str, str]]]:
        kind = parameters.required("ResourceType")
        resources = self._types.get(kind.lower())
        if resources is None:
            raise ApiError(
                404,
                "InvalidResourceType.NotFound",
                "The ResourceType provided does not exist in our records.",
            )
        return kind, resources()

    def _chosen(self, parameters: Parameters) -> dict[str, MutableMapping[str, str]]:
        _, every = self._of_type(parameters)
        ids = parameters.texts("ResourceId")
        if not ids:
            raise missing("ResourceId.1")
        if len(ids) > MAX_RESOURCES:
            raise ApiError(
                400,
                "NumberExceed.ResourceIds",
                "The ResourceIds parameter's number is exceed , Valid : 50",
            )
        if not every.keys() >= set(ids):
            raise ApiError(
                404, "InvalidResourceId.NotFound", "The specified ResourceIds are not found in our records."
            )
        return {each: every[each] for each in ids}
