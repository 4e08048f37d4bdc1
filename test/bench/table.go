package main

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
)

// figures are what benchmarks reported: "PACKAGE BENCHMARK UNIT" -> value.
type figures map[string]float64

// read parses one line of a benchmark's output, "BenchmarkName-2  1  3.5 unit  7 other-unit"; others are ignored.
func (f figures) read(name, line string) {
	fields := strings.Fields(line)
	if len(fields) < 4 || !strings.HasPrefix(fields[0], "Benchmark") {
		return
	}
	benchmark := fields[0]
	if i := strings.LastIndex(benchmark, "-"); i > 0 { // the number of CPUs
		if _, err := strconv.Atoi(benchmark[i+1:]); err == nil {
			benchmark = benchmark[:i]
		}
	}
	for i := 2; i+1 < len(fields); i += 2 {
		if value, err := strconv.ParseFloat(fields[i], 64); err == nil {
			f[key(name, benchmark, fields[i+1])] = value
		}
	}
}

func key(name, benchmark, unit string) string { return name + " " + benchmark + " " + unit }

// row is one line of the table. An empty unit makes a heading.
type row struct {
	what, name, benchmark, unit, goal string // name: of the package
}

const (
	hop    = "./test/bench/service"
	xdp    = "./dataplane/flow"
	change = "./test/bench/endpoints"
	memory = "./test/bench/memory"
	path   = "./test/bench/path"
	pod    = "./test/bench/pod"
	bind   = "./test/bench/scheduling"
	cut    = "./test/bench/failure"
)

func rows() (all []row) {
	add := func(what, name, benchmark, unit, goal string) {
		all = append(all, row{what, name, "Benchmark" + benchmark, unit, goal})
	}
	sizes := []string{"1", "10000", "50000"}
	add("connect() through a service, less direct to the backend", "", "", "", "")
	for _, n := range sizes {
		add("  one of "+n+" services, again and again", hop, "Connect/services="+n, "added-ns", "300")
		add("  "+n+" services in random order", hop, "Connect/services="+n, "added-spread-ns", "")
	}
	for _, m := range []struct{ unit, what, goal string }{
		{"conn/s", "TCP connections a second", "0.98"},
		{"rr/s", "UDP requests and responses a second", ""},
		{"MB/s", "TCP throughput", ""},
	} {
		add(m.what+": median, and ratio to direct without any proxy", "", "", "", "")
		for _, n := range sizes {
			benchmark := "Compare/services=" + n
			add("  direct, "+n+" services", hop, benchmark, "direct-"+m.unit, "")
			for _, side := range []string{"skep", "nftables", "iptables"} {
				add("  "+side, hop, benchmark, side+"-"+m.unit, "")
				goal := ""
				if side == "skep" {
					goal = m.goal
				}
				add("  "+side+" / direct", hop, benchmark, side+"/direct-"+m.unit, goal)
			}
		}
	}
	add("XDP at the uplink, ns a packet, less an empty program", "", "", "", "")
	for _, c := range []string{"known-here", "known-here-IPv6", "known-encapsulated", "known-decapsulated", "new-here", "new-encapsulated", "no-service"} {
		add("  "+c, xdp, "Packet/"+c, "ns/packet", "100")
	}
	add("one endpoint change at 10,000 services, 50 a second", "", "", "", "")
	for _, unit := range []string{"commit-p50-ms", "commit-p99-ms", "request-p50-ms", "request-p99-ms"} {
		add("  from "+strings.TrimSuffix(unit, "-ms"), change, "EndpointChange", unit, map[string]string{"commit-p99-ms": "5"}[unit])
	}
	add("  in the data plane alone, p50", hop, "EndpointChange", "p50-us", "")
	add("  in the data plane alone, p99", hop, "EndpointChange", "p99-us", "")
	add("50,000 services with 250,000 endpoints", "", "", "", "")
	add("  filled into empty maps", hop, "FullLoad", "load-s", "")
	add("  one change among them", hop, "FullLoad", "change-ms", "")
	add("  adopted by a new process", hop, "FullLoad", "adopt-s", "")
	add("  memory of the maps", hop, "FullLoad", "maps-MiB", "")
	add("an agent, 5 endpoints a service (kube-proxy with 10,000 services: 170 MB)", "", "", "", "")
	for _, n := range sizes {
		add("  RSS with "+n+" services", memory, "Agent/services="+n, "rss-MB", "")
		add("  of that anonymous", memory, "Agent/services="+n, "anonymous-MB", "")
	}
	add("between pods, programs of the path / host's stack", "", "", "", "")
	for _, nodes := range []string{"OneNode", "TwoNodes"} {
		for _, unit := range []string{"ratio-Gbit/s", "ratio-ms-CPU/GiB", "ratio-µs/request"} {
			add("  "+nodes, path, nodes, unit, "")
		}
	}
	add("a pod's start / a container made with containerd", "", "", "", "")
	for _, unit := range []string{"ratio-p50", "ratio-p99"} {
		add("  "+strings.TrimPrefix(unit, "ratio-"), pod, "Start", unit, "")
	}
	add("pods created and bound with 5,000 nodes, data in memory", "", "", "", "")
	add("  a second", bind, "Pods", "skepd-pods/s", "")
	add("  / etcd alone, two writes a pod", bind, "Pods", "skepd/etcd", "")
	add("  RSS of skepd without nodes", bind, "Pods", "skepd-idle-MB", "")
	add("  RSS of skepd with the nodes", bind, "Pods", "skepd-nodes-MB", "")
	add("a host that is cut off, until it is out of every map (20 of them)", "", "", "", "")
	add("  p50", cut, "Cut", "out-p50-ms", "")
	add("  longest", cut, "Cut", "out-p99-ms", "500")
	add("  Kubernetes' default of 50 s / p50", cut, "Cut", "default/skep", "")
	add("  tuned Kubernetes' 4 s / p50", cut, "Cut", "tuned/skep", "")
	return all
}

// print writes the rows of which a figure was taken or should have been.
func (f figures) print(w io.Writer) {
	table := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "what\tfigure\tunit\tgoal\t")
	for _, r := range rows() {
		if r.unit == "" {
			fmt.Fprintf(table, "%s\t\t\t\t\n", r.what)
			continue
		}
		figure := "not taken"
		if value, ok := f[key(r.name, r.benchmark, r.unit)]; ok {
			figure = strconv.FormatFloat(value, 'g', 4, 64)
			if value >= 1000 {
				figure = strconv.FormatFloat(value, 'f', 0, 64)
			}
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t\n", r.what, figure, r.unit, r.goal)
	}
	table.Flush()
}
