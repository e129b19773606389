// Package names holds the names by which the parts of linstor-rwx, Kubernetes
// and linstor-csi find each other. A name that is written by one program and
// read by another stands here, and says who reads it.
package names

// Driver is the CSI driver's name and the provisioner of its StorageClasses.
const Driver = "linstor.csi.linbit.com"

const (
	// ExportAttribute is the volume attribute by which linstor-csi mounts NFS
	// instead of attaching a block device. Read by linstor-csi's
	// ControllerPublish and NodePublish, and by our parts to tell an exported
	// volume from others. Value: nfs://ADDRESS:PORT/PATH; the port is required.
	ExportAttribute = Driver + "/nfs-export"
	// MountOptionsAttribute holds options of the backing filesystem. linstor-csi
	// would pass them to the NFS mount, so exported volumes must not carry it.
	MountOptionsAttribute = Driver + "/mount-options"
	// ConsistencyGroupLabel marks claims that share one resource definition.
	ConsistencyGroupLabel = Driver + "/consistency-group"
)

// Prefix is the namespace of our own keys. linstor-csi ignores StorageClass
// parameters of foreign namespaces (linstor-csi pkg/volume/parameter.go).
const Prefix = "rwx.linbit.com/"

const (
	// WithdrawFinalizer keeps an NFSExport until no node serves it any more:
	// set by rwx-provisioner, removed by ganesha-supervisor.
	WithdrawFinalizer = Prefix + "withdraw"
	// ExportLabel carries the name of the NFSExport on its Service and
	// EndpointSlice.
	ExportLabel = Prefix + "export"
	// ManagedByLabel marks the objects that we made.
	ManagedByLabel = "app.kubernetes.io/managed-by"
	// ManagedByValue is the label's value on them.
	ManagedByValue = "linstor-rwx"
	// EndpointSliceManager is the endpointslice.kubernetes.io/managed-by value.
	EndpointSliceManager = "ganesha-supervisor.rwx.linbit.com"
	// MarkerProperty is the LINSTOR property that marks a resource definition as
	// made for an export, before linstor-csi knows it. Value: name of the export.
	MarkerProperty = "Aux/rwx.linbit.com/export"
	// RecoveryProperty is the LINSTOR property that marks a volume definition as
	// the recovery volume of an export. It travels with restores and clones, so it
	// tells rwx-provisioner which VolNr 1 is useless to a ReadWriteOnce copy.
	// Value: name of the export it was made for.
	RecoveryProperty = "Aux/rwx.linbit.com/recovery-volume"
	// GrowthRetriedProperty is the LINSTOR property of VolNr 0 that rwx-resizer
	// changes to make LINSTOR go on with a growth that failed on a node. Nobody
	// reads it. Value: the time.
	GrowthRetriedProperty = "Aux/rwx.linbit.com/growth-retried"
	// VolumeSeenAnnotation is set on an NFSExport by rwx-provisioner as soon as it
	// sees its PersistentVolume. An export that has it may hold data of users, so
	// the sweep never removes its volume.
	VolumeSeenAnnotation = Prefix + "volume-seen"
	// MoveToAnnotation on an NFSExport asks the serving ganesha-supervisor to hand
	// the export over to the node that it names. It is removed when that is done
	// or refused.
	MoveToAnnotation = Prefix + "move-to"
	// AwaitedAnnotation on an EndpointSlice says that the server there does not
	// answer yet: kube-proxy may lead new connections there already, but
	// nfs-reconnector must not make clients connect anew.
	AwaitedAnnotation = Prefix + "awaited"
	// NodeAddressesLabel marks the ConfigMap in which nfs-reconnector says from
	// which addresses its node may come. Read by ganesha-supervisor, which lets
	// nodes connect and nobody else. Value: name of the node.
	NodeAddressesLabel = Prefix + "node-addresses"
	// NodeAddressesKey is the key in that ConfigMap: one address per line, IPv4 and
	// IPv6, sorted.
	NodeAddressesKey = "addresses"
	// ResourceGroupPrefix starts the names of the LINSTOR resource groups that
	// rwx-provisioner makes for classes that name none.
	ResourceGroupPrefix = "rwx-"
)

const (
	// DataVolume is the VolNr of the data: linstor-csi makes it.
	DataVolume = 0
	// RecoveryVolume is the VolNr of the NFS server's client records: we make it.
	RecoveryVolume = 1
	// NFSPort is the port of the Service; ganesha's own port differs by export.
	NFSPort = 2049
	// NFSPortName is the name of that port in Service and EndpointSlice.
	NFSPortName = "nfs"
)

// ExportPath returns the path that clients mount: the pseudo path of the export.
func ExportPath(export string) string { return "/" + export }

// NodeAddressesName returns the name of a node's ConfigMap with its addresses, in
// the namespace of the release.
func NodeAddressesName(release, node string) string { return release + "-node-" + node }
