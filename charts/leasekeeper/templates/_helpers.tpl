{{- define "leasekeeper.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 53 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 53 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{- define "leasekeeper.serviceAccountName" -}}
{{- .Values.serviceAccount.name | default (include "leasekeeper.fullname" .) -}}
{{- end -}}

{{- define "leasekeeper.selectorLabels" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "leasekeeper.labels" -}}
{{ include "leasekeeper.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end -}}

{{/*
The rules of the object with the given kind in a file below files/. `make manifests` copies these files from config/.
Argument: a list of root, file, kind.
*/}}
{{- define "leasekeeper.rules" -}}
{{- $root := index . 0 -}}{{- $file := index . 1 -}}{{- $kind := index . 2 -}}
{{- $rules := list -}}
{{- range $doc := regexSplit "(?m)^---$" ($root.Files.Get (printf "files/%s" $file)) -1 -}}
{{- $object := fromYaml $doc -}}
{{- if eq (toString $object.kind) $kind -}}
{{- $rules = concat $rules $object.rules -}}
{{- end -}}
{{- end -}}
{{- if not $rules -}}
{{- fail (printf "files/%s has no rules of a %s: run `make manifests`" $file $kind) -}}
{{- end -}}
{{- toYaml $rules -}}
{{- end -}}
