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

{{/* The base URL of the endpoints that sessions publish. */}}
{{- define "srchat.gatewayUrl" -}}
{{- if .Values.gateway.url -}}
{{ .Values.gateway.url | trimSuffix "/" }}
{{- else -}}
https://srchat-gateway.{{ .Release.Namespace }}.svc{{ if ne (int .Values.gateway.service.port) 443 }}:{{ .Values.gateway.service.port }}{{ end }}
{{- end -}}
{{- end }}
