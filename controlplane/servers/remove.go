package servers

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	skepv1 "github.com/skep-io/skep/api/v1"
	"github.com/skep-io/skep/controlplane/etcd"
)

// List is every server with its state. It asks each, so that it shows what is now.
func (s *Servers) List(ctx context.Context) *skepv1.ServerList {
	known := s.Directory.Known()
	list := &skepv1.ServerList{}
	seen := map[string]bool{}
	add := func(server skepv1.Server) {
		for _, r := range known {
			if r.Name == server.Name || r.PeerURL != "" && r.PeerURL == server.PeerURL {
				server.Name, server.URL = r.Name, r.URL
			}
		}
		server.Self = server.Name == s.Directory.self.Name
		seen[server.Name] = true
		list.Servers = append(list.Servers, server)
	}
	if s.Etcd != nil {
		for _, m := range s.Etcd.Members() {
			add(skepv1.Server{Name: cmp.Or(m.Name, m.ID), PeerURL: m.URL, Role: role(m)})
		}
	}
	for _, r := range known {
		if !seen[r.Name] && s.Etcd == nil {
			add(skepv1.Server{Name: r.Name, Role: "external"})
		}
	}
	slices.SortFunc(list.Servers, func(a, b skepv1.Server) int { return strings.Compare(a.Name, b.Name) })
	var group sync.WaitGroup
	for i := range list.Servers {
		group.Go(func() { s.probe(ctx, &list.Servers[i]) })
	}
	group.Wait()
	return list
}

func role(m etcd.Member) string {
	switch {
	case m.Learner || m.Name == "":
		return "joining"
	case m.Leader:
		return "leader"
	}
	return "follower"
}

// probe asks a server whether it is ready.
func (s *Servers) probe(ctx context.Context, server *skepv1.Server) {
	if server.URL == "" {
		server.Message = "it has not served the API yet"
		return
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, server.URL+"/readyz", nil)
	if err != nil {
		server.Message = err.Error()
		return
	}
	response, err := s.api.Do(request)
	if err != nil {
		server.Message = err.Error()
		return
	}
	defer response.Body.Close()
	if server.Ready = response.StatusCode == http.StatusOK; !server.Ready {
		body, _ := io.ReadAll(io.LimitReader(response.Body, 1<<10)) // what there is of the reason
		server.Message = strings.TrimSpace(string(body))
	}
}

// Remove removes a server from the cluster, dead or alive, and withdraws one that is joining. It refuses what would leave the others
// without a quorum.
func (s *Servers) Remove(ctx context.Context, name, client string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	record := Record{Name: name}
	for _, r := range s.Directory.Known() {
		if r.Name == name {
			record = r
		}
	}
	if s.Etcd == nil {
		return s.removeExternal(ctx, record)
	}
	if err := s.Etcd.Fresh(ctx); err != nil {
		return apierrors.NewServiceUnavailable("etcd has no leader at the moment, and members are changed by more than half of them: start the servers that are missing, or restore a snapshot (docs/install.md): " + err.Error())
	}
	members := s.Etcd.Members()
	i := slices.IndexFunc(members, func(m etcd.Member) bool {
		return m.Name == name || m.ID == name || record.PeerURL != "" && m.URL == record.PeerURL
	})
	if i < 0 {
		if record.Address.IsValid() { // an earlier removal was interrupted
			return s.Directory.forget(ctx, record)
		}
		return apierrors.NewNotFound(group, name)
	}
	gone := members[i]
	if !gone.Learner {
		if err := s.mayGo(ctx, gone, members); err != nil {
			return err
		}
	}
	forget := func() {
		if record.Address.IsValid() {
			if err := s.Directory.forget(ctx, record); err != nil {
				slog.Warn("The record of a removed server stays; remove it again", "server", name, "err", err)
			}
		}
	}
	if gone.Self {
		forget() // afterwards, this server can write nothing
	}
	if err := s.Etcd.Remove(ctx, gone.ID); err != nil {
		return apierrors.NewServiceUnavailable(err.Error())
	}
	if !gone.Self {
		forget()
	}
	slog.Info("Server removed", "server", name, "member", gone.ID, "client", client)
	return nil
}

// mayGo refuses the removal of a member without which the others that answer would be too few.
func (s *Servers) mayGo(ctx context.Context, gone etcd.Member, members []etcd.Member) error {
	var silent []string
	voters, answering := 0, 0
	for _, m := range members {
		if m.Learner || m.ID == gone.ID {
			continue
		}
		voters++
		if m.Self || s.Etcd.Answers(ctx, s.peers, m.URL) {
			answering++
		} else {
			silent = append(silent, cmp.Or(m.Name, m.ID))
		}
	}
	name := cmp.Or(gone.Name, gone.ID)
	if voters == 0 {
		return conflict(name, "it is the only server: a cluster without one is none")
	}
	if needed := voters/2 + 1; answering < needed {
		return conflict(name, "%d servers would be left, of which %d must work, and %d of them do: first start %s, or remove what does not answer instead of %s",
			voters, needed, answering, strings.Join(silent, " and "), name)
	}
	return nil
}

// removeExternal forgets a server that uses an etcd which is not skepd's.
func (s *Servers) removeExternal(ctx context.Context, record Record) error {
	if !record.Address.IsValid() {
		return apierrors.NewNotFound(group, record.Name)
	}
	state := skepv1.Server{URL: record.URL}
	if s.probe(ctx, &state); state.Ready || record.Name == s.Directory.self.Name {
		return conflict(record.Name, "it works: stop skepd there first")
	}
	if err := s.Directory.forget(ctx, record); err != nil {
		return fmt.Errorf("remove the record of server %s: %w", record.Name, err)
	}
	return nil
}
