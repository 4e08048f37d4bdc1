package stats

import (
	"context"
	"errors"
	"log/slog"
	"path"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	statsapi "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
)

// Metrics exposes what cgroups use, by cAdvisor's metric names and labels as the kubelet has them: dashboards and rules for Kubernetes
// select by both. There is a row for each container, each pod, the cgroups above them, and the node (id="/").
func (c *Collector) Metrics() prometheus.Collector { return metrics{c} }

type metrics struct{ c *Collector }

// containerLabels are on every row; a row that has no such thing has an empty value. The id is the path of the cgroup below the node's.
var containerLabels = []string{"container", "id", "image", "name", "namespace", "pod"}

// row is a cgroup with all that is known of it.
type row struct {
	id, path                               string
	container, image, name, namespace, pod string
	started                                time.Time
	usage                                  Usage
	detail                                 Detail
	network                                []Network
	fs                                     *statsapi.FsStats // of which the row uses a part
	fsUsed                                 uint64
	fsDevice                               string
}

func (r *row) labels(extra ...string) []string {
	return append([]string{r.container, r.id, r.image, r.name, r.namespace, r.pod}, extra...)
}

// metric is one family: its values of a row, each with the values of the labels beside containerLabels.
type metric struct {
	desc   *prometheus.Desc
	kind   prometheus.ValueType
	values func(r *row, send func(value float64, extra ...string))
}

func define(name, help string, kind prometheus.ValueType, values func(r *row, send func(float64, ...string)), extra ...string) metric {
	return metric{prometheus.NewDesc(name, help, append(containerLabels[:len(containerLabels):len(containerLabels)], extra...), nil), kind, values}
}

func counter(name, help string, value func(r *row) float64) metric {
	return define(name, help, prometheus.CounterValue, func(r *row, send func(float64, ...string)) { send(value(r)) })
}

func gauge(name, help string, value func(r *row) float64) metric {
	return define(name, help, prometheus.GaugeValue, func(r *row, send func(float64, ...string)) { send(value(r)) })
}

// pressured is a counter that only rows of hierarchies with pressure accounting have.
func pressured(name, help string, of func(r *row) Pressure, value func(Pressure) time.Duration) metric {
	return define(name, help, prometheus.CounterValue, func(r *row, send func(float64, ...string)) {
		if p := of(r); p.Known {
			send(value(p).Seconds())
		}
	})
}

func waiting(p Pressure) time.Duration { return p.Waiting }
func stalled(p Pressure) time.Duration { return p.Stalled }

func onDisk(name, help string, value func(DiskIO) uint64) metric {
	return define(name, help, prometheus.CounterValue, func(r *row, send func(float64, ...string)) {
		for _, d := range r.detail.Disks {
			send(float64(value(d)), deviceName(d.Device))
		}
	}, "device")
}

func onInterface(name, help string, value func(Network) uint64) metric {
	return define(name, help, prometheus.CounterValue, func(r *row, send func(float64, ...string)) {
		for _, n := range r.network {
			send(float64(value(n)), n.Interface)
		}
	}, "interface")
}

// Describe implements prometheus.Collector.
func (m metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, f := range families {
		ch <- f.desc
	}
	describeMachine(ch)
}

// collectTimeout bounds one collection.
const collectTimeout = 30 * time.Second

// Collect implements prometheus.Collector.
func (m metrics) Collect(ch chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), collectTimeout)
	defer cancel()
	failed := 0.0
	for _, r := range m.c.rows(ctx) {
		if err := m.c.complete(&r); errors.Is(err, ErrGone) {
			continue // it has ended since it was listed
		} else if err != nil {
			slog.Warn("cgroup not measured", "err", err)
			failed = 1
			continue
		}
		for _, f := range families {
			f.values(&r, func(value float64, extra ...string) {
				ch <- prometheus.NewMetricWithTimestamp(r.usage.At, prometheus.MustNewConstMetric(f.desc, f.kind, value, r.labels(extra...)...))
			})
		}
	}
	collectMachine(ch, failed)
}

// rows are the cgroups to be measured: the node's, those between it and the pods, the pods' and the containers'.
func (c *Collector) rows(ctx context.Context) []row {
	disks, _ := c.measureDisks(ctx)
	nodeDevice, imagesDevice := deviceOf(c.dir), deviceOf(c.source.Images(ctx).Dir)
	root := row{path: c.cgroup, started: c.startTime, network: c.source.NodeNetwork(), fs: disks.node, fsDevice: nodeDevice}
	if disks.node != nil {
		root.fsUsed = *disks.node.UsedBytes
	}
	all := []row{root}
	between := map[string]bool{c.cgroup: true}
	for _, p := range c.source.Pods() {
		for above := path.Dir(p.CgroupPath); !between[above] && strings.HasPrefix(above, c.cgroup); above = path.Dir(above) {
			between[above] = true
			all = append(all, row{path: above, started: c.startTime})
		}
		pod := row{path: p.CgroupPath, namespace: p.Namespace, pod: p.Name, started: p.StartedAt}
		if n, ok := c.source.PodNetwork(p.UID); ok {
			pod.network = []Network{n}
		}
		disk, measured := c.source.Disk(p.UID)
		if measured {
			pod.fs, pod.fsUsed, pod.fsDevice = disks.node, disk.Total().Bytes, nodeDevice
		}
		all = append(all, pod)
		for _, ctr := range p.Containers {
			r := row{
				path: ctr.CgroupPath, container: ctr.Name, image: ctr.Image, name: ctr.ID, namespace: p.Namespace, pod: p.Name, started: ctr.StartedAt,
			}
			if measured {
				r.fs, r.fsUsed, r.fsDevice = disks.images, disk.Container(ctr.Name).Bytes, imagesDevice
			}
			all = append(all, r)
		}
	}
	return all
}

// complete measures the row's cgroup.
func (c *Collector) complete(r *row) (err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	r.id = "/" + strings.TrimPrefix(strings.TrimPrefix(r.path, c.cgroup), "/")
	if r.detail, err = c.hierarchy.Detail(r.path, c.buf); err != nil {
		return err
	}
	files, err := c.hierarchy.Open(r.path)
	if err != nil {
		return err
	}
	defer files.Close()
	if r.usage, err = files.Read(c.buf, false); err != nil {
		return err
	}
	if r.path == "/" {
		r.completeHost()
	}
	return nil
}

// completeHost adds what the root cgroup does not count: of a whole host that is in /proc.
func (r *row) completeHost() {
	if m := hostMemory(); m != nil {
		r.usage.Memory, r.usage.WorkingSet, r.usage.RSS = *m.UsageBytes, *m.WorkingSetBytes, *m.RSSBytes
	}
	if s := hostSwap(); s != nil {
		r.usage.Swap = *s.SwapUsageBytes
	}
	if cached, ok := meminfo("Cached"); ok {
		r.detail.Cache = cached
	}
	for file, p := range map[string]*Pressure{"cpu": &r.detail.CPUPressure, "memory": &r.detail.MemoryPressure, "io": &r.detail.IOPressure} {
		buf := make([]byte, 256)
		if data, err := readInto(buf, "/proc/pressure/"+file); err == nil {
			*p = parsePressure(data)
		}
	}
}
