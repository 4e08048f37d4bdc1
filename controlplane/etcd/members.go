package etcd

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strconv"
	"time"

	"go.etcd.io/etcd/server/v3/etcdserver/api/membership"
	etcderrors "go.etcd.io/etcd/server/v3/etcdserver/errors"
)

const (
	// promoteEvery is how often a new member asks whether it has caught up; memberTimeout bounds a change of the members.
	promoteEvery  = 500 * time.Millisecond
	memberTimeout = 10 * time.Second
	// answersWithin is how long a member may take to say that it runs.
	answersWithin = 2 * time.Second
)

// Member is one member of the cluster, as this one knows it.
type Member struct {
	ID   string
	Name string // empty: it has never started
	URL  string // at which the others reach it; empty: nowhere, as it has never had others
	// Learner is a member that has not caught up yet and has no vote.
	Learner      bool
	Leader, Self bool
}

// Members are the members of the cluster, by linearizable read if the cluster has a leader.
func (s *Server) Members() []Member {
	server := s.etcd.Server
	var members []Member
	for _, m := range server.Cluster().Members() {
		member := Member{ID: m.ID.String(), Name: m.Name, Learner: m.IsLearner, Leader: m.ID == server.Leader(), Self: m.ID == server.MemberID()}
		if len(m.PeerURLs) > 0 && m.PeerURLs[0] != lonePeerURL {
			member.URL = m.PeerURLs[0]
		}
		members = append(members, member)
	}
	return members
}

// Fresh waits until Members shows every change that was made before.
func (s *Server) Fresh(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, memberTimeout)
	defer cancel()
	_, err := s.Client.MemberList(ctx)
	return err
}

// Welcome opens the port for other members, and has the members know this one by its URL.
func (s *Server) Welcome(ctx context.Context) error {
	if err := s.peers.open(); err != nil {
		return err
	}
	own := s.etcd.Server.Cluster().Member(s.etcd.Server.MemberID())
	if own == nil {
		return ErrRemoved
	}
	if slices.Equal(own.PeerURLs, []string{s.peers.config.URL}) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, memberTimeout)
	defer cancel()
	if _, err := s.Client.MemberUpdate(ctx, uint64(own.ID), []string{s.peers.config.URL}); err != nil {
		return fmt.Errorf("tell the members of etcd this one's address: %w", err)
	}
	slog.Info("The members of etcd know this server's address", "url", s.peers.config.URL, "before", own.PeerURLs)
	return nil
}

// Add adds a learner, which the member at the URL is once it starts, and returns its ID.
func (s *Server) Add(ctx context.Context, peerURL string) (id string, err error) {
	ctx, cancel := context.WithTimeout(ctx, memberTimeout)
	defer cancel()
	added, err := s.Client.MemberAddAsLearner(ctx, []string{peerURL})
	if err != nil {
		return "", fmt.Errorf("add a member to etcd: %w", err)
	}
	return fmt.Sprintf("%x", added.Member.ID), nil
}

// Remove removes a member. The caller has made sure that the others can go on.
func (s *Server) Remove(ctx context.Context, id string) error {
	number, err := strconv.ParseUint(id, 16, 64)
	if err != nil {
		return fmt.Errorf("%q is not the ID of a member: %w", id, err)
	}
	ctx, cancel := context.WithTimeout(ctx, memberTimeout)
	defer cancel()
	if number == s.etcd.Server.Lead() {
		// Without it, the others would first have to notice that the leader is missing.
		if err := s.etcd.Server.TryTransferLeadershipOnShutdown(); err != nil && number == uint64(s.etcd.Server.MemberID()) {
			slog.Warn("The leadership of etcd was not handed over", "err", err)
		}
	}
	if _, err := s.Client.MemberRemove(ctx, number); err != nil {
		return fmt.Errorf("remove the member from etcd: %w", err)
	}
	return nil
}

// Answers says whether the member at a URL runs. A process that is paused does not answer.
func (s *Server) Answers(ctx context.Context, client *http.Client, peerURL string) bool {
	ctx, cancel := context.WithTimeout(ctx, answersWithin)
	defer cancel()
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, peerURL+"/version", nil)
	if err != nil {
		return false
	}
	response, err := client.Do(request)
	if err != nil {
		return false
	}
	response.Body.Close()
	return response.StatusCode == http.StatusOK
}

// promote makes a learner a full member once it has caught up, and corrects the address by which the others know this member.
func (s *Server) promote(ctx context.Context) error {
	reported := ""
	for s.etcd.Server.IsLearner() {
		_, err := s.etcd.Server.PromoteMember(ctx, uint64(s.etcd.Server.MemberID()))
		switch {
		case err == nil:
			slog.Info("This server is a full member of etcd", "name", s.name)
		case errors.Is(err, membership.ErrIDNotFound):
			return ErrRemoved
		case errors.Is(err, membership.ErrMemberNotLearner): // the answer to an earlier request was lost
		case ctx.Err() != nil:
			return ctx.Err()
		case errors.Is(err, etcderrors.ErrLearnerNotReady):
			err = errors.New("it has not caught up yet")
			fallthrough
		default:
			if err.Error() != reported {
				slog.Info("This server is not a full member of etcd yet", "name", s.name, "err", err)
				reported = err.Error()
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-s.etcd.Server.StoppingNotify():
			return s.stopped()
		case <-time.After(promoteEvery):
		}
	}
	if own := s.etcd.Server.Cluster().Member(s.etcd.Server.MemberID()); s.peers.config == nil || own == nil || slices.Contains(own.PeerURLs, lonePeerURL) {
		return nil
	}
	return s.Welcome(ctx)
}
