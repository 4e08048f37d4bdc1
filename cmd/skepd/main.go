// Command skepd is the control plane: API server, scheduler and controllers, on
// an etcd of its own or on a cluster of yours. It holds flags and nothing else.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/skep-io/skep/cmd/daemon"
	"github.com/skep-io/skep/cmd/oomscore"
	"github.com/skep-io/skep/cmd/privilege"
	"github.com/skep-io/skep/controlplane"
	"github.com/skep-io/skep/controlplane/controller/node"
	"github.com/skep-io/skep/controlplane/controller/podgc"
)

// version is stamped by the Makefile from git.
var version = "dev"

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()
	if err := newCommand().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "skepd:", err)
		os.Exit(1)
	}
}

func newCommand() *cobra.Command {
	options := controlplane.Options{Version: version}
	var etcdServers, logLevel string
	command := &cobra.Command{
		Use:   "skepd",
		Short: "Run Skep's control plane",
		Long: `skepd serves the API, schedules pods and runs the controllers. Everything that it
knows is in etcd: its own, in the data directory, or one that --etcd-servers names.
In the data directory lie also the administrator's kubeconfig (admin.kubeconfig)
and the token by which the first agents join (join-token).`,
		Example: `  skepd --data-dir /var/lib/skepd --listen 192.168.1.10:6443
  skepd --join https://192.168.1.10:6443 --token skep2.…
  skepd --etcd-servers https://10.0.0.1:2379,https://10.0.0.2:2379 --etcd-cafile ca.crt --etcd-certfile skepd.crt --etcd-keyfile skepd.key`,
		Args: cobra.NoArgs, Version: version, SilenceUsage: true, SilenceErrors: true,
		RunE: func(command *cobra.Command, _ []string) error {
			if err := daemon.SetUpLog(logLevel); err != nil {
				return err
			}
			oomscore.Lower()
			if err := privilege.ControlPlane.Keep(); err != nil {
				return err
			}
			if etcdServers != "" {
				options.Etcd.Endpoints = strings.Split(etcdServers, ",")
			}
			// A server that joins takes what is not given from the others.
			for name, value := range map[string]*string{"service-cidr": &options.ServiceCIDR, "pod-cidr": &options.PodCIDR, "cluster-domain": &options.ClusterDomain} {
				if !command.Flags().Changed(name) {
					*value = ""
				}
			}
			for name, value := range map[string]*int{"node-cidr-mask-size-ipv4": &options.NodeMask4, "node-cidr-mask-size-ipv6": &options.NodeMask6} {
				if !command.Flags().Changed(name) {
					*value = 0
				}
			}
			options.Serving = announce
			defer daemon.Notify("STOPPING=1")
			return controlplane.Run(command.Context(), options)
		},
	}
	command.AddCommand(newRestoreCommand())
	f := command.Flags()
	f.SetNormalizeFunc(func(_ *pflag.FlagSet, name string) pflag.NormalizedName {
		if name == "cluster-cidr" { // as skep-agent and kube-controller-manager call it
			name = "pod-cidr"
		}
		return pflag.NormalizedName(name)
	})
	f.StringVar(&options.DataDir, "data-dir", controlplane.DefaultDataDir, "Folder for etcd's data, certificates, the kubeconfig and the join token")
	f.StringVar(&options.Listen, "listen", controlplane.DefaultListen, "ADDR:PORT of the API")
	f.StringVar(&options.AdvertiseAddress, "advertise-address", "", "Address that others reach the API at; --listen's if empty, or this host's first one if that is all of them")
	f.StringVar(&etcdServers, "etcd-servers", "", "URLs of an etcd cluster to use instead of an own etcd, separated by commas")
	f.StringVar(&options.Etcd.CAFile, "etcd-cafile", "", "CA of --etcd-servers, in PEM")
	f.StringVar(&options.Etcd.CertFile, "etcd-certfile", "", "Client certificate for --etcd-servers, in PEM")
	f.StringVar(&options.Etcd.KeyFile, "etcd-keyfile", "", "Key of the client certificate for --etcd-servers, in PEM")
	f.StringVar(&options.Join, "join", "", "URL of a server of the cluster to join as a further server, https://ADDR:6443; ignored once joined")
	f.StringVar(&options.Token, "token", "", "Token for --join, from skep token create --server")
	f.StringVar(&options.Name, "name", "", "Name of this server among several; this host's name if empty")
	f.StringVar(&options.PeerListen, "etcd-peer-listen", "", "ADDR:PORT at which the etcd of other servers reaches this one's, open once there are any; port 2380 at --listen's address if empty")
	f.StringVar(&options.LoadBalancerCIDR, "lb-cidr", "", "Addresses for services of type LoadBalancer: CIDRs and ranges (192.0.2.10-192.0.2.99) of the hosts' link, separated by commas")
	f.StringVar(&options.ServiceCIDR, "service-cidr", controlplane.DefaultServiceCIDR, "Range of service addresses; two, of different families, separated by a comma")
	f.StringVar(&options.PodCIDR, "pod-cidr", controlplane.DefaultPodCIDR, "Range of pod addresses, of which every node gets a part; two, of different families, separated by a comma (also --cluster-cidr)")
	f.IntVar(&options.NodeMask, "node-cidr-mask-size", 0, "Prefix length of a node's part of a --pod-cidr of one family")
	f.IntVar(&options.NodeMask4, "node-cidr-mask-size-ipv4", controlplane.DefaultNodeMask4, "Prefix length of a node's IPv4 part of --pod-cidr")
	f.IntVar(&options.NodeMask6, "node-cidr-mask-size-ipv6", controlplane.DefaultNodeMask6, "Prefix length of a node's IPv6 part of --pod-cidr")
	f.StringVar(&options.ClusterDomain, "cluster-domain", controlplane.DefaultClusterDomain, "Suffix of service names")
	f.BoolVar(&options.DenyExternalIPs, "deny-service-external-ips", false, "Refuse services with external addresses (spec.externalIPs) that they do not have already, as the admission plugin DenyServiceExternalIPs does")
	f.StringSliceVar(&options.TLSSANs, "tls-san", nil, "Further names and addresses that clients reach the API by")
	f.StringVar(&options.DNSEtcdListen, "dns-etcd-listen", "", "ADDR:PORT at which cluster DNS reads etcd; port 2379 at --listen's address if empty")
	f.DurationVar(&options.NodeMonitorGrace, "node-monitor-grace", node.DefaultGrace, "How long a node may be silent before its pods are replaced")
	f.IntVar(&options.TerminatedPodGCThreshold, "terminated-pod-gc-threshold", podgc.DefaultThreshold, "How many terminated pods stay before the oldest are deleted; 0 or less: all")
	f.StringVar(&options.EncryptionConfig, "encryption-provider-config", "", "Kubernetes EncryptionConfiguration file that says how objects are encrypted in etcd; none are if empty")
	f.BoolVar(&options.EncryptionReload, "encryption-provider-config-automatic-reload", false, "Read --encryption-provider-config again when it changes")
	f.StringVar(&options.SchedulerConfig, "scheduler-config", "", "KubeSchedulerConfiguration file: profiles, scoring strategies, weights; Kubernetes' defaults if empty. Give every server the same")
	f.StringVar(&logLevel, "log-level", "info", "debug, info, warn or error")
	return command
}

func announce(s controlplane.Serving) {
	fmt.Printf("skepd serves %s (kubeconfig: %s, join token: %s)\n", s.URL, s.Kubeconfig, s.JoinToken)
	daemon.Notify("READY=1")
}
