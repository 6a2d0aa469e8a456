"""How to call the cloud's SDK: its synchronous calls in threads, or its `*_async` calls?

Measures both over TLS against a server on loopback, in a process of its own, that answers at once: what is
seen is the client's share. Also: what importing the SDK's engine costs, and what the generated ECS and VPC
clients would add. Run: python bench/sdk_calls.py
"""

import asyncio
import datetime as dt
import ipaddress
import json
import platform
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from alibabacloud_tea_openapi.client import Client as Engine
from alibabacloud_tea_openapi.utils_models import Config, OpenApiRequest, Params
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from darabonba.runtime import RuntimeOptions

from caa.config import load
from caa.providers.alibabacloud.client import ECS, Client
from caa.providers.alibabacloud.credentials import AccessKey

OUT = Path(__file__).parent / "out"
ROUNDS, AT_ONCE = 60, 20
QUESTION = {"InstanceId": "i-2ze000000000000000000", "RegionId": "cn-beijing"}

Call = Callable[[], Awaitable[Any]]


def make_certificate(folder: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "bench")])
    loopback = x509.IPAddress(ipaddress.ip_address("127.0.0.1"))
    now = dt.datetime.now(dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(minutes=5))
        .not_valid_after(now + dt.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([loopback]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = serialization.PrivateFormat.PKCS8
    pem = key.private_bytes(serialization.Encoding.PEM, private, serialization.NoEncryption())
    (folder / "key.pem").write_bytes(pem)
    (folder / "cert.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))


def serve(folder: Path) -> None:
    async def answer(request: web.Request) -> web.Response:
        await request.read()
        return web.json_response({"RequestId": "1", "Status": "Running"})

    async def run() -> None:
        app = web.Application()
        app.router.add_post("/", answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        print(runner.addresses[0][1], flush=True)
        await asyncio.Event().wait()

    asyncio.run(run())


async def measure(call: Call) -> dict[str, float]:
    """Milliseconds: the first call, the median of one at a time, and of one of many at once."""
    started = time.perf_counter()
    await call()
    first = time.perf_counter() - started

    singles = []
    for _ in range(ROUNDS):
        started = time.perf_counter()
        await call()
        singles.append(time.perf_counter() - started)

    await asyncio.gather(*(call() for _ in range(AT_ONCE)))  # connections that later calls find open
    bursts = []
    cpu = time.process_time()
    for _ in range(ROUNDS // 10):
        started = time.perf_counter()
        await asyncio.gather(*(call() for _ in range(AT_ONCE)))
        bursts.append(time.perf_counter() - started)
    cpu = time.process_time() - cpu
    return {
        "first": first * 1e3,
        "one at a time": statistics.median(singles) * 1e3,
        f"{AT_ONCE} at once, all": statistics.median(bursts) * 1e3,
        "CPU per call": cpu / len(bursts) / AT_ONCE * 1e3,
    }


async def compare(port: int, ca_file: str) -> dict[str, dict[str, float]]:
    environ = {"IMAGEID": "m-0", "VSWITCH_ID": "vsw-0", "SECURITY_GROUP_IDS": "sg-0"}
    environ |= {"ALIBABACLOUD_ACCESS_KEY_ID": "LTAI-bench", "ALIBABACLOUD_ACCESS_KEY_SECRET": "bench"}
    key = AccessKey(load({}, environ).alibabacloud)
    endpoint = f"https://127.0.0.1:{port}"
    client = Client(ECS, endpoint=endpoint, region="cn-beijing", ca_file=ca_file, credentials=key)
    engine = Engine(
        Config(
            credential=key.sdk,
            protocol="https",
            endpoint=f"127.0.0.1:{port}",
            connect_timeout=5000,
            read_timeout=15000,
            ca=ca_file,
        )
    )
    params = Params(
        action="DescribeInstanceAttribute",
        version=ECS.version,
        protocol="HTTPS",
        pathname="/",
        method="POST",
        auth_type="AK",
        style="RPC",
        req_body_type="formData",
        body_type="json",
    )
    try:
        return {
            "sync in threads": await measure(lambda: client.call("DescribeInstanceAttribute", QUESTION)),
            "async": await measure(
                lambda: engine.call_api_async(params, OpenApiRequest(body=QUESTION), RuntimeOptions())
            ),
        }
    finally:
        await client.close()


IMPORTS = {
    "engine": "alibabacloud_tea_openapi.client",
    "engine, generated ECS and VPC": "alibabacloud_ecs20140526.client, alibabacloud_vpc20160428.client",
}
# In a process that has what the daemon imports anyway.
IMPORT_PROBE = """
import aiohttp, grpc, pydantic, structlog, time
def resident(): return int(open("/proc/self/statm").read().split()[1]) * 4 / 1024
before, started = resident(), time.perf_counter()
import {modules}
print(time.perf_counter() - started, resident() - before)
"""


def measure_imports() -> dict[str, dict[str, float]]:
    rows = {}
    for name, modules in IMPORTS.items():
        probe = [sys.executable, "-c", IMPORT_PROBE.format(modules=modules)]
        runs = []
        for _ in range(5):
            done = subprocess.run(probe, capture_output=True, text=True, check=False)
            if done.returncode:
                break  # the generated clients are not installed
            runs.append([float(number) for number in done.stdout.split()])
        if runs:
            seconds, mebibytes = (statistics.median(column) for column in zip(*runs, strict=True))
            rows[name] = {"seconds": seconds, "MiB": mebibytes}
    return rows


def show(title: str, rows: dict[str, dict[str, float]]) -> None:
    columns = list(next(iter(rows.values())))
    print(f"\n{title}")
    print(" " * 32 + "".join(f"{column:>20}" for column in columns))
    for name, row in rows.items():
        print(f"{name:<32}" + "".join(f"{row[column]:>20.2f}" for column in columns))


def main() -> None:
    if sys.argv[1:2] == ["--serve"]:
        serve(Path(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory() as folder:
        make_certificate(Path(folder))
        command = [sys.executable, __file__, "--serve", folder]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout
            try:
                calls = asyncio.run(compare(int(server.stdout.readline()), f"{folder}/cert.pem"))
            finally:
                server.terminate()
    imports = measure_imports()
    show("Calls over TLS on loopback, milliseconds", calls)
    ratios = {name: calls["async"][name] / calls["sync in threads"][name] for name in calls["async"]}
    print(f"{'async : sync':<32}" + "".join(f"{ratio:>20.1f}" for ratio in ratios.values()))
    if imports:
        show("Imports on top of the daemon's own", imports)
    OUT.mkdir(exist_ok=True)
    result = {
        "python": platform.python_version(),
        "calls_ms": calls,
        "async_to_sync": ratios,
        "imports": imports,
    }
    (OUT / "sdk_calls.json").write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
