package storage

import (
	"bytes"
	"errors"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// A state takes up nothing of another history than its own.
func TestAStateBesideItsLogTakesUpNothing(t *testing.T) {
	r := openReplica(t)
	apply(t, r, 5, put("k", "v")) // of term 1
	for what, e := range map[string]ApplyEntry{
		"another term at the applied index": {Index: 5, Term: 2},
		"a higher term below it":            {Index: 4, Term: 2},
	} {
		if _, err := r.Apply([]ApplyEntry{e}); !errors.Is(err, ErrStateBesideLog) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if _, err := r.Apply([]ApplyEntry{{Index: 4, Term: 1}, {Index: 5, Term: 1}}); err != nil {
		t.Errorf("its own entries once more: %v", err)
	}
}

// What was installed does not come from the log, until something is applied to it.
func TestAppliedFromLog(t *testing.T) {
	from := openReplica(t)
	apply(t, from, 5, put("k", "v"))
	fs := vfs.NewMem()
	s := openState(t, fs)
	to := replicaOf(t, s, stateReplica)
	ok(t, install(to, bytes.NewReader(streamOf(t, from))))
	for range 2 {
		if index, _ := to.AppliedFromLog(); index != 0 {
			t.Errorf("installed: applied %d from the log", index)
		}
		ok(t, s.Close())
		s = openState(t, fs)
		to = replicaOf(t, s, stateReplica)
	}
	apply(t, to, 6, put("k", "w"))
	if index, term := to.AppliedFromLog(); index != 6 || term != 1 {
		t.Errorf("applied %d of term %d from the log", index, term)
	}
	ok(t, s.Close())
}
