import base64
from pathlib import Path

import pytest

from caa.agent_proxy.create_container import TARGET_PATH, describe, pulls_image_in_guest, redact, rewrite
from caa.proto.agent_pb2 import CreateContainerRequest, Device, Mount, Process, Spec, Storage

CSI = "/var/lib/kubelet/pods/1234/volumes/kubernetes.io~csi/pv-{}/mount"
GPUS = "io.katacontainers.config.hypervisor.default_gpus"
CDI = "cdi.k8s.io/peer-pods"


def announce(folder: Path, path: str) -> None:
    (folder / base64.urlsafe_b64encode(path.encode()).decode()).mkdir()


def request(*sources: str, **annotations: str) -> CreateContainerRequest:
    spec = Spec(Mounts=[Mount(source=source, type="bind") for source in sources], Annotations=annotations)
    return CreateContainerRequest(container_id="c", OCI=spec)


def test_announced_csi_volumes_are_named_in_the_annotation(tmp_path: Path) -> None:
    one, two, unannounced, other = CSI.format(1), CSI.format(2), CSI.format(3), "/run/secrets"
    announce(tmp_path, one)
    announce(tmp_path, two)
    announce(tmp_path, other)  # not a CSI path
    asked = request(other, one, unannounced, two, one)
    assert rewrite(asked, tmp_path)
    assert dict(asked.OCI.Annotations) == {TARGET_PATH: f"{one},{two}"}


@pytest.mark.parametrize(
    ("before", "after"),
    [("/mnt/a", "/mnt/a,{}"), (" /mnt/a , ,", "/mnt/a,{}"), ("{},/mnt/a", "{},/mnt/a"), ("", "{}")],
)
def test_what_the_annotation_names_already_stays(tmp_path: Path, before: str, after: str) -> None:
    volume = CSI.format(1)
    announce(tmp_path, volume)
    asked = request(volume, **{TARGET_PATH: before.format(volume)})
    assert rewrite(asked, tmp_path) == (before != after)
    assert asked.OCI.Annotations[TARGET_PATH] == after.format(volume)


def test_a_path_too_long_for_a_file_name_is_not_announced(tmp_path: Path) -> None:
    assert not rewrite(request(CSI.format("x" * 300)), tmp_path)


def test_gpus_are_asked_for(tmp_path: Path) -> None:
    asked = request(**{GPUS: "1"})
    assert rewrite(asked, tmp_path)
    assert asked.OCI.Annotations[CDI] == "nvidia.com/gpu=all"
    assert not rewrite(asked, tmp_path)


@pytest.mark.parametrize(
    "asked", [CreateContainerRequest(), request("/a", **{GPUS: ""}), request("/a", other="x")]
)
def test_nothing_else_is_changed(tmp_path: Path, asked: CreateContainerRequest) -> None:
    before = asked.SerializeToString(deterministic=True)
    assert not rewrite(asked, tmp_path)
    assert asked.SerializeToString(deterministic=True) == before


def test_a_guest_pull_is_recognised() -> None:
    assert pulls_image_in_guest(
        CreateContainerRequest(storages=[Storage(), Storage(driver="image_guest_pull")])
    )
    assert not pulls_image_in_guest(CreateContainerRequest(storages=[Storage(driver="overlayfs")]))


@pytest.mark.parametrize(
    "text",
    [
        "https://me:hunter2@registry.example/app",
        "docker://hunter2@registry.example/app",
        "https://me:p@hunter2@registry.example/app",
        "https://store.example/file?sig=hunter2&x=y",
        "user=me,password=hunter2,ro",
        "AWS_SECRET_ACCESS_KEY = hunter2",
        '{"auths": {"token": "hunter2 and more"}}',
        "access_key=hunter2",
        "x" * 300 + "hunter2",
    ],
)
def test_secrets_are_hidden(text: str) -> None:
    assert "hunter2" not in redact(text)


@pytest.mark.parametrize(
    "text",
    [
        "/var/lib/kubelet/pods/1/volumes/kubernetes.io~secret/s",
        "registry.example/auth-proxy:v1",
        "docker://registry.example/app@sha256:0123",
        "rw,size=64m",
    ],
)
def test_what_is_no_secret_shows(text: str) -> None:
    assert redact(text) == text


def test_a_description_tells_much_but_no_secret() -> None:
    secret = "hunter2"
    asked = CreateContainerRequest(
        container_id="c1",
        storages=[
            Storage(
                driver="image_guest_pull",
                source=f"https://u:{secret}@r/app",
                fstype="overlay",
                mount_point="/run/c1",
            )
        ],
        devices=[Device(container_path="/dev/x", vm_path="/dev/vdb", type="blk")],
        OCI=Spec(
            Mounts=[Mount(destination="/data", source=f"/srv?token={secret}", type="bind")],
            Annotations={"registry-password": secret, "app": "web", "note": f"password={secret}"},
            Process=Process(Env=["HOME=/root", f"DATABASE={secret}"]),
        ),
    )
    described = describe(asked)
    assert secret not in repr(described)
    assert described["container"] == "c1"
    assert described["mounts"] == ["/data from /srv?token=(hidden) (bind)"]
    assert described["storages"] == ["/run/c1 from https://(hidden)@r/app (overlay, image_guest_pull)"]
    assert described["devices"] == ["/dev/x from /dev/vdb (blk)"]
    assert described["annotations"] == {
        "registry-password": "(hidden)",
        "app": "web",
        "note": "password=(hidden)",
    }
    assert described["environment"] == ["HOME", "DATABASE"]
