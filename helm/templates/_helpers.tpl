{{- define "lmaas.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{- define "lmaas.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains (include "lmaas.name" .) .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "lmaas.name" .) | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{/* Labels that never change: a selector cannot be changed by an upgrade. Argument: (list $ component). */}}
{{- define "lmaas.selectorLabels" -}}
app.kubernetes.io/name: {{ include "lmaas.name" (index . 0) | quote }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name | quote }}
app.kubernetes.io/component: {{ index . 1 }}
{{- end }}

{{- define "lmaas.labels" -}}
{{- $root := index . 0 -}}
{{- with $root.Values.commonLabels }}{{ toYaml . }}
{{ end -}}
{{ include "lmaas.selectorLabels" . }}
app.kubernetes.io/version: {{ $root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" $root.Chart.Name $root.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* Image of api or triton. Argument: (list $ component). */}}
{{- define "lmaas.image" -}}
{{- $root := index . 0 -}}
{{- $image := (index $root.Values (index . 1)).image -}}
{{- $suffix := ternary "-cpu" "" (and (eq (index . 1) "triton") (eq $root.Values.triton.device "cpu")) -}}
{{- $name := $image.repository -}}
{{- with $root.Values.image.registry }}{{ $name = printf "%s/%s" . $name }}{{ end -}}
{{- if $image.digest -}}
{{ $name }}@{{ $image.digest }}
{{- else -}}
{{ $name }}:{{ $image.tag | default (printf "%s%s" $root.Chart.AppVersion $suffix) }}
{{- end -}}
{{- end }}

{{- define "lmaas.secretName" -}}
{{- .Values.secret.existingSecret | default (printf "%s-keys" (include "lmaas.fullname" .)) -}}
{{- end }}

{{- define "lmaas.databaseSecretName" -}}
{{- .Values.database.existingSecret | default (printf "%s-postgresql" (include "lmaas.fullname" .)) -}}
{{- end }}

{{- define "lmaas.databaseSecretKey" -}}
{{- ternary .Values.database.secretKey "url" (ne .Values.database.existingSecret "") -}}
{{- end }}

{{- define "lmaas.claimName" -}}
{{- .Values.storage.existingClaim | default (printf "%s-models" (include "lmaas.fullname" .)) -}}
{{- end }}

{{- define "lmaas.serviceAccountName" -}}
{{- if .Values.serviceAccount.create -}}
{{- .Values.serviceAccount.name | default (printf "%s-api" (include "lmaas.fullname" .)) -}}
{{- else -}}
{{- .Values.serviceAccount.name | default "default" -}}
{{- end -}}
{{- end }}

{{/* The folder of one Triton in the shared volume, as the façade calls it. POD_NAME is a variable of the pod. */}}
{{- define "lmaas.repositoryFolder" -}}
{{- if eq .Values.triton.discovery "kubernetes" -}}
$(POD_NAME)
{{- else -}}
$(POD_NAME).{{ include "lmaas.tritonDomain" . }}-8001
{{- end -}}
{{- end }}

{{- define "lmaas.tritonDomain" -}}
{{ include "lmaas.fullname" . }}-triton.{{ .Release.Namespace }}.svc.{{ .Values.clusterDomain }}
{{- end }}

{{- define "lmaas.tritonUrls" -}}
{{- $urls := list -}}
{{- range $number := until (int .Values.triton.replicas) -}}
{{- $urls = append $urls (printf "grpc://%s-triton-%d.%s:8001" (include "lmaas.fullname" $) $number (include "lmaas.tritonDomain" $)) -}}
{{- end -}}
{{- join "," $urls -}}
{{- end }}

{{/* The names of the pods of Triton, as many as there may be. */}}
{{- define "lmaas.tritonPods" -}}
{{- $most := int .Values.triton.replicas -}}
{{- range $scaler := list .Values.triton.autoscaling .Values.triton.keda -}}
{{- if $scaler.enabled }}{{ $most = int $scaler.maxReplicas }}{{ end -}}
{{- end -}}
{{- $names := list -}}
{{- range $number := until $most -}}
{{- $names = append $names (printf "%s-triton-%d" (include "lmaas.fullname" $) $number) -}}
{{- end -}}
{{- join ", " $names -}}
{{- end }}

{{/* Where jobs and tests reach the façade. */}}
{{- define "lmaas.url" -}}
{{ ternary "https" "http" (ne .Values.api.tls.existingSecret "") }}://{{ include "lmaas.fullname" . }}-api:{{ .Values.api.service.port }}
{{- end }}

{{/* The keys of a map that are true, by commas. */}}
{{- define "lmaas.chosen" -}}
{{- $names := list -}}
{{- range $name, $wanted := . }}{{ if $wanted }}{{ $names = append $names $name }}{{ end }}{{ end -}}
{{- join "," $names -}}
{{- end }}

{{- define "lmaas.allowedHosts" -}}
{{- $service := printf "%s-api" (include "lmaas.fullname" .) -}}
{{- $local := printf "%s.%s.svc" $service .Release.Namespace -}}
{{- $hosts := list $service (printf "%s.%s" $service .Release.Namespace) $local (printf "%s.%s" $local .Values.clusterDomain) -}}
{{- $hosts = concat $hosts (include "lmaas.chosen" .Values.api.allowedHosts | splitList ",") -}}
{{- if .Values.ingress.enabled }}{{ $hosts = concat $hosts (keys .Values.ingress.hosts) }}{{ end -}}
{{- if .Values.gateway.enabled }}{{ $hosts = concat $hosts (include "lmaas.chosen" .Values.gateway.hosts | splitList ",") }}{{ end -}}
{{- $hosts | compact | uniq | sortAlpha | join "," -}}
{{- end }}

{{/* Whole cores of a CPU quantity, one at least: "1500m" is 1. */}}
{{- define "lmaas.cores" -}}
{{- $text := toString . -}}
{{- $cores := 1 -}}
{{- if hasSuffix "m" $text }}{{ $cores = div (trimSuffix "m" $text | int) 1000 }}{{ else }}{{ $cores = floor (float64 $text) | int }}{{ end -}}
{{- max 1 $cores -}}
{{- end }}

{{/* Three quarters of a quantity of memory in Mi or Gi, in bytes, but the least that the setting takes; else empty. */}}
{{- define "lmaas.conversionMemory" -}}
{{- $text := toString . -}}
{{- $mebibytes := 0 -}}
{{- if hasSuffix "Gi" $text }}{{ $mebibytes = mulf (trimSuffix "Gi" $text | float64) 768 | int }}{{ end -}}
{{- if hasSuffix "Mi" $text }}{{ $mebibytes = mulf (trimSuffix "Mi" $text | float64) 0.75 | int }}{{ end -}}
{{- if $mebibytes }}{{ mul (max 256 $mebibytes) 1048576 }}{{ end -}}
{{- end }}

{{- define "lmaas.drainSeconds" -}}
{{- .Values.api.settings.drainSeconds | default 6 | ceil | int -}}
{{- end }}

{{/* After the drain the façade closes its connections and stores. */}}
{{- define "lmaas.apiGracePeriod" -}}
{{- .Values.api.terminationGracePeriodSeconds | default (add .Values.api.preStopSeconds (include "lmaas.drainSeconds" .) 20) -}}
{{- end }}

{{- define "lmaas.tritonGracePeriod" -}}
{{- .Values.triton.terminationGracePeriodSeconds | default (add .Values.triton.preStopSeconds .Values.triton.drainSeconds 15) -}}
{{- end }}

{{/* What Pod Security "restricted" asks for. OpenShift chooses the user of a namespace, and refuses others.
     Argument: (list $ user-of-the-image), who owns what its pods share. */}}
{{- define "lmaas.podSecurity" -}}
runAsNonRoot: true
{{- if not ((index . 0).Capabilities.APIVersions.Has "security.openshift.io/v1") }}
runAsUser: {{ index . 1 }}
runAsGroup: {{ index . 1 }}
fsGroup: {{ index . 1 }}
{{- end }}
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "lmaas.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{/* Of a pod that works for a moment: its user, and no links to Services, whose variables begin with LMAAS_. */}}
{{- define "lmaas.podBasics" -}}
enableServiceLinks: false
{{- include "lmaas.pullSecrets" . }}
securityContext:
  {{- include "lmaas.podSecurity" (list . 10001) | nindent 2 }}
{{- end }}

{{- define "lmaas.pullSecrets" -}}
{{- with include "lmaas.chosen" .Values.image.pullSecrets }}
imagePullSecrets:
  {{- range splitList "," . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{/* Where the pods of a component run. Argument: (list $ component). */}}
{{- define "lmaas.placement" -}}
{{- $root := index . 0 -}}
{{- $values := index $root.Values (index . 1) -}}
{{- with $values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with $values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $values.tolerations }}
tolerations:
  {{- range $values.tolerations }}
  - {{ toYaml . | nindent 4 | trim }}
  {{- end }}
{{- end }}
{{- $affinity := deepCopy $values.affinity -}}
{{- if eq $root.Values.storage.accessMode "ReadWriteOnce" }}
{{- $affinity = mergeOverwrite $affinity (include "lmaas.oneNode" $root | fromYaml) -}}
{{- end }}
{{- with $affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if compact (values $values.topologySpread) }}
topologySpreadConstraints:
  {{- range $key, $skew := $values.topologySpread }}
  {{- if $skew }}
  - topologyKey: {{ $key }}
    maxSkew: {{ $skew }}
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "lmaas.selectorLabels" (list $root (index $ 1)) | nindent 8 }}
  {{- end }}
  {{- end }}
{{- end }}
{{- end }}

{{/* A ReadWriteOnce volume is on one node: its pods go where the first of them runs. */}}
{{- define "lmaas.oneNode" -}}
podAffinity:
  requiredDuringSchedulingIgnoredDuringExecution:
    - topologyKey: kubernetes.io/hostname
      labelSelector:
        matchLabels:
          app.kubernetes.io/instance: {{ .Release.Name | quote }}
          {{ include "lmaas.volumeLabel" . }}
{{- end }}

{{- define "lmaas.volumeLabel" -}}
lmaas/volume: {{ include "lmaas.claimName" . | trunc 63 | trimAll "-." | quote }}
{{- end }}

{{/* A probe of a component. Argument: (list values-of-the-probe action). */}}
{{- define "lmaas.probe" -}}
{{ toYaml (index . 1) }}
{{ toYaml (index . 0) }}
{{- end }}

{{/* The address of the database, for containers of the façade's image. */}}
{{- define "lmaas.databaseEnv" -}}
- name: LMAAS_HOME
  value: /var/lib/lmaas/home
{{- if ne .Values.database.type "sqlite" }}
- name: LMAAS_DATABASE_URL
  valueFrom: {secretKeyRef: {name: {{ include "lmaas.databaseSecretName" . }}, key: {{ include "lmaas.databaseSecretKey" . }}}}
{{- end }}
{{- end }}

{{/* What commands need that talk to the façade. */}}
{{- define "lmaas.clientEnv" -}}
- name: LMAAS_URL
  value: {{ include "lmaas.url" . }}
{{- if .Values.auth.enabled }}
- name: LMAAS_API_KEY
  valueFrom: {secretKeyRef: {name: {{ include "lmaas.secretName" . }}, key: admin-key}}
{{- end }}
{{- if .Values.api.tls.existingSecret }}
- name: SSL_CERT_FILE
  value: /etc/lmaas/tls/ca.crt
{{- end }}
{{- end }}

{{/* Volumes outlive the release, and so do the password and the keys that belong to what is on them. */}}
{{- define "lmaas.kept" -}}
{{- if .Values.storage.keep }}
annotations:
  helm.sh/resource-policy: keep
{{- end }}
{{- end }}

{{/* Of commands, which work for a moment. */}}
{{- define "lmaas.commandResources" -}}
requests: {cpu: 100m, memory: 128Mi}
limits: {cpu: "1", memory: 512Mi}
{{- end }}

{{/* A container that runs one command against the façade. Argument: (list $ name arguments with-source). */}}
{{- define "lmaas.client" -}}
{{- $root := index . 0 -}}
- name: {{ index . 1 }}
  image: {{ include "lmaas.image" (list $root "api") }}
  imagePullPolicy: {{ $root.Values.image.pullPolicy }}
  args:
    {{- toYaml (index . 2) | nindent 4 }}
  env:
    {{- include "lmaas.clientEnv" $root | nindent 4 }}
  securityContext:
    {{- include "lmaas.containerSecurity" $root | nindent 4 }}
  resources:
    {{- include "lmaas.commandResources" $root | nindent 4 }}
  volumeMounts:
    - {name: tmp, mountPath: /tmp}
    {{- if $root.Values.api.tls.existingSecret }}
    - {name: tls, mountPath: /etc/lmaas/tls, readOnly: true}
    {{- end }}
    {{- if index . 3 }}
    - {name: source, mountPath: /source, readOnly: true}
    {{- end }}
{{- end }}
