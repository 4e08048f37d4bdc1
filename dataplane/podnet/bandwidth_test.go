package podnet

import (
	"testing"
	"time"
)

func TestBandwidthIsLimitedEachWay(t *testing.T) {
	const rate = 40_000_000 // bits per second
	const size = 3 << 20    // bytes
	f := newFabric(t, 1)
	n := f.network(t, 0)
	limited, free := newNamespace(t), newNamespace(t)
	a := f.attachLimited(t, n, 0, "limited", limited, Bandwidth{Ingress: rate, Egress: rate / 2})
	b := f.attach(t, n, 0, "free", free)
	if !a.Shaped || a.Unlimited != nil || b.Shaped || b.Unlimited != nil {
		t.Fatalf("attachments: limited %+v, free %+v", a, b)
	}
	took := func(from, to *namespace, at Attachment, family int) time.Duration {
		begin := time.Now()
		stream(t, from, to, at.Addrs[family], size)
		return time.Since(begin)
	}
	for _, c := range []struct {
		name     string
		from, to *namespace
		at       Attachment
		family   int
		rate     float64
	}{
		{"to the pod", free, limited, a, 0, rate},
		{"from the pod", limited, free, b, 1, rate / 2},
	} {
		// As much as the buckets and queues hold passes faster than the rate.
		least := time.Duration(0.7 * size * 8 / c.rate * float64(time.Second))
		most := time.Duration(3 * size * 8 / c.rate * float64(time.Second))
		if got := took(c.from, c.to, c.at, c.family); got < least || got > most {
			t.Errorf("%d bytes %s took %v at %.0f bit/s, want %v to %v", size, c.name, got, c.rate, least, most)
		}
	}

	second := f.network(t, 0)
	if !second.Attachments()["limited"].Shaped || second.Attachments()["free"].Shaped {
		t.Errorf("after a restart: %+v", second.Attachments())
	}
	if a := f.attach(t, second, 0, "limited", limited); a.Shaped || a.Unlimited != nil {
		t.Errorf("without its limit the pod has %+v", a)
	}
	if got, limit := took(limited, free, b, 0)+took(free, limited, a, 0), time.Duration(0.7*size*8/rate*float64(time.Second)); got > limit {
		t.Errorf("%d bytes each way took %v without a limit, want less than %v", size, got, limit)
	}
}

func TestTokenBucketsFitEveryRate(t *testing.T) {
	for _, bits := range []uint64{1000, 1_000_000, 100_000_000_000, 1_000_000_000_000_000} {
		q := tokenBucket(1, bits)
		if q.Rate != bits/8 || q.Buffer == 0 || q.Limit < burstMinimum {
			t.Errorf("%d bit/s: %+v", bits, q)
		}
	}
	f := newFabric(t, 1)
	n := f.network(t, 0)
	for name, bits := range map[string]uint64{"slow": 1000, "fast": 1_000_000_000_000_000} {
		a := f.attachLimited(t, n, 0, name, newNamespace(t), Bandwidth{Ingress: bits, Egress: bits})
		if !a.Shaped || a.Unlimited != nil {
			t.Errorf("%s: %+v", name, a)
		}
	}
}
