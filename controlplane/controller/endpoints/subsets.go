package endpoints

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// maxAddresses is the most addresses that an Endpoints object holds.
const maxAddresses = 1000

// address is one address of an Endpoints object and the ports that it serves.
type address struct {
	corev1.EndpointAddress
	ready bool
	ports []corev1.EndpointPort
}

// toSubsets groups addresses by the ports that they serve. The result is in a
// fixed order, so that it can be compared.
func toSubsets(addresses []address) []corev1.EndpointSubset {
	groups := map[string]*corev1.EndpointSubset{}
	for _, a := range addresses {
		ports := slices.Clone(a.ports)
		slices.SortFunc(ports, func(x, y corev1.EndpointPort) int { return cmp.Compare(endpointPortKey(x), endpointPortKey(y)) })
		var key strings.Builder
		for _, p := range ports {
			key.WriteString(endpointPortKey(p))
			key.WriteByte('|')
		}
		s := groups[key.String()]
		if s == nil {
			s = &corev1.EndpointSubset{Ports: ports}
			groups[key.String()] = s
		}
		if a.ready {
			s.Addresses = append(s.Addresses, a.EndpointAddress)
		} else {
			s.NotReadyAddresses = append(s.NotReadyAddresses, a.EndpointAddress)
		}
	}
	keys := make([]string, 0, len(groups))
	for key := range groups {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	subsets := make([]corev1.EndpointSubset, 0, len(keys))
	for _, key := range keys {
		s := groups[key]
		sortAddresses(s.Addresses)
		sortAddresses(s.NotReadyAddresses)
		subsets = append(subsets, *s)
	}
	return subsets
}

func sortAddresses(a []corev1.EndpointAddress) {
	slices.SortFunc(a, func(x, y corev1.EndpointAddress) int {
		return cmp.Or(cmp.Compare(x.IP, y.IP), cmp.Compare(targetUID(x), targetUID(y)))
	})
}

func targetUID(a corev1.EndpointAddress) string {
	if a.TargetRef == nil {
		return ""
	}
	return string(a.TargetRef.UID)
}

func endpointPortKey(p corev1.EndpointPort) string {
	return fmt.Sprintf("%s/%s/%d/%s", p.Name, p.Protocol, p.Port, val(p.AppProtocol))
}

// truncate cuts the addresses to maxAddresses, the not ready ones first, and from every
// subset in proportion. It returns whether it removed any.
func truncate(subsets []corev1.EndpointSubset) bool {
	ready, notReady := 0, 0
	for i := range subsets {
		ready += len(subsets[i].Addresses)
		notReady += len(subsets[i].NotReadyAddresses)
	}
	if ready+notReady <= maxAddresses {
		return false
	}
	readyLeft := min(ready, maxAddresses)
	notReadyLeft := maxAddresses - readyLeft
	readyRoom, notReadyRoom := readyLeft, notReadyLeft
	for i := range subsets {
		s := &subsets[i]
		s.Addresses = cut(s.Addresses, readyRoom, ready, &readyLeft)
		s.NotReadyAddresses = cut(s.NotReadyAddresses, notReadyRoom, notReady, &notReadyLeft)
	}
	return true
}

// cut keeps a subset's share of room, rounded up, and at most remaining.
func cut(list []corev1.EndpointAddress, room, total int, remaining *int) []corev1.EndpointAddress {
	if total == 0 || len(list) == 0 {
		return nil
	}
	n := min((len(list)*room+total-1)/total, *remaining, len(list))
	*remaining -= n
	if n == 0 {
		return nil
	}
	return list[:n]
}
