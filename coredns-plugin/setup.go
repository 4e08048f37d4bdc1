package skep

import (
	"context"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/coredns/caddy"
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/plugin"
	clog "github.com/coredns/coredns/plugin/pkg/log"
	"github.com/coredns/coredns/plugin/pkg/upstream"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/skep-io/skep/controlplane/storage"
	"github.com/skep-io/skep/coredns-plugin/index"
	"github.com/skep-io/skep/coredns-plugin/source"
)

var log = clog.NewWithPlugin(pluginName)

func init() { plugin.Register(pluginName, setup) }

func setup(c *caddy.Controller) error {
	s, err := parse(c)
	if err != nil {
		return plugin.Error(pluginName, err)
	}
	c.OnStartup(s.start)
	c.OnShutdown(s.shutdown)
	dnsserver.GetConfig(c).AddPlugin(func(next plugin.Handler) plugin.Handler {
		s.Next = next
		return s
	})
	return nil
}

func parse(c *caddy.Controller) (*Skep, error) {
	s := &Skep{Index: index.New(), upstream: upstream.New(), ttl: defaultTTL, prefix: "/registry"}
	for i := 0; c.Next(); i++ {
		if i > 0 {
			return nil, plugin.ErrOnce
		}
		s.Zones = plugin.OriginsFromArgsOrServerBlock(c.RemainingArgs(), c.ServerBlockKeys)
		for c.NextBlock() {
			if err := s.option(c); err != nil {
				return nil, err
			}
		}
	}
	if len(s.endpoints) == 0 && s.endpointsFile == "" {
		s.endpoints = []string{"http://localhost:2379"}
	}
	return s, nil
}

func (s *Skep) option(c *caddy.Controller) error {
	name, args := c.Val(), c.RemainingArgs()
	switch name {
	case "endpoints":
		if len(args) == 1 && strings.HasPrefix(args[0], "/") {
			s.endpointsFile = args[0]
			return nil
		}
		for _, arg := range args {
			s.endpoints = append(s.endpoints, strings.FieldsFunc(arg, func(r rune) bool { return r == ',' })...)
		}
		if len(s.endpoints) == 0 {
			return c.ArgErr()
		}
	case "tls":
		if len(args) != 3 {
			return c.Err("tls needs three files: CERTIFICATE KEY CA")
		}
		s.tls = args
	case "prefix":
		if len(args) != 1 || !strings.HasPrefix(args[0], "/") {
			return c.Err("prefix needs one path, such as /registry")
		}
		s.prefix = args[0]
	case "ttl":
		if len(args) != 1 {
			return c.ArgErr()
		}
		n, err := strconv.Atoi(args[0])
		if err != nil || n < 0 || n > 3600 {
			return c.Errf("ttl must be from 0 to 3600 seconds, not %q", args[0])
		}
		s.ttl = uint32(n)
	case "pods":
		return s.podOption(c, args)
	case "fallthrough":
		s.Fall.SetZonesFromArgs(args)
	default:
		return c.Errf("unknown option %q: known are endpoints, tls, prefix, ttl, pods and fallthrough", name)
	}
	return nil
}

func (s *Skep) podOption(c *caddy.Controller, args []string) error {
	modes := map[string]podMode{"disabled": podsDisabled, "insecure": podsInsecure, "verified": podsVerified}
	if len(args) != 1 {
		return c.ArgErr()
	}
	mode, ok := modes[args[0]]
	if !ok {
		return c.Errf("pods must be disabled, insecure or verified, not %q", args[0])
	}
	s.pods = mode
	return nil
}

// start connects and begins to read. It does not wait for etcd: the server starts, is not
// ready, and answers SERVFAIL until the first read is complete.
func (s *Skep) start() error {
	if s.endpointsFile != "" {
		var err error
		if s.endpoints, err = readEndpoints(s.endpointsFile); err != nil {
			return fmt.Errorf("plugin/%s: endpoints: %w", pluginName, err)
		}
	}
	cfg := clientv3.Config{
		Endpoints:            s.endpoints,
		DialTimeout:          5 * time.Second,
		DialKeepAliveTime:    5 * time.Second,
		DialKeepAliveTimeout: 3 * time.Second,
		PermitWithoutStream:  true,
		Logger:               zap.NewNop(),
	}
	if len(s.tls) > 0 {
		creds, err := storage.Credentials(storage.TLSFiles{CertFile: s.tls[0], KeyFile: s.tls[1], CAFile: s.tls[2]})
		if err != nil {
			return fmt.Errorf("plugin/%s: tls: %w", pluginName, err)
		}
		cfg.DialOptions = append(cfg.DialOptions, grpc.WithTransportCredentials(creds))
	}
	client, err := clientv3.New(cfg)
	if err != nil {
		return fmt.Errorf("plugin/%s: etcd %s: %w", pluginName, strings.Join(s.endpoints, ","), err)
	}
	s.client = client
	s.source = source.New(client, s.prefix, s.feeds(), observer())
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	if s.endpointsFile != "" {
		go followEndpoints(ctx, s.endpointsFile, s.endpoints, client.SetEndpoints)
	}
	go func() { s.source.Run(ctx); close(done) }()
	s.stop = func() { cancel(); <-done }
	return nil
}

func (s *Skep) shutdown() error {
	if s.stop == nil {
		return nil
	}
	s.stop()
	return s.client.Close()
}

func observer() source.Observer {
	return source.Observer{
		Event: func(resource string) { eventsTotal.WithLabelValues(resource).Inc() },
		Undecodable: func(resource, key string, err error) {
			undecodableTotal.WithLabelValues(resource).Inc()
			log.Errorf("%s cannot be decoded and is ignored: %v", key, err)
		},
		Retry: func(resource string, err error) {
			retriesTotal.WithLabelValues(resource).Inc()
			log.Warningf("trying again: %v", err)
		},
	}
}

// feeds connects kinds of objects to the index. Pods are read only where names depend on
// them, since they are many and change often.
func (s *Skep) feeds() []source.Feed {
	x := s.Index
	feeds := []source.Feed{
		{
			Resource: schema.GroupResource{Resource: "namespaces"},
			Path:     "namespaces",
			Put:      typed(func(n *corev1.Namespace) { x.PutNamespace(n.Name) }),
			Delete:   func(_, name string) { x.DeleteNamespace(name) },
		},
		{
			Resource: schema.GroupResource{Resource: "services"},
			Path:     "services/specs",
			Put:      typed(x.PutService),
			Delete:   x.DeleteService,
		},
		{
			Resource: schema.GroupResource{Group: discoveryv1.GroupName, Resource: "endpointslices"},
			Path:     "endpointslices",
			Put:      typed(x.PutSlice),
			Delete:   x.DeleteSlice,
		},
	}
	if s.pods == podsVerified {
		feeds = append(feeds, source.Feed{
			Resource: schema.GroupResource{Resource: "pods"},
			Path:     "pods",
			Put:      typed(x.PutPod),
			Delete:   x.DeletePod,
		})
	}
	return feeds
}

// typed ignores objects of another type than the feed's, such as a key of /registry/pods/
// that holds no pod.
func typed[T runtime.Object](put func(T)) func(runtime.Object) {
	return func(obj runtime.Object) {
		if t, ok := obj.(T); ok {
			put(t)
		}
	}
}
