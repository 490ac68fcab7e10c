"""A day of deploys with what Helm renders: pods are rolled under load and no request is dropped."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
import yaml
from deploy_load import DeployLoad
from fake_coderd import FakeCoderd
from gateway_process import wait_until
from held import HeldProvider, ask
from rendered_pods import ConfigObjects, Pod, Service
from system_programs import program

CHART = Path(__file__).parents[2] / "docs/helm/aigateway"
KEY = "tok-alice-secret"
ENDED = "RecordInterceptionEnded"


class _Release:
    """A release of the chart: rendered by Helm, its pods run and replaced as Kubernetes does."""

    def __init__(self, folder: Path, values: dict[str, Any], secrets: ConfigObjects) -> None:
        self._folder = folder
        self._objects = dict(secrets)
        self.values = values
        self.service = Service()
        self.pods: list[Pod] = []
        self.gone: list[Pod] = []
        self._template: dict[str, Any] = {}
        self.persistent = values["state"]["persistent"]
        self._made = 0

    def _render(self) -> int:
        """Returns how many pods there are to be."""
        helm = program("helm", "go install helm.sh/helm/v3/cmd/helm@latest")
        argv = [helm, "template", "gw", str(CHART), "--kube-version", "1.30.0", "--values", "-"]
        text = json.dumps(self.values)
        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=True)
        manifests = {each["kind"]: each for each in yaml.safe_load_all(done.stdout)}
        config = manifests["ConfigMap"]
        self._objects["ConfigMap", config["metadata"]["name"]] = config["data"]
        workload = manifests["StatefulSet" if self.persistent else "Deployment"]
        self._template = workload["spec"]["template"]
        if not self.persistent:
            assert workload["spec"]["strategy"]["rollingUpdate"] == {
                "maxUnavailable": 0,
                "maxSurge": 1,
            }
        least = manifests["HorizontalPodAutoscaler"]["spec"]["minReplicas"]
        assert isinstance(least, int)
        return least

    def install(self) -> None:
        for number in range(self._render()):
            self.pods.append(self._pod(number))
        for pod in self.pods:
            pod.wait_until_ready()
        self.service.pods = list(self.pods)

    def upgrade(self, **gateway: Any) -> int:
        """Apply these options; returns how many pods were replaced for it."""
        self.values = {**self.values, "config": {"ai_gateway": gateway}}
        self._render()
        wanted = self._template["metadata"]["annotations"]
        replaced = 0
        for number, old in enumerate(list(self.pods)):
            if old.annotations != wanted:
                replaced += 1
                self._replace(number, old)
        return replaced

    def _replace(self, number: int, old: Pod) -> None:
        if not self.persistent:
            self.pods[number] = self._pod(number)
            self.pods[number].wait_until_ready()
            self.service.pods.append(self.pods[number])
        # The Service hears of it at the same moment as the pod.
        self.service.pods = [each for each in self.service.pods if each is not old]
        old.terminate()
        self.gone.append(old)
        if self.persistent:
            # Two pods of one name never run together.
            old.wait_until_gone()
            self.pods[number] = self._pod(number)
            self.pods[number].wait_until_ready()
            self.service.pods.append(self.pods[number])

    def rotate(self, secret: str, data: dict[str, str]) -> None:
        """The Secret holds another value, which Kubernetes brings to the pods."""
        self._objects["Secret", secret] = data
        for pod in self.pods:
            pod.update_volumes()

    def _pod(self, number: int) -> Pod:
        self._made += 1
        state = self._folder / f"volume-{number}" if self.persistent else None
        return Pod(self._template, self._objects, self._folder / f"pod-{self._made}", state)

    def end(self) -> None:
        for pod in (*self.pods, *self.gone):
            pod.kill()


@pytest.fixture
def coderd() -> Iterator[FakeCoderd]:
    with FakeCoderd() as coderd:
        coderd.deployment.add_user("alice", KEY)
        yield coderd


@pytest.fixture(params=[False, True], ids=["Deployment", "StatefulSet"])
def release(
    request: pytest.FixtureRequest, tmp_path: Path, provider: HeldProvider, coderd: FakeCoderd
) -> Iterator[_Release]:
    secret = {"name": "provider", "key": "key"}
    values = {
        "coder": {"url": coderd.url},
        "providers": [
            {"type": "anthropic", "base_url": provider.url, "secret": secret},
            {"type": "openai", "base_url": f"{provider.url}/v1", "secret": secret},
        ],
        "state": {"persistent": request.param},
        "config": {"ai_gateway": {"workers": 1}},
    }
    secrets: ConfigObjects = {
        ("Secret", "aigateway-key"): {"key": "gateway-key"},
        ("Secret", "provider"): {"key": "sk-first"},
    }
    release = _Release(tmp_path, values, secrets)
    with release.service:
        yield release
    release.end()


@pytest.mark.timeout(300)
def test_no_request_is_dropped_while_pods_are_rolled(
    release: _Release, provider: HeldProvider, coderd: FakeCoderd
) -> None:
    release.install()
    # A client asks once more when a kept connection is closed before an answer has begun.
    load = DeployLoad([release.service.address] * 2, KEY, None, clients=4)

    def more(answers: int) -> None:
        goal = len(load.outcomes) + answers
        wait_until(lambda: len(load.outcomes) >= goal, f"{answers} more answers")

    with load:
        more(20)
        held = requests.post(
            f"http://{release.pods[0].address}/anthropic/v1/messages",
            json=ask(stream=True),
            headers={"Authorization": f"Bearer {KEY}"},
            stream=True,
            timeout=60,
        )
        pieces = held.iter_content(None)
        begun = next(pieces)

        def is_whole() -> bool:
            provider.go_on()
            return b"message_stop" in begun + b"".join(pieces)

        load.phases.append("nothing has changed")
        assert release.upgrade(workers=1) == 0
        more(20)

        load.phases.append("an option is changed")
        if release.persistent:
            assert is_whole()
        assert release.upgrade(workers=1, rate_limit=100_000) == 2
        more(20)

        load.phases.append("a key is rotated")
        release.rotate("provider", {"key": "sk-second"})
        wait_until(lambda: _asked_with(provider, "sk-second"), "the new key is used")
        more(20)
        assert release.upgrade(workers=1, rate_limit=100_000) == 0

        load.phases.append("the next change")
        assert release.upgrade(workers=2) == 2
        more(20)
        if not release.persistent:
            # It began before two rollouts, and runs on in the pod that it began in.
            assert is_whole()
        load.phases.append("evening")
        more(20)

    for pod in release.gone:
        pod.wait_until_gone()
        assert '"level":"ERROR"' not in pod.log()
    assert load.failed == []
    # Who goes is known to go before it refuses: nobody's new connection met one.
    turned_away = [text for one in load.whole for text in one.turned_away]
    assert not [text for text in turned_away if "new connection" in text]
    assert len(load.whole) >= 120
    served = {one.interception_id for one in load.whole}

    def ended() -> set[str]:
        return {record.interception_id for record in coderd.deployment.stored(ENDED)}

    wait_until(lambda: served <= ended(), "all records have arrived")


def _asked_with(provider: HeldProvider, key: str) -> bool:
    return any(key in value for _, value in provider.requests[-1].headers)
