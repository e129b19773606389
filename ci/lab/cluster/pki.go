package cluster

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"
)

// validity of every certificate. A laboratory lives for hours.
const validity = 30 * 24 * time.Hour

// Identity is a certificate with its key, both PEM.
type Identity struct {
	Certificate []byte
	Key         []byte
}

// Authority signs certificates for one cluster.
type Authority struct {
	// Certificate is the authority's own, PEM.
	Certificate []byte

	parsed *x509.Certificate
	key    *ecdsa.PrivateKey
	keyPEM []byte
}

// NewAuthority makes a certificate authority.
func NewAuthority(name string) (*Authority, error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: name},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageCRLSign | x509.KeyUsageDigitalSignature,
	}
	certificate, err := sign(template, template, &key.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("make authority %s: %w", name, err)
	}
	block, _ := pem.Decode(certificate)
	parsed, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse authority %s: %w", name, err)
	}
	return &Authority{Certificate: certificate, parsed: parsed, key: key, keyPEM: keyPEM}, nil
}

// Client signs an identity for a user of the API server: name is the user,
// groups are its groups.
func (a *Authority) Client(name string, groups ...string) (Identity, error) {
	return a.issue(&x509.Certificate{
		Subject:     pkix.Name{CommonName: name, Organization: groups},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	})
}

// Server signs an identity for a server that is reached by the given host names
// and addresses.
func (a *Authority) Server(name string, hosts ...string) (Identity, error) {
	template := &x509.Certificate{
		Subject:     pkix.Name{CommonName: name},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, host := range hosts {
		if ip := net.ParseIP(host); ip != nil {
			template.IPAddresses = append(template.IPAddresses, ip)
		} else {
			template.DNSNames = append(template.DNSNames, host)
		}
	}
	return a.issue(template)
}

func (a *Authority) issue(template *x509.Certificate) (Identity, error) {
	key, keyPEM, err := newKey()
	if err != nil {
		return Identity{}, err
	}
	certificate, err := sign(template, a.parsed, &key.PublicKey, a.key)
	if err != nil {
		return Identity{}, fmt.Errorf("sign certificate of %s: %w", template.Subject.CommonName, err)
	}
	return Identity{Certificate: certificate, Key: keyPEM}, nil
}

func sign(template, parent *x509.Certificate, public crypto.PublicKey, signer crypto.Signer) ([]byte, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, err
	}
	template.SerialNumber = serial
	// An hour back: guests start with a clock that may be a little behind.
	template.NotBefore = time.Now().Add(-time.Hour)
	template.NotAfter = template.NotBefore.Add(validity)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, signer)
	if err != nil {
		return nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}

func newKey() (*ecdsa.PrivateKey, []byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("generate key: %w", err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return nil, nil, fmt.Errorf("marshal key: %w", err)
	}
	return key, pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), nil
}

// pki is all key material of one cluster.
type pki struct {
	authority     *Authority
	apiServer     Identity
	kubeletClient Identity
	admin         Identity
	controller    Identity
	scheduler     Identity
	proxy         Identity
	// serviceAccount is the key that signs service account tokens.
	serviceAccount []byte
	nodes          map[string]nodeIdentity
}

type nodeIdentity struct {
	client Identity
	server Identity
}

func newPKI(nodes []Node) (*pki, error) {
	authority, err := NewAuthority("linstor-rwx-lab")
	if err != nil {
		return nil, err
	}
	p := &pki{authority: authority, nodes: map[string]nodeIdentity{}}
	if p.apiServer, err = authority.Server("kube-apiserver", "kubernetes", "kubernetes.default",
		"kubernetes.default.svc", "kubernetes.default.svc.cluster.local", "localhost",
		"127.0.0.1", HostAddress, ControlAddress, firstServiceAddress); err != nil {
		return nil, err
	}
	clients := []struct {
		target *Identity
		name   string
		groups []string
	}{
		{&p.kubeletClient, "kube-apiserver-kubelet-client", []string{"system:masters"}},
		{&p.admin, "lab-admin", []string{"system:masters"}},
		{&p.controller, "system:kube-controller-manager", nil},
		{&p.scheduler, "system:kube-scheduler", nil},
		{&p.proxy, "system:kube-proxy", nil},
	}
	for _, c := range clients {
		if *c.target, err = authority.Client(c.name, c.groups...); err != nil {
			return nil, err
		}
	}
	if _, p.serviceAccount, err = newKey(); err != nil {
		return nil, err
	}
	for _, n := range nodes {
		var identity nodeIdentity
		if identity.client, err = authority.Client("system:node:"+n.Name, "system:nodes"); err != nil {
			return nil, err
		}
		if identity.server, err = authority.Server(n.Name, n.Name, n.Address()); err != nil {
			return nil, err
		}
		p.nodes[n.Name] = identity
	}
	return p, nil
}

// write puts what the control plane reads into a directory.
func (p *pki) write(directory string) error {
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return err
	}
	files := map[string][]byte{
		"ca.crt":             p.authority.Certificate,
		"ca.key":             p.authority.keyPEM,
		"service-account":    p.serviceAccount,
		"apiserver.crt":      p.apiServer.Certificate,
		"apiserver.key":      p.apiServer.Key,
		"kubelet-client.crt": p.kubeletClient.Certificate,
		"kubelet-client.key": p.kubeletClient.Key,
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(directory, name), content, 0o600); err != nil {
			return err
		}
	}
	return nil
}
