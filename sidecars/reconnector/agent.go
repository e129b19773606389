package reconnector

import (
	"context"
	"errors"
	"maps"
	"net/netip"
	"slices"
	"sync"
	"time"

	"k8s.io/klog/v2"
)

// Sockets are the TCP sockets of the node's network namespace. Kernel implements
// it.
type Sockets interface {
	List(remotes []netip.AddrPort) ([]Socket, error)
	Destroy(Socket) error
}

// Translations are what connection tracking does to connections. Kernel
// implements it.
type Translations interface {
	Lookup(from, remote netip.AddrPort) (translation Translation, found bool, err error)
	Forget(Translation) error
}

// Routes tells where new connections are sent. Kernel implements it.
type Routes interface {
	Route(remote netip.AddrPort) (Route, error)
}

// Services knows where clients connect to.
type Services interface {
	// Service is the address of an export's Service; invalid if it has none.
	Service(export string) netip.AddrPort
}

// Agent destroys the stale connections of one node. It looks at connections when
// an endpoint has changed and for some seconds afterwards; otherwise it rests.
type Agent struct {
	sockets      Sockets
	translations Translations
	routes       Routes
	services     Services
	metrics      *Metrics

	wake chan struct{}

	lock      sync.Mutex
	movements map[string]*movement // by export
}

// NewAgent returns an Agent; Run starts it.
func NewAgent(sockets Sockets, translations Translations, routes Routes, services Services, metrics *Metrics) *Agent {
	return &Agent{
		sockets: sockets, translations: translations, routes: routes, services: services, metrics: metrics,
		wake:      make(chan struct{}, 1),
		movements: map[string]*movement{},
	}
}

// Observe tells the agent where an export is served now; an invalid endpoint means
// nowhere. What is no change is ignored.
func (a *Agent) Observe(export string, endpoint netip.AddrPort) {
	a.lock.Lock()
	defer a.lock.Unlock()
	next := follow(a.movements[export], endpoint, time.Now())
	if next == nil {
		return
	}
	a.movements[export] = next
	if endpoint.IsValid() {
		select {
		case a.wake <- struct{}{}:
		default: // it will look anyway
		}
	}
}

// Forget drops an export that does not exist any more.
func (a *Agent) Forget(export string) {
	a.lock.Lock()
	defer a.lock.Unlock()
	delete(a.movements, export)
}

// Run works until ctx ends.
func (a *Agent) Run(ctx context.Context) {
	for {
		var due <-chan time.Time
		if pause := a.pause(); pause > 0 {
			due = time.After(pause)
		}
		select {
		case <-ctx.Done():
			return
		case <-a.wake:
		case <-due:
		}
		started := time.Now()
		if err := a.look(ctx); err != nil {
			a.metrics.errors.Inc()
			klog.FromContext(ctx).Error(err, "Look at the connections failed")
		}
		took := time.Since(started)
		a.metrics.lookSeconds.Observe(took.Seconds())
		// A look walks through all sockets of the node: whatever happens, it must not
		// cost more than a fifth of a processor.
		time.Sleep(4 * took)
	}
}

// pause is how long to wait for the next look; 0: until something changes.
func (a *Agent) pause() time.Duration {
	a.lock.Lock()
	defer a.lock.Unlock()
	var shortest time.Duration
	now := time.Now()
	for _, m := range a.movements {
		if pause := m.pause(now); pause > 0 && (shortest == 0 || pause < shortest) {
			shortest = pause
		}
	}
	return shortest
}

// look lists the connections of all exports whose endpoint has changed, decides
// about each, and acts. All exports share one listing: many move at once when a
// node dies.
func (a *Agent) look(ctx context.Context) error {
	clients := a.clients()
	sockets, err := a.sockets.List(slices.Collect(maps.Keys(clients)))
	if err != nil {
		return err
	}
	var errs []error
	for _, socket := range sockets {
		client, known := clients[socket.Remote]
		if !known {
			continue
		}
		facts, translation, err := a.gather(client, socket)
		errs = append(errs, err, a.act(ctx, client, facts, decide(facts), translation))
	}
	return errors.Join(errs...)
}

// client is what the connections to one remote address are judged by.
type client struct {
	export    string
	movement  *movement
	atService bool
	first     bool // first look since the export moved
	tried     bool // the way to the Service, in this look
}

// clients returns the remote addresses that the clients of the exports that have
// just changed may be connected to.
func (a *Agent) clients() map[netip.AddrPort]*client {
	a.lock.Lock()
	defer a.lock.Unlock()
	now := time.Now()
	clients, served := map[netip.AddrPort]*client{}, map[netip.AddrPort]bool{}
	for export, m := range a.movements {
		served[m.endpoint] = true
		if m.pause(now) == 0 {
			continue
		}
		m.misled = false // until this look finds one
		for former, left := range m.former {
			if now.Sub(left) <= watchPeriod {
				clients[former] = &client{export: export, movement: m}
			}
		}
		if service := a.services.Service(export); service.IsValid() {
			first := m.moved && m.older == nil
			if first {
				m.older = map[uint64]bool{}
			}
			clients[service] = &client{export: export, movement: m, atService: true, first: first}
		}
	}
	// Ports are used again: what was one export's endpoint may be another's.
	maps.DeleteFunc(clients, func(remote netip.AddrPort, c *client) bool { return !c.atService && served[remote] })
	return clients
}

// gather adds what connection tracking knows. A failure makes it unknown.
func (a *Agent) gather(c *client, socket Socket) (facts, Translation, error) {
	f := facts{Socket: socket, Endpoint: c.movement.endpoint, AtService: c.atService, SinceMove: time.Since(c.movement.changed)}
	if !c.atService {
		return f, Translation{}, nil
	}
	translation, found, err := a.translations.Lookup(socket.Local, socket.Remote)
	if errors.Is(err, errors.ErrUnsupported) {
		err = nil // said once, at the start
	}
	if !found {
		f.Older = c.movement.isOlder(socket.Cookie, c.first)
		return f, translation, err
	}
	f.LeadsTo = translation.To
	if f.LeadsTo != f.Endpoint {
		f.Misled, err = a.misled(c, socket.Remote)
	}
	return f, translation, err
}

// misled says whether new connections to an export's Service are still sent
// elsewhere than where it is served. It tries that once in a look, and only if
// there is somebody to help.
func (a *Agent) misled(c *client, service netip.AddrPort) (bool, error) {
	if c.tried {
		return c.movement.misled, nil
	}
	c.tried = true
	route, err := a.routes.Route(service)
	if err != nil {
		return false, err
	}
	c.movement.misled = route.Known && route.To != c.movement.endpoint
	return c.movement.misled, nil
}

// act destroys first: the socket's last packet, a reset, shall still go to where
// its other packets went.
func (a *Agent) act(ctx context.Context, c *client, f facts, d decision, translation Translation) error {
	if d.Reason == "" {
		return nil
	}
	log := klog.FromContext(ctx).WithValues("export", c.export, "localPort", f.Socket.Local.Port(), "state", f.Socket.State,
		"old", oldAddress(f), "new", f.Endpoint, "reason", d.Reason, "sinceMove", f.SinceMove.Round(time.Millisecond))
	if d.Destroy {
		err := a.sockets.Destroy(f.Socket)
		switch {
		case errors.Is(err, errors.ErrUnsupported):
			// Said at the start. Without its translation the connection's next packet
			// reaches the new server, which resets it.
		case err != nil:
			return err
		default:
			a.metrics.destroyed(d.Reason, c.movement.moved, f.SinceMove)
			log.V(2).Info("Destroyed connection")
		}
	}
	if d.Forget {
		if err := a.translations.Forget(translation); err != nil {
			return err
		}
		a.metrics.translations.Inc()
		log.V(2).Info("Deleted translation")
	}
	return nil
}

func oldAddress(f facts) netip.AddrPort {
	if f.LeadsTo.IsValid() {
		return f.LeadsTo
	}
	return f.Socket.Remote
}
