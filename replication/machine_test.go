package replication

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"strings"
	"sync"
)

// mapMachine is a [Machine] over a map. Commands are "key=value", answered
// with the value before; "boom" is an error.
type mapMachine struct {
	mu          sync.Mutex
	index, term uint64
	data        map[string]string
	applies     int
}

func newMapMachine() *mapMachine { return &mapMachine{data: map[string]string{}} }

func (m *mapMachine) Apply(entries []Entry) ([][]any, error) {
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
