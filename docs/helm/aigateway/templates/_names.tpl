{{- define "aigateway.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "aigateway.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "aigateway.labels" -}}
{{ include "aigateway.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{- define "aigateway.workload" -}}
{{- if .Values.state.persistent }}StatefulSet{{ else }}Deployment{{ end -}}
{{- end -}}

{{- define "aigateway.clientAddress" -}}
{{- $inside := printf "http://%s.%s:%v" (include "aigateway.name" .) .Release.Namespace .Values.service.port -}}
{{- .Values.console.clientAddress | default $inside -}}
{{- end -}}

{{- define "aigateway.isLocal" -}}
{{- if .Values.local.databaseSecret.name -}}
{{- if .Values.coder.url -}}
{{- fail "set coder.url or local.databaseSecret.name, not both" -}}
{{- end -}}
true
{{- else if not .Values.coder.url -}}
{{- fail "set coder.url, or local.databaseSecret.name for a gateway without a Coder deployment" -}}
{{- end -}}
{{- end -}}

{{- /* Whether it is reached through the Service, for which people sign in. */ -}}
{{- define "aigateway.consoleIsPublic" -}}
{{- if and .Values.console.enabled .Values.console.oidc.issuer -}}
{{- if not (include "aigateway.isLocal" .) -}}
{{- fail "console.oidc needs local.databaseSecret.name: with a Coder deployment the console is reached by its link alone" -}}
{{- end -}}
true
{{- end -}}
{{- end -}}

{{- /* The file that the gateway reads: what the chart decides stands above the values. */ -}}
{{- define "aigateway.config" -}}
{{- $gateway := deepCopy (.Values.config.ai_gateway | default dict) -}}
{{- $_ := set $gateway "http_address" "0.0.0.0:4001" -}}
{{- $_ := set $gateway "state_dir" "/var/lib/aigateway" -}}
{{- $_ := set $gateway "runtime_dir" "/run/aigateway" -}}
{{- if not (include "aigateway.isLocal" .) -}}
{{- $_ := set $gateway "key_file" "/etc/aigateway/key/key" -}}
{{- end -}}
{{- if .Values.providers -}}
{{- $providers := list -}}
{{- range $number, $each := .Values.providers -}}
{{- $one := omit $each "secret" -}}
{{- if $each.secret -}}
{{- $one = set $one "keys_file" (printf "/etc/aigateway/providers/%d/keys" $number) -}}
{{- end -}}
{{- $providers = append $providers $one -}}
{{- end -}}
{{- $_ := set $gateway "providers" $providers -}}
{{- end -}}
{{- $told := deepCopy (.Values.config.introspection | default dict) -}}
{{- $told = mergeOverwrite (dict "logging" (dict "humanPath" "" "jsonPath" "/dev/stdout")) $told -}}
{{- if .Values.metrics.enabled -}}
{{- $_ := set $told "prometheus" (dict "enable" true "address" "0.0.0.0:2112") -}}
{{- end -}}
{{- toYaml (dict "ai_gateway" $gateway "introspection" $told) -}}
{{- end -}}
