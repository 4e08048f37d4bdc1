package apiserver

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	skepv1 "github.com/skep-io/skep/api/v1"
)

// EtcdMaintenance maintains the store as a whole.
type EtcdMaintenance interface {
	// Report returns the state of each member.
	Report(ctx context.Context) (*skepv1.EtcdReport, error)
	// Defragment drops the history of all keys and has each member rewrite its file, one at a time.
	Defragment(ctx context.Context) error
	// Snapshot is the whole database as it is, for a restore.
	Snapshot(ctx context.Context) (io.ReadCloser, error)
}

// maintainEtcd answers the administrator; anyone else is refused before this, as for every path that is not public.
func (s *Server) maintainEtcd(w http.ResponseWriter, c *call, what string) error {
	if s.etcd == nil {
		return notFound()
	}
	switch what {
	case "status":
		return s.only(w, c, map[string]handler{http.MethodGet: s.etcdStatus})
	case "defragment":
		return s.only(w, c, map[string]handler{http.MethodPost: s.etcdDefragment})
	case "snapshot":
		return s.only(w, c, map[string]handler{http.MethodGet: s.etcdSnapshot})
	}
	return notFound()
}

func (s *Server) etcdStatus(w http.ResponseWriter, c *call) error {
	report, err := s.etcd.Report(c.Context())
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	data, err := json.Marshal(report)
	if err != nil {
		return err
	}
	writeBytes(w, c.Request, mediaJSON, http.StatusOK, data)
	return nil
}

func (s *Server) etcdDefragment(w http.ResponseWriter, c *call) error {
	if err := s.etcd.Defragment(c.Context()); err != nil {
		return apierrors.NewInternalError(err)
	}
	return s.etcdStatus(w, c)
}

// etcdSnapshot streams the database. Part of one is no snapshot: skep and a restore check the sum at its end.
func (s *Server) etcdSnapshot(w http.ResponseWriter, c *call) error {
	snapshot, err := s.etcd.Snapshot(c.Context())
	if err != nil {
		return apierrors.NewInternalError(err)
	}
	defer snapshot.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	n, err := io.Copy(w, snapshot)
	if err != nil {
		slog.Warn("Snapshot of etcd ended early", "client", c.RemoteAddr, "bytes", n, "err", err)
		return nil
	}
	slog.Info("Snapshot of etcd taken", "client", c.RemoteAddr, "user", c.user.GetName(), "bytes", n)
	return nil
}
