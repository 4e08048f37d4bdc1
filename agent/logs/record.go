package logs

import (
	"bytes"
	"time"
)

// timeFormat has all nine digits, so that records sort and columns align.
const timeFormat = "2006-01-02T15:04:05.000000000Z"

// maxLine is the length at which a line is cut into partial records, so that memory per container is bounded.
const maxLine = 16 << 10

// maxRecord is longer than any record: a longer line is not a record, and is not kept in memory either.
const maxRecord = maxLine + 128

// Stream names in records.
const (
	Stdout = "stdout"
	Stderr = "stderr"
)

// record is one line of a log file: "TIME STREAM F|P TEXT". Records with P have no newline after their text: the stream's
// next record continues the line.
type record struct {
	time    []byte
	stream  []byte
	partial bool
	text    []byte
}

// appendRecord adds a record to a buffer.
func appendRecord(b []byte, at []byte, stream string, partial bool, text ...[]byte) []byte {
	b = append(b, at...)
	b = append(b, ' ')
	b = append(b, stream...)
	if partial {
		b = append(b, " P "...)
	} else {
		b = append(b, " F "...)
	}
	for _, t := range text {
		b = append(b, t...)
	}
	return append(b, '\n')
}

// parseRecord reads a line without its newline. A line that a crash cut short is no record.
func parseRecord(line []byte) (r record, ok bool) {
	at, rest, ok := bytes.Cut(line, []byte{' '})
	if !ok || len(at) < len("2006-01-02T15:04:05Z") {
		return r, false
	}
	stream, rest, ok := bytes.Cut(rest, []byte{' '})
	if !ok || (string(stream) != Stdout && string(stream) != Stderr) {
		return r, false
	}
	tag, text, ok := bytes.Cut(rest, []byte{' '})
	if !ok || len(tag) == 0 || (tag[0] != 'F' && tag[0] != 'P') {
		return r, false
	}
	return record{time: at, stream: stream, partial: tag[0] == 'P', text: text}, true
}

func (r record) when() (time.Time, error) { return time.Parse(time.RFC3339Nano, string(r.time)) }

// framer turns a stream's bytes into records. It holds back an unfinished line, at most maxLine of it.
type framer struct {
	stream  string
	held    []byte
	heldFor time.Time // when the oldest held byte was read
}

// frame appends the records of data to out.
func (f *framer) frame(out []byte, at time.Time, stamp, data []byte) []byte {
	for len(data) > 0 {
		end := bytes.IndexByte(data, '\n')
		room := maxLine - len(f.held)
		switch {
		case end >= 0 && end <= room:
			out = appendRecord(out, stamp, f.stream, false, f.held, data[:end])
			f.held = nil
			data = data[end+1:]
		case len(data) >= room:
			out = appendRecord(out, stamp, f.stream, true, f.held, data[:room])
			f.held = nil
			data = data[room:]
		default:
			if f.held == nil {
				f.heldFor = at
			}
			f.held = append(f.held, data...)
			return out
		}
	}
	return out
}

// flush appends what is held as a partial record: it is shown without a newline, exactly as it was written.
func (f *framer) flush(out []byte, stamp []byte) []byte {
	if len(f.held) == 0 {
		return out
	}
	out = appendRecord(out, stamp, f.stream, true, f.held)
	f.held = nil
	return out
}
