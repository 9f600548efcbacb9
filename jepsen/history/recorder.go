package history

import (
	"bufio"
	"encoding/json"
	"errors"
	"io"
	"sync"
	"time"
)

// MaxOps bounds how many operations a history has.
const MaxOps = 2_000_000

// ErrFull: the history has MaxOps operations.
var ErrFull = errors.New("the history is full")

// Recorder writes the events of a run as they happen. All methods may be called
// concurrently: the order of the lines is the order of the times.
type Recorder struct {
	now func() time.Duration

	mu     sync.Mutex
	out    *bufio.Writer
	encode *json.Encoder
	next   int
	failed error
	counts Counts
}

// Counts are of operations.
type Counts struct {
	OK   int `json:"ok"`
	Fail int `json:"fail"`
	Info int `json:"info"`
	Open int `json:"open"`
}

// NewRecorder writes to a file, or whatever to is. Now is the time since the run
// began.
func NewRecorder(to io.Writer, now func() time.Duration) *Recorder {
	out := bufio.NewWriter(to)
	r := &Recorder{now: now, out: out, encode: json.NewEncoder(out)}
	r.encode.SetEscapeHTML(false)
	return r
}

// Write writes an event that is no operation's, at the time of now.
func (r *Recorder) Write(e Event) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	e.At = r.now()
	r.write(e)
	return r.failed
}

// Invoke writes that an operation begins, and sets its ID and Invoke.
func (r *Recorder) Invoke(o *Op) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.next >= MaxOps {
		return ErrFull
	}
	o.ID, o.Invoke, o.Return, o.Outcome = r.next, r.now(), 0, ""
	r.next++
	r.counts.Open++
	r.write(Event{Type: TypeInvoke, At: o.Invoke, Op: o})
	return r.failed
}

// Complete writes how an operation ended, and sets its Return.
func (r *Recorder) Complete(o *Op) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	o.Return = r.now()
	t := TypeInfo
	r.counts.Open--
	switch o.Outcome {
	case OK:
		t = TypeOK
		r.counts.OK++
	case Fail:
		t = TypeFail
		r.counts.Fail++
	default:
		o.Outcome = Info
		r.counts.Info++
	}
	r.write(Event{Type: t, At: o.Return, Op: o})
	return r.failed
}

// Counts are so far.
func (r *Recorder) Counts() Counts {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.counts
}

// Flush writes what is buffered. The recorder goes on.
func (r *Recorder) Flush() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return errors.Join(r.failed, r.out.Flush())
}

// write keeps the first failure: lines after it would not fit together.
func (r *Recorder) write(e Event) {
	if r.failed == nil {
		r.failed = r.encode.Encode(e)
	}
}
