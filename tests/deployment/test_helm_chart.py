"""The Helm chart: what it renders is valid for Kubernetes, fits together, and starts a gateway."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from system_programs import program

from aigateway.http.settings import OPTIONS, Settings, load
from aigateway.http.settings.errors import SettingsError

DOCS = Path(__file__).parents[2] / "docs"
CHART = DOCS / "helm/aigateway"
VERSIONS = ("1.30.0", kubernetes_validate.latest_version())
CODER = {"coder": {"url": "https://coder.example.com"}}
LOCAL = {
    "local": {"databaseSecret": {"name": "postgres", "key": "address"}},
    "providers": [
        {"type": "anthropic", "secret": {"name": "anthropic", "key": "key"}},
        {"type": "openai-compat", "name": "vllm", "base_url": "http://vllm:8000/v1"},
    ],
    "networkPolicy": {"egressPorts": [443, 5432, 8000]},
    "metrics": {
        "serviceMonitor": {"enabled": True, "labels": {"release": "prometheus"}},
        "prometheusRule": {"enabled": True, "labels": {"role": "alert-rules"}},
    },
}
BARE = {
    **CODER,
    "autoscaling": {"enabled": False},
    "podDisruptionBudget": {"enabled": False},
    "networkPolicy": {"enabled": False},
    "metrics": {"enabled": False},
    "replicas": 1,
}
CONSOLE = {"console": {"enabled": True}}
KEPT = {
    **LOCAL,
    **CONSOLE,
    "state": {"persistent": True, "size": "8Gi", "storageClass": "fast"},
    "volumes": [{"name": "ca", "configMap": {"name": "company-ca"}}],
    "volumeMounts": [{"name": "ca", "mountPath": "/etc/ca", "readOnly": True}],
}
TEAM_CONSOLE = {
    "console": {
        "enabled": True,
        "url": "https://console.example.org",
        "trustedProxies": ["10.0.0.0/8", "192.168.0.7"],
        "oidc": {
            "issuer": "https://id.example.org/realms/staff",
            "clientId": "aigateway",
            "clientSecret": {"name": "console-oidc"},
            "userClaim": "preferred_username",
            "admins": ["gateway admins", "root: #1"],
            "viewers": ["finance"],
        },
    }
}
TEAM = {**LOCAL, **TEAM_CONSOLE}
EXAMPLES = {"coder": CODER, "local": LOCAL, "bare": BARE, "kept": KEPT, "team": TEAM}


def _helm(*argv: str, values: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    helm = program("helm", "go install helm.sh/helm/v3/cmd/helm@latest")
    return subprocess.run(
        [helm, *argv, "--values", "-"],
        input=json.dumps(values),
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def _rendered(values: dict[str, Any], version: str = VERSIONS[0]) -> dict[str, dict[str, Any]]:
    """The manifests by kind, Services by name too."""
    done = _helm("template", "gw", str(CHART), "--kube-version", version, values=values)
    assert done.returncode == 0, done.stderr
    found = {}
    for manifest in yaml.safe_load_all(done.stdout):
        kind, name = manifest["kind"], manifest["metadata"]["name"]
        found[kind if kind not in found else f"{kind}/{name}"] = manifest
    return found


def _refusal(values: dict[str, Any]) -> str:
    done = _helm("template", "gw", str(CHART), "--kube-version", VERSIONS[0], values=values)
    assert done.returncode != 0
    return done.stderr


def _pod(values: dict[str, Any]) -> dict[str, Any]:
    manifests = _rendered(values)
    found = manifests.get("Deployment") or manifests["StatefulSet"]
    pod: dict[str, Any] = found["spec"]["template"]
    return pod


def _settings(values: dict[str, Any], folder: Path) -> Settings:
    """What the gateway makes of the ConfigMap and the variables, with what secrets hold."""
    pod = _pod(values)
    (container,) = pod["spec"]["containers"]
    text = _rendered(values)["ConfigMap"]["data"]["config.yaml"]
    (folder / "secret").write_text("planted")
    for mount in ("/etc/aigateway/key/key", "/etc/aigateway/providers/0/keys"):
        text = text.replace(mount, str(folder / "secret"))
    (folder / "config.yaml").write_text(text)
    environ = {
        each["name"]: each.get("value", "postgresql://db/gateway") for each in container["env"]
    }
    assert environ.pop("CODER_CONFIG_PATH") == "/etc/aigateway/config/config.yaml"
    assert environ.keys() <= {name for row in OPTIONS for name in row.envs}
    return load(
        {"config": str(folder / "config.yaml"), "local": "--local" in container["args"]}, environ
    )


@pytest.mark.parametrize("values", EXAMPLES.values(), ids=EXAMPLES)
def test_lint_has_nothing_to_say(values: dict[str, Any]) -> None:
    done = _helm("lint", str(CHART), "--strict", "--kube-version", VERSIONS[0], values=values)
    assert done.returncode == 0, done.stdout
    assert "[WARNING]" not in done.stdout


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("values", EXAMPLES.values(), ids=EXAMPLES)
def test_what_is_rendered_follows_the_schemas_of_kubernetes(
    values: dict[str, Any], version: str
) -> None:
    manifests = _rendered(values, version)
    for kind in ("ServiceMonitor", "PrometheusRule"):  # Prometheus Operator's own kinds
        assert (manifests.pop(kind, None) is not None) is (
            "metrics" in values and values is not BARE
        )
    workload = "StatefulSet" if values is KEPT else "Deployment"
    assert {"ConfigMap", workload, "Service", "ServiceAccount"} <= manifests.keys()
    assert len(manifests.keys() & {"StatefulSet", "Deployment"}) == 1
    for manifest in manifests.values():
        kubernetes_validate.validate(manifest, version, strict=True)


def test_alert_rules_are_those_of_the_monitoring_page_and_found_by_their_labels() -> None:
    rule = _rendered(LOCAL)["PrometheusRule"]
    # As they are: their texts have placeholders that Helm would take for its own.
    assert rule["spec"] == yaml.safe_load((DOCS / "monitoring/alerts.yaml").read_text())
    assert rule["metadata"]["labels"]["role"] == "alert-rules"
    assert "PrometheusRule" not in _rendered(CODER)
    bare = {**CODER, "metrics": {"enabled": False, "prometheusRule": {"enabled": True}}}
    assert "PrometheusRule" not in _rendered(bare)


def test_a_gateway_of_a_deployment_starts_with_it(tmp_path: Path) -> None:
    settings = _settings(CODER, tmp_path)
    assert (settings.url, settings.local) == ("https://coder.example.com", False)
    assert settings.gateway_key == "planted"
    assert (settings.log_json, settings.log_human) == ("/dev/stdout", "")
    assert settings.prometheus_enable


def test_a_gateway_with_a_database_of_its_own_starts_with_it(tmp_path: Path) -> None:
    settings = _settings(LOCAL, tmp_path)
    assert (settings.local, settings.local_db) == (True, "postgresql://db/gateway")
    environ = settings.provider_environ
    assert environ["CODER_AI_GATEWAY_PROVIDER_0_KEYS"] == "planted"
    assert environ["CODER_AI_GATEWAY_PROVIDER_1_BASE_URL"] == "http://vllm:8000/v1"
    assert "planted" not in str(_rendered(LOCAL))


def test_an_option_in_the_values_reaches_the_gateway_and_a_wrong_one_stops_it(
    tmp_path: Path,
) -> None:
    values = {**CODER, "config": {"ai_gateway": {"workers": 3}}}
    assert _settings(values, tmp_path).workers == 3
    with pytest.raises(SettingsError, match="unknown option"):
        _settings({**CODER, "config": {"ai_gateway": {"wrokers": 3}}}, tmp_path)


def test_pods_are_replaced_when_the_configuration_changes_and_only_then() -> None:
    def annotations(values: dict[str, Any]) -> Any:
        return _pod(values)["metadata"]["annotations"]

    other = {**CODER, "config": {"ai_gateway": {"workers": 3}}}
    assert annotations(CODER) != annotations(other)
    assert annotations(CODER) == annotations({**CODER, "service": {"port": 8080}})


def test_names_are_resolved_by_the_cluster_and_by_a_cache_on_the_node() -> None:
    dns = _rendered(CODER)["NetworkPolicy"]["spec"]["egress"][0]
    assert {"ipBlock": {"cidr": "169.254.20.10/32"}} in dns["to"]
    assert {(port["port"], port["protocol"]) for port in dns["ports"]} == {(53, "UDP"), (53, "TCP")}
    kustomize = yaml.safe_load((DOCS / "kubernetes/networkpolicy.yaml").read_text())
    assert kustomize["spec"]["egress"][0] == dns
    without = {**CODER, "networkPolicy": {"nodeLocalDNS": ""}}
    assert len(_rendered(without)["NetworkPolicy"]["spec"]["egress"][0]["to"]) == 1


def test_a_pod_is_that_of_the_plain_manifests() -> None:
    plain = yaml.safe_load((DOCS / "kubernetes/deployment.yaml").read_text())
    wanted, found = plain["spec"]["template"]["spec"], _pod(CODER)["spec"]
    for name in (
        "securityContext",
        "terminationGracePeriodSeconds",
        "automountServiceAccountToken",
    ):
        assert found[name] == wanted[name], name
    for name, value in wanted["containers"][0].items():
        if name != "image":
            assert found["containers"][0][name] == value, name


def test_records_that_wait_outlive_their_pod_where_they_are_to() -> None:
    manifests = _rendered(KEPT)
    kept = manifests["StatefulSet"]["spec"]
    (claim,) = kept["volumeClaimTemplates"]
    assert claim["spec"]["resources"]["requests"] == {"storage": "8Gi"}
    assert claim["spec"]["storageClassName"] == "fast"
    # Two pods never write to one folder, and what is deleted or scaled down loses none.
    assert claim["spec"]["accessModes"] == ["ReadWriteOncePod"]
    assert set(kept["persistentVolumeClaimRetentionPolicy"].values()) == {"Retain"}
    pod = kept["template"]["spec"]
    assert "state" not in {volume["name"] for volume in pod["volumes"]}
    mounts = {each["name"]: each["mountPath"] for each in pod["containers"][0]["volumeMounts"]}
    assert mounts["state"] == "/var/lib/aigateway"
    assert mounts["ca"] == "/etc/ca"
    named = manifests[f"Service/{kept['serviceName']}"]["spec"]
    assert named["clusterIP"] == "None"
    scaled = manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]
    assert (scaled["kind"], scaled["name"]) == ("StatefulSet", "gw-aigateway")
    assert "volumeClaimTemplates" not in _rendered(LOCAL)["Deployment"]["spec"]
    (folder,) = [each for each in _pod(LOCAL)["spec"]["volumes"] if each["name"] == "state"]
    assert folder["emptyDir"] == {"sizeLimit": "4Gi"}


def test_the_console_is_a_container_beside_the_gateway_that_nobody_reaches_from_outside(
    tmp_path: Path,
) -> None:
    assert len(_pod(LOCAL)["spec"]["containers"]) == 1
    gateway, console = _pod({**LOCAL, **CONSOLE})["spec"]["containers"]
    assert console["image"] == gateway["image"]
    assert console["securityContext"] == gateway["securityContext"]
    assert "ports" not in console
    assert "--client-address=http://gw-aigateway.default:80" in console["args"]
    # It sees the same database, and neither keys nor records that wait.
    (variable,) = console["env"]
    assert variable in gateway["env"]
    mounts = [each["name"] for each in console["volumeMounts"]]
    assert mounts == ["tmp"]
    # Without one it asks the gateway beside it.
    gateway, coder = _pod({**CODER, **CONSOLE})["spec"]["containers"]
    (variable,) = coder["env"]
    assert (variable["name"], variable in gateway["env"]) == ("CODER_URL", True)
    assert "--runtime-dir=/run/aigateway" in coder["args"]
    assert [each["name"] for each in coder["volumeMounts"]] == ["runtime", "tmp"]


def test_a_console_for_which_people_sign_in_is_on_the_service(tmp_path: Path) -> None:
    console = _pod(TEAM)["spec"]["containers"][1]
    (port,) = console["ports"]
    manifests = _rendered(TEAM)
    ports = {each["name"]: each for each in manifests["Service"]["spec"]["ports"]}
    assert (ports["console"]["targetPort"], port["containerPort"]) == (port["name"], 4002)
    admitted = manifests["NetworkPolicy"]["spec"]["ingress"][0]["ports"]
    assert {"port": "console"} in admitted
    secret = console["env"][1]
    assert secret["valueFrom"] == {"secretKeyRef": {"name": "console-oidc", "key": "secret"}}
    given = (each.removeprefix("--").split("=", 1) for each in console["args"][1:])
    settings = load(
        {name.replace("-", "_"): value for name, value in given} | {"local": True},
        {secret["name"]: "planted", "CODER_AI_GATEWAY_LOCAL_DB": "gateway.db"},
    )
    assert settings.oidc_admins == ("gateway admins", "root: #1")
    assert "ports" not in _pod({**LOCAL, **CONSOLE})["spec"]["containers"][1]
    assert len(_rendered({**LOCAL, **CONSOLE})["Service"]["spec"]["ports"]) == 1


@pytest.mark.parametrize(
    ("without", "text"),
    [
        ("url", "console.oidc needs console.url"),
        ("trustedProxies", "console.oidc needs console.trustedProxies"),
    ],
)
def test_what_a_sign_in_needs_is_asked_for(without: str, text: str) -> None:
    left = {name: value for name, value in TEAM_CONSOLE["console"].items() if name != without}
    assert text in _refusal({**LOCAL, "console": left})


def test_a_sign_in_needs_a_database(tmp_path: Path) -> None:
    assert "console.oidc needs local.databaseSecret.name" in _refusal({**CODER, **TEAM_CONSOLE})


def test_the_console_starts_by_its_command_line_and_prints_its_link(tmp_path: Path) -> None:
    console = _pod({**LOCAL, **CONSOLE})["spec"]["containers"][1]
    argv = [each.replace("127.0.0.1:4002", "127.0.0.1:0") for each in console["args"]]
    assert argv != console["args"]
    running = subprocess.Popen(
        [sys.executable, "-m", "aigateway.http", *argv],
        env={**os.environ, "CODER_AI_GATEWAY_LOCAL_DB": str(tmp_path / "gateway.db")},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert running.stdout is not None
    with running, running.stdout:
        # All that it says: a pipe that nobody reads would end it.
        lines = [running.stdout.readline() for _ in range(3)]
        running.terminate()
    assert "Sign in: http://127.0.0.1:" in lines[1]
    assert running.returncode == 0


def test_everything_selects_the_pods() -> None:
    manifests = _rendered(LOCAL)
    labels = manifests["Deployment"]["spec"]["template"]["metadata"]["labels"]
    selectors = [
        manifests["Deployment"]["spec"]["selector"]["matchLabels"],
        *(each["spec"]["selector"] for each in manifests.values() if each["kind"] == "Service"),
        manifests["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"],
        manifests["NetworkPolicy"]["spec"]["podSelector"]["matchLabels"],
    ]
    assert len(selectors) == 5
    for selector in selectors:
        assert selector.items() <= labels.items()
        assert selector["app.kubernetes.io/instance"] == "gw"
    scaled = manifests["HorizontalPodAutoscaler"]["spec"]["scaleTargetRef"]["name"]
    assert scaled == manifests["Deployment"]["metadata"]["name"]
    assert "replicas" not in manifests["Deployment"]["spec"]
    assert _rendered(BARE)["Deployment"]["spec"]["replicas"] == 1


@pytest.mark.parametrize(
    ("values", "text"),
    [
        ({}, "set coder.url, or local.databaseSecret.name"),
        ({**CODER, **LOCAL}, "not both"),
        ({**CODER, "replica": 2}, "replica"),
        ({**CODER, "providers": [{"type": "openai", "key": "sk-planted"}]}, "providers"),
        ({"coder": {"url": "coder.example.com"}}, "coder"),
    ],
)
def test_values_that_cannot_be_meant_are_refused(values: dict[str, Any], text: str) -> None:
    assert text in _refusal(values)
