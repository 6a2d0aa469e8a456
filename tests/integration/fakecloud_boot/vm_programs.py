"""What tests' VMs run instead of the real programs: `python -m vm_programs provision|agent|forwarder`."""

import json
import os
import socket
import sys
import urllib.request
from pathlib import Path

USER_DATA = Path("/run/peerpod/user-data")
AGENT_SOCKET = "/run/kata-containers/agent.sock"


def provision() -> None:
    with urllib.request.urlopen("http://100.100.100.200/latest/user-data", timeout=30) as answer:
        USER_DATA.write_bytes(answer.read())
    print("provisioned")


def agent() -> None:
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(AGENT_SOCKET)
        server.listen()
        while True:
            server.accept()[0].close()


def forwarder() -> None:
    """Tells each connection what a program of this VM sees."""
    with socket.create_server(("0.0.0.0", 15150)) as server:
        while True:
            connection, _peer = server.accept()
            with connection:
                connection.sendall(json.dumps(_seen()).encode())


def _seen() -> dict[str, object]:
    return {
        "hostname": socket.gethostname(),
        "environment": dict(os.environ),
        "user data": USER_DATA.read_text() if USER_DATA.exists() else None,
        "processes": {
            entry.name: (entry / "comm").read_text().strip()
            for entry in Path("/proc").iterdir()
            if entry.name.isdigit()
        },
        "interfaces": sorted(entry.name for entry in Path("/sys/class/net").iterdir()),
        "run": sorted(entry.name for entry in Path("/run").iterdir()),
        "agent": Path(AGENT_SOCKET).exists(),
        "namespaces": sorted(entry.name for entry in Path("/run/netns").iterdir()),
        "own namespace": Path("/proc/self/ns/net").stat().st_ino,
        "podns": Path("/run/netns/podns").stat().st_ino,
        "descriptors": len(list(Path("/proc/self/fd").iterdir())),
    }


if __name__ == "__main__":
    {"provision": provision, "agent": agent, "forwarder": forwarder}[sys.argv[1]]()
