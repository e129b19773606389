package ganesha

import (
	"context"
	"errors"
)

// Probe proves that the server at address ("host:port") serves the export at
// path ("/pvc-1"): it makes an NFSv4.1 session (RFC 8881), looks the path up,
// reads the attributes of its root, and takes the session and its client id
// down again. It works during grace. It returns an error if any step fails or
// ctx ends; always give it a ctx with a deadline.
func Probe(ctx context.Context, address, path string) error {
	return errors.New("not implemented")
}
