package node

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/capstan-kv/capstan/storage"
)

// A log that is looked for in the wrong place is empty, and an empty log has
// forgotten whom it voted for: the place is no matter of choice once it is used.
func TestARaftLogIsOnlyOpenedWhereItIs(t *testing.T) {
	dir := t.TempDir()
	log, err := storage.OpenLog(storage.LogOptions{Dir: filepath.Join(dir, "log"), NodeID: "n1-aaaa"})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	opener := &groupOpener{self: "n1-aaaa", dir: dir, onDisk: true, log: log}
	for _, replica := range []storage.Replica{controlReplica, {Group: 3, Generation: 1}} {
		for _, want := range []uint64{0, 7} {
			store, err := opener.openStore(replica)
			if err != nil {
				t.Fatal(err)
			}
			if term, _ := store.GetUint64([]byte("CurrentTerm")); term != want {
				t.Errorf("%v: term %d, want %d", replica, term, want)
			}
			if err := errors.Join(store.SetUint64([]byte("CurrentTerm"), 7), store.Close()); err != nil {
				t.Fatal(err)
			}
		}
	}
	if err := os.Remove(filepath.Join(dir, controlFile)); err != nil {
		t.Fatal(err)
	}
	if _, err := opener.openStore(controlReplica); !errors.Is(err, storage.ErrLogMissing) || !strings.Contains(err.Error(), controlFile) {
		t.Errorf("without the control group's file: %v", err)
	}

	// A replica whose log an earlier release kept in a file.
	old := storage.Replica{Group: 4, Generation: 1}
	known, err := log.Replica(old)
	if err != nil {
		t.Fatal(err)
	}
	if err := known.Set(storage.LogValue{Name: boltMark, Value: []byte{1}}); err != nil {
		t.Fatal(err)
	}
	if _, err := opener.openStore(old); err == nil || !strings.Contains(err.Error(), "--raft-log=bolt") {
		t.Errorf("a log in a file of an earlier release: %v", err)
	}
}
