package launcher

import (
	"bufio"
	"bytes"
	"errors"
	"io"
	"slices"
	"sync"
)

// maxLine is the length at which a line is cut in two.
const maxLine = 16 << 10

// prefixer writes whole lines of several processes to one writer.
type prefixer struct {
	mutex  sync.Mutex
	writer io.Writer
}

// copy writes everything that comes from reader, with the name in front of each
// line, until the reader ends. An output that fails must not stop the process:
// its lines are read nevertheless.
func (p *prefixer) copy(name string, reader io.Reader, last *lastLines) {
	lines := bufio.NewReaderSize(reader, maxLine)
	for {
		line, err := lines.ReadSlice('\n')
		if text := bytes.TrimRight(line, "\r\n"); len(text) > 0 {
			last.add(string(text))
			p.line(name, string(text))
		}
		if err != nil && !errors.Is(err, bufio.ErrBufferFull) {
			return
		}
	}
}

func (p *prefixer) line(name, text string) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	_, _ = io.WriteString(p.writer, "["+name+"] "+text+"\n")
}

// keptLines is how many lines of a process are kept for the report of its end.
const keptLines = 20

// lastLines keeps the last lines.
type lastLines struct {
	mutex sync.Mutex
	kept  []string
}

func (l *lastLines) add(line string) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	if len(l.kept) == keptLines {
		l.kept = slices.Delete(l.kept, 0, 1)
	}
	l.kept = append(l.kept, line)
}

func (l *lastLines) lines() []string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return slices.Clone(l.kept)
}
