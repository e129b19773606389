package reconnector

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/wait"
	corev1client "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/klog/v2"

	"github.com/linbit/linstor-rwx/pkg/names"
)

const (
	// settle is how long addresses may go on changing before they are published.
	settle = time.Second
	// apiPatience bounds one request to the API server.
	apiPatience = 15 * time.Second
)

// Interfaces are the network interfaces of the node. HostInterfaces implements it.
type Interfaces interface {
	// Addresses are the node's addresses by which it can reach other nodes, sorted.
	Addresses() ([]netip.Addr, error)
	// Watch calls changed at once and when addresses may have changed. It returns
	// when ctx ends, or with an error when it has to be called again.
	Watch(ctx context.Context, changed func()) error
}

// Publisher keeps the ConfigMap that tells the supervisors from which addresses
// this node's connections may come. The Node object does not tell: with a network
// of tunnels it is the address of the tunnel's interface.
type Publisher struct {
	settings   Settings
	interfaces Interfaces
	configMaps corev1client.ConfigMapInterface
	nodes      corev1client.NodeInterface
	metrics    *Metrics
}

// NewPublisher returns a Publisher; Run starts it. configMaps are those of the
// settings' namespace.
func NewPublisher(settings Settings, interfaces Interfaces, configMaps corev1client.ConfigMapInterface, nodes corev1client.NodeInterface, metrics *Metrics) *Publisher {
	return &Publisher{settings: settings, interfaces: interfaces, configMaps: configMaps, nodes: nodes, metrics: metrics}
}

// Run publishes until ctx ends: at the start, when addresses change, again after
// a failure, and at long intervals, for an object that somebody else removed.
func (p *Publisher) Run(ctx context.Context) {
	changes := make(chan struct{}, 1)
	go p.watch(ctx, changes)
	published := ""
	retry := newRetry()
	for ctx.Err() == nil {
		var err error
		again := p.settings.Resync
		if published, err = p.publish(ctx, published); err != nil {
			p.failed(ctx, err, "Publishing this node's addresses failed, it is repeated")
			again = retry.Step()
		} else {
			retry = newRetry()
		}
		select {
		case <-ctx.Done():
		case <-changes:
			wait := time.After(settle)
			select {
			case <-ctx.Done():
			case <-wait:
			}
		case <-time.After(again):
			published = ""
		}
	}
}

func newRetry() *wait.Backoff {
	return &wait.Backoff{Duration: time.Second, Factor: 2, Jitter: 0.1, Steps: 7, Cap: time.Minute}
}

// watch passes changes on until ctx ends.
func (p *Publisher) watch(ctx context.Context, changes chan<- struct{}) {
	wait.UntilWithContext(ctx, func(ctx context.Context) {
		err := p.interfaces.Watch(ctx, func() {
			select {
			case changes <- struct{}{}:
			default:
			}
		})
		p.failed(ctx, err, "Watch of this node's addresses ended, it is repeated")
	}, settle)
}

func (p *Publisher) failed(ctx context.Context, err error, message string) {
	if ctx.Err() == nil {
		p.metrics.errors.Inc()
		klog.FromContext(ctx).Error(err, message)
	}
}

// publish makes the ConfigMap say what the interfaces say, without a request if
// that has been published. It returns what is published.
func (p *Publisher) publish(ctx context.Context, published string) (string, error) {
	addresses, err := p.interfaces.Addresses()
	if err != nil {
		return "", err
	}
	// An empty list would lock this node out.
	if len(addresses) == 0 {
		return "", errors.New("list addresses: this node has none by which it could reach another")
	}
	lines := addressLines(addresses)
	if lines == published {
		return published, nil
	}
	ctx, cancel := context.WithTimeout(ctx, apiPatience)
	defer cancel()
	if err := p.ensureConfigMap(ctx, lines); err != nil {
		return "", err
	}
	return lines, nil
}

// addressLines is the value in the ConfigMap: one address per line.
func addressLines(addresses []netip.Addr) string {
	var text strings.Builder
	for _, address := range addresses {
		text.WriteString(address.String() + "\n")
	}
	return text.String()
}

func (p *Publisher) ensureConfigMap(ctx context.Context, lines string) error {
	node, err := p.nodes.Get(ctx, p.settings.NodeName, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read Node %s: %w", p.settings.NodeName, err)
	}
	desired := p.configMap(node, lines)
	current, err := p.configMaps.Get(ctx, desired.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		if _, err := p.configMaps.Create(ctx, desired, metav1.CreateOptions{}); err != nil {
			return fmt.Errorf("create ConfigMap %s: %w", desired.Name, err)
		}
		klog.FromContext(ctx).Info("Published this node's addresses", "configMap", desired.Name, "addresses", strings.Fields(lines))
		return nil
	}
	if err != nil {
		return fmt.Errorf("read ConfigMap %s: %w", desired.Name, err)
	}
	if sameConfigMap(current, desired) {
		return nil
	}
	desired.ResourceVersion = current.ResourceVersion
	if _, err := p.configMaps.Update(ctx, desired, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("update ConfigMap %s: %w", desired.Name, err)
	}
	klog.FromContext(ctx).Info("Published this node's addresses", "configMap", desired.Name, "addresses", strings.Fields(lines))
	return nil
}

// configMap goes with its Node: what is owned by a Node that is gone is removed.
func (p *Publisher) configMap(node *corev1.Node, lines string) *corev1.ConfigMap {
	return &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{
			Name:      names.NodeAddressesName(p.settings.Release, node.Name),
			Namespace: p.settings.PodNamespace,
			Labels:    map[string]string{names.NodeAddressesLabel: node.Name, names.ManagedByLabel: names.ManagedByValue},
			OwnerReferences: []metav1.OwnerReference{{
				APIVersion: corev1.SchemeGroupVersion.String(), Kind: "Node", Name: node.Name, UID: node.UID,
			}},
		},
		Data: map[string]string{names.NodeAddressesKey: lines},
	}
}

func sameConfigMap(current, desired *corev1.ConfigMap) bool {
	return equality.Semantic.DeepEqual(current.Data, desired.Data) &&
		equality.Semantic.DeepEqual(current.Labels, desired.Labels) &&
		equality.Semantic.DeepEqual(current.OwnerReferences, desired.OwnerReferences)
}
