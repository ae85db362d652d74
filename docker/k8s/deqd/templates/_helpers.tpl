{{- define "deqd.fullname" -}}
{{- if .Values.fullnameOverride }}{{ .Values.fullnameOverride }}
{{- else if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}
{{- else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}
{{- end }}
{{- end }}

{{- define "deqd.selectorLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{- define "deqd.labels" -}}
{{ include "deqd.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end }}

{{- define "deqd.serviceAccountName" -}}
{{ .Values.serviceAccount.name | default (ternary (include "deqd.fullname" .) "default" .Values.serviceAccount.create) }}
{{- end }}

{{- define "deqd.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end }}
{{- end }}

{{- /* Stops with a message. `helm lint` lets fail pass, so a template that nobody defined is asked for besides, by the message as its name. */}}
{{- define "deqd.refuse" -}}
{{- fail . }}{{ include . . }}
{{- end }}

{{- /* Name of the Secret with the file of API keys; empty: deqd asks for none. */}}
{{- define "deqd.keysSecret" -}}
{{- if and .Values.auth.keys .Values.auth.existingSecret }}{{ include "deqd.refuse" "auth: existingSecret and keys exclude each other" }}{{ end }}
{{- if .Values.auth.keys }}{{ include "deqd.fullname" . }}-keys{{ else }}{{ .Values.auth.existingSecret }}{{ end }}
{{- end }}

{{- /* A line a key, as server/auth.c reads it: NAME SHA256-IN-HEX [admin] [priority] [weight=N] [depth=fixed|elastic] */}}
{{- define "deqd.keysFile" -}}
{{- $names := list }}{{ $hashes := list }}
{{- range .Values.auth.keys }}
{{- if has .name $names }}{{ include "deqd.refuse" (printf "auth.keys: the name %s stands there twice" .name) }}{{ end }}
{{- if has (lower .sha256) $hashes }}{{ include "deqd.refuse" (printf "auth.keys: the key of %s stands there twice" .name) }}{{ end }}
{{- $names = append $names .name }}{{ $hashes = append $hashes (lower .sha256) }}
{{- .name }} {{ lower .sha256 }}{{ if .admin }} admin{{ end }}{{ if .priority }} priority{{ end }}{{ with .weight }} weight={{ int . }}{{ end }}{{ with .depth }} depth={{ . }}{{ end }}
{{ end }}
{{- end }}

{{- /* Bytes of a size as Kubernetes (512Mi) or deqd (64M, 64MiB) writes it; both mean powers of 1024. */}}
{{- define "deqd.bytes" -}}
{{- $text := toString . }}
{{- $n := regexFind "^[0-9]+" $text | int64 }}
{{- $unit := regexFind "[KMGT]" $text }}
{{- mul $n (get (dict "" 1 "K" 1024 "M" 1048576 "G" 1073741824 "T" 1099511627776) $unit) }}
{{- end }}

{{- /* Compute threads: cores of the limit or of the request, rounded up. */}}
{{- define "deqd.threads" -}}
{{- $cpu := .Values.resources.limits.cpu | default .Values.resources.requests.cpu | toString }}
{{- if hasSuffix "m" $cpu }}{{ div (add (trimSuffix "m" $cpu | int64) 999) 1000 }}{{ else }}{{ $cpu | float64 | ceil | int64 }}{{ end }}
{{- end }}

{{- /* preStop, delay, timeout, slack: what SIGKILL has to wait for. */}}
{{- define "deqd.gracePeriodSeconds" -}}
{{- with .Values.drain }}{{ add .preStopSeconds .delaySeconds .timeoutSeconds .slackSeconds }}{{ end }}
{{- end }}
