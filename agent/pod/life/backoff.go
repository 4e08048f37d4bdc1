package life

import "time"

const (
	firstBackOff = 10 * time.Second
	// quietBackOff is the time without a failure after which the series starts over.
	quietBackOff = 10 * time.Minute
)

// backoff is the wait before repetitions after failures: none before the first, then ten seconds,
// doubling up to the limit.
type backoff struct {
	limit time.Duration
	wait  time.Duration // before the next repetition; 0: none
	since time.Time     // when wait was last raised
}

// remaining is how long to wait before repeating what failed at the time failed.
func (b *backoff) remaining(failed, now time.Time) time.Duration {
	if b.wait == 0 || failed.Sub(b.since) > quietBackOff {
		return 0
	}
	return max(0, failed.Add(b.wait).Sub(now))
}

// next counts a repetition of what failed at the time failed.
func (b *backoff) next(failed, now time.Time) {
	if failed.Sub(b.since) > quietBackOff {
		b.wait = 0
	}
	if b.wait == 0 {
		b.wait = firstBackOff
	} else {
		b.wait *= 2
	}
	if b.limit > 0 {
		b.wait = min(b.wait, b.limit)
	}
	b.since = now
}

func (b *backoff) clear() { b.wait = 0 }

// retryMax bounds the wait before a failed step of a pod's end is tried again.
const retryMax = 30 * time.Second

// retry is the wait between attempts of what must succeed in the end: a second, doubling up to
// thirty. The zero value is for no failure yet.
type retry struct {
	wait time.Duration
	at   time.Time // when the next attempt is due
	last string    // the error of the last failure
}

// failed counts a failure and says whether its error differs from the last one's.
func (r *retry) failed(now time.Time, err error) (differs bool) {
	r.wait = min(max(2*r.wait, time.Second), retryMax)
	r.at = now.Add(r.wait)
	differs, r.last = r.last != err.Error(), err.Error()
	return differs
}
