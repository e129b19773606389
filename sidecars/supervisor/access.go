package supervisor

import (
	"context"
	"fmt"
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"

	"github.com/linbit/linstor-rwx/pkg/apis/rwx/v1alpha1"
	"github.com/linbit/linstor-rwx/pkg/firewall"
)

// Firewall is what the supervisor uses of pkg/firewall.
type Firewall interface {
	Apply(ctx context.Context, rules firewall.Rules) error
}

// access keeps the rules of the pod's network namespace: who may connect to
// which export, from which address they seem to come, and what leaves from the
// port of a server that ends. The rules are always written as a whole.
type access struct {
	settings Settings
	firewall Firewall
	nodes    interface{ NodeAddresses() []netip.Prefix }

	lock    sync.Mutex
	exports map[string]admission
	// applied are the rules in force; nil if that is not known.
	applied *firewall.Rules
}

// admission is one export's part of the rules.
type admission struct {
	port uint16
	// clients are those that the spec allows; nil: the nodes of the cluster.
	clients []netip.Prefix
	frozen  bool
}

func newAccess(settings Settings, rules Firewall, nodes interface{ NodeAddresses() []netip.Prefix }) *access {
	return &access{settings: settings, firewall: rules, nodes: nodes, exports: map[string]admission{}}
}

// admit lets the export's clients in at its port.
func (a *access) admit(ctx context.Context, export *v1alpha1.NFSExport, port int) error {
	return a.admitAll(ctx, map[*v1alpha1.NFSExport]int{export: port})
}

// admitAll admits to several exports, by their ports, at once: rules that know of
// one only would cut off the clients of the others.
func (a *access) admitAll(ctx context.Context, ports map[*v1alpha1.NFSExport]int) error {
	admitted := map[string]admission{}
	for export, port := range ports {
		clients, err := allowedClients(export)
		if err != nil {
			return fmt.Errorf("admit clients: %w", err)
		}
		admitted[export.Name] = admission{port: uint16(port), clients: clients}
	}
	return a.change(ctx, func() { maps.Copy(a.exports, admitted) })
}

// allowedClients returns nil if the spec names none.
func allowedClients(export *v1alpha1.NFSExport) ([]netip.Prefix, error) {
	var clients []netip.Prefix
	for _, text := range export.Spec.AllowedClients {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return nil, fmt.Errorf("allowedClients of NFSExport %s has %q, which is no CIDR such as 10.0.0.0/16: %w", export.Name, text, err)
		}
		clients = append(clients, prefix.Masked())
	}
	return clients, nil
}

// freeze lets nothing leave from the export's port any more: its clients wait,
// instead of learning that the server ended before another can take over.
func (a *access) freeze(ctx context.Context, name string) error {
	return a.change(ctx, func() {
		if admitted, ok := a.exports[name]; ok {
			admitted.frozen = true
			a.exports[name] = admitted
		}
	})
}

// close lets nobody in any more. Clients that still try are refused.
func (a *access) close(ctx context.Context, name string) error {
	return a.change(ctx, func() { delete(a.exports, name) })
}

// open says whether clients of the export are let in, or kept waiting.
func (a *access) open(name string) bool {
	a.lock.Lock()
	defer a.lock.Unlock()
	_, ok := a.exports[name]
	return ok
}

// refresh writes the rules anew, because nodes came, went or changed addresses.
func (a *access) refresh(ctx context.Context) error { return a.change(ctx, func() {}) }

// check repairs rules that somebody else has changed.
func (a *access) check(ctx context.Context) error {
	a.lock.Lock()
	defer a.lock.Unlock()
	if a.firewall == nil {
		return nil
	}
	return a.apply(ctx, a.rules())
}

func (a *access) change(ctx context.Context, change func()) error {
	a.lock.Lock()
	defer a.lock.Unlock()
	change()
	if a.firewall == nil {
		return nil
	}
	rules := a.rules()
	if a.applied != nil && reflect.DeepEqual(*a.applied, rules) {
		return nil
	}
	return a.apply(ctx, rules)
}

func (a *access) apply(ctx context.Context, rules firewall.Rules) error {
	a.applied = nil
	if err := a.firewall.Apply(ctx, rules); err != nil {
		return fmt.Errorf("admit clients: %w", err)
	}
	a.applied = &rules
	return nil
}

func (a *access) rules() firewall.Rules {
	rules := firewall.Rules{PortMin: uint16(a.settings.PortMin), PortMax: uint16(a.settings.PortMax)}
	nodes := a.nodes.NodeAddresses()
	for _, name := range slices.Sorted(maps.Keys(a.exports)) {
		admitted := a.exports[name]
		clients := admitted.clients
		if clients == nil {
			clients = nodes
		}
		rules.Exports = append(rules.Exports, firewall.Export{
			Port: admitted.port, Clients: clients, Silent: a.settings.Silence, Frozen: admitted.frozen,
		})
	}
	return rules
}

// RefreshAccess has the rules follow the nodes' addresses.
func (a *Agent) RefreshAccess(ctx context.Context) {
	if err := a.access.refresh(ctx); err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "Rules for new node addresses are not in force, new nodes cannot connect yet")
	}
}

// accessInterval is how often the rules are checked.
const accessInterval = time.Minute

// checkAccess repairs the rules now and then: who changed them, such as an agent of
// the cluster's network that starts again, need not tell anybody.
func (a *Agent) checkAccess(ctx context.Context) {
	// Whoever has to freeze an export waits for it.
	bounded, cancel := context.WithTimeout(ctx, fenceTimeout/2)
	defer cancel()
	if err := a.access.check(bounded); err != nil && ctx.Err() == nil {
		klog.FromContext(ctx).Error(err, "Rules of the pod's network could not be checked")
	}
}

// restoreAccess admits the clients of the servers that an earlier supervisor of
// this pod left running, before the first rules are written: they must not cut
// anybody off.
func (a *Agent) restoreAccess(ctx context.Context) {
	ports := map[*v1alpha1.NFSExport]int{}
	for _, name := range a.leftovers() {
		intent, err := a.readIntent(name)
		export := a.cache.Export(name)
		if err == nil && intent != nil && intent.PodIP == a.settings.PodIP && export != nil {
			ports[export] = intent.Port
		}
	}
	if err := a.access.admitAll(ctx, ports); err != nil {
		klog.FromContext(ctx).Error(err, "Rules for running servers are not in force")
	}
}
