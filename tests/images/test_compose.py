"""compose.yaml: whether it agrees with the images and with the settings, and who reaches whom."""

from __future__ import annotations

import re
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from tests.images.test_files import ROOT, SETTINGS, VERSION, final

GIVEN = re.compile(r"\$\{\w+:\?.+\}")  # a variable that the operator has to set
REACHES = {  # the services of each network
    "default": {"api", "api-gpu"},
    "models": {"api", "api-gpu", "triton-cpu", "triton-gpu"},
    "records": {"api", "api-gpu", "postgres"},
}


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    read: dict[str, Any] = yaml.safe_load((ROOT / "compose.yaml").read_text())
    return read


@pytest.mark.parametrize("profile", ["cpu", "gpu"])
def test_a_profile_is_a_facade_and_its_triton(compose: dict[str, Any], profile: str) -> None:
    services = compose["services"]
    chosen = {name: each for name, each in services.items() if profile in each.get("profiles", [profile])}
    assert "postgres" in chosen
    (facade,) = [each for each in chosen.values() if each["image"] == f"lmaas-api:{VERSION}"]
    (name,) = [name for name in chosen if name.startswith("triton-")]
    triton = chosen[name]
    assert facade["depends_on"] == {needed: {"condition": "service_healthy"} for needed in ("postgres", name)}
    assert facade["environment"]["LMAAS_TRITON_URLS"] == "grpc://triton:8001"
    assert triton["image"] == f"lmaas-triton:{VERSION}" + ("-cpu" if profile == "cpu" else "")
    assert triton["networks"]["models"]["aliases"] == ["triton"]
    assert facade["environment"]["LMAAS_TRITON_KEY"] == triton["environment"]["LMAAS_TRITON_KEY"]
    assert "repository:/repository" in facade["volumes"]
    assert "repository:/repository" in triton["volumes"]
    assert facade["environment"]["LMAAS_TRITON_REPOSITORY"] == "/repository"
    assert (facade["environment"].get("LMAAS_DEVICE") == "cuda") is (profile == "gpu")
    assert ("devices" in str(triton.get("deploy"))) is (profile == "gpu")


def test_only_the_facade_reaches_triton_and_the_database(compose: dict[str, Any]) -> None:
    networks = {name: set(each["networks"]) for name, each in compose["services"].items()}
    assert {
        network: {name for name, joined in networks.items() if network in joined}
        for network in compose["networks"]
    } == REACHES
    inside = {name for name, each in compose["networks"].items() if (each or {}).get("internal")}
    assert inside == {"models", "records"}
    for name, service in compose["services"].items():
        assert ("ports" in service) is name.startswith("api")
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


def test_no_service_has_more_rights_than_it_needs(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert service["read_only"] is True
        assert service["cap_drop"] == ["ALL"]
        assert service["security_opt"] == ["no-new-privileges:true"]
        assert service["pids_limit"] > 0
        assert service["restart"] == "unless-stopped"
        assert service["logging"] == {"driver": "local"}  # Docker's default keeps log lines without a limit
        assert all(re.fullmatch(r"/[\w/]+:size=\d+[mg]", each) for each in service["tmpfs"])
        if name == "postgres":
            assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", service["user"])


def test_secrets_stand_in_no_file(compose: dict[str, Any]) -> None:
    secret = re.compile("KEY|PASSWORD|SECRET|TOKEN")
    found = [
        value
        for service in compose["services"].values()
        for name, value in service["environment"].items()
        if secret.search(name)
    ]
    assert (
        len(found) == 7
    )  # key and password of two façades, two keys of Triton, one password of the database
    assert all(GIVEN.fullmatch(value) for value in found)
    urls = [service["environment"].get("LMAAS_DATABASE_URL", "") for service in compose["services"].values()]
    assert [urlsplit(url).password for url in urls] == [None] * len(urls)


def test_the_database_is_asked_by_address(compose: dict[str, Any]) -> None:
    """While the image makes the database, a server answers on the socket alone, and it ends afterwards."""
    command = compose["services"]["postgres"]["healthcheck"]["test"]
    assert command[:2] == ["CMD", "pg_isready"]
    assert command[command.index("--host") + 1] == "127.0.0.1"


def test_compose_agrees_with_the_images(compose: dict[str, Any]) -> None:
    volumes = {
        volume.partition(":")[0] for each in compose["services"].values() for volume in each["volumes"]
    }
    assert volumes == set(compose["volumes"])
    for name, service in compose["services"].items():
        variables = {each for each in service["environment"] if each.startswith("LMAAS_")}
        assert variables <= SETTINGS
        if name == "postgres":
            assert re.fullmatch(r"docker\.io/library/postgres:\d[\w.-]+", service["image"])
            continue
        build = service["build"]
        stage = final(":".join(filter(None, (build["dockerfile"], build.get("target")))))
        assert set(build["args"]) <= {each.partition("=")[0] for each in stage.all("ARG")}
        for volume in service["volumes"]:
            assert volume.partition(":")[2] in stage.one("VOLUME")
        assert {each.partition(":")[0] for each in service["tmpfs"]} == {"/tmp"}
        grace, drain = service["stop_grace_period"], service["environment"]["LMAAS_DRAIN_SECONDS"]
        assert int(grace.removesuffix("s")) > int(drain) + 2
