package stats

import (
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sys/unix"
)

// machineLabels identify the host, as the node's status does.
var machineLabels = []string{"boot_id", "machine_id", "system_uuid"}

var (
	machineCPUs   = prometheus.NewDesc("machine_cpu_cores", "Number of logical CPU cores.", machineLabels, nil)
	machineMemory = prometheus.NewDesc("machine_memory_bytes", "Amount of memory installed on the machine.", machineLabels, nil)
	machineSwap   = prometheus.NewDesc("machine_swap_bytes", "Amount of swap memory available on the machine.", machineLabels, nil)
	scrapeError   = prometheus.NewDesc("container_scrape_error", "1 if there was an error while getting container metrics, 0 otherwise", nil, nil)
)

func describeMachine(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{machineCPUs, machineMemory, machineSwap, scrapeError} {
		ch <- d
	}
}

func collectMachine(ch chan<- prometheus.Metric, failed float64) {
	labels := machineIDs()
	ch <- prometheus.MustNewConstMetric(machineCPUs, prometheus.GaugeValue, float64(runtime.NumCPU()), labels...)
	for desc, name := range map[*prometheus.Desc]string{machineMemory: "MemTotal", machineSwap: "SwapTotal"} {
		if bytes, ok := meminfo(name); ok {
			ch <- prometheus.MustNewConstMetric(desc, prometheus.GaugeValue, float64(bytes), labels...)
		}
	}
	ch <- prometheus.MustNewConstMetric(scrapeError, prometheus.GaugeValue, failed)
}

// machineIDs are the values of machineLabels; one that the host does not tell is empty.
var machineIDs = sync.OnceValue(func() (ids []string) {
	for _, file := range []string{"/proc/sys/kernel/random/boot_id", "/etc/machine-id", "/sys/class/dmi/id/product_uuid"} {
		data, err := os.ReadFile(file)
		if err != nil {
			data = nil
		}
		ids = append(ids, strings.TrimSpace(string(data)))
	}
	return ids
})

var deviceNames sync.Map // number of a block device -> its name

// deviceName is the path of a block device, as /dev/sda; its numbers if the host has no such device any more.
func deviceName(device int) string {
	if name, ok := deviceNames.Load(device); ok {
		return name.(string)
	}
	name := fmt.Sprintf("%d:%d", unix.Major(uint64(device)), unix.Minor(uint64(device)))
	data, err := os.ReadFile("/sys/dev/block/" + name + "/uevent")
	if err != nil {
		return name
	}
	for line := range strings.Lines(string(data)) {
		if dev, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME="); ok {
			name = "/dev/" + dev
		}
	}
	deviceNames.Store(device, name)
	return name
}

// deviceOf is the device of the file system that holds a folder; empty if there is no such folder.
func deviceOf(dir string) string {
	var st unix.Stat_t
	if dir == "" || unix.Stat(dir, &st) != nil {
		return ""
	}
	return deviceName(int(st.Dev))
}
