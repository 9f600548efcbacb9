package node

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/capstan-kv/capstan/partition"
	"github.com/capstan-kv/capstan/replication/session"
)

// As many partitions as there can be: a node that holds none of them scans, and
// a session that has written in all of them still has a token.
func TestManyPartitions(t *testing.T) {
	if testing.Short() || raceDetector {
		t.Skip("a thousand Raft groups")
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, 1, 1, func(c *Config) { c.Partitions = partition.MaxCount })
		defer w.close()
		w.formed()
		n1, stranger := w.machines[0], w.addMachine()
		stranger.start()
		w.eventually(time.Minute, "the stranger has joined", func() error {
			if !stranger.running().ring().Placed() {
				return errors.New("it does not know the ring")
			}
			return nil
		})
		var keys []string
		for i := 0; len(keys) < partition.MaxCount; i++ {
			key := fmt.Sprint("k", i)
			if p := partition.Of([]byte(key), partition.MaxCount); int(p) == len(keys) {
				keys = append(keys, key)
			}
		}
		me := &talk{}
		for i, key := range keys {
			at := []*machine{n1, stranger}[i%2]
			at.mustWrite(ask{level: eventual, talk: me}, key, "v")
			if len(me.token) > session.MaxTokenBytes {
				t.Fatalf("a token of %d bytes", len(me.token))
			}
		}
		t.Logf("token of %d bytes", len(me.token))
		for _, a := range []ask{{level: linearizable}, {level: eventual}, {level: bounded, within: time.Minute}} {
			a.talk, a.wait = me, 30*time.Second
			for _, at := range []*machine{n1, stranger} {
				got, end, err := at.scanAt(a, "")
				if err != nil || len(got) != len(keys) || end == nil {
					t.Errorf("%v scan at %s: %d keys, %v", a.level, at.name, len(got), err)
				}
			}
		}
		t.Logf("token of %d bytes", len(me.token))
	})
}
