package encryption

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/grpc"

	"github.com/skep-io/skep/controlplane/etcd"
)

// Reader decrypts values that are read in etcd's own protocol, for cluster DNS, which has
// no keys. A value that cannot be decrypted is passed on as it is.
func (p *Provider) Reader(r etcd.Reader) etcd.Reader {
	return etcd.Reader{KV: plainKV{r.KV, p}, Watch: plainWatch{r.Watch, p}, HasLeader: r.HasLeader}
}

func (p *Provider) open(ctx context.Context, kv *mvccpb.KeyValue) *mvccpb.KeyValue {
	if kv == nil || len(kv.Value) == 0 {
		return kv
	}
	plain, _, err := p.decrypt(ctx, string(kv.Key), kv.Value, kv.ModRevision)
	if err != nil {
		return kv
	}
	// The server's answer may be shared with others.
	return &mvccpb.KeyValue{
		Key: kv.Key, Value: plain, CreateRevision: kv.CreateRevision, ModRevision: kv.ModRevision, Version: kv.Version, Lease: kv.Lease,
	}
}

type plainKV struct {
	pb.KVClient
	provider *Provider
}

// Range implements pb.KVClient.
func (c plainKV) Range(ctx context.Context, req *pb.RangeRequest, opts ...grpc.CallOption) (*pb.RangeResponse, error) {
	resp, err := c.KVClient.Range(ctx, req, opts...)
	if err != nil {
		return nil, err
	}
	out := &pb.RangeResponse{Header: resp.Header, More: resp.More, Count: resp.Count, Kvs: make([]*mvccpb.KeyValue, len(resp.Kvs))}
	for i, kv := range resp.Kvs {
		out.Kvs[i] = c.provider.open(ctx, kv)
	}
	return out, nil
}

type plainWatch struct {
	pb.WatchClient
	provider *Provider
}

// Watch implements pb.WatchClient.
func (c plainWatch) Watch(ctx context.Context, opts ...grpc.CallOption) (pb.Watch_WatchClient, error) {
	stream, err := c.WatchClient.Watch(ctx, opts...)
	if err != nil {
		return nil, err
	}
	return plainStream{stream, c.provider}, nil
}

type plainStream struct {
	pb.Watch_WatchClient
	provider *Provider
}

// Recv implements pb.Watch_WatchClient.
func (s plainStream) Recv() (*pb.WatchResponse, error) {
	resp, err := s.Watch_WatchClient.Recv()
	if err != nil || len(resp.Events) == 0 {
		return resp, err
	}
	out := &pb.WatchResponse{
		Header: resp.Header, WatchId: resp.WatchId, Created: resp.Created, Canceled: resp.Canceled,
		CompactRevision: resp.CompactRevision, CancelReason: resp.CancelReason, Fragment: resp.Fragment,
		Events: make([]*mvccpb.Event, len(resp.Events)),
	}
	for i, ev := range resp.Events {
		out.Events[i] = &mvccpb.Event{Type: ev.Type, Kv: s.provider.open(s.Context(), ev.Kv), PrevKv: s.provider.open(s.Context(), ev.PrevKv)}
	}
	return out, nil
}
