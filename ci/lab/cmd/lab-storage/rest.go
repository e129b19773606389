package main

import (
	"fmt"
	"net"
	"net/http"
	"sync"
	"time"
)

// restServer serves LINSTOR's REST API on a port that can be closed and opened
// again, as that of a controller that stops and starts.
type restServer struct {
	address string
	handler http.Handler

	mu     sync.Mutex
	server *http.Server
}

// up opens the port. Idempotent.
func (s *restServer) up() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server != nil {
		return nil
	}
	listener, err := net.Listen("tcp", s.address)
	if err != nil {
		return fmt.Errorf("listen for LINSTOR: %w", err)
	}
	s.address = listener.Addr().String()
	s.server = &http.Server{Handler: s.handler, ReadHeaderTimeout: time.Minute}
	go func(server *http.Server) { _ = server.Serve(listener) }(s.server)
	return nil
}

// down closes the port and all connections; requests being worked on go on.
func (s *restServer) down() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.server != nil {
		_ = s.server.Close()
		s.server = nil
	}
}
