package controller

import "sync"

// SlowStart calls f n times: once, and then twice as many times at once as before, for as long as all calls succeed. If every call is
// refused, that costs one call and not n. It returns how many calls succeeded, and the error of one that failed.
func SlowStart(n int, f func() error) (succeeded int, err error) {
	for batch := 1; succeeded < n && err == nil; batch *= 2 {
		var done int
		done, err = InParallel(min(batch, n-succeeded), func(int) error { return f() })
		succeeded += done
	}
	return succeeded, err
}

// InParallel calls f for 0 to n-1 at once. It returns how many calls succeeded, and the error of the first that failed: when many
// fail, it is usually for one cause.
func InParallel(n int, f func(int) error) (succeeded int, err error) {
	var wg sync.WaitGroup
	errs := make([]error, n)
	for i := range n {
		wg.Go(func() { errs[i] = f(i) })
	}
	wg.Wait()
	for _, e := range errs {
		if e == nil {
			succeeded++
		} else if err == nil {
			err = e
		}
	}
	return succeeded, err
}
