package cluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/kubernetes"

	"github.com/skep-io/skep/controlplane/jointoken"
)

// MaxServers bounds the servers of a cluster: the bridge has an address for each, below those of the hosts.
const MaxServers = 5

// further are the servers besides the first, by number, which begins with 2.
type further struct {
	Number int     `json:"number"`
	Skepd  process `json:"skepd"`
}

func serverAddr(st *state, number int) netip.Addr {
	return onBridge.addr(st.Subnet, gatewayHost+number-1)
}

func serverURLOf(st *state, number int) string {
	return "https://" + netip.AddrPortFrom(serverAddr(st, number), apiPort).String()
}

func (c *Cluster) serverDir(number int) string {
	return filepath.Join(c.Dir, fmt.Sprintf("skepd%d", number))
}

// ServerLog is where the output of a server besides the first goes; those are numbered from 2 on.
func (c *Cluster) ServerLog(number int) string {
	return filepath.Join(c.Dir, fmt.Sprintf("skepd%d.log", number))
}

// Servers are the URLs of the API at each server, the first one first.
func (c *Cluster) Servers() ([]string, error) {
	st, err := c.load()
	if err != nil {
		return nil, err
	}
	urls := []string{serverURL(st)}
	for _, f := range st.Further {
		urls = append(urls, serverURLOf(st, f.Number))
	}
	return urls, nil
}

// planServers notes the servers that there are to be, and gives the bridge their addresses.
func (c *Cluster) planServers(st *state, servers int) error {
	if servers < 0 || servers > MaxServers {
		return fmt.Errorf("%d servers: want 1 to %d", servers, MaxServers)
	}
	for number := len(st.Further) + 2; number <= servers; number++ {
		st.Further = append(st.Further, &further{Number: number})
	}
	if len(st.Further) == 0 {
		return nil
	}
	bridge, err := ownLink(c.Name, bridgeName(c.Name))
	if err != nil {
		return err
	}
	for _, f := range st.Further {
		if err := addAddresses(bridge, onBridge.addrs(st.Subnet, gatewayHost+f.Number-1, false)); err != nil {
			return err
		}
	}
	return nil
}

// hasJoined says whether a server is one of the cluster already, and needs no token.
func (c *Cluster) hasJoined(number int) bool {
	data, err := os.ReadFile(filepath.Join(c.serverDir(number), "server.json"))
	if err != nil {
		return false
	}
	var file struct {
		State string `json:"state"`
	}
	return json.Unmarshal(data, &file) == nil && file.State == "member"
}

// startJoined starts the further servers that have joined: without them, the first may have no quorum.
func (c *Cluster) startJoined(ctx context.Context, st *state) error {
	for _, f := range st.Further {
		if c.hasJoined(f.Number) {
			if err := c.startFurther(ctx, st, f, nil); err != nil {
				return err
			}
		}
	}
	return nil
}

// startFurther starts a server besides the first, unless it runs.
func (c *Cluster) startFurther(ctx context.Context, st *state, f *further, join []string) error {
	if f.Skepd.alive() {
		return nil
	}
	argv := append([]string{"--name", fmt.Sprintf("server%d", f.Number)}, join...)
	var err error
	f.Skepd, err = c.runSkepd(ctx, st, skepdPlace{
		cgroup: fmt.Sprintf("skepd%d", f.Number), dir: c.serverDir(f.Number), log: c.ServerLog(f.Number), addr: serverAddr(st, f.Number),
	}, argv)
	return err
}

// joinServers has the servers join that have not yet, one after the other, and returns when all are ready.
func (c *Cluster) joinServers(ctx context.Context, begin time.Time) error {
	st, err := c.load()
	if err != nil {
		return err
	}
	for i, f := range st.Further {
		if !c.hasJoined(f.Number) {
			token, err := c.serverToken(ctx)
			if err != nil {
				return err
			}
			err = c.change(func(st *state) error {
				return c.startFurther(ctx, st, st.Further[i], []string{"--join", serverURL(st), "--token", token})
			})
			if err != nil {
				return err
			}
		}
		if err := c.awaitServer(ctx, f.Number); err != nil {
			return err
		}
		c.say("Server %d ready            %6.1fs  %s", f.Number, time.Since(begin).Seconds(), c.ServerLog(f.Number))
	}
	return nil
}

// serverToken lets one server join.
func (c *Cluster) serverToken(ctx context.Context) (string, error) {
	return c.makeToken(ctx, jointoken.Token{Description: "For a server of skep up.", Expires: time.Now().Add(jointoken.ServerTTL), Server: true})
}

// awaitServer returns when a server answers that it is ready.
func (c *Cluster) awaitServer(ctx context.Context, number int) error {
	config, err := c.RESTConfig()
	if err != nil {
		return err
	}
	st, err := c.load()
	if err != nil {
		return err
	}
	config.Host, config.Timeout = serverURLOf(st, number), 5*time.Second
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	ticker := time.NewTicker(100 * time.Millisecond)
	defer ticker.Stop()
	for {
		if st, err = c.load(); err != nil {
			return err
		}
		if !st.Further[number-2].Skepd.alive() {
			return fmt.Errorf("server %d ended while starting; the end of %s:\n%s", number, c.ServerLog(number), tail(c.ServerLog(number), 10))
		}
		if _, err = client.Discovery().RESTClient().Get().AbsPath("/readyz").DoRaw(ctx); err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("server %d does not become ready (%w); the end of %s:\n%s", number, err, c.ServerLog(number), tail(c.ServerLog(number), 10))
		case <-ticker.C:
		}
	}
}
