"""Runs Kubernetes pods as confidential virtual machines on Alibaba Cloud ECS."""

__version__ = "0.1.0"
