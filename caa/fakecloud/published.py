"""What the installation guide has users grant: the role's policy, and whom the role trusts."""

import json

PUBLISHED_POLICY = """
{
  "Version": "1",
  "Statement": [
    {
      "Effect": "Allow",
      "Action": [
        "ecs:RunInstances",
        "ecs:DeleteInstance",
        "ecs:DescribeInstanceAttribute",
        "ecs:CreateNetworkInterface",
        "ecs:DeleteNetworkInterface",
        "ecs:AttachNetworkInterface",
        "ecs:ModifyNetworkInterfaceAttribute",
        "ecs:DescribeNetworkInterfaceAttribute",
        "vpc:DescribeVSwitchAttributes",
        "vpc:AllocateEipAddress",
        "vpc:ReleaseEipAddress",
        "vpc:AssociateEipAddress",
        "vpc:UnassociateEipAddress",
        "vpc:DescribeEipAddresses"
      ],
      "Resource": "*"
    }
  ]
}
"""

FULL_POLICY = """
{"Version": "1", "Statement": [{"Effect": "Allow", "Action": "*", "Resource": "*"}]}
"""


def trust_policy(*, provider_arn: str, issuer: str, audience: str, subject: str) -> str:
    """Tokens of this issuer, for this audience, of this service account, may assume the role."""
    condition = {"oidc:iss": [issuer], "oidc:aud": [audience], "oidc:sub": [subject]}
    statement = {
        "Effect": "Allow",
        "Action": "sts:AssumeRole",
        "Principal": {"Federated": [provider_arn]},
        "Condition": {"StringEquals": condition},
    }
    return json.dumps({"Version": "1", "Statement": [statement]}, indent=2)
