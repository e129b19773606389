package drbd

import (
	"context"
	"errors"

	"k8s.io/utils/exec"
)

// Tool runs drbdsetup.
type Tool struct {
	exec exec.Interface
}

// New returns a Tool that runs programs by exec.
func New(exec exec.Interface) *Tool { return &Tool{exec: exec} }

// Status returns the state of one resource. It fails with ErrUnknownResource if
// this node has no such resource.
func (t *Tool) Status(ctx context.Context, name string) (Resource, error) {
	return Resource{}, errors.New("not implemented")
}

// StatusAll returns the state of all resources of this node; none is no error.
func (t *Tool) StatusAll(ctx context.Context) ([]Resource, error) {
	return nil, errors.New("not implemented")
}

// Primary promotes the resource; it succeeds if it is Primary already, even
// without quorum: check HasQuorum afterwards. It takes about 1 s while a peer
// is unreachable, because DRBD asks the peers first. A refusal is a
// *RefusedError.
func (t *Tool) Primary(ctx context.Context, name string) error {
	return errors.New("not implemented")
}

// Secondary demotes the resource. It is refused with HeldOpen while one of its
// devices is open. A resource that is Secondary stays so.
func (t *Tool) Secondary(ctx context.Context, name string) error {
	return errors.New("not implemented")
}

// ForceSecondary demotes the resource although it is open or suspended: all
// its I/O, also that which hangs, fails from then on, until the last opener is
// gone (Resource.ForceIOFailures). Data that was not written yet is lost.
func (t *Tool) ForceSecondary(ctx context.Context, name string) error {
	return errors.New("not implemented")
}

// Watch calls changed with the name of every resource whose state changes,
// and with "" when everything has to be read again: at the start and whenever
// the stream of events was interrupted. It returns only when ctx ends, with
// its error. changed must not block for long.
func (t *Tool) Watch(ctx context.Context, changed func(name string)) error {
	return errors.New("not implemented")
}
