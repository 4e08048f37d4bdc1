package etcd

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	skepv1 "github.com/skep-io/skep/api/v1"
)

// fill writes values until etcd reports that there is no space, and returns the last key that was acknowledged.
func fill(t *testing.T, s *Server, key func(int) string) (acknowledged int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	for i := 0; ; i++ {
		_, err := s.Client.Put(ctx, key(i), string(make([]byte, 512<<10)))
		switch {
		case errors.Is(err, rpctypes.ErrNoSpace):
			return i - 1
		case err != nil:
			t.Fatal(err)
		}
	}
}

// A database that has reached its quota accepts writes again automatically: at once if history fills it, and if objects fill it, when some
// have been deleted.
func TestFullDatabaseRecovers(t *testing.T) {
	s, err := Start(t.Context(), Config{DataDir: t.TempDir(), QuotaBytes: 16 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Close)
	m := s.Maintainer()

	fill(t, s, func(int) string { return "/one" })
	if err := m.Maintain(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := m.Problem(); err != nil {
		t.Errorf("after history was dropped: %v", err)
	}
	if _, err := s.Client.Put(t.Context(), "/after", "x"); err != nil {
		t.Fatalf("after history was dropped: %v", err)
	}
	if got, err := s.Client.Get(t.Context(), "/one"); err != nil || len(got.Kvs) != 1 || len(got.Kvs[0].Value) != 512<<10 {
		t.Errorf("the last value is gone: %v (%v)", got, err)
	}

	// Pages of deleted history count at first, so that the database may not be full of objects yet.
	last, err := 0, error(nil)
	for range 8 {
		from := last
		last = from + fill(t, s, func(i int) string { return fmt.Sprint("/many/", from+i) }) + 1
		if err = m.Maintain(t.Context()); err != nil {
			break
		}
	}
	if err == nil || m.Problem() == nil {
		t.Errorf("a database full of objects: %v, problem %v", err, m.Problem())
	}
	for i := range last {
		if _, err := s.Client.Delete(t.Context(), fmt.Sprint("/many/", i)); err != nil {
			t.Fatalf("a full database takes no deletion: %v", err)
		}
	}
	if err := m.Maintain(t.Context()); err != nil || m.Problem() != nil {
		t.Fatalf("after deletions: %v, problem %v", err, m.Problem())
	}
	if _, err := s.Client.Put(t.Context(), "/again", "x"); err != nil {
		t.Errorf("after deletions: %v", err)
	}
	members, err := m.Status(t.Context())
	if err != nil || len(members) != 1 || members[0].Bytes > 4<<20 {
		t.Errorf("the file has not become small: %+v (%v)", members, err)
	}
}

func TestDefragmentationMustPay(t *testing.T) {
	m := &Maintainer{own: true, quota: 1 << 30}
	for name, tt := range map[string]struct {
		bytes, inUse int64
		pays         bool
	}{
		"small":                   {100 << 20, 10 << 20, false},
		"half of a large one":     {400 << 20, 150 << 20, true},
		"a little of a large one": {700 << 20, 500 << 20, false},
		"near the quota":          {900 << 20, 700 << 20, true},
		"near the quota, in use":  {900 << 20, 850 << 20, false},
	} {
		if got := m.pays(skepv1.EtcdMember{Bytes: tt.bytes, InUse: tt.inUse}); got != tt.pays {
			t.Errorf("%s: %v, want %v", name, got, tt.pays)
		}
	}
}
