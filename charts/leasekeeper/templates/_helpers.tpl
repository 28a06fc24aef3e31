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

{{/*
The part of a list of rules that is about the kinds of the cluster, or about everything else. Argument: a list of the
rules as YAML, and "cluster" or "namespaces".
*/}}
{{- define "leasekeeper.part" -}}
{{- $cluster := list "clustersecretproviders" "clustersecretproviders/status" "leaserevocations"
  "leaserevocations/status" "namespaces" -}}
{{- $part := index . 1 -}}{{- $rules := list -}}
{{- range $rule := fromYamlArray (index . 0) -}}
{{- $resources := list -}}
{{- range $resource := $rule.resources -}}
{{- if eq (has $resource $cluster) (eq $part "cluster") -}}
{{- $resources = append $resources $resource -}}
{{- end -}}
{{- end -}}
{{- if $resources -}}
{{- $rules = append $rules (dict "apiGroups" $rule.apiGroups "resources" $resources "verbs" $rule.verbs) -}}
{{- end -}}
{{- end -}}
{{- toYaml $rules -}}
{{- end -}}

{{/*
Binds the role of the given kind and name suffix to the manager's ServiceAccount. Argument: a list of root, kind of the
binding, kind of the role, suffix, and the namespace of a RoleBinding.
*/}}
{{- define "leasekeeper.binding" -}}
{{- $root := index . 0 -}}{{- $name := printf "%s%s" (include "leasekeeper.fullname" $root) (index . 3) -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: {{ index . 1 }}
metadata:
  name: {{ $name }}
  {{- with index . 4 }}
  namespace: {{ . }}
  {{- end }}
  labels:
    {{- include "leasekeeper.labels" $root | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: {{ index . 2 }}
  name: {{ $name }}
subjects:
- kind: ServiceAccount
  name: {{ include "leasekeeper.serviceAccountName" $root }}
  namespace: {{ $root.Release.Namespace }}
{{- end -}}
