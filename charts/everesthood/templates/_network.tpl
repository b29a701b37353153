{{/* Pieces of NetworkPolicies. Probes come from the node, which every enforcer lets through. */}}

{{- define "everesthood.network.dns" -}}
- ports:
    - {protocol: UDP, port: 53}
    - {protocol: TCP, port: 53}
{{- end }}

{{/* The API server is no pod, so only its ports can be named: root context */}}
{{- define "everesthood.network.apiServer" -}}
- ports:
    {{- range .Values.networkPolicy.apiServerPorts }}
    - {protocol: TCP, port: {{ . }}}
    {{- end }}
{{- end }}

{{- define "everesthood.network.database" -}}
{{- if .Values.postgresql.enabled }}
- to:
    - podSelector:
        matchLabels:
          {{- include "everesthood.selector" (dict "component" "postgresql") | nindent 10 }}
  ports:
    - {protocol: TCP, port: 5432}
{{- else }}
- ports:
    - {protocol: TCP, port: {{ .Values.database.port }}}
{{- end }}
{{- end }}

{{- define "everesthood.network.redis" -}}
{{- if .Values.redis.enabled }}
- to:
    - podSelector:
        matchLabels:
          {{- include "everesthood.selector" (dict "component" "redis") | nindent 10 }}
  ports:
    - {protocol: TCP, port: 6379}
{{- else }}
- ports:
    - {protocol: TCP, port: {{ .Values.redis.external.port }}}
{{- end }}
{{- end }}

{{/* Ingress from our own components: dict components (list) port */}}
{{- define "everesthood.network.from" -}}
- from:
    - podSelector:
        matchLabels:
          app.kubernetes.io/name: everesthood
        matchExpressions:
          - key: app.kubernetes.io/component
            operator: In
            values: [{{ join ", " .components }}]
  ports:
    - {protocol: TCP, port: {{ .port }}}
{{- end }}

{{/* Ingress from workers, in whatever namespace: dict port */}}
{{- define "everesthood.network.fromWorkers" -}}
- from:
    - namespaceSelector: {}
      podSelector:
        matchLabels:
          app.kubernetes.io/managed-by: everesthood
          app.kubernetes.io/component: worker
  ports:
    - {protocol: TCP, port: {{ .port }}}
{{- end }}

{{/* A policy: dict root component ingress egress */}}
{{- define "everesthood.networkPolicy" -}}
{{- if .root.Values.networkPolicy.enabled }}
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata:
  {{- include "everesthood.metadata" . | nindent 2 }}
spec:
  podSelector:
    matchLabels:
      {{- include "everesthood.selector" . | nindent 6 }}
  policyTypes: [Ingress, Egress]
  ingress:
    {{- .ingress | trim | nindent 4 }}
    {{- if and .metrics .root.Values.networkPolicy.metricsFrom }}
    - from:
        {{- toYaml .root.Values.networkPolicy.metricsFrom | nindent 8 }}
      ports:
        - {protocol: TCP, port: 9090}
    {{- end }}
  egress:
    {{- .egress | trim | nindent 4 }}
{{- end }}
{{- end }}
