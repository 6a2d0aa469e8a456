"""Bringing a pod VM image into the cloud, for an operator: `caa image import` and `caa image ls`.

A file is looked at (`disk`), uploaded to a bucket (`bucket`, `upload`), and made into an ECS image
(`catalog`); `importing` is the whole way. Its rights are the operator's; the daemon needs none of them.
"""

from caa.image.catalog import Image, list_images
from caa.image.importing import ImportOrder, discard_upload, import_image
from caa.image.progress import Bar, Lines, Progress

__all__ = [
    "Bar",
    "Image",
    "ImportOrder",
    "Lines",
    "Progress",
    "discard_upload",
    "import_image",
    "list_images",
]
