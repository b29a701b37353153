{{/* A component's ServiceAccount, and what binds it to the role of its name: dict root component */}}

{{- define "everesthood.serviceAccount" -}}
apiVersion: v1
kind: ServiceAccount
metadata:
  {{- include "everesthood.metadata" . | nindent 2 }}
automountServiceAccountToken: false
{{- end }}

{{- define "everesthood.clusterRoleBinding" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: everesthood-{{ .component }}
  labels:
    {{- include "everesthood.labels" . | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: everesthood-{{ .component }}
subjects:
  - {{ include "everesthood.subject" . | nindent 4 | trim }}
{{- end }}

{{- define "everesthood.subject" -}}
kind: ServiceAccount
name: everesthood-{{ .component }}
namespace: {{ .root.Release.Namespace }}
{{- end }}
