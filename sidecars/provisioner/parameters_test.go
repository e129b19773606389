package provisioner

import (
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/names"
)

func TestClassWithoutOwnParametersHasTheDocumentedDefaults(t *testing.T) {
	got, err := parseClass(newClass(map[string]string{"linstor.csi.linbit.com/placementCount": "2", "storagePool": "fast", "DrbdOptions/auto-quorum": "suspend-io", "other.example/key": "x"}), "")
	if err != nil {
		t.Fatal(err)
	}
	want := classSettings{Squash: v1alpha1.NoRootSquash, Root: v1alpha1.RootDirectory{Mode: "0777"}, LeaseSeconds: 12, GraceSeconds: 60, RecoveryKiB: 65536, Policy: v1alpha1.OnDemand, FSType: "ext4"}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

func TestClassParameters(t *testing.T) {
	for name, test := range map[string]struct {
		parameters map[string]string
		check      func(classSettings) bool
	}{
		"squash":                {map[string]string{"rwx.linbit.com/squash": "root_squash"}, func(s classSettings) bool { return s.Squash == v1alpha1.RootSquash }},
		"driver's squash":       {map[string]string{"nfsSquash": "all_squash"}, func(s classSettings) bool { return s.Squash == v1alpha1.AllSquash }},
		"driver's, prefixed":    {map[string]string{"linstor.csi.linbit.com/NFSSquash": "Root_Squash"}, func(s classSettings) bool { return s.Squash == v1alpha1.RootSquash }},
		"own squash wins":       {map[string]string{"nfsSquash": "all_squash", "rwx.linbit.com/squash": "no_root_squash"}, func(s classSettings) bool { return s.Squash == v1alpha1.NoRootSquash }},
		"root owner":            {map[string]string{"rwx.linbit.com/root-owner": "1000:2000"}, func(s classSettings) bool { return s.Root.UID == 1000 && s.Root.GID == 2000 && s.Root.Mode == "0777" }},
		"root mode":             {map[string]string{"rwx.linbit.com/root-mode": "770"}, func(s classSettings) bool { return s.Root.Mode == "0770" }},
		"root mode with sticky": {map[string]string{"rwx.linbit.com/root-mode": "1777"}, func(s classSettings) bool { return s.Root.Mode == "1777" }},
		"lease and grace":       {map[string]string{"rwx.linbit.com/lease": "10s", "rwx.linbit.com/grace": "20s"}, func(s classSettings) bool { return s.LeaseSeconds == 10 && s.GraceSeconds == 20 }},
		"long lease":            {map[string]string{"rwx.linbit.com/lease": "2m"}, func(s classSettings) bool { return s.LeaseSeconds == 120 && s.GraceSeconds == 240 }},
		"recovery size":         {map[string]string{"rwx.linbit.com/recovery-size": "16Mi"}, func(s classSettings) bool { return s.RecoveryKiB == 16384 }},
		"driver's recovery":     {map[string]string{"nfsRecoveryVolumeSize": "300Mi"}, func(s classSettings) bool { return s.RecoveryKiB == 300*1024 }},
		"allowed clients": {map[string]string{"rwx.linbit.com/allowed-clients": "10.1.2.3/16, fd00::/8,10.1.0.0/16"}, func(s classSettings) bool {
			return slices.Equal(s.AllowedClients, []string{"10.1.0.0/16", "fd00::/8"})
		}},
		"policy":             {map[string]string{"rwx.linbit.com/policy": "Always"}, func(s classSettings) bool { return s.Policy == v1alpha1.Always }},
		"xfs":                {map[string]string{"csi.storage.k8s.io/fstype": "xfs", "fsOpts": "-m reflink=0"}, func(s classSettings) bool { return s.FSType == "xfs" && s.MkfsParams == "-m reflink=0" }},
		"deprecated fstype":  {map[string]string{"fsType": "xfs"}, func(s classSettings) bool { return s.FSType == "xfs" }},
		"layers":             {map[string]string{"layerList": "drbd luks storage"}, func(classSettings) bool { return true }},
		"resource group":     {map[string]string{"linstor.csi.linbit.com/resourceGroup": "gold"}, func(s classSettings) bool { return s.ResourceGroup == "gold" }},
		"driver's mountOpts": {map[string]string{"mountOpts": "noatime,discard"}, func(s classSettings) bool { return slices.Equal(s.FilesystemOptions, []string{"noatime", "discard"}) }},
		"two primaries: no":  {map[string]string{"DrbdOptions/Net/allow-two-primaries": "no"}, func(classSettings) bool { return true }},
	} {
		got, err := parseClass(newClass(test.parameters), "ext4")
		if err != nil || !test.check(got) {
			t.Errorf("%s: %+v, %v", name, got, err)
		}
	}
}

// Every refusal names the class, the value and the remedy.
func TestWrongClassParametersAreRefusedWithOneSentence(t *testing.T) {
	for name, test := range map[string]struct{ key, value, remedy string }{
		"unknown own key":        {"rwx.linbit.com/sqash", "x", "use one of"},
		"squash":                 {"rwx.linbit.com/squash", "squish", "use no_root_squash, root_squash or all_squash"},
		"driver's squash":        {"nfsSquash", "squish", "use no_root_squash"},
		"owner without group":    {"rwx.linbit.com/root-owner", "1000", "use UID:GID"},
		"owner by name":          {"rwx.linbit.com/root-owner", "www:www", "use UID:GID"},
		"negative owner":         {"rwx.linbit.com/root-owner", "-1:0", "use UID:GID"},
		"owner nobody":           {"rwx.linbit.com/root-owner", "4294967295:0", "use UID:GID"},
		"mode not octal":         {"rwx.linbit.com/root-mode", "0888", "use an octal mode"},
		"mode in letters":        {"rwx.linbit.com/root-mode", "rwxr-x", "use an octal mode"},
		"mode too large":         {"rwx.linbit.com/root-mode", "17777", "use an octal mode"},
		"lease without unit":     {"rwx.linbit.com/lease", "6", "use full seconds from 10s to 120s"},
		"lease too short":        {"rwx.linbit.com/lease", "9s", "from 10s to 120s"},
		"lease too long":         {"rwx.linbit.com/lease", "121s", "from 10s to 120s"},
		"lease with fraction":    {"rwx.linbit.com/lease", "4500ms", "use full seconds"},
		"grace too short":        {"rwx.linbit.com/grace", "11s", "from 20s to 240s"},
		"grace too long":         {"rwx.linbit.com/grace", "241s", "from 20s to 240s"},
		"recovery too small":     {"rwx.linbit.com/recovery-size", "15Mi", "use a size from 16Mi to 1Gi"},
		"recovery too large":     {"rwx.linbit.com/recovery-size", "2Gi", "use a size from 16Mi to 1Gi"},
		"recovery without sense": {"rwx.linbit.com/recovery-size", "many", "use a size from 16Mi to 1Gi"},
		"driver's recovery":      {"nfsRecoveryVolumeSize", "1Mi", "use a size from 16Mi to 1Gi"},
		"clients by address":     {"rwx.linbit.com/allowed-clients", "10.0.0.1", "use CIDRs"},
		"no clients":             {"rwx.linbit.com/allowed-clients", "", "use CIDRs"},
		"policy":                 {"rwx.linbit.com/policy", "always", "use OnDemand or Always"},
		"filesystem":             {"csi.storage.k8s.io/fstype", "btrfs", "can have ext4 or xfs"},
		"layers without DRBD":    {"layerList", "luks storage", "DRBD as the first layer"},
		"DRBD not on top":        {"linstor.csi.linbit.com/layerList", "luks drbd storage", "DRBD as the first layer"},
		"two primaries":          {"property.linstor.csi.linbit.com/DrbdOptions/Net/allow-two-primaries", "yes", "exactly one Primary"},
		"two primaries, bare":    {"DrbdOptions/Net/allow-two-primaries", "yes", "exactly one Primary"},
		"usePvcName":             {"usePvcName", "sometimes", "use true or false"},
	} {
		_, err := parseClass(newClass(map[string]string{test.key: test.value}), "ext4")
		if err == nil {
			t.Errorf("%s: accepted", name)
			continue
		}
		for _, part := range []string{"StorageClass shared", test.remedy} {
			if !strings.Contains(err.Error(), part) {
				t.Errorf("%s: %q does not say %q", name, err, part)
			}
		}
		if name != "unknown own key" && !strings.Contains(err.Error(), test.value) {
			t.Errorf("%s: %q does not name the value", name, err)
		}
	}
}

func TestGraceMustOutlastTwoLeases(t *testing.T) {
	_, err := parseClass(newClass(map[string]string{"rwx.linbit.com/lease": "20s", "rwx.linbit.com/grace": "39s"}), "ext4")
	if err == nil || !strings.Contains(err.Error(), "at least twice the lease, 40s") {
		t.Errorf("got %v", err)
	}
}

func TestFilesystemNamedTwiceIsRefused(t *testing.T) {
	_, err := parseClass(newClass(map[string]string{"fstype": "xfs", "csi.storage.k8s.io/fstype": "ext4"}), "ext4")
	if err == nil || !strings.Contains(err.Error(), "twice") {
		t.Errorf("got %v", err)
	}
}

func TestMountOptionsGoWhereTheyAreUnderstood(t *testing.T) {
	filesystem, nfs, err := splitMountOptions([]string{"noatime,discard", "nconnect=4", "hard", " timeo=600 ", "", "nouuid", "nosuid", "logbsize=256k"})
	if err != nil {
		t.Fatal(err)
	}
	if want := []string{"noatime", "discard", "nouuid", "logbsize=256k"}; !slices.Equal(filesystem, want) {
		t.Errorf("filesystem %v, want %v", filesystem, want)
	}
	if want := []string{"nconnect=4", "hard", "timeo=600", "nosuid"}; !slices.Equal(nfs, want) {
		t.Errorf("NFS %v, want %v", nfs, want)
	}
}

func TestMountOptionsThatTheDriverFixesAreRefused(t *testing.T) {
	for _, option := range []string{"vers=3", "nfsvers=4.1", "minorversion=1", "port=2050", "proto=udp", "nolock", "v4.2", "sec=krb5", "mountport=1"} {
		class := newClass(nil)
		class.MountOptions = []string{"hard", option}
		_, err := parseClass(class, "ext4")
		if err == nil || !strings.Contains(err.Error(), option) || !strings.Contains(err.Error(), "remove it") || !strings.Contains(err.Error(), "StorageClass shared") {
			t.Errorf("%s: %v", option, err)
		}
	}
	if _, _, err := splitMountOptions([]string{"frobnicate"}); err == nil || !strings.Contains(err.Error(), "not known") {
		t.Errorf("unknown option: %v", err)
	}
	for _, list := range [][]string{nfsOptions, filesystemOptions} {
		for _, option := range list {
			if slices.Contains(fixedOptions, option) {
				t.Errorf("%s is in two lists", option)
			}
		}
	}
}

var testConfig = Config{Driver: names.Driver, VolumeNamePrefix: "pvc", VolumeNameUUIDLength: -1, DefaultFSType: "ext4", ExtraCreateMetadata: true}

func TestClaimsThatCannotBeServedAreRefused(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*corev1.PersistentVolumeClaim, map[string]string, *Config)
		want   string
	}{
		"consistency group": {func(c *corev1.PersistentVolumeClaim, _ map[string]string, _ *Config) {
			c.Labels = map[string]string{names.ConsistencyGroupLabel: "g"}
		}, "remove the label"},
		"too small for ext4": {func(c *corev1.PersistentVolumeClaim, _ map[string]string, _ *Config) {
			c.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("1Mi")
		}, "claim claim-11 asks for 1Mi, but ext4 needs 2Mi at least: ask for more"},
		"too small for xfs": {func(c *corev1.PersistentVolumeClaim, p map[string]string, _ *Config) {
			c.Spec.Resources.Requests[corev1.ResourceStorage] = resource.MustParse("299Mi")
			p[fsTypeParameter] = "xfs"
		}, "xfs needs 300Mi at least"},
		"volume name": {func(_ *corev1.PersistentVolumeClaim, _ map[string]string, c *Config) { c.VolumeNamePrefix = "1.x" }, "cannot be that of a Service"},
	} {
		claim, parameters, config := newClaim("11", corev1.ReadWriteMany), map[string]string{}, testConfig
		test.change(claim, parameters, &config)
		_, err := decide(claim, newClass(parameters), config)
		if err == nil || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestNamesAreThoseOfCsiProvisionerAndLinstorCsi(t *testing.T) {
	claim := newClaim("0a1b2c3d-1111-2222-3333-444455556666", corev1.ReadWriteMany)
	for name, test := range map[string]struct {
		parameters           map[string]string
		length               int
		metadata             bool
		wantName, wantObject string
	}{
		"default":                     {nil, -1, true, "pvc-0a1b2c3d-1111-2222-3333-444455556666", "pvc-0a1b2c3d-1111-2222-3333-444455556666"},
		"truncated":                   {nil, 8, true, "pvc-0a1b2c3d", "pvc-0a1b2c3d"},
		"by claim":                    {map[string]string{"usePvcName": "true"}, 8, true, "pvc-0a1b2c3d", "default-" + claim.Name},
		"by claim, without metadata":  {map[string]string{"usePvcName": "true"}, 8, false, "pvc-0a1b2c3d", "pvc-0a1b2c3d"},
		"by claim, prefixed, refused": {map[string]string{"linstor.csi.linbit.com/UsePvcName": "false"}, 8, true, "pvc-0a1b2c3d", "pvc-0a1b2c3d"},
	} {
		config := testConfig
		config.VolumeNameUUIDLength, config.ExtraCreateMetadata = test.length, test.metadata
		short := claim.DeepCopy()
		short.Name = "c"
		if strings.HasPrefix(test.wantObject, "default-") {
			test.wantObject = "default-c"
		}
		r, err := decide(short, newClass(test.parameters), config)
		if err != nil || r.name != test.wantName || r.resourceName != test.wantObject {
			t.Errorf("%s: %+v, %v", name, r, err)
		}
	}
	// uuid.NewSHA1([]byte("linstor.csi.linbit.com"), name), computed by linstor-csi's library.
	long := resourceName("pvc-"+strings.Repeat("x", 50), claim, false)
	if !strings.HasPrefix(long, "vol-") || len(long) != 40 || long[18] != '5' {
		t.Errorf("fallback name %q", long)
	}
}

func TestClassesThatDifferForLinstorHaveDifferentGroups(t *testing.T) {
	base := map[string]string{"storagePool": "a", "placementCount": "2"}
	same := map[string]string{"placementCount": "2", "storagePool": "a", "rwx.linbit.com/lease": "10s"}
	other := map[string]string{"storagePool": "b", "placementCount": "2"}
	if groupName(base) != groupName(same) {
		t.Error("our own parameters change the group")
	}
	if groupName(base) == groupName(other) {
		t.Error("different pools share a group")
	}
}

// An idle Linux client is silent for up to a third of its lease and 5 s, measured
// with 6 s: it lost its locks.
func TestIdleClientsRenewTheirLeaseInTime(t *testing.T) {
	for _, bound := range []struct {
		lease, spare time.Duration
	}{{defaultLease, 2 * time.Second}, {minLease, 500 * time.Millisecond}} {
		silent, expires := bound.lease/3+5*time.Second, bound.lease-time.Second
		if expires-silent < bound.spare {
			t.Errorf("a client with a lease of %s may be silent for %s, and ganesha may take it for dead after %s", bound.lease, silent, expires)
		}
	}
}
