package replication

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"
	"time"

	"github.com/hashicorp/raft"
)

// mapMachine is a [Machine] over a map. Commands are "key=value", answered
// with the value before; "boom" is an error.
type mapMachine struct {
	mu          sync.Mutex
	index, term uint64
	data        map[string]string
	applies     int
	frozen      chan struct{}     // if set, entries are applied once it is closed
	takes       time.Duration     // how long it takes to apply a batch
	staging     time.Duration     // how long it takes to receive a state
	staged      int               // states received
	history     map[uint64]string // by index, if remember was called
}

// freeze stops the machine from applying until thaw is called.
func (m *mapMachine) freeze() (thaw func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	gate := make(chan struct{})
	m.frozen = gate
	return func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.frozen = nil
		close(gate)
	}
}

// remember has the machine keep what it applies from now on.
func (m *mapMachine) remember() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.history = map[uint64]string{}
}

// applied are the commands by index of their entry.
func (m *mapMachine) applied() map[uint64]string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return maps.Clone(m.history)
}

// slow has each batch take so long.
func (m *mapMachine) slow(takes time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.takes = takes
}

func newMapMachine() *mapMachine { return &mapMachine{data: map[string]string{}} }

func (m *mapMachine) Apply(entries []Entry) ([][]any, error) {
	m.mu.Lock()
	gate, takes := m.frozen, m.takes
	m.mu.Unlock()
	time.Sleep(takes)
	if gate != nil {
		<-gate
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.applies++
	results := make([][]any, len(entries))
	for i, e := range entries {
		if e.Index <= m.index {
			continue
		}
		for _, c := range e.Commands {
			if string(c) == "boom" {
				return nil, errors.New("the machine broke")
			}
			k, v, _ := strings.Cut(string(c), "=")
			if m.history != nil {
				m.history[e.Index] += string(c) + ";"
			}
			results[i] = append(results[i], m.data[k])
			m.data[k] = v
		}
		m.index, m.term = e.Index, e.Term
	}
	return results, nil
}

func (m *mapMachine) get(k string) string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.data[k]
}

func (m *mapMachine) String() string {
	m.mu.Lock()
	defer m.mu.Unlock()
	return fmt.Sprint(m.data)
}

func (m *mapMachine) Applied() (uint64, uint64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.index, m.term
}

func (m *mapMachine) Sync() error { return nil }

func (m *mapMachine) View() (MachineView, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return &mapView{Index: m.index, Term: m.term, Data: maps.Clone(m.data)}, nil
}

func (m *mapMachine) Stage() (MachineStage, error) { return &mapStage{machine: m}, nil }

type mapView struct {
	Index, Term uint64
	Data        map[string]string
}

func (v *mapView) Applied() (uint64, uint64) { return v.Index, v.Term }
func (v *mapView) Close() error              { return nil }
func (v *mapView) WriteTo(w io.Writer) (int64, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return 0, err
	}
	n, err := w.Write(b)
	return int64(n), err
}

type mapStage struct {
	machine *mapMachine
	view    mapView
}

func (s *mapStage) ReadFrom(r io.Reader) (int64, error) {
	s.machine.mu.Lock()
	takes := s.machine.staging
	s.machine.staged++
	s.machine.mu.Unlock()
	time.Sleep(takes)
	b, err := io.ReadAll(r)
	if err != nil {
		return 0, err
	}
	return int64(len(b)), json.Unmarshal(b, &s.view)
}

func (s *mapStage) Install() error {
	s.machine.mu.Lock()
	defer s.machine.mu.Unlock()
	if s.view.Index > s.machine.index {
		s.machine.index, s.machine.term, s.machine.data = s.view.Index, s.view.Term, s.view.Data
	}
	return nil
}

func (s *mapStage) Close() error { return nil }

// mapSnapshots is a snapshot store that holds metadata only, as its callers
// expect of one.
type mapSnapshots struct {
	node *testNode
	mu   sync.Mutex
	meta *raft.SnapshotMeta
}

func (s *mapSnapshots) Create(v raft.SnapshotVersion, index, term uint64, c raft.Configuration, ci uint64, _ raft.Transport) (raft.SnapshotSink, error) {
	return &mapSink{store: s, meta: raft.SnapshotMeta{Version: v, ID: fmt.Sprint(index), Index: index, Term: term, Configuration: c, ConfigurationIndex: ci}}, nil
}

func (s *mapSnapshots) List() ([]*raft.SnapshotMeta, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.meta == nil {
		return nil, nil
	}
	m := *s.meta
	return []*raft.SnapshotMeta{&m}, nil
}

func (s *mapSnapshots) Open(string) (*raft.SnapshotMeta, io.ReadCloser, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	view, err := s.node.machine.View()
	if err != nil {
		return nil, nil, err
	}
	var b bytes.Buffer
	if _, err := view.WriteTo(&b); err != nil {
		return nil, nil, err
	}
	m := *s.meta
	m.Size = int64(b.Len())
	return &m, io.NopCloser(&b), nil
}

type mapSink struct {
	bytes.Buffer
	store *mapSnapshots
	meta  raft.SnapshotMeta
}

func (k *mapSink) ID() string    { return k.meta.ID }
func (k *mapSink) Cancel() error { return nil }

func (k *mapSink) Close() error {
	if k.Len() > 0 {
		stage, err := k.store.node.machine.Stage()
		if err != nil {
			return err
		}
		if _, err := stage.ReadFrom(&k.Buffer); err != nil {
			return err
		}
		if err := stage.Install(); err != nil {
			return err
		}
	}
	k.store.mu.Lock()
	defer k.store.mu.Unlock()
	k.store.meta = &k.meta
	return nil
}
