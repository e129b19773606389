package cluster

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"testing"

	"k8s.io/client-go/tools/clientcmd"
)

func parse(t *testing.T, identity Identity) *x509.Certificate {
	t.Helper()
	if _, err := tls.X509KeyPair(identity.Certificate, identity.Key); err != nil {
		t.Fatalf("certificate and key do not belong together: %v", err)
	}
	block, _ := pem.Decode(identity.Certificate)
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	return certificate
}

func TestAuthorityVouchesForEveryPartOfTheCluster(t *testing.T) {
	node := Node{Name: "n2", MemoryMiB: 512}
	keys, err := newPKI([]Node{node})
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(keys.authority.Certificate)

	for _, host := range []string{HostAddress, firstServiceAddress, "127.0.0.1", "kubernetes.default.svc"} {
		options := x509.VerifyOptions{Roots: roots, DNSName: host, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
		if _, err := parse(t, keys.apiServer).Verify(options); err != nil {
			t.Errorf("API server as %s: %v", host, err)
		}
	}
	kubelet := x509.VerifyOptions{Roots: roots, DNSName: node.Address(), KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if _, err := parse(t, keys.nodes["n2"].server).Verify(kubelet); err != nil {
		t.Errorf("kubelet as server: %v", err)
	}

	client := parse(t, keys.nodes["n2"].client)
	if _, err := client.Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}); err != nil {
		t.Errorf("kubelet as client: %v", err)
	}
	// The Node authorizer knows a kubelet by exactly these.
	if client.Subject.CommonName != "system:node:n2" || len(client.Subject.Organization) != 1 || client.Subject.Organization[0] != "system:nodes" {
		t.Errorf("kubelet is %v", client.Subject)
	}
}

func TestAuthorityOfOneClusterDoesNotVouchForAnother(t *testing.T) {
	one, err := newPKI(nil)
	if err != nil {
		t.Fatal(err)
	}
	other, err := newPKI(nil)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(one.authority.Certificate)
	if _, err := parse(t, other.admin).Verify(x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageAny}}); err == nil {
		t.Error("an administrator of another cluster is accepted")
	}
}

func TestKubeconfigLeadsToTheAPIServer(t *testing.T) {
	keys, err := newPKI(nil)
	if err != nil {
		t.Fatal(err)
	}
	content, err := kubeconfig(keys.authority.Certificate, keys.admin)
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(content)
	if err != nil {
		t.Fatal(err)
	}
	if config.Host != "https://10.89.0.1:6443" {
		t.Errorf("host is %s", config.Host)
	}
	if string(config.CertData) != string(keys.admin.Certificate) || string(config.KeyData) != string(keys.admin.Key) {
		t.Error("the identity is not the administrator's")
	}
}
