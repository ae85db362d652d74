{{- /* One value as YAML. Numbers of values files are floats to helm, which would print a million as 1e+06; deqd wants digits. */}}
{{- define "deqd.scalar" -}}
{{- if kindIs "string" . }}{{ toJson . }}
{{- else if and (kindIs "float64" .) (eq (float64 (int64 .)) .) }}{{ int64 . }}
{{- else }}{{ . }}
{{- end }}
{{- end }}

{{- /* deqd.yaml: files/deqd.yaml line by line, comments and all, with the values that are set here in their lines. */}}
{{- define "deqd.config" -}}
{{- $listen := .Values.listenAddress }}
{{- $set := dict
  "server.listen" (toJson (printf "%s:8080" $listen))
  "server.admin_listen" (toJson (printf "%s:8081" $listen))
  "server.drain_delay_ms" (mul .Values.drain.delaySeconds 1000 | toString)
  "server.shutdown_timeout_ms" (mul .Values.drain.timeoutSeconds 1000 | toString)
  "model.path" (toJson .Values.model.path)
  "model.name" (toJson .Values.model.name)
  "engine.threads" (include "deqd.threads" .) }}
{{- if include "deqd.keysSecret" . }}
{{- $_ := set $set "auth.keys_file" (toJson "/run/secrets/deqd/keys/keys") }}
{{- end }}
{{- if .Values.tls.existingSecret }}
{{- $_ := set $set "tls.cert" (toJson "/run/secrets/deqd/tls/tls.crt") }}
{{- $_ := set $set "tls.key" (toJson "/run/secrets/deqd/tls/tls.key") }}
{{- end }}
{{- if .Values.state.existingClaim }}
{{- $_ := set $set "state.dir" (toJson "/var/lib/deqd/states") }}
{{- end }}
{{- range $section, $keys := .Values.config }}
{{- range $key, $value := $keys }}
{{- $_ := set $set (printf "%s.%s" $section $key) (include "deqd.scalar" $value) }}
{{- end }}
{{- end }}
{{- $section := "" }}{{ $lines := list }}
{{- range splitList "\n" (.Files.Get "files/deqd.yaml" | trimSuffix "\n") }}
{{- $line := . }}
{{- if regexMatch "^[a-z_]+:$" . }}
{{- $section = trimSuffix ":" . }}
{{- else if regexMatch "^  [a-z_]+: " . }}
{{- $key := regexFind "[a-z_]+" . }}
{{- $path := printf "%s.%s" $section $key }}
{{- if hasKey $set $path }}
{{- $line = printf "  %s: %s" $key (get $set $path) }}
{{- $_ := unset $set $path }}
{{- end }}
{{- end }}
{{- $lines = append $lines $line }}
{{- end }}
{{- range $path, $_ := $set }}{{ include "deqd.refuse" (printf "config: %s is no key of files/deqd.yaml" $path) }}{{ end }}
{{- join "\n" $lines }}
{{- end }}

{{- /* What no schema can say: values that must fit together. */}}
{{- define "deqd.check" -}}
{{- with .Values.autoscaling }}
{{- if gt (int64 .minReplicas) (int64 .maxReplicas) }}{{ include "deqd.refuse" (printf "autoscaling: minReplicas %d exceeds maxReplicas %d" (int64 .minReplicas) (int64 .maxReplicas)) }}{{ end }}
{{- end }}
{{- $inVolume := hasPrefix "/models/" .Values.model.path }}
{{- if and .Values.model.existingClaim (not $inVolume) }}
{{- include "deqd.refuse" (printf "model.path: %s is not below /models, where model.existingClaim is mounted" .Values.model.path) }}
{{- end }}
{{- if and $inVolume (not .Values.model.existingClaim) }}
{{- include "deqd.refuse" (printf "model.path: %s needs model.existingClaim, which is mounted at /models" .Values.model.path) }}
{{- end }}
{{- $cache := dig "engine" "cache_bytes" 0 .Values.config }}
{{- if kindIs "float64" $cache }}{{ $cache = int64 $cache }}{{ end }}
{{- $limit := .Values.resources.limits.memory }}
{{- if le (include "deqd.bytes" $limit | int64) (mul 2 (include "deqd.bytes" $cache | int64)) }}
{{- include "deqd.refuse" (printf "resources.limits.memory: %s does not hold config.engine.cache_bytes %s twice, and a reload has two engines in memory" $limit (toString $cache)) }}
{{- end }}
{{- if gt (include "deqd.bytes" .Values.resources.requests.memory | int64) (include "deqd.bytes" $limit | int64) }}
{{- include "deqd.refuse" (printf "resources.requests.memory: %s exceeds the limit %s" .Values.resources.requests.memory $limit) }}
{{- end }}
{{- if and .Values.serviceMonitor.enabled (not .Values.service.headless) }}
{{- include "deqd.refuse" "serviceMonitor.enabled: needs service.headless, whose admin port it scrapes" }}
{{- end }}
{{- end }}
