package node

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"sync"
	"sync/atomic"

	"github.com/capstan-kv/capstan/node/control"
	"github.com/capstan-kv/capstan/replication"
	"github.com/capstan-kv/capstan/storage"
)

// maxControlStream bounds a streamed control state: the blob's bound and what
// stands around it.
const maxControlStream = storage.MaxBlobBytes + controlHeader + crc32.Size

// controlMachine is the replicated state machine of the control group: the
// ring. It is small, so that each change writes all of it; readers get
// snapshots that never change.
type controlMachine struct {
	blob  *storage.Blob
	sync  func() error
	state atomic.Pointer[control.State] // empty until the cluster is founded

	mu          sync.Mutex // one Apply or Install at a time
	index, term uint64
	changed     chan struct{} // closed and replaced at each change
}

// openControlMachine reads what the blob holds; sync makes what was stored
// there durable.
func openControlMachine(blob *storage.Blob, sync func() error) (*controlMachine, error) {
	m := &controlMachine{blob: blob, sync: sync, changed: make(chan struct{})}
	record, err := blob.Load()
	if err != nil {
		return nil, fmt.Errorf("control state: %w", err)
	}
	m.index, m.term = record.Index, record.Term
	state := &control.State{}
	if len(record.Data) > 0 {
		if state, err = control.DecodeSnapshot(record.Data); err != nil {
			return nil, fmt.Errorf("control state: %w", err)
		}
	}
	m.state.Store(state)
	return m, nil
}

// current is the ring as this node knows it. It never changes.
func (m *controlMachine) current() *control.State { return m.state.Load() }

// watch is closed at the next change.
func (m *controlMachine) watch() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.changed
}

func (m *controlMachine) Apply(entries []replication.Entry) ([][]any, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	results := make([][]any, len(entries))
	state, index, term := m.state.Load(), m.index, m.term
	for i, entry := range entries {
		if entry.Index <= index {
			if err := storage.CheckBeside(controlReplica, index, term, entry.Index, entry.Term); err != nil {
				return nil, err
			}
			continue
		}
		results[i] = make([]any, len(entry.Commands))
		for j, data := range entry.Commands {
			command, err := control.DecodeCommand(data)
			if err != nil {
				return nil, fmt.Errorf("control entry %d: %w", entry.Index, err)
			}
			var result control.Result
			state, result = control.Apply(state, command)
			results[i][j] = result
		}
		index, term = entry.Index, entry.Term
	}
	if err := m.store(state, index, term); err != nil {
		return nil, err
	}
	return results, nil
}

// store is called with the lock held. The ring is durable at once: a node that
// starts again opens its replicas by it before it has heard from anybody.
func (m *controlMachine) store(state *control.State, index, term uint64) error {
	data, err := control.EncodeSnapshot(state)
	if err == nil {
		err = m.blob.StoreSync(storage.BlobRecord{Index: index, Term: term, Data: data})
	}
	if err != nil {
		return fmt.Errorf("control state: %w", err)
	}
	m.index, m.term = index, term
	if state != m.state.Load() {
		m.state.Store(state)
		close(m.changed)
		m.changed = make(chan struct{})
	}
	return nil
}

// Check implements replication.CommandChecker.
func (m *controlMachine) Check(command []byte) error {
	_, err := control.DecodeCommand(command)
	return err
}

// rewrite stores the ring anew after its record was discarded.
func (m *controlMachine) rewrite(discard func() error) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if err := discard(); err != nil {
		return err
	}
	return m.store(m.state.Load(), m.index, m.term)
}

func (m *controlMachine) Applied() (index, term uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.index, m.term
}

func (m *controlMachine) Sync() error { return m.sync() }

// A streamed control state is: index, term, length, the encoded state and its
// CRC-32C, all big endian.
const controlHeader = 8 + 8 + 8

type controlView struct {
	index, term uint64
	data        []byte
}

func (m *controlMachine) View() (replication.MachineView, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	data, err := control.EncodeSnapshot(m.state.Load())
	if err != nil {
		return nil, err
	}
	return &controlView{index: m.index, term: m.term, data: data}, nil
}

func (v *controlView) Applied() (index, term uint64) { return v.index, v.term }
func (v *controlView) Close() error                  { return nil }

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

func (v *controlView) WriteTo(w io.Writer) (int64, error) {
	buf := make([]byte, 0, controlHeader+len(v.data)+4)
	buf = binary.BigEndian.AppendUint64(buf, v.index)
	buf = binary.BigEndian.AppendUint64(buf, v.term)
	buf = binary.BigEndian.AppendUint64(buf, uint64(len(v.data)))
	buf = append(buf, v.data...)
	buf = binary.BigEndian.AppendUint32(buf, crc32.Checksum(buf, castagnoli))
	n, err := w.Write(buf)
	return int64(n), err
}

// controlStage holds a received control state until it is installed.
type controlStage struct {
	machine     *controlMachine
	state       *control.State
	index, term uint64
	whole       bool
}

func (m *controlMachine) Stage() (replication.MachineStage, error) {
	return &controlStage{machine: m}, nil
}

func (s *controlStage) ReadFrom(r io.Reader) (int64, error) {
	var all bytes.Buffer
	n, err := all.ReadFrom(io.LimitReader(r, maxControlStream+1))
	if err != nil {
		return n, err
	}
	data := all.Bytes()
	if len(data) < controlHeader+4 {
		return n, errors.New("streamed control state: cut short")
	}
	body, sum := data[:len(data)-4], binary.BigEndian.Uint32(data[len(data)-4:])
	if crc32.Checksum(body, castagnoli) != sum {
		return n, errors.New("streamed control state: wrong checksum")
	}
	if binary.BigEndian.Uint64(body[16:]) != uint64(len(body)-controlHeader) {
		return n, errors.New("streamed control state: wrong length")
	}
	if s.state, err = control.DecodeSnapshot(body[controlHeader:]); err != nil {
		return n, fmt.Errorf("streamed control state: %w", err)
	}
	s.index, s.term, s.whole = binary.BigEndian.Uint64(body), binary.BigEndian.Uint64(body[8:]), true
	return n, nil
}

func (s *controlStage) Install() error {
	if !s.whole {
		return errors.New("control state: nothing whole was staged")
	}
	m := s.machine
	m.mu.Lock()
	defer m.mu.Unlock()
	if s.index <= m.index {
		return nil
	}
	return m.store(s.state, s.index, s.term)
}

func (s *controlStage) Close() error { return nil }
