package skep

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"time"
)

// endpointsEvery is how often the file of etcd's endpoints is read. A volume's file is renamed into place, so that part of it is never seen.
const endpointsEvery = 3 * time.Second

// readEndpoints reads URLs that are separated by commas or white space.
func readEndpoints(path string) ([]string, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	endpoints := strings.FieldsFunc(string(data), func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' })
	if len(endpoints) == 0 {
		return nil, fmt.Errorf("%s names none", path)
	}
	return endpoints, nil
}

// followEndpoints calls set when the file names other endpoints than before, until ctx ends.
func followEndpoints(ctx context.Context, path string, known []string, set func(...string)) {
	ticker := time.NewTicker(endpointsEvery)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		now, err := readEndpoints(path)
		if err != nil {
			log.Warningf("the endpoints of etcd cannot be read, and stay as they are: %v", err)
			continue
		}
		if !slices.Equal(now, known) {
			log.Infof("the endpoints of etcd are %s now", strings.Join(now, ", "))
			known = now
			set(now...)
		}
	}
}
