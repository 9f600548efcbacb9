package bend

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Every is how often the control file is read and the counters are written.
const Every = 50 * time.Millisecond

// Event is something that who runs the node should see: [Obeyed] or [Ignored].
type Event interface{ event() }

// Obeyed tells that another control is in force.
type Obeyed struct{ Control Control }

// Ignored tells what could not be done; what was in force before still is. It
// is told once for each content of the control file.
type Ignored struct{ Err error }

func (Obeyed) event()  {}
func (Ignored) event() {}

// Config says what to bend.
type Config struct {
	// Path is the control file. Required; the file need not be there.
	Path string
	// FS is the disk to bend; default the machine's.
	FS vfs.FS
	// Now is the clock to bend; default time.Now. It should be monotonic.
	Now func() time.Time
	// Events may be nil. It is called from one goroutine at a time.
	Events func(Event)
}

// Bend obeys one control file. All methods are safe for concurrent use.
type Bend struct {
	path     string
	now      func() time.Time
	events   func(Event)
	fs       vfs.FS
	volatile bool

	state atomic.Pointer[state]
	felt  felt

	// Of the goroutine that reads and tells.
	text     []byte // of the control file when it was last read
	told     Counters
	toldOnce bool
	untold   bool // the counters could not be written, and that was told

	end   chan struct{}
	done  chan struct{}
	close sync.Once
}

// state is a control in force.
type state struct {
	Control
	drifting time.Time     // when its drift began, by the clock that is bent
	replaced chan struct{} // closed when another one is in force
}

// Open reads the control file and obeys it from now on, until Close. The first
// control must be readable, or else Open fails: a process that was to start on
// a volatile disk must not start on another one.
func Open(c Config) (*Bend, error) {
	if c.FS == nil {
		c.FS = vfs.Default
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Events == nil {
		c.Events = func(Event) {}
	}
	b := &Bend{path: c.Path, now: c.Now, events: c.Events, end: make(chan struct{}), done: make(chan struct{})}
	b.state.Store(&state{replaced: make(chan struct{})})
	text, err := readControl(b.path)
	if err != nil {
		return nil, fmt.Errorf("control file %s: %w", b.path, err)
	}
	b.text = text
	if text != nil {
		first, err := decodeControl(text)
		if err != nil {
			return nil, fmt.Errorf("control file %s: %w", b.path, err)
		}
		b.volatile = first.Volatile
		b.obey(first)
	}
	base := c.FS
	if b.volatile {
		base = newVolatile(base, volatileBytes)
	}
	b.fs = &disk{FS: base, bend: b}
	if err := b.tell(); err != nil {
		return nil, fmt.Errorf("counters of control file %s: %w", b.path, err)
	}
	go b.follow()
	return b, nil
}

// FS is the bent file system. It stays as it is when b is closed.
func (b *Bend) FS() vfs.FS { return b.fs }

// Close stops obeying; the last control stays in force. The counters are
// written a last time.
func (b *Bend) Close() error {
	b.close.Do(func() { close(b.end) })
	<-b.done
	return nil
}

func (b *Bend) follow() {
	defer close(b.done)
	tick := time.NewTicker(Every)
	defer tick.Stop()
	for last := false; !last; {
		select {
		case <-tick.C:
		case <-b.end:
			last = true
		}
		b.look()
		err := b.tell()
		if err != nil && !b.untold {
			b.events(Ignored{fmt.Errorf("counters: %w", err)})
		}
		b.untold = err != nil
	}
}

// look reads the control file, and obeys it if it is another one.
func (b *Bend) look() {
	text, err := readControl(b.path)
	if err != nil {
		text = []byte(err.Error()) // no control has this content, and so it is told once
	}
	if (text == nil) == (b.text == nil) && string(text) == string(b.text) {
		return
	}
	b.text = text
	var next Control // of no file
	if err == nil && text != nil {
		next, err = decodeControl(text)
	}
	if err != nil {
		b.events(Ignored{fmt.Errorf("control file %s: %w", b.path, err)})
		return
	}
	if text != nil && next.Volatile != b.volatile {
		b.events(Ignored{fmt.Errorf("control file %s: volatile is %v from the process's start to its end", b.path, b.volatile)})
	}
	b.obey(next)
}

func (b *Bend) obey(next Control) {
	before := b.state.Load()
	s := &state{Control: next, replaced: make(chan struct{})}
	s.drifting = b.now()
	if next.ClockDriftPPM == before.ClockDriftPPM {
		s.drifting = before.drifting // it goes on
	}
	b.state.Store(s)
	close(before.replaced)
	b.events(Obeyed{next})
}

// readControl is nil where there is no file.
func readControl(path string) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer f.Close()
	text, err := io.ReadAll(io.LimitReader(f, maxControlBytes+1))
	if text == nil && err == nil {
		text = []byte{}
	}
	return text, err
}
