{{/* The name of the objects, and the beginning of their names. */}}
{{- define "movies-r-us.name" -}}
{{ .Values.fullnameOverride | default .Release.Name }}
{{- end }}

{{/* Labels that select pods; they must never change. Arguments: root, component. */}}
{{- define "movies-r-us.selector" -}}
app.kubernetes.io/name: movies-r-us
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- define "movies-r-us.labels" -}}
{{ include "movies-r-us.selector" . }}
app.kubernetes.io/part-of: movies-r-us
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{- define "movies-r-us.image" -}}
{{- with .Values.image -}}
{{- if .digest -}}
{{ .repository }}@{{ .digest }}
{{- else -}}
{{ .repository }}:{{ .tag | default $.Chart.AppVersion }}
{{- end -}}
{{- end -}}
{{- end }}

{{/* Settings of every pod: the restricted Pod Security Standard, and no Kubernetes API token, because no
pod calls the API. EKS injects the pod identity token regardless. */}}
{{- define "movies-r-us.pod" -}}
serviceAccountName: {{ ternary .Values.migration.serviceAccountName "" (hasKey . "migrates") | default .Values.serviceAccount.name }}
automountServiceAccountToken: false
# Without this, every service in the namespace adds environment variables.
enableServiceLinks: false
{{- with .Values.imagePullSecrets }}
imagePullSecrets: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .Values.affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
securityContext:
  runAsNonRoot: true
  runAsUser: 65532
  runAsGroup: 65532
  seccompProfile:
    type: RuntimeDefault
{{- end }}

{{/* Settings of every container. The programs write no files. */}}
{{- define "movies-r-us.container" -}}
image: {{ include "movies-r-us.image" . | quote }}
imagePullPolicy: {{ .Values.image.pullPolicy }}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
resources: {{- toYaml .Values.resources | nindent 2 }}
{{- end }}

{{/* User and password of a Secret of Kubernetes. Arguments: its name, and the variables. */}}
{{- define "movies-r-us.login" -}}
- name: {{ .user }}
  valueFrom:
    secretKeyRef: { name: {{ .name }}, key: username }
- name: {{ .password }}
  valueFrom:
    secretKeyRef: { name: {{ .name }}, key: password }
{{- end }}

{{/* Variables of the credentials of the database that are not in the ConfigMap, which has those of serving. An empty
variable of the migration is not that of the ConfigMap. */}}
{{- define "movies-r-us.database" -}}
{{- $service := .Values.database.service | default dict }}
{{- $hasService := or $service.secretArn $service.existingSecret }}
{{- if or (not $hasService) (hasKey . "migrates") }}
{{- with .Values.database.existingSecret }}
{{ include "movies-r-us.login" (dict "name" . "user" "MRU_DB_USER" "password" "MRU_DB_PASS") }}
{{- end }}
{{- if $hasService }}
- name: MRU_DB_SECRET_ARN
  value: {{ .Values.database.secretArn | quote }}
{{- with $service.secretArn }}
- name: MRU_DB_SERVICE_SECRET_ARN
  value: {{ . | quote }}
{{- end }}
{{- with $service.existingSecret }}
{{ include "movies-r-us.login" (dict "name" . "user" "MRU_DB_SERVICE_USER" "password" "MRU_DB_SERVICE_PASS") }}
{{- end }}
{{- end }}
{{- else }}
{{- with $service.existingSecret }}
{{ include "movies-r-us.login" (dict "name" . "user" "MRU_DB_USER" "password" "MRU_DB_PASS") }}
{{- end }}
{{- end }}
{{- end }}

{{/* Environment of serve and migrate: the ConfigMap and references to secrets. */}}
{{- define "movies-r-us.environment" -}}
{{- $database := include "movies-r-us.database" . | trim -}}
envFrom:
  - configMapRef:
      name: {{ include "movies-r-us.name" . }}
{{- if or $database .Values.apiToken.existingSecret .Values.jwtKey.existingSecret .Values.tmdb.existingSecret .Values.aws.env .Values.extraEnv }}
env:
  {{- with $database }}
  {{- . | nindent 2 }}
  {{- end }}
  {{- with .Values.apiToken.existingSecret }}
  - name: MRU_API_TOKEN
    valueFrom:
      secretKeyRef: { name: {{ . }}, key: token }
  {{- end }}
  {{- with .Values.jwtKey.existingSecret }}
  - name: MRU_JWT_KEY
    valueFrom:
      secretKeyRef: { name: {{ . }}, key: key }
  {{- end }}
  {{- with .Values.tmdb.existingSecret }}
  - name: MRU_TMDB_TOKEN
    valueFrom:
      secretKeyRef: { name: {{ . }}, key: token }
  {{- end }}
  {{- with .Values.aws.env }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
  {{- with .Values.extraEnv }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- if or .Values.database.caConfigMap .Values.extraVolumeMounts }}
volumeMounts:
  {{- if .Values.database.caConfigMap }}
  - name: database-ca
    mountPath: /etc/movies-r-us
    readOnly: true
  {{- end }}
  {{- with .Values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "movies-r-us.volumes" -}}
{{- if or .Values.database.caConfigMap .Values.extraVolumes }}
volumes:
  {{- with .Values.database.caConfigMap }}
  - name: database-ca
    configMap:
      name: {{ . }}
  {{- end }}
  {{- with .Values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Annotations of the AWS Load Balancer Controller for both ingresses. Arguments: root, ingress (its
values). */}}
{{- define "movies-r-us.alb" -}}
alb.ingress.kubernetes.io/target-type: ip
# No HTTP listener, not even a redirect: the first request would send the token unencrypted.
alb.ingress.kubernetes.io/listen-ports: '[{"HTTPS": 443}]'
# A pod that loses the database gets no requests after 20 s. If all pods lose it, the load balancer sends
# requests to all of them, so that clients get the service's 503 with Retry-After.
alb.ingress.kubernetes.io/healthcheck-path: /readyz
alb.ingress.kubernetes.io/healthcheck-port: "8081"
alb.ingress.kubernetes.io/healthcheck-interval-seconds: "10"
alb.ingress.kubernetes.io/healthcheck-timeout-seconds: "5"
alb.ingress.kubernetes.io/healthy-threshold-count: "2"
alb.ingress.kubernetes.io/unhealthy-threshold-count: "2"
alb.ingress.kubernetes.io/target-group-attributes: deregistration_delay.timeout_seconds={{ .root.Values.preStopSeconds }}
alb.ingress.kubernetes.io/ssl-policy: {{ .ingress.sslPolicy }}
external-dns.alpha.kubernetes.io/hostname: {{ .ingress.host }}
{{- with .ingress.loadBalancerAttributes }}
alb.ingress.kubernetes.io/load-balancer-attributes: {{ . | quote }}
{{- end }}
{{- with .ingress.certificateArn }}
alb.ingress.kubernetes.io/certificate-arn: {{ . }}
{{- end }}
{{- with .ingress.groupName }}
alb.ingress.kubernetes.io/group.name: {{ . }}
{{- end }}
{{- with mergeOverwrite dict .root.Values.commonAnnotations .ingress.annotations }}
{{ toYaml . }}
{{- end }}
{{- end }}
