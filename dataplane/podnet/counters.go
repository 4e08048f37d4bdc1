package podnet

import (
	"encoding/binary"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// Counters are what went through a pod's interface since it was made, as the pod sees it: received is towards the pod.
type Counters struct {
	RxBytes, RxPackets, RxErrors, RxDropped uint64
	TxBytes, TxPackets, TxErrors, TxDropped uint64
}

const (
	statsLink64     = 1 // IFLA_STATS_LINK_64, linux/if_link.h
	statsHeaderSize = 12
	linkStats64Size = 8 * 8 // the part of rtnl_link_stats64 that is read here
)

// linkStatsRequest is struct if_stats_msg: family, padding, interface index, filter mask.
type linkStatsRequest struct{ index uint32 }

func (r linkStatsRequest) Len() int { return statsHeaderSize }

func (r linkStatsRequest) Serialize() []byte {
	b := make([]byte, statsHeaderSize)
	binary.NativeEndian.PutUint32(b[4:], r.index)
	binary.NativeEndian.PutUint32(b[8:], 1<<(statsLink64-1))
	return b
}

// Counters reads a pod's interface counters. It asks the kernel for the statistics only, a tenth of a link message.
func (n *Network) Counters(podID string) (Counters, error) {
	n.mu.Lock()
	a, ok := n.pods[podID]
	n.mu.Unlock()
	if !ok {
		return Counters{}, fmt.Errorf("pod %s has no interface", podID)
	}
	req := nl.NewNetlinkRequest(unix.RTM_GETSTATS, 0)
	req.Sockets = n.stats
	req.AddData(linkStatsRequest{index: uint32(a.Index)})
	replies, err := req.Execute(unix.NETLINK_ROUTE, unix.RTM_NEWSTATS)
	if err != nil {
		return Counters{}, fmt.Errorf("counters of %s (pod %s): %w", a.HostInterface, podID, err)
	}
	for _, reply := range replies {
		if c, ok := parseStats(reply); ok {
			return c, nil
		}
	}
	return Counters{}, fmt.Errorf("counters of %s (pod %s): the kernel answered without any", a.HostInterface, podID)
}

// parseStats swaps the directions of the host's end: what the host sent is what the pod received.
func parseStats(msg []byte) (Counters, bool) {
	if len(msg) < statsHeaderSize {
		return Counters{}, false
	}
	attrs, err := nl.ParseRouteAttr(msg[statsHeaderSize:])
	if err != nil {
		return Counters{}, false
	}
	for _, a := range attrs {
		if a.Attr.Type != statsLink64 || len(a.Value) < linkStats64Size {
			continue
		}
		at := func(i int) uint64 { return binary.NativeEndian.Uint64(a.Value[8*i:]) }
		return Counters{
			TxPackets: at(0), RxPackets: at(1), TxBytes: at(2), RxBytes: at(3),
			TxErrors: at(4), RxErrors: at(5), TxDropped: at(6), RxDropped: at(7),
		}, true
	}
	return Counters{}, false
}
