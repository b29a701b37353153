{{/* Only with more than one replica: with one, a budget would block every drain of its node. */}}
{{- define "everesthood.pdb" -}}
{{- if gt (int (index .root.Values .component).replicas) 1 }}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "everesthood.metadata" . | nindent 2 }}
spec:
  maxUnavailable: 1
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "everesthood.selector" . | nindent 6 }}
{{- end }}
{{- end }}
