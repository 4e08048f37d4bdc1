package etcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promauto"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"

	skepv1 "github.com/skep-io/skep/api/v1"
)

const (
	// maintainEvery is how often the database is checked, alarmedEvery while it has an alarm.
	maintainEvery = 30 * time.Second
	alarmedEvery  = 5 * time.Second
	// maintainTimeout bounds a request, defragmentTimeout a defragmentation.
	maintainTimeout   = 10 * time.Second
	defragmentTimeout = 5 * time.Minute
	// aliveTimeout bounds the request of a health check, as in kube-apiserver.
	aliveTimeout = 2 * time.Second
	// defragmentFree and defragmentShare are what a defragmentation must free at least: in
	// bytes, and as a share of the file.
	defragmentFree  = 128 << 20
	defragmentShare = 0.5
	// nearlyFull is the share of the quota from which on a defragmentation is worth it for
	// less, and a warning is logged.
	nearlyFull = 0.8
	// stillFull is the share in use from which on the alarm stays: a few more writes would raise it again.
	stillFull = 0.9
	// restBetween is the minimum time between two defragmentations of a member, each of
	// which stops the member.
	restBetween = 10 * time.Minute
)

var (
	sizeBytes = promauto.NewGaugeVec(prometheus.GaugeOpts{
		Name: "skep_etcd_database_bytes", Help: "Size of etcd's database file, by member.",
	}, []string{"member"})
	inUseBytes = promauto.NewGaugeVec(prometheus.GaugeOpts{
		Name: "skep_etcd_database_in_use_bytes", Help: "Bytes of etcd's database file that are in use, by member.",
	}, []string{"member"})
	quotaGauge = promauto.NewGauge(prometheus.GaugeOpts{
		Name: "skep_etcd_quota_bytes", Help: "Size of the database file above which etcd accepts deletions only; 0: unknown.",
	})
	alarmed = promauto.NewGauge(prometheus.GaugeOpts{
		Name: "skep_etcd_alarms", Help: "Alarms that etcd has raised: no space, or a corrupt member.",
	})
	defragmentations = promauto.NewCounterVec(prometheus.CounterOpts{
		Name: "skep_etcd_defragmentations_total", Help: "Defragmentations of etcd's database file, by result.",
	}, []string{"result"})
)

// Maintainer watches the size of etcd's database, defragments it after compaction, and
// clears the alarm that etcd raises when the file has reached its quota. An etcd that is
// not skepd's own it only watches and reports, except on request.
type Maintainer struct {
	client *clientv3.Client
	own    bool
	name   string // of the own member
	quota  int64
	// rewrite has a member write its file again.
	rewrite func(ctx context.Context, member string) error

	mu       sync.Mutex
	problem  error // what keeps etcd from taking writes, or may soon
	lastPass map[string]time.Time
}

// NewMaintainer makes one for an etcd that is skepd's own, or not.
func NewMaintainer(client *clientv3.Client, own bool) *Maintainer {
	m := &Maintainer{client: client, own: own, lastPass: map[string]time.Time{}}
	m.rewrite = func(ctx context.Context, member string) error {
		_, err := client.Defragment(ctx, member)
		return err
	}
	return m
}

// Maintainer is that of the server.
func (s *Server) Maintainer() *Maintainer {
	m := NewMaintainer(s.Client, true)
	m.quota, m.name = s.quota, s.name
	// etcd's own request for it needs a health service that a server without a listener lacks.
	m.rewrite = func(context.Context, string) error { return s.etcd.Server.Backend().Defrag() }
	return m
}

// Run works until ctx ends.
func (m *Maintainer) Run(ctx context.Context) error {
	for {
		wait := maintainEvery
		if err := m.Maintain(ctx); err != nil && ctx.Err() == nil {
			slog.Warn("Maintenance of etcd failed; it is tried again", "err", err)
		}
		if m.Problem() != nil {
			wait = alarmedEvery
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// Problem is why etcd accepts no writes at the moment, or nil.
func (m *Maintainer) Problem() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.problem
}

func (m *Maintainer) setProblem(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err != nil && (m.problem == nil || m.problem.Error() != err.Error()) {
		slog.Error("etcd accepts no writes", "err", err)
	}
	if err == nil && m.problem != nil {
		slog.Info("etcd accepts writes again")
	}
	m.problem = err
}

// Maintain checks the database once, and does what is needed.
func (m *Maintainer) Maintain(ctx context.Context) error {
	members, err := m.Status(ctx)
	if err != nil {
		return err
	}
	noSpace, err := m.alarms(ctx)
	if err != nil {
		return err
	}
	if noSpace {
		return m.makeRoom(ctx)
	}
	m.setProblem(nil)
	if !m.own {
		return nil
	}
	for _, s := range members {
		if m.pays(s) {
			if err := m.defragment(ctx, s.Member); err != nil {
				return err
			}
		}
		if m.quota > 0 && float64(s.InUse) > nearlyFull*float64(m.quota) {
			slog.Warn("The etcd database is nearly full: delete objects that are not needed", "member", s.Member, "inUse", s.InUse, "quota", m.quota)
		}
	}
	return nil
}

// pays says whether a defragmentation frees enough space to be worth stopping the member.
func (m *Maintainer) pays(s skepv1.EtcdMember) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if time.Since(m.lastPass[s.Member]) < restBetween {
		return false
	}
	free, size := float64(s.Bytes-s.InUse), float64(s.Bytes)
	if m.quota > 0 && size > nearlyFull*float64(m.quota) {
		return free > (1-nearlyFull)*size
	}
	return free > defragmentFree && free > defragmentShare*size
}

// makeRoom ends the alarm: it compacts history, defragments the file, and clears the
// alarm if there is room then. Otherwise only deletions help, which etcd always accepts.
func (m *Maintainer) makeRoom(ctx context.Context) error {
	if !m.own {
		m.setProblem(errors.New("etcd has raised the alarm NOSPACE: its database has reached its quota; run `skep etcd defragment`"))
		return nil
	}
	m.setProblem(fmt.Errorf("etcd has raised the alarm NOSPACE: its database has reached its quota of %d MiB; skepd compacts and defragments it, and until there is room only deletions are accepted", m.quota>>20))
	if err := m.Defragment(ctx); err != nil {
		return err
	}
	members, err := m.Status(ctx)
	if err != nil {
		return err
	}
	for _, s := range members {
		if float64(s.InUse) > stillFull*float64(m.quota) {
			return fmt.Errorf("etcd's database is full of objects that are there, %d MiB: delete some (events, config maps, secrets); its quota is %d MiB", s.InUse>>20, m.quota>>20)
		}
	}
	return m.disarm(ctx)
}

// Defragment drops the history of all keys and has each member rewrite its file,
// one at a time, the leader last. A member does not answer meanwhile.
func (m *Maintainer) Defragment(ctx context.Context) error {
	members, err := m.Status(ctx)
	if err != nil {
		return err
	}
	if err := m.compact(ctx); err != nil {
		return err
	}
	for _, leaders := range []bool{false, true} {
		for _, s := range members {
			if s.Leader != leaders {
				continue
			}
			if err := m.defragment(ctx, s.Member); err != nil {
				return err
			}
		}
	}
	return nil
}

// Report is Status in the form of the API.
func (m *Maintainer) Report(ctx context.Context) (*skepv1.EtcdReport, error) {
	members, err := m.Status(ctx)
	if err != nil {
		return nil, err
	}
	return &skepv1.EtcdReport{Members: members}, nil
}

// Snapshot is the whole database as it is, with a sum at its end.
func (m *Maintainer) Snapshot(ctx context.Context) (io.ReadCloser, error) {
	snapshot, err := m.client.Snapshot(ctx)
	if err != nil {
		return nil, fmt.Errorf("take a snapshot of etcd: %w", err)
	}
	return snapshot, nil
}

// Alive makes a request to etcd that needs a quorum.
func (m *Maintainer) Alive(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, aliveTimeout)
	defer cancel()
	if _, err := m.client.Get(ctx, "/skep/revision", clientv3.WithCountOnly()); err != nil {
		return fmt.Errorf("etcd does not answer: %w", err)
	}
	return nil
}

// disarm clears the alarm NOSPACE, if there is one and there is room.
func (m *Maintainer) disarm(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, maintainTimeout)
	defer cancel()
	list, err := m.client.AlarmList(ctx)
	if err != nil {
		return fmt.Errorf("ask etcd for its alarms: %w", err)
	}
	for _, a := range list.Alarms {
		if a.Alarm != pb.AlarmType_NOSPACE {
			continue
		}
		if _, err := m.client.AlarmDisarm(ctx, (*clientv3.AlarmMember)(a)); err != nil {
			return fmt.Errorf("disarm etcd's alarm: %w", err)
		}
	}
	m.setProblem(nil)
	return nil
}

func (m *Maintainer) compact(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, defragmentTimeout)
	defer cancel()
	now, err := m.client.Get(ctx, "/skep/revision", clientv3.WithCountOnly())
	if err != nil {
		return fmt.Errorf("read etcd's revision: %w", err)
	}
	_, err = m.client.Compact(ctx, now.Header.Revision, clientv3.WithCompactPhysical())
	if err != nil && !errors.Is(err, rpctypes.ErrCompacted) {
		return fmt.Errorf("compact etcd at revision %d: %w", now.Header.Revision, err)
	}
	return nil
}

func (m *Maintainer) defragment(ctx context.Context, member string) error {
	ctx, cancel := context.WithTimeout(ctx, defragmentTimeout)
	defer cancel()
	begin := time.Now()
	err := m.rewrite(ctx, member)
	m.mu.Lock()
	m.lastPass[member] = time.Now()
	m.mu.Unlock()
	if err != nil {
		defragmentations.WithLabelValues("failure").Inc()
		return fmt.Errorf("defragment etcd's database of %s: %w", member, err)
	}
	defragmentations.WithLabelValues("success").Inc()
	slog.Info("The etcd database was defragmented", "member", member, "took", time.Since(begin).Round(time.Millisecond))
	return nil
}

// alarms says whether etcd is out of space. A corrupt member is a problem that cannot be solved here.
func (m *Maintainer) alarms(ctx context.Context) (noSpace bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, maintainTimeout)
	defer cancel()
	list, err := m.client.AlarmList(ctx)
	if err != nil {
		return false, fmt.Errorf("ask etcd for its alarms: %w", err)
	}
	alarmed.Set(float64(len(list.Alarms)))
	for _, a := range list.Alarms {
		switch a.Alarm {
		case pb.AlarmType_NOSPACE:
			noSpace = true
		case pb.AlarmType_CORRUPT:
			slog.Error("etcd says that a member's data is corrupt: restore it from a snapshot", "member", a.MemberID)
		}
	}
	return noSpace, nil
}

// Status asks every member.
func (m *Maintainer) Status(ctx context.Context) ([]skepv1.EtcdMember, error) {
	endpoints := m.client.Endpoints()
	if m.own {
		endpoints = []string{m.name}
	}
	members := make([]skepv1.EtcdMember, 0, len(endpoints))
	for _, endpoint := range endpoints {
		s, err := m.status(ctx, endpoint)
		if err != nil {
			return nil, err
		}
		members = append(members, s)
	}
	quotaGauge.Set(float64(m.quota))
	return members, nil
}

func (m *Maintainer) status(ctx context.Context, endpoint string) (skepv1.EtcdMember, error) {
	ctx, cancel := context.WithTimeout(ctx, maintainTimeout)
	defer cancel()
	resp, err := m.client.Status(ctx, endpoint)
	if err != nil {
		return skepv1.EtcdMember{}, fmt.Errorf("ask %s for etcd's status: %w", endpoint, err)
	}
	sizeBytes.WithLabelValues(endpoint).Set(float64(resp.DbSize))
	inUseBytes.WithLabelValues(endpoint).Set(float64(resp.DbSizeInUse))
	return skepv1.EtcdMember{
		Member: endpoint, Version: resp.Version, Bytes: resp.DbSize, InUse: resp.DbSizeInUse, Quota: m.quota,
		Revision: resp.Header.Revision, Leader: resp.Header.MemberId == resp.Leader, Errors: resp.Errors,
	}, nil
}
