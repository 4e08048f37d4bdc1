package apiserver

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
)

// through returns a transport whose connections go to pods through an agent. Each connection serves one request: the address may soon be
// another pod's, which a kept connection would not notice.
func (a *agents) through(nodeName string, agent netip.AddrPort) *http.Transport {
	return &http.Transport{
		DialContext: func(ctx context.Context, _, address string) (net.Conn, error) {
			return a.tunnel(ctx, nodeName, agent, address)
		},
		TLSClientConfig:   anyCertificate(),
		DisableKeepAlives: true,
	}
}

// tunnel has an agent connect to the address of a pod of its node, and returns the connection to the pod.
func (a *agents) tunnel(ctx context.Context, nodeName string, agent netip.AddrPort, address string) (net.Conn, error) {
	conn, err := a.handshake(ctx, nodeName, agent)
	if err != nil {
		return nil, err
	}
	defer context.AfterFunc(ctx, func() { conn.Close() })()
	pod, err := connectThrough(conn, agent.String(), address)
	if err != nil {
		conn.Close()
		return nil, err
	}
	return pod, nil
}

func connectThrough(conn net.Conn, agent, address string) (net.Conn, error) {
	request := &http.Request{
		Method: http.MethodGet, Host: agent, URL: &url.URL{Path: "/connect/" + address},
		Header: http.Header{"Connection": {"Upgrade"}, "Upgrade": {"tcp"}},
	}
	if err := request.Write(conn); err != nil {
		return nil, fmt.Errorf("ask the agent at %s for %s: %w", agent, address, err)
	}
	reader := bufio.NewReader(conn)
	response, err := http.ReadResponse(reader, request)
	if err != nil {
		return nil, fmt.Errorf("ask the agent at %s for %s: %w", agent, address, err)
	}
	if response.StatusCode != http.StatusSwitchingProtocols {
		defer response.Body.Close()
		text, _ := io.ReadAll(io.LimitReader(response.Body, 4<<10)) // what could be read is better than nothing
		return nil, fmt.Errorf("the agent at %s: %s", agent, strings.TrimSpace(string(text)))
	}
	return &bufferedConn{Conn: conn, reader: reader}, nil
}

// bufferedConn is a connection of which some was read ahead.
type bufferedConn struct {
	net.Conn
	reader *bufio.Reader
}

func (c *bufferedConn) Read(p []byte) (int, error) { return c.reader.Read(p) }

// NetConn is the connection below.
func (c *bufferedConn) NetConn() net.Conn { return c.Conn }
