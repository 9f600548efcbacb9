package storage

import (
	"bytes"
	"errors"
	"strconv"
	"sync"
	"testing"

	"github.com/cockroachdb/pebble/v2/vfs"
)

// Readers beside Apply and Install see whole entries only: each entry writes
// its index under two keys.
func TestReadersSeeWholeEntries(t *testing.T) {
	const entries = 400
	s := openState(t, vfs.NewMem())
	defer func() { ok(t, s.Close()) }()
	r := replicaOf(t, s, stateReplica)
	ahead := replicaOf(t, s, Replica{stateReplica.Group, 77})
	both := func(index uint64) []Command {
		v := strconv.FormatUint(index, 10)
		return []Command{put("a", v), put("z", v)}
	}
	stop := make(chan struct{})
	var readers sync.WaitGroup
	for range 2 {
		readers.Go(func() {
			last := uint64(0)
			for {
				select {
				case <-stop:
					return
				default:
				}
				v, err := r.View()
				if err != nil {
					t.Error(err)
					return
				}
				index, _ := v.Applied()
				page, err := v.Scan(ScanOptions{})
				if err := v.Close(); err != nil {
					t.Error(err)
				}
				if errors.Is(err, ErrViewReplaced) {
					continue
				}
				want := strconv.FormatUint(index, 10)
				if err != nil || index < last || index > 0 && (len(page.Entries) != 2 ||
					string(page.Entries[0].Value) != want || string(page.Entries[1].Value) != want) {
					t.Errorf("view at %d after %d: %+v, %v", index, last, page.Entries, err)
					return
				}
				last = index
				// What Applied says is there to read.
				told, _ := r.Applied()
				got, found, err := r.Get([]byte("z"))
				if n, _ := strconv.ParseUint(string(got.Bytes), 10, 64); err != nil || found != (n > 0) || n < told {
					t.Errorf("read %q, %v, after applied %d: %v", got.Bytes, found, told, err)
					return
				}
			}
		})
	}
	for index := uint64(1); index <= entries; index++ {
		if index%40 != 0 {
			apply(t, r, index, both(index)...)
			continue
		}
		apply(t, ahead, index, both(index)...)
		ok(t, install(r, bytes.NewReader(streamOf(t, ahead))))
	}
	close(stop)
	readers.Wait()
}
