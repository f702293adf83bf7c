{{/* Names and labels. */}}

{{- define "onward.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* 40 characters: names of pods and objects add to it, and a label has 63. */}}
{{- define "onward.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := include "onward.name" . -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "onward.selector" -}}
app.kubernetes.io/name: {{ include "onward.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "onward.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{ include "onward.selector" . }}
app.kubernetes.io/version: {{ default .Chart.AppVersion .Values.image.tag | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{/* Of all pods of a cluster, whoever started them. */}}
{{- define "onward.cluster" -}}
onward.dev/cluster: {{ include "onward.clusterName" . }}
{{- end -}}

{{/* Of pods: without versions, which would start them again with every change of the chart. */}}
{{- define "onward.podLabels" -}}
{{ include "onward.selector" . }}
{{ include "onward.cluster" . }}
{{- with .Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end -}}

{{- define "onward.coordinator.selector" -}}
{{ include "onward.selector" . }}
app.kubernetes.io/component: coordinator
{{- end -}}

{{- define "onward.host.selector" -}}
{{ include "onward.selector" . }}
app.kubernetes.io/component: host
{{- end -}}

{{- define "onward.image" -}}
{{- if .Values.image.digest -}}
{{- printf "%s@%s" .Values.image.repository .Values.image.digest -}}
{{- else -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}
{{- end -}}

{{- define "onward.serviceAccount" -}}
{{- default (ternary (include "onward.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{/* Conditions: text or nothing. */}}

{{- define "onward.isProvider" -}}
{{- if eq .Values.hosts.mode "provider" }}true{{ end -}}
{{- end -}}

{{- define "onward.isReplicated" -}}
{{- if gt (int .Values.coordinator.replicas) 1 }}true{{ end -}}
{{- end -}}

{{/* What coordinators share is in etcd. One alone may do so, too: others can come, or have gone. */}}
{{- define "onward.isShared" -}}
{{- if .Values.etcd.endpoints }}true{{ end -}}
{{- end -}}

{{- define "onward.etcdIsTls" -}}
{{- range .Values.etcd.endpoints }}{{ if hasPrefix "https://" . }}true{{ end }}{{ end -}}
{{- end -}}

{{- define "onward.hasClientTls" -}}
{{- if or .Values.tls.client.existingSecret .Values.tls.client.certManager.enabled }}true{{ end -}}
{{- end -}}

{{- define "onward.clientTlsSecret" -}}
{{- default (printf "%s-tls" (include "onward.fullname" .)) .Values.tls.client.existingSecret -}}
{{- end -}}

{{/* Key of the secret of client TLS with the authorities by which coordinators know each other; nothing: the certificate itself. */}}
{{- define "onward.clientCaKey" -}}
{{- default (ternary "ca.crt" "" .Values.tls.client.certManager.enabled) .Values.tls.client.caKey -}}
{{- end -}}

{{/* The name of the headless service. A coordinator's pod has one below it, which certificates of client TLS must have. */}}
{{- define "onward.clusterDomainName" -}}
{{- printf "%s-cluster.%s.svc.%s" (include "onward.fullname" .) .Release.Namespace .Values.clusterDomain -}}
{{- end -}}

{{- define "onward.clusterScheme" -}}
{{- ternary "grpc+tls" "grpc" (not (empty .Values.tls.cluster.existingSecret)) -}}
{{- end -}}

{{/* What a coordinator says of itself. Where one of several leads, hosts and calls are sent to that one, so each has an address of its own. */}}
{{- define "onward.advertise" -}}
{{- $scheme := ternary "grpc+tls" "grpc" (eq (include "onward.hasClientTls" .) "true") -}}
{{- printf "%s://$(POD_NAME).%s:50051" $scheme (include "onward.clusterDomainName" .) -}}
{{- end -}}

{{- define "onward.clusterAdvertise" -}}
{{- $pod := ternary "$(POD_NAME)." "" (eq (include "onward.isShared" .) "true") -}}
{{- printf "%s://%s%s:%v" (include "onward.clusterScheme" .) $pod (include "onward.clusterDomainName" .) .Values.coordinator.clusterPort -}}
{{- end -}}

{{/* Where hosts join: at any coordinator, which tells them who leads. */}}
{{- define "onward.join" -}}
{{- if include "onward.isShared" . -}}
{{- $urls := list -}}
{{- range $number := until (int .Values.coordinator.replicas) -}}
{{- $urls = append $urls (printf "%s://%s-%d.%s:%v" (include "onward.clusterScheme" $) (include "onward.fullname" $) $number (include "onward.clusterDomainName" $) $.Values.coordinator.clusterPort) -}}
{{- end -}}
{{- join "," $urls -}}
{{- else -}}
{{- include "onward.clusterAdvertise" . -}}
{{- end -}}
{{- end -}}

{{/* Numbers. */}}

{{/* MiB of a quantity in Mi or Gi. */}}
{{- define "onward.mib" -}}
{{- $number := trimSuffix "Gi" . | trimSuffix "Mi" | int64 -}}
{{- ternary (mul $number 1024) $number (hasSuffix "Gi" .) -}}
{{- end -}}

{{/* Seconds that a pod gets from SIGTERM on: milliseconds, rounded up, and what closing takes. */}}
{{- define "onward.graceSeconds" -}}
{{- add (div (add (int64 .) 999) 1000) 15 -}}
{{- end -}}

{{/* Settings as TOML. `toToml` makes 30000.0 of 30000, which is no whole number; text, numbers and lists of JSON are those of TOML. Tables come
     behind the keys. The argument is a list: the settings, and the name of the table that they are in. */}}
{{- define "onward.toml" -}}
{{- $settings := index . 0 -}}
{{- $table := index . 1 -}}
{{- range $name, $value := $settings }}
{{- if not (kindIs "map" $value) }}
{{ $name }} = {{ toJson $value }}
{{- end }}
{{- end }}
{{- range $name, $value := $settings }}
{{- if kindIs "map" $value }}
{{- $inner := ternary $name (printf "%s.%s" $table $name) (eq $table "") }}

[{{ $inner }}]
{{- include "onward.toml" (list $value $inner) }}
{{- end }}
{{- end }}
{{- end -}}

{{/* Settings of coordinator and hosts that the chart knows. */}}
{{- define "onward.sharedSettings" -}}
spill_dir: /var/lib/onward/spill
{{- if .Values.tls.cluster.existingSecret }}
cluster_dir: /etc/onward/cluster
{{- end }}
{{- end -}}

{{- define "onward.coordinatorSettings" -}}
{{- $set := include "onward.sharedSettings" . | fromYaml -}}
{{- $_ := set $set "vcpus" .Values.coordinator.vcpus -}}
{{- $_ := set $set "cluster_name" (include "onward.clusterName" .) -}}
{{- if include "onward.isProvider" . -}}
{{- $provider := .Values.hosts.provider -}}
{{- $_ := set $set "provider" "kubernetes" -}}
{{- $_ := set $set "provider_image" (include "onward.image" .) -}}
{{- $_ := set $set "provider_namespace" .Release.Namespace -}}
{{- $_ := set $set "provider_owner" (printf "apps/v1/StatefulSet/%s" (include "onward.fullname" .)) -}}
{{- $_ := set $set "provider_pod_template" "/etc/onward/config/host-pod.json" -}}
{{- $words := list -}}
{{- range include "onward.host.arguments" . | fromJsonArray -}}
{{- $words = append $words (ternary . (squote .) (regexMatch "^[a-zA-Z0-9_./:=@%+,$()\\[\\]-]+$" .)) -}}
{{- end -}}
{{- $_ := set $set "provider_arguments" (join " " $words) -}}
{{- $_ := set $set "min_hosts" $provider.minHosts -}}
{{- $_ := set $set "max_hosts" $provider.maxHosts -}}
{{- $_ := set $set "host_vcpus" .Values.hosts.vcpus -}}
{{/* The pod's: the coordinator has the host count on four fifths. */}}
{{- $_ := set $set "host_memory_bytes" (printf "%sMiB" (include "onward.mib" .Values.hosts.memory)) -}}
{{- $_ := set $set "host_idle_timeout_ms" $provider.idleTimeoutMs -}}
{{- $_ := set $set "host_start_timeout_ms" $provider.startTimeoutMs -}}
{{- end -}}
{{- if include "onward.isShared" . -}}
{{- $etcd := .Values.etcd -}}
{{- $_ := set $set "etcd_endpoints" (join "," $etcd.endpoints) -}}
{{/* With the namespace: another one may have a release of this name, and the same etcd. */}}
{{- $_ := set $set "etcd_prefix" (default (printf "/onward/%s/%s" .Release.Namespace (include "onward.clusterName" .)) $etcd.prefix) -}}
{{- $_ := set $set "leader_lease_ms" $etcd.leaderLeaseMs -}}
{{- $_ := set $set "failover_wait_ms" $etcd.failoverWaitMs -}}
{{- if $etcd.user -}}
{{- $_ := set $set "etcd_user" $etcd.user -}}
{{- $_ := set $set "etcd_password_file" (printf "/etc/onward/etcd-password/%s" $etcd.passwordKey) -}}
{{- end -}}
{{- if include "onward.etcdIsTls" . -}}
{{- $_ := set $set "etcd_ca" "/etc/onward/etcd-tls/ca.crt" -}}
{{- if $etcd.tls.clientCertificate -}}
{{- $_ := set $set "etcd_cert" "/etc/onward/etcd-tls/tls.crt" -}}
{{- $_ := set $set "etcd_key" "/etc/onward/etcd-tls/tls.key" -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- merge (deepCopy .Values.coordinator.settings) (deepCopy .Values.settings) $set | toJson -}}
{{- end -}}

{{- define "onward.hostSettings" -}}
{{- $set := include "onward.sharedSettings" . | fromYaml -}}
{{- $_ := set $set "vcpus" .Values.hosts.vcpus -}}
{{- with .Values.hosts.labels -}}
{{- $_ := set $set "host_labels" . -}}
{{- end -}}
{{- merge (deepCopy .Values.hosts.settings) (deepCopy .Values.settings) $set | toJson -}}
{{- end -}}

{{- define "onward.clusterName" -}}
{{- default (include "onward.fullname" . | replace "." "-" | splitList "-" | compact | join "-") .Values.hosts.provider.clusterName -}}
{{- end -}}

{{/* Volumes and mounts that coordinator and hosts share. The argument is a list: the root, and the size of /dev/shm. */}}
{{- define "onward.volumes" -}}
{{- $root := index . 0 -}}
- name: config
  configMap:
    name: {{ include "onward.fullname" $root }}
- name: shared-memory
  emptyDir:
    medium: Memory
    sizeLimit: {{ index . 1 }}
- name: spill
  emptyDir:
    sizeLimit: {{ $root.Values.spill.sizeLimit }}
- name: tmp
  emptyDir:
    sizeLimit: 1Gi
{{- with $root.Values.tls.cluster.existingSecret }}
- name: cluster
  secret:
    secretName: {{ . }}
    defaultMode: 0440
    items:
      - {key: ca.pem, path: ca.pem}
      - {key: host.pem, path: host.pem}
      - {key: host.key, path: host.key}
{{- end }}
{{- end -}}

{{- define "onward.mounts" -}}
- {name: config, mountPath: /etc/onward/config, readOnly: true}
- {name: shared-memory, mountPath: /dev/shm}
- {name: spill, mountPath: /var/lib/onward/spill}
- {name: tmp, mountPath: /tmp}
{{- if .Values.tls.cluster.existingSecret }}
- {name: cluster, mountPath: /etc/onward/cluster, readOnly: true}
{{- end }}
{{- end -}}

{{/* The argument is a list: vCPUs, memory, limit of CPU. */}}
{{- define "onward.resources" -}}
requests:
  cpu: {{ index . 0 | quote }}
  memory: {{ index . 1 }}
limits:
  {{- with index . 2 }}
  cpu: {{ . | quote }}
  {{- end }}
  memory: {{ index . 1 }}
{{- end -}}

{{/* Values that make no sense, said before anything is created. */}}
{{- define "onward.check" -}}
{{- if not .Values.insecure -}}
{{- if not .Values.token.existingSecret -}}
{{- fail "token.existingSecret is empty: name a secret with the token of clients, or set insecure=true" -}}
{{- end -}}
{{- if not (include "onward.hasClientTls" .) -}}
{{- fail "tls.client.existingSecret is empty: name a kubernetes.io/tls secret, set tls.client.certManager.enabled, or set insecure=true" -}}
{{- end -}}
{{- if not .Values.tls.cluster.existingSecret -}}
{{- fail "tls.cluster.existingSecret is empty: name a secret with the files of `onward tls init`, or set insecure=true" -}}
{{- end -}}
{{- end -}}
{{- range $role := list "coordinator" "hosts" -}}
{{- $values := get $.Values $role -}}
{{- if ge (include "onward.mib" $values.shm | int64) (include "onward.mib" $values.memory | int64) -}}
{{- fail (printf "%s.shm is not less than %s.memory: shared memory counts against it" $role $role) -}}
{{- end -}}
{{- end -}}
{{- if and .Values.tls.client.certManager.enabled (not .Values.tls.client.certManager.issuerRef.name) -}}
{{- fail "tls.client.certManager.issuerRef.name is empty: who signs?" -}}
{{- end -}}
{{- if and (include "onward.isReplicated" .) (not .Values.etcd.endpoints) -}}
{{- fail "coordinator.replicas is more than 1: etcd.endpoints says where they agree on a leader" -}}
{{- end -}}
{{- $persistence := .Values.coordinator.persistence -}}
{{- if and (include "onward.isReplicated" .) (not (and $persistence.enabled $persistence.existingClaim (has "ReadWriteMany" $persistence.accessModes))) -}}
{{- fail "coordinator.replicas is more than 1: all of them have one data directory, so coordinator.persistence must be enabled, existingClaim name a ReadWriteMany claim, and accessModes be [ReadWriteMany]" -}}
{{- end -}}
{{- if and .Values.etcd.user (not .Values.etcd.passwordSecret) -}}
{{- fail "etcd.user is set: etcd.passwordSecret names the secret with its password" -}}
{{- end -}}
{{- if and (include "onward.etcdIsTls" .) (not .Values.etcd.tls.existingSecret) -}}
{{- fail "etcd.endpoints has https: etcd.tls.existingSecret names the secret with ca.crt" -}}
{{- end -}}
{{- $scaling := .Values.hosts.deployment.autoscaling -}}
{{- if eq .Values.hosts.mode "deployment" -}}
{{- if and (eq $scaling.kind "keda") (eq $scaling.keda.trigger "prometheus") (not $scaling.keda.prometheus.serverAddress) -}}
{{- fail "hosts.deployment.autoscaling.keda.prometheus.serverAddress is empty" -}}
{{- end -}}
{{- $ofMetrics := or (eq $scaling.kind "keda") (and (eq $scaling.kind "hpa") (eq $scaling.hpa.metric "external")) -}}
{{- if and $ofMetrics (not .Values.metrics.enabled) -}}
{{- fail "hosts.deployment.autoscaling scales by onward_functions_wanted: set metrics.enabled=true" -}}
{{- end -}}
{{- if and (eq $scaling.kind "hpa") (lt (int $scaling.minReplicas) 1) -}}
{{- fail "hosts.deployment.autoscaling.minReplicas: an HPA keeps at least 1; keda can do with 0" -}}
{{- end -}}
{{- if lt (int $scaling.maxReplicas) (int $scaling.minReplicas) -}}
{{- fail "hosts.deployment.autoscaling.maxReplicas is less than minReplicas" -}}
{{- end -}}
{{- end -}}
{{- if lt (int .Values.hosts.provider.maxHosts) (int .Values.hosts.provider.minHosts) -}}
{{- fail "hosts.provider.maxHosts is less than minHosts" -}}
{{- end -}}
{{- end -}}
