package provisioner

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	lapi "github.com/LINBIT/golinstor/client"
	"github.com/container-storage-interface/spec/lib/go/csi"
	"github.com/kubernetes-csi/csi-lib-utils/metrics"
	ctrl "github.com/kubernetes-csi/external-provisioner/v6/pkg/controller"
	snapfake "github.com/kubernetes-csi/external-snapshotter/client/v8/clientset/versioned/fake"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/tools/record"
	csitrans "k8s.io/csi-translation-lib"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	exportsfake "github.com/linbit/linstor-rwx/pkg/exports/fake"
	"github.com/linbit/linstor-rwx/pkg/linstor"
	linstorfake "github.com/linbit/linstor-rwx/pkg/linstor/fake"
	"github.com/linbit/linstor-rwx/pkg/names"
)

const namespace = "linstor-rwx"

var errDead = errors.New("this process is dead")

// world is everything outside of rwx-provisioner: API server, LINSTOR, linstor-csi.
// The program can be killed after any of its effects on it.
type world struct {
	t       *testing.T
	client  *fake.Clientset
	exports *exportsfake.Client
	// snapshots are a cluster's own objects; tests replace them.
	snapshots *snapfake.Clientset
	linstor   *linstorfake.Controller
	driver    *fakeDriver
	address   []lapi.Option

	mu      sync.Mutex
	effects []string
	killAt  int // after that many effects the process is dead; 0 never
	dead    bool
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{t: t, client: fake.NewClientset(), snapshots: snapfake.NewSimpleClientset(), exports: exportsfake.New(), linstor: linstorfake.New()}
	w.address = []lapi.Option{lapi.BaseURL(w.linstor.Start(t))}
	w.driver = startDriver(t, w)
	w.exports.Before = func(verb, name string) error {
		return w.effect(verb != "get" && verb != "list" && verb != "watch", verb+" export "+name)
	}
	w.linstor.Before(func(request string) int {
		if w.effect(!strings.HasPrefix(request, "GET "), request) != nil {
			return 503
		}
		return 0
	})
	address := 0
	w.client.PrependReactor("*", "services", func(action clienttesting.Action) (bool, runtime.Object, error) {
		create, isCreate := action.(clienttesting.CreateActionImpl)
		if isCreate && len(create.CreateOptions.DryRun) > 0 {
			name := create.GetObject().(*corev1.Service).Name
			if _, err := w.client.Tracker().Get(action.GetResource(), namespace, name); err == nil {
				return true, nil, apierrors.NewAlreadyExists(action.GetResource().GroupResource(), name)
			}
			return true, create.GetObject(), w.effect(false, "")
		}
		if err := w.effect(action.GetVerb() != "get", action.GetVerb()+" service"); err != nil {
			return true, nil, err
		}
		if isCreate {
			service := create.GetObject().(*corev1.Service)
			// The API server allocates the address before it sees that the Service exists.
			if all, err := w.client.Tracker().List(action.GetResource(), corev1.SchemeGroupVersion.WithKind("Service"), namespace); err == nil {
				for _, other := range all.(*corev1.ServiceList).Items {
					if service.Spec.ClusterIP != "" && other.Spec.ClusterIP == service.Spec.ClusterIP {
						return true, nil, apierrors.NewInvalid(schema.GroupKind{Kind: "Service"}, service.Name, field.ErrorList{field.Invalid(
							field.NewPath("spec", "clusterIPs"), service.Spec.ClusterIPs, "failed to allocate IP: provided IP is already allocated")})
					}
				}
			}
			if service.Spec.ClusterIP == "" {
				address++
				service.Spec.ClusterIP = fmt.Sprintf("10.96.0.%d", address)
			}
			service.UID = types.UID(fmt.Sprintf("service-%d", address))
		}
		return false, nil, nil
	})
	return w
}

// effect counts what the process does to its world; a dead process does nothing.
func (w *world) effect(counts bool, what string) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.dead {
		return errDead
	}
	if counts {
		w.effects = append(w.effects, what)
		w.dead = len(w.effects) == w.killAt
	}
	return nil
}

// restart gives the world a process that lives.
func (w *world) restart(killAt int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.effects, w.killAt, w.dead = nil, killAt, false
}

// process is rwx-provisioner, newly started: nothing is in its memory.
func (w *world) process() *Provisioner {
	w.t.Helper()
	factory := informers.NewSharedInformerFactory(w.client, 0)
	config := Config{
		Driver: names.Driver, VolumeNamePrefix: "pvc", VolumeNameUUIDLength: -1, DefaultFSType: "ext4", ExtraCreateMetadata: true,
		Settings: Settings{Namespace: namespace, ReadyTimeout: 200 * time.Millisecond, WithdrawTimeout: 200 * time.Millisecond, SweepInterval: time.Minute, SweepAge: time.Minute, LinstorParallel: 4},
		Client:   w.client, Snapshots: w.snapshots, Exports: w.exports,
		Claims:      factory.Core().V1().PersistentVolumeClaims().Lister(),
		Volumes:     factory.Core().V1().PersistentVolumes().Lister(),
		Attachments: factory.Storage().V1().VolumeAttachments().Lister(),
	}
	var err error
	if config.Linstor, err = linstor.New(config.Settings.LinstorParallel, w.address...); err != nil {
		w.t.Fatal(err)
	}
	plugin, capabilities, err := ctrl.GetDriverCapabilities(w.driver.conn, time.Second)
	if err != nil {
		w.t.Fatal(err)
	}
	inner := ctrl.NewCSIProvisioner(w.client, 5*time.Second, "identity", "pvc", -1, w.driver.conn, w.snapshots, names.Driver, plugin, capabilities,
		"", false, true, csitrans.New(), factory.Storage().V1().StorageClasses().Lister(),
		factory.Storage().V1().CSINodes().Lister(), factory.Core().V1().Nodes().Lister(), config.Claims, config.Attachments, nil, true, "ext4", nil, false, true, ctrl.NewInMemoryStore())
	p := Wrap(inner, config)
	p.poll = time.Millisecond
	factory.Start(w.t.Context().Done())
	factory.WaitForCacheSync(w.t.Context().Done())
	return p
}

// sweeper is the sweep of a process, with a clock of the test's.
func (w *world) sweeper(p *Provisioner) (s *sweep, events *record.FakeRecorder, pass func()) {
	events = record.NewFakeRecorder(100)
	now := time.Now()
	s = &sweep{Provisioner: p, events: events, firstSeen: map[string]time.Time{}, now: func() time.Time { return now }}
	return s, events, func() {
		w.t.Helper()
		for range 2 {
			if err := s.run(w.t.Context()); err != nil {
				w.t.Fatalf("sweep: %v", err)
			}
			now = now.Add(2 * time.Minute)
		}
	}
}

// settle does what supervisors and Kubernetes' garbage collector do: exports that
// are deleted lose their finalizer, services without owner go.
func (w *world) settle() {
	w.t.Helper()
	list, err := w.exports.List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	owners := map[types.UID]bool{}
	for i := range list.Items {
		export := &list.Items[i]
		if export.DeletionTimestamp != nil {
			export.Finalizers = nil
			if _, err := w.exports.Update(w.t.Context(), export, metav1.UpdateOptions{}); err != nil {
				w.t.Fatal(err)
			}
			continue
		}
		owners[export.UID] = true
	}
	for _, service := range w.services() {
		if len(service.OwnerReferences) == 1 && !owners[service.OwnerReferences[0].UID] {
			if err := w.client.CoreV1().Services(namespace).Delete(w.t.Context(), service.Name, metav1.DeleteOptions{}); err != nil {
				w.t.Fatal(err)
			}
		}
	}
}

func (w *world) services() []corev1.Service {
	w.t.Helper()
	list, err := w.client.CoreV1().Services(namespace).List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return list.Items
}

// leftovers names everything that rwx-provisioner or linstor-csi have made.
func (w *world) leftovers() []string {
	w.t.Helper()
	all := w.linstor.Leftovers()
	list, err := w.exports.List(w.t.Context(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, export := range list.Items {
		all = append(all, "export "+export.Name)
	}
	for _, service := range w.services() {
		all = append(all, "service "+service.Name)
	}
	return all
}

func (w *world) export(name string) *v1alpha1.NFSExport {
	w.t.Helper()
	export, err := w.exports.Get(w.t.Context(), name, metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return export
}

func (w *world) create(objects ...runtime.Object) {
	w.t.Helper()
	for _, object := range objects {
		if err := w.client.Tracker().Add(object); err != nil && !apierrors.IsAlreadyExists(err) {
			w.t.Fatal(err)
		}
	}
}

// eventually waits for what an informer brings.
func eventually(t *testing.T, what string, good func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !good(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("in vain waited for %s", what)
		}
	}
}

func newClass(parameters map[string]string) *storagev1.StorageClass {
	reclaim, binding := corev1.PersistentVolumeReclaimDelete, storagev1.VolumeBindingImmediate
	return &storagev1.StorageClass{ObjectMeta: metav1.ObjectMeta{Name: "shared"}, Provisioner: names.Driver, Parameters: parameters, ReclaimPolicy: &reclaim, VolumeBindingMode: &binding}
}

func newClaim(uid string, modes ...corev1.PersistentVolumeAccessMode) *corev1.PersistentVolumeClaim {
	class := "shared"
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Name: "claim-" + uid, Namespace: "default", UID: types.UID(uid), Annotations: map[string]string{"volume.kubernetes.io/storage-provisioner": names.Driver}},
		Spec: corev1.PersistentVolumeClaimSpec{AccessModes: modes, StorageClassName: &class,
			Resources: corev1.VolumeResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("1Gi")}}},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimPending},
	}
}

// fakeDriver behaves as linstor-csi without --enable-rwx: it refuses ReadWriteMany
// filesystems and unknown parameters, takes what exists, and removes the whole
// resource definition when it fails.
type fakeDriver struct {
	csi.UnimplementedIdentityServer
	csi.UnimplementedControllerServer
	world *world
	conn  *grpc.ClientConn

	mu       sync.Mutex
	requests []*csi.CreateVolumeRequest
	deleted  []string
}

func startDriver(t *testing.T, w *world) *fakeDriver {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "csi.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	d := &fakeDriver{world: w}
	server := grpc.NewServer()
	csi.RegisterIdentityServer(server, d)
	csi.RegisterControllerServer(server, d)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	if d.conn, err = ctrl.Connect(t.Context(), socket, metrics.NewCSIMetricsManagerForSidecar(names.Driver)); err != nil {
		t.Fatal(err)
	}
	return d
}

func (d *fakeDriver) created() []*csi.CreateVolumeRequest {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.requests)
}

func (d *fakeDriver) Probe(context.Context, *csi.ProbeRequest) (*csi.ProbeResponse, error) {
	return &csi.ProbeResponse{}, nil
}

func (d *fakeDriver) GetPluginInfo(context.Context, *csi.GetPluginInfoRequest) (*csi.GetPluginInfoResponse, error) {
	return &csi.GetPluginInfoResponse{Name: names.Driver}, nil
}

func (d *fakeDriver) GetPluginCapabilities(context.Context, *csi.GetPluginCapabilitiesRequest) (*csi.GetPluginCapabilitiesResponse, error) {
	return &csi.GetPluginCapabilitiesResponse{Capabilities: []*csi.PluginCapability{{Type: &csi.PluginCapability_Service_{Service: &csi.PluginCapability_Service{Type: csi.PluginCapability_Service_CONTROLLER_SERVICE}}}}}, nil
}

func (d *fakeDriver) ControllerGetCapabilities(context.Context, *csi.ControllerGetCapabilitiesRequest) (*csi.ControllerGetCapabilitiesResponse, error) {
	response := &csi.ControllerGetCapabilitiesResponse{}
	for _, kind := range []csi.ControllerServiceCapability_RPC_Type{
		csi.ControllerServiceCapability_RPC_CREATE_DELETE_VOLUME, csi.ControllerServiceCapability_RPC_PUBLISH_UNPUBLISH_VOLUME,
		csi.ControllerServiceCapability_RPC_CLONE_VOLUME, csi.ControllerServiceCapability_RPC_CREATE_DELETE_SNAPSHOT,
	} {
		response.Capabilities = append(response.Capabilities, &csi.ControllerServiceCapability{Type: &csi.ControllerServiceCapability_Rpc{Rpc: &csi.ControllerServiceCapability_RPC{Type: kind}}})
	}
	return response, nil
}

var driverParameters = []string{"resourcegroup", "placementcount", "autoplace", "storagepool", "layerlist", "mountopts", "fsopts", "usepvcname", "nfssquash", "nfsrecoveryvolumesize", "allowremotevolumeaccess", "placementpolicy"}

func parseDriverParameters(raw map[string]string) (map[string]string, error) {
	parsed := map[string]string{}
	for key, value := range raw {
		space, name, found := strings.Cut(key, "/")
		if !found {
			space, name = "", key
		}
		if space != "" && space != names.Driver {
			continue // "probably some external parameter"
		}
		if name = strings.ToLower(name); !slices.Contains(driverParameters, name) {
			return nil, fmt.Errorf("invalid parameter: %s does not belong to paramKey values", name)
		}
		parsed[name] = value
	}
	if parsed["resourcegroup"] == "" {
		parsed["resourcegroup"] = "sc-of-linstor-csi"
	}
	return parsed, nil
}

func (d *fakeDriver) CreateVolume(_ context.Context, r *csi.CreateVolumeRequest) (*csi.CreateVolumeResponse, error) {
	if d.world.effect(true, "CreateVolume "+r.Name) != nil {
		return nil, status.Error(codes.Unavailable, "nobody calls")
	}
	d.mu.Lock()
	d.requests = append(d.requests, r)
	d.mu.Unlock()

	for _, c := range r.VolumeCapabilities {
		if c.GetMount() != nil && c.GetAccessMode().GetMode() == csi.VolumeCapability_AccessMode_MULTI_NODE_MULTI_WRITER {
			return nil, status.Error(codes.InvalidArgument, "unsupported access mode for FileSystem volumes, NFS export not enabled")
		}
	}
	parameters, err := parseDriverParameters(r.Parameters)
	if err != nil {
		return nil, status.Errorf(codes.InvalidArgument, "failed to parse parameters: %v", err)
	}
	name := r.Name
	if parameters["usepvcname"] == "true" {
		name = r.Parameters["csi.storage.k8s.io/pvc/namespace"] + "-" + r.Parameters["csi.storage.k8s.io/pvc/name"]
	}
	replicas, sizeKiB := 2, uint64(r.CapacityRange.RequiredBytes)/1024
	lc := d.world.linstor
	if have := lc.State(name); have == nil || have.Props[linstorfake.Completed] == "" {
		source := r.VolumeContentSource.GetVolume().GetVolumeId()
		if snapshot := r.VolumeContentSource.GetSnapshot().GetSnapshotId(); snapshot != "" {
			source = snapshot // the fake's snapshots are called like their volumes
		}
		if source != "" {
			err = lc.Copy(strings.TrimSuffix(source, "/0"), name, parameters["resourcegroup"], replicas)
		} else {
			err = lc.Place(name, parameters["resourcegroup"], sizeKiB, replicas)
		}
		if err != nil {
			_ = lc.Delete(name) // failpathDelete
			return nil, status.Errorf(codes.Internal, "CreateVolume failed for %s: %v", name, err)
		}
		lc.SetProperty(name, linstorfake.Completed, "linstor-csi/test")
	} else if have.SizeKiB[0] != sizeKiB || have.Group != parameters["resourcegroup"] {
		return nil, status.Errorf(codes.AlreadyExists, "volume already present, but size or resource group differs")
	}
	attributes := map[string]string{names.Driver + "/uses-volume-context": "true", names.Driver + "/remote-access-policy": "true"}
	if options := parameters["mountopts"]; options != "" {
		attributes[names.MountOptionsAttribute] = options
	}
	return &csi.CreateVolumeResponse{Volume: &csi.Volume{VolumeId: name, CapacityBytes: r.CapacityRange.RequiredBytes, VolumeContext: attributes, ContentSource: r.VolumeContentSource}}, nil
}

func (d *fakeDriver) DeleteVolume(_ context.Context, r *csi.DeleteVolumeRequest) (*csi.DeleteVolumeResponse, error) {
	if d.world.effect(true, "DeleteVolume "+r.VolumeId) != nil {
		return nil, status.Error(codes.Unavailable, "nobody calls")
	}
	if err := d.world.linstor.Delete(strings.TrimSuffix(r.VolumeId, "/0")); err != nil {
		return nil, status.Error(codes.DeadlineExceeded, "context deadline exceeded")
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.deleted = append(d.deleted, r.VolumeId)
	return &csi.DeleteVolumeResponse{}, nil
}
