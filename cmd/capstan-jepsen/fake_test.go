package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/capstan-kv/capstan/jepsen"
	"github.com/capstan-kv/capstan/jepsen/check"
	"github.com/capstan-kv/capstan/jepsen/history"
)

// shell is the program as a shell sees it, with a test that is none.
type shell struct {
	machine
	stdin          string
	stdout, stderr bytes.Buffer
	configs        []jepsen.Config
}

// newShell has each test record the history that it is given.
func newShell(recorded string) *shell {
	s := &shell{}
	s.within = func(work func() int) (int, error) { return work(), nil }
	s.test = func(_ context.Context, c jepsen.Config) (*jepsen.Outcome, error) {
		s.configs = append(s.configs, c)
		if err := os.MkdirAll(c.Dir, 0o755); err != nil {
			return nil, err
		}
		c.Progress(jepsen.Progress{Phase: "starting"})
		for _, name := range []string{jepsen.HistoryFile, "n1.log"} {
			if err := os.WriteFile(filepath.Join(c.Dir, name), []byte(recorded), 0o644); err != nil {
				return nil, err
			}
		}
		h, err := history.Read(strings.NewReader(recorded))
		if err != nil {
			return nil, err
		}
		h.Run.Command, h.Run.Seed = c.Command, c.Seed
		return &jepsen.Outcome{Dir: c.Dir, History: h, Result: check.Check(h, check.Options{})}, nil
	}
	return s
}

func (s *shell) run(t *testing.T, args ...string) int {
	t.Helper()
	s.stdout.Reset()
	s.stderr.Reset()
	return run(t.Context(), s.machine, args, strings.NewReader(s.stdin), &s.stdout, &s.stderr)
}

// recorded is a history of a register: 100 writes, each read back. Stale: one of
// them a read too late. Short: too few to tell.
func recorded(t *testing.T, count int, stale bool) string {
	t.Helper()
	var file bytes.Buffer
	var clock time.Duration
	r := history.NewRecorder(&file, func() time.Duration { clock += time.Millisecond; return clock })
	must(t, r.Write(history.Event{Type: history.TypeRun, Run: &history.Run{
		Format: history.Format, Workloads: []string{"register"}, Nodes: []string{"n1"}, Seed: 4, Command: []string{"capstan-jepsen", "run"},
	}}))
	before, version := "", ""
	for i := range count {
		put := history.Op{Process: 1, Workload: "register", Func: history.Put, Level: history.Linearizable, Key: "register/0", Value: "v" + strings.Repeat("i", i), Node: "n1"}
		must(t, r.Invoke(&put))
		put.Outcome, put.Version = history.OK, string(rune('1'+i%9))+strings.Repeat("0", i/9)+"-7-n1-aaaa"
		must(t, r.Complete(&put))
		get := history.Op{Process: 2, Workload: "register", Func: history.Get, Level: history.Linearizable, Key: "register/0", Node: "n1"}
		must(t, r.Invoke(&get))
		get.Outcome, get.Found, get.Value, get.Version = history.OK, true, put.Value, put.Version
		if stale && i == count-1 {
			get.Value, get.Version = before, version
		}
		must(t, r.Complete(&get))
		before, version = put.Value, put.Version
	}
	must(t, r.Write(history.Event{Type: history.TypeEnd, End: &history.End{Settled: true, Asked: true}}))
	must(t, r.Flush())
	return file.String()
}

func decode(t *testing.T, text string) map[string]any {
	t.Helper()
	var object map[string]any
	must(t, json.Unmarshal([]byte(text), &object))
	return object
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
