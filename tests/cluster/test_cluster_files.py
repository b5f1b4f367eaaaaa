"""The cluster files pass Ray's validation and our check, which reports every planted mistake."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from studies.harness.cluster.check import check, problems
from studies.harness.published import strict_yaml

ROOT = Path(__file__).parents[2]
# The example values of the cluster files, and a user's values that replace them.
USER_VALUES = {
    "subnet-00000000000000000": "subnet-0a1",
    "sg-00000000000000000": "sg-0a1",
    "ami-00000000000000000": "ami-0a1",
    "fs-00000000000000000": "fs-0a1",
    ":000000000000:": ":123456789012:",
    "s3://EXAMPLE/precond": "s3://mine/precond",
    "192.0.2.": "10.1.2.",
    "/EXAMPLE": "/shared",
    "user EXAMPLE": "user me",
    "EXAMPLE/precond:1": "example.org/precond:1",
    "&storage_class EXAMPLE": "&storage_class nfs",
}
RAY_FILES = ["cluster.yaml", "deploy/local.yaml"]
FILES = [*RAY_FILES, "deploy/kuberay.yaml"]


def file_with_user_values(name: str) -> str:
    content = (ROOT / name).read_text()
    for example, value in USER_VALUES.items():
        content = content.replace(example, value)
    return content


@pytest.mark.parametrize("name", FILES)
def test_file_with_replaced_examples_passes_the_check(name):
    assert problems(yaml.safe_load(file_with_user_values(name))) == []


@pytest.mark.parametrize("name", FILES)
def test_example_values_are_at_the_top_and_refused(name):
    lines = problems(yaml.safe_load((ROOT / name).read_text()))
    examples = [value for value in USER_VALUES if value in (ROOT / name).read_text()]
    assert len(lines) >= len(examples) >= 2 and all("still the example's" in line for line in lines)
    top = re.split("\ncluster_name:|kind: PersistentVolumeClaim", (ROOT / name).read_text())[0]
    assert all((ROOT / name).read_text().count(value) == top.count(value) for value in examples)


@pytest.mark.parametrize("name", RAY_FILES)
def test_file_passes_rays_validation(name):
    from ray.autoscaler._private.util import prepare_config, validate_config

    validate_config(prepare_config(yaml.safe_load(file_with_user_values(name))))


# Mistakes: (text of the file, its replacement, part of the message).
AWS_MISTAKES = [
    ("use_internal_ips: true", "use_internal_ip: true", 'Did you mean "use_internal_ips"'),
    ("use_internal_ips: true", "use_internal_ips: false", "no node needs a public address"),
    ("SecurityGroupIds: *security_groups", "SecurityGroupId: *security_groups", "SSH to the world"),
    ("SecurityGroupIds: *security_groups", "SecurityGroupIds: []", "SSH to the world"),
    (
        "MetadataOptions: {HttpTokens",
        "MetadataOption: {HttpTokens",
        'Did you mean "MetadataOptions"',
    ),
    ("HttpTokens: required", "HttpTokens: optional", "credentials"),
    ("HttpPutResponseHopLimit: 1", "HttpPutResponseHopLimit: 2", "credentials"),
    ("Encrypted: true", "Encrypted: false", "Encrypted = false"),
    ("Encrypted: true", "Encypted: true", 'Did you mean "Encrypted"'),
    ("DeleteOnTermination: true", "DeleteOnTermination: false", "a remaining disk costs money"),
    ("MarketType: spot", "MarketTyp: spot", 'Did you mean "MarketType"'),
    ("      InstanceMarketOptions: {MarketType: spot}\n", "", "must be spot for workers"),
    (
        "IamInstanceProfile: *head_profile",
        "IamProfile: *head_profile",
        "IamInstanceProfile: missing",
    ),
    ("min_workers: 0\n    max_workers: *max", "min_workers: 2\n    max_workers: *max", "must be 0"),
    ("idle_timeout_minutes: 5", "idle_timeout_minutes: 500", "must be > 0 and <= 60"),
    ("idle_timeout_minutes", "idle_timeout_minute", 'Did you mean "idle_timeout_minutes"'),
    ("cache_stopped_nodes: false", "cache_stopped_nodes: true", "the disk of a stopped machine"),
    ("  region: *region", "  regoin: *region", 'Did you mean "region"'),
    ("type: aws", "type: awz", 'provider.type = "awz": must be one of aws, local'),
    ("ssh_proxy_command:", "ssh_proxycommand:", 'Did you mean "ssh_proxy_command"'),
    ("provider:\n", "provider:\n  security_group: {GroupName: open}\n", "provider.security_group"),
]
LOCAL_MISTAKES = [
    ("worker_ips: *workers", "worker_ip: *workers", 'Did you mean "worker_ips"'),
    ("&workers [10.1.2.2,", "&workers [10.1.2.1,", "must be machines other than the head"),
    ("&workers [10.1.2.2, 10.1.2.3]", "&workers []", "at least one machine"),
    ("&head 10.1.2.1", "&head 8.8.8.8", '"8.8.8.8": must be a private address'),
]
MISTAKES_IN_BOTH = [
    ("--dashboard-host=127.0.0.1", "--dashboard-host=0.0.0.0", "listens on"),
    ("--dashboard-host=127.0.0.1", "", "must contain --dashboard-host=127.0.0.1"),
    ("RAY_AUTH_MODE=token RAY_", "RAY_AUTH_MODE=disabled RAY_", "without the token"),
    (
        "export RAY_AUTH_MODE=token; ulimit -n 65536; ray start --address",
        "ray start --address",
        "worker_start",
    ),
    (
        "  ~/.ray/auth_token: ~/.ray/auth_token",
        "  ~/notes: ~/notes",
        "must contain ~/.ray/auth_token",
    ),
    ("chmod 600 ~/.ray/auth_token", "echo", "every user of the node can read the token"),
    ("--host 127.0.0.1 --port 5000", "--host 0.0.0.0 --port 5000", "must contain --host 127.0.0.1"),
    ("setup_commands: #", "setup_commands_: #", "setup_commands_: unknown key"),
    ("  - chmod", "  - export AWS_SECRET_ACCESS_KEY=abc\n  - chmod", "a secret"),
    ("  - chmod", "  - export RAY_AUTH_TOKEN='abc'\n  - chmod", "a secret"),
    (
        "  - chmod",
        "  - curl https://example.org/x | sudo bash\n  - chmod",
        "runs a downloaded script",
    ),
    ("  - chmod", "  - pip install torch\n  - chmod", "write each package as name==version"),
    ("PRECOND_OUT=", "PRECOND_OUTPUT=", "must contain PRECOND_OUT="),
    ("make -C ~/checkout setup", "echo", "must contain make setup"),
    (" --autoscaling-config=~/ray_bootstrap_config.yaml", "", "Ray starts no workers"),
]
KUBERAY_MISTAKES = [
    ("MLFLOW_TRACKING_URI, value", "RAY_CLUSTER_NAMESPACE, value", "KubeRay sets this variable"),
    ("rayClusterSpec:", "rayClusterSpc:", "spec.rayClusterSpc: unknown key"),
    ("backoffLimit", "backofLimit", 'Did you mean "backoffLimit"'),
    ("rayStartParams: {}", "rayStartParam: {}", 'Did you mean "rayStartParams"'),
    ("runAsNonRoot: true", "runAsNonRoot: false", "a trial needs no rights of root"),
    ("runAsUser: 1000", "runAsUser: 0", "runAsUser = 0: must be >= 1"),
    (
        "allowPrivilegeEscalation: false",
        "allowPrivilegeEscalation: true",
        "needs no rights of root",
    ),
    ("drop: [ALL]", "drop: [NET_RAW]", "must contain ALL"),
    ("drop: [ALL]}", "drop: [ALL]}, privileged: true", "access to its node"),
    ("restartPolicy: Never", "hostNetwork: true", "access to its node"),
    ("persistentVolumeClaim: {claimName: precond}}", "hostPath: {path: /}}", "access to its node"),
    ("authOptions: {mode: token,", "authOptions: {mode: disabled,", "everyone who reaches a port"),
    ("        authOptions: {mode: token, secretName: precond-token}\n", "", "authOptions: missing"),
    ('rayStartParams: {num-cpus: "0"}', 'rayStartParams: {num-cpus: "2"}', "trains nothing"),
    ("minReplicas: 0", "minReplicas: 1", "idle workers cost money"),
    ("maxReplicas: 8", "maxReplicas: 0", "maxReplicas = 0: must be >= 1"),
    ("shutdownAfterJobFinishes: true", "shutdownAfterJobFinishes: false", "costs money"),
    ("idleTimeoutSeconds: 300", "idleTimeoutSeconds: 86400", "must be > 0 and <= 3600"),
    ("enableInTreeAutoscaling: true", "enableInTreeAutoscaling: false", "no worker starts"),
    ('rayVersion: "2.60.0"', 'rayVersion: "2.9.0"', 'rayVersion = "2.9.0": must be '),
    ("precond:1\n", "precond:latest\n", "must have a version, such as :1"),
    ("ports: [{port: 5000}]", "ports: [{port: 5000}]\n      type: LoadBalancer", "to the outside"),
    ("[{podSelector: {matchLabels: *labels}}]", "[]", "must name the pods that it admits"),
    ("matchLabels: &labels {app: precond}", "matchLabels: &labels {app: x}", "no NetworkPolicy"),
    ("--address auto", "", "must contain --address auto"),
    (
        'value: "http://mlflow:5000"',
        'value: "http://me:pass@mlflow:5000"',
        "a password in an address",
    ),
    (
        "- {name: MLFLOW_TRACKING_URI, value",
        "- {name: AWS_SECRET_ACCESS_KEY, value",
        "secretKeyRef",
    ),
    (
        "volumeMounts:\n                      - {name: precond, mountPath: /mnt/precond}\n",
        "volumeMounts:\n",
        "must mount precond at /mnt/precond, as the head does",
    ),
    (
        "              resources:\n                requests: {cpu: 500m, memory: 1Gi}\n"
        "                limits: {cpu: 500m, memory: 1Gi}\n",
        "",
        "resources: missing",
    ),
    (
        "              containers:\n                - name: ray-head",
        "              containers: 1\n              x:\n                - name: ray-head",
        "containers = 1: must have type",
    ),
    (
        "podSelector: {matchLabels: &labels {app: precond}}",
        "podSelector: {matchLabels: [&labels {app: precond}]}",
        "no NetworkPolicy",
    ),
    (
        "persistentVolumeClaim: {claimName: precond}",
        "persistentVolumeClaim: {claimName: []}",
        "must mount a PersistentVolumeClaim",
    ),
    ("kind: ConfigMap", "kind: Secret", "a secret in a file"),
    ("kind: RayJob", "kind: RayJobs", "0 objects of the kind RayJob"),
]
MISTAKES = [
    *(("deploy/kuberay.yaml", *mistake) for mistake in KUBERAY_MISTAKES),
    *(("cluster.yaml", *mistake) for mistake in AWS_MISTAKES + MISTAKES_IN_BOTH),
    *(("deploy/local.yaml", *mistake) for mistake in LOCAL_MISTAKES + MISTAKES_IN_BOTH),
]


@pytest.mark.parametrize(
    ("name", "part", "replacement", "message"),
    MISTAKES,
    ids=[f"{name} {replacement}"[:60] for name, _, replacement, _ in MISTAKES],
)
def test_planted_mistake_is_reported(name, part, replacement, message):
    correct = file_with_user_values(name)
    assert part in correct
    lines = problems(yaml.safe_load(correct.replace(part, replacement)))
    assert any(message in line for line in lines), lines


def test_each_node_type_is_checked():
    """A mistake is reported if only the head or only the workers have it."""
    parts = re.split(r"(?=\n  worker: # spot)", file_with_user_values("cluster.yaml"))
    assert len(parts) == 2
    for number, name in enumerate(("head", "worker")):
        mistaken = [
            part.replace("Encrypted: true", "Encrypted: no") if number == n else part
            for n, part in enumerate(parts)
        ]
        [line] = problems(yaml.safe_load("".join(mistaken)))
        assert f"available_node_types.{name}.node_config" in line


def test_malformed_document_gives_error_lines():
    for malformed in (
        {},
        {"provider": {"type": "aws"}},
        {"provider": "aws"},
        {"provider": {"type": "local"}, "auth": 3},
    ):
        assert any("compare with the cluster.yaml" in line for line in problems(malformed))


def test_aliases_are_allowed_and_nested_aliases_are_refused(tmp_path: Path):
    file = tmp_path / "c.yaml"
    file.write_text("a: &a [1, 2]\nb: *a\n")
    assert strict_yaml.read(file, aliases=True) == {"a": [1, 2], "b": [1, 2]}
    with pytest.raises(strict_yaml.YamlError, match="aliases"):
        strict_yaml.read(file)
    file.write_text("a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n")
    assert check(file) == ["c.yaml line 2: *a is inside the value of another alias"]
    file.write_text("a: *nowhere\n")
    assert len(check(file)) == 1
    file.write_text("- 1\n")
    assert check(file) == ["c.yaml: must contain a mapping of keys to values"]


def test_check_cluster_prints_values_to_replace_and_missing_files(tmp_path: Path):
    """The command prints each example value or, if there is none, each missing file."""
    file = tmp_path / "mine.yaml"
    file.write_text(file_with_user_values("cluster.yaml"))
    outputs = []
    for path in (ROOT / "cluster.yaml", file):
        command = [sys.executable, "-m", "studies", "check-cluster", path]
        process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
        assert process.returncode == 2 and "Traceback" not in process.stderr
        outputs.append(process.stderr)
    assert 'metadata.subnets[0] = "subnet-0000' in outputs[0]
    assert "mine.yaml: file_mounts: precond does not exist" in outputs[1]
