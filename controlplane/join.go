package controlplane

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/etcd"
	"github.com/skep-io/skep/controlplane/jointoken"
	"github.com/skep-io/skep/controlplane/kinds"
	"github.com/skep-io/skep/controlplane/pki"
	"github.com/skep-io/skep/controlplane/resource"
	"github.com/skep-io/skep/controlplane/servers"
	"github.com/skep-io/skep/durable"
)

// How far a server is that joined a cluster, or left it.
const (
	stateJoining = "joining" // it may not have a vote yet
	stateMember  = "member"
	stateRemoved = "removed"
)

// serverFile is what a server that joined others keeps in its data folder. The first server of a cluster has none until it is removed.
type serverFile struct {
	State    string                `json:"state"`
	MemberID string                `json:"memberID"`
	Members  map[string]string     `json:"members"`
	Token    string                `json:"token,omitempty"` // the ID of the token that it joins with
	Settings skepv1.ServerSettings `json:"settings"`
}

func serverFilePath(dataDir string) string { return filepath.Join(dataDir, "server.json") }

// encryptionPath is where a server that joins finds the encryption configuration that it was given.
func encryptionPath(dataDir string) string { return filepath.Join(dataDir, "encryption-config.yaml") }

// readServerFile returns nil if there is none.
func readServerFile(dataDir string) (*serverFile, error) {
	data, err := os.ReadFile(serverFilePath(dataDir))
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	f := &serverFile{}
	if err := json.Unmarshal(data, f); err != nil {
		return nil, fmt.Errorf("%s, which says what this server's cluster is, cannot be read: %w", serverFilePath(dataDir), err)
	}
	return f, nil
}

func (f *serverFile) write(dataDir string) error {
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	return durable.WriteFile(serverFilePath(dataDir), append(data, '\n'), 0o600)
}

// enrol returns what this server knows of the cluster that it joined, joins it first if --join says so, and returns nil for a server that
// makes or made a cluster of its own.
func (o Options) enrol(ctx context.Context, lock *etcd.Lock) (*serverFile, error) {
	f, err := readServerFile(o.DataDir)
	if err != nil {
		return nil, err
	}
	data := filepath.Join(o.DataDir, "etcd")
	switch initialized := lock.Initialized(); {
	case f == nil && o.Join == "":
		return nil, nil
	case f == nil && initialized:
		return nil, fmt.Errorf("--join %s: %s holds a cluster of its own already: leave --join out, or name an empty --data-dir", o.Join, o.DataDir)
	case f == nil, !initialized && o.Join != "":
		return o.join(ctx)
	case f.State == stateRemoved:
		return nil, fmt.Errorf("this server was removed from its cluster: to join again, remove %s and start skepd with --join and a new --token; to begin a new cluster, name another --data-dir", data)
	case !initialized && f.State == stateJoining:
		return nil, errors.New("this server has not joined its cluster yet: start skepd with --join and --token once more")
	case !initialized:
		return nil, fmt.Errorf("%s is empty, though this server is one of several: remove it on another server (skep server remove %s) and start skepd with --join and a new --token, or restore a snapshot (skepd restore)", data, o.Name)
	}
	return f, nil
}

// join asks the server of --join for what makes this one a server, and stores it. Until then, and again if this process is killed in
// between, nothing here counts.
func (o Options) join(ctx context.Context) (*serverFile, error) {
	if o.Token == "" {
		return nil, errors.New("--join needs a --token: `skep token create --server` makes one")
	}
	own, err := o.own().complete()
	if err != nil {
		return nil, err
	}
	for flag, address := range map[string]string{"--listen": own.Listen, "--dns-etcd-listen": own.DNSEtcdListen, "--etcd-peer-listen": own.PeerListen} {
		probe, err := listen(flag, address) // before the others count on this server
		if err != nil {
			return nil, err
		}
		probe.Close()
	}
	answer, err := servers.Ask(ctx, o.Join, o.Token, skepv1.ServerJoinRequest{Name: own.Name, URL: own.url(), PeerURL: own.peerURL()})
	if err != nil {
		return nil, err
	}
	if err := o.checkSettings(answer.Settings); err != nil {
		return nil, err
	}
	if err := refuseOtherAuthority(o.DataDir, answer.CA); err != nil {
		return nil, err
	}
	text, err := jointoken.Parse(o.Token)
	if err != nil {
		return nil, err
	}
	f := &serverFile{State: stateJoining, MemberID: answer.MemberID, Members: answer.Members, Token: text.ID, Settings: answer.Settings}
	if err := f.write(o.DataDir); err != nil {
		return nil, err
	}
	if err := o.keepEncryption(answer.Encryption); err != nil {
		return nil, err
	}
	err = pki.WriteAuthorities(o.DataDir, pki.Authorities{CA: answer.CA, CAKey: answer.CAKey, PeerCA: answer.PeerCA, PeerCAKey: answer.PeerCAKey})
	return f, err
}

// refuseOtherAuthority keeps the keys of another cluster, which cannot be made again, from being overwritten.
func refuseOtherAuthority(dataDir string, ca []byte) error {
	path := filepath.Join(dataDir, "pki", "ca.crt")
	have, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && bytes.Equal(have, ca) {
		return nil
	}
	if err != nil {
		return err
	}
	if pki.SameAuthority(have, ca) {
		return nil
	}
	return fmt.Errorf("%s is the authority of another cluster: move the folder away, or name an empty --data-dir", path)
}

// keepEncryption stores the cluster's encryption configuration where this server reads it from.
func (o Options) keepEncryption(config []byte) error {
	path := cmp.Or(o.EncryptionConfig, encryptionPath(o.DataDir))
	have, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist) && len(config) == 0 && o.EncryptionConfig == "":
		return nil
	case len(config) == 0:
		return fmt.Errorf("the cluster does not encrypt its objects, and this server has %s: remove it and --encryption-provider-config; begin with encryption on all servers afterwards", path)
	case errors.Is(err, fs.ErrNotExist):
		return durable.WriteFile(path, config, 0o600)
	case err != nil:
		return err
	case !bytes.Equal(have, config):
		return fmt.Errorf("%s is not the encryption configuration of the cluster: remove it, and it is written anew", path)
	}
	return nil
}

// own are the options that concern this server and not the cluster.
func (o Options) own() Options {
	return Options{
		DataDir: o.DataDir, Listen: o.Listen, AdvertiseAddress: o.AdvertiseAddress, DNSEtcdListen: o.DNSEtcdListen, PeerListen: o.PeerListen, Name: o.Name,
	}
}

// checkSettings refuses flags that differ from those of the other servers.
func (o Options) checkSettings(is skepv1.ServerSettings) error {
	number := func(n int) string {
		if n == 0 {
			return ""
		}
		return fmt.Sprint(n)
	}
	for _, f := range []struct{ flag, given, is string }{
		{"--service-cidr", o.ServiceCIDR, is.ServiceCIDR}, {"--pod-cidr", o.PodCIDR, is.PodCIDR}, {"--cluster-domain", o.ClusterDomain, is.ClusterDomain},
		{"--node-cidr-mask-size", number(o.NodeMask), number(is.NodeMask)},
		{"--node-cidr-mask-size-ipv4", number(o.NodeMask4), number(is.NodeMask4)}, {"--node-cidr-mask-size-ipv6", number(o.NodeMask6), number(is.NodeMask6)},
	} {
		if f.given != "" && f.given != f.is {
			return fmt.Errorf("%s %s: the other servers have %q: leave the flag out here, since a server that joins takes it from them", f.flag, f.given, f.is)
		}
	}
	return nil
}

// with completes the options with the cluster's settings.
func (o Options) with(f *serverFile) (Options, error) {
	if f == nil {
		return o, nil
	}
	if err := o.checkSettings(f.Settings); err != nil {
		return o, err
	}
	is := f.Settings
	o.ServiceCIDR, o.PodCIDR, o.ClusterDomain = is.ServiceCIDR, is.PodCIDR, is.ClusterDomain
	o.NodeMask, o.NodeMask4, o.NodeMask6 = is.NodeMask, is.NodeMask4, is.NodeMask6
	o.LoadBalancerCIDR = cmp.Or(o.LoadBalancerCIDR, is.LoadBalancerCIDR)
	o.DenyExternalIPs = o.DenyExternalIPs || is.DenyExternalIPs
	if _, err := os.Stat(encryptionPath(o.DataDir)); err == nil && o.EncryptionConfig == "" {
		o.EncryptionConfig = encryptionPath(o.DataDir)
	}
	return o, nil
}

// shared are the settings that servers which join get.
func (s *settings) shared() skepv1.ServerSettings {
	return skepv1.ServerSettings{
		ServiceCIDR: s.ServiceCIDR, PodCIDR: s.PodCIDR, NodeMask: s.NodeMask, NodeMask4: s.NodeMask4, NodeMask6: s.NodeMask6,
		ClusterDomain: s.ClusterDomain, LoadBalancerCIDR: s.LoadBalancerCIDR, DenyExternalIPs: s.DenyExternalIPs,
	}
}

func (s *settings) peerURL() string {
	_, port, _ := net.SplitHostPort(s.PeerListen) // complete has checked it
	return "https://" + net.JoinHostPort(s.advertise.String(), port)
}

// joined notes that the server has a vote, or that it was removed.
func (s *settings) joined(f *serverFile, err error) error {
	switch {
	case err == nil && f != nil && f.State == stateJoining:
		f.State = stateMember
		slog.Info("This server has joined the cluster", "name", s.Name, "others", f.Members)
		return f.write(s.DataDir)
	case errors.Is(err, etcd.ErrRemoved):
		if f == nil {
			f = &serverFile{Settings: s.shared()}
		}
		joining := f.State == stateJoining
		f.State = stateRemoved
		if writeErr := f.write(s.DataDir); writeErr != nil {
			return errors.Join(err, writeErr)
		}
		what := "removed from its cluster"
		if joining {
			what = "withdrawn before it had joined its cluster"
		}
		return fmt.Errorf("this server was %s: to join again, remove %s and start skepd with --join and a new --token: %w", what, filepath.Join(s.DataDir, "etcd"), err)
	}
	return err
}

// endToken deletes the token that this server joined with.
func endToken(ctx context.Context, registry *resource.Registry, f *serverFile) error {
	if f == nil || f.Token == "" {
		return nil
	}
	_, _, err := registry.Delete(ctx, kinds.Secrets, metav1.NamespaceSystem, jointoken.SecretPrefix+f.Token, nil)
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
