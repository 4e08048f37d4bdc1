package etcd

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"go.etcd.io/etcd/server/v3/proxy/grpcproxy/adapter"
	"golang.org/x/net/netutil"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"
)

// Reader is the part of etcd's protocol that reads.
type Reader struct {
	KV    pb.KVClient
	Watch pb.WatchClient
	// HasLeader says whether the member that is read from has a leader; nil: it is not known, and the member itself ends watches without one.
	HasLeader func() bool
}

// Reader reads from the server without a connection.
func (s *Server) Reader() Reader {
	return Reader{
		KV:    adapter.KvServerToKvClient(v3rpc.NewKVServer(s.etcd.Server)),
		Watch: adapter.WatchServerToWatchClient(v3rpc.NewWatchServer(s.etcd.Server)),

		HasLeader: s.HasLeader,
	}
}

// ReaderOf reads through a client that is connected to an etcd cluster.
func ReaderOf(client *clientv3.Client) Reader {
	conn := client.ActiveConnection()
	return Reader{KV: pb.NewKVClient(conn), Watch: pb.NewWatchClient(conn)}
}

// ReadOnlyConfig says who may read what.
type ReadOnlyConfig struct {
	// TLS holds the server's certificate and, as ClientCAs, the authorities of accepted clients.
	TLS *tls.Config
	// ClientName is the common name that a client's certificate must have.
	ClientName string
	// Prefixes are those of the keys that may be read, each with the view of the values below it: nil shows values as they are. Each prefix
	// ends in a slash.
	Prefixes map[string]View
}

// View returns the part of a value that may be seen. It must not change the value.
type View func(value []byte) []byte

// ServeReadOnly answers etcd's Range and Watch requests on l for keys below the
// prefixes, and refuses everything else, until ctx ends. It closes l. A member that has had no leader for a while ends watches and answers
// nothing, so that its clients turn to another one.
func ServeReadOnly(ctx context.Context, l net.Listener, r Reader, cfg ReadOnlyConfig) error {
	tlsConfig := cfg.TLS.Clone()
	tlsConfig.ClientAuth = tls.RequireAndVerifyClientCert
	service := &readOnly{reader: r, clientName: cfg.ClientName, prefixes: cfg.Prefixes, leaderless: newLeaderless(r.HasLeader)}
	go service.leaderless.run(ctx)
	server := grpc.NewServer(
		grpc.Creds(credentials.NewTLS(tlsConfig)),
		grpc.MaxSendMsgSize(maxResponseBytes),
		grpc.MaxRecvMsgSize(maxQuestionBytes),
		grpc.MaxHeaderListSize(16<<10),
		grpc.MaxConcurrentStreams(100),
		grpc.ConnectionTimeout(10*time.Second),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: 2 * time.Second, PermitWithoutStream: true}),
		grpc.KeepaliveParams(keepalive.ServerParameters{Time: 30 * time.Second, Timeout: 15 * time.Second}),
		grpc.UnaryInterceptor(service.unary),
		grpc.StreamInterceptor(service.stream),
		grpc.UnknownServiceHandler(func(any, grpc.ServerStream) error { return errForbidden }),
	)
	pb.RegisterKVServer(server, service)
	pb.RegisterWatchServer(server, service)
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	err := server.Serve(netutil.LimitListener(l, maxConnections))
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return fmt.Errorf("serve etcd read-only on %s: %w", l.Addr(), err)
}

const (
	// maxResponseBytes bounds the response to one Range.
	maxResponseBytes = 256 << 20
	// maxQuestionBytes bounds a client's request: a request is a key or two.
	maxQuestionBytes = 64 << 10
	// maxConnections bounds the open connections, including those without a certificate yet, which have ten seconds to send one.
	maxConnections = 500
)

var (
	errForbidden = status.Error(codes.PermissionDenied, "only reading the keys that cluster DNS needs is allowed here")
	errStranger  = status.Error(codes.PermissionDenied, "this certificate may not read here")
)

// readOnly implements the read-only endpoint; methods of etcd's services that it does not implement are refused.
type readOnly struct {
	pb.UnimplementedKVServer
	pb.UnimplementedWatchServer
	reader     Reader
	clientName string
	prefixes   map[string]View
	leaderless *leaderless
}

// unary passes on only a Range of the named client.
func (d *readOnly) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handle grpc.UnaryHandler) (any, error) {
	if err := d.known(ctx); err != nil {
		return nil, err
	}
	if info.FullMethod != pb.KV_Range_FullMethodName {
		return nil, errForbidden
	}
	select {
	case <-d.leaderless.Lost():
		return nil, rpctypes.ErrGRPCNoLeader
	default:
	}
	return handle(ctx, req)
}

// stream passes on only a Watch of the named client.
func (d *readOnly) stream(srv any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handle grpc.StreamHandler) error {
	if err := d.known(stream.Context()); err != nil {
		return err
	}
	if info.FullMethod != pb.Watch_Watch_FullMethodName {
		return errForbidden
	}
	return handle(srv, stream)
}

func (d *readOnly) known(ctx context.Context) error {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return errStranger
	}
	info, ok := p.AuthInfo.(credentials.TLSInfo)
	if !ok || len(info.State.VerifiedChains) == 0 || info.State.VerifiedChains[0][0].Subject.CommonName != d.clientName {
		return errStranger
	}
	return nil
}

// allowed says whether all keys from key up to end, or only key if end is empty, are below one prefix, and returns its view.
func (d *readOnly) allowed(key, end []byte) (View, bool) {
	for prefix, view := range d.prefixes {
		if !strings.HasPrefix(string(key), prefix) {
			continue
		}
		// An end of "\x00" means all keys from key on, and it is less than any prefix's end.
		if len(end) == 0 || string(end) > string(key) && string(end) <= clientv3.GetPrefixRangeEnd(prefix) {
			return view, true
		}
	}
	return nil, false
}

// show applies a view to a pair. The pair may be shared with others, so it is not changed.
func (d *readOnly) show(kv *mvccpb.KeyValue) *mvccpb.KeyValue {
	if kv == nil || len(kv.Value) == 0 {
		return kv
	}
	view, ok := d.allowed(kv.Key, nil)
	if ok && view == nil {
		return kv
	}
	seen := &mvccpb.KeyValue{
		Key: kv.Key, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version, Lease: kv.Lease,
	}
	if ok {
		seen.Value = view(kv.Value)
	}
	return seen
}

// Range implements etcd's KV service.
func (d *readOnly) Range(ctx context.Context, req *pb.RangeRequest) (*pb.RangeResponse, error) {
	view, ok := d.allowed(req.Key, req.RangeEnd)
	if !ok {
		return nil, errForbidden
	}
	if view != nil && req.SortTarget == pb.RangeRequest_VALUE && req.SortOrder != pb.RangeRequest_NONE {
		return nil, errForbidden // the order would reveal values that are not shown
	}
	resp, err := d.reader.KV.Range(ctx, req)
	if err != nil || view == nil {
		return resp, err
	}
	for i, kv := range resp.Kvs {
		resp.Kvs[i] = d.show(kv)
	}
	return resp, nil
}

// Watch implements etcd's Watch service: it forwards both ways until either end is done.
func (d *readOnly) Watch(client pb.Watch_WatchServer) error {
	group, ctx := errgroup.WithContext(client.Context())
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// A member that is connected to ends the watch itself when it has no leader.
	store, err := d.reader.Watch.Watch(clientv3.WithRequireLeader(ctx))
	if err != nil {
		return err
	}
	received := make(chan error, 1)
	// Recv on the client's side ends only with its stream, which is when this function returns: nothing waits for it.
	go func() { received <- d.forwardRequests(client, store) }()
	group.Go(func() error {
		for {
			resp, err := store.Recv()
			if err != nil {
				return err
			}
			if err := client.Send(d.showAll(resp)); err != nil {
				return err
			}
		}
	})
	group.Go(func() error {
		select {
		case err := <-received:
			// The return ends the other half. If that half ended first, the client could receive
			// its Canceled.
			return err
		case <-d.leaderless.Lost():
			return rpctypes.ErrGRPCNoLeader
		case <-ctx.Done():
			return ctx.Err()
		}
	})
	if err := group.Wait(); !errors.Is(err, io.EOF) {
		return err
	}
	return nil
}

// showAll applies the views to the events of a watch. Etcd's own watches share events, so these are copied.
func (d *readOnly) showAll(resp *pb.WatchResponse) *pb.WatchResponse {
	changed := false
	events := make([]*mvccpb.Event, len(resp.Events))
	for i, event := range resp.Events {
		kv, previous := d.show(event.Kv), d.show(event.PrevKv)
		if events[i] = event; kv != event.Kv || previous != event.PrevKv {
			events[i], changed = &mvccpb.Event{Type: event.Type, Kv: kv, PrevKv: previous}, true
		}
	}
	if !changed {
		return resp
	}
	return &pb.WatchResponse{
		Header: resp.Header, WatchId: resp.WatchId, Created: resp.Created, Canceled: resp.Canceled,
		CompactRevision: resp.CompactRevision, CancelReason: resp.CancelReason, Fragment: resp.Fragment, Events: events,
	}
}

func (d *readOnly) forwardRequests(client pb.Watch_WatchServer, store pb.Watch_WatchClient) error {
	for {
		req, err := client.Recv()
		if err != nil {
			return err
		}
		if create := req.GetCreateRequest(); create != nil {
			if _, ok := d.allowed(create.Key, create.RangeEnd); !ok {
				return errForbidden
			}
		}
		if err := store.Send(req); err != nil {
			return err
		}
	}
}
