{{/* Settings, as environment variables. Secrets are files: see _pod.tpl. */}}

{{/* Settings of every process: root context */}}
{{- define "everesthood.env.all" -}}
- name: EVERESTHOOD_LOG_LEVEL
  value: {{ .Values.logLevel | quote }}
- name: EVERESTHOOD_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: EVERESTHOOD_IDENTITY
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
{{- end }}

{{/* The record. Its address is a file, so that it is in no environment and can change: root context */}}
{{- define "everesthood.env.database" -}}
- name: EVERESTHOOD_DATABASE_URL_FILE
  value: /etc/everesthood/database/url
- name: EVERESTHOOD_DATABASE_POOL_SIZE
  value: {{ .Values.database.poolSize | quote }}
{{- end }}

{{/* The bell: dict root user */}}
{{- define "everesthood.env.redis" -}}
- name: EVERESTHOOD_REDIS_HOST
  value: {{ include "everesthood.redisHost" .root | quote }}
- name: EVERESTHOOD_REDIS_PORT
  value: {{ include "everesthood.redisPort" .root | quote }}
- name: EVERESTHOOD_REDIS_USER
  value: {{ .user | quote }}
- name: EVERESTHOOD_REDIS_PASSWORD_FILE
  value: /etc/everesthood/redis/password
{{- if and (not .root.Values.redis.enabled) .root.Values.redis.external.tls }}
- name: EVERESTHOOD_REDIS_TLS
  value: "true"
{{- if .root.Values.redis.external.caKey }}
- name: EVERESTHOOD_REDIS_CA_FILE
  value: /etc/everesthood/redis/ca.crt
{{- end }}
{{- end }}
{{- end }}

{{/* Services inside the cluster that agents may call: root context */}}
{{- define "everesthood.env.internalHosts" -}}
{{- $hosts := list }}
{{- range .Values.egress.internal }}
{{- $hosts = append $hosts (printf "%s:%d" .host (int .port)) }}
{{- end }}
- name: EVERESTHOOD_INTERNAL_HOSTS
  value: {{ join "," $hosts | quote }}
{{- end }}

{{/* The same, as NetworkPolicy egress rules: root context */}}
{{- define "everesthood.internalPeers" -}}
{{- $rules := list }}
{{- range .Values.egress.internal }}
{{- $in := dict "matchLabels" (dict "kubernetes.io/metadata.name" .namespace) }}
{{- $peer := dict "namespaceSelector" $in "podSelector" (dict "matchLabels" .podLabels) }}
{{- $port := dict "protocol" "TCP" "port" (int (.podPort | default .port)) }}
{{- $rules = append $rules (dict "to" (list $peer) "ports" (list $port)) }}
{{- end }}
{{- if not .Values.redis.enabled }}
{{- $port := dict "protocol" "TCP" "port" (int .Values.redis.external.port) }}
{{- $rule := dict "ports" (list $port) }}
{{- range .Values.redis.external.cidrs }}
{{- $_ := set $rule "to" (append ($rule.to | default list) (dict "ipBlock" (dict "cidr" .))) }}
{{- end }}
{{- $rules = append $rules $rule }}
{{- end }}
{{- toJson $rules }}
{{- end }}

{{/* Who may scrape, as peers that mean the same in a worker's namespace as in ours: root context */}}
{{- define "everesthood.metricsPeers" -}}
{{- $here := dict "matchLabels" (dict "kubernetes.io/metadata.name" .Release.Namespace) }}
{{- $peers := list }}
{{- range .Values.networkPolicy.metricsFrom }}
{{- if or (hasKey . "ipBlock") (hasKey . "namespaceSelector") }}
{{- $peers = append $peers . }}
{{- else }}
{{- $peers = append $peers (merge (dict "namespaceSelector" $here) .) }}
{{- end }}
{{- end }}
{{- toJson $peers }}
{{- end }}
