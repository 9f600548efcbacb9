package node

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/storage"
)

// editState opens the state database of a machine that is off, as it is on disk.
func (m *machine) editState(edit func(db *pebble.DB) error) {
	m.world.t.Helper()
	db, err := pebble.Open("data/state", &pebble.Options{FS: m.disk, FormatMajorVersion: pebble.FormatNewest, Logger: quiet{}})
	if err != nil {
		m.world.t.Fatal(err)
	}
	if err := edit(db); err != nil {
		m.world.t.Fatal(err)
	}
	if err := db.Close(); err != nil {
		m.world.t.Fatal(err)
	}
	if err := m.forgetMarks(); err != nil {
		m.world.t.Fatal(err)
	}
}

// forgetMarks makes the directory one that has no marks yet. Those that it had do not
// fit files that were edited behind them.
func (m *machine) forgetMarks() error {
	file, err := m.disk.Open("data/node.json")
	if err != nil {
		return err
	}
	text, err := io.ReadAll(file)
	if err := errors.Join(err, file.Close()); err != nil {
		return err
	}
	var record map[string]json.RawMessage // numbers as they are
	if err := json.Unmarshal(text, &record); err != nil {
		return err
	}
	delete(record, "marks")
	if text, err = json.Marshal(record); err != nil {
		return err
	}
	if file, err = m.disk.Create("data/node.json", vfs.WriteCategoryUnspecified); err != nil {
		return err
	}
	_, err = file.Write(text)
	if err := errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return m.disk.Remove("data/marks")
}

type quiet struct{}

func (quiet) Infof(string, ...any)              {}
func (quiet) Errorf(string, ...any)             {}
func (quiet) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }

// stateKey is a key of the replica of p in the state database; kind is as in
// docs/architecture.md.
func stateKey(p partition.ID, kind []byte) []byte {
	key := binary.BigEndian.AppendUint32([]byte{0x01}, uint32(storage.GroupOf(p)))
	return append(binary.BigEndian.AppendUint32(key, 1), kind...)
}

// spoil replaces one record of a replica.
func (m *machine) spoil(p partition.ID, kind, record []byte) {
	m.world.t.Helper()
	m.editState(func(db *pebble.DB) error { return db.Set(stateKey(p, kind), record, pebble.Sync) })
}
