package pki

import (
	"bytes"
	"fmt"
	"os"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// writeKubeconfig writes the administrator's kubeconfig where it differs from what it should be. It holds a key that may do
// everything, so only its owner may read it.
func (p *PKI) writeKubeconfig(admin *pair) error {
	const name = "skep"
	config := clientcmdapi.NewConfig()
	config.Clusters[name] = &clientcmdapi.Cluster{Server: p.options.Server, CertificateAuthorityData: p.CA()}
	config.AuthInfos["skep-admin"] = &clientcmdapi.AuthInfo{ClientCertificateData: admin.certPEM, ClientKeyData: admin.keyPEM}
	config.Contexts[name] = &clientcmdapi.Context{Cluster: name, AuthInfo: "skep-admin"}
	config.CurrentContext = name
	want, err := clientcmd.Write(*config)
	if err != nil {
		return fmt.Errorf("encode the admin kubeconfig: %w", err)
	}
	have, err := os.ReadFile(p.KubeconfigPath())
	if err := unreadable(err); err != nil {
		return err
	}
	if info, err := os.Stat(p.KubeconfigPath()); err == nil && info.Mode().Perm() == 0o600 && bytes.Equal(have, want) {
		return nil
	}
	return writeFile(p.KubeconfigPath(), want, 0o600)
}
