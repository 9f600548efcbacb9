package node

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/capstan-kv/capstan/storage"
)

// A log that is looked for in the wrong place is empty, and an empty log has
// forgotten whom it voted for: the place is no matter of choice once it is used.
func TestARaftLogIsOnlyOpenedWhereItIs(t *testing.T) {
	replica := storage.Replica{Group: 3, Generation: 1}
	for _, first := range []bool{false, true} {
		dir := t.TempDir()
		if err := vfs.Default.MkdirAll(filepath.Join(dir, boltDir), 0o700); err != nil {
			t.Fatal(err)
		}
		log, err := storage.OpenLog(storage.LogOptions{Dir: filepath.Join(dir, "log"), NodeID: "n1-aaaa"})
		if err != nil {
			t.Fatal(err)
		}
		defer log.Close()
		opener := &groupOpener{self: "n1-aaaa", dir: dir, onDisk: true, log: log}

		opener.bolt = first
		store, err := opener.openStore(replica)
		if err != nil {
			t.Fatal(err)
		}
		if err := store.SetUint64([]byte("CurrentTerm"), 7); err != nil {
			t.Fatal(err)
		}
		if err := store.Close(); err != nil {
			t.Fatal(err)
		}

		opener.bolt = !first
		if _, err := opener.openStore(replica); err == nil || !strings.Contains(err.Error(), "--raft-log=") {
			t.Errorf("written with bolt=%v, opened with bolt=%v: %v, want a refusal that names the flag", first, !first, err)
		}

		opener.bolt = first
		store, err = opener.openStore(replica)
		if err != nil {
			t.Fatal(err)
		}
		defer store.Close()
		if term, err := store.GetUint64([]byte("CurrentTerm")); term != 7 || err != nil {
			t.Errorf("bolt=%v again: term %d, %v, want 7", first, term, err)
		}
	}
}
