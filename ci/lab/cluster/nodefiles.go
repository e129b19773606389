package cluster

import (
	"archive/tar"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"sort"
	"strings"

	"github.com/linbit/linstor-rwx/ci/lab/cluster/guest"
)

// kubernetesDirectory holds the Kubernetes binary in the guest, and links to it.
const kubernetesDirectory = "/k8s"

const (
	kubernetesConfig = "/etc/kubernetes"
	containerdSocket = "/run/containerd/containerd.sock"
	busConfigFile    = "/etc/dbus-1/node.conf"
	busSocket        = "/run/dbus/system_bus_socket"
	logindSocket     = "/run/lab-logind.sock"
)

// nodeFiles renders everything that tells one node from another. The keys are
// absolute paths in the guest.
func nodeFiles(c *Config, node Node, keys *pki) (map[string][]byte, error) {
	spec, err := json.MarshalIndent(guestSpec(c, node), "", "  ")
	if err != nil {
		return nil, fmt.Errorf("render description of %s: %w", node.Name, err)
	}
	identity := keys.nodes[node.Name]
	kubelet, err := kubeconfig(keys.authority.Certificate, identity.client)
	if err != nil {
		return nil, err
	}
	proxy, err := kubeconfig(keys.authority.Certificate, keys.proxy)
	if err != nil {
		return nil, err
	}
	machine := sha256.Sum256([]byte(c.Name + "/" + node.Name))
	return map[string][]byte{
		guest.SpecPath:                              spec,
		"/etc/hostname":                             []byte(node.Name + "\n"),
		"/etc/hosts":                                []byte("127.0.0.1 localhost\n" + node.Address() + " " + node.Name + "\n"),
		"/etc/resolv.conf":                          nil,
		"/etc/machine-id":                           []byte(hex.EncodeToString(machine[:16]) + "\n"),
		busConfigFile:                               []byte(busConfig),
		"/etc/containerd/config.toml":               []byte(strings.ReplaceAll(containerdConfig, "{pause}", c.PauseImage)),
		"/etc/cni/net.d/10-pods.conflist":           []byte(strings.ReplaceAll(cniConfig, "{pods}", node.PodNetwork())),
		kubernetesConfig + "/ca.crt":                keys.authority.Certificate,
		kubernetesConfig + "/kubelet.crt":           identity.server.Certificate,
		kubernetesConfig + "/kubelet.key":           identity.server.Key,
		kubernetesConfig + "/kubelet.kubeconfig":    kubelet,
		kubernetesConfig + "/kubelet.yaml":          []byte(kubeletConfig),
		kubernetesConfig + "/kube-proxy.kubeconfig": proxy,
		kubernetesConfig + "/kube-proxy.yaml":       []byte(strings.ReplaceAll(kubeProxyConfig, "{node}", node.Name)),
	}, nil
}

func guestSpec(c *Config, node Node) guest.Spec {
	spec := guest.Spec{
		Hostname: node.Name,
		Interfaces: []guest.Interface{
			{Name: "vec0", Address: fmt.Sprintf("%s/%d", node.Address(), prefixLength)},
			{Name: "vec1", Address: fmt.Sprintf("%s/%d", node.ControlAddress(), prefixLength)},
		},
		Gateway:      HostAddress,
		AgentAddress: node.ControlAddress(),
		Modules:      modules(),
		Settings: []guest.Setting{
			{Path: "/proc/sys/net/ipv4/ip_forward", Value: "1"},
			{Path: "/proc/sys/net/bridge/bridge-nf-call-iptables", Value: "1"},
			{Path: "/proc/sys/kernel/panic", Value: "10"},
			{Path: "/proc/sys/kernel/panic_on_oops", Value: "1"},
			{Path: "/proc/sys/vm/overcommit_memory", Value: "1"},
			// All guests come from one image: without this the NFS client's
			// identity would rest on the host name alone.
			{Path: "/sys/module/nfs/parameters/nfs4_unique_id", Value: c.Name + "-" + node.Name},
		},
		Programs: programs(c, node),
	}
	for number := 1; number <= MaximumNode; number++ {
		if number != node.Number() {
			spec.Routes = append(spec.Routes, guest.Route{To: podNetwork(number), Via: neighbour(HostAddress, number)})
		}
	}
	return spec
}

func programs(c *Config, node Node) []guest.Program {
	containerd := guest.Program{Name: "containerd", Socket: containerdSocket,
		Command: []string{"containerd", "--config=/etc/containerd/config.toml"}}
	// kubelet looks for logind once, when it starts.
	bus := guest.Program{Name: "dbus", Socket: busSocket, Command: []string{"dbus-daemon", "--config-file=" + busConfigFile, "--nofork", "--nopidfile"}}
	logind := guest.Program{Name: "logind", Socket: logindSocket, Command: []string{"lab-logind", logindSocket}}
	kubelet := guest.Program{Name: "kubelet", Command: []string{"kubelet",
		"--config=" + kubernetesConfig + "/kubelet.yaml",
		"--kubeconfig=" + kubernetesConfig + "/kubelet.kubeconfig",
		"--hostname-override=" + node.Name,
		"--node-ip=" + node.Address(),
		"--root-dir=/var/lib/kubelet",
		"--cert-dir=/var/lib/kubelet/pki",
		"--v=1",
	}}
	if node.Storage {
		kubelet.Command = append(kubelet.Command, "--node-labels="+StorageLabel+"=true")
	}
	proxy := guest.Program{Name: "kube-proxy", Command: []string{"kube-proxy",
		"--config=" + kubernetesConfig + "/kube-proxy.yaml"}}

	var list []guest.Program
	if len(c.StorageProgram) > 0 {
		replace := strings.NewReplacer("{name}", node.Name, "{address}", node.Address(), "{control}", node.ControlAddress())
		var command []string
		for _, argument := range c.StorageProgram {
			command = append(command, replace.Replace(argument))
		}
		list = append(list, guest.Program{Name: "storage", Command: command})
	}
	return append(list, bus, logind, containerd, kubelet, proxy)
}

func modules() []guest.Module {
	list := []guest.Module{
		// Devices are made on request; none exists before. Partitions would
		// make the kernel read from a device that may not answer.
		{Name: "nbd", Parameters: []string{"nbds_max=0", "max_part=0"}},
	}
	for _, name := range strings.Fields(`
		overlay veth bridge br_netfilter nf_conntrack nf_conntrack_netlink tcp_diag_destroy
		iptable_nat iptable_filter iptable_mangle ip6table_nat ip6table_filter ip6table_mangle
		xt_comment xt_mark xt_MASQUERADE xt_conntrack xt_addrtype xt_statistic xt_nat xt_tcpudp
		xt_multiport xt_recent xt_REDIRECT xt_nfacct ipt_REJECT nfs nfsv4 loop dummy`) {
		list = append(list, guest.Module{Name: name})
	}
	return list
}

// containerdConfig is for Debian's containerd 1.6. Without
// restrict_oom_score_adj runc fails to start any sandbox where root has no
// CAP_SYS_RESOURCE.
const containerdConfig = `version = 2
root = "/var/lib/containerd"
state = "/run/containerd"

[grpc]
  address = "` + containerdSocket + `"

[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  restrict_oom_score_adj = true

  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/etc/cni/net.d"

  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
    runtime_type = "io.containerd.runc.v2"

    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
      BinaryName = "/usr/sbin/runc"
      SystemdCgroup = false
`

const cniConfig = `{
  "cniVersion": "0.4.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge",
      "bridge": "cni0",
      "isGateway": true,
      "ipMasq": false,
      "hairpinMode": true,
      "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "{pods}"}]],
        "routes": [{"dst": "0.0.0.0/0"}]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`

// busConfig lets root's programs do everything; nobody else is on a node.
const busConfig = `<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN" "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>system</type>
  <listen>unix:path=` + busSocket + `</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow user="*"/>
    <allow own="*"/>
    <allow send_destination="*" eavesdrop="false"/>
    <allow receive_sender="*"/>
  </policy>
</busconfig>
`

const kubeletConfig = `apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
cgroupDriver: cgroupfs
containerRuntimeEndpoint: unix://` + containerdSocket + `
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: ` + kubernetesConfig + `/ca.crt}
authorization: {mode: Webhook}
tlsCertFile: ` + kubernetesConfig + `/kubelet.crt
tlsPrivateKeyFile: ` + kubernetesConfig + `/kubelet.key
clusterDNS: [10.96.0.10]
clusterDomain: cluster.local
resolvConf: ""
failSwapOn: false
nodeStatusUpdateFrequency: 5s
nodeStatusReportFrequency: 1m
nodeLeaseDurationSeconds: 20
syncFrequency: 30s
volumeStatsAggPeriod: 1m
runtimeRequestTimeout: 4m
enforceNodeAllocatable: [pods]
evictionHard: {memory.available: 50Mi, nodefs.available: 1%, imagefs.available: 1%}
evictionPressureTransitionPeriod: 30s
# As docs/failover.md asks: more than ganesha's pod may take.
shutdownGracePeriod: 100s
shutdownGracePeriodCriticalPods: 70s
# The images cannot be pulled again: there is no registry.
imageGCHighThresholdPercent: 100
`

const kubeProxyConfig = `apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
# The kernel of user-mode-linux has no nf_tables.
mode: iptables
clusterCIDR: ` + PodNetwork + `
hostnameOverride: {node}
clientConnection: {kubeconfig: ` + kubernetesConfig + `/kube-proxy.kubeconfig}
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
iptables: {minSyncPeriod: 200ms, syncPeriod: 10m}
metricsBindAddress: 127.0.0.1:10249
`

// archive packs files into a tar that is a whole number of disk blocks long.
func archive(files map[string][]byte) ([]byte, error) {
	var paths []string
	for path := range files {
		paths = append(paths, path)
	}
	sort.Strings(paths)
	var buffer bytes.Buffer
	writer := tar.NewWriter(&buffer)
	for _, path := range paths {
		mode := int64(0o644)
		if strings.HasSuffix(path, ".key") || strings.HasSuffix(path, ".kubeconfig") {
			mode = 0o600
		}
		header := &tar.Header{Name: strings.TrimPrefix(path, "/"), Mode: mode, Size: int64(len(files[path]))}
		if err := writer.WriteHeader(header); err != nil {
			return nil, err
		}
		if _, err := writer.Write(files[path]); err != nil {
			return nil, err
		}
	}
	if err := writer.Close(); err != nil {
		return nil, err
	}
	const block = 64 << 10
	if rest := buffer.Len() % block; rest != 0 {
		buffer.Write(make([]byte, block-rest))
	}
	return buffer.Bytes(), nil
}
