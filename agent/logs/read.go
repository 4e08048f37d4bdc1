package logs

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/skep-io/skep/agent/confine"
)

// Read copies a container's log, rotated files first, as opts selects: standard output to out, standard error to errOut. With
// Follow it continues until the log is sealed, ctx ends or LimitBytes is reached.
func Read(ctx context.Context, path string, opts corev1.PodLogOptions, out, errOut io.Writer) error {
	return copyLog(ctx, path, opts, out, errOut, func() {})
}

// Follow copies what is written to a container's log from now on, until the log is sealed or ctx ends. It calls begun once
// everything written afterwards will be copied.
func Follow(ctx context.Context, path string, out, errOut io.Writer, begun func()) error {
	return copyLog(ctx, path, corev1.PodLogOptions{Follow: true, TailLines: new(int64)}, out, errOut, begun)
}

func copyLog(ctx context.Context, path string, opts corev1.PodLogOptions, out, errOut io.Writer, begun func()) error {
	r, err := newReader(path, opts, out, errOut)
	if err != nil {
		return err
	}
	defer r.close()
	var changes *changes
	if opts.Follow {
		// Watching starts before the first read, so that no change is missed.
		if changes, err = watchDir(ctx, filepath.Dir(path)); err != nil {
			return err
		}
		defer changes.close()
	}
	if err := r.start(opts.TailLines); err != nil {
		return err
	}
	begun()
	for {
		// Whether the log is sealed must be read before the last copy, else records written in between are missed.
		newest, sealed, err := r.position()
		if err != nil {
			return err
		}
		if err := r.copy(); err != nil {
			if errors.Is(err, errLimit) {
				return nil
			}
			return err
		}
		if !newest {
			if err := r.advance(); err != nil {
				return err
			}
			continue
		}
		if !opts.Follow || sealed {
			return r.finish()
		}
		if err := changes.wait(); err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// errLimit ends reading at LimitBytes.
var errLimit = errors.New("limit reached")

type reader struct {
	path    string
	f       *os.File
	in      *bufio.Reader
	pending []byte // a record whose end has not been written yet
	tooLong bool   // the pending line is too long for a record

	since      time.Time
	timestamps bool
	stream     string // of records to show; empty: both
	limit      int64  // remaining bytes; negative: no limit
	outputs    map[string]*output
}

// output is a stream's receiver.
type output struct {
	w       io.Writer
	midLine bool // the last record was partial: the next one continues its line
}

func newReader(path string, opts corev1.PodLogOptions, out, errOut io.Writer) (*reader, error) {
	r := &reader{
		path: path, timestamps: opts.Timestamps, limit: -1,
		outputs: map[string]*output{Stdout: {w: out}, Stderr: {w: errOut}},
	}
	if opts.SinceTime != nil {
		r.since = opts.SinceTime.Time
	}
	if opts.SinceSeconds != nil {
		r.since = time.Now().Add(-time.Duration(*opts.SinceSeconds) * time.Second)
	}
	if opts.LimitBytes != nil {
		r.limit = *opts.LimitBytes
	}
	if opts.Stream != nil {
		switch *opts.Stream {
		case corev1.LogStreamStdout:
			r.stream = Stdout
		case corev1.LogStreamStderr:
			r.stream = Stderr
		case corev1.LogStreamAll, "":
		default:
			return nil, fmt.Errorf("unknown log stream %q", *opts.Stream)
		}
	}
	return r, nil
}

func (r *reader) close() {
	if r.f != nil {
		r.f.Close()
	}
}

func (r *reader) use(f *os.File) {
	r.close()
	r.f, r.in = f, bufio.NewReaderSize(f, 64<<10)
}

// start opens the oldest file or, with tail, the file in which the last lines begin, at that offset.
func (r *reader) start(tail *int64) error {
	if tail == nil {
		return r.openOldest()
	}
	remaining := *tail
	for i := range MaxFiles {
		f, err := confine.OpenRegular(rotated(r.path, i), os.O_RDONLY)
		if errors.Is(err, fs.ErrNotExist) && i > 0 {
			return nil // all of the file before
		}
		if err != nil {
			return fmt.Errorf("open log: %w", err)
		}
		r.use(f)
		at, missing, err := r.tailStart(f, remaining)
		if err != nil {
			return err
		}
		if _, err := f.Seek(at, io.SeekStart); err != nil {
			return fmt.Errorf("log: %w", err)
		}
		if remaining = missing; missing == 0 {
			return nil
		}
	}
	return nil
}

func (r *reader) openOldest() error {
	for i := MaxFiles - 1; i > 0; i-- {
		if err := r.openFile(i); err == nil || !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return r.openFile(0)
}

// tailStart finds where the last n lines of f start; missing is how many lines f has fewer.
func (r *reader) tailStart(f *os.File, n int64) (at, missing int64, err error) {
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return 0, 0, fmt.Errorf("size of log: %w", err)
	}
	if n == 0 {
		return size, 0, nil
	}
	lines := backward{f: f, at: size, end: size}
	found := int64(0)
	open := false // records that end a line were seen since the last boundary
	for {
		line, end, err := lines.previous()
		if err != nil {
			return 0, 0, err
		}
		if line == nil {
			if open {
				found++
			}
			return 0, max(n-found, 0), nil
		}
		rec, ok := parseRecord(line)
		if ok && r.stream != "" && string(rec.stream) != r.stream {
			continue
		}
		if (!ok || !rec.partial) && open {
			if found++; found == n {
				return end, 0, nil
			}
		}
		open = true
	}
}

func (r *reader) selects(rec record) bool {
	if r.stream != "" && string(rec.stream) != r.stream {
		return false
	}
	if r.since.IsZero() {
		return true
	}
	at, err := rec.when()
	return err != nil || !at.Before(r.since)
}

// position says whether the open file is the newest, and if so whether it is sealed.
func (r *reader) position() (newest, sealed bool, err error) {
	now, err := r.f.Stat()
	if err != nil {
		return false, false, fmt.Errorf("log: %w", err)
	}
	head, err := os.Lstat(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		// Between the two steps of a rotation, or removed with its pod: then the newest rotated file is missing too.
		last, err := os.Lstat(rotated(r.path, 1))
		if err != nil {
			return true, true, nil
		}
		return os.SameFile(now, last), false, nil
	}
	if err != nil {
		return false, false, fmt.Errorf("log: %w", err)
	}
	return os.SameFile(now, head), head.Mode()&0o222 == 0, nil
}

// advance opens the file that follows the open one. If the open file was removed by rotation, the oldest follows.
func (r *reader) advance() error {
	now, err := r.f.Stat()
	if err != nil {
		return fmt.Errorf("log: %w", err)
	}
	for i := range MaxFiles {
		info, err := os.Lstat(rotated(r.path, i))
		if err == nil && os.SameFile(now, info) && i > 0 {
			return r.openFile(i - 1)
		}
	}
	return r.openOldest()
}

func (r *reader) openFile(i int) error {
	f, err := confine.OpenRegular(rotated(r.path, i), os.O_RDONLY)
	if err != nil {
		return fmt.Errorf("open log: %w", err)
	}
	r.use(f)
	return nil
}

// copy outputs all complete records up to the end of the open file.
func (r *reader) copy() error {
	for {
		line, err := r.in.ReadSlice('\n')
		if err != nil {
			if !r.tooLong {
				r.pending = append(r.pending, line...)
			}
			if len(r.pending) > maxRecord {
				r.pending, r.tooLong = r.pending[:0], true
			}
			switch {
			case errors.Is(err, bufio.ErrBufferFull):
				continue
			case errors.Is(err, io.EOF):
				return nil
			}
			return fmt.Errorf("read log: %w", err)
		}
		if r.tooLong {
			r.tooLong = false
			continue
		}
		if len(r.pending) > 0 {
			r.pending = append(r.pending, line...)
			line = r.pending
		}
		err = r.show(bytes.TrimSuffix(line, []byte{'\n'}))
		r.pending = r.pending[:0]
		if err != nil {
			return err
		}
	}
}

// finish outputs a record that a crash left without its end.
func (r *reader) finish() error {
	if len(r.pending) == 0 {
		return nil
	}
	if err := r.show(r.pending); err != nil && !errors.Is(err, errLimit) {
		return err
	}
	return nil
}

func (r *reader) show(line []byte) error {
	rec, ok := parseRecord(line)
	if !ok {
		// The rest of a record that a crash cut: not shown, since neither its time nor its stream is known.
		return nil
	}
	if !r.selects(rec) {
		return nil
	}
	o := r.outputs[string(rec.stream)]
	text := make([]byte, 0, len(rec.time)+len(rec.text)+2)
	if r.timestamps && !o.midLine {
		text = append(append(text, rec.time...), ' ')
	}
	text = append(text, rec.text...)
	if !rec.partial {
		text = append(text, '\n')
	}
	o.midLine = rec.partial
	limited := r.limit >= 0 && int64(len(text)) >= r.limit
	if limited {
		text = text[:r.limit]
	}
	if _, err := o.w.Write(text); err != nil {
		return err
	}
	if limited {
		return errLimit
	}
	if r.limit >= 0 {
		r.limit -= int64(len(text))
	}
	return nil
}

// backward reads a file's lines from the end.
type backward struct {
	f       io.ReaderAt
	at      int64  // where buf starts in the file
	buf     []byte // not yet returned
	end     int64  // end of the line that is returned next
	tooLong bool   // that line is no record, and its end is no longer in buf
}

// previous returns the previous line and its end offset, its newline included; nil at the file's start. A line that is too
// long for a record is returned empty.
func (b *backward) previous() (line []byte, end int64, err error) {
	for {
		body := b.buf
		if !b.tooLong {
			body = bytes.TrimSuffix(body, []byte{'\n'})
		}
		i := bytes.LastIndexByte(body, '\n')
		if i >= 0 || b.at == 0 && (len(b.buf) > 0 || b.tooLong) {
			line, end = body[i+1:], b.end
			if b.tooLong || len(line) > maxRecord {
				line = []byte{}
			}
			b.buf, b.end, b.tooLong = b.buf[:i+1], b.at+int64(i+1), false
			return line, end, nil
		}
		if b.at == 0 {
			return nil, 0, nil
		}
		if len(b.buf) > maxRecord {
			b.buf, b.tooLong = nil, true
		}
		block := make([]byte, min(b.at, 64<<10))
		b.at -= int64(len(block))
		if _, err := b.f.ReadAt(block, b.at); err != nil {
			return nil, 0, fmt.Errorf("read log backwards: %w", err)
		}
		if len(b.buf) > 0 {
			block = slices.Concat(block, b.buf)
		}
		b.buf = block
	}
}
