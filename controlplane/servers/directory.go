// Package servers knows which skepd make up the control plane: it admits further ones, removes them, and keeps the record of each and
// the lease by which it is known to be alive, as kube-apiserver's are. It owns the keys below /skep/servers/ and
// /registry/masterleases/. It never decides which server leads, and serves no HTTP.
package servers

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/skep-io/skep/controlplane/scheme"
	"github.com/skep-io/skep/controlplane/storage"
)

const (
	recordPrefix = "/skep/servers/"
	// leasePrefix is kube-apiserver's.
	leasePrefix = "/registry/masterleases/"

	// A server that is one of several is missed after leaseTTL. One without others is missed by nobody, and need not write as often.
	leaseTTL, renewEvery         = 5 * time.Second, 1500 * time.Millisecond
	loneLeaseTTL, loneRenewEvery = 15 * time.Second, 5 * time.Second
	// renewTimeout bounds one renewal: the next is not to wait for one that hangs.
	renewTimeout = 2 * time.Second
	// goodbyeTimeout bounds the removal of the lease when a server ends.
	goodbyeTimeout = time.Second
	followRetry    = time.Second
)

// Record is what is stored of a server for as long as it is one.
type Record struct {
	Name string `json:"name"`
	// URL is its API; Address the address in that, by which it holds its lease.
	URL     string     `json:"url"`
	Address netip.Addr `json:"address"`
	// PeerURL is where its etcd is reached by the others'.
	PeerURL string `json:"peerURL,omitempty"`
	// DNS is the URL at which cluster DNS reads etcd there.
	DNS string `json:"dns"`
}

// Directory is the list of servers, and which of them are alive.
type Directory struct {
	store storage.Interface
	self  Record

	mu        sync.Mutex
	known     map[string]Record
	alive     map[netip.Addr]bool
	synced    map[string]bool // by prefix
	listeners []func()
}

// NewDirectory makes the directory of one server, in which it has its own record.
func NewDirectory(store storage.Interface, self Record) *Directory {
	return &Directory{store: store, self: self, known: map[string]Record{}, alive: map[netip.Addr]bool{}, synced: map[string]bool{}}
}

// OnChange has f called after the list or who is alive has changed. f must not block.
func (d *Directory) OnChange(f func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.listeners = append(d.listeners, f)
}

// Known are all servers, by name. Until the list has been read, it is this server alone.
func (d *Directory) Known() []Record {
	d.mu.Lock()
	defer d.mu.Unlock()
	records := []Record{d.self}
	for name, r := range d.known {
		if name != d.self.Name {
			records = append(records, r)
		}
	}
	slices.SortFunc(records, func(a, b Record) int { return strings.Compare(a.Name, b.Name) })
	return records
}

// Several says whether there are other servers.
func (d *Directory) Several() bool { return len(d.Known()) > 1 }

// Alive are the addresses of the servers that hold their leases, and of this one, in order; ok is false until they have been read.
func (d *Directory) Alive() (addresses []netip.Addr, ok bool) {
	d.mu.Lock()
	defer d.mu.Unlock()
	addresses = []netip.Addr{d.self.Address}
	for addr := range d.alive {
		if addr != d.self.Address {
			addresses = append(addresses, addr)
		}
	}
	slices.SortFunc(addresses, netip.Addr.Compare)
	return addresses, d.synced[leasePrefix] && d.synced[recordPrefix]
}

// Run keeps this server's record and lease, and follows the others', until ctx ends.
func (d *Directory) Run(ctx context.Context) error {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() { d.follow(ctx, recordPrefix, d.setRecord) })
	wg.Go(func() { d.follow(ctx, leasePrefix, d.setLease) })
	failing := false
	for {
		err := d.renew(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			slog.Warn("This server's lease is not renewed: clients and the other servers will count it as dead", "err", err)
		}
		failing = err != nil
		wait := renewEvery
		if !d.Several() {
			wait = loneRenewEvery
		}
		select {
		case <-ctx.Done():
			d.leave(context.WithoutCancel(ctx))
			return ctx.Err()
		case <-time.After(wait):
		}
	}
}

// renew writes the lease, and the record if that is missing or another.
func (d *Directory) renew(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, renewTimeout)
	defer cancel()
	d.mu.Lock()
	known := d.known[d.self.Name] == d.self
	d.mu.Unlock()
	ttl := leaseTTL
	if !d.Several() {
		ttl = loneLeaseTTL
	}
	lease, err := scheme.Codec.Encode(&corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Name: d.self.Address.String()},
		Subsets:    []corev1.EndpointSubset{{Addresses: []corev1.EndpointAddress{{IP: d.self.Address.String()}}}},
	})
	if err != nil {
		return err
	}
	ops := []storage.Op{{Key: leasePrefix + d.self.Address.String(), Value: lease, TTL: ttl}}
	if !known {
		record, err := json.Marshal(d.self)
		if err != nil {
			return err
		}
		ops = append(ops, storage.Op{Key: recordPrefix + d.self.Name, Value: record})
	}
	if _, err := d.store.Commit(ctx, nil, ops); err != nil {
		return fmt.Errorf("renew the lease of this server: %w", err)
	}
	return nil
}

// leave gives the lease up, so that clients turn to other servers at once.
func (d *Directory) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, goodbyeTimeout)
	defer cancel()
	if _, err := d.store.Commit(ctx, nil, []storage.Op{{Key: leasePrefix + d.self.Address.String(), Delete: true}}); err != nil {
		slog.Debug("This server's lease was not given up; it runs out", "err", err)
	}
}

// forget removes the record and the lease of a server.
func (d *Directory) forget(ctx context.Context, r Record) error {
	_, err := d.store.Commit(ctx, nil, []storage.Op{
		{Key: recordPrefix + r.Name, Delete: true}, {Key: leasePrefix + r.Address.String(), Delete: true},
	})
	return err
}

// follow calls set for each key below prefix: with its value, and with nil when it is gone.
func (d *Directory) follow(ctx context.Context, prefix string, set func(name string, value []byte)) {
	for ctx.Err() == nil {
		kvs, revision, err := d.store.List(ctx, prefix)
		if err == nil {
			d.replace(prefix, kvs, set)
			for r := range d.store.Watch(ctx, prefix, revision) {
				for _, e := range r.Events {
					value := e.Value
					if e.Type == storage.Delete {
						value = nil
					}
					set(strings.TrimPrefix(e.Key, prefix), value)
				}
				if len(r.Events) > 0 {
					d.notify()
				}
				err = r.Err
			}
		}
		if ctx.Err() == nil && !errors.Is(err, storage.ErrCompacted) {
			slog.Warn("The list of servers is not followed; trying again", "prefix", prefix, "err", err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(followRetry):
		}
	}
}

// replace takes over a list.
func (d *Directory) replace(prefix string, kvs []storage.KeyValue, set func(name string, value []byte)) {
	d.mu.Lock()
	if prefix == recordPrefix {
		clear(d.known)
	} else {
		clear(d.alive)
	}
	d.mu.Unlock()
	for _, kv := range kvs {
		set(strings.TrimPrefix(kv.Key, prefix), kv.Value)
	}
	d.mu.Lock()
	d.synced[prefix] = true
	d.mu.Unlock()
	d.notify()
}

func (d *Directory) setRecord(name string, value []byte) {
	var r Record
	if value != nil {
		if err := json.Unmarshal(value, &r); err != nil || r.Name != name {
			slog.Warn("The record of a server cannot be read", "server", name, "err", err)
			value = nil
		}
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if delete(d.known, name); value != nil {
		d.known[name] = r
	}
}

func (d *Directory) setLease(name string, value []byte) {
	addr, err := netip.ParseAddr(name)
	if err != nil {
		return // of another program
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if delete(d.alive, addr); value != nil {
		d.alive[addr] = true
	}
}

func (d *Directory) notify() {
	d.mu.Lock()
	listeners := d.listeners
	d.mu.Unlock()
	for _, f := range listeners {
		f()
	}
}
