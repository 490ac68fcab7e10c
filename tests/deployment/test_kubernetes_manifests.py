"""The manifests in docs/kubernetes: valid for Kubernetes, and fitting each other and us."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml

from aigateway.http.server.hooks import FLUSH_TIMEOUT
from aigateway.http.settings import OPTIONS, Settings, load
from aigateway.http.tracing.service import FLUSH_TIMEOUT as TRACES_TIMEOUT

FOLDER = Path(__file__).parents[2] / "docs" / "kubernetes"
MANIFESTS = sorted(path for path in FOLDER.glob("*.yaml") if path.stem != "kustomization")
VERSIONS = ("1.30.0", kubernetes_validate.latest_version())
"""The oldest that the README promises, and the newest whose schemas are known."""


def _read(name: str) -> dict[str, Any]:
    manifest = yaml.safe_load((FOLDER / f"{name}.yaml").read_text())
    assert isinstance(manifest, dict)
    return manifest


def _pod() -> dict[str, Any]:
    pod: dict[str, Any] = _read("deployment")["spec"]["template"]["spec"]
    return pod


def _container() -> dict[str, Any]:
    (container,) = _pod()["containers"]
    assert isinstance(container, dict)
    return container


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("path", MANIFESTS, ids=lambda path: path.stem)
def test_each_manifest_follows_the_schemas_of_kubernetes(path: Path, version: str) -> None:
    manifest = yaml.safe_load(path.read_text())
    kubernetes_validate.validate(manifest, version, strict=True)


def test_a_misspelt_field_would_be_found() -> None:
    manifest = _read("service")
    manifest["spec"]["selectr"] = {}
    with pytest.raises(kubernetes_validate.ValidationError):
        kubernetes_validate.validate(manifest, VERSIONS[-1], strict=True)


def test_kustomize_applies_all_but_the_secret() -> None:
    listed = set(_read("kustomization")["resources"])
    assert listed == {path.name for path in MANIFESTS} - {"secret.yaml"}
    names = {m["metadata"].get("namespace", "aigateway") for m in map(_manifest, MANIFESTS)}
    assert names == {"aigateway"}


def _manifest(path: Path) -> dict[str, Any]:
    return _read(path.stem)


def test_the_grace_period_is_longer_than_everything_that_happens_in_it() -> None:
    settings = _settings()
    pause = _container()["lifecycle"]["preStop"]["sleep"]["seconds"]
    needed = pause + settings.shutdown_timeout + FLUSH_TIMEOUT + TRACES_TIMEOUT
    assert needed < _pod()["terminationGracePeriodSeconds"] <= 330


def test_the_configuration_is_one_that_the_gateway_starts_with() -> None:
    settings = _settings()
    assert settings.http_address.endswith(f":{_port('http')}")
    assert settings.prometheus_address.endswith(f":{_port('metrics')}")
    assert settings.prometheus_enable
    assert (settings.log_human, settings.log_json) == ("", "/dev/stdout")
    names = {name for row in OPTIONS for name in row.envs}
    assert {entry["name"] for entry in _container()["env"]} <= names


def _settings() -> Settings:
    """What the gateway would make of the ConfigMap and the variables."""
    config = yaml.safe_load(_read("configmap")["data"]["config.yaml"])
    environ = {entry["name"]: entry["value"] for entry in _container()["env"]}
    environ.pop("CODER_CONFIG_PATH")
    # The key's file is only there in a pod.
    assert config["ai_gateway"].pop("key_file") == "/etc/aigateway/key/key"
    environ["CODER_AI_GATEWAY_KEY"] = "gateway-key"
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(config, file)
        file.flush()
        return load({"config": file.name}, environ)


def _port(name: str) -> int:
    (port,) = [p["containerPort"] for p in _container()["ports"] if p["name"] == name]
    return int(port)


def test_every_file_the_gateway_reads_or_writes_is_on_a_volume() -> None:
    settings = _settings()
    mounted = [mount["mountPath"] for mount in _container()["volumeMounts"]]
    assert _container()["securityContext"]["readOnlyRootFilesystem"] is True
    for path in (settings.state_dir, settings.runtime_dir, "/etc/aigateway/key", "/tmp"):
        assert path in mounted
    volumes = {volume["name"] for volume in _pod()["volumes"]}
    assert {mount["name"] for mount in _container()["volumeMounts"]} == volumes
    (key,) = [v["secret"]["secretName"] for v in _pod()["volumes"] if "secret" in v]
    assert key == _read("secret")["metadata"]["name"]
    assert list(_read("secret")["stringData"]) == ["key"]


def test_everything_selects_the_pods_of_the_deployment() -> None:
    labels = _read("deployment")["spec"]["template"]["metadata"]["labels"]
    assert _read("deployment")["spec"]["selector"]["matchLabels"] == labels
    assert _read("service")["spec"]["selector"] == labels
    assert _read("poddisruptionbudget")["spec"]["selector"]["matchLabels"] == labels
    assert _read("networkpolicy")["spec"]["podSelector"]["matchLabels"] == labels
    scaled = _read("horizontalpodautoscaler")["spec"]["scaleTargetRef"]["name"]
    assert scaled == _read("deployment")["metadata"]["name"]
    assert "replicas" not in _read("deployment")["spec"]


def test_the_probes_ask_what_the_gateway_answers() -> None:
    container = _container()
    paths = {
        kind: container[f"{kind}Probe"]["httpGet"]["path"] for kind in ("readiness", "liveness")
    }
    assert paths == {"readiness": "/readyz", "liveness": "/healthz"}
