package drbd

import (
	"fmt"
	"io"
	"math/bits"
	"os"
	"sync"

	"golang.org/x/sys/unix"
)

// blockSize is DRBD's bitmap granularity.
const blockSize = 4096

// extents is a set of blocks.
type extents struct{ words []uint64 }

func (e *extents) add(offset, length int64) {
	if length <= 0 {
		return
	}
	for block := offset / blockSize; block <= (offset+length-1)/blockSize; block++ {
		for int(block/64) >= len(e.words) {
			e.words = append(e.words, 0)
		}
		e.words[block/64] |= 1 << (block % 64)
	}
}

func (e *extents) empty() bool { return e.bytes() == 0 }

func (e *extents) bytes() int64 {
	var count int64
	for _, word := range e.words {
		count += int64(bits.OnesCount64(word))
	}
	return count * blockSize
}

func (e *extents) clear() { e.words = nil }

// store is the backing file of a volume. Nodes that still read old data (a
// Primary that was cut off and does not know it yet, while the other side has
// promoted) are served from copies made before the blocks were overwritten.
type store struct {
	mu   sync.Mutex
	file *os.File
	old  map[string]map[int64][]byte // node, block
}

// openStore opens the file and extends it to size.
func openStore(path string, size int64) (*store, error) {
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return nil, fmt.Errorf("open backing file: %w", err)
	}
	s := &store{file: file, old: map[string]map[int64][]byte{}}
	if err := s.grow(size); err != nil {
		_ = file.Close()
		return nil, err
	}
	return s, nil
}

func (s *store) grow(size int64) error {
	info, err := s.file.Stat()
	if err != nil {
		return fmt.Errorf("size of backing file: %w", err)
	}
	if info.Size() >= size {
		return nil
	}
	if err := s.file.Truncate(size); err != nil {
		return fmt.Errorf("extend backing file: %w", err)
	}
	return nil
}

// written tells whether anything was ever stored.
func (s *store) written() bool {
	var stat unix.Stat_t
	return unix.Fstat(int(s.file.Fd()), &stat) != nil || stat.Blocks > 0
}

func (s *store) close() { _ = s.file.Close() }

// freeze makes the node see the data as it is now, until thaw.
func (s *store) freeze(node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.old[node] == nil {
		s.old[node] = map[int64][]byte{}
	}
}

func (s *store) thaw(node string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.old, node)
}

func (s *store) read(node string, p []byte, offset int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.readFile(p, offset); err != nil {
		return err
	}
	for block, content := range s.old[node] {
		at := block*blockSize - offset
		if at >= int64(len(p)) || at+blockSize <= 0 {
			continue
		}
		if at < 0 {
			copy(p, content[-at:])
		} else {
			copy(p[at:], content)
		}
	}
	return nil
}

// readFile reads; beyond the end of the file are zeroes.
func (s *store) readFile(p []byte, offset int64) error {
	n, err := s.file.ReadAt(p, offset)
	if err == io.EOF {
		clear(p[n:])
		return nil
	}
	return err
}

func (s *store) write(node string, p []byte, offset int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.keepOld(node, offset, int64(len(p))); err != nil {
		return err
	}
	_, err := s.file.WriteAt(p, offset)
	return err
}

// zero makes the range read as zeroes and gives its space back.
func (s *store) zero(node string, offset, length int64) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.keepOld(node, offset, length); err != nil {
		return err
	}
	err := unix.Fallocate(int(s.file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, offset, length)
	if err == nil {
		return nil
	}
	const chunk = 1 << 20
	for zeroes := make([]byte, chunk); length > 0; {
		n := min(length, chunk)
		if _, err := s.file.WriteAt(zeroes[:n], offset); err != nil {
			return err
		}
		offset, length = offset+n, length-n
	}
	return nil
}

// keepOld saves the blocks about to be overwritten for the frozen nodes.
func (s *store) keepOld(writer string, offset, length int64) error {
	for node, blocks := range s.old {
		if node == writer {
			continue
		}
		for block := offset / blockSize; block <= (offset+length-1)/blockSize; block++ {
			if blocks[block] != nil {
				continue
			}
			content := make([]byte, blockSize)
			if err := s.readFile(content, block*blockSize); err != nil {
				return err
			}
			blocks[block] = content
		}
	}
	return nil
}
