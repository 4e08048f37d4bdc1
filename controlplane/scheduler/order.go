package scheduler

import (
	"slices"
	"sort"
)

// hostOrder lists the hosts so that zones alternate, and keeps where the last search
// stopped: a search of a part of the hosts covers all zones, and equally good hosts take
// turns.
type hostOrder struct {
	zones map[string][]*host // hosts of a zone by name
	list  []*host            // nil: to be made from zones
	next  int
}

func (o *hostOrder) add(h *host) {
	if o.zones == nil {
		o.zones = map[string][]*host{}
	}
	in := o.zones[h.zone]
	i := sort.Search(len(in), func(i int) bool { return in[i].name >= h.name })
	o.zones[h.zone] = slices.Insert(in, i, h)
	o.list = nil
}

func (o *hostOrder) remove(h *host) {
	in := o.zones[h.zone]
	if i := slices.Index(in, h); i >= 0 {
		o.zones[h.zone] = slices.Delete(in, i, i+1)
	}
	if len(o.zones[h.zone]) == 0 {
		delete(o.zones, h.zone)
	}
	o.list = nil
}

// hosts returns the hosts in order; the list is made again only after hosts were added or removed.
func (o *hostOrder) hosts() []*host {
	if o.list != nil {
		return o.list
	}
	names := make([]string, 0, len(o.zones))
	total := 0
	for name, in := range o.zones {
		names = append(names, name)
		total += len(in)
	}
	sort.Strings(names)
	o.list = make([]*host, 0, total)
	for i := 0; len(o.list) < total; i++ {
		for _, name := range names {
			if in := o.zones[name]; i < len(in) {
				o.list = append(o.list, in[i])
			}
		}
	}
	return o.list
}
