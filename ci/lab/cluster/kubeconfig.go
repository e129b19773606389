package cluster

import (
	"fmt"
	"net"
	"os"
	"strconv"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// kubeconfig renders a client configuration with the certificates inside.
func kubeconfig(authority []byte, identity Identity) ([]byte, error) {
	const name = "lab"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{
		Server:                   "https://" + net.JoinHostPort(HostAddress, strconv.Itoa(APIServerPort)),
		CertificateAuthorityData: authority,
	}
	config.AuthInfos[name] = &clientcmdapi.AuthInfo{
		ClientCertificateData: identity.Certificate,
		ClientKeyData:         identity.Key,
	}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: name}
	config.CurrentContext = name
	content, err := clientcmd.Write(*config)
	if err != nil {
		return nil, fmt.Errorf("render kubeconfig: %w", err)
	}
	return content, nil
}

func writeKubeconfig(path string, authority []byte, identity Identity) error {
	content, err := kubeconfig(authority, identity)
	if err != nil {
		return err
	}
	return os.WriteFile(path, content, 0o600)
}
