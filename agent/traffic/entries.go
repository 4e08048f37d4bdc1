package traffic

import (
	"errors"
	"reflect"

	"github.com/cilium/ebpf"
)

// batch is how many entries are read at once: a map of a million is counted in a tenth of a second.
const batch = 8192

// entries counts the entries of a hash map; other kinds of maps are always full.
func entries(m *ebpf.Map) (n int, counted bool, err error) {
	switch m.Type() {
	case ebpf.Hash, ebpf.LRUHash:
	default:
		return 0, false, nil
	}
	keys := reflect.MakeSlice(reflect.SliceOf(reflect.ArrayOf(int(m.KeySize()), reflect.TypeFor[byte]())), batch, batch).Interface()
	values := reflect.MakeSlice(reflect.SliceOf(reflect.ArrayOf(int(m.ValueSize()), reflect.TypeFor[byte]())), batch, batch).Interface()
	var cursor ebpf.MapBatchCursor
	for {
		read, err := m.BatchLookup(&cursor, keys, values, nil)
		n += read
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return n, true, nil
		}
		if err != nil {
			return n, false, err
		}
	}
}
