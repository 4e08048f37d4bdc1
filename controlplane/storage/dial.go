package storage

import (
	"context"
	"fmt"
	"strings"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
	"google.golang.org/grpc"
)

// DialConfig names an etcd cluster, and the PEM files to reach it over TLS: the CA that
// signed its certificate, and our own certificate and key.
type DialConfig struct {
	Endpoints                 []string
	CAFile, CertFile, KeyFile string
}

const (
	dialTimeout   = 5 * time.Second
	keepAliveTime = 30 * time.Second
	keepAliveWait = 10 * time.Second
)

// Dial connects to an etcd cluster and returns once a member has answered.
func Dial(ctx context.Context, cfg DialConfig) (*clientv3.Client, error) {
	var options []grpc.DialOption
	if cfg.CAFile != "" || cfg.CertFile != "" || cfg.KeyFile != "" {
		creds, err := Credentials(TLSFiles{CAFile: cfg.CAFile, CertFile: cfg.CertFile, KeyFile: cfg.KeyFile})
		if err != nil {
			return nil, err
		}
		options = append(options, grpc.WithTransportCredentials(creds))
	}
	client, err := clientv3.New(clientv3.Config{
		Endpoints:            cfg.Endpoints,
		DialOptions:          options,
		DialTimeout:          dialTimeout,
		DialKeepAliveTime:    keepAliveTime,
		DialKeepAliveTimeout: keepAliveWait,
		Logger:               zap.NewNop(),
	})
	if err != nil {
		return nil, fmt.Errorf("connect to etcd at %s: %w", strings.Join(cfg.Endpoints, ","), err)
	}
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	if _, err := client.Get(ctx, revisionKey, clientv3.WithCountOnly()); err != nil {
		client.Close()
		return nil, fmt.Errorf("etcd at %s does not answer: %w", strings.Join(cfg.Endpoints, ","), err)
	}
	return client, nil
}
