{{/* What all pods share: restricted pod security, scheduling, settings. */}}

{{/* Security context of a pod: dict uid */}}
{{- define "everesthood.podSecurity" -}}
runAsNonRoot: true
runAsUser: {{ .uid }}
runAsGroup: {{ .uid }}
fsGroup: {{ .uid }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "everesthood.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end }}

{{/* Where and how pods run: root context */}}
{{- define "everesthood.scheduling" -}}
{{- with .Values.global.imagePullSecrets }}
imagePullSecrets:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.global.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.global.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.global.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- end }}

{{/* One file of a Secret as a volume: dict name secret items (map of key to path) */}}
{{- define "everesthood.secretVolume" -}}
- name: {{ .name }}
  secret:
    secretName: {{ .secret }}
    # 0440 in decimal, which every YAML reads alike: the pod's group may read, and nobody else.
    defaultMode: 288
    items:
      {{- range $key, $path := .items }}
      - key: {{ $key }}
        path: {{ $path }}
      {{- end }}
{{- end }}

{{- define "everesthood.volume.database" -}}
{{ include "everesthood.secretVolume" (dict "name" "database" "secret" (include "everesthood.databaseSecret" .) "items" (dict (include "everesthood.databaseKey" .) "url")) }}
{{- end }}

{{/* Passwords of the bell, as files: dict root keys (map of key in the Secret to file) */}}
{{- define "everesthood.volume.redis" -}}
{{- $keys := .keys }}
{{- $external := .root.Values.redis.external }}
{{- if and (not .root.Values.redis.enabled) $external.tls $external.caKey }}
{{- $keys = merge (dict $external.caKey "ca.crt") $keys }}
{{- end }}
{{- include "everesthood.secretVolume" (dict
  "name" "redis" "secret" (include "everesthood.redisSecret" .root) "items" $keys) }}
{{- end }}
