package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"time"
)

// write appends numbered lines to a file and syncs each one, so that a line that
// was reported is on stable storage. If the file has lines, it counts on.
func write(ctx context.Context, o options, say reporter) error {
	path := o.arguments[0]
	first, err := nextNumber(path)
	if err != nil {
		return err
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o666)
	if err != nil {
		return fmt.Errorf("open the file to write: %w", err)
	}
	defer file.Close()
	host, err := os.Hostname()
	if err != nil {
		return fmt.Errorf("find the name of this pod: %w", err)
	}
	say("writing", fields{"file": path, "first": first})
	last := first - 1
	err = steps(ctx, o, say, func(step int) error {
		number := first + step
		if _, err := fmt.Fprintf(file, "%d %d %s\n", number, time.Now().UnixNano(), host); err != nil {
			return fmt.Errorf("write line %d: %w", number, err)
		}
		if err := file.Sync(); err != nil {
			return fmt.Errorf("sync line %d: %w", number, err)
		}
		last = number
		return nil
	})
	say("written", fields{"file": path, "last": last})
	return err
}

// nextNumber returns the number after that of the file's last line.
func nextNumber(path string) (int, error) {
	file, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, fmt.Errorf("read what was written before: %w", err)
	}
	defer file.Close()
	var found inventory
	if err := found.scan(file); err != nil {
		return 0, err
	}
	return found.last + min(1, found.lines), nil
}

// read follows a file: it reports each time it grew after standing still for
// longer than o.gap, and lines out of order at once.
func read(ctx context.Context, o options, say reporter) error {
	file, err := os.Open(o.arguments[0])
	if err != nil {
		return fmt.Errorf("open the file to read: %w", err)
	}
	defer file.Close()
	var found inventory
	grew := time.Now()
	return steps(ctx, o, say, func(int) error {
		before := found.lines
		if err := found.scan(file); err != nil {
			return err
		}
		if found.broken() {
			say("broken", found.fields())
			return errBroken
		}
		if found.lines == before {
			return nil
		}
		if still := time.Since(grew); before > 0 && still > o.gap {
			say("still", fields{"seconds": still.Seconds(), "last": found.last})
		}
		grew = time.Now()
		return nil
	})
}

// check tells whether every line is there, once and in order. Given the last
// line that was acknowledged, only what was acknowledged must be there: of what
// came later, any beginning may be.
func check(_ context.Context, o options, say reporter) error {
	file, err := os.Open(o.arguments[0])
	if err != nil {
		return fmt.Errorf("open the file to check: %w", err)
	}
	defer file.Close()
	found := inventory{acknowledged: o.acknowledged}
	if err := found.scan(file); err != nil {
		return err
	}
	if o.acknowledged >= 0 {
		broken := found.foreign > 0 || found.lost() > 0
		return verdict(broken, found, say)
	}
	return verdict(found.broken() || found.partial != "", found, say)
}

func verdict(broken bool, found inventory, say reporter) error {
	if broken {
		say("broken", found.fields())
		return errBroken
	}
	say("intact", found.fields())
	return nil
}

// inventory is what the lines of a file that write made amount to.
type inventory struct {
	lines   int
	first   int
	last    int
	missing int
	// foreign are lines that write did not make, and repeated ones.
	foreign int
	// partial is the beginning of a line that is not complete yet.
	partial string
	// acknowledged is the last number of a writer that began with 0; absent are
	// the numbers up to it that should have been there by now.
	acknowledged int
	absent       int
}

// lost returns how many acknowledged numbers are not there, at the file's end.
func (i *inventory) lost() int {
	last := i.last
	if i.lines == 0 {
		last = -1
	}
	return i.absent + max(0, i.acknowledged-last)
}

// scan reads on to the end of the file.
func (i *inventory) scan(file io.Reader) error {
	reader := bufio.NewReader(file)
	for {
		text, err := reader.ReadString('\n')
		if errors.Is(err, io.EOF) {
			i.partial += text
			return nil
		}
		if err != nil {
			return fmt.Errorf("read the lines: %w", err)
		}
		i.add(i.partial + text)
		i.partial = ""
	}
}

// add takes one complete line into account.
func (i *inventory) add(line string) {
	parts := strings.Fields(line)
	if len(parts) != 3 {
		i.foreign++
		return
	}
	number, err := strconv.Atoi(parts[0])
	if err != nil || (i.lines > 0 && number <= i.last) {
		i.foreign++
		return
	}
	previous := i.last
	if i.lines == 0 {
		i.first, previous = number, -1
	} else {
		i.missing += number - i.last - 1
	}
	i.absent += max(0, min(number-1, i.acknowledged)-previous)
	i.lines++
	i.last = number
}

func (i *inventory) broken() bool { return i.missing > 0 || i.foreign > 0 }

func (i *inventory) fields() fields {
	return fields{"lines": i.lines, "first": i.first, "last": i.last, "missing": i.missing, "foreign": i.foreign, "partial": i.partial != "", "lost": i.lost()}
}
