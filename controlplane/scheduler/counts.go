package scheduler

// pageBits says how many counts lie together: 1<<pageBits.
const pageBits = 5

// counts are numbers by a small index (a host's, or a domain's of a topology), most of them 0. A read costs two loads; what is counted on a
// few of 5,000 hosts takes some hundred bytes.
type counts struct {
	pages []*[1 << pageBits]int32
}

func (c *counts) at(i int32) int32 {
	p := int(i >> pageBits)
	if p >= len(c.pages) || c.pages[p] == nil {
		return 0
	}
	return c.pages[p][i&(1<<pageBits-1)]
}

// add adds n and returns the new count.
func (c *counts) add(i, n int32) int32 {
	p := int(i >> pageBits)
	for p >= len(c.pages) {
		c.pages = append(c.pages, nil)
	}
	if c.pages[p] == nil {
		c.pages[p] = new([1 << pageBits]int32)
	}
	at := &c.pages[p][i&(1<<pageBits-1)]
	*at += n
	return *at
}
