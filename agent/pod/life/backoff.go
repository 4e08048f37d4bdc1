package life

import "time"

const (
	firstBackOff = 10 * time.Second
	// quietBackOff without a failure starts the series over.
	quietBackOff = 10 * time.Minute
)

// backoff is the wait between failures: none before the first repetition,
// then ten seconds, doubling up to the limit.
type backoff struct {
	limit time.Duration
	wait  time.Duration // before the next repetition; 0: none
	since time.Time     // when wait was last raised
}

// remaining is how long to wait for a repetition of what failed at a time.
func (b *backoff) remaining(failed, now time.Time) time.Duration {
	if b.wait == 0 || failed.Sub(b.since) > quietBackOff {
		return 0
	}
	return max(0, failed.Add(b.wait).Sub(now))
}

// next counts a repetition of what failed at a time.
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

// retryMax bounds the wait before what failed at the end of a pod is tried again.
const retryMax = 30 * time.Second

// retry is the wait between attempts of what must succeed in the end: a second,
// doubling up to thirty. The zero value has no failure behind it.
type retry struct {
	wait time.Duration
	at   time.Time // when the next attempt is due
	last string    // the error of the last failure
}

// failed counts a failure and says whether its error is another than the last one's.
func (r *retry) failed(now time.Time, err error) (news bool) {
	r.wait = min(max(2*r.wait, time.Second), retryMax)
	r.at = now.Add(r.wait)
	news, r.last = r.last != err.Error(), err.Error()
	return news
}
