package logs

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/skep-io/skep/agent/confine"
)

const (
	// MaxFileSize is the size at which a log file is rotated.
	MaxFileSize = 10 << 20
	// MaxFiles is how many files of a container's log are kept, including the one being written.
	MaxFiles = 3
)

// A sealed log has no write permission: its container has ended and it will not grow. Readers that follow it stop at its
// end.
const (
	openMode   = 0o640
	sealedMode = 0o440
)

// file is a log being written: PATH, and the older PATH.1 and PATH.2.
type file struct {
	path string
	f    *os.File
	size int64
	max  int64
}

// openFile opens a log for appending. A record that a killed writer left unfinished is terminated, so that it does not
// corrupt the next.
func openFile(path string, max int64) (*file, error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil, fmt.Errorf("log folder: %w", err)
	}
	f, err := confine.CreateRegular(path, os.O_RDWR|os.O_APPEND, openMode)
	if err != nil {
		return nil, fmt.Errorf("open log: %w", err)
	}
	l := &file{path: path, f: f, max: max}
	info, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, fmt.Errorf("open log: %w", err)
	}
	l.size = info.Size()
	last := []byte{'\n'}
	if l.size > 0 {
		if _, err := f.ReadAt(last, l.size-1); err != nil {
			f.Close()
			return nil, fmt.Errorf("read the end of %s: %w", path, err)
		}
	}
	if last[0] != '\n' {
		if err := l.write([]byte{'\n'}); err != nil {
			f.Close()
			return nil, err
		}
	}
	return l, nil
}

// write appends whole records and rotates when the file is full.
func (l *file) write(records []byte) error {
	if len(records) == 0 {
		return nil
	}
	n, err := l.f.Write(records)
	l.size += int64(n)
	if err != nil {
		return fmt.Errorf("write log: %w", err)
	}
	if l.size < l.max {
		return nil
	}
	return l.rotate()
}

// rotate renames oldest first, so that a crash between two renames loses no file but the oldest.
func (l *file) rotate() error {
	for i := MaxFiles - 1; i >= 1; i-- {
		if err := os.Rename(rotated(l.path, i-1), rotated(l.path, i)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("rotate log: %w", err)
		}
	}
	next, err := confine.CreateRegular(l.path, os.O_RDWR|os.O_APPEND, openMode)
	if err != nil {
		return fmt.Errorf("rotate log: %w", err)
	}
	l.f.Close()
	l.f, l.size = next, 0
	return nil
}

// seal ends the log.
func (l *file) seal() error {
	defer l.f.Close()
	if err := l.f.Chmod(sealedMode); err != nil {
		return fmt.Errorf("seal log: %w", err)
	}
	return nil
}

// rotated names the i-th newest file of a log.
func rotated(path string, i int) string {
	if i == 0 {
		return path
	}
	return fmt.Sprintf("%s.%d", path, i)
}
