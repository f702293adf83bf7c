{{/* The pod of a host: of the Deployment, and the template of those that the coordinator starts, which gives them name, labels of its own,
     image, arguments, CPU, memory, restart policy and grace period, and finds their container by its name, `host`. */}}

{{/* What `onward host` is run with behind --join and --name, as a JSON list. */}}
{{- define "onward.host.arguments" -}}
{{- $advertise := default (printf "$(POD_IP):%v" .Values.hosts.port) .Values.hosts.advertise -}}
{{- $arguments := list "--advertise" $advertise "--config" "/etc/onward/config/host.toml" -}}
{{- if not .Values.tls.cluster.existingSecret -}}
{{- $arguments = append $arguments "--insecure" -}}
{{- end -}}
{{- concat $arguments .Values.hosts.extraArgs | toJson -}}
{{- end -}}

{{- define "onward.host.pod" -}}
metadata:
  labels:
    {{- include "onward.podLabels" . | nindent 4 }}
    app.kubernetes.io/component: host
    {{- with .Values.hosts.podLabels }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  annotations:
    checksum/config: {{ include "onward.hostSettings" . | sha256sum }}
    {{- with .Values.hosts.podAnnotations }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
spec:
  serviceAccountName: {{ default "default" .Values.serviceAccount.hostName }}
  automountServiceAccountToken: false
  # Variables of services begin with the release's name: ONWARD_... is the settings' name.
  enableServiceLinks: false
  # Process 1 is then one that reaps: functions of a zygote that died are nobody else's children.
  shareProcessNamespace: true
  terminationGracePeriodSeconds: {{ include "onward.graceSeconds" (dig "host_leave_timeout_ms" 30000 (include "onward.hostSettings" . | fromJson)) }}
  {{- with .Values.imagePullSecrets }}
  imagePullSecrets:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.hosts.priorityClassName }}
  priorityClassName: {{ . }}
  {{- end }}
  securityContext:
    {{- toYaml .Values.podSecurityContext | nindent 4 }}
  containers:
    - name: host
      image: {{ include "onward.image" . }}
      imagePullPolicy: {{ .Values.image.pullPolicy }}
      {{- if not (include "onward.isProvider" .) }}
      args:
        - host
        - --join
        - {{ include "onward.join" . }}
        {{- include "onward.host.arguments" . | fromJsonArray | toYaml | nindent 8 }}
      {{- end }}
      env:
        - name: POD_IP
          valueFrom:
            fieldRef:
              fieldPath: status.podIP
        - name: ONWARD_LOG
          value: {{ .Values.log | quote }}
        {{- with concat .Values.extraEnv .Values.hosts.extraEnv }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with .Values.extraEnvFrom }}
      envFrom:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      ports:
        - name: host
          containerPort: {{ .Values.hosts.port }}
      {{- if not .Values.hosts.advertise }}
      # Listening, not joined: a host that finds no coordinator tries again by itself, and a restart would lose its cached columns.
      readinessProbe:
        tcpSocket:
          port: host
        periodSeconds: 5
      {{- end }}
      resources:
        {{- include "onward.resources" (list .Values.hosts.vcpus .Values.hosts.memory .Values.hosts.cpuLimit) | nindent 8 }}
      securityContext:
        {{- toYaml .Values.securityContext | nindent 8 }}
      volumeMounts:
        {{- include "onward.mounts" . | nindent 8 }}
        {{- with .Values.hosts.extraVolumeMounts }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
  volumes:
    {{- include "onward.volumes" (list . .Values.hosts.shm) | nindent 4 }}
    {{- with .Values.hosts.extraVolumes }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with .Values.hosts.nodeSelector }}
  nodeSelector:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.hosts.affinity }}
  affinity:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.hosts.tolerations }}
  tolerations:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  {{- with .Values.hosts.topologySpreadConstraints }}
  topologySpreadConstraints:
    {{- toYaml . | nindent 4 }}
  {{- end }}
{{- end -}}
