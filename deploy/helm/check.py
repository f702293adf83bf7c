"""Renders the chart with the values of cases.yaml, and checks what comes out.

Templates are rendered by Helm's own engine (helm-python-sdk has the Go library of Helm 4 in its wheel), without a cluster. Objects are
validated against the schemas of Kubernetes, for each version named below, and against each other: what an object names must be there.
Custom resources are validated against custom_resources.json, written by hand from the documentation of KEDA, cert-manager and the
Prometheus operator: it has the fields that the chart uses. With a program `onward` its settings and flags are checked, too.
"""

import json
import os
import re
import shlex
import subprocess
import sys
import tempfile
import tomllib
from pathlib import Path

import helm_python as helm
import jsonschema
import kubernetes_validate
import yaml

HERE = Path(__file__).parent
CHART = HERE / "onward"
# The oldest that Chart.yaml takes, one of the middle, and the newest that kubernetes-validate knows.
VERSIONS = ["1.25", "1.33", kubernetes_validate.latest_version()]
# Fields that older versions do not have: (case, version).
NEWER = {("everything that can be set", "1.25"): "preStop.sleep is of 1.30"}
NAMESPACE = "sql"
CUSTOM = json.loads((HERE / "custom_resources.json").read_text())
DNS_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")
LABEL_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?)?")
# Of a StatefulSet: its pods, and the label with their revision, have names that are 11 characters longer.
MOST_LETTERS = {"StatefulSet": 52, "Deployment": 46}


class Problem(Exception):
    """What is wrong with a case."""


def require(holds, problem):
    if not holds:
        raise Problem(problem)


def render(chart, case):
    """Objects of a case, by kind and name."""
    rendered = chart.render(case.get("values", {}), name=case.get("release", "onward"), namespace=NAMESPACE)
    text = "\n---\n".join(rendered.values())
    for left_over in ["<no value>", "<nil>", "%!", "map["]:
        require(left_over not in text, f"`{left_over}` was rendered")
    objects = {}
    for path, part in sorted(rendered.items()):
        if path.endswith("NOTES.txt"):
            require(part.strip(), "NOTES.txt is empty")
            continue
        for document in yaml.safe_load_all(part):
            if document:
                key = (document["kind"], document["metadata"]["name"])
                require(key not in objects, f"{key} is there twice")
                objects[key] = document
    return objects, text


def validate(name, objects):
    """Against schemas. Unknown fields are refused."""
    for (kind, object_name), document in objects.items():
        if kind in CUSTOM:
            jsonschema.validate(document, CUSTOM[kind])
            continue
        for version in VERSIONS:
            if (name, version) in NEWER:
                continue
            try:
                kubernetes_validate.validate(document, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                raise Problem(f"{kind}/{object_name}, Kubernetes {version}: {'.'.join(map(str, error.path))}: {error.message}") from error


def pod_templates(objects):
    """Name, metadata and spec of every kind of pod, that of the provider included."""
    for (kind, name), document in objects.items():
        if kind in ("StatefulSet", "Deployment"):
            yield f"{kind}/{name}", document["spec"]["template"], document
        if kind == "ConfigMap" and "host-pod.json" in document["data"]:
            template = json.loads(document["data"]["host-pod.json"])
            settings = tomllib.loads(document["data"]["coordinator.toml"])
            cluster = settings["cluster_name"]
            # What the provider makes of it.
            (container,) = template["spec"]["containers"]
            require(container["name"] == "host", "host-pod.json: the provider looks for a container `host`")
            require("args" not in container, "host-pod.json: arguments are the coordinator's business")
            container["args"] = ["host", "--join", "URL", *shlex.split(settings["provider_arguments"]), "--name", "NAME"]
            template["metadata"]["labels"] |= {"app.kubernetes.io/name": "onward", "app.kubernetes.io/component": "host",
                                               "app.kubernetes.io/instance": cluster, "app.kubernetes.io/managed-by": "onward"}
            pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "onward-x-00000000"} | template["metadata"],
                   "spec": template["spec"] | {"restartPolicy": "Never"}}
            for version in VERSIONS:
                kubernetes_validate.validate(pod, version, strict=True)
            yield "host-pod.json", template, None


def check_pod(where, template, workload, objects):
    spec = template["spec"]
    (container,) = spec["containers"]
    claims = (workload or {}).get("spec", {}).get("volumeClaimTemplates", [])
    volumes = {volume["name"] for volume in spec["volumes"]} | {claim["metadata"]["name"] for claim in claims}
    mounts = [mount["name"] for mount in container["volumeMounts"]]
    paths = [mount["mountPath"] for mount in container["volumeMounts"]]
    require(set(mounts) == volumes, f"{where}: volumes {sorted(volumes)} and mounts {sorted(mounts)} differ")
    require(len(paths) == len(set(paths)), f"{where}: two volumes at one path: {paths}")
    for path in paths:
        require(not any(path.startswith(f"{other}/") for other in paths), f"{where}: {path} is inside another volume")
    # What the level `restricted` of Pod Security wants.
    security, pod_security = container["securityContext"], spec["securityContext"]
    require(pod_security["runAsNonRoot"] and pod_security["runAsUser"] > 0, f"{where}: runs as root")
    require(pod_security["seccompProfile"]["type"] == "RuntimeDefault", f"{where}: no seccomp profile")
    require(not security["allowPrivilegeEscalation"] and security["capabilities"]["drop"] == ["ALL"], f"{where}: has rights")
    require(security["readOnlyRootFilesystem"], f"{where}: its root can be written to")
    require(not any("hostPath" in volume for volume in spec["volumes"]), f"{where}: mounts the node's files")
    # Files that arguments name lie in a volume.
    arguments = container["args"]
    for argument in arguments:
        if argument.startswith(("/etc/", "/var/")):
            require(any(argument == path or argument.startswith(f"{path}/") for path in paths), f"{where}: {argument} is in no volume")
    for volume in spec["volumes"]:
        if "configMap" in volume:
            data = objects[("ConfigMap", volume["configMap"]["name"])]["data"]
            for argument in arguments:
                if argument.startswith("/etc/onward/config/"):
                    require(argument.rsplit("/", 1)[1] in data, f"{where}: {argument} is in no ConfigMap")
    shm = next(volume["emptyDir"] for volume in spec["volumes"] if volume["name"] == "shared-memory")
    require(shm["medium"] == "Memory", f"{where}: /dev/shm is on disk")
    memory = container["resources"]["limits"]["memory"]
    # Half of memory_bytes: 3/4 of the limit, or 4/5 where the coordinator says it.
    least = mib(memory) * 2 // 5 if where == "host-pod.json" else mib(memory) * 3 // 8
    require(least <= mib(shm["sizeLimit"]) < mib(memory), f"{where}: /dev/shm of {shm['sizeLimit']} with {memory}")
    for label, value in template["metadata"]["labels"].items():
        require(LABEL_VALUE.fullmatch(value), f"{where}: label {label}={value}")


def mib(quantity):
    return int(quantity[:-2]) * {"Mi": 1, "Gi": 1024}[quantity[-2:]]


def check_names(objects):
    """What an object names is there."""
    pods = [(where, template) for where, template, _ in pod_templates(objects)]

    def selected(selector):
        return [template for _, template in pods if selector.items() <= template["metadata"]["labels"].items()]

    for (kind, name), document in objects.items():
        where, spec = f"{kind}/{name}", document.get("spec", {})
        require(DNS_LABEL.fullmatch(name), f"{where}: no name")
        require(len(name) <= MOST_LETTERS.get(kind, 63), f"{where}: a name of {len(name)} letters")
        if kind == "Service":
            (template,) = selected(spec["selector"])
            ports = {port["name"] for port in template["spec"]["containers"][0]["ports"]}
            for port in spec["ports"]:
                require(port["targetPort"] in ports, f"{where}: no port {port['targetPort']} in {ports}")
        if kind in ("PodDisruptionBudget", "NetworkPolicy"):
            selector = spec.get("selector") or spec["podSelector"]
            require(len(selected(selector["matchLabels"])) == 1, f"{where}: selects not one kind of pod")
        if kind in ("StatefulSet", "Deployment"):
            require(spec["selector"]["matchLabels"].items() <= spec["template"]["metadata"]["labels"].items(), f"{where}: selects others")
            account = spec["template"]["spec"]["serviceAccountName"]
            require(kind == "Deployment" or ("ServiceAccount", account) in objects, f"{where}: no account {account}")
        if kind == "StatefulSet":
            service = objects[("Service", spec["serviceName"])]["spec"]
            require(service["clusterIP"] == "None" and service["publishNotReadyAddresses"], f"{where}: its service has an address")
            has_token = spec["template"]["spec"]["automountServiceAccountToken"]
            require(has_token == (("Role", name) in objects), f"{where}: token {has_token}, against its rights")
        if kind in ("HorizontalPodAutoscaler", "ScaledObject"):
            target = ("Deployment", spec["scaleTargetRef"]["name"])
            require(target in objects, f"{where}: no {target}")
            require("replicas" not in objects[target]["spec"], f"{where}: an upgrade would set the number of hosts back")
        if kind == "RoleBinding":
            require(("Role", document["roleRef"]["name"]) in objects, f"{where}: no role")
            (subject,) = document["subjects"]
            require((subject["kind"], subject["name"]) in objects, f"{where}: no subject")


def option(arguments, name):
    """The value of an argument; nothing if it is not there."""
    return arguments[arguments.index(name) + 1] if name in arguments else None


def check_coordinators(objects):
    """Each of several coordinators is found by a name of its own, by hosts and by the others, and its certificate has that name."""
    (workload,) = [document for (kind, _), document in objects.items() if kind == "StatefulSet"]
    name, spec = workload["metadata"]["name"], workload["spec"]
    (container,) = spec["template"]["spec"]["containers"]
    arguments = container["args"]
    settings = tomllib.loads(objects[("ConfigMap", name)]["data"]["coordinator.toml"])
    is_shared = "etcd_endpoints" in settings
    require(is_shared or spec["replicas"] == 1, "several coordinators, which do not know of each other")
    require(is_shared == ("--advertise" in arguments), "--advertise is there without need, or is missing")
    headless = f"{spec['serviceName']}.{NAMESPACE}.svc."
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    require(option(arguments, "--cluster-listen") == f"0.0.0.0:{ports['cluster']}", "hosts find nobody at the port `cluster`")
    where = {}
    for flag, port in [("--advertise", "grpc"), ("--cluster-advertise", "cluster")]:
        url = option(arguments, flag)
        if url is None:
            continue
        where[flag] = [url.replace("$(POD_NAME)", f"{name}-{number}") for number in range(spec["replicas"])]
        require(is_shared == (len(set(where[flag])) == spec["replicas"] and "$(POD_NAME)" in url), f"{flag} {url}: whose address is that?")
        for number, own in enumerate(where[flag]):
            host, _, own_port = own.split("://")[1].rpartition(":")
            require(int(own_port) == ports[port], f"{flag} {own}: nobody listens there")
            require(host.startswith((f"{name}-{number}." if is_shared else "") + headless), f"{flag} {own}: the headless service has no such name")
            for (kind, _), document in objects.items():
                if kind == "Certificate" and flag == "--advertise":
                    require(f"*.{host.split('.', 1)[1]}" in document["spec"]["dnsNames"], f"{flag} {own}: the certificate has no such name")
    require(any(variable["name"] == "POD_NAME" for variable in container["env"]), "nothing takes the place of $(POD_NAME)")
    if ("Deployment", f"{name}-host") in objects:
        join = option(objects[("Deployment", f"{name}-host")]["spec"]["template"]["spec"]["containers"][0]["args"], "--join")
        wanted = where["--cluster-advertise"] if is_shared else where["--cluster-advertise"][:1]
        require(join.split(",") == wanted, f"hosts join at {join}, coordinators are at {wanted}")
    data = [v for v in spec["template"]["spec"]["volumes"] if v["name"] == "data" and "persistentVolumeClaim" in v]
    require(spec["replicas"] == 1 or data, "several coordinators have one data directory: a claim that exists")
    # Files that settings name lie in a volume.
    paths = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    secrets = {volume["name"]: volume["secret"] for volume in spec["template"]["spec"]["volumes"] if "secret" in volume}
    for setting in ["etcd_password_file", "etcd_ca", "etcd_cert", "etcd_key"]:
        if setting in settings:
            directory, _, file = settings[setting].rpartition("/")
            require(directory in paths, f"{setting}: {settings[setting]} is in no volume")
            items = [item["path"] for item in secrets[paths[directory]]["items"]]
            require(file in items, f"{setting}: {file} is none of {items}")
    probe = container["livenessProbe"]
    if "--metrics-listen" in arguments:
        require(option(arguments, "--metrics-listen") == f"0.0.0.0:{ports[probe['httpGet']['port']]}", "the kubelet asks elsewhere for /healthz")


def check_program(program, objects):
    """Settings and flags are those of the program."""
    for (kind, name), document in objects.items():
        if kind == "ConfigMap":
            for file in ("coordinator.toml", "host.toml"):
                with tempfile.NamedTemporaryFile("w", suffix=".toml") as settings:
                    settings.write(document["data"][file])
                    settings.flush()
                    done = subprocess.run([program, "config", "--config", settings.name], capture_output=True, text=True, env={})
                    require(done.returncode == 0, f"{file}: {done.stderr.strip()}")
    for where, template, _ in pod_templates(objects):
        command, *rest = template["spec"]["containers"][0]["args"]
        known = subprocess.run([program, command, "--help"], capture_output=True, text=True, check=True, env={}).stdout
        known = set(re.findall(r"--[a-z][a-z-]*", known))
        unknown = [word for word in rest if word.startswith("--") and word not in known]
        require(not unknown, f"{where}: `{command}` has no {', '.join(unknown)}")


def check_case(chart, name, case, program):
    if "refused" in case:
        try:
            chart.validate_schema(case["values"])
            render(chart, case)
        except helm.HelmError as error:
            require(case["refused"] in str(error), f"refused with other words: {error}")
            return
        raise Problem(f"was not refused ({case['refused']})")
    chart.validate_schema(case.get("values", {}))
    objects, text = render(chart, case)
    for wanted in case.get("has", []):
        require(tuple(wanted.split("/")) in objects, f"no {wanted}")
    for unwanted in case.get("lacks", []):
        found = [f"{kind}/{name}" for kind, name in objects if unwanted in (kind, f"{kind}/{name}")]
        require(not found, f"{found} should not be there")
    for wanted in case.get("says", []):
        require(wanted in text, f"`{wanted}` was not rendered")
    validate(name, objects)
    check_names(objects)
    check_coordinators(objects)
    for where, template, workload in pod_templates(objects):
        check_pod(where, template, workload, objects)
    for (kind, _), document in objects.items():
        if kind == "ConfigMap":
            for file in ("coordinator.toml", "host.toml"):
                tomllib.loads(document["data"][file])
    if program:
        check_program(program, objects)


def check_chart():
    """`helm lint`, and a schema that knows every value."""
    report = helm.lint(CHART, strict=True)
    serious = [message for message in report["messages"] if message["severity"] > 1] + report["errors"]
    require(not serious, f"helm lint: {serious}")
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    jsonschema.validate(values, schema)

    def compare(values, schema, path):
        properties = schema.get("properties")
        if properties is None:
            return
        named = set(properties) - {"global"}
        require(set(values) == named, f"values{path}: values.yaml and values.schema.json differ in {sorted(set(values) ^ named)}")
        for name in named:
            if isinstance(values[name], dict):
                compare(values[name], properties[name], f"{path}.{name}")

    compare(values, schema, "")


def check_restarts(chart):
    """A pod is started again by what it reads, and by nothing else."""

    def template(kind, **values):
        objects, _ = render(chart, {"values": values})
        return objects[(kind, "onward-host" if kind == "Deployment" else "onward")]["spec"]["template"]

    hosts, own = {"hosts": {"memory": "16Gi", "settings": {"cache": False}}}, {"coordinator": {"settings": {"max_sessions": 10}}}
    require(template("StatefulSet") == template("StatefulSet", **hosts), "values of hosts start the coordinator again")
    require(template("Deployment") == template("Deployment", **own), "settings of the coordinator start hosts again")
    require(template("StatefulSet") != template("StatefulSet", **own), "the coordinator goes on with old settings")
    require(template("Deployment") != template("Deployment", **hosts), "hosts go on with old settings")
    provider = {"hosts": {"mode": "provider"}}, {"hosts": {"mode": "provider", "nodeSelector": {"disk": "ssd"}}}
    require(template("StatefulSet", **provider[0]) != template("StatefulSet", **provider[1]), "the template of hosts is read once")
    shared = [{"hosts": {"mode": "provider"}, "etcd": {"endpoints": ["http://etcd:2379"]}, "coordinator": {
        "replicas": replicas, "persistence": {"existingClaim": "tables", "accessModes": ["ReadWriteMany"]}}} for replicas in (2, 3)]
    require(template("StatefulSet", **shared[0]) == template("StatefulSet", **shared[1]), "one coordinator more starts the others again")


def check_guide(chart, program):
    """Values in kubernetes.md are values of the chart."""
    guide = (HERE.parent / "kubernetes.md").read_text()
    defaults = yaml.safe_load((CHART / "values.yaml").read_text())
    for path in re.findall(r"--set\s+([a-zA-Z.]+)=", guide):
        value = defaults
        for name in path.split("."):
            require(isinstance(value, dict) and name in value, f"kubernetes.md: --set {path}: there is no such value")
            value = value[name]
    blocks = re.findall(r"```yaml\n(.*?)```", guide, re.DOTALL)
    require(blocks, "kubernetes.md has no values")
    for block in blocks:
        check_case(chart, "kubernetes.md", {"values": yaml.safe_load(block)}, program)


def main():
    program = os.environ.get("ONWARD")
    problems = passed = 0
    cases = yaml.safe_load((HERE / "cases.yaml").read_text())
    with helm.Chart.load(CHART) as chart:
        checks = [("the chart", check_chart), ("kubernetes.md", lambda: check_guide(chart, program)),
                  ("what starts pods again", lambda: check_restarts(chart))]
        checks += [(name, lambda n=name, c=case: check_case(chart, n, c or {}, program)) for name, case in cases.items()]
        for name, check in checks:
            try:
                check()
                passed += 1
                print(f"ok: {name}")
            except (Problem, helm.HelmError, jsonschema.ValidationError, KeyError, ValueError) as error:
                problems += 1
                print(f"FAILED: {name}: {type(error).__name__}: {getattr(error, 'message', error)}")
    print(f"Helm {helm.helm_sdk_version()}; Kubernetes {', '.join(VERSIONS)}; custom resources by hand-written schemas")
    print(f"settings and flags were checked with {program}" if program else "settings and flags were not checked: set ONWARD=PROGRAM")
    print(f"{passed} passed, {problems} failed")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
