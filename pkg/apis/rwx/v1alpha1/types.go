package v1alpha1

import (
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// NFSExport is one LINSTOR resource served over NFSv4. Its name is the name of
// the PersistentVolume.
//
// The spec says what is to be served and is written by rwx-provisioner and
// rwx-resizer only. The status says what is served and is written by the
// ganesha-supervisor of the serving node only.
//
// +kubebuilder:object:root=true
// +kubebuilder:resource:scope=Cluster,path=nfsexports,singular=nfsexport,shortName=nfsx,categories=linstor
// +kubebuilder:subresource:status
// +kubebuilder:printcolumn:name=Claim,type=string,JSONPath=`.spec.claim.name`
// +kubebuilder:printcolumn:name=Node,type=string,JSONPath=`.status.node`
// +kubebuilder:printcolumn:name=Phase,type=string,JSONPath=`.status.phase`
// +kubebuilder:printcolumn:name=Clients,type=integer,JSONPath=`.status.clients`
// +kubebuilder:printcolumn:name=Size,type=string,JSONPath=`.status.size`
// +kubebuilder:printcolumn:name=Last Failover,type=date,JSONPath=`.status.lastFailover.time`
// +kubebuilder:printcolumn:name=Age,type=date,JSONPath=`.metadata.creationTimestamp`
// +kubebuilder:printcolumn:name=Namespace,type=string,priority=1,JSONPath=`.spec.claim.namespace`
// +kubebuilder:printcolumn:name=Endpoint,type=string,priority=1,JSONPath=`.status.endpoint`
// +kubebuilder:printcolumn:name=Service,type=string,priority=1,JSONPath=`.spec.service.clusterIP`
// +kubebuilder:printcolumn:name=Grace,type=string,priority=1,JSONPath=`.status.grace.until`
// +kubebuilder:printcolumn:name=Message,type=string,priority=1,JSONPath=`.status.message`
type NFSExport struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec NFSExportSpec `json:"spec"`
	// +optional
	Status NFSExportStatus `json:"status,omitempty"`
}

// NFSExportSpec says what is to be served.
//
// The identity of an export (resource definition, export id, fsid, server scope,
// service) is part of the file handles and lock records that clients hold, so
// it never changes once it is known: a change would give every client "Stale
// file handle". It is filled in two steps, because LINSTOR assigns the UUID of
// a resource definition only when it makes it and the API server assigns the
// ClusterIP: an empty field may be set once.
//
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.exportID) || (has(self.exportID) && self.exportID == oldSelf.exportID)",message="exportID is immutable: it is part of the clients' file handles"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.fsid) || (has(self.fsid) && self.fsid == oldSelf.fsid)",message="fsid is immutable: clients hold it"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.service) || (has(self.service) && self.service == oldSelf.service)",message="service is immutable: the volumes of running pods are mounted from its address"
// +kubebuilder:validation:XValidation:rule="!has(self.leaseSeconds) || !has(self.graceSeconds) || self.graceSeconds >= 2 * self.leaseSeconds",message="graceSeconds must be at least twice leaseSeconds: ganesha looks for the end of grace every half lease, and clients notice the new server once a lease"
type NFSExportSpec struct {
	// ResourceDefinition is the LINSTOR resource definition that is served.
	ResourceDefinition ResourceDefinition `json:"resourceDefinition"`
	// Claim is the claim the volume was made for.
	// +optional
	Claim *ClaimReference `json:"claim,omitempty"`
	// ExportID is the Export_Id of NFS-Ganesha, the same on every node for ever.
	// +kubebuilder:validation:Minimum=1
	// +kubebuilder:validation:Maximum=65535
	// +optional
	ExportID int32 `json:"exportID,omitempty"`
	// FSID is the Filesystem_Id of NFS-Ganesha, "major.minor".
	// +kubebuilder:validation:Pattern=`^[0-9]+\.[0-9]+$`
	// +optional
	FSID string `json:"fsid,omitempty"`
	// ServerScope is the NFSv4 server scope and owner (RFC 8881, 2.10.4). It is
	// the same wherever the export is served: clients reclaim locks only from a
	// server of the scope that granted them.
	// +kubebuilder:validation:MinLength=1
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="serverScope is immutable: clients reclaim their locks by it"
	ServerScope string `json:"serverScope"`
	// Service is the Service whose ClusterIP clients mount.
	// +optional
	Service *ServiceReference `json:"service,omitempty"`
	// FSType is the filesystem of VolNr 0.
	// +kubebuilder:validation:Enum=ext4;xfs
	// +kubebuilder:validation:XValidation:rule="self == oldSelf",message="fsType is immutable"
	FSType string `json:"fsType"`
	// MountOptions are passed to the mount of VolNr 0 on the serving node.
	// +optional
	// +listType=atomic
	MountOptions []string `json:"mountOptions,omitempty"`
	// Squash says which users of a client are mapped to the anonymous user.
	// +kubebuilder:validation:Enum=NoRootSquash;RootSquash;AllSquash
	// +kubebuilder:default=NoRootSquash
	// +optional
	Squash Squash `json:"squash,omitempty"`
	// AccessType limits what clients may do.
	// +kubebuilder:validation:Enum=ReadWrite;ReadOnly
	// +kubebuilder:default=ReadWrite
	// +optional
	AccessType AccessType `json:"accessType,omitempty"`
	// AllowedClients are the CIDRs that may connect. Empty means: the nodes of
	// the cluster.
	// +optional
	// +listType=set
	AllowedClients []string `json:"allowedClients,omitempty"`
	// RootDirectory is applied once, when the volume is new.
	// +optional
	RootDirectory RootDirectory `json:"rootDirectory,omitempty"`
	// LeaseSeconds is how long a client may be silent before its locks may be
	// given to others. An idle Linux client is silent for up to a third of it and 5 s.
	// +kubebuilder:validation:Minimum=10
	// +kubebuilder:validation:Maximum=120
	// +kubebuilder:default=12
	// +optional
	LeaseSeconds int32 `json:"leaseSeconds,omitempty"`
	// GraceSeconds is how long a new server waits at the most for the clients of
	// the old one to reclaim their locks.
	// +kubebuilder:validation:Minimum=20
	// +kubebuilder:validation:Maximum=240
	// +kubebuilder:default=60
	// +optional
	GraceSeconds int32 `json:"graceSeconds,omitempty"`
	// Size is the size the volume shall have.
	Size resource.Quantity `json:"size"`
	// Policy says when the export is served: OnDemand while a node is attached,
	// Always regardless.
	// +kubebuilder:validation:Enum=OnDemand;Always
	// +kubebuilder:default=OnDemand
	// +optional
	Policy Policy `json:"policy,omitempty"`
}

// ResourceDefinition names a LINSTOR resource definition.
//
// +kubebuilder:validation:XValidation:rule="self.name == oldSelf.name",message="the resource definition is immutable"
// +kubebuilder:validation:XValidation:rule="!has(oldSelf.uuid) || (has(self.uuid) && self.uuid == oldSelf.uuid)",message="the UUID of the resource definition is immutable"
type ResourceDefinition struct {
	// Name is the name in LINSTOR, and of the DRBD resource.
	// +kubebuilder:validation:MinLength=1
	Name string `json:"name"`
	// UUID tells a restored or cloned resource definition from its source.
	// +optional
	UUID string `json:"uuid,omitempty"`
}

// ClaimReference names a claim.
type ClaimReference struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	UID       string `json:"uid"`
}

// ServiceReference names the Service of an export.
type ServiceReference struct {
	Namespace string `json:"namespace"`
	Name      string `json:"name"`
	ClusterIP string `json:"clusterIP"`
	Port      int32  `json:"port"`
}

// RootDirectory is the owner and mode of the export's root directory.
type RootDirectory struct {
	// +kubebuilder:validation:Minimum=0
	// +optional
	UID int64 `json:"uid,omitempty"`
	// +kubebuilder:validation:Minimum=0
	// +optional
	GID int64 `json:"gid,omitempty"`
	// Mode is octal, such as "0777".
	// +kubebuilder:validation:Pattern=`^0?[0-7]{3,4}$`
	// +kubebuilder:default="0777"
	// +optional
	Mode string `json:"mode,omitempty"`
}

// Squash says which users of a client are mapped to the anonymous user.
type Squash string

// The values of Squash.
const (
	NoRootSquash Squash = "NoRootSquash"
	RootSquash   Squash = "RootSquash"
	AllSquash    Squash = "AllSquash"
)

// AccessType limits what clients may do.
type AccessType string

// The values of AccessType.
const (
	ReadWrite AccessType = "ReadWrite"
	ReadOnly  AccessType = "ReadOnly"
)

// Policy says when an export is served.
type Policy string

// The values of Policy.
const (
	OnDemand Policy = "OnDemand"
	Always   Policy = "Always"
)

// Phase is the state of an export in one word.
type Phase string

// The phases of an export.
const (
	// PhasePending: no node serves it yet, or its volume is still being made.
	PhasePending Phase = "Pending"
	// PhaseStarting: a node is Primary and prepares to serve.
	PhaseStarting Phase = "Starting"
	// PhaseGrace: it is served, but new opens wait until old clients have
	// reclaimed.
	PhaseGrace Phase = "Grace"
	// PhaseServing: it is served.
	PhaseServing Phase = "Serving"
	// PhaseIdle: nobody is attached, nobody serves; the next attach starts it.
	PhaseIdle Phase = "Idle"
	// PhaseMoving: it is handed over to another node.
	PhaseMoving Phase = "Moving"
	// PhaseDegraded: it is served, but something needs attention; see the
	// conditions.
	PhaseDegraded Phase = "Degraded"
	// PhaseFailed: it should be served and cannot be; see the message.
	PhaseFailed Phase = "Failed"
	// PhaseTerminating: it is being withdrawn.
	PhaseTerminating Phase = "Terminating"
)

// Condition types of an NFSExport.
const (
	// ConditionReady: clients can use the export now, or it is idle by choice.
	ConditionReady = "Ready"
	// ConditionQuorum: DRBD has quorum on the serving node.
	ConditionQuorum = "Quorum"
	// ConditionRecoveryVolume: the records of clients are kept on VolNr 1.
	ConditionRecoveryVolume = "RecoveryVolume"
	// ConditionGrown: the filesystem is as large as spec.size. Unknown before
	// anybody opened the filesystem.
	ConditionGrown = "Grown"
)

// NFSExportStatus says what is served.
type NFSExportStatus struct {
	// +optional
	Phase Phase `json:"phase,omitempty"`
	// Message explains the phase in one sentence.
	// +optional
	Message string `json:"message,omitempty"`
	// Node is the node that serves the export.
	// +optional
	Node string `json:"node,omitempty"`
	// Endpoint is the address and port of the serving ganesha.
	// +optional
	Endpoint string `json:"endpoint,omitempty"`
	// BootEpoch counts the starts of a server for this export.
	// +optional
	BootEpoch int64 `json:"bootEpoch,omitempty"`
	// Since is when the current server began to serve.
	// +optional
	Since *metav1.Time `json:"since,omitempty"`
	// +optional
	Grace *GraceStatus `json:"grace,omitempty"`
	// Clients is the number of clients with state at the server.
	// +optional
	Clients int32 `json:"clients,omitempty"`
	// Size is the size of the filesystem, as `df` shows it to clients.
	// +optional
	Size *resource.Quantity `json:"size,omitempty"`
	// DeviceBytes is the size of VolNr 0 that the filesystem fills, in bytes; before
	// anybody opened the filesystem, what VolNr 0 was when it was first seen.
	// +optional
	DeviceBytes int64 `json:"deviceBytes,omitempty"`
	// HandOver is set while the serving node hands the export over.
	// +optional
	HandOver *HandOver `json:"handOver,omitempty"`
	// +optional
	LastFailover *Failover `json:"lastFailover,omitempty"`
	// ConfigHash identifies the configuration that ganesha runs with.
	// +optional
	ConfigHash string `json:"configHash,omitempty"`
	// ObservedGeneration is the generation of the spec that is applied.
	// +optional
	ObservedGeneration int64 `json:"observedGeneration,omitempty"`
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
}

// GraceStatus is the state of the grace period (RFC 8881, 8.4.2).
type GraceStatus struct {
	Active bool `json:"active"`
	// Until is when grace ends at the latest.
	// +optional
	Until *metav1.Time `json:"until,omitempty"`
	// Expected is the number of recorded clients of the previous server.
	// +optional
	Expected int32 `json:"expected,omitempty"`
	// Reclaimed is how many of them have come back.
	// +optional
	Reclaimed int32 `json:"reclaimed,omitempty"`
}

// HandOver is a move that the serving node has begun.
type HandOver struct {
	// To is the node that shall serve next. Others leave it the first try.
	To string `json:"to"`
	// Reason says who wants the move.
	Reason string `json:"reason"`
	// Since is when it began.
	Since metav1.MicroTime `json:"since"`
}

// Failover is the last move of an export to another server.
type Failover struct {
	// +optional
	From   string `json:"from,omitempty"`
	To     string `json:"to"`
	Reason string `json:"reason"`
	// Time is when the new server answered.
	Time metav1.Time `json:"time"`
	// Seconds is how long no server answered.
	Seconds string `json:"seconds"`
	// Parts are the durations of the steps, in seconds: detect (until this node
	// tried to promote), promote, mount, start, probe, endpoint, and, once it is
	// over, grace.
	// +optional
	Parts map[string]string `json:"parts,omitempty"`
}

// NFSExportList is a list of NFSExports.
//
// +kubebuilder:object:root=true
type NFSExportList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []NFSExport `json:"items"`
}
