{{/* The names and labels that more than one template uses. Names are fixed: the CRD allows one installation in a cluster. */}}

{{- define "srchat.labels" -}}
app.kubernetes.io/name: srchat
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- define "srchat.controller" -}}
app.kubernetes.io/name: srchat
app.kubernetes.io/component: controller
{{- end }}

{{- define "srchat.gateway" -}}
app.kubernetes.io/name: srchat
app.kubernetes.io/component: gateway
{{- end }}

{{- define "srchat.image" -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- with .Values.image.digest }}@{{ . }}{{ end }}
{{- end }}

{{/* An upgrade with --reuse-values takes the values of a release that may be older than this one. */}}
{{- define "srchat.drainSeconds" -}}
{{ .Values.gateway.drainSeconds | default 300 }}
{{- end }}

{{/* The base URL of the endpoints that sessions publish. */}}
{{- define "srchat.gatewayUrl" -}}
{{- if .Values.gateway.url -}}
{{ .Values.gateway.url | trimSuffix "/" }}
{{- else -}}
https://srchat-gateway.{{ .Release.Namespace }}.svc{{ if ne (int .Values.gateway.service.port) 443 }}:{{ .Values.gateway.service.port }}{{ end }}
{{- end -}}
{{- end }}

{{/* The Secret with a certificate that is not the installation's own; empty for its own. */}}
{{- define "srchat.tlsSecret" -}}
{{- if .Values.gateway.tls.certManager.enabled -}}
{{ .Values.gateway.tls.secretName | default "srchat-gateway-issued" }}
{{- else -}}
{{ .Values.gateway.tls.secretName }}
{{- end -}}
{{- end }}

{{/* What every pod of ours is held to. */}}
{{- define "srchat.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "srchat.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Both processes answer the same probes at once after their start; neither waits for the other. */}}
{{- define "srchat.probes" -}}
livenessProbe:
  httpGet:
    path: /healthz
    port: metrics
  periodSeconds: 10
  timeoutSeconds: 3
  failureThreshold: 3
readinessProbe:
  httpGet:
    path: /readyz
    port: metrics
  periodSeconds: 2
  timeoutSeconds: 2
{{- end }}

{{/* Where a component's pods go: called with the values of the component and the root. */}}
{{- define "srchat.placement" -}}
{{- with .own.priorityClassName | default (ternary "srchat" "" .root.Values.priorityClass.create) }}
priorityClassName: {{ . }}
{{- end }}
{{- with .own.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .own.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .own.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
