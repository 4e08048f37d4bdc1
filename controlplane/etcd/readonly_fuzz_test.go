package etcd

import (
	"bytes"
	"context"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// askedKV records the requests that reach etcd through the endpoint.
type askedKV struct {
	pb.KVClient
	asked *pb.RangeRequest
}

func (k *askedKV) Range(_ context.Context, req *pb.RangeRequest, _ ...grpc.CallOption) (*pb.RangeResponse, error) {
	k.asked = req
	return &pb.RangeResponse{}, nil
}

// FuzzReadOnlyDoor sends any request that decodes. Requests that reach etcd are only for keys below one of the prefixes.
func FuzzReadOnlyDoor(f *testing.F) {
	prefixes := map[string]View{"/registry/services/": nil, "/registry/namespaces/": nil}
	for _, req := range []*pb.RangeRequest{
		{Key: []byte("/registry/services/"), RangeEnd: []byte("/registry/services0")},
		{Key: []byte("/registry/services/"), RangeEnd: []byte("/registry/t")},
		{Key: []byte("/registry/secrets/"), RangeEnd: []byte("/registry/secrets0")},
		{Key: []byte("/registry/services/specs/a/b")}, {Key: []byte{0}, RangeEnd: []byte{0}},
		{Key: []byte("/registry/services/x"), RangeEnd: []byte{0}}, {Key: []byte("/registry/namespaces/z"), RangeEnd: []byte("/registry/namespaces/a")}, {},
	} {
		data, err := proto.Marshal(req)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		req := &pb.RangeRequest{}
		if proto.Unmarshal(data, req) != nil {
			return
		}
		kv := &askedKV{}
		door := &readOnly{reader: Reader{KV: kv}, prefixes: prefixes}
		if _, err := door.Range(context.Background(), req); err != nil || kv.asked == nil {
			return
		}
		key, end := kv.asked.Key, kv.asked.RangeEnd
		for prefix := range prefixes {
			// The first key, and the last one that can be below end: all between begin with prefix if both do.
			if !strings.HasPrefix(string(key), prefix) {
				continue
			}
			after := append([]byte(prefix[:len(prefix)-1]), '0') // the first key after all that begin with prefix
			if len(end) == 0 || !bytes.Equal(end, []byte{0}) && bytes.Compare(end, after) <= 0 {
				return
			}
		}
		t.Errorf("keys from %q to %q get through", key, end)
	})
}
