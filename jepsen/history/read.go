package history

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"
)

// maxLine bounds one line of a file, in bytes.
const maxLine = 8 << 20

// History is a whole run.
type History struct {
	Run Run
	// Ops in order of invocation: Ops[i].ID is i.
	Ops       []Op
	Faults    []Band
	Fates     []Fate
	Conflicts []Conflict
	Replicas  []Replica
	Troubles  []Trouble
	Notes     []Note
	Stalls    []Span
	// End is nil if the run broke off.
	End *End
	// Length is the time of the last event.
	Length time.Duration
}

// Band is a fault and when it was. Until means nothing unless it was Healed.
type Band struct {
	Fault
	From, Until time.Duration
	Healed      bool
}

// Span is a stretch of time.
type Span struct {
	From, Until time.Duration
}

// Note is a remark of the run.
type Note struct {
	At   time.Duration
	Text string
}

// Read takes what a Recorder wrote. A last line that broke off is left out: the
// run was killed as it was written.
func Read(from io.Reader) (*History, error) {
	lines := bufio.NewReaderSize(from, 1<<16)
	h := &History{}
	for number := 1; ; number++ {
		line, whole, err := readLine(lines)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
		if !whole {
			if number == 1 {
				return nil, errors.New("no history: it is empty")
			}
			return h, nil
		}
		if err := h.add(line, number == 1); err != nil {
			return nil, fmt.Errorf("line %d: %w", number, err)
		}
	}
}

// readLine gives the next line; whole is false at the end.
func readLine(from *bufio.Reader) (line []byte, whole bool, err error) {
	for {
		part, err := from.ReadSlice('\n')
		if len(line)+len(part) > maxLine {
			return nil, false, fmt.Errorf("more than %d bytes", maxLine)
		}
		line = append(line, part...)
		switch {
		case err == nil:
			return line, true, nil
		case errors.Is(err, io.EOF):
			return nil, false, nil
		case !errors.Is(err, bufio.ErrBufferFull):
			return nil, false, err
		}
	}
}

func (h *History) add(line []byte, first bool) error {
	var e Event
	if err := json.Unmarshal(line, &e); err != nil {
		return err
	}
	if first != (e.Type == TypeRun) {
		return fmt.Errorf("a history begins with one line of type %q, this is %q", TypeRun, e.Type)
	}
	if e.At < h.Length {
		return fmt.Errorf("at %v, after one at %v", e.At, h.Length)
	}
	h.Length = e.At
	missing := fmt.Errorf("a line of type %q without what it is about", e.Type)
	switch e.Type {
	case TypeRun:
		if e.Run == nil {
			return missing
		}
		if h.Run = *e.Run; h.Run.Format != Format {
			return fmt.Errorf("format %d: this program reads %d", h.Run.Format, Format)
		}
		if placed := len(h.Run.Placement); placed != 0 && placed != h.Run.Partitions {
			return fmt.Errorf("%d partitions are placed, of %d", placed, h.Run.Partitions)
		}
	case TypeInvoke:
		if e.Op == nil {
			return missing
		}
		return h.invoke(*e.Op, e.At)
	case TypeOK, TypeFail, TypeInfo:
		if e.Op == nil {
			return missing
		}
		return h.complete(*e.Op, e.Type, e.At)
	case TypeFault:
		if e.Fault == nil {
			return missing
		}
		h.Faults = append(h.Faults, Band{Fault: *e.Fault, From: e.At})
	case TypeHealed:
		if e.Fault == nil {
			return missing
		}
		i := slices.IndexFunc(h.Faults, func(b Band) bool { return b.Number == e.Fault.Number && !b.Healed })
		if i < 0 {
			return fmt.Errorf("fault %d ends and had not begun", e.Fault.Number)
		}
		h.Faults[i] = Band{Fault: *e.Fault, From: h.Faults[i].From, Until: e.At, Healed: true}
	case TypeFate:
		if e.Fate == nil || e.Fate.Op < 0 || e.Fate.Op >= len(h.Ops) {
			return missing
		}
		h.Fates = append(h.Fates, *e.Fate)
	case TypeConflict:
		if e.Conflict == nil {
			return missing
		}
		h.Conflicts = append(h.Conflicts, *e.Conflict)
	case TypeReplica:
		if e.Replica == nil {
			return missing
		}
		h.Replicas = append(h.Replicas, *e.Replica)
	case TypeTrouble:
		if e.Trouble == nil {
			return missing
		}
		h.Troubles = append(h.Troubles, *e.Trouble)
	case TypeStall:
		if e.Stall == nil || e.Stall.For < 0 || e.Stall.For > e.At {
			return missing
		}
		h.Stalls = append(h.Stalls, Span{e.At - e.Stall.For, e.At})
	case TypeNote:
		h.Notes = append(h.Notes, Note{e.At, e.Note})
	case TypeEnd:
		if e.End == nil {
			return missing
		}
		h.End = e.End
	default:
		return fmt.Errorf("unknown type %q", e.Type)
	}
	return nil
}

func (h *History) invoke(o Op, at time.Duration) error {
	if o.ID != len(h.Ops) || o.ID >= MaxOps {
		return fmt.Errorf("operation %d is invoked as number %d", o.ID, len(h.Ops))
	}
	if placed := len(h.Run.Placement); o.Partition < -1 || placed != 0 && o.Partition >= placed {
		return fmt.Errorf("operation %d is in partition %d of %d", o.ID, o.Partition, placed)
	}
	o.Invoke, o.Return, o.Outcome = at, 0, ""
	h.Ops = append(h.Ops, o)
	return nil
}

func (h *History) complete(o Op, t Type, at time.Duration) error {
	if o.ID < 0 || o.ID >= len(h.Ops) {
		return fmt.Errorf("operation %d ends and had not begun", o.ID)
	}
	began := &h.Ops[o.ID]
	switch {
	case began.Outcome != "":
		return fmt.Errorf("operation %d ends twice", o.ID)
	case o.Outcome != Outcome(t):
		return fmt.Errorf("operation %d ends as %q on a line of type %q", o.ID, o.Outcome, t)
	case o.Process != began.Process || o.Func != began.Func || o.Level != began.Level || o.Key != began.Key || o.Partition != began.Partition ||
		o.Write() && o.Value != began.Value:
		return fmt.Errorf("operation %d ends as another than it began", o.ID)
	}
	o.Invoke, o.Return = began.Invoke, at
	*began = o
	return nil
}
