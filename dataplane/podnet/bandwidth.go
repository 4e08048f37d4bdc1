package podnet

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Bandwidth limits what a pod receives and sends, in bits per second; 0 is no limit.
type Bandwidth struct {
	Ingress uint64 // towards the pod: a queue at the host's end
	Egress  uint64 // from the pod: a queue at the pod's own end, so that its sockets wait instead of losing packets
}

// A token bucket holds 20 ms of the rate, but at least some full packets; behind it, 100 ms of the rate may wait.
const (
	burstDivisor = 50
	burstMinimum = 16 << 10
	queueDivisor = 10
)

// limit makes the two queues, or removes those that are not wanted. On a kernel without token buckets
// the pod is unlimited, which is reported; it runs nevertheless.
func (n *Network) limit(host netlink.Link, pod *podEnd, want Bandwidth) (shaped bool, unlimited error) {
	if want == (Bandwidth{}) && host.Attrs().Alias == "" {
		return false, nil // a new pair has no queue
	}
	err := shape(n.nl, host, want.Ingress)
	shaped = err == nil && want.Ingress > 0
	inside, ierr := pod.nl.LinkByName(podInterface)
	if ierr == nil {
		ierr = shape(pod.nl, inside, want.Egress)
	}
	if err = errors.Join(err, ierr); err != nil {
		return shaped, fmt.Errorf("bandwidth is not limited: %w", err)
	}
	return shaped, nil
}

func shape(h *netlink.Handle, link netlink.Link, bits uint64) error {
	name := link.Attrs().Name
	if bits > 0 {
		if err := h.QdiscReplace(tokenBucket(link.Attrs().Index, bits)); err != nil {
			if errors.Is(err, unix.ENOENT) {
				return errors.New("this kernel has no token bucket queue (module sch_tbf)")
			}
			return fmt.Errorf("token bucket at %s: %w", name, err)
		}
		return nil
	}
	present, err := h.QdiscList(link)
	if err != nil {
		return fmt.Errorf("queues of %s: %w", name, err)
	}
	for _, q := range present {
		if isTokenBucket(q) {
			if err := h.QdiscDel(q); err != nil {
				return fmt.Errorf("remove the token bucket at %s: %w", name, err)
			}
		}
	}
	return nil
}

func isTokenBucket(q netlink.Qdisc) bool {
	return q.Type() == "tbf" && q.Attrs().Parent == netlink.HANDLE_ROOT
}

func tokenBucket(index int, bits uint64) *netlink.Tbf {
	rate := max(bits/8, 1)
	burst := min(max(rate/burstDivisor, burstMinimum), 1<<30)
	return &netlink.Tbf{
		QdiscAttrs: netlink.QdiscAttrs{LinkIndex: index, Handle: netlink.MakeHandle(1, 0), Parent: netlink.HANDLE_ROOT},
		Rate:       rate,
		Limit:      uint32(min(rate/queueDivisor+burst, 1<<31)),
		Buffer:     netlink.Xmittime(rate, uint32(burst)),
	}
}

// shapedLinks are the interfaces with a token bucket, by index.
func (n *Network) shapedLinks() (map[int]bool, error) {
	all, err := n.nl.QdiscList(nil)
	if err != nil {
		return nil, fmt.Errorf("list queues: %w", err)
	}
	shaped := map[int]bool{}
	for _, q := range all {
		if isTokenBucket(q) {
			shaped[q.Attrs().LinkIndex] = true
		}
	}
	return shaped, nil
}
