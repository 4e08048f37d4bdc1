package v1

import (
	"net/netip"
	"time"
)

// Report is what one node's data plane has counted since its maps were created.
type Report struct {
	Node     string    `json:"node"`
	Services []Service `json:"services"`
	// Programs counts for every program the packets or connections by outcome.
	Programs map[string]map[string]uint64 `json:"programs"`
	Uplinks  []Uplink                     `json:"uplinks"`
	// Programming says how long changes of endpoints took until the node's maps had them, since its agent started.
	Programming []Bucket `json:"programming,omitempty"`
}

// Bucket is how many durations were at most so long, and longer than those of the bucket before.
type Bucket struct {
	Seconds float64 `json:"seconds,omitempty"` // 0: longer than any other bucket's
	Count   uint64  `json:"count"`
}

// Uplink is an interface that packets from outside arrive at.
type Uplink struct {
	Name    string `json:"name"`
	XDP     string `json:"xdp"`               // "native", "generic", or "none"
	Problem string `json:"problem,omitempty"` // why services are not served to clients outside there
}

// Service is one port of a service in one address family.
type Service struct {
	Name        string     `json:"name"`
	Frontends   []Frontend `json:"frontends"`
	Selection   string     `json:"selection"`
	Forwarding  string     `json:"forwarding"`  // "dsr" or "snat"
	Connections uint64     `json:"connections"` // for which this node chose the backend
	Failures    uint64     `json:"failures"`    // those that found no backend, or that one refused or left unanswered
	Refused     uint64     `json:"refused"`     // of the failures: no backend
	Backends    []Backend  `json:"backends"`
}

// Frontend is an address that leads to a service.
type Frontend struct {
	Address         netip.AddrPort `json:"address"`
	Protocol        string         `json:"protocol"`
	Scope           string         `json:"scope"` // "cluster", or "external" for clients outside
	AffinitySeconds uint32         `json:"affinitySeconds,omitempty"`
	Local           bool           `json:"local,omitempty"`      // leads to backends of this node only
	Restricted      bool           `json:"restricted,omitempty"` // to some clients
	Primary         bool           `json:"primary,omitempty"`    // what a backend's answers are said to come from
}

// Backend is one of a service. Packets and bytes are counted where it runs, and are the same in every service that has it.
type Backend struct {
	Address     netip.AddrPort `json:"address"`
	Protocol    string         `json:"protocol"`
	Node        string         `json:"node,omitempty"`
	State       string         `json:"state"` // "active", "down" (its node is), "local" (by traffic policy Local only), "draining"
	Local       bool           `json:"local,omitempty"`
	Connections uint64         `json:"connections"`
	Failures    uint64         `json:"failures"` // connections that it refused or left unanswered
	Active      uint32         `json:"active"`   // open connections of this node's sockets, and of packets' flows that it knows of
	// RoundTrip is the mean of this node's TCP connections to it that have one, of which there are Timed.
	RoundTrip   time.Duration `json:"roundTripNanoseconds,omitempty"`
	Timed       uint32        `json:"timed,omitempty"`
	ToPackets   uint64        `json:"toPackets,omitempty"`
	ToBytes     uint64        `json:"toBytes,omitempty"`
	FromPackets uint64        `json:"fromPackets,omitempty"`
	FromBytes   uint64        `json:"fromBytes,omitempty"`
}

// Event is a connection that failed.
type Event struct {
	Time     time.Time      `json:"time"`
	Kind     string         `json:"kind"`    // why, as one word: "no_backend" and others
	Message  string         `json:"message"` // all of it but the time, as a sentence
	Service  string         `json:"service"`
	Protocol string         `json:"protocol,omitempty"`
	Client   netip.AddrPort `json:"client,omitzero"` // a packet's source
	Process  uint32         `json:"process,omitempty"`
	Command  string         `json:"command,omitempty"` // of the process
	Asked    netip.AddrPort `json:"asked,omitzero"`
	Backend  netip.AddrPort `json:"backend,omitzero"`
}

// Verification compares a node's service maps with the API's objects at the time.
type Verification struct {
	Node        string       `json:"node"`
	Services    int          `json:"services"` // service ports in the maps
	Differences []Difference `json:"differences"`
}

// Difference is one difference between a node's maps and what they should be.
type Difference struct {
	Subject string `json:"subject"` // a service's name, or "node NAME"
	What    string `json:"what"`
}

func (d Difference) String() string { return d.Subject + ": " + d.What }
