{{/* First part of all names. */}}
{{- define "linstor-rwx.fullname" -}}
{{- .Values.fullnameOverride | default .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{/* Labels of every object. Argument: (dict "root" $ "component" "csi-node") */}}
{{- define "linstor-rwx.labels" -}}
{{ include "linstor-rwx.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name (.root.Chart.Version | replace "+" "_") }}
{{- end -}}

{{/* Labels by which a workload selects its pods. They can never change, and pods have no
     other labels of the chart: one that names its version would replace every pod at
     every upgrade, and so move every export. */}}
{{- define "linstor-rwx.selector" -}}
app.kubernetes.io/name: {{ .root.Chart.Name }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end -}}

{{/* Reference of an image. Argument: (dict "root" $ "image" .Values.image.ganesha) */}}
{{- define "linstor-rwx.image" -}}
{{- $repository := .image.repository -}}
{{- with .root.Values.image.registry }}{{ $repository = printf "%s/%s" (trimSuffix "/" .) $repository }}{{ end -}}
{{- if .image.digest -}}
{{ $repository }}@{{ .image.digest }}
{{- else -}}
{{ $repository }}:{{ .image.tag | default .root.Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{/* image and imagePullPolicy of a container. Argument as for linstor-rwx.image. */}}
{{- define "linstor-rwx.containerImage" -}}
image: {{ include "linstor-rwx.image" . | quote }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
{{- end -}}

{{/* How to reach LINSTOR. Argument: $ */}}
{{- define "linstor-rwx.linstorEnv" -}}
- name: LS_CONTROLLERS
  value: {{ required "linstor.controllers is required: the URL of the LINSTOR controller" .Values.linstor.controllers | quote }}
{{- with .Values.linstor.tls.secretName }}
- name: LS_ROOT_CA
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: ca.crt}
- name: LS_USER_CERTIFICATE
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: tls.crt, optional: true}
- name: LS_USER_KEY
  valueFrom:
    secretKeyRef: {name: {{ . }}, key: tls.key, optional: true}
{{- end }}
{{- end -}}

{{/* The pod's own namespace and name, under the names that the sidecars read. */}}
{{- define "linstor-rwx.podEnv" -}}
- name: NAMESPACE
  valueFrom:
    fieldRef: {fieldPath: metadata.namespace}
- name: POD_NAMESPACE
  valueFrom:
    fieldRef: {fieldPath: metadata.namespace}
- name: POD_NAME
  valueFrom:
    fieldRef: {fieldPath: metadata.name}
{{- end -}}

{{/* What a container without any privilege may do. */}}
{{- define "linstor-rwx.unprivileged" -}}
securityContext:
  allowPrivilegeEscalation: false
  readOnlyRootFilesystem: true
  capabilities:
    drop: [ALL]
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{/* ServiceAccount that runs rwx-provisioner and rwx-resizer, as a subject. */}}
{{- define "linstor-rwx.controllerSubject" -}}
- kind: ServiceAccount
{{- if .Values.csi.enabled }}
  name: {{ include "linstor-rwx.fullname" . }}-csi-controller
  namespace: {{ .Release.Namespace }}
{{- else }}
  name: {{ .Values.csi.existing.serviceAccount }}
  namespace: {{ .Values.csi.existing.namespace | default .Release.Namespace }}
{{- end }}
{{- end -}}

{{/* ServiceAccount that runs nfs-reconnector, in the node plugin's pod or its own. */}}
{{- define "linstor-rwx.nodeServiceAccount" -}}
{{ include "linstor-rwx.fullname" . }}-{{ ternary "csi-node" "reconnector" .Values.csi.enabled }}
{{- end -}}

{{/* Binds a ClusterRole. Argument: (dict "root" $ "name" NAME "component" COMPONENT "subject" SUBJECT) */}}
{{- define "linstor-rwx.clusterRoleBinding" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: ClusterRoleBinding
metadata:
  name: {{ .name }}
  labels:
    {{- include "linstor-rwx.labels" . | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: ClusterRole
  name: {{ .name }}
subjects:
  {{- .subject | nindent 2 }}
{{- end -}}

{{/* Binds a Role in the release's namespace. Argument as for clusterRoleBinding. */}}
{{- define "linstor-rwx.roleBinding" -}}
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleBinding
metadata:
  name: {{ .name }}
  namespace: {{ .root.Release.Namespace }}
  labels:
    {{- include "linstor-rwx.labels" . | nindent 4 }}
roleRef:
  apiGroup: rbac.authorization.k8s.io
  kind: Role
  name: {{ .name }}
subjects:
  {{- .subject | nindent 2 }}
{{- end -}}

{{/*
A sidecar of the CSI controller. Argument: (dict "root" $ "name" NAME "image" IMAGE
"values" VALUES "port" PORT "args" LIST), and optional "command" (LIST) and "env" (TEXT).
*/}}
{{- define "linstor-rwx.csiSidecar" -}}
- name: {{ .name }}
  {{- include "linstor-rwx.containerImage" . | nindent 2 }}
  {{- with .command }}
  command: {{ toJson . }}
  {{- end }}
  args:
    - --csi-address=/csi/csi.sock
    - --timeout={{ .values.timeout }}
    - --leader-election
    - --leader-election-namespace=$(NAMESPACE)
    - --http-endpoint=:{{ .port }}
    - --kube-api-qps={{ .root.Values.csi.controller.kubeAPI.qps }}
    - --kube-api-burst={{ .root.Values.csi.controller.kubeAPI.burst }}
    - --v={{ .root.Values.logLevel }}
    {{- range .args }}
    - {{ . | quote }}
    {{- end }}
    {{- range .values.extraArgs }}
    - {{ . | quote }}
    {{- end }}
  env:
    {{- include "linstor-rwx.podEnv" . | nindent 4 }}
    {{- with .env }}
    {{- . | nindent 4 }}
    {{- end }}
    {{- with .values.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  ports:
    - name: {{ .name | trunc 15 | trimSuffix "-" }}
      containerPort: {{ .port }}
  # Fails when this replica is the leader and no longer renews its lease.
  livenessProbe:
    httpGet:
      path: /healthz/leader-election
      port: {{ .port }}
    initialDelaySeconds: 10
    periodSeconds: 20
    timeoutSeconds: 10
  {{- include "linstor-rwx.unprivileged" . | nindent 2 }}
  {{- with .values.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  volumeMounts:
    - name: socket-dir
      mountPath: /csi
    {{- with .values.volumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/*
The liveness-probe sidecar. Argument: (dict "root" $ "port" PORT "volume" NAME).
*/}}
{{- define "linstor-rwx.livenessSidecar" -}}
- name: csi-livenessprobe
  {{- include "linstor-rwx.containerImage" (dict "root" .root "image" .root.Values.image.csiLivenessProbe) | nindent 2 }}
  args:
    - --csi-address=/csi/csi.sock
    - --health-port={{ .port }}
    - --v={{ .root.Values.logLevel }}
  {{- include "linstor-rwx.unprivileged" . | nindent 2 }}
  resources:
    requests: {cpu: 5m, memory: 16Mi}
  volumeMounts:
    - name: {{ .volume }}
      mountPath: /csi
{{- end -}}

{{/*
What stands in the way of clients when an API server dies with its node: client-go
believes in a silent connection for 45 s. Variables of client-go (apimachinery
pkg/util/net).
*/}}
{{- define "linstor-rwx.apiServerEnv" -}}
- name: HTTP2_READ_IDLE_TIMEOUT_SECONDS
  value: "3"
- name: HTTP2_PING_TIMEOUT_SECONDS
  value: "2"
{{- end -}}

{{/*
nfs-reconnector, for a pod on the host's network with the volume of
linstor-rwx.reconnectorToken. Argument: $
*/}}
{{- define "linstor-rwx.reconnectorContainer" -}}
{{- $values := .Values.csi.node.reconnector -}}
- name: nfs-reconnector
  {{- include "linstor-rwx.containerImage" (dict "root" $ "image" .Values.image.sidecars) | nindent 2 }}
  command: [/usr/bin/nfs-reconnector]
  args:
    - -v={{ .Values.logLevel }}
    {{- range $values.extraArgs }}
    - {{ . | quote }}
    {{- end }}
  env:
    - name: NODE_NAME
      valueFrom:
        fieldRef: {fieldPath: spec.nodeName}
    - name: POD_NAMESPACE
      valueFrom:
        fieldRef: {fieldPath: metadata.namespace}
    - name: RWX_RELEASE
      value: {{ include "linstor-rwx.fullname" . }}
    {{- include "linstor-rwx.apiServerEnv" . | nindent 4 }}
    {{- with $values.httpPort }}
    - name: RWX_HTTP_ENDPOINT
      value: ":{{ . }}"
    {{- end }}
    {{- with $values.extraEnv }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
  {{- with $values.httpPort }}
  ports:
    - name: reconnector
      containerPort: {{ . }}
  livenessProbe:
    httpGet:
      path: /healthz
      port: {{ . }}
    initialDelaySeconds: 10
    periodSeconds: 20
    timeoutSeconds: 10
  {{- end }}
  # Destroys TCP sockets of the host and reads its connection tracking. Only root
  # is given the capability.
  securityContext:
    runAsUser: 0
    allowPrivilegeEscalation: false
    readOnlyRootFilesystem: true
    capabilities:
      drop: [ALL]
      add: [NET_ADMIN]
    seccompProfile:
      type: RuntimeDefault
  {{- with $values.resources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  volumeMounts:
    - name: reconnector-token
      mountPath: /var/run/secrets/kubernetes.io/serviceaccount
      readOnly: true
    {{- with $values.volumeMounts }}
    {{- toYaml . | nindent 4 }}
    {{- end }}
{{- end -}}

{{/* What kubelet mounts into every container of other pods: here only one talks to
     the API server. */}}
{{- define "linstor-rwx.reconnectorToken" -}}
- name: reconnector-token
  projected:
    sources:
      - serviceAccountToken:
          path: token
          expirationSeconds: 3607
      - configMap:
          name: kube-root-ca.crt
          items:
            - {key: ca.crt, path: ca.crt}
      - downwardAPI:
          items:
            - path: namespace
              fieldRef: {fieldPath: metadata.namespace}
{{- end -}}
