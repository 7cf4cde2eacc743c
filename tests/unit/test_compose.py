"""The compose file: valid, reachable from this machine only, and without passwords of its own."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "docker-compose.yml"
ENV_EXAMPLE = ROOT / ".env.example"
PASSWORDS = {"LOCALFIRST_REDIS_PASSWORD": "one", "LOCALFIRST_POSTGRES_PASSWORD": "two"}


@pytest.fixture
def services() -> dict[str, Any]:
    return dict(yaml.safe_load(COMPOSE.read_text())["services"])


def docker_compose(*arguments: str, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [shutil.which("docker") or "docker", "compose", *arguments]
    return subprocess.run(command, env=env or {}, cwd=ROOT, capture_output=True, text=True, check=False)


def has_docker_compose() -> bool:
    return shutil.which("docker") is not None and docker_compose("version").returncode == 0


def test_the_file_follows_the_compose_specification() -> None:
    check = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec"]
    checked = subprocess.run([*check, str(COMPOSE)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout + checked.stderr


@pytest.mark.skipif(not has_docker_compose(), reason="docker compose is not installed")
def test_docker_compose_accepts_the_file() -> None:
    checked = docker_compose("--file", str(COMPOSE), "config", "--quiet", env=PASSWORDS)
    assert checked.returncode == 0, checked.stderr


@pytest.mark.skipif(not has_docker_compose(), reason="docker compose is not installed")
@pytest.mark.parametrize("missing", PASSWORDS)
def test_docker_compose_asks_for_each_password(missing: str) -> None:
    checked = docker_compose("--file", str(COMPOSE), "config", "--quiet", env=PASSWORDS | {missing: ""})
    assert checked.returncode != 0
    assert missing in checked.stderr


def test_ports_are_bound_to_this_machine(services: dict[str, Any]) -> None:
    for service in services.values():
        assert service["ports"]
        assert all(port.startswith("127.0.0.1:") for port in service["ports"])


def test_every_service_has_a_health_check_and_a_lasting_volume(services: dict[str, Any]) -> None:
    volumes = yaml.safe_load(COMPOSE.read_text())["volumes"]
    for service in services.values():
        assert service["healthcheck"]["test"]
        assert [volume.split(":")[0] in volumes for volume in service["volumes"]] == [True]


def test_redis_keeps_every_write(services: dict[str, Any]) -> None:
    command = services["redis"]["command"]
    assert command[command.index("--appendonly") + 1] == "yes"
    assert command[command.index("--maxmemory-policy") + 1] == "noeviction"


def test_passwords_must_be_given(services: dict[str, Any]) -> None:
    command, environment = services["redis"]["command"], services["postgres"]["environment"]
    given = (command[command.index("--requirepass") + 1], environment["POSTGRES_PASSWORD"])
    for value, name in zip(given, PASSWORDS, strict=True):
        assert re.fullmatch(rf"\$\{{{name}:\?[^}}]+\}}", value)


def test_the_example_environment_names_every_variable_and_no_password() -> None:
    used = set(re.findall(r"\$\{(\w+)", COMPOSE.read_text()))
    listed = dict(re.findall(r"^(?:# )?([A-Z_]+)=(.*)$", ENV_EXAMPLE.read_text(), re.MULTILINE))
    assert set(listed) == used
    assert all(listed[name] == "" for name in PASSWORDS)
