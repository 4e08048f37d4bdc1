package main

import (
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"

	skepv1 "github.com/skep-io/skep/api/v1"
)

// programming counts, over all nodes, how long changes of endpoints took to reach a node's maps: by upper bounds in seconds.
type programming map[float64]uint64

func (p programming) add(buckets []skepv1.Bucket) {
	for _, b := range buckets {
		bound := b.Seconds
		if bound == 0 {
			bound = math.Inf(1)
		}
		p[bound] += b.Count
	}
}

// within is the bound within which that part of the changes was.
func (p programming) within(part float64) string {
	var all, sum uint64
	for _, n := range p {
		all += n
	}
	bounds := slices.Sorted(maps.Keys(p))
	for _, bound := range bounds {
		if sum += p[bound]; float64(sum) >= part*float64(all) && !math.IsInf(bound, 1) {
			return "within " + strconv.FormatFloat(bound, 'g', -1, 64) + " s"
		}
	}
	return "later than that"
}

// String is a line about them, or nothing if there are none.
func (p programming) String() string {
	var all uint64
	for _, n := range p {
		all += n
	}
	if all == 0 {
		return ""
	}
	return fmt.Sprintf("\nChanges of endpoints reached a node's maps %s (half of them), %s (99%%); %d were measured.\n", p.within(0.5), p.within(0.99), all)
}
