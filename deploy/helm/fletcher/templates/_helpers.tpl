{{- define "fletcher.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 50 | trimSuffix "-" }}
{{- end }}

{{- define "fletcher.fullname" -}}
{{- if .Values.fullnameOverride }}
{{- .Values.fullnameOverride | trunc 50 | trimSuffix "-" }}
{{- else if contains (include "fletcher.name" .) .Release.Name }}
{{- .Release.Name | trunc 50 | trimSuffix "-" }}
{{- else }}
{{- printf "%s-%s" .Release.Name (include "fletcher.name" .) | trunc 50 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "fletcher.selector" -}}
app.kubernetes.io/name: {{ include "fletcher.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: server
{{- end }}

{{- define "fletcher.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
app.kubernetes.io/name: {{ include "fletcher.name" . }}
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
{{- end }}

{{- define "fletcher.serviceAccount" -}}
{{- .Values.serviceAccount.name | default (include "fletcher.fullname" .) }}
{{- end }}

{{- define "fletcher.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end }}
{{- end }}

{{/* A value in TOML: texts and lists of texts are quoted as in JSON, whose escapes TOML has too. */}}
{{- define "fletcher.toml" -}}
{{- if or (kindIs "string" .) (kindIs "slice" .) }}{{ toJson . }}
{{- else if kindIs "float64" . }}{{ if eq (float64 (int64 .)) . }}{{ int64 . }}{{ else }}{{ . }}{{ end }}
{{- else }}{{ . }}{{ end }}
{{- end }}

{{- define "fletcher.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "fletcher.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Init containers and volumes that the server and bulk jobs share. */}}
{{- define "fletcher.fetch" -}}
{{- if and .Values.artifacts.urls (not .Values.artifacts.existingClaim) }}
initContainers:
  - name: fetch
    image: {{ include "fletcher.image" . }}
    imagePullPolicy: {{ .Values.image.pullPolicy }}
    command: [python, /etc/fletcher-fetch/fetch.py, /etc/fletcher-fetch/artifacts.json, /artifacts]
    securityContext:
      {{- include "fletcher.containerSecurity" . | nindent 6 }}
    resources:
      requests: {cpu: 100m, memory: 128Mi}
      limits: {memory: 256Mi}
    volumeMounts:
      - {name: artifacts, mountPath: /artifacts}
      - {name: fetch, mountPath: /etc/fletcher-fetch, readOnly: true}
{{- end }}
{{- end }}

{{- define "fletcher.volumes" -}}
- name: artifacts
  {{- if .Values.artifacts.existingClaim }}
  persistentVolumeClaim: {claimName: {{ .Values.artifacts.existingClaim }}, readOnly: true}
  {{- else }}
  emptyDir: {sizeLimit: {{ .Values.artifacts.sizeLimit }}}
  {{- end }}
- name: cache
  {{- if .Values.cache.existingClaim }}
  persistentVolumeClaim: {claimName: {{ .Values.cache.existingClaim }}}
  {{- else }}
  emptyDir: {sizeLimit: {{ .Values.cache.sizeLimit }}}
  {{- end }}
- name: tmp
  emptyDir: {sizeLimit: 1Gi}
{{- if and .Values.artifacts.urls (not .Values.artifacts.existingClaim) }}
- name: fetch
  configMap: {name: {{ include "fletcher.fullname" . }}-fetch}
{{- end }}
{{- end }}

{{- define "fletcher.resources" -}}
{{- $limits := .resources.limits | default dict }}
{{- if gt (int .gpu.count) 0 }}
{{- $limits = merge (dict .gpu.resource .gpu.count) $limits }}
{{- end }}
{{- toYaml (merge (dict "limits" $limits) .resources) }}
{{- end }}

{{- define "fletcher.scheduling" -}}
{{- with .Values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
