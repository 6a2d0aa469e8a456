#!/bin/sh
# What the Go daemon's manifests and charts start. Ours start the entry point itself.
exec cloud-api-adaptor "${1:-${CLOUD_PROVIDER:-alibabacloud}}"
