package provisioner

import "sync"

// keyLocks serialises work on one name. The zero value is ready. Entries stay only
// while somebody holds or awaits them.
type keyLocks struct {
	mu   sync.Mutex
	held map[string]*keyLock
}

type keyLock struct {
	mu    sync.Mutex
	users int
}

// lock blocks until the name is free and returns the function that frees it.
func (l *keyLocks) lock(name string) (unlock func()) {
	l.mu.Lock()
	if l.held == nil {
		l.held = map[string]*keyLock{}
	}
	entry := l.held[name]
	if entry == nil {
		entry = &keyLock{}
		l.held[name] = entry
	}
	entry.users++
	l.mu.Unlock()

	entry.mu.Lock()
	return func() {
		entry.mu.Unlock()
		l.mu.Lock()
		defer l.mu.Unlock()
		if entry.users--; entry.users == 0 {
			delete(l.held, name)
		}
	}
}
