package house

import (
	"strings"
	"testing"
)

// Within the control plane each layer knows those below it and nothing of those above: what it needs of them is handed in.
func TestControlPlaneIsLayered(t *testing.T) {
	may := map[string][]string{
		"controlplane/storage":    {},
		"controlplane/watchcache": {"controlplane/storage"},
		"controlplane/scheme":     {"controlplane/storage"},
		"controlplane/identity":   {},
		"controlplane/resource":   {"controlplane/identity", "controlplane/scheme", "controlplane/storage", "controlplane/watchcache"},
		"controlplane/allocator":  {"controlplane/resource", "controlplane/scheme", "controlplane/servicespec", "controlplane/storage"},
		"controlplane/admission":  {"controlplane/allocator", "controlplane/identity", "controlplane/resource", "controlplane/servicespec"},
		"controlplane/kinds": {
			"controlplane/admission", "controlplane/allocator", "controlplane/resource", "controlplane/scheme", "controlplane/servicespec", "controlplane/storage",
		},
	}
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, module+"/")
		allowed, layer := may[path]
		for _, imported := range p.Imports {
			to, ours := strings.CutPrefix(imported, module+"/")
			if layer && ours && within(to, "controlplane") && !withinAny(to, allowed) {
				t.Errorf("%s imports %s; of the control plane it may import only %v", path, to, allowed)
			}
		}
	}
}

// The API server and the loops reach what is stored through the registry, where every write passes the same rules.
func TestNobodyGoesAroundTheRegistry(t *testing.T) {
	rooms := []string{"controlplane/apiserver", "controlplane/controller", "controlplane/scheduler", "controlplane/event"}
	for _, p := range packages(t) {
		path := strings.TrimPrefix(p.ImportPath, module+"/")
		if !withinAny(path, rooms) {
			continue
		}
		for _, imported := range p.Imports {
			to := strings.TrimPrefix(imported, module+"/")
			if within(to, "go.etcd.io") || withinAny(to, []string{"controlplane/storage", "controlplane/etcd", "controlplane/encryption"}) {
				t.Errorf("%s imports %s; it may read and write through controlplane/resource only", path, imported)
			}
		}
	}
}
