"""The ECS API, version 2014-05-26, as one table of what each of its parts can do."""

from collections.abc import Mapping

from caa.fakecloud.actions import Action, Service
from caa.fakecloud.ecs_enis import EniActions
from caa.fakecloud.ecs_instances import InstanceActions
from caa.fakecloud.ecs_offers import OfferActions
from caa.fakecloud.ecs_templates import TemplateActions
from caa.fakecloud.eips import Eips
from caa.fakecloud.enis import Enis
from caa.fakecloud.idempotency import ClientTokens
from caa.fakecloud.instances import Instances
from caa.fakecloud.region import Region
from caa.fakecloud.tags import TagActions
from caa.fakecloud.templates import Templates

VERSION = "2014-05-26"


def ecs(
    region: Region,
    instances: Instances,
    enis: Enis,
    eips: Eips,
    templates: Templates,
    *more: Mapping[str, Action],
) -> Service:
    """`more` are actions on what this does not know."""
    tokens = ClientTokens()
    tags = TagActions(
        {
            "instance": lambda: {each.id: each.tags for each in instances},
            "eni": lambda: {each.id: each.tags for each in enis},
        }
    )
    actions: dict[str, Action] = {}
    for table in (
        InstanceActions(region, instances, enis, eips, templates, tokens).actions,
        EniActions(region, instances, enis, eips, tokens).actions,
        OfferActions(region).actions,
        TemplateActions(region, templates).actions,
        tags.actions,
        *more,
    ):
        actions |= table
    return Service("ecs", VERSION, actions)
