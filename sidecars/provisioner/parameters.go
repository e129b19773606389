package provisioner

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/names"
)

// The own parameters of a StorageClass, below names.Prefix.
const (
	squashKey         = "squash"
	rootOwnerKey      = "root-owner"
	rootModeKey       = "root-mode"
	leaseKey          = "lease"
	graceKey          = "grace"
	recoverySizeKey   = "recovery-size"
	allowedClientsKey = "allowed-clients"
	policyKey         = "policy"
)

var ownKeys = []string{squashKey, rootOwnerKey, rootModeKey, leaseKey, graceKey, recoverySizeKey, allowedClientsKey, policyKey}

const (
	// Linux renews a lease at two thirds of it, but never sooner than 5 s after it
	// last looked, and skips a look within a third of the last request
	// (fs/nfs/nfs4renewd.c): an idle client is silent for up to a third of the lease
	// and 5 s. ganesha counts full seconds, which takes up to one more. A shorter
	// lease than 10 s would take its locks away for nothing; 12 s leave 2 s to spare.
	defaultLease        = 12 * time.Second
	minLease, maxLease  = 10 * time.Second, 120 * time.Second
	defaultGrace        = 60 * time.Second
	minGrace, maxGrace  = 20 * time.Second, 240 * time.Second
	defaultRecoverySize = "64Mi"
	minRecoveryBytes    = 16 << 20
	maxRecoveryBytes    = 1 << 30

	// fsTypeParameter is what csi-provisioner reads; the bare form is deprecated.
	fsTypeParameter = "csi.storage.k8s.io/fstype"
	// propertyPrefix is linstor-csi's namespace of LINSTOR properties.
	propertyPrefix   = "property.linstor.csi.linbit.com/"
	twoPrimariesName = "DrbdOptions/Net/allow-two-primaries"
)

// classSettings is what a StorageClass says, with types.
type classSettings struct {
	Squash         v1alpha1.Squash
	Root           v1alpha1.RootDirectory
	LeaseSeconds   int32
	GraceSeconds   int32
	RecoveryKiB    uint64
	AllowedClients []string
	Policy         v1alpha1.Policy

	FSType     string
	MkfsParams string
	// FilesystemOptions are mounted with on the serving node, NFSOptions by clients.
	FilesystemOptions []string
	NFSOptions        []string
	// ResourceGroup is the group that the class names, if it does.
	ResourceGroup string
	UsePVCName    bool
}

// parseClass reads a StorageClass. Its errors are complete sentences for the events
// of a claim: they name the class, the parameter, the value and the remedy.
func parseClass(class *storagev1.StorageClass, defaultFSType string) (classSettings, error) {
	s := classSettings{Policy: v1alpha1.OnDemand}
	p := parameters{class: class.Name, own: map[string]string{}, driver: map[string]string{}}
	if err := p.read(class.Parameters); err != nil {
		return s, err
	}
	for _, step := range []func(*classSettings) error{
		p.layers, p.filesystem(defaultFSType), p.squash, p.root, p.times, p.recovery, p.clients, p.policy, p.group,
	} {
		if err := step(&s); err != nil {
			return s, err
		}
	}
	fsOptions, nfsOptions, err := splitMountOptions(class.MountOptions)
	if err != nil {
		return s, fmt.Errorf("StorageClass %s: %w", class.Name, err)
	}
	s.FilesystemOptions, s.NFSOptions = fsOptions, nfsOptions
	for _, option := range strings.Split(p.driver["mountopts"], ",") {
		if option = strings.TrimSpace(option); option != "" && !slices.Contains(s.FilesystemOptions, option) {
			s.FilesystemOptions = append(s.FilesystemOptions, option)
		}
	}
	return s, nil
}

// parameters are the parameters of one class, sorted by whom they are for.
type parameters struct {
	class  string
	own    map[string]string // without prefix
	driver map[string]string // without prefix, lower case, as linstor-csi compares them
	fsType []string
}

func (p *parameters) read(all map[string]string) error {
	for key, value := range all {
		namespace, name, found := strings.Cut(key, "/")
		if !found {
			namespace, name = "", key
		}
		property := strings.TrimPrefix(key, propertyPrefix)
		switch {
		case key == fsTypeParameter, namespace == "" && strings.EqualFold(name, "fstype"):
			p.fsType = append(p.fsType, value)
		case namespace+"/" == names.Prefix:
			if !slices.Contains(ownKeys, name) {
				return fmt.Errorf("StorageClass %s has an unknown parameter %s: use one of %s%s", p.class, key, names.Prefix, strings.Join(ownKeys, ", "+names.Prefix))
			}
			p.own[name] = value
		case namespace == "", namespace == names.Driver:
			p.driver[strings.ToLower(name)] = value
		case strings.EqualFold(property, twoPrimariesName) && !strings.EqualFold(value, "no"):
			return p.refuse(key, value, "remove it: the filesystem of a ReadWriteMany volume has exactly one Primary")
		}
	}
	return nil
}

func (p *parameters) refuse(key, value, remedy string) error {
	return fmt.Errorf("StorageClass %s has %s=%q: %s", p.class, key, value, remedy)
}

// layers repeats linstor-csi's check, which it does not make for the ReadWriteOnce
// volume that it is asked for.
func (p *parameters) layers(*classSettings) error {
	list, found := p.driver["layerlist"]
	if found && !strings.EqualFold(strings.SplitN(list, " ", 2)[0], "drbd") {
		return p.refuse("layerList", list, "ReadWriteMany volumes need DRBD as the first layer, such as \"drbd storage\"")
	}
	return nil
}

func (p *parameters) filesystem(fallback string) func(*classSettings) error {
	return func(s *classSettings) error {
		if len(p.fsType) > 1 {
			return fmt.Errorf("StorageClass %s names the filesystem twice: keep %s only", p.class, fsTypeParameter)
		}
		s.FSType = fallback
		if len(p.fsType) == 1 && p.fsType[0] != "" {
			s.FSType = p.fsType[0]
		}
		if s.FSType == "" {
			s.FSType = "ext4"
		}
		if s.FSType != "ext4" && s.FSType != "xfs" {
			return p.refuse(fsTypeParameter, s.FSType, "ReadWriteMany volumes can have ext4 or xfs")
		}
		s.MkfsParams = p.driver["fsopts"]
		return nil
	}
}

// squash accepts the spellings of NFS-Ganesha for the driver's own key.
func (p *parameters) squash(s *classSettings) error {
	value, own := p.own[squashKey]
	key := names.Prefix + squashKey
	if !own {
		if value = p.driver["nfssquash"]; value == "" {
			value = "no_root_squash"
		}
		key = "nfsSquash"
	}
	switch strings.ReplaceAll(strings.ToLower(value), "_", "") {
	case "norootsquash":
		s.Squash = v1alpha1.NoRootSquash
	case "rootsquash":
		s.Squash = v1alpha1.RootSquash
	case "allsquash":
		s.Squash = v1alpha1.AllSquash
	default:
		return p.refuse(key, value, "use no_root_squash, root_squash or all_squash")
	}
	return nil
}

func (p *parameters) root(s *classSettings) error {
	s.Root.Mode = "0777"
	if owner, found := p.own[rootOwnerKey]; found {
		uid, gid, split := strings.Cut(owner, ":")
		var err [2]error
		s.Root.UID, err[0] = parseID(uid)
		s.Root.GID, err[1] = parseID(gid)
		if !split || err[0] != nil || err[1] != nil {
			return p.refuse(names.Prefix+rootOwnerKey, owner, "use UID:GID in numbers, such as \"1000:1000\"")
		}
	}
	if mode, found := p.own[rootModeKey]; found {
		bits, err := strconv.ParseUint(mode, 8, 32)
		if err != nil || bits > 0o7777 || len(mode) < 3 {
			return p.refuse(names.Prefix+rootModeKey, mode, "use an octal mode, such as \"0770\"")
		}
		s.Root.Mode = fmt.Sprintf("%04o", bits)
	}
	return nil
}

// parseID reads a user or group id; the largest 32 bit number means "nobody".
func parseID(text string) (int64, error) {
	id, err := strconv.ParseUint(text, 10, 32)
	if err == nil && id == 1<<32-1 {
		return 0, strconv.ErrRange
	}
	return int64(id), err
}

func (p *parameters) times(s *classSettings) error {
	lease, err := p.duration(leaseKey, defaultLease, minLease, maxLease)
	if err != nil {
		return err
	}
	grace, err := p.duration(graceKey, max(defaultGrace, 2*lease), minGrace, maxGrace)
	if err != nil {
		return err
	}
	if grace < 2*lease {
		return p.refuse(names.Prefix+graceKey, p.own[graceKey], fmt.Sprintf("use at least twice the lease, %s", 2*lease))
	}
	s.LeaseSeconds, s.GraceSeconds = int32(lease/time.Second), int32(grace/time.Second)
	return nil
}

func (p *parameters) duration(key string, fallback, least, most time.Duration) (time.Duration, error) {
	text, found := p.own[key]
	if !found {
		return fallback, nil
	}
	value, err := time.ParseDuration(text)
	if err != nil || value < least || value > most || value%time.Second != 0 {
		return 0, p.refuse(names.Prefix+key, text, fmt.Sprintf("use full seconds from %ds to %ds", least/time.Second, most/time.Second))
	}
	return value, nil
}

func (p *parameters) recovery(s *classSettings) error {
	key, text := names.Prefix+recoverySizeKey, p.own[recoverySizeKey]
	if _, own := p.own[recoverySizeKey]; !own {
		if text = p.driver["nfsrecoveryvolumesize"]; text == "" {
			text = defaultRecoverySize
		}
		key = "nfsRecoveryVolumeSize"
	}
	size, err := resource.ParseQuantity(text)
	if err != nil || size.Value() < minRecoveryBytes || size.Value() > maxRecoveryBytes {
		return p.refuse(key, text, "use a size from 16Mi to 1Gi")
	}
	s.RecoveryKiB = uint64(size.Value()+1023) / 1024
	return nil
}

func (p *parameters) clients(s *classSettings) error {
	text, found := p.own[allowedClientsKey]
	if !found {
		return nil
	}
	for _, entry := range strings.Split(text, ",") {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(entry))
		if err != nil {
			return p.refuse(names.Prefix+allowedClientsKey, text, "use CIDRs, comma separated, such as \"10.0.0.0/16\"")
		}
		if cidr := prefix.Masked().String(); !slices.Contains(s.AllowedClients, cidr) {
			s.AllowedClients = append(s.AllowedClients, cidr)
		}
	}
	return nil
}

func (p *parameters) policy(s *classSettings) error {
	switch text, found := p.own[policyKey]; {
	case !found:
		s.Policy = v1alpha1.OnDemand
	case text == string(v1alpha1.OnDemand), text == string(v1alpha1.Always):
		s.Policy = v1alpha1.Policy(text)
	default:
		return p.refuse(names.Prefix+policyKey, text, "use OnDemand or Always")
	}
	return nil
}

func (p *parameters) group(s *classSettings) error {
	s.ResourceGroup = p.driver["resourcegroup"]
	if text, found := p.driver["usepvcname"]; found {
		use, err := strconv.ParseBool(text)
		if err != nil {
			return p.refuse("usePvcName", text, "use true or false")
		}
		s.UsePVCName = use
	}
	return nil
}
