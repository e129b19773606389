package provisioner

import (
	"crypto/sha1" //nolint:gosec // linstor-csi derives names by it, nothing is secured
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/names"
)

// request is what a claim asks for, decided from claim, class and flags alone.
type request struct {
	claim *corev1.PersistentVolumeClaim
	class *storagev1.StorageClass
	classSettings

	// name is that of the PersistentVolume, the NFSExport and the Service.
	name string
	// resourceName is that of the resource definition.
	resourceName string
	// group is the resource group of a new volume.
	group string
	// copied: the claim has a data source, so linstor-csi makes the definition.
	copied bool
}

// wantsExport tells whether claim asks for a filesystem shared by writers.
func wantsExport(claim *corev1.PersistentVolumeClaim) bool {
	block := claim.Spec.VolumeMode != nil && *claim.Spec.VolumeMode == corev1.PersistentVolumeBlock
	return !block && slices.Contains(claim.Spec.AccessModes, corev1.ReadWriteMany)
}

// hasSource tells whether the claim is made from a snapshot or another claim.
func hasSource(claim *corev1.PersistentVolumeClaim) bool {
	return claim.Spec.DataSource != nil || claim.Spec.DataSourceRef != nil
}

// forPopulator tells whether a program other than the provisioner fills the claim:
// then the library ignores it, and so do we.
func forPopulator(claim *corev1.PersistentVolumeClaim) bool {
	kind := ""
	if claim.Spec.DataSource != nil {
		kind = claim.Spec.DataSource.Kind
	} else if claim.Spec.DataSourceRef != nil {
		kind = claim.Spec.DataSourceRef.Kind
	}
	return kind != "" && kind != "VolumeSnapshot" && kind != "PersistentVolumeClaim"
}

// decide checks a claim and its class. It repeats the guards that linstor-csi has
// for ReadWriteMany volumes: it sees a ReadWriteOnce request and would not refuse.
// An error is a complete sentence for the claim's events.
func decide(claim *corev1.PersistentVolumeClaim, class *storagev1.StorageClass, config Config) (*request, error) {
	r := &request{claim: claim, class: class, copied: hasSource(claim)}
	if claim.Labels[names.ConsistencyGroupLabel] != "" {
		return nil, fmt.Errorf("claim %s has the label %s, but the volumes of a consistency group cannot be ReadWriteMany: remove the label", claim.Name, names.ConsistencyGroupLabel)
	}
	var err error
	if r.classSettings, err = parseClass(class, config.DefaultFSType); err != nil {
		return nil, err
	}
	if err := checkSize(claim, r.FSType); err != nil {
		return nil, err
	}
	if r.name, err = volumeName(config.VolumeNamePrefix, string(claim.UID), config.VolumeNameUUIDLength); err != nil {
		return nil, err
	}
	r.resourceName = resourceName(r.name, claim, r.UsePVCName && config.ExtraCreateMetadata)
	r.group = r.ResourceGroup
	if r.group == "" {
		r.group = groupName(class.Parameters)
	}
	return r, nil
}

// leastBytes are linstor-csi's minimums. It would make the volume larger without a
// word (linstor-csi pkg/client AllocationSize).
var leastBytes = map[string]string{"ext4": "2Mi", "xfs": "300Mi"}

func checkSize(claim *corev1.PersistentVolumeClaim, fsType string) error {
	size := claim.Spec.Resources.Requests[corev1.ResourceStorage]
	least := resource.MustParse(leastBytes[fsType])
	if size.Cmp(least) < 0 {
		return fmt.Errorf("claim %s asks for %s, but %s needs %s at least: ask for more", claim.Name, size.String(), fsType, least.String())
	}
	return nil
}

// volumeName is csi-provisioner's rule for the name of a PersistentVolume
// (external-provisioner pkg/controller makeVolumeName), which we need before it.
// The name must do for a Service too.
func volumeName(prefix, uid string, length int) (string, error) {
	if length >= 0 {
		uid = strings.ReplaceAll(uid, "-", "")
		uid = uid[:min(length, len(uid))]
	}
	name := prefix + "-" + uid
	if problems := validation.IsDNS1035Label(name); len(problems) > 0 {
		return "", fmt.Errorf("the volume name %s cannot be that of a Service: choose --volume-name-prefix and --volume-name-uuid-length so that it is a DNS label of 63 characters at the most", name)
	}
	return name, nil
}

var validResourceName = regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_-]{1,47}$`)

// resourceName is linstor-csi's rule for the name of a resource definition
// (linstor-csi pkg/client CompatibleVolumeId).
func resourceName(volume string, claim *corev1.PersistentVolumeClaim, byClaim bool) string {
	valid := func(name string) bool {
		return validResourceName.MatchString(name) && name != "all" && strings.Trim(name, "0123456789_-") != ""
	}
	if byClaim {
		if name := claim.Namespace + "-" + claim.Name; valid(name) {
			return name
		}
	}
	if valid(volume) {
		return volume
	}
	sum := sha1.Sum([]byte(names.Driver + volume)) //nolint:gosec // see import
	sum[6], sum[8] = sum[6]&0x0f|0x50, sum[8]&0x3f|0x80
	return fmt.Sprintf("vol-%x-%x-%x-%x-%x", sum[0:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

// groupName derives the name of a resource group from the parameters of a class, so
// that all volumes of equal classes share one. linstor-csi's own rule depends on its
// version; it fills whatever group it is told. Our own parameters do not matter to
// the group.
func groupName(parameters map[string]string) string {
	var lines []string
	for key, value := range parameters {
		if !strings.HasPrefix(key, names.Prefix) {
			lines = append(lines, fmt.Sprintf("%q=%q", key, value))
		}
	}
	slices.Sort(lines)
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	return names.ResourceGroupPrefix + hex.EncodeToString(sum[:16])
}

// innerClaim and innerClass are what csi-provisioner gets to see. Both are copies:
// the originals live in informer caches.
func (r *request) innerClaim() *corev1.PersistentVolumeClaim {
	once := r.claim.DeepCopy()
	once.Spec.AccessModes = []corev1.PersistentVolumeAccessMode{corev1.ReadWriteOnce}
	return once
}

func (r *request) innerClass() *storagev1.StorageClass {
	class := r.class.DeepCopy()
	class.MountOptions = nil // neither for CreateVolume nor for the PersistentVolume
	if class.Parameters == nil {
		class.Parameters = map[string]string{}
	}
	named := false
	for key := range class.Parameters {
		if key == fsTypeParameter || strings.EqualFold(key, "fstype") {
			named = true
		}
	}
	if !named {
		class.Parameters[fsTypeParameter] = r.FSType
	}
	if !r.copied && r.ResourceGroup == "" {
		class.Parameters[names.Driver+"/resourceGroup"] = r.group
	}
	return class
}

// newExport is the intent: all that is known before LINSTOR has made anything.
func (r *request) newExport() *v1alpha1.NFSExport {
	export := &v1alpha1.NFSExport{}
	export.Name = r.name
	export.Labels = map[string]string{names.ManagedByLabel: names.ManagedByValue}
	export.Spec = v1alpha1.NFSExportSpec{
		ResourceDefinition: v1alpha1.ResourceDefinition{Name: r.resourceName},
		Claim:              &v1alpha1.ClaimReference{Namespace: r.claim.Namespace, Name: r.claim.Name, UID: string(r.claim.UID)},
		ServerScope:        r.name,
		FSType:             r.FSType,
		MountOptions:       r.FilesystemOptions,
		Squash:             r.Squash,
		AccessType:         v1alpha1.ReadWrite,
		AllowedClients:     r.AllowedClients,
		RootDirectory:      r.Root,
		LeaseSeconds:       r.LeaseSeconds,
		GraceSeconds:       r.GraceSeconds,
		Size:               r.claim.Spec.Resources.Requests[corev1.ResourceStorage],
		Policy:             r.Policy,
	}
	return export
}
