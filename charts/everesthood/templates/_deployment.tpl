{{/*
A process of ours as a Deployment: dict
  root, component     the context and the command's name
  ports               map of name to number, besides metrics
  env                 YAML list of further settings
  volumes             YAML list of volumes, each mounted at /etc/everesthood/<name>
  mounts              names of those volumes
*/}}
{{- define "everesthood.deployment" -}}
{{- $values := index .root.Values .component -}}
apiVersion: apps/v1
kind: Deployment
metadata:
  {{- include "everesthood.metadata" . | nindent 2 }}
spec:
  replicas: {{ $values.replicas }}
  revisionHistoryLimit: 3
  strategy:
    type: RollingUpdate
    rollingUpdate:
      maxUnavailable: 0
      maxSurge: 1
  selector:
    matchLabels:
      {{- include "everesthood.selector" . | nindent 6 }}
  template:
    metadata:
      labels:
        {{- include "everesthood.selector" . | nindent 8 }}
      {{- with $values.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      serviceAccountName: everesthood-{{ .component }}
      automountServiceAccountToken: {{ ne .component "scheduler" }}
      enableServiceLinks: false
      terminationGracePeriodSeconds: 30
      securityContext:
        {{- include "everesthood.podSecurity" (dict "uid" 10001) | nindent 8 }}
      {{- include "everesthood.scheduling" .root | nindent 6 }}
      topologySpreadConstraints:
        - maxSkew: 1
          topologyKey: kubernetes.io/hostname
          whenUnsatisfiable: ScheduleAnyway
          labelSelector:
            matchLabels:
              {{- include "everesthood.selector" . | nindent 14 }}
      containers:
        - name: {{ .component }}
          image: {{ include "everesthood.image" .root }}
          imagePullPolicy: {{ .root.Values.image.pullPolicy }}
          args: [{{ .component }}]
          env:
            {{- include "everesthood.env.all" .root | nindent 12 }}
            {{- with .env }}
            {{- . | trim | nindent 12 }}
            {{- end }}
            {{- with .root.Values.extraEnv }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
          ports:
            {{- range $name, $number := .ports }}
            - name: {{ $name }}
              containerPort: {{ $number }}
            {{- end }}
            - name: metrics
              containerPort: 9090
          {{- include "everesthood.probes" . | nindent 10 }}
          resources:
            {{- toYaml $values.resources | nindent 12 }}
          securityContext:
            {{- include "everesthood.containerSecurity" . | nindent 12 }}
          volumeMounts:
            - name: tmp
              mountPath: /tmp
            {{- range .mounts }}
            - name: {{ . }}
              mountPath: /etc/everesthood/{{ . }}
              readOnly: true
            {{- end }}
      volumes:
        - name: tmp
          emptyDir:
            sizeLimit: 64Mi
        {{- with .volumes }}
        {{- . | trim | nindent 8 }}
        {{- end }}
{{- end }}

{{/* Started when live; alive while it makes progress; ready when it can serve. */}}
{{- define "everesthood.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 1
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 2
  timeoutSeconds: 5
  failureThreshold: 2
{{- end }}
