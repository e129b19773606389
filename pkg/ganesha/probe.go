package ganesha

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/linbit/linstor-rwx/pkg/ganesha/nfs"
)

// Probe proves that the server at address ("host:port") serves the export at
// path ("/pvc-1"): it makes an NFSv4.1 session (RFC 8881), looks the path up,
// reads the attributes of its root, and takes the session and its client id
// down again. It works during grace. It returns an error if any step fails or
// ctx ends; always give it a ctx with a deadline.
//
// A ganesha that listens but could not load its export serves an empty pseudo
// filesystem: there the path does not exist, or is not a filesystem of its own.
//
// While a probe runs, ganesha has a record of it on the recovery volume, which
// costs four small writes there. A probe that is interrupted leaves it behind,
// and ganesha keeps it as long as it runs: see DropProbeRecords. Prober is
// cheaper for probing again and again.
func Probe(ctx context.Context, address, path string) error {
	prober := NewProber(address, path)
	defer prober.Close()
	return prober.Probe(ctx)
}

// Prober probes one export again and again in one session, which writes to the
// recovery volume only when it is made. As long as it is open, ganesha has one
// record of it there, which Records does not count and DropProbeRecords drops
// after a crash. It is safe for concurrent use.
type Prober struct {
	address, path string

	mutex   sync.Mutex
	session *nfs.Session
}

// NewProber returns a Prober of the export at path ("/pvc-1") of the server at
// address ("host:port"). It does not connect yet.
func NewProber(address, path string) *Prober { return &Prober{address: address, path: path} }

// Probe is as the function of this name. If the session is lost, because the
// server was restarted or forgot it, it tries once more with a new one.
func (p *Prober) Probe(ctx context.Context) error {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	kept := p.session != nil
	err := p.probe(ctx)
	if err != nil {
		p.drop()
		if kept && ctx.Err() == nil {
			if err = p.probe(ctx); err != nil {
				p.drop()
			}
		}
	}
	if err != nil {
		return fmt.Errorf("probe export %s at %s: %w", p.path, p.address, err)
	}
	return nil
}

func (p *Prober) probe(ctx context.Context) (err error) {
	if p.session == nil {
		if p.session, err = nfs.Connect(ctx, p.address); err != nil {
			p.session = nil
			return err
		}
	} else {
		p.session.Follow(ctx)
	}
	// The caller ends ctx when we return, which must not end the session.
	defer func() { p.session.Follow(context.Background()) }()
	root, directory, err := p.session.Lookup(p.path)
	if err != nil {
		return err
	}
	if len(directory.Handle) == 0 {
		return errors.New("the file handle is empty")
	}
	if directory.FSID == root {
		return fmt.Errorf("the path is in the pseudo filesystem (fsid %d.%d): the export is not loaded", root[0], root[1])
	}
	return nil
}

// Close takes the session down. A server that does not answer is given a second.
// The Prober can be used again.
func (p *Prober) Close() {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.drop()
}

func (p *Prober) drop() {
	if p.session != nil {
		// An error says nothing about the service, and changes nothing here.
		_ = p.session.Close()
		p.session = nil
	}
}
