{{/* Names, labels and image. One installation serves a cluster, so names do not follow the release. */}}

{{- define "everesthood.labels" -}}
{{ include "everesthood.selector" . }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
app.kubernetes.io/part-of: everesthood
helm.sh/chart: {{ .root.Chart.Name }}-{{ .root.Chart.Version }}
{{- end }}

{{- define "everesthood.selector" -}}
app.kubernetes.io/name: everesthood
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* metadata of a namespaced object of a component: dict root component [name] */}}
{{- define "everesthood.metadata" -}}
name: {{ .name | default (printf "everesthood-%s" .component) }}
namespace: {{ .root.Release.Namespace }}
labels:
  {{- include "everesthood.labels" . | nindent 2 }}
{{- end }}

{{- define "everesthood.image" -}}
{{- if .Values.image.digest -}}
{{ .Values.image.repository }}@{{ .Values.image.digest }}
{{- else -}}
{{ .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}
{{- end }}

{{- define "everesthood.databaseSecret" -}}
{{- if not .Values.postgresql.enabled -}}
{{ required "database.existingSecret.name is needed when postgresql.enabled is false" .Values.database.existingSecret.name }}
{{- else -}}
{{ .Values.postgresql.existingSecret | default "everesthood-postgresql" }}
{{- end -}}
{{- end }}

{{- define "everesthood.databaseKey" -}}
{{ ternary "url" .Values.database.existingSecret.key .Values.postgresql.enabled }}
{{- end }}

{{- define "everesthood.redisSecret" -}}
{{- if and (not .Values.redis.enabled) (not .Values.redis.existingSecret) -}}
{{ fail "redis.existingSecret is needed when redis.enabled is false" }}
{{- end -}}
{{ .Values.redis.existingSecret | default "everesthood-redis" }}
{{- end }}

{{- define "everesthood.redisHost" -}}
{{- $_ := include "everesthood.redisSecret" . -}}
{{- if .Values.redis.enabled -}}
everesthood-redis.{{ .Release.Namespace }}.svc
{{- else -}}
{{ required "redis.external.host is needed when redis.enabled is false" .Values.redis.external.host }}
{{- end -}}
{{- end }}

{{- define "everesthood.redisPort" -}}
{{ ternary 6379 .Values.redis.external.port .Values.redis.enabled }}
{{- end }}

{{/* A value of a Secret that exists, else a new random one: dict root secret key. */}}
{{- define "everesthood.kept" -}}
{{- $found := lookup "v1" "Secret" .root.Release.Namespace .secret -}}
{{- $data := ($found | default dict).data | default dict -}}
{{- if hasKey $data .key -}}
{{ index $data .key | b64dec }}
{{- else -}}
{{ randAlphaNum 43 }}
{{- end -}}
{{- end }}
