package etcd

import (
	"context"
	"errors"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/etcdserver"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3client"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3rpc"
	"go.etcd.io/etcd/server/v3/proxy/grpcproxy/adapter"
)

// settleWithin is how long a transaction may take that waited while there was no leader, from when the next one works.
const settleWithin = 500 * time.Millisecond

// newClient is a client of the server by calls, which does not wait for transactions that were lost with a leader.
func newClient(server *etcdserver.EtcdServer) *clientv3.Client {
	client := v3client.New(server)
	client.KV = clientv3.NewKVFromKVClient(adapter.KvServerToKvClient(&unsettled{v3rpc.NewQuotaKVServer(server), server}), client)
	return client
}

// unsettled ends transactions that were on their way to a leader that was lost. They are lost with it, but etcd itself waits six seconds
// for them. By the time the next leader has committed its first entry, all that is left of the former one's has been applied.
type unsettled struct {
	pb.KVServer
	server *etcdserver.EtcdServer
}

var errLeaderLost = errors.New("the leader was lost on the way")

// Txn implements etcd's KV service. ErrTimeoutDueToLeaderFail says that the transaction may have been carried out, or still be.
func (u *unsettled) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	limited, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	changed, committed := u.server.LeaderChangedNotify(), u.server.FirstCommitInTermNotify()
	go func() {
		for _, event := range []<-chan struct{}{changed, committed} {
			select {
			case <-limited.Done():
				return
			case <-event:
			}
		}
		select {
		case <-limited.Done():
		case <-time.After(settleWithin):
			cancel(errLeaderLost)
		}
	}()
	resp, err := u.KVServer.Txn(limited, r)
	if err != nil && context.Cause(limited) == errLeaderLost {
		return nil, rpctypes.ErrGRPCTimeoutDueToLeaderFail
	}
	return resp, err
}
